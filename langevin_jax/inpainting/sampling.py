"""Inpainting as one call: checks of the known part and the mask, then a sampler."""

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _values, predictions, samplers
from langevin_jax.inpainting import methods
from langevin_jax.paths import Path
from langevin_jax.samplers import sampling
from langevin_jax.samplers.grids import levels_of

__all__ = ["checked", "sample"]


def sample(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, known: jax.Array,
    mask: jax.Array, method: methods.Inpainter | None = None, grid: samplers.Grid | None = None,
    outer: samplers.Method | None = None, shape: tuple[int, ...] | None = None,
) -> jax.Array:
  """Samples the unknown part given the known part.

  It works in jit, vmap and shard_map. Like `samplers.sample` it is compiled once for all `known`,
  `mask` and parameters of one shape.

  Args:
    key: consumed. One key, or an array of keys whose shape leads `shape`, one for each sample.
    denoise: (x_t, t) → E[x₀ | xₜ] along `path`, for whole batches.
    path: defines the time t.
    known: the known values, of shape `shape`, or of its last axes and then the same for all
      samples. Values where `mask` is False are ignored.
    mask: booleans, True where known, of either shape. Axes of length 1 are repeated. A mask without
      the last axis, (h, w), applies to all channels.
    method: the inpainting method; None is `lanpaint()`.
    grid: the noise levels, ending at ρ = 0; None is `karras(20)`.
    outer: the method of `samplers` that steps between levels; None is `ddim()`.
    shape: of the result; None is the shape of `known`.

  Returns:
    x₀ of shape `shape`, bitwise equal to `known` where `mask` is True.

  Raises:
    ValueError: as `checked` does, for arguments that are not traced; or as `samplers.sample` does.
  """
  known = _values.array(known)
  shape = tuple(known.shape if shape is None else shape)
  known, mask = checked(known, mask, shape)
  method = methods.lanpaint() if method is None else method
  between = samplers.ddim() if outer is None else outer
  sampling.check_kinds(denoise, path, method=between, name="outer")
  uncalled = any(method is getattr(methods, name) for name in methods.__all__)
  if isinstance(method, samplers.Method) or not callable(method) or uncalled:
    raise ValueError("method must be an inpainter, such as inpainting.lanpaint() (called), got "
                     f"{method!r}; the method between levels is `outer`")
  grid = samplers.karras(20) if grid is None else grid
  if callable(grid) and levels_of(grid, path)[-1] > 0.0:
    raise ValueError("inpainting needs a grid that ends at rho = 0, where the known part is known")
  return samplers.sample(
      key, denoise, path, shape=shape, method=method(between, known, mask), grid=grid)


def checked(
    known: jax.Array, mask: jax.Array, shape: tuple[int, ...], *,
    value_range: tuple[float, float] | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Checks a known part and its mask, and broadcasts them to the shape of the samples.

  Args:
    known, mask: as in `sample`. If traced, only shapes and dtypes are checked.
    shape: of the samples.
    value_range: the smallest and largest value of the data, in the units of `known`.

  Returns:
    (known, mask), both of shape `shape`; known is floating, and 0 where `mask` is False.

  Raises:
    ValueError: shapes that do not fit; a mask that is not boolean, or True or False everywhere;
      known values that are not finite, or outside `value_range`.
  """
  shape, known, mask = tuple(shape), _values.array(known), _values.array(mask)
  if shape[len(shape) - np.ndim(known):] != np.shape(known):
    raise ValueError(f"known must have the shape {shape} of the samples or its last axes, got "
                     f"{np.shape(known)}")
  if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
    raise ValueError(
        f"mask must be boolean, True where known, got {jnp.result_type(mask)}: compare it first")
  mask = _with_channels(mask, shape)
  concrete_mask, concrete_known = _values.concrete(mask), _values.concrete(known)
  if concrete_mask is not None:
    if np.all(concrete_mask):
      raise ValueError("mask is True everywhere: it leaves nothing unknown to sample")
    if not np.any(concrete_mask):
      raise ValueError("mask is False everywhere: nothing is known, use samplers.sample")
    if concrete_known is not None:
      values = np.broadcast_to(concrete_known, shape)[np.broadcast_to(concrete_mask, shape)]
      _check_values(values, value_range)
  mask = jnp.broadcast_to(jnp.asarray(mask), shape)
  known = jnp.broadcast_to(_values.floats(known), shape)
  return jnp.where(mask, known, 0.0), mask


def _check_values(values: np.ndarray, value_range: tuple[float, float] | None) -> None:
  """ValueError if a known value is not finite or outside the range."""
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


def _with_channels(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The mask, with an axis of channels if it has none; ValueError if it does not fit `shape`."""
  given = np.shape(mask)
  fits = lambda axes: len(axes) <= len(shape) and all(
      a in (1, b) for a, b in zip(axes[::-1], shape[::-1], strict=False))
  if fits(given):
    return mask
  if len(given) > 1 and fits((*given, 1)):
    return mask[..., None]
  raise ValueError(f"mask must have the shape {shape} of the samples, or its last axes, with or "
                   f"without the very last, each whole or of length 1; got {given}")
