"""The equations of the appendix on the line, as sums over nodes of the library's functions.

Nodes are at unit scale, x/√(α² + σ²), where one set serves every level and path. Derivatives are
automatic. Rates are per unit of the half log-SNR ℓ, which is common to all paths. All functions are
traceable. Names: p, q are mixtures on the line, y (n,) even nodes of `laws.nodes`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import mixtures, predictions, splitting
from langevin_jax.paths import Path

# A model of the score at unit scale, (x (...), ell) → (...), on the line.
Score = Callable[[jax.Array, jax.Array], jax.Array]


class Decay(NamedTuple):
  """KL(p_t‖q_t) in nats, its derivative in t, and −½ g² E‖s_p − s_q‖²; scalars."""

  kl: jax.Array
  slope: jax.Array
  predicted: jax.Array


class Matching(NamedTuple):
  """Losses of each model at one level in units of ε, (models,): DSM = E‖ε − ε̂‖², SM = σ²E‖s − ŝ‖².

  mmse: E‖x₀ − D‖². squared_score: E‖s‖² in the VE frame z = x/α. Both scalars.
  """

  dsm: jax.Array
  sm: jax.Array
  mmse: jax.Array
  squared_score: jax.Array


class Instant(NamedTuple):
  """A path at one time t: α, σ, their derivatives in t, and f, g of its forward SDE; scalars."""

  t: jax.Array
  alpha: jax.Array
  sigma: jax.Array
  alpha_dot: jax.Array
  sigma_dot: jax.Array
  drift: jax.Array
  diffusion: jax.Array

  @property
  def clock(self) -> jax.Array:
    """|ℓ̇| = g²/(2σ²)."""
    return 0.5 * (self.diffusion / self.sigma) ** 2

  def nodes(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nodes of the path's state, and their weight in a sum."""
    scale = jnp.hypot(self.alpha, self.sigma)
    return scale * y, scale * (y[1] - y[0])

  def in_time(self, function: Callable) -> tuple[jax.Array, jax.Array]:
    """A function of (α, σ), and its derivative in t."""
    return jax.jvp(function, (self.alpha, self.sigma), (self.alpha_dot, self.sigma_dot))


def instant(path: Path, t: jax.Array) -> Instant:
  # Derivatives of α and σ themselves: the path's drift and diffusion are tested too.
  (alpha, sigma), dots = jax.jvp(lambda t: (path.alpha(t), path.sigma(t)), (t,),
                                 (jnp.ones_like(t),))
  return Instant(t, alpha, sigma, *dots, path.drift(t), path.diffusion(t))


def kl(log_p: jax.Array, log_q: jax.Array, weight: jax.Array) -> jax.Array:
  """KL(p‖q) = Σ w (p log(p/q) − p + q), a sum of non-negative terms."""
  p = jnp.exp(log_p)
  return jnp.sum(weight * (p * (log_p - log_q) - p + jnp.exp(log_q)))


def decay(p: mixtures.Mixture, q: mixtures.Mixture, now: Instant, y) -> Decay:
  """A.3: d/dt KL(p_t‖q_t) by automatic differentiation (eq. 15) and by eq. 17."""
  x, weight = now.nodes(y)
  value, slope = now.in_time(lambda alpha, sigma: kl(
      p.log_prob(x[:, None], alpha, sigma), q.log_prob(x[:, None], alpha, sigma), weight))
  gap = (p.score(x[:, None], now.alpha, now.sigma) - q.score(x[:, None], now.alpha, now.sigma))
  density = jnp.exp(p.log_prob(x[:, None], now.alpha, now.sigma))
  return Decay(value, slope, -0.5 * now.diffusion**2 * jnp.sum(weight * density * gap[:, 0] ** 2))


def fokker_planck(p: mixtures.Mixture, now: Instant, y) -> jax.Array:
  """A.2: ∫|∂ₜp + ∂ₓ(f x p) − ½ g² ∂ₓ²p| dx per unit of ℓ, 0 if p_t solves the equation."""
  x, weight = now.nodes(y)
  score_of = lambda x: jax.grad(lambda x: p.log_prob(x[None], now.alpha, now.sigma))(x)

  def residual(x):
    """The integrand, with ∂p = p s and ∂²p = p (s′ + s²)."""
    log_p, in_time = now.in_time(lambda alpha, sigma: p.log_prob(x[None], alpha, sigma))
    score, slope = jax.jvp(score_of, (x,), (jnp.ones_like(x),))
    flow = now.drift * (1.0 + x * score) - 0.5 * now.diffusion**2 * (slope + score**2)
    return jnp.exp(log_p) * (in_time + flow)

  return jnp.sum(weight * jnp.abs(jax.vmap(residual)(x))) / now.clock


def langevin_drift(
    p: mixtures.Mixture, sde: splitting.SDE, path: Path, t: jax.Array, beta: jax.Array, y
) -> tuple[jax.Array, jax.Array]:
  """A.1: the rate ∫|∂_τ π| dx of π ∝ p^β under Langevin dynamics with the score of p, and its
  difference from the closed form, in units of the clock H/σ².

    ∂_τ π = −∂ₓ(H s π) + H ∂ₓ²π = H (β − 1)(s′ + β s²) π,   s = ∂ₓ log p
  """
  at = path.alpha(t), path.sigma(t)
  x = jnp.hypot(*at) * y
  score_of = lambda x: p.score(x[None], *at)[0]
  clock = 0.5 * sde.diffusion(t) ** 2
  log_power = beta * p.log_prob(x[:, None], *at)
  mass = jax.nn.softmax(log_power)

  def rate(x):
    drift, outward = jax.jvp(lambda x: sde.drift(x, t, score_of(x)), (x,), (jnp.ones_like(x),))
    score, slope = jax.jvp(score_of, (x,), (jnp.ones_like(x),))
    curved = slope + beta * score**2  # ∂²π/π is β times this, ∂π/π is β s
    return -outward - drift * beta * score + clock * beta * curved, (beta - 1.0) * clock * curved

  measured, closed = jax.vmap(rate)(x)
  mass = mass * path.sigma(t) ** 2 / clock
  return jnp.sum(mass * jnp.abs(measured)), jnp.sum(mass * jnp.abs(measured - closed))


def matching(
    p: mixtures.Mixture, models: tuple[Score, ...], ell: jax.Array, y, x_0, eps
) -> Matching:
  """A.4 at one level ℓ: DSM (over x₀ and ε) and SM (over x) of every model.

  y (n,), x_0 (m,), eps (k,): even nodes for p at unit scale, for the data and for N(0, 1).
  """
  frame = predictions.unit_frame(ell)
  density = jnp.exp(p.log_prob(y[:, None], frame.alpha, frame.sigma)) * (y[1] - y[0])
  exact = p.score(y[:, None], frame.alpha, frame.sigma)[:, 0]
  var = jax.vmap(lambda y: _variance(p.posterior(y[None], frame.alpha, frame.sigma)))(y)
  return Matching(
      jnp.stack([denoising(p, model, ell, x_0, eps) for model in models]),
      jnp.stack([explicit(p, model, ell, y) for model in models]),
      jnp.sum(density * var), jnp.sum(density * exact**2) * frame.alpha**2)


def denoising(p: mixtures.Mixture, model: Score, ell: jax.Array, x_0, eps) -> jax.Array:
  """DSM in units of ε: E‖ε + σ ŝ(αx₀ + σε)‖², a sum over x₀ ~ p and ε."""
  frame = predictions.unit_frame(ell)
  x = frame.alpha * x_0[:, None] + frame.sigma * eps[None, :]
  error = (eps[None, :] + frame.sigma * model(x, ell)) ** 2
  normal = jnp.exp(-0.5 * eps**2) / jnp.sqrt(2.0 * jnp.pi) * (eps[1] - eps[0])
  return (jnp.exp(p.log_prob(x_0[:, None])) * (x_0[1] - x_0[0])) @ error @ normal


def explicit(p: mixtures.Mixture, model: Score, ell: jax.Array, y) -> jax.Array:
  """SM in units of ε: σ² E‖s − ŝ‖² over x ~ p_ℓ."""
  frame = predictions.unit_frame(ell)
  density = jnp.exp(p.log_prob(y[:, None], frame.alpha, frame.sigma)) * (y[1] - y[0])
  exact = p.score(y[:, None], frame.alpha, frame.sigma)[:, 0]
  return frame.sigma**2 * jnp.sum(density * (exact - model(y, ell)) ** 2)


def _variance(posterior: mixtures.Mixture) -> jax.Array:
  mean = posterior.weights @ posterior.means[:, 0]
  return posterior.weights @ (posterior.covariances[:, 0, 0] + (posterior.means[:, 0] - mean) ** 2)


def of_mixture(mixture: mixtures.Mixture) -> Score:
  """The exact score of a mixture on the line, as a model."""
  def score(x, ell):
    frame = predictions.unit_frame(ell)
    return mixture.score(x[..., None], frame.alpha, frame.sigma)[..., 0]

  return score
