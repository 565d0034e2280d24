"""The step of methods with one call of the model: one linear update of what is known at a level.

  x′ = a x + Σ_j b_j s_j + c ξ,   s = q D + p x

s is the slope: D itself, ε or a velocity. A multistep method remembers slopes, newest first. A
corrector replaces the weights b of the step before by b* once the slope at its end is known, which
the next step needs anyway: x ← x + Σ (b*_j s_j) − Σ (b_j s_j), at no extra call.

A method is its `Numbers`, made for all steps in float64 on the host: see _multistep_plan.py and
own_time.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import splitting
from langevin_jax.paths import Path
from langevin_jax.samplers.levels import Level, Method

__all__ = ["Numbers", "linear_method", "weighted_sum"]


class Numbers(NamedTuple):
  """The coefficients of n steps; see the module.

  level: where each step begins. a, c: (n,). b: (n, k), slopes newest first.
  p, q: (n,), or None where s = D.
  fix: b* (n, k′) of the correction at the beginning of each step, with the slope there first.
  fixed: (n,), which steps begin with a correction. Both are None for a method without a corrector.
  """

  level: Level
  a: Any
  b: Any
  c: Any
  p: Any = None
  q: Any = None
  fix: Any = None
  fixed: Any = None


class _Carry(NamedTuple):
  """moved: Σ b_j s_j of the last step, () without a corrector. slopes: newest first."""

  moved: Any
  slopes: tuple[jax.Array, ...]


def linear_method(
    plan: Callable[[Level, Path], Numbers], stochasticity: splitting.Stochasticity, *,
    history: int = 0, corrects: bool = False,
) -> Method:
  """A method with the step of the module.

  Args:
    plan: (levels, path) → Numbers. stochasticity: η; at 0 no noise is drawn.
    history: how many old slopes are remembered. corrects: whether `fix` is used.
  """
  noisy = not splitting.is_zero(stochasticity)

  def init(x):
    zero = jnp.zeros_like(x)
    return _Carry(zero if corrects else (), (zero,) * history)

  def step(draw, x, carry, model, n):
    denoised = model(x, n.level)
    slope = denoised if n.q is None else n.q * denoised + n.p * x
    slopes = (slope, *carry.slopes)
    if corrects:
      # An increment keeps what other code did to x at this level: correctors, inpainting.
      x = jnp.where(n.fixed, x + (weighted_sum(n.fix, slopes) - carry.moved), x)
    moved = weighted_sum(n.b, slopes)
    x_s = n.a * x + moved
    x_s = x_s + n.c * draw(0) if noisy else x_s
    return x_s, denoised, _Carry(moved if corrects else (), slopes[:history])

  return Method(plan, init, step, stochasticity)


def weighted_sum(weights: jax.Array, slopes: Sequence[jax.Array]) -> jax.Array:
  """Σ_j b_j s_j. Not a dot product, which an accelerator would round to fewer bits."""
  total = weights[0] * slopes[0]
  for j in range(1, len(weights)):
    total = total + weights[j] * slopes[j]
  return total
