"""What Figure 5's part claims of its measurements."""

import numpy as np

from experiments.paper.claim import Claims, Data, claim, number, pm, statements
from experiments.paper.exact import curves

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  yield from _one_point(data["claims"])
  yield from _mixture(data)
  (slope, error), deviations = data["slope"], data["claims"]["mean_of_noisy"]
  # The ratio of a step's drift to its noise is √h, at the coarsest of those resolutions.
  yield claim(CLAIMS["no_length"], slope, error=error, near=0.5,
              tolerance=float(np.sqrt(data["span"] / data["rulers"][-4])))
  yield claim(CLAIMS["mean_path"], np.max(deviations), below=4.5, words={"count": deviations.size})


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
  yield claim(CLAIMS["straight"], found["straight"], below=found["rounding"])
  bent, error = found["bent"]
  yield claim(CLAIMS["bends"], bent, error=error, above=3.0 * error)
  yield claim(CLAIMS["arc"], found["arc"], below=found["rounding"])


def _mixture(data):
  found, measures = data["claims"], data["measures"]["mixture"]
  yield claim(CLAIMS["one_curve"], found["one_curve"], below=1e-12)
  summary = data["by_density"][data["name"]]
  straightest = min(("VP", "VE", "RF"), key=lambda name: summary[name][0])
  least, error = summary[straightest]
  yield claim(CLAIMS["curved"], least, error=error, above=3.0 * error,
              words={"path": curves.LONG[straightest]})
  for name in ("VE", "RF"):
    gap, error = summary[f"{name} − VP"]
    yield claim(CLAIMS["smaller"], gap, error=error, below=-3.0 * error,
                words={"path": curves.LONG[name]})
  gap, error = found["uneven"]
  yield claim(CLAIMS["own_clock"], gap, error=error, below=-3.0 * error, words={
      word: number(measures[curves.LONG[name]]["unevenness"][0])
      for word, name in (("flow", "RF"), ("cosine", "cosine"))})
  yield claim(CLAIMS["converged"], found["converged"], below=1.0)
  (value, error), *others = [row["VE"] for row in data["by_scale"]]
  yield claim(CLAIMS["no_scale"], max(abs(v - value) for v, _ in others) / error, below=1.0)
