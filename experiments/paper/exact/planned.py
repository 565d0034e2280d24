"""Samplers as arrays of numbers, so that samplers of one method and length share one program.

Two values of η, two paths or two grids of the same number of steps differ only in the values of
these arrays. Also: the distance of samples to draws of the exact law, and its null distribution,
the distance of other exact draws.
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
  """Exact draws (m, 2), and log sliced W₂ of sets of `size` other exact draws to them.

  mean, std: of that logarithm, under which its law is nearly normal. floor: the mean distance.
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
  """The numbers of one process, cached: factories of the library return equal objects."""
  return sampling.plan(path, method, grid)


def run(
    planned: sampling.Plan, key: jax.Array, at: At, *, shape: tuple[int, ...],
    method: samplers.Method, initial: jax.Array | None = None, keep: bool = False,
) -> jax.Array | samplers.Trajectory:
  """`samplers.sample`, or `trajectory` if `keep`, with traced numbers; in float32.

  Args:
    method: whose numbers they are; one with noise, where any of its plans has noise.
  """
  denoise = predictions.Denoiser(at, paths.cosine())
  initial = None if initial is None else initial.astype(jnp.float32)
  return sampling.run(planned, key, initial, None, model=levels.model(denoise), shape=shape,
                      method=method, keep=keep)


def judge(
    truth: mixtures.Mixture, key: jax.Array, ell: float, size: int, *, repeats: int
) -> Judge:
  """The null distribution for sets of `size` samples at unit scale and level ℓ (∞: the data)."""
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
  """The bound that the largest of `tests` deviations exceeds with probability 1/1000 by chance.

  Bonferroni's bound; Student's law, for a null's mean and deviation are those of a few `repeats`.
  """
  return float(stats.t.isf(1e-3 / tests, repeats - 1)) * math.sqrt(1.0 + 1.0 / repeats)


def distance(exact: np.ndarray, x: np.ndarray) -> float:
  """Sliced W₂, along fixed directions."""
  return distances.sliced_wasserstein2(exact, x, seed=0, projections=_PROJECTIONS)


def deviation(judge: Judge, value: float) -> float:
  """A log distance less the mean of the null distribution, in its standard deviations."""
  return (float(np.log(value)) - judge.mean) / judge.std
