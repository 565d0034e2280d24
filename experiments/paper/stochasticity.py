"""Question 2: ODE and SDE unified. One model, every η and η(ℓ): equal laws, different paths.

Measured with the exact score and with one trained network: distances to exact draws level by level
on a fine grid, what ties x₀ to x_T, how rough the paths are, and which η is best at few calls.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import eta_figures, eta_runs, part, planned, trained
from experiments.paper.eta_runs import (
  JUDGED,
  LARGEST,
  METHODS,
  ODE,
  PROCESSES,
  RHO_MAX,
  RHO_MIN,
  SDE,
  STRIDES,
)
from langevin_jax import mixtures, paths


def measure(setting: part.Setting) -> part.Findings:
  found = trained.model(trained.plane(setting))
  truth = trained.truth(setting.density.plane, found.run)
  keys = jax.random.split(jax.random.key(setting.seed), 6)
  models = {"exact score": mixtures.denoiser(truth, paths.cosine()).at,
            "network": eta_runs.network(found)}
  size = 500 if setting.fast else 2000
  steps = 96 if setting.fast else 256
  fine = {name: eta_runs.fine(keys[0], at, steps, size, pairs=name == "exact score")
          for name, at in models.items()}
  repeats = 20 if setting.fast else 40
  laws = _laws(keys[1], truth, fine, size, repeats=repeats)
  calls = (10, 50) if setting.fast else (10, 20, 50, 100, 200)
  batches, each = 5, 200 if setting.fast else 1000
  judge = planned.judge(truth, keys[2], math.inf, each, repeats=20 if setting.fast else 60)
  quality = {name: {str(n): eta_runs.quality(keys[3], at, n, batches, each, judge) for n in calls}
             for name, at in models.items()}
  ties = _ties(fine["exact score"], truth)
  data = {
      "names": [p.name for p in PROCESSES], "etas": [p.eta for p in PROCESSES],
      "windows": [[p.low, p.high] for p in PROCESSES], "laws": laws, "ties": ties,
      "agreement": _agreement(keys[5], truth, fine, size, repeats=repeats), "repeats": repeats,
      "rough": _rough(fine["exact score"], steps),
      "quality": quality, "judged": JUDGED, "methods": METHODS,
      "floor": judge.floor, "floor_std": judge.floor * judge.std, "each": each,
      "batches": batches, "training_steps": found.step,
      "pictures": eta_runs.pictures(keys[4], models["exact score"], truth)}
  return part.Findings(_claims(data, steps, size), data, eta_figures.captions(data),
                       _tables(data), _answer(data))


def _laws(key, truth, fine, size: int, *, repeats: int) -> dict[str, Any]:
  """Distances to exact draws of p_t at the marks, and by how much they exceed the null band."""
  ells = fine["exact score"]["ells"]
  judges = [planned.judge(truth, k, ell, size, repeats=repeats)
            for k, ell in zip(jax.random.split(key, len(ells)), ells, strict=True)]
  found = {name: np.array([[planned.distance(judge.exact, x) for judge, x in
                            zip(judges, process, strict=True)] for process in runs["marks"]])
           for name, runs in fine.items()}
  return {
      "rho": np.exp(-ells), "floor": [j.floor for j in judges], "std": [j.std for j in judges],
      "distance": found,
      "deviation": {name: [[planned.deviation(j, v) for j, v in zip(judges, row, strict=True)]
                           for row in values] for name, values in found.items()}}


def _agreement(key, truth, fine, size: int, *, repeats: int) -> dict[str, list[list[float]]]:
  """By model: each process's distances to the ODE's samples at the marks, as deviations from those
  of two sets of exact draws; processes have starts and noise of their own."""
  ells = fine["exact score"]["ells"]
  null = [planned.between(truth, k, ell, size, repeats=repeats)
          for k, ell in zip(jax.random.split(key, len(ells)), ells, strict=True)]
  return {name: [[(math.log(planned.distance(a, b)) - mean) / std for a, b, (mean, std) in
                  zip(runs["marks"][ODE], process, null, strict=True)]
                 for i, process in enumerate(runs["marks"]) if i != ODE]
          for name, runs in fine.items()}


def _ties(fine: dict[str, np.ndarray], truth: mixtures.Mixture) -> dict[str, Any]:
  """What x_T says of x₀: their correlation, and the share of the variance of x₀ that it fixes.

  The share is 1 − E‖x₀ − x₀′‖²/(2 tr Cov x₀) of two runs from one x_T. For Gaussian data both are
  known: x₀ and x_T have the correlation exp(−∫η²σ² dℓ), and the share is its square. Errors of the
  correlation are over ten groups of paths.
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
  correlation, correlation_error = planned.mean_and_error(pearson)
  share, share_error = planned.mean_and_error(1.0 - apart)
  return {"correlation": correlation, "correlation_error": correlation_error, "share": share,
          "share_error": share_error, "gaussian": [math.exp(-0.5 * p.noise()) for p in PROCESSES]}


def _rough(fine: dict[str, np.ndarray], steps: int) -> dict[str, Any]:
  length, length_error = planned.mean_and_error(fine["length"])
  # Σ‖Δx‖² is wrong in the first order of the step: of two strides that order is taken off.
  squares = 2.0 * fine["variation"][:, 0] - fine["variation"][:, 1]
  variation, variation_error = planned.mean_and_error(squares)
  return {"resolution": [steps // stride for stride in STRIDES], "length": length,
          "length_error": length_error, "variation": variation, "variation_error": variation_error,
          "theory": [2.0 * p.noise() for p in PROCESSES]}


def _claims(data: dict[str, Any], steps: int, size: int) -> list[part.Claim]:
  ties, rough = data["ties"], data["rough"]
  tests = np.size(data["laws"]["deviation"]["exact score"])
  pairs = np.size(data["agreement"]["network"])
  h = math.log(RHO_MAX / RHO_MIN) / steps
  joint = 1.0 / math.sqrt(1.0 + RHO_MAX**2)
  slope = [float(np.log(length[0] / length[2]) / np.log(4.0)) for length in rough["length"]]
  theory, theory_error = rough["theory"][SDE], float(rough["variation_error"][SDE])
  fewest, values = next(iter(data["quality"]["exact score"].items()))
  ode, largest = (values[0, JUDGED.index(i)] for i in (ODE, LARGEST))
  gap, gap_error = planned.mean_and_error(largest - ode)
  return [
      part.claim(
          f"With the exact score every η and η(ℓ) passes through the laws p_t (the largest of "
          f"{tests} distances of {size} samples to exact draws, in standard deviations of the null "
          "band).", np.max(data["laws"]["deviation"]["exact score"]),
          below=planned.farthest(tests, data["repeats"]), source="eq. 11, Table 3", by="paper"),
      part.claim(
          "With one trained network in the place of the score every η and η(ℓ) has the laws of the "
          f"ODE (the largest of {pairs} distances of {size} samples to those of the ODE, in "
          "standard deviations of the distance of exact draws).",
          np.max(data["agreement"]["network"]), below=planned.farthest(pairs, data["repeats"]),
          source="§3.2", by="paper"),
      part.claim(
          "At η = 1 the noise x_T fixes next to nothing of x₀, as little as in the forward "
          "process (share of the variance).", ties["share"][SDE], error=ties["share_error"][SDE],
          near=joint**2, sigmas=4.0, source="§4"),
      part.claim(
          "At η = 1 x_T and x₀ are correlated as in the forward process, 1/√(1 + ρ_T²) (their "
          "correlation).",
          ties["correlation"][SDE], error=ties["correlation_error"][SDE], near=joint, sigmas=4.0,
          source="§4"),
      part.claim(
          "The squared movement Σ‖Δx‖² of an η = 1 path is that of its noise, 2 · 2∫η²σ² dℓ (at "
          "unit scale).", rough["variation"][SDE], error=theory_error, near=theory,
          # Of the rate 1 + η² = 2, second order in the two steps 2h that are extrapolated from.
          tolerance=theory * (4.0 * h) ** 2 + 4.0 * theory_error,
          source="eq. 2"),
      part.claim(
          "A path of the ODE has a length (the power of the resolution with which the length seen "
          "grows).", slope[ODE], near=0.0, tolerance=h, source="eq. 2"),
      part.claim(
          "A path of the SDE, η = 1, has no length (the power of the resolution with which the "
          "length seen grows).",
          slope[SDE], near=0.5, tolerance=math.sqrt(h), source="eq. 2"),
      part.claim(
          f"At finite steps the laws are not equal: with {fewest} calls of STEP and the exact "
          "score, η = 2 is farther from the data than η = 0 (paired difference of sliced W₂, in "
          "standard errors).", gap / gap_error, above=3.0,
          source="theory.md#solvers"),
  ]


def _answer(data: dict[str, Any]) -> str:
  number = part.number
  laws, ties, quality = data["laws"]["deviation"], data["ties"], data["quality"]["exact score"]
  bound = planned.farthest(np.size(laws["network"]), data["repeats"])
  pairs = planned.farthest(np.size(data["agreement"]["network"]), data["repeats"])
  told = lambda values, bound: "are told" if np.max(values) > bound else "cannot be told"
  fewest = min(quality, key=int)
  ratio, ratio_error = planned.mean_and_error(
      quality[fewest][0, JUDGED.index(LARGEST)] / quality[fewest][0, JUDGED.index(ODE)])
  best = PROCESSES[JUDGED[int(np.argmin(quality[fewest][0].mean(-1)))]].name
  return (
      "By one number, the stochasticity η, or a function η(ℓ) in its place: with the exact score "
      f"the laws of {len(PROCESSES)} such processes {told(laws['exact score'], bound)} from those "
      f"of the forward process (largest deviation {number(np.max(laws['exact score']))} standard "
      f"deviations of the null band; chance allows {number(bound)}), and with one trained network "
      f"they {told(data['agreement']['network'], pairs)} from each other "
      f"({number(np.max(data['agreement']['network']))} of {number(pairs)}; from the exact laws, "
      f"its own error included, {number(np.max(laws['network']))}). Only laws are unified, not "
      "paths: the ODE makes of each x_T one x₀, while at η = 1 x_T fixes a share of "
      f"{number(ties['share'][SDE], 2)} ± {number(ties['share_error'][SDE], 1)} of the variance of "
      "x₀. What fails is the equality at finite steps, of which the paper does not speak: with "
      f"{fewest} calls of STEP, η = 2 ends {number(ratio)} ± {number(ratio_error, 2)} times as far "
      f"from the data as the ODE, and the lowest mean distance is that of {best} (the tables say "
      "which are not told apart from it).")


def _tables(data: dict[str, Any]) -> list[part.Table]:
  budgets = [["model", "method", "calls", "best", "its sliced W₂", "not told apart from it",
              "η = 0", "η = 1"]]
  for model, by_calls in data["quality"].items():
    for m, method in enumerate(METHODS):
      for calls, values in by_calls.items():
        means, errors = planned.mean_and_error(values[m])
        best = int(np.argmin(means))
        gap, gap_error = planned.mean_and_error(values[m] - values[m, best])
        tied = [PROCESSES[i].name for j, i in enumerate(JUDGED)
                if j != best and gap[j] <= 2.0 * gap_error[j]]
        cells = [f"{part.number(mean)} ± {part.number(error, 1)}"
                 for mean, error in zip(means, errors, strict=True)]
        budgets.append([model, method, calls, PROCESSES[JUDGED[best]].name, cells[best],
                        "; ".join(tied) or "none", cells[JUDGED.index(ODE)],
                        cells[JUDGED.index(SDE)]])
  ties, rough = data["ties"], data["rough"]
  rows = [["process", "correlation of x₀ with x_T", "share of Var x₀ that x_T fixes", "Σ‖Δx‖²",
           "its limit", "largest deviation, exact score", "network"]]
  for i, process in enumerate(PROCESSES):
    rows.append([
        process.name, f"{ties['correlation'][i]:.3f} ± {ties['correlation_error'][i]:.3f}",
        f"{ties['share'][i]:.3f} ± {ties['share_error'][i]:.3f}",
        f"{rough['variation'][i]:.2f} ± {rough['variation_error'][i]:.2f}",
        f"{rough['theory'][i]:.2f}",
        *(f"{np.max(values[i]):.1f}" for values in data["laws"]["deviation"].values())])
  return [
      part.Table("Equal laws, different paths. Deviations are the largest of all levels, of the "
                 "distance to p_t, in standard deviations of the null band", rows),
      part.Table("Which η is best at which budget. What is not told apart is within two standard "
                 f"errors of the paired difference; exact draws have {part.number(data['floor'])}",
                 budgets)]


PART = part.Part(
    name="stochasticity", title="Question 2 — How are ODE and SDE models unified?",
    measure=measure, figures=eta_figures.figures,
    text="""**The paper says** (§3.2, Tables 3 and 4) that ODE and SDE samplers are splits of
Langevin dynamics with different clocks, and that each of them has the marginals of the forward
process. In this library the clock is one number, η, or a function of the noise level: 0 is the ODE,
1 is Anderson's SDE, and anything else is as good.

**Measured**: one trained network, and beside it the exact score, run back with η from 0 to 2 and
with noise only while ρ = σ/α is above 2, between 0.2 and 2, or below 0.2. On a fine grid the
samples are compared with exact draws at nine levels, and with each other. Everything is shown at
unit scale, x/√(α² + σ²).

**How to read it.** Laws are to be equal, in continuous time: distances should stay within what
exact draws differ by among themselves. Paths need not be: the ODE carries each x_T to one x₀,
smoothly; an SDE forgets where it began and has no length. At a finite number of steps laws differ
too, because what a step neglects grows with 1 + η²: the last figure and table say which η is best
at which number of calls, and which ones are not told apart from it.""")

if __name__ == "__main__":
  part.main(PART)
