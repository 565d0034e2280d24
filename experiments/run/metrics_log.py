"""metrics.jsonl of a run, the results of a sweep's runs, and how they are read back.

On a resume, lines are cut back to the restored step, so that a run that was killed has no line
twice.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.run import loggers
from experiments.run.files import Lines, read_json

# What a clock has measured differs between runs that are otherwise the same.
CLOCKED = ("seconds", "steps_per_second", "host_seconds_per_step", "examples_per_second",
           "watch_seconds")


class Metrics:
  """metrics.jsonl of one run, continued from `step`, and its logger."""

  def __init__(
      self, workdir: pathlib.Path, step: int,
      logger: Callable[[pathlib.Path, int], loggers.Logger | None] = loggers.tensorboard,
  ):
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    self._lines = Lines(
        workdir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
    self._logger = logger(workdir, step)
    self._seconds = kept[-1].get("seconds", 0.0) if kept else 0.0

  def write(
      self, step: int, values: dict[str, Any], *, seconds: float, steps_per_second: float,
      host_seconds_per_step: float, images: Mapping[str, np.ndarray] | None = None,
  ) -> None:
    """One line; the logger gets its numbers, and `images`, but no lists.

    Args:
      seconds: since the line before; the line has their sum over all sessions of the run.
    """
    self._seconds += seconds
    clocked = {"steps_per_second": steps_per_second, "host_seconds_per_step": host_seconds_per_step}
    line = values | {"seconds": round(self._seconds, 3)} | {
        name: float(f"{value:.4g}") for name, value in clocked.items()}
    self._lines.add(json.dumps({"step": step, **line}) + "\n")
    self._log("scalars", step, {name: value for name, value in line.items()
                                if isinstance(value, (int, float))})
    if images:
      self._log("images", step, images)

  def flush(self) -> None:
    """On disk before the checkpoint that covers it: a resume never misses a line.

    Raises:
      OSError: the disk, or the workdir has been deleted or renamed.
    """
    self._lines.check()
    self._lines.sync()
    self._log("flush")

  def close(self) -> None:
    self._lines.close()
    self._log("close")

  def _log(self, function: str, *values: Any) -> None:
    """Calls a function of the logger. Raises ValueError, in one line, for what it raises."""
    if self._logger is None:
      return
    try:
      getattr(self._logger, function)(*values)
    except (ValueError, OSError):
      raise
    except Exception as error:  # whatever a logger's library, or the user's own, raises
      raise ValueError(f"config.training.logger: {function}: {type(error).__name__}: {error}"
                       ) from error


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl, but for those that are none, of which stderr is told.

  A kill cuts off the last one, which goes without saying.
  """
  file = workdir / "metrics.jsonl"
  text = (file.read_bytes().decode("utf-8", errors="replace").splitlines() if file.exists()
          else [])
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
