"""What a multistep method may remember: the weights of old slopes, and how many a step can bear.

A step goes through old slopes by a polynomial. Where a step is much longer in its variable than the
ones before, that polynomial is an extrapolation by a large ratio; and where slopes hold the state
itself, as ε = (x − αD)/σ does, what one step gets wrong the next ones read as a change of slope. In
units of the noise, with D held fixed, the differences d of slopes then follow

  d_{i+1} = −Σ_k T_k d_{i+1−k},   T_k = Σ_{j≥k} b_j γ_{i−j}/σ_{i+1},   γ = ∂s/∂ε,

and a norm Σ|T_k| above 1 multiplies errors by as much. `reach` bounds the first and `settle` the
product of the second over a run; a step that would exceed them looks at fewer slopes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from langevin_jax import splitting
from langevin_jax.samplers import exponential

# Rounding of float32, 6e-8, is multiplied by no more: 1e-4 of the data is left. Steps that differ
# in length by less than some tens, as on all usual grids, are far below both.
EXTRAPOLATION = 500.0
GROWTH = 500.0


def age_of(valid: np.ndarray) -> np.ndarray:
  """How many steps in a row before each one are valid: as many old slopes as it may look at."""
  age = np.zeros(len(valid), int)
  for i in range(1, len(valid)):
    age[i] = age[i - 1] + 1 if valid[i - 1] else 0
  return age


def lagrange(
    moments, width, clock, known, most: int, newest=None, *, midpoint: bool = False
) -> Any:
  """Weights (n, most) of slopes, from the newest on, through the last `known` of which a step goes.

  Step i starts at clock[i] and is width[i] long; `moments` are those of its kernel. Its nodes are
  the values of the clock at this step and the ones before, and `newest` first where it is given.
  midpoint: two nodes take M₀/2 in the place of M₁.
  """
  xp = splitting.namespace(width, clock)
  valid = xp.isfinite(width) & (width != 0.0)
  safe = xp.where(valid, width, 1.0)
  lags = range(most if newest is None else most - 1)
  # Where there is no such node any other number does: it is not used.
  older = known if newest is None else known - 1
  nodes = [xp.where(older > j, (xp.roll(clock, j) - clock) / safe, -1.0 - j) if j else
           xp.zeros_like(clock) for j in lags]
  nodes = nodes if newest is None else [xp.where(valid, (newest - clock) / safe, 1.0), *nodes]
  rows, xp = 0.0, splitting.namespace(width, clock, moments)
  for count in range(1, most + 1):
    used = [moments[0], 0.5 * moments[0]] if midpoint and count == 2 else moments
    row = exponential.weights(used, nodes[:count])
    row = xp.stack([*row, *[xp.zeros_like(clock)] * (most - count)], axis=1)
    rows = xp.where((known == count)[:, None], row, rows)
  return rows


def corrector_weights(moments, width, clock, newest, known, most: int, **options) -> Any:
  """Weights (n, most) that do the step before again, through the point `newest` it led to."""
  roll = splitting.namespace(width, clock).roll
  return lagrange([roll(m, 1) for m in moments], roll(width, 1), roll(clock, 1), known, most,
                  newest=newest, **options)


def reach(width: np.ndarray, clock: np.ndarray, age: np.ndarray, most: int) -> np.ndarray:
  """How many slopes, at most `most`, extrapolate each step's end by no more than EXTRAPOLATION.

  By the sum of the moduli of their weights there.
  """
  known = np.minimum(age + 1, most)
  ends = [np.ones(len(clock))] * most
  with np.errstate(all="ignore"):
    for count in range(2, most + 1):
      weights = np.abs(lagrange(ends, width, clock, np.minimum(known, count), most)).sum(1)
      known = np.where((known >= count) & ~(weights <= EXTRAPOLATION), count - 1, known)
  return known


def settle(
    rows: Sequence[np.ndarray], fixes: Sequence[np.ndarray], known: np.ndarray, fixed: np.ndarray,
    gain: np.ndarray, noisiness: np.ndarray, sigma: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """`known` and `fixed`, lowered where errors would grow by more than GROWTH in all.

  Args:
    rows: weights (n, order) of slopes through 1, 2, … of them; fixes: (n, k) of the corrector
      through k = 1, 2, … Both move x/size, whose noise is `sigma` (n,) after each step.
    known: how many slopes a step looks at; fixed: its correction, 0 where it has none.
    gain: γ (n,), what noise there is in the slope of each step; noisiness: what its rounding is,
      in units of that of the state.
  """
  known, fixed, grown = known.copy(), fixed.copy(), 1.0
  previous, most = np.zeros(rows[0].shape[1]), max(rows[0].shape[1] + 1, len(fixes))
  pad = lambda row: np.append(row, np.zeros(most - len(row)))
  for i in range(len(known)):
    while True:
      row = rows[known[i] - 1][i]
      total = pad(row)
      if fixed[i]:
        # The step before is taken back and done again.
        total = total + pad(fixes[fixed[i] - 1][i]) - pad(np.append(0.0, previous))
      lags = np.arange(1, most)
      tails = np.abs(np.cumsum((total[1:] * gain[i - lags])[::-1])).sum()
      growth = tails / sigma[i] if sigma[i] > 0.0 else 0.0
      # In the data: below its scale an error of ε weighs σ, above it the flow shrinks it as much.
      rounding = np.abs(total) @ noisiness[i - np.arange(most)]
      error = max(tails, rounding) / max(sigma[i], 1.0)
      carried = grown if growth > 1.0 or fixed[i] or sigma[i] == 0.0 else 1.0
      if carried * error <= GROWTH or (known[i] == 1 and not fixed[i]):
        break
      known[i], fixed[i] = max(known[i] - 1, 1), fixed[i] - 1 if fixed[i] > 2 else 0
    grown, previous = grown * max(growth, 1.0), row
  return known, fixed
