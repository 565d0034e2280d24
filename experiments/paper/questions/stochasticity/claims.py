"""What question 2 claims of its measurements."""

import math

import numpy as np

from experiments.paper.claim import Data, Values, value
from experiments.paper.exact.estimates import estimate


def claims(data: Data) -> Values:
  for name, kind, found in (("exact_laws", "laws", data["laws"]["deviation"]["exact score"]),
                            ("network_laws", "agreement", data["agreement"]["network"])):
    yield value(name, found, below=data["chance"][kind], count=np.size(found), size=data["size"])
  yield from _paths(data)
  fewest, names, values = _few(data)
  gap, error = estimate(values[names.index("η = 2")] - values[names.index("η = 0")])
  yield value("few_calls", gap / error, calls=fewest)


def context(data: Data) -> Data:
  """Numbers of the answer and rows of the tables."""
  fewest, names, values = _few(data)
  ratio = estimate(values[names.index("η = 2")] / values[names.index("η = 0")])
  return {"fewest": fewest, "ratio": ratio, "best": names[int(np.argmin(values.mean(-1)))],
          "sde": data["names"].index("η = 1"), "budgets": [
              (model, method, calls, *_best(names, values[m]))
              for model, by_calls in data["quality"].items()
              for m, method in enumerate(data["methods"]) for calls, values in by_calls.items()]}


def _few(data):
  """(calls, names, distances) of STEP with the exact score at the fewest calls."""
  fewest, values = next(iter(data["quality"]["exact score"].items()))
  return fewest, [data["names"][i] for i in data["judged"]], values[0]


def _best(names, values):
  """(best process, its estimate, those within two standard errors of it, η = 0, η = 1)."""
  means, errors = estimate(values, -1)
  best = int(np.argmin(means))
  gap, gap_error = estimate(values - values[best], -1)
  tied = [name for j, name in enumerate(names) if j != best and gap[j] <= 2.0 * gap_error[j]]
  of = lambda j: (means[j], errors[j])
  return (names[best], of(best), "; ".join(tied) or "none",
          *(of(names.index(name)) for name in ("η = 0", "η = 1")))


def _paths(data):
  ties, rough, h, joint = data["ties"], data["rough"], data["step"], data["joint"]
  ode, sde = (data["names"].index(name) for name in ("η = 0", "η = 1"))
  slope = np.log(rough["length"][:, 0] / rough["length"][:, 2]) / np.log(4.0)
  theory, error = rough["theory"][sde], rough["variation_error"][sde]
  for name, expected in (("share", joint**2), ("correlation", joint)):
    yield value(name, ties[name][sde], ties[f"{name}_error"][sde], near=expected)
  # The rate is 1 + η² = 2; the extrapolation from steps 2h has second order.
  yield value("variation", rough["variation"][sde], error, near=theory,
              tolerance=theory * (4.0 * h) ** 2 + 4.0 * error)
  yield value("ode_length", slope[ode], tolerance=h)
  yield value("sde_length", slope[sde], tolerance=math.sqrt(h))
