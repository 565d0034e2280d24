"""The named paths of Tables 1–2 and their relatives, in closed form.

| path | α | σ | ℓ | time of ℓ |
|---|---|---|---|---|
| vp | e^{−t/2} | √(1 − e^{−t}) | −t/2 − ½ log(1 − e^{−t}) | softplus(−2ℓ) |
| linear_vp, sub_vp | the same in B(t) = ∫β; sub_vp has σ = 1 − e^{−B} | | | |
| cosine | cos(πt/2) | sin(πt/2) | −log tan(πt/2) | (2/π) atan e^{−ℓ} |
| ve | 1 | t | −log t | e^{−ℓ} |
| geometric_ve | 1 | σ_min (σ_max/σ_min)^t | −log σ | −(ℓ + log σ_min)/log(σ_max/σ_min) |
| rectified_flow | 1 − s | s | log1p(−s) − log s | sigmoid(−ℓ) |

Factories are memoised: equal arguments give the identical object, and compiled code is reused.
"""

import functools
import math

import jax
import jax.numpy as jnp

from langevin_jax.paths.path import Path, as_float, from_coefficients


@functools.lru_cache
def vp(*, t_max: float = 10.0) -> Path:
  """Variance preserving, Table 1 row 1: dx = −½x dt + dW, α = e^{−t/2}, σ = √(1 − e^{−t})."""
  return from_coefficients(
      lambda t: jnp.exp(-0.5 * t), lambda t: jnp.sqrt(-jnp.expm1(-t)), t_min=0.0, t_max=t_max,
      half_log_snr=lambda t: -0.5 * t - 0.5 * jnp.log(-jnp.expm1(-t)),
      time=lambda ell: jax.nn.softplus(-2.0 * ell),
      drift=lambda t: jnp.full_like(as_float(t), -0.5),
      diffusion=lambda t: jnp.ones_like(as_float(t)))


def _integrated_beta(beta_min: float, beta_max: float):
  """B(t) = ∫₀ᵗβ of β = β_min + (β_max − β_min) t, and t(B), stable as β_max → β_min."""
  if not 0.0 < beta_min <= beta_max:
    raise ValueError(
        f"betas must satisfy 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")
  slope = beta_max - beta_min
  beta = lambda t: beta_min + slope * as_float(t)
  integral = lambda t: as_float(t) * (beta_min + 0.5 * slope * t)
  # Divided through by b: 0 at b = 0 and ∞ at b = ∞, never ∞/∞.
  inverse = lambda b: 2.0 / (beta_min / b + jnp.sqrt((beta_min / b) ** 2 + 2.0 * slope / b))
  return beta, integral, inverse


@functools.lru_cache
def linear_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
  """DDPM's VP: dx = −½βx dt + √β dW, β linear in t ∈ [0, 1] (Song et al. 2021, eq. 32)."""
  beta, integral, inverse = _integrated_beta(beta_min, beta_max)
  base = vp()
  return from_coefficients(
      lambda t: base.alpha(integral(t)), lambda t: base.sigma(integral(t)), t_min=0.0, t_max=1.0,
      half_log_snr=lambda t: base.half_log_snr(integral(t)),
      time=lambda ell: inverse(base.time(ell)),
      drift=lambda t: -0.5 * beta(t), diffusion=lambda t: jnp.sqrt(beta(t)))


@functools.lru_cache
def sub_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
  """sub-VP: α = e^{−B/2}, σ = 1 − e^{−B}, g² = β(1 − e^{−2B}) (Song et al. 2021, eq. 29)."""
  beta, integral, inverse = _integrated_beta(beta_min, beta_max)
  # σ/α = 2 sinh(B/2), hence both directions in closed form.
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
      # A rounded quotient may pass 1, beyond which α would be negative.
      time=lambda ell: jnp.minimum(jnp.arctan(jnp.exp(-ell)) / (0.5 * jnp.pi), 1.0),
      drift=lambda t: -0.5 * jnp.pi * tan(t), diffusion=lambda t: jnp.sqrt(jnp.pi * tan(t)))


@functools.lru_cache
def ve(*, sigma_max: float = 80.0) -> Path:
  """VE-Karras, Table 1 row 2: z = x₀ + σ ε in the time σ itself, dz = √(2σ) dW."""
  return from_coefficients(
      lambda t: jnp.ones_like(as_float(t)),
      as_float, t_min=0.0, t_max=sigma_max,
      half_log_snr=lambda t: -jnp.log(t), time=lambda ell: jnp.exp(-ell),
      drift=lambda t: jnp.zeros_like(as_float(t)),
      diffusion=lambda t: jnp.sqrt(2.0 * t))


@functools.lru_cache
def geometric_ve(*, sigma_min: float = 0.01, sigma_max: float = 80.0) -> Path:
  """VE of NCSN: σ = σ_min (σ_max/σ_min)^t, t ∈ [0, 1] (Song et al. 2021, eq. 30).

  σ(0) = σ_min: the clean end lies at t = −∞, where samplers end.
  """
  if not 0.0 < sigma_min < sigma_max:
    raise ValueError(
        f"sigmas must satisfy 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
  growth, start = math.log(sigma_max / sigma_min), math.log(sigma_min)
  sigma = lambda t: jnp.exp(start + growth * t)
  return from_coefficients(
      lambda t: jnp.ones_like(as_float(t)), sigma, t_min=0.0, t_max=1.0,
      half_log_snr=lambda t: -(start + growth * as_float(t)),
      time=lambda ell: -(ell + start) / growth,
      drift=lambda t: jnp.zeros_like(as_float(t)),
      diffusion=lambda t: math.sqrt(2.0 * growth) * sigma(t))


@functools.lru_cache
def rectified_flow() -> Path:
  """Rectified flow, Table 1 row 3: r = (1 − s) r₀ + s ε, s ∈ [0, 1]."""
  return from_coefficients(
      lambda s: 1.0 - s, as_float, t_min=0.0, t_max=1.0,
      half_log_snr=lambda s: jnp.log1p(-s) - jnp.log(s), time=lambda ell: jax.nn.sigmoid(-ell),
      drift=lambda s: -1.0 / (1.0 - as_float(s)),
      diffusion=lambda s: jnp.sqrt(2.0 * s / (1.0 - as_float(s))))
