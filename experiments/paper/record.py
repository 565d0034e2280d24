"""What a part measured: measured once, kept as <out>/data/<part>.json, and drawn from that alone.

A record is valid as long as the source files that `measure` imports, the density and the settings
are those that made it. Claims, pictures and texts are functions of the numbers in it, so changing
them measures nothing again.
"""

import hashlib
import json
import math
import os
import pathlib
import platform
import time
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np

from experiments.paper import closure, contents
from experiments.paper.exact import densities, laws
from experiments.paper.setting import Setting
from experiments.run import records, subprocesses

matplotlib.use("Agg")  # there may be no screen; must precede pyplot
import matplotlib.pyplot as plt


class Options(NamedTuple):
  """What a user chooses, the same for every part.

  out: the report's directory. density: a name, or the path of a file. workdir: a run of the user's,
  which the part `certificate` is about; "" for the report's own.
  """

  out: pathlib.Path
  fast: bool = False
  seed: int = 0
  density: str = "three_modes"
  workdir: str = ""


def measured(part: contents.Part, options: Options) -> dict[str, Any]:
  """The part's record: measured now and written, or read where the same has been measured.

  Raises:
    ValueError: bad input of the part. OSError: `out` cannot be written.
  """
  file = record_file(options.out, part.name)
  check(options)
  identity = _identity(part, options)
  if not current(part, options):
    begun = time.monotonic()
    with jax.enable_x64(part.x64):
      workdir = subprocesses.ROOT / options.workdir if _certified(part, options) else None
      data = part.load("measure").measure(Setting(
          options.out, options.fast, options.seed, densities.load(options.density), workdir))
    record = {
        "part": part.name, "identity": identity, "seed": options.seed,
        "fast": options.fast, "density": _density(options),
        "workdir": options.workdir if workdir else "", "commit": records.commit(),
        "command": command(part, options), "python": platform.python_version(),
        "jax": jax.__version__, "device": jax.devices()[0].device_kind,
        "cores": len(subprocesses.cores()), "seconds": round(time.monotonic() - begun, 2),
        "data": plain(data)}
    record["sha256"] = _checksum(record)
    records.write_text(file, json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
  return read(file)


def current(part: contents.Part, options: Options) -> bool:
  """Whether the part has a record that the same sources and settings made."""
  try:
    record = _verified(record_file(options.out, part.name))
  except (OSError, ValueError):
    return False
  return record["identity"] == _identity(part, options)


def read(file: pathlib.Path) -> dict[str, Any]:
  """A record, its numbers as arrays.

  Raises:
    ValueError: it is cut, or was edited; names the file.
    OSError: it cannot be read.
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


def drawn(part: contents.Part, record: dict[str, Any], out: pathlib.Path) -> list[str]:
  """Names of the part's pictures, <out>/figures/<part>-<name>.png; drawn where they are not those
  of this record and of the code that draws."""
  folder = out / "figures"
  folder.mkdir(parents=True, exist_ok=True)
  file = lambda name: folder / f"{part.name}-{name}.png"
  stamp = folder / f"{part.name}.json"
  identity = closure.digest([part.path("figures")], record["sha256"].encode())
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


def check(options: Options) -> None:
  """Makes the directories; ValueError in one line where the options are bad, before any work."""
  try:
    (options.out / "data").mkdir(parents=True, exist_ok=True)
    probe = options.out / "data" / f".probe-{os.getpid()}"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise ValueError(f"--out {options.out} cannot be written: {error.strerror}; choose a directory "
                     "that can") from error
  laws.nodes(densities.load(options.density).line, reach=8.0)  # where it is too narrow for a grid


def command(part: contents.Part, options: Options) -> list[str]:
  """What measures one part by itself, after "python"; run in the repository's root."""
  return ["-m", "experiments.paper.measure", f"--part={part.name}",
          f"--out={from_root(options.out)}", f"--seed={options.seed}",
          f"--density={_density(options)}", f"--fast={options.fast}",
          *([f"--workdir={options.workdir}"] if _certified(part, options) else [])]


def from_root(path: pathlib.Path | str) -> str:
  """A path as commands that run in the repository's root name it: absolute where it is outside."""
  path = pathlib.Path(path).absolute()
  root = subprocesses.ROOT
  return str(path.relative_to(root) if path.is_relative_to(root) else path)


def plain(value: Any) -> Any:
  """Numbers, texts, lists and dicts; NaN and infinity, which JSON lacks, as texts."""
  match value:
    case dict():
      return {str(k): plain(v) for k, v in value.items()}
    case str() | bool() | int() | None:
      return value
    case list() | tuple():
      return [plain(v) for v in value]
    case _:
      array = np.asarray(value)
      if array.ndim:
        return [plain(v) for v in array.tolist()]
      scalar = array.item()
      return scalar if not isinstance(scalar, float) or math.isfinite(scalar) else str(scalar)


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


def _identity(part: contents.Part, options: Options) -> str:
  """A digest of all that the numbers depend on: source code, density, settings, network."""
  with jax.enable_x64(True):
    density = densities.load(options.density)
  settings = [part.name, part.x64, options.fast, options.seed, density.name, jax.__version__]
  if _certified(part, options):
    settings.append(certified(options.workdir))
  return closure.digest(
      [part.path("measure"), *part.programs], json.dumps(settings).encode(),
      *(np.asarray(leaf, np.float64).tobytes()
        for leaf in jax.tree.leaves((density.line, density.plane))))


def certified(workdir: str) -> dict[str, Any]:
  """What the certificate of a user's run depends on besides the options.

  Raises:
    ValueError: no run there, or none with a checkpoint.
  """
  place = subprocesses.ROOT / workdir
  records.read_config(place)
  if not (place / "checkpoints").is_dir():
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  manifest = records.read_manifest(place)
  return {"workdir": workdir, "step": manifest.get("steps"),
          "parameters": manifest.get("sha256"), "averaged": manifest.get("sha256_ema")}


def _certified(part: contents.Part, options: Options) -> bool:
  return bool(options.workdir) and part.name == "certificate"


def _density(options: Options) -> str:
  return options.density if options.density in densities.NAMED else from_root(options.density)


def _checksum(record: dict[str, Any]) -> str:
  content = {key: value for key, value in record.items() if key != "sha256"}
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
