"""What Figure 2's part claims of its measurements."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim
from experiments.paper.exact import estimates


def claims(data: dict[str, Any]) -> list[Claim]:
  last = data["clouds"]["VE"]["times"][-1]
  return [*_moments(data["moments"], data["clouds"]["RF"]["times"]),
          _conversion(data["residuals"]),
          *_ends(data["ends"], data["moments"]["spread"]["VE"], last), *_orders(data["order"])]


def _conversion(residuals):
  worst, residual = estimates.farthest(residuals, 0.0)
  return claim(
      "Table 2 maps the cloud of every path to that of every other, point by point (largest "
      f"residual at unit scale over {len(residuals)} pairs, {worst}).", residual,
      below=1e-12, source="Table 2", by="paper")


def _orders(found):
  for name, order, text in (
      ("variance", 1.0, "Euler–Maruyama on (f, g) converges to the exact cloud with weak order 1 "
       "(order of the variance of the noise"),
      ("kl", 2.0, "The KL of Euler–Maruyama's law from the exact one is of order 2 in the step "
       "(order")):
    orders = {path: np.log2(v[-2] / v[-1]) for path, v in found[name].items()}
    worst, value = estimates.farthest(orders, order)
    yield claim(
        f"{text} farthest from {order:g}, of four paths: {worst}).", value, near=order,
        tolerance=0.2, source="eq. 3; theory.md#solvers")


def _moments(found, times):
  scores = np.concatenate([np.ravel(s) for s in found["scores"].values()])
  yield claim(
      "Clouds moved by the SDEs have the mean αm, the covariance α²S + σ²I and the pull α "
      f"towards the origin of Table 1 (the largest of {len(scores)} standardised deviations).",
      estimates.farthest(scores, 0.0)[1], error=1.0, near=0.0, sigmas=5.0,
      source="§3.1, Table 1", by="paper")
  gain, error, half = (found[k] for k in ("gain", "gain_error", "half"))
  i = int(np.argmax(gain / half))
  yield claim(
      "Clouds moved by the SDEs have the law of α x₀ + σ ε (how far the sliced W₂ "
      "lies above the middle of its null band, in units of the band's half width, at the worst of "
      f"{len(gain)} times).", gain[i] / half[i], error=error[i] / half[i], below=1.0,
      source="§3.1, Table 1", by="paper")
  flow = found["path_correlation"]["RF"]
  yield claim(
      "Rectified flow's forward process is stochastic and not a straight line, on which the noise "
      f"of one particle would be the same at s = {times[1]:g} and at {times[3]:g} "
      "(correlation of the two, which for the SDE is the ratio of the two α/σ).", flow["measured"],
      error=flow["error"], near=flow["expected"], sigmas=5.0, source="§3.1, Fig. 2", by="paper")


def _ends(ends, spread, last):
  vp, flow = (ends["paths"][name] for name in ("VP", "RF"))
  excess = vp["kl"] - np.exp(-vp["times"]) * ends["start"]
  yield claim(
      "VP converges to the standard normal, its KL no slower than e^{−t} (largest excess over "
      "e^{−t} KL(p₀‖N(0, 1)), nats).", np.max(excess), below=1e-9,
      source="§3.1; logarithmic Sobolev inequality")
  yield claim(
      "Rectified flow reaches the standard normal exactly, at s = 1 (KL on the line, nats).",
      flow["kl"][-1], below=1e-12, source="§3.1, Table 1", by="paper")
  yield claim(
      "VE's cloud expands without bound and has no limit law: its variance is that of the "
      f"data plus σ² (measured at σ = {last:g}).", spread["measured"],
      error=spread["error"], near=spread["expected"], sigmas=5.0,
      source="§3.1, Fig. 2; theory.md#errata, 7")
