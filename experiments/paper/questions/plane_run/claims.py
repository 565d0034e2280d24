"""What is claimed of the network in the plane."""

from experiments.paper.claim import Claims, Data, claim, statements

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  yield claim(CLAIMS["mass"], data["mass"], near=1.0, tolerance=0.01)
