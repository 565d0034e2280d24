"""The loss of an autoencoder with a Gaussian posterior."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from langevin_jax.networks.vae import Normal
from langevin_jax.training.losses import Loss, Params

__all__ = ["autoencoder_loss", "kl_from_unit"]


def autoencoder_loss(
    encode: Callable[[Params, jax.Array], Normal], decode: Callable[[Params, jax.Array], jax.Array],
    *, kl: float = 1e-6, perceptual: float = 0.0,
    features: Callable[[jax.Array], list[jax.Array]] | None = None,
) -> Loss:
  """Reconstruction, divergence of the posterior, and distance of features.

    L = E|x − x̂| + kl/d · KL(q(z | x) ‖ N(0, I)) + perceptual · Σ_l E|φ_l(x) − φ_l(x̂)|²
    x̂ = decode(z),   z ~ q(z | x),   d numbers in x

  (Rombach et al. 2022, §3.1, without the adversarial term.) E|x − x̂| is the mean over the numbers
  of x, and the last term a mean over places and sum over layers of features whose channels have
  length 1 (Zhang et al. 2018, eq. 1 with equal weights).

  Args:
    encode: (params, x) → q(z | x). decode: (params, z) → x̂ in the shape of x.
    kl: weight of the divergence, in nats per number of x.
    perceptual: weight of the features' distance. features: x (n, *shape) → the layers, each
      (n, *places, channels), with channels of length 1.

  Returns:
    A loss for batches (x, condition), which ignores the condition. Its `half_log_snr` are 0, and
    its `eps_error` the mean square of x − x̂ of each example.

  Raises:
    ValueError: a negative weight, or `perceptual` without `features`.
  """
  if min(kl, perceptual) < 0.0:
    raise ValueError(f"kl and perceptual must not be negative, got {kl} and {perceptual}")
  if perceptual and features is None:
    raise ValueError("perceptual needs features")
  compared = features if perceptual and features is not None else lambda x: []

  def draw(key, batch):
    x, _ = batch
    return x, jax.random.split(key, len(x))

  def value(params, examples):
    x, keys = examples
    posterior = encode(params, x)
    noise = jax.vmap(lambda key: jax.random.normal(key, posterior.mean.shape[1:]))(keys)
    y = decode(params, posterior.mean + jnp.exp(posterior.log_std) * noise)
    axes = tuple(range(1, x.ndim))
    loss = jnp.mean(jnp.abs(x - y)) + kl / x[0].size * jnp.mean(kl_from_unit(posterior))
    loss += perceptual * sum(jnp.mean(jnp.sum((a - b) ** 2, axis=-1)) for a, b in
                             zip(compared(x), compared(y), strict=True))
    return loss, {"half_log_snr": jnp.zeros(len(x)), "eps_error": jnp.mean((x - y) ** 2, axis=axes)}

  return Loss(draw, value)


def kl_from_unit(posterior: Normal) -> jax.Array:
  """KL(N(m, diag s²) ‖ N(0, I)) = ½ Σ (m² + s² − 1 − log s²) of each example, (n,), in nats."""
  m, log_std = posterior
  axes = tuple(range(1, m.ndim))
  return 0.5 * jnp.sum(m**2 + jnp.expm1(2.0 * log_std) - 2.0 * log_std, axis=axes)
