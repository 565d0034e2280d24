"""What is claimed of the network of digits."""

from experiments.paper.claim import Data, Values, value


def claims(data: Data) -> Values:
  yield value("loss", data["loss"][-1] / data["loss"][0])
