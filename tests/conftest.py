"""Settings of every test: no implicit rank promotion; float64 where a test asks for it."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
  """float64 within one test."""
  with jax.enable_x64(True):
    yield
