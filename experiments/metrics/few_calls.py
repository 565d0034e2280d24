"""Flow maps at 1, 2, 4 and 8 network calls, beside the best ordinary solver at 1 to 10 calls."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.metrics import comparisons, distances, mixture_metrics
from experiments.metrics.result import Result
from experiments.run import assembly
from experiments.sampling import conditioning, drawing
from langevin_jax import paths

_ORDINARY = ("ddim()", "multistep(2)")
_RHO_MAX = 80.0


def meter(
    run: assembly.Run, sampling: config_lib.Sampling, path: paths.Path, dataset: data.Dataset,
    labels: Any, *, seed: int, numbers: Sequence[int] = (1, 2, 4, 8),
    solver_numbers: Sequence[int] = (1, 2, 4, 8, 10),
) -> Callable[[Any], list[Result]]:
  """params → rows: sliced W₂ to held-out data in standard units, its floor that of training data.

  Of images also C2ST and label agreement. Of the 2-D mixture also the KL divergence to samples,
  whose floor is that of exact draws, and the error of D̄. Flow maps use levels that are uniform in
  the time of rectified flow, and ordinary solvers these or `karras`. The best solver is that of the
  least sliced W₂. Programs are compiled once for all params.

  Args:
    dataset: the data that samples are compared with. labels: conditions of the samples.
    numbers, solver_numbers: of network calls of the map, and of ordinary solvers.
  """
  mixture = run.config.data.name == "mixture2d"
  count = len(jax.tree.leaves(labels)[0])
  numbers_of_classes = conditioning.class_numbers(dataset, labels, count)
  dataset = data.in_comparison_units(dataset)
  flat = lambda x: np.asarray(x).reshape(len(x), -1)
  rng = np.random.default_rng(seed)
  n = min(len(dataset.train), len(dataset.test))
  pick = lambda x: flat(x)[rng.permutation(len(x))[:n]]
  held_out, train = pick(dataset.test), pick(dataset.train)
  distance = lambda x: distances.sliced_wasserstein2(held_out, flat(x), seed=seed)
  floor = distance(train)
  judge = comparisons.image_judge(dataset, seed) if dataset.kind == "image" else None

  def drawer(sampler: str, grid: str) -> Callable[[Any], np.ndarray]:
    config = dataclasses.replace(sampling, sampler=sampler, grid=grid)
    program = drawing.compiled(run, config, path, count)
    return lambda params: data.in_standard_units(dataset, drawing.draw(
        run, params, config, path, labels, seed=seed, program=program))

  map_draws = {calls: drawer("flow_map()", _uniform(calls)) for calls in numbers}
  ordinary_draws = {
      calls: [drawer(sampler, grid) for sampler in _ORDINARY[:calls]
              for grid in (_uniform(calls), f"karras({calls}, rho_max={_RHO_MAX})")]
      for calls in solver_numbers}
  exact, errors = None, lambda params: []
  if mixture:
    truth = mixture_metrics.mixture(dataset)
    exact = np.asarray(truth.sample(jax.random.key(seed), count))
    errors = mixture_metrics.map_errors(run, path)

  def judged(kind: str, what: str, calls: int, x: np.ndarray) -> list[Result]:
    found = [Result("sliced_w2", "sliced W2", distance(x), floor, n)]
    found += [] if judge is None else judge(x, numbers_of_classes)
    return [row._replace(key=f"{kind}_{row.key}_{calls}", label=f"{row.label}, {what}, calls: "
                         f"{calls}") for row in found]

  def rows(params: Any) -> list[Result]:
    results = []
    for calls, draw in map_draws.items():
      x = draw(params)
      results += judged("map", "flow map", calls, x)
      if exact is not None:
        results.append(Result(
            f"map_kl_samples_{calls}", f"KL(data‖samples), nats, flow map, calls: {calls}",
            *mixture_metrics.kl_to_samples(truth, x, exact), count))
    for calls, draws in ordinary_draws.items():
      best = min((draw(params) for draw in draws), key=distance)
      results += judged("solver", "best ordinary solver", calls, best)
    return results + errors(params)

  return rows


def _uniform(calls: int) -> str:
  """Levels that are uniform in the time of rectified flow."""
  return f"explicit({(_RHO_MAX, *((calls - i) / i for i in range(1, calls)))})"
