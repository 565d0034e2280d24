"""Runs the command line in a process of its own, small, with the tests' own compilation cache."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "experiments" / "configs"
# A run that takes seconds: a tiny MLP on a few points, K = 5 steps a dispatch.
SMALL = (
    f"--config={CONFIGS / 'mixture2d.py'}", "--config.data.train_size=500",
    "--config.data.test_size=200", "--config.network.width=16", "--config.network.depth=1",
    "--config.training.batch_size=32", "--config.training.steps_per_dispatch=5",
    "--config.training.log_every=10", "--config.sampling.steps=6",
    "--config.sampling.batch_size=100")


def start(module: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
  """The process of `python -m experiments.<module>`, output captured as text.

  `prefix` is a command that runs the rest of its arguments.
  """
  environment = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": str(cache()), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
  return subprocess.Popen(
      [*prefix, sys.executable, "-m", f"experiments.{module}", *map(str, arguments)], cwd=ROOT,
      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def run(
    module: str, *arguments: str, timeout: float = 240.0, prefix: tuple[str, ...] = ()
) -> tuple[int, str, str]:
  """(exit code, stdout, stderr) of a finished process; a hard limit on its time."""
  process = start(module, *arguments, prefix=prefix)
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    process.communicate()
    raise
  return process.returncode, out, err


def cache() -> pathlib.Path:
  """A compilation cache that lives as long as the checkout: compiling is most of a small run."""
  return ROOT / ".pytest_cache" / "compiled"
