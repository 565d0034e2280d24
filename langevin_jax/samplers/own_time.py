"""Methods of one call a step in a path's own time: Euler, Euler–Maruyama, Adams–Bashforth.

They are what flow matching and score SDEs are usually run with. In ρ, α or an angle instead, and
exact in the linear part, are `ddim` and `multistep`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import splitting
from langevin_jax.paths import Path, on_host
from langevin_jax.samplers.history import age_of, corrector_weights, lagrange, reach
from langevin_jax.samplers.levels import (
    Level,
    Method,
    budgets,
    check_order,
    check_stochasticity,
    memoised,
    numbers,
    pick,
    roots,
)
from langevin_jax.samplers.linear import Numbers, method, steps


@memoised
def euler_maruyama(stochasticity: splitting.Stochasticity = 1.0) -> Method:
  """Euler–Maruyama (eq. 2) of Table 4's reverse process (eq. 8) in own time; one call per step.

    x′ = x + δ (−f x + (1 + η²)/2 g² s) + η g √δ ξ,   δ = t − t′   (eq. 6)

  evaluated as −α̇ D − (σ̇ + η²g²/2σ) ε̂, in which nothing cancels. Poor at big steps wherever g
  is large; `ddim` at the same η solves the linear part exactly.

  Raises:
    ValueError: η < 0.
  """
  check_stochasticity(stochasticity)

  def plan(levels: Level, path: Path) -> Numbers:
    delta = -np.diff(levels.t)
    alpha_dot, sigma_dot, sigma, g = _derivatives(levels, path)
    eta = stochasticity
    if callable(stochasticity):
      checked = splitting.checked(stochasticity, path)
      eta = on_host(jax.vmap(lambda ell: jnp.asarray(checked(ell), float)),
                    levels.half_log_snr[:-1])
    here, after = pick(levels, slice(-1)), pick(levels, slice(1, None))
    finite = np.isfinite(np.diff(levels.half_log_snr))

    def make(xp, here, after, budget, root, eta, delta, alpha_dot, sigma_dot, sigma, g):
      exact = splitting.weights(here.alpha, here.sigma, after.alpha, after.sigma, budget, root)
      per_eps = -delta * (sigma_dot + 0.5 * eta**2 * g**2 / sigma)
      shrink = here.scale / after.scale
      own = (shrink * (1.0 + per_eps / sigma),
             (-delta * alpha_dot - per_eps * here.alpha / here.sigma) / after.scale,
             eta * g * xp.sqrt(delta) / after.scale)
      return tuple(xp.where(finite, o, e) for o, e in zip(own, exact, strict=True))

    a, b, c = numbers(make, here, after, budgets(levels, stochasticity, path),
                      roots(levels, stochasticity), eta, delta, alpha_dot, sigma_dot, sigma, g)
    return Numbers(here, a, b[:, None], c)

  return method(plan, stochasticity)


def euler() -> Method:
  """Euler of the probability-flow ODE ẋ = α̇ D + σ̇ ε̂ in the path's own time (flow sampling)."""
  return adams_bashforth(1)


@memoised
def adams_bashforth(order: int = 2) -> Method:
  """Adams–Bashforth of the velocity u = α̇ D + σ̇ ε̂ in the path's own time; one call per step.

    x′ = x − δ Σ β_j u_j,   Σ β_j θ_j^i = 1/(i + 1)

  On rectified flow these are the multistep methods of flow matching; order 1 is Euler's.

  Raises:
    ValueError: order not 1, 2, 3 or 4; a grid of fewer steps than the order.
  """
  check_order(order, 4)
  corrector = order - 1 if order > 2 else 0

  def plan(levels: Level, path: Path) -> Numbers:
    steps(levels, order, f"adams_bashforth(order={order})")
    alpha_dot, sigma_dot, _, _ = _derivatives(levels, path)
    here, after = pick(levels, slice(-1)), pick(levels, slice(1, None))
    delta, finite = np.diff(levels.t), np.isfinite(np.diff(levels.half_log_snr))
    p = sigma_dot / here.sigma
    q = alpha_dot - p * here.alpha
    # STEP, with D for a slope: at a curved path's clean end, and where pure noise has no velocity.
    own = finite | ((np.arange(len(delta)) == 0) & np.isfinite(p) & np.isfinite(q) & (delta != 0.0))
    # A point's velocity is constant along a straight path, and history closes its last step too.
    straight = np.ptp(alpha_dot) < 1e-9 and np.ptp(sigma_dot) < 1e-9
    # Where σ is great at that last step, x − σε rounds what D says at once.
    own = (own | (straight & (here.sigma * here.scale < 100.0))) & np.isfinite(delta)
    p, q = np.where(own, p, 0.0), np.where(own, q, 1.0)
    age = age_of(own & (delta != 0.0))
    able = reach(delta, levels.t[:-1], age, order)
    known = np.where(own, able, 1)
    fixed = np.where((age > 0) & (age <= order - 2),
                     np.minimum(1 + np.append(1, able[:-1]), corrector), 0)

    def make(xp, here, after, delta, time):
      moments = [delta / (j + 1) for j in range(order)]
      rows = lagrange(moments, delta, time, known, order) / after.scale[:, None]
      a, b, _ = splitting.weights(
          here.alpha, here.sigma, after.alpha, after.sigma, xp.zeros_like(delta))
      alone = xp.where(np.arange(order) == 0, b[:, None], 0.0)
      return (xp.where(own, here.scale / after.scale, a), xp.where(own[:, None], rows, alone),
              corrector_weights(moments, delta, time, time, fixed, corrector)
              / here.scale[:, None] if corrector else None)

    a, b, fix = numbers(make, here, after, delta, here.t)
    due = fixed > 0
    fix = {"fix": np.where(due[:, None], fix, 0.0), "fixed": due} if corrector else {}
    return Numbers(here, a, b, np.zeros(len(a)), p=p, q=q, **fix)

  return method(plan, 0.0, history=order - 1, corrects=corrector > 0)


def _derivatives(levels: Level, path: Path) -> Sequence[np.ndarray]:
  """α̇, σ̇, σ and g of the path's own coordinates where each step begins."""
  return on_host(_derivatives_along(path), levels.t[:-1])


@functools.lru_cache(maxsize=64)
def _derivatives_along(path: Path):
  return jax.vmap(lambda t: (path.alpha_dot(t), path.sigma_dot(t), path.sigma(t),
                             path.diffusion(t)))
