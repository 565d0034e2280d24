"""From a config to the library's objects; what belongs to sampling is `samplers_from_config`."""

from collections.abc import Callable

import jax
import optax

from experiments import config as config_lib
from experiments.config import calls, networks
from experiments.config.calls import Call
from langevin_jax import objectives, paths, predictions, training

# Devices that one CPU can stand for.
MOST_CPU_DEVICES = 1024


def path(call: Call) -> paths.Path:
  """The forward process of `config.path`."""
  return calls.build(call, "path", "config.path")


def prediction(config: config_lib.Objective) -> predictions.Row:
  """The row of Table 5 that the network predicts."""
  return calls.build(config.prediction, "prediction", "config.objective.prediction")


def density(config: config_lib.Objective, path: paths.Path) -> objectives.Density:
  """π(ℓ) of `config.objective`; `path` is the clock of uniform_time."""
  return calls.build(config.density, "density", "config.objective.density", path=path)


def weight(config: config_lib.Objective, density: objectives.Density) -> objectives.Weight:
  """w(ℓ) of `config.objective`."""
  return calls.build(config.weight, "weight", "config.objective.weight", density=density)


def network(
    call: Call, shape: tuple[int, ...], num_classes: int, *,
    constrain: Callable[[jax.Array], jax.Array] = lambda h: h,
) -> networks.Network:
  """The network for data of `shape`.

  `constrain` says how activations are split over devices (`training.shardings.constrain`).
  """
  made = calls.build(call, "network", "config.network", shape=shape, num_classes=num_classes,
                     constrain=constrain)
  try:
    return networks.adapted(made, shape)
  except ValueError as error:
    raise ValueError(f"config.network={call.name}: {error}") from error


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
