"""Signals: a training that is asked to stop saves first; nobody reads its output any longer."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


def stopping() -> Callable[[int], bool]:
  """A function: number of the dispatch, counted up by one → whether to stop after it.

  It is true for the same dispatch on all processes. A single process stops after SIGINT or SIGTERM,
  or when its output has no reader any longer (`heard`); a second signal kills it. Of several
  processes jax catches SIGTERM and agrees on a dispatch; the other requests are sent on as SIGTERM.
  """
  _received.clear()

  def handler(number, frame):
    signal.signal(number, signal.SIG_DFL)
    _stop(number)
    with heard():
      print(f"\n{signal.Signals(number).name}: saving, then leaving", flush=True)

  signal.signal(signal.SIGINT, handler)
  if jax.process_count() > 1:
    return multihost_utils.reached_preemption_sync_point
  signal.signal(signal.SIGTERM, handler)
  return lambda dispatch: bool(_received)


_received: list[int] = []  # the signals that ask this process to stop


def _stop(number: int) -> None:
  _received.append(number)
  if jax.process_count() > 1:
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def heard() -> Iterator[None]:
  """For printing during a training: `train | head` stops it as a signal does, and it saves.

  After its reader has gone, output is discarded.
  """
  try:
    yield
  except BrokenPipeError:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
      try:
        stream.flush()
      except BrokenPipeError:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    _stop(signal.SIGPIPE)
