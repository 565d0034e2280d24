"""Reads a sweep file: Python with a function `sweep`, which returns {arm: {field: value}}.

  BASELINE = "v"          # the arm that others are compared with; the first if not given
  SEEDS = (0, 1, 2, 3)    # every arm is trained with every seed; (0, 1, 2) if not given

  def sweep():
    return {"v": {}, "eps": {"objective.prediction": "eps"}, "mine": {"network": "nets:mlp(64)"}}

Fields and values are those of --config.field=value: a call, an argument of a call, or a number.
"""

import json
import os
import re
import runpy
from typing import Any, NamedTuple

import numpy as np

from experiments import config as config_lib
from experiments.config import build
from experiments.run import memory
from experiments.sampling import samplers_from_config
from langevin_jax import paths

# The fields that no arm may set, and the reasons. The base may set them, except _FIXED_IN_BASE.
_FIXED = {
    "seed": "belongs to SEEDS, which every arm is trained with",
    "mesh": "has no place in a sweep, which spreads arms over the devices and not one arm",
    "training.cpu_devices": "is chosen by the sweep, which spreads arms over the cores",
    "training.snapshot_every": "asks for snapshots, which a sweep does not keep: see "
                               "experiments.train",
    "evaluation": "is of the sweep, which judges all arms alike: give --config.evaluation.…",
}
_FIXED_IN_BASE = ("mesh.", "training.snapshot_every")
# Samplers whose step between two levels is the same on every path. Others depend on its time.
_ON_LEVELS = ("annealed_langevin", "ddim", "ddpm", "heun", "multistep", "singlestep", "unipc")
_MOST_BYTES = 200  # of a name; file systems allow 255
_EXAMPLE = "def sweep(): return {'base': {}, 'wide': {'network.width': 128}}"


class Sweep(NamedTuple):
  """The overrides of the arms by name in the order of the file, the baseline's name, the seeds."""

  arms: dict[str, dict[str, Any]]
  baseline: str
  seeds: tuple[int, ...]


def load(file: str) -> Sweep:
  """Reads the sweep of a Python file.

  Raises:
    ValueError: the file is missing, fails or has no sweep(); overrides are not plain values; a seed
      is repeated; two names need the same directory; or the baseline is not an arm.
  """
  path = os.path.expanduser(file)
  if not os.path.isfile(path):
    raise ValueError(f"--sweep: no file {file!r}; shipped ones are in experiments/sweeps/")
  try:
    names = runpy.run_path(path)
    arms = names["sweep"]() if callable(names.get("sweep")) else None
  except (Exception, SystemExit) as error:  # a user's Python may raise anything
    raise ValueError(f"--sweep: {file}: {type(error).__name__}: {error}") from error
  try:
    if not callable(names.get("sweep")):
      raise ValueError(f"it has no function sweep(), such as: {_EXAMPLE}")
    _check_arms(arms)
    baseline = names.get("BASELINE", next(iter(arms)))
    if not isinstance(baseline, str) or baseline not in arms:
      raise ValueError(f"BASELINE {baseline!r:.100} is no arm; there are {', '.join(arms)}")
    return Sweep(
        {name: _to_json(overrides, f"arm {name!r}") for name, overrides in arms.items()},
        baseline, _checked_seeds(_to_json(names.get("SEEDS", (0, 1, 2)), "SEEDS")))
  except ValueError as error:
    raise ValueError(f"--sweep: {file}: {error}") from error


def configs(base: config_lib.Config, sweep: Sweep) -> dict[str, config_lib.Config]:
  """The config of each arm. Its seed is that of the base and is not used.

  Raises:
    ValueError: an override is not accepted (the message names the arm), or the base sets a field
      that a sweep does not support.
  """
  defaults = dict(config_lib.flatten(config_lib.Config()))
  for field, value in config_lib.flatten(base):
    if field.startswith(_FIXED_IN_BASE) and value != defaults[field]:
      raise ValueError(f"config.{field} {_reason_fixed(field)}; leave it {defaults[field]}, got "
                       f"{value}")
  arms = {}
  for name, overrides in sweep.arms.items():
    try:
      for field in overrides:
        if reason := _reason_fixed(field):
          raise ValueError(f"config.{field} {reason}")
      arms[name] = config_lib.override(base, overrides)
      check(arms[name])
    except ValueError as error:
      raise ValueError(f"--sweep: arm {name!r}: {error}") from error
  return arms


def check(config: config_lib.Config) -> None:
  """Raises ValueError for all errors in a config that can be found without its data."""
  path = build.path(config.path)
  build.check_objective(config.objective, path)
  build.objective(config)
  build.prediction(config.objective)
  build.optimizer(config.training)
  build.averages(config.training)
  samplers_from_config.check(config.sampling, path, config.objective)
  samplers_from_config.check_whole(config.sampling)
  memory.check_state(config)
  if config.training.batch_size % config.training.accumulation:
    raise ValueError(f"config.training.batch_size: {config.training.batch_size} must be divisible "
                     f"by training.accumulation={config.training.accumulation}")
  for name, value in (("sampler", "adaptive"), ("sampler", "adaptive_sde"), ("grid", "optimised")):
    if getattr(config.sampling, name).name == value:
      raise ValueError(f"config.sampling.{name}: {value!r} fits each model by itself; a sweep "
                       "compares models on one grid: choose another")


def directory(name: str) -> str:
  """The arm's directory under arms/: its name, with special characters replaced by underscores."""
  return re.sub(r"[^\w.+=-]+", "_", name)


def path_matters(config: config_lib.Config) -> bool:
  """Whether samples depend on the path, beyond rounding. On a grid in ρ most samplers do not."""
  sampler = config.sampling.sampler.get("predictor") or config.sampling.sampler
  return (config.sampling.grid.name not in ("karras", "uniform_half_log_snr", "explicit")
          or sampler.name not in _ON_LEVELS or bool(sampler.get("own_time")))


def level_ends(config: config_lib.Config) -> tuple[float, float]:
  """(ρ_min, ρ_max) of the noise levels in training."""
  density = config.objective.density
  if isinstance(density.get("base"), config_lib.Call):
    density = density["base"]
  if density.get("rho_min") and density.get("rho_max"):
    return density["rho_min"], density["rho_max"]
  density_, _ = build.base_objective(config)
  return tuple(float(np.exp(-density_.quantile(np.float32(u)))) for u in (1.0, 0.0))


def sampling_fields(
    config: config_lib.Config
) -> tuple[config_lib.Sampling, config_lib.Call | None]:
  """(sampling, path) of a config, the path only if samples depend on it.

  Arms that share a model and have equal fields have equal samples.
  """
  return config.sampling, config.path if path_matters(config) else None


def sampling_path(config: config_lib.Config, vocabulary: int = 0) -> build.Path:
  """The sampling path of an arm; rectified flow if samples do not depend on it."""
  return build.path(config.path, vocabulary) if path_matters(config) else paths.rectified_flow()


def _reason_fixed(field: str) -> str:
  """The reason why arms may not set a field; "" if they may."""
  return next(
      (reason for fixed, reason in _FIXED.items() if f"{field}.".startswith(f"{fixed}.")), "")


def _check_arms(arms: Any) -> None:
  """Raises ValueError if sweep() returned no arms, or names that cannot be directories."""
  if not (isinstance(arms, dict) and arms and all(
      isinstance(name, str) and isinstance(overrides, dict) for name, overrides in arms.items())):
    raise ValueError("sweep() must return at least one arm, a dict of names to dicts of "
                     f"overrides; got {arms!r:.100}")
  first: dict[str, str] = {}
  for name in arms:
    # A name is used in logs, in tables and as a directory.
    if not name.isprintable() or len(directory(name).encode()) > _MOST_BYTES:
      raise ValueError(f"an arm's name must be of printable characters, {_MOST_BYTES} bytes at "
                       f"most in UTF-8; got {name!r:.100}")
    other = first.setdefault(directory(name).lower(), name)
    if other != name or not directory(name).strip("._"):
      raise ValueError(f"arms {other!r} and {name!r} would share the directory "
                       f"arms/{directory(name)}; rename one")


def _to_json(value: Any, name: str) -> Any:
  """A value after a round trip through JSON: arrays and NumPy numbers become lists and numbers."""
  try:
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(f"{name}: expected numbers, strings and tuples of them, with a function as "
                     f"'package.module:name'; got {value!r:.100}") from error


def _checked_seeds(seeds: Any) -> tuple[int, ...]:
  """The seeds as a tuple. Raises ValueError if they are not distinct integers in range."""
  if not (isinstance(seeds, list) and seeds and all(
      type(seed) is int and 0 <= seed < 2**31 - 1 for seed in seeds)):
    raise ValueError(f"SEEDS must be a tuple of integers in [0, 2³¹ − 1), at least one; got "
                     f"{seeds!r}")
  if len(set(seeds)) < len(seeds):
    twice = next(seed for seed in seeds if seeds.count(seed) > 1)
    raise ValueError(f"SEEDS has {twice} {seeds.count(twice)} times")
  return tuple(seeds)
