"""Heun's method with EDM's churn, as a table of stages (staged.py)."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from langevin_jax import _programs, _values, splitting
from langevin_jax.paths import Path, on_host
from langevin_jax.samplers.budgets import Budgets, traced_root
from langevin_jax.samplers.levels import Level, Method, steps_of
from langevin_jax.samplers.staged import (
    Row,
    Stages,
    kick_levels,
    stage_table,
    staged_method,
    where_on_host,
)

__all__ = ["heun"]


@_programs.memoised
def heun(
    churn: float = 0.0, *, churn_min: float = 0.0, churn_max: float = np.inf,
    noise_scale: float = 1.0, own_time: bool = False,
) -> Method:
  """EDM's stochastic sampler: Heun's method with churn (Karras et al. 2022, algorithm 2).

    for each of the n steps from ρ to ρ′:
      γ = min(churn/n, √2 − 1)  if ρ lies in [churn_min, churn_max], else 0
      ρ̂ = ρ + γ ρ
      ẑ = z + √(ρ̂² − ρ²) noise_scale ξ
      d = (ẑ − D(ẑ, ρ̂))/ρ̂
      z′ = ẑ + (ρ′ − ρ̂) d
      if ρ′ ≠ 0:
        d′ = (z′ − D(z′, ρ′))/ρ′
        z′ = ẑ + (ρ′ − ρ̂)(d + d′)/2

  in the VE frame z = x/α; their t is ρ. Order 2 without churn, 2n − 1 calls. A step from ρ = ∞ is
  STEP, with one call. So is one where ρ falls by a factor of more than about 800: (d + d′)/2 would
  multiply the rounding of D by half of that. On a grid that also rises n counts all falling steps.

  Args:
    churn: S_churn ≥ 0. noise_scale: S_noise. Both may be traced.
    churn_min, churn_max: S_min and S_max.
    own_time: takes the trapezoid of ẋ = α̇ D + σ̇ ε̂ in the path's own time instead.

  Raises:
    ValueError: a negative churn or noise_scale, or not 0 ≤ churn_min < churn_max; no number.
  """
  churn, noise_scale = (_values.number(name, value, may_be_traced=True)
                        for name, value in (("churn", churn), ("noise_scale", noise_scale)))
  if any(not _values.is_traced(v) and not v >= 0.0 for v in (churn, noise_scale)):
    raise ValueError(f"churn and noise_scale must be >= 0, got {churn} and {noise_scale}")
  churn_min = _values.number("churn_min", churn_min)
  churn_max = _values.number("churn_max", churn_max)
  noisy = _values.is_traced(churn) or churn > 0.0
  if not 0.0 <= churn_min < churn_max:
    raise ValueError(f"churn acts for rho in [churn_min, churn_max], 0 <= churn_min < churn_max; "
                     f"got {churn_min} and {churn_max}")

  def plan(levels: Level, path: Path, steps: int | None = None) -> Stages:
    rho = np.exp(-levels.half_log_snr[:-1])
    inside = (rho >= churn_min) & (rho <= churn_max)
    xp = splitting.namespace(churn)
    gamma = xp.where(inside, xp.minimum(churn / (steps or len(rho)), np.sqrt(2.0) - 1.0), 0.0)
    budget = xp.log1p(gamma)
    kick = kick_levels(
        levels, Budgets(budget, None if xp is np else traced_root(budget, 0.0)), path)
    _, after = steps_of(levels)
    clock = functools.partial(_own_time, path) if own_time else _in_rho
    finite = np.isfinite(np.diff(levels.half_log_snr))
    stages = stage_table(levels, kick, [after], _heun_rows(clock(kick.hat), clock(after), finite))
    return stages._replace(c=noise_scale * stages.c)

  method = staged_method(plan, 2, 0.0, noisy=noisy)
  return method._replace(for_run=lambda n: method._replace(
      plan=functools.partial(plan, steps=n))) if noisy else method


class _Clock(NamedTuple):
  """An ODE dy/dτ = p x + q D of y = s x, at each of n levels; (n,) each."""

  tau: Any
  s: Any
  p: Any
  q: Any


def _in_rho(level: Level) -> _Clock:
  """dz/dρ = ε̂ for z = x/α."""
  # On the host along a learned path too, where only t and scale are traced.
  xp = splitting.namespace(level.half_log_snr)
  with np.errstate(divide="ignore", invalid="ignore"):
    return _Clock(xp.exp(-level.half_log_snr), 1.0 / level.alpha, 1.0 / level.sigma,
                  -level.alpha / level.sigma)


def _own_time(path: Path, level: Level) -> _Clock:
  """ẋ = α̇ D + σ̇ ε̂ in the path's own coordinates and time."""
  rates = jax.vmap(lambda t: (path.alpha_dot(t), path.sigma_dot(t)))
  # The times of a traced churn are not known on the host.
  alpha_dot, sigma_dot = (rates(level.t) if _values.is_traced(level.t) else
                          on_host(rates, level.t))
  with np.errstate(divide="ignore", invalid="ignore"):
    p = sigma_dot / level.sigma
    return _Clock(level.t, level.scale, p, alpha_dot - p * level.alpha)


def _heun_rows(start: _Clock, end: _Clock, finite: np.ndarray) -> list[Row]:
  """Euler's step from x̂, then the trapezoid with the slopes at both ends."""
  # Infinite steps are STEP: any finite number will do.
  start, end = (_Clock(*(where_on_host(finite, value, 1.0) for value in at)) for at in (start, end))
  delta = end.tau - start.tau
  # s′ x′ = s x̂ + δ (p x̂ + q D₀)
  a, b = (start.s + delta * start.p) / end.s, delta * start.q / end.s
  # s′ x′ = s x̂ + δ/2 (p x̂ + q D₀ + p′ x₁ + q′ D₁),  x₁ = a x̂ + b D₀
  last = Row((start.s + 0.5 * delta * (start.p + end.p * a)) / end.s,
              [0.5 * delta * (start.q + end.p * b) / end.s, 0.5 * delta * end.q / end.s])
  return [Row(a, [b, splitting.namespace(a).zeros_like(a)]), last]
