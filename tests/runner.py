"""Runs entry points: in this process, in a fork, or in a fresh interpreter.

  call   in this process: the cheapest, for everything but signals, kills and settings of devices
  run    in a fork of an interpreter that has imported jax and the like: saves 2 s of imports
  run(..., fresh=True)   in a fresh interpreter, as a user runs it
"""

import atexit
import contextlib
import fcntl
import functools
import importlib
import importlib.util
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest.mock
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
from absl import flags
from absl.testing import flagsaver

import experiments
from experiments import config
from experiments.config import cli
from experiments.data import facts
from experiments.run import assembly, checkpoints, records
from experiments.sampling import outputs
from experiments.sampling import pictures as pictures_lib

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "experiments" / "configs"
# A run that takes seconds: a tiny MLP on a few points, K = 5 steps a dispatch.
SMALL = (
    f"--config={CONFIGS / 'mixture2d.py'}", "--config.data.train_size=500",
    "--config.data.test_size=200", "--config.network.width=16", "--config.network.depth=1",
    "--config.training.batch_size=32", "--config.training.steps_per_dispatch=5",
    "--config.training.log_every=10", "--config.sampling.grid.n=6",
    "--config.sampling.batch_size=100")
STEPS = "--config.training.steps=60", "--config.training.checkpoint_every=20"


def start(
    module: str, *arguments: str, prefix: tuple[str, ...] = (), fresh: bool = False
) -> "subprocess.Popen | Fork":
  """Starts `python -m experiments.<module>`; its output is captured as text.

  A fork differs from a fresh interpreter in the time of imports, and in the order of sets, which is
  the same in all forks of one interpreter.

  Args:
    prefix: a command that runs the rest of its arguments, in a fresh interpreter.
    fresh: in a fresh interpreter.
  """
  environment = {name: value for name, value in os.environ.items()
                 if not name.startswith("PYTEST_")} | {
      "JAX_COMPILATION_CACHE_DIR": str(cache()), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
  words = [f"experiments.{module}", *map(str, arguments)]
  if not (fresh or prefix) and sys.platform == "linux":
    return Fork([module, *words[1:]], _forks(tuple(sorted(environment.items()))))
  return subprocess.Popen(
      [*prefix, sys.executable, "-m", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, env=environment)


@functools.cache
def _forks(environment: tuple[tuple[str, str], ...]) -> socket.socket:
  """The socket of the `fork_worker` for one environment."""
  ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  with theirs:
    worker = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fork_worker.py"), str(theirs.fileno())], cwd=ROOT,
        env=dict(environment), pass_fds=(theirs.fileno(),))
  atexit.register(lambda: (worker.terminate(), worker.wait()))
  return ours


class Killed(BaseException):
  """What `killed` raises: no code of the runner handles it."""


def killed(*arguments, **named) -> None:
  """Takes the place of a function at which a process is killed."""
  raise Killed


def after(count: int, function: Callable) -> Callable:
  """The function, until it has been called so often: then the process is killed."""
  called = iter(range(count))

  def once_more(*arguments, **named):
    return function(*arguments, **named) if next(called, None) is not None else killed()

  return once_more


class Fork:
  """A process started by `fork_worker`, with the methods of `subprocess.Popen` that tests use."""

  def __init__(self, args: list[str], forks: socket.socket):
    self.args, self.returncode = args, None
    self._output = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
    self._messages, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
      socket.send_fds(forks, [json.dumps(args).encode()],
                      [*(file.fileno() for file in self._output), theirs.fileno()])
    self.pid = int(self._messages.recv(16))

  def wait(self, timeout: float | None = None) -> int:
    if self.returncode is None:
      self._messages.settimeout(timeout)
      try:
        self.returncode = int(self._messages.recv(16))
      except (TimeoutError, BlockingIOError):
        raise subprocess.TimeoutExpired(self.args, timeout) from None
    return self.returncode

  def poll(self) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.wait(0.0)
    return self.returncode

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    self.wait(timeout)
    for file in self._output:
      file.seek(0)
    return tuple(file.read() for file in self._output)

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)


def run(
    module: str, *arguments: str, timeout: float = 600.0, prefix: tuple[str, ...] = (),
    fresh: bool = False
) -> tuple[int, str, str]:
  """(exit code, stdout, stderr) of a process, which is killed after `timeout` seconds."""
  process = start(module, *arguments, prefix=prefix, fresh=fresh)
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    raise
  return process.returncode, out, err


def wait_until(condition: Callable[[], bool], *processes, seconds: float = 300.0) -> None:
  """Waits for a condition that running processes bring about.

  Raises:
    AssertionError: a process has ended, or `seconds` have passed, and the condition does not hold.
  """
  deadline = time.monotonic() + seconds
  while not condition():
    ended = [process for process in processes if process.poll() is not None]
    if ended:
      assert condition(), [process.communicate() for process in ended]
      return
    assert time.monotonic() < deadline, "too slow"
    time.sleep(0.01)


def abandoned() -> bool:
  """Whether work goes on that `signals.unless_stopped` has left to its thread."""
  return any(thread.name == "unless_stopped" for thread in threading.enumerate())


def children(pid: int) -> list[int]:
  """The running child processes of a process, from Linux's /proc."""
  found = []
  for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
      found += map(int, (task / "children").read_text().split())
  return found


def gone(pids: list[int], seconds: float) -> bool:
  """Whether all processes end within `seconds`; zombies have ended."""
  def lives(pid):
    try:
      return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
      return False

  until = time.monotonic() + seconds
  while (left := any(map(lives, pids))) and time.monotonic() < until:
    time.sleep(0.05)
  return not left


def manifest(workdir: pathlib.Path) -> dict[str, Any]:
  """The content of manifest.json."""
  return records.read_manifest(workdir)


def unclocked(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl without the fields that a clock measures."""
  return [{name: value for name, value in line.items() if name not in records.CLOCKED}
          for line in records.read_metrics(workdir)]


def cache() -> pathlib.Path:
  """The compilation cache of all tests and their processes.

  It lies in the user's cache directory, so that all checkouts and sessions share it.
  """
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(home) / "langevin_jax" / "tests"


@functools.cache
def slow() -> frozenset[str]:
  """The lines of slow.txt that name tests."""
  lines = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").splitlines()
  return frozenset(line for line in lines if line and not line.startswith("#"))


def make_once(place: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
  """`place`, filled by `make(place)` in the first process that asks; other workers wait for it."""
  done = place.with_name(place.name + ".done")
  place.mkdir(parents=True, exist_ok=True)
  with place.with_name(place.name + ".lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not done.exists():
      make(place)
      done.touch()
  return place


def untrained(workdir: pathlib.Path, settings: config.Config) -> pathlib.Path:
  """Writes a run with initial parameters: enough for sampling, without training."""
  run = assembly.prepare(settings)
  records.claim(workdir, settings)
  facts.claim(workdir, run.dataset)
  with checkpoints.manager(workdir, keep=1) as manager:
    checkpoints.save(manager, 1, jax.jit(run.init)(jax.random.key(settings.seed)))
    checkpoints.finish(manager)
  return workdir


@contextlib.contextmanager
def parsed(*arguments: str) -> Iterator[None]:
  """The flags of a command line, of a program and its options, while the context lasts."""
  with (flagsaver.flagsaver(), unittest.mock.patch.dict(cli._overrides, clear=True),
        unittest.mock.patch.dict(cli._arguments, clear=True)):
    cli._parse(list(map(str, arguments)))
    yield


def call(module: str, *arguments: str, pictures: bool = False) -> tuple[int, str, str]:
  """`run` within this process: the same parser, messages and exit codes; jax's settings stay.

  pictures: draw the pictures of a training, or of samples with their trajectories, which take as
    long as a small one.
  """
  out, err = io.StringIO(), io.StringIO()
  draw = pictures_lib.training if pictures else lambda workdir, run: None
  shown = outputs.Drawn.has_picture if pictures else False
  with (entry(module) as loaded, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        unittest.mock.patch.object(pictures_lib, "training", draw),
        unittest.mock.patch.object(outputs.Drawn, "has_picture", shown),
        unittest.mock.patch.object(assembly, "configure_jax")):
    try:
      with parsed(module, *arguments):
        code = cli._answered(loaded.main)
    except SystemExit as left:
      code = left.code
  return code, out.getvalue(), err.getvalue()


def succeed(module: str, *arguments: str, pictures: bool = False) -> str:
  """What `call` prints, to stdout and then to stderr; it must exit with code 0."""
  code, out, err = call(module, *arguments, pictures=pictures)
  assert code == 0, err
  return out + err


def refused(module: str, *arguments: str) -> str:
  """The error of `call`, which must exit with code 2 and print one line, "error: …".

  Before it there may be what `train` prints of its data.
  """
  code, out, err = call(module, *arguments)
  assert code == 2 and all(line.startswith("data: ") for line in out.splitlines()), (code, out, err)
  assert err.startswith("error: ") and err.count("\n") == 1, err
  return err


@contextlib.contextmanager
def entry(module: str) -> Iterator[types.ModuleType]:
  """Imports `experiments.<module>` while the flags of all other entry points are removed.

  Entry points define flags of the same names, and a process can hold one of each.
  """
  name = f"experiments.{module}"
  read = lambda name: pathlib.Path(importlib.util.find_spec(name).origin).read_text()
  source = read(name)
  adopted = [other for other in re.findall(r"adopt_module_key_flags\((\w+)\)", source)
             if importlib.util.find_spec(f"experiments.{other}")]
  source += "".join(read(f"experiments.{other}") for other in adopted)
  aside = _remove_flags(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
  for other in (module, *adopted):
    # An entry point whose flags another one adopts defines them again.
    sys.modules.pop(f"experiments.{other}", None)
    vars(experiments).pop(other, None)
  try:
    yield importlib.import_module(name)
  finally:
    _remove_flags()
    for owner, flag in aside:
      flags.FLAGS[flag.name] = flag
      flags.FLAGS.register_flag_by_module(owner, flag)


def _remove_flags(names: Collection[str] = ()) -> list[tuple[str, flags.Flag]]:
  """Removes the flags of every entry point, and shared ones of these names, as (module, flag)."""
  shared = {"experiments." + name for name in (
      "config.cli", "config.sampling_flags", "run.multihost", "sampling.conditioning",
      "sampling.inpaint", "sampling.starts")}
  found = [(owner, flag) for owner, defined in flags.FLAGS.flags_by_module_dict().items()
           if owner.startswith("experiments.") for flag in defined
           if owner not in shared or flag.name in names]
  for _, flag in found:
    delattr(flags.FLAGS, flag.name)
  return found
