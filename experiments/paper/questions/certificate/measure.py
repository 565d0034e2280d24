"""The certificate of a user's run, or of the network in the plane, whose true score is known.

The network in the plane is measured twice: unchanged (`sound`) and damaged in two intervals
(`hurt`).
"""

import math
from typing import Any

import numpy as np

from experiments.metrics.certificate import measures, network
from experiments.paper import trained
from experiments.paper.setting import Setting
from experiments.run import subprocesses
from experiments.sampling import samplers_from_config

DAMAGED, FACTOR = (5, 6), 1.2  # the damaged intervals, and the factor of D there


def measure(setting: Setting) -> dict[str, Any]:
  own = not setting.workdir
  found = trained.model(trained.plane(setting) if own else subprocesses.ROOT / setting.workdir)
  truth = trained.truth(setting.density.plane, found.run) if own else None
  model = network.of(found.run, found.params, truth)
  ends = samplers_from_config.ends(found.run.config.sampling)
  ells, sizes = measures.ends(*ends), measures.sizes(fast=setting.fast)
  sound = measures.certify(model, ells, sizes, seed=setting.seed)
  data = {"step": found.step, "half_log_snr": ells, "sizes": sizes,
          "held_out": len(model.data.test), "sound": measures.summary(sound)}
  if own:
    low, high = ells[DAMAGED[0]], ells[DAMAGED[-1] + 1]
    # The ends are shifted, so that rounding does not decide on which side a level lies.
    hurt = measures.certify(model, ells, sizes, seed=setting.seed + 1,
                            change=(low - 1e-3, high - 1e-3, FACTOR))
    data |= {"damaged": DAMAGED, "factor": FACTOR, "hurt": measures.summary(hurt),
             "validation": validation(sound, hurt)}
  return data


def validation(sound: dict[str, Any], hurt: dict[str, Any]) -> dict[str, float]:
  """Comparison of the measures with the true score error.

  surplus: the largest bound − truth, in standard errors. local, bound: the smallest signal inside
  the damaged band. elsewhere: the largest local signal outside. beyond: the bound in the band minus
  the nats added by the damage, and its error.
  """
  inside = np.isin(np.arange(measures.INTERVALS), DAMAGED)
  surplus = [measures.deviation(found["bound"] - found["truth"]).max() for found in (sound, hurt)]
  # With different seeds the two measurements are independent outside the band.
  local = measures.signal((hurt["local"] - hurt["null"]) - (sound["local"] - sound["null"]),
                          shared=sound["shared"])
  # A constant factor of D undoes the damage; the error of the sound network remains.
  (seen, one), (before, other) = (
      measures.total(v[:, inside]) for v in (hurt["bound"] - hurt["truth"], sound["truth"]))
  return {"surplus": max(surplus), "local": local[inside].min(),
          "elsewhere": local[~inside].max(), "bound": measures.signals(hurt)["bound"][inside].min(),
          "beyond": (seen + before, math.hypot(one, other))}
