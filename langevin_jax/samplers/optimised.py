"""A grid optimised for a given model and method: the levels at which its error is least.

The best levels depend on the data, because nothing happens at ρ below their finest detail, and on
the method. So the error is measured: a batch of starting states is solved once with many steps, and
the levels of the n-step method are moved until it comes closest to that reference.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _values, predictions
from langevin_jax.paths import Path
from langevin_jax.samplers import grids, levels, multisteps, sampling

__all__ = ["optimised"]


def optimised(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, n: int, shape: tuple[int, ...],
    method: levels.Method | None = None, rho_max: float = 80.0, reference_steps: int = 256,
    rounds: int = 4, progress: Callable[[int, float], None] = lambda solves, error: None,
) -> grids.Grid:
  """The grid of n steps from ρ_max at which `method` has the least error on this model.

  The search starts from the best of the named families. Then each level in turn is moved towards a
  neighbour, by half as much in every round, if the error falls. The error is the mean over states
  of the distance to the reference: a mean square would be decided by the state that changes its
  mode. One program serves all trials: about 26 + 2 rounds (n − 1) solves of n steps after the
  reference.

  Args:
    key: consumed, for the starting states N(0, σ²I).
    denoise, path, method: as in `samplers.sample`, but the method must be deterministic, so that an
      error belongs to a state. Runs eagerly: do not call it under `jit`.
    n: number of steps. shape: of the batch of states, (states, *data shape), some hundred states.
    rho_max: the first level.
    reference_steps: of the reference, `unipc(3)` on levels uniform in ℓ down to ρ = 0.002.
    rounds: how often all levels are moved.
    progress: called with the number of solves and the error so far after each round.

  Returns:
    An explicit grid, the same for every path.

  Raises:
    ValueError: n < 1 or rounds < 0, or a stochastic method.
  """
  solver = multisteps.multistep(2, variable="alpha") if method is None else method
  n, rounds = _values.count("n", n), _values.count("rounds", rounds, 0)
  if levels.is_random(solver):
    raise ValueError("a grid is optimised for a deterministic method; use it with any other then")
  sampling.check_kinds(denoise, path, method=solver)
  error = _Error(key, denoise, path, tuple(shape), solver,
                 grids.uniform_half_log_snr(max(reference_steps, n), rho_max=rho_max))
  candidates = [rho for rho in _families(path, n, rho_max) if np.all(np.diff(rho) < 0.0)]
  errors = [error(rho) for rho in candidates]
  ell, least = -np.log(candidates[int(np.argmin(errors))]), min(errors)
  progress(error.solves, least)
  for turn in range(rounds):
    ell, least = _moved_levels(error, ell, least, 0.5 ** (turn + 1))
    progress(error.solves, least)
  return grids.explicit(np.exp(-ell))


class _Error:
  """ρ (n,) → error of the method on the grid (*ρ, 0); `solves` counts the calls."""

  def __init__(self, key, denoise, path, shape, method, reference: grids.Grid):
    self.solves = 0
    model = levels.model(denoise)
    self._plan = lambda grid, method: sampling.plan(path, method, grid)
    self._solve = jax.jit(lambda planned, method: sampling.run(
        planned, key, None, None, model=model, shape=shape, method=method),
        static_argnames="method")
    self._method, fine = method, multisteps.unipc(3)
    self._reference = self._solve(self._plan(reference, fine), fine)
    self._distance = jax.jit(lambda x, y: jnp.mean(
        jnp.sqrt(jnp.mean((x - y).reshape(len(x), -1) ** 2, axis=1))))

  def __call__(self, rho: np.ndarray) -> float:
    self.solves += 1
    x = self._solve(self._plan(grids.explicit(rho), self._method), self._method)
    value = float(self._distance(x, self._reference))
    return value if np.isfinite(value) else np.inf


def _moved_levels(
    error: _Error, ell: np.ndarray, least: float, fraction: float
) -> tuple[np.ndarray, float]:
  """Levels and their error after each but the first was tried `fraction` of the way to a neighbour.

  The first neighbour with a smaller error is taken. Beyond the last level lies ℓ + 1.
  """
  n = len(ell)
  for i in range(1, n):
    low, high = ell[i - 1], ell[i + 1] if i + 1 < n else ell[i] + 1.0
    for neighbour in (low, high):
      trial = ell.copy()
      trial[i] += fraction * (neighbour - ell[i])
      value = error(np.exp(-trial))
      if value < least:
        ell, least = trial, value
        break
  return ell, least


def _families(path: Path, n: int, rho_max: float) -> list[np.ndarray]:
  """The n positive levels of named grids from ρ_max to several last levels."""
  last = (0.002, 0.01, 0.03, 0.1, 0.3)
  named = [grid(n, rho_min=low, rho_max=rho_max) for low in last
           for grid in (grids.karras, grids.uniform_half_log_snr)]
  rows = [grid(path)[:-1] for grid in named]
  # Uniform in the angle atan(ρ/k), and in ρ/(k + ρ), from ρ_max on; `cosine` and `shifted`.
  falling = np.linspace(1.0, 0.0, n + 1)[:-1]
  for k in (0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0):
    rows.append(k * np.tan(np.arctan(rho_max / k) * falling))
    share = rho_max / (k + rho_max) * falling
    rows.append(k * share / (1.0 - share))
  return rows
