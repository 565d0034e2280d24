"""Losses as a training step takes them: in two functions of a batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import conditions, objectives, predictions

__all__ = ["AdaptiveLoss", "Loss", "Params", "adaptive_loss", "diffusion_loss"]

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


class AdaptiveLoss(NamedTuple):
  """A loss with a density or a weight that is learned in training.

  Attributes:
    init: what is learned before the first step, a pytree of arrays.
    at: what is learned → the `Loss` of a step.
    observe: (what is learned, the dict of `Loss.value`) → (what is learned after the step, the mean
      loss with the base density and weight).
  """

  init: Any
  at: Callable[[Any], Loss]
  observe: Callable[[Any, dict[str, jax.Array]], tuple[Any, jax.Array]]


def adaptive_loss(
    make: Callable[..., Loss], *, density: objectives.Density | objectives.LearnedDensity,
    weight: objectives.Weight | objectives.LearnedWeight,
) -> Loss | AdaptiveLoss:
  """The loss of a density and a weight, of which either, both or none is learned.

  With a learned density π, levels have the weight w π₀/π, so that the objective π₀ w is kept.

  Args:
    make: (density=, weight=) → the loss, such as `diffusion_loss` with its other arguments. Its
      loss must be an integral against the density that it is given.
    density: π. weight: w.
  """
  learned_pi = density if isinstance(density, objectives.LearnedDensity) else None
  learned_w = weight if isinstance(weight, objectives.LearnedWeight) else None
  if learned_pi is None and learned_w is None:
    return make(density=density, weight=weight)
  pi_0, w_0 = objectives.base(density), objectives.base(weight)

  def at(learned):
    """(π, w, π₀/π)."""
    w = w_0 if learned_w is None else learned_w.at(learned["weight"])
    if learned_pi is None:
      return pi_0, w, jnp.ones_like
    pi = learned_pi.at(learned["density"])
    return pi, w, lambda ell: pi_0.density(ell) / pi.density(ell)

  def make_at(learned):
    pi, w, ratio = at(learned)
    return make(density=pi, weight=lambda ell: ratio(ell) * w(ell))

  def observe(learned, levels):
    ells, errors = levels["half_log_snr"], levels["eps_error"]
    _, w, ratio = at(learned)
    of = lambda function: jax.vmap(function)(ells)
    after = {}
    if learned_pi is not None:
      after["density"] = learned_pi.observe(
          learned["density"], ells, of(pi_0.density) * of(w) * errors)
    if learned_w is not None:
      after["weight"] = learned_w.observe(learned["weight"], ells, of(w_0) * errors)
    return after, jnp.mean(of(ratio) * of(w_0) * errors)

  init = {name: choice.init for name, choice in (
      ("density", learned_pi), ("weight", learned_w)) if choice is not None}
  return AdaptiveLoss(init, make_at, observe)


def diffusion_loss(
    apply: Callable[..., jax.Array], *, density: objectives.Density, weight: objectives.Weight,
    prediction: str | predictions.Row, num_classes: int = 0, label_dropout: float = 0.1,
    random: bool = False,
) -> Loss:
  """`objectives.loss` for batches (x₀ at unit scale, (n, *shape); condition).

  Args:
    apply: the network, (params, x, ell, condition) → row values.
    density, weight, prediction: as in `objectives.loss`.
    num_classes: number of labels, and the null label. 0 ignores labels.
    label_dropout: probability with which a condition is replaced by the null condition, which
      trains the unconditional model together with the conditional one (`conditions.drop`). The
      condition of a batch is integer labels (n,), or a dict of named arrays (`conditions`).
    random: whether `apply` takes `key=`, of random layers such as dropout.

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
    # One for each example, so that each part of a batch has its own.
    keys = jax.random.split(jax.random.fold_in(key, 2), len(x_0)) if random else None
    return x_0, condition, objectives.corruption(key_loss, x_0, density), keys

  def value(params, examples):
    x_0, condition, drawn, keys = examples
    given = {} if keys is None else {"key": keys[0]}
    return objectives.corrupted_loss(
        lambda x, ell: apply(params, x, ell, condition, **given), x_0, drawn, weight=weight,
        prediction=row)

  return Loss(draw, value)


def dropped(key: jax.Array, condition: Any, rate: float, num_classes: int) -> Any:
  """The condition of a batch, complete, some of it not given; see `diffusion_loss`."""
  named = isinstance(condition, Mapping)
  if rate > 0.0 and (named or num_classes):
    return conditions.drop(key, condition, rate, null_label=num_classes)
  return conditions.complete(condition) if named else condition
