"""What question 4 claims of its measurements."""

import math
from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim, number
from experiments.paper.exact.estimates import estimate

_CUSTOMARY = "customary"


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_gradients(data), *_training(data), *_curvature(data)]


def context(data: dict[str, Any]) -> dict[str, Any]:
  """Numbers of the answer and rows of the tables."""
  error, quality, heads = data["error"][-1].mean(-1), data["quality"], list(data["heads"])
  arms = [tuple(arm) for arm in data["arms"]]
  flow = _arm(data, "velocity")
  order = np.argsort(error)
  fewest = str(min(data["calls"]))
  exact = quality["exact score"][fewest]
  nearer = lambda other: estimate(exact[heads.index("velocity")] / exact[heads.index(other)])
  customary = [i for i, (_, weighting) in enumerate(arms) if weighting == _CUSTOMARY]
  ends = {name: quality[name][fewest][customary].mean(-1) for name in ("own time", "DDIM")}
  return {
      "difference": max(data["gradients"]["float64"].values()), "turns": _turns(data["bends"]),
      "flow_error": error[flow], "rank": 1 + list(order).index(flow), "lowest": error.min(),
      "highest": error.max(), "fewest": fewest, "nearer": nearer, "order": order, "flow": flow,
      "ends": {name: (v.min(), v.max()) for name, v in ends.items()}, "customary": customary,
      "over_seeds": lambda values: estimate(values, -1),
      "columns": [(path, measure) for measure in ("turning", "unevenness")
                  for path in ("VP", "VE", "RF")]}


def _arm(data, head):
  """The index of a head's arm with its customary weight."""
  return [tuple(arm) for arm in data["arms"]].index((head, _CUSTOMARY))


def _turns(bends):
  """Median turning in rectified flow over that in VP with the exact score, and an error of it.

  As if the two were independent: too large, if anything, for they start from the same states.
  """
  flow, vp = (bends[path]["turning"] for path in ("RF", "VP"))
  ratio = flow["exact"] / vp["exact"]
  return ratio, ratio * math.hypot(flow["exact_error"] / flow["exact"],
                                   vp["exact_error"] / vp["exact"])


def _gradients(data):
  double, single = (data["gradients"][kind] for kind in ("float64", "float32"))
  printed = [value for name, value in double.items() if name not in data["heads"]]
  yield claim(
      "One network function read as score, ε, x₀, v and velocity has one gradient under the "
      "maximum-likelihood weight (largest relative difference, in float64).",
      max(double[head] for head in data["heads"]), below=data["rounding"]["float64"],
      source="Tables 5, 6")
  yield claim(
      "The five readings of the library's MLP have one gradient in float32 too (largest relative "
      "difference).", max(single.values()), below=data["rounding"]["float32"],
      source="Tables 5, 6")
  yield claim(
      "The paper's three losses as printed (VP score, VE-Karras noise, rectified-flow "
      "velocity), each in its path's coordinates and time, have that gradient too (largest "
      "relative difference).", max(printed), below=data["rounding"]["float64"], source="Table 6",
      by="paper")
  yield claim(
      "Flow matching's uniform s and v's cosine time count noise levels alike, π w ∝ ρ, so "
      "that their objectives differ by the output layer alone (largest relative difference).",
      np.max(np.abs(data["counted"]["velocity"] / data["counted"]["v"] - 1.0)), below=1e-5,
      source="theory.md#densities-and-weights")


def _training(data):
  error, gap = data["error"], data["gap"]
  name = lambda i: ", ".join(data["arms"][i])
  fall, fall_error = estimate(error[-1] / error[0], -1)
  worst = int(np.argmax(fall))
  yield claim(
      "With every weight and output, training approaches the exact score (error at "
      f"the end over that after a twelfth, of the arm that gains least, {name(worst)}).",
      fall[worst], error=fall_error[worst], below=1.0, source="§5, eq. 18", by="paper",
      trained=True)
  # Flow matching's distance to itself is 0, and not part of this.
  near, near_error = estimate(gap[-1] / np.where(gap[0] > 0.0, gap[0], 1.0), -1)
  worst = int(np.argmax(np.where(np.arange(len(near)) == _arm(data, "velocity"), -1.0, near)))
  yield claim(
      "All arms approach one function (distance of their ε̂ to flow matching's at the "
      f"end over that after a twelfth, of the arm that gains least, {name(worst)}).",
      near[worst], error=near_error[worst], below=1.0, source="§5", by="paper", trained=True)


def _curvature(data):
  bends, flow, ddpm = data["bends"], _arm(data, "velocity"), _arm(data, "eps")
  uneven, error = estimate(bends["RF"]["unevenness"]["network"][flow])
  yield claim(
      "A flow-matching network's trajectories are not straight lines at constant speed "
      "(∫E‖(x₁ − x₀) − v‖² ds, which would be 0).", uneven, error=error,
      above=3.0 * error, source="§5", by="paper", trained=True)
  turns, turns_error = _turns(bends)
  ratio, error = estimate(
      bends["RF"]["turning"]["network"][flow] / bends["VP"]["turning"]["network"][ddpm])
  yield claim(
      "Trajectories of flow matching's networks in rectified flow have smaller curvature than "
      "those of ε-networks in VP, the networks' errors included (ratio of median turnings; "
      f"with the exact score {number(turns)}).", ratio,
      error=error, below=1.0 - 3.0 * error, source="§3.3", by="paper", trained=True)
  yield claim(
      "With the exact score trajectories in rectified flow have smaller curvature than in VP "
      "(ratio of median turnings).", turns, error=turns_error, below=1.0 - 3.0 * turns_error,
      source="§3.3", by="paper")
