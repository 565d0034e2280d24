"""The reverse process of a trained run: its network as a denoiser, samples, trajectories."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import build, calls
from experiments.data import standardize
from experiments.run import assembly, multihost
from experiments.sampling import samplers_from_config
from langevin_jax import inpainting, paths, predictions, samplers
from langevin_jax.samplers import levels, noise
from langevin_jax.samplers.grids import levels_of
from langevin_jax.training import shardings

Progress = Callable[[int], None]
_START_DRAW = 2**31 - 2


def denoiser(
    run: assembly.Run, params: Any, path: paths.Path, labels: jax.Array,
    sampling: config_lib.Sampling | None = None,
) -> predictions.Denoiser:
  """The network as `denoise(x_t, t)` along `path`, for one batch with these labels.

  With `sampling`, under its guidance.
  """
  return samplers_from_config.denoiser(
      lambda x, ell, labels: run.apply(params, x, ell, labels), path, labels, sampling,
      null_label=run.dataset.num_classes, prediction=build.prediction(run.config.objective))


class Begin(NamedTuple):
  """Where samples begin other than at noise; sample i has the (i mod k)-th of the values.

  kind: "start", examples that are noised to the grid's first level; "encode", examples whose codes
  are made; "decode", codes. values: (k, *shape), examples in standard units, or codes: states at
  unit scale at the grid's first level.
  """

  kind: str
  values: np.ndarray


class Known(NamedTuple):
  """What samples are given, for inpainting; sample i has the (i mod length)-th of each array.

  values: (k, *shape) in standard units. restored: the same in the user's. mask: (m, *shape),
  True where known.
  """

  values: np.ndarray
  restored: np.ndarray
  mask: np.ndarray
  method: inpainting.Inpainter


def batches(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: paths.Path,
    labels: np.ndarray, *,
    seed: int, start: int = 0, known: Known | None = None, begin: Begin | None = None,
) -> Iterator[np.ndarray]:
  """Samples from the `start`-th on, batch by batch, in the user's units, (k, *shape) float32.

  Where they end above ρ = 0 they are α mean + A xₜ, noisy; codes (`begin`) are in standard units.

  Sample i depends on (seed, i, its label, what it is given) alone, not on the batch it rides in,
  but for rounding: products of another batch size end in other bits, and a grey level at a half may
  flip with them.
  Samples of images are clipped to the range of the data, and rounded where the data are whole grey
  levels. A batch is sent off before the one before it is read: a device waits for no disk.

  Args:
    labels: (n,), one a sample. start: a multiple of the batch size (`batch_size`).

  Raises:
    FloatingPointError: a sample is not finite.
  """
  n, size = len(labels), batch_size(run.mesh, sampling, len(labels))
  shape = (size, *run.dataset.train.shape[1:])
  draw = jax.jit(_drawing(run, sampling, path, shape, known) if begin is None else
                 _beginning(run, sampling, path, shape, begin.kind))
  last = _last_alpha(sampling, path)
  sent: list[tuple[int, jax.Array]] = []
  for first in range(start, n, size):
    # The last batch repeats its end, so that one compiled program serves all.
    index = np.minimum(np.arange(first, first + size), n - 1)
    sent.append((first, draw(params, *_arguments(run.mesh, labels, index, seed, known, begin))))
    if len(sent) > 1:
      yield _finished(run, *sent.pop(0), n, known, sampling, begin, last)
  for first, x in sent:
    yield _finished(run, first, x, n, known, sampling, begin, last)


def batch_size(mesh: jax.sharding.Mesh, sampling: config_lib.Sampling, n: int) -> int:
  """How many samples are drawn at once: no more than wanted, and as many on every device."""
  size = min(sampling.batch_size, n)
  return size + -size % shardings.batch_shards(mesh)


def draw(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: paths.Path,
    labels: np.ndarray, *,
    seed: int, known: Known | None = None, progress: Progress = lambda done: None,
) -> np.ndarray:
  """All of `batches` in one array, (n, *shape)."""
  parts, done = [], 0
  for x in batches(run, params, sampling, path, labels, seed=seed, known=known):
    parts.append(x)
    done += len(x)
    progress(done)
  return np.concatenate(parts)


def trajectory(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: paths.Path,
    labels: np.ndarray, *,
    seed: int, known: Known | None = None,
) -> samplers.Trajectory:
  """The whole reverse runs of the first len(labels) samples of `batches`, on the path's own scale.

  In standard units and neither clipped nor rounded; on one device, where `params` must be whole.
  """
  run, n = assembly.alone(run), len(labels)
  arguments = _arguments(None, labels, np.arange(n), seed, known)
  run_back = _drawing(run, sampling, path, (n, *run.dataset.train.shape[1:]), known,
                      samplers.trajectory)
  return jax.tree.map(np.asarray, jax.jit(run_back)(params, *arguments))


def _drawing(run, sampling, path, shape, known, sample=samplers.sample) -> Callable:
  """A function (params, keys, labels, values, mask) → what `sample` makes of the process."""
  samplers_from_config.check(sampling, path, run.config.objective)
  method, grid, brownian = samplers_from_config.process(sampling, event_axes=len(shape) - 1)
  start = data.moments(run.dataset) if sampling.moments else None

  def solve(params, keys, labels, values, mask):
    return calls.build(
        sampling.sampler, "sampler", "config.sampling.sampler", key=keys, path=path, shape=shape,
        denoise=denoiser(run, params, path, labels, sampling), moments=start).x

  if samplers_from_config.is_adaptive(sampling):
    return solve

  def draw(params, keys, labels, values, mask):
    here = method if known is None else known.method(method, values, mask)
    return sample(keys, denoiser(run, params, path, labels, sampling), path, shape=shape,
                  method=here, grid=grid, brownian=brownian, moments=start)

  return draw


def _beginning(run, sampling, path, shape, kind) -> Callable:
  """As `_drawing`, from noised examples (start) or codes (decode), or up to codes (encode)."""
  method, grid, brownian = samplers_from_config.process(sampling, event_axes=len(shape) - 1)
  first = levels.pick(levels.place_levels(levels_of(grid, path)[:1], path), 0)
  scale, alpha, sigma = map(float, (first.scale, first.alpha, first.sigma))

  def draw(params, keys, labels, values):
    model = denoiser(run, params, path, labels, sampling)
    if kind == "encode":
      return samplers.encode(model, path, values, method=method, grid=grid) / scale
    if kind == "start":
      # A draw of each sample's own, which no step makes.
      noise_keys = noise.fold(keys, _START_DRAW)
      values = alpha * values + sigma * noise.normal(noise_keys, values)
    return samplers.sample(keys, model, path, shape=shape, method=method, grid=grid,
                           brownian=brownian, initial=scale * values)

  return draw


def _last_alpha(sampling, path) -> float | None:
  """α where the grid ends on the path, or None where it ends clean."""
  if not sampling.stop_level:
    return None
  at = levels.place_levels(levels_of(samplers_from_config.grid(sampling), path)[-1:], path)
  return float(at.alpha[0] * at.scale[0])


def _arguments(mesh, labels, index, seed, known, begin=None) -> tuple:
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(index))
  if begin is not None:
    given = (begin.values[index % len(begin.values)].astype(np.float32),)
  elif known is None:
    given = (None, None)
  else:
    given = known.values[index % len(known.values)], known.mask[index % len(known.mask)]
  arguments = keys, labels[index], *given
  return arguments if mesh is None else multihost.spread(shardings.batch(mesh), arguments)


def _finished(run, first, x, n, known, sampling, begin, last_alpha) -> np.ndarray:
  """A batch in the user's units, checked; without what repeats the last sample."""
  x = multihost.fetch(x)[:n - first]
  noisy = last_alpha is not None
  if noisy:
    x = standardize.restore(x, run.dataset.mean, run.dataset.scale, alpha=last_alpha)
  elif begin is None or begin.kind != "encode":
    x = data.restore(run.dataset, x)
  last = first + len(x)
  why = "" if not samplers_from_config.is_adaptive(sampling) else (
      f": {sampling.sampler} did not reach its tolerance (raise it, or take a sampler of fixed "
      "steps), or the model itself is not finite")
  if bad := int(np.sum(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))):
    raise FloatingPointError(f"{bad} of samples {first}…{last - 1} are not finite{why}; nothing "
                             "was written")
  if noisy or (begin is not None and begin.kind == "encode"):
    return x
  x = np.round(x) if run.dataset.integers else x
  x = x if run.dataset.value_range is None else np.clip(x, *run.dataset.value_range)
  if known is not None:
    # What was given comes back as it was given, whatever standardising has rounded.
    index = np.arange(first, last)
    mask = known.mask[index % len(known.mask)]
    x = np.where(mask, known.restored[index % len(known.restored)], x)
  return x
