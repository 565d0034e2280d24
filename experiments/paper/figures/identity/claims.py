"""What Figure 1's part claims of its measurements."""

import numpy as np

from experiments.paper.claim import Claims, Data, claim, number, statements
from experiments.paper.exact import estimates, laws

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  line = data["line"]
  for name, method in (("euler", "Euler's step"), ("exact", "the step STEP(0, Λ)")):
    yield claim(CLAIMS["order"], laws.order(line["budgets"], line["total"][name]), near=2.0,
                tolerance=0.2, words={"time": line["time"], "method": method})
  yield from _plane(data["plane"])
  yield from _gaussian(data["independence"])
  cloud = data["cloud"]
  yield claim(CLAIMS["independent"], cloud["correlation"], error=cloud["correlation_error"],
              near=0.0, sigmas=4.0, words={"steps": cloud["steps"], "budget": cloud["budget"]})


def _plane(plane):
  methods = plane["methods"]
  worst = max(methods.values(), key=lambda method: method["distance"][-1])
  yield claim(
      CLAIMS["smallest_step"], worst["distance"][-1], error=worst["distance_error"][-1],
      below=plane["null"] + 2.0 * plane["null_spread"],
      words={"budget": number(plane["budgets"][-1]), "methods": ", ".join(methods)})
  mala = methods["mala"]
  yield claim(CLAIMS["mala"], mala["gain"][0], error=mala["gain_error"][0], near=0.0, sigmas=5.0)


def _gaussian(found):
  measured, expected, error = (found[k] for k in ("gaussian", "expected", "gaussian_error"))
  i, _ = estimates.farthest((measured - expected) / error, 0.0)
  yield claim(CLAIMS["gaussian"], measured[i], error=error[i], near=expected[i], sigmas=5.0,
              words={"count": len(measured), "time": number(found["times"][i])})
  yield claim(CLAIMS["falls"], np.max(np.diff(found["line"])), below=1e-6)
