"""Training as one pure function: state, key and batch in; state and metrics out.

A step's randomness is the run's key folded with the step that the state holds, so a restored state
continues as if it had never stopped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_jax import objectives, predictions
from langevin_jax.training.averages import Average

Params = Any

# Noise levels are reported in bins of ℓ with these inner edges; the outermost two are open.
LEVEL_EDGES = tuple(0.5 * i for i in range(-12, 13))


class TrainState(NamedTuple):
  """Everything that a run must remember; `ema` has a tree for each average of the parameters."""

  step: jax.Array
  params: Params
  ema: tuple[Params, ...]
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


class Loss(NamedTuple):
  """A loss in two parts, so that a batch can be drawn for at once and taken part by part.

  draw: (key, batch) → examples, a tree with a leading axis n that holds all that is random.
  value: (params, examples) → (mean loss, per-example `half_log_snr` and `eps_error`, (n,)).
  """

  draw: Callable[[jax.Array, Any], Any]
  value: Callable[[Params, Any], tuple[jax.Array, dict[str, jax.Array]]]

  def __call__(self, params: Params, key: jax.Array, batch: Any):
    """Both at once; consumes `key`."""
    return self.value(params, self.draw(key, batch))


def init(
    params: Params, optimizer: optax.GradientTransformation, *, averages: int = 1
) -> TrainState:
  """The state before the first step; every average starts as the parameters themselves."""
  ema = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
  return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))


def diffusion_loss(
    apply: Callable[..., jax.Array], *, density: objectives.Density, weight: objectives.Weight,
    prediction: str | predictions.Row, num_classes: int = 0, label_dropout: float = 0.1,
) -> Loss:
  """`objectives.loss` for a network `apply(params, x, ell, labels)`.

  The batch is (x₀ at unit scale, integer labels). A label is replaced by the null label
  `num_classes` with probability `label_dropout`, which trains the unconditional model beside the
  conditional one (Ho & Salimans 2022).

  Raises:
    ValueError: label_dropout outside [0, 1], or an unknown prediction.
  """
  if not 0.0 <= label_dropout <= 1.0:
    raise ValueError(f"label_dropout must lie in [0, 1], got {label_dropout}")
  row = predictions.named(prediction)

  def draw(key, batch):
    x_0, labels = batch
    key_loss, key_drop = jax.random.split(key)
    if num_classes and label_dropout > 0.0:
      dropped = jax.random.bernoulli(key_drop, label_dropout, labels.shape)
      labels = jnp.where(dropped, num_classes, labels)
    return x_0, labels, objectives.corruption(key_loss, x_0, density)

  def value(params, examples):
    x_0, labels, drawn = examples
    return objectives.corrupted_loss(
        lambda x, ell: apply(params, x, ell, labels), x_0, drawn, weight=weight, prediction=row)

  return Loss(draw, value)


def train_step(
    state: TrainState, key: jax.Array, batch: Any, *, loss: Loss,
    optimizer: optax.GradientTransformation, averages: tuple[Average, ...], accumulation: int = 1,
) -> tuple[TrainState, Metrics]:
  """One step of gradient descent.

  Args:
    state: before the step.
    key: the run's key, the same for every step: it is folded with `state.step`.
    batch: what `loss.draw` takes, with a leading axis n.
    optimizer: an optax transformation; gradient clipping and schedules belong to it. One that asks
      for `value`, `grad` or `value_fn` (`optax.lbfgs`, `contrib.reduce_on_plateau`) is given them,
      of this batch with this step's levels and noise.
    averages: the rates of the averages in `state.ema`, in their order (`training.averages`).
    accumulation: parts, dividing n, in which the batch is taken one after another, at the memory of
      one. Levels and noise are drawn for the whole batch, so that parts change the rounding alone.

  Returns:
    The state after the step (unchanged where the step was not finite), and its metrics.
  """
  examples = loss.draw(jax.random.fold_in(key, state.step), batch)
  (value, levels), gradient = _gradient(loss.value, state.params, examples, accumulation)
  grad_norm = optax.tree.norm(gradient)
  finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

  def move(state, gradient):
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        gradient, state.opt_state, state.params, value=value, grad=gradient,
        value_fn=lambda params: _value(loss.value, params, examples, accumulation))
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    # ema′ = ema + rate (params − ema)
    ema = tuple(_moved(old, params, average(step)) for average, old in
                zip(averages, state.ema, strict=True))
    return TrainState(step, params, ema, opt_state)

  # Not a `where` over the tree: that would keep the old state beside the new and copy both.
  state = jax.lax.cond(finite, move, lambda state, gradient: state, state, gradient)
  return state, _metrics(value, grad_norm, finite, levels["half_log_snr"], levels["eps_error"])


def train_steps(
    state: TrainState, key: jax.Array, batches: Any, *, loss: Loss,
    optimizer: optax.GradientTransformation, averages: tuple[Average, ...], accumulation: int = 1,
    count: jax.Array | int | None = None,
) -> tuple[TrainState, Metrics]:
  """K steps in one dispatch: `train_step` scanned over batches with a leading axis K.

  It saves the host's share of small steps. Not for networks with convolutions on CPU, whose weight
  gradients are several times slower inside a loop.

  Args:
    state, key, loss, optimizer, averages, accumulation: as in `train_step`.
    batches: what `loss.draw` takes, with leading axes K, n.
    count: how many steps are taken, of the first batches: a scalar ≤ K that may be traced, so that
      one compiled program takes any number. All K if left out.

  Returns:
    The state after the steps, and metrics with a leading axis K; zeros for steps not taken.
  """
  def step(state, batch):
    return train_step(state, key, batch, loss=loss, optimizer=optimizer, averages=averages,
                      accumulation=accumulation)

  if count is None:
    return jax.lax.scan(step, state, batches)
  at = lambda i: jax.tree.map(
      lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), batches)
  most = len(jax.tree.leaves(batches)[0])
  metrics = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype),
                         jax.eval_shape(step, state, at(0))[1])

  def body(i, carry):
    state, metrics = carry
    state, measured = step(state, at(i))
    return state, jax.tree.map(
        lambda rows, row: jax.lax.dynamic_update_index_in_dim(rows, row, i, 0), metrics, measured)

  return jax.lax.fori_loop(0, count, body, (state, metrics))


def _moved(ema, params, rate):
  return jax.tree.map(lambda e, p: e + rate.astype(e.dtype) * (p - e), ema, params)


def _value(value, params, examples, parts):
  if parts == 1:
    return value(params, examples)[0]
  return jnp.mean(jax.lax.map(lambda part: value(params, part)[0], _split(examples, parts)))


def _split(examples, parts):
  # Part j is examples j, j + parts, …: where a batch is split over devices, each part is too.
  return jax.tree.map(
      lambda a: jnp.swapaxes(a.reshape(-1, parts, *a.shape[1:]), 0, 1), examples)


def _gradient(value, params, examples, parts):
  gradient = jax.value_and_grad(value, has_aux=True)
  if parts == 1:
    return gradient(params, examples)
  join = lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:])

  def add(total, part):
    (mean, levels), slope = gradient(params, part)
    return jax.tree.map(lambda sum_, new: sum_ + new / parts, total, (mean, slope)), levels

  batches = _split(examples, parts)
  # The sum has the loss's own dtype, whatever the default one.
  (mean, _), _ = jax.eval_shape(gradient, params, jax.tree.map(lambda a: a[0], batches))
  zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (mean, params))
  (mean, slope), levels = jax.lax.scan(add, zero, batches)
  return (mean, jax.tree.map(join, levels)), slope


def _metrics(loss, grad_norm, finite, half_log_snr, eps_error) -> Metrics:
  # A bin is a comparison and a product: cheaper than a scatter, and bitwise reproducible.
  edges = jnp.asarray(LEVEL_EDGES, half_log_snr.dtype)
  level = jnp.searchsorted(edges, half_log_snr)
  member = jax.nn.one_hot(level, len(LEVEL_EDGES) + 1, axis=0, dtype=eps_error.dtype)
  rank = jnp.where(jnp.isfinite(eps_error), eps_error, jnp.inf)
  return Metrics(
      loss, grad_norm, finite, half_log_snr[jnp.argmax(rank)],
      member @ jnp.where(jnp.isfinite(eps_error), eps_error, 0.0), member.sum(1))
