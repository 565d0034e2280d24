"""Densities of pairs (ℓ, ℓ′), made of the density π(ℓ) of an ordinary loss."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _values
from langevin_jax.objectives import Density, stratified

__all__ = ["Pairs", "dyadic", "ordered", "uniform"]


class Pairs(NamedTuple):
  """A density of pairs, mixed with the diagonal ℓ′ = ℓ ~ π.

  The share of the diagonal in a batch is not random. So the examples on it, whose loss is the
  ordinary one, cost what they cost there.

  Attributes:
    draw: (key, n, density) → (ell, ell_s), (n,) each, ell ≤ ell_s: the pairs off the diagonal.
    diagonal: the share of a batch that is on the diagonal.
  """

  draw: Callable[[jax.Array, int, Density], tuple[jax.Array, jax.Array]]
  diagonal: float

  def off_diagonal(self, n: int) -> int:
    """The number of pairs in a batch of n."""
    return n - round(self.diagonal * n)


def uniform(*, diagonal: float = 0.5, to_data: float = 0.0) -> Pairs:
  """Two uniform times of rectified flow in order, beside the diagonal.

    s = max(u₁, u₂),   s′ = min(u₁, u₂),   u₁, u₂ uniform on [0, 1]

  With these pairs the gradient steps of `eulerian` contract towards the exact map whatever π is,
  although no gradient passes the target, and those of `lagrangian` up to the slope of the velocity
  (docs/flow_maps.md, "Which pairs").

  Args:
    diagonal: the share of the diagonal.
    to_data: the share of pairs with ℓ′ = ∞, which `lagrangian` takes at ρ = 10⁻⁴.

  Raises:
    ValueError: a share outside [0, 1].
  """
  _check_shares(diagonal=diagonal, to_data=to_data)

  def draw(key, n, density):
    del density
    key_times, key_kind = jax.random.split(key)
    times = jax.random.uniform(key_times, (2, n), jnp.result_type(float))
    ell, ell_s = (_level(s) for s in (times.max(0), times.min(0)))
    return ell, jnp.where(jax.random.uniform(key_kind, (n,)) < to_data, jnp.inf, ell_s)

  return Pairs(draw, diagonal)


def ordered(*, diagonal: float = 0.5, to_data: float = 0.25) -> Pairs:
  """Two draws of π in order, a share of which ends at clean data, beside the diagonal.

    ℓ = min(ℓ₁, ℓ₂),   ℓ′ = max(ℓ₁, ℓ₂),   ℓ₁, ℓ₂ ~ π

  `to_data=1` with `diagonal=0` is a consistency model; `to_data=0` with `diagonal=0.75` MeanFlow.

  Args:
    diagonal: the share of the diagonal.
    to_data: the share of pairs with ℓ ~ π and ℓ′ = ∞.

  Raises:
    ValueError: a share outside [0, 1].
  """
  _check_shares(diagonal=diagonal, to_data=to_data)

  def draw(key, n, density):
    key_ell, key_other, key_kind = jax.random.split(key, 3)
    first, second = stratified(key_ell, n, density), stratified(key_other, n, density)
    clean = jax.random.uniform(key_kind, (n,)) < to_data
    return (jnp.where(clean, first, jnp.minimum(first, second)),
            jnp.where(clean, jnp.inf, jnp.maximum(first, second)))

  return Pairs(draw, diagonal)


def dyadic(*, diagonal: float = 0.75, levels: int = 7) -> Pairs:
  """Steps of lengths 2^−k in the time s of rectified flow, on their own grid (Frans et al. 2025).

    s = j 2^{−k},   s′ = (j − 1) 2^{−k},   k uniform in 0 … levels − 1, j in 1 … 2^k

  They reach both ends, ℓ = −∞ and ℓ′ = ∞.

  Raises:
    ValueError: a share outside [0, 1], or levels < 1.
  """
  _check_shares(diagonal=diagonal)
  levels = _values.count("levels", levels)

  def draw(key, n, density):
    del density
    key_k, key_j = jax.random.split(key)
    dtype = jnp.result_type(float)
    count = 2.0 ** jax.random.randint(key_k, (n,), 0, levels).astype(dtype)
    j = jnp.ceil(jax.random.uniform(key_j, (n,), dtype, minval=1e-6) * count)
    return _level(j / count), _level((j - 1.0) / count)

  return Pairs(draw, diagonal)


def _level(s: jax.Array) -> jax.Array:
  """ℓ at the time s of rectified flow."""
  return jnp.log1p(-s) - jnp.log(s)


def _check_shares(**shares: float) -> None:
  for name, share in shares.items():
    if not 0.0 <= share <= 1.0:
      raise ValueError(f"{name} must lie in [0, 1], got {share}")
