"""What the part of Figures 6 and 7 claims of its measurements."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim, number
from experiments.paper.exact import estimates


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_rows(data["rows"]), *_gaussian(data["gaussian"]), *_rung(data["rung"])]


def _rows(found):
  etas, ell = list(found["etas"]), found["ell"]
  # In units of the null band's half width, which is 2 standard deviations of one distance.
  half = 2.0 * found["null_spread"]
  gain, error = found["gain"] / half, found["gain_error"] / half
  correlation, spread = found["correlation"], found["correlation_error"]
  i, j = np.unravel_index(np.argmax(gain), gain.shape)
  yield claim(
      "Forward and reverse samples of a row have one law (how far the sliced W₂ of the worst row, "
      f"η = {etas[i]:g} at ℓ = {number(ell[j])}, lies above the middle of the "
      "null band, in units of its half width).", gain[i, j], error=error[i, j], below=1.0,
      source="§4, eq. 11", by="paper")
  yield claim(
      "The data at the end of a cycle are distinct from those at its start, even for the ODE "
      "(their correlation at η = 0).", correlation[0, 0], error=spread[0, 0],
      below=1.0 - 3.0 * spread[0, 0], source="§4, Fig. 7", by="paper")
  i, j = etas.index(1.0), int(np.argmin(np.abs(ell)))
  yield claim(
      "A row is the identity of §2, which makes new, independent samples (correlation of the row "
      f"at ℓ = {number(ell[j])}, η = 1).", correlation[i, j], error=spread[i, j], near=0.0,
      sigmas=4.0, source="§2, §4, Fig. 7", by="paper")


def _gaussian(found):
  measured, error, expected = (found[k][:, :-1] for k in ("measured", "error", "recursion"))
  z = np.abs(measured - expected) / error
  i, j = np.unravel_index(np.argmax(z), z.shape)
  yield claim(
      f"On a Gaussian the correlation of a row is that of the linear recursion of STEP (of "
      f"{z.size} rows and η the worst, η = {found['etas'][i]:g} at ℓ = "
      f"{number(found['ell'][j])}).", measured[i, j], error=error[i, j],
      near=expected[i, j], sigmas=5.0, source="§4, Fig. 7; theory.md#step")
  orders = [np.log2(gap[-2] / gap[-1]) for gap in found["gap"][1:]]
  yield claim(
      "On a Gaussian the correlation of a row converges to r^{1+η²} with order 1 in the step "
      f"(the order farthest from it over η > 0, at {found['steps'][-1]} steps a row).",
      estimates.farthest(orders, 1.0)[1], near=1.0, tolerance=0.2, source="§4; theory.md#solvers")
  yield claim(
      "The ODE keeps all correlation: at η = 0 the correlation of a Gaussian's row is r, that of "
      "the forward process alone, exactly (largest difference).", np.max(found["gap"][0]),
      below=1e-12, source="§4; theory.md#exact-models")


def _rung(found):
  slow, fast = found["times"]
  difference, lengths = np.abs(fast / slow - 1.0), found["lengths"]
  order = np.log(difference[1] / difference[0]) / np.log(lengths[1] / lengths[0])
  yield claim(
      "A short row is one Langevin step: the relative difference of the Langevin times that "
      "explain two directions of a Gaussian vanishes with the row's length (order in the "
      "length).", order, near=1.0, tolerance=0.15, source="§4, Fig. 7")
  yield claim(
      "A row of any length is a run of Langevin dynamics at its level (relative difference of the "
      "Langevin times that explain two directions of a Gaussian, for a row "
      f"{number(lengths[-1])} long in ℓ).", difference[-1], near=0.0,
      tolerance=1e-9, source="§4, Fig. 7", by="paper")
