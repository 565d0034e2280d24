"""The noise of a sampler: independent draws, or one Brownian path for all step sizes.

In the VE frame the noise of a step from ℓ to ℓ′ is e^{−κℓ′}(B(τ′) − B(τ)) with B a Brownian motion
in τ = ρ^{−2η²} (theory.md#solvers). Y = B/√τ is the stationary Ornstein–Uhlenbeck process of unit
rate in L = ∫η² dℓ, and in it the noise is

  σ′ √(1 − e^{−2Λ}) ξ = σ′ [Y(L′) − e^{−Λ} Y(L)],   Λ = L′ − L.

So one realisation of Y couples all grids: with one key, samples at N and 2N steps converge one by
one. Y is not stored. Its value at a place is computed by halving a fixed interval of L: the middle
of two known values Y_a and Y_b, each d away, is N((Y_a + Y_b)/(2 cosh d), tanh d).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, splitting
from langevin_jax.paths import Path
from langevin_jax.samplers.budgets import square_integral
from langevin_jax.samplers.levels import Level

__all__ = [
    "Brownian", "Positions", "brownian", "fold", "initial_state", "normal", "place", "positions",
    "split", "start", "threefry", "value",
]

# The interval of ℓ on which Y lives, beyond any grid. The realisation of Y depends on it.
_ELL_LOW, _ELL_HIGH, _PANELS = -16.0, 16.0, 64


class Brownian(NamedTuple):
  """Asks for the noise of one Brownian path; `depth` halvings resolve Y to 32 η²/2^depth in L."""

  depth: int = 18


class Positions(NamedTuple):
  """The places on Y where steps end, arrays (n + 1,) with the start of the run first.

  cell, part: which of the 2^depth cells, and the fraction of it that is passed.
  kept, spread: e^{−Λ} and √(1 − e^{−2Λ}) of the step.
  length: of the whole interval of L, constant. length_kept, length_spread: e^{−length} and
    √(1 − e^{−2 length}), constant.
  """

  cell: Any
  part: Any
  kept: Any
  spread: Any
  length: Any
  length_kept: Any
  length_spread: Any


@_programs.memoised
def brownian(*, depth: int = 18) -> Brownian:
  """Noise of one Brownian path for `samplers.sample`: one key gives the same path on every grid.

  Args:
    depth: halvings, each of which costs a draw per step. Places closer than 32 η²/2^depth in ∫η² dℓ
      are not distinguished.

  Raises:
    ValueError: depth outside [1, 30].
  """
  depth = _values.number("depth", depth)
  if not 1 <= depth <= 30:
    raise ValueError(f"depth must lie in [1, 30], got {depth}")
  return Brownian(depth)


def normal(key: jax.Array, x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
  """ξ ~ N(0, I) in the shape and dtype of x; each key of an array (n, …) draws its own row."""
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
  """(key of the first state, key of the steps), for one key or each key of an array."""
  halve = jax.random.split
  for _ in key.shape:
    halve = jax.vmap(halve)
  return tuple(jnp.moveaxis(halve(key), -1, 0))


def threefry(key: jax.Array) -> jax.Array:
  """The key, or the array of keys, as typed threefry keys.

  Under vmap a draw of rbg depends on the whole array of keys, a draw of threefry on its own key
  alone. So the words of a key of another kind become a threefry key. Words without a type, such as
  those of `jax.random.PRNGKey`, are of JAX's default kind.

  Raises:
    ValueError: not a key.
  """
  if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
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
  """`initial` as a state of a sampler, in float32 or wider; None stays None.

  Raises:
    ValueError: another shape, or a type that is not real.
  """
  if initial is None:
    return None
  initial = _values.array(initial)
  if initial.shape != shape:
    raise ValueError(f"initial must have shape {shape}, got {initial.shape}")
  dtype = jnp.result_type(initial)
  if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
    raise ValueError(f"initial must be real, got {dtype}")
  return jnp.asarray(initial, jnp.promote_types(jnp.result_type(initial, float), jnp.float32))


def start(
    draw: Callable[[], jax.Array], level: Level, moments: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
  """The first state q_0 = p_T (eq. 10) at unit scale: σ ξ, or N(α m, α²S + σ²I) with moments.

  Args:
    draw: () → ξ ~ N(0, I). level: the first level, scalars.
    moments: mean m and variances S of the data in the shape of one example, or the covariance
      (d, d) of vectors (d,).

  Raises:
    ValueError: moments of other shapes.
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
  """The places on Y of the levels (n + 1,).

  Raises:
    ValueError: η is a jax array: places are computed on the host.
  """
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
  # A step of length 0, between two levels beyond the end of a path, has no noise.
  spread = np.where(budget > 0.0, np.sqrt(-np.expm1(-2.0 * np.maximum(budget, 0.0))), 1.0)
  length = np.full_like(budget, max(float(panels[-1]), 1e-20))
  return Positions(cell.astype(np.int32), place - cell, np.exp(-budget), spread,
                   length, np.exp(-length), np.sqrt(-np.expm1(-2.0 * length)))


def place(ell: jax.Array, square: jax.Array, depth: int) -> Positions:
  """`positions` of a constant η² = `square` at scalar ℓ, which may be traced; no step's numbers."""
  length = square * (_ELL_HIGH - _ELL_LOW)
  share = (ell - _ELL_LOW) / (_ELL_HIGH - _ELL_LOW) * 2.0**depth
  cell = jnp.clip(jnp.floor(share), 0, 2**depth - 1).astype(jnp.int32)
  return Positions(cell, share - cell.astype(share.dtype), None, None, length, jnp.exp(-length),
                   jnp.sqrt(-jnp.expm1(-2.0 * length)))


def value(
    key: jax.Array, x: jax.Array | jax.ShapeDtypeStruct, place: Positions, depth: int
) -> jax.Array:
  """Y in the shape of x at one place; one key is one realisation.

  Args:
    key: one key, or an array of them as in `normal`. place: scalars. depth: as in `brownian`.
  """
  cell, part, length = place.cell, place.part, place.length
  draw = lambda node: normal(fold(key, node), x)
  low = draw(0)
  high = place.length_kept * low + place.length_spread * draw(1)

  def halve(i, ends):
    low, high = ends
    d = length * 0.5 ** (i + 1.0)
    # Nodes of the binary tree are numbered from 2 on, level by level; 0 and 1 are the two ends.
    node = 1 + (1 << i) + (cell >> (depth - i))
    middle = 0.5 * (low + high) / jnp.cosh(d) + jnp.sqrt(jnp.tanh(d)) * draw(node)
    right = ((cell >> (depth - 1 - i)) & 1) == 1
    return jnp.where(right, middle, low), jnp.where(right, high, middle)

  low, high = jax.lax.fori_loop(0, depth, halve, (low, high))
  width = length * 0.5**depth
  a, b = part * width, (1.0 - part) * width
  # The bridge within a cell takes one more draw, which belongs to the cell.
  return ((jnp.sinh(b) * low + jnp.sinh(a) * high) / jnp.sinh(width)
          + jnp.sqrt(2.0 * jnp.sinh(a) * jnp.sinh(b) / jnp.sinh(width))
          * draw(1 + (1 << depth) + cell))
