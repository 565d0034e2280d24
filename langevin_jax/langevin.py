"""§2: Langevin dynamics as the identity on a distribution.

  dx = s(x) dτ + √2 dW,   s = ∇ log p     (eq. 1, in the time that makes the clock 1)

leaves p unchanged. At finite steps it is discretised; three ways are given here, as numbers of one
update of a state x whose noise has standard deviation σ (any σ > 0 is allowed; the noise level of
a diffused density is the good choice, its score being nearly −(x − αD)/σ² with D constant):

  exact(σ, Λ)     Ornstein–Uhlenbeck with D frozen: bounded for every Λ, first order
  euler(δ)        x + δ s + √(2δ) ξ: first order, unstable for δ ≥ 2σ²
  midpoint(σ, Λ)  an OU step with D at its middle, which a half step with the D before finds:
                  second order, one score per step

Λ is Langevin time in units of σ², δ is Langevin time itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Score = Callable[[jax.Array], jax.Array]


class Discretisation(NamedTuple):
  """`init(x, score)` makes what a step carries; `step(key, x, carry, score)` → (x, carry)."""

  init: Callable[[jax.Array, Score], Any]
  step: Callable[[jax.Array, jax.Array, Any, Score], tuple[jax.Array, Any]]


def ornstein_uhlenbeck(
    key: jax.Array, x: jax.Array, score: jax.Array, sigma: jax.Array | float,
    budget: jax.Array | float,
) -> jax.Array:
  """The identity step in exact OU form: STEP(0, Λ) written with the score (MATH §1).

    x′ = x + (1 − e^{−Λ}) σ² s + σ √(1 − e^{−2Λ}) ξ

  Args:
    key: consumed.
    x, score: one example and s(x), of one shape.
    sigma: the noise level, scalar. budget: Λ ≥ 0, scalar; Λ → ∞ draws afresh around αD = x + σ²s.
  """
  noise = jax.random.normal(key, x.shape, x.dtype)
  return (x - jnp.expm1(-budget) * sigma**2 * score
          + sigma * jnp.sqrt(-jnp.expm1(-2.0 * budget)) * noise)


def exact(sigma: float, budget: float) -> Discretisation:
  """`ornstein_uhlenbeck` as a discretisation; one score per step, variance bias O(Λ)."""
  _positive(sigma=sigma, budget=budget)
  return Discretisation(
      lambda x, score: (),
      lambda key, x, carry, score: (ornstein_uhlenbeck(key, x, score(x), sigma, budget), carry))


def euler(time_step: float) -> Discretisation:
  """Unadjusted Langevin, x′ = x + δ s(x) + √(2δ) ξ (Euler–Maruyama of eq. 1)."""
  _positive(time_step=time_step)

  def step(key, x, carry, score):
    noise = jax.random.normal(key, x.shape, x.dtype)
    return x + time_step * score(x) + jnp.sqrt(2.0 * time_step) * noise, carry

  return Discretisation(lambda x, score: (), step)


def midpoint(sigma: float, budget: float) -> Discretisation:
  """An OU step whose αD is that of its middle; αD is carried over, so one call per step.

  Half a step with the old αD, the new αD there, and the first half again with the new one (its
  noise kept) before the second. Two half steps with the αD at hand would join into `exact`.
  """
  _positive(sigma=sigma, budget=budget)

  def step(key, x, old, score):
    first, second = jax.random.split(key)
    # The frozen quantity is αD = x + σ²s, not s: it is what the exact OU step holds fixed.
    middle = ornstein_uhlenbeck(first, x, (old - x) / sigma**2, sigma, 0.5 * budget)
    fresh = middle + sigma**2 * score(middle)
    middle = middle - jnp.expm1(-0.5 * budget) * (fresh - old)
    moved = ornstein_uhlenbeck(second, middle, (fresh - middle) / sigma**2, sigma, 0.5 * budget)
    return moved, fresh

  return Discretisation(lambda x, score: x + sigma**2 * score(x), step)


def chain(
    key: jax.Array, x: jax.Array, score: Score, discretisation: Discretisation, *, steps: int,
    trajectory: bool = False,
) -> jax.Array:
  """`steps` identity steps from x by `jax.lax.scan`.

  Args:
    key: consumed. x: the first state, any shape that `score` accepts.
    score: x → ∇ log p(x).
    trajectory: return all states, shape (steps, *x.shape), rather than the last.

  Raises:
    ValueError: steps < 1.
  """
  if steps < 1:
    raise ValueError(f"steps must be at least 1, got {steps}")

  def body(state, key):
    state = discretisation.step(key, *state, score)
    return state, state[0] if trajectory else None

  start = x, discretisation.init(x, score)
  (last, _), states = jax.lax.scan(body, start, jax.random.split(key, steps))
  return states if trajectory else last


def _positive(**values: float) -> None:
  for name, value in values.items():
    if not value > 0.0:
      raise ValueError(f"{name} must be positive, got {value}")
