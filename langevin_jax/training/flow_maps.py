"""The loss of a flow map in two functions, as a training step takes it."""

import operator
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from langevin_jax import conditions, flow_maps, objectives, predictions
from langevin_jax.training.losses import Loss, dropped

__all__ = ["flow_map_loss"]


def flow_map_loss(
    apply: Callable[..., jax.Array], *, identity: flow_maps.Identity,
    density: objectives.Density, weight: objectives.Weight, prediction: str | predictions.Row,
    num_classes: int = 0, label_dropout: float = 0.1,
    teacher: Callable[..., jax.Array] | None = None,
) -> Loss:
  """`flow_maps.corrupted_loss` for batches (x₀ at unit scale, (n, *shape); condition).

  The share of the batch that is on the diagonal has the ordinary loss, at its cost.

  Args:
    apply: the network, (params, x, ell, condition, ell_s) → row values.
    identity, weight, prediction: as in `flow_maps.corrupted_loss`. density: π(ℓ).
    num_classes, label_dropout: as in `diffusion_loss`.
    teacher: (x, ell, condition) → ε̂ − D of a trained model, None to learn from data.

  Raises:
    ValueError: label_dropout outside [0, 1], an unknown prediction, or guidance in the identity
      without conditions that are sometimes dropped.
  """
  if not 0.0 <= label_dropout <= 1.0:
    raise ValueError(f"label_dropout must lie in [0, 1], got {label_dropout}")
  row = predictions.named(prediction)
  if identity.is_guided and not label_dropout > 0.0:
    raise ValueError("omega and kappa guide away from the model without a condition: they need a "
                     "label_dropout > 0")

  def draw(key, batch):
    x_0, condition = batch
    key_loss, key_drop = jax.random.split(key)
    condition = dropped(key_drop, condition, label_dropout, num_classes)
    return x_0, condition, flow_maps.corruption(key_loss, x_0, density, identity)

  taught = None if teacher is None else (
      lambda condition: lambda x, ell: teacher(x, ell, condition))

  def without(condition):
    if isinstance(condition, Mapping):
      return conditions.null(condition)
    return jnp.full_like(condition, num_classes)

  def weights(condition):
    name = identity.omega
    if not isinstance(name, str):
      return None
    if not isinstance(condition, Mapping) or name not in condition:
      raise ValueError(f"omega={name!r} is no condition of the data")
    return jnp.where(condition[name + conditions.MASK], condition[name], 1.0)

  def mean_loss(params, average, x_0, condition, drawn):
    of = lambda params, given: lambda x, ell, ell_s: apply(params, x, ell, given, ell_s)
    target = params if average is None else average
    return flow_maps.corrupted_loss(
        of(params, condition), x_0, drawn, identity=identity, weight=weight, prediction=row,
        frozen=None if average is None else of(average, condition),
        free=of(target, without(condition)) if identity.is_guided else None,
        teacher=None if taught is None else taught(condition), omega=weights(condition))

  def value(params, examples, average=None):
    x_0, condition, (ell, ell_s, eps) = examples
    n, same = len(ell), len(ell) - len(ell_s)

    def share(part, ell_s):
      clean, given, level, noise = jax.tree.map(
          operator.itemgetter(part), (x_0, condition, ell, eps))
      mean, levels = mean_loss(
          params, average, clean, given, flow_maps.Corruption(level, ell_s, noise))
      return len(clean) / n * mean, levels

    parts = [share(slice(same), ell_s[:0])] if same else []
    parts += [share(slice(same, n), ell_s)] if same < n else []
    means, levels = zip(*parts, strict=True)
    return (jnp.sum(jnp.stack(means)),
            jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *levels))

  return Loss(draw, value, identity.averaged)
