"""Discrete data, such as grey levels: dequantisation and bits per dimension.

Data on a lattice of spacing Δ (1 for grey levels 0 … 255) have no density. Uniform noise over the
cells gives them one: y = (x + Δ(u − ½) − mean)/scale with u ~ U[0, 1)^d. A density q of y defines
the discrete law P, its integral over each cell. By Jensen's inequality (Theis et al. 2016, §3.1)

  log P(x) = log E_u[q(y)] + d log(Δ/scale) ≥ E_u[log q(y)] + d log(Δ/scale).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from langevin_jax import _values

__all__ = ["bits_per_dim", "decoder", "dequantise", "log_mean_exp"]


def dequantise(
    key: jax.Array, x: jax.Array, *, step: float = 1.0, mean: jax.Array | float = 0.0,
    scale: jax.Array | float = 1.0,
) -> jax.Array:
  """Discrete data with uniform noise over their cells, standardised: y of the module's equation.

  The cells are centred on the data, so the noise does not change their mean.

  Args:
    key: consumed.
    x: multiples of `step` up to a constant, any shape. Integers become the default float.
    step: Δ, the spacing of the levels, in the units of x.
    mean, scale: numbers, or arrays that broadcast to x by its last axes, in the units of x.

  Returns:
    y, in the shape of x.

  Raises:
    ValueError: step or scale ≤ 0.
  """
  _values.check_positive(step=step, scale=scale)
  x = _values.floats(x)
  mean, scale = (jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (mean, scale))
  u = jax.random.uniform(key, x.shape, x.dtype)
  return (x - mean + step * (u - 0.5)) / scale


def bits_per_dim(
    log_prob: jax.Array, dims: int, *, step: float = 1.0, scale: jax.Array | float = 1.0
) -> jax.Array:
  """Bits per dimension of dequantised data, −(log q + d log(Δ/scale))/(d ln 2).

  Args:
    log_prob: log q(y) in nats, in standard units, any shape. For a log-probability of the discrete
      data, such as −`bound(…, decode=…)`, leave step and scale at 1.
    dims: d, the number of entries of one example.
    step: Δ, the spacing of the levels.
    scale: of the standardisation, in the units of `step`: a number, or an array with one value per
      entry, whose mean logarithm is used.

  Returns:
    Bits per dimension, in the shape of `log_prob`.

  Raises:
    ValueError: dims < 1, or step or scale ≤ 0.
  """
  dims = _values.count("dims", dims)
  _values.check_positive(step=step, scale=scale)
  log_step = jnp.log(step) if _values.is_traced(step) else math.log(step)
  log_jacobian = log_step - jnp.mean(jnp.log(jnp.asarray(scale, float)))
  return -(log_prob / dims + log_jacobian.astype(jnp.result_type(log_prob))) / math.log(2.0)


def log_mean_exp(log_probs: jax.Array, *, axis: int = 0) -> jax.Array:
  """log (1/K) Σ_k q(y_k) over K dequantisations of the same data.

  Its mean is a lower bound on log P(x) that increases with K to log P(x) (Burda et al. 2016,
  Theorem 1). K = 1 is the bound of the module. The values must be exact, because the noise of a
  Hutchinson probe would be exponentiated too.

  Args:
    log_probs: log q(y_k) in nats, with K values along `axis`.

  Returns:
    Nats, without `axis`.
  """
  return jax.nn.logsumexp(log_probs, axis) - math.log(log_probs.shape[axis])


def decoder(levels: jax.Array) -> Callable[[jax.Array, jax.Array, float], jax.Array]:
  """The argument `decode` of `bound` for data on known levels: P(x | z) ∝ N(z; x, ρ²).

    log P(x | z) = −(z − x)²/2ρ² − log Σ_k exp(−(z − v_k)²/2ρ²)

  for each entry (Kingma et al. 2021, eq. 9).

  Args:
    levels: (K,), the values v_k that an entry may have, in standard units.

  Returns:
    (z, x, ρ) → log P(x | z) in nats, in the shape of x.

  Raises:
    ValueError: levels not of shape (K,).
  """
  levels = jnp.asarray(levels, float)
  if levels.ndim != 1:
    raise ValueError(f"levels must have shape (K,), got {levels.shape}")

  def decode(z, x, rho):
    # A scan, so that K arrays of the data's size need not exist at once.
    precision = 0.5 / rho**2
    total, _ = jax.lax.scan(
        lambda total, v: (jnp.logaddexp(total, -precision * (z - v) ** 2), None),
        jnp.full_like(z, -jnp.inf), levels.astype(z.dtype))
    return -precision * (z - x) ** 2 - total

  return decode
