"""Discrete data: grey levels as densities, and nats as bits per dimension.

Data on a lattice of spacing Δ (1 for grey levels 0 … 255) have no density. Spread evenly over their
cells, y = (x + Δ(u − ½) − mean)/scale with u ~ U[0, 1)^d, they do, and by Jensen's inequality

  log P(x) = log E_u[q(y)] + d log(Δ/scale) ≥ E_u[log q(y)] + d log(Δ/scale)

for the discrete law P that a density q of y integrates to over the cells (Theis et al. 2016, §3.1).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def dequantise(
    key: jax.Array, x: jax.Array, *, step: float = 1.0, mean: jax.Array | float = 0.0,
    scale: jax.Array | float = 1.0,
) -> jax.Array:
  """y = (x + Δ(u − ½) − mean)/scale: discrete data, spread over their cells, in standard units.

  The cells are centred on the data, so mean and scale are those that standardise them. Consumes
  `key`.

  Args:
    x: whole multiples of `step` up to a constant, any shape; integers become the default float.
    step: Δ, the spacing of the levels in x's units. mean, scale: numbers, or arrays that broadcast
      to x by its last axes.

  Raises:
    ValueError: step or scale ≤ 0.
  """
  _check(step, scale)
  x = jnp.asarray(x, jnp.result_type(x, float))
  mean, scale = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (mean, scale))
  u = jax.random.uniform(key, x.shape, x.dtype)
  return (x - mean + step * (u - 0.5)) / scale


def bits_per_dim(
    log_prob: jax.Array, dims: int, *, step: float = 1.0, scale: jax.Array | float = 1.0
) -> jax.Array:
  """−(log q + d log(Δ/scale))/(d ln 2): bits per dimension of dequantised data.

  Args:
    log_prob: log q(y) in nats, in standard units, any shape. A log-probability of the discrete data
      themselves, such as −`bound(…, decode=…)`, has no units to change: leave step and scale at 1.
    dims: d, entries of one example.
    step: Δ, the spacing of the levels, in the units in which `scale` is given.
    scale: of the standardisation, a number or one for each of the last axes' entries (for which its
      mean logarithm counts).

  Raises:
    ValueError: dims < 1, or step or scale ≤ 0.
  """
  if dims < 1:
    raise ValueError(f"dims must be at least 1, got {dims}")
  _check(step, scale)
  log_jacobian = math.log(step) - jnp.mean(jnp.log(jnp.asarray(scale, float)))
  return -(log_prob / dims + log_jacobian.astype(jnp.result_type(log_prob))) / math.log(2.0)


def log_mean_exp(log_probs: jax.Array, *, axis: int = 0) -> jax.Array:
  """log (1/K) Σ_k q(y_k) over K dequantisations of the same data, along `axis`.

  In expectation a lower bound on log P(x) that rises with K to log P(x) itself; K = 1 is the bound
  of the module (Burda et al. 2016, Theorem 1). `log_prob` must be exact: a Hutchinson probe's
  noise would be exponentiated too.
  """
  return jax.nn.logsumexp(log_probs, axis) - math.log(log_probs.shape[axis])


def decoder(levels: jax.Array):
  """`decode` of `bound` for data on known levels: P(x | z) ∝ N(z; x, ρ²) over the levels.

  log P(x | z) = −(z − x)²/2ρ² − log Σ_k exp(−(z − v_k)²/2ρ²), of each entry (Kingma et al. 2021,
  eq. 9).

  Args:
    levels: (K,), the values v_k that an entry may have, in standard units.

  Raises:
    ValueError: levels not of shape (K,).
  """
  levels = jnp.asarray(levels, float)
  if levels.ndim != 1:
    raise ValueError(f"levels must have shape (K,), got {levels.shape}")

  def decode(z, x, rho):
    # One pass over the levels for each: K arrays of the data's size need not exist at once.
    precision = 0.5 / rho**2
    total, _ = jax.lax.scan(
        lambda total, v: (jnp.logaddexp(total, -precision * (z - v) ** 2), None),
        jnp.full_like(z, -jnp.inf), levels.astype(z.dtype))
    return -precision * (z - x) ** 2 - total

  return decode


def _check(step, scale) -> None:
  for name, value in (("step", step), ("scale", scale)):
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) > 0.0):
      raise ValueError(f"{name} must be positive, got {value}")
