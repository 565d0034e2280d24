"""Training: a pure step, averages of the parameters, and their layout on a mesh of devices.

Reading order: `steps`, `averages`, `shardings`.
"""

from langevin_jax.training import averages, shardings
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
  "LEVEL_EDGES", "Loss", "Metrics", "Params", "TrainState", "averages", "diffusion_loss", "init",
  "shardings", "train_step", "train_steps",
]
