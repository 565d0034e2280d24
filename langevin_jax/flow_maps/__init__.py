"""Flow maps: STEP made exact at any size, by the average denoiser D̄(x, ℓ, ℓ′).

Let λ = e^ℓ and z = x/α. Along the probability flow d(λz)/dλ = D. So the ODE step of any size is
exact with the mean of D over λ in the place of D (docs/flow_maps.md):

  x′ = (σ′/σ) x + (α′ − α σ′/σ) D̄,   D̄(x, ℓ, ℓ′) = (λ′ − λ)⁻¹ ∫ D dλ

ℓ′ = ℓ is the ordinary denoiser, ℓ′ = ∞ a consistency function, and ℓ = −∞ one-step generation.
Three identities train it, each a call with numbers.

Reading order: `maps` (a network as D̄, the map), `of_mixtures` (D̄ of a mixture), `pairs` (densities
of ℓ, ℓ′), `identities` (the three targets), `losses`. Sampling is `samplers.flow_map`.
"""

from langevin_jax.flow_maps.identities import Identity, eulerian, lagrangian, semigroup
from langevin_jax.flow_maps.losses import Corruption, corrupted_loss, corruption, velocity
from langevin_jax.flow_maps.maps import Average, denoiser, move, move_and_log_det
from langevin_jax.flow_maps.of_mixtures import exact
from langevin_jax.flow_maps.pairs import Pairs, dyadic, ordered, uniform

__all__ = [
    "Average", "Corruption", "Identity", "Pairs", "corrupted_loss", "corruption", "denoiser",
    "dyadic", "eulerian", "exact", "lagrangian", "move", "move_and_log_det", "ordered",
    "semigroup", "uniform", "velocity",
]
