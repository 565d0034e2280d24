"""Budgets to a target: the first measurement from which on it holds, and the clock of a run."""

import json

import numpy as np
import pytest
import runner

from experiments.metrics import budgets
from experiments.run import records

STEPS = [10, 20, 30, 40]


@pytest.mark.parametrize(("values", "expected"), [
    ([4.0, 3.0, 2.0, 1.0], (30.0, 20.0, 2)),
    ([4.0, 2.0, 3.0, 2.0], (40.0, 30.0, 1)),  # touched at 20, lost at 30
    ([2.0, 1.0, 2.0, 0.0], (10.0, 0.0, 4)),
    ([4.0, 1.0, 1.0, 2.5], (None, 40.0, 0)),
    ([4.0, float("nan"), 2.0, 1.0], (30.0, 20.0, 2)),
    ([1.0, 1.0, -float("inf"), 1.0], (40.0, 30.0, 1)),
    ([1.0, 1.0, 1.0, float("nan")], (None, 40.0, 0))])
def test_reached_is_the_first_measurement_after_which_the_target_holds(values, expected):
  assert budgets.reached(STEPS, values, 2.0) == expected
  # The same of a metric of which more is better.
  assert budgets.reached(STEPS, [-v for v in values], -2.0, lower_is_better=False) == expected


def test_reached_is_what_its_definition_says_of_any_curve():
  rng = np.random.default_rng(0)
  for _ in range(200):
    steps = np.cumsum(rng.integers(1, 9, size=12))
    values = rng.normal(size=12) - np.linspace(0.0, 3.0, 12)
    by, after, held = budgets.reached(steps, values, -1.0)
    holds = [step for i, step in enumerate(steps) if (values[i:] <= -1.0).all()]
    assert by == (holds[0] if holds else None) and held == len(holds)
    assert after == max([0, *steps[values > -1.0]])


def test_an_easier_target_is_reached_no_later():
  values = np.random.default_rng(1).normal(size=50) - np.linspace(0.0, 3.0, 50)
  by = [budgets.reached(range(1, 51), values, target).by for target in np.linspace(-4.0, 3.0, 30)]
  found = [b for b in by if b is not None]
  assert found == sorted(found, reverse=True) and None in by and by[-1] == 1.0
  assert by[:len(by) - len(found)] == [None] * (len(by) - len(found))


@pytest.mark.parametrize(("arguments", "words"), [
    (([], [], 1.0), "at least one"), (([1, 2], [1.0], 1.0), "as many"),
    (([1, 1], [1.0, 1.0], 1.0), "must rise"), (([1, 2], [1.0, 1.0], float("nan")), "finite")])
def test_what_is_no_curve_is_refused(arguments, words):
  with pytest.raises(ValueError, match=words):
    budgets.reached(*arguments)


def write(workdir, start, ends, seconds):
  """A session of a run that resumes at `start`, whose lines at `ends` took `seconds` each."""
  metrics = records.Metrics(workdir, start)
  for end in ends:
    metrics.write(end, {"loss": 1.0}, seconds=seconds, steps_per_second=1.0,
                  host_seconds_per_step=0.0)
  metrics.close()


def test_the_clock_of_a_resumed_run_is_the_sum_of_what_counted(tmp_path):
  """2 s a line until 60 of which 20 are kept, then 5 s a line: what was lost is in no sum."""
  write(tmp_path, 0, [10, 20, 30, 40, 50, 60], 2.0)
  write(tmp_path, 20, [30, 40], 5.0)
  lines = records.read_metrics(tmp_path)
  np.testing.assert_allclose(
      budgets.seconds(lines, [0, 10, 20, 30, 35, 40]), [0.0, 2.0, 4.0, 9.0, 11.5, 14.0])
  took = budgets.seconds(lines, STEPS)
  assert budgets.reached(took, [4.0, 3.0, 2.0, 1.0], 2.0) == (9.0, 4.0, 2)


@pytest.mark.parametrize(("lines", "steps", "words"), [
    ([], [1], "without seconds, or none"), ([{"step": 1, "loss": 1.0}], [1], "without seconds"),
    ([{"step": 10, "seconds": 1.0}], [11], "0 … 10"),
    ([{"step": 10, "seconds": 1.0}], [-1], "0 … 10")])
def test_a_clock_that_was_not_kept_is_refused(lines, steps, words):
  with pytest.raises(ValueError, match=words):
    budgets.seconds(lines, steps)


def call(*arguments):
  return runner.call("targets", *arguments)


@pytest.fixture
def compared(tmp_path):
  """Three runs: the target is reached at 30, never, and from the start but for a last NaN."""
  for name, values in (("a", [4.0, 3.0, 2.0, 1.0]), ("b", [4.0, 1.0, 1.0, 2.5]),
                       ("c", [1.0, 1.0, 1.0, float("nan")])):
    metrics = records.Metrics(made(tmp_path / name), 0)
    for step, value in zip(STEPS, values, strict=True):
      metrics.write(step, {"loss": value, "level_error": [value, value]}, seconds=2.0,
                    steps_per_second=5.0, host_seconds_per_step=0.0)
    metrics.close()
  return tmp_path


def made(directory):
  directory.mkdir()
  return directory


def test_runs_are_compared_in_steps_and_seconds(compared):
  names = ",".join(str(compared / name) for name in "abc")
  out = compared / "new" / "it.json"
  code, told, err = call(f"--workdir={names}", "--metric=loss", "--target=2", f"--out={out}")
  assert code == 0, err
  assert "NaN" not in out.read_text()
  a, b, c = json.loads(out.read_text())["runs"]
  of = lambda run: tuple(run[key] for key in ("steps_to_target", "steps_before", "held",
                                              "seconds_to_target", "seconds_before"))
  assert of(a) == (30.0, 20.0, 2, 6.0, 4.0)
  assert of(b) == (None, 40.0, 0, None, 8.0) and of(c) == (None, 40.0, 0, None, 8.0)
  assert (b["last_value"], c["last_value"]) == (2.5, None)
  rows = told.splitlines()
  assert "30 (not yet at 20)" in rows[1] and "6.0 (not yet at 4.0)" in rows[1]
  assert rows[2].count("never") == 2 and "not finite" in rows[3]
  code, told, _ = call(f"--workdir={compared / 'a'}", "--target=5")
  assert "10 (the first)" in told and "4 of 4" in told
  # Of what is better when higher, b has reached 2 at its last measurement alone.
  code, told, err = call(f"--workdir={compared / 'b'}", "--target=2", "--higher_is_better")
  assert code == 0 and "40 (not yet at 30)" in told and "1 of 4" in told, err


def test_a_run_of_a_sweep_has_its_points_and_no_clock(compared):
  result = {"error": "", "final": {}, "points": [
      {"step": step, "held-out loss": 50.0 - step} for step in (16, 32, 40)]}
  (compared / "a" / "result.json").write_text(json.dumps(result))
  code, told, err = call(f"--workdir={compared / 'a'}", "--metric=held-out loss", "--target=18",
                         f"--out={compared / 'it.json'}")
  assert code == 0, err
  run, = json.loads((compared / "it.json").read_text())["runs"]
  assert (run["steps_to_target"], run["steps_before"], run["held"]) == (32.0, 16.0, 2)
  assert run["seconds_to_target"] is run["seconds_before"] is None and "–" in told
  # Its metrics.jsonl is read as any run's.
  code, told, _ = call(f"--workdir={compared / 'a'}", "--target=2")
  assert code == 0 and "30 (not yet at 20)" in told and "–" in told


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "--workdir is required"), (("--workdir=@/a",), "--target is required"),
    (("--workdir=@/a", "--target=nan"), "finite"), (("--workdir=@/a,@/a", "--target=1"), "twice"),
    (("--workdir=@/a", "--target=1", "--metric=FID"), "no 'FID', but loss"),
    (("--workdir=@/a", "--target=1", "--metric=level_error"), "but loss"),
    (("--workdir=@/a", "--target=1", "--metric=seconds"), "but loss"),
    (("--workdir=@/a,@/none", "--target=1"), "none holds no measurements"),
    (("--workdir=@", "--target=1"), "in its arms/"),
    (("--workdir=@/a", "--target=1", "--out=@/b"), "is a directory"),
    (("--workdir=@/torn", "--target=1"), "not the result of a sweep's run"),
    (("--workdir=@/a", "--target=1", "--config=x.py"), "--config belongs to")])
def test_bad_input_is_one_line(compared, arguments, message):
  made(compared / "arms")
  (made(compared / "torn") / "result.json").write_text('{"arm": ')
  code, out, err = call(*(word.replace("@", str(compared)) for word in arguments))
  assert code == 2 and not out
  assert err.startswith("error: ") and err.count("\n") == 1 and message in err
