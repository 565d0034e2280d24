"""The noisy end of a model: its noise level, and the Gaussian prior there (paper, eq. 10).

In the VE frame z = x/α = x₀ + ρ ε the prior at ρ_max is N(m, S + ρ_max² I). Here m is the mean of
the data and S their variances or covariance; for standardised data m = 0 and S = 1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _values
from langevin_jax.paths import Path, check_path, on_host

__all__ = ["Moments", "data_axes", "gaussian", "log_prob", "range_on_path"]

# (mean, variances or covariance) of the data.
Moments = tuple[jax.Array | float, jax.Array | float]


def range_on_path(path: Path, rho_min: float, rho_max: float) -> tuple[float, float]:
  """(ρ_min, ρ_max), with ρ_max reduced to the noisy end of the path if the path ends before it.

  Raises:
    ValueError: not 0 < rho_min < rho_max, traced ones, no path, or a path that ends before rho_min.
  """
  rho_min = _values.number("rho_min", rho_min)
  rho_max = _values.number("rho_max", rho_max)
  if not 0.0 < rho_min < rho_max:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  last = on_host(check_path(path).half_log_snr, np.float64(path.t_max))
  if _values.is_traced(last):
    # The end of a learned path is not known before the program runs.
    return rho_min, rho_max
  end = float(np.exp(-last))
  if not end > rho_min:
    raise ValueError(f"rho_min={rho_min} lies beyond the path's noisiest level {end:.4g}")
  # A path that ends at ρ_max up to rounding gives the same digits as a longer one.
  return rho_min, rho_max if end >= rho_max * (1.0 - 1e-9) else end


def data_axes(x: jax.Array, batch_axes: int) -> tuple[int, ...]:
  """The axes of one example in x, after `batch_axes` leading axes.

  Raises:
    ValueError: batch_axes outside 0 … x.ndim.
  """
  if not 0 <= batch_axes <= x.ndim:
    raise ValueError(f"batch_axes must be 0 … {x.ndim} for x of shape {x.shape}, got {batch_axes}")
  return tuple(range(batch_axes, x.ndim))


def gaussian(
    moments: Moments | None, x: jax.Array, batch_axes: int
) -> tuple[jax.Array, jax.Array]:
  """Mean and variances of the data, each broadcast to the shape of x (paper, eq. 10).

  Args:
    moments: (mean, variances), each broadcast to one example. None is (0, 1).
    x: examples after `batch_axes` leading axes.

  Raises:
    ValueError: moments that do not broadcast to one example, or a negative variance.
  """
  mean, var = (0.0, 1.0) if moments is None else moments
  shape = x.shape[batch_axes:]
  for name, value in (("mean", mean), ("variance", var)):
    given = jnp.shape(value)
    if len(given) > len(shape) or any(
        a not in (1, b) for a, b in zip(given[::-1], shape[::-1], strict=False)):
      raise ValueError(f"moments: {name} of shape {given} does not broadcast to data of {shape}")
  known = _values.concrete(var)
  if known is not None and not np.all(known >= 0.0):
    raise ValueError(f"moments: variances must be >= 0, got {var}")
  spread = lambda v: jnp.broadcast_to(jnp.broadcast_to(jnp.asarray(v, x.dtype), shape), x.shape)
  return spread(mean), spread(var)


def log_prob(
    z: jax.Array, rho: float, moments: Moments | None, batch_axes: int, extra: float = 0.0
) -> jax.Array:
  """log N(z; m, S + ρ² I) in nats.

  Args:
    z: the state in the VE frame, after `batch_axes` leading axes of examples.
    rho: the noise level ρ.
    moments: as in `gaussian`, or the mean (d,) and the covariance (d, d) of vectors.
    extra: a variance v. The result is then the average over noise, E log N(z + √v ξ; m, S + ρ² I).

  Returns:
    Nats, of shape z.shape[:batch_axes].
  """
  if moments is not None and _is_covariance(moments, z, batch_axes):
    return _correlated(z, rho, moments, extra)
  mean, var = gaussian(moments, z, batch_axes)
  var = var + rho**2
  return -0.5 * jnp.sum(
      ((z - mean) ** 2 + extra) / var + jnp.log(var) + math.log(2.0 * math.pi),
      data_axes(z, batch_axes))


def _is_covariance(moments: Moments, z: jax.Array, batch_axes: int) -> bool:
  """Whether the second moment is the covariance (d, d) of vectors (d,)."""
  shape = z.shape[batch_axes:]
  return (len(shape) == 1
          and jnp.shape(moments[0]) == shape and jnp.shape(moments[1]) == shape * 2)


def _correlated(z: jax.Array, rho: float, moments: Moments, extra: float) -> jax.Array:
  """`log_prob` for a covariance, in its eigenvectors."""
  mean, cov = (jnp.asarray(v, z.dtype) for v in moments)
  values, axes = jnp.linalg.eigh(cov)
  var = jnp.maximum(values, 0.0) + rho**2
  offset = jnp.einsum("...i,ij->...j", z - jnp.broadcast_to(mean, z.shape), axes,
                      precision="highest")
  terms = (offset**2 + extra) / jnp.broadcast_to(var, z.shape)
  return -0.5 * (jnp.sum(terms, -1) + jnp.sum(jnp.log(2.0 * math.pi * var)))
