"""The experiment runner: everything that touches a disk, a clock or a screen."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
  # `python -m experiments.…` is still importing. An exception in there may be swallowed (jax's
  # callbacks of the garbage collector) or become another one; Ctrl-C is to end the process.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
