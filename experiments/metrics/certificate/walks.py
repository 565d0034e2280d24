"""The certificate's distances: a network's reverse process against noised held-out data.

Sliced W2 at unit scale at the end of every interval of ℓ, of the process that came from noise
(marginal), of one that began at the interval's start in noised data (local), and of the data that
the local one came from (null): what chance these two have in common cancels in their difference.
"""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data as data_lib
from experiments.metrics import distances
from experiments.metrics.certificate import network
from langevin_jax import samplers
from langevin_jax.samplers import sampling

REPEATS = 8
METHOD = samplers.multistep(2, 1.0)
_FEWEST = 150  # examples of a set, below which sets of different repeats share theirs


def walks(
    model: network.Model, ells: np.ndarray, *, points: int, steps: int, seed: int,
    change: tuple[float, float, float],
) -> dict[str, np.ndarray]:
  """marginal, local and null, each (REPEATS, intervals), for the ends `ells` of the intervals.

  Args:
    points: examples of a set, at the most. steps: of the sampler in an interval. change: see
      `network.Model`.
  """
  rng = np.random.default_rng(seed)
  x, labels, project = model.data.test, network.labels(model), network.projection(model.data)
  back = _back(model.at)

  rho = [np.exp(-np.linspace(*ends, steps + 1)) for ends in itertools.pairwise(ells)]
  plans = [jax.tree.map(lambda v: jnp.asarray(v, None if v.dtype == bool else jnp.float32),
                        sampling.plan(network.PATH, METHOD, lambda _, r=r: np.append(r, 0.0)))
           for r in rho]
  keys = iter(jax.random.split(jax.random.key(int(rng.integers(2**31))), 2 * REPEATS * len(plans)))
  found = {name: np.zeros((REPEATS, len(plans))) for name in ("marginal", "local", "null")}
  mean, var = data_lib.moments(model.data)
  alpha, sigma = network.frame(ells[0])
  for r, (ours, others) in enumerate(sets(len(x), points, rng)):
    walk = alpha * mean + np.sqrt(alpha**2 * var + sigma**2) * rng.standard_normal(
        (len(ours), *x.shape[1:]))
    for i, planned in enumerate(plans):
      walk = np.asarray(back(
          planned, next(keys), jnp.asarray(walk, jnp.float32), labels[ours], change))
      data = network.noised(rng, x[ours], ells[i + 1])
      local = back(planned, next(keys), network.noisier(rng, data, ells[i + 1], ells[i]),
                   labels[ours], change)
      real = project(network.noised(rng, x[others], ells[i + 1]))
      distance = functools.partial(
          distances.sliced_wasserstein2, real, seed=int(rng.integers(2**31)), projections=64)
      found["marginal"][r, i] = distance(project(walk))
      found["local"][r, i] = distance(project(local))
      found["null"][r, i] = distance(project(data))
  return found


@functools.lru_cache(maxsize=2)
def _back(at):
  """One interval of the reverse process, compiled once for a network and its damaged likeness."""
  @jax.jit
  def back(planned, key, x, labels, change):
    states = sampling.run(
        planned, key, x * planned.levels.scale[0], None, shape=x.shape, method=METHOD, keep=True,
        model=lambda x, level: at(x, level.half_log_snr, labels, change))
    return states.x[-2] / planned.levels.scale[-2]  # the last step goes on to ρ = 0

  return back


def shared(n: int, points: int) -> bool:
  """Whether n examples are so few that the repeats' sets are drawn from the same ones."""
  return min(points, n // (2 * REPEATS)) < _FEWEST


def sets(n: int, points: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """REPEATS pairs of sets of examples without one in common; where data are few, random halves."""
  size, order = min(points, n // (2 * REPEATS)), rng.permutation(n)
  for r in range(REPEATS):
    if shared(n, points):
      pair = rng.permutation(n)[:2 * min(points, n // 2)]
    else:
      pair = order[2 * size * r:2 * size * (r + 1)]
    yield pair[:len(pair) // 2], pair[len(pair) // 2:]
