"""What is claimed of the network of digits."""

from experiments.paper.claim import Claims, Data, claim, statements

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  yield claim(CLAIMS["loss"], data["loss"][-1] / data["loss"][0], below=1.0)
