"""What question 3 claims of its measurements."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.paper.claim import Claim, Claims, Data, Statement, claim, statements

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  plane, digits = data["plane"], data["digits"]
  yield from _theory(plane)
  total, gap = plane["continuous"]["total"], plane["vae_exact_gap"]
  yield more(CLAIMS["exact_gap"], gap, plane["exact"][-1], {"steps": plane["ladder"][-1]})
  yield more(CLAIMS["joint"], plane["vae_joint_kl"], total)
  yield more(CLAIMS["gap"], gap, total)
  yield more(CLAIMS["likelier"], plane["vae_kl"], plane["flow_kl"])
  yield more(CLAIMS["c2st"], *(plane["distances"][name]["C2ST accuracy"]
                             for name in ("VAE", "diffusion, chain")),
             {"steps": plane["sizes"]["chain"]})
  yield more(CLAIMS["digits_likelier"], digits["vae_iw_nats"], digits["continuous_nats"])
  yield more(CLAIMS["fid"], _best_fid(digits), digits["distances"]["diffusion"]["FID"])


def context(data: Data) -> Data:
  """Numbers of the answer and the tables."""
  plane, digits = data["plane"], data["digits"]
  chain = plane["network"][list(plane["network_ladder"]).index(plane["sizes"]["chain"])]
  crossed = crossing(plane["network_ladder"], plane["network"], plane["vae_exact_gap"][0])
  return {"slope": slope(plane["ladder"], plane["exact"]), "best_fid": _best_fid(digits),
          "chain": chain, "crossed": crossed, "size": plane["sizes"]}


def slope(steps: Any, estimates: Any, last: int = 4) -> tuple[float, float]:
  """(slope, standard error) of log value against log n over the `last` steps, by least squares.

  Args:
    estimates: (value, error) at each of the steps; values positive.

  Raises:
    ValueError: fewer than two steps.
  """
  if len(steps) < 2:
    raise ValueError(f"steps must be two or more, got {steps}")
  value, error = np.array(estimates, float)[-last:].T
  u = np.log(np.array(steps, float)[-last:])
  weight = (u - u.mean()) / np.sum((u - u.mean()) ** 2)
  return float(weight @ np.log(value)), float(np.sqrt(np.sum((weight * error / value) ** 2)))


def crossing(steps: Any, entries: list[dict[str, Any]], level: float) -> float | None:
  """The n at which the totals, log-linear between steps, first fall below `level`; None if none."""
  totals = [entry["total"][0] for entry in entries]
  for i in range(1, len(steps)):
    if totals[i - 1] >= level > totals[i] > 0.0:
      share = math.log(totals[i - 1] / level) / math.log(totals[i - 1] / totals[i])
      return steps[i - 1] * (steps[i] / steps[i - 1]) ** share
  return None


def more(
    statement: Statement, vae: Any, diffusion: Any, words: Mapping[str, Any] | None = None
) -> Claim:
  """The paper's claim that a number is larger for the VAE: by more than two standard errors."""
  value, error = _minus(vae, diffusion)
  return claim(statement, value, error=error, above=2.0 * error, words=words)


def _minus(a, b):
  """The difference of two independent estimates."""
  return a[0] - b[0], math.hypot(a[1], b[1])


def _best_fid(digits):
  return min((row["FID"] for name, row in digits["distances"].items() if "VAE" in name),
             key=lambda estimate: estimate[0])


def _theory(plane):
  size, ladder = plane["sizes"], list(plane["ladder"])
  path = dict(zip(plane["network_ladder"], plane["network"], strict=True))[size["chain"]]["total"]
  value, spread = _minus(plane["chain_path_kl"], path)
  yield claim(CLAIMS["chain_is_ledger"], value, error=spread, near=0.0, sigmas=4.0,
              words={"steps": size["chain"]})
  over, error = plane["vae_over"]
  yield claim(CLAIMS["bound_below"], over, error=error, below=4.0 * error + plane["vae_integral"],
              words={"draws": size["counts"][-1]})
  # Two estimators without common draws; L_K − L₁ ≥ 0 alone would imply nothing.
  value, error = max((_minus(gap, plane["exact"][ladder.index(n)]) for n, gap in zip(
      plane["weighed"], plane["exact_gap"], strict=True)), key=lambda one: one[0] / one[1])
  yield claim(CLAIMS["gap_below"], value, error=error, below=4.0 * error)
  value, error = slope(ladder, plane["exact"])
  # Of an order, and of Monte Carlo.
  yield claim(CLAIMS["order"], value, error=error, near=-1.0, tolerance=0.15 + 4.0 * error)
