"""Time from the start of `experiments.train` to the end of its first step."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks import measure
from experiments.benchmarks.measure import Part, Row
from experiments.configs import digits


def cold_and_warm(repeats: int) -> Part:
  """Compares starts with an empty (cold) and with a filled (warm) compilation cache."""
  first: dict[str, list[float]] = {"cold": [], "warm": []}
  end: dict[str, list[float]] = {"cold": [], "warm": []}
  for _ in range(repeats):
    with tempfile.TemporaryDirectory() as room:
      for state in ("cold", "warm"):
        step, whole = train(pathlib.Path(room), pathlib.Path(room) / state,
                            options=["--config.training.steps=1"])
        first[state].append(step)
        end[state].append(whole)
  return Part([
      Row("second start ÷ first, to the end of the first step",
          measure.ratio(first["warm"], first["cold"]), "<= 0.5", _medians(first)),
      Row("second start ÷ first, whole run of one step", measure.ratio(end["warm"], end["cold"]),
          note=_medians(end))], {"first step": first, "run of one step": end})


def resumed(repeats: int) -> Part:
  """Compares a start from a checkpoint of a killed run with a start from nothing.

  The compilation cache is filled for both.
  """
  each_step = [f"--config.training.{name}=1" for name in
               ("steps_per_dispatch", "log_every", "checkpoint_every", "dispatches_in_flight")]
  times: dict[str, list[float]] = {"fresh": [], "resumed": []}
  with tempfile.TemporaryDirectory() as folder:
    room = pathlib.Path(folder)
    train(room, room / "left", until="checkpoints/1", kill=True, options=each_step)
    for number in range(-1, repeats):
      for name in ("fresh", "resumed")[::1 if number % 2 else -1]:
        workdir = room / f"{name} {number}"
        if name == "resumed":
          shutil.copytree(room / "left", workdir)
          (workdir / "metrics.jsonl").unlink()  # so that the first line is of this process
        passed, _ = train(room, workdir, kill=True, options=each_step)
        if number >= 0:  # round −1 fills the cache
          times[name].append(passed)
        shutil.rmtree(workdir)
  return Part([Row("resume ÷ warm start, to the end of the first step", measure.ratio(
      times["resumed"], times["fresh"]), "<= 2", _medians(times))], {"starts": times})


def train(
    room: pathlib.Path, workdir: pathlib.Path, *, until: str = "metrics.jsonl", kill: bool = False,
    options: Sequence[str] = (),
) -> tuple[float, float]:
  """Seconds from the start of a run of digits until a file is not empty, and until the run ends.

  The first line of metrics.jsonl is written when the first step has ended.

  Args:
    room: directory of the compilation cache. workdir: directory of the run. until: the file, below
      `workdir`. kill: whether to kill the process when the file has content.

  Raises:
    OSError: the process ended with an error, or before the file had content.
  """
  begun, file, seen = time.perf_counter(), workdir / until, None
  with subprocess.Popen(
      [sys.executable, "-m", "experiments.train", f"--config={pathlib.Path(digits.__file__)}",
       f"--workdir={workdir}", *options], stdout=subprocess.DEVNULL,
      env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(room / "cache")}) as process:
    try:
      while process.poll() is None and not (kill and seen):
        if seen is None and file.exists() and file.stat().st_size:
          seen = time.perf_counter() - begun
        time.sleep(0.005)
    finally:
      process.kill()
  if seen is None or (not kill and process.returncode):
    raise OSError(f"experiments.train ended with exit code {process.returncode}")
  return seen, time.perf_counter() - begun


def _medians(times: dict[str, list[float]]) -> str:
  return ", ".join(f"{name} {np.median(values):.1f} s" for name, values in times.items())
