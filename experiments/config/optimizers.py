"""Optimizers and learning-rate schedules that a config may call, besides optax's own.

`optax:lion(b1=0.9)` works as it is: the runner fills in the parameter `learning_rate`.
"""

import math

import jax.numpy as jnp
import optax

from langevin_jax import training


def adamw(
    learning_rate: optax.ScalarOrSchedule, *, b1: float = 0.9, b2: float = 0.99,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter 2019) with the second moment over 1/(1 − b2) steps."""
  for name, value in (("b1", b1), ("b2", b2)):
    if isinstance(value, float) and not 0.0 <= value < 1.0:  # a sweep's are tracers
      raise ValueError(f"{name} must lie in [0, 1), got {value}")
  if isinstance(weight_decay, float) and not 0.0 <= weight_decay < math.inf:
    raise ValueError(f"weight_decay must be >= 0 and finite, got {weight_decay}")
  return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay)


def unit_weight_adam(
    learning_rate: optax.ScalarOrSchedule, *, b1: float = 0.9, b2: float = 0.99,
) -> optax.GradientTransformation:
  """Adam, after which the weights of unet_edm2 have magnitude 1 again (Karras et al. 2024)."""
  return optax.chain(adamw(learning_rate, b1=b1, b2=b2),
                     training.forced_weight_normalization())


def cosine(learning_rate: float, steps: int, *, warmup_steps: int = 200) -> optax.Schedule:
  """A linear rise over `warmup_steps`, then half a cosine to 0 at the last step."""
  warmup, rest = _phases(steps, warmup_steps)
  return _after_warmup(learning_rate, warmup, optax.cosine_decay_schedule(learning_rate, rest))


def linear(learning_rate: float, steps: int, *, warmup_steps: int = 200) -> optax.Schedule:
  """A linear rise over `warmup_steps`, then a straight line to 0 at the last step."""
  warmup, rest = _phases(steps, warmup_steps)
  return _after_warmup(learning_rate, warmup, optax.linear_schedule(learning_rate, 0.0, rest))


def constant(learning_rate: float, steps: int, *, warmup_steps: int = 200) -> optax.Schedule:
  """A linear rise over `warmup_steps`, then the learning rate itself."""
  warmup, _ = _phases(steps, warmup_steps)
  return _after_warmup(learning_rate, warmup, optax.constant_schedule(learning_rate))


def inverse_sqrt(
    learning_rate: float, steps: int, *, warmup_steps: int = 200, decay_steps: int = 35_000,
) -> optax.Schedule:
  """A linear rise over `warmup_steps`; rate/√(step/decay_steps) after `decay_steps` (EDM2)."""
  warmup, _ = _phases(steps, warmup_steps)
  if decay_steps < 1:
    raise ValueError(f"decay_steps must be at least 1, got {decay_steps}")
  return _after_warmup(learning_rate, warmup, lambda step: learning_rate / jnp.sqrt(
      jnp.maximum((step + warmup) / decay_steps, 1.0)))


OPTIMIZERS = {"adamw": adamw, "unit_weight_adam": unit_weight_adam}
SCHEDULES = {"cosine": cosine, "linear": linear, "constant": constant,
             "inverse_sqrt": inverse_sqrt}


def _phases(steps: int, warmup_steps: int) -> tuple[int, int]:
  if warmup_steps < 0:
    raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
  warmup = min(warmup_steps, steps)
  return warmup, max(steps - warmup, 1)


def _after_warmup(learning_rate, warmup: int, after: optax.Schedule) -> optax.Schedule:
  # The first step has 1/(warmup + 1) of the rate, not none.
  before = optax.linear_schedule(learning_rate / (warmup + 1), learning_rate, max(warmup, 1))
  return optax.join_schedules([before, after], [warmup])
