"""A convolutional autoencoder with a Gaussian posterior, for diffusion in its latents.

  q(z | x) = N(m(x), diag s(x)²),   x̂ = decode(z)

(Rombach et al. 2022, §3.1 and appendix G.) The layout is that of Stable Diffusion's AutoencoderKL.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from langevin_jax.networks._attention import attention
from langevin_jax.networks._layers import GroupNorm, convolution, resample, rows
from langevin_jax.networks._products import Dense, largest_divisor
from langevin_jax.networks.vae import Normal

__all__ = ["Autoencoder"]

# The range of log s(x), as in the published code: half of that of its log-variance.
_LOG_STD = (-15.0, 10.0)


class Autoencoder(nn.Module):
  """Residual blocks at falling, then rising resolutions, with a Gaussian between them.

  Called as `apply({"params": p}, x, method="encode")`, or "decode" with z.

  Each level after the first halves all sides, so latents have sides 2^(levels − 1) times smaller.
  The middle has attention with one head. Stable Diffusion's has the default numbers, and 83,653,863
  parameters.

  Attributes:
    shape: of one example, (*sides, channels), sides multiples of 2^(levels − 1).
    channels: of the first level, a multiple of `groups`.
    multipliers: channels of each level, in units of `channels`.
    blocks: residual blocks of a level of the encoder; the decoder has one more.
    latent_channels: of z.
    groups: of group normalisation.
    dtype: "float32" or "bfloat16", of the products. Parameters and results are float32.
  """

  shape: tuple[int, ...]
  channels: int = 128
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  blocks: int = 2
  latent_channels: int = 4
  groups: int = 32
  dtype: str = "float32"

  @property
  def latent_shape(self) -> tuple[int, ...]:
    """Of z, (*sides, latent_channels)."""
    factor = 2 ** (len(self.multipliers) - 1)
    return (*(side // factor for side in self.shape[:-1]), self.latent_channels)

  def setup(self):
    self.check()
    options: dict[str, Any] = dict(
        channels=self.channels, multipliers=self.multipliers, blocks=self.blocks,
        groups=self.groups, rank=len(self.shape) - 1, dtype=self.dtype)
    self.encoder = Encoder(features=2 * self.latent_channels, **options)
    self.decoder = Decoder(features=self.shape[-1], **options)
    # 1 × 1 convolutions.
    self.moments = Dense(2 * self.latent_channels, self.dtype)
    self.latents = Dense(self.latent_channels, self.dtype)

  def encode(self, x: jax.Array) -> Normal:
    """q(z | x) of x (batch, *shape): arrays (batch, *latent_shape), float32.

    Raises:
      ValueError: x of another shape than (batch, *shape).
    """
    if x.ndim < 1 or x.shape[1:] != tuple(self.shape):
      raise ValueError(f"x must be (batch, *shape) with shape {self.shape}, got {x.shape}")
    h = _pointwise(self.moments, self.encoder(x.astype(jnp.float32)))
    mean, log_variance = jnp.split(h, 2, axis=-1)
    return Normal(mean, jnp.clip(0.5 * log_variance, *_LOG_STD))

  def decode(self, z: jax.Array) -> jax.Array:
    """x̂ (batch, *shape), float32, of z (batch, *latent_shape).

    Raises:
      ValueError: z of another shape than (batch, *latent_shape).
    """
    if z.ndim < 1 or z.shape[1:] != self.latent_shape:
      raise ValueError(f"z must be (batch, *latent_shape) with latent_shape {self.latent_shape}, "
                       f"got {z.shape}")
    return self.decoder(_pointwise(self.latents, z.astype(jnp.float32)))

  def __call__(self, x: jax.Array) -> jax.Array:
    """The reconstruction of x (batch, *shape) at the mean of its posterior. `init` calls this."""
    return self.decode(self.encode(x).mean)

  def check(self) -> None:
    """Raises ValueError where numbers do not fit each other or the shape."""
    levels = len(self.multipliers)
    for name in ("channels", "blocks", "groups", "latent_channels"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if not levels or min(self.multipliers) < 1:
      raise ValueError(f"multipliers must be integers from 1, got {self.multipliers}")
    if len(self.shape) < 2:
      raise ValueError(f"shape must be (*sides, channels), got {self.shape}")
    if wrong := [side for side in self.shape[:-1] if side % 2 ** (levels - 1)]:
      raise ValueError(f"multipliers has {levels} levels, so sides must be multiples of "
                       f"{2 ** (levels - 1)}, got {wrong[0]}; take fewer levels")
    if self.channels % self.groups:
      raise ValueError(f"groups must divide channels {self.channels}, got {self.groups}: "
                       f"{largest_divisor(self.groups, self.channels)} does")


class _Half(nn.Module):
  """One half of an autoencoder; `features` are its channels out, the rest as in `Autoencoder`."""

  features: int
  channels: int
  multipliers: tuple[int, ...]
  blocks: int
  groups: int
  rank: int
  dtype: str


class Encoder(_Half):
  """x (batch, *sides, c) → (batch, *smaller sides, features)."""

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    block = functools.partial(Block, groups=self.groups, dtype=self.dtype)
    convolve = functools.partial(_convolved, rank=self.rank, dtype=self.dtype)
    h = convolve(h, self.channels, coordinates=True, name="input")
    for level, multiplier in enumerate(self.multipliers):
      if level:
        h = convolve(h, h.shape[-1], stride=2, name=f"down_{level}")
      for i in range(self.blocks):
        h = block(multiplier * self.channels, name=f"down_{level}_{i}")(h)
    h = _middle(h, block, self.groups, self.dtype)
    h = nn.silu(GroupNorm(self.groups, name="norm")(h))
    return convolve(h, self.features, name="output")


class Decoder(_Half):
  """(batch, *smaller sides, c) → (batch, *sides, features)."""

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    block = functools.partial(Block, groups=self.groups, dtype=self.dtype)
    convolve = functools.partial(_convolved, rank=self.rank, dtype=self.dtype)
    h = convolve(h, self.multipliers[-1] * self.channels, name="input")
    h = _middle(h, block, self.groups, self.dtype)
    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for i in range(self.blocks + 1):
        h = block(multiplier * self.channels, name=f"up_{level}_{i}")(h)
      if level:
        h = convolve(resample(h, "up", (1.0, 1.0)), h.shape[-1], name=f"up_{level}")
    h = nn.silu(GroupNorm(self.groups, name="norm")(h))
    return convolve(h, self.features, name="output")


class Block(nn.Module):
  """h ← skip(h) + conv silu(norm(conv silu(norm(h)))); skip is a product where channels change."""

  features: int
  groups: int
  dtype: str

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    """h (batch, *sides, c) → (batch, *sides, features), float32."""
    convolve = functools.partial(_convolved, rank=h.ndim - 2, dtype=self.dtype)
    r = convolve(nn.silu(GroupNorm(self.groups, name="norm_in")(h)), self.features, name="hidden")
    r = convolve(nn.silu(GroupNorm(self.groups, name="norm_out")(r)), self.features, name="back")
    if h.shape[-1] != self.features:
      h = rows(h, self.features, self.dtype, name="skip")
    return h + r


def _middle(h: jax.Array, block, groups: int, dtype: str) -> jax.Array:
  """Two blocks with attention between them."""
  batch, width = h.shape[0], h.shape[-1]
  h = block(width, name="middle_0")(h)
  r = GroupNorm(groups, name="norm_attention")(h)
  r = rows(r, 3 * width, dtype, name="qkv").reshape(batch, -1, 3 * width)
  h = h + rows(attention(r, 1, dtype).reshape(h.shape), width, dtype, name="merge")
  return block(width, name="middle_1")(h)


def _convolved(h, features, *, rank, dtype, **how) -> jax.Array:
  return convolution(features, rank, dtype, **how)(h).astype(jnp.float32)


def _pointwise(dense: nn.Module, h: jax.Array) -> jax.Array:
  """A dense layer over the last axis."""
  return dense(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:-1], -1)
