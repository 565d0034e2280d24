"""What is claimed of the network of digits."""

from typing import Any

from experiments.paper.claim import Claim, claim


def claims(data: dict[str, Any]) -> list[Claim]:
  return [claim("Training lowers the loss: the last value over the first.",
                data["loss"][-1] / data["loss"][0], below=1.0, source="§5")]
