"""Times of alternating tasks, their ratios, a description of the machine, and the JSON report.

Other programs on the machine slow the tasks down by amounts that vary in time. Therefore tasks
alternate in short turns, and ratios are computed within each round of turns. The report has the
median over rounds, the smallest and the largest value.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.config import cli
from experiments.run import records

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "torch")

Task = Callable[[int], Any]


def call(module: str, *arguments: str) -> None:
  """Runs a command of the project; its output is printed."""
  subprocess.run([sys.executable, "-m", f"experiments.{module}", *arguments], check=True)


class Spread(NamedTuple):
  """The median, smallest and largest value over the rounds."""

  median: float
  low: float
  high: float


class Row(NamedTuple):
  """One line of the table: a quantity, usually a ratio, its value, and its target as text."""

  name: str
  value: Spread | None
  target: str = ""
  note: str = ""


class Part(NamedTuple):
  """One comparison: its rows, and the seconds of each task in each round."""

  rows: list[Row]
  seconds: dict[str, dict[str, Any]]


class Timer(NamedTuple):
  """Times tasks in `repeats` rounds, about `seconds` per task and round, and prints medians."""

  repeats: int
  seconds: float

  def __call__(self, tasks: Mapping[str, Task], what: str) -> dict[str, np.ndarray]:
    """Seconds per iteration of each task in each round, by `interleaved`."""
    times = interleaved(tasks, repeats=self.repeats, seconds=self.seconds)
    medians = ", ".join(f"{name} {1e3 * np.median(t):.4g} ms" for name, t in times.items())
    print(f"  {what}: {medians}", flush=True)
    return times


def interleaved(
    tasks: Mapping[str, Task], *, repeats: int, seconds: float, slices: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
  """Seconds per iteration of each task in each of `repeats` rounds, shape (repeats,).

  In a round every task runs for about `seconds`, in `slices` turns, or in fewer turns if an
  iteration takes longer than a turn. The order of tasks is reversed in every second turn. The first
  call of a task, which compiles, is not timed.

  Args:
    tasks: name → run(n), which returns after n iterations.
    repeats: number of rounds, ≥ 1. seconds: time of each task in each round. slices: number of
      turns in a round, ≥ 1. clock: returns seconds.

  Raises:
    ValueError: repeats or slices < 1, or seconds ≤ 0.
  """
  for name, value in (("repeats", repeats), ("slices", slices)):
    if value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")
  if not seconds > 0.0:
    raise ValueError(f"seconds must be positive, got {seconds}")

  def timed(task, n):
    start = clock()
    task(n)
    return clock() - start

  wanted = {}
  for name, task in tasks.items():
    task(1)
    once = min(timed(task, 1) for _ in range(2))
    wanted[name] = max(1, round(seconds / max(once, 1e-9)))
  slices = min(slices, *wanted.values())
  counts = {name: -(-n // slices) for name, n in wanted.items()}
  rounds: dict[str, list[float]] = {name: [] for name in tasks}
  for _ in range(repeats):
    spent = dict.fromkeys(tasks, 0.0)
    for turn in range(slices):
      for name in list(tasks)[::-1 if turn % 2 else 1]:
        spent[name] += timed(tasks[name], counts[name])
    for name in tasks:
      rounds[name].append(spent[name] / (slices * counts[name]))
  return {name: np.asarray(values) for name, values in rounds.items()}


def repeated(call: Callable[[], Any]) -> Task:
  """A task of n calls. It waits for the result of each call."""
  return lambda n: [jax.block_until_ready(call()) for _ in range(n)]


def spread(values: Sequence[float] | np.ndarray) -> Spread:
  """The median, smallest and largest of the values."""
  return Spread(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def ratio(numerator: Sequence[float] | np.ndarray, denominator: Sequence[float] | np.ndarray
          ) -> Spread:
  """The spread of the ratios of each round. Both arguments have the shape (repeats,).

  Raises:
    ValueError: the shapes differ, so the values are not of the same rounds.
  """
  if np.shape(numerator) != np.shape(denominator):
    raise ValueError(f"numerator has shape {np.shape(numerator)}, denominator "
                     f"{np.shape(denominator)}; they must be of the same rounds")
  return spread(np.asarray(numerator) / np.asarray(denominator))


def report(parts: Mapping[str, Callable[[], Part]], *, only: Sequence[str], out: str) -> None:
  """Measures the parts `only`, or all. Prints rows and writes the JSON file after each part.

  Raises:
    ValueError: a part is unknown, or the file must not be replaced.
  """
  if unknown := set(only) - set(parts):
    raise ValueError(f"--only must be of {', '.join(parts)}, got {unknown.pop()!r}")
  file = cli.out(out, is_report)
  content: dict[str, Any] = {"machine": machine(), "command": sys.argv[1:], "rows": [],
                             "seconds": {}}
  for name in only or parts:
    before = load()[0]
    print(f"{name}: load average {before}", flush=True)
    part = parts[name]()
    content["rows"] += [
        {"part": name, **row._asdict(), "value": row.value and row.value._asdict(),
         "load_average": [before, load()[0]]} for row in part.rows]
    content["seconds"] |= {what: {rival: np.asarray(values).tolist()
                                  for rival, values in rivals.items()}
                           for what, rivals in part.seconds.items()}
    write(file, content)
    for row in part.rows:
      value = "" if row.value is None else "{:.3f} ({:.3f}…{:.3f})".format(*row.value)
      print(f"  {row.name}: {value}  {row.target}  {row.note}".rstrip(), flush=True)
  print(f"\nin {file}")


def machine() -> dict[str, Any]:
  """The processor, cores, memory, versions, commit, load average and date (UTC)."""
  return {
      "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
      "processor": _processor(),
      "cores": os.cpu_count(),
      "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
      "system": platform.platform(),
      "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
      "python": platform.python_version(),
      "versions": {name: _version(name) for name in _PACKAGES},
      "commit": records.commit(),
      "load_average": load(),
  }


def load() -> list[float]:
  """Load averages over 1, 5 and 15 minutes. Above the number of cores, other programs compete."""
  return [round(value, 2) for value in os.getloadavg()]


def write(file: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes `content` as JSON. The directory is created if needed."""
  file.parent.mkdir(parents=True, exist_ok=True)
  records.write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def is_report(value: Any) -> bool:
  """Whether a JSON value is the report of a benchmark, which another benchmark may replace."""
  return "machine" in value


def _processor() -> str:
  info = pathlib.Path("/proc/cpuinfo")
  for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else ():
    if line.startswith("model name"):
      return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"
