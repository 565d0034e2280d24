"""What the part of Figures 3 and 4 claims of its measurements."""

import numpy as np

from experiments.paper.claim import Claims, Data, claim, statements
from experiments.paper.exact import estimates, laws

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  samples, single, many = (data[k] for k in ("samples", "single", "many"))
  yield claim(CLAIMS["composition"], np.max(list(data["numbers"].values())), below=1e-13)
  yield claim(CLAIMS["samples"], estimates.farthest(samples, 0.0)[1], error=1.0, near=0.0,
              sigmas=5.0, words={"count": len(samples)})
  yield claim(CLAIMS["forward"], np.max(single["forward"]), below=1e-9)
  budgets = single["budgets"]
  for name in ("reverse", "cycle", "langevin"):
    orders = [laws.order(budgets, row) for row in np.reshape(single[name], (-1, len(budgets)))]
    yield claim(CLAIMS[name], estimates.farthest(orders, 4.0)[1], near=4.0, tolerance=0.4,
                words={"count": len(orders)})
  orders = [laws.order(many["budgets"], values)
            for values in [*np.transpose(many["cycle"]), many["langevin"]]]
  yield claim(CLAIMS["many"], estimates.farthest(orders, 2.0)[1], near=2.0, tolerance=0.2,
              words={"total": many["total"]})
  yield claim(CLAIMS["finite"], np.max(single["cycle"][:, :, 0]), near=0.0, tolerance=1e-9,
              words={"budget": budgets[0]})
