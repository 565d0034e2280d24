"""From a config's names to the library's objects: one dict literal for each choice.

What belongs to sampling is in `samplers_from_config`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import config as config_lib
from langevin_jax import networks, objectives, paths, predictions, training

# Blocks that can be traced in some seconds, and devices that one CPU can stand for.
_DEEPEST, MOST_CPU_DEVICES = 1000, 1024


def path(config: config_lib.Path) -> paths.Path:
  """The forward process of `config.path`."""
  return choose("path.name", config.name, {
      "vp": paths.vp,
      "linear_vp": lambda: paths.linear_vp(beta_min=config.beta_min, beta_max=config.beta_max),
      "cosine": paths.cosine,
      "ve": lambda: paths.ve(sigma_max=config.sigma_max),
      "geometric_ve": lambda: paths.geometric_ve(
          sigma_min=config.sigma_min, sigma_max=config.sigma_max),
      "sub_vp": lambda: paths.sub_vp(beta_min=config.beta_min, beta_max=config.beta_max),
      "rectified_flow": paths.rectified_flow,
  })


def prediction(config: config_lib.Objective) -> predictions.Row:
  """The row of Table 5 that the network predicts."""
  rows = {name: lambda name=name: predictions.named(name) for name in predictions.ROWS}
  rows["edm"] = lambda: predictions.edm(config.sigma_data)
  return choose("objective.prediction", config.prediction, rows)


def density(config: config_lib.Objective, path: paths.Path) -> objectives.Density:
  """π(ℓ) of `config.objective`; `path` is the clock of uniform_time."""
  for field in ("rho_max", "level_std", "sigma_data", "gamma"):
    if not 0.0 < getattr(config, field) < float("inf"):
      raise ValueError(f"objective.{field} must be positive, got {getattr(config, field)}")
  if not abs(config.level_mean) < float("inf"):
    raise ValueError(f"objective.level_mean must be finite, got {config.level_mean}")
  levels = {"rho_min": config.rho_min, "rho_max": config.rho_max}
  normal = {"mean": config.level_mean, "std": config.level_std, **levels}
  return choose("objective.density", config.density, {
      "uniform_half_log_snr": lambda: objectives.uniform_half_log_snr(**levels),
      "uniform_time": lambda: objectives.uniform_time(path, **levels),
      "log_normal_rho": lambda: objectives.log_normal_rho(**normal),
      "logit_normal_s": lambda: objectives.logit_normal_s(**normal),
  })


def weight(config: config_lib.Objective, density: objectives.Density) -> objectives.Weight:
  """w(ℓ) of `config.objective`."""
  return choose("objective.weight", config.weight, {
      "likelihood": lambda: objectives.likelihood(density),
      "simple": lambda: objectives.simple(density),
      "edm": lambda: objectives.edm(density, sigma_data=config.sigma_data),
      "min_snr": lambda: objectives.min_snr(density, gamma=config.gamma),
      "sigmoid": lambda: objectives.sigmoid(density, bias=config.bias),
      "p2": lambda: objectives.p2(density, gamma=config.gamma),
      "flow_matching": lambda: objectives.flow_matching(density),
  })


def network(
    config: config_lib.Network, shape: tuple[int, ...], num_classes: int, *,
    constrain: Callable[[jax.Array], jax.Array] = lambda h: h,
) -> tuple[Callable[[jax.Array], Any], Callable[..., jax.Array]]:
  """(init(key) → parameters, apply(params, x, ell, labels)) for data of `shape`.

  `constrain` says how activations are split over devices (`training.shardings.constrain`). Of a
  sequence (T, c) an mlp takes all T·c numbers at once, and a dit has a token for every
  `patch_size` steps.
  """
  if config.dtype not in ("float32", "bfloat16"):
    raise ValueError(f"network.dtype must be float32 or bfloat16, got {config.dtype!r}")
  for field in ("width", "depth", "heads", "patch_size", "unroll"):
    at_least(f"network.{field}", getattr(config, field), 1)
  at_most("network.depth", config.depth, _DEEPEST)
  ranks = {"mlp": (1, 2), "dit": (3, 2)}
  if len(shape) not in ranks.get(config.name, (len(shape),)):
    wanted = {"mlp": "vectors (n, d)", "dit": "images (n, h, w, c)"}[config.name]
    raise ValueError(f"network.name: {config.name!r} takes {wanted} or sequences (n, T, c), the "
                     f"data have examples of shape {shape}")
  patch_size, seen = config.patch_size, shape
  if len(shape) == 2:
    if config.name == "dit" and shape[0] % patch_size:
      raise ValueError(f"config.network.patch_size must divide the {shape[0]} steps of a sequence; "
                       f"got {patch_size}")
    seen = (math.prod(shape),) if config.name == "mlp" else (
        shape[0] // patch_size, 1, patch_size * shape[1])
    patch_size = 1
  module = choose("network.name", config.name, {
      "mlp": lambda: networks.MLP(width=config.width, depth=config.depth,
                                  num_classes=num_classes, dtype=config.dtype,
                                  constrain=constrain),
      "dit": lambda: networks.DiT(patch_size=patch_size, width=config.width,
                                  depth=config.depth, heads=config.heads,
                                  num_classes=num_classes, dtype=config.dtype,
                                  unroll=config.unroll, remat=config.remat,
                                  constrain=constrain),
  })

  def init(key):
    x = jnp.zeros((1, *seen))
    return module.init(key, x, jnp.zeros((1,)), jnp.zeros((1,), jnp.int32))["params"]

  def apply(params, x, ell, labels):
    return module.apply(
        {"params": params}, x.reshape(-1, *seen), ell, labels).reshape(x.shape)

  return init, apply


def optimizer(config: config_lib.Training) -> optax.GradientTransformation:
  """AdamW with clipping, linear warm-up and decay; a ValueError names a field that is wrong."""
  for field in ("steps", "batch_size", "accumulation", "steps_per_dispatch", "dispatches_in_flight",
                "cpu_devices", "checkpoint_every", "keep_checkpoints", "log_every"):
    at_least(f"training.{field}", getattr(config, field), 1)
  at_most("training.cpu_devices", config.cpu_devices, MOST_CPU_DEVICES)
  at_least("training.warmup_steps", config.warmup_steps, 0)
  for field in ("learning_rate", "gradient_clip"):
    if not getattr(config, field) > 0.0:
      raise ValueError(f"training.{field} must be positive, got {getattr(config, field)}")
  if not 0.0 < config.beta_2 < 1.0:
    raise ValueError(f"training.beta_2 must lie in (0, 1), got {config.beta_2}")
  if not config.weight_decay >= 0.0:
    raise ValueError(f"training.weight_decay must be >= 0, got {config.weight_decay}")
  if not 0.0 <= config.label_dropout <= 1.0:
    raise ValueError(f"training.label_dropout must lie in [0, 1], got {config.label_dropout}")
  return adamw(config)


def adamw(config: config_lib.Training) -> optax.GradientTransformation:
  """`optimizer` of fields that are right; its numbers may be tracers."""
  warmup = min(config.warmup_steps, config.steps)
  decay_steps = max(config.steps - warmup, 1)
  after = choose("training.decay", config.decay, {
      "cosine": lambda: optax.cosine_decay_schedule(config.learning_rate, decay_steps),
      "linear": lambda: optax.linear_schedule(config.learning_rate, 0.0, decay_steps),
      "constant": lambda: optax.constant_schedule(config.learning_rate),
  })
  # The first step has 1/(warmup + 1) of the rate, not none.
  before = optax.linear_schedule(
      config.learning_rate / (warmup + 1), config.learning_rate, max(warmup, 1))
  return optax.chain(
      optax.clip_by_global_norm(config.gradient_clip),
      optax.adamw(optax.join_schedules([before, after], [warmup]), b2=config.beta_2,
                  weight_decay=config.weight_decay))


def averages(config: config_lib.Training) -> tuple[training.averages.Average, ...]:
  """The averages of `config.training`: of half-lives first, then of power functions."""
  if not config.ema_half_life_steps:
    raise ValueError("training.ema_half_life_steps must name at least one half-life; samplers use "
                     "the first")
  for life in config.ema_half_life_steps:
    if not 0.0 < life < float("inf"):
      raise ValueError(f"training.ema_half_life_steps must be positive, got {life}")
  for field in ("ema_half_life_steps", "ema_relative_std"):
    if len(set(getattr(config, field))) < len(getattr(config, field)):
      raise ValueError(f"training.{field} names one average twice: {getattr(config, field)}")
  at_least("training.snapshot_every", config.snapshot_every, 0)
  if config.snapshot_every and not config.ema_relative_std:
    raise ValueError(f"training.snapshot_every={config.snapshot_every}: snapshots are of "
                     "training.ema_relative_std, which names none; 0.05,0.1 will do")
  half_lives = [training.averages.half_life(life) for life in config.ema_half_life_steps]
  try:
    powers = [training.averages.power_function(std) for std in config.ema_relative_std]
  except ValueError as error:
    raise ValueError(f"training.ema_relative_std: {error}") from error
  return (*half_lives, *powers)


def choose(field: str, name: str, options: dict[str, Callable[[], Any]]) -> Any:
  """What the option called `name` makes; a ValueError names the field `config.<field>`."""
  if name not in options:
    raise ValueError(f"config.{field}: must be one of {', '.join(options)}; got {name!r}")
  try:
    return options[name]()
  except ValueError as error:
    # The library names its own arguments; a user wants to know which group of fields they are.
    raise ValueError(f"config.{field} {name!r}: {error}") from error


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
