"""Commands as processes, no more than so many at once, which no end of their starter outlives.

SIGTERM and Ctrl-C end processes first. After a kill of the starter their standard input is closed;
a command that heeds `end_with_stdin` ends then, with all that it has started itself.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent.parent
TERMINATED = 128 + signal.SIGTERM
# Processes that were told to end have this long; one that compiles hears nothing until it is done.
_GRACE_SECONDS = 10.0


class Job(NamedTuple):
  """A command that prints to the end of `log`; it begins when those named in `after` have ended.

  directory: where it runs.
  """

  name: str
  words: Sequence[str]
  log: pathlib.Path
  after: tuple[str, ...] = ()
  directory: pathlib.Path = ROOT


def run(
    jobs: Sequence[Job], *, workers: int, began: Callable[[Job], None],
    ended: Callable[[Job, int, float], None], pinned: bool = False,
) -> dict[str, str]:
  """Runs the jobs, `subprocesses` at once, in their order where they need not wait.

  Args:
    began: told of a job that begins. ended: of one that has ended, its exit code and seconds.
    pinned: each worker has its share of this process's cores to itself; else all share all.

  Returns:
    {name: error} of those that failed. One that waits for a job that failed begins all the same: it
    says better than anyone what it lacks.
  """
  waiting, slots = list(jobs), [None] * workers
  errors: dict[str, str] = {}
  share = [set(cores()[i::workers]) or set(cores()) for i in range(workers)]
  try:
    while waiting or any(slots):
      unfinished = {job.name for job in waiting} | {slot[0].name for slot in slots if slot}
      for i, slot in enumerate(slots):
        ready = next((job for job in waiting if not set(job.after) & unfinished), None)
        if slot is None and ready is not None:
          waiting.remove(ready)
          began(ready)
          said_before = ready.log.stat().st_size if ready.log.is_file() else 0
          slots[i] = (ready, _started(ready, share[i] if pinned else None), time.monotonic(),
                      said_before)
      for i, slot in enumerate(slots):
        if slot is None or (code := slot[1].poll()) is None:
          continue
        slots[i] = None
        slot[1].stdin.close()
        # What it had started, where it could not end that itself: it would hold locks.
        _signal(slot[1], signal.SIGKILL)
        if code:
          errors[slot[0].name] = last_words(slot[0].log, _end_of(code), after=slot[3])
        ended(slot[0], code, time.monotonic() - slot[2])
      time.sleep(0.05)
  finally:
    _end([slot[1] for slot in slots if slot])
  return errors


def cores() -> list[int]:
  """The cores that this process may use; where the system does not say, all of them."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def environment() -> dict[str, str]:
  """For `python -m experiments…` in any directory: this source, and modules of this directory."""
  path = [str(ROOT), os.environ.get("PYTHONPATH", ""), os.getcwd()]
  return os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))}


def _started(job: Job, share: set[int] | None) -> subprocess.Popen:
  job.log.parent.mkdir(parents=True, exist_ok=True)
  mine = set(cores())
  pinned = share is not None and hasattr(os, "sched_setaffinity")
  try:
    if pinned:  # this thread's cores are what the child starts with
      os.sched_setaffinity(0, share)
    with job.log.open("a", encoding="utf-8") as out:
      # Nothing is written to the pipe: it ends with this process, and its reader with it.
      return subprocess.Popen(job.words, stdin=subprocess.PIPE, stdout=out,
                              stderr=subprocess.STDOUT, cwd=job.directory, env=environment(),
                              start_new_session=True)
  finally:
    if pinned:
      os.sched_setaffinity(0, mine)


def _end(processes: Sequence[subprocess.Popen]) -> None:
  """SIGTERM to all, and SIGKILL to those that do not mind it; returns when all have ended."""
  for process in processes:
    _signal(process, signal.SIGTERM)
  for process in processes:
    try:
      process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
      _signal(process, signal.SIGKILL)
      process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
  """To the process and all that it has started, which are a group of their own."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, number)


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
  """SIGTERM ends what is inside as Ctrl-C does: processes first, locks after, with a message.

  Outside the main thread, which alone hears signals, nothing changes.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end is not to be cut short
    print("SIGTERM: ending; the same command goes on", file=sys.stderr, flush=True)
    raise SystemExit(TERMINATED)

  before = signal.signal(signal.SIGTERM, end)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def end_with_stdin() -> None:
  """Ends this process, and all that it has started, when its standard input is closed.

  At once and whatever is under way: everything on disk is written so that a kill does no harm.
  """
  def wait():
    while os.read(sys.stdin.fileno(), 1):
      pass
    print("error: what started this has ended", file=sys.stderr, flush=True)
    if os.getpgrp() == os.getpid():
      os.killpg(0, signal.SIGKILL)
    os._exit(TERMINATED)

  threading.Thread(target=wait, daemon=True).start()


def last_words(log: pathlib.Path, otherwise: str, *, after: int = 0) -> str:
  """The error that a log ends with, `otherwise` where it says none; not of its first bytes."""
  return said(log.read_bytes()[after:].decode(errors="replace")) or otherwise


def _end_of(code: int) -> str:
  if code >= 0:
    return f"its process ended with exit code {code}"
  name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
  return f"its process was ended by {name}" + (
      " (memory may have run out)" if name == "SIGKILL" else "")


def said(text: str) -> str:
  """The last line that looks like an exception's or this project's; "" if there is none."""
  lines = [line for line in text.splitlines()
           if re.match(r"error: |[\w.]*(Error|Exception)(: |$)", line)]
  return lines[-1].removeprefix("error: ")[:500] if lines else ""
