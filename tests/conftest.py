"""Settings of every test: no implicit rank promotion; float64 where a test asks for it; programs
compiled once, whichever test, process or session was the first to need them."""

import os
import time

import jax
import pytest
import runner

KEPT_DAYS = 14

jax.config.update("jax_numpy_rank_promotion", "raise")
# Processes that tests start find the cache by the variable.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(runner.cache())
jax.config.update("jax_compilation_cache_dir", str(runner.cache()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_sessionstart(session):
  """Leaves out what has been in the cache for long: jax itself forgets nothing."""
  if hasattr(session.config, "workerinput") or not runner.cache().is_dir():
    return
  for file in runner.cache().iterdir():
    if file.stat().st_mtime < time.time() - KEPT_DAYS * 24 * 3600:
      file.unlink(missing_ok=True)


@pytest.fixture
def x64():
  """float64 within one test."""
  with jax.enable_x64(True):
    yield
