"""A sweep file: `sweep() -> dict[str, dict[str, object]]`, arm name → dotted overrides.

Two more names may stand in it: BASELINE, the arm that others are compared with (the first one if
not given), and SEEDS, a tuple (0, 1, 2 if not given); every arm is trained with every seed.
"""

import pathlib
import re
import runpy
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from experiments import config as config_lib
from experiments.config import build
from experiments.run import memory
from experiments.sampling import samplers_from_config
from langevin_jax import paths

# What no arm may set, and why.
_FIXED = {
    "seed": "belongs to SEEDS, which every arm is trained with",
    "mesh": "has no place in a sweep, which spreads arms over the devices and not one arm",
    "training.cpu_devices": "is the sweep's to choose: arms are spread over the cores",
    "training.snapshot_every": "asks for snapshots, which a sweep does not keep: see experiments."
                               "train",
    "evaluation": "is of the sweep, which judges all arms alike: give --config.evaluation.…",
}


# Samplers whose step between two levels is the same on every path; others step in its time.
_ON_LEVELS = ("annealed_langevin", "ddim", "ddpm", "heun", "multistep", "singlestep", "unipc")
_LONGEST = 200  # bytes of a name: file systems take 255


class Sweep(NamedTuple):
  """Arms by name in the file's order, the name of the baseline among them, and the seeds."""

  arms: dict[str, dict[str, Any]]
  baseline: str
  seeds: tuple[int, ...]


def load(file: str) -> Sweep:
  """The sweep of a Python file.

  Raises:
    ValueError: no such file, one that fails or makes no sweep, a seed twice, two names that would
      share a directory, or a baseline that is no arm.
  """
  if not pathlib.Path(file).is_file():
    raise ValueError(f"--sweep: no file {file!r}; shipped ones are in experiments/sweeps/")
  try:
    found = runpy.run_path(file)
    made = found.get("sweep", lambda: None)()
  except (Exception, SystemExit) as error:  # whatever the user's own Python raises
    raise ValueError(f"--sweep: {file}: {type(error).__name__}: {error}") from error
  if not (isinstance(made, dict) and made and all(
      isinstance(name, str) and isinstance(overrides, dict) for name, overrides in made.items())):
    raise ValueError(f"--sweep: {file}: sweep() must return at least one arm, a dict of names to "
                     f"dicts of overrides; got {made!r:.100}")
  places: dict[str, str] = {}
  for name in made:
    # A line of a log, a cell of a table and a directory are made of it.
    if not name.isprintable() or len(directory(name).encode()) > _LONGEST:
      raise ValueError(f"--sweep: {file}: an arm's name must be of printable characters, "
                       f"{_LONGEST} bytes at most in UTF-8; got {name!r:.100}")
    other = places.setdefault(directory(name).lower(), name)
    if other != name or not directory(name).strip("._"):
      raise ValueError(f"--sweep: {file}: arms {other!r} and {name!r} would share the directory "
                       f"arms/{directory(name)}; rename one")
  baseline = found.get("BASELINE", next(iter(made)))
  if not isinstance(baseline, str) or baseline not in made:
    raise ValueError(f"--sweep: {file}: BASELINE {baseline!r:.100} is no arm; there are "
                     f"{', '.join(made)}")
  return Sweep({name: _overrides(name, overrides) for name, overrides in made.items()}, baseline,
               _seeds(found.get("SEEDS", (0, 1, 2)), file))


def configs(base: config_lib.Config, sweep: Sweep) -> dict[str, config_lib.Config]:
  """Each arm's config; the seed in it is the base's and means nothing.

  Raises:
    ValueError: an override that no field accepts, or a value that is not allowed, by the arm's
      name; a base that asks for what no sweep does.
  """
  if base.mesh != config_lib.Mesh():
    changes = [f"{name} = {value}" for name, value in config_lib.flatten(base.mesh)]
    raise ValueError(f"config.mesh {_FIXED['mesh']}; leave data, fsdp and tensor at -1, 1 and 1, "
                     f"got {', '.join(changes)}")
  if base.training.snapshot_every:
    raise ValueError(f"config.training.snapshot_every {_FIXED['training.snapshot_every']}; leave "
                     f"it 0, got {base.training.snapshot_every}")
  found = {}
  for name, overrides in sweep.arms.items():
    try:
      for field in overrides:
        for fixed, why in _FIXED.items():
          if field == fixed or field.startswith(f"{fixed}."):
            raise ValueError(f"config.{field} {why}")
      found[name] = config_lib.override(base, overrides)
      check(found[name])
    except ValueError as error:
      raise ValueError(f"--sweep: arm {name!r}: {error}") from error
  return found


def check(config: config_lib.Config) -> None:
  """Everything that can be said of a config before its data are there; raises ValueError."""
  path = build.path(config.path)
  build.weight(config.objective, build.density(config.objective, path))
  build.prediction(config.objective)
  build.optimizer(config.training)
  build.averages(config.training)
  samplers_from_config.check(config.sampling, path, config.objective)
  samplers_from_config.check_whole(config.sampling)
  memory.check_state(config)
  if config.training.batch_size % config.training.accumulation:
    raise ValueError(f"config.training.batch_size: {config.training.batch_size} must be divisible "
                     f"by training.accumulation={config.training.accumulation}")
  for name, value in (("sampler", "adaptive"), ("grid", "optimised")):
    if getattr(config.sampling, name).name == value:
      raise ValueError(f"config.sampling.{name}: {value!r} fits each model by itself; a sweep "
                       "compares models on one grid: choose another")


def directory(name: str) -> str:
  """The arm's directory under arms/: its name without what file systems take amiss."""
  return re.sub(r"[^\w.+=-]+", "_", name)


def path_matters(config: config_lib.Config) -> bool:
  """Whether samples depend on the path, beyond rounding; on a grid of ρ they do not."""
  sampler = config.sampling.sampler.get("predictor") or config.sampling.sampler
  return (config.sampling.grid.name not in ("karras", "uniform_half_log_snr", "explicit")
          or sampler.name not in _ON_LEVELS or bool(sampler.get("own_time")))


def level_ends(config: config_lib.Config) -> tuple[float, float]:
  """(ρ_min, ρ_max) of the noise levels that training draws."""
  density = config.objective.density
  if density.get("rho_min") and density.get("rho_max"):
    return density["rho_min"], density["rho_max"]
  law = build.density(config.objective, build.path(config.path))
  return tuple(float(np.exp(-law.quantile(np.float32(u)))) for u in (1.0, 0.0))


def sampling_fields(
    config: config_lib.Config
) -> tuple[config_lib.Sampling, config_lib.Call | None]:
  """Everything that samples of a model depend on besides it: arms that agree share samples."""
  return config.sampling, config.path if path_matters(config) else None


def sampling_path(config: config_lib.Config) -> paths.Path:
  """The path that the arm is sampled along; the simplest one where any would do."""
  return build.path(config.path) if path_matters(config) else paths.rectified_flow()


def _overrides(arm: str, overrides: dict[Any, Any]) -> dict[str, Any]:
  """An arm's overrides as JSON keeps them: numbers of NumPy become Python's."""
  for field, value in overrides.items():
    if not isinstance(field, str):
      raise ValueError(f"--sweep: arm {arm!r}: a field is named by a string such as "
                       f"'training.steps', got {field!r}")
    if not _is_plain(_plain(value)):
      raise ValueError(f"--sweep: arm {arm!r}: config.{field}: expected a number, a string or a "
                       f"tuple of them, got {value!r:.100}")
  return {field: _plain(value) for field, value in overrides.items()}


def _plain(value: Any) -> Any:
  if isinstance(value, (tuple, list)):
    return tuple(map(_plain, value))
  if isinstance(value, (np.generic, np.ndarray)):
    return _plain(value.tolist()) if value.ndim else value.item()
  return value


def _is_plain(value: Any) -> bool:
  return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(
      value, (bool, int, float, str, NoneType))


def _seeds(seeds: Any, file: str) -> tuple[int, ...]:
  seeds = _plain(seeds)
  if not (isinstance(seeds, tuple) and seeds and all(
      type(seed) is int and 0 <= seed < 2**31 - 1 for seed in seeds)):
    raise ValueError(f"--sweep: {file}: SEEDS must be a tuple of integers in [0, 2³¹ − 1), at "
                     f"least one; got {seeds!r}")
  for seed in seeds:
    if seeds.count(seed) > 1:
      raise ValueError(f"--sweep: {file}: SEEDS has {seed} {seeds.count(seed)} times")
  return tuple(seeds)
