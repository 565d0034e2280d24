"""Inpainting from end to end: what is given is checked, and one sampler call does the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import predictions, samplers
from langevin_jax.inpainting import methods
from langevin_jax.paths import Path


def sample(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, known: jax.Array,
    mask: jax.Array, method: methods.Inpainter | None = None, grid: samplers.Grid | None = None,
    outer: samplers.Method | None = None, shape: tuple[int, ...] | None = None,
) -> jax.Array:
  """Draws the unknown part given the known one; the known part of the result is `known` itself.

  Args:
    key: consumed. One key, or an array of keys whose shape leads `shape`: one for each sample.
    denoise: (x_t, t) → E[x₀ | xₜ] along `path`, whole batches.
    known: of shape `shape`, or of its last axes and then the same for all samples; read where
      `mask` is True only. mask: booleans, True where known, of either shape too.
    method: defaults to `lanpaint()`. outer: the method that moves between levels, any of
      `samplers`, by default `ddim()`; its calls come on top of those within a level.
    grid: defaults to `karras(20)`. shape: of the result; by default that of `known`.

  Returns:
    x₀ of shape `shape`.

  Jit-, vmap- and shard-able. Called eagerly it compiles once for each (denoise, path, method, grid,
  outer, shapes), not for each `known` or `mask`, and keeps the last eight.

  Raises:
    ValueError: as `checked` does, for what is not traced; or as `samplers.sample` does.
  """
  shape = tuple(jnp.shape(known) if shape is None else shape)
  known, mask = checked(known, mask, shape)
  choice = (denoise, path, shape, methods.lanpaint() if method is None else method,
            samplers.karras(20) if grid is None else grid,
            samplers.ddim() if outer is None else outer)
  if any(isinstance(v, jax.core.Tracer) for v in (key, known, mask)):
    return _runner(*choice)(key, known, mask)
  return _compiled(*choice)(key, known, mask)


def checked(
    known: jax.Array, mask: jax.Array, shape: tuple[int, ...], *,
    value_range: tuple[float, float] | None = None,
) -> tuple[jax.Array, jax.Array]:
  """(known, mask) in the samples' shape, after every check that their values allow.

  Args:
    known, mask: of shape `shape` or of its last axes. Where they are traced, only what their types
      say is checked.
    value_range: the least and greatest value of the data, in the units of `known`.

  Returns:
    known with 0 where nothing is known, in a floating type, and mask; both of shape `shape`.

  Raises:
    ValueError: shapes that do not fit; a mask that is not boolean, or that leaves nothing unknown,
      or nothing known; known values that are not finite, or outside `value_range`.
  """
  shape = tuple(shape)
  for name, value in (("known", known), ("mask", mask)):
    if shape[len(shape) - np.ndim(value):] != np.shape(value):
      raise ValueError(
          f"{name} must have the shape {shape} of the samples or its last axes, got "
          f"{np.shape(value)}")
  if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
    raise ValueError(
        f"mask must be boolean, True where known, got {jnp.result_type(mask)}: compare it first")
  traced = [isinstance(v, jax.core.Tracer) for v in (known, mask)]
  if not traced[1] and np.all(mask):
    raise ValueError("mask is True everywhere: it leaves nothing unknown to sample")
  if not traced[1] and not np.any(mask):
    raise ValueError("mask is False everywhere: nothing is known, use samplers.sample")
  if not any(traced):
    values = np.broadcast_to(known, shape)[np.broadcast_to(mask, shape)]
    if not np.all(np.isfinite(values)):
      bad = values[~np.isfinite(values)]
      raise ValueError(
          f"known must be finite where mask is True, got {bad[0]} in {bad.size} of {values.size}")
    if value_range is not None:
      low, high = value_range
      if values.min() < low or values.max() > high:
        raise ValueError(
            f"known values must lie in the data's range [{low:g}, {high:g}], got "
            f"[{values.min():g}, {values.max():g}]")
  mask = jnp.broadcast_to(jnp.asarray(mask), shape)
  known = jnp.broadcast_to(jnp.asarray(known, jnp.result_type(known, float)), shape)
  return jnp.where(mask, known, 0.0), mask


@functools.lru_cache(maxsize=8)
def _compiled(*choice):
  return jax.jit(_runner(*choice))


def _runner(denoise, path, shape, method, grid, outer):
  return lambda key, known, mask: samplers.sample(
      key, denoise, path, shape=shape, method=method(outer, known, mask), grid=grid)
