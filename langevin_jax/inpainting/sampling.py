"""Inpainting from end to end: what is given is checked, and one sampler call does the rest."""

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, predictions, samplers
from langevin_jax.inpainting import methods
from langevin_jax.paths import Path
from langevin_jax.samplers import sampling
from langevin_jax.samplers.grids import levels_of


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
      `mask` is True only. mask: booleans, True where known, of either shape; axes of length 1 are
      repeated, and one without the last axis (h, w) holds for all channels.
    method: defaults to `lanpaint()`. outer: the method that moves between levels, any of
      `samplers`, by default `ddim()`; its calls come on top of those within a level.
    grid: defaults to `karras(20)`. shape: of the result; by default that of `known`.

  Returns:
    x₀ of shape `shape`.

  Jit-, vmap- and shard_map-able, and compiled as `samplers.sample` is: once for all `known`, `mask`
  and parameters of one shape.

  Raises:
    ValueError: as `checked` does, for what is not traced; or as `samplers.sample` does.
  """
  shape = tuple(jnp.shape(known) if shape is None else shape)
  known, mask = checked(known, mask, shape)
  method = methods.lanpaint() if method is None else method
  outer = samplers.ddim() if outer is None else outer
  sampling.check_kinds(denoise, path, method=outer, name="outer")
  if isinstance(method, samplers.Method) or not callable(method):
    raise ValueError("method must be an inpainter, such as inpainting.lanpaint() (called), got "
                     f"{method!r}; the method between levels is `outer`")
  grid = samplers.karras(20) if grid is None else grid
  if callable(grid) and levels_of(grid, path)[-1] > 0.0:
    raise ValueError("inpainting needs a grid that ends at rho = 0, where the known part is known")
  return samplers.sample(
      key, denoise, path, shape=shape, method=method(outer, known, mask), grid=grid)


def checked(
    known: jax.Array, mask: jax.Array, shape: tuple[int, ...], *,
    value_range: tuple[float, float] | None = None,
) -> tuple[jax.Array, jax.Array]:
  """(known, mask) in the samples' shape, after every check that their values allow.

  Args:
    known, mask: of shape `shape` or of its last axes, mask also as `sample` says. Where they are
      traced, only what their types say is checked.
    value_range: the least and greatest value of the data, in the units of `known`.

  Returns:
    known with 0 where nothing is known, in a floating type, and mask; both of shape `shape`.

  Raises:
    ValueError: shapes that do not fit; a mask that is not boolean, or that leaves nothing unknown,
      or nothing known; known values that are not finite, or outside `value_range`.
  """
  shape = tuple(shape)
  if shape[len(shape) - np.ndim(known):] != np.shape(known):
    raise ValueError(f"known must have the shape {shape} of the samples or its last axes, got "
                     f"{np.shape(known)}")
  if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
    raise ValueError(
        f"mask must be boolean, True where known, got {jnp.result_type(mask)}: compare it first")
  mask = _over_channels(mask, shape)
  where, what = _programs.concrete(mask), _programs.concrete(known)
  if where is not None and np.all(where):
    raise ValueError("mask is True everywhere: it leaves nothing unknown to sample")
  if where is not None and not np.any(where):
    raise ValueError("mask is False everywhere: nothing is known, use samplers.sample")
  if where is not None and what is not None:
    values = np.broadcast_to(what, shape)[np.broadcast_to(where, shape)]
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


def _over_channels(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """A mask with the axes that let it broadcast to `shape`; ValueError where it cannot."""
  given = np.shape(mask)
  fits = lambda axes: len(axes) <= len(shape) and all(
      a in (1, b) for a, b in zip(axes[::-1], shape[::-1], strict=False))
  if fits(given):
    return mask
  if len(given) > 1 and fits((*given, 1)):
    return mask[..., None]
  raise ValueError(f"mask must have the shape {shape} of the samples, or its last axes, with or "
                   f"without the very last, each whole or of length 1; got {given}")
