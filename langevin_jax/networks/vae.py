"""A variational autoencoder of residual MLPs, for vectors and small images alike.

  z ~ N(0, I),   x | z ~ N(μ(z), diag s²),   q(z | x) = N(m(x), diag v(x))

(Kingma & Welling 2014, §3 and appendix C). One network decodes in one step; a diffusion model is
the same construction with a latent at each of many noise levels, and an encoder that is known.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from langevin_jax.networks.products import Dense


class Normal(NamedTuple):
  """N(mean, diag e^{2 log_std}), two arrays of one shape with a leading batch axis."""

  mean: jax.Array
  log_std: jax.Array


class VAE(nn.Module):
  """Encoder and decoder; `apply({"params": p}, x, labels, method="encode")`, and so "decode".

  The decoder's deviation s is learned, one number for each dimension of x, the same for all z. The
  encoder's is a function of x. Labels, where there are some, are told to both.

  Attributes:
    shape: of one example, any number of axes.
    latent: dimensions of z, ≥ 1.
    width: hidden units of either network, > 0.
    depth: residual blocks of either network, ≥ 0.
    num_classes: labels are 0 … num_classes − 1; 0 ignores them.
  """

  shape: tuple[int, ...]
  latent: int = 2
  width: int = 128
  depth: int = 3
  num_classes: int = 0

  def setup(self):
    if self.latent < 1:
      raise ValueError(f"latent must be at least 1, got {self.latent}")
    options = {"width": self.width, "depth": self.depth, "num_classes": self.num_classes}
    self.encoder = MLPBody(features=2 * self.latent, **options)
    self.decoder = MLPBody(features=math.prod(self.shape), **options)
    # From a wide decoder a VAE is slow to find that a latent is worth anything.
    self.log_std = self.param("log_std", nn.initializers.constant(-2.0), self.shape,
                              jnp.float32)

  def encode(self, x: jax.Array, labels: jax.Array) -> Normal:
    """x (batch, *shape), labels (batch,) → q(z | x), arrays (batch, latent).

    Raises:
      ValueError: x not of (batch, *shape).
    """
    if x.ndim < 1 or x.shape[1:] != tuple(self.shape):
      raise ValueError(f"x must be (batch, *shape) with shape {self.shape}, got {x.shape}")
    out = self.encoder(x.reshape(len(x), -1).astype(jnp.float32), labels)
    return Normal(out[:, :self.latent], out[:, self.latent:])

  def decode(self, z: jax.Array, labels: jax.Array) -> Normal:
    """z (batch, latent), labels (batch,) → p(x | z), arrays (batch, *shape).

    Raises:
      ValueError: z not of (batch, latent).
    """
    if z.ndim != 2 or z.shape[1] != self.latent:
      raise ValueError(f"z must be (batch, latent={self.latent}), got {z.shape}")
    mean = self.decoder(z, labels).reshape(-1, *self.shape)
    return Normal(mean, jnp.broadcast_to(self.log_std[None], mean.shape))

  def __call__(self, x: jax.Array, labels: jax.Array) -> Normal:
    """p(x | z) at the encoder's mean: what `init` is called with."""
    return self.decode(self.encode(x, labels).mean, labels)


class MLPBody(nn.Module):
  """Rows (batch, a) → (batch, features): h ← h + W₂ silu(W₁ silu(h)), told the label at the start.

  The residual MLP that `MLP` is without a noise level. Attributes as in `VAE`.
  """

  features: int
  width: int
  depth: int
  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
    h = Dense(self.width, coordinates=True, name="input")(x)
    if self.num_classes:
      # A product rather than a gather: its gradient is bitwise reproducible.
      h = h + nn.Dense(self.width, use_bias=False, name="label")(
          jax.nn.one_hot(labels, self.num_classes))
    for i in range(self.depth):
      r = Dense(self.width, name=f"first_{i}")(nn.silu(h))
      h = h + Dense(self.width, name=f"second_{i}")(nn.silu(r))
    return Dense(self.features, name="output")(nn.silu(h))
