"""What a run writes down: config.json, manifest.json, metrics.jsonl and TensorBoard events.

Every file is written whole or not at all, and metrics are cut back to the restored step on a
resume, so that a killed run leaves neither half a file nor a line twice.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tensorboardX

import langevin_jax
from experiments import config as config_lib

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


def write_text(file: pathlib.Path, text: str) -> None:
  """Replaces `file` by `text` in one step: a reader sees the old or the new, never a part."""
  temporary = file.with_name(file.name + ".tmp")
  with temporary.open("w", encoding="utf-8") as stream:
    stream.write(text)
    stream.flush()
    os.fsync(stream.fileno())
  os.replace(temporary, file)


@contextlib.contextmanager
def locked(workdir: pathlib.Path, *, flag: str = "--workdir") -> Iterator[None]:
  """Makes `workdir`, named by `flag`, and keeps every other writer out, until left or killed.

  Raises:
    ValueError: it is a file, or another process writes there; says which.
    OSError: it cannot be made or written.
  """
  _make(workdir, flag)
  with (workdir / ".lock").open("a+", encoding="utf-8") as file:
    try:
      # The kernel's lock: it ends with the process, however that ends.
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      owner = file.read().strip() or "another process"
      raise ValueError(f"{flag} {workdir} is in use by {owner}; wait for it or choose another "
                       f"{flag}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    try:
      yield
    finally:
      file.truncate(0)


def _make(workdir: pathlib.Path, flag: str = "--workdir") -> None:
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"{flag} {workdir} is a file")
  workdir.mkdir(parents=True, exist_ok=True)


# What a run and a sweep write themselves, in directories that hold a config.json.
_OWN_FILES = ("config.json", "data.json", "data_moments.npy", "manifest.json", "metrics.jsonl",
              "grids.json", "result.json", ".lock", "loss.png", "loss_by_level.png")
_OWN_DIRECTORIES = ("checkpoints", "snapshots", "damaged_checkpoints", "arms")


def check_not_owned(
    files: Sequence[pathlib.Path], inputs: Sequence[str | pathlib.Path] = ()
) -> None:
  """Raises ValueError where one of `files`, of `--out`, is a run's own or among `inputs`.

  Args:
    inputs: files, and directories with all that is in them; names of neither are left out.
  """
  read = [place for given in inputs if given
          and (place := pathlib.Path(os.path.expanduser(given)).resolve()).exists()]
  for file in files:
    whole = file.resolve()
    for place in read:
      # A run may have been put into its data's directory: what lies beside its config is its own.
      own = (whole.parent / "config.json").is_file()
      if place == whole or (place in whole.parents and not own):
        raise ValueError(f"--out: {file} is or lies in {place}, which is read; choose another "
                         "--out")
    for parent in whole.parents:
      name = whole.relative_to(parent).parts[0]
      own = name in _OWN_FILES if parent == whole.parent else name in _OWN_DIRECTORIES
      if own and (parent / "config.json").is_file():
        raise ValueError(f"--out: {file} is a name of the run in {parent} itself; choose another "
                         "--out")


def wrote(file: pathlib.Path, written: Callable[[Any], bool]) -> bool:
  """Whether `file` is a JSON of which `written` is true."""
  try:
    return bool(written(json.loads(file.read_text(encoding="utf-8"))))
  except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
    return False


# How a run is carried out, not what it learns: free to change when it goes on.
_EXECUTION = ("mesh.", "training.cpu_devices", "training.dispatches_in_flight",
              "training.keep_checkpoints")


def claim(workdir: pathlib.Path, config: config_lib.Config) -> None:
  """Makes `workdir` this config's, or checks that it is already, but for how it is carried out.

  Raises:
    ValueError: it holds a run with another config (the fields are named), or something else.
    OSError: it cannot be made or written.
  """
  file = workdir / "config.json"
  if file.exists():
    changes = config_lib.difference(read_config(workdir), config)
    if others := [change for change in changes if not change.startswith(_EXECUTION)]:
      raise ValueError(f"--workdir {workdir} holds a run with another config: {'; '.join(others)} "
                       "(workdir → command); choose another --workdir")
    if changes:
      print(f"{workdir} goes on with {'; '.join(changes)}", flush=True)
      write_text(file, config_lib.to_json(config))
    return
  if (workdir / "checkpoints").exists():
    raise ValueError(f"--workdir {workdir} holds checkpoints without a config.json")
  _make(workdir)
  write_text(file, config_lib.to_json(config))


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
    workdir: pathlib.Path, config: config_lib.Config, *, from_step: int | None = None, **facts: Any
) -> None:
  """Writes manifest.json: what it takes to say later exactly what ran.

  A run that was stopped goes on in another session, by other devices or another commit perhaps:
  `sessions` has all of them, the first fields are those of the latest. With `from_step` one begins.
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
        "from_step": from_step or 0, **now,
        "mesh": {**vars(config.mesh), "cpu_devices": config.training.cpu_devices}})
  write_text(file, json.dumps({
      **now, "seed": config.seed, "config": json.loads(config_lib.to_json(config)), **facts,
      "sessions": sessions}, indent=2) + "\n")


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


def read_json(file: pathlib.Path, **kinds: Any) -> dict[str, Any]:
  """The JSON object in a file of ours, with at least the fields of `kinds`, which are types.

  Raises:
    ValueError: it is cut, edited into something else, or not text; names the file.
    OSError: it cannot be read.
  """
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
  except RecursionError:
    raise ValueError(f"{file} is damaged: it is nested too deeply") from None
  except ValueError as error:  # of JSON, UTF-8 or an integer of thousands of digits
    raise ValueError(f"{file} is damaged: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{file} is damaged: expected an object, got {type(found).__name__}")
  for name, kind in kinds.items():
    if name not in found:
      raise ValueError(f"{file} is damaged: it lacks {name!r}")
    if not isinstance(found[name], kind):
      raise ValueError(f"{file} is damaged: {name!r} is of type {type(found[name]).__name__}")
  return found


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


# What a clock has measured differs between runs that are otherwise the same.
CLOCKED = ("seconds", "steps_per_second", "host_seconds_per_step")


class Metrics:
  """metrics.jsonl and TensorBoard events of one run, continued from `step`."""

  def __init__(self, workdir: pathlib.Path, step: int):
    self._file = workdir / "metrics.jsonl"
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    write_text(self._file, "".join(json.dumps(line) + "\n" for line in kept))
    self._stream = self._file.open("a", encoding="utf-8")
    written = any(workdir.glob("events.out.tfevents*"))
    self._events = tensorboardX.SummaryWriter(
        str(workdir), purge_step=step + 1 if written else None)
    self._seconds = kept[-1].get("seconds", 0.0) if kept else 0.0

  def write(
      self, step: int, values: dict[str, Any], *, seconds: float, steps_per_second: float,
      host_seconds_per_step: float,
  ) -> None:
    """One line; numbers become TensorBoard scalars too, lists stay in the JSONL alone.

    Args:
      seconds: since the line before; the line has their sum over all sessions of the run.
    """
    self._seconds += seconds
    clocked = (self._seconds, steps_per_second, host_seconds_per_step)
    line = values | {name: float(f"{value:.4g}") if name != "seconds" else round(value, 3)
                     for name, value in zip(CLOCKED, clocked, strict=True)}
    self._stream.write(json.dumps({"step": step, **line}) + "\n")
    for name, value in line.items():
      if isinstance(value, (int, float)):
        self._events.add_scalar(name, value, step)

  def flush(self) -> None:
    """On disk before the checkpoint that covers it: a resume never misses a line.

    Raises:
      OSError: the disk, or the workdir has been deleted or renamed.
    """
    self.check()
    self._stream.flush()
    os.fsync(self._stream.fileno())
    self._events.flush()

  def check(self) -> None:
    """Raises OSError where metrics.jsonl is no longer the file that is being written."""
    try:
      there = os.path.samestat(self._file.stat(), os.fstat(self._stream.fileno()))
    except FileNotFoundError:
      there = False
    if not there:
      raise OSError(f"--workdir {self._file.parent} was deleted, renamed or replaced while this "
                    "run wrote there; nothing more was written")

  def close(self) -> None:
    self._stream.flush()
    os.fsync(self._stream.fileno())
    self._stream.close()
    self._events.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl, but for those that are none, of which stderr is told.

  A kill cuts off the last one, which goes without saying.
  """
  file = workdir / "metrics.jsonl"
  text = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
  lines, broken = [], []
  for number, line in enumerate(text, 1):
    try:
      found = json.loads(line)
      whole = type(found["step"]) is int and all(map(_is_measured, found.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
      whole = False
    if whole:
      lines.append(found)
    else:
      broken.append(number)
  if told := [number for number in broken if number < len(text)]:
    print(f"{file}: left out, as not a run's: line {', '.join(map(str, told))}", file=sys.stderr)
  return lines


def _is_measured(value: Any) -> bool:
  """Whether it is a number, a list of them, or None, which stands for one that is not finite."""
  if isinstance(value, list):
    return all(map(_is_measured, value))
  return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def read_result(file: pathlib.Path) -> dict[str, Any]:
  """The result.json of a sweep's run: error, final, points, floors and network_calls.

  Raises:
    ValueError: it is cut or damaged; names the file.
    OSError: it cannot be read.
  """
  try:
    found = {"floors": {}, "network_calls": None} | read_json(
        file, error=str, final=dict, points=list)
    if not isinstance(found["floors"], dict) or not all(
        isinstance(point, dict) and type(point.get("step")) is int for point in found["points"]):
      raise ValueError("its points or floors are none")
    numbers = [found["network_calls"], *found["final"].values(), *found["floors"].values(),
               *(value for point in found["points"] for value in point.values())]
    if not all(map(_is_measured, numbers)):
      raise ValueError("it holds values that are no numbers")
  except ValueError as error:
    raise ValueError(f"{file} is not the result of a sweep's run ({error}); delete it, and the "
                     "same command makes it again") from error
  return found
