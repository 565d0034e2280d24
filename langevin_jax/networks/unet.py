"""A U-Net on sequences, images and volumes, with the layouts of DDPM, DDPM++, NCSN++ and ADM."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.ad_checkpoint import checkpoint_name

from langevin_jax.networks._attention import (
    CrossAttention,
    attention,
    check_attention,
    sequence,
)
from langevin_jax.networks._embeddings import Conditioning, Level, by_kind, enlarged, with_mask
from langevin_jax.networks._layers import KEPT, GroupNorm, convolution, resample, rows, spread
from langevin_jax.networks._products import Dense, largest_divisor

__all__ = ["Block", "GroupNorm", "UNet", "resample"]

RESAMPLINGS = ("convolution", "filter", "block")


class UNet(nn.Module):
  """Residual blocks at several resolutions, with skips from the way down to the way up.

  Published layouts are numbers of this module (Ho et al. 2020, appendix B; Song et al. 2021,
  appendix H and Karras et al. 2022, table 7; Dhariwal & Nichol 2021, §3 and table 11):

  | | DDPM, 32² | DDPM++, 32² | NCSN++, 32² | ADM, 64² |
  |---|---|---|---|---|
  | channels | 128 | 128 | 128 | 192 |
  | multipliers | (1, 2, 2, 2) | (2, 2, 2) | (2, 2, 2) | (1, 2, 3, 4) |
  | blocks | 2 | 4 | 4 | 3 |
  | attention | (16,) | (16,) | (16,) | (32, 16, 8) |
  | attend_last | False | True | True | False |
  | head_channels | None | None | None | 64 |
  | scale_shift | False | False | False | True |
  | resampling | "convolution" | "block" | "block" | "block" |
  | taps | (1, 1) | (1, 1) | (1, 3, 3, 1) | (1, 1) |
  | project_skip | False | True | True | False |
  | input_pyramid | False | False | True | False |
  | skip_scale | 1 | √½ | √½ | 1 |

  A block's last product, the merging of heads and the output start at zero. Vectors of a condition
  act as the noise level does; where there is attention, it is also to the tokens; images are
  further channels of the input, with pixels repeated where their sides divide those of x.

  Attributes:
    channels: of the first layer, a multiple of `groups`. The conditioning has 4 · channels.
    multipliers: channels of each level, in units of `channels`. Each level after the first halves
      all sides, which are multiples of 2^(levels − 1).
    blocks: residual blocks of a level on the way down; there is one more on the way up.
    attention: the levels with attention, each by its longest side. The middle has attention too.
    attend_last: whether a level attends only after its last block on the way up.
    head_channels: channels of an attention head, which divide those of a level. None: `heads`.
    groups: of group normalisation.
    scale_shift: whether the conditioning scales and shifts after the second normalisation, or is
      added before it.
    resampling: "convolution", of stride 2 on the way down and after resampling on the way up;
      "filter", without parameters; "block", a residual block that resamples both its paths.
    taps: of the filter of each axis, an even number. (1, 1) averages pairs, and repeats.
    project_skip: whether the skip of a block that resamples has a product too.
    input_pyramid: whether the input, convolved and then halved by the filter, is added to each
      level.
    skip_scale: multiplies the sum of each residual connection.
    epsilon: of the normalisations.
    centred: whether convolutions of stride 2 are centred on the even points of an axis, as with a
      padding of 1 on both sides, or on the odd ones, as in DDPM.
    dropout: probability with which a block's last product loses an input; applied where `apply`
      gets rngs={"dropout": key}.
    heads: their number at every level with attention, where head_channels is None.
    level: how the noise level is seen, and the scale of x.
    num_classes, classes, dtype, constrain, second_level: as in `DiT`.
    remat: whether the gradient stores only the outputs of a block's products and self-attention and
      recomputes normalisations, activations and resampling.
  """

  channels: int = 128
  multipliers: tuple[int, ...] = (1, 2, 2, 2)
  blocks: int = 2
  attention: tuple[int, ...] = (16,)
  attend_last: bool = False
  head_channels: int | None = None
  groups: int = 32
  scale_shift: bool = False
  resampling: str = "convolution"
  taps: tuple[float, ...] = (1.0, 1.0)
  project_skip: bool = False
  input_pyramid: bool = False
  skip_scale: float = 1.0
  epsilon: float = 1e-6
  centred: bool = False
  dropout: float = 0.0
  heads: int = 1
  level: Level = Level()
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
      ValueError: x without sides, sides that cannot be halved as often, channels that are not a
        multiple of the groups, heads that do not divide, attention at a side that no level has, an
        unknown resampling or dtype, a condition of no known kind, an image of another size.
    """
    self.check(x.shape)
    batch, sides, width = x.shape[0], x.shape[1:-1], 4 * self.channels
    parts = by_kind(condition, self.classes, batch)
    vector = Conditioning(
        width, self.num_classes, self.second_level, self.level, name="conditioning")(
            half_log_snr, parts, batch, half_log_snr_s)
    if self.level.scale is not None:
      ell = jnp.broadcast_to(jnp.asarray(half_log_snr, jnp.float32), (batch,))
      x = x * spread(self.level.scale(ell)[:, None], x.ndim)
    tokens = sequence(parts.tokens, width, self.dtype)
    given = jnp.concatenate([x.astype(jnp.float32)] + [
        enlarged(with_mask(*image), sides, name) for name, image in parts.images.items()], axis=-1)

    kind = Block
    if self.remat:
      kind = nn.remat(Block, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
    make = functools.partial(
        kind, groups=self.groups, scale_shift=self.scale_shift, taps=self.taps,
        project_skip=self.project_skip, skip_scale=self.skip_scale,
        head_channels=self.head_channels, heads=self.heads, epsilon=self.epsilon,
        dropout=self.dropout, dtype=self.dtype)
    block = lambda h, features, **how: self.constrain(make(features, **how)(h, vector, tokens))
    convolve = functools.partial(convolution, rank=len(sides), dtype=self.dtype)
    attends = lambda level: max(sides) >> level in self.attention

    h = self.constrain(convolve(self.channels, coordinates=True, name="input")(given))
    skips, pyramid = [h], given
    for level, multiplier in enumerate(self.multipliers):
      if level:
        h = self.constrain(self._resized(h, "down", f"down_{level}", block, convolve))
        if self.input_pyramid:
          # What is outside is zero to the convolution, and not to the filter after it.
          pyramid = resample(convolve(h.shape[-1], padding=len(self.taps) // 2,
                                      name=f"pyramid_{level}")(pyramid).astype(jnp.float32),
                             "down", self.taps, padded=True)
          h = pyramid = (h + pyramid) * self.skip_scale
        skips.append(h)
      for i in range(self.blocks):
        h = block(h, multiplier * self.channels, attend=attends(level), name=f"down_{level}_{i}")
        skips.append(h)
    h = block(h, h.shape[-1], attend=True, name="middle_0")
    h = block(h, h.shape[-1], name="middle_1")
    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for i in range(self.blocks + 1):
        attend = attends(level) and (i == self.blocks or not self.attend_last)
        h = block(jnp.concatenate([h, skips.pop()], axis=-1), multiplier * self.channels,
                  attend=attend, name=f"up_{level}_{i}")
      if level:
        h = self.constrain(self._resized(h, "up", f"up_{level}", block, convolve))
    h = nn.silu(GroupNorm(self.groups, self.epsilon, name="norm")(h))
    return convolve(x.shape[-1], zero=True, name="output")(h).astype(jnp.float32)

  def _resized(self, h, way, name, block, convolve):
    """h at the next level of the way "down" or "up"."""
    if self.resampling == "block":
      return block(h, h.shape[-1], way=way, name=name)
    if self.resampling == "convolution" and way == "down":
      return convolve(h.shape[-1], stride=2, padding=1 if self.centred else "SAME", name=name)(
          h).astype(jnp.float32)
    h = resample(h, way, self.taps)
    if self.resampling == "convolution":
      h = convolve(h.shape[-1], name=name)(h).astype(jnp.float32)
    return h

  def check(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError where x of this shape, (batch, *sides, channels), cannot be taken."""
    if len(shape) < 3:
      raise ValueError(f"x must be (batch, *sides, channels), got shape {shape}")
    sides, levels = shape[1:-1], len(self.multipliers)
    if not 0.0 <= self.dropout < 1.0:
      raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
    for name in ("channels", "blocks", "groups", "head_channels", "heads"):
      if (value := getattr(self, name)) is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    if not levels or min(self.multipliers) < 1:
      raise ValueError(f"multipliers must be integers from 1, got {self.multipliers}")
    if wrong := [side for side in sides if side % 2 ** (levels - 1)]:
      raise ValueError(f"multipliers has {levels} levels, so sides must be multiples of "
                       f"{2 ** (levels - 1)}, got {wrong[0]}; take fewer levels")
    if self.channels % self.groups:
      raise ValueError(f"groups must divide channels {self.channels}, got {self.groups}: "
                       f"{largest_divisor(self.groups, self.channels)} does")
    widths = [multiplier * self.channels for multiplier in self.multipliers]
    name = "head_channels" if self.head_channels else "heads"
    check_attention(self.attention, sides, widths, name, getattr(self, name))
    if self.resampling not in RESAMPLINGS:
      raise ValueError(f"resampling must be one of {', '.join(RESAMPLINGS)}, got "
                       f"{self.resampling!r}")
    if not self.taps or len(self.taps) % 2 or sum(self.taps) == 0.0:
      raise ValueError(f"taps must be an even number of weights, their sum not 0, got {self.taps}")


class Block(nn.Module):
  """h ← s (skip(h) + f(h)), and with attention h ← s (h + attention(norm(h))), s the skip scale.

    f = conv silu(norm(conv silu(norm(h)) + m)),   or (1 + m₁) norm(…) + m₂ with scale and shift

  Attributes:
    features: channels of the result.
    way: "down", "up" or None, how both paths are resampled.
    attend: whether there is attention after the residual.
    groups, scale_shift, taps, project_skip, skip_scale, head_channels, heads, epsilon, dropout,
      dtype: as in `UNet`.
  """

  features: int
  groups: int
  scale_shift: bool
  taps: tuple[float, ...]
  project_skip: bool
  skip_scale: float
  head_channels: int | None
  heads: int
  epsilon: float
  dropout: float
  dtype: str
  way: str | None = None
  attend: bool = False

  @nn.compact
  def __call__(
      self, h: jax.Array, vector: jax.Array, tokens: tuple[jax.Array, jax.Array] | None
  ) -> jax.Array:
    """h (batch, *sides, c), the conditioning (batch, width), tokens with their mask or None."""
    rank = h.ndim - 2
    norm = functools.partial(GroupNorm, self.groups, self.epsilon)
    # The names are those of `training.shardings.RULES`: channels between the two are split.
    first, second = (convolution(self.features, rank, self.dtype, zero=zero, name=name)
                     for zero, name in ((False, "hidden"), (True, "back")))
    r = nn.silu(norm(name="norm_in")(h))
    if self.way:
      h, r = (resample(part, self.way, self.taps) for part in (h, r))
    r = checkpoint_name(first(r), KEPT)
    m = Dense((1 + self.scale_shift) * self.features, self.dtype, name="modulation")(vector)
    if self.scale_shift:
      r = norm(name="norm_out")(r, *jnp.split(m, 2, axis=-1))
    else:
      r = norm(name="norm_out")(r.astype(jnp.float32) + spread(m, h.ndim))
    r = nn.silu(r)
    if self.dropout:
      r = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(r)
    r = checkpoint_name(second(r), KEPT).astype(jnp.float32)
    if h.shape[-1] != self.features or (self.way and self.project_skip):
      h = rows(h, self.features, self.dtype, name="skip")
    h = (h + r) * self.skip_scale
    return self._attended(h, tokens) if self.attend else h

  def _attended(self, h, tokens):
    """h after attention to itself and to the tokens."""
    batch, width = h.shape[0], h.shape[-1]
    heads = width // self.head_channels if self.head_channels else self.heads
    r = GroupNorm(self.groups, self.epsilon, name="norm_attention")(h)
    r = rows(r, 3 * width, self.dtype, name="qkv").reshape(batch, -1, 3 * width)
    r = checkpoint_name(attention(r, heads, self.dtype), KEPT)
    r = rows(r, width, self.dtype, name="merge", zero=True).reshape(h.shape)
    h = (h + r) * self.skip_scale
    if tokens is not None:
      r = CrossAttention(heads, self.dtype, name="cross")(h.reshape(batch, -1, width), *tokens)
      h = (h + r.reshape(h.shape)) * self.skip_scale
    return h
