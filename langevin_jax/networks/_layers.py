"""Layers of U-Nets and autoencoders: group normalisation, resampling, convolutions."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from langevin_jax.networks._products import Dense, compute_dtype

# The name of the arrays that a rematerialised block keeps: outputs of its products.
KEPT = "product"


class GroupNorm(nn.Module):
  """Group normalisation (Wu & He 2018) by the moments of channels and one multiply-add.

    (1 + scale) (γ (h − mean)/√(var + epsilon) + β) + shift,   mean and var of a group of channels

  Attributes:
    groups: number of groups, which divides the channels.
    epsilon: added to the variance.
  """

  groups: int
  epsilon: float = 1e-6

  @nn.compact
  def __call__(
      self, h: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None
  ) -> jax.Array:
    """h (batch, *sides, channels), scale and shift (batch, channels) → h's shape, float32."""
    h, axes = h.astype(jnp.float32), tuple(range(1, h.ndim - 1))
    gain = self.param("scale", nn.initializers.ones, h.shape[-1:], jnp.float32)[None]
    bias = self.param("bias", nn.initializers.zeros, h.shape[-1:], jnp.float32)[None]

    def of_groups(moment):  # the mean over a group, for each of its channels
      grouped = moment.reshape(len(h), self.groups, -1)
      mean = jnp.mean(grouped, axis=-1, keepdims=True)
      return jnp.broadcast_to(mean, grouped.shape).reshape(moment.shape)

    mean = of_groups(jnp.mean(h, axis=axes))
    variance = of_groups(jnp.mean((h - spread(mean, h.ndim)) ** 2, axis=axes))
    factor = gain * lax.rsqrt(variance + self.epsilon)
    offset = bias - mean * factor
    if scale is not None and shift is not None:
      factor, offset = factor * (1.0 + scale), offset * (1.0 + scale) + shift
    return h * spread(factor, h.ndim) + spread(offset, h.ndim)


def resample(
    h: jax.Array, way: str, taps: tuple[float, ...], *, padded: bool = False
) -> jax.Array:
  """h with all sides halved or doubled by a filter f, the taps at sum 1, along each axis.

    down: y_i = Σ_k f_k h_{2i + k − n/2 + 1},   up: twice its transpose,   n taps, zero outside

  Args:
    h: (batch, *sides, channels), even sides for "down".
    way: "down" or "up".
    taps: an even number n of weights.
    padded: of "down", whether h has n/2 − 1 values of what is outside at either end of each axis.
  """
  half, down = len(taps) // 2, way == "down"
  weights = [(1.0 if down else 2.0) * tap / sum(taps) for tap in taps[::1 if down else -1]]
  for axis in range(1, h.ndim - 1):
    ends = [(0, 0, 0)] * h.ndim
    ends[axis] = (half - 1, half - 1, 0) if down else (half, half, 1)
    wide = h if padded else lax.pad(h, jnp.zeros((), h.dtype), ends)
    count = wide.shape[axis] - 2 * (half - 1) if down else h.shape[axis]
    step, last = (2, count - 2) if down else (1, 2 * count - 1)
    parts = [lax.slice_in_dim(wide, k, k + last + 1, step, axis) for k in range(len(weights))]
    h = functools.reduce(jnp.add, [w * part for w, part in zip(weights, parts, strict=True)])
  return h


def convolution(
    features: int, rank: int, dtype: str, *, name: str, zero: bool = False,
    coordinates: bool = False, stride: int = 1, padding: int | str = "SAME",
) -> nn.Conv:
  """A convolution of 3 points an axis whose operands and result are `dtype`; as `Dense` else.

  "SAME" and a stride of 2 centre it on the odd points of an axis, a padding of 1 on the even ones.
  """
  init = nn.initializers.zeros if zero else nn.initializers.variance_scaling(
      1.0, "fan_in", "normal") if coordinates else nn.initializers.xavier_uniform()
  return nn.Conv(features, (3,) * rank, (stride,) * rank, dtype=compute_dtype(dtype),
                 padding=padding, kernel_init=init, name=name)


def rows(h: jax.Array, features: int, dtype: str, *, name: str, zero: bool = False) -> jax.Array:
  """A product over the last axis, as one of two matrices."""
  y = Dense(features, dtype, zero=zero, name=name)(h.reshape(-1, h.shape[-1]))
  kept = checkpoint_name(y.astype(compute_dtype(dtype)), KEPT).astype(jnp.float32)
  return kept.reshape(*h.shape[:-1], features)


def spread(row: jax.Array, ndim: int) -> jax.Array:
  """(batch, channels) with axes of length 1 between the two."""
  return row.reshape(len(row), *[1] * (ndim - 2), -1)
