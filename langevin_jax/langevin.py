"""§2, A.1: Langevin dynamics as the identity on a distribution (theory.md#langevin-dynamics).

  dx = s(x) dτ + √2 dW,   s = ∇ log p     (eq. 1, in the time that makes the clock 1)

leaves p unchanged. At finite steps it is discretised; five ways are given here, as numbers of one
update of a state x. The first and third know a noise level σ (any σ > 0 is allowed; that of a
diffused density is the good choice, its score being nearly −(x − αD)/σ² with D constant):

  exact(σ, Λ)     Ornstein–Uhlenbeck with D frozen: bounded for every Λ, first order
  euler(δ)        x + δ s + √(2δ) ξ: first order, unstable for δ ≥ 2 min Var
  midpoint(σ, Λ)  an OU step with D at its middle, which a half step with the D before finds:
                  second order, one score per step
  baoab(h, γ)     with a momentum: second order, and no bias in x where p is Gaussian
  mala(log p, δ)  euler's move, accepted or refused so that p is left exactly as it is

Λ is Langevin time in units of σ², δ is Langevin time itself, h the time of the momentum's motion.
Between scores all are elementwise: a state may have any leading axes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs

Score = Callable[[jax.Array], jax.Array]
# draw(i) is the i-th standard normal ξ of a step, in the state's shape; the same i, the same ξ.
Draw = Callable[[int], jax.Array]


class Discretisation(NamedTuple):
  """One step of Langevin dynamics; pure functions, the noise given by `draw`.

  init(draw, x, score) → what a step carries besides the state.
  step(draw, x, carry, score) → (x, carry).
  """

  init: Callable[[Draw, jax.Array, Score], Any]
  step: Callable[[Draw, jax.Array, Any, Score], tuple[jax.Array, Any]]


class Metropolis(NamedTuple):
  """What `mala` carries: log p and s of the state, and how many of its moves were accepted."""

  log_prob: jax.Array
  score: jax.Array
  accepted: jax.Array


def ornstein_uhlenbeck(
    noise: jax.Array, x: jax.Array, score: jax.Array, sigma: jax.Array | float,
    budget: jax.Array | float,
) -> jax.Array:
  """The identity step in exact OU form: STEP(0, Λ) written with the score (theory.md#step).

    x′ = x + (1 − e^{−Λ}) σ² s + σ √(1 − e^{−2Λ}) ξ

  Args:
    noise, x, score: ξ, the state and s(x), of one shape.
    sigma: the noise level, scalar. budget: Λ ≥ 0, scalar; Λ → ∞ draws afresh around αD = x + σ²s.
  """
  return (x - jnp.expm1(-budget) * sigma**2 * score
          + sigma * jnp.sqrt(-jnp.expm1(-2.0 * budget)) * noise)


def unadjusted(
    noise: jax.Array, x: jax.Array, score: jax.Array, time_step: jax.Array | float
) -> jax.Array:
  """x′ = x + δ s + √(2δ) ξ, Euler–Maruyama of eqs. 1, 2; ξ, x, s of one shape, δ = `time_step`."""
  return x + time_step * score + jnp.sqrt(2.0 * time_step) * noise


def exact(sigma: jax.Array | float, budget: jax.Array | float) -> Discretisation:
  """`ornstein_uhlenbeck` as a discretisation; one score per step, variance bias O(Λ)."""
  _positive(sigma=sigma, budget=budget)

  def step(draw, x, carry, score):
    return ornstein_uhlenbeck(draw(0), x, score(x), sigma, budget), carry

  return Discretisation(lambda draw, x, score: (), step)


def euler(time_step: jax.Array | float) -> Discretisation:
  """`unadjusted` as a discretisation; one score per step, variance bias O(δ)."""
  _positive(time_step=time_step)

  def step(draw, x, carry, score):
    return unadjusted(draw(0), x, score(x), time_step), carry

  return Discretisation(lambda draw, x, score: (), step)


def midpoint(sigma: jax.Array | float, budget: jax.Array | float) -> Discretisation:
  """An OU step whose αD is that of its middle; αD is carried over, so one call per step.

  Half a step with the old αD, the new αD there, and the first half again with the new one (its
  noise kept) before the second. Two half steps with the αD at hand would join into `exact`.
  """
  _positive(sigma=sigma, budget=budget)

  def step(draw, x, old, score):
    half = 0.5 * budget
    # The frozen quantity is αD = x + σ²s, not s: it is what the exact OU step holds fixed.
    middle = ornstein_uhlenbeck(draw(0), x, (old - x) / sigma**2, sigma, half)
    fresh = middle + sigma**2 * score(middle)
    middle = middle - jnp.expm1(-half) * (fresh - old)
    return ornstein_uhlenbeck(draw(1), middle, (fresh - middle) / sigma**2, sigma, half), fresh

  return Discretisation(lambda draw, x, score: x + sigma**2 * score(x), step)


def baoab(time_step: jax.Array | float, friction: jax.Array | float) -> Discretisation:
  """Underdamped Langevin with unit mass, split as B A O A B (Leimkuhler & Matthews 2013).

    dx = q dτ,   dq = s dτ − γ q dτ + √(2γ) dW

    B: q += ½h s(x)   A: x += ½h q   O: q = e^{−γh} q + √(1 − e^{−2γh}) ξ

  One score per step, none at the start: a step's last B and the next one's first are at one x, and
  are done together. Where p is Gaussian x has its exact law for every stable h < 2 min √Var;
  elsewhere the bias is O(h²). At γ = ∞ a step is Langevin time δ = h²/2, and the bias O(δ²).

  Args:
    time_step: h > 0. friction: γ > 0 per unit of time, ∞ allowed.
  """
  _positive(time_step=time_step, friction=friction)

  def step(draw, x, carry, score):
    momentum, owed = carry
    momentum = momentum + 0.5 * time_step * (1.0 + owed) * score(x)
    middle = x + 0.5 * time_step * momentum
    momentum = (jnp.exp(-friction * time_step) * momentum
                + jnp.sqrt(-jnp.expm1(-2.0 * friction * time_step)) * draw(0))
    return middle + 0.5 * time_step * momentum, (momentum, jnp.ones_like(owed))

  # No B is owed by the fresh momentum of the first step.
  return Discretisation(lambda draw, x, score: (draw(0), jnp.zeros((), x.dtype)), step)


def mala(log_prob: Score, time_step: jax.Array | float) -> Discretisation:
  """Metropolis-adjusted Langevin: `unadjusted` moves, kept with probability min(1, e^a).

    a = log p(x′) − log p(x) − ¼ (s + s′)·(2√(2δ) ξ + δ (s + s′))

  which is the logarithm of p(x′) q(x | x′)/(p(x) q(x′ | x)) with nothing cancelling. p stays as it
  is to rounding, whatever `score` the chain is given: a poor one is refused more often. log p must
  be exact: a trapezoid of the score in its place is worse than no refusal at all
  (theory.md#langevin-dynamics).

  Args:
    log_prob: x → log p(x) up to a constant; one number for each example. Its shape says which axes
      of x lead, and each example there is accepted on its own.
    time_step: δ > 0. Best near an acceptance of 0.57 in many dimensions.

  Raises:
    ValueError: log_prob(x) does not have the leading axes of x.
  """
  _positive(time_step=time_step)

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
    gain = 0.25 * jnp.sum(both * (2.0 * jnp.sqrt(2.0 * time_step) * noise + time_step * both),
                          axis=tuple(range(leading, x.ndim)))
    # Φ of one more normal of the example is its uniform number. NaN compares as a refusal.
    uniform = draw(1)[(..., *(0,) * (x.ndim - leading))]
    accept = jax.scipy.special.log_ndtr(uniform) < there.log_prob - here.log_prob - gain
    pick = lambda new, old: jnp.where(
        accept.reshape(*accept.shape, *(1,) * (new.ndim - leading)), new, old)
    return pick(proposal, x), jax.tree.map(pick, there, here)

  return Discretisation(init, step)


def run(
    key: jax.Array, x: jax.Array, score: Score, discretisation: Discretisation, *, steps: int,
    carry: Any = None, trajectory: bool = False,
) -> tuple[jax.Array, Any]:
  """`steps` Langevin steps from x by `jax.lax.scan`, and what the last of them carried.

  Args:
    key: consumed. x: the first state, any shape that `score` accepts.
    score: x → ∇ log p(x), of x's shape.
    carry: of an earlier run that ended at x, to go on from it; made anew where it is not given.
    trajectory: return all states, shape (steps, *x.shape), rather than the last.

  Returns:
    (x or all states, carry). After `mala`, carry.accepted/steps is the acceptance of each example
    where the carry was made anew.

  Raises:
    ValueError: steps < 1.
  """
  if steps < 1:
    raise ValueError(f"steps must be at least 1, got {steps}")
  key_start, key_steps = jax.random.split(key)
  draws = lambda key: lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
  if carry is None:
    carry = discretisation.init(draws(key_start), x, score)

  def body(state, key):
    state = discretisation.step(draws(key), *state, score)
    return state, state[0] if trajectory else None

  (last, carry), states = _programs.scan(body, (x, carry), jax.random.split(key_steps, steps))
  return states if trajectory else last, carry


def chain(
    key: jax.Array, x: jax.Array, score: Score, discretisation: Discretisation, *, steps: int,
    trajectory: bool = False,
) -> jax.Array:
  """The states of `run` alone: the last, or all of shape (steps, *x.shape)."""
  return run(key, x, score, discretisation, steps=steps, trajectory=trajectory)[0]


def _positive(**values: jax.Array | float) -> None:
  for name, value in values.items():
    known = _programs.concrete(value)
    if known is not None and not np.all(known > 0.0):
      raise ValueError(f"{name} must be positive, got {value}")
