"""Question 3: why better than a VAE? Both models, of the same data, by one measure (§4).

A VAE and a diffusion model are pairs of an encoder q(z | x) and a decoder p(z) p(x | z). The pair
is exact if the encoder is the posterior of the decoder and the decoder's law is the data's:

  KL(p_data(x) q(z | x) ‖ p(z) p(x | z)) = KL(p_data‖p) + E KL(q(z | x)‖p(z | x)).

The last term is the gap. For a diffusion model the left side is the path KL of the ledger, which
bounds the gap from above.
"""

from typing import Any

from experiments.paper.questions.vae import digits, plane
from experiments.paper.setting import Setting


def measure(setting: Setting) -> dict[str, Any]:
  return {"plane": plane.measure(setting), "digits": digits.measure(setting)}
