"""Records of parts: measured once and kept in <out>/data/<part>.json.

A record is valid while the source files that `measure` imports, the density and the settings are
the same. Claims, pictures and texts are functions of its numbers: changing them measures nothing.
"""

import hashlib
import json
import os
import pathlib
import platform
import time
from typing import Any

import jax
import matplotlib
import numpy as np

from experiments.paper import contents, sources
from experiments.paper.exact import densities, laws
from experiments.paper.setting import Setting
from experiments.run import records, subprocesses

matplotlib.use("Agg")  # there may be no screen; must precede pyplot
import matplotlib.pyplot as plt


def measure(part: contents.Part, setting: Setting) -> dict[str, Any]:
  """The part's record, measured and written unless a valid one exists.

  Raises:
    ValueError: bad input of the part.
    OSError: `out` cannot be written.
  """
  file = record_file(setting.out, part.name)
  check(setting)
  identity = _identity(part, setting)
  if not is_current(part, setting):
    begun = time.monotonic()
    with jax.enable_x64(part.x64):
      data = part.load("measure").measure(setting)
    record = {
        "part": part.name, "identity": identity, "seed": setting.seed,
        "fast": setting.fast, "density": _density(setting),
        "workdir": _workdir(part, setting), "commit": records.commit(),
        "command": command(part, setting), "python": platform.python_version(),
        "jax": jax.__version__, "device": jax.devices()[0].device_kind,
        "cores": len(subprocesses.cores()), "seconds": round(time.monotonic() - begun, 2),
        "data": plain(data)}
    record["sha256"] = _checksum(record)
    records.write_text(file, json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
  return read(file)


def is_current(part: contents.Part, setting: Setting) -> bool:
  """Whether the part has a valid record."""
  try:
    record = _verified(record_file(setting.out, part.name))
  except (OSError, ValueError):
    return False
  return record["identity"] == _identity(part, setting)


def read(file: pathlib.Path) -> dict[str, Any]:
  """A record, with its numbers as arrays.

  Raises:
    ValueError: the file is damaged or was edited.
    OSError: the file cannot be read.
  """
  record = _verified(file)
  return record | {"data": arrays(record["data"])}


def _verified(file: pathlib.Path) -> dict[str, Any]:
  record = records.read_json(
      file, identity=str, seed=int, fast=bool, density=str, workdir=str, commit=str, command=list,
      seconds=(int, float), cores=int, data=dict, sha256=str)
  if record["sha256"] != _checksum(record):
    raise ValueError(f"{file} is damaged: its checksum differs; delete it to measure again")
  return record


def draw(part: contents.Part, record: dict[str, Any], out: pathlib.Path) -> list[str]:
  """The names of the part's pictures, <out>/figures/<part>-<name>.png.

  They are drawn unless those of this record and of the same drawing code exist.
  """
  folder = out / "figures"
  folder.mkdir(parents=True, exist_ok=True)
  file = lambda name: folder / f"{part.name}-{name}.png"
  stamp = folder / f"{part.name}.json"
  identity = sources.digest([part.path("figures")], record["sha256"].encode())
  if records.wrote(stamp, lambda found: found["identity"] == identity and all(
      file(name).is_file() for name in found["names"])):
    return json.loads(stamp.read_text(encoding="utf-8"))["names"]
  figures = part.load("figures").figures(record["data"])
  for name, figure in figures.items():
    figure.savefig(file(name), dpi=130, bbox_inches="tight")
    plt.close(figure)
  records.write_text(stamp, json.dumps({"identity": identity, "names": list(figures)}))
  return list(figures)


def record_file(out: pathlib.Path, name: str) -> pathlib.Path:
  return out / "data" / f"{name}.json"


def check(setting: Setting) -> None:
  """Makes the directories. Raises ValueError for a bad setting before any work."""
  try:
    (setting.out / "data").mkdir(parents=True, exist_ok=True)
    probe = setting.out / "data" / f".probe-{os.getpid()}"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise ValueError(f"--out {setting.out} cannot be written: {error.strerror}; choose a directory "
                     "that can") from error
  laws.nodes(setting.density.line, reach=8.0)  # raises if a component is too narrow


def command(part: contents.Part, setting: Setting) -> list[str]:
  """The arguments of "python" that measure one part, in the repository's root."""
  return ["-m", "experiments.paper.measure", f"--part={part.name}",
          f"--out={from_root(setting.out)}", f"--seed={setting.seed}",
          f"--density={_density(setting)}", f"--fast={setting.fast}",
          *([f"--workdir={setting.workdir}"] if _workdir(part, setting) else [])]


def from_root(path: pathlib.Path | str) -> str:
  """A path relative to the repository's root, or absolute if it is outside."""
  path = pathlib.Path(path).absolute()
  root = subprocesses.ROOT
  return str(path.relative_to(root) if path.is_relative_to(root) else path)


def plain(value: Any) -> Any:
  """A value in JSON types: arrays and tuples as lists, NaN and infinity as texts."""
  text = json.dumps(value, default=lambda array: np.asarray(array).tolist())
  return json.loads(text, parse_constant=lambda name: str(float(name)))


def arrays(value: Any) -> Any:
  """Undoes `plain`: lists of numbers of one shape become arrays."""
  match value:
    case "nan" | "inf" | "-inf":
      return float(value)
    case dict():
      return {k: arrays(v) for k, v in value.items()}
    case list() if value:
      items = [arrays(v) for v in value]
      numbers = all(isinstance(v, (bool, int, float)) for v in items)
      rows = all(isinstance(v, np.ndarray) for v in items) and len({v.shape for v in items}) == 1
      return np.array(items) if numbers or rows else items
  return value


def _identity(part: contents.Part, setting: Setting) -> str:
  """A digest of everything that the numbers depend on: source code, density, settings, network."""
  with jax.enable_x64(True):
    density = setting.density
  settings = [part.name, part.x64, setting.fast, setting.seed, density.name, jax.__version__]
  if workdir := _workdir(part, setting):
    settings.append(describe_run(workdir))
  return sources.digest(
      [part.path("measure"), *part.programs], json.dumps(settings).encode(),
      *(np.asarray(leaf, np.float64).tobytes()
        for leaf in jax.tree.leaves((density.line, density.plane))))


def describe_run(workdir: str) -> dict[str, Any]:
  """What the certificate of a user's run depends on besides the setting.

  Raises:
    ValueError: no run, or a run without a checkpoint.
  """
  place = subprocesses.ROOT / workdir
  records.read_config(place)
  if not (place / "checkpoints").is_dir():
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  manifest = records.read_manifest(place)
  return {"workdir": workdir, "step": manifest.get("steps"),
          "parameters": manifest.get("sha256"), "averaged": manifest.get("sha256_ema")}


def _workdir(part: contents.Part, setting: Setting) -> str:
  """The user's run, if the part uses it."""
  return setting.workdir if part.name == "certificate" else ""


def _density(setting: Setting) -> str:
  return setting.source if setting.source in densities.NAMED else from_root(setting.source)


def _checksum(record: dict[str, Any]) -> str:
  content = {key: value for key, value in record.items() if key != "sha256"}
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
