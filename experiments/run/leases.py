"""One writer of a place in a bucket, which has no locks: the lease, an object that is kept fresh.

Who holds it writes it again every `HEARTBEAT` seconds, and ends when that has failed for `LOST`
seconds or somebody else has written it. A lease that has stayed the same for `STALE` seconds is
taken over, and at once if its process ran on this machine and is gone, as after a kill. Each write
says which generation it replaces, so that only one of several succeeds.
"""

import contextlib
import json
import os
import pathlib
import platform
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from experiments.run import buckets

HEARTBEAT, LOST, STALE = 10.0, 45.0, 60.0


@contextlib.contextmanager
def held(file: pathlib.Path, flag: str) -> Iterator[None]:
  """Holds the lease `file` of the place that `flag` names, until left or killed.

  Raises:
    ValueError: another process holds it.
  """
  lease = _Lease(file, _take(file, flag))
  try:
    yield
  finally:
    lease.release()


class _Lease:
  """A lease of this process, which two threads keep: one may hang in a request."""

  def __init__(self, file: pathlib.Path, generation: str):
    self._file, self._generation = file, generation
    self._renewed, self._end = time.monotonic(), threading.Event()
    self._writing = threading.Lock()
    for keep in (self._renew, self._watch):
      threading.Thread(target=keep, daemon=True).start()

  def release(self) -> None:
    self._end.set()
    with self._writing, contextlib.suppress(Exception):  # else it becomes stale
      buckets.delete(self._file, self._generation)

  def _renew(self) -> None:
    while not self._end.wait(HEARTBEAT):
      begun = time.monotonic()
      with self._writing:
        if self._end.is_set():
          return
        try:
          self._generation = buckets.write(self._file, _content(), generation=self._generation)
        except (FileExistsError, FileNotFoundError):
          self._lose("another process has taken it over, or deleted it")
        except Exception:
          continue  # _watch decides when it has been too long
      self._renewed = begun

  def _watch(self) -> None:
    while not self._end.wait(min(HEARTBEAT, 1.0)):
      if time.monotonic() - self._renewed > LOST:
        self._lose(f"the bucket has not answered for {LOST:.0f} seconds")

  def _lose(self, why: str) -> NoReturn:
    """Ends the process, as a kill would: another one may write there from now on."""
    print(f"error: the lease {self._file} is lost: {why}; the same command goes on from the newest "
          "checkpoint", file=sys.stderr, flush=True)
    os._exit(2)


def _take(file: pathlib.Path, flag: str) -> str:
  """Writes the lease, waiting for a stale one, and returns its generation."""
  seen, since = None, time.monotonic()
  while True:
    found = buckets.read(file)
    if found is None:
      generation = "0"
    else:
      content, generation = found
      owner = _owner(content)
      who = owner.get("owner", "another process")
      if seen not in (None, generation) or _lives(owner):
        raise ValueError(f"{flag} {file.parent} is in use by {who}; wait for it or choose another "
                         f"{flag}")
      if seen is None:
        seen = generation
        if not _is_gone(owner):
          print(f"{flag} {file.parent} was in use by {who}: waiting up to {STALE:.0f} seconds for "
                "a sign of it", flush=True)
      if not _is_gone(owner) and time.monotonic() - since < STALE:
        time.sleep(min(HEARTBEAT, 1.0))
        continue
    with contextlib.suppress(FileExistsError, FileNotFoundError):  # somebody else was first
      return buckets.write(file, _content(), generation=generation)
    seen = seen or generation


def _content() -> bytes:
  """Who holds a lease; the time makes each renewal another content."""
  return json.dumps({
      "owner": f"process {os.getpid()} on {platform.node()}", "machine": _machine(),
      "process": os.getpid(), "began": _began(os.getpid()), "renewed": time.time()}).encode()


def _owner(content: bytes) -> dict:
  try:
    return dict(json.loads(content))
  except (ValueError, TypeError):
    return {}


def _machine() -> str:
  """What is the same for processes that see each other's numbers; "" where that is not known."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return ""


def _began(process: int) -> str:
  """When a process of this machine began, in ticks since the start; "" where there is none."""
  try:
    return pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")")[-1].split(
        )[19]
  except (OSError, IndexError):
    return ""


def _lives(owner: dict) -> bool:
  """Whether the owner is a process of this machine that still runs."""
  return _is_here(owner) and _began(owner.get("process", 0)) == owner.get("began")


def _is_gone(owner: dict) -> bool:
  """Whether the owner was a process of this machine, and has ended."""
  return _is_here(owner) and not _lives(owner)


def _is_here(owner: dict) -> bool:
  return bool(_machine()) and owner.get("machine") == _machine()
