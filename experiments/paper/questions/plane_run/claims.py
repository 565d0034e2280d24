"""What is claimed of the network in the plane."""

from typing import Any

from experiments.paper.claim import Claim, claim


def claims(data: dict[str, Any]) -> list[Claim]:
  return [claim(
      "The model's density, from its probability-flow ODE, sums to one over the plane.",
      data["mass"], near=1.0, tolerance=0.01, source="theory.md#likelihood")]
