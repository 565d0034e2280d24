"""What question 4 claims of its measurements."""

import math

import numpy as np

from experiments.paper.claim import Data, Values, number, value
from experiments.paper.exact.estimates import estimate

_CUSTOMARY = "customary"


def claims(data: Data) -> Values:
  double, rounding = data["gradients"]["float64"], data["rounding"]
  yield value("float64", [double[head] for head in data["heads"]], below=rounding["float64"])
  yield value("float32", list(data["gradients"]["float32"].values()), below=rounding["float32"])
  printed = [double[name] for name in double if name not in data["heads"]]
  yield value("printed_losses", printed, below=rounding["float64"])
  counted = data["counted"]
  yield value("one_objective", np.abs(counted["velocity"] / counted["v"] - 1.0))
  yield from _training(data)
  yield from _curvature(data)


def context(data: Data) -> Data:
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
  """Median turning in rectified flow over that in VP, with the exact score, and its error.

  The error assumes independence. It is too large, if anything: starts are the same.
  """
  flow, vp = (bends[path]["turning"] for path in ("RF", "VP"))
  ratio = flow["exact"] / vp["exact"]
  return ratio, ratio * math.hypot(flow["exact_error"] / flow["exact"],
                                   vp["exact_error"] / vp["exact"])


def _training(data):
  error, gap = data["error"], data["gap"]
  # Flow matching's distance to itself is 0, and not part of this.
  falls = {"approaches": error[-1] / error[0],
           "one_function": gap[-1] / np.where(gap[0] > 0.0, gap[0], 1.0)}
  for name, ratio in falls.items():
    fall, fall_error = estimate(ratio, -1)
    worst = int(np.argmax(fall))
    yield value(name, fall[worst], fall_error[worst], arm=", ".join(data["arms"][worst]))


def _curvature(data):
  bends, flow, ddpm = data["bends"], _arm(data, "velocity"), _arm(data, "eps")
  uneven, error = estimate(bends["RF"]["unevenness"]["network"][flow])
  yield value("not_straight", uneven, error, above=3.0 * error)
  turns, turns_error = _turns(bends)
  ratio, error = estimate(
      bends["RF"]["turning"]["network"][flow] / bends["VP"]["turning"]["network"][ddpm])
  yield value("turns_less", ratio, error, below=1.0 - 3.0 * error, exact=number(turns))
  yield value("exact_turns_less", turns, turns_error, below=1.0 - 3.0 * turns_error)
