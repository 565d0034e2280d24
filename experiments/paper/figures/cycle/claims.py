"""What the part of Figures 6 and 7 claims of its measurements."""

import numpy as np

from experiments.paper.claim import Claims, Data, claim, number, statements
from experiments.paper.exact import estimates

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  yield from _rows(data["rows"])
  yield from _gaussian(data["gaussian"])
  yield from _rung(data["rung"])


def _rows(found):
  etas, ell = list(found["etas"]), found["ell"]
  # In units of the null band's half width, which is 2 standard deviations of one distance.
  half = 2.0 * found["null_spread"]
  gain, error = found["gain"] / half, found["gain_error"] / half
  correlation, spread = found["correlation"], found["correlation_error"]
  i, j = np.unravel_index(np.argmax(gain), gain.shape)
  yield claim(CLAIMS["one_law"], gain[i, j], error=error[i, j], below=1.0,
              words={"eta": etas[i], "ell": number(ell[j])})
  yield claim(CLAIMS["distinct"], correlation[0, 0], error=spread[0, 0],
              below=1.0 - 3.0 * spread[0, 0])
  i, j = etas.index(1.0), int(np.argmin(np.abs(ell)))
  yield claim(CLAIMS["independent"], correlation[i, j], error=spread[i, j], near=0.0, sigmas=4.0,
              words={"ell": number(ell[j])})


def _gaussian(found):
  measured, error, expected = (found[k][:, :-1] for k in ("measured", "error", "recursion"))
  z = np.abs(measured - expected) / error
  i, j = np.unravel_index(np.argmax(z), z.shape)
  yield claim(
      CLAIMS["recursion"], measured[i, j], error=error[i, j], near=expected[i, j], sigmas=5.0,
      words={"count": z.size, "eta": found["etas"][i], "ell": number(found["ell"][j])})
  orders = [np.log2(gap[-2] / gap[-1]) for gap in found["gap"][1:]]
  yield claim(CLAIMS["closed_form"], estimates.farthest(orders, 1.0)[1], near=1.0, tolerance=0.2,
              words={"steps": found["steps"][-1]})
  yield claim(CLAIMS["ode"], np.max(found["gap"][0]), below=1e-12)


def _rung(found):
  slow, fast = found["times"]
  difference, lengths = np.abs(fast / slow - 1.0), found["lengths"]
  order = np.log(difference[1] / difference[0]) / np.log(lengths[1] / lengths[0])
  yield claim(CLAIMS["short_row"], order, near=1.0, tolerance=0.15)
  yield claim(CLAIMS["long_row"], difference[-1], near=0.0, tolerance=1e-9,
              words={"length": number(lengths[-1])})
