"""Training: a pure step, averages of the parameters, and their layout on a mesh of devices.

Reading order: `losses`, `flow_maps`, `tokens`, `autoencoders`, `steps`, `averages`, `weights`,
`shardings`.
"""

from langevin_jax.training import averages, shardings
from langevin_jax.training.autoencoders import autoencoder_loss, kl_from_unit
from langevin_jax.training.flow_maps import flow_map_loss
from langevin_jax.training.losses import (
  AdaptiveLoss,
  Loss,
  Params,
  adaptive_loss,
  diffusion_loss,
)
from langevin_jax.training.steps import (
  LEVEL_EDGES,
  Metrics,
  TrainState,
  init,
  train_step,
  train_steps,
)
from langevin_jax.training.tokens import token_loss
from langevin_jax.training.weights import forced_weight_normalization

__all__ = [
  "LEVEL_EDGES",
  "AdaptiveLoss",
  "Loss",
  "Metrics",
  "Params",
  "TrainState",
  "adaptive_loss",
  "autoencoder_loss",
  "averages",
  "diffusion_loss",
  "flow_map_loss",
  "forced_weight_normalization",
  "init",
  "kl_from_unit",
  "shardings",
  "token_loss",
  "train_step",
  "train_steps",
]
