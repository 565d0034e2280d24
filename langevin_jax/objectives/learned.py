"""§5: the density of noise levels that makes a loss least noisy, learned from its own errors.

A loss E_{ℓ ~ π}[w(ℓ) e], e = ‖ε − ε̂‖² of one example, is the integral of g(ℓ) E[e | ℓ] dℓ with
g = π w, whatever π. One draw of the estimate g e/π varies least for

  π(ℓ) ∝ g(ℓ) √E[e² | ℓ]

(Cauchy–Schwarz), so a running mean of (g e)² in bins of ℓ says where to draw. The state is a pure
pytree: it goes through jit and scan, and into a checkpoint, as any other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax.objectives.densities import Density, noise_range


class Histogram(NamedTuple):
  """Running sums in equal bins of ℓ: low, width scalars; mass and squares (bins,).

  `mass` is how many errors a bin has seen, old ones counting less; `squares` the sum of their
  squares by the same count.
  """

  low: jax.Array
  width: jax.Array
  mass: jax.Array
  squares: jax.Array


def histogram(bins: int = 64, *, rho_min: float = 0.002, rho_max: float = 80.0) -> Histogram:
  """An empty histogram over the ℓ of a range of noise levels.

  Raises:
    ValueError: bins < 1, or not 0 < rho_min < rho_max.
  """
  if bins < 1:
    raise ValueError(f"bins must be at least 1, got {bins}")
  low, width = noise_range(rho_min, rho_max)
  return Histogram(low, width, jnp.zeros(bins), jnp.zeros(bins))


def observe(
    state: Histogram, ells: jax.Array, errors: jax.Array, *, memory: float = 200.0
) -> Histogram:
  """The histogram after a batch of levels and errors, both (n,).

  A sum over the past in which each batch counts e^{−1/memory} of the one after it. Errors that are
  not finite are left out.

  Args:
    errors: what the loss integrates against dℓ: `eps_error` for maximum likelihood, g · `eps_error`
      for another product g = π w.
    memory: how many batches are remembered.

  Raises:
    ValueError: memory ≤ 0.
  """
  if not memory > 0.0:
    raise ValueError(f"memory must be positive, got {memory} batches")
  bins = len(state.mass)
  place = jnp.clip(_bin(state, ells), 0, bins - 1)
  squared = errors.astype(state.squares.dtype) ** 2
  # An overflow would stay for good; a bin is better off without it.
  known = jnp.isfinite(squared)
  add = lambda old, new: jnp.exp(-1.0 / memory) * old + jnp.zeros_like(old).at[place].add(new)
  return state._replace(
      mass=add(state.mass, known.astype(state.mass.dtype)),
      squares=add(state.squares, jnp.where(known, squared, 0.0)))


def by_error(state: Histogram, *, floor: float = 0.1) -> Density:
  """π(ℓ) ∝ √E[e² | ℓ], constant in each bin, mixed with the uniform density.

  An estimate that divides by this π is unbiased whatever the histogram holds; bins that have seen
  nothing take the mean of those that have, and an empty histogram is uniform.

  Args:
    floor: weight of the uniform density, which bounds 1/π by width/floor when errors change faster
      than the histogram remembers.

  Raises:
    ValueError: floor outside (0, 1].
  """
  if not 0.0 < floor <= 1.0:
    raise ValueError(f"floor must lie in (0, 1], got {floor}")
  bins = len(state.mass)
  seen = state.mass > 0.0
  root = jnp.sqrt(jnp.where(seen, state.squares / jnp.where(seen, state.mass, 1.0), 0.0))
  mean = jnp.sum(root) / jnp.maximum(jnp.sum(seen.astype(root.dtype)), 1.0)
  root = jnp.where(seen, root, mean)
  total = jnp.sum(root)
  # Errors of exactly zero everywhere say as little as none.
  share = jnp.where(total > 0.0, root / jnp.where(total > 0.0, total, 1.0), 1.0 / bins)
  share = jax.lax.stop_gradient((1.0 - floor) * share + floor / bins)
  below = jnp.concatenate([jnp.zeros(1, share.dtype), jnp.cumsum(share)])
  below = below / below[-1]

  def quantile(u):
    i = jnp.clip(jnp.searchsorted(below, u, side="right") - 1, 0, bins - 1)
    inside = jnp.clip((u - below[i]) / (below[i + 1] - below[i]), 0.0, 1.0)
    return state.low + state.width / bins * (i.astype(inside.dtype) + inside)

  def density(ell):
    i = _bin(state, ell)
    outside = (ell < state.low) | (ell > state.low + state.width)
    return jnp.where(outside, 0.0, share[jnp.clip(i, 0, bins - 1)] * bins / state.width)

  return Density(quantile, density)


def _bin(state: Histogram, ell: jax.Array) -> jax.Array:
  return jnp.floor((ell - state.low) / state.width * len(state.mass)).astype(int)
