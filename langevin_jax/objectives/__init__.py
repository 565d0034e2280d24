"""Training losses: one loss with a density and a weight of the noise level (paper, §5, Tables 6–7).

The three losses of Table 6 are L dt = E‖ε − ε̂‖² |dℓ|, the rate at which KL(data‖model) falls
(paper, eqs. 15, 17, 19; theory.md#loss). A training loss draws noise levels from a density π(ℓ) and
weighs them by w(ℓ):

  loss = E_{ℓ ~ π} w(ℓ) E‖ε − ε̂‖².

The product π w determines the optimum, π alone the variance. Maximum likelihood is w = 1/π.

Reading order: `densities`, `weights`, `losses`, `learned` (densities and weights learned from the
errors), `linear` (the loss of the best linear denoiser).
"""

from langevin_jax.objectives.densities import (
    Density,
    log_normal_rho,
    logit_normal_s,
    normal_half_log_snr,
    stratified,
    uniform_half_log_snr,
    uniform_time,
)
from langevin_jax.objectives.learned import (
    Histogram,
    LearnedDensity,
    LearnedWeight,
    base,
    by_error,
    histogram,
    learned,
    observe,
    uncertainty,
)
from langevin_jax.objectives.linear import linear_loss
from langevin_jax.objectives.losses import Corruption, corrupted_loss, corruption, loss
from langevin_jax.objectives.weights import (
    Weight,
    edm,
    flow_matching,
    likelihood,
    min_snr,
    p2,
    sigmoid,
    simple,
)

__all__ = [
    "Corruption", "Density", "Histogram", "LearnedDensity", "LearnedWeight", "Weight", "base",
    "by_error", "corrupted_loss", "corruption", "edm", "flow_matching", "histogram", "learned",
    "likelihood", "linear_loss", "log_normal_rho", "logit_normal_s", "loss", "min_snr",
    "normal_half_log_snr", "observe", "p2", "sigmoid", "simple", "stratified", "uncertainty",
    "uniform_half_log_snr", "uniform_time",
]
