"""Runs the command line in a process of its own, small, with the tests' own compilation cache."""

import atexit
import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import unittest.mock
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
from absl import flags
from absl.testing import flagsaver

from experiments import config
from experiments.config import cli
from experiments.run import assembly, checkpoints, records

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "experiments" / "configs"
# A run that takes seconds: a tiny MLP on a few points, K = 5 steps a dispatch.
SMALL = (
    f"--config={CONFIGS / 'mixture2d.py'}", "--config.data.train_size=500",
    "--config.data.test_size=200", "--config.network.width=16", "--config.network.depth=1",
    "--config.training.batch_size=32", "--config.training.steps_per_dispatch=5",
    "--config.training.log_every=10", "--config.sampling.steps=6",
    "--config.sampling.batch_size=100")


def start(
    module: str, *arguments: str, prefix: tuple[str, ...] = (), fresh: bool = False
) -> "subprocess.Popen | Fork":
  """The process of `python -m experiments.<module>`, output captured as text.

  A fork of an interpreter that has imported other projects' packages before, and nothing of this
  one, stands for it where there is nothing to tell them apart: but for the two seconds of these
  imports, and for the order of sets, which all forks of one interpreter have in common.

  Args:
    prefix: a command that runs the rest of its arguments; its process is a fresh interpreter.
    fresh: so is this one.
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
  """Takes the requests of `fork_worker`, of which there is one for each environment."""
  ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
  with theirs:
    worker = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fork_worker.py"), str(theirs.fileno())], cwd=ROOT,
        env=dict(environment), pass_fds=(theirs.fileno(),))
  atexit.register(lambda: (worker.terminate(), worker.wait()))
  return ours


class Fork:
  """A process that `fork_worker` has begun, with what the tests use of `subprocess.Popen`."""

  def __init__(self, args: list[str], forks: socket.socket):
    self.args, self.returncode = args, None
    self._output = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
    self._told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
      socket.send_fds(forks, [json.dumps(args).encode()],
                      [*(file.fileno() for file in self._output), theirs.fileno()])
    self.pid = int(self._told.recv(16))

  def wait(self, timeout: float | None = None) -> int:
    if self.returncode is None:
      self._told.settimeout(timeout)
      try:
        self.returncode = int(self._told.recv(16))
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
    module: str, *arguments: str, timeout: float = 240.0, prefix: tuple[str, ...] = (),
    fresh: bool = False
) -> tuple[int, str, str]:
  """(exit code, stdout, stderr) of a finished process; a hard limit on its time."""
  process = start(module, *arguments, prefix=prefix, fresh=fresh)
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    raise
  return process.returncode, out, err


def children(pid: int) -> list[int]:
  """The processes that a process has started and that have not ended; of Linux's /proc."""
  return [int(word) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
          for word in (task / "children").read_text().split()]


def gone(pids: list[int], seconds: float) -> bool:
  """Whether all have ended within so long; zombies have."""
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
  """What manifest.json of a run says."""
  return records.read_manifest(workdir)


def unclocked(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl without what a clock has measured."""
  return [{name: value for name, value in line.items() if name not in records.CLOCKED}
          for line in records.read_metrics(workdir)]


def cache() -> pathlib.Path:
  """The compilation cache of all tests and their processes: compiling is most of a small run.

  It lies in the user's cache, so that another checkout finds what this one has compiled.
  """
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(home) / "langevin_jax" / "tests"


def kept(name: str) -> pathlib.Path:
  """A directory for what the code alone determines, kept from one session to the next.

  Once a source file or an installed package is another, it begins empty.
  """
  digest = hashlib.sha256("\n".join(sorted(
      f"{package.name} {package.version}" for package in metadata.distributions())).encode())
  for folder in ("langevin_jax", "experiments"):
    for file in sorted((ROOT / folder).rglob("*")):
      if file.is_file() and file.suffix != ".pyc":
        digest.update(f"{file.relative_to(ROOT)} ".encode() + file.read_bytes())
  folder = ROOT / ".pytest_cache" / name / digest.hexdigest()[:16]
  if not folder.is_dir():
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
  return folder


def untrained(workdir: pathlib.Path, settings: config.Config) -> pathlib.Path:
  """A run of no step in `workdir`: what sampling needs of one, without a process that trains it."""
  run = assembly.prepare(settings)
  records.claim(workdir, settings)
  with checkpoints.manager(workdir, keep=1) as manager:
    checkpoints.save(manager, 1, jax.jit(run.init)(jax.random.key(settings.seed)))
    checkpoints.finish(manager)
  return workdir


def call(module: str, *arguments: str) -> tuple[int, str, str]:
  """`run` within this process: no start-up to pay for, and nothing that a kill would need.

  The same parser, answers and exit codes; only the settings of jax are left as the tests have them.
  """
  out, err = io.StringIO(), io.StringIO()
  with (entry(module) as loaded, flagsaver.flagsaver(), contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err), unittest.mock.patch.object(assembly, "configure_jax"),
        unittest.mock.patch.dict(cli._overrides, clear=True)):
    try:
      cli._parse([module, *map(str, arguments)])
      code = cli._answered(loaded.main)
    except SystemExit as left:
      code = left.code
  return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def entry(module: str) -> Iterator[types.ModuleType]:
  """`experiments.<module>`, imported while the flags of all other entry points stand aside.

  Entry points define flags of the same names, and a process has one of each.
  """
  aside = _taken()
  name = f"experiments.{module}"
  sys.modules.pop(name, None)
  try:
    yield importlib.import_module(name)
  finally:
    _taken()
    for owner, flag in aside:
      flags.FLAGS[flag.name] = flag
      flags.FLAGS.register_flag_by_module(owner, flag)


def _taken() -> list[tuple[str, flags.Flag]]:
  """(module, flag) of every entry point's flags, which are taken away."""
  shared = {"experiments." + name for name in (
      "config.cli", "config.sampling_flags", "run.multihost", "sampling.inpaint", "sampling.starts")}
  found = [(owner, flag) for owner, defined in flags.FLAGS.flags_by_module_dict().items()
           if owner.startswith("experiments.") and owner not in shared for flag in defined]
  for _, flag in found:
    delattr(flags.FLAGS, flag.name)
  return found
