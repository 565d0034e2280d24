"""A grid for a given model and method: the levels at which its own error is least.

How much the levels matter, and where they should lie, depends on the data (at ρ below the finest
detail nothing happens any more) and on the method. So it is measured: a batch of starting states is
solved once with many steps, and the levels of the n-step solver are moved until it comes closest.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import predictions
from langevin_jax.paths import Path
from langevin_jax.samplers import grids, levels, linear, sampling


def optimised(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, n: int, shape: tuple[int, ...],
    method: levels.Method | None = None, rho_max: float = 80.0, reference_steps: int = 256,
    rounds: int = 4, progress: Callable[[int, float], None] = lambda solves, error: None,
) -> grids.Grid:
  """The grid of n steps from ρ_max at which `method` has the least error on this model.

  First the best of the named families, then each level in turn is moved between its neighbours,
  by less from round to round, wherever the mean distance to the reference falls. One program
  serves all trials: about 30 + 2 rounds (n − 1) solves of n steps after the reference.

  Args:
    key: consumed, for the starting states N(0, σ²I).
    denoise, path, method: as in `samplers.sample`, but the method must be deterministic, for an
      error to belong to a state. Runs eagerly: not to be called under `jit`.
    n: number of steps. shape: of the batch of states, (states, *data shape), some hundred states.
    reference_steps: of the reference, `unipc(3)` on levels uniform in ℓ down to ρ = 0.002.
    progress: called with the number of solves and the error so far after each round.

  Returns:
    An explicit grid, the same for every path.

  Raises:
    ValueError: n < 1 or rounds < 0, or a stochastic method.
  """
  method = linear.multistep(2, variable="alpha") if method is None else method
  if n < 1 or rounds < 0:
    raise ValueError(f"n must be at least 1 and rounds at least 0, got {n} and {rounds}")
  if levels.is_random(method):
    raise ValueError("a grid is optimised for a deterministic method; use it with any other then")
  sampling.check_kinds(denoise, path, method=method)
  model = levels.model(denoise)
  solve = jax.jit(lambda planned, key, method: sampling.run(
      planned, key, None, None, model=model, shape=tuple(shape), method=method),
      static_argnames="method")
  plan = lambda grid, method: sampling.plan(path, method, grid)
  reference = solve(plan(grids.uniform_half_log_snr(max(reference_steps, n), rho_max=rho_max),
                         linear.unipc(3)), key, linear.unipc(3))
  # The mean of the states' own errors: a mean square is decided by the one that changes its mode.
  distance = jax.jit(lambda x, y: jnp.mean(
      jnp.sqrt(jnp.mean((x - y).reshape(len(x), -1) ** 2, axis=1))))
  solves = 0

  def error(rho: np.ndarray) -> float:
    nonlocal solves
    solves += 1
    value = float(distance(solve(plan(grids.explicit(rho), method), key, method), reference))
    return value if np.isfinite(value) else np.inf

  candidates = [rho for rho in _families(path, n, rho_max) if np.all(np.diff(rho) < 0.0)]
  errors = [error(rho) for rho in candidates]
  best, least = candidates[int(np.argmin(errors))], min(errors)
  progress(solves, least)
  ell = -np.log(best)
  for turn in range(rounds):
    for i in range(1, n):
      low, high = ell[i - 1], ell[i + 1] if i + 1 < n else ell[i] + 1.0
      for toward in (low, high):
        trial = ell.copy()
        trial[i] += 0.5 ** (turn + 1) * (toward - ell[i])
        value = error(np.exp(-trial))
        if value < least:
          ell, least = trial, value
          break
    progress(solves, least)
  return grids.explicit(np.exp(-ell))


def _families(path: Path, n: int, rho_max: float) -> list[np.ndarray]:
  """Levels of the named grids from ρ_max to various last ones, the clean end left out."""
  last = (0.002, 0.01, 0.03, 0.1, 0.3)
  made = [grid(n, rho_min=low, rho_max=rho_max) for low in last
          for grid in (grids.karras, grids.uniform_half_log_snr)]
  rows = [grid(path)[:-1] for grid in made]
  # Evenly in the angle atan ρ/k, from ρ_max on: the cosine grid at k = 1.
  for k in (0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0):
    angle = np.arctan(rho_max / k) * np.linspace(1.0, 0.0, n + 1)[:-1]
    rows.append(k * np.tan(angle))
  return rows
