"""Training as a pure function (state, key, batch) → (state, metrics).

The random numbers of a step come from the run's key, folded with the step number of the state. So a
run that is restored from a state continues exactly as if it had not stopped.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_jax.training.averages import Average
from langevin_jax.training.losses import AdaptiveLoss, Loss, Params

__all__ = [
    "LEVEL_EDGES", "Metrics", "TrainState", "init", "train_step", "train_steps",
]

# The inner edges of the bins of ℓ in which errors are reported. The first and last bin are open.
LEVEL_EDGES = tuple(0.5 * i for i in range(-12, 13))


class TrainState(NamedTuple):
  """The state of a run.

  Attributes:
    step: number of steps done, scalar.
    params: the parameters.
    ema: averages of the parameters, a tree for each.
    opt_state: the state of the optimizer.
    learned: the state of an `AdaptiveLoss`, () of another loss.
  """

  step: jax.Array
  params: Params
  ema: tuple[Params, ...]
  opt_state: optax.OptState
  learned: Any = ()


class Metrics(NamedTuple):
  """The metrics of one step, scalars unless a shape is given.

  Attributes:
    loss: the mean loss, of an `AdaptiveLoss` with the base density and weight.
    grad_norm: the norm of the gradient.
    finite: whether loss and gradient were finite. If not, the step did not change the state.
    worst_half_log_snr: ℓ of the example with the largest error, or of the first that is not finite.
    level_error: (bins,), the sum of errors in each bin of ℓ, non-finite ones left out.
    level_count: (bins,), the number of examples in each bin.
    param_norm: the norm of the parameters after the step, if asked for.
    update_norm: the norm of their change, if asked for; 0 of a step that was not finite.
  """

  loss: jax.Array
  grad_norm: jax.Array
  finite: jax.Array
  worst_half_log_snr: jax.Array
  level_error: jax.Array
  level_count: jax.Array
  param_norm: jax.Array | None = None
  update_norm: jax.Array | None = None


def init(
    params: Params, optimizer: optax.GradientTransformation, *, averages: int = 1,
    loss: Loss | AdaptiveLoss | None = None,
) -> TrainState:
  """The state before the first step. Every average starts as a copy of the parameters.

  Args:
    params: the initial parameters.
    optimizer: an optax transformation.
    averages: number of averages.
    loss: the loss, if it is an `AdaptiveLoss`.
  """
  ema = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
  learned = jax.tree.map(jnp.copy, loss.init) if isinstance(loss, AdaptiveLoss) else ()
  return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params), learned)


def train_step(
    state: TrainState, key: jax.Array, batch: Any, *, loss: Loss | AdaptiveLoss,
    optimizer: optax.GradientTransformation, averages: tuple[Average, ...], accumulation: int = 1,
    norms: bool = False,
) -> tuple[TrainState, Metrics]:
  """One step of gradient descent.

  Args:
    state: before the step.
    key: the run's key, the same for every step. It is folded with `state.step`.
    batch: the argument of `loss.draw`, with a leading axis n.
    loss: the loss. The state of an `AdaptiveLoss` is updated by the errors of this step.
    optimizer: an optax transformation, including gradient clipping and schedules. If it needs
      `value`, `grad` or `value_fn` (`optax.lbfgs`, `contrib.reduce_on_plateau`), it gets those of
      this batch with this step's levels and noise.
    averages: the rates of the averages in `state.ema`, in this order (`training.averages`).
    accumulation: number of parts of the batch, a divisor of n, processed one after another with the
      memory of one part. Levels and noise are drawn for the whole batch, so that the number of
      parts changes rounding only.
    norms: whether the metrics have the norms of the parameters and of their change.

  Returns:
    The state after the step (unchanged if the step was not finite), and its metrics.
  """
  now = loss.at(state.learned) if isinstance(loss, AdaptiveLoss) else loss
  examples = now.draw(jax.random.fold_in(key, state.step), batch)
  of_loss = functools.partial(now.value, average=state.ema[0]) if now.averaged else now.value
  (value, levels), gradient = _gradient(of_loss, state.params, examples, accumulation)
  grad_norm = optax.tree.norm(gradient)
  finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
  learned, base_value = (loss.observe(state.learned, levels) if isinstance(loss, AdaptiveLoss)
                         else (state.learned, value))

  def move(state, gradient):
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        gradient, state.opt_state, state.params, value=value, grad=gradient,
        value_fn=lambda params: _value(of_loss, params, examples, accumulation))
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    # ema′ = ema + rate (params − ema)
    ema = tuple(_moved(old, params, average(step)) for average, old in
                zip(averages, state.ema, strict=True))
    update_norm = optax.tree.norm(updates) if norms else None
    return TrainState(step, params, ema, opt_state, learned), update_norm

  stay = lambda state, gradient: (state, jnp.zeros_like(grad_norm) if norms else None)
  # `cond`, because `where` over the tree would hold and copy both states.
  state, update_norm = jax.lax.cond(finite, move, stay, state, gradient)
  metrics = _metrics(base_value, grad_norm, finite, levels["half_log_snr"], levels["eps_error"])
  if norms:
    metrics = metrics._replace(param_norm=optax.tree.norm(state.params), update_norm=update_norm)
  return state, metrics


def train_steps(
    state: TrainState, key: jax.Array, batches: Any, *, loss: Loss | AdaptiveLoss,
    optimizer: optax.GradientTransformation, averages: tuple[Average, ...], accumulation: int = 1,
    count: jax.Array | int | None = None, norms: bool = False,
) -> tuple[TrainState, Metrics]:
  """K steps in one program: `train_step` scanned over batches with a leading axis K.

  It avoids the host's overhead per step. Do not use it for networks with convolutions on CPU, whose
  weight gradients are several times slower inside a loop.

  Args:
    state, key, loss, optimizer, averages, accumulation, norms: as in `train_step`.
    batches: the argument of `loss.draw`, with leading axes K, n.
    count: number of steps to take, ≤ K. It may be traced, so that one program takes any number.
      None is K.

  Returns:
    The state after the steps, and metrics with a leading axis K, zero for steps not taken.
  """
  def step(state, batch):
    return train_step(state, key, batch, loss=loss, optimizer=optimizer, averages=averages,
                      accumulation=accumulation, norms=norms)

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


def _moved(ema: Params, params: Params, rate: jax.Array) -> Params:
  return jax.tree.map(lambda e, p: e + rate.astype(e.dtype) * (p - e), ema, params)


def _value(value: Callable, params: Params, examples: Any, parts: int) -> jax.Array:
  """The loss of the batch, computed in `parts` parts."""
  if parts == 1:
    return value(params, examples)[0]
  return jnp.mean(jax.lax.map(lambda part: value(params, part)[0], _split(examples, parts)))


def _split(examples: Any, parts: int) -> Any:
  # Part j is examples j, j + parts, …, so that a part is split over devices as the batch is.
  return jax.tree.map(
      lambda a: jnp.swapaxes(a.reshape(-1, parts, *a.shape[1:]), 0, 1), examples)


def _gradient(
    value: Callable, params: Params, examples: Any, parts: int
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Params]:
  """((loss, per-example dict), gradient) of the batch, computed in `parts` parts."""
  gradient = jax.value_and_grad(value, has_aux=True)
  if parts == 1:
    return gradient(params, examples)
  join = lambda a: jnp.swapaxes(a, 0, 1).reshape(-1, *a.shape[2:])

  def add(total, part):
    (mean, levels), slope = gradient(params, part)
    return jax.tree.map(lambda sum_, new: sum_ + new / parts, total, (mean, slope)), levels

  batches = _split(examples, parts)
  # The sum has the dtype of the loss, which may differ from the default one.
  (mean, _), _ = jax.eval_shape(gradient, params, jax.tree.map(lambda a: a[0], batches))
  zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (mean, params))
  (mean, slope), levels = jax.lax.scan(add, zero, batches)
  return (mean, jax.tree.map(join, levels)), slope


def _metrics(
    loss: jax.Array, grad_norm: jax.Array, finite: jax.Array, half_log_snr: jax.Array,
    eps_error: jax.Array,
) -> Metrics:
  # A product with one-hot bins, which is cheaper than a scatter and bitwise reproducible.
  edges = jnp.asarray(LEVEL_EDGES, half_log_snr.dtype)
  level = jnp.searchsorted(edges, half_log_snr)
  member = jax.nn.one_hot(level, len(LEVEL_EDGES) + 1, axis=0, dtype=eps_error.dtype)
  rank = jnp.where(jnp.isfinite(eps_error), eps_error, jnp.inf)
  return Metrics(
      loss, grad_norm, finite, half_log_snr[jnp.argmax(rank)],
      member @ jnp.where(jnp.isfinite(eps_error), eps_error, 0.0), member.sum(1))
