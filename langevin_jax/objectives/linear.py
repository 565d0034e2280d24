"""The loss of the best linear denoiser: what a network that has learned only moments attains.

Of data with covariance C and x = α x₀ + σ ε, the best linear estimate of ε − E[ε] errs in an
eigendirection of C, of variance λ, by λ/(λ + ρ²): all there is to know of Gaussian data. A network
that starts at zero learns this first. Data that are not Gaussian allow less.
"""

import jax
import jax.numpy as jnp

from langevin_jax.objectives.densities import Density
from langevin_jax.objectives.weights import Weight


def linear_loss(
    variances: jax.Array, *, density: Density, weight: Weight, levels: int = 4096
) -> jax.Array:
  """E_{ℓ ~ π} w(ℓ) (1/d) Σᵢ λᵢ/(λᵢ + ρ²), ρ = e^{−ℓ}: `loss` of the best linear denoiser.

  Args:
    variances: λ, the eigenvalues of the data's covariance at unit scale, (d,), ≥ 0. Variances of
      the coordinates alone, their order or covariance unknown, give an upper bound of it.
    density: π(ℓ). weight: w(ℓ).
    levels: quantiles of π, in the middle of equal shares, that the integral over ℓ is a mean of.

  Returns:
    A scalar.

  Raises:
    ValueError: variances not (d,), or levels < 1.
  """
  variances = jnp.asarray(variances, float)
  if variances.ndim != 1:
    raise ValueError(f"variances must have shape (d,), got {variances.shape}")
  if levels < 1:
    raise ValueError(f"levels must be at least 1, got {levels}")

  def level(u):
    ell = density.quantile(u)
    # λ/(λ + ρ²) = 1/(1 + ρ²/λ), of which neither end overflows: λ = 0 gives 0.
    known = jax.nn.sigmoid(2.0 * ell + jnp.log(variances))
    return weight(ell) * jnp.mean(known)

  return jnp.mean(jax.vmap(level)((jnp.arange(levels) + 0.5) / levels))
