"""Averages of the parameters over training, kept while it runs and made of any length afterwards.

A running average is a rate: ema′ = ema + rate(step) (params − ema). What it counts the parameters
of each step is its profile. Profiles that are power functions, stored now and then, add up to
almost any other: post-hoc EMA (Karras et al. 2024, "Analyzing and Improving the Training Dynamics
of Diffusion Models", §3). Rates are for jax; profiles are the host's, NumPy in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# From the number of steps done, from 1 on, to the share of the newest parameters.
Average = Callable[[jax.Array], jax.Array]

# The widest power function is the mean of all steps, γ = 0.
MAX_RELATIVE_STD = 12**-0.5


def half_life(steps: float) -> Average:
  """A parameter's share has halved after `steps`: rate = 1 − 2^{−1/steps}.

  Early on a tenth of the steps so far is used where that is less, so that the start is soon
  forgotten.
  """
  def rate(step):
    life = jnp.minimum(steps, 0.1 * step.astype(float))
    return -jnp.expm1(-jnp.log(2.0) / life)

  return rate


def power_function(relative_std: float) -> Average:
  """A profile p(τ) ∝ τᵞ (Karras et al. 2024, §3.1): rate = 1 − (1 − 1/step)^{γ+1}.

  Its width is `relative_std` of the training so far, at every step of it. The parameters of step k
  count (k^{γ+1} − (k−1)^{γ+1}) / step^{γ+1}, the initial ones nothing.

  Args:
    relative_std: σ_rel in (0, 12^{−1/2}], where the limit is the mean of all steps.

  Raises:
    ValueError: relative_std outside of it.
  """
  power = exponent(relative_std) + 1.0
  return lambda step: -jnp.expm1(power * jnp.log1p(-1.0 / step.astype(float)))


def exponent(relative_std: float) -> float:
  """γ of the power function of width σ_rel, the largest root of σ_rel² (γ+2)² (γ+3) = γ + 1.

  Raises:
    ValueError: relative_std outside (0, 12^{−1/2}].
  """
  if not 0.0 < relative_std <= MAX_RELATIVE_STD:
    raise ValueError(f"relative_std must lie in (0, {MAX_RELATIVE_STD:.4f}], from the newest "
                     f"parameters to the mean of all steps; got {relative_std}")
  square = float(relative_std)**-2
  return max(np.roots([1.0, 7.0, 16.0 - square, 12.0 - square]).real.max(), 0.0)


def relative_std(exponent: float) -> float:
  """σ_rel = (γ+1)^{1/2} (γ+2)^{−1} (γ+3)^{−1/2}: a profile's standard deviation, of its length."""
  return np.sqrt((exponent + 1.0) / (exponent + 3.0)) / (exponent + 2.0)


def density(time: np.ndarray, step: np.ndarray, exponent: np.ndarray) -> np.ndarray:
  """p(τ) = (γ+1) τᵞ / step^{γ+1} on (0, step], 0 outside; arguments broadcast.

  On (k−1, k] its integral is exactly what `power_function` counts the parameters of step k.
  """
  inside = (time > 0.0) & (time <= step)
  ratio = np.where(inside, time / step, 1.0)
  return np.where(inside, (exponent + 1.0) / step * ratio**exponent, 0.0)


def inner_product(
    step_a: np.ndarray, exponent_a: np.ndarray, step_b: np.ndarray, exponent_b: np.ndarray
) -> np.ndarray:
  """∫ p_a p_b dτ of power functions that end at different steps; arguments broadcast.

    (γ_a+1)(γ_b+1)/(γ_a+γ_b+1) (early/late)^γ / late,   γ that of the later

  No power is of anything above 1: any length of run and any γ are safe.
  """
  early, late = np.minimum(step_a, step_b), np.maximum(step_a, step_b)
  of_later = np.where(step_a <= step_b, exponent_b, exponent_a)
  factor = (exponent_a + 1.0) * (exponent_b + 1.0) / (exponent_a + exponent_b + 1.0)
  return factor * (early / late)**of_later / late


def shares(average: Average, steps: int) -> np.ndarray:
  """What a running average counts the parameters after each step, (steps + 1,), summing to 1.

    share_k = rate_k ∏_{j>k} (1 − rate_j),   share_0 = ∏_j (1 − rate_j) for the initial parameters
  """
  rate = np.asarray(average(jnp.arange(1, steps + 1)), np.float64)
  with np.errstate(divide="ignore"):  # a rate of 1 forgets everything before
    kept = np.cumsum(np.log1p(-rate)[::-1])[::-1]
  after = np.exp(np.append(kept, 0.0))
  return after * np.insert(rate, 0, 1.0)


class Profile(NamedTuple):
  """An average as a density p(τ) over training time, (0, step].

  squared: ∫ p² dτ. overlap: (steps, exponents), (n,) each → ∫ p p_i dτ, (n,), with the power
  functions that end there.
  """

  step: int
  squared: float
  overlap: Callable[[np.ndarray, np.ndarray], np.ndarray]


def power_profile(relative_std: float, step: int) -> Profile:
  """That of `power_function(relative_std)` at `step`; raises ValueError as it does."""
  own = exponent(relative_std)
  return Profile(step, float(inner_product(step, own, step, own)),
                 lambda steps, exponents: inner_product(step, own, steps, exponents))


def running_profile(average: Average, step: int) -> Profile:
  """That of any running average at `step`: its share of step k, spread over (k−1, k].

  The initial parameters' share, next to nothing for averages of this file, is left out.
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
  """weights: (n,), what each snapshot counts, summing to 1. residual: ‖Σ wᵢ pᵢ − p‖ / ‖p‖ in L²."""

  weights: np.ndarray
  residual: float


def reconstruct(
    steps: np.ndarray, relative_stds: np.ndarray, target: Profile
) -> Reconstruction:
  """The weights of snapshots, by least squares, whose sum is nearest to an average never kept.

    min_w ∫ (Σ wᵢ pᵢ − p)² dτ   with   Σ wᵢ = 1

  (Karras et al. 2024, §3.2; and here with a total of 1, so that parameters that stand still are
  reproduced exactly and an error is one of their movement alone.)

  Args:
    steps: (n,), at which each snapshot was taken, from 1 to the target's.
    relative_stds: (n,), σ_rel of the power function that it is of.
    target: a profile, which may end before the run does.

  Raises:
    ValueError: no snapshot, steps outside of [1, target.step], or a relative_std out of range.
  """
  steps = np.asarray(steps, np.int64)
  if not steps.size or steps.min() < 1 or steps.max() > target.step:
    raise ValueError(f"steps must hold some of 1 … {target.step}, where the target ends; got "
                     f"{steps.tolist()}")
  exponents = np.array([exponent(std) for std in relative_stds])
  gram = inner_product(steps[:, None], exponents[:, None], steps, exponents) / target.squared
  overlap = target.overlap(steps, exponents) / target.squared
  one = np.ones((len(steps), 1))
  # Lagrange's conditions; lstsq, as snapshots a few steps apart are nearly the same.
  solved = np.linalg.lstsq(np.block([[gram, one], [one.T, np.zeros((1, 1))]]),
                           np.append(overlap, 1.0))[0]
  weights = solved[:-1]
  squared = 1.0 - 2.0 * weights @ overlap + weights @ gram @ weights
  return Reconstruction(weights, float(np.sqrt(max(squared, 0.0))))
