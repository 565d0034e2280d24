"""What is claimed of the appendix's equations."""

import numpy as np

from experiments.paper.claim import Data, Values, number, value

TOLERANCE = 1e-6  # of sums over nodes (theory.md#numerics)
LONG = {"VP": "VP", "VE": "VE-Karras", "RF": "rectified flow"}



def claims(data: Data) -> Values:
  still = data["stationary"]
  yield value("stationary", still["at_one"], levels=len(still["half_log_snr"]),
              clocks=len(still["clocks"]))
  residual = data["fokker_planck"]["residual"]
  closed = [values for name, values in residual.items() if name != "from an SDE"]
  yield value("fokker_planck", closed, paths=len(closed))
  yield from _decay(data["decay"])
  found = data["matching"]
  yield value("constant", found["residual"], models=len(found["models"]),
              levels=len(found["half_log_snr"]))
  deviation = found["drawn"]["deviation"]
  yield value("loss", deviation, n=found["drawn"]["n"], count=deviation.size)


def _decay(found):
  rates, sums = np.array(list(found["rate"].values())), found["sums"]
  yield value("rate", list(found["residual"].values()), levels=rates.shape[1])
  yield value("never_rises", rates.min())
  yield value("one_rate", np.ptp(rates, axis=0))
  yield value("sum_of_rates", [abs(one["missed"]) for one in sums.values()])
  for name in ("VP", "VE"):
    yield value("nothing_left", sums[name]["left"], path=LONG[name],
                end=number(sums[name]["t_max"]))


def context(data: Data) -> Data:
  """sums: eq. 14 with its end, by path."""
  nats = lambda value: "0 to rounding" if abs(value) < 1e-14 else number(value)
  return {"sums": [
      ["path", "T", "KL(p₀‖q₀), nats", "sum over all times", "left at T: KL(p_T‖q_T)",
       "does not close by", "KL(p_T‖prior), dropped too"],
      *([LONG[name], number(one["t_max"]), *map(nats, (
          one["start"], one["total"], one["left"], abs(one["missed"]), one["prior"]))]
        for name, one in data["decay"]["sums"].items())]}
