"""A run as an object: what its config makes, the trained model in its workdir, and its samples."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import build, checkpoints, data, records
from experiments import config as config_lib
from langevin_jax import paths, predictions, samplers, training

Progress = Callable[[int], None]


class Run(NamedTuple):
  """Everything that a config determines; making one is what finds bad input."""

  config: config_lib.Config
  dataset: data.Dataset
  path: paths.Path
  apply: Callable[..., jax.Array]
  init: Callable[[jax.Array], training.TrainState]
  loss: training.Loss
  optimizer: optax.GradientTransformation


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
  """Builds and checks everything that `config` names; nothing is written.

  Raises:
    ValueError: anything that the config asks for and cannot be had, by the field's name.
  """
  for name, seed in (("seed", config.seed), ("evaluation.seed", config.evaluation.seed)):
    if not 0 <= seed < 2**31:
      raise ValueError(f"config.{name}: must lie in [0, 2³¹), got {seed}")
  build.at_least("evaluation.num_samples", config.evaluation.num_samples, 0)
  path = build.path(config.path)
  density = build.density(config.objective, path)
  weight = build.weight(config.objective, density)
  prediction = build.prediction(config.objective)
  optimizer = build.optimizer(config.training)
  build.method(config.sampling)
  build.grid(config.sampling)
  fields = vars(config.data)
  dataset = data.load(fields["name"], **{k: v for k, v in fields.items() if k != "name"})
  init, apply = build.network(config.network, dataset.train.shape[1:], dataset.num_classes)
  loss = training.diffusion_loss(
      apply, density=density, weight=weight, prediction=prediction,
      num_classes=dataset.num_classes, label_dropout=config.training.label_dropout)
  start = lambda key: training.init(init(key), optimizer)
  run = Run(config, dataset, path, apply, start, loss, optimizer)
  jax.eval_shape(start, jax.random.key(0))  # a network that does not fit the data says so now
  return run


def sharding(*axes: str | None) -> jax.sharding.NamedSharding:
  """Axes over all devices as one mesh axis "data"; no axes: replicated."""
  mesh = jax.make_mesh((jax.device_count(),), ("data",),
                       axis_types=(jax.sharding.AxisType.Auto,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def abstract_state(run: Run) -> training.TrainState:
  """Shapes, dtypes and shardings of the run's state: what a checkpoint is restored into."""
  shapes = jax.eval_shape(run.init, jax.random.key(run.config.seed))
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding()), shapes)


def trained(workdir: pathlib.Path) -> tuple[Run, training.TrainState]:
  """The run in `workdir` and the state of its newest checkpoint.

  Raises:
    ValueError: no run there, no checkpoint yet, or one that cannot be read.
  """
  run = prepare(records.read_config(workdir))
  if not (workdir / "checkpoints").is_dir():
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  with checkpoints.manager(workdir, keep=1, read_only=True) as manager:
    state = checkpoints.restore(manager, abstract_state(run))
  if state is None:
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  return run, state


def denoiser(
    run: Run, params: Any, path: paths.Path, labels: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The network as `denoise(x_t, t)` along `path`, for one batch with these labels."""
  network = lambda x, ell: run.apply(params, x, ell, labels)
  return predictions.denoiser(
      network, path, prediction=build.prediction(run.config.objective))


def even_labels(run: Run, n: int) -> np.ndarray:
  """n labels that go round the classes; zeros (which are ignored) where there are none."""
  return (np.arange(n) % max(run.dataset.num_classes, 1)).astype(np.int32)


def data_labels(run: Run, n: int, seed: int) -> np.ndarray:
  """n labels as frequent as in the training data: what samples must have to be compared with it."""
  if not run.dataset.num_classes:
    return np.zeros(n, np.int32)
  labels = np.resize(np.random.default_rng(seed).permutation(run.dataset.train_labels), n)
  return labels.astype(np.int32)


def draw(
    run: Run, params: Any, sampling: config_lib.Sampling, path: paths.Path, labels: np.ndarray, *,
    seed: int, progress: Progress = lambda done: None,
) -> np.ndarray:
  """One sample per label, in the user's units, shape (n, *data shape), float32.

  Sample i depends on (seed, i, its label) alone, not on the batch it rides in. Samples of images
  are clipped to the range of the data, and rounded where the data are whole grey levels.

  Raises:
    FloatingPointError: a sample is not finite.
  """
  method, grid = build.method(sampling), build.grid(sampling)
  shape = run.dataset.train.shape[1:]
  n = len(labels)
  size = min(sampling.batch_size, n)
  size += -size % jax.device_count()

  @jax.jit
  def batch(params, keys, labels):
    return samplers.sample(keys, denoiser(run, params, path, labels), path,
                           shape=(size, *shape), method=method, grid=grid)

  params = jax.device_put(params, sharding())
  key = jax.random.key(seed)
  parts = []
  for start in range(0, n, size):
    # The last batch repeats its end, so that one compiled program serves all.
    index = np.minimum(np.arange(start, start + size), n - 1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(index))
    keys, now = jax.device_put((keys, jnp.asarray(labels[index])), sharding("data"))
    parts.append(np.asarray(batch(params, keys, now))[:n - start])
    progress(min(start + size, n))
  x = data.restore(run.dataset, np.concatenate(parts))
  if bad := int(np.sum(~np.isfinite(x.reshape(n, -1)).all(axis=1))):
    raise FloatingPointError(f"{bad} of {n} samples are not finite; nothing was written")
  x = np.round(x) if run.dataset.integers else x
  return x if run.dataset.value_range is None else np.clip(x, *run.dataset.value_range)
