"""Question 1: how does the reverse process invert the forward one? Duality, eq. 11.

If the reverse process starts from q_0 = p_T (eq. 10), both processes have the same law at every
level: q_{t'} = p_{T−t'}. On the line the law of a sampler is computed without Monte Carlo and
compared with the exact density (`line`). In the plane particles are compared with exact draws
(`plane`).
"""

from typing import Any

from experiments.paper.questions.duality import line, plane
from experiments.paper.setting import Setting


def measure(setting: Setting) -> dict[str, Any]:
  # Few steps are near their limit only where the range of noise is short.
  counts, ends = ((40, 80), (10.0, 0.2)) if setting.fast else ((40, 80, 160, 320), (20.0, 0.1))
  names = line.FEW if setting.fast else tuple(line.PATHS)
  return {"line": line.measure(setting.density.line, counts, ends, names),
          "start": line.start(setting.density.line, min(counts[-1], 160), ends[1]),
          "plane": plane.measure(setting, ends)}
