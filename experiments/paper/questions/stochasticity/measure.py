"""Question 2: ODE and SDE unified. One model and every η(ℓ): equal laws, different paths.

Measured with the exact score and a trained network: distances to exact draws at several levels, the
dependence of x₀ on x_T, the roughness of trajectories, and the best η with few calls.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import trained
from experiments.paper.exact import planned
from experiments.paper.exact.estimates import named
from experiments.paper.questions.stochasticity import runs
from experiments.paper.questions.stochasticity.runs import ODE, PROCESSES
from experiments.paper.setting import Setting
from langevin_jax import mixtures, paths

EXACT, NETWORK = "exact score", "network"


def measure(setting: Setting) -> dict[str, Any]:
  model = trained.model(trained.plane(setting))
  truth = trained.truth(setting.density.plane, model.run)
  keys = jax.random.split(jax.random.key(setting.seed), 6)
  models = {EXACT: mixtures.denoiser(truth, paths.cosine()).at, NETWORK: runs.network(model)}
  size, steps, repeats = (500, 96, 20) if setting.fast else (2000, 256, 40)
  fine = {name: runs.fine(keys[0], at, steps, size, pairs=name == EXACT)
          for name, at in models.items()}
  laws = _laws(keys[1], truth, fine, size, repeats=repeats)
  calls = (10,) if setting.fast else (10, 20, 50, 100, 200)
  batches, each = 5, 200 if setting.fast else 1000
  judge = planned.judge(truth, keys[2], math.inf, each, repeats=20 if setting.fast else 60)
  agreement = _agreement(keys[5], truth, fine[NETWORK], size, repeats=repeats)
  deviations = {"laws": laws["deviation"][EXACT], "agreement": agreement}
  return {
      "names": [p.name for p in PROCESSES], "etas": [p.eta for p in PROCESSES],
      "windowed": [p.low > 0.0 or p.high < math.inf for p in PROCESSES],
      "size": size, "step": math.log(runs.RHO_MAX / runs.RHO_MIN) / steps,
      "joint": 1.0 / math.sqrt(1.0 + runs.RHO_MAX**2), "laws": laws,
      "agreement": {NETWORK: agreement},
      "chance": {name: planned.farthest(np.size(values), repeats)
                 for name, values in deviations.items()},
      "ties": _ties(fine[EXACT], truth), "rough": _rough(fine[EXACT], steps),
      "quality": {name: {str(n): runs.quality(keys[3], at, n, batches, each, judge) for n in calls}
                  for name, at in models.items()},
      "judged": runs.JUDGED, "methods": runs.METHODS, "floor": judge.floor,
      "floor_std": judge.floor * judge.std, "each": each, "batches": batches,
      "pictures": runs.pictures(keys[4], models[EXACT], truth)}


def _laws(key, truth, fine, size: int, *, repeats: int) -> dict[str, Any]:
  """Distances to exact draws of p_t at the marks, also in deviations of the null."""
  ells = fine[EXACT]["ells"]
  judges = [planned.judge(truth, k, ell, size, repeats=repeats)
            for k, ell in zip(jax.random.split(key, len(ells)), ells, strict=True)]
  each = lambda measure, rows: np.array(
      [[measure(judge, x) for judge, x in zip(judges, row, strict=True)] for row in rows])
  found = {name: each(lambda judge, x: planned.distance(judge.exact, x), of["marks"])
           for name, of in fine.items()}
  return {"rho": np.exp(-ells), "floor": [j.floor for j in judges], "std": [j.std for j in judges],
          "distance": found,
          "deviation": {name: each(planned.deviation, rows) for name, rows in found.items()}}


def _agreement(key, truth, fine, size: int, *, repeats: int) -> list[list[float]]:
  """Distances of each process's samples to the ODE's at the marks, in deviations of the null.

  The null is the distance of two sets of exact draws: processes have independent starts and noise.
  """
  ells, marks = fine["ells"], fine["marks"]
  null = [planned.between(truth, k, ell, size, repeats=repeats)
          for k, ell in zip(jax.random.split(key, len(ells)), ells, strict=True)]
  return [[(math.log(planned.distance(a, b)) - mean) / std
           for a, b, (mean, std) in zip(marks[ODE], process, null, strict=True)]
          for i, process in enumerate(marks) if i != ODE]


def _ties(fine: dict[str, np.ndarray], truth: mixtures.Mixture) -> dict[str, Any]:
  """The correlation of x₀ and x_T, and the share of the variance of x₀ that x_T determines.

  The share is 1 − E‖x₀ − x₀′‖²/(2 tr Cov x₀) of two runs from one x_T. For Gaussian data the
  correlation is exp(−∫η²σ² dℓ), and the share its square. Errors of the correlation are over ten
  groups.
  """
  weights = truth.weights / truth.weights.sum()
  within = weights @ jnp.trace(truth.covariances, axis1=1, axis2=2)
  var = float(within + weights @ jnp.sum((truth.means - weights @ truth.means) ** 2, axis=1))
  start, end = fine["start"], fine["marks"][:, -1]
  groups = lambda a: a.reshape(len(a), 10, -1)
  centred = [groups(a - a.mean(1, keepdims=True)) for a in (start, end)]
  cross = lambda a, b: np.sum(a * b, axis=-1)
  pearson = cross(*centred) / np.sqrt(cross(centred[0], centred[0]) * cross(centred[1], centred[1]))
  apart = np.sum((end - fine["again"]) ** 2, -1) / (2.0 * var)
  return {**named("correlation", pearson, -1), **named("share", 1.0 - apart, -1),
          "gaussian": [math.exp(-0.5 * p.noise()) for p in PROCESSES]}


def _rough(fine: dict[str, np.ndarray], steps: int) -> dict[str, Any]:
  """Length and quadratic variation of the trajectories, by the resolution of observation."""
  # Extrapolation from two strides removes the error of first order of Σ‖Δx‖².
  squares = 2.0 * fine["variation"][:, 0] - fine["variation"][:, 1]
  return {"resolution": [steps // stride for stride in runs.STRIDES],
          **named("length", fine["length"], -1), **named("variation", squares, -1),
          "theory": [2.0 * p.noise() for p in PROCESSES]}
