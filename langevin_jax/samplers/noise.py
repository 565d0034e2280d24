"""Where a sampler's noise comes from: independent draws, or one Brownian path for all step sizes.

In the VE frame the noise of a step from ℓ to ℓ′ is e^{−κℓ′}(B(τ′) − B(τ)) with B a Brownian motion
in τ = ρ^{−2η²} (theory.md#solvers). Y = B/√τ is the stationary Ornstein–Uhlenbeck process of unit
rate in L = ∫η² dℓ, and in it the noise is

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
  """Where on Y each step ends, arrays (n + 1,) with the start first.

  cell, part: the cell of 2^depth and the part of it that is passed. kept, spread: e^{−Λ} and
  √(1 − e^{−2Λ}) of the step. length, length_kept, length_spread: the length of L in all, and the
  same two of it; constant.
  """

  cell: Any
  part: Any
  kept: Any
  spread: Any
  length: Any
  length_kept: Any
  length_spread: Any


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


def threefry(key: jax.Array) -> jax.Array:
  """The key, or array of keys, as typed threefry keys.

  Draws of an array of rbg keys depend on the whole array, those of threefry on each key alone. So
  another kind's words become a threefry key. Words without a type, such as `jax.random.PRNGKey`
  returns, are of JAX's default kind.

  Raises:
    ValueError: not a key.
  """
  typed = jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key)
  if not typed:
    try:
      key = jax.random.wrap_key_data(key)
    except (TypeError, ValueError) as error:
      raise ValueError("key must be a jax.random.key, or an array of them, got "
                       f"{getattr(key, 'dtype', type(key).__name__)} of shape "
                       f"{np.shape(key)}") from error
  if str(jax.random.key_impl(key)) == "threefry2x32":
    return key
  words = jax.random.key_data(key)
  key = jax.random.wrap_key_data(words[..., :2], impl="threefry2x32")
  folded = jax.random.fold_in
  for _ in key.shape:
    folded = jax.vmap(folded)
  for i in range(2, words.shape[-1]):
    key = folded(key, words[..., i])
  return key


def initial_state(initial: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
  """`initial` as a state of a sampler: of the default float type at least.

  Raises:
    ValueError: another shape, or a type that is not real.
  """
  if initial is None:
    return None
  if jnp.shape(initial) != shape:
    raise ValueError(f"initial must have shape {shape}, got {jnp.shape(initial)}")
  dtype = jnp.result_type(initial)
  if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
    raise ValueError(f"initial must be real, got {dtype}")
  return jnp.asarray(initial, jnp.promote_types(jnp.result_type(initial, float), jnp.float32))


def start(
    draw: Callable[[], jax.Array], level: Level, moments: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
  """q_0 of eq. 10 at unit scale: σ ξ, or a draw of N(α m, α²S + σ²I) where moments are given.

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
) -> Positions:
  """Where on Y each step ends; raises ValueError where η is traced."""
  if isinstance(stochasticity, jax.Array):
    raise ValueError("a Brownian path needs a stochasticity that is a number or a callable")
  edges = np.linspace(_ELL_LOW, _ELL_HIGH, _PANELS + 1)
  panels = np.append(0.0, np.cumsum(square_integral(stochasticity, edges[:-1], edges[1:], path)[1]))
  ell = np.clip(levels.half_log_snr, _ELL_LOW, _ELL_HIGH)
  panel = np.minimum((ell - edges[0]) // (edges[1] - edges[0]), _PANELS - 1).astype(int)
  clock = panels[panel] + square_integral(stochasticity, edges[panel], ell, path)[1]
  place = np.clip(clock / max(panels[-1], 1e-20), 0.0, 1.0) * 2.0**depth
  cell = np.minimum(np.floor(place), 2.0**depth - 1)
  budget = np.diff(clock, prepend=-np.inf)
  budget[1:][~np.isfinite(np.diff(levels.half_log_snr))] = np.inf
  # A step of no length (two levels that a path ends before) has no noise.
  spread = np.where(budget > 0.0, np.sqrt(-np.expm1(-2.0 * np.maximum(budget, 0.0))), 1.0)
  length = np.full_like(budget, max(float(panels[-1]), 1e-20))
  return Positions(cell.astype(np.int32), place - cell, np.exp(-budget), spread,
                   length, np.exp(-length), np.sqrt(-np.expm1(-2.0 * length)))


def value(key: jax.Array, x: jax.Array, place: Positions, depth: int) -> jax.Array:
  """Y in the shape of x at one position. The same key is the same realisation."""
  cell, part, length = place.cell, place.part, place.length
  draw = lambda node: normal(fold(key, node), x)
  low = draw(0)
  high = place.length_kept * low + place.length_spread * draw(1)

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
