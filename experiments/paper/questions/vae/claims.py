"""What question 3 claims of its measurements."""

import math
from typing import Any

import numpy as np

from experiments.paper.claim import Data, Value, Values, value


def claims(data: Data) -> Values:
  plane, digits = data["plane"], data["digits"]
  yield from _theory(plane)
  total, gap = plane["continuous"]["total"], plane["vae_exact_gap"]
  yield more("exact_gap", gap, plane["exact"][-1], steps=plane["ladder"][-1])
  yield more("joint", plane["vae_joint_kl"], total)
  yield more("gap", gap, total)
  yield more("likelier", plane["vae_kl"], plane["flow_kl"])
  yield more("c2st", *(plane["distances"][name]["C2ST accuracy"]
                       for name in ("VAE", "diffusion, chain")), steps=plane["sizes"]["chain"])
  yield more("digits_likelier", digits["vae_iw_nats"], digits["continuous_nats"])
  yield more("fid", _best_fid(digits), digits["distances"]["diffusion"]["FID"])


def context(data: Data) -> Data:
  """Numbers of the answer and the tables."""
  plane, digits = data["plane"], data["digits"]
  chain = plane["network"][list(plane["network_ladder"]).index(plane["sizes"]["chain"])]
  crossed = crossing(plane["network_ladder"], plane["network"], plane["vae_exact_gap"][0])
  return {"slope": slope(plane["ladder"], plane["exact"]), "best_fid": _best_fid(digits),
          "chain": chain, "crossed": crossed, "size": plane["sizes"]}


def slope(steps: Any, estimates: Any, last: int = 4) -> tuple[float, float]:
  """(slope, standard error) of log value against log n over the `last` steps, by least squares.

  estimates: (value > 0, error) at each of two or more steps.
  """
  values, errors = np.array(estimates, float)[-last:].T
  u = np.log(np.array(steps, float)[-last:])
  weight = (u - u.mean()) / np.sum((u - u.mean()) ** 2)
  return float(weight @ np.log(values)), float(np.sqrt(np.sum((weight * errors / values) ** 2)))


def crossing(steps: Any, entries: list[dict[str, Any]], level: float) -> float | None:
  """The n at which the log-linear interpolation of the totals falls below `level`, or None."""
  totals = [entry["total"][0] for entry in entries]
  for i in range(1, len(steps)):
    if totals[i - 1] >= level > totals[i] > 0.0:
      share = math.log(totals[i - 1] / level) / math.log(totals[i - 1] / totals[i])
      return steps[i - 1] * (steps[i] / steps[i - 1]) ** share
  return None


def more(name: str, vae: Any, diffusion: Any, **words: Any) -> Value:
  """The paper's claim that a value is larger for the VAE, by more than two standard errors."""
  difference, error = _minus(vae, diffusion)
  return value(name, difference, error, above=2.0 * error, **words)


def _minus(a, b):
  """The difference of two independent estimates."""
  return a[0] - b[0], math.hypot(a[1], b[1])


def _best_fid(digits):
  return min((row["FID"] for name, row in digits["distances"].items() if "VAE" in name),
             key=lambda estimate: estimate[0])


def _theory(plane):
  size, ladder = plane["sizes"], list(plane["ladder"])
  path = dict(zip(plane["network_ladder"], plane["network"], strict=True))[size["chain"]]["total"]
  yield value("chain_is_ledger", *_minus(plane["chain_path_kl"], path), steps=size["chain"])
  over, error = plane["vae_over"]
  yield value("bound_below", over, error, below=4.0 * error + plane["vae_integral"],
              draws=size["counts"][-1])
  # Two estimators without common draws; L_K − L₁ ≥ 0 alone would imply nothing.
  excess, error = max((_minus(gap, plane["exact"][ladder.index(n)]) for n, gap in zip(
      plane["weighed"], plane["exact_gap"], strict=True)), key=lambda one: one[0] / one[1])
  yield value("gap_below", excess, error, below=4.0 * error)
  order, error = slope(ladder, plane["exact"])
  # Of an order, and of Monte Carlo.
  yield value("order", order, error, tolerance=0.15 + 4.0 * error)
