"""What the part of Figures 3 and 4 claims of its measurements."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim
from experiments.paper.exact import estimates, laws


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_composition(data), *_orders(data["single"], data["many"])]


def _composition(data):
  yield claim(
      "With D fixed a forward and a reverse step are one Langevin step, exactly and at any "
      "size (largest residual of a, b, c over 9 levels, 4 sizes and 4 η).",
      np.max(list(data["numbers"].values())), below=1e-13, source="§3.2, Fig. 4; theory.md#step")
  yield claim(
      "Samples of the two steps with one D have the law of the one step: their noise has mean 0, "
      "variance 1 in units of its c, and no correlation with x or D (the largest of "
      f"{len(data['samples'])} standardised deviations).",
      estimates.farthest(data["samples"], 0.0)[1], error=1.0, near=0.0, sigmas=5.0,
      source="§3.2, Fig. 4; theory.md#step")


def _orders(single, many):
  yield claim(
      "A forward step raises the noise to exactly p_{ℓ−d} (largest KL over levels and sizes, "
      "nats).", np.max(single["forward"]), below=1e-9, source="§3.1, Fig. 3")
  budgets = single["budgets"]
  for name, text in (
      ("reverse", "A reverse step from p_{ℓ−d} restores p_ℓ up to a KL"),
      ("cycle", "A forward and then a reverse step restore p_ℓ up to a KL"),
      ("langevin", "A Langevin step leaves p_ℓ unchanged up to a KL")):
    orders = [laws.order(budgets, row) for row in np.reshape(single[name], (-1, len(budgets)))]
    yield claim(
        f"{text} of order 4 in its size (of {len(orders)} cases of level and η the order "
        "farthest from 4).", estimates.farthest(orders, 4.0)[1], near=4.0, tolerance=0.4,
        source="§3.2, eq. 5; theory.md#langevin-dynamics")
  orders = [laws.order(many["budgets"], values)
            for values in [*np.transpose(many["cycle"]), many["langevin"]]]
  yield claim(
      f"Many steps with a total budget of {many['total']:g} leave p_ℓ with a KL of order 2 in the "
      "step size, both as forward and reverse steps and as Langevin steps (the order farthest from "
      "2).", estimates.farthest(orders, 2.0)[1], near=2.0, tolerance=0.2,
      source="§3.2, Fig. 4; theory.md#langevin-dynamics")
  yield claim(
      "A forward and a reverse step are the identity at finite size too, with D evaluated anew (KL "
      f"from p_ℓ at the worst level and η, Λ = {budgets[0]:g}, nats).",
      np.max(single["cycle"][:, :, 0]), near=0.0, tolerance=1e-9,
      source="§3.2, §4, Fig. 4", by="paper")
