"""Other libraries' samplers on any model and any grid of noise levels, in a process of their own.

  with rivals.worker() as worker:
    for name in worker.names: worker.solve(name, denoise, z, rho).x_0

The process (`rival_solvers` as a program) asks back for every D(z, ρ), and calls are counted there:
so the model may be anything, the libraries may live in another environment (`python`), and PyTorch
and XLA never share threads. A library that is absent is left out by name.
"""

import contextlib
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks import rival_solvers
from experiments.benchmarks.rival_solvers import RIVALS

Denoise = Callable[[np.ndarray, float], np.ndarray]


class Result(NamedTuple):
  """What a rival made of z, and the calls of the model that it took."""

  x_0: np.ndarray
  calls: int


class Worker(NamedTuple):
  """A running process. names: the rivals that it has; absent: library → why it has it not."""

  names: tuple[str, ...]
  absent: Mapping[str, str]
  notes: tuple[str, ...]
  solve: Callable[..., Result]


def steps(name: str, calls: int) -> int:
  """The most steps that the rival takes in at most `calls` calls of the model, 0 if none."""
  return max((n for n in range(1, calls + 1) if RIVALS[name].calls(n) <= calls), default=0)


@contextlib.contextmanager
def worker(python: str = sys.executable) -> Iterator[Worker]:
  """Starts a process with the rivals that `python` can import; ends it on the way out.

  Its `solve(name, denoise, z, rho, *, seed=0)` takes `denoise` (z, ρ) → D of arrays (n, *shape),
  the state z at level rho[0] and levels rho (n + 1,), falling to 0, and returns a `Result` in
  float64. `seed` is of the noise of those that are `random`.

  Raises:
    OSError: `python` does not run, or the process ends before its answer.
    ValueError: by `solve`, an unknown or absent rival, a grid that does not fall to 0, or what
      the library itself raised.
  """
  program = str(pathlib.Path(rival_solvers.__file__))
  with subprocess.Popen([python, "-P", program], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE) as process:
    try:
      absent, notes = _receive(process)
      names = tuple(name for name, rival in RIVALS.items() if rival.library not in absent)

      def solve(name: str, denoise: Denoise, z: np.ndarray, rho: np.ndarray, *, seed: int = 0):
        rho = np.asarray(rho, np.float64)
        if name not in names:
          why = absent[RIVALS[name].library] if name in RIVALS else f"one of {', '.join(RIVALS)}"
          raise ValueError(f"rival {name!r} is not here: {why}")
        if rho.ndim != 1 or len(rho) < 3 or rho[-1] != 0.0 or not np.all(np.diff(rho) < 0.0):
          raise ValueError(f"rho must be 3 or more levels falling strictly to 0, got {rho}")
        _send(process, (name, np.asarray(z, np.float64), rho, seed))
        calls = 0
        while True:
          what, value = _receive(process)
          if what == "failed":
            raise ValueError(f"rival {name!r}: {value}")
          if what == "done":
            return Result(value, calls)
          calls += 1
          _send(process, np.asarray(denoise(*value), np.float64))

      yield Worker(names, absent, notes, solve)
    finally:
      process.kill()


def _send(process: subprocess.Popen, message: Any) -> None:
  pickle.dump(message, process.stdin)
  process.stdin.flush()


def _receive(process: subprocess.Popen) -> Any:
  try:
    return pickle.load(process.stdout)
  except EOFError:
    raise OSError("the rivals' process has ended; its message is above") from None
