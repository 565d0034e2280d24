"""Methods of several calls a step: exponential singlestep, and Heun with EDM's churn.

A step first adds noise, x̂ = m x + c ξ, exactly: the forward kernel by Λ takes the state from ρ back
to ρ̂ = ρ e^Λ. Then stages go the whole way down from there by the ODE, each a linear update

  x_j = a_j x̂ + Σ_{i<j} b_ji D_i,   D_i = D(x_i) at its own level,

so a method is a table of numbers, made in float64 on the host, and its weak order is that of its
ODE step for any η: the noise is not approximated. A step whose end is infinitely far is STEP, by
its first stage alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, splitting
from langevin_jax.paths import Path, on_host
from langevin_jax.samplers import exponential
from langevin_jax.samplers.levels import (
    Level,
    Method,
    check_order,
    check_stochasticity,
    memoised,
    moved,
    numbers,
    pick,
    spend,
)


class Stages(NamedTuple):
  """x̂ = m x + c ξ, then x_{j+1} = a_j x̂ + Σ_i b_ji D_i at `level` (n, stages); see the module.

  `used` (n, stages) says which stages are run; the last of them is the step's result.
  """

  level: Level
  m: Any
  c: Any
  a: Any
  b: Any
  used: Any


@memoised
def singlestep(
    order: int = 2, stochasticity: splitting.Stochasticity = 0.0, *,
    prediction: exponential.Prediction = "x0", midpoint: bool = False,
    largest_budget: float = np.inf,
) -> Method:
  """Exponential singlestep: DPM-Solver++(2S, 3S), for any η after the exact forward kernel.

  `order` calls per step, at 0; 0, ½; or 0, ⅓, ⅔ of the step in ℓ (Lu et al. 2022). Weak order
  `order` for every η. With noise, a step back and forth of more than about 1 in ℓ loses spread:
  `singlestep(3, η, largest_budget=0.5)` keeps the law at every η. Standard deviations of
  N(.7, .3²) on `karras(10)` and `karras(20)`:

  | steps | 10, η = 0 | 10, 1 | 10, 5 | 20, η = 0 | 20, 1 | 20, 5 |
  |---|---|---|---|---|---|---|
  | ddim | .213 | .173 | .157 | .255 | .223 | .182 |
  | multistep(2) | .401 | .484 | .711 | .328 | .397 | 1.05 |
  | multistep(2, midpoint) | .342 | .332 | .320 | .317 | .336 | .347 |
  | multistep(3) | .439 | .869 | 2.26 | .284 | .289 | 4.22 |
  | unipc(2) | .409 | .492 | .711 | .318 | .393 | 1.05 |
  | singlestep(2) | .289 | .234 | .002 | .297 | .286 | .002 |
  | singlestep(3) | .300 | .290 | .002 | .300 | .301 | .004 |
  | singlestep(2, largest_budget=.5) | .289 | .279 | .279 | .297 | .291 | .291 |
  | singlestep(3, largest_budget=.5) | .300 | .301 | .301 | .300 | .301 | .301 |

  Args:
    order: 1, 2 or 3. stochasticity: η.
    prediction: what is a polynomial in ℓ: "x0"; "eps", which is DPM-Solver; or "velocity".
    midpoint: two nodes take M₀/2 in the place of M₁, as DPM-Solver(++)-2 is published.
    largest_budget: Λ of a step is at most this: every η(ℓ) has the same marginals.

  Raises:
    ValueError: order not 1, 2 or 3; η < 0; an unknown prediction; largest_budget not positive.
  """
  check_order(order)
  check_stochasticity(stochasticity)
  exponential.check_options(prediction, "half_log_snr", largest_budget)
  nodes = (0.0, 0.5) if order == 2 else (0.0, 1.0 / 3.0, 2.0 / 3.0)[:order]

  def plan(levels: Level, path: Path) -> Stages:
    finite = np.isfinite(np.diff(levels.half_log_snr))
    budget, root = spend(levels, stochasticity, path, largest_budget)
    budget = _where(finite, budget, 0.0)
    root = None if root is None else _where(finite, root, 0.0)
    hat, after, amplitude = _kicked(levels, budget, root, path)
    # The length of an infinite step is not used.
    w = _where(finite, after.half_log_snr - hat.half_log_snr, 1.0)
    inner = [moved(hat, node * w, path) for node in nodes[1:]]

    def make(xp, hat, after, inner, w):
      a, b = [], []
      for stage, target in enumerate((*inner, after)):
        reached = nodes[stage + 1] if stage + 1 < order else 1.0
        # Through the slopes at the beginning and at the last node: {0}, {0, ⅓}, {0, ⅔}.
        seen = sorted({0, stage})
        places = [xp.full_like(w, nodes[i] / reached) for i in seen]
        moments = (exponential.moments(reached * w, len(seen)) if prediction == "x0" else
                   exponential.frame_moments(prediction, "half_log_snr", hat, target,
                                             xp.ones_like(w), len(seen)))
        if midpoint and len(seen) == 2:
          moments = [moments[0], 0.5 * moments[0]]
        row = dict(zip(seen, exponential.weights(moments, places), strict=True))
        if prediction == "x0":
          a.append(target.sigma / hat.sigma)
          b.append([target.alpha * row.get(i, xp.zeros_like(w)) for i in range(order)])
        else:
          _through_slopes(prediction, (hat, *inner)[:stage + 1], target, row, a, b, order)
      return a, b

    return _stages(levels, hat, inner, numbers(make, hat, after, inner, w), finite, amplitude)

  return _method(plan, order, stochasticity)


def _through_slopes(prediction, levels, target, row, a, b, order) -> None:
  """Appends a and b of the stage x = k′ (x̂/k + Σ c_i s_i), with slopes s_i = p_i x_i + q_i D_i.

  k = α for ε and α + σ for the velocity; x_i is known by the stages before, x_0 = x̂.
  """
  size = lambda level: level.alpha + (level.sigma if prediction == "velocity" else 0.0)
  own, known = size(target) / size(levels[0]), [0.0 * target.alpha] * order
  for i, c in row.items():
    p = 1.0 / levels[i].sigma
    q = -levels[i].alpha * p - (1.0 if prediction == "velocity" else 0.0)
    weight = size(target) * c
    own = own + weight * p * (a[i - 1] if i else 1.0)
    for k in range(order):
      before = b[i - 1][k] if i else 0.0
      known[k] = known[k] + weight * (p * before + (q if k == i else 0.0))
  a.append(own)
  b.append(known)


@memoised
def heun(
    churn: float = 0.0, *, churn_min: float = 0.0, churn_max: float = np.inf,
    noise_scale: float = 1.0, own_time: bool = False,
) -> Method:
  """Heun's trapezoid with EDM's churn (Karras et al. 2022, algorithm 2); order 2 without churn.

  Each step first adds noise, ρ̂ = ρ(1 + γ) with γ = min(churn/n, √2 − 1) for ρ in
  [churn_min, churn_max], then takes a trapezoidal step of dz/dρ = ε̂, or of ẋ = α̇ D + σ̇ ε̂ in the
  path's own time. The step to the clean end, and one from ρ = ∞, is STEP with one call: 2n − 1
  calls in all.

  Raises:
    ValueError: negative churn or noise_scale, or a range of ρ that is none.
  """
  if not (churn >= 0.0 and noise_scale >= 0.0):
    raise ValueError(f"churn and noise_scale must be >= 0, got {churn} and {noise_scale}")
  if not 0.0 <= churn_min < churn_max:
    raise ValueError(f"churn acts for rho in [churn_min, churn_max], 0 <= churn_min < churn_max; "
                     f"got {churn_min} and {churn_max}")

  def plan(levels: Level, path: Path) -> Stages:
    rho = np.exp(-levels.half_log_snr[:-1])
    inside = (rho >= churn_min) & (rho <= churn_max)
    gamma = np.where(inside, min(churn / len(rho), np.sqrt(2.0) - 1.0), 0.0)
    hat, after, amplitude = _kicked(levels, np.log1p(gamma), None, path)
    finite = np.isfinite(np.diff(levels.half_log_snr))
    # y = s x is the state in the coordinates of the slope dy/dτ = p x + q D, in its clock τ.
    clocks = (lambda level: _in_time(level, path)) if own_time else _in_rho
    (tau, s, p, q), (tau_s, s_s, p_s, q_s) = (
        np.where(finite, clocks(level), 1.0) for level in (hat, after))
    delta = tau_s - tau
    # Euler's x₁ = a x̂ + b D₀, then δ/2 of the slopes at both ends.
    a, b = (s + delta * p) / s_s, delta * q / s_s
    last = ((s + 0.5 * delta * (p + p_s * a)) / s_s, 0.5 * delta * (q + p_s * b) / s_s,
            0.5 * delta * q_s / s_s)
    zero = np.zeros_like(a)
    stages = _stages(levels, hat, [after], ([a, last[0]], [[b, zero], list(last[1:])]), finite,
                     amplitude)
    return stages._replace(c=noise_scale * stages.c)

  return _method(plan, 2, 0.0, noisy=churn > 0.0)


def _in_rho(level: Level) -> np.ndarray:
  """(τ, s, p, q) of dz/dρ = ε̂, z = x/α."""
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.stack([np.exp(-level.half_log_snr), 1.0 / level.alpha, 1.0 / level.sigma,
                     -level.alpha / level.sigma])


def _in_time(level: Level, path: Path) -> np.ndarray:
  """(τ, s, p, q) of ẋ = α̇ D + σ̇ ε̂ in the path's own coordinates and time."""
  alpha_dot, sigma_dot = on_host(
      jax.vmap(lambda t: (path.alpha_dot(t), path.sigma_dot(t))), level.t)
  with np.errstate(divide="ignore", invalid="ignore"):
    p = sigma_dot / level.sigma
    return np.stack([level.t, level.scale, p, alpha_dot - p * level.alpha])


def _kicked(levels: Level, budget, root, path: Path) -> tuple[Level, Level, Any]:
  """Where the ODE part of each step begins, after the kernel, and ends; and that kernel's noise.

  The noise is √(1 − e^{−2Λ}) with the Λ that the path has room for. From pure noise there is none.
  """
  here, after = pick(levels, slice(-1)), pick(levels, slice(1, None))
  finite = np.isfinite(here.half_log_snr)
  if root is None:
    hat = moved(here, np.where(finite, -budget, 0.0), path)
    ells = (np.where(finite, level.half_log_snr, 0.0) for level in (here, hat))
    return hat, after, splitting.amplitude(np.maximum(np.subtract(*ells), 0.0))
  # Of a traced η nothing may meet an infinity: its derivative would be none.
  ell = np.where(finite, here.half_log_snr, 0.0)
  room = np.where(finite, ell - on_host(path.half_log_snr, path.t_max), 0.0)
  # At the path's end there is none, but for rounding.
  room = jnp.asarray(np.where(room > 1e-9, room, 0.0), float)
  hat = moved(here._replace(half_log_snr=ell), -jnp.minimum(budget, room), path)
  hat = Level(*(jnp.where(finite, now, jnp.asarray(old, float))
                for now, old in zip(hat, here, strict=True)))
  whole = budget < room
  return hat, after, splitting.amplitude(
      jnp.where(whole, budget, room), jnp.where(whole, root, jnp.sqrt(room)))


def _where(condition: np.ndarray, value: Any, other: float) -> Any:
  """`where` that stays on the host unless `value` is traced."""
  return (jnp if isinstance(value, jax.Array) else np).where(condition, value, other)


def _stages(levels: Level, hat: Level, inner: Sequence[Level], rows, finite, amplitude) -> Stages:
  """The table of a step from `hat` through `inner`; an infinite step is STEP by the first stage."""
  here, after = pick(levels, slice(-1)), pick(levels, slice(1, None))
  a, b = rows
  first_alone = np.arange(len(a)) == 0

  def make(xp, here, after, hat, inner, amplitude, a, b):
    noisy = here.alpha > 0.0
    m = xp.where(noisy, hat.alpha / xp.where(noisy, here.alpha, 1.0), 1.0)
    c = hat.sigma * amplitude
    step_a, step_b, _ = splitting.weights(
        hat.alpha, hat.sigma, after.alpha, after.sigma, xp.zeros_like(hat.alpha))
    a, b = xp.stack(a, 1), xp.stack([xp.stack(row, 1) for row in b], 1)
    a = xp.where(finite[:, None], a, step_a[:, None])
    alone = xp.where(first_alone, step_b[:, None], 0.0)[:, None, :]
    b = xp.where(finite[:, None, None], b, xp.broadcast_to(alone, b.shape))
    level = Level(*(xp.stack([v, *(xp.where(finite, w, v) for w in others)], 1)
                    for v, *others in zip(hat, *inner, strict=True)))
    return Stages(level, m, c, a, b, finite[:, None] | first_alone)

  return numbers(make, here, after, hat, list(inner), amplitude, a, b)


def _method(plan, stages: int, stochasticity, *, noisy: bool | None = None) -> Method:
  noisy = not splitting.is_zero(stochasticity) if noisy is None else noisy

  def step(draw, x, carry, model, n):
    hat = n.m * x + n.c * draw(0) if noisy else x

    # One scan over the stages: the model is compiled once, however many there are.
    def stage(state, now):
      place, level, a, b, used = now

      def move(x, known):
        known = known.at[place].set(model(x, level))
        return a * hat + sum(b[i] * known[i] for i in range(stages)), known

      return jax.lax.cond(used, move, lambda x, known: (x, known), *state), None

    start = hat, _programs.varying_like(jnp.zeros((stages, *x.shape), x.dtype), x)
    (x_s, known), _ = _programs.scan(
        stage, start, (jnp.arange(stages), n.level, n.a, n.b, n.used))
    return x_s, known[0], carry

  return Method(plan, lambda x: (), step, stochasticity, draws=noisy)
