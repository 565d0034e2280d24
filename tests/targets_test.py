"""Budgets to a target: the first measurement from which on it holds, and the clock of a run."""

import numpy as np
import pytest

from experiments import records, targets

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
  assert targets.reached(STEPS, values, 2.0) == expected
  # The same of a metric of which more is better.
  assert targets.reached(STEPS, [-v for v in values], -2.0, lower_is_better=False) == expected


def test_reached_is_what_its_definition_says_of_any_curve():
  rng = np.random.default_rng(0)
  for _ in range(200):
    steps = np.cumsum(rng.integers(1, 9, size=12))
    values = rng.normal(size=12) - np.linspace(0.0, 3.0, 12)
    by, after, held = targets.reached(steps, values, -1.0)
    holds = [step for i, step in enumerate(steps) if (values[i:] <= -1.0).all()]
    assert by == (holds[0] if holds else None) and held == len(holds)
    assert after == max([0, *steps[values > -1.0]])


def test_an_easier_target_is_reached_no_later():
  values = np.random.default_rng(1).normal(size=50) - np.linspace(0.0, 3.0, 50)
  by = [targets.reached(range(1, 51), values, target).by for target in np.linspace(-4.0, 3.0, 30)]
  found = [b for b in by if b is not None]
  assert found == sorted(found, reverse=True) and None in by and by[-1] == 1.0
  assert by[:len(by) - len(found)] == [None] * (len(by) - len(found))


@pytest.mark.parametrize(("arguments", "words"), [
    (([], [], 1.0), "at least one"), (([1, 2], [1.0], 1.0), "as many"),
    (([1, 1], [1.0, 1.0], 1.0), "must rise"), (([1, 2], [1.0, 1.0], float("nan")), "finite")])
def test_what_is_no_curve_is_refused(arguments, words):
  with pytest.raises(ValueError, match=words):
    targets.reached(*arguments)


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
      targets.seconds(lines, [0, 10, 20, 30, 35, 40]), [0.0, 2.0, 4.0, 9.0, 11.5, 14.0])
  took = targets.seconds(lines, STEPS)
  assert targets.reached(took, [4.0, 3.0, 2.0, 1.0], 2.0) == (9.0, 4.0, 2)


@pytest.mark.parametrize(("lines", "steps", "words"), [
    ([], [1], "without seconds, or none"), ([{"step": 1, "loss": 1.0}], [1], "without seconds"),
    ([{"step": 10, "seconds": 1.0}], [11], "0 … 10"),
    ([{"step": 10, "seconds": 1.0}], [-1], "0 … 10")])
def test_a_clock_that_was_not_kept_is_refused(lines, steps, words):
  with pytest.raises(ValueError, match=words):
    targets.seconds(lines, steps)
