"""From a config to the library's objects; what belongs to sampling is `samplers_from_config`."""

import pathlib
from collections.abc import Callable
from types import MappingProxyType

import jax
import optax

from experiments import config as config_lib
from experiments.config import adapters, calls
from experiments.config.calls import Call
from experiments.run import loggers
from langevin_jax import discrete, flow_maps, objectives, paths, predictions, training

# Devices that one CPU can stand for.
MOST_CPU_DEVICES = 1024


# A forward process on ℝ^d, or on tokens.
Path = paths.Path | discrete.paths.Path


def path(call: Call, vocabulary: int = 0) -> Path:
  """The forward process of `config.path`.

  Args:
    vocabulary: of the data, 0 where they are not tokens. Without the data it is 2, on which no
      check depends.
  """
  return calls.build(call, "path", "config.path", vocabulary=vocabulary or 2)


def check_noise(trained: Call, call: Call) -> None:
  """Raises ValueError where a run of `trained` cannot be sampled along the path `call`.

  Of numbers it can along all paths, of tokens along those that differ in their clock.
  """
  if trained.name != call.name and (is_discrete(path(trained)) or is_discrete(path(call))):
    raise ValueError(f"config.path={call.name}: the run has learned the noise of {trained.name}, "
                     "and no other; a path of tokens may have another clock")


def is_discrete(path: Path) -> bool:
  """Whether the process is one of tokens."""
  return isinstance(path, discrete.paths.Path)


def tokens(call: Call, vocabulary: int) -> discrete.paths.Path | None:
  """The process of `config.path` if the data are tokens, of a `vocabulary`; else None.

  Raises:
    ValueError: a process of numbers for tokens, or the reverse.
  """
  found = path(call, vocabulary)
  if bool(vocabulary) != is_discrete(found):
    raise ValueError(f"config.path={call.name} is for "
                     + ("numbers; tokens have absorbing() or uniform()" if vocabulary else
                        "tokens, and these data are numbers; rectified_flow() is for them"))
  return found if isinstance(found, discrete.paths.Path) else None


def prediction(config: config_lib.Objective) -> predictions.Row:
  """The row of Table 5 that the network predicts."""
  return calls.build(config.prediction, "prediction", "config.objective.prediction")


def check_objective(config: config_lib.Objective, path: Path) -> None:
  """Raises ValueError for an objective that is not for tokens, on a path of them."""
  if not is_discrete(path):
    return
  if config.prediction.name != "x0":
    raise ValueError("config.objective.prediction: of tokens the network predicts the law of x₀: "
                     f"set x0(); got {config.prediction.name}")
  for name in ("flow_map", "teacher"):
    if getattr(config, name) is not None:
      raise ValueError(f"config.objective.{name} is for numbers, and these data are tokens")
  pi = density(config, path)
  for name, choice in (("density", pi), ("weight", weight(config, pi))):
    if objectives.base(choice) is not choice:
      raise ValueError(f"config.objective.{name}={getattr(config, name).name} is for numbers, and "
                       "these data are tokens")


def density(
    config: config_lib.Objective, path: Path
) -> objectives.Density | objectives.LearnedDensity:
  """π(ℓ) of `config.objective`; `path`, or its clock, is that of uniform_time."""
  path = path.clock if isinstance(path, discrete.paths.Path) else path
  return calls.build(config.density, "density", "config.objective.density", path=path)


def weight(
    config: config_lib.Objective, density: objectives.Density | objectives.LearnedDensity
) -> objectives.Weight | objectives.LearnedWeight:
  """w(ℓ) of `config.objective`."""
  return calls.build(config.weight, "weight", "config.objective.weight",
                     density=objectives.base(density))


def objective(config: config_lib.Config) -> tuple[
    objectives.Density | objectives.LearnedDensity, objectives.Weight | objectives.LearnedWeight,
    flow_maps.Identity | None]:
  """(π, w, the identity of a flow map or None) of a config.

  Raises:
    ValueError: a flow map with a learned density or weight, or an autoencoder without its
      objective, besides what the functions refuse.
  """
  if config.network.name == "autoencoder" and config.objective.autoencoder is None:
    raise ValueError("config.network=autoencoder is trained with config.objective.autoencoder, "
                     "such as reconstruction()")
  pi = density(config.objective, path(config.path))
  w, identity = weight(config.objective, pi), flow_map(config.objective)
  for field, choice in (("density", pi), ("weight", w)):
    if identity is not None and objectives.base(choice) is not choice:
      raise ValueError(f"config.objective.{field}: a flow map draws pairs of levels, for which "
                       f"{getattr(config.objective, field).name} is not made; choose another")
  if identity is not None:
    n, parts = config.training.batch_size, config.training.accumulation
    if (pairs := identity.pairs.off_diagonal(n)) % parts:
      raise ValueError(f"config.training.accumulation: {parts} must divide the {pairs} of {n} "
                       "examples that are off the diagonal; change diagonal= of the pairs")
  return pi, w, identity


def base_objective(
    config: config_lib.Config
) -> tuple[objectives.Density, objectives.Weight]:
  """(π₀, w₀) of a config, which do not depend on what is learned."""
  pi, w, _ = objective(config)
  return objectives.base(pi), objectives.base(w)


def flow_map(config: config_lib.Objective) -> flow_maps.Identity | None:
  """The identity of `config.objective`; None of an ordinary run."""
  if config.flow_map is not None:
    return calls.build(config.flow_map, "flow_map", "config.objective.flow_map")
  if config.teacher is not None:
    raise ValueError("config.objective.teacher teaches a flow map: set objective.flow_map, such "
                     "as eulerian()")
  return None


def autoencoder(config: config_lib.Config, apply: Callable[..., jax.Array]) -> training.Loss:
  """The loss of `config.objective.autoencoder`, for the network `apply` of the config.

  Raises:
    ValueError: another network, or fields of the config that would do nothing.
  """
  if config.network.name != "autoencoder":
    raise ValueError(f"config.network={config.network.name}: objective.autoencoder trains the "
                     "network autoencoder(…)")
  for field in ("sample_every", "evaluate_every"):
    if getattr(config.training, field):
      raise ValueError(f"config.training.{field} is for diffusion models: leave it out beside "
                       "objective.autoencoder")
  encode, decode = (lambda params, x, how=how: apply(params, x, how)
                    for how in ("encode", "decode"))
  return calls.build(config.objective.autoencoder, "autoencoder", "config.objective.autoencoder",
                     encode=encode, decode=decode)


def network(
    call: Call, shape: tuple[int, ...], num_classes: int, *,
    conditions: adapters.Kinds = MappingProxyType({}), second_level: bool = False,
    tokens: discrete.paths.Path | None = None,
    constrain: Callable[[jax.Array], jax.Array] = lambda h: h,
) -> adapters.Network:
  """The network for data of `shape`, of a flow map with `second_level`.

  A function of the slot may have these parameters, which are filled in here:

    shape        of one example
    num_classes  of the labels, 0 without labels
    conditions   the kinds of the named arrays of a condition (`langevin_jax.conditions.Kind`)
    constrain    how activations are split over devices (`training.shardings.constrain`)
    second_level whether it is a flow map, with a fourth argument ℓ′
    key, rngs    the seed of parameters that a module holds: a jax key, or `flax.nnx.Rngs`

  Args:
    tokens: the process of data that are tokens (length,). The network sees sequences (length,
      channels) of as many channels as there are tokens, with the mask token: `adapters.of_tokens`.

  Raises:
    ValueError: as `adapters.adapted`; of a user's own also whatever it raises, another output shape
      and a dtype that is not floating.
  """
  if second_level and not calls.takes(call, "network", "second_level"):
    raise ValueError(f"config.network={call.name}: a flow map needs a network with the parameter "
                     "second_level, such as mlp or dit")
  if call.get("dropout", 0.0) and (second_level or tokens is not None):
    raise ValueError("config.network.dropout: flow maps and tokens learn without dropout")
  if tokens is not None:
    shape = (*shape, len(tokens.base))
  seeded = [name for name in ("key", "rngs") if calls.takes(call, "network", name)]

  def make(key):
    return calls.build(
        call, "network", "config.network", shape=shape, num_classes=num_classes,
        conditions=conditions, constrain=constrain, second_level=second_level, key=key,
        rngs=adapters.rngs(key) if "rngs" in seeded else None)

  example = adapters.example_condition(conditions)
  try:
    found = adapters.adapted(make, shape, seeded=bool(seeded), example=example)
    if ":" in call.name:
      adapters.check_output(found, shape, example)
    return found if tokens is None else adapters.of_tokens(found, tokens)
  except Exception as error:  # whatever the user's own network raises
    said = str(error)
    if said.startswith("config.network") or not (":" in call.name or isinstance(error, ValueError)):
      raise
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    given = f"; its condition is a dict of {', '.join(example)}" if conditions else ""
    raise ValueError(f"config.network={call.name}: {kind}{said.splitlines()[0] if said else ''}"
                     f"{given}") from error


def optimizer(config: config_lib.Training) -> optax.GradientTransformation:
  """The optimizer with clipping and its schedule; a ValueError names a field that is wrong."""
  for field in ("steps", "batch_size", "accumulation", "steps_per_dispatch", "dispatches_in_flight",
                "cpu_devices", "checkpoint_every", "keep_checkpoints", "log_every"):
    at_least(f"training.{field}", getattr(config, field), 1)
  at_most("training.cpu_devices", config.cpu_devices, MOST_CPU_DEVICES)
  for field in ("learning_rate", "gradient_clip"):
    if not getattr(config, field) > 0.0:
      raise ValueError(f"config.training.{field} must be positive, got {getattr(config, field)}")
  if not 0.0 <= config.label_dropout <= 1.0:
    raise ValueError("config.training.label_dropout must lie in [0, 1], got "
                     f"{config.label_dropout}")
  return clipped(config.optimizer, config.schedule, learning_rate=config.learning_rate,
                 steps=config.steps, gradient_clip=config.gradient_clip)


def clipped(
    optimizer: Call, schedule: Call, *, learning_rate: float | jax.Array, steps: int,
    gradient_clip: float | jax.Array,
) -> optax.GradientTransformation:
  """Clipping of the gradient's norm, then the optimizer; numbers may be tracers."""
  rate = calls.build(schedule, "schedule", "config.training.schedule",
                     learning_rate=learning_rate, steps=steps)
  return optax.chain(
      optax.clip_by_global_norm(gradient_clip),
      calls.build(optimizer, "optimizer", "config.training.optimizer", learning_rate=rate))


def schedule(config: config_lib.Training) -> optax.Schedule:
  """The learning rate of each step, from 0 on."""
  return calls.build(config.schedule, "schedule", "config.training.schedule",
                     learning_rate=config.learning_rate, steps=config.steps)


def logger(
    call: Call | None, workdir: pathlib.Path, step: int
) -> loggers.Logger | None:
  """The logger of `training.logger`, for a run that continues from `step`.

  Raises:
    ValueError: its function makes something else, or needs what is not installed.
  """
  if call is None:
    return None
  return calls.build(call, "logger", "config.training.logger", workdir=workdir, step=step)


def averages(config: config_lib.Training) -> tuple[training.averages.Average, ...]:
  """The averages of `config.training`: of half-lives first, then of power functions."""
  if not config.ema_half_life_steps:
    raise ValueError("config.training.ema_half_life_steps must name at least one half-life; "
                     "samplers use the first")
  for life in config.ema_half_life_steps:
    if not 0.0 < life < float("inf"):
      raise ValueError(f"config.training.ema_half_life_steps must be positive, got {life}")
  for field in ("ema_half_life_steps", "ema_relative_std"):
    if len(set(getattr(config, field))) < len(getattr(config, field)):
      raise ValueError(f"config.training.{field} names one average twice: "
                       f"{getattr(config, field)}")
  at_least("training.snapshot_every", config.snapshot_every, 0)
  if config.snapshot_every and not config.ema_relative_std:
    raise ValueError(f"config.training.snapshot_every={config.snapshot_every}: snapshots are of "
                     "training.ema_relative_std, which names none; 0.05,0.1 will do")
  half_lives = [training.averages.half_life(life) for life in config.ema_half_life_steps]
  try:
    powers = [training.averages.power_function(std) for std in config.ema_relative_std]
  except ValueError as error:
    raise ValueError(f"config.training.ema_relative_std: {error}") from error
  return (*half_lives, *powers)


def at_least(field: str, value: int, least: int) -> int:
  """`value`, if it is at least `least` and has 32 bits; else a ValueError that names the field."""
  if value < least:
    raise ValueError(f"{_named(field)}: must be at least {least}, got {value}")
  return at_most(field, value, 2**31 - 1)


def at_most(field: str, value: int, most: int) -> int:
  """`value`, if it is at most `most`; else a ValueError that names the field."""
  if value > most:
    raise ValueError(f"{_named(field)}: must be at most {most:,}, got {value:.6g}" if value < 1e300
                     else f"{_named(field)}: must be at most {most:,}")
  return value


def _named(field: str) -> str:
  """A name without a group is no field of a config but a flag."""
  return f"{'config.' if '.' in field else '--'}{field}"
