"""Training: one pure step, averages of its parameters, and where they lie on a mesh of devices."""

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
