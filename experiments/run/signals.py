"""Signals: a training that is asked to stop saves first; nobody reads its output any longer."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

Result = TypeVar("Result")


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


def unless_stopped(work: Callable[[], Result]) -> Result | None:
  """What `work` returns; None as soon as a signal asks this process to stop.

  The work is then left to its thread, which ends with the process. Several processes wait for its
  end, because none can leave a collective to the others.
  """
  if jax.process_count() > 1:
    return work()
  if _received:
    return None
  outcome: list[tuple[Any, BaseException | None]] = []

  def run():
    try:
      outcome.append((work(), None))
    except BaseException as error:
      outcome.append((None, error))

  thread = threading.Thread(target=run, daemon=True, name="unless_stopped")
  thread.start()
  while thread.is_alive() and not _received:
    thread.join(0.1)
  if not outcome:
    return None
  result, error = outcome[0]
  if error is not None:
    raise error
  return result


def stopped() -> bool:
  """Whether a signal has asked this process to stop, and no other process waits for its end."""
  return bool(_received) and jax.process_count() == 1


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
