"""The table of a sweep: means over seeds with 95 % intervals, and differences seed by seed.

An interval is Student's, mean ± t₀.₉₇₅(n − 1) s/√n. Arms with the same seed share initial
parameters, batches and noise. Therefore the difference from the baseline is computed for each seed,
and its interval is that of n differences. It is narrower, because the variation that a seed causes
in both cancels.

Steps to the baseline's loss are also counted for each seed: the target is the final loss of the
baseline with that seed. If a seed does not reach it, the mean is unknown, and a lower bound is
given.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from experiments.metrics import budgets
from experiments.run import records
from experiments.sweeping import layouts, measures

STEPS = "steps to the baseline's loss"


class Interval(NamedTuple):
  """mean ± half over n values; half is None if n < 2."""

  mean: float
  half: float | None
  n: int


class Result(NamedTuple):
  """The results of one arm.

  values: [metric][seed], after the training. points: [seed], measurements during the training.
  errors: [seed], of failed members. calls: network calls for one sample.
  steps: [seed], the step from which on the loss is below the baseline's final loss, or None.
  held_out: the numbers of "examples" and "draws" of the held-out loss.
  """

  values: dict[str, dict[int, float]]
  points: dict[int, list[dict[str, float]]]
  errors: dict[int, str]
  calls: float | None
  steps: dict[int, float | None]
  held_out: dict[str, int] | None = None


def interval(values: Sequence[float]) -> Interval:
  """The mean and the half-width of its 95 % interval.

  Raises:
    ValueError: no values.
  """
  values = np.asarray(values, np.float64)
  n = len(values)
  if not n:
    raise ValueError("an interval needs at least one value")
  if n < 2:
    return Interval(float(values.mean()), None, n)
  half = scipy.special.stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n)
  return Interval(float(values.mean()), float(half), n)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
  """The interval of value − baseline over the common seeds; None if there are none."""
  seeds = [seed for seed in values if seed in baseline]
  return interval([values[seed] - baseline[seed] for seed in seeds]) if seeds else None


def gather(
    workdir: pathlib.Path, layout: layouts.Layout, errors: Mapping[int, str]
) -> tuple[dict[str, Result], dict[str, float]]:
  """(results by arm, mean floors over seeds by metric) of the results in `workdir`.

  Args:
    errors: by group, for groups that failed.
  """
  arm_results, floors = {}, {seed: {} for seed in layout.sweep.seeds}
  for arm in layout.configs:
    result = Result({}, {}, {}, None, {})
    for seed in layout.sweep.seeds:
      file = layouts.run_directory(workdir, arm, seed) / "result.json"
      if not file.exists():
        group = next(i for i, models in enumerate(layout.groups) if layout.model_of[arm] in models)
        result.errors[seed] = errors.get(group, "not done yet")
        continue
      try:
        stored = records.read_result(file)
      except ValueError as error:
        result.errors[seed] = str(error)
        continue
      floors[seed] = stored["floors"]
      result = result._replace(calls=stored["network_calls"], held_out=stored.get("held_out"))
      result.points[seed] = stored["points"]
      if stored["error"]:
        result.errors[seed] = stored["error"]
        continue
      for metric, value in stored["final"].items():
        result.values.setdefault(metric, {})[seed] = value
    arm_results[arm] = result
  _add_steps(layout, arm_results)
  metrics = dict.fromkeys(metric for values in floors.values() for metric in values)
  return arm_results, {metric: float(np.mean([f[metric] for f in floors.values() if metric in f]))
                       for metric in metrics}


def _add_steps(layout: layouts.Layout, arm_results: dict[str, Result]) -> None:
  """Fills `steps` of every result."""
  targets = arm_results[layout.sweep.baseline].values.get(measures.LOSS, {})
  for result in arm_results.values():
    for seed in result.values.get(measures.LOSS, {}):
      if seed in targets:
        points = result.points[seed]
        result.steps[seed] = budgets.reached(
            [p["step"] for p in points], [p[measures.LOSS] for p in points], targets[seed]).by


def _steps(result: Result) -> dict[str, Any] | None:
  """The interval of steps if every seed reached the loss, else a lower bound; for table.json."""
  if not result.steps:
    return None
  reached = [steps for steps in result.steps.values() if steps is not None]
  all_reached = len(reached) == len(result.steps)
  lower_bounds = [result.points[seed][-1]["step"] if steps is None else steps
                  for seed, steps in result.steps.items()]
  return {**(interval(reached)._asdict() if all_reached else {"mean": None, "half": None}),
          "n": len(reached), "of": len(result.steps), "at least": float(np.mean(lower_bounds)),
          "by seed": _by_seed(result.steps)}


def table(
    layout: layouts.Layout, arm_results: Mapping[str, Result], floors: Mapping[str, float]
) -> dict[str, Any]:
  """All numbers of the report, for table.json. There are no times among them."""
  baseline = arm_results[layout.sweep.baseline]
  rows = []
  for arm, result in arm_results.items():
    metrics = {}
    for metric, values in result.values.items():
      difference = paired(values, baseline.values.get(metric, {}))
      metrics[metric] = {
          **interval(list(values.values()))._asdict(),
          "minus baseline": None if difference is None else difference._asdict(),
          "by seed": _by_seed(values)}
    rows.append({
        "arm": arm, "overrides": layout.sweep.arms[arm], "model": layout.model_of[arm],
        "network calls": result.calls, "metrics": metrics, STEPS: _steps(result),
        "points": _by_seed(result.points), "errors": _by_seed(result.errors)})
  return {
      "baseline": layout.sweep.baseline, "seeds": list(layout.sweep.seeds),
      "floors": dict(floors), "held out": _held_out(arm_results),
      "same experiments": [f._asdict() for f in layout.findings], "arms": rows}


def _by_seed(values: Mapping[int, Any]) -> dict[str, Any]:
  """`values` with seeds as strings, for JSON."""
  return {str(seed): value for seed, value in values.items()}


def _held_out(arm_results: Mapping[str, Result]) -> dict[str, float]:
  """The numbers of examples and draws of the held-out loss, and its largest standard error.

  The draws are the same for all arms and seeds, so intervals over seeds do not contain this error.
  """
  errors = [points[-1][measures.ERROR] for result in arm_results.values()
            for points in result.points.values() if points and measures.ERROR in points[-1]]
  sizes = next((result.held_out for result in arm_results.values()
                if result.held_out), None)
  return {**sizes, "standard error": max(errors)} if sizes and errors else {}


def metrics_of(table_: Mapping[str, Any]) -> list[str]:
  """The metrics of all arms, in the order of measurement."""
  return list(dict.fromkeys(metric for row in table_["arms"] for metric in row["metrics"]))
