"""How much it takes until a metric is good enough: steps, examples or seconds to a target.

Only what was measured counts: nothing is interpolated, so a budget is known up to the distance of
two measurements (`Reached.after` … `Reached.by`), and arms that are compared should be measured at
the same steps. A metric that touches its target and leaves it again has not reached it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Reached(NamedTuple):
  """When a target is reached for good, in the unit of the budget given.

  by: the first measurement from which on all are as good as the target; None if the last is not.
  after: the measurement before it, which is not; 0 if there is none. held: how many say so, `by`
  included; 1 is the last measurement alone.
  """

  by: float | None
  after: float
  held: int


def reached(
    steps: Sequence[float], values: Sequence[float], target: float, lower_is_better: bool = True
) -> Reached:
  """The first of `steps` at which a metric has come to its target and after which it stays there.

  Args:
    steps: (n,), rising; steps, examples or seconds (`seconds`) at which the metric was measured.
    values: (n,); one that is not finite is short of any target.
    target: as good as this is reached.
    lower_is_better: of the metric; else higher is.

  Raises:
    ValueError: no measurement, as many steps as values there are not, steps that do not rise, or a
      target that is not finite.
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
  """How long a run has trained until each of `steps`, (n,), from the lines of its metrics.jsonl.

  A line's `seconds` add up all sessions of a run that was stopped and went on; start-up, and steps
  that a kill has lost and that were done again, are in none. Between two lines time is linear.

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
