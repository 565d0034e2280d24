"""An ODE by an embedded Runge–Kutta pair with error control, in plain JAX.

Tsitouras' 5(4) pair (Tsitouras 2011): seven slopes a step, the last of which is the first of the
next step. With weights b of order 5 and b̂ of order 4, a step of length h is kept where

  h |Σ (b_i − b̂_i) k_i| ≤ tolerance · (1 + max(|y|, |y′|))

in every entry, and the next length is .9 h (error/tolerance)^{−1/5}. A `while` loop runs the steps
that are needed and no more, also under vmap and shard_map. In reverse mode the accepted steps are
recorded and differentiated one by one, with the lengths of steps held fixed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values

__all__ = ["integrate"]

_NODES = np.array([0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0])
_STAGES = np.zeros((7, 7))
_STAGES[1, :1] = [0.161]
_STAGES[2, :2] = [-0.008480655492356989, 0.335480655492357]
_STAGES[3, :3] = [2.8971530571054933, -6.359448489975075, 4.3622954328695815]
_STAGES[4, :4] = [5.325864828439257, -11.748883564062828, 7.49553934288983621,
                  -0.0924950663617552492565]
_STAGES[5, :5] = [5.86145544294642, -12.9209693178471093, 8.15936789857615864,
                  -0.0715849732814009972245, -0.0282690503940683829]
_STAGES[6, :6] = [0.0964607668180652252, 0.01, 0.4798896504144995747752495,
                  1.3790085741037418932, -3.2900695154360806799, 2.3247105240997739824]
_ERROR = np.array([0.00178001105222577714, 0.0008164344596567463, -0.007880878010261985,
                   0.144711007173262952, -0.582357165452555, 0.458082105929186967, -1.0 / 66.0])

Slope = Callable[[list, Any, jax.Array], Any]


class _Loop(NamedTuple):
  """Between two steps. slope: k_1 at `state`. length: of the next step. steps: tried so far."""

  state: Any
  slope: Any
  tau: jax.Array
  length: jax.Array
  steps: jax.Array
  accepted: jax.Array
  record: Any


class _Record(NamedTuple):
  """States, slopes, τ and lengths of the accepted steps, along a leading axis of `max_steps`."""

  state: Any
  tau: jax.Array
  length: jax.Array


def integrate(
    slope: Callable[[Any, jax.Array], Any], state: Any, start: Any, end: Any, *,
    tolerance: Any, max_steps: int,
) -> tuple[Any, jax.Array, jax.Array]:
  """A state moved along d(state)/dτ = slope(state, τ) from start to end, in either direction.

  Args:
    slope: may close over arrays; they are differentiated in reverse mode.
    state: a pytree of arrays of one dtype. start, end: scalars.
    tolerance: of every entry of the state in every step, absolute and relative; > 0.
    max_steps: the most steps, rejected ones included; six calls of `slope` each, and one.

  Returns:
    (state, steps, whether the end was reached); the state is NaN where it was not.
  """
  dtype = jax.tree.leaves(state)[0].dtype
  # `custom_vjp` takes no NumPy array, which a vmapped argument under jit may hold.
  state = jax.tree.map(jnp.copy, state)
  # Twice: what one leaf varies over may reach another in the next step.
  for _ in range(2):
    state = _values.varying_as(state, lambda state: slope(state, jnp.asarray(start, dtype)))
  like = jax.tree.leaves(state)[0]
  scalar = lambda value: _values.varying_like(jnp.asarray(value, dtype), like)
  start, end, tolerance = scalar(start), scalar(end), scalar(tolerance)
  pure, constants = _programs.lifted(slope, state, start)
  state, steps, reached = _solve(
      pure, max_steps, [jnp.asarray(c) for c in constants], state, start, end, tolerance)
  return jax.tree.map(lambda leaf: jnp.where(reached, leaf, jnp.nan), state), steps, reached


def _solution(
    slope: Slope, max_steps: int, constants, state, start, end, tolerance
) -> tuple[Any, jax.Array, jax.Array]:
  last = _run(slope, max_steps, constants, state, start, end, tolerance, record=False)
  return last.state, last.steps, last.tau == end


def _solve_forward(slope: Slope, max_steps: int, constants, state, start, end, tolerance):
  last = _run(slope, max_steps, constants, state, start, end, tolerance, record=True)
  result = last.state, last.steps, last.tau == end
  return result, (constants, last.state, last.record, last.accepted, end)


def _solve_backward(slope: Slope, max_steps: int, residuals, cotangents):
  constants, state, record, accepted, end = residuals
  inexact = [jnp.issubdtype(c.dtype, jnp.inexact) for c in constants]
  moving = [c for c, use in zip(constants, inexact, strict=True) if use]

  def step(moving, state, tau, length):
    values = iter(moving)
    whole = [next(values) if use else c for c, use in zip(constants, inexact, strict=True)]
    return _step(slope, whole, state, slope(whole, state, tau), tau, length).state

  def back(carry):
    i, of_constants, of_state = carry
    at = jax.tree.map(lambda buffer: buffer[i - 1], record)
    _, pull = jax.vjp(lambda moving, state: step(moving, state, at.tau, at.length),
                      moving, at.state)
    more, of_state = pull(of_state)
    return i - 1, jax.tree.map(jnp.add, of_constants, more), of_state

  # The end moves the last state along its slope.
  of_end = _inner(cotangents[0], slope(constants, state, end))
  zeros = jax.tree.map(jnp.zeros_like, moving)
  carry = _values.varying_as((accepted, zeros, cotangents[0]), back)
  _, of_constants, of_state = jax.lax.while_loop(lambda carry: carry[0] > 0, back, carry)
  first = jax.tree.map(lambda buffer: buffer[0], record)
  of_start = -_inner(of_state, slope(constants, first.state, first.tau))
  found = iter(of_constants)
  return [next(found) if use else None for use in inexact], of_state, of_start, of_end, None


_solve = jax.custom_vjp(_solution, nondiff_argnums=(0, 1))
_solve.defvjp(_solve_forward, _solve_backward)


def _inner(a: Any, b: Any) -> jax.Array:
  return sum((jnp.sum(x * y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)),
             start=jnp.zeros(()))


def _run(
    slope: Slope, max_steps: int, constants, state, start, end, tolerance, *, record: bool
) -> _Loop:
  """The loop over steps, from start until the end or `max_steps`."""
  like = jax.tree.leaves(state)[0]
  varying = lambda value: _values.varying_like(value, like)
  buffer = lambda leaf: varying(jnp.zeros((max_steps, *jnp.shape(leaf)), leaf.dtype))
  none = varying(jnp.zeros((), jnp.int32))
  first = _Loop(state, slope(constants, state, start), start, 0.01 * (end - start), none, none,
                jax.tree.map(buffer, _Record(state, start, start)) if record else ())

  def advance(loop: _Loop) -> _Loop:
    remaining = end - loop.tau
    last = jnp.abs(loop.length) >= jnp.abs(remaining)
    length = jnp.where(last, remaining, loop.length)
    trial = _step(slope, constants, loop.state, loop.slope, loop.tau, length)
    ratio = _error_ratio(trial.error, loop.state, trial.state, tolerance)
    keep = ratio <= 1.0  # not where it is NaN
    factor = jnp.clip(0.9 * jnp.maximum(ratio, 1e-10) ** -0.2, 0.2, 10.0)
    factor = jnp.where(jnp.isfinite(ratio), factor, 0.2)
    choose = lambda new, old: jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)
    entry = _Record(loop.state, loop.tau, length)
    noted = jax.tree.map(lambda buffer, now: buffer.at[loop.accepted].set(now),
                         loop.record, entry) if record else ()
    return _Loop(
        choose(trial.state, loop.state), choose(trial.slope, loop.slope),
        jnp.where(keep, jnp.where(last, end, loop.tau + length), loop.tau), length * factor,
        loop.steps + 1, loop.accepted + keep.astype(jnp.int32), noted)

  unfinished = lambda loop: (loop.tau != end) & (loop.steps < max_steps)
  return jax.lax.while_loop(unfinished, advance, _values.varying_as(first, advance))


class _Trial(NamedTuple):
  """The state at the end of a step, the slope there, and the estimate of its error."""

  state: Any
  slope: Any
  error: Any


def _step(slope: Slope, constants, state, first_slope, tau, length) -> _Trial:
  """One step of the pair. A scan over its stages, so that the model is compiled once."""
  dtype = length.dtype
  begin = lambda k: jnp.zeros((7, *k.shape), k.dtype).at[0].set(k)
  moved = lambda weights, slopes: jax.tree.map(
      lambda k: length * sum(weights[j] * k[j] for j in range(7)), slopes)

  def stage(carry, now):
    slopes, _ = carry
    i, weights, node = now
    y = jax.tree.map(jnp.add, state, moved(weights, slopes))
    k = slope(constants, y, tau + node * length)
    return (jax.tree.map(lambda buffer, k: buffer.at[i].set(k), slopes, k), y), None

  table = jnp.arange(1, 7), jnp.asarray(_STAGES[1:], dtype), jnp.asarray(_NODES[1:], dtype)
  (slopes, y), _ = _programs.scan(stage, (jax.tree.map(begin, first_slope), state), table)
  return _Trial(y, jax.tree.map(lambda k: k[6], slopes),
                moved(jnp.asarray(_ERROR, dtype), slopes))


def _error_ratio(error: Any, before: Any, after: Any, tolerance: jax.Array) -> jax.Array:
  """The largest error of any entry, in units of what the tolerance allows: as exact in a batch."""
  # 0 for no entries, of an empty batch.
  ratio = lambda e, a, b: jnp.max(
      jnp.abs(e) / (tolerance * (1.0 + jnp.maximum(jnp.abs(a), jnp.abs(b)))), initial=0.0)
  return jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(ratio, error, before, after))))
