"""The diffusion transformer with adaLN-zero blocks (Peebles & Xie 2023, §3.2)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jax.ad_checkpoint import checkpoint_name

from langevin_jax.networks._attention import (
    CrossAttention,
    RMSNorm,
    attention,
    normalize,
    rotated,
    rotation,
    sequence,
)
from langevin_jax.networks._embeddings import Conditioning, Level, by_kind, enlarged, with_mask
from langevin_jax.networks._patches import convolve, join, position_waves, split
from langevin_jax.networks._products import Dense, compute_dtype, largest_divisor, matmul

__all__ = ["Block", "DiT"]

# The name of the arrays that a rematerialised block keeps: outputs of its products, in the dtype of
# the operands.
_KEPT = "product"
# Flax declares `in_axes` of `nn.scan` as an int.
_BROADCAST: Any = nn.broadcast
NORMS, MLPS, POSITIONS = ("layer", "rms"), ("gelu", "swiglu"), ("learned", "fixed", "none")


class DiT(nn.Module):
  """adaLN-zero transformer on patches of an image (Peebles & Xie 2023, §3.2).

  Patches of a sequence or a volume work alike. All blocks start as the identity, and the output
  starts at zero. The blocks are one scan over stacked parameters, so that compile time does not
  grow with depth. Unrolling a few blocks avoids the copies of the loop (a fifth of a small
  network's training step on CPU).

  Vectors of a condition scale and shift as the noise level does. Each block attends to its tokens.
  Its images are further channels; one whose sides divide those of x has its pixels repeated.

  Published layouts are numbers of this module (Peebles & Xie 2023, table 1; Ma et al. 2024; Li & He
  2025, "Back to Basics: Let Denoising Generative Models Denoise", without its class tokens):

  | | DiT, SiT: S, B, L, XL | JiT: B, L, H |
  |---|---|---|
  | patch_size | 2, 4 or 8 | 16 or 32 |
  | width | 384, 768, 1024, 1152 | 768, 1024, 1280 |
  | depth | 12, 12, 24, 28 | 12, 24, 32 |
  | heads | 6, 12, 16, 16 | 12, 16, 16 |
  | norm, mlp | "layer", "gelu" | "rms", "swiglu" |
  | qk_norm, rotary | False | True |
  | positions | "fixed" | "fixed" |
  | bottleneck | None | 128, 128, 256 |

  Attributes:
    patch_size: side of a patch in pixels. It divides all sides of x.
    width: channels of a token. `heads` divides it.
    depth: number of blocks, ≥ 1.
    heads: attention heads.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none. 0 ignores labels.
    classes: the number of classes of each named array of integers (`conditions`).
    mlp_ratio: hidden units of a block's MLP, as a multiple of width.
    dtype: "float32" or "bfloat16", of the products. Parameters and output are float32.
    unroll: blocks per iteration of the scan. A value ≥ depth leaves no loop.
    remat: whether the gradient stores only the outputs of a block's dense layers and self-attention
      and recomputes the rest. It costs under a tenth more work and needs a third of the memory.
    constrain: applied to the activations (batch, …) between layers, to set how they are split over
      devices (`training.shardings.constrain`).
    second_level: as in `MLP`.
    norm: "layer", without parameters, or "rms", with a gain.
    qk_norm: whether the queries and keys of each head are normalised by `RMSNorm`.
    mlp: "gelu", or "swiglu" with ⅔ as many hidden units (Shazeer 2020), W₂ (silu(W₁ r) ⊙ W₃ r).
    positions: what is added to the tokens: "learned", which begins as "fixed", sines and cosines of
      each axis; or "none".
    rotary: whether queries and keys are rotated by the places of their tokens along each axis.
    bottleneck: channels of a linear layer between a patch and its token, or None.
    stem: side of the window of patches, odd, that a token is made of. 1 is its own patch; a wider
      one is a convolution, whose neighbours attention need not find first (Xiao et al. 2021, "Early
      Convolutions Help Transformers See Better").
    tied: whether the output layer is the transpose of the input layer, as of language models whose
      x is one-hot vectors (Press & Wolf 2017). Then the output does not start at zero.
    level: how the noise level is seen, and the scale of x.
  """

  patch_size: int = 2
  width: int = 128
  depth: int = 4
  heads: int = 4
  num_classes: int = 0
  classes: Mapping[str, int] = FrozenDict()
  mlp_ratio: float = 4.0
  dtype: str = "float32"
  unroll: int = 8
  remat: bool = False
  constrain: Callable[[jax.Array], jax.Array] = lambda h: h
  second_level: bool = False
  norm: str = "layer"
  qk_norm: bool = False
  mlp: str = "gelu"
  positions: str = "learned"
  rotary: bool = False
  bottleneck: int | None = None
  stem: int = 1
  tied: bool = False
  level: Level = Level()

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
      ValueError: as `check`; an unknown dtype, a condition of no known kind, an image of another
        size.
    """
    self.check(x.shape)
    batch, sides, p = x.shape[0], x.shape[1:-1], self.patch_size
    grid = tuple(side // p for side in sides)
    parts = by_kind(condition, self.classes, batch)
    given = x.astype(jnp.float32)
    if self.level.scale is not None:
      ell = jnp.broadcast_to(jnp.asarray(half_log_snr, jnp.float32), (batch,))
      given *= self.level.scale(ell).reshape(batch, *[1] * (x.ndim - 1))
    vector = Conditioning(
        self.width, self.num_classes, self.second_level, level=self.level,
        name="conditioning")(half_log_snr, parts, batch, half_log_snr_s)
    rows = split(given, p)
    if self.bottleneck is not None:
      rows = Dense(self.bottleneck, self.dtype, name="bottleneck")(rows)
    patches = Dense(self.width * self.stem ** len(sides), self.dtype, name="patches")
    h = convolve(patches(rows), (batch, *grid), self.stem)
    for name, image in parts.images.items():
      given = enlarged(with_mask(*image), sides, name)
      # The product of channels side by side is the sum of products.
      h += Dense(self.width, self.dtype, name=f"{name}_patches")(split(given, p))
    h = h.reshape(batch, -1, self.width)
    if self.positions != "none":
      waves = lambda: position_waves(grid, self.width)
      position = self.param("position", lambda _: waves()) if (
          self.positions == "learned") else waves()
      h = h + position[None]
    h = self.constrain(h)

    tokens = sequence(parts.tokens, self.width, self.dtype)
    block = Block
    if self.remat:
      policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
      block = nn.remat(Block, prevent_cse=False, policy=policy)
    h, _ = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=_BROADCAST,
        length=self.depth, unroll=min(self.unroll, self.depth),
    )(self.heads, self.mlp_ratio, self.dtype, self.constrain, norm=self.norm, mlp=self.mlp,
      qk_norm=self.qk_norm, grid=grid if self.rotary else (), name="blocks")(h, (vector, tokens))

    shift, scale = _modulation(vector, 2, self.dtype, "modulation")
    h = _modulated(h, self.norm, shift, scale, "norm")
    if self.tied:
      kernel = patches.variables["params"]["kernel"].T
      y = matmul(h, kernel, compute_dtype(self.dtype)) + self.param(
          "output_bias", nn.initializers.zeros, kernel.shape[1:])[None, :]
    else:
      y = Dense(p ** len(sides) * x.shape[-1], self.dtype, zero=True, name="output")(h)
    return join(y, x.shape, p)

  def check(self, shape: tuple[int, ...]) -> None:
    """Raises ValueError where x of this shape, (batch, *sides, channels), cannot be taken."""
    if len(shape) < 3:
      raise ValueError(f"x must be (batch, *sides, channels), got shape {shape}")
    p, sides = self.patch_size, shape[1:-1]
    if p < 1 or any(side % p for side in sides):
      raise ValueError(f"patch_size must divide all sides, {'×'.join(map(str, sides))}; got {p}: "
                       f"{largest_divisor(p, *sides)} does")
    if self.heads < 1 or self.width % self.heads:
      raise ValueError(f"heads must divide width {self.width}, got {self.heads}: "
                       f"{largest_divisor(self.heads, self.width)} does")
    if self.rotary and self.width // self.heads < 2 * len(sides):
      raise ValueError(f"rotary needs {2 * len(sides)} channels a head for {len(sides)} axes, got "
                       f"{self.width // self.heads}; take fewer heads or a greater width")
    for name in ("depth", "bottleneck"):
      if (value := getattr(self, name)) is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    if self.stem < 1 or self.stem % 2 == 0:
      raise ValueError(f"stem must be an odd number of patches, got {self.stem}")
    if self.tied and (self.bottleneck is not None or self.stem > 1):
      raise ValueError("tied ties the output to the patches, each a token: take bottleneck=None "
                       "and stem=1")
    for name, values in (("norm", NORMS), ("mlp", MLPS), ("positions", POSITIONS)):
      if (value := getattr(self, name)) not in values:
        raise ValueError(f"{name} must be one of {', '.join(values)}, got {value!r}")


class Block(nn.Module):
  """Attention and MLP, each h ← h + gate ⊙ f((1 + scale) ⊙ norm(h) + shift); the gates start at 0.

  The attributes are those of `DiT`.

  Attributes:
    grid: tokens along each axis if their places rotate queries and keys; else ().
  """

  heads: int
  mlp_ratio: float
  dtype: str
  constrain: Callable[[jax.Array], jax.Array]
  norm: str = "layer"
  qk_norm: bool = False
  mlp: str = "gelu"
  grid: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, h: jax.Array, condition: Any) -> tuple[jax.Array, None]:
    """h (batch, tokens, width) → (h, None), as `nn.scan` expects.

    condition: a vector (batch, width), and None or the tokens that are attended to, with their
    mask.
    """
    width, (vector, tokens) = h.shape[-1], condition
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = _modulation(
        vector, 6, self.dtype, "modulation")
    dense = lambda features, name, r: _kept(Dense(features, self.dtype, name=name)(r), self.dtype)

    # Dense layers see rows (batch·tokens, channels), so that a product is one of two matrices.
    r = _modulated(h, self.norm, shift_a, scale_a, "norm_attention")
    r = dense(3 * width, "qkv", r).reshape(*h.shape[:2], -1)
    r = _kept(attention(r, self.heads, self.dtype, self._prepare), self.dtype)
    r = dense(width, "merge", r.reshape(-1, width))
    h = self.constrain(h + gate_a * r.reshape(h.shape))
    if tokens is not None:
      h = self.constrain(h + CrossAttention(self.heads, self.dtype, name="cross")(h, *tokens))

    r = _modulated(h, self.norm, shift_m, scale_m, "norm_mlp")
    if self.mlp == "gelu":
      r = dense(round(self.mlp_ratio * width), "hidden", r)
      r = nn.gelu(r.astype(jnp.float32))
    else:
      units = int(self.mlp_ratio * width * 2 / 3)
      gate = nn.silu(dense(units, "gate", r).astype(jnp.float32))
      r = gate * dense(units, "hidden", r)
    r = dense(width, "back", r)
    h = self.constrain(h + gate_m * r.reshape(h.shape))
    return h, None

  def _prepare(self, h, name):
    """Queries or keys (batch, heads, tokens, depth), normalised and rotated."""
    if self.qk_norm:
      h = RMSNorm(name=f"{name}_norm")(h).astype(h.dtype)
    return rotated(h, rotation(self.grid, h.shape[-1])) if self.grid else h


def _kept(product: jax.Array, dtype: str) -> jax.Array:
  """`product` in the compute dtype, with the name that a rematerialised block keeps."""
  return checkpoint_name(product.astype(compute_dtype(dtype)), _KEPT)


def _modulated(h, norm: str, shift: jax.Array, scale: jax.Array, name: str) -> jax.Array:
  """Rows of (1 + scale) ⊙ norm(h) + shift."""
  normal = normalize if norm == "layer" else RMSNorm(name=name)
  return ((1.0 + scale) * normal(h) + shift).reshape(-1, h.shape[-1])


def _modulation(condition: jax.Array, parts: int, dtype: str, name: str) -> list[jax.Array]:
  """`parts` linear functions of the condition, zero at initialisation, each (batch, 1, width)."""
  width = condition.shape[-1]
  out = checkpoint_name(Dense(parts * width, dtype, zero=True, name=name)(condition), _KEPT)
  return jnp.split(out[:, None, :], parts, axis=-1)
