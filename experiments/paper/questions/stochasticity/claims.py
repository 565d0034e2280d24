"""What question 2 claims of its measurements."""

import math
from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim
from experiments.paper.exact.estimates import estimate


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_laws(data), *_paths(data), _few_calls(data)]


def context(data: dict[str, Any]) -> dict[str, Any]:
  """Numbers of the answer and rows of the tables."""
  fewest, names, values = _few(data)
  ratio = estimate(values[names.index("η = 2")] / values[names.index("η = 0")])
  return {"fewest": fewest, "ratio": ratio, "best": names[int(np.argmin(values.mean(-1)))],
          "sde": data["names"].index("η = 1"), "budgets": [
              (model, method, calls, *_best(names, values[m]))
              for model, by_calls in data["quality"].items()
              for m, method in enumerate(data["methods"]) for calls, values in by_calls.items()]}


def _few(data):
  """(calls, names, distances) of STEP with the exact score at the smallest number of calls."""
  fewest, values = next(iter(data["quality"]["exact score"].items()))
  return fewest, [data["names"][i] for i in data["judged"]], values[0]


def _best(names, values):
  """(best process, its estimate, those within two standard errors of it, η = 0, η = 1)."""
  means, errors = estimate(values, -1)
  best = int(np.argmin(means))
  gap, gap_error = estimate(values - values[best], -1)
  tied = [name for j, name in enumerate(names) if j != best and gap[j] <= 2.0 * gap_error[j]]
  of = lambda j: (means[j], errors[j])
  return (names[best], of(best), "; ".join(tied) or "none",
          *(of(names.index(name)) for name in ("η = 0", "η = 1")))


def _laws(data):
  exact, network = data["laws"]["deviation"]["exact score"], data["agreement"]["network"]
  yield claim(
      f"With the exact score every η and η(ℓ) has the laws p_t (the largest of "
      f"{np.size(exact)} distances of {data['size']} samples to exact draws, in standard "
      "deviations of the null band).", np.max(exact), below=data["chance"]["laws"],
      source="eq. 11, Table 3", by="paper")
  yield claim(
      "With one trained network in place of the score every η and η(ℓ) has the laws of the "
      f"ODE (the largest of {np.size(network)} distances of {data['size']} samples to those of the "
      "ODE, in standard deviations of the distance of exact draws).",
      np.max(network), below=data["chance"]["agreement"], source="§3.2", by="paper", trained=True)


def _paths(data):
  ties, rough, h, joint = data["ties"], data["rough"], data["step"], data["joint"]
  ode, sde = (data["names"].index(name) for name in ("η = 0", "η = 1"))
  slope = np.log(rough["length"][:, 0] / rough["length"][:, 2]) / np.log(4.0)
  theory, error = rough["theory"][sde], rough["variation_error"][sde]
  yield claim(
      "At η = 1 the noise x_T determines hardly any of x₀, as in the forward "
      "process (share of the variance).", ties["share"][sde], error=ties["share_error"][sde],
      near=joint**2, sigmas=4.0, source="§4")
  yield claim(
      "At η = 1 x_T and x₀ are correlated as in the forward process, 1/√(1 + ρ_T²) (their "
      "correlation).", ties["correlation"][sde], error=ties["correlation_error"][sde], near=joint,
      sigmas=4.0, source="§4")
  yield claim(
      "The squared movement Σ‖Δx‖² of an η = 1 path is that of its noise, 2 · 2∫η²σ² dℓ (at "
      "unit scale).", rough["variation"][sde], error=error, near=theory,
      # Of the rate 1 + η² = 2, second order in the two steps 2h of the extrapolation.
      tolerance=theory * (4.0 * h) ** 2 + 4.0 * error, source="eq. 2")
  yield claim(
      "A path of the ODE has a length (the power of the resolution with which the observed length "
      "grows).", slope[ode], near=0.0, tolerance=h, source="eq. 2")
  yield claim(
      "A path of the SDE, η = 1, has no length (the power of the resolution with which the "
      "observed length grows).", slope[sde], near=0.5, tolerance=math.sqrt(h), source="eq. 2")


def _few_calls(data):
  fewest, names, values = _few(data)
  gap, error = estimate(values[names.index("η = 2")] - values[names.index("η = 0")])
  return claim(
      f"At finite steps the laws are not equal: with {fewest} calls of STEP and the exact "
      "score, η = 2 is farther from the data than η = 0 (paired difference of sliced W₂, in "
      "standard errors).", gap / error, above=3.0, source="theory.md#solvers")
