"""Importance-weighted bounds on log p(x) of a VAE and of a diffusion model, by one estimator.

For a model p(z) p(x | z) and an encoder q(z | x), where z is one latent or a chain of latents,

  L_K = E log (1/K) Σ_k w_k,   w = p(z) p(x | z)/q(z | x),   z_k ~ q

increases with K from the ELBO L₁ to log p(x) (Burda et al. 2016, Theorem 1). So L_K − L₁ increases
to KL(q(z | x)‖p(z | x)), which is 0 if the encoder is the exact posterior of the model.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.questions.vae import training
from langevin_jax import likelihood, networks, paths, predictions, samplers, splitting
from langevin_jax.likelihood import prior
from langevin_jax.networks import vae as vae_lib


def bounds(log_weights: jax.Array, counts: tuple[int, ...]) -> jax.Array:
  """L_K of each example, (len(counts), n), from draws (draws, n) in groups of K, a divisor."""
  n = log_weights.shape[1]
  return jnp.stack([
      jnp.mean(likelihood.log_mean_exp(log_weights.reshape(-1, k, n), axis=1), axis=0)
      for k in counts])


def chain(
    key: jax.Array, denoise: predictions.Denoise, path: paths.Path, grid: samplers.Grid,
    x: jax.Array, counts: tuple[int, ...], moments: prior.Moments | None,
) -> np.ndarray:
  """L_K of `of_chain` for each K in counts in float64; the last K is the number of draws."""
  weights = jax.jit(lambda key, x: of_chain(
      key, denoise, path, grid, x, draws=counts[-1], moments=moments))(key, x)
  return np.asarray(bounds(weights, counts), np.float64)


def by_seed(
    key: jax.Array, model: networks.VAE, params: Any, x: jax.Array, labels: jax.Array,
    counts: tuple[int, ...], *, at_once: int,
) -> np.ndarray:
  """L_K of `of_vae` for the parameters of each seed, (seeds, counts, n), in float64."""
  one = lambda given: bounds(of_vae(
      given[0], model, given[1], x, labels, draws=counts[-1],
      at_once=min(at_once, counts[-1])), counts)
  keys = jax.random.split(key, len(jax.tree.leaves(params)[0]))
  found = jax.jit(lambda keys, params: jax.lax.map(one, (keys, params)))(keys, params)
  return np.asarray(found, np.float64)


def of_vae(
    key: jax.Array, model: networks.VAE, params: Any, x: jax.Array, labels: jax.Array, *,
    draws: int, at_once: int = 64,
) -> jax.Array:
  """log w of `draws` latents of each example x (n, *shape); (draws, n).

  at_once: the number of latents of an example that are decoded together, a divisor of `draws`.
  """
  q = model.apply({"params": params}, x, labels, method="encode")
  tiled = lambda a: jnp.tile(a, (at_once, *[1] * (a.ndim - 1)))
  x, labels, q = tiled(x), tiled(labels), jax.tree.map(tiled, q)
  unit = vae_lib.Normal(jnp.zeros_like(q.mean), jnp.zeros_like(q.mean))

  def some(key):
    xi = jax.random.normal(key, q.mean.shape)
    z = q.mean + jnp.exp(q.log_std) * xi
    decoded = model.apply({"params": params}, z, labels, method="decode")
    # log q(z) = log N(ξ; 0, I) − Σ log_std
    return (training.log_normal(z, unit) + training.log_normal(x, decoded)
            - training.log_normal(xi, unit) + jnp.sum(q.log_std, 1)).reshape(at_once, -1)

  return jax.lax.map(some, jax.random.split(key, draws // at_once)).reshape(draws, -1)


def of_chain(
    key: jax.Array, denoise: predictions.Denoise, path: paths.Path, grid: samplers.Grid,
    x: jax.Array, *, draws: int, moments: prior.Moments | None = None,
) -> jax.Array:
  """log w of `draws` forward chains from each example x (n, *shape); (draws, n).

  A diffusion model on the positive levels ρ_0 > … > ρ_n of `grid` is a VAE with n latents and the
  observation z_n = x, blurred data at ρ_n. Its encoder is q(z_i | z_{i+1}) = N(z_{i+1},
  ρ_i² − ρ_{i+1}²), its decoder p(z_{i+1} | z_i) is STEP(h, Λ = h), and p(z_0) = N(m, S + ρ_0²).
  """
  rho = np.asarray(grid(path), np.float64)[:-1]
  a, b, c = splitting.weights(1.0, rho[:-1], 1.0, rho[1:], np.log(rho[:-1] / rho[1:]))
  numbers = -np.log(rho[:-1]), np.sqrt(rho[:-1]**2 - rho[1:]**2), a, b, c
  # From the data up to noise, in the model's float type.
  numbers = [jnp.asarray(v[::-1], x.dtype) for v in numbers]
  at, axes = predictions.at_level(denoise, path), tuple(range(1, x.ndim))

  def up(carry, now):
    key, z_s, log_w = carry
    ell, spread, a, b, c = now
    key, own = jax.random.split(key)
    xi = jax.random.normal(own, x.shape, x.dtype)
    z = z_s + spread * xi
    gap = (z_s - a * z - b * at(predictions.unit_frame(ell).alpha * z, ell)) / c
    # Two normal densities: the constants cancel but for the deviations.
    gain = jnp.sum(-0.5 * (gap**2 - xi**2) + jnp.log(spread / c), axes)
    return (key, z, log_w + gain), None

  def one(key):
    nothing = jnp.zeros(len(x), x.dtype)
    (_, z, log_w), _ = jax.lax.scan(up, (key, x, nothing), tuple(numbers))
    return log_w + prior.log_prob(z, float(rho[0]), moments, 1)

  return jax.lax.map(one, jax.random.split(key, draws))


def integrated(
    model: networks.VAE, params: Any, x: jax.Array, *, points: int, half: float = 6.0
) -> jax.Array:
  """log p(x) of each example (n, *shape) of an unconditional VAE with two latents.

    ∫ N(z; 0, I) p(x | z) dz,   by the trapezoidal rule on points² nodes of [−half, half]²

  The rule is exact to rounding if no posterior is narrower than the spacing of the nodes.
  """
  axis = jnp.linspace(-half, half, points)
  z = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
  rows = jnp.array_split(z, -(-len(z) // 2**15))
  blank = lambda part: jnp.zeros(len(part), jnp.int32)
  decoded = [model.apply({"params": params}, part, blank(part), method="decode") for part in rows]
  mean = jnp.concatenate([d.mean.reshape(len(d.mean), -1) for d in decoded])
  std = jnp.exp(params["log_std"]).reshape(-1)
  scaled = mean / std[None]
  log_prior = -0.5 * jnp.sum(z**2, 1) - jnp.log(2.0 * jnp.pi)
  constant = jnp.sum(jnp.log(std)) + 0.5 * len(std) * jnp.log(2.0 * jnp.pi)

  def one(x):
    far = jnp.sum((x.reshape(1, -1) / std[None] - scaled) ** 2, 1)
    return jax.nn.logsumexp(log_prior - 0.5 * far)

  return jax.lax.map(one, x) + 2.0 * jnp.log(axis[1] - axis[0]) - constant
