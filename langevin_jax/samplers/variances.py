"""Ancestral sampling with the variances of DDPM: fixed small, fixed large, or learned."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from langevin_jax import _programs
from langevin_jax.paths import Path
from langevin_jax.samplers.levels import Level, Method
from langevin_jax.samplers.linear import Numbers
from langevin_jax.samplers.multisteps import ddim

Variance = Literal["small", "large", "learned"]


__all__ = ["ddpm"]


class _Ancestral(NamedTuple):
  """The numbers of STEP(h, h), and the ratio of standard deviations √(β/β̃) = σ/σ′; (n,) each."""

  step: Numbers
  ratio: Any


@_programs.memoised
def ddpm(variance: Variance = "small") -> Method:
  """Ancestral sampling (Ho et al. 2020, algorithm 2): the mean of STEP(h, h), with three variances.

  | variance | of the noise of a step, at unit scale |
  |---|---|
  | "small" | β̃ = σ′² (1 − e^{−2h}), that of the posterior given x₀: `ddim(1)` |
  | "large" | β = σ² (1 − e^{−2h}), that of the forward kernel |
  | "learned" | β^v β̃^{1−v} (Nichol & Dhariwal 2021, eq. 15) |

  The step to the clean end adds none. "small" is exact for data that are one point, "large" for
  data that are white noise. "learned" needs a denoiser that returns (D, v), two arrays in the shape
  of the state.

  Raises:
    ValueError: an unknown variance; when sampling, a "learned" one without v, or within a corrector
      or an inpainter.
  """
  if variance not in get_args(Variance):
    raise ValueError(f"variance must be one of {', '.join(get_args(Variance))}, got {variance!r}")
  small = ddim(1.0)
  if variance == "small":
    return small

  def plan(levels: Level, path: Path) -> _Ancestral:
    sigma, after = levels.sigma[:-1], levels.sigma[1:]
    noisy = after > 0.0
    ratio = np.where(noisy, sigma / np.where(noisy, after, 1.0), 1.0)
    return _Ancestral(small.plan(levels, path), ratio)

  def step(draw, x, carry, model, n):
    output = model(x, n.step.level)
    if variance == "large":
      denoised, widened = output, n.ratio
    elif isinstance(output, tuple) and len(output) == 2:
      denoised, widened = output[0], n.ratio ** output[1]
    else:
      raise ValueError("learned variances need a denoiser that returns (D, v), and a method that "
                       "is not within a corrector or an inpainter")
    x_s = n.step.a * x + n.step.b[0] * denoised + n.step.c * widened * draw(0)
    return x_s, denoised, carry

  return Method(plan, lambda x: (), step, 1.0, takes_pairs=variance == "learned")
