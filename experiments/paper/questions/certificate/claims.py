"""What is claimed of the certificate where the truth is known, and its table by interval."""

import itertools
import math
from typing import Any

from experiments.paper.claim import Data, Values, number, pm, value


def claims(data: Data) -> Values:
  """Only of the network whose true score is known.

  A certificate does not test the paper, which expects a trained network to miss equality.
  """
  if "validation" not in data:
    return
  found = data["validation"]
  yield value("bound_below_truth", found["surplus"])
  yield value("local", found["local"], damage=data["factor"] - 1.0)
  yield value("elsewhere", found["elsewhere"])
  yield value("bound", found["bound"])
  yield value("beyond", *found["beyond"], above=-4.0 * found["beyond"][1])


def context(data: Data) -> Data:
  """rows: the table of measures. where: the intervals that break duality. Others: estimates."""
  sound, ells = data["sound"], data["half_log_snr"]
  memory = sound["memory_total" if sound["memory_broken"] is None else "memory_broken"]
  return {
      "rows": _rows(sound, ells), "memory": memory,
      "where": [f"for ρ from {number(math.exp(-ells[i]), 2)} to "
                f"{number(math.exp(-ells[j + 1]), 2)} (ℓ from {_signed(ells[i])} to "
                f"{_signed(ells[j + 1])})" for i, j in stretches(sound["broken"])],
      "excess": (sound["marginal"][-1] - sound["null"][-1], sound["marginal_excess_error"][-1])}


def stretches(intervals: list[int]) -> list[tuple[int, int]]:
  """(first, last) of each run of successive integers."""
  starts = [i for i in intervals if i - 1 not in intervals]
  ends = [i for i in intervals if i + 1 not in intervals]
  return list(zip(starts, ends, strict=True))


def _rows(sound: dict[str, Any], ells: Any) -> list[list[str]]:
  marked = lambda text, signal: f"**{text}**" if signal > 1.0 else text
  nats = [name for name in ("bound", "truth", "memory") if name in sound]
  heads = {"bound": "score error ≥", "truth": "true score error", "memory": "memory"}
  rows = [["ℓ", "ρ", "data to data", "marginal: excess", "local: excess",
           *(heads[name] for name in nats)]]
  for i, (low, high) in enumerate(itertools.pairwise(ells)):
    distances = [marked(pm((sound[name][i] - sound["null"][i],
                            sound[f"{name}_excess_error"][i]), 2), sound[f"{name}_signal"][i])
                 for name in ("marginal", "local")]
    errors = {name: pm((sound[name][i], sound[f"{name}_error"][i]), 2) for name in nats}
    errors["bound"] = marked(errors["bound"], sound["bound_signal"][i])
    rows.append([
        f"{_signed(low)} … {_signed(high)}",
        " … ".join(number(math.exp(-ell), 2) for ell in (low, high)), number(sound["null"][i], 2),
        *distances, *errors.values()])
  return [*rows, ["all", "", "", "", "", *(pm(sound[f"{name}_total"], 2) for name in nats)]]


def _signed(value: float) -> str:
  return f"{value:.2f}".replace("-", "−")
