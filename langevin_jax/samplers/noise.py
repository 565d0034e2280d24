"""Where a sampler's noise comes from: independent draws, or one Brownian path for all step sizes.

In the VE frame the noise of a step from ℓ to ℓ′ is e^{−κℓ′}(B(τ′) − B(τ)) with B a Brownian motion
in τ = ρ^{−2η²} (MATH §6). Y = B/√τ is the stationary Ornstein–Uhlenbeck process of unit rate in
L = ∫η² dℓ, and in it the noise is

  σ′ √(1 − e^{−2Λ}) ξ = σ′ [Y(L′) − e^{−Λ} Y(L)],   Λ = L′ − L.

So a fixed realisation of Y couples all grids: the same key at N and at 2N steps converges path by
path. Y is never stored: its value anywhere is found by halving a fixed interval of L, the middle of
two known values, each d away, being N((Y_a + Y_b)/(2 cosh d), tanh d).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import splitting
from langevin_jax.paths import Path
from langevin_jax.samplers.levels import Level, square_integral

# Far enough on both sides of any grid; the realisation of Y hangs on them.
_ELL_LOW, _ELL_HIGH, _PANELS = -16.0, 16.0, 64


class Brownian(NamedTuple):
  """Marks a realisation of one Brownian path; `depth` halvings resolve Y to 32 η²/2^depth in L."""

  depth: int = 18


class Positions(NamedTuple):
  """Y at the end of each step: its cell of 2^depth, the part of the cell passed, and e^{−Λ}."""

  cell: Any
  part: Any
  kept: Any
  spread: Any


@functools.lru_cache
def brownian(*, depth: int = 18) -> Brownian:
  """Noise of one Brownian path for `samplers.sample`: the same key is the same path on every grid.

  Costs `depth` draws a step in the place of one. Grids are told apart down to 32 η²/2^depth in
  ∫η² dℓ.

  Raises:
    ValueError: depth outside [1, 30].
  """
  if not 1 <= depth <= 30:
    raise ValueError(f"depth must lie in [1, 30], got {depth}")
  return Brownian(depth)


def normal(key: jax.Array, x: jax.Array) -> jax.Array:
  """ξ ~ N(0, I) in the shape of x; a key array of shape (n,) draws each row from its own key."""
  draw = lambda key, x: jax.random.normal(key, x.shape, x.dtype)
  for _ in key.shape:
    draw = jax.vmap(draw)
  return draw(key, x)


def fold(key: jax.Array, data: jax.Array | int) -> jax.Array:
  """`jax.random.fold_in` of one key, or of each key of an array."""
  fold_in = jax.random.fold_in
  for _ in key.shape:
    fold_in = jax.vmap(fold_in, (0, None))
  return fold_in(key, data)


def split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The key of the first state and that of the steps; of each key of an array."""
  halve = jax.random.split
  for _ in key.shape:
    halve = jax.vmap(halve)
  return tuple(jnp.moveaxis(halve(key), -1, 0))


def start(
    draw: Callable[[], jax.Array], level: Level, moments: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
  """The first state at unit scale: σ ξ, or a draw of N(α m, α²S + σ²I) where moments are given.

  moments: the data's mean m and variances S of one example's shape, or the covariance (d, d) of
  vectors (d,).
  """
  xi = draw()
  if moments is None:
    return level.sigma * xi
  mean, var = (jnp.asarray(m, xi.dtype) for m in moments)
  event = xi.shape[xi.ndim - mean.ndim:]
  if event != mean.shape or var.shape not in (mean.shape, mean.shape * 2):
    raise ValueError(f"moments must be a mean and variances of one example's shape, or a vector's "
                     f"mean (d,) and covariance (d, d); got {mean.shape} and {var.shape} for "
                     f"samples of shape {xi.shape}")
  widen = lambda v: jnp.broadcast_to(v, xi.shape)
  if var.shape == mean.shape:
    spread = widen(jnp.sqrt(level.alpha**2 * var + level.sigma**2)) * xi
  else:
    values, axes = jnp.linalg.eigh(var)
    root = axes * jnp.sqrt(level.alpha**2 * jnp.maximum(values, 0.0) + level.sigma**2)[None]
    spread = jnp.einsum("ij,...j->...i", root, xi, precision="highest")
  return level.alpha * widen(mean) + spread


def positions(
    levels: Level, stochasticity: splitting.Stochasticity, path: Path, depth: int
) -> tuple[Positions, float]:
  """Where on Y each step ends, (n + 1,) with the start first, and the length of L in all."""
  if isinstance(stochasticity, jax.Array):
    raise ValueError("a Brownian path needs a stochasticity that is a number or a callable")
  eta = stochasticity if callable(stochasticity) else lambda ell: jnp.full_like(ell, stochasticity)
  edges = np.linspace(_ELL_LOW, _ELL_HIGH, _PANELS + 1)
  panels = np.append(0.0, np.cumsum(square_integral(eta, edges[:-1], edges[1:], path)[1]))
  ell = np.clip(levels.half_log_snr, _ELL_LOW, _ELL_HIGH)
  panel = np.minimum((ell - edges[0]) // (edges[1] - edges[0]), _PANELS - 1).astype(int)
  clock = panels[panel] + square_integral(eta, edges[panel], ell, path)[1]
  place = np.clip(clock / panels[-1], 0.0, 1.0) * 2.0**depth
  cell = np.minimum(np.floor(place), 2.0**depth - 1)
  budget = np.diff(clock, prepend=-np.inf)
  budget[1:][~np.isfinite(np.diff(levels.half_log_snr))] = np.inf
  # A step of no length (two levels that a path ends before) has no noise.
  spread = np.sqrt(np.maximum(-np.expm1(-2.0 * budget), 1e-300))
  return (Positions(cell.astype(np.int32), place - cell, np.exp(-budget), spread),
          max(float(panels[-1]), 1e-20))


def value(
    key: jax.Array, x: jax.Array, cell: jax.Array, part: jax.Array, length: float, depth: int
) -> jax.Array:
  """Y in the shape of x at the position (cell, part). The same key is the same realisation."""
  draw = lambda node: normal(fold(key, node), x)
  low = draw(0)
  high = np.exp(-length) * low + np.sqrt(-np.expm1(-2.0 * length)) * draw(1)

  def halve(i, ends):
    low, high = ends
    d = length * 0.5 ** (i + 1.0)
    # Nodes are numbered as in a heap: 2 + ... keeps them apart from the two ends.
    node = 1 + (1 << i) + (cell >> (depth - i))
    middle = 0.5 * (low + high) / jnp.cosh(d) + jnp.sqrt(jnp.tanh(d)) * draw(node)
    right = ((cell >> (depth - 1 - i)) & 1) == 1
    return jnp.where(right, middle, low), jnp.where(right, high, middle)

  low, high = jax.lax.fori_loop(0, depth, halve, (low, high))
  width = length * 0.5**depth
  a, b = part * width, (1.0 - part) * width
  # The bridge within a cell, by one more draw of the cell's own.
  return ((jnp.sinh(b) * low + jnp.sinh(a) * high) / jnp.sinh(width)
          + jnp.sqrt(2.0 * jnp.sinh(a) * jnp.sinh(b) / jnp.sinh(width))
          * draw(1 + (1 << depth) + cell))
