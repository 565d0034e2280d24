"""Likelihoods, bounds on them, and the KL by noise level (paper, §5, eqs. 13–17, A.3).

Reading order: `prior` (the Gaussian at the noisy end), `flow` (log q of the probability-flow ODE),
`variational` (the bound of the reverse SDE), `ledgers` (KL(data‖model) as a sum), `discrete` (bits
per dimension).
"""

from langevin_jax.likelihood import prior
from langevin_jax.likelihood.discrete import bits_per_dim, decoder, dequantise, log_mean_exp
from langevin_jax.likelihood.flow import log_prob
from langevin_jax.likelihood.ledgers import Estimate, Ledger, ledger
from langevin_jax.likelihood.variational import bound

__all__ = [
    "Estimate", "Ledger", "bits_per_dim", "bound", "decoder", "dequantise", "ledger",
    "log_mean_exp", "log_prob", "prior",
]
