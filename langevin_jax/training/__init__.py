"""Training: a pure step, averages of the parameters, and their layout on a mesh of devices.

Reading order: `steps`, `flow_maps`, `tokens`, `averages`, `shardings`.
"""

from langevin_jax.training import averages, shardings
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
from langevin_jax.training.tokens import token_loss

__all__ = [
  "LEVEL_EDGES", "Loss", "Metrics", "Params", "TrainState", "averages", "diffusion_loss",
  "flow_map_loss", "init", "shardings", "token_loss", "train_step", "train_steps",
]
