"""Samplers as arrays of numbers: samplers of one method and length share one program.

Values of η, paths and grids with the same number of steps differ in the values of the arrays only.
Also: the distance of samples to exact draws, and its null distribution, that of other exact draws.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.metrics import distances
from experiments.paper.exact import plane
from langevin_jax import mixtures, paths, predictions, samplers
from langevin_jax.samplers import levels, sampling

# A state at unit scale and ℓ → D, as `predictions.Denoiser.at`.
At = Callable[[jax.Array, jax.Array], jax.Array]

_PROJECTIONS = 64


class Judge(NamedTuple):
  """Exact draws (m, 2), and the null: sliced W₂ of other sets of `size` exact draws to them.

  mean, std: of the logarithm of the distance, which is nearly normal. floor: the mean distance.
  """

  exact: np.ndarray
  size: int
  mean: float
  std: float
  floor: float


def stacked(plans: Sequence[sampling.Plan]) -> sampling.Plan:
  """Plans of one method and length with a leading axis, for `jax.lax.map`."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *plans)


@functools.lru_cache(maxsize=256)
def plan(path: paths.Path, method: samplers.Method, grid: samplers.Grid) -> sampling.Plan:
  """The plan of one process, cached: factories of the library return equal objects."""
  return sampling.plan(path, method, grid)


def run(
    planned: sampling.Plan, key: jax.Array, at: At, *, shape: tuple[int, ...],
    method: samplers.Method, initial: jax.Array | None = None, keep: bool = False,
) -> jax.Array | samplers.Trajectory:
  """`samplers.sample`, or `trajectory` if `keep`, with a traced plan, in float32.

  method: the method of the plan, with noise if any of the plans has noise.
  """
  denoise = predictions.Denoiser(at, paths.cosine())
  initial = None if initial is None else initial.astype(jnp.float32)
  return sampling.run(planned, key, initial, None, model=levels.model(denoise), shape=shape,
                      method=method, keep=keep)


def judge(
    truth: mixtures.Mixture, key: jax.Array, ell: float, size: int, *, repeats: int
) -> Judge:
  """The null for sets of `size` samples at unit scale and level ℓ (∞: the data)."""
  x = plane.draws(key, truth, jnp.float32(ell), ((4 + repeats) * size,))
  exact, others = np.split(np.asarray(x), [4 * size])
  found = np.array([distance(exact, part) for part in np.split(others, repeats)])
  return Judge(exact, size, float(np.log(found).mean()), float(np.log(found).std(ddof=1)),
               float(found.mean()))


def between(
    truth: mixtures.Mixture, key: jax.Array, ell: float, size: int, *, repeats: int
) -> tuple[float, float]:
  """Mean and deviation of log sliced W₂ of two sets of `size` exact draws, over `repeats` pairs."""
  pairs = np.asarray(plane.draws(key, truth, jnp.float32(ell), (repeats, 2, size)))
  found = np.log([distance(a, b) for a, b in pairs])
  return float(found.mean()), float(found.std(ddof=1))


def farthest(tests: int, repeats: int) -> float:
  """A bound that the largest of `tests` deviations exceeds with probability 1/1000 by chance.

  It is Bonferroni's bound with Student's distribution: mean and deviation of the null are estimated
  from `repeats` values.
  """
  return float(stats.t.isf(1e-3 / tests, repeats - 1)) * math.sqrt(1.0 + 1.0 / repeats)


def distance(exact: np.ndarray, x: np.ndarray) -> float:
  """Sliced W₂ along fixed directions."""
  return distances.sliced_wasserstein2(exact, x, seed=0, projections=_PROJECTIONS)


def deviation(judge: Judge, value: float) -> float:
  """The logarithm of a distance minus the mean of the null, in standard deviations."""
  return (float(np.log(value)) - judge.mean) / judge.std
