"""Training as one pure function: state, key and batch in; state and metrics out.

A step's randomness is the run's key folded with the step that the state holds, so a restored state
continues as if it had never stopped. Nothing here knows of files or devices; sharded inputs give a
sharded step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_jax import objectives, predictions

Params = Any
Loss = Callable[[Params, jax.Array, Any], tuple[jax.Array, dict[str, jax.Array]]]

# Noise levels are reported in bins of ℓ with these inner edges; the outermost two are open.
LEVEL_EDGES = tuple(0.5 * i for i in range(-12, 13))


class TrainState(NamedTuple):
  """Everything that a run must remember. `ema` is the averaged parameters, which samplers use."""

  step: jax.Array
  params: Params
  ema: Params
  opt_state: optax.OptState


class Metrics(NamedTuple):
  """What one step reports; scalars but for the two vectors over the bins of ℓ.

  `finite` is False where loss or gradient was not; the state is then the one before the step, and
  `worst_half_log_snr` the noise level of the first offending example (or of the largest error).
  """

  loss: jax.Array
  grad_norm: jax.Array
  finite: jax.Array
  worst_half_log_snr: jax.Array
  level_error: jax.Array
  level_count: jax.Array


def init(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step; `ema` starts as the parameters themselves."""
  return TrainState(
      jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))


def diffusion_loss(
    apply: Callable[..., jax.Array], *, density: objectives.Density, weight: objectives.Weight,
    prediction: str | predictions.Row, num_classes: int = 0, label_dropout: float = 0.1,
) -> Loss:
  """`objectives.loss` for a network `apply(params, x, ell, labels)`, as `loss(params, key, batch)`.

  The batch is (x₀ at unit scale, integer labels). A label is replaced by the null label
  `num_classes` with probability `label_dropout`, which trains the unconditional model beside the
  conditional one (Ho & Salimans 2022).

  Raises:
    ValueError: label_dropout outside [0, 1], or an unknown prediction.
  """
  if not 0.0 <= label_dropout <= 1.0:
    raise ValueError(f"label_dropout must lie in [0, 1], got {label_dropout}")
  row = predictions.named(prediction)

  def loss(params, key, batch):
    x_0, labels = batch
    key_loss, key_drop = jax.random.split(key)
    if num_classes and label_dropout > 0.0:
      dropped = jax.random.bernoulli(key_drop, label_dropout, labels.shape)
      labels = jnp.where(dropped, num_classes, labels)
    return objectives.loss(
        key_loss, lambda x, ell: apply(params, x, ell, labels), x_0,
        density=density, weight=weight, prediction=row)

  return loss


def train_step(
    state: TrainState, key: jax.Array, batch: Any, *, loss: Loss,
    optimizer: optax.GradientTransformation, ema_half_life_steps: float,
) -> tuple[TrainState, Metrics]:
  """One step of gradient descent.

  Args:
    state: before the step.
    key: the run's key, the same for every step: it is folded with `state.step`.
    batch: what `loss` takes.
    loss: (params, key, batch) → (loss, {half_log_snr, eps_error}).
    optimizer: an optax transformation; gradient clipping and schedules belong to it.
    ema_half_life_steps: steps after which a parameter's share in `ema` has halved. Early on a tenth
      of the steps so far is used where that is less, so that the start is soon forgotten.

  Returns:
    The state after the step (unchanged where the step was not finite), and its metrics.
  """
  key = jax.random.fold_in(key, state.step)
  (value, levels), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, key, batch)
  grad_norm = optax.tree.norm(gradient)
  finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

  def move(state, gradient):
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    half_life = jnp.minimum(ema_half_life_steps, 0.1 * step.astype(jnp.float32))
    # ema′ = ema + (1 − 2^{−1/half-life}) (params − ema)
    rate = -jnp.expm1(-jnp.log(2.0) / half_life)
    ema = jax.tree.map(lambda e, p: e + rate.astype(e.dtype) * (p - e), state.ema, params)
    return TrainState(step, params, ema, opt_state)

  # Not a `where` over the tree: that would keep the old state beside the new and copy both.
  state = jax.lax.cond(finite, move, lambda state, gradient: state, state, gradient)
  return state, _metrics(value, grad_norm, finite, levels["half_log_snr"], levels["eps_error"])


def train_steps(
    state: TrainState, key: jax.Array, batches: Any, *, loss: Loss,
    optimizer: optax.GradientTransformation, ema_half_life_steps: float,
) -> tuple[TrainState, Metrics]:
  """K steps in one dispatch: `train_step` scanned over batches with a leading axis K.

  It saves the host's share of small steps. Not for networks with convolutions on CPU, whose weight
  gradients are several times slower inside a loop. The metrics have a leading axis K.
  """
  def step(state, batch):
    return train_step(state, key, batch, loss=loss, optimizer=optimizer,
                      ema_half_life_steps=ema_half_life_steps)

  return jax.lax.scan(step, state, batches)


def _metrics(loss, grad_norm, finite, half_log_snr, eps_error) -> Metrics:
  # A bin is a comparison and a product: cheaper than a scatter, and bitwise reproducible.
  edges = jnp.asarray(LEVEL_EDGES, half_log_snr.dtype)
  level = jnp.searchsorted(edges, half_log_snr)
  member = jax.nn.one_hot(level, len(LEVEL_EDGES) + 1, axis=0, dtype=eps_error.dtype)
  rank = jnp.where(jnp.isfinite(eps_error), eps_error, jnp.inf)
  return Metrics(
      loss, grad_norm, finite, half_log_snr[jnp.argmax(rank)],
      member @ jnp.where(jnp.isfinite(eps_error), eps_error, 0.0), member.sum(1))
