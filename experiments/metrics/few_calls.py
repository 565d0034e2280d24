"""Flow maps at 1, 2, 4 and 8 network calls, beside the best ordinary solver at equal calls."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.data import standardize
from experiments.metrics import distances
from experiments.metrics.result import Result
from experiments.run import assembly
from experiments.sampling import drawing
from langevin_jax import paths

_ORDINARY = ("ddim()", "multistep(2)")
_RHO_MAX = 80.0


def rows(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: paths.Path,
    dataset: data.Dataset, labels: Any, *, seed: int, numbers: Sequence[int] = (1, 2, 4, 8),
) -> list[Result]:
  """Sliced W₂ to held-out data in standard units; the floor is that of training data.

  Flow maps use levels that are uniform in the time of rectified flow. Ordinary solvers use the
  better of these levels and `karras`.

  Args:
    dataset: the data that samples are compared with. labels: conditions of the samples.
    numbers: of network calls.
  """
  flat = lambda x: np.asarray(x).reshape(len(x), -1)
  rng = np.random.default_rng(seed)
  n = min(len(dataset.train), len(dataset.test))
  pick = lambda x: flat(x)[rng.permutation(len(x))[:n]]
  held_out, train = pick(dataset.test), pick(dataset.train)
  distance = lambda x: distances.sliced_wasserstein2(held_out, x, seed=seed)
  floor = distance(train)

  def value(sampler: str, grid: str) -> float:
    config = dataclasses.replace(sampling, sampler=sampler, grid=grid)
    x = drawing.draw(run, params, config, path, labels, seed=seed)
    return distance(flat(standardize.standardise(x, dataset.mean, dataset.scale)))

  results = []
  for calls in numbers:
    levels = (_RHO_MAX, *((calls - i) / i for i in range(1, calls)))
    uniform, karras = f"explicit({levels})", f"karras({calls}, rho_max={_RHO_MAX})"
    ordinary = [value(sampler, grid) for sampler in _ORDINARY[:calls] for grid in (uniform, karras)]
    results += [
        Result(f"map_sliced_w2_{calls}", f"sliced W2, flow map, calls: {calls}",
               value("flow_map()", uniform), floor, n),
        Result(f"solver_sliced_w2_{calls}", f"sliced W2, best ordinary solver, calls: {calls}",
               min(ordinary), floor, n)]
  return results
