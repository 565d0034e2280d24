"""The loss of `discrete.objectives` for batches of tokens, as the training step takes it."""

from collections.abc import Callable

import jax

from langevin_jax import discrete, objectives
from langevin_jax.training.losses import Loss, dropped

__all__ = ["token_loss"]


def token_loss(
    apply: Callable[..., jax.Array], path: discrete.paths.Path, *, density: objectives.Density,
    weight: objectives.Weight, num_classes: int = 0, label_dropout: float = 0.1,
) -> Loss:
  """`discrete.objectives.loss` for batches (tokens x₀, (n, L); condition).

  The `eps_error` of its metrics is the error of that loss: nats per token and unit of α.

  Args:
    apply: the network, (params, x_t, ell, condition) → logits (n, L, V).
    path: the forward process.
    density, weight: as in `discrete.objectives.loss`.
    num_classes, label_dropout: as in `diffusion_loss`.

  Raises:
    ValueError: label_dropout outside [0, 1], or no discrete path.
  """
  discrete.paths.check_path(path)
  if not 0.0 <= label_dropout <= 1.0:
    raise ValueError(f"label_dropout must lie in [0, 1], got {label_dropout}")

  def draw(key, batch):
    x_0, condition = batch
    key_loss, key_drop = jax.random.split(key)
    condition = dropped(key_drop, condition, label_dropout, num_classes)
    return x_0, condition, discrete.objectives.corruption(key_loss, x_0, path, density)

  def value(params, examples):
    x_0, condition, drawn = examples
    loss, found = discrete.objectives.corrupted_loss(
        lambda x, ell: apply(params, x, ell, condition), x_0, drawn, path, weight=weight)
    return loss, {"half_log_snr": found["half_log_snr"], "eps_error": found["error"]}

  return Loss(draw, value)
