"""Multistep history: weights of old slopes, and how many old slopes a step may use.

A step passes a polynomial through old slopes. Two things can multiply rounding errors:

- A step much longer than the ones before extrapolates the polynomial by a large ratio.
  `limit_extrapolation` bounds the sum of the moduli of its weights at the end of the step.
- Slopes that contain the state, such as ε = (x − αD)/σ, feed errors of one step into the next. With
  D fixed and in units of the noise, the differences d of slopes follow

    d_{i+1} = −Σ_k T_k d_{i+1−k},   T_k = Σ_{j≥k} b_j/σ_{i+1},

  and a norm Σ|T_k| above 1 multiplies errors. `limit_growth` bounds the product over a run.

A step that would exceed a bound uses fewer slopes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from langevin_jax import splitting
from langevin_jax.samplers import exponential

__all__ = [
    "EXTRAPOLATION", "StepIntegrals", "corrector_weights", "history_lengths", "limit_extrapolation",
    "limit_growth", "multistep_weights",
]

# Rounding of float32, 6e-8, is multiplied by at most this: errors stay below 1e-4 of the data.
# Usual grids, whose steps differ in length by less than a factor of some tens, stay far below.
EXTRAPOLATION = 500.0
GROWTH = 500.0


class StepIntegrals(NamedTuple):
  """What the weights of n steps are made of.

  moments: M_0, M_1, … of the kernel of each step, (n,) each.
  width: length of each step in the variable of the polynomial, (n,); not 0 and finite if used.
  clock: that variable where each step begins, (n,).
  """

  moments: Sequence[Any]
  width: Any
  clock: Any


def history_lengths(valid: np.ndarray) -> np.ndarray:
  """How many consecutive valid steps come directly before each step; (n,) of bool → (n,) of int."""
  lengths = np.zeros(len(valid), int)
  for i in range(1, len(valid)):
    lengths[i] = lengths[i - 1] + 1 if valid[i - 1] else 0
  return lengths


def multistep_weights(
    steps: StepIntegrals, count: np.ndarray, most: int, *, midpoint: bool = False
) -> Any:
  """Weights (n, most) of slopes, newest first, of the polynomial through the last `count` (n,).

  midpoint: steps of two nodes use M₀/2 in the place of M₁.
  """
  nodes = _old_nodes(steps.width, steps.clock, count, most)
  return _weight_rows(steps.moments, nodes, count, midpoint)


def corrector_weights(
    steps: StepIntegrals, count: np.ndarray, most: int, *, midpoint: bool = False
) -> Any:
  """Weights (n, most) that take the step before again, through the slope at its end as well.

  The slopes are newest first: that at the beginning of this step, which is the end of the step
  before, then the older ones. The last `count` (n,) of them are used.
  """
  roll = lambda values: splitting.namespace(values).roll(values, 1)
  width, before = roll(steps.width), roll(steps.clock)
  xp = splitting.namespace(width, before)
  valid = _is_valid(width)
  newest = xp.where(valid, (steps.clock - before) / xp.where(valid, width, 1.0), 1.0)
  nodes = [newest, *_old_nodes(width, before, count - 1, most - 1)]
  return _weight_rows([roll(m) for m in steps.moments], nodes, count, midpoint)


def _is_valid(width: Any) -> Any:
  return splitting.namespace(width).isfinite(width) & (width != 0.0)


def _old_nodes(width: Any, clock: Any, count: np.ndarray, most: int) -> list[Any]:
  """θ_j (n,) of the beginnings of this step and of the `most` − 1 before, in units of the step."""
  xp = splitting.namespace(width, clock)
  safe = xp.where(_is_valid(width), width, 1.0)
  # Beyond `count` any number that differs from the other nodes will do: it is not used.
  return [xp.where(count > j, (xp.roll(clock, j) - clock) / safe, -1.0 - j) if j else
          xp.zeros_like(clock) for j in range(most)]


def _weight_rows(
    moments: Sequence[Any], nodes: Sequence[Any], count: np.ndarray, midpoint: bool
) -> Any:
  """Weights (n, len(nodes)) through the first `count` (n,) nodes, 0 at the others."""
  xp, most = splitting.namespace(nodes, moments), len(nodes)
  rows: Any = 0.0
  for k in range(1, most + 1):
    used = [moments[0], 0.5 * moments[0]] if midpoint and k == 2 else moments
    row = exponential.weights(used, nodes[:k])
    row = xp.stack([*row, *[xp.zeros_like(nodes[0])] * (most - k)], axis=1)
    rows = xp.where((count == k)[:, None], row, rows)
  return rows


def limit_extrapolation(
    width: np.ndarray, clock: np.ndarray, lengths: np.ndarray, most: int
) -> np.ndarray:
  """How many slopes, at most `most`, each step can use within EXTRAPOLATION; (n,).

  Args:
    width, clock: as in `StepIntegrals`. lengths: old slopes at hand, `history_lengths` (n,).
  """
  count = np.minimum(lengths + 1, most)
  # Moments of 1 evaluate the polynomial at the end of the step.
  at_end = StepIntegrals([np.ones(len(clock))] * most, width, clock)
  with np.errstate(all="ignore"):
    for k in range(2, most + 1):
      size = np.abs(multistep_weights(at_end, np.minimum(count, k), most)).sum(1)
      count = np.where((count >= k) & ~(size <= EXTRAPOLATION), k - 1, count)
  return count


def limit_growth(
    rows: Sequence[np.ndarray], fixes: Sequence[np.ndarray], count: np.ndarray, fixed: np.ndarray,
    rounding: np.ndarray, sigma: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """`count` and `fixed`, lowered where errors would grow by more than GROWTH over the run.

  Args:
    rows: rows[k − 1] are the weights (n, order) through k slopes; they move x/size.
    fixes: fixes[k − 1] are the weights (n, corrector) of a correction through k slopes.
    count: how many slopes each step uses (n,). fixed: and its correction, 0 where there is none.
    rounding: rounding error of each slope (n,), in units of that of the state.
    sigma: the noise of x/size after each step (n,).

  Returns:
    (count, fixed), (n,) each.
  """
  count, fixed, grown = count.copy(), fixed.copy(), 1.0
  previous, most = np.zeros(rows[0].shape[1]), max(rows[0].shape[1] + 1, len(fixes))
  for i in range(len(count)):
    while True:
      row = rows[count[i] - 1][i]
      total = _padded(row, most)
      if fixed[i]:
        # The step before is taken back and taken again.
        total = total + _padded(fixes[fixed[i] - 1][i], most) - _padded(
            np.append(0.0, previous), most)
      tails = np.abs(np.cumsum(total[1:][::-1])).sum()
      growth = tails / sigma[i] if sigma[i] > 0.0 else 0.0
      rounded = np.abs(total) @ rounding[i - np.arange(most)]
      # In units of the data: at ρ < 1 an error of ε counts σ; at ρ > 1 the flow shrinks it by as
      # much.
      error = max(tails, rounded) / max(sigma[i], 1.0)
      carried = grown if growth > 1.0 or fixed[i] or sigma[i] == 0.0 else 1.0
      if carried * error <= GROWTH or (count[i] == 1 and not fixed[i]):
        break
      count[i], fixed[i] = max(count[i] - 1, 1), fixed[i] - 1 if fixed[i] > 2 else 0
    grown, previous = grown * max(growth, 1.0), row
  return count, fixed


def _padded(row: np.ndarray, most: int) -> np.ndarray:
  return np.append(row, np.zeros(most - len(row)))
