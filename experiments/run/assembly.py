"""A run as an object: what its config makes, its state on a mesh, the model in its workdir."""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.extend import core

from experiments import config as config_lib
from experiments import data
from experiments.config import build
from experiments.data import facts
from experiments.run import checkpoints, memory, meshes, records
from experiments.sampling import samplers_from_config
from langevin_jax import paths, training
from langevin_jax.training import shardings


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
  """Virtual CPU devices and the persistent compilation cache; call before anything touches jax."""
  build.at_least("training.cpu_devices", config.training.cpu_devices, 1)
  build.at_most("training.cpu_devices", config.training.cpu_devices, build.MOST_CPU_DEVICES)
  jax.config.update("jax_num_cpu_devices", config.training.cpu_devices)
  keep_compiled()


def keep_compiled() -> None:
  """The persistent compilation cache, in JAX_COMPILATION_CACHE_DIR or in langevin_jax/ of the
  user's cache directory."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    try:
      home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:  # a container's user may have no home; then nothing is kept
      return
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "langevin_jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def prepare(config: config_lib.Config, dataset: data.Dataset | None = None) -> Run:
  """Builds and checks everything that `config` names, on all devices; nothing is written.

  Args:
    dataset: in the place of the config's own, which are loaded if it is not given.

  Raises:
    ValueError: anything that the config asks for and cannot be had, by the field's name.
  """
  mesh = meshes.make(config.mesh)
  check(config)
  memory.check_state(config, mesh)
  dataset = data.load(config.data) if dataset is None else dataset
  run = assemble(config, dataset.train.shape[1:], dataset.num_classes, mesh)
  run = run._replace(dataset=dataset)
  check_labels(run, config.sampling)
  return run


def check(config: config_lib.Config) -> None:
  """What needs no data: raises ValueError as `prepare` does."""
  for name, seed in (("seed", config.seed), ("evaluation.seed", config.evaluation.seed)):
    if not 0 <= seed < 2**31:
      raise ValueError(f"config.{name}: must lie in [0, 2³¹), got {seed}")
  build.at_least("evaluation.num_samples", config.evaluation.num_samples, 0)
  build.optimizer(config.training)
  samplers_from_config.check(config.sampling, build.path(config.path))


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


def steps_at_once(run: Run) -> int:
  """The most steps of a dispatch: `training.steps_per_dispatch`, or 1 where a loop is slow.

  A CPU computes the gradient of a convolution many times slower inside a loop than outside.
  """
  if jax.devices()[0].platform == "cpu" and _convolves(run):
    return 1
  return run.config.training.steps_per_dispatch


def _convolves(run: Run) -> bool:
  """Whether the network has a convolution."""
  shape = (2, *run.dataset.train.shape[1:])
  arguments = (jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct((2,), np.float32),
               jax.ShapeDtypeStruct((2,), np.int32))
  traced = jax.make_jaxpr(run.apply)(abstract_state(run).params, *arguments)

  def inside(jaxpr):
    return any(equation.primitive.name == "conv_general_dilated"
               or any(map(inside, core.jaxprs_in_params(equation.params)))
               for equation in jaxpr.eqns)

  return inside(traced.jaxpr)


def train_step(run: Run, *, many: bool = False) -> Callable:
  """(state, seed, batch) → (state, metrics), compiled for the run's mesh; the state is donated.

  `seed` is np.uint32(config.seed + 1), of the key of every step. Metrics have a leading axis of
  steps; with `many`, so have batches, and a fourth argument says how many of them are taken, all
  if it is left out: `training.train_steps`.
  """
  config = run.config.training
  options = {"loss": run.loss, "optimizer": run.optimizer, "averages": run.averages,
             "accumulation": config.accumulation}
  places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(run))
  everywhere = shardings.replicated(run.mesh)
  options_of_jit = {"out_shardings": (places, everywhere), "donate_argnums": 0}
  arguments = (places, everywhere, shardings.batch(run.mesh, axis=int(many)))

  def step(state, seed, batch):
    state, measured = training.train_step(state, jax.random.key(seed), batch, **options)
    return state, jax.tree.map(lambda leaf: leaf[None], measured)

  def steps(state, seed, batches, count):
    return training.train_steps(state, jax.random.key(seed), batches, count=count, **options)

  if not many:
    return jax.jit(step, in_shardings=arguments, **options_of_jit)
  compiled = jax.jit(steps, in_shardings=(*arguments, everywhere), **options_of_jit)
  return lambda state, seed, batches, count=None: compiled(
      state, seed, batches, np.int32(len(batches[0]) if count is None else count))


def trained(workdir: pathlib.Path) -> tuple[Run, training.TrainState]:
  """The run in `workdir` and the state of its newest checkpoint.

  Raises:
    ValueError: no run there, no checkpoint yet, or one that cannot be read.
  """
  config = records.read_config(workdir)
  dataset, _ = facts.with_examples(workdir, config.data, needed_by=str(workdir))
  run = prepare(config, dataset)
  return run, restored(run, workdir)


def restored(
    run: Run, workdir: pathlib.Path, *, step: int | None = None
) -> training.TrainState:
  """The state of the newest checkpoint in `workdir`, or of `step`; raises ValueError as `trained`.
  """
  if not (workdir / "checkpoints").is_dir():
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  with checkpoints.manager(workdir, keep=1, read_only=True) as manager:
    steps = sorted(manager.all_steps())
    if step is not None and steps and step not in steps:
      raise ValueError(f"--step must be one of the checkpoints in {workdir}, "
                       f"{', '.join(map(str, steps))}; got {step}")
    if step is None or not steps:
      state = checkpoints.restore(manager, abstract_state(run))
    else:
      try:
        state = checkpoints.read(manager, step, abstract_state(run))
      except checkpoints.Damaged as error:
        raise ValueError(f"--step={step}: that checkpoint in {workdir} is damaged ({error})"
                         ) from error
  if state is None:
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  return state


def check_labels(run: Run, sampling: config_lib.Sampling, *, unlabelled: bool = False) -> None:
  """Raises ValueError where guidance, or sampling without labels, needs a model that is not there.

  The model without labels is what `training.label_dropout` has trained.
  """
  guided = samplers_from_config.is_guided(sampling)
  what = "sampling.guidance" if guided else "sampling without labels" if unlabelled else ""
  if not what or (unlabelled and not run.dataset.num_classes):
    return
  if not run.dataset.num_classes:
    raise ValueError(f"{what} needs data with labels, and {run.config.data.name} has none")
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
