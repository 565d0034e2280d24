"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, configuration G)."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from langevin_jax.networks._attention import attention, check_attention
from langevin_jax.networks._embeddings import by_kind, enlarged, with_mask
from langevin_jax.networks._products import compute_dtype, matmul
from langevin_jax.networks.unet import resample

__all__ = ["Block", "UNetEDM2", "unit_magnitude"]

# The name of the arrays that a rematerialised block keeps: outputs of its products.
_KEPT = "product"
# The weight of the second term in sums of a main path and a residual one, and the clipping of a
# block's output.
_BALANCE, _CLIP = 0.3, 256.0
_MAX_LEVEL = 20.0  # ℓ beyond it, perhaps infinite, is seen as it


class UNetEDM2(nn.Module):
  """A U-Net whose weights and activations keep their magnitude (Karras et al. 2024, appendix B).

  Each product normalises its weights, so that its output has the magnitude 1 of its input; there
  are no biases and no group normalisation. The gradient is thereby orthogonal to the weights, which
  can only grow: train with `training.forced_weight_normalization`. The output starts at zero.

  | | XS | S | M | L | XL | XXL |
  |---|---|---|---|---|---|---|
  | channels | 128 | 192 | 256 | 320 | 384 | 448 |

  Vectors of a condition act as the label does; images are further channels of the input. Tokens
  are refused. There is no dropout.

  Attributes:
    channels: of the first layer. The conditioning has the channels of the widest level.
    multipliers: channels of each level, in units of `channels`. Each level after the first halves
      all sides, which are multiples of 2^(levels − 1).
    blocks: residual blocks of a level on the way down; there is one more on the way up.
    attention: the levels with attention, each by its longest side. The middle has attention too.
    head_channels: channels of an attention head, which divide those of a level with attention.
    num_classes, classes, dtype, constrain, second_level: as in `DiT`.
    remat: as in `UNet`.
  """

  channels: int = 192
  multipliers: tuple[int, ...] = (1, 2, 3, 4)
  blocks: int = 3
  attention: tuple[int, ...] = (16, 8)
  head_channels: int = 64
  num_classes: int = 0
  classes: Mapping[str, int] = FrozenDict()
  dtype: str = "float32"
  remat: bool = False
  constrain: Callable[[jax.Array], jax.Array] = lambda h: h
  second_level: bool = False

  @nn.compact
  def __call__(
      self, x: jax.Array, half_log_snr: jax.Array, condition: Any,
      half_log_snr_s: jax.Array | None = None,
  ) -> jax.Array:
    """The prediction for a batch.

    Args:
      x: (batch, *sides, channels), states at unit scale, of one side or more.
      half_log_snr: ℓ, a scalar or (batch,).
      condition: labels (batch,), or a dict of named arrays (`conditions`).
      half_log_snr_s: ℓ′ ≥ ℓ, as ℓ, of a network with `second_level`. None is ℓ′ = ℓ.

    Returns:
      (batch, *sides, channels), float32.

    Raises:
      ValueError: as `check`; an unknown dtype, a condition of no known kind or with tokens.
    """
    self.check(x.shape)
    batch, sides = x.shape[0], x.shape[1:-1]
    parts = by_kind(condition, self.classes, batch)
    if parts.tokens:
      raise ValueError(f"condition {next(iter(parts.tokens))!r}: unet_edm2 takes no tokens; take "
                       "unet or dit")
    ells = [half_log_snr]
    if self.second_level:
      ells.append(half_log_snr if half_log_snr_s is None else half_log_snr_s)
    elif half_log_snr_s is not None:
      raise ValueError("the network has no second level: make it with second_level=True")
    vector = self._conditioning([jnp.broadcast_to(jnp.asarray(ell, jnp.float32), (batch,))
                                 for ell in ells], parts)

    kind = Block
    if self.remat:
      kind = nn.remat(Block, policy=jax.checkpoint_policies.save_only_these_names(_KEPT))
    block = lambda h, features, **how: self.constrain(kind(
        features, head_channels=self.head_channels, dtype=self.dtype, **how)(h, vector))
    attends = lambda level: max(sides) >> level in self.attention
    product = functools.partial(Product, points=3, dtype=self.dtype)

    # A channel of ones in the place of biases.
    given = jnp.concatenate([x.astype(jnp.float32), jnp.ones((*x.shape[:-1], 1))] + [
        enlarged(with_mask(*image), sides, name) for name, image in parts.images.items()], axis=-1)
    h = self.constrain(product(self.channels, name="input")(given))
    skips = [h]
    for level, multiplier in enumerate(self.multipliers):
      if level:
        h = block(h, h.shape[-1], down=True, way="down", name=f"down_{level}")
        skips.append(h)
      for i in range(self.blocks):
        h = block(h, multiplier * self.channels, down=True, attend=attends(level),
                  name=f"down_{level}_{i}")
        skips.append(h)
    h = block(h, h.shape[-1], attend=True, name="middle_0")
    h = block(h, h.shape[-1], name="middle_1")
    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for i in range(self.blocks + 1):
        h = block(joined(h, skips.pop()), multiplier * self.channels, attend=attends(level),
                  name=f"up_{level}_{i}")
      if level:
        h = block(h, h.shape[-1], way="up", name=f"up_{level}")
    return product(x.shape[-1], gain=True, name="output")(h)

  def _conditioning(self, ells, parts):
    """silu of the sum of noise level, label and vectors, each of magnitude 1."""
    width = max(self.multipliers) * self.channels
    dense = lambda name, h: Product(width, name=name)(h)
    # Random waves of ρ's logarithm, the same in every network: they are not trained.
    draw = np.random.default_rng(0)
    frequencies, phases = draw.normal(size=self.channels), draw.uniform(size=self.channels)
    waves = [math.sqrt(2.0) * jnp.cos(2.0 * np.pi * (
        -0.25 * jnp.clip(ell, -_MAX_LEVEL, _MAX_LEVEL)[:, None] * jnp.asarray(
            frequencies, jnp.float32)[None, :] + jnp.asarray(phases, jnp.float32)[None, :]))
             for ell in ells]
    h, others = dense("level", jnp.concatenate(waves, axis=-1)), []
    if self.num_classes and parts.labels is not None:
      one_hot = jax.nn.one_hot(parts.labels, self.num_classes)  # none is zeros
      others.append(dense("label", math.sqrt(self.num_classes) * one_hot))
    others += [dense(f"{name}_vector", with_mask(*part)) for name, part in parts.vectors.items()]
    return silu(sum(others, h) / math.sqrt(1.0 + len(others)))

  def check(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError where x of this shape, (batch, *sides, channels), cannot be taken."""
    if len(shape) < 3:
      raise ValueError(f"x must be (batch, *sides, channels), got shape {shape}")
    sides, levels = shape[1:-1], len(self.multipliers)
    for name in ("channels", "blocks", "head_channels"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
    if not levels or min(self.multipliers) < 1:
      raise ValueError(f"multipliers must be integers from 1, got {self.multipliers}")
    if wrong := [side for side in sides if side % 2 ** (levels - 1)]:
      raise ValueError(f"multipliers has {levels} levels, so sides must be multiples of "
                       f"{2 ** (levels - 1)}, got {wrong[0]}; take fewer levels")
    widths = [multiplier * self.channels for multiplier in self.multipliers]
    check_attention(self.attention, sides, widths, "head_channels", self.head_channels)


class Block(nn.Module):
  """h ← sum(skip(h), f(h)), and with attention h ← sum(h, attention(h)), clipped.

    f = W₂ silu((1 + g W₃ vector) ⊙ W₁ silu(h)),   sum(a, b) = (0.7 a + 0.3 b)/√(0.7² + 0.3²)

  Attributes:
    features: channels of the result.
    head_channels, dtype: as in `UNetEDM2`.
    down: whether it is on the way down, where pixels are normalised after the skip.
    way: "down", "up" or None, how h is resampled first.
    attend: whether there is attention after the residual.
  """

  features: int
  head_channels: int
  dtype: str
  down: bool = False
  way: str | None = None
  attend: bool = False

  @nn.compact
  def __call__(self, h: jax.Array, vector: jax.Array) -> jax.Array:
    """h (batch, *sides, c) and the conditioning (batch, width) → (batch, *sides, features)."""
    product = functools.partial(Product, dtype=self.dtype)
    if self.way:
      h = resample(h, self.way, (1.0, 1.0))
    skip = lambda h: h if h.shape[-1] == self.features else (
        product(self.features, name="skip")(h))
    if self.down:
      h = unit_magnitude(skip(h), -1)
    # The names are those of `training.shardings.RULES`: channels between the two are split.
    r = product(self.features, points=3, name="hidden")(silu(h))
    m = 1.0 + product(self.features, gain=True, name="modulation")(vector)
    r = r * m.reshape(len(m), *[1] * (h.ndim - 2), -1)
    r = product(self.features, points=3, name="back")(silu(r))
    h = balanced(h if self.down else skip(h), r)
    if self.attend:
      tokens = product(3 * self.features, name="qkv")(h).reshape(len(h), -1, 3 * self.features)
      heads = self.features // self.head_channels
      # Cosine attention: queries, keys and values of every head are normalised.
      parts = unit_magnitude(tokens.reshape(*tokens.shape[:2], 3 * heads, -1), -1)
      r = attention(parts.reshape(tokens.shape), heads, self.dtype)
      r = checkpoint_name(r.astype(compute_dtype(self.dtype)), _KEPT).reshape(h.shape)
      h = balanced(h, product(self.features, name="merge")(r))
    return jnp.clip(h, -_CLIP, _CLIP)


class Product(nn.Module):
  """x w with w = weight/(‖weight‖ of each output), a convolution or a product over channels.

  Attributes:
    features: channels of the result.
    points: of a convolution, along each axis; 1 is a product over the last axis.
    dtype: "float32" or "bfloat16", of the operands. Weights and result are float32.
    gain: whether the result is multiplied by a learned number, which starts at 0.
  """

  features: int
  points: int = 1
  dtype: str = "float32"
  gain: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype, rank = compute_dtype(self.dtype), x.ndim - 2
    shape = (*([self.points] * rank if self.points > 1 else []), x.shape[-1], self.features)
    weight = self.param("weight", lambda key: unit_magnitude(jax.random.normal(
        key, shape, jnp.float32)))
    w = unit_magnitude(weight) / math.sqrt(math.prod(shape[:-1]))
    if self.gain:
      w = w * self.param("gain", nn.initializers.zeros, (1,) * len(shape), jnp.float32)
    if self.points > 1:
      last = rank + 1
      dimensions = lax.ConvDimensionNumbers(
          (0, last, *range(1, last)), (last, rank, *range(rank)), (0, last, *range(1, last)))
      y = lax.conv_general_dilated(x.astype(dtype), w.astype(dtype), (1,) * rank, "SAME",
                                   dimension_numbers=dimensions)
    else:
      rows = x.reshape(-1, x.shape[-1])
      y = rows @ w if dtype == x.dtype else matmul(rows, w, dtype)
      y = y.reshape(*x.shape[:-1], self.features)
    return checkpoint_name(y.astype(dtype), _KEPT).astype(jnp.float32)


def unit_magnitude(h: jax.Array, axis: int | None = None) -> jax.Array:
  """h/√(mean h² + 1e-8) along one axis, or along all but the last; the mean square becomes 1."""
  axes = tuple(range(h.ndim - 1)) if axis is None else axis
  return h * lax.rsqrt(jnp.mean(h * h, axis=axes, keepdims=True) + 1e-8)


def silu(h: jax.Array) -> jax.Array:
  """silu(h)/0.596, which has magnitude 1 for h ~ N(0, 1) (Karras et al. 2024, eq. 81)."""
  return nn.silu(h) / 0.596


def balanced(a: jax.Array, b: jax.Array) -> jax.Array:
  """((1 − t) a + t b)/√((1 − t)² + t²), t = 0.3 (Karras et al. 2024, eq. 88)."""
  return ((1.0 - _BALANCE) * a + _BALANCE * b) / math.hypot(1.0 - _BALANCE, _BALANCE)


def joined(a: jax.Array, b: jax.Array) -> jax.Array:
  """a and b side by side, each with half of the squared magnitude: Karras et al. 2024, eq. 103."""
  n_a, n_b = a.shape[-1], b.shape[-1]
  return jnp.concatenate([a * math.sqrt(0.5 * (n_a + n_b) / n_a),
                          b * math.sqrt(0.5 * (n_a + n_b) / n_b)], axis=-1)
