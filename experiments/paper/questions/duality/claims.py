"""What question 1 claims of its measurements."""

import math

import numpy as np
from scipy import stats

from experiments.paper.claim import Data, Values, value
from experiments.paper.exact import estimates


def claims(data: Data) -> Values:
  yield from _limits(data["line"])
  yield from _exact(data["line"])
  yield from _plane(data["plane"])
  yield from _start(data["start"])


def context(data: Data) -> Data:
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
  """√KL (summed over η) extrapolated to infinitely many steps, (schemes, paths).

  The extrapolation is linear in 1/n from the two finest runs. The largest value over levels is
  divided by that of the finest run.
  """
  root = np.sqrt(np.maximum(line["along"], 0.0).sum(2))
  return np.abs(2.0 * root[..., -1, :] - root[..., -2, :]).max(-1) / root[..., -1, :].max(-1)


def _last_order(line):
  """Order of the KL, summed over η, between the two finest runs, (schemes, paths).

  STEP and Euler–Maruyama have weak order 1: the error of the density is O(1/n), and KL is O(1/n²).
  At a single η the leading error may vanish.
  """
  end = line["end"].sum(2)
  return np.log2(end[..., -2] / end[..., -1])


def _limits(line):
  schemes = "STEP", "Table 4's equations in the path's own time"
  notes = "", "; where first steps are long at the noisy end two runs are too few to tell"
  for scheme, but, left in zip(schemes, notes, _remainder(line), strict=True):
    yield value("limit", left, scheme=scheme, but=but)
  for scheme, order in zip(schemes, _last_order(line), strict=True):
    yield value("order", estimates.farthest(order, 2.0)[1], scheme=scheme)


def _exact(line):
  """Identities that hold at any number of steps."""
  own = {name: i for i, name in enumerate(line["paths"])}
  end, kl = line["end"], line["kl"]
  yield value("one_law", np.abs(kl[0, own["VP"]] - kl[0, own["VE"]]))
  yield value("euler_is_step",
              [np.ptp(end[:, own[name], 0], axis=0) for name in ("VE", "rectified flow")])
  yield value("bound", end[0, :, _index(line, 1.0)] / line["bound"])


def _excess(plane):
  """Sliced W2 minus the null, averaged over levels, and its standard error over runs."""
  return estimates.estimate((plane["value"] - plane["null"]).mean(-1).ravel())


def _plane(plane):
  whole = (plane["value"] - plane["null"]).reshape(-1, plane["value"].shape[-1])
  mean, error = estimates.estimate(whole)
  yield value("plane", *_excess(plane))
  yield value("plane_levels", mean / error, count=len(mean),
              below=stats.t.ppf(1.0 - 0.01 / len(mean), len(whole) - 1))
  yield value("broken", plane["broken"][:, -1].min() / plane["null"][..., -1].max())


def _start(first):
  kl, sde = first["kl"], _index(first, 1.0)
  # √KL of small errors obeys the triangle inequality: (1 + r)² − 1 < 3r.
  r = math.sqrt(first["exact"][0, -1] / kl[0, 0])
  differences = first["plain"] - first["moments"] - first["difference"]
  yield value("start", np.abs(differences))
  yield value("ode_keeps", kl[0, -1] / kl[0, 0], tolerance=3.0 * r)
  yield value("sde_reduces", kl[sde, -1] / kl[sde, 0])
