"""The paper's report: its fast version, whole; its claims, figures, numbers and physics."""

import json
import math
import pathlib
import re

import numpy as np
import pytest
import runner

from experiments.paper import charts, contents
from experiments.paper import record as records
from experiments.paper import report as reports
from experiments.report import page

pytest.importorskip("sympy")

NAMES = tuple(contents.PARTS)


@pytest.fixture(scope="module")
def report():
  """The directory of the fast report, made by the command of a user.

  Its sources and seed determine it, so that parts are measured once, until a source has changed.
  """
  def make(out):
    code, said, err = runner.run("paper", "--fast", f"--out={out}", timeout=1200.0)
    assert code == 0, err + said[-2000:]

  return runner.kept("paper", make)


def record(report: pathlib.Path, name: str) -> dict:
  return json.loads(records.record_file(report, name).read_text())


def claims(report: pathlib.Path, name: str) -> list:
  found = records.read(records.record_file(report, name))
  return contents.PARTS[name].load("claims").claims(found["data"])


@pytest.mark.parametrize("name", NAMES)
def test_what_the_theory_says_holds(report, name):
  failed = [claim for claim in claims(report, name)
            if claim.by == "theory" and not claim.trained and not claim.holds]
  assert not failed, failed


def failing(report: pathlib.Path, name: str) -> list[str]:
  """Statements of the paper that do not hold."""
  return [claim.text for claim in claims(report, name)
          if claim.by == "paper" and not claim.trained and not claim.holds]


@pytest.mark.parametrize("name", NAMES)
def test_every_record_says_what_made_it(report, name):
  found = record(report, name)
  assert found["seed"] == 0 and found["fast"] and found["commit"]
  assert found["command"][:3] == ["-m", "experiments.paper.measure", f"--part={name}"]
  every = claims(report, name)
  assert every
  for claim in every:
    assert claim.text.endswith(".") and claim.source, claim
    assert claim.error is None or claim.error >= 0.0
    assert math.isfinite(claim.value), claim


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_whole(report, name):
  """Of a readable size, on finite axes with labels, and with a legend where there are series."""
  part, found = contents.PARTS[name], records.read(records.record_file(report, name))
  drawn = part.load("figures").figures(found["data"])
  template = reports.template(part, found)
  text = str(template) + getattr(template, "answer", "")
  assert drawn
  for which, figure in drawn.items():
    file = report / "figures" / f"{name}-{which}.png"
    assert file.stat().st_size > 5_000
    width, height = figure.get_size_inches()
    assert 3.0 <= width <= 16.0 and 2.0 <= height <= 20.0
    # Each has a text in its place, and a caption below.
    assert re.search(rf"^!\[[^\]]{{8,}}\]\({which}\)\n\n[^\n]{{30,}}", text, re.M), which
    panels = [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]
    assert panels or figure.axes
    legends = len(figure.legends) + sum(axes.get_legend() is not None for axes in figure.axes)
    for axes in panels:
      assert np.all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]))
      assert axes.has_data(), which
      for line in axes.get_lines():
        values = np.asarray(line.get_ydata(), float)
        # A line of no points at all is a legend's key.
        assert not values.size or np.isfinite(values).any(), which
    labels = [text for axes in panels for text in (axes.get_xlabel(), axes.get_ylabel())]
    assert any(labels), which
    series = max((len({a.get_label() for a in axes.get_lines()
                       if not str(a.get_label()).startswith("_")}) for axes in panels), default=0)
    assert series < 2 or legends, which
    charts.plt.close(figure)


def test_the_report_is_one_file_with_the_numbers_of_the_records(report):
  text = (report / "report.html").read_text()
  addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
  outside = [a for a in addresses if not a.startswith(("data:image/png;base64,", "#"))]
  assert set(outside) == {"explorer.html"}
  assert "url(" not in text and "<script" not in text
  for name in NAMES:
    found = record(report, name)
    assert f'id="{name}"' in text
    for claim in claims(report, name):
      assert page.markup(claim.text, pathlib.Path).removeprefix("<p>").rstrip()[:-4] in text
      assert claim.measured() in text
    assert found["commit"] in text


def test_the_same_command_measures_nothing_again(report):
  files = [*(records.record_file(report, name) for name in NAMES),
           *sorted((report / "figures").glob("*.png"))]
  before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
  code, said, err = runner.run("paper", "--fast", f"--out={report}")
  assert code == 0, err
  assert "begins" not in said
  assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


def test_tables_agree_but_for_their_errata(report):
  found = record(report, "tables")
  assert len(failing(report, "tables")) == 10  # Table 3, and the nine of theory.md#errata
  cells = {"1": 9, "2": 12, "3": 19, "4": 16, "5": 6, "6": 12, "7": 12}
  assert found["data"]["cells"] == cells
  assert max(found["data"]["difference"].values()) < 1e-11
  agree = [row["agrees"] for rows in found["data"]["tables"].values() for row in rows]
  assert agree.count(False) == 1 and len(agree) == sum(cells.values())
  text = str(reports.template(contents.PARTS["tables"], records.read(
      records.record_file(report, "tables"))))
  shown = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
  assert shown.count("✗") == 1 + 10 and shown.count("✓") == sum(cells.values()) - 1 + 20
  assert set(re.findall(r"^\| (\d) \|", text, re.M)) == set("123456789")


@pytest.mark.parametrize(("name", "count"), [("identity", 1), ("clouds", 0), ("steps", 1),
                                             ("cycle", 2), ("appendix", 2)])
def test_the_paper_is_wrong_where_a_limit_is_taken_for_a_step_and_nowhere_else(
    report, name, count):
  assert len(failing(report, name)) == count


def test_rectified_flow_turns_more_than_vp_and_ve_less(report):
  wrong = failing(report, "trajectories")
  assert len(wrong) == 1 and "ectified flow" in wrong[0] and "curvature" in wrong[0]


def slopes(sizes, values) -> np.ndarray:
  """Orders of the values in the sizes, from each to the next; along the first axis."""
  step = np.diff(np.log(np.asarray(values)), axis=0).T
  return (step / np.diff(np.log(np.asarray(sizes)))).T


def test_one_step_is_wrong_by_its_square_and_many_by_its_size(report):
  """In density; KL, a square, falls with orders 4 and 2."""
  found = record(report, "steps")["data"]
  assert np.max(found["single"]["forward"]) < 1e-9
  many = found["many"]
  for law in ("cycle", "langevin"):
    np.testing.assert_allclose(slopes(many["budgets"], many[law])[-1], 2.0, atol=0.2)


def test_langevin_keeps_its_law_to_second_order_in_kl(report):
  line = record(report, "identity")["data"]["line"]
  for way in ("euler", "exact"):
    order = slopes(line["budgets"][-2:], np.asarray(line["total"][way])[-2:])
    np.testing.assert_allclose(order, 2.0, atol=0.2)


def test_rows_of_a_cycle_remember_what_the_recursion_says(report):
  found = record(report, "cycle")["data"]["gaussian"]
  off = np.abs(np.subtract(found["measured"], found["recursion"]))[:, :-1]
  assert np.all(off < 5.0 * np.asarray(found["error"])[:, :-1])
  # r^{1 + η²}: the more noise, the less is remembered.
  assert np.all(np.diff(np.asarray(found["closed"])[:, 0]) < 0.0)


def test_duality_is_reached_with_second_order_in_kl_on_every_path(report):
  """Summed over η, of which one alone may have a vanishing leading error."""
  line = record(report, "duality")["data"]["line"]
  end = np.asarray(line["end"]).sum(2)  # scheme, path, count
  order = slopes(line["counts"], np.moveaxis(end, -1, 0))[-1]
  np.testing.assert_allclose(-order, 2.0, atol=0.35)
  assert len(line["half_log_snr"][0]) >= 12 and len(line["paths"]) == 8
  # The exact law of processes bounds that of their ends.
  assert np.all(np.asarray(line["end"])[0, :, 2] <= np.asarray(line["bound"]) + 1e-9)


def test_the_certificate_points_at_what_was_damaged(report):
  found = record(report, "certificate")["data"]
  assert set(found["damaged"]) <= set(found["hurt"]["broken"])
  bound, error = found["sound"]["bound_total"]
  truth, _ = found["sound"]["truth_total"]
  assert bound - 4.0 * error < truth


def test_readings_have_one_gradient(report):
  found = record(report, "flow_matching")["data"]
  assert max(found["gradients"]["float64"].values()) < 1e-12
  assert max(found["gradients"]["float32"].values()) < 1e-5
  error = np.asarray(found["error"]).mean(-1)  # step, arm
  assert np.all(error[-1] < error[0])
  # Flow matching at uniform s and v on the cosine path count errors alike, up to a factor.
  assert np.ptp(np.divide(found["counted"]["velocity"], found["counted"]["v"])) < 1e-4 * np.mean(
      np.divide(found["counted"]["velocity"], found["counted"]["v"]))


def test_an_ode_keeps_its_length_and_an_sde_does_not(report):
  found = record(report, "stochasticity")["data"]
  # Finest first; the last two see too few points of a curve to know its length.
  length = np.asarray(found["rough"]["length"])[:, :4]
  assert list(found["rough"]["resolution"]) == sorted(found["rough"]["resolution"], reverse=True)
  np.testing.assert_allclose(length[found["names"].index("η = 0")], length[0, 0], rtol=0.02)
  # A Brownian path's length grows as the root of the resolution.
  halved = length[found["names"].index("η = 1")]
  np.testing.assert_allclose(np.log2(halved[:-1] / halved[1:]), 0.5, atol=0.1)
  np.testing.assert_allclose(found["ties"]["share"][0], 1.0, atol=1e-3)


def test_the_chain_of_an_exact_score_comes_to_an_exact_pair_and_the_vae_does_not(report):
  found = record(report, "vae")["data"]["plane"]
  assert np.all(np.diff(np.asarray(found["exact"])[:, 0]) < 0.0)
  assert found["vae_joint_kl"][0] > found["continuous"]["total"][0]
  gap, whole = np.asarray(found["vae_gap"]), found["vae_exact_gap"]
  assert np.all(np.diff(gap[:, 0]) > -4.0 * gap[1:, 1]) and gap[-1, 0] < whole[0] + 4.0 * whole[1]


def test_kl_falls_at_the_rate_of_the_scores_distance(report):
  found = record(report, "appendix")["data"]
  assert max(np.max(np.abs(v)) for v in found["decay"]["residual"].values()) < 1e-6
  assert np.max(np.abs(found["matching"]["residual"])) < 1e-6
  assert max(np.max(np.abs(v)) for v in found["fokker_planck"]["residual"].values()) < 1e-6
