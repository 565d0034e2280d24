"""Densities of pairs (ℓ, ℓ′), made of the density π(ℓ) of an ordinary loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from langevin_jax.objectives import Density, stratified

__all__ = ["Pairs", "dyadic", "ordered", "uniform"]

Pairs = Callable[[jax.Array, int, Density], tuple[jax.Array, jax.Array]]
"""(key, n, density) → (ell, ell_s), (n,) each, ell ≤ ell_s."""


def uniform(*, diagonal: float = 0.5, to_data: float = 0.0) -> Pairs:
  """Two uniform times of rectified flow in order, and a share on the diagonal, of π.

    s = max(u₁, u₂),   s′ = min(u₁, u₂),   u₁, u₂ uniform on [0, 1]

  With these pairs the gradient steps of `eulerian` contract towards the exact map whatever π is,
  although no gradient passes the target, and those of `lagrangian` up to the slope of the velocity
  (docs/flow_maps.md, "Which pairs").

  Args:
    diagonal: the share of pairs with ℓ′ = ℓ ~ π.
    to_data: the share of the other pairs with ℓ′ = ∞. Not for `lagrangian`, which moves ℓ′.

  Raises:
    ValueError: a share outside [0, 1].
  """
  _check_shares(diagonal=diagonal, to_data=to_data)

  def draw(key, n, density):
    key_ell, key_times, key_kind = jax.random.split(key, 3)
    first = stratified(key_ell, n, density)
    times = jax.random.uniform(key_times, (2, n), first.dtype)
    ell, ell_s = (_level(s) for s in (times.max(0), times.min(0)))
    u = jax.random.uniform(key_kind, (n,))
    same, clean = u < diagonal, u >= 1.0 - (1.0 - diagonal) * to_data
    return (jnp.where(same, first, ell),
            jnp.where(same, first, jnp.where(clean, jnp.inf, ell_s)))

  return draw


def ordered(*, diagonal: float = 0.5, to_data: float = 0.25) -> Pairs:
  """Two draws of π in order, a share of them on the diagonal, and a share that ends at clean data.

    ℓ = min(ℓ₁, ℓ₂),   ℓ′ = max(ℓ₁, ℓ₂),   ℓ₁, ℓ₂ ~ π

  `to_data=1` with `diagonal=0` is a consistency model; `to_data=0` with `diagonal=0.75` MeanFlow.

  Args:
    diagonal: the share of pairs with ℓ′ = ℓ.
    to_data: the share of the other pairs with ℓ ~ π and ℓ′ = ∞.

  Raises:
    ValueError: a share outside [0, 1].
  """
  _check_shares(diagonal=diagonal, to_data=to_data)

  def draw(key, n, density):
    key_ell, key_other, key_kind = jax.random.split(key, 3)
    first, second = stratified(key_ell, n, density), stratified(key_other, n, density)
    u = jax.random.uniform(key_kind, (n,))
    same, clean = u < diagonal, u >= 1.0 - (1.0 - diagonal) * to_data
    ell = jnp.where(same | clean, first, jnp.minimum(first, second))
    return ell, jnp.where(same, first, jnp.where(clean, jnp.inf, jnp.maximum(first, second)))

  return draw


def dyadic(*, diagonal: float = 0.75, levels: int = 7) -> Pairs:
  """Steps of lengths 2^−k in the time s of rectified flow, on their own grid (Frans et al. 2025).

    s = j 2^{−k},   s′ = (j − 1) 2^{−k},   k uniform in 0 … levels − 1, j in 1 … 2^k

  They reach both ends, ℓ = −∞ and ℓ′ = ∞. Of π only the diagonal is drawn.

  Raises:
    ValueError: a share outside [0, 1], or levels < 1.
  """
  _check_shares(diagonal=diagonal)
  if levels < 1:
    raise ValueError(f"levels must be at least 1, got {levels}")

  def draw(key, n, density):
    key_ell, key_k, key_j, key_kind = jax.random.split(key, 4)
    first = stratified(key_ell, n, density)
    count = 2.0 ** jax.random.randint(key_k, (n,), 0, levels).astype(first.dtype)
    j = jnp.ceil(jax.random.uniform(key_j, (n,), first.dtype, minval=1e-6) * count)
    same = jax.random.uniform(key_kind, (n,)) < diagonal
    place = lambda i: jnp.where(same, first, _level(i / count))
    return place(j), place(j - 1.0)

  return draw


def _level(s: jax.Array) -> jax.Array:
  """ℓ at the time s of rectified flow."""
  return jnp.log1p(-s) - jnp.log(s)


def _check_shares(**shares: float) -> None:
  for name, share in shares.items():
    if not 0.0 <= share <= 1.0:
      raise ValueError(f"{name} must lie in [0, 1], got {share}")
