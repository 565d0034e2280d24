"""Tables 6–7: published weights as w(ℓ) on ‖ε − ε̂‖², whatever the network predicts.

Each is made for the density π(ℓ) that the levels are drawn from, since π w is what a loss means.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from langevin_jax.objectives.densities import Density

Weight = Callable[[jax.Array], jax.Array]


def likelihood(density: Density) -> Weight:
  """w = 1/π: maximum likelihood, 1 against dℓ (eq. 19; Table 6 without its reweightings)."""
  return lambda ell: 1.0 / density.density(ell)


def simple(density: Density) -> Weight:
  """w = 1: DDPM's unweighted ε-loss (Ho et al. 2020, eq. 14)."""
  del density
  return jnp.ones_like


def edm(density: Density, *, sigma_data: float = 1.0) -> Weight:
  """w = 1 + ρ²/σ_d²: λ(ρ) = 1/c_out² on ‖x₀ − D‖² = ρ²‖ε − ε̂‖² (Karras et al. 2022, Table 1)."""
  del density
  return lambda ell: 1.0 + jnp.exp(-2.0 * ell) / sigma_data**2


def min_snr(density: Density, *, gamma: float = 5.0) -> Weight:
  """w = min(SNR, γ)/SNR: min(SNR, γ) on ‖x₀ − D‖² (Hang et al. 2023, §3.4)."""
  del density
  return lambda ell: jnp.minimum(1.0, gamma * jnp.exp(-2.0 * ell))


def sigmoid(density: Density, *, bias: float = 0.0) -> Weight:
  """w π = sigmoid(b − 2ℓ) against dℓ, 2ℓ the log-SNR (Kingma & Gao 2023; Hoogeboom et al. 2024)."""
  return lambda ell: jax.nn.sigmoid(bias - 2.0 * ell) / density.density(ell)


def p2(density: Density, *, k: float = 1.0, gamma: float = 1.0) -> Weight:
  """w = (k + SNR)^{−γ} on ‖ε − ε̂‖² (Choi et al. 2022, eq. 8)."""
  del density
  return lambda ell: (k + jnp.exp(2.0 * ell)) ** -gamma


def flow_matching(density: Density) -> Weight:
  """w = (1 + ρ)²: 1 on ‖v − v̂‖² of v = ε − x₀, eq. 20 (Lipman et al. 2023; Liu et al. 2022)."""
  del density
  return lambda ell: (1.0 + jnp.exp(-ell)) ** 2
