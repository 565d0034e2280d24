"""Langevin = forward + reverse on a finite state space, and the finite STEP.

With rates Q(x, y) of a jump x → y of one position and p = p_t, time reversal has the rates

  Q̂(x, y) = Q(y, x) p(y)/p(x) = β π(x_i) R(y),   R(y) = p(x with x_i = y)/p(x)
  R(y) = Σ_a D(a) q(y | a)/q(x_i | a),           D(a) = P(x₀ᵢ = a | x).

G = Q + Q̂ is in detailed balance with p: a Langevin dynamics, and reverse = Langevin − forward.
The family of reverse processes with the same marginals runs from the fewest jumps to any number,

  R_min(x, y) = max(0, Q̂(x, y) − Q(x, y))
  R_η = R_min + η² (Q̂ − R_min) for η ≤ 1,   R_η = Q̂ + (η² − 1)/2 G for η ≥ 1.

References: Campbell et al. 2022 (the corrector G), 2024 (R_min).

At finite size, from α to α′ with h = ℓ′ − ℓ, a budget Λ ≥ 0 and D held fixed, the law of a position
after the step is the STEP of the continuous part, with δ_x for x and 1 − α for σ:

  STEP(h, Λ):  α′ D + (1 − α′) [e^{−Λ} ε̂ + (1 − e^{−Λ}) π],   ε̂ = (δ_x − α D)/(1 − α)

| h, Λ | |
|---|---|
| h < 0, Λ = −h | the forward kernel |
| h = 0, Λ > 0 | a corrector: x₀ ~ D, then a draw of the level again |
| h > 0, Λ = 0 | masked diffusion (Sahoo et al. 2024), discrete flow matching (Gat et al. 2024) |
| h > 0, Λ > 0 | masked noise: remasking (Wang et al. 2025, ReMDM) |

All of it is a law for h ≥ 0. With one D, STEP(h₁, Λ₁) and then STEP(h₂, Λ₂) is
STEP(h₁ + h₂, Λ₁ + Λ₂) exactly.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import _values
from langevin_jax.discrete import paths
from langevin_jax.discrete.paths import Path

__all__ = ["Rates", "Split", "clean_law", "jump_law", "log_ratios", "posterior", "split", "step",
           "unit_rates"]

Rates = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Split(NamedTuple):
  """langevin = forward + reverse. Each maps (x, log_denoised, t) to rates of jumps per unit time.

  x: tokens (..., L). log_denoised: log D as `clean_law` gives it, (..., L, V). The rates are
  (..., L, S), 0 at the present token.
  """

  langevin: Rates
  forward: Rates
  reverse: Rates


def clean_law(x: jax.Array, logits: jax.Array, alpha: jax.Array, sigma: jax.Array, path: Path
              ) -> jax.Array:
  """log D(a), normalised over the values from which the present token can come.

  A token that is not masked under `absorbing` is the clean token, whatever the logits say.

  Args:
    x: tokens (..., L). logits: log D(a) up to a constant for each position, (..., L, V).
    alpha, sigma: α and 1 − α, scalars.
  """
  # At α = 0 as just above it, so that infilling may start with known tokens.
  kernel = paths.kernel(path, jnp.maximum(alpha, jnp.finfo(logits.dtype).tiny), sigma)
  possible = jnp.moveaxis(kernel[:, x] > 0.0, 0, -1)  # (..., L, V)
  # Where every possible value has the logit −∞, the present token itself is the best answer.
  logits = jnp.where(possible, logits, -jnp.inf)
  dead = jnp.all(jnp.isneginf(logits), axis=-1, keepdims=True)
  return jax.nn.log_softmax(jnp.where(dead & possible, 0.0, logits))


def log_ratios(
    x: jax.Array, log_denoised: jax.Array, alpha: jax.Array, sigma: jax.Array, path: Path
) -> jax.Array:
  """log R(y) = log p(x with x_i = y)/p(x) at survival probability α, (..., L, S); 0 at y = x_i."""
  log_q = jnp.log(paths.kernel(path, alpha, sigma))  # (V, S)
  from_a = jnp.moveaxis(log_q[:, x], 0, -1)          # log q(x_i | a), (..., L, V)
  part = jnp.where(jnp.isneginf(log_denoised), -jnp.inf, log_denoised - from_a)
  total = jax.nn.logsumexp(part, axis=-1, keepdims=True)
  padding = jnp.full((*part.shape[:-1], len(path.base) - path.vocabulary), -jnp.inf, part.dtype)
  direct = jnp.log(alpha) + jnp.concatenate([part, padding], axis=-1)
  return jnp.logaddexp(direct, jnp.log(sigma * paths.base_law(path, x, part.dtype)) + total)


def unit_rates(
    x: jax.Array, log_denoised: jax.Array, alpha: jax.Array, sigma: jax.Array, path: Path
) -> tuple[jax.Array, jax.Array]:
  """(Q, Q̂) per unit of ∫β dt = −log α, (..., L, S), 0 at the present token."""
  base = paths.base_law(path, x, log_denoised.dtype)
  away = 1.0 - paths.one_hot(x, path, base.dtype)
  ratios = jnp.exp(log_ratios(x, log_denoised, alpha, sigma, path))
  at_x = _at(base, x)
  back = jnp.where(at_x > 0.0, at_x * ratios, 0.0)
  return away * base, away * back


def _at(law: jax.Array, x: jax.Array) -> jax.Array:
  """law(x_i) of each position, (..., L, 1)."""
  return jnp.take_along_axis(law, x[..., None], axis=-1)


def split(path: Path, stochasticity: float = 1.0) -> Split:
  """Langevin, forward and reverse rates of a path (the equations of the module).

  Args:
    path: the forward process.
    stochasticity: η ≥ 0. 0 is the process of fewest jumps, 1 the time reversal. Under `absorbing`
      all η ≤ 1 are one process, and η > 1 masks again.

  Raises:
    ValueError: η < 0, or no discrete path.
  """
  paths.check_path(path)
  stochasticity = _values.number("stochasticity", stochasticity)
  if not stochasticity >= 0.0:
    raise ValueError(f"stochasticity must be >= 0, got {stochasticity}")

  def of(combine):
    def rates(x, log_denoised, t):
      alpha, sigma = path.clock.alpha(t), path.clock.sigma(t)
      beta = -path.clock.alpha_dot(t) / alpha
      return beta * combine(*unit_rates(x, log_denoised, alpha, sigma, path))

    return rates

  forward, reverse = of(lambda there, back: there), of(
      lambda there, back: reverse_rates(there, back, stochasticity))
  return Split(langevin=lambda *at: forward(*at) + reverse(*at), forward=forward, reverse=reverse)


def reverse_rates(there: jax.Array, back: jax.Array, stochasticity: float) -> jax.Array:
  """R_η from Q and Q̂ (the equations of the module)."""
  square = stochasticity**2
  if square >= 1.0:
    return back + 0.5 * (square - 1.0) * (there + back)
  fewest = jnp.maximum(back - there, 0.0)
  return fewest + square * (back - fewest)


def step(
    x: jax.Array, denoised: jax.Array, alpha_t: jax.Array, sigma_t: jax.Array,
    alpha_s: jax.Array, sigma_s: jax.Array, budget: jax.Array | float, path: Path
) -> jax.Array:
  """The law of each position after STEP(h, Λ), as probabilities (..., L, S).

  Args:
    x: tokens (..., L) at α = alpha_t. denoised: D, probabilities (..., L, V).
    alpha_t, sigma_t, alpha_s, sigma_s: α and 1 − α at the start and at the end; scalars.
    budget: Λ ≥ 0. At sigma_t = 0 the state is taken as clean, and ε̂ as π.
  """
  base = paths.base_law(path, x, denoised.dtype)
  padding = base.shape[-1] - path.vocabulary
  clean = jnp.pad(denoised, [(0, 0)] * (denoised.ndim - 1) + [(0, padding)])
  noise = (paths.one_hot(x, path, denoised.dtype) - alpha_t * clean) / jnp.where(
      sigma_t > 0.0, sigma_t, 1.0)
  kept = jnp.where(sigma_t > 0.0, jnp.exp(-jnp.asarray(budget, denoised.dtype)), 0.0)
  law = alpha_s * clean + sigma_s * (kept * noise + (1.0 - kept) * base)
  return jnp.maximum(law, 0.0)  # what rounding leaves below 0


def posterior(
    x: jax.Array, log_denoised: jax.Array, alpha_t: jax.Array, sigma_t: jax.Array,
    alpha_s: jax.Array, sigma_s: jax.Array, path: Path
) -> jax.Array:
  """Σ_a D(a) q(x_s | x_t, x₀ = a): the time reversal of one position, with the others at rest.

    q(x_s = y | x_t, a) = q(x_t | x_s = y) q(y | a)/q(x_t | a)

  Under `absorbing` it is `step` with Λ = 0.

  Reference: Austin et al. 2021, eqs. 3–4.

  Returns:
    Probabilities (..., L, S).
  """
  base, ratio = paths.base_law(path, x, log_denoised.dtype), alpha_t / alpha_s
  to_x = ratio * paths.one_hot(x, path, base.dtype) + (1.0 - ratio) * _at(base, x)
  # R(y) at the level of s, but relative to p_t(x): Σ_a D(a) q_s(y | a)/q_t(x | a).
  log_q = jnp.log(paths.kernel(path, alpha_t, sigma_t))
  part = jnp.exp(jnp.where(jnp.isneginf(log_denoised), -jnp.inf,
                           log_denoised - jnp.moveaxis(log_q[:, x], 0, -1)))
  return to_x * (part @ paths.kernel(path, alpha_s, sigma_s))


def jump_law(x: jax.Array, rates: jax.Array) -> jax.Array:
  """The law after a leap with constant rates, at most one jump for each position.

    stay with e^{−Σ_y R(y)}, else go to y with probability R(y)/Σ R

  Args:
    x: tokens (..., L). rates: R times the length of the leap, (..., L, S), 0 at x.

  Returns:
    Probabilities (..., L, S).
  """
  total = jnp.sum(rates, axis=-1, keepdims=True)
  share = rates / jnp.where(total > 0.0, total, 1.0)
  return jnp.exp(-total) * jax.nn.one_hot(x, rates.shape[-1], dtype=rates.dtype) + (
      -jnp.expm1(-total) * share)
