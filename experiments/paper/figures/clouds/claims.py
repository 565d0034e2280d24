"""What Figure 2's part claims of its measurements."""

import numpy as np

from experiments.paper.claim import Claims, Data, claim, statements
from experiments.paper.exact import estimates

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  yield from _moments(data["moments"], data["clouds"]["RF"]["times"])
  worst, residual = estimates.farthest(data["residuals"], 0.0)
  yield claim(CLAIMS["conversion"], residual, below=1e-12,
              words={"pairs": len(data["residuals"]), "worst": worst})
  yield from _ends(data["ends"], data["moments"]["spread"]["VE"],
                   data["clouds"]["VE"]["times"][-1])
  for name, order in (("variance", 1.0), ("kl", 2.0)):
    orders = {path: np.log2(v[-2] / v[-1]) for path, v in data["order"][name].items()}
    worst, value = estimates.farthest(orders, order)
    yield claim(CLAIMS[f"order_of_{name}"], value, near=order, tolerance=0.2,
                words={"worst": worst})


def _moments(found, times):
  scores = np.concatenate([np.ravel(s) for s in found["scores"].values()])
  yield claim(CLAIMS["moments"], estimates.farthest(scores, 0.0)[1], error=1.0, near=0.0,
              sigmas=5.0, words={"count": len(scores)})
  gain, error, half = (found[k] for k in ("gain", "gain_error", "half"))
  i = int(np.argmax(gain / half))
  yield claim(CLAIMS["law"], gain[i] / half[i], error=error[i] / half[i], below=1.0,
              words={"count": len(gain)})
  flow = found["path_correlation"]["RF"]
  yield claim(CLAIMS["stochastic"], flow["measured"], error=flow["error"], near=flow["expected"],
              sigmas=5.0, words={"first": times[1], "last": times[3]})


def _ends(ends, spread, last):
  vp, flow = (ends["paths"][name] for name in ("VP", "RF"))
  excess = vp["kl"] - np.exp(-vp["times"]) * ends["start"]
  yield claim(CLAIMS["vp_limit"], np.max(excess), below=1e-9)
  yield claim(CLAIMS["rf_limit"], flow["kl"][-1], below=1e-12)
  yield claim(CLAIMS["ve_limit"], spread["measured"], error=spread["error"],
              near=spread["expected"], sigmas=5.0, words={"sigma": last})
