"""Averages of the parameters over training, during the run and post hoc.

A running average is given by its rate: ema′ = ema + rate(step) (params − ema). Its profile is the
weight that it gives to the parameters of each step. Snapshots of averages whose profiles are power
functions combine linearly to almost any other profile: post-hoc EMA (Karras et al. 2024,
"Analyzing and Improving the Training Dynamics of Diffusion Models", §3). Rates are JAX functions;
profiles are computed on the host by NumPy in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "MAX_RELATIVE_STD", "Average", "Profile", "Reconstruction", "density", "exponent",
    "half_life", "inner_product", "power_function", "power_profile", "reconstruct",
    "relative_std", "running_profile", "shares",
]

# The number of steps done, ≥ 1 → the weight of the newest parameters.
Average = Callable[[jax.Array], jax.Array]

# The widest power function is the mean of all steps, γ = 0.
MAX_RELATIVE_STD = 12**-0.5


def half_life(steps: float) -> Average:
  """Exponential average, rate = 1 − 2^{−1/L}: weights halve every L steps.

  L is `steps`, or a tenth of the steps so far if that is less, so that the initial parameters are
  forgotten soon.

  Args:
    steps: the half-life in steps.
  """
  def rate(step):
    life = jnp.minimum(steps, 0.1 * step.astype(float))
    return -jnp.expm1(-jnp.log(2.0) / life)

  return rate


def power_function(relative_std: float) -> Average:
  """Average with the profile p(τ) ∝ τᵞ, rate = 1 − (1 − 1/step)^{γ+1} (Karras et al. 2024, §3.1).

  At each step the standard deviation of the profile is `relative_std` times the length of training
  so far. The parameters of step k have the weight (k^{γ+1} − (k−1)^{γ+1})/step^{γ+1}; the initial
  parameters have none.

  Args:
    relative_std: σ_rel in (0, 12^{−1/2}]. The upper limit is the mean of all steps.

  Raises:
    ValueError: relative_std outside (0, 12^{−1/2}].
  """
  power = exponent(relative_std) + 1.0
  return lambda step: -jnp.expm1(power * jnp.log1p(-1.0 / step.astype(float)))


def exponent(relative_std: float) -> float:
  """γ of the power function with a given σ_rel: the largest root of σ_rel² (γ+2)² (γ+3) = γ + 1.

  Raises:
    ValueError: relative_std outside (0, 12^{−1/2}].
  """
  if not 0.0 < relative_std <= MAX_RELATIVE_STD:
    raise ValueError(f"relative_std must lie in (0, {MAX_RELATIVE_STD:.4f}], from the newest "
                     f"parameters to the mean of all steps; got {relative_std}")
  square = float(relative_std)**-2
  return max(np.roots([1.0, 7.0, 16.0 - square, 12.0 - square]).real.max(), 0.0)


def relative_std(exponent: float) -> float:
  """σ_rel = (γ+1)^{1/2} (γ+2)^{−1} (γ+3)^{−1/2}, the standard deviation of p(τ) over its length."""
  return np.sqrt((exponent + 1.0) / (exponent + 3.0)) / (exponent + 2.0)


def density(time: np.ndarray, step: np.ndarray, exponent: np.ndarray) -> np.ndarray:
  """p(τ) = (γ+1) τᵞ/step^{γ+1} on (0, step], 0 outside; arguments broadcast.

  Its integral over (k−1, k] is the weight that `power_function` gives to the parameters of step k.
  """
  inside = (time > 0.0) & (time <= step)
  ratio = np.where(inside, time / step, 1.0)
  return np.where(inside, (exponent + 1.0) / step * ratio**exponent, 0.0)


def inner_product(
    step_a: ArrayLike, exponent_a: ArrayLike, step_b: ArrayLike, exponent_b: ArrayLike
) -> np.ndarray:
  """∫ p_a p_b dτ of two power functions that end at steps a and b; arguments broadcast.

    (γ_a+1)(γ_b+1)/(γ_a+γ_b+1) (early/late)^γ/late,   γ that of the profile that ends later

  The base of the power is at most 1, so nothing overflows.
  """
  step_a, exponent_a, step_b, exponent_b = (
      np.asarray(v) for v in (step_a, exponent_a, step_b, exponent_b))
  early, late = np.minimum(step_a, step_b), np.maximum(step_a, step_b)
  of_later = np.where(step_a <= step_b, exponent_b, exponent_a)
  factor = (exponent_a + 1.0) * (exponent_b + 1.0) / (exponent_a + exponent_b + 1.0)
  return factor * (early / late)**of_later / late


def shares(average: Average, steps: int) -> np.ndarray:
  """The weights that a running average gives to the parameters after each step.

    share_k = rate_k ∏_{j>k} (1 − rate_j),   share_0 = ∏_j (1 − rate_j) for the initial parameters

  Returns:
    (steps + 1,), summing to 1.
  """
  rate = np.asarray(average(jnp.arange(1, steps + 1)), np.float64)
  with np.errstate(divide="ignore"):  # log 0 at a rate of 1
    kept = np.cumsum(np.log1p(-rate)[::-1])[::-1]
  after = np.exp(np.append(kept, 0.0))
  return after * np.insert(rate, 0, 1.0)


class Profile(NamedTuple):
  """An average as a density p(τ) on the training time (0, step].

  Attributes:
    step: its end.
    squared: ∫ p² dτ.
    overlap: (steps (n,), exponents (n,)) → ∫ p p_i dτ, (n,), with the power functions p_i of these
      exponents that end at these steps.
  """

  step: int
  squared: float
  overlap: Callable[[np.ndarray, np.ndarray], np.ndarray]


def power_profile(relative_std: float, step: int) -> Profile:
  """The profile of `power_function(relative_std)` at `step`.

  Raises:
    ValueError: relative_std outside (0, 12^{−1/2}].
  """
  gamma = exponent(relative_std)
  return Profile(step, float(inner_product(step, gamma, step, gamma)),
                 lambda steps, exponents: inner_product(step, gamma, steps, exponents))


def running_profile(average: Average, step: int) -> Profile:
  """The profile of a running average at `step`: its weight of step k, spread evenly over (k−1, k].

  The weight of the initial parameters is left out. It is negligible for the averages of this file.
  """
  share = shares(average, step)[1:]
  k = np.arange(1.0, step + 1.0)

  def overlap(steps, exponents):
    # ∫ p_i over (k−1, k] = (k/t)^{γ+1} (1 − (1 − 1/k)^{γ+1})
    with np.errstate(divide="ignore"):
      mass = lambda t, power: (k[:t] / t)**power * -np.expm1(power * np.log1p(-1.0 / k[:t]))
      return np.array([share[:t] @ mass(t, power + 1.0)
                       for t, power in zip(steps, exponents, strict=True)])

  return Profile(step, float(share @ share), overlap)


class Reconstruction(NamedTuple):
  """A linear combination of snapshots.

  Attributes:
    weights: (n,), one per snapshot, summing to 1.
    residual: ‖Σ wᵢ pᵢ − p‖/‖p‖ in L².
  """

  weights: np.ndarray
  residual: float


def reconstruct(
    steps: np.ndarray, relative_stds: np.ndarray, target: Profile
) -> Reconstruction:
  """The linear combination of snapshots that approximates an average that was not stored.

    min_w ∫ (Σ wᵢ pᵢ − p)² dτ   subject to   Σ wᵢ = 1

  This is Karras et al. 2024, §3.2, with the constraint added. It makes the combination exact for
  parameters that do not change.

  Args:
    steps: (n,), the step of each snapshot, from 1 to target.step.
    relative_stds: (n,), σ_rel of the power function of each snapshot.
    target: the profile p. It may end before the run does.

  Raises:
    ValueError: no snapshot, steps outside [1, target.step], or a relative_std out of range.
  """
  steps = np.asarray(steps, np.int64)
  if not steps.size or steps.min() < 1 or steps.max() > target.step:
    raise ValueError(f"steps must hold some of 1 … {target.step}, where the target ends; got "
                     f"{steps.tolist()}")
  exponents = np.array([exponent(std) for std in relative_stds])
  gram = inner_product(steps[:, None], exponents[:, None], steps, exponents) / target.squared
  overlap = target.overlap(steps, exponents) / target.squared
  one = np.ones((len(steps), 1))
  # The Lagrange conditions. `lstsq`, because snapshots of near steps are nearly equal.
  solved = np.linalg.lstsq(np.block([[gram, one], [one.T, np.zeros((1, 1))]]),
                           np.append(overlap, 1.0))[0]
  weights = solved[:-1]
  squared = 1.0 - 2.0 * weights @ overlap + weights @ gram @ weights
  return Reconstruction(weights, float(np.sqrt(max(squared, 0.0))))
