"""The likelihood of a model by its probability-flow ODE (paper, §5; theory.md#likelihood).

In the VE frame the ODE is dz/dℓ = D(z) − z for every path. Along a trajectory

  d log q/dℓ = −tr ∂(D − z)/∂z = d − tr ∂D/∂z,

so log q(x₀) is the Gaussian prior at the noisy end plus an integral of the trace over ℓ.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _programs, _values, predictions
from langevin_jax.likelihood import prior
from langevin_jax.paths import Path
from langevin_jax.samplers import noise
from langevin_jax.samplers.adaptive import check_reached, check_tolerance, integrate

__all__ = ["TANGENT_LIMIT_BYTES", "log_prob"]

# The largest total size of the tangents that one divergence pushes through the model together. A
# network needs a multiple of this for its activations.
TANGENT_LIMIT_BYTES = 2**28

# (f, z) → f(z) and tr ∂f/∂z of each example.
_Trace = Callable[[Callable, jax.Array], tuple[jax.Array, jax.Array]]


def log_prob(
    key: jax.Array, denoise: predictions.Denoise, path: Path, x: jax.Array, *, steps: int = 64,
    tolerance: float | None = None, max_steps: int = 1024,
    divergence: Literal["exact", "hutchinson"] = "exact", probes: int = 1,
    chunk: int | None = None, batch_axes: int = 0, moments: prior.Moments | None = None,
    rho_min: float = 0.002, rho_max: float = 80.0,
) -> jax.Array:
  """log q(x) in nats under the probability-flow ODE, of one example or of a batch.

  The ODE is solved by RK4 in ℓ with fixed steps from ρ_min to ρ_max, four model calls per step. x
  is used as the state at ρ_min, so q is the density of the data blurred by ρ_min. The result is
  differentiable in x and in what `denoise` closes over, and works in jit and vmap. A network should
  see whole batches: use `batch_axes` rather than vmap.

  Args:
    key: consumed by the Hutchinson probe, not used by "exact". One key, or an array of keys in the
      shape of leading batch axes, one for each example.
    denoise: (x_t, t) → D along `path`, differentiable. A `predictions.Denoiser` gives bitwise the
      same result along every path that reaches ρ_max.
    path: defines the time t. The result depends on it by rounding only.
    x: one example of any shape, after `batch_axes` leading axes, in standard units.
    steps: number of RK4 steps. 64 give an error near 1e-4 nats on smooth two-dimensional models,
      besides that of the prior.
    tolerance: local tolerance, absolute and relative, of an adaptive solver instead of RK4
      (Tsitouras 5(4)). The batch shares its steps. The gradient is by reverse mode only.
    max_steps: the largest number of adaptive steps, rejected ones included.
    divergence: "exact" takes one JVP per dimension and model call. "hutchinson" takes one per
      probe; it is unbiased in log q. Its Rademacher probes are fixed along the trajectory.
    probes: number of Hutchinson probes that are averaged. The variance is 2 Σ_{i≠j} J²/probes. In
      few dimensions prefer "exact": one probe there gives a constant error of either sign.
    chunk: number of JVPs that are pushed together; None is all. Fewer need less memory.
    moments: (mean, variances) of the data, each broadcast to one example, or the mean (d,) and the
      covariance (d, d) of vectors. The prior is N(m, S + ρ_max² I). None is (0, 1).
    rho_min, rho_max: the range of ρ = σ/α. It ends at the path's end if that is below ρ_max.

  Returns:
    log q in nats, of shape x.shape[:batch_axes]. If the tolerance is not reached within
    `max_steps`, a traced call returns NaN, and an eager call raises.

  Raises:
    ValueError: steps, max_steps, probes or chunk < 1, tolerance ≤ 0 or not reached, a reversed
      range, an unknown divergence, moments, batch_axes or keys that do not fit x, tangents of more
      than `TANGENT_LIMIT_BYTES`, or a `denoise` that returns
      another shape.
  """
  steps, max_steps = _values.count("steps", steps), _values.count("max_steps", max_steps)
  probes = _values.count("probes", probes)
  chunk = chunk if chunk is None else _values.count("chunk", chunk)
  if tolerance is not None:
    check_tolerance(tolerance, max_steps)
  x, key = _values.floats(x), noise.threefry(key)
  rho_min, rho_max = prior.range_on_path(path, rho_min, rho_max)
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
    # log q(start) = log q(end) − ∫ d log q, integrated from the data to the noise.
    return prior.log_prob(z, rho_max, moments, batch_axes) - gained, reached

  result, reached = _programs.call(nats, x, key, tolerance)
  if tolerance is not None:
    check_reached(reached, tolerance, max_steps)
  return result


class _Example(NamedTuple):
  """The axes of a state: `batch` is the shape of the leading axes, `shape` that of one example."""

  batch: tuple[int, ...]
  shape: tuple[int, ...]

  @property
  def axes(self) -> tuple[int, ...]:
    return tuple(range(len(self.batch), len(self.batch) + len(self.shape)))


def _trace(
    key: jax.Array, x: jax.Array, batch_axes: int, divergence: str, probes: int, chunk: int | None
) -> _Trace:
  """The function that `log_prob` computes a model and its divergence with.

  | divergence | probes | the trace is |
  |---|---|---|
  | "exact" | | the sum of d diagonal entries, one JVP each |
  | "hutchinson" | 1 | uᵀ J u, u Rademacher, one JVP |
  | "hutchinson" | n | the mean of n of them, from one linearisation |
  """
  prior.data_axes(x, batch_axes)  # checks batch_axes
  example = _Example(x.shape[:batch_axes], x.shape[batch_axes:])
  d = math.prod(example.shape)
  if divergence == "exact":
    _check_tangents(
        x, d, chunk, f"exact divergence of x of shape {x.shape}, {d} dimensions, pushes",
        'use divergence="hutchinson", or a smaller chunk or batch')
    return _exact(example, chunk)
  if divergence != "hutchinson":
    raise ValueError(f'divergence must be "exact" or "hutchinson", got {divergence!r}')
  if key.shape != example.batch[:key.ndim]:
    raise ValueError(
        f"keys of shape {key.shape} must lead the batch axes {example.batch} of x")
  key_axes = key.ndim
  draw = lambda key: jax.random.rademacher(key, x.shape[key_axes:], x.dtype)
  for _ in key.shape:
    draw = jax.vmap(draw)
  if probes == 1:
    return _hutchinson(draw(key), example)
  _check_tangents(x, probes, chunk, f"{probes} probes of x of shape {x.shape} push",
                  "use fewer probes, or a smaller chunk or batch")
  fold = jnp.vectorize(jax.random.fold_in)
  many = jax.vmap(lambda i: draw(fold(key, i)))(jnp.arange(probes))
  return _hutchinson_mean(many, example, chunk)


def _exact(example: _Example, chunk: int | None) -> _Trace:
  d = math.prod(example.shape)

  def trace(f, z):
    value, push = jax.linearize(f, z)

    def diagonal(i):
      unit = (jnp.arange(d) == i).astype(z.dtype).reshape(example.shape)
      pushed = push(_values.varying_like(jnp.broadcast_to(unit, z.shape), z))
      return pushed.reshape(*example.batch, d)[..., i]

    return value, jnp.sum(_mapped(diagonal, jnp.arange(d), chunk), 0)

  return trace


def _hutchinson(probe: jax.Array, example: _Example) -> _Trace:
  def trace(f, z):
    # Inside shard_map the state may vary over devices where the probe does not.
    value, pushed = jax.jvp(f, (z,), (_values.varying_like(probe, z),))
    return value, jnp.sum(probe * pushed, example.axes)

  return trace


def _hutchinson_mean(probes: jax.Array, example: _Example, chunk: int | None) -> _Trace:
  def trace(f, z):
    value, push = jax.linearize(f, z)
    one = lambda probe: jnp.sum(probe * push(_values.varying_like(probe, z)), example.axes)
    return value, jnp.mean(_mapped(one, probes, chunk), 0)

  return trace


def _mapped(function: Callable, xs: jax.Array, chunk: int | None) -> jax.Array:
  """`function` of each of xs, all together or `chunk` at a time."""
  if chunk is None:
    return jax.vmap(function)(xs)
  return jax.lax.map(function, xs, batch_size=min(chunk, len(xs)))


def _runge_kutta(
    slope: Callable, x: jax.Array, batch_axes: int, start: float, end: float, steps: int
) -> tuple[jax.Array, jax.Array]:
  """RK4 of (z, log q) in ℓ from `start` to `end`: the final z and the change of log q."""
  h = (end - start) / steps
  zero = jnp.zeros(x.shape[:batch_axes], x.dtype)

  def step(carry, i):
    z, gained = carry
    ell = start + h * i

    # The four stages are one scan, so that the model is compiled once.
    def stage(carry, coefficients):
      k, moved, grown = carry
      offset, weight = coefficients
      k, g = slope(z + offset * h * k, ell + offset * h)
      return (k, moved + weight * h * k, grown + weight * h * g), None

    offsets = jnp.asarray([0.0, 0.5, 0.5, 1.0], x.dtype)
    rk4 = jnp.asarray([1.0, 2.0, 2.0, 1.0], x.dtype) / 6.0
    (_, moved, grown), _ = _programs.scan(
        stage, (jnp.zeros_like(z), jnp.zeros_like(z), zero), (offsets, rk4))
    return (z + moved, gained + grown), None

  return _programs.scan(step, (x, zero), jnp.arange(steps, dtype=x.dtype))[0]


def _check_tangents(
    x: jax.Array, count: int, chunk: int | None, what: str, remedy: str
) -> None:
  size = x.size * (count if chunk is None else min(count, chunk)) * x.dtype.itemsize
  if size > TANGENT_LIMIT_BYTES:
    raise ValueError(
        f"{what} {size:,} bytes of tangents at once (limit {TANGENT_LIMIT_BYTES:,}): {remedy}")
