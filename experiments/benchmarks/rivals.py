"""Samplers of other libraries on any model and grid of noise levels, in a separate process.

  with rivals.worker() as worker:
    for name in worker.names: worker.solve(name, denoise, z, rho).x_0

The process, `rival_solvers`, requests each D(z, ρ) from this one, which counts the calls. Therefore
the model can be any function, the libraries can be installed in another environment (`python`), and
PyTorch and XLA do not share threads. A library that is not installed is listed as absent.
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
  """The solution of a rival, and its number of calls of the model."""

  x_0: np.ndarray
  calls: int


class Worker(NamedTuple):
  """A running process. names: available rivals. absent: library → why it is not available."""

  names: tuple[str, ...]
  absent: Mapping[str, str]
  notes: tuple[str, ...]
  solve: Callable[..., Result]


def steps(name: str, calls: int) -> int:
  """The largest number of steps of a rival with at most `calls` calls of the model, or 0."""
  return max((n for n in range(1, calls + 1) if RIVALS[name].calls(n) <= calls), default=0)


@contextlib.contextmanager
def worker(python: str = sys.executable) -> Iterator[Worker]:
  """A context with a process that has the rivals that the interpreter `python` can import.

  `solve(name, denoise, z, rho, *, seed=0)` of the worker returns a `Result` in float64. `denoise`
  maps (z, ρ) to D, arrays (n, *shape). z is the state at level rho[0]; the levels rho (n + 1,) fall
  to 0. `seed` is for the noise of `random` rivals.

  Raises:
    OSError: `python` does not run, or the process ends before its answer.
    ValueError: from `solve`: an unknown or absent rival, a grid that does not fall to 0, or an
      error of the library.
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
          why = (absent[RIVALS[name].library] if name in RIVALS else
                 f"choose one of {', '.join(RIVALS)}")
          raise ValueError(f"rival {name!r} is not available: {why}")
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
