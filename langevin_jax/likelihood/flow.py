"""§5: the likelihood of a model by its probability-flow ODE.

In the VE frame the ODE is dz/dℓ = D(z) − z for every path, and along it

  d log q/dℓ = −tr(∂(D − z)/∂z) = d − tr ∂D/∂z,

so log q(x₀) is the Gaussian prior at the noisy end plus an integral of the trace over ℓ.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from langevin_jax import _programs, predictions
from langevin_jax.likelihood import prior
from langevin_jax.paths import Path
from langevin_jax.samplers import noise
from langevin_jax.samplers.adaptive import check_reached, check_tolerance, integrate

TANGENT_LIMIT_BYTES = 2**28
"""The most that the tangents of one exact divergence may take: a network keeps many times this."""


def log_prob(
    key: jax.Array, denoise: predictions.Denoise, path: Path, x: jax.Array, *, steps: int = 64,
    tolerance: float | None = None, max_steps: int = 1024,
    divergence: Literal["exact", "hutchinson"] = "exact", probes: int = 1,
    chunk: int | None = None, batch_axes: int = 0, moments: prior.Moments | None = None,
    rho_min: float = 0.002, rho_max: float = 80.0,
) -> jax.Array:
  """log q(x) in nats under the probability-flow model, of one example or of a batch.

  RK4 in ℓ with fixed steps from ρ_min to ρ_max: four calls of the model a step, never more. The
  data are taken as they are at ρ_min: the answer is the density of the data blurred by ρ_min.
  Differentiable in x and in what `denoise` closes over; jit- and vmap-able. A network should see
  whole batches: give `batch_axes` rather than vmap it.

  Args:
    key: consumed by the Hutchinson probe (unused by "exact"): one key, or an array of keys in the
      shape of the batch axes, by which each example's probe is its own.
    denoise: (x_t, t) → D along `path`, differentiable. A `predictions.Denoiser` gives the same
      digits along every path that reaches ρ_max.
    x: one example, any shape, after `batch_axes` leading axes of examples. Standard units.
    path: says what t means; the result does not depend on it beyond rounding.
    steps: RK4 steps; 64 give an error near 1e-4 nats on smooth two-dimensional models,
      beside that of the prior, which `moments` makes small where the data have another mean than 0.
    tolerance: solve adaptively instead (Tsitouras 5(4) of diffrax, extra "adaptive"), with this
      local tolerance, absolute and relative, on every entry of the state and on log q. The batch
      shares its steps. Reverse mode only.
    max_steps: the most that `tolerance` may take, rejected ones included.
    divergence: "exact" costs one JVP a dimension and call; "hutchinson" one a probe, unbiased in
      log q, with Rademacher probes kept fixed along the trajectory.
    probes: of "hutchinson", whose mean is taken: the variance is 2 Σ_{i≠j} J²/probes. In few
      dimensions one probe is a constant error of either sign: use "exact" there.
    chunk: JVPs that are pushed together (None: all of them). Fewer need less memory, which
      `TANGENT_LIMIT_BYTES` bounds for x as given: what vmap adds is not seen.
    moments: (mean, variances) of the data, each broadcast to one example, for the prior at ρ_max:
      N(m, S + ρ_max²); or a vector's mean (d,) and covariance (d, d). None is (0, 1).
    rho_min, rho_max: the range of ρ = σ/α, which ends where the path does if that comes sooner.

  Returns:
    log q of shape x.shape[:batch_axes]. Where the tolerance was not reached within `max_steps`, NaN
    if the call is traced; called eagerly it raises.

  Raises:
    ValueError: steps, max_steps, probes or chunk < 1, tolerance ≤ 0 or not reached, a reversed
      range, an unknown divergence, moments or batch_axes that do not fit x, keys that do not lead
      it, a divergence of more than `TANGENT_LIMIT_BYTES` at once, a `denoise` that returns another
      shape, or diffrax missing.
  """
  for name, value in (
      ("steps", steps), ("max_steps", max_steps), ("probes", probes), ("chunk", chunk)):
    if value is not None and value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")
  if tolerance is not None:
    check_tolerance(tolerance, max_steps)
  x, key = jnp.asarray(x, jnp.result_type(x, float)), noise.threefry(key)
  rho_min, rho_max = prior.reach(path, rho_min, rho_max)
  at, d = predictions.at_level(denoise, path), math.prod(x.shape[batch_axes:])
  start, end = -math.log(rho_min), -math.log(rho_max)

  def nats(x, key, tolerance):
    trace = _trace(key, x, batch_axes, divergence, probes, chunk)

    def slope(z, ell):
      """dz/dℓ and d log q/dℓ at z."""
      alpha = predictions.unit_frame(ell).alpha
      denoised, traced = trace(lambda z: at(alpha * z, ell), z)
      return denoised - z, d - traced

    reached = True
    if tolerance is None:
      z, gained = _runge_kutta(slope, x, batch_axes, start, end, steps)
    else:
      (z, gained), _, reached = integrate(
          lambda state, ell: slope(state[0], ell), (x, jnp.zeros(x.shape[:batch_axes], x.dtype)),
          start, end, tolerance=tolerance, max_steps=max_steps)
    # log q(start) = log q(end) − ∫ d log q, the integral running from the data outwards.
    return prior.log_prob(z, rho_max, moments, batch_axes) - gained, reached

  result, reached = _programs.call(nats, x, key, tolerance)
  check_reached(reached, tolerance, max_steps)
  return result


def _trace(key, x, batch_axes, divergence, probes, chunk) -> Callable:
  """A function (f, z) → f(z) and tr ∂f/∂z of each example."""
  axes, batch = prior.data_axes(x, batch_axes), x.shape[:batch_axes]
  if divergence == "hutchinson":
    if key.shape != batch[:key.ndim]:
      raise ValueError(f"keys of shape {key.shape} must lead the batch axes {batch} of x")
    draw = lambda key: jax.random.rademacher(key, x.shape[key_axes:], x.dtype)
    key_axes = key.ndim
    for _ in key.shape:
      draw = jax.vmap(draw)
    if probes == 1:
      return _hutchinson(draw(key), axes)
    size = x.size * min(probes, probes if chunk is None else chunk) * x.dtype.itemsize
    if size > TANGENT_LIMIT_BYTES:
      raise ValueError(
          f"{probes} probes of x of shape {x.shape} push {size:,} bytes of tangents at once (limit "
          f"{TANGENT_LIMIT_BYTES:,}): use fewer probes, or a smaller chunk or batch")
    fold = jnp.vectorize(jax.random.fold_in)
    many = jax.vmap(lambda i: draw(fold(key, i)))(jnp.arange(probes))
    return _hutchinson_mean(many, axes, chunk)
  if divergence != "exact":
    raise ValueError(f'divergence must be "exact" or "hutchinson", got {divergence!r}')
  d = math.prod(x.shape[batch_axes:])
  size = x.size * min(d, d if chunk is None else chunk) * x.dtype.itemsize
  if size > TANGENT_LIMIT_BYTES:
    raise ValueError(
        f"exact divergence of x of shape {x.shape}, {d} dimensions, pushes {size:,} bytes of "
        f"tangents at once (limit {TANGENT_LIMIT_BYTES:,}): use divergence=\"hutchinson\", or a "
        "smaller chunk or batch")

  def exact(f, z):
    value, push = jax.linearize(f, z)

    def diagonal(i):
      unit = (jnp.arange(d) == i).astype(z.dtype).reshape(x.shape[batch_axes:])
      pushed = push(_programs.varying_like(jnp.broadcast_to(unit, z.shape), z))
      return pushed.reshape(*batch, d)[..., i]

    # One JVP a dimension: together, or `chunk` of them at a time.
    rows = jax.vmap(diagonal)(jnp.arange(d)) if chunk is None else jax.lax.map(
        diagonal, jnp.arange(d), batch_size=min(chunk, d))
    return value, jnp.sum(rows, 0)

  return exact


def _hutchinson(probe, axes) -> Callable:
  def trace(f, z):
    # Also where a probe is the same on every device and the state is not.
    value, pushed = jax.jvp(f, (z,), (_programs.varying_like(probe, z),))
    return value, jnp.sum(probe * pushed, axes)

  return trace


def _hutchinson_mean(probes, axes, chunk) -> Callable:
  def trace(f, z):
    value, push = jax.linearize(f, z)
    one = lambda probe: jnp.sum(probe * push(_programs.varying_like(probe, z)), axes)
    each = jax.vmap(one)(probes) if chunk is None else jax.lax.map(
        one, probes, batch_size=min(chunk, len(probes)))
    return value, jnp.mean(each, 0)

  return trace


def _runge_kutta(slope, x, batch_axes, start, end, steps):
  h = (end - start) / steps

  def step(carry, i):
    z, gained = carry
    ell = start + h * i

    # The four stages are one scan: the model is compiled once, not four times.
    def stage(carry, coefficients):
      k, moved, grown = carry
      offset, weight = coefficients
      k, g = slope(z + offset * h * k, ell + offset * h)
      return (k, moved + weight * h * k, grown + weight * h * g), None

    offsets = jnp.asarray([0.0, 0.5, 0.5, 1.0], x.dtype)
    rk4 = jnp.asarray([1.0, 2.0, 2.0, 1.0], x.dtype) / 6.0
    (_, moved, grown), _ = _programs.scan(
        stage, (jnp.zeros_like(z), jnp.zeros_like(z), nothing), (offsets, rk4))
    return (z + moved, gained + grown), None

  nothing = jnp.zeros(x.shape[:batch_axes], x.dtype)
  return _programs.scan(step, (x, nothing), jnp.arange(steps, dtype=x.dtype))[0]
