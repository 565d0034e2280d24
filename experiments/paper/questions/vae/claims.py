"""What question 3 claims of its measurements."""

import math
from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim

_PAIR, _DENOISING = "§4, why superior to VAEs", "§1, iterative denoising"
_EXACT = "an exact prior–posterior pair"


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_theory(data["plane"]), *_plane(data["plane"]), *_digits(data["digits"])]


def context(data: dict[str, Any]) -> dict[str, Any]:
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


def more(text: str, vae: Any, diffusion: Any, source: str) -> Claim:
  """The paper's claim that a number is larger for the VAE: by more than two standard errors."""
  value, error = _minus(vae, diffusion)
  return claim(text, value, error=error, above=2.0 * error, source=source, by="paper",
               trained=True)


def _minus(a, b):
  """The difference of two independent estimates."""
  return a[0] - b[0], math.hypot(a[1], b[1])


def _best_fid(digits):
  return min((row["FID"] for name, row in digits["distances"].items() if "VAE" in name),
             key=lambda estimate: estimate[0])


def _theory(plane):
  size, ladder = plane["sizes"], list(plane["ladder"])
  over, error = plane["vae_over"]
  path = dict(zip(plane["network_ladder"], plane["network"], strict=True))[size["chain"]]["total"]
  value, spread = _minus(plane["chain_path_kl"], path)
  yield claim(
      "The ELBO of the network’s chain and the ledger, two ways to the path KL of "
      f"{size['chain']} steps, agree (difference, nats).", value, error=spread,
      near=0.0, sigmas=4.0, source="theory.md#likelihood")
  yield claim(
      f"The VAE’s bound of {size['counts'][-1]:,} draws is no more than its "
      "log-likelihood, integrated over the latent plane (excess, nats).", over, error=error,
      below=4.0 * error + plane["vae_integral"], source="Burda et al. 2016")
  # Two estimators without common draws; L_K − L₁ ≥ 0 alone would imply nothing.
  value, error = max((_minus(gap, plane["exact"][ladder.index(n)]) for n, gap in zip(
      plane["weighed"], plane["exact_gap"], strict=True)), key=lambda one: one[0] / one[1])
  yield claim(
      "With the exact score, the gap by importance weights is no more than the "
      "path KL of as many steps (largest excess, nats).", value, error=error,
      below=4.0 * error, source="theory.md#likelihood")
  value, error = slope(ladder, plane["exact"])
  yield claim(
      f"With the exact score, the diffusion pair approaches {_EXACT} as 1/n in the steps "
      "(slope of the path KL over the finest steps).", value, error=error, near=-1.0,
      # Of an order, and of Monte Carlo.
      tolerance=0.15 + 4.0 * error, source="theory.md#likelihood")


def _plane(plane):
  total, gap = plane["continuous"]["total"], plane["vae_exact_gap"]
  yield more(
      f"With the exact score and {plane['ladder'][-1]:,} steps, the diffusion model’s whole "
      "path KL is less than the VAE’s gap (VAE’s gap − path KL, nats).", gap, plane["exact"][-1],
      _PAIR)
  yield more(
      f"The trained diffusion model, in continuous time, is nearer to {_EXACT} than the "
      "trained VAE (VAE’s gap + KL − path KL, nats).", plane["vae_joint_kl"], total, _PAIR)
  yield more("Its gap alone, at most its path KL, is smaller too (VAE’s gap − path KL, nats).",
             gap, total, _PAIR)
  yield more(
      "Held-out points of the plane are likelier under the diffusion model’s ODE "
      "(VAE’s KL(data‖model) − the ODE’s, nats).", plane["vae_kl"], plane["flow_kl"], _DENOISING)
  yield more(
      "A classifier distinguishes samples of the VAE from real points more surely than those of "
      f"the chain of {plane['sizes']['chain']} steps (difference of accuracy).",
      *(plane["distances"][name]["C2ST accuracy"] for name in ("VAE", "diffusion, chain")),
      _DENOISING)


def _digits(digits):
  yield more(
      "The upper bound of −log q of held-out digits is lower for the diffusion model in "
      "continuous time than for the VAE’s most draws (VAE’s − diffusion’s, nats an image).",
      digits["vae_iw_nats"], digits["continuous_nats"], _DENOISING)
  yield more(
      "Samples of digits are nearer to real ones than the better of the VAE’s means and "
      "draws (difference of FID).", _best_fid(digits), digits["distances"]["diffusion"]["FID"],
      _DENOISING)
