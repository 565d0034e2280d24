"""Sampling methods: STEP at any stochasticity, Euler–Maruyama in a path's own time, Heun.

Every method that calls the model once per step is a linear update x′ = a x + b D + c ξ, whatever
its name; a method is therefore mostly its `plan`, which makes the numbers for all steps in float64
on the host. Wherever an end of a step is infinitely far in ℓ (α = 0, or the clean end) every
method takes STEP there, which is exact: nothing diverges and nothing is biased at the ends.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import splitting
from langevin_jax.paths import Path, on_host

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


class Nodes(NamedTuple):
  """A grid laid on a path: n + 1 values each, float64, noise to data; last (α, σ) = (1, 0)."""

  t: np.ndarray
  alpha: np.ndarray
  sigma: np.ndarray
  half_log_snr: np.ndarray


class Method(NamedTuple):
  """How a sampler moves; pure functions.

  plan(nodes, path) → numbers for the n steps, a pytree of arrays with leading axis n.
  init(x) → what the steps carry besides the state (history; () where there is none).
  step(key, x_t, carry, denoise, numbers) → (x_s, denoised, carry). `key` is one key, or an array
  of keys that gives each leading row of x its own noise.
  """

  plan: Callable[[Nodes, Path], Any]
  init: Callable[[jax.Array], Any]
  step: Callable[[jax.Array, jax.Array, Any, Denoiser, Any], tuple[jax.Array, jax.Array, Any]]


class Linear(NamedTuple):
  """The numbers of x′ = a x + b D(x, t) + c ξ."""

  t: Any
  a: Any
  b: Any
  c: Any


def noise(key: jax.Array, x: jax.Array) -> jax.Array:
  """ξ ~ N(0, I) in the shape of x; a key array of shape (n,) draws each row from its own key."""
  draw = lambda key, x: jax.random.normal(key, x.shape, x.dtype)
  for _ in key.shape:
    draw = jax.vmap(draw)
  return draw(key, x)


def _memoised(default: float):
  """Memoises a factory of one option η, refusing η < 0; a traced η makes a method of its own."""
  def memoise(factory):
    cached = functools.lru_cache(factory)

    @functools.wraps(factory)
    def make(stochasticity=default):
      if isinstance(stochasticity, jax.Array):
        return factory(stochasticity)
      if not callable(stochasticity) and not stochasticity >= 0.0:
        raise ValueError(f"stochasticity must be >= 0, got {stochasticity}")
      return cached(stochasticity)

    return make

  return memoise


@_memoised(default=0.0)
def ddim(stochasticity: splitting.Stochasticity = 0.0) -> Method:
  """STEP(h, η²h) from level to level (MATH §1): 0 is DDIM, 1 the DDPM posterior, any η between.

  One call per step, order 1. For a callable η(ℓ), Λ = ∫η² dℓ.

  Raises:
    ValueError: η < 0.
  """
  def plan(nodes, path):
    return Linear(nodes.t[:-1], *_step_weights(nodes, path, stochasticity))

  return _linear(plan, noisy=not splitting.is_zero(stochasticity))


@_memoised(default=1.0)
def euler_maruyama(stochasticity: splitting.Stochasticity = 1.0) -> Method:
  """Euler–Maruyama of Table 4's reverse process in the path's own time; one call per step.

    x′ = x + δ (−f x + (1 + η²)/2 g² s) + η g √δ ξ,   δ = t − t′

  evaluated as −α̇ D − (σ̇ + η²g²/2σ) ε̂, in which nothing cancels. Poor at big steps wherever g
  is large; `ddim` at the same η solves the linear part exactly.

  Raises:
    ValueError: η < 0.
  """
  def plan(nodes, path):
    t, alpha, sigma, ell = (v[:-1] for v in nodes)
    g, alpha_dot, sigma_dot = on_host(
        jax.vmap(lambda t: (path.diffusion(t), path.alpha_dot(t), path.sigma_dot(t))), t)
    eta = stochasticity
    if callable(stochasticity):
      checked = splitting.checked(stochasticity, path)
      eta = on_host(jax.vmap(lambda ell: jnp.asarray(checked(ell), float)), ell)
    with np.errstate(invalid="ignore", over="ignore"):
      delta = -np.diff(nodes.t)
      per_eps = -delta * (sigma_dot + 0.5 * eta**2 * g**2 / sigma)
      own = (1.0 + per_eps / sigma, -delta * alpha_dot - per_eps * alpha / sigma,
             eta * g * np.sqrt(delta))
      finite = np.isfinite(np.diff(nodes.half_log_snr))
    exact = _step_weights(nodes, path, stochasticity)
    where = jnp.where if isinstance(eta, jax.Array) else np.where
    return Linear(t, *(where(finite, o, e) for o, e in zip(own, exact, strict=True)))

  return _linear(plan, noisy=not splitting.is_zero(stochasticity))


@functools.lru_cache
def euler() -> Method:
  """Euler of the probability-flow ODE ẋ = α̇ D + σ̇ ε̂ in the path's own time (flow sampling)."""
  return euler_maruyama(0.0)


class _Second(NamedTuple):
  """Churn x̂ = m x + c ξ, predictor a x̂ + b D₁, corrector a x̂ + b_1 D₁ + b_2 D₂ at t_s."""

  m: Any
  c: Any
  t: Any
  a: Any
  b: Any
  b_1: Any
  b_2: Any
  t_s: Any
  corrects: Any


@functools.lru_cache
def heun(
    churn: float = 0.0, *, churn_min: float = 0.0, churn_max: float = np.inf,
    noise_scale: float = 1.0,
) -> Method:
  """Heun in ρ with EDM's churn (Karras et al. 2022, algorithm 2); order 2 without churn.

  Each step first adds noise, ρ̂ = ρ(1 + γ) with γ = min(churn/n, √2 − 1) for ρ in
  [churn_min, churn_max], then takes a trapezoidal step of dz/dρ = ε̂. The step to the clean end,
  and one from ρ = ∞, is STEP with one call: 2n − 1 calls in all.

  Raises:
    ValueError: negative churn or noise_scale.
  """
  if churn < 0.0 or noise_scale < 0.0:
    raise ValueError(f"churn and noise_scale must be >= 0, got {churn} and {noise_scale}")

  def plan(nodes, path):
    rho = np.exp(-nodes.half_log_snr)
    inside = (rho[:-1] >= churn_min) & (rho[:-1] <= churn_max) & np.isfinite(rho[:-1])
    gamma = np.where(inside, min(churn / (len(rho) - 1), np.sqrt(2.0) - 1.0), 0.0)
    hat = lay(np.append(rho[:-1] * (1.0 + gamma), 0.0), path)
    rho_hat = np.exp(-hat.half_log_snr)
    with np.errstate(invalid="ignore", divide="ignore"):
      churned = gamma > 0.0
      m = np.where(churned, hat.alpha[:-1] / nodes.alpha[:-1], 1.0)
      added = np.sqrt(np.maximum(rho_hat[:-1] ** 2 - rho[:-1] ** 2, 0.0))
      c = np.where(churned, hat.alpha[:-1] * noise_scale * added, 0.0)
      r = rho[1:] / rho_hat[:-1]
      b_1, b_2 = 0.5 * (1.0 - r) * (2.0 - 1.0 / r), 0.5 * (1.0 / r - 1.0)
    a, b, _ = on_host(splitting.weights, hat.alpha[:-1], hat.sigma[:-1],
                      nodes.alpha[1:], nodes.sigma[1:], np.zeros(len(r)))
    corrects = np.isfinite(rho_hat[:-1]) & (rho[1:] > 0.0)
    alpha_s = nodes.alpha[1:]
    return _Second(
        m, c, hat.t[:-1], a, b, np.where(corrects, alpha_s * b_1, 0.0),
        np.where(corrects, alpha_s * b_2, 0.0), np.where(corrects, nodes.t[1:], 0.0), corrects)

  def step(key, x_t, carry, denoise, n):
    x_hat = n.m * x_t + n.c * noise(key, x_t) if churn > 0.0 else x_t
    denoised = denoise(x_hat, n.t)
    predicted = n.a * x_hat + n.b * denoised

    def correct(predicted):
      return n.a * x_hat + n.b_1 * denoised + n.b_2 * denoise(predicted, n.t_s)

    return jax.lax.cond(n.corrects, correct, lambda x: x, predicted), denoised, carry

  return Method(plan, lambda x: (), step)


def lay(rho: np.ndarray, path: Path) -> Nodes:
  """The grid ρ on a path, in float64; levels that a path does not reach become its end.

  ρ = 0 is the data itself, (α, σ) = (1, 0), also for a path that stops short of it.
  """
  with np.errstate(divide="ignore"):
    ell = -np.log(rho)

  def at(ell):
    t = path.time(ell)
    return t, path.alpha(t), path.sigma(t), path.half_log_snr(t)

  nodes = Nodes(*on_host(jax.vmap(at), ell))
  clean = rho == 0.0
  return Nodes(nodes.t, np.where(clean, 1.0, nodes.alpha), np.where(clean, 0.0, nodes.sigma),
               np.where(clean, np.inf, nodes.half_log_snr))


def _linear(plan, *, noisy: bool) -> Method:
  def step(key, x_t, carry, denoise, n):
    denoised = denoise(x_t, n.t)
    x_s = n.a * x_t + n.b * denoised
    return (x_s + n.c * noise(key, x_t) if noisy else x_s), denoised, carry

  return Method(plan, lambda x: (), step)


def _step_weights(nodes: Nodes, path: Path, stochasticity) -> tuple:
  """(a, b, c) of STEP(h, ∫η² dℓ) between neighbours."""
  levels = (nodes.alpha[:-1], nodes.sigma[:-1], nodes.alpha[1:], nodes.sigma[1:])
  ell = nodes.half_log_snr
  if callable(stochasticity):
    return on_host(splitting.weights, *levels, _integral(stochasticity, ell, path))
  if isinstance(stochasticity, jax.Array):
    # A finite stand-in for an infinite step keeps η = 0 from making 0·∞.
    h = jnp.asarray(np.minimum(np.diff(ell), 1e30), float)
    return splitting.weights(*(jnp.asarray(v, float) for v in levels), stochasticity**2 * h)
  splitting.checked(stochasticity, path)
  # 0·∞: the ODE step takes no noise however long it is.
  budget = np.zeros(len(ell) - 1) if stochasticity == 0 else stochasticity**2 * np.diff(ell)
  return on_host(splitting.weights, *levels, budget)


def _integral(stochasticity, ell: np.ndarray, path: Path) -> np.ndarray:
  """∫η² dℓ over each step by 16-point Gauss–Legendre.

  An infinite step has Λ = ∞, or 0 where η vanishes at its finite end: from α = 0 the state is pure
  noise whatever Λ, and at the clean end no noise is left.
  """
  eta = splitting.checked(stochasticity, path)
  nodes, weights = np.polynomial.legendre.leggauss(16)
  low, high = ell[:-1], ell[1:]
  infinite = ~np.isfinite(high - low)
  finite_end = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
  low, high = (np.where(infinite, finite_end, v) for v in (low, high))
  middle, half = 0.5 * (low + high), 0.5 * (high - low)
  squared = on_host(
      jax.vmap(jax.vmap(lambda ell: jnp.asarray(eta(ell), float) ** 2)),
      middle[:, None] + half[:, None] * nodes)
  return np.where(infinite, np.where(squared[:, 0] > 0.0, np.inf, 0.0), half * (squared @ weights))
