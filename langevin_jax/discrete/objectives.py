"""The loss on a finite state space: the rate at which KL(data‖model) falls.

With R(y | x₀) = q(y | x₀)/q(x_t | x₀) and R̂ the ratios of the model (`splitting.log_ratios`), the
negative log-likelihood is bounded by the prior term, the integral of

  rate(ℓ) = (1 − α) Σ_i π(x_i) Σ_{y ≠ x_i} [R log(R/R̂) − R + R̂]   per unit of ℓ = log(α/(1 − α)),

in expectation over x_t ~ q(x_t | x₀), and the reconstruction at the last level. It is a sum of
Bregman divergences of rates, the discrete form of eq. A.3. Under `absorbing` it is masked
cross-entropy,

  rate(ℓ) = α Σ_{i masked} −log D(x₀ᵢ)

(Sahoo et al. 2024), and the integral depends on the schedule through its ends alone. Under
`uniform` it is the score entropy of Lou et al. 2024. With the exact D the bound is the entropy.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, objectives
from langevin_jax import paths as continuous
from langevin_jax.discrete import paths, splitting
from langevin_jax.discrete import samplers as samplers_lib
from langevin_jax.discrete.paths import Path
from langevin_jax.samplers import grids

__all__ = ["Corruption", "bits_per_token", "corrupted_loss", "corruption", "elbo",
           "importance_weighted", "loss", "rate"]


def rate(
    x_t: jax.Array, x_0: jax.Array, log_denoised: jax.Array, alpha: jax.Array, sigma: jax.Array,
    path: Path
) -> jax.Array:
  """rate(ℓ) of the module for one draw x_t, in nats per unit of ℓ.

  Args:
    x_t, x_0: tokens (..., L). log_denoised: log D (..., L, V), as `splitting.clean_law` gives it.
    alpha, sigma: α and 1 − α, scalars.

  Returns:
    The sum over positions, (...).
  """
  if path.mask is not None:
    at_clean = jnp.take_along_axis(log_denoised, x_0[..., None], axis=-1)[..., 0]
    return alpha * jnp.sum(jnp.where(x_t == path.mask, -at_clean, 0.0), axis=-1)
  q = paths.kernel(path, alpha, sigma)
  true = jnp.log(q)[x_0] - jnp.log(q[x_0, x_t])[..., None]
  model = splitting.log_ratios(x_t, log_denoised, alpha, sigma, path)
  bregman = jnp.exp(true) * (true - model) - jnp.exp(true) + jnp.exp(model)
  away = 1.0 - paths.one_hot(x_t, path, bregman.dtype)
  at_x = jnp.asarray(path.base, bregman.dtype)[x_t]
  return sigma * jnp.sum(at_x * jnp.sum(away * bregman, axis=-1), axis=-1)


class Corruption(NamedTuple):
  """The random numbers of a batch: levels ℓ, (n,), and noisy tokens x_t, (n, L)."""

  half_log_snr: jax.Array
  x_t: jax.Array


def corruption(
    key: jax.Array, x_0: jax.Array, path: Path, density: objectives.Density
) -> Corruption:
  """Draws levels from π(ℓ), stratified over the batch, and x_t ~ q(x_t | x₀).

  Args:
    key: consumed.
    x_0: clean tokens, (n, L).
    path: the forward process.
    density: π(ℓ).

  Raises:
    ValueError: tokens outside the vocabulary.
  """
  key_ell, key_x = jax.random.split(key)
  ells = objectives.stratified(key_ell, len(x_0), density)
  return Corruption(ells, paths.corrupt(key_x, x_0, jax.nn.sigmoid(ells), path))


def loss(
    key: jax.Array, network: Callable[[jax.Array, jax.Array], jax.Array], x_0: jax.Array,
    path: Path, *, density: objectives.Density | None = None,
    weight: objectives.Weight | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The training loss of a batch, with one call of the network: E_{ℓ ~ π} w(ℓ) rate(ℓ)/L.

  Args:
    key: consumed, for levels and noise.
    network: (x_t (n, L), ell (n,)) → logits (n, L, V).
    x_0: clean tokens, (n, L).
    path: the forward process.
    density: π(ℓ), stratified over the batch. By default α is uniform on (0, 1).
    weight: w(ℓ). By default 1/π, the likelihood; then the loss is the bound of −log p(x₀) per
      token, but for what lies beyond the ends of the density.

  Returns:
    The mean loss in nats per token, and a dict of per-example `half_log_snr` and `error`, each
    (n,). The error is the unweighted rate per token and unit of α, rate(ℓ)/(α (1 − α) L).

  Raises:
    ValueError: tokens outside the vocabulary, or a network whose logits have another shape.
  """
  x_0 = paths.check_tokens(x_0, paths.check_path(path))
  density = _uniform_alpha() if density is None else density
  weight = objectives.likelihood(density) if weight is None else weight
  return corrupted_loss(network, x_0, corruption(key, x_0, path, density), path, weight=weight)


def corrupted_loss(
    network: Callable[[jax.Array, jax.Array], jax.Array], x_0: jax.Array, drawn: Corruption,
    path: Path, *, weight: objectives.Weight
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`loss` with given levels and noisy tokens, so that a batch can be processed in parts."""
  ells, x_t = drawn
  alpha, sigma = jax.nn.sigmoid(ells), jax.nn.sigmoid(-ells)
  logits = network(x_t, ells)
  if logits.shape != (*x_0.shape, path.vocabulary):
    raise ValueError(f"network must return logits (n, L, V) = {(*x_0.shape, path.vocabulary)}, got "
                     f"{logits.shape}")

  def one(x_t, x_0, logits, alpha, sigma):
    log_d = splitting.clean_law(x_t, logits.astype(alpha.dtype), alpha, sigma, path)
    return rate(x_t, x_0, log_d, alpha, sigma, path) / x_0.size

  rates = jax.vmap(one)(x_t, x_0, logits, alpha, sigma)
  errors = rates / jnp.maximum(alpha * sigma, jnp.finfo(rates.dtype).tiny)
  return jnp.mean(jax.vmap(weight)(ells) * rates), {"half_log_snr": ells, "error": errors}


def _uniform_alpha(rho_min: float = 1e-4, rho_max: float = np.inf) -> objectives.Density:
  return objectives.uniform_time(continuous.rectified_flow(), rho_min=rho_min, rho_max=rho_max)


def elbo(
    key: jax.Array, denoise: samplers_lib.Denoise, path: Path, x_0: jax.Array, *,
    levels: int = 64, rho_min: float = 1e-4, rho_max: float | None = None
) -> jax.Array:
  """An unbiased estimate of the bound of −log p(x₀), in nats for each example.

    KL(q(x_T | x₀)‖π) + ∫ rate dℓ + E[−log D(x₀ | x_t)] at ρ_min

  Args:
    key: consumed. Example and level each draw one x_t; levels are stratified, uniform in α.
    denoise: (x_t (n, L), t) → logits (n, L, V).
    path: the forward process of the model.
    x_0: clean tokens, (n, L).
    levels: calls of the model for each example.
    rho_min, rho_max: the ends, in ρ = (1 − α)/α. By default the noisy end is that of the path, and
      α = 0 under `absorbing` noise, also where its clock ends before: samples begin masked.

  Returns:
    (n,), nats. `bits_per_token` converts.

  Raises:
    ValueError: tokens outside the vocabulary.
  """
  x_0 = paths.check_tokens(x_0, paths.check_path(path))
  top = np.inf if path.mask is not None else float(
      np.exp(-continuous.on_host(path.clock.half_log_snr, np.asarray(path.clock.t_max))))
  rho_max = top if rho_max is None else min(rho_max, top)
  density = _uniform_alpha(rho_min, rho_max)
  last = -float(np.log(rho_min))

  def log_d(x_t, ell):
    alpha, sigma = jax.nn.sigmoid(ell), jax.nn.sigmoid(-ell)
    return splitting.clean_law(x_t, denoise(x_t, path.clock.time(ell)), alpha, sigma, path)

  def nats(key, x_0):
    key_ell, key_x, key_end = jax.random.split(key, 3)
    ells = objectives.stratified(key_ell, levels, density)

    def at(carry, inputs):
      ell, key = inputs
      alpha, sigma = jax.nn.sigmoid(ell), jax.nn.sigmoid(-ell)
      x_t = paths.corrupt(key, x_0, alpha, path)
      value = rate(x_t, x_0, log_d(x_t, ell), alpha, sigma, path) / density.density(ell)
      return carry + value / levels, None

    integral, _ = jax.lax.scan(at, jnp.zeros(len(x_0)), (ells, jax.random.split(key_x, levels)))
    end = jnp.asarray(last, ells.dtype)
    x_t = paths.corrupt(key_end, x_0, jax.nn.sigmoid(end), path)
    at_clean = jnp.take_along_axis(log_d(x_t, end), x_0[..., None], axis=-1)[..., 0]
    return _prior(path, rho_max) * x_0.shape[-1] + integral - jnp.sum(at_clean, axis=-1)

  return _programs.call(nats, key, x_0)


def _prior(path: Path, rho_max: float) -> float:
  """KL(q(x_T | x₀)‖π) of one position. Under `absorbing` with α > 0 it is infinite."""
  alpha = 1.0 / (1.0 + rho_max)
  q = (1.0 - alpha) * np.asarray(path.base, np.float64)  # on the host, also within `jax.jit`
  q[0] += alpha
  inside = q > 0.0
  with np.errstate(divide="ignore"):
    return float(np.sum(q[inside] * (np.log(q[inside]) - np.log(path.base[inside]))))


def importance_weighted(
    key: jax.Array, denoise: samplers_lib.Denoise, path: Path, x_0: jax.Array, *,
    method: samplers_lib.Method | None = None, grid: grids.Grid | None = None, particles: int = 8
) -> jax.Array:
  """A tighter bound of −log p(x₀) for the law that a sampler with this grid draws from.

    −log (1/K) Σ_k p(chain_k)/q(chain_k | x₀),   chains of the forward process

  One particle is the bound of the discretised model; K → ∞ is −log p (Burda et al. 2016).

  Args:
    key: consumed. denoise, path, x_0: as in `elbo`.
    method, grid: as in `samplers.sample`; a method with a law for each position.
    particles: K ≥ 1; each costs one call of the model per step.

  Returns:
    (n,), nats.

  Raises:
    ValueError: a method whose positions do not move independently, or particles < 1.
  """
  x_0 = paths.check_tokens(x_0, paths.check_path(path))
  method, levels, budget = samplers_lib.plan(path, method, grid)
  law = method.law
  if law is None or method.corrections:
    raise ValueError("a likelihood needs a method that moves positions independently, without "
                     "corrections, such as ancestral()")
  particles = _values.count("particles", particles)
  cast = lambda v: jnp.asarray(v, jnp.result_type(float))
  levels, budget = jax.tree.map(cast, levels), cast(budget)
  at = lambda law, x: jnp.sum(jnp.log(jnp.take_along_axis(law, x[..., None], -1)[..., 0]), axis=-1)

  def climb(carry, numbers):  # from data to noise: `there` is the cleaner level
    x, total = carry
    here, there, budget, key = numbers
    keep = here.alpha / there.alpha
    base = paths.base_law(path, x, total.dtype)
    forward = keep * paths.one_hot(x, path, base.dtype) + (1.0 - keep) * base
    noisier = jax.random.categorical(key, jnp.log(forward), axis=-1)
    log_d = splitting.clean_law(noisier, denoise(noisier, here.t), here.alpha, here.sigma, path)
    back = law(noisier, log_d, here, there, budget, path)
    return (noisier, total + at(back, x) - at(forward, noisier)), None

  def nats(key, x_0, levels, budget):
    steps = (jax.tree.map(lambda v: v[:-1], levels), jax.tree.map(lambda v: v[1:], levels), budget)

    def chain(key):
      (x, total), _ = jax.lax.scan(
          climb, (x_0, jnp.zeros(len(x_0))), (*steps, jax.random.split(key, len(budget))),
          reverse=True)
      return total + at(paths.base_law(path, x, total.dtype), x)

    totals = jax.lax.map(chain, jax.random.split(key, particles))
    return -(jax.nn.logsumexp(totals, axis=0) - jnp.log(particles))

  return _programs.call(nats, key, x_0, levels, budget)


def bits_per_token(nats: jax.Array, length: int) -> jax.Array:
  """Nats of an example of `length` tokens as bits per token."""
  return nats / (length * np.log(2.0))
