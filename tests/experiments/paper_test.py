"""The paper's report in its fast version: claims, records, figures and texts of every part."""

import fcntl
import importlib.metadata
import math
import pathlib
import re
import shutil
import types

import jax
import numpy as np
import pytest
import runner

from experiments.paper import contents, sources, trained
from experiments.paper import record as records
from experiments.paper import report as reports
from experiments.paper.setting import Setting
from experiments.report import charts, page

pytest.importorskip("sympy")

# Parts that train for long: what is judged of them is tested on exact models in paper_vae_test and
# paper_flow_matching_test.
SLOW = ("digits_run", "vae", "flow_matching")
NAMES = tuple(name for name in contents.PARTS if name not in SLOW)
# The longest first: the two workers then end together.
LONGEST = ("discrete", "plane_run", "stochasticity", "duality", "certificate", "appendix", "clouds",
           "identity", "steps", "cycle", "tables", "trajectories")
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
  """The setting of a fast report whose records are kept between sessions: see `measured`.

  A record whose sources have changed is measured again. What trains networks, and installed
  packages, have a directory for each of their versions.
  """
  versions = sorted(f"{package.name} {package.version}"
                    for package in importlib.metadata.distributions())
  trains = ["experiments.paper.trained", *(
      module for part in contents.PARTS.values() for module in part.programs)]
  whole = runner.ROOT / ".pytest_cache" / "report"
  out = whole / sources.digest(sorted(set(trains)), "\n".join(versions).encode())[:16]
  for other in whole.glob("*"):
    if other != out:
      shutil.rmtree(other, ignore_errors=True)  # the other worker may do the same
  out.mkdir(parents=True, exist_ok=True)

  def train(words, **_):
    code, _, err = runner.run(words[2].removeprefix("experiments."), *words[3:])
    assert code == 0, err
    return types.SimpleNamespace(returncode=code)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trained, "subprocess", types.SimpleNamespace(run=train))
    yield Setting(out, fast=True)


def measured(report: Setting, name: str) -> dict:
  """A part's record, measured in this process where no worker has done so; what it needs first."""
  part = contents.PARTS[name]
  for need in part.needs:
    measured(report, need)
  with (report.out / f"{name}.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with jax.numpy_rank_promotion("allow"):  # as in the command
      return records.measure(part, report)


@pytest.mark.parametrize("name", [
    *sorted(NAMES, key=LONGEST.index),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_part_has_its_claims_its_pictures_and_a_record_of_what_made_them(
    report, name, monkeypatch):
  part, record = contents.PARTS[name], measured(report, name)
  check_claims(part, record)
  assert record["seed"] == 0 and record["fast"] and record["commit"]
  assert record["command"][:3] == ["-m", "experiments.paper.measure", f"--part={name}"]
  # Nothing that a hardly trained network says is shown as a finding.
  networks = (part.programs and name != "digits_run") or name == "flow_matching"
  template = reports.template(part, record)
  assert ("no finding" in str(template)) == bool(networks)

  module, drawn = part.load("figures"), {}
  draw = module.figures
  monkeypatch.setattr(module, "figures", lambda data: drawn.update(draw(data)) or drawn)
  files = records.draw(part, record, report.out)
  drawn = drawn or draw(record["data"])  # drawn in an earlier session
  assert drawn and files == list(drawn)
  text = str(template) + getattr(template, "answer", "")
  for which, figure in drawn.items():
    assert (report.out / "figures" / f"{name}-{which}.png").stat().st_size > 5_000
    # Each has a text in its place, and a caption below.
    assert re.search(rf"^!\[[^\]]{{8,}}\]\({which}\)\n\n[^\n]{{30,}}", text, re.M), which
    check_figure(figure, which)
    charts.plt.close(figure)


def check_claims(part: contents.Part, record: dict) -> None:
  """Claims are whole; those of theory hold, and those of the paper but for known ones."""
  every = part.claims(record["data"])
  assert every
  for claim in every:
    assert claim.text.endswith(".") and claim.source and "{" not in claim.source, claim
    assert claim.error is None or claim.error >= 0.0
    assert math.isfinite(claim.value), claim
  failing = [claim for claim in every if not claim.trained and not claim.holds]
  assert not [claim for claim in failing if claim.by == "theory"]
  wrong = WRONG.get(part.name, ())
  assert len(failing) == len(wrong), failing
  for words in wrong:
    assert sum(words in claim.text for claim in failing) == 1, words
  # All statements of claims.toml are used.
  said = {entry.text.split("{")[0] for entry in part.statements().values()}
  assert all(any(claim.text.startswith(start) for claim in every) for start in said)


def check_figure(figure, which: str) -> None:
  """Of a readable size, on finite axes with labels, and with a legend where there are series."""
  width, height = figure.get_size_inches()
  assert 3.0 <= width <= 16.0 and 2.0 <= height <= 20.0
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


def test_the_report_is_one_file_of_the_records_and_the_same_command_measures_nothing_again(report):
  found = {name: measured(report, name) for name in NAMES}
  command = "paper.__main__", "--fast", f"--only={','.join(NAMES)}", f"--out={report.out}"
  runner.succeed(*command)
  text = (report.out / "report.html").read_text()
  addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
  outside = [a for a in addresses if not a.startswith(("data:image/png;base64,", "#"))]
  assert set(outside) == {"explorer.html"}
  assert "url(" not in text and "<script" not in text
  for name, record in found.items():
    assert f'id="{name}"' in text and record["commit"] in text
    for claim in contents.PARTS[name].claims(record["data"]):
      assert page.markup(claim.text, pathlib.Path).removeprefix("<p>").rstrip()[:-4] in text
      assert claim.measured() in text
  files = [*(records.record_file(report.out, name) for name in NAMES),
           *sorted((report.out / "figures").glob("*.png"))]
  before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
  assert "begins" not in runner.succeed(*command)
  assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


@pytest.mark.slow
def test_the_command_measures_parts_in_processes_of_their_own(report, tmp_path):
  """As a user runs it, and with the verdicts of the records that are measured in this process."""
  names = "tables", "cycle", "appendix"
  code, said, err = runner.run(
      "paper", "--fast", f"--only={','.join(names)}", f"--out={tmp_path}", timeout=1200.0)
  assert code == 0, err + said[-2000:]
  assert said.count(": done in") == len(names)
  text = (tmp_path / "report.html").read_text()
  for name in names:
    assert f'id="{name}"' in text
    verdicts = [[(claim.text, claim.holds) for claim in contents.PARTS[name].claims(
        record["data"]) if not claim.trained] for record in (
            records.read(records.record_file(tmp_path, name)), measured(report, name))]
    assert verdicts[0] == verdicts[1]


def test_tables_agree_but_for_their_errata(report):
  """The code computes all cells but one, by formula and in float64, and each is shown."""
  record = measured(report, "tables")
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


def test_the_certificate_points_at_what_was_damaged(report):
  record = measured(report, "certificate")["data"]
  assert set(record["damaged"]) <= set(record["hurt"]["broken"])


@pytest.mark.slow
def test_networks_of_every_prediction_and_weight_learn(report):
  error = measured(report, "flow_matching")["data"]["error"].mean(-1)  # evaluation, arm
  assert np.all(error[-1] < error[0])


def test_an_ode_has_one_end_for_each_start(report):
  share = measured(report, "stochasticity")["data"]["ties"]["share"]
  np.testing.assert_allclose(share[0], 1.0, atol=1e-3)


@pytest.mark.slow
def test_weights_of_a_vae_s_latents_bound_its_gap_from_below(report):
  plane = measured(report, "vae")["data"]["plane"]
  gap, whole = plane["vae_gap"], plane["vae_exact_gap"]
  assert np.all(np.diff(gap[:, 0]) > -4.0 * gap[1:, 1]) and gap[-1, 0] < whole[0] + 4.0 * whole[1]
