"""What the part of Figures 6 and 7 claims of its measurements."""

import numpy as np

from experiments.paper.claim import Data, Values, number, value
from experiments.paper.exact import estimates


def claims(data: Data) -> Values:
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
  yield value("one_law", gain[i, j], error[i, j], eta=etas[i], ell=number(ell[j]))
  yield value("distinct", correlation[0, 0], spread[0, 0], below=1.0 - 3.0 * spread[0, 0])
  i, j = etas.index(1.0), int(np.argmin(np.abs(ell)))
  yield value("independent", correlation[i, j], spread[i, j], ell=number(ell[j]))


def _gaussian(found):
  measured, error, expected = (found[k][:, :-1] for k in ("measured", "error", "recursion"))
  z = np.abs(measured - expected) / error
  i, j = np.unravel_index(np.argmax(z), z.shape)
  yield value("recursion", measured[i, j], error[i, j], near=expected[i, j], count=z.size,
              eta=found["etas"][i], ell=number(found["ell"][j]))
  orders = [np.log2(gap[-2] / gap[-1]) for gap in found["gap"][1:]]
  yield value("closed_form", estimates.farthest(orders, 1.0)[1], steps=found["steps"][-1])
  yield value("ode", found["gap"][0])


def _rung(found):
  slow, fast = found["times"]
  difference, lengths = np.abs(fast / slow - 1.0), found["lengths"]
  yield value("short_row", np.log(difference[1] / difference[0]) / np.log(lengths[1] / lengths[0]))
  yield value("long_row", difference[-1], length=number(lengths[-1]))
