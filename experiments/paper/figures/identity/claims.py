"""What Figure 1's part claims of its measurements."""

import numpy as np

from experiments.paper.claim import Data, Values, number, value
from experiments.paper.exact import estimates, laws


def claims(data: Data) -> Values:
  line = data["line"]
  for name, method in (("euler", "Euler's step"), ("exact", "the step STEP(0, Λ)")):
    yield value("order", laws.order(line["budgets"], line["total"][name]), time=line["time"],
                method=method)
  yield from _plane(data["plane"])
  yield from _gaussian(data["independence"])
  cloud = data["cloud"]
  yield value("independent", cloud["correlation"], cloud["correlation_error"],
              steps=cloud["steps"], budget=cloud["budget"])


def _plane(plane):
  methods = plane["methods"]
  worst = max(methods.values(), key=lambda method: method["distance"][-1])
  yield value("smallest_step", worst["distance"][-1], worst["distance_error"][-1],
              below=plane["null"] + 2.0 * plane["null_spread"],
              budget=number(plane["budgets"][-1]), methods=", ".join(methods))
  yield value("mala", methods["mala"]["gain"][0], methods["mala"]["gain_error"][0])


def _gaussian(found):
  measured, expected, error = (found[k] for k in ("gaussian", "expected", "gaussian_error"))
  i, _ = estimates.farthest((measured - expected) / error, 0.0)
  yield value("gaussian", measured[i], error[i], near=expected[i], count=len(measured),
              time=number(found["times"][i]))
  yield value("falls", np.diff(found["line"]))
