"""A part of the report: what it measures, claims and draws, and how that is kept.

A part measures once and writes `<out>/data/<name>.json`: findings, with the seed, settings, commit
and command that made them. Pictures and the report are made from that file alone. A part whose file
is there already, made by the same source code with the same settings, is not run again, so that a
killed report goes on where it was.
"""

import hashlib
import json
import math
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from absl import flags

from experiments.config import cli
from experiments.paper import densities, laws
from experiments.run import assembly, records, subprocesses

matplotlib.use("Agg")  # there may be no screen; must precede pyplot
import matplotlib.pyplot as plt

flags.disclaim_key_flags()  # those of `define_flags` are in the --help of the program that calls it

# Colours that keep apart in print and for the colour-blind.
INK, GREY, ACCENT, SECOND, THIRD, FOURTH = (
    "#222222", "#8a8a8a", "#b5452c", "#2c6fb5", "#3c8d5a", "#8a5ab5")
SERIES = (ACCENT, SECOND, THIRD, FOURTH, "#c79a1e", "#4aa3a3", INK)


class Options(NamedTuple):
  """What a user chooses, the same for every part. out: the report's directory; density: a name, or
  the path of a file."""

  out: pathlib.Path
  fast: bool = False
  seed: int = 0
  density: str = "three_modes"


class Setting(NamedTuple):
  """What a part is given: the options, with the density loaded in the part's precision."""

  out: pathlib.Path
  fast: bool
  seed: int
  density: densities.Density


class Claim(NamedTuple):
  """One checked statement. by: "paper", which may turn out wrong, or "theory", which should not.

  error: the standard error of a Monte-Carlo value, or None. expected: what `holds` asked, in words.
  """

  text: str
  value: float
  error: float | None
  expected: str
  holds: bool
  source: str
  by: str


class Maths(NamedTuple):
  """A table's cell in presentation MathML, <math>…</math>."""

  mathml: str


class Table(NamedTuple):
  """rows: the first is the head; cells are texts, in which **…** is bold, or `Maths`."""

  title: str
  rows: list[list[str | Maths]]


class Findings(NamedTuple):
  """What a part found; `data`, of numbers, texts and arrays, is all that its pictures draw on.

  answer: to the question that the part asks, in a few sentences, every number in them measured.
  """

  claims: Sequence[Claim]
  data: Mapping[str, Any]
  captions: Mapping[str, str]
  tables: Sequence[Table] = ()
  answer: str = ""


class Part(NamedTuple):
  """A table group, figure or question of the paper.

  text: paragraphs, parted by empty lines. measure: all the computing. figures: from `data` as read
  back, {name: figure}. x64: measure in float64. needs: names of parts that must have run before.
  module: of experiments.paper, whose command runs it; that of its name if not given. arguments: of
  this command, besides the options.
  """

  name: str
  title: str
  text: str
  measure: Callable[[Setting], Findings]
  figures: Callable[[dict[str, Any]], dict[str, Any]]
  x64: bool = False
  needs: tuple[str, ...] = ()
  module: str = ""
  arguments: tuple[str, ...] = ()


def claim(
    text: str, value: Any, *, source: str, by: str = "theory", error: Any = None,
    below: float | None = None, above: float | None = None, near: float | None = None,
    tolerance: float | None = None, sigmas: float | None = None,
) -> Claim:
  """A claim with `holds` computed: value < below, value > above (both: between), or

    |value − near| ≤ tolerance,   or ≤ sigmas · error   for a Monte-Carlo value.

  Raises:
    ValueError: nothing to ask, `near` without exactly one width, `sigmas` without an error, or an
      unknown `by`.
  """
  value = float(value)
  error = None if error is None else float(error)
  if by not in ("paper", "theory"):
    raise ValueError(f"by must be 'paper' or 'theory', got {by!r}")
  if near is None and below is None and above is None:
    raise ValueError(f"a claim needs below, above or near: {text!r}")
  holds, expected = True, []
  if near is not None:
    if (tolerance is None) == (sigmas is None) or (sigmas is not None and error is None):
      raise ValueError(f"near needs a tolerance, or sigmas and an error: {text!r}")
    width = tolerance if sigmas is None else sigmas * error
    holds = abs(value - near) <= width
    expected.append(f"{number(near)} ± {number(width)}" + (
        f" ({sigmas:g} standard errors)" if sigmas is not None else ""))
  if below is not None:
    holds = holds and value < below
    expected.append(f"< {number(below)}")
  if above is not None:
    holds = holds and value > above
    expected.append(f"> {number(above)}")
  # A NaN holds nowhere: comparisons with it are false.
  return Claim(text, value, error, " and ".join(expected), bool(holds), source, by)


def number(value: float, digits: int = 3) -> str:
  """A number as the report prints it: few digits, powers of ten where it is small or large."""
  if value == 0.0 or not math.isfinite(value):
    return f"{value:g}".replace("-", "−")
  if value == int(value) and abs(value) < 1e6:
    return f"{int(value):,}".replace("-", "−")
  if 1e-3 <= abs(value) < 1e5:
    digits = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{digits}f}".replace("-", "−")
  mantissa, power = f"{value:.{digits - 1}e}".split("e")
  superscript = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
  # Spaces at which no line is broken.
  return f"{mantissa}\u00a0·\u00a010{superscript}".replace("-", "−")


def run(part: Part, options: Options, *, extra: dict[str, Any] | None = None) -> dict[str, Any]:
  """The part's record: measured now and written, or read where the same has been measured.

  Args:
    extra: settings of this part alone, besides the options, that its findings depend on.

  Raises:
    ValueError: what the part refuses. OSError: `out` cannot be written.
  """
  file = record_file(options.out, part.name)
  writable(options.out)
  with jax.enable_x64(part.x64):
    density = densities.load(options.density)
    identity = _identity(part, options, density, extra or {})
    record = _read(file)
    if record is None or record.get("identity") != identity:
      begun = time.monotonic()
      found = part.measure(Setting(options.out, options.fast, options.seed, density))
      record = {
          "part": part.name, "identity": identity, "seed": options.seed, "fast": options.fast,
          "density": _density(options), "settings": extra or {}, "commit": records.commit(),
          "command": command(part, options),
          "python": platform.python_version(), "jax": jax.__version__,
          "device": jax.devices()[0].device_kind, "cores": len(subprocesses.cores()),
          "seconds": round(time.monotonic() - begun, 2),
          "claims": [_plain(claim._asdict()) for claim in found.claims],
          "tables": [{"title": t.title, "rows": [[_cell(c) for c in r] for r in t.rows]}
                     for t in found.tables],
          "answer": found.answer, "captions": dict(found.captions), "data": _plain(found.data),
      }
      records.write_text(file, json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
  draw(part, options.out)
  return record


def draw(part: Part, out: pathlib.Path) -> None:
  """The part's pictures, <out>/figures/<part>-<name>.png, from its record alone."""
  folder = out / "figures"
  folder.mkdir(parents=True, exist_ok=True)
  record = _read(record_file(out, part.name))
  for name, figure in part.figures(record["data"]).items():
    if name not in record["captions"]:
      raise ValueError(f"figure {name!r} of {part.name} has no caption")
    figure.savefig(folder / f"{part.name}-{name}.png", dpi=130, bbox_inches="tight")
    plt.close(figure)


def record_file(out: pathlib.Path, name: str) -> pathlib.Path:
  return out / "data" / f"{name}.json"


def check(options: Options) -> None:
  """Raises ValueError where the options are no good, before anything is begun."""
  writable(options.out)
  laws.nodes(densities.load(options.density).line, reach=8.0)  # where it is too narrow for a grid


def writable(out: pathlib.Path) -> None:
  """Makes the directories of a report; ValueError in one line where they cannot be written."""
  try:
    (out / "data").mkdir(parents=True, exist_ok=True)
    probe = out / "data" / f".probe-{os.getpid()}"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise ValueError(f"--out {out} cannot be written: {error.strerror}; choose a directory that "
                     "can") from error


def command(part: Part, options: Options) -> list[str]:
  """What runs one part by itself, after "python"; in the repository's root, as all parts are."""
  return ["-m", f"experiments.paper.{part.module or part.name}", f"--out={from_root(options.out)}",
          f"--seed={options.seed}", f"--density={_density(options)}", f"--fast={options.fast}",
          *part.arguments]


def from_root(path: pathlib.Path | str) -> str:
  """A path as commands that run in the repository's root name it: absolute where it is outside."""
  path = pathlib.Path(path).absolute()
  root = subprocesses.ROOT
  return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _density(options: Options) -> str:
  return options.density if options.density in densities.NAMED else from_root(options.density)


def main(part: Part) -> None:
  """The command line of one part; see `--help`."""
  define_flags()

  def one():
    if flags.FLAGS.until_stdin_closes:
      subprocesses.end_with_stdin()
    assembly.keep_compiled()
    record = run(part, options())
    said(record)

  cli.run(one)


def said(record: dict[str, Any]) -> None:
  """Prints a record's claims, one a line."""
  for found in record["claims"]:
    print(f"{'✓' if found['holds'] else '✗'} {found['text']} ({found['source']}): "
          f"{measured(found)}; expected {found['expected']}")
  print(f"{record['part']}: {record['seconds']:.0f} s")


def measured(claim: Mapping[str, Any]) -> str:
  """A record's claim as its value and standard error; in JSON a NaN is a text."""
  error = "" if claim["error"] is None else f" ± {number(float(claim['error']), 2)}"
  return number(float(claim["value"])) + error


def define_flags() -> None:
  """The options as absl flags."""
  flags.DEFINE_string("out", "runs/paper", "Directory of the report.")
  flags.DEFINE_bool("until_stdin_closes", False, "End when standard input is closed, as it is when "
                    "what started this has ended.")
  flags.DEFINE_bool("fast", False, "Small sizes: everything in 3 minutes, with wider error bars.")
  flags.DEFINE_integer("seed", 0, "Of every random number.", lower_bound=0, upper_bound=2**31 - 1)
  flags.DEFINE_string(
      "density", "three_modes", f"What is modelled: {', '.join(densities.NAMED)}, or a .json or "
      ".npz file with weights (K,), means (K, d), covariances (K, d, d) of a mixture, d 1 or 2; it "
      "is moved to mean 0 and scaled to variance 1.")


def options() -> Options:
  """The options that were given, the same wherever they are read: paths are absolute.

  Raises:
    ValueError: a config is given, which belongs to training.
  """
  cli.refuse_config()
  values = flags.FLAGS
  density = values.density
  if density not in densities.NAMED and pathlib.Path(density).is_file():
    density = str(pathlib.Path(density).absolute())
  return Options(pathlib.Path(values.out).absolute(), values.fast, values.seed, density)


def _identity(part, options, density, extra) -> str:
  """A digest of all that the findings depend on: the source code, the density and the settings."""
  digest = hashlib.sha256(density.name.encode())
  for folder in ("langevin_jax", "experiments"):
    for file in sorted((subprocesses.ROOT / folder).rglob("*.py")):
      digest.update(file.read_bytes())
  for leaf in jax.tree.leaves((density.line, density.plane)):
    digest.update(np.asarray(leaf, np.float64).tobytes())
  settings = [part.name, part.arguments, part.x64, options.fast, options.seed, extra]
  digest.update(json.dumps(settings, sort_keys=True).encode())
  return digest.hexdigest()


def read_record(file: pathlib.Path) -> dict[str, Any]:
  """A part's record, as `run` writes it.

  Raises:
    ValueError: it is cut or edited into something else; names the file.
    OSError: it cannot be read.
  """
  found = records.read_json(
      file, identity=str, seed=int, fast=bool, density=str, settings=dict, commit=str, command=list,
      python=str, jax=str, device=str, cores=int, seconds=(int, float), claims=list, tables=list,
      answer=str, captions=dict, data=dict)
  cell = lambda value: isinstance(value, str) or (
      isinstance(value, dict) and isinstance(value.get("mathml"), str))
  claim = lambda value: (
      isinstance(value, dict) and set(Claim._fields) <= value.keys() and _is_number(value["value"])
      and (value["error"] is None or _is_number(value["error"]))
      and isinstance(value["holds"], bool)
      and all(isinstance(value[name], str) for name in ("text", "expected", "source", "by")))
  sound = {
      "claims": all(map(claim, found["claims"])),
      "tables": all(isinstance(t, dict) and isinstance(t.get("title"), str)
                    and isinstance(t.get("rows"), list) and t["rows"] and all(
                        isinstance(row, list) and all(map(cell, row)) for row in t["rows"])
                    for t in found["tables"]),
      # Of each a picture is read, from beside the others.
      "captions": all(re.fullmatch(r"[\w-]+", name) and isinstance(text, str)
                      for name, text in found["captions"].items()),
      "command": all(isinstance(word, str) for word in found["command"]),
  }
  if wrong := [name for name, right in sound.items() if not right]:
    raise ValueError(f"{file} is damaged: its {wrong[0]} are none; delete it to measure again")
  return found


def _is_number(value: Any) -> bool:
  """A number, or the text that stands for one that is not finite."""
  return value in ("nan", "inf", "-inf") if isinstance(value, str) else isinstance(
      value, (int, float))


def _read(file: pathlib.Path) -> dict[str, Any] | None:
  """The record of an earlier run; None where there is none that can be gone on with."""
  try:
    return read_record(file)
  except (OSError, ValueError):
    return None


def _cell(cell):
  return {"mathml": cell.mathml} if isinstance(cell, Maths) else str(cell)


def _plain(value: Any) -> Any:
  """Numbers, texts, lists and dicts; NaN and infinity, which JSON lacks, as texts."""
  match value:
    case dict():
      return {str(k): _plain(v) for k, v in value.items()}
    case str() | bool() | int() | None:
      return value
    case list() | tuple():
      return [_plain(v) for v in value]
    case _:
      array = np.asarray(value)
      if array.ndim:
        return [_plain(v) for v in array.tolist()]
      scalar = array.item()
      return scalar if not isinstance(scalar, float) or math.isfinite(scalar) else str(scalar)
