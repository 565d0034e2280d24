"""What a run records of itself: config.json, manifest.json and, by `metrics_log`, metrics.jsonl.

Functions of `files` and `metrics_log` can be had from here, too.
"""

import difflib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import langevin_jax
from experiments import config as config_lib
from experiments.run.files import check_not_owned as check_not_owned
from experiments.run.files import load as load
from experiments.run.files import locked as locked
from experiments.run.files import make_directory as make_directory
from experiments.run.files import read_json, write_text
from experiments.run.files import written as written
from experiments.run.files import wrote as wrote
from experiments.run.metrics_log import CLOCKED as CLOCKED
from experiments.run.metrics_log import Metrics as Metrics
from experiments.run.metrics_log import read_metrics as read_metrics
from experiments.run.metrics_log import read_result as read_result

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


# How a run is executed, not what it learns. These fields may change without --allow_change.
_EXECUTION = ("mesh", "training.cpu_devices", "training.dispatches_in_flight",
              "training.keep_checkpoints", "training.logger", "training.sample_every",
              "training.evaluate_every", "training.evaluate_metrics")
# What the parameters are parameters of, and what snapshots assume of the whole run.
_FIXED = ("data", "network", "objective.prediction", "seed", "training.ema_relative_std")


def claim(workdir: pathlib.Path, config: config_lib.Config, allow: Sequence[str] = ()) -> None:
  """Makes `workdir` this config's, or checks that its run may continue with this config.

  A config that differs replaces config.json in `change_config`, once the state has been restored.

  Raises:
    ValueError: as `check_claim`.
    OSError: it cannot be made or written.
  """
  check_claim(workdir, config, allow)
  file = workdir / "config.json"
  if not file.exists():
    make_directory(workdir)
    write_text(file, config_lib.to_json(config))


def check_claim(
    workdir: pathlib.Path, config: config_lib.Config, allow: Sequence[str] = ()
) -> None:
  """Checks that `workdir` is new, or that its run may continue with this config.

  Args:
    allow: fields, or groups of them, that may change, as in "training.learning_rate".

  Raises:
    ValueError: it holds a run with another config (the fields are named), or something else; a
      field in `allow` that does not exist, or may not change within a run.
  """
  _check_allowed(allow, config)
  file = workdir / "config.json"
  if file.exists():
    changes = config_changes(workdir, config)
    fixed = [name for name in changes if _within(name, _FIXED)]
    if others := [name for name in changes
                  if name in fixed or not _within(name, (*_EXECUTION, *allow))]:
      remedy = (f"{fixed[0]} cannot change within a run: choose another --workdir, where "
                f"--init_from={workdir} begins from these parameters" if fixed else
                "choose another --workdir, or change the run from its newest checkpoint on with "
                f"--allow_change={','.join(others)}")
      raise ValueError(f"--workdir {workdir} holds a run with another config: "
                       f"{'; '.join(changes[name] for name in others)} (workdir → command); "
                       f"{remedy}")
  elif (workdir / "checkpoints").exists():
    raise ValueError(f"--workdir {workdir} holds checkpoints without a config.json")


def change_config(workdir: pathlib.Path, config: config_lib.Config, step: int) -> list[str]:
  """Replaces config.json where `config` differs from it; it describes the run from `step` on.

  Returns:
    The changes that no session has recorded, one "field: old → new" each: also those of a session
    that ended between config.json and manifest.json.
  """
  changes = list(config_changes(workdir, config).values())
  if changes:
    print(f"{workdir} continues from step {step} with {'; '.join(changes)}", flush=True)
    write_text(workdir / "config.json", config_lib.to_json(config))
  try:
    recorded = config_lib.from_json(json.dumps(read_manifest(workdir)["config"]))
  except (KeyError, ValueError, RecursionError):  # no manifest, or one that is damaged
    return changes
  return config_lib.difference(recorded, config)


def config_changes(workdir: pathlib.Path, config: config_lib.Config) -> dict[str, str]:
  """{field: "field: old → new"} of the fields in which `config` differs from config.json."""
  changes = config_lib.difference(read_config(workdir), config)
  return {change.split(": ")[0]: change for change in changes}


def _check_allowed(allow: Sequence[str], config: config_lib.Config) -> None:
  names = [name for name, _ in config_lib.flatten(config)]
  for field in allow:
    if not any(_within(name, (field,)) for name in names):
      near = difflib.get_close_matches(field, names, n=1)
      raise ValueError(f"--allow_change: no field {field!r}"
                       + (f" (did you mean {near[0]}?)" if near else ""))
    if _within(field, _FIXED):
      raise ValueError(f"--allow_change: {field} cannot change within a run; --init_from begins "
                       "another run from its parameters")


def _within(name: str, groups: Sequence[str]) -> bool:
  """Whether a field is one of `groups`, or lies in one."""
  return any(name == group or name.startswith(f"{group}.") for group in groups)


def read_config(workdir: pathlib.Path) -> config_lib.Config:
  """The config of the run in `workdir`.

  Raises:
    ValueError: there is none, or it cannot be read.
  """
  file = workdir / "config.json"
  if not file.is_file():
    raise ValueError(f"--workdir {workdir} holds no run (no config.json); train one with "
                     "python -m experiments.train")
  found = read_json(file)
  try:
    return config_lib.from_json(json.dumps(found))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{file}: {error}") from error


def manifest(
    workdir: pathlib.Path, config: config_lib.Config, *, from_step: int | None = None,
    changes: Sequence[str] = (), began_from: dict[str, Any] | None = None, **facts: Any,
) -> None:
  """Writes manifest.json, the record of what ran.

  Each start of the run is a session, perhaps on other devices or of another commit. `sessions`
  lists them; the first fields are those of the latest. With `from_step` a new one begins.

  Args:
    changes: of the config, valid from `from_step` on. began_from: where the first parameters come
      from, if not from the seed.
  """
  file = workdir / "manifest.json"
  sessions = read_manifest(workdir).get("sessions", [])
  now = {
      "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
      "commit": commit(),
      "version": langevin_jax.__version__,
      "python": platform.python_version(),
      "versions": _versions(),
      "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
      "processes": jax.process_count(),
      "cores": os.cpu_count(),
      "numerics": numerics(),
  }
  if from_step is not None or not sessions:
    sessions.append({
        "from_step": from_step or 0, **({"changes": list(changes)} if changes else {}),
        **({"began_from": began_from} if began_from else {}), **now,
        "mesh": {**vars(config.mesh), "cpu_devices": config.training.cpu_devices}})
  write_text(file, json.dumps({
      **now, "seed": config.seed, "config": json.loads(config_lib.to_json(config)), **facts,
      "sessions": sessions}, indent=2) + "\n")


def check_seed_begins(workdir: pathlib.Path) -> None:
  """Raises ValueError where a run without a checkpoint has begun from parameters of another."""
  sessions = read_manifest(workdir).get("sessions", [])
  if any("began_from" in session for session in sessions):
    raise ValueError(f"--init_from must be given again, or another --workdir: the run in {workdir} "
                     "begins from the parameters of another, and has no checkpoint yet")


def began_from_parameters(workdir: pathlib.Path) -> bool:
  """Whether the run began from parameters of another, by its manifest; True where that is gone."""
  sessions = read_manifest(workdir).get("sessions", [])
  return not sessions or any("began_from" in session for session in sessions)


# Settings of jax under which the same config and seed give other numbers.
_NUMERICS = ("jax_default_matmul_precision", "jax_default_prng_impl", "jax_enable_x64",
             "jax_random_seed_offset", "jax_threefry_partitionable")


def numerics() -> dict[str, Any]:
  """The settings of jax that change results, by name, whatever has set them."""
  return {name: getattr(jax.config, name) for name in _NUMERICS}


def same(config: config_lib.Config) -> dict[str, Any]:
  """What is to be the same on all processes of a run, by name."""
  fields = {f"config.{name}": value for name, value in config_lib.flatten(config)}
  return {**fields, **numerics(), **_versions(), "commit": commit()}


def _versions() -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in _PACKAGES}


def check_numerics(workdir: pathlib.Path, file: str = "manifest.json") -> None:
  """Raises ValueError where a run goes on under other `numerics` than its `file` says."""
  try:
    before = json.loads((workdir / file).read_text(encoding="utf-8"))["numerics"]
    before = dict(before)
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return  # it has none yet, or one from before they were recorded
  now = numerics()
  if changed := [f"{name}: {before[name]} → {now[name]}" for name in now
                 if name in before and before[name] != now[name]]:
    raise ValueError(
        f"--workdir {workdir} was trained under another setting of jax: {'; '.join(changed)} "
        f"(workdir → here); set {changed[0].split(':')[0].upper()} as it was, or choose another "
        "--workdir")


def read_manifest(workdir: pathlib.Path) -> dict[str, Any]:
  """What manifest.json of a run says, {} where there is none or what is there is cut or damaged.

  It says what has run and is not needed to go on: a run does not depend on it. Facts of another
  type than `manifest` writes are left out.
  """
  try:
    found = read_json(workdir / "manifest.json")
  except (OSError, ValueError):
    return {}
  kinds = {"sessions": list, "command": list, "finished": bool, "steps": int, "commit": str,
           "sha256": str, "sha256_ema": str, "config": dict, "versions": dict}
  return {name: value for name, value in found.items()
          if isinstance(value, kinds.get(name, object))}


def commit() -> str:
  """The git commit of the source, "+changes" behind it where files differ; "" if there is none.

  What `git archive` has packed, for machines without the repository, says its own (commit.txt).
  """
  here = pathlib.Path(__file__).parent.parent
  git = lambda *words: subprocess.run(
      ["git", "-C", here.parent, *words], capture_output=True, text=True, check=True).stdout.strip()
  file = here / "commit.txt"
  packed = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
  if packed and not packed.startswith("$"):
    return packed
  try:
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
  except (OSError, subprocess.CalledProcessError):
    return ""


def sha256(tree: Any) -> str:
  """The digest of a tree of arrays: names, dtypes, shapes and bytes, in the tree's order."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
