"""The density of noise levels of least variance, learned from the errors of the model.

Let e = ‖ε − ε̂‖² be the error of one example. A loss E_{ℓ ~ π}[w(ℓ) e] is the integral of
g(ℓ) E[e | ℓ] over ℓ, with g = π w. A single draw g e/π has least variance for

  π(ℓ) ∝ g(ℓ) √E[e² | ℓ]

by the Cauchy–Schwarz inequality. A histogram in ℓ keeps a running mean of (g e)². It is a pytree,
so it works in jit and scan and can be stored in a checkpoint.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax.objectives.densities import Density, noise_range

__all__ = ["Histogram", "by_error", "histogram", "observe"]


class Histogram(NamedTuple):
  """Running sums in equal bins of ℓ.

  Attributes:
    low, width: the range [low, low + width] of ℓ, scalars.
    mass: (bins,), the discounted number of errors in each bin.
    squares: (bins,), the discounted sum of their squares.
  """

  low: jax.Array
  width: jax.Array
  mass: jax.Array
  squares: jax.Array


def histogram(bins: int = 64, *, rho_min: float = 0.002, rho_max: float = 80.0) -> Histogram:
  """An empty histogram over ℓ ∈ [−log ρ_max, −log ρ_min].

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
  """Adds a batch of errors; earlier batches are discounted by e^{−1/memory}.

  Args:
    state: the histogram.
    ells: the half log-SNRs, (n,).
    errors: (n,), the integrand against dℓ: `eps_error` for maximum likelihood, g · `eps_error` for
      another product g = π w. Errors that are not finite are ignored.
    memory: the time constant of the discount, in batches.

  Returns:
    The new histogram.

  Raises:
    ValueError: memory ≤ 0.
  """
  if not memory > 0.0:
    raise ValueError(f"memory must be positive, got {memory} batches")
  bins = len(state.mass)
  place = jnp.clip(_bin(state, ells), 0, bins - 1)
  squared = errors.astype(state.squares.dtype) ** 2
  # An overflow to ∞ would never be forgotten.
  known = jnp.isfinite(squared)
  add = lambda old, new: jnp.exp(-1.0 / memory) * old + jnp.zeros_like(old).at[place].add(new)
  return state._replace(
      mass=add(state.mass, known.astype(state.mass.dtype)),
      squares=add(state.squares, jnp.where(known, squared, 0.0)))


def by_error(state: Histogram, *, floor: float = 0.1) -> Density:
  """π(ℓ) ∝ √E[e² | ℓ], constant in each bin, mixed with the uniform density.

  An estimate that divides by π is unbiased for any contents of the histogram. A bin without data
  takes the mean of the others; an empty histogram gives the uniform density.

  Args:
    state: the histogram.
    floor: weight of the uniform density in the mixture. It bounds 1/π by width/floor.

  Returns:
    The density, without a gradient to the histogram.

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
  # Uniform if all errors are exactly zero.
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
  """The index of the bin of ℓ, outside 0 … bins − 1 for ℓ outside the range."""
  return jnp.floor((ell - state.low) / state.width * len(state.mass)).astype(int)
