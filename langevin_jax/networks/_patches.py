"""Patches of sequences, images and volumes as rows, their windows and their places."""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["convolve", "join", "position_waves", "split"]


def split(x: jax.Array, p: int) -> jax.Array:
  """(batch, *sides, c) → rows of patches (batch·tokens, p^rank·c)."""
  rank = x.ndim - 2
  factors = [n for side in x.shape[1:-1] for n in (side // p, p)]
  axes = (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
  return x.reshape(x.shape[0], *factors, x.shape[-1]).transpose(axes).reshape(
      -1, p**rank * x.shape[-1])


def join(y: jax.Array, shape: tuple[int, ...], p: int) -> jax.Array:
  """The inverse of `split`: rows of patches → (batch, *sides, c), the `shape`."""
  rank = len(shape) - 2
  grid = [side // p for side in shape[1:-1]]
  axes = (0, *(axis for i in range(1, rank + 1) for axis in (i, rank + i)), 2 * rank + 1)
  return y.reshape(shape[0], *grid, *[p] * rank, shape[-1]).transpose(axes).reshape(shape)


def convolve(h: jax.Array, grid: tuple[int, ...], side: int) -> jax.Array:
  """The sum over a window of `side` patches along each axis, zero beyond the edges.

  Args:
    h: (batch·tokens, side^rank·width), what each patch adds to the tokens of its window.
    grid: the batch, and the tokens along each axis.

  Returns:
    (batch·tokens, width).
  """
  if side == 1:
    return h
  rank, half = len(grid) - 1, side // 2
  parts = h.reshape(*grid, side**rank, -1)
  padded = jnp.pad(parts, [(0, 0), *[(half, half)] * rank, (0, 0), (0, 0)])
  total = sum(
      padded[(slice(None), *(slice(i, i + n) for i, n in zip(offset, grid[1:], strict=True)), k)]
      for k, offset in enumerate(np.ndindex(*[side] * rank)))
  return jnp.reshape(total, (-1, h.shape[-1] // side**rank))


def position_waves(grid: tuple[int, ...], width: int) -> jax.Array:
  """Sines and cosines of the place of each token along each axis (Vaswani et al. 2017, §3.5).

  The channels are shared out evenly over the axes, with wave numbers 10000^{−i/n}.

  Returns:
    (tokens, width), float32, the channels that are left over zero.
  """
  n = width // (2 * len(grid))
  frequencies = 10000.0 ** (-np.arange(n) / max(n, 1))
  angles = [np.outer(place.reshape(-1), frequencies) for place in np.indices(grid)]
  waves = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=-1)
  return jnp.asarray(np.pad(waves, ((0, 0), (0, width - waves.shape[-1]))), jnp.float32)
