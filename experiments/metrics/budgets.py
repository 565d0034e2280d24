"""The budget until a metric reaches a target, in steps, examples or seconds.

Measurements are not interpolated: a budget is known up to the interval between two measurements,
`Reached.after` … `Reached.by`. Therefore compare arms that are measured at the same steps. A metric
that reaches its target and leaves it again has not reached it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Reached(NamedTuple):
  """The budget at which a target is reached and not left again, in the unit of `steps`.

  by: the first measurement from which on all reach the target; None if the last does not.
  after: the measurement before `by`; 0 if there is none. held: the number of measurements from `by`
  on; 1 means only the last one.
  """

  by: float | None
  after: float
  held: int


def reached(
    steps: Sequence[float], values: Sequence[float], target: float, lower_is_better: bool = True
) -> Reached:
  """The first of `steps` at which a metric reaches a target that it does not leave again.

  Args:
    steps: (n,), rising: the steps, examples or seconds (`seconds`) of the measurements.
    values: (n,), the metric; a value that is not finite does not reach any target.
    target: the value to reach, or a better one.
    lower_is_better: whether smaller values of the metric are better.

  Raises:
    ValueError: there is no measurement, the numbers of steps and values differ, steps do not rise,
      or the target is not finite.
  """
  steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
  if steps.ndim != 1 or steps.shape != values.shape or not steps.size:
    raise ValueError("steps and values must be as many, and at least one; got shapes "
                     f"{steps.shape} and {values.shape}")
  if not np.all(np.diff(steps) > 0.0):
    raise ValueError("steps must rise from one measurement to the next")
  if not np.isfinite(target):
    raise ValueError(f"target must be finite, got {target}")
  good = np.isfinite(values) & (values <= target if lower_is_better else values >= target)
  held = int(np.argmin(good[::-1])) if not good.all() else len(good)
  first = len(good) - held
  return Reached(float(steps[first]) if held else None,
                 float(steps[first - 1]) if first else 0.0, held)


def seconds(lines: Sequence[Mapping[str, Any]], steps: Sequence[float]) -> np.ndarray:
  """The training time in seconds until each of `steps`, (n,), from the lines of metrics.jsonl.

  The `seconds` of a line cover all sessions of a run that was resumed. They exclude start-up and
  steps that were lost in a kill and repeated. Between two lines time is interpolated linearly.

  Raises:
    ValueError: lines without `seconds`, or steps before 0 or after the last line.
  """
  if not lines or any("seconds" not in line for line in lines):
    raise ValueError("metrics.jsonl has lines without seconds, or none: how long the run took is "
                     "not known")
  known, clock = (np.array([0.0, *(line[name] for line in lines)]) for name in ("step", "seconds"))
  steps = np.asarray(steps, np.float64)
  if steps.size and not (steps.min() >= 0.0 and steps.max() <= known[-1]):
    raise ValueError(f"steps must lie in 0 … {known[-1]:.0f}, the last line of metrics.jsonl; got "
                     f"{steps.min():g} … {steps.max():g}")
  return np.interp(steps, known, clock)
