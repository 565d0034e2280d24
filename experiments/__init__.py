"""The experiment runner: everything that touches a disk, a clock, a screen or a cluster.

`experiments.load(workdir)` is a trained model as an object, without its data: see `run.model`.
"""

import signal
import sys
from typing import Any

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
  # `python -m experiments.…` is still importing. An exception in there may be swallowed (jax's
  # callbacks of the garbage collector) or become another one; Ctrl-C is to end the process.
  signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Any:
  if name == "load":
    from experiments.run.model import load  # imports jax, which the command line does by itself
    return load
  raise AttributeError(f"module 'experiments' has no attribute {name!r}")
