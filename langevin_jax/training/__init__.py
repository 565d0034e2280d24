"""Training: a pure step, averages of the parameters, and their layout on a mesh of devices.

Reading order: `steps`, `flow_maps`, `autoencoders`, `averages`, `shardings`.
"""

from langevin_jax.training import averages, shardings
from langevin_jax.training.autoencoders import autoencoder_loss, kl_from_unit
from langevin_jax.training.flow_maps import flow_map_loss
from langevin_jax.training.steps import (
  LEVEL_EDGES,
  Loss,
  Metrics,
  Params,
  TrainState,
  diffusion_loss,
  init,
  train_step,
  train_steps,
)

__all__ = [
  "LEVEL_EDGES", "Loss", "Metrics", "Params", "TrainState", "autoencoder_loss", "averages",
  "diffusion_loss", "flow_map_loss", "init", "kl_from_unit", "shardings", "train_step",
  "train_steps",
]
