"""What is claimed of the appendix's equations."""

import numpy as np

from experiments.paper.claim import Claims, Data, claim, number, statements

TOLERANCE, _ROUNDING = 1e-6, 1e-10
LONG = {"VP": "VP", "VE": "VE-Karras", "RF": "rectified flow"}


CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  still = data["stationary"]
  yield claim(CLAIMS["stationary"], still["at_one"].max(), below=_ROUNDING,
              words={"levels": len(still["half_log_snr"]), "clocks": len(still["clocks"])})
  yield claim(CLAIMS["other_powers"], still["others"], above=TOLERANCE)
  residual = data["fokker_planck"]["residual"]
  closed = [values.max() for name, values in residual.items() if name != "from an SDE"]
  yield claim(CLAIMS["fokker_planck"], max(closed), below=_ROUNDING, words={"paths": len(closed)})
  yield claim(CLAIMS["own_path"], residual["from an SDE"].max(), below=TOLERANCE)
  yield from _decay(data["decay"])
  yield from _matching(data["matching"])


def _decay(found):
  rates, sums = np.array(list(found["rate"].values())), found["sums"]
  yield claim(CLAIMS["rate"], max(v.max() for v in found["residual"].values()), below=TOLERANCE,
              words={"levels": rates.shape[1]})
  yield claim(CLAIMS["never_rises"], rates.min(), above=0.0)
  yield claim(CLAIMS["one_rate"], np.ptp(rates, axis=0).max(), below=TOLERANCE)
  yield claim(CLAIMS["sum_of_rates"], max(abs(one["missed"]) for one in sums.values()),
              below=TOLERANCE)
  for name in ("VP", "VE"):
    yield claim(CLAIMS["nothing_left"], sums[name]["left"], near=0.0, tolerance=TOLERANCE,
                words={"path": LONG[name], "end": number(sums[name]["t_max"])})


def _matching(found):
  drawn = found["drawn"]
  yield claim(CLAIMS["constant"], found["residual"].max(), below=TOLERANCE, words={
      "models": len(found["models"]), "levels": len(found["half_log_snr"])})
  yield claim(CLAIMS["constant_of_score"], found["scaled"], below=TOLERANCE)
  yield claim(CLAIMS["one_gradient"], found["gradient"], below=TOLERANCE)
  yield claim(CLAIMS["minimiser"], found["gradient_at_p"], below=TOLERANCE)
  yield claim(CLAIMS["loss"], drawn["deviation"].max(), below=4.5,
              words={"n": drawn["n"], "count": drawn["deviation"].size})


def context(data: Data) -> Data:
  """sums: eq. 14 with its end, by path."""
  nats = lambda value: "0 to rounding" if abs(value) < 1e-14 else number(value)
  return {"sums": [
      ["path", "T", "KL(p₀‖q₀), nats", "sum over all times", "left at T: KL(p_T‖q_T)",
       "does not close by", "KL(p_T‖prior), dropped too"],
      *([LONG[name], number(one["t_max"]), *map(nats, (
          one["start"], one["total"], one["left"], abs(one["missed"]), one["prior"]))]
        for name, one in data["decay"]["sums"].items())]}
