"""What Figure 5's part claims of its measurements."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim, number, pm
from experiments.paper.exact import curves


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_one_point(data["claims"]), *_mixture(data), *_noisy(data)]


def context(data: dict[str, Any]) -> dict[str, Any]:
  """Rows of the table by density and scale, and the form of its numbers."""
  scales = zip(data["scale"], data["by_scale"], strict=True)
  return {"small": _small, "cases": data["by_density"] | {
      f"{data['name']} × {scale:g}": row for scale, row in scales if scale != 1.0}}


def _small(estimate):
  """An estimate, or that it is zero up to rounding."""
  if abs(estimate[0]) < 1e-9:
    return "0 to rounding" if estimate[0] else "0"
  return pm(estimate)


def _mixture(data):
  found, measures = data["claims"], data["measures"]["mixture"]
  yield claim(
      "The clock does not matter: cosine traces the curve of VP, and VE-Karras and rectified flow "
      "that curve times √(α² + σ²) (largest relative distance).", found["one_curve"], below=1e-12,
      source="Table 2")
  summary = data["by_density"][data["name"]]
  straightest = min(("VP", "VE", "RF"), key=lambda name: summary[name][0])
  least, error = summary[straightest]
  yield claim(
      "Towards a mixture all trajectories are curved (mean turning of the least curved ones, "
      f"{curves.LONG[straightest]}, radians).", least, error=error, above=3.0 * error,
      source="§3.2", by="paper")
  for name in ("VE", "RF"):
    gap, error = summary[f"{name} − VP"]
    yield claim(
        f"Trajectories of {curves.LONG[name]} have smaller curvature than those of VP, for this "
        "density at unit scale (mean paired difference of the total turning, radians; others are "
        "in the table).", gap, error=error, below=-3.0 * error, source="§3.2", by="paper")
  gap, error = found["uneven"]
  flow, cosine = (number(measures[curves.LONG[name]]["unevenness"][0])
                  for name in ("RF", "cosine"))
  yield claim(
      "In its own clock too rectified flow is straighter than VP in Table 1's (difference of the "
      f"unevenness relative to the chord; of rectified flow {flow}, of VP's curve in "
      f"the cosine path's clock {cosine}).", gap, error=error, below=-3.0 * error, source="§3.3",
      by="paper")
  yield claim(
      "The grid is fine enough (by how many standard errors the mean turnings change at most when "
      "the number of steps is halved).", found["converged"], below=1.0, source="§3.2")
  (value, error), *others = [row["VE"] for row in data["by_scale"]]
  yield claim(
      "VE-Karras has no scale: its mean turning is the same for data of every scale "
      "(largest change, in standard errors).", max(abs(v - value) for v, _ in others) / error,
      below=1.0, source="Table 1")


def _one_point(found):
  yield claim(
      "Towards one data point VE-Karras and rectified flow move in a straight line "
      "(largest turning of any of their trajectories, radians).", found["straight"],
      below=found["rounding"], source="§3.2, Fig. 5", by="paper")
  bent, error = found["bent"]
  yield claim(
      "Towards one data point VP bends (its mean turning, radians).", bent, error=error,
      above=3.0 * error, source="§3.2, Fig. 5", by="paper")
  yield claim(
      "Towards one data point each VP trajectory is an arc of an ellipse, x = α x₀ + σ ε, and "
      "turns as much as the arc does (largest difference, radians).", found["arc"],
      below=found["rounding"], source="Table 1")


def _noisy(data):
  slope, error = data["slope"]
  yield claim(
      "A trajectory of VP's SDE has no length, and so no curvature: in n pieces its length is "
      "proportional to √n (power of n over the last three doublings).", slope, error=error,
      # The ratio of a step's drift to its noise is √h, at the coarsest of those resolutions.
      near=0.5, tolerance=float(np.sqrt(data["span"] / data["rulers"][-4])), source="eq. 3")
  deviations = data["claims"]["mean_of_noisy"]
  yield claim(
      "From a given noise the mean path of the SDE goes to a single point, the denoised estimate "
      f"(the largest of {deviations.size} deviations from that curve, in standard errors).",
      np.max(deviations), below=4.5, source="eq. 11")
