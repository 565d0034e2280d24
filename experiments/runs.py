"""A run as an object: what its config makes, the trained model in its workdir, and its samples."""

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import build, checkpoints, data, hosts, meshes, processes, records
from experiments import config as config_lib
from langevin_jax import guidance, inpainting, paths, predictions, samplers, training
from langevin_jax.training import shardings

Progress = Callable[[int], None]


class Run(NamedTuple):
  """Everything that a config determines; making one is what finds bad input."""

  config: config_lib.Config
  dataset: data.Dataset
  mesh: jax.sharding.Mesh
  path: paths.Path
  apply: Callable[..., jax.Array]
  init: Callable[[jax.Array], training.TrainState]
  loss: training.Loss
  optimizer: optax.GradientTransformation
  averages: tuple[training.averages.Average, ...]


def configure_jax(config: config_lib.Config) -> None:
  """Virtual CPU devices and the persistent compilation cache; call before anything touches jax.

  The cache lies in JAX_COMPILATION_CACHE_DIR, or in langevin_jax/ of the user's cache directory.
  """
  build.at_least("training.cpu_devices", config.training.cpu_devices, 1)
  jax.config.update("jax_num_cpu_devices", config.training.cpu_devices)
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "langevin_jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def prepare(config: config_lib.Config) -> Run:
  """Builds and checks everything that `config` names, on all devices; nothing is written.

  Raises:
    ValueError: anything that the config asks for and cannot be had, by the field's name.
  """
  mesh = meshes.make(config.mesh)
  check(config, mesh)
  fields = dict(vars(config.data))
  dataset = data.load(fields.pop("name"), **fields)
  run = assemble(config, dataset.train.shape[1:], dataset.num_classes, mesh)
  run = run._replace(dataset=dataset)
  check_labels(run, config.sampling)
  return run


def check(config: config_lib.Config, mesh: jax.sharding.Mesh) -> None:
  """What needs no data: raises ValueError as `prepare` does."""
  for name, seed in (("seed", config.seed), ("evaluation.seed", config.evaluation.seed)):
    if not 0 <= seed < 2**31:
      raise ValueError(f"config.{name}: must lie in [0, 2³¹), got {seed}")
  build.at_least("evaluation.num_samples", config.evaluation.num_samples, 0)
  build.optimizer(config.training)
  meshes.check_batch(config.training, mesh)
  processes.check(config.sampling, build.path(config.path))


def assemble(
    config: config_lib.Config, shape: tuple[int, ...], num_classes: int, mesh: jax.sharding.Mesh
) -> Run:
  """The run on `mesh` for examples of `shape`, without any: `dataset` is None."""
  path = build.path(config.path)
  density = build.density(config.objective, path)
  weight = build.weight(config.objective, density)
  optimizer, averages = build.optimizer(config.training), build.averages(config.training)
  init, apply = build.network(
      config.network, shape, num_classes, constrain=shardings.constrain(mesh))
  loss = training.diffusion_loss(
      apply, density=density, weight=weight, prediction=build.prediction(config.objective),
      num_classes=num_classes, label_dropout=config.training.label_dropout)
  start = lambda key: training.init(init(key), optimizer, averages=len(averages))
  jax.eval_shape(start, jax.random.key(0))  # a network that does not fit the data says so now
  return Run(config, None, mesh, path, apply, start, loss, optimizer, averages)


def alone(run: Run) -> Run:
  """The same run on one device of this process, for what is too small to be split."""
  if run.mesh.size == 1:
    return run
  mesh = meshes.make(config_lib.Mesh(), jax.local_devices()[:1])
  return assemble(run.config, run.dataset.train.shape[1:], run.dataset.num_classes,
                  mesh)._replace(dataset=run.dataset)


def abstract_state(run: Run) -> training.TrainState:
  """Shapes, dtypes and shardings of the run's state: what a checkpoint is restored into."""
  shapes = jax.eval_shape(run.init, jax.random.key(run.config.seed))
  return jax.tree.map(
      lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
      shapes, shardings.state(shapes, run.mesh))


def start(run: Run) -> training.TrainState:
  """The state before the first step, on its devices; the same whatever the mesh."""
  places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(run))
  # The seed is an argument: runs of other seeds find the compiled program in the cache.
  return jax.jit(lambda seed: run.init(jax.random.key(seed)), out_shardings=places)(
      np.uint32(run.config.seed))


def train_step(run: Run, *, many: bool = False) -> Callable:
  """(state, seed, batch) → (state, metrics), compiled for the run's mesh; the state is donated.

  `seed` is np.uint32(config.seed + 1), of the key of every step. Metrics have a leading axis of
  steps; with `many`, so have batches: `training.train_steps`.
  """
  config = run.config.training
  options = {"loss": run.loss, "optimizer": run.optimizer, "averages": run.averages,
             "accumulation": config.accumulation}

  def step(state, seed, batch):
    key = jax.random.key(seed)
    if many:
      return training.train_steps(state, key, batch, **options)
    state, measured = training.train_step(state, key, batch, **options)
    return state, jax.tree.map(lambda leaf: leaf[None], measured)

  places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(run))
  everywhere = shardings.replicated(run.mesh)
  return jax.jit(
      step, in_shardings=(places, everywhere, shardings.batch(run.mesh, axis=int(many))),
      out_shardings=(places, everywhere), donate_argnums=0)


def trained(workdir: pathlib.Path) -> tuple[Run, training.TrainState]:
  """The run in `workdir` and the state of its newest checkpoint.

  Raises:
    ValueError: no run there, no checkpoint yet, or one that cannot be read.
  """
  run = prepare(records.read_config(workdir))
  return run, restored(run, workdir)


def restored(run: Run, workdir: pathlib.Path) -> training.TrainState:
  """The state of the newest checkpoint in `workdir`; raises ValueError as `trained` does."""
  if not (workdir / "checkpoints").is_dir():
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  with checkpoints.manager(workdir, keep=1, read_only=True) as manager:
    state = checkpoints.restore(manager, abstract_state(run))
  if state is None:
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  return state


def denoiser(
    run: Run, params: Any, path: paths.Path, labels: jax.Array,
    sampling: config_lib.Sampling | None = None,
) -> predictions.Denoiser:
  """The network as `denoise(x_t, t)` along `path`, for one batch with these labels.

  With `sampling`, under its guidance.
  """
  network = lambda x, ell, labels: run.apply(params, x, ell, labels)
  row = build.prediction(run.config.objective)
  if sampling is None or sampling.guidance == 1.0:
    return predictions.denoiser(lambda x, ell: network(x, ell, labels), path, prediction=row)
  return guidance.classifier_free(
      network, path, labels, null_label=run.dataset.num_classes, weight=sampling.guidance,
      prediction=row, interval=processes.guided_interval(sampling),
      rescale=sampling.guidance_rescale)


def check_labels(run: Run, sampling: config_lib.Sampling, *, unlabelled: bool = False) -> None:
  """Raises ValueError where guidance, or sampling without labels, needs a model that is not there.

  The model without labels is what `training.label_dropout` has trained.
  """
  what = "sampling.guidance" if sampling.guidance != 1.0 else "--label=none" if unlabelled else ""
  if not what or (unlabelled and not run.dataset.num_classes):
    return
  if not run.dataset.num_classes:
    raise ValueError(f"{what} needs data with labels, and data.name={run.config.data.name!r} "
                     "has none")
  if not run.config.training.label_dropout > 0.0:
    raise ValueError(f"{what} needs a run that was trained with training.label_dropout > 0: no "
                     "other knows what there is without a label")


def even_labels(run: Run, n: int) -> np.ndarray:
  """n labels that go round the classes; zeros (which are ignored) where there are none."""
  return (np.arange(n) % max(run.dataset.num_classes, 1)).astype(np.int32)


def data_labels(run: Run, n: int, seed: int) -> np.ndarray:
  """n labels as frequent as in the training data: what samples must have to be compared with it."""
  if not run.dataset.num_classes:
    return np.zeros(n, np.int32)
  labels = np.resize(np.random.default_rng(seed).permutation(run.dataset.train_labels), n)
  return labels.astype(np.int32)


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
    run: Run, params: Any, sampling: config_lib.Sampling, path: paths.Path, labels: np.ndarray, *,
    seed: int, start: int = 0, known: Known | None = None,
) -> Iterator[np.ndarray]:
  """Samples from the `start`-th on, batch by batch, in the user's units, (k, *shape) float32.

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
  draw = jax.jit(_drawing(run, sampling, path, (size, *run.dataset.train.shape[1:]), known))
  sent: list[tuple[int, jax.Array]] = []
  for first in range(start, n, size):
    # The last batch repeats its end, so that one compiled program serves all.
    index = np.minimum(np.arange(first, first + size), n - 1)
    sent.append((first, draw(params, *_arguments(run.mesh, labels, index, seed, known))))
    if len(sent) > 1:
      yield _finished(run, *sent.pop(0), n, known, sampling)
  for first, x in sent:
    yield _finished(run, first, x, n, known, sampling)


def batch_size(mesh: jax.sharding.Mesh, sampling: config_lib.Sampling, n: int) -> int:
  """How many samples are drawn at once: no more than wanted, and as many on every device."""
  size = min(sampling.batch_size, n)
  return size + -size % shardings.batch_shards(mesh)


def draw(
    run: Run, params: Any, sampling: config_lib.Sampling, path: paths.Path, labels: np.ndarray, *,
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
    run: Run, params: Any, sampling: config_lib.Sampling, path: paths.Path, labels: np.ndarray, *,
    seed: int, known: Known | None = None,
) -> samplers.Trajectory:
  """The whole reverse runs of the first len(labels) samples of `batches`, on the path's own scale.

  In standard units and neither clipped nor rounded; on one device, where `params` must be whole.
  """
  run, n = alone(run), len(labels)
  arguments = _arguments(None, labels, np.arange(n), seed, known)
  run_back = _drawing(run, sampling, path, (n, *run.dataset.train.shape[1:]), known,
                      samplers.trajectory)
  return jax.tree.map(np.asarray, jax.jit(run_back)(params, *arguments))


def _drawing(run, sampling, path, shape, known, sample=samplers.sample) -> Callable:
  """A function (params, keys, labels, values, mask) → what `sample` makes of the process."""
  method, grid, brownian = processes.process(sampling, event_axes=len(shape) - 1)
  start = data.moments(run.dataset) if sampling.moments else None

  def solve(params, keys, labels, values, mask):
    return samplers.adaptive(
        keys, denoiser(run, params, path, labels, sampling), path, shape=shape, moments=start,
        tolerance=processes.tolerance(sampling), rho_min=sampling.rho_min,
        rho_max=sampling.rho_max).x

  if sampling.sampler == "adaptive":
    return solve

  def draw(params, keys, labels, values, mask):
    here = method if known is None else known.method(method, values, mask)
    return sample(keys, denoiser(run, params, path, labels, sampling), path, shape=shape,
                  method=here, grid=grid, brownian=brownian, moments=start)

  return draw


def _arguments(mesh, labels, index, seed, known) -> tuple:
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(index))
  given = (None, None) if known is None else (
      known.values[index % len(known.values)], known.mask[index % len(known.mask)])
  arguments = keys, labels[index], *given
  return arguments if mesh is None else hosts.spread(shardings.batch(mesh), arguments)


def _finished(run, first, x, n, known, sampling) -> np.ndarray:
  """A batch in the user's units, checked; without what repeats the last sample."""
  x = data.restore(run.dataset, hosts.fetch(x)[:n - first])
  last = first + len(x)
  why = "" if sampling.sampler != "adaptive" else (
      f": tolerance={processes.tolerance(sampling)} was not reached within 1024 steps (raise it, "
      "or take a sampler of fixed steps), or the model itself is not finite")
  if bad := int(np.sum(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))):
    raise FloatingPointError(f"{bad} of samples {first}…{last - 1} are not finite{why}; nothing "
                             "was written")
  x = np.round(x) if run.dataset.integers else x
  x = x if run.dataset.value_range is None else np.clip(x, *run.dataset.value_range)
  if known is not None:
    # What was given comes back as it was given, whatever standardising has rounded.
    index = np.arange(first, last)
    mask = known.mask[index % len(known.mask)]
    x = np.where(mask, known.restored[index % len(known.restored)], x)
  return x
