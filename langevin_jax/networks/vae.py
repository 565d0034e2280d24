"""A variational autoencoder of residual MLPs, for vectors and small images alike.

  z ~ N(0, I),   x | z ~ N(μ(z), diag s²),   q(z | x) = N(m(x), diag v(x))

(Kingma & Welling 2014, §3 and appendix C). A diffusion model is the same construction with one
latent per noise level and a fixed encoder.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from langevin_jax.networks._products import Dense

__all__ = ["VAE", "MLPBody", "Normal"]


class Normal(NamedTuple):
  """N(mean, diag e^{2 log_std}), two arrays of one shape with a leading batch axis."""

  mean: jax.Array
  log_std: jax.Array


class VAE(nn.Module):
  """Encoder and decoder, called as `apply({"params": p}, x, labels, method="encode")`, or "decode".

  The standard deviation s of the decoder is learned, one number per dimension of x, the same for
  all z. That of the encoder is a function of x. Both networks see the labels.

  Attributes:
    shape: of one example, any number of axes.
    latent: dimensions of z, ≥ 1.
    width: hidden units of each network, > 0.
    depth: residual blocks of each network, ≥ 0.
    num_classes: labels are 0 … num_classes − 1. 0 ignores labels.
  """

  shape: tuple[int, ...]
  latent: int = 2
  width: int = 128
  depth: int = 3
  num_classes: int = 0

  def setup(self):
    if self.latent < 1:
      raise ValueError(f"latent must be at least 1, got {self.latent}")
    body = lambda features: MLPBody(features, self.width, self.depth, self.num_classes)
    self.encoder, self.decoder = body(2 * self.latent), body(math.prod(self.shape))
    # With a large s at the start, training is slow to use the latent at all.
    self.log_std = self.param("log_std", nn.initializers.constant(-2.0), self.shape,
                              jnp.float32)

  def encode(self, x: jax.Array, labels: jax.Array) -> Normal:
    """q(z | x) of x (batch, *shape) and labels (batch,): arrays (batch, latent).

    Raises:
      ValueError: x of another shape than (batch, *shape).
    """
    if x.ndim < 1 or x.shape[1:] != tuple(self.shape):
      raise ValueError(f"x must be (batch, *shape) with shape {self.shape}, got {x.shape}")
    out = self.encoder(x.reshape(len(x), -1).astype(jnp.float32), labels)
    return Normal(out[:, :self.latent], out[:, self.latent:])

  def decode(self, z: jax.Array, labels: jax.Array) -> Normal:
    """p(x | z) of z (batch, latent) and labels (batch,): arrays (batch, *shape).

    Raises:
      ValueError: z of another shape than (batch, latent).
    """
    if z.ndim != 2 or z.shape[1] != self.latent:
      raise ValueError(f"z must be (batch, latent={self.latent}), got {z.shape}")
    mean = self.decoder(z, labels).reshape(-1, *self.shape)
    return Normal(mean, jnp.broadcast_to(self.log_std[None], mean.shape))

  def __call__(self, x: jax.Array, labels: jax.Array) -> Normal:
    """p(x | z) at the mean of the encoder. `init` calls this."""
    return self.decode(self.encode(x, labels).mean, labels)


class MLPBody(nn.Module):
  """Residual MLP on rows, (batch, a) → (batch, features), with blocks h ← h + W₂ silu(W₁ silu(h)).

  It is `MLP` without a noise level; the label is added to the input layer. The attributes are those
  of `VAE`, and `features`, the width of the output.
  """

  features: int
  width: int
  depth: int
  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
    h = Dense(self.width, coordinates=True, name="input")(x)
    if self.num_classes:
      # A product, not a gather: its gradient is bitwise reproducible.
      h = h + nn.Dense(self.width, use_bias=False, name="label")(
          jax.nn.one_hot(labels, self.num_classes))
    for i in range(self.depth):
      r = Dense(self.width, name=f"first_{i}")(nn.silu(h))
      h = h + Dense(self.width, name=f"second_{i}")(nn.silu(r))
    return Dense(self.features, name="output")(nn.silu(h))
