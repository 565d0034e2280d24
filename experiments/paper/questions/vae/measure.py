"""Question 3: why is a diffusion model better than a VAE? One measure for both (§4).

Both are pairs of an encoder q(z | x) and a decoder p(z) p(x | z). A pair is exact if

  KL(p_data(x) q(z | x) ‖ p(z) p(x | z)) = KL(p_data‖p) + E KL(q(z | x)‖p(z | x))

is 0. The last term is the gap. For a diffusion model the left side is the path KL of the ledger, an
upper bound of the gap.
"""

from typing import Any

from experiments.paper.questions.vae import digits, plane
from experiments.paper.setting import Setting


def measure(setting: Setting) -> dict[str, Any]:
  return {"plane": plane.measure(setting), "digits": digits.measure(setting)}
