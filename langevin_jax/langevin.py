"""Langevin dynamics, the identity on a distribution (paper, §2, A.1; theory.md#langevin-dynamics).

  dx = s(x) dτ + √2 dW,   s = ∇ log p     (paper, eq. 1, with the clock g = 1)

leaves p unchanged. A finite step keeps p approximately. The five discretisations are:

| | update of a state x | error of the law |
|---|---|---|
| `exact(σ, Λ)` | Ornstein–Uhlenbeck (OU) with D frozen | O(Λ), bounded for every Λ |
| `euler(δ)` | x + δ s + √(2δ) ξ | O(δ), unstable for δ ≥ 2 min Var |
| `midpoint(σ, Λ)` | OU with the D of the middle of the step | O(Λ²) |
| `baoab(h, γ)` | underdamped, with a momentum | O(h²), none in x if p is Gaussian |
| `mala(log p, δ)` | the move of `euler` with a Metropolis test | none |

Every one takes one score per step. δ is Langevin time, Λ is Langevin time in units of σ², h is the
time step of the momentum. `exact` and `midpoint` need a noise level σ > 0. That of a diffused
density is a good choice, because its score is near (αD − x)/σ² with D nearly constant. All
operations besides the score are elementwise, so a state may have any leading axes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _programs, _values

__all__ = [
    "Discretisation", "Draw", "Metropolis", "Score", "baoab", "chain", "euler", "exact", "mala",
    "midpoint", "ornstein_uhlenbeck", "run", "unadjusted",
]

Score = Callable[[jax.Array], jax.Array]
# draw(i) is the i-th standard normal noise of a step, in the shape of the state.
Draw = Callable[[int], jax.Array]


class Discretisation(NamedTuple):
  """One step of Langevin dynamics, as pure functions.

  Attributes:
    init: (draw, x, score) → carry, the values that a step passes to the next besides the state.
    step: (draw, x, carry, score) → (x, carry).
  """

  init: Callable[[Draw, jax.Array, Score], Any]
  step: Callable[[Draw, jax.Array, Any, Score], tuple[jax.Array, Any]]


class Metropolis(NamedTuple):
  """The carry of `mala`: log p and s at the state, and the number of accepted moves."""

  log_prob: jax.Array
  score: jax.Array
  accepted: jax.Array


def ornstein_uhlenbeck(
    noise: jax.Array, x: jax.Array, score: jax.Array, sigma: jax.Array | float,
    budget: jax.Array | float,
) -> jax.Array:
  """A Langevin step (paper, eq. 1) in exact OU form: STEP(0, Λ) (theory.md#step).

    x′ = x + (1 − e^{−Λ}) σ² s + σ √(1 − e^{−2Λ}) ξ

  Args:
    noise, x, score: ξ, the state and s(x), of one shape.
    sigma: the noise level, scalar.
    budget: Λ ≥ 0, scalar. Λ → ∞ gives an independent draw around αD = x + σ²s.

  Returns:
    x′, in the shape of x.
  """
  return (x - jnp.expm1(-budget) * sigma**2 * score
          + sigma * jnp.sqrt(-jnp.expm1(-2.0 * budget)) * noise)


def unadjusted(
    noise: jax.Array, x: jax.Array, score: jax.Array, time_step: jax.Array | float
) -> jax.Array:
  """The Euler–Maruyama step x′ = x + δ s + √(2δ) ξ (paper, eqs. 1, 2).

  Args:
    noise, x, score: ξ, the state and s(x), of one shape.
    time_step: δ ≥ 0, scalar.
  """
  return x + time_step * score + jnp.sqrt(2.0 * time_step) * noise


def exact(sigma: jax.Array | float, budget: jax.Array | float) -> Discretisation:
  """The step of `ornstein_uhlenbeck`; error of the variance O(Λ), bounded for every Λ.

  Args:
    sigma: the noise level σ > 0. budget: Λ > 0.
  """
  _values.check_positive(sigma=sigma, budget=budget)

  def step(draw, x, carry, score):
    return ornstein_uhlenbeck(draw(0), x, score(x), sigma, budget), carry

  return Discretisation(lambda draw, x, score: (), step)


def euler(time_step: jax.Array | float) -> Discretisation:
  """The step of `unadjusted`; error of the variance O(δ).

  Args:
    time_step: δ > 0.
  """
  _values.check_positive(time_step=time_step)

  def step(draw, x, carry, score):
    return unadjusted(draw(0), x, score(x), time_step), carry

  return Discretisation(lambda draw, x, score: (), step)


def midpoint(sigma: jax.Array | float, budget: jax.Array | float) -> Discretisation:
  """An OU step that uses the αD of its middle; error of the variance O(Λ²).

  1. Half a step with the αD of the step before.
  2. The new αD at the state reached.
  3. The first half again with the new αD and the same noise, then the second half.

  Args:
    sigma: the noise level σ > 0. budget: Λ > 0.
  """
  _values.check_positive(sigma=sigma, budget=budget)

  def step(draw, x, old, score):
    half = 0.5 * budget
    # The exact OU step freezes αD = x + σ²s, not s.
    middle = ornstein_uhlenbeck(draw(0), x, (old - x) / sigma**2, sigma, half)
    new = middle + sigma**2 * score(middle)
    middle = middle - jnp.expm1(-half) * (new - old)
    return ornstein_uhlenbeck(draw(1), middle, (new - middle) / sigma**2, sigma, half), new

  return Discretisation(lambda draw, x, score: x + sigma**2 * score(x), step)


def baoab(time_step: jax.Array | float, friction: jax.Array | float) -> Discretisation:
  """Underdamped Langevin dynamics with unit mass (Leimkuhler & Matthews 2013).

    dx = q dτ,   dq = s dτ − γ q dτ + √(2γ) dW

    B: q += ½h s(x)   A: x += ½h q   O: q = e^{−γh} q + √(1 − e^{−2γh}) ξ

  A step is B A O A B. The last B of a step and the first B of the next one use the same score, so
  they are applied together: one score per step. If p is Gaussian, x has its exact law for every
  stable h < 2 min √Var; otherwise the error is O(h²). At γ = ∞ a step is Langevin time δ = h²/2.

  Args:
    time_step: h > 0.
    friction: γ > 0 per unit of time, ∞ allowed.
  """
  _values.check_positive(time_step=time_step, friction=friction)

  def step(draw, x, carry, score):
    # `pending` is 1 if the last B of the step before is still to be applied, else 0.
    momentum, pending = carry
    momentum = momentum + 0.5 * time_step * (1.0 + pending) * score(x)
    middle = x + 0.5 * time_step * momentum
    momentum = (jnp.exp(-friction * time_step) * momentum
                + jnp.sqrt(-jnp.expm1(-2.0 * friction * time_step)) * draw(0))
    return middle + 0.5 * time_step * momentum, (momentum, jnp.ones_like(pending))

  return Discretisation(lambda draw, x, score: (draw(0), jnp.zeros((), x.dtype)), step)


def mala(log_prob: Score, time_step: jax.Array | float) -> Discretisation:
  """Metropolis-adjusted Langevin: moves of `unadjusted`, accepted with probability min(1, e^a).

    a = log p(x′) − log p(x) − ¼ (s + s′)·(2√(2δ) ξ + δ (s + s′))

  a is the logarithm of p(x′) q(x | x′)/(p(x) q(x′ | x)), written without cancellation. p is
  invariant to rounding for any `score`; an inexact score is rejected more often. log p must be
  exact: a trapezoid of the score instead makes the law worse than no test
  (theory.md#langevin-dynamics).

  Args:
    log_prob: x → log p(x) up to a constant, one number per example. Its shape defines the leading
      axes of x; each example is accepted separately.
    time_step: δ > 0. In many dimensions an acceptance near 0.57 is best.

  Raises:
    ValueError: the shape of log_prob(x) is not a leading part of the shape of x.
  """
  _values.check_positive(time_step=time_step)

  def init(draw, x, score):
    value = log_prob(x)
    if value.shape != x.shape[:value.ndim]:
      raise ValueError(f"log_prob must return the leading axes of its argument's shape {x.shape}, "
                       f"got {value.shape}")
    return Metropolis(value, score(x), jnp.zeros(value.shape, int))

  def step(draw, x, here, score):
    noise = draw(0)
    proposal = unadjusted(noise, x, here.score, time_step)
    there = Metropolis(log_prob(proposal), score(proposal), here.accepted + 1)
    leading = here.log_prob.ndim
    both = here.score + there.score
    loss = 0.25 * jnp.sum(both * (2.0 * jnp.sqrt(2.0 * time_step) * noise + time_step * both),
                          axis=tuple(range(leading, x.ndim)))
    # Φ of a standard normal is uniform. A comparison with NaN rejects the move.
    normal = draw(1)[(..., *(0,) * (x.ndim - leading))]
    accept = jax.scipy.special.log_ndtr(normal) < there.log_prob - here.log_prob - loss
    pick = lambda new, old: jnp.where(
        accept.reshape(*accept.shape, *(1,) * (new.ndim - leading)), new, old)
    return pick(proposal, x), jax.tree.map(pick, there, here)

  return Discretisation(init, step)


def run(
    key: jax.Array, x: jax.Array, score: Score, discretisation: Discretisation, *, steps: int,
    carry: Any = None, trajectory: bool = False,
) -> tuple[jax.Array, Any]:
  """Runs a number of Langevin steps, which leave p unchanged (paper, §2, A.1).

  Args:
    key: consumed.
    x: the first state, any shape that `score` accepts.
    score: x → ∇ log p(x), in the shape of x.
    discretisation: one of this module.
    steps: number of steps.
    carry: the carry of an earlier run that ended at x, to continue it. None starts anew.
    trajectory: whether to return all states instead of the last one.

  Returns:
    (state, carry), or (states, carry) with states of shape (steps, *x.shape). After `mala`,
    carry.accepted/steps is the acceptance of each example, if the run started anew.

  Raises:
    ValueError: steps < 1.
  """
  steps = _values.count("steps", steps)
  key_start, key_steps = jax.random.split(key)
  draws = lambda key: lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
  if carry is None:
    carry = discretisation.init(draws(key_start), x, score)

  def body(state, key):
    x, carry = discretisation.step(draws(key), state[0], state[1], score)
    return (x, carry), x if trajectory else None

  (last, carry), states = _programs.scan(body, (x, carry), jax.random.split(key_steps, steps))
  return states if trajectory else last, carry


def chain(
    key: jax.Array, x: jax.Array, score: Score, discretisation: Discretisation, *, steps: int,
    trajectory: bool = False,
) -> jax.Array:
  """`run` without the carry: the last state, or all states, (steps, *x.shape)."""
  return run(key, x, score, discretisation, steps=steps, trajectory=trajectory)[0]
