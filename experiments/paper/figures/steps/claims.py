"""What the part of Figures 3 and 4 claims of its measurements."""

import numpy as np

from experiments.paper.claim import Data, Values, value
from experiments.paper.exact import estimates, laws


def claims(data: Data) -> Values:
  samples, single, many = (data[k] for k in ("samples", "single", "many"))
  yield value("composition", list(data["numbers"].values()))
  yield value("samples", estimates.farthest(samples, 0.0)[1], 1.0, count=len(samples))
  budgets = single["budgets"]
  for name in ("reverse", "cycle", "langevin"):
    orders = [laws.order(budgets, row) for row in np.reshape(single[name], (-1, len(budgets)))]
    yield value(name, estimates.farthest(orders, 4.0)[1], count=len(orders))
  orders = [laws.order(many["budgets"], values)
            for values in [*np.transpose(many["cycle"]), many["langevin"]]]
  yield value("many", estimates.farthest(orders, 2.0)[1], total=many["total"])
  yield value("finite", single["cycle"][:, :, 0], budget=budgets[0])
