"""Correctors: which Langevin step is taken at a level, and how long it is.

A Langevin step leaves pₜ unchanged (§2), so any number of them can be taken at a level. At unit
scale the score is s = (α D − x)/σ². A corrector is one of the steps of `langevin` for each level.
Its size is Λ, Langevin time in units of σ²; equal Λ is the same step on every path.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _programs, _values, langevin
from langevin_jax.samplers.levels import Level

__all__ = ["Corrector", "Rule", "baoab", "euler", "exact", "midpoint", "snr"]

Rule = Callable[[jax.Array, jax.Array], jax.Array]
"""(ξ, σs) → Λ: one number, or one for each sample with its axes kept as length 1."""


class Corrector(NamedTuple):
  """A Langevin step for each level; your own needs `at` alone.

  at(level) → the discretisation, for states at unit scale.
  settle(level, carry, score) → the carry for the next level, given the score of the state after the
    last step at this one. None where every level begins with a new carry.
  """

  at: Callable[[Level], langevin.Discretisation]
  settle: Callable[[Level, Any, jax.Array], Any] | None = None


@_programs.memoised
def exact(budget: float | Rule = 0.1) -> Corrector:
  """STEP(0, Λ), `langevin.exact`: bounded for every Λ, variance bias O(Λ).

  Args:
    budget: Λ > 0, or a rule such as `snr`.

  Raises:
    ValueError: a budget that is not positive.
  """
  if callable(budget):
    return _ruled(budget, langevin.ornstein_uhlenbeck)
  _values.check_positive(budget=budget)
  return Corrector(lambda level: langevin.exact(level.sigma, budget))


@_programs.memoised
def euler(budget: float | Rule = 0.1) -> Corrector:
  """Unadjusted Langevin with δ = Λσ², `langevin.euler`: bias O(Λ), unstable from Λ = 2 on.

  Args:
    budget: Λ > 0, or a rule: the corrector of score_sde is `euler(snr(0.16, event_axes=…))`.

  Raises:
    ValueError: a budget that is not positive.
  """
  if callable(budget):
    return _ruled(budget, lambda noise, x, score, sigma, budget: langevin.unadjusted(
        noise, x, score, budget * sigma**2))
  _values.check_positive(budget=budget)
  return Corrector(lambda level: langevin.euler(budget * level.sigma**2))


@_programs.memoised
def midpoint(budget: float = 0.2) -> Corrector:
  """`langevin.midpoint`: bias O(Λ²), one call per step. The first middle uses the last D.

  Args:
    budget: Λ > 0.

  Raises:
    ValueError: a budget that is not positive.
  """
  _values.check_positive(budget=budget)
  return Corrector(lambda level: langevin.midpoint(level.sigma, budget))


@_programs.memoised
def baoab(budget: float = 0.2, *, friction: float = 1.0) -> Corrector:
  """`langevin.baoab` with h = σ√(2Λ) and γ = friction/σ; the momentum is kept between levels.

  The half kick that the last step of a level owes uses the D that the predictor computes there. No
  bias in x where pₜ is Gaussian, O(Λ) elsewhere. At friction = ∞ a step is Langevin time Λσ², with
  bias O(Λ²); with less friction several steps move further. Unstable from Λ = 2 on.

  Args:
    budget: Λ > 0. friction: > 0, ∞ allowed.

  Raises:
    ValueError: a budget or a friction that is not positive.
  """
  _values.check_positive(budget=budget, friction=friction)
  time_step = jnp.sqrt(2.0 * budget) if isinstance(budget, jax.Array) else math.sqrt(2.0 * budget)

  def settle(level, carry, score):
    momentum, owed = carry
    return momentum + 0.5 * time_step * level.sigma * owed * score, jnp.zeros_like(owed)

  return Corrector(
      lambda level: langevin.baoab(time_step * level.sigma, friction / level.sigma), settle)


@_programs.memoised
def snr(ratio: float = 0.16, *, event_axes: int) -> Rule:
  """The step size of score_sde, d = 2 (r‖ξ‖/‖s‖)² (Song et al. 2021, algorithms 4, 5), as Λ = d/σ².

  Norms are those of each sample, so that a sample does not depend on its batch; score_sde uses
  their mean over the batch. Its factor α² = 1 − β_i belongs to the time steps of discretised VP, is
  within 2 % of 1, and is left out. Where noise dominates E‖σs‖² is near E‖ξ‖² and Λ near 2r²; near
  the data Λ is larger.

  The step depends on the state and its noise, so the law is kept only approximately: the worse, the
  fewer numbers a sample has. For vectors of a few numbers use a fixed Λ: their score may nearly
  vanish, and `euler` does not bound its step.

  Args:
    ratio: r > 0. event_axes: number of trailing axes of one sample: 1 for vectors, 3 for images.

  Raises:
    ValueError: a ratio that is not positive, or event_axes < 1.
  """
  _values.check_positive(ratio=ratio)
  event_axes = _values.count("event_axes", event_axes)
  square = lambda v: jnp.sum(v**2, axis=tuple(range(-event_axes, 0)), keepdims=True)

  def rule(noise, scaled):
    return 2.0 * ratio**2 * square(noise) / jnp.maximum(square(scaled), jnp.finfo(noise.dtype).tiny)

  return rule


def _ruled(rule: Rule, move: Callable) -> Corrector:
  """The corrector move(ξ, x, s, σ, Λ) with Λ by a rule."""
  def at(level):
    def step(draw, x, carry, score):
      noise, here = draw(0), score(x)
      return move(noise, x, here, level.sigma, rule(noise, level.sigma * here)), carry

    return langevin.Discretisation(lambda draw, x, score: (), step)

  return Corrector(at)
