"""The table of a sweep: means over seeds with their 95 % intervals, and differences seed by seed.

An interval is Student's, mean ± t₀.₉₇₅(n − 1) s/√n. Arms share their seeds: initial parameters,
batches and noise. So an arm's difference from the baseline is taken within each seed, and its
interval is that of n differences, narrower by all that the seed does to both.

Steps to the baseline's loss are counted within each seed too: the target is what the baseline ends
at with that seed. A seed that ends above it would have taken more steps than there were; with one
of them there is no mean, but a bound on it.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from experiments import targets
from experiments.run import records
from experiments.sweeping import measures, plan

STEPS = "steps to the baseline's loss"


class Interval(NamedTuple):
  """mean ± half over n values; half is None where n < 2."""

  mean: float
  half: float | None
  n: int


class Result(NamedTuple):
  """Of one arm: values[metric][seed], points[seed] of the budget, errors[seed], network calls.

  steps: by seed, until the baseline's loss of that seed is reached for good; None if it never was.
  held_out: "examples" and "draws" of the held-out loss.
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
  """The interval of value − baseline over the seeds that both have; None where there are none."""
  seeds = [seed for seed in values if seed in baseline]
  return interval([values[seed] - baseline[seed] for seed in seeds]) if seeds else None


def gather(
    workdir: pathlib.Path, whole: plan.Plan, errors: Mapping[int, str]
) -> tuple[dict[str, Result], dict[str, float]]:
  """(results by arm, floors by metric, over seeds) of what is in `workdir`.

  Args:
    errors: of groups that failed, which speak for arms and seeds without a result.
  """
  found, floors = {}, {seed: {} for seed in whole.sweep.seeds}
  group_of = {model: i for i, models in enumerate(whole.groups) for model in models}
  for arm in whole.configs:
    result = Result({}, {}, {}, None, {})
    for seed in whole.sweep.seeds:
      file = plan.place(workdir, arm, seed) / "result.json"
      if not file.exists():
        index = group_of[whole.model_of[arm]]
        result.errors[seed] = errors.get(index, "not done yet")
        continue
      try:
        told = records.read_result(file)
      except ValueError as error:
        result.errors[seed] = str(error)
        continue
      floors[seed] = told["floors"]
      result = result._replace(calls=told["network_calls"], held_out=told.get("held_out"))
      if told["error"]:
        result.errors[seed] = told["error"]
      for metric, value in told["final"].items() if not told["error"] else ():
        result.values.setdefault(metric, {})[seed] = value
      result.points[seed] = told["points"]
    found[arm] = result
  _add_steps(whole, found)
  metrics = dict.fromkeys(metric for of_seed in floors.values() for metric in of_seed)
  return found, {metric: float(np.mean([f[metric] for f in floors.values() if metric in f]))
                 for metric in metrics}


def _add_steps(whole: plan.Plan, found: dict[str, Result]) -> None:
  last = found[whole.sweep.baseline].values.get(measures.LOSS, {})
  for result in found.values():
    for seed in result.values.get(measures.LOSS, {}):
      if seed in last:
        points = result.points[seed]
        result.steps[seed] = targets.reached(
            [p["step"] for p in points], [p[measures.LOSS] for p in points], last[seed]).by


def _steps(result: Result) -> dict[str, Any] | None:
  """Their interval where every seed is there, else how many are, and what the mean is at least."""
  if not result.steps:
    return None
  there = [steps for steps in result.steps.values() if steps is not None]
  whole = len(there) == len(result.steps)
  least = [result.points[seed][-1]["step"] if steps is None else steps
           for seed, steps in result.steps.items()]
  return {**(interval(there)._asdict() if whole else {"mean": None, "half": None}),
          "n": len(there), "of": len(result.steps), "at least": float(np.mean(least)),
          "by seed": {str(seed): steps for seed, steps in result.steps.items()}}


def table(whole: plan.Plan, found: Mapping[str, Result], floors: Mapping[str, float]) -> dict:
  """Everything that the report says in numbers, for table.json; nothing that a clock has said."""
  baseline = found[whole.sweep.baseline]
  rows = []
  for arm, result in found.items():
    metrics = {}
    for metric, values in result.values.items():
      difference = paired(values, baseline.values.get(metric, {}))
      metrics[metric] = {
          **interval(list(values.values()))._asdict(),
          "minus baseline": None if difference is None else difference._asdict(),
          "by seed": {str(seed): value for seed, value in values.items()}}
    rows.append({
        "arm": arm, "overrides": whole.sweep.arms[arm], "model": whole.model_of[arm],
        "network calls": result.calls, "metrics": metrics, STEPS: _steps(result),
        "points": {str(seed): points for seed, points in result.points.items()},
        "errors": {str(seed): error for seed, error in result.errors.items()}})
  return {
      "baseline": whole.sweep.baseline, "seeds": list(whole.sweep.seeds),
      "floors": dict(floors), "held out": _held_out(found),
      "same experiments": [f._asdict() for f in whole.findings], "arms": rows}


def _held_out(found: Mapping[str, Result]) -> dict[str, float]:
  """Of how many examples and draws the held-out loss is, and its own largest standard error.

  The draws are the same for all arms and seeds, so that no interval over seeds has this error.
  """
  errors = [points[-1][measures.ERROR] for result in found.values()
            for points in result.points.values() if points and measures.ERROR in points[-1]]
  of = next((result.held_out for result in found.values() if result.held_out), None)
  return {**of, "standard error": max(errors)} if of and errors else {}


def metrics_of(table_: Mapping[str, Any]) -> list[str]:
  """The metrics that any arm has, in the order in which they are measured."""
  return list(dict.fromkeys(metric for row in table_["arms"] for metric in row["metrics"]))
