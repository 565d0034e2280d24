"""Adaptive solvers: the probability-flow ODE and the reverse SDE to a tolerance.

At unit scale, x = xₜ/√(α² + σ²), and in ℓ the ODE is the same for every path,

  dx/dℓ = α (D − α x),   α = 1/√(1 + e^{−2ℓ}),

bounded at both ends. The number of calls depends on the model and the batch. Use these for
reference samples and for models of unknown stiffness; fixed steps cost the same on every device.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, predictions, splitting
from langevin_jax.paths import Path
from langevin_jax.samplers import exponential, levels, noise, sampling
from langevin_jax.samplers.embedded import integrate

__all__ = ["Solution", "adaptive", "adaptive_sde", "check_reached", "check_tolerance", "integrate"]

# The largest h + Λ of a step of `adaptive_sde`.
LONGEST = 2.0


class Solution(NamedTuple):
  """x: samples. calls: how many times the model was called for them."""

  x: jax.Array
  calls: jax.Array


def adaptive(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    tolerance: float = 1e-4, max_steps: int = 1024, rho_min: float = 0.002, rho_max: float = 80.0,
    initial: jax.Array | None = None, moments: tuple[jax.Array, jax.Array] | None = None,
) -> Solution:
  """Samples of the probability-flow ODE by Tsitouras' 5(4) pair with error control.

  The largest error of any entry of the batch decides on a step. So a sample is as accurate in a
  batch as alone, but not bitwise the same. Reverse-mode differentiable.

  Args:
    key, denoise, path, shape, initial, moments: as in `samplers.sample`, and with a key the first
      state is the same.
    tolerance: of each entry, absolute at unit scale and relative.
    max_steps: the most steps, rejected ones included; six calls each.
    rho_min: where the integration ends and D is returned. rho_max: where it starts, or the noisy
      end of the path where that is less.

  Returns:
    (x₀, calls of the model). x₀ is NaN where the tolerance was not reached and the call is traced;
    called eagerly it raises.

  Raises:
    ValueError: the tolerance was not reached within `max_steps`, a reversed noise range, or an
      `initial` of another shape.
  """
  shape = tuple(shape)
  sampling.check_kinds(denoise, path)
  initial = noise.initial_state(initial, shape)
  rho_min = _values.number("rho_min", rho_min)
  rho_max = _values.number("rho_max", rho_max)
  if not 0.0 < rho_min < rho_max:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  key = noise.threefry(key)
  first = levels.pick(levels.place_levels(np.array([rho_max, rho_min]), path), 0)
  check_tolerance(tolerance, max_steps)
  if 0 in shape:
    return Solution(jnp.zeros(shape), jnp.zeros((), int))
  denoised = predictions.at_level(denoise, path)

  def slope(x, ell):
    alpha = jnp.sqrt(jax.nn.sigmoid(2.0 * ell))
    return alpha * (denoised(x, ell) - alpha * x)

  def solve(first, tolerance, key, initial, moments):
    if initial is None:
      like = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
      x = noise.start(lambda: noise.normal(noise.split(key)[0], like), first, moments)
    else:
      x = initial / jnp.asarray(first.scale, initial.dtype)
    end = jnp.asarray(-math.log(rho_min), x.dtype)
    x, steps, reached = integrate(
        slope, x, first.half_log_snr, end, tolerance=tolerance, max_steps=max_steps)
    return Solution(denoised(x, end), 6 * steps + 2), reached

  solution, reached = _programs.call(solve, first, tolerance, key, initial, moments)
  check_reached(reached, tolerance, max_steps)
  return solution


class _Walk(NamedTuple):
  """Between two steps: x and D, Y of the Brownian path, ℓ, the next length, steps tried so far."""

  x: jax.Array
  denoised: jax.Array
  brownian: jax.Array
  ell: jax.Array
  length: jax.Array
  steps: jax.Array


def adaptive_sde(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    stochasticity: float = 1.0, tolerance: float = 1e-2, max_steps: int = 4096,
    rho_min: float = 0.002, rho_max: float = 80.0,
) -> Solution:
  """Samples of the reverse SDE of stochasticity η by an embedded pair with error control.

    x_1 = STEP(h, Λ) with D,   x_2 = x_1 + α′ M_1 (D(x_1) − D),   Λ = η² h

  The pair is UniPC(1) (`unipc`): the step goes on from x_2 with D(x_1), so a step costs one call,
  and |x_2 − x_1| is its error. The largest error of any entry of the batch decides on a step. Noise
  is that of `samplers.brownian()`, one path of the key, so a rejected step is tried again on the
  same path and the rejection does not bias the law. With one key, `samplers.sample` with
  `brownian()` converges to the same samples.

  A step is no longer than h + Λ = 2. Beyond that x_1 is all but D itself, D(x_1) confirms it, and
  the error is not seen. At η = 1 there are at least 11 steps of the usual range, and useful
  tolerances need some 30 calls; with fewer, take fixed steps.

  Args:
    key, denoise, path, shape, rho_min, rho_max: as in `adaptive`. stochasticity: η > 0, a number,
      which may be traced.
    tolerance: of each entry in a step, absolute at unit scale and relative.
    max_steps: the most steps, rejected ones included; one call each. Not differentiable.

  Returns:
    (x₀, calls of the model), as `adaptive`.

  Raises:
    ValueError: as `adaptive`; η ≤ 0, where `adaptive` solves the ODE.
  """
  sampling.check_kinds(denoise, path)
  shape = tuple(shape)
  rho_min = _values.number("rho_min", rho_min)
  rho_max = _values.number("rho_max", rho_max)
  stochasticity = _values.number("stochasticity", stochasticity, may_be_traced=True)
  if not 0.0 < rho_min < rho_max or not (
      _values.is_traced(stochasticity) or 0.0 < stochasticity < math.inf):
    raise ValueError(
        "adaptive_sde needs 0 < rho_min < rho_max and a stochasticity > 0, or take adaptive; got "
        f"rho_min={rho_min}, rho_max={rho_max}, stochasticity={stochasticity}")
  check_tolerance(tolerance, max_steps)
  key = noise.threefry(key)
  first = levels.pick(levels.place_levels(np.array([rho_max, rho_min]), path), 0)
  if 0 in shape:
    return Solution(jnp.zeros(shape), jnp.zeros((), int))
  like, depth = jax.ShapeDtypeStruct(shape, jnp.result_type(float)), 18
  model = predictions.at_level(denoise, path)

  def solve(first, tolerance, key, square):
    key_start, key_steps = noise.split(key)
    start, end = (jnp.asarray(v, like.dtype) for v in (first.half_log_snr, -math.log(rho_min)))
    brownian = lambda ell: noise.value(key_steps, like, noise.place(ell, square, depth), depth)

    def advance(walk: _Walk) -> _Walk:
      length = jnp.minimum(walk.length, LONGEST / (1.0 + square))
      h = jnp.minimum(length, end - walk.ell)
      ell, budget = jnp.where(length < end - walk.ell, walk.ell + h, end), square * h
      (alpha, sigma), (alpha_s, sigma_s) = (
          predictions.unit_frame(at)[:2] for at in (walk.ell, ell))
      a, b, _ = map(jnp.asarray, splitting.weights(alpha, sigma, alpha_s, sigma_s, budget))
      after = brownian(ell)
      drawn = sigma_s * (after - jnp.exp(-budget) * walk.brownian)
      x_1 = a * walk.x + b * walk.denoised + drawn
      denoised = model(x_1, ell)
      weight = jnp.asarray(exponential.moments(h + budget, 2)[1])
      change = alpha_s * weight * (denoised - walk.denoised)
      ratio = jnp.max(jnp.abs(change) / (tolerance * (1.0 + jnp.abs(x_1))))
      new = _Walk(x_1 + change, denoised, after, ell, h, walk.steps)
      kept = jax.tree.map(lambda new, old: jnp.where(ratio <= 1.0, new, old), new, walk)
      factor = jnp.clip(0.9 / jnp.sqrt(jnp.maximum(ratio, 1e-6)), 0.2, 5.0)
      return kept._replace(length=h * jnp.where(jnp.isfinite(ratio), factor, 0.2),
                           steps=walk.steps + 1)

    x = noise.start(lambda: noise.normal(key_start, like), first, None)
    walk = _Walk(x, model(x, start), brownian(start), start, 0.01 * (end - start), jnp.int32(0))
    walk = jax.lax.while_loop(lambda walk: (walk.ell < end) & (walk.steps < max_steps), advance,
                              _values.varying_as(_values.varying_as(walk, advance), advance))
    reached = walk.ell == end
    return Solution(jnp.where(reached, model(walk.x, end), jnp.nan), walk.steps + 2), reached

  solution, reached = _programs.call(
      solve, first, tolerance, key, jnp.asarray(stochasticity**2, float))
  check_reached(reached, tolerance, max_steps)
  return solution


def check_tolerance(tolerance: float | jax.Array, max_steps: int) -> None:
  """Raises ValueError where tolerance or max_steps is known and not positive."""
  known = _values.number("tolerance", tolerance, may_be_traced=True)
  if not (_values.is_traced(known) or known > 0.0):
    raise ValueError(f"tolerance must be positive, got {tolerance}")
  _values.count("max_steps", max_steps)


def check_reached(reached: jax.Array | bool, tolerance: float | jax.Array, max_steps: int) -> None:
  """Raises ValueError where it is known that the tolerance was not reached."""
  known = _values.concrete(reached)
  if known is not None and not known:
    raise ValueError(f"tolerance={tolerance} was not reached within max_steps={max_steps}: raise "
                     "either, or take fixed steps")
