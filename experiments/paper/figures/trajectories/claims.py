"""What Figure 5's part claims of its measurements."""

import numpy as np

from experiments.paper.claim import Data, Values, number, pm, value
from experiments.paper.exact import curves


def claims(data: Data) -> Values:
  yield from _one_point(data["claims"])
  yield from _mixture(data)
  (slope, error), deviations = data["slope"], data["claims"]["mean_of_noisy"]
  # The ratio of a step's drift to its noise is √h, at the coarsest of those resolutions.
  yield value("no_length", slope, error, tolerance=np.sqrt(data["span"] / data["rulers"][-4]))
  yield value("mean_path", deviations, count=deviations.size)


def context(data: Data) -> Data:
  """Rows of the table by density and scale, and the form of its numbers."""
  scales = zip(data["scale"], data["by_scale"], strict=True)
  return {"small": _small, "cases": data["by_density"] | {
      f"{data['name']} × {scale:g}": row for scale, row in scales if scale != 1.0}}


def _small(estimate):
  """An estimate, or that it is zero up to rounding."""
  if abs(estimate[0]) < 1e-9:
    return "0 to rounding" if estimate[0] else "0"
  return pm(estimate)


def _one_point(found):
  yield value("straight", found["straight"], below=found["rounding"])
  yield value("bends", *found["bent"], above=3.0 * found["bent"][1])
  yield value("arc", found["arc"], below=found["rounding"])


def _mixture(data):
  found, measures = data["claims"], data["measures"]["mixture"]
  summary = data["by_density"][data["name"]]
  straightest = min(("VP", "VE", "RF"), key=lambda name: summary[name][0])
  least, error = summary[straightest]
  yield value("curved", least, error, above=3.0 * error, path=curves.LONG[straightest])
  for name in ("VE", "RF"):
    gap, error = summary[f"{name} − VP"]
    yield value("smaller", gap, error, below=-3.0 * error, path=curves.LONG[name])
  gap, error = found["uneven"]
  yield value("own_clock", gap, error, below=-3.0 * error, **{
      word: number(measures[curves.LONG[name]]["unevenness"][0])
      for word, name in (("flow", "RF"), ("cosine", "cosine"))})
  (first, error), *others = [row["VE"] for row in data["by_scale"]]
  yield value("no_scale", max(abs(other - first) for other, _ in others) / error)
