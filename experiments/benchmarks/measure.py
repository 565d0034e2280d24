"""Rivals timed turn about, ratios of them, and the machine they ran on.

What else runs on a machine slows everything down, but not always equally. So rivals take turns, a
slice each, and a ratio is taken within each round of turns; the median over rounds is reported with
the least and the greatest.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.run import records

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "torch")

Task = Callable[[int], Any]


class Spread(NamedTuple):
  """Median, least and greatest over the rounds."""

  median: float
  low: float
  high: float


class Row(NamedTuple):
  """One line of the table: a ratio (or what `name` says), its spread, and what is wanted."""

  name: str
  value: Spread | None
  target: str
  note: str = ""


class Part(NamedTuple):
  """The rows of one comparison, and seconds per iteration of each rival in each round."""

  rows: list[Row]
  seconds: dict[str, dict[str, list[float]]]


# (tasks, what they are) → seconds per iteration of each in each round, by `interleaved`.
Timed = Callable[[Mapping[str, Task], str], dict[str, np.ndarray]]


def interleaved(
    tasks: Mapping[str, Task], *, repeats: int, seconds: float, slices: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
  """Seconds per iteration of each task in each of `repeats` rounds, shape (repeats,).

  A round gives every task about `seconds`, in `slices` turns (fewer where an iteration takes longer
  than a turn would), whose order is reversed every other time. The first call of a task, in which
  things compile, is not counted.

  Args:
    tasks: name → run(n), which returns when n iterations have been done.
    repeats: rounds, ≥ 1. seconds: of each task in each round. slices: turns in a round, ≥ 1.
    clock: in seconds.

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
      for name in sorted(tasks, key=list(tasks).index, reverse=turn % 2 == 1):
        spent[name] += timed(tasks[name], counts[name])
    for name in tasks:
      rounds[name].append(spent[name] / (slices * counts[name]))
  return {name: np.asarray(values) for name, values in rounds.items()}


def spread(values: Sequence[float] | np.ndarray) -> Spread:
  """Median, least and greatest."""
  return Spread(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Spread:
  """Spread of the ratios taken round by round; both of shape (repeats,).

  Raises:
    ValueError: shapes that differ: rounds would not belong together.
  """
  if np.shape(numerator) != np.shape(denominator):
    raise ValueError(f"numerator has shape {np.shape(numerator)}, denominator "
                     f"{np.shape(denominator)}; they must be of the same rounds")
  return spread(np.asarray(numerator) / np.asarray(denominator))


def plain(times: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
  """As JSON takes them."""
  return {name: values.tolist() for name, values in times.items()}


def repeated(call: Callable[[], Any]) -> Task:
  """run(n): n calls, each waited for."""
  return lambda n: [jax.block_until_ready(call()) for _ in range(n)]


def machine() -> dict[str, Any]:
  """What and when: processor, cores, memory, versions, commit, load average, date (UTC)."""
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
  """Load averages over 1, 5 and 15 minutes: more than the cores means that others were running."""
  return [round(value, 2) for value in os.getloadavg()]


def write(file: pathlib.Path, report: Mapping[str, Any]) -> None:
  """`report` as JSON in `file`, whose directory is made if absent."""
  file.parent.mkdir(parents=True, exist_ok=True)
  records.write_text(file, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def is_report(value: Any) -> bool:
  """Whether a JSON value is what a benchmark writes, which another may replace."""
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
