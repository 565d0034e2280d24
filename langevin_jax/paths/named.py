"""Named paths in closed form (paper, Tables 1–2; theory.md#paths).

| path | α | σ | ℓ | time of ℓ |
|---|---|---|---|---|
| vp | e^{−t/2} | √(1 − e^{−t}) | −t/2 − ½ log(1 − e^{−t}) | softplus(−2ℓ) |
| linear_vp | vp with t replaced by B(t) = ∫β | | | |
| sub_vp | e^{−B/2} | 1 − e^{−B} | −B/2 − log(1 − e^{−B}) | B = 2 arsinh(½ e^{−ℓ}) |
| cosine | cos(πt/2) | sin(πt/2) | −log tan(πt/2) | (2/π) atan e^{−ℓ} |
| ve | 1 | t | −log t | e^{−ℓ} |
| geometric_ve | 1 | σ_min (σ_max/σ_min)^t | −log σ | −(ℓ + log σ_min)/log(σ_max/σ_min) |
| rectified_flow | 1 − s | s | log1p(−s) − log s | sigmoid(−ℓ) |

Factories are cached: equal arguments give the same object, so that compiled programs are reused.
The betas and sigmas but `sigma_max` of `ve` may be traced (learned); that, as `t_max` of `vp`, is
the noisy end of the path, which must be known.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _programs, _values
from langevin_jax.paths.path import Function, Path, Scalar, as_float, from_coefficients

__all__ = ["cosine", "geometric_ve", "linear_vp", "rectified_flow", "sub_vp", "ve", "vp"]


@_programs.memoised
def vp(*, t_max: float = 10.0) -> Path:
  """Variance preserving (VP; paper, Table 1): dx = −½x dt + dW, α = e^{−t/2}, σ = √(1 − e^{−t})."""
  return from_coefficients(
      lambda t: jnp.exp(-0.5 * t), lambda t: jnp.sqrt(-jnp.expm1(-t)), t_min=0.0, t_max=t_max,
      half_log_snr=lambda t: -0.5 * t - 0.5 * jnp.log(-jnp.expm1(-t)),
      time=lambda ell: jax.nn.softplus(-2.0 * ell),
      drift=lambda t: jnp.full_like(as_float(t), -0.5),
      diffusion=lambda t: jnp.ones_like(as_float(t)))


class _LinearBeta(NamedTuple):
  """β(t) = β_min + (β_max − β_min) t, its integral B(t) = ∫₀ᵗβ, and the inverse t(B)."""

  beta: Function
  integral: Function
  inverse: Function


def _linear_beta(beta_min: float, beta_max: float) -> _LinearBeta:
  beta_min, beta_max = (_values.number(name, value, may_be_traced=True)
                        for name, value in (("beta_min", beta_min), ("beta_max", beta_max)))
  if not _values.is_traced((beta_min, beta_max)) and not 0.0 < beta_min <= beta_max:
    raise ValueError(
        f"betas must satisfy 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")
  slope = beta_max - beta_min

  def inverse(b: Scalar) -> jax.Array:
    # The root of the quadratic, divided by b: 0 at b = 0, ∞ at b = ∞, stable as β_max → β_min.
    return 2.0 / (beta_min / b + jnp.sqrt((beta_min / b) ** 2 + 2.0 * slope / b))

  return _LinearBeta(
      lambda t: beta_min + slope * as_float(t),
      lambda t: as_float(t) * (beta_min + 0.5 * slope * t), inverse)


@_programs.memoised
def linear_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
  """DDPM's VP: dx = −½βx dt + √β dW, β linear in t ∈ [0, 1] (Song et al. 2021, eq. 32).

  Args:
    beta_min, beta_max: β at t = 0 and t = 1.

  Raises:
    ValueError: not 0 < beta_min ≤ beta_max.
  """
  beta, integral, inverse = _linear_beta(beta_min, beta_max)
  base = vp()
  return from_coefficients(
      lambda t: base.alpha(integral(t)), lambda t: base.sigma(integral(t)), t_min=0.0, t_max=1.0,
      half_log_snr=lambda t: base.half_log_snr(integral(t)),
      time=lambda ell: inverse(base.time(ell)),
      drift=lambda t: -0.5 * beta(t), diffusion=lambda t: jnp.sqrt(beta(t)))


@_programs.memoised
def sub_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
  """Sub-VP: α = e^{−B/2}, σ = 1 − e^{−B}, g² = β(1 − e^{−2B}) (Song et al. 2021, eq. 29).

  Args:
    beta_min, beta_max: β at t = 0 and t = 1, linear between.

  Raises:
    ValueError: not 0 < beta_min ≤ beta_max.
  """
  beta, integral, inverse = _linear_beta(beta_min, beta_max)
  # σ/α = 2 sinh(B/2), so B(ℓ) has a closed form.
  return from_coefficients(
      lambda t: jnp.exp(-0.5 * integral(t)), lambda t: -jnp.expm1(-integral(t)),
      t_min=0.0, t_max=1.0,
      half_log_snr=lambda t: -0.5 * integral(t) - jnp.log(-jnp.expm1(-integral(t))),
      time=lambda ell: inverse(2.0 * jnp.arcsinh(0.5 * jnp.exp(-ell))),
      drift=lambda t: -0.5 * beta(t),
      diffusion=lambda t: jnp.sqrt(-beta(t) * jnp.expm1(-2.0 * integral(t))))


@functools.lru_cache
def cosine() -> Path:
  """Cosine VP: α = cos(πt/2), σ = sin(πt/2), t ∈ [0, 1] (Nichol & Dhariwal 2021, no offset)."""
  angle = lambda t: 0.5 * jnp.pi * as_float(t)
  tan = lambda t: jnp.sin(angle(t)) / jnp.sin(angle(1.0 - t))
  return from_coefficients(
      # sin(π(1 − t)/2) is exactly 0 at t = 1, where a rounded cos(π/2) is not.
      lambda t: jnp.sin(angle(1.0 - t)), lambda t: jnp.sin(angle(t)), t_min=0.0, t_max=1.0,
      half_log_snr=lambda t: jnp.log(jnp.sin(angle(1.0 - t))) - jnp.log(jnp.sin(angle(t))),
      # The rounded quotient may exceed 1, where α would be negative.
      time=lambda ell: jnp.minimum(jnp.arctan(jnp.exp(-ell)) / (0.5 * jnp.pi), 1.0),
      drift=lambda t: -0.5 * jnp.pi * tan(t), diffusion=lambda t: jnp.sqrt(jnp.pi * tan(t)))


@_programs.memoised
def ve(*, sigma_max: float = 80.0) -> Path:
  """Variance exploding (VE-Karras; paper, Table 1): z = x₀ + σ ε, dz = √(2σ) dW, with time σ."""
  return from_coefficients(
      lambda t: jnp.ones_like(as_float(t)),
      as_float, t_min=0.0, t_max=sigma_max,
      half_log_snr=lambda t: -jnp.log(t), time=lambda ell: jnp.exp(-ell),
      drift=lambda t: jnp.zeros_like(as_float(t)),
      diffusion=lambda t: jnp.sqrt(2.0 * t))


@_programs.memoised
def geometric_ve(*, sigma_min: float = 0.01, sigma_max: float = 80.0) -> Path:
  """VE of NCSN: σ = σ_min (σ_max/σ_min)^t, t ∈ [0, 1] (Song et al. 2021, eq. 30).

  σ(0) = σ_min. Samplers end at the clean end, t = −∞.

  Args:
    sigma_min, sigma_max: σ at t = 0 and t = 1.

  Raises:
    ValueError: not 0 < sigma_min < sigma_max.
  """
  sigma_min, sigma_max = (_values.number(name, value, may_be_traced=True)
                          for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max)))
  learned = _values.is_traced((sigma_min, sigma_max))
  if not learned and not 0.0 < sigma_min < sigma_max:
    raise ValueError(
        f"sigmas must satisfy 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
  log, root = (jnp.log, jnp.sqrt) if learned else (math.log, math.sqrt)
  growth, start = log(sigma_max / sigma_min), log(sigma_min)
  sigma = lambda t: jnp.exp(start + growth * t)
  return from_coefficients(
      lambda t: jnp.ones_like(as_float(t)), sigma, t_min=0.0, t_max=1.0,
      half_log_snr=lambda t: -(start + growth * as_float(t)),
      time=lambda ell: -(ell + start) / growth,
      drift=lambda t: jnp.zeros_like(as_float(t)),
      diffusion=lambda t: root(2.0 * growth) * sigma(t))


@functools.lru_cache
def rectified_flow() -> Path:
  """Rectified flow (paper, Table 1): r = (1 − s) r₀ + s ε, s ∈ [0, 1]."""
  return from_coefficients(
      lambda s: 1.0 - s, as_float, t_min=0.0, t_max=1.0,
      half_log_snr=lambda s: jnp.log1p(-s) - jnp.log(s), time=lambda ell: jax.nn.sigmoid(-ell),
      drift=lambda s: -1.0 / (1.0 - as_float(s)),
      diffusion=lambda s: jnp.sqrt(2.0 * s / (1.0 - as_float(s))))
