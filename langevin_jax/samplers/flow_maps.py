"""Sampling by flow maps: STEP with the average denoiser, exact at any size."""

from typing import Any, NamedTuple

import numpy as np

from langevin_jax import _programs, splitting
from langevin_jax.paths import Path
from langevin_jax.samplers.budgets import Budgets, budgets
from langevin_jax.samplers.levels import (
    Level,
    Method,
    check_stochasticity,
    common_namespace,
    steps_of,
)

__all__ = ["flow_map"]


class _Numbers(NamedTuple):
  """x′ = a x + b D̄(x, ℓ, ℓ′ + Λ) + c ξ for n steps; (n,) each. further: ℓ′ + Λ."""

  level: Level
  further: Any
  a: Any
  b: Any
  c: Any


@_programs.memoised
def flow_map(stochasticity: splitting.Stochasticity = 0.0) -> Method:
  """Steps of a flow map, one call each, exact for the exact map on every grid, also of one step.

    x′ = α′ D̄ + σ′ e^{−Λ} ε̄ + σ′ √(1 − e^{−2Λ}) ξ,   D̄ = D̄(x, ℓ, ℓ′ + Λ),   ε̄ = (x − α D̄)/σ

  This is the exact map from ℓ to ℓ′ + Λ, then the exact forward kernel back up by Λ = η² h, or
  ∫η² dℓ of a function: by the composition law of STEP the two are STEP(h, Λ) with D̄. The law of
  x′ is exact for every η. CTM's γ (Kim et al. 2024, algorithm 1) is √(1 − e^{−2Λ}). η = ∞ is
  multistep consistency sampling (Song et al. 2023, algorithm 1): to clean data, and noise again. A
  step from pure noise has Λ = ∞ for every η > 0, which changes no law.

  The denoiser must have two levels: `flow_maps.denoiser`. Under guidance, and inpainting by
  substituted values, D̄ is guided or substituted as D is.

  Args:
    stochasticity: η ≥ 0: a number, ∞, a function of ℓ, or an array that may be traced.

  Raises:
    ValueError: η < 0; when sampling, a denoiser without a second level; in `encode`.
  """
  endless = isinstance(stochasticity, float) and stochasticity == np.inf
  if not endless:
    check_stochasticity(stochasticity)

  def plan(levels: Level, path: Path) -> _Numbers:
    here, after = steps_of(levels)
    if np.any(after.half_log_snr < here.half_log_snr):
      raise ValueError("flow_map goes towards the data: encode needs an ordinary method")
    noise = (Budgets(np.full(len(here.alpha), np.inf), None) if endless else
             budgets(levels, stochasticity, path))
    _, here, after, noise = common_namespace(here, after, noise)
    a, b, c = splitting.weights(here.alpha, here.sigma, after.alpha, after.sigma, *noise)
    return _Numbers(here, after.half_log_snr + noise.budget, a, b, c)

  def step(draw, x, carry, model, n):
    average = model(x, n.level, n.further)
    x_s = n.a * x + n.b * average
    x_s = x_s if splitting.is_zero(stochasticity) else x_s + n.c * draw(0)
    return x_s, average, carry

  return Method(plan, lambda x: (), step, stochasticity)
