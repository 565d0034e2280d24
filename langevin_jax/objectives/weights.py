"""Published loss weights, as w(ℓ) on ‖ε − ε̂‖² (paper, Tables 6–7; theory.md#densities-and-weights).

They do not depend on what the network predicts. Each takes the density π(ℓ) that the levels are
drawn from, because the product π w determines the optimum. Their numbers may be traced.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from langevin_jax import _values
from langevin_jax.objectives.densities import Density

__all__ = [
    "Weight", "edm", "flow_matching", "likelihood", "min_snr", "p2", "sigmoid", "simple",
]

Weight = Callable[[jax.Array], jax.Array]


def likelihood(density: Density) -> Weight:
  """w = 1/π: maximum likelihood, that is π w = 1 (paper, eqs. 17, 19)."""
  return lambda ell: 1.0 / density.density(ell)


def simple(density: Density) -> Weight:
  """w = 1: DDPM's unweighted loss of ε (Ho et al. 2020, eq. 14)."""
  del density
  return jnp.ones_like


def edm(density: Density, *, sigma_data: float = 1.0) -> Weight:
  """w = 1 + ρ²/σ_d²: EDM's 1/c_out² on ‖x₀ − D‖² = ρ²‖ε − ε̂‖² (Karras et al. 2022, Table 1)."""
  del density
  _check_positive_and_finite(sigma_data=sigma_data)
  return lambda ell: 1.0 + jnp.exp(-2.0 * ell) / sigma_data**2


def min_snr(density: Density, *, gamma: float = 5.0) -> Weight:
  """w = min(SNR, γ)/SNR, which is min(SNR, γ) on ‖x₀ − D‖² (Hang et al. 2023, §3.4)."""
  del density
  _check_positive_and_finite(gamma=gamma)
  return lambda ell: jnp.minimum(1.0, gamma * jnp.exp(-2.0 * ell))


def sigmoid(density: Density, *, bias: float = 0.0) -> Weight:
  """w = sigmoid(b − 2ℓ)/π, 2ℓ the log-SNR (Kingma & Gao 2023; Hoogeboom et al. 2024)."""
  bias = _values.number("bias", bias, may_be_traced=True)
  return lambda ell: jax.nn.sigmoid(bias - 2.0 * ell) / density.density(ell)


def p2(density: Density, *, k: float = 1.0, gamma: float = 1.0) -> Weight:
  """w = (k + SNR)^{−γ} on ‖ε − ε̂‖² (Choi et al. 2022, eq. 8)."""
  del density
  _check_positive_and_finite(k=k)
  gamma = _values.number("gamma", gamma, may_be_traced=True)
  return lambda ell: (k + jnp.exp(2.0 * ell)) ** -gamma


def flow_matching(density: Density) -> Weight:
  """w = (1 + ρ)², which is 1 on ‖v − v̂‖² with v = ε − x₀ (paper, eq. 20; Lipman et al. 2023)."""
  del density
  return lambda ell: (1.0 + jnp.exp(-ell)) ** 2


def _check_positive_and_finite(**numbers: float) -> None:
  for name, value in numbers.items():
    known = _values.number(name, value, may_be_traced=True)
    if not (_values.is_traced(known) or 0.0 < known < math.inf):
      raise ValueError(f"{name} must be positive and finite, got {value}")
