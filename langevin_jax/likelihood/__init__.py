"""§5, eqs. 13–17, A.3: the likelihood of a model, bounds on it, and where its KL comes from."""

from langevin_jax.likelihood.discrete import bits_per_dim, decoder, dequantise, log_mean_exp
from langevin_jax.likelihood.flow import log_prob
from langevin_jax.likelihood.ledgers import Estimate, Ledger, ledger
from langevin_jax.likelihood.variational import bound

__all__ = [
    "Estimate", "Ledger", "bits_per_dim", "bound", "decoder", "dequantise", "ledger",
    "log_mean_exp", "log_prob",
]
