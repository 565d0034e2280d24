"""Sampling from a trained run: its network as a denoiser, batches of samples, trajectories."""

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
from experiments.sampling import samplers_from_config, token_sampling
from langevin_jax import discrete, inpainting, samplers
from langevin_jax.samplers import levels, noise
from langevin_jax.samplers.grids import levels_of
from langevin_jax.training import shardings

_START_DRAW = 2**31 - 2


def denoiser(
    run: assembly.Run, params: Any, path: build.Path, labels: jax.Array,
    sampling: config_lib.Sampling | None = None,
) -> Any:
  """The network as `denoise(x_t, t)` along `path`, for one batch.

  Args:
    labels: the condition of each sample: labels (batch,), or named arrays (batch, …).
    sampling: whose guidance is applied; without it, the denoiser is unguided.

  Returns:
    A `predictions.Denoiser`; of tokens a function (x_t, t) → logits of D.
  """
  if isinstance(path, discrete.paths.Path):
    return token_sampling.denoiser(
        lambda x, ell, labels: run.apply(params, x, ell, labels), path, labels, sampling,
        null_label=run.dataset.num_classes)
  return samplers_from_config.denoiser(
      lambda x, ell, labels, *ell_s: run.apply(params, x, ell, labels, *ell_s), path, labels,
      sampling, null_label=run.dataset.num_classes,
      prediction=build.prediction(run.config.objective),
      second_level=run.config.objective.flow_map is not None,
      bounds=data.bounds(run.dataset) if sampling is not None and sampling.clip else None)


class Begin(NamedTuple):
  """Initial states that replace pure noise. Sample i uses the (i mod k)-th value.

  kind: "start": examples, noised to the grid's first level. "encode": examples, mapped to codes.
    "decode": codes, mapped to samples.
  values: (k, *shape). Examples are in standard units. Codes are states at unit scale at the
    grid's first level.
  """

  kind: str
  values: np.ndarray


class Known(NamedTuple):
  """The known part of each sample, for inpainting. Sample i uses the (i mod length)-th entry.

  values: (k, *shape) in standard units. restored: the same values in the user's units.
  mask: (m, *shape), True where known. method: the inpainting method; None of tokens, whose
    samplers keep known positions by themselves.
  """

  values: np.ndarray
  restored: np.ndarray
  mask: np.ndarray
  method: inpainting.Inpainter | None


def batches(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: build.Path,
    labels: np.ndarray, *,
    seed: int, start: int = 0, known: Known | None = None, begin: Begin | None = None,
    program: Callable | None = None,
) -> Iterator[np.ndarray]:
  """Yields batches of samples (k, *shape) float32 in the user's units, from sample `start` on.

  Tokens are int32.

  Sample i depends only on (seed, i, its label, its known or initial values). Exception: rounding.
  Another batch size rounds matrix products differently, and a grey level near a half may change.
  Images are clipped to the range of the data, and rounded if the data are integers.

  A grid that ends above ρ = 0 gives noisy samples α mean + A xₜ. Codes are in standard units.

  Each batch is dispatched before the previous one is read, so that the device never waits for the
  disk.

  Args:
    labels: (n,), or named arrays (n, …), one entry per sample.
    seed: of the noise.
    start: index of the first sample, a multiple of `batch_size`.
    known: known values, for inpainting.
    begin: initial states other than noise.
    program: `compiled` for the same arguments, where it is called with several `params`.

  Raises:
    FloatingPointError: a sample is not finite.
  """
  n = len(jax.tree.leaves(labels)[0])
  size = batch_size(run.mesh, sampling, n)
  draw = program or compiled(run, sampling, path, n, known=known, begin=begin)
  last = _last_alpha(sampling, path)
  sent: list[tuple[int, jax.Array]] = []
  for first in range(start, n, size):
    # The last batch is padded with its last sample: all batches then share one compiled program.
    index = np.minimum(np.arange(first, first + size), n - 1)
    sent.append((first, draw(params, *_arguments(run.mesh, labels, index, seed, known, begin))))
    if len(sent) > 1:
      yield _in_user_units(run, *sent.pop(0), n, known, sampling, begin, last)
  for first, x in sent:
    yield _in_user_units(run, first, x, n, known, sampling, begin, last)


def compiled(
    run: assembly.Run, sampling: config_lib.Sampling, path: build.Path, n: int, *,
    known: Known | None = None, begin: Begin | None = None,
) -> Callable:
  """The compiled program of one batch of `batches`, of n samples in all."""
  shape = (batch_size(run.mesh, sampling, n), *run.dataset.train.shape[1:])
  return jax.jit(_make_sampler(run, sampling, path, shape, known) if begin is None else
                 _make_sampler_from(run, sampling, path, shape, begin.kind),
                 compiler_options=assembly.compiler_options(run))


def batch_size(mesh: jax.sharding.Mesh, sampling: config_lib.Sampling, n: int) -> int:
  """Samples per batch: at most n, rounded up to the same number on every device."""
  size = min(sampling.batch_size, n)
  return size + -size % shardings.batch_shards(mesh)


def draw(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: build.Path,
    labels: np.ndarray, *,
    seed: int, known: Known | None = None, program: Callable | None = None,
) -> np.ndarray:
  """All samples of `batches` in one array (n, *shape)."""
  return np.concatenate(list(batches(
      run, params, sampling, path, labels, seed=seed, known=known, program=program)))


def trajectory(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: build.Path,
    labels: np.ndarray, *,
    seed: int, known: Known | None = None,
) -> samplers.Trajectory:
  """The trajectories of the first n = len(labels) samples of `batches`, at the path's scale.

  States are in standard units, neither clipped nor rounded. They are computed on one device, so
  `params` must not be sharded.
  """
  run, n = assembly.alone(run), len(jax.tree.leaves(labels)[0])
  arguments = _arguments(None, labels, np.arange(n), seed, known)
  sampler = _make_sampler(run, sampling, path, (n, *run.dataset.train.shape[1:]), known,
                          samplers.trajectory)
  return jax.tree.map(np.asarray, jax.jit(
      sampler, compiler_options=assembly.compiler_options(run))(params, *arguments))


def _make_sampler(run, sampling, path, shape, known, sample=samplers.sample) -> Callable:
  """A function (params, keys, labels, values, mask) → the result of `sample`, for one batch."""
  if isinstance(path, discrete.paths.Path):
    return token_sampling.sampler(
        lambda params, labels: denoiser(run, params, path, labels, sampling), sampling, path, shape,
        getattr(discrete.samplers, sample.__name__))
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
    batch_method = method if known is None else known.method(method, values, mask)
    return sample(keys, denoiser(run, params, path, labels, sampling), path, shape=shape,
                  method=batch_method, grid=grid, brownian=brownian, moments=start)

  return draw


def _make_sampler_from(run, sampling, path, shape, kind) -> Callable:
  """A function (params, keys, labels, values) → samples, or codes if `kind` is "encode".

  The initial values replace pure noise; `Begin` lists the kinds.
  """
  method, grid, brownian = samplers_from_config.process(sampling, event_axes=len(shape) - 1)
  first = levels.pick(levels.place_levels(levels_of(grid, path)[:1], path), 0)
  scale, alpha, sigma = map(float, (first.scale, first.alpha, first.sigma))

  def draw(params, keys, labels, values):
    model = denoiser(run, params, path, labels, sampling)
    if kind == "encode":
      return samplers.encode(model, path, values, method=method, grid=grid) / scale
    if kind == "start":
      # This index of `fold` is used by no step of a sampler.
      noise_keys = noise.fold(keys, _START_DRAW)
      values = alpha * values + sigma * noise.normal(noise_keys, values)
    return samplers.sample(keys, model, path, shape=shape, method=method, grid=grid,
                           brownian=brownian, initial=scale * values)

  return draw


def _last_alpha(sampling, path) -> float | None:
  """α at the last level of the grid; None if the grid ends at clean data."""
  if not sampling.stop_level:
    return None
  last = levels.place_levels(levels_of(samplers_from_config.grid(sampling), path)[-1:], path)
  return float(last.alpha[0] * last.scale[0])


def _arguments(mesh, labels, index, seed, known, begin=None) -> tuple:
  """The arguments of a sampler after `params`, for the samples `index`, sharded over `mesh`."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(index))
  if begin is not None:
    inputs = (begin.values[index % len(begin.values)].astype(np.float32),)
  elif known is None:
    inputs = (None, None)
  else:
    inputs = known.values[index % len(known.values)], known.mask[index % len(known.mask)]
  arguments = keys, jax.tree.map(lambda values: values[index], labels), *inputs
  return arguments if mesh is None else multihost.spread(shardings.batch(mesh), arguments)


def _in_user_units(run, first, x, n, known, sampling, begin, last_alpha) -> np.ndarray:
  """The batch x without its padding, in the user's units, checked to be finite.

  Args:
    first: index of the first sample of the batch. n: number of all samples.
    last_alpha: α of noisy samples, None for clean ones.
  """
  x = multihost.fetch(x)[:n - first]
  if run.dataset.vocabulary:
    return x.astype(np.int32)
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
    # Known values are copied from the input, so that standardizing rounds none of them.
    index = np.arange(first, last)
    mask = known.mask[index % len(known.mask)]
    x = np.where(mask, known.restored[index % len(known.restored)], x)
  return x
