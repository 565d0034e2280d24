"""What Figure 1's part claims of its measurements."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim, number
from experiments.paper.exact import estimates, laws


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_orders(data["line"]), *_plane(data["plane"]), *_gaussian(data["independence"]),
          _independent(data["cloud"])]


def _orders(line):
  for name, method in (("euler", "Euler's step"), ("exact", "the step STEP(0, Λ)")):
    yield claim(
        f"After Langevin time {line['time']:g} σ² the KL between p and the law of {method} is of "
        "order 2 in the step size (order between the two smallest steps).",
        laws.order(line["budgets"], line["total"][name]), near=2.0, tolerance=0.2,
        source="eq. 1; theory.md#langevin-dynamics")


def _plane(plane):
  worst = max(plane["methods"].values(), key=lambda method: method["distance"][-1])
  yield claim(
      f"At the smallest step, Λ = {number(plane['budgets'][-1])}, particles moved by "
      f"{', '.join(plane['methods'])} are as near to fresh draws as those are to each other "
      "(largest sliced W₂, against the upper edge of the null band).",
      worst["distance"][-1], error=worst["distance_error"][-1],
      below=plane["null"] + 2.0 * plane["null_spread"], source="§2, Figure 1", by="paper")
  mala = plane["methods"]["mala"]
  yield claim(
      "mala, which rejects some moves, leaves p unchanged at the largest step too (growth of the "
      "distance to fresh draws).", mala["gain"][0], error=mala["gain_error"][0], near=0.0,
      sigmas=5.0, source="§2; theory.md#langevin-dynamics")


def _independent(cloud):
  return claim(
      f"After {cloud['steps']} steps of Λ = {cloud['budget']}, when the cloud looks the same, the "
      "new sample is independent of the old one (their correlation).", cloud["correlation"],
      error=cloud["correlation_error"], near=0.0, sigmas=4.0, source="§2, below eq. 2", by="paper")


def _gaussian(found):
  measured, expected, error = (found[k] for k in ("gaussian", "expected", "gaussian_error"))
  i, _ = estimates.farthest((measured - expected) / error, 0.0)
  yield claim(
      "On a Gaussian the correlation of start and end is e^{−τ/Var} (the worst of "
      f"{len(measured)} times, τ = {number(found['times'][i])} Var).", measured[i],
      error=error[i], near=expected[i], sigmas=5.0, source="theory.md#errata, 5")
  yield claim(
      "On the line the correlation falls with time (its largest rise from one time to the next).",
      np.max(np.diff(found["line"])), below=1e-6, source="theory.md#errata, 5")
