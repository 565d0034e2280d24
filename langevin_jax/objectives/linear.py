"""The loss of the best linear denoiser, the baseline for a trained network.

Let x = α x₀ + σ ε and let λ be the eigenvalues of the covariance of x₀. The best linear estimate of
ε has the squared error λ/(λ + ρ²) in each eigendirection. For Gaussian data it is the best estimate
of all; other data allow a smaller error.
"""

import jax
import jax.numpy as jnp

from langevin_jax import _values
from langevin_jax.objectives.densities import Density
from langevin_jax.objectives.weights import Weight

__all__ = ["linear_loss"]


def linear_loss(
    variances: jax.Array, *, density: Density, weight: Weight, levels: int = 4096
) -> jax.Array:
  """`loss` of the best linear denoiser, E_{ℓ ~ π} w(ℓ) (1/d) Σᵢ λᵢ/(λᵢ + ρ²), ρ = e^{−ℓ}.

  Args:
    variances: λ, (d,), ≥ 0, the eigenvalues of the covariance of the data at unit scale. The
      variances of the coordinates give an upper bound instead.
    density: π(ℓ). weight: w(ℓ).
    levels: number of nodes of the midpoint rule in the quantile of π.

  Returns:
    The loss, a scalar, per dimension of the data.

  Raises:
    ValueError: variances not (d,), or levels < 1.
  """
  variances = jnp.asarray(variances, float)
  if variances.ndim != 1:
    raise ValueError(f"variances must have shape (d,), got {variances.shape}")
  levels = _values.count("levels", levels)

  def level(u):
    ell = density.quantile(u)
    # λ/(λ + ρ²) = sigmoid(2ℓ + log λ), which is finite at both ends and 0 at λ = 0.
    error = jax.nn.sigmoid(2.0 * ell + jnp.log(variances))
    return weight(ell) * jnp.mean(error)

  return jnp.mean(jax.vmap(level)((jnp.arange(levels) + 0.5) / levels))
