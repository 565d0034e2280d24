"""Losses as a training step takes them: in two functions of a batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from langevin_jax import conditions, objectives, predictions

__all__ = ["Loss", "Params", "diffusion_loss"]

Params = Any


class Loss(NamedTuple):
  """A loss in two functions, so that a batch can be processed in parts with the same noise.

  Attributes:
    draw: (key, batch) → examples, a tree with a leading axis n that includes all random numbers.
    value: (params, examples) → (mean loss, dict of `half_log_snr` and `eps_error`, each (n,)).
    averaged: whether `value` takes the first average of the parameters, too, as `average`.
  """

  draw: Callable[[jax.Array, Any], Any]
  value: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
  averaged: bool = False

  def __call__(self, params: Params, key: jax.Array, batch: Any):
    """`value` of the examples that `draw` makes. Consumes `key`."""
    return self.value(params, self.draw(key, batch))


def diffusion_loss(
    apply: Callable[..., jax.Array], *, density: objectives.Density, weight: objectives.Weight,
    prediction: str | predictions.Row, num_classes: int = 0, label_dropout: float = 0.1,
) -> Loss:
  """`objectives.loss` for batches (x₀ at unit scale, (n, *shape); condition).

  Args:
    apply: the network, (params, x, ell, condition) → row values.
    density, weight, prediction: as in `objectives.loss`.
    num_classes: number of labels, and the null label. 0 ignores labels.
    label_dropout: probability with which a condition is replaced by the null condition, which
      trains the unconditional model together with the conditional one (`conditions.drop`). The
      condition of a batch is integer labels (n,), or a dict of named arrays (`conditions`).

  Raises:
    ValueError: label_dropout outside [0, 1], or an unknown prediction.
  """
  if not 0.0 <= label_dropout <= 1.0:
    raise ValueError(f"label_dropout must lie in [0, 1], got {label_dropout}")
  row = predictions.named(prediction)

  def draw(key, batch):
    x_0, condition = batch
    key_loss, key_drop = jax.random.split(key)
    condition = dropped(key_drop, condition, label_dropout, num_classes)
    return x_0, condition, objectives.corruption(key_loss, x_0, density)

  def value(params, examples):
    x_0, condition, drawn = examples
    return objectives.corrupted_loss(
        lambda x, ell: apply(params, x, ell, condition), x_0, drawn, weight=weight, prediction=row)

  return Loss(draw, value)


def dropped(key: jax.Array, condition: Any, rate: float, num_classes: int) -> Any:
  """The condition of a batch, complete, some of it not given; see `diffusion_loss`."""
  named = isinstance(condition, Mapping)
  if rate > 0.0 and (named or num_classes):
    return conditions.drop(key, condition, rate, null_label=num_classes)
  return conditions.complete(condition) if named else condition
