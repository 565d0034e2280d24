"""Methods of one call per step in a path's own time: Euler, Euler–Maruyama, Adams–Bashforth.

Flow matching and score SDEs are usually sampled with these. `ddim` and `multistep` step in ρ, α or
an angle instead, and are exact in the linear part.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, splitting
from langevin_jax.paths import Path, on_host
from langevin_jax.samplers.budgets import budgets
from langevin_jax.samplers.history import (
    EXTRAPOLATION,
    StepIntegrals,
    corrector_weights,
    history_lengths,
    limit_extrapolation,
    multistep_weights,
)
from langevin_jax.samplers.levels import (
    Level,
    Method,
    check_order,
    check_steps,
    check_stochasticity,
    common_namespace,
    steps_of,
)
from langevin_jax.samplers.linear import Numbers, linear_method

__all__ = ["adams_bashforth", "euler", "euler_maruyama"]


class _Rates(NamedTuple):
  """α̇, σ̇, σ and g of the path's own coordinates where each step begins, (n,) each."""

  alpha_dot: Any
  sigma_dot: Any
  sigma: Any
  diffusion: Any


@_programs.memoised
def euler_maruyama(stochasticity: splitting.Stochasticity = 1.0) -> Method:
  """Euler–Maruyama (eq. 2) of the reverse process (eq. 8, Table 4) in own time; one call per step.

    x′ = x + δ (−f x + (1 + η²)/2 g² s) + η g √δ ξ,   δ = t − t′   (eq. 6)

  The drift is evaluated as −α̇ D − (σ̇ + η² g²/(2σ)) ε̂, in which nothing cancels. An infinite step
  is STEP. The error is large at big steps wherever g is; `ddim` at the same η is exact in the
  linear part.

  Args:
    stochasticity: η ≥ 0: a number, a function of ℓ, or an array that may be traced.

  Raises:
    ValueError: η < 0.
  """
  check_stochasticity(stochasticity)
  return linear_method(functools.partial(_euler_maruyama_plan, stochasticity), stochasticity)


def _euler_maruyama_plan(
    stochasticity: splitting.Stochasticity, levels: Level, path: Path
) -> Numbers:
  here, after = steps_of(levels)
  finite = np.isfinite(np.diff(levels.half_log_snr))
  with np.errstate(all="ignore"):  # numbers of infinite steps, which are not selected
    xp, here_, after, rates, delta, eta, noise = common_namespace(
        here, after, _rates(levels, path), here.t - after.t, _eta_at(here, stochasticity, path),
        budgets(levels, stochasticity, path))
    a, b, c = splitting.weights(here_.alpha, here_.sigma, after.alpha, after.sigma, *noise)
    eps_weight = -delta * (rates.sigma_dot + 0.5 * eta**2 * rates.diffusion**2 / rates.sigma)
    shrink = here_.scale / after.scale
    own_a = shrink * (1.0 + eps_weight / rates.sigma)
    own_b = (-delta * rates.alpha_dot - eps_weight * here_.alpha / here_.sigma) / after.scale
    own_c = eta * rates.diffusion * xp.sqrt(delta) / after.scale
    a, b, c = (xp.where(finite, own, step) for own, step in ((own_a, a), (own_b, b), (own_c, c)))
  return Numbers(here, a, b[:, None], c)


def _eta_at(here: Level, stochasticity: splitting.Stochasticity, path: Path) -> Any:
  """η where each step begins, (n,), or η itself where it is no function."""
  if not callable(stochasticity):
    return stochasticity
  checked = splitting.checked(stochasticity, path)
  return on_host(jax.vmap(lambda ell: jnp.asarray(checked(ell), float)), here.half_log_snr)


def euler() -> Method:
  """Euler of the probability-flow ODE ẋ = α̇ D + σ̇ ε̂ in the path's own time (flow sampling)."""
  return adams_bashforth(1)


@_programs.memoised
def adams_bashforth(order: int = 2) -> Method:
  """Adams–Bashforth of the velocity u = α̇ D + σ̇ ε̂ in the path's own time; one call per step.

    x′ = x − δ Σ β_j u_j,   Σ β_j θ_j^i = 1/(i + 1),   δ = t − t′

  On rectified flow these are the multistep methods of flow matching; order 1 is Euler's. Orders 3
  and 4 correct their first step, or their first two, as `multistep` does.

  Args:
    order: 1, 2, 3 or 4.

  Raises:
    ValueError: another order, or a grid of fewer steps than the order.
  """
  check_order(order, 4)
  corrector = order - 1 if order > 2 else 0
  return linear_method(functools.partial(_adams_bashforth_plan, order, corrector), 0.0,
                       history=order - 1, corrects=corrector > 0)


def _adams_bashforth_plan(order: int, corrector: int, levels: Level, path: Path) -> Numbers:
  check_steps(levels, order, f"adams_bashforth(order={order})")
  here, after = steps_of(levels)
  delta, time = after.t - here.t, here.t
  velocity, p, q = _velocity_slopes(levels, path)
  if splitting.namespace(delta) is np:
    lengths = history_lengths(velocity & (delta != 0.0))
    bounded = limit_extrapolation(delta, time, lengths, order)
  else:  # times of a traced path are not known
    lengths = history_lengths(velocity)
    bounded = np.minimum(lengths + 1, order)
  counts = np.where(velocity, bounded, 1)
  fixes = np.where((lengths > 0) & (lengths <= order - 2),
                   np.minimum(1 + np.append(1, bounded[:-1]), corrector), 0)
  with np.errstate(all="ignore"):  # numbers of infinite steps, which are not selected
    xp, start, end, delta, time = common_namespace(here, after, delta, time)
    integrals = StepIntegrals([delta / (j + 1) for j in range(order)], delta, time)
    a, b, _ = splitting.weights(
        start.alpha, start.sigma, end.alpha, end.sigma, xp.zeros_like(delta))
    rows = multistep_weights(integrals, counts, order) / end.scale[:, None]
    newest_alone = xp.where(np.arange(order) == 0, b[:, None], 0.0)
    rows = xp.where(velocity[:, None], rows, newest_alone)
    numbers = Numbers(here, xp.where(velocity, start.scale / end.scale, a), rows,
                      np.zeros(len(delta)), p=p, q=q)
    if not corrector:
      return numbers
    fix = corrector_weights(integrals, fixes, corrector) / start.scale[:, None]
    fixed = fixes > 0
    if xp is np:
      # A correction over a steep step would multiply the rounding of its newest slope.
      fixed = fixed & ~(np.abs(fix[:, 0] * p) > EXTRAPOLATION)
    return numbers._replace(fix=xp.where(fixed[:, None], fix, 0.0), fixed=fixed)


def _velocity_slopes(levels: Level, path: Path) -> tuple[np.ndarray, Any, Any]:
  """(velocity, p, q): which steps have the velocity u = p x + q D as slope; the others have D.

  | step | slope |
  |---|---|
  | finite | u |
  | from pure noise, where u is finite and δ ≠ 0 | u |
  | to the clean end of a straight path (α̇ and σ̇ constant), where σ_t < 100 | u |
  | other infinite steps | D, for STEP |

  Along a straight path the velocity of data that are one point is constant. At a large σ_t x − σε
  has more rounding than D. On a traced path all infinite steps have D.
  """
  here, after = steps_of(levels)
  rates, delta = _rates(levels, path), after.t - here.t
  finite = np.isfinite(np.diff(levels.half_log_snr))
  if splitting.namespace(rates, delta) is jnp:
    p = rates.sigma_dot / jnp.asarray(here.sigma, float)
    q = rates.alpha_dot - p * here.alpha
    return finite, jnp.where(finite, p, 0.0), jnp.where(finite, q, 1.0)
  with np.errstate(all="ignore"):
    p = rates.sigma_dot / here.sigma
    q = rates.alpha_dot - p * here.alpha
  first = np.arange(len(delta)) == 0
  velocity = finite | (first & np.isfinite(p) & np.isfinite(q) & (delta != 0.0))
  straight = np.ptp(rates.alpha_dot) < 1e-9 and np.ptp(rates.sigma_dot) < 1e-9
  velocity = (velocity | (straight & (here.sigma * here.scale < 100.0))) & np.isfinite(delta)
  return velocity, np.where(velocity, p, 0.0), np.where(velocity, q, 1.0)


def _rates(levels: Level, path: Path) -> _Rates:
  return on_host(_rates_along(path), levels.t[:-1])


@functools.lru_cache(maxsize=64)
def _rates_along(path: Path) -> Callable[[jax.Array], _Rates]:
  """Times (n,) → rates. One object for each path, so that it is compiled once."""
  return jax.vmap(lambda t: _Rates(path.alpha_dot(t), path.sigma_dot(t), path.sigma(t),
                                   path.diffusion(t)))
