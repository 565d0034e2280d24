"""The diffusion transformer with adaLN-zero blocks (Peebles & Xie 2023, §3.2)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from jax.ad_checkpoint import checkpoint_name

from langevin_jax.networks._attention import CrossAttention, attention, normalize, sequence
from langevin_jax.networks._embeddings import Conditioning, by_kind, enlarged, with_mask
from langevin_jax.networks._products import Dense, compute_dtype

__all__ = ["Block", "DiT", "position_waves"]

# The name of the arrays that a rematerialised block keeps: outputs of its products, in the dtype of
# the operands.
_KEPT = "product"
# Flax declares `in_axes` of `nn.scan` as an int.
_BROADCAST: Any = nn.broadcast


class DiT(nn.Module):
  """adaLN-zero transformer on patches of an image (Peebles & Xie 2023, §3.2).

  All blocks start as the identity, and the output starts at zero. The blocks are one scan over
  stacked parameters, so that compile time does not grow with depth. Unrolling a few blocks avoids
  the copies of the loop (a fifth of a small network's training step on CPU).

  Vectors of a condition scale and shift as the noise level does. Each block attends to its tokens.
  Its images are further channels; one whose sides divide those of x has its pixels repeated.

  Attributes:
    patch_size: side of a square patch in pixels. It divides height and width of the image.
    width: channels of a token. `heads` divides it.
    depth: number of blocks, ≥ 1.
    heads: attention heads.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none. 0 ignores labels.
    classes: the number of classes of each named array of integers (`conditions`).
    mlp_ratio: hidden units of a block's MLP, as a multiple of width.
    dtype: "float32" or "bfloat16", of the products. Parameters and output are float32.
    unroll: blocks per iteration of the scan. A value ≥ depth leaves no loop.
    remat: whether the gradient stores only the outputs of dense layers of a block and recomputes
      the rest. It costs under a tenth more work and needs a third of the memory.
    constrain: applied to the activations (batch, …) between layers, to set how they are split over
      devices (`training.shardings.constrain`).
    second_level: as in `MLP`.
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

  @nn.compact
  def __call__(
      self, x: jax.Array, half_log_snr: jax.Array, condition: Any,
      half_log_snr_s: jax.Array | None = None,
  ) -> jax.Array:
    """The prediction for a batch.

    Args:
      x: (batch, height, width, channels), states at unit scale.
      half_log_snr: ℓ, a scalar or (batch,).
      condition: labels (batch,), or a dict of named arrays (`conditions`).
      half_log_snr_s: ℓ′ ≥ ℓ, as ℓ, of a network with `second_level`. None is ℓ′ = ℓ.

    Returns:
      (batch, height, width, channels), float32.

    Raises:
      ValueError: x of another rank, patch_size not dividing the image, heads not dividing width,
        depth < 1, an unknown dtype, a condition of no known kind, an image of another size.
    """
    self._check(x)
    batch, height, width, channels = x.shape
    p = self.patch_size
    rows, columns = height // p, width // p
    parts = by_kind(condition, self.classes, batch)
    vector = Conditioning(self.width, self.num_classes, self.second_level, name="conditioning")(
        half_log_snr, parts, batch, half_log_snr_s)
    h = Dense(self.width, self.dtype, name="patches")(_patches(x.astype(jnp.float32), p))
    for name, image in parts.images.items():
      given = enlarged(with_mask(*image), (height, width), name)
      # The product of channels side by side is the sum of products.
      h += Dense(self.width, self.dtype, name=f"{name}_patches")(_patches(given, p))
    # Learned, initialised with sines and cosines.
    position = self.param("position", lambda _: position_waves(rows, columns, self.width))
    h = self.constrain(h.reshape(batch, rows * columns, self.width) + position[None])

    tokens = sequence(parts.tokens, self.width, self.dtype)
    block = Block
    if self.remat:
      policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
      block = nn.remat(Block, prevent_cse=False, policy=policy)
    h, _ = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=_BROADCAST,
        length=self.depth, unroll=min(self.unroll, self.depth),
    )(self.heads, self.mlp_ratio, self.dtype, self.constrain, name="blocks")(h, (vector, tokens))

    shift, scale = _modulation(vector, 2, self.dtype, "modulation")
    h = ((1.0 + scale) * normalize(h) + shift).reshape(-1, self.width)
    y = Dense(p * p * channels, self.dtype, zero=True, name="output")(h)
    y = y.reshape(batch, rows, columns, p, p, channels).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(x.shape)

  def _check(self, x: jax.Array) -> None:
    if x.ndim != 4:
      raise ValueError(f"x must be (batch, height, width, channels), got shape {x.shape}")
    _, height, width, _ = x.shape
    p = self.patch_size
    if p < 1 or height % p or width % p:
      raise ValueError(f"patch_size must divide the image's {height}×{width}, got {p}")
    if self.heads < 1 or self.width % self.heads:
      raise ValueError(f"heads must divide width {self.width}, got {self.heads}")
    if self.depth < 1:
      raise ValueError(f"depth must be at least 1, got {self.depth}")


class Block(nn.Module):
  """Attention and MLP, each h ← h + gate ⊙ f((1 + scale) ⊙ norm(h) + shift); the gates start at 0.

  The attributes are those of `DiT`.
  """

  heads: int
  mlp_ratio: float
  dtype: str
  constrain: Callable[[jax.Array], jax.Array]

  @nn.compact
  def __call__(self, h: jax.Array, condition: Any) -> tuple[jax.Array, None]:
    """h (batch, tokens, width) → (h, None), as `nn.scan` expects.

    condition: a vector (batch, width), and None or the tokens that are attended to, with their
    mask.
    """
    width, (vector, tokens) = h.shape[-1], condition
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = _modulation(
        vector, 6, self.dtype, "modulation")

    # Dense layers see rows (batch·tokens, channels), so that a product is one of two matrices.
    r = ((1.0 + scale_a) * normalize(h) + shift_a).reshape(-1, width)
    r = _kept(Dense(3 * width, self.dtype, name="qkv")(r), self.dtype)
    r = _kept(attention(r.reshape(*h.shape[:2], -1), self.heads, self.dtype), self.dtype)
    r = _kept(Dense(width, self.dtype, name="merge")(r.reshape(-1, width)), self.dtype)
    h = self.constrain(h + gate_a * r.reshape(h.shape))
    if tokens is not None:
      h = self.constrain(h + CrossAttention(self.heads, self.dtype, name="cross")(h, *tokens))

    r = ((1.0 + scale_m) * normalize(h) + shift_m).reshape(-1, width)
    r = _kept(Dense(round(self.mlp_ratio * width), self.dtype, name="hidden")(r), self.dtype)
    r = nn.gelu(r.astype(jnp.float32))
    r = _kept(Dense(width, self.dtype, name="back")(r), self.dtype)
    h = self.constrain(h + gate_m * r.reshape(h.shape))
    return h, None


def _patches(x: jax.Array, p: int) -> jax.Array:
  """(batch, height, width, c) → rows of patches (batch·tokens, p·p·c)."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // p, p, width // p, p, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, p * p * channels)


def position_waves(rows: int, columns: int, width: int) -> jax.Array:
  """Sines and cosines of the row and column of each token (Vaswani et al. 2017, §3.5).

  Half of the channels encode the row and half the column, with wave numbers 10000^{−i/n}.

  Returns:
    (rows·columns, width), float32, the last width mod 4 channels zero.
  """
  n = width // 4
  frequencies = 10000.0 ** (-np.arange(n) / max(n, 1))
  row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
  angles = [np.outer(place.reshape(-1), frequencies) for place in (row, column)]
  waves = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=-1)
  return jnp.asarray(np.pad(waves, ((0, 0), (0, width - waves.shape[-1]))), jnp.float32)


def _kept(product: jax.Array, dtype: str) -> jax.Array:
  """`product` in the compute dtype, with the name that a rematerialised block keeps."""
  return checkpoint_name(product.astype(compute_dtype(dtype)), _KEPT)


def _modulation(condition: jax.Array, parts: int, dtype: str, name: str) -> list[jax.Array]:
  """`parts` linear functions of the condition, zero at initialisation, each (batch, 1, width)."""
  width = condition.shape[-1]
  out = checkpoint_name(Dense(parts * width, dtype, zero=True, name=name)(condition), _KEPT)
  return jnp.split(out[:, None, :], parts, axis=-1)
