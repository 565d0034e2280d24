"""What Figure 2's part claims of its measurements."""

import numpy as np

from experiments.paper.claim import Data, Values, value
from experiments.paper.exact import estimates


def claims(data: Data) -> Values:
  yield from _moments(data["moments"], data["clouds"]["RF"]["times"])
  worst, residual = estimates.farthest(data["residuals"], 0.0)
  yield value("conversion", residual, pairs=len(data["residuals"]), worst=worst)
  yield from _ends(data["ends"], data["moments"]["spread"],
                   data["clouds"]["VE"]["times"][-1])
  for name, order in (("variance", 1.0), ("kl", 2.0)):
    orders = {path: np.log2(v[-2] / v[-1]) for path, v in data["order"][name].items()}
    worst, farthest = estimates.farthest(orders, order)
    yield value(f"order_of_{name}", farthest, worst=worst)


def _moments(found, times):
  scores = np.concatenate([np.ravel(s) for s in found["scores"].values()])
  yield value("moments", estimates.farthest(scores, 0.0)[1], 1.0, count=len(scores))
  gain, error, half = (found[k] for k in ("gain", "gain_error", "half"))
  i = int(np.argmax(gain / half))
  yield value("law", gain[i] / half[i], error[i] / half[i], count=len(gain))
  flow = found["path_correlation"]
  yield value("stochastic", flow["measured"], flow["error"], near=flow["expected"],
              first=times[1], last=times[3])


def _ends(ends, spread, last):
  vp, flow = (ends["paths"][name] for name in ("VP", "RF"))
  yield value("vp_limit", vp["kl"] - np.exp(-vp["times"]) * ends["start"])
  yield value("rf_limit", flow["kl"][-1])
  yield value("ve_limit", spread["measured"], spread["error"], near=spread["expected"], sigma=last)
