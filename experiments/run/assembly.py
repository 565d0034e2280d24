"""A run as an object: what its config makes, its state on a mesh, the model in its workdir."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from experiments import config as config_lib
from experiments import data
from experiments.config import build
from experiments.data import facts
from experiments.run import checkpoints, conditions, files, memory, meshes, records
from experiments.sampling import samplers_from_config
from langevin_jax import conditions as conditions_lib
from langevin_jax import flow_maps, training
from langevin_jax.training import shardings


class Run(NamedTuple):
  """Everything that a config determines; making one is what finds bad input.

  make_loss: `loss` of another density, weight, prediction and label_dropout.
  example: shapes and dtypes of a batch of two, (x₀, condition).
  """

  config: config_lib.Config
  dataset: data.Dataset
  mesh: jax.sharding.Mesh
  path: build.Path
  apply: Callable[..., jax.Array]
  init: Callable[[jax.Array], training.TrainState]
  loss: training.Loss | training.AdaptiveLoss
  optimizer: optax.GradientTransformation
  averages: tuple[training.averages.Average, ...]
  make_loss: Callable[..., training.Loss]
  example: tuple[jax.ShapeDtypeStruct, Any]


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


def prepare(
    config: config_lib.Config, dataset: data.Dataset | None = None, *,
    workdir: pathlib.Path | None = None,
) -> Run:
  """Builds and checks everything that `config` names, on all devices; nothing is written.

  Args:
    dataset: in the place of the config's own, which are loaded if it is not given.
    workdir: of the run that goes on, whose recorded units the data get.

  Raises:
    ValueError: anything that the config asks for and cannot be had, by the field's name.
  """
  mesh = meshes.make(config.mesh)
  check(config)
  memory.check_state(config, mesh)
  if dataset is None:
    dataset = facts.load(workdir, config.data) if workdir else data.load(config.data)
  run = assemble(config, dataset.train.shape[1:], dataset.num_classes, mesh,
                 conditions.kinds(dataset), len(dataset.vocabulary))._replace(dataset=dataset)
  check_labels(run, config.sampling)
  if config.sampling.clip:
    data.bounds(dataset)
  return run


def check(config: config_lib.Config) -> None:
  """What needs no data: raises ValueError as `prepare` does."""
  for name, seed in (("seed", config.seed), ("evaluation.seed", config.evaluation.seed)):
    if not 0 <= seed < 2**31:
      raise ValueError(f"config.{name}: must lie in [0, 2³¹), got {seed}")
  build.at_least("evaluation.num_samples", config.evaluation.num_samples, 0)
  build.optimizer(config.training)
  samplers_from_config.check(config.sampling, build.path(config.path))
  for field in ("sample_every", "evaluate_every"):
    build.at_least(f"training.{field}", getattr(config.training, field), 0)
  if config.training.evaluate_metrics and not config.training.evaluate_every:
    raise ValueError("config.training.evaluate_metrics would do nothing without "
                     "training.evaluate_every, the steps between two evaluations")
  if config.training.sample_every or config.training.evaluate_metrics:
    samplers_from_config.check_whole(config.sampling)
    if config.sampling.grid.name == "optimised":
      raise ValueError("config.training.sample_every: sampling.grid=optimised is searched for with "
                       "a trained model; choose another grid")


def assemble(
    config: config_lib.Config, shape: tuple[int, ...], num_classes: int, mesh: jax.sharding.Mesh,
    kinds: Mapping[str, conditions_lib.Kind] = MappingProxyType({}), vocabulary: int = 0,
) -> Run:
  """The run on `mesh` for examples of `shape`, without any: `dataset` is None.

  Args:
    kinds: of named conditions. vocabulary: the number of tokens, 0 of other data.
  """
  path, tokens = build.path(config.path, vocabulary), build.tokens(config.path, vocabulary)
  build.check_objective(config.objective, path)
  density, weight, identity = build.objective(config)
  optimizer, averages = build.optimizer(config.training), build.averages(config.training)
  init, apply = build.network(
      config.network, shape, num_classes, conditions=kinds, constrain=shardings.constrain(mesh),
      second_level=identity is not None, tokens=tokens)
  if identity is not None:
    taught = None if config.objective.teacher is None else lambda *inputs: teacher(
        config, shape, num_classes, mesh, tuple(kinds.items()))(*inputs)
    _check_guided(identity, num_classes, kinds)
    make_loss = functools.partial(
        training.flow_map_loss, apply, num_classes=num_classes, identity=identity, teacher=taught)
  elif tokens is not None:
    make_loss = lambda prediction, **options: training.token_loss(
        apply, tokens, num_classes=num_classes, **options)
  else:
    make_loss = functools.partial(training.diffusion_loss, apply, num_classes=num_classes,
                                  random=bool(config.network.get("dropout", 0.0)))
  if config.objective.autoencoder is not None:
    loss = build.autoencoder(config, apply)
  else:
    try:
      loss = training.adaptive_loss(functools.partial(
          make_loss, prediction=build.prediction(config.objective),
          label_dropout=config.training.label_dropout), density=density, weight=weight)
    except ValueError as error:
      raise ValueError(f"config.objective.flow_map: {error}") from error
  start = lambda key: training.init(init(key), optimizer, averages=len(averages), loss=loss)
  jax.eval_shape(start, jax.random.key(0))  # a network that does not fit the data says so now
  return Run(config, None, mesh, path, apply, start, loss, optimizer, averages, make_loss,
             abstract_batch(shape, kinds, 2, vocabulary))


def _check_guided(
    identity: flow_maps.Identity, num_classes: int, kinds: Mapping[str, conditions_lib.Kind]
) -> None:
  """Raises ValueError where the data lack the condition that guides the targets of a flow map."""
  field = "config.objective.flow_map"
  if isinstance(identity.omega, str) and kinds.get(identity.omega) != conditions_lib.Kind(()):
    raise ValueError(f"{field}: omega={identity.omega!r} must name a condition of one real number, "
                     f"got {', '.join(kinds) or 'data without named conditions'}")
  if identity.is_guided and not (num_classes or kinds):
    raise ValueError(f"{field}: omega and kappa need data with labels or other conditions")


@functools.lru_cache(maxsize=1)
def teacher(
    config: config_lib.Config, shape: tuple[int, ...], num_classes: int, mesh: jax.sharding.Mesh,
    kinds: tuple[tuple[str, conditions_lib.Kind], ...] = (),
) -> Callable[..., jax.Array]:
  """(x, ℓ, condition) → ε̂ − D of the first average of `objective.teacher`.

  Only a training needs it: a trained run can be sampled where its teacher is gone.

  Raises:
    ValueError: no trained run there, or one of other data.
  """
  workdir = files.path("config.objective.teacher", config.objective.teacher)
  taught = records.read_config(workdir)
  if taught.data != config.data:
    raise ValueError(f"config.objective.teacher: {workdir} was trained on {taught.data}, this run "
                     f"is of {config.data}: a teacher must have the run's own data")
  run = assemble(dataclasses.replace(taught, mesh=config.mesh), shape, num_classes, mesh,
                 dict(kinds))
  params = restored(run, workdir).ema[0]
  if mesh.size == 1:
    params = jax.tree.map(np.asarray, params)  # a sweep uses them on several devices
  row = build.prediction(taught.objective)
  return lambda x, ell, condition: flow_maps.velocity(
      lambda x, ell: run.apply(params, x, ell, condition), prediction=row)(x, ell)


def load_teacher(run: Run) -> None:
  """Loads the teacher of a training, where it has one; raises ValueError as `teacher`."""
  if run.config.objective.teacher is not None:
    teacher(run.config, run.dataset.train.shape[1:], run.dataset.num_classes, run.mesh,
            tuple(conditions.kinds(run.dataset).items()))


def alone(run: Run) -> Run:
  """The same run on one device of this process, for what is too small to be split."""
  if run.mesh.size == 1:
    return run
  mesh = meshes.make(config_lib.Mesh(), jax.local_devices()[:1])
  return assemble(run.config, run.dataset.train.shape[1:], run.dataset.num_classes,
                  mesh, conditions.kinds(run.dataset), len(run.dataset.vocabulary))._replace(
                      dataset=run.dataset)


def abstract_state(run: Run) -> training.TrainState:
  """Shapes, dtypes and shardings of the run's state: what a checkpoint is restored into."""
  shapes = jax.eval_shape(run.init, jax.random.key(run.config.seed))
  return jax.tree.map(
      lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
      shapes, shardings.state(shapes, run.mesh))


def abstract_batch(
    shape: tuple[int, ...], kinds: Mapping[str, conditions_lib.Kind], n: int, vocabulary: int = 0
) -> tuple[jax.ShapeDtypeStruct, Any]:
  """Shapes and dtypes of a batch (x₀, condition) of n examples of `shape`.

  Args:
    kinds: of named conditions. Without any the condition is labels.
    vocabulary: the number of tokens, 0 of other data.
  """
  return jax.eval_shape(lambda: (
      jnp.zeros((n, *shape), jnp.int32 if vocabulary else jnp.float32),
      conditions_lib.example(kinds, n) if kinds else jnp.zeros(n, jnp.int32)))


def average_names(config: config_lib.Training) -> list[str]:
  """Names of the averages in `state.ema`, in its order."""
  return [*(f"half_life={life:.12g}" for life in config.ema_half_life_steps),
          *(f"relative_std={std:.12g}" for std in config.ema_relative_std)]


def learned_name(run: Run) -> str:
  """Of what the objective learns: its density and weight; "" if it learns nothing."""
  objective = run.config.objective
  return (f"{objective.density}, {objective.weight}"
          if isinstance(run.loss, training.AdaptiveLoss) else "")


def save(
    manager: checkpoints.Manager, step: int, state: training.TrainState, run: Run
) -> None:
  """`checkpoints.save` with the names by which `state_reader` knows averages and objective."""
  checkpoints.save(manager, step, state, average_names(run.config.training), learned_name(run))


def state_reader(
    run: Run, assumed: config_lib.Training | None = None
) -> Callable[[checkpoints.Manager, int, training.TrainState], training.TrainState]:
  """A `checkpoints.read` of the states of `run`, also where its config has changed.

  An average of the checkpoint is kept by its name. A new one starts as the parameters. What the
  objective has learned is kept if density and weight are the same, and starts anew otherwise.

  Args:
    assumed: whose averages a checkpoint has that does not name them; the run's if not given.
  """
  wanted, learned = average_names(run.config.training), learned_name(run)

  def read(manager, step, target):
    held, held_learned = checkpoints.names_of(manager, step)
    if not held and average_names(assumed or run.config.training) != wanted:
      raise ValueError(f"config.training.ema_half_life_steps cannot change: the checkpoint of step "
                       f"{step} does not name its averages; an earlier version has saved it")
    held = held or wanted
    same = held_learned == learned
    state = checkpoints.read(manager, step, target._replace(
        ema=(target.params,) * len(held), learned=target.learned if same else ()), part=not same)
    if not same and learned:
      places = jax.tree.map(lambda leaf: leaf.sharding, target.learned)
      state = state._replace(learned=jax.jit(lambda: run.loss.init, out_shardings=places)())
    if held == wanted:
      return state
    return state._replace(ema=tuple(
        state.ema[held.index(name)] if name in held else jax.tree.map(jnp.copy, state.params)
        for name in wanted))

  return read


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
  return 1 if _convolves_on_cpu(run) else run.config.training.steps_per_dispatch


def compiler_options(run: Run) -> dict[str, str]:
  """XLA's options for programs of the run's network: `meshes.own_convolutions` if it has some."""
  return meshes.own_convolutions("cpu") if _convolves_on_cpu(run) else {}


def _convolves_on_cpu(run: Run) -> bool:
  return run.mesh.devices.flat[0].platform == "cpu" and _convolves(run)


def _convolves(run: Run) -> bool:
  """Whether the network has a convolution."""
  x, condition = run.example
  ell = jax.ShapeDtypeStruct((2,), np.float32)
  traced = jax.make_jaxpr(run.apply)(abstract_state(run).params, x, ell, condition)

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
             "accumulation": config.accumulation, "norms": True}
  places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(run))
  everywhere = shardings.replicated(run.mesh)
  options_of_jit = {"out_shardings": (places, everywhere), "donate_argnums": 0,
                    "compiler_options": compiler_options(run)}
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
  reader = state_reader(run)
  with checkpoints.manager(workdir, keep=1, read_only=True) as manager:
    steps = sorted(manager.all_steps())
    if step is not None and steps and step not in steps:
      raise ValueError(f"--step must be one of the checkpoints in {workdir}, "
                       f"{', '.join(map(str, steps))}; got {step}")
    if step is None or not steps:
      state = checkpoints.restore(manager, abstract_state(run), reader=reader)
    else:
      try:
        state = reader(manager, step, abstract_state(run))
      except checkpoints.Damaged as error:
        raise ValueError(f"--step={step}: that checkpoint in {workdir} is damaged ({error})"
                         ) from error
  if state is None:
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  return state


def check_labels(run: Run, sampling: config_lib.Sampling, *, unlabelled: bool = False) -> None:
  """Raises ValueError where guidance, or sampling without labels, needs a model that is not there.

  Also where there is no label to guide towards. The model without labels is what
  `training.label_dropout` has trained.
  """
  guided = samplers_from_config.is_guided(sampling)
  what = "sampling.guidance" if guided else "sampling without labels"
  if not run.dataset.num_classes and not run.dataset.conditions:
    if guided:
      raise ValueError(f"{what} needs data with labels, and {run.config.data.name} has none: "
                       "leave it out")
    return
  if guided and unlabelled:
    raise ValueError(f"{what} does nothing without a label: set it to none, or give a label")
  if not guided and not unlabelled:
    return
  if not run.config.training.label_dropout > 0.0:
    raise ValueError(f"{what} needs a run that was trained with training.label_dropout > 0 (of "
                     "imported weights null_label=True): no other knows what there is without a "
                     "label")


def even_labels(run: Run, n: int) -> Any:
  """n labels that go round the classes; zeros (which are ignored) where there are none.

  Of named conditions those of the first n training examples, which go round.
  """
  if run.dataset.conditions:
    return conditions.of_examples(run.dataset, np.arange(n) % max(len(run.dataset.train), 1))
  return (np.arange(n) % max(run.dataset.num_classes, 1)).astype(np.int32)


def data_labels(run: Run, n: int, seed: int) -> Any:
  """n labels as frequent as in the training data: what samples must have to be compared with it.

  Named conditions are those of training examples.
  """
  if run.dataset.conditions:
    order = np.random.default_rng(seed).permutation(len(run.dataset.train))
    return conditions.of_examples(run.dataset, np.resize(order, n))
  if not run.dataset.num_classes:
    return np.zeros(n, np.int32)
  labels = np.resize(np.random.default_rng(seed).permutation(run.dataset.train_labels), n)
  return labels.astype(np.int32)
