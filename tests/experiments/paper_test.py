"""The paper's report: its fast version, whole; its claims, records, figures and tables."""

import importlib.metadata
import math
import pathlib
import re
import shutil

import numpy as np
import pytest
import runner

from experiments.paper import charts, contents, sources
from experiments.paper import record as records
from experiments.paper import report as reports
from experiments.report import page

pytest.importorskip("sympy")

NAMES = tuple(contents.PARTS)
# By part, words of the paper's statements that do not hold: what is true in a limit is said of a
# finite step, time or noise level, or a formula is misprinted (theory.md#errata).
WRONG = {
    "tables": (
        "Table 3 prints", "sum of its forward and reverse cells", "nowhere negative",
        "starts with the noise", "dr = −v ds (", "as long as the variance", "has an SDE row",
        "finite on their closed", "a product into a sum", "eq. 14 drops"),
    "identity": ("new sample is independent",), "steps": ("identity at finite size",),
    "cycle": ("makes new, independent samples", "row of any length"),
    "trajectories": ("rectified flow have smaller curvature",),
    "duality": ("Table 4's equations in the path's own time",),
    "flow_matching": ("rectified flow have smaller curvature than in VP",),
    "appendix": ("end of VP, T = 10", "end of VE-Karras, T = 80")}


@pytest.fixture(scope="module")
def report():
  """The directory of the fast report, made by the command of a user and kept between sessions.

  Where sources have changed the same command goes on: it measures the parts that depend on them.
  What trains networks, and installed packages, have a directory for each of their versions.
  """
  versions = sorted(f"{package.name} {package.version}"
                    for package in importlib.metadata.distributions())
  trains = [module for part in contents.PARTS.values() for module in part.programs]
  whole = runner.ROOT / ".pytest_cache" / "report"
  out = whole / sources.digest(sorted(set(trains)), "\n".join(versions).encode())[:16]

  def make(_):
    for other in whole.glob("*"):
      if other != out:
        shutil.rmtree(other)
    code, said, err = runner.run("paper", "--fast", f"--out={out}", timeout=1200.0)
    assert code == 0, err + said[-2000:]

  runner.kept("paper", make)
  return out


def found(report: pathlib.Path, name: str) -> dict:
  """A part's record, its numbers as arrays."""
  return records.read(records.record_file(report, name))


def claims(report: pathlib.Path, name: str) -> list:
  return list(contents.PARTS[name].load("claims").claims(found(report, name)["data"]))


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_whole_and_the_theory_s_hold_and_the_paper_s_but_for_known_ones(report, name):
  every = claims(report, name)
  assert every
  for claim in every:
    assert claim.text.endswith(".") and claim.source and "{" not in claim.source, claim
    assert claim.error is None or claim.error >= 0.0
    assert math.isfinite(claim.value), claim
  failing = [claim for claim in every if not claim.trained and not claim.holds]
  assert not [claim for claim in failing if claim.by == "theory"]
  wrong = WRONG.get(name, ())
  assert len(failing) == len(wrong), failing
  for words in wrong:
    assert sum(words in claim.text for claim in failing) == 1, words
  # All statements of claims.toml are used.
  said = {entry.text.split("{")[0] for entry in contents.PARTS[name].load("claims").CLAIMS.values()}
  assert all(any(claim.text.startswith(start) for claim in every) for start in said)


@pytest.mark.parametrize("name", NAMES)
def test_every_record_says_what_made_it(report, name):
  part, record = contents.PARTS[name], found(report, name)
  assert record["seed"] == 0 and record["fast"] and record["commit"]
  assert record["command"][:3] == ["-m", "experiments.paper.measure", f"--part={name}"]
  # Nothing that a hardly trained network says is shown as a finding.
  networks = (part.programs and name != "digits_run") or name == "flow_matching"
  assert ("no finding" in str(reports.template(part, record))) == bool(networks)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_whole(report, name):
  """Of a readable size, on finite axes with labels, and with a legend where there are series."""
  part, record = contents.PARTS[name], found(report, name)
  drawn = part.load("figures").figures(record["data"])
  template = reports.template(part, record)
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
    assert f'id="{name}"' in text
    for claim in claims(report, name):
      assert page.markup(claim.text, pathlib.Path).removeprefix("<p>").rstrip()[:-4] in text
      assert claim.measured() in text
    assert found(report, name)["commit"] in text


def test_the_same_command_measures_nothing_again(report):
  files = [*(records.record_file(report, name) for name in NAMES),
           *sorted((report / "figures").glob("*.png"))]
  before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
  code, said, err = runner.run("paper", "--fast", f"--out={report}")
  assert code == 0, err
  assert "begins" not in said
  assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


def test_tables_agree_but_for_their_errata(report):
  """The code computes all cells but one, by formula and in float64, and each is shown."""
  record = found(report, "tables")
  tables = {number: record["data"]["tables"][number] for number in "1234567"}
  assert [len(rows) for rows in tables.values()] == [9, 12, 19, 16, 6, 12, 12]
  failing = [(number, row["row"], row["column"], row["corrected"])
             for number, rows in tables.items() for row in rows if not row["agrees"]]
  assert failing == [("3", "rf-ode", 1, False)]
  assert sum(row["row"] in ("ve-sde", "rf-sde") for row in tables["3"]) == 6
  assert max(record["data"]["difference"].values()) < 1e-11
  text = str(reports.template(contents.PARTS["tables"], record))
  shown = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
  assert shown.count("✗") == 1 + len(WRONG["tables"]) and shown.count("✓") == 86 - 1 + 20
  assert set(re.findall(r"^\| (\d) \|", text, re.M)) == set("123456789")


def test_the_certificate_points_at_what_was_damaged_and_networks_learn(report):
  record = found(report, "certificate")["data"]
  assert set(record["damaged"]) <= set(record["hurt"]["broken"])
  error = found(report, "flow_matching")["data"]["error"].mean(-1)  # evaluation, arm
  assert np.all(error[-1] < error[0])


def test_an_ode_has_one_end_for_each_start(report):
  share = found(report, "stochasticity")["data"]["ties"]["share"]
  np.testing.assert_allclose(share[0], 1.0, atol=1e-3)


def test_weights_of_a_vae_s_latents_bound_its_gap_from_below(report):
  plane = found(report, "vae")["data"]["plane"]
  gap, whole = plane["vae_gap"], plane["vae_exact_gap"]
  assert np.all(np.diff(gap[:, 0]) > -4.0 * gap[1:, 1]) and gap[-1, 0] < whole[0] + 4.0 * whole[1]
