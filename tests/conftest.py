"""Settings of all tests: no implicit rank promotion, little optimisation, a compilation cache."""

import gc
import os
import sys
import time

import jax
import pytest
import runner

CACHE_DAYS = 14

jax.config.update("jax_numpy_rank_promotion", "raise")
# To compile takes longer than to run. Processes that tests start see the variable.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)
# Processes that tests start find the cache by the variable.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(runner.cache())
jax.config.update("jax_compilation_cache_dir", str(runner.cache()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_sessionstart(session):
  """Deletes programs that have been in the cache for long: jax itself deletes none."""
  if hasattr(session.config, "workerinput") or not runner.cache().is_dir():
    return
  for file in runner.cache().iterdir():
    if file.stat().st_mtime < time.time() - CACHE_DAYS * 24 * 3600:
      file.unlink(missing_ok=True)


def pytest_collection_modifyitems(items):
  """Marks the tests that slow.txt names, each with all of its cases or one of them."""
  for item in items:
    if {item.nodeid, item.nodeid.partition("[")[0]} & runner.slow():
      item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session):
  """Garbage collections need not look at what has been imported."""
  gc.freeze()


@pytest.fixture(autouse=True)
def forget_modules(tmp_path_factory):
  """Modules that a test has written are not found by the next one, which may use their names."""
  yield
  written = str(tmp_path_factory.getbasetemp())
  for name, module in list(sys.modules.items()):
    if str(vars(module).get("__file__") or "").startswith(written):
      del sys.modules[name]


@pytest.fixture
def x64():
  """float64 within one test."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, worker_id):
  """The workdir of a finished small run, one for all pytest-xdist workers; not to be changed."""
  def make(workdir):
    out = runner.succeed("train", *runner.SMALL, *runner.STEPS, f"--workdir={workdir}",
                         pictures=True)
    assert "trained to step 60" in out

  base = tmp_path_factory.getbasetemp()
  return runner.make_once((base if worker_id == "master" else base.parent) / "small_run", make)
