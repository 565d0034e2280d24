"""What question 1 claims of its measurements."""

import math
from typing import Any

import numpy as np
from scipy import stats

from experiments.paper.claim import Claim, claim
from experiments.paper.exact import estimates


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_limits(data["line"]), *_exact(data["line"]), *_plane(data["plane"]),
          *_start(data["start"])]


def context(data: dict[str, Any]) -> dict[str, Any]:
  """Numbers of the answer, the captions and the tables."""
  line, start = data["line"], data["start"]
  kept = start["kl"][:, -1] / start["kl"][:, 0]
  return {
      "worst": line["end"][..., -1].max((1, 2)), "rate": _last_order(line)[0].mean(),
      "excess": _excess(data["plane"]), "ode_keeps": kept[_index(start, 0.0)],
      "sde_keeps": kept[_index(start, 1.0)], "left": _remainder(line).max(1),
      # Between successive numbers of steps, (schemes, paths, ETAS, counts − 1).
      "orders": -np.diff(np.log2(line["end"]), axis=-1)}


def _index(found, eta):
  return list(found["etas"]).index(eta)


def _remainder(line):
  """√KL (summed over η) in the limit of no step length: (schemes, paths).

  By extrapolation in 1/n from the two finest runs, at the worst level, over the finest run's most.
  """
  root = np.sqrt(np.maximum(line["along"], 0.0).sum(2))
  return np.abs(2.0 * root[..., -1, :] - root[..., -2, :]).max(-1) / root[..., -1, :].max(-1)


def _last_order(line):
  """Order over the last halving of the KL summed over η, (schemes, paths).

  STEP and Euler–Maruyama are of weak order 1, so the error of a density is O(1/n), and KL, which is
  quadratic in it, O(1/n²): 2. At a single η the leading error may vanish, as it does for Gaussians.
  """
  end = line["end"].sum(2)
  return np.log2(end[..., -2] / end[..., -1])


def _limits(line):
  cases = list(zip(
      ("STEP", "Table 4's equations in the path's own time"),
      ("", "; where first steps are long at the noisy end two runs are too few to tell"),
      _remainder(line), _last_order(line), strict=True))
  for scheme, but, left, _ in cases:
    yield claim(
        f"Duality at every level, in the limit of small steps of {scheme}: √KL that remains "
        "by extrapolation, at the worst level and path (KL summed over η), in units of "
        f"the largest in the finest run{but}.", left.max(), near=0.0,
        tolerance=2.0**1.1 - 2.0, source="eq. 11", by="paper")
  for scheme, _, _, order in cases:
    yield claim(
        f"{scheme}: the KL is of order 2 in the step size: of all paths the order farthest from 2, "
        "over the last halving (KL summed over η; each by itself is in the table).",
        estimates.farthest(order, 2.0)[1], near=2.0, tolerance=0.2, source="theory.md#solvers")


def _exact(line):
  """Identities that hold at any number of steps."""
  own = {name: i for i, name in enumerate(line["paths"])}
  end, kl = line["end"], line["kl"]
  yield claim(
      "On one grid STEP has one law, whatever the path: largest difference of VP's and VE's "
      "KL, over levels and η, in nats.",
      np.abs(kl[0, own["VP"]] - kl[0, own["VE"]]).max(), below=1e-12, source="Table 2")
  yield claim(
      "The ODE row of Table 4 by Euler is STEP at Λ = 0 (DDIM) for VE and for rectified flow: "
      "largest difference of KL, nats.",
      max(np.ptp(end[:, own[name], 0], axis=0).max() for name in ("VE", "rectified flow")),
      below=1e-9, source="Table 4; theory.md#step")
  yield claim(
      "At η = 1 the KL between the laws of the ends is less than that between the processes, "
      "Σ∫e^{2ℓ}(mmse(ℓ_i) − mmse(ℓ))dℓ: largest ratio, over paths and numbers of steps.",
      (end[0, :, _index(line, 1.0)] / line["bound"]).max(), below=1.0,
      source="eq. 17; theory.md#likelihood")
  yield claim(
      "The nodes contain all laws: largest probability outside them, in the finest runs.",
      line["outside"], below=1e-6, source="quadrature")


def _excess(plane):
  """Sliced W2 less the null, with its standard error over runs: levels are not independent."""
  return estimates.estimate((plane["value"] - plane["null"]).mean(-1).ravel())


def _plane(plane):
  whole = (plane["value"] - plane["null"]).reshape(-1, plane["value"].shape[-1])
  mean, error = estimates.estimate(whole)
  excess, excess_error = _excess(plane)
  yield claim(
      "In the plane, particles of the reverse process are as near to exact draws as other exact "
      "draws are: excess of sliced W2, averaged over levels, paths and η.",
      excess, error=excess_error, near=0.0, sigmas=4.0, source="eq. 11", by="paper")
  yield claim(
      f"The same at each of {len(mean)} levels: the largest excess, in standard errors "
      "(chance exceeds this bound at any level with probability 1 %).", (mean / error).max(),
      below=stats.t.ppf(1.0 - 0.01 / len(mean), len(whole) - 1), source="eq. 11", by="paper")
  yield claim(
      "The measure detects a failure: with a D that is a fifth too small, the least distance at "
      "the data's end over the largest of exact draws there.",
      plane["broken"][:, -1].min() / plane["null"][..., -1].max(), above=1.0, source="sliced W2")


def _start(first):
  kl, sde = first["kl"], _index(first, 1.0)
  # Small errors of a density add up as lengths, KL being their square: (1 + r)² − 1 < 3r.
  r = math.sqrt(first["exact"][0, -1] / kl[0, 0])
  yield claim(
      "A start from N(0, σ²I) costs as much as a start from the Gaussian with the data's moments "
      "plus the KL between the two Gaussians: largest difference over noise levels, nats.",
      np.abs(first["plain"] - first["moments"] - first["difference"]).max(), below=1e-7,
      source="theory.md#initial-noise")
  yield claim(
      "The ODE keeps that cost: KL at the data's end over KL at the start, within the error of the "
      "steps.", kl[0, -1] / kl[0, 0], near=1.0, tolerance=3.0 * r, source="eq. 10, A.3")
  yield claim(
      "The SDE (η = 1) reduces it: KL at the data's end over KL at the start.",
      kl[sde, -1] / kl[sde, 0], below=1.0, source="A.3")
