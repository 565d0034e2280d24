"""The diffusion transformer with adaLN-zero blocks (Peebles & Xie 2023, §3.2)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from langevin_jax.networks._embeddings import Conditioning
from langevin_jax.networks._products import Dense, compute_dtype

__all__ = ["QUERIES", "Block", "DiT", "attention", "normalize", "position_waves"]

# With more than twice as many tokens, attention processes this many queries at a time. A TPU keeps
# the logits of 128 queries on the chip; those of 1,024 would dominate its memory traffic.
QUERIES = 128
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

  Attributes:
    patch_size: side of a square patch in pixels. It divides height and width of the image.
    width: channels of a token. `heads` divides it.
    depth: number of blocks, ≥ 1.
    heads: attention heads.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none. 0 ignores labels.
    mlp_ratio: hidden units of a block's MLP, as a multiple of width.
    dtype: "float32" or "bfloat16", of the products. Parameters and output are float32.
    unroll: blocks per iteration of the scan. A value ≥ depth leaves no loop.
    remat: whether the gradient stores only the outputs of dense layers of a block and recomputes
      the rest. It costs under a tenth more work and needs a third of the memory.
    constrain: applied to the activations (batch, …) between layers, to set how they are split over
      devices (`training.shardings.constrain`).
  """

  patch_size: int = 2
  width: int = 128
  depth: int = 4
  heads: int = 4
  num_classes: int = 0
  mlp_ratio: float = 4.0
  dtype: str = "float32"
  unroll: int = 8
  remat: bool = False
  constrain: Callable[[jax.Array], jax.Array] = lambda h: h

  @nn.compact
  def __call__(self, x: jax.Array, half_log_snr: jax.Array, labels: jax.Array) -> jax.Array:
    """The prediction for a batch.

    Args:
      x: (batch, height, width, channels), states at unit scale.
      half_log_snr: ℓ, a scalar or (batch,).
      labels: (batch,).

    Returns:
      (batch, height, width, channels), float32.

    Raises:
      ValueError: x of another rank, patch_size not dividing the image, heads not dividing width,
        depth < 1, an unknown dtype.
    """
    self._check(x)
    batch, height, width, channels = x.shape
    p = self.patch_size
    rows, columns = height // p, width // p
    condition = Conditioning(self.width, self.num_classes, name="conditioning")(
        half_log_snr, labels, batch)
    patches = x.astype(jnp.float32).reshape(batch, rows, p, columns, p, channels)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, p * p * channels)
    h = Dense(self.width, self.dtype, name="patches")(patches)
    # Learned, initialised with sines and cosines.
    position = self.param("position", lambda _: position_waves(rows, columns, self.width))
    h = self.constrain(h.reshape(batch, rows * columns, self.width) + position[None])

    block = Block
    if self.remat:
      policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
      block = nn.remat(Block, prevent_cse=False, policy=policy)
    h, _ = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=_BROADCAST,
        length=self.depth, unroll=min(self.unroll, self.depth),
    )(self.heads, self.mlp_ratio, self.dtype, self.constrain, name="blocks")(h, condition)

    shift, scale = _modulation(condition, 2, self.dtype, "modulation")
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
  def __call__(self, h: jax.Array, condition: jax.Array) -> tuple[jax.Array, None]:
    """h (batch, tokens, width) and condition (batch, width) → (h, None), as `nn.scan` expects."""
    width = h.shape[-1]
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = _modulation(
        condition, 6, self.dtype, "modulation")

    # Dense layers see rows (batch·tokens, channels), so that a product is one of two matrices.
    r = ((1.0 + scale_a) * normalize(h) + shift_a).reshape(-1, width)
    r = _kept(Dense(3 * width, self.dtype, name="qkv")(r), self.dtype)
    r = _kept(attention(r.reshape(*h.shape[:2], -1), self.heads, self.dtype), self.dtype)
    r = _kept(Dense(width, self.dtype, name="merge")(r.reshape(-1, width)), self.dtype)
    h = self.constrain(h + gate_a * r.reshape(h.shape))

    r = ((1.0 + scale_m) * normalize(h) + shift_m).reshape(-1, width)
    r = _kept(Dense(round(self.mlp_ratio * width), self.dtype, name="hidden")(r), self.dtype)
    r = nn.gelu(r.astype(jnp.float32))
    r = _kept(Dense(width, self.dtype, name="back")(r), self.dtype)
    h = self.constrain(h + gate_m * r.reshape(h.shape))
    return h, None


def normalize(h: jax.Array) -> jax.Array:
  """Layer normalisation over the last axis without parameters, (h − mean)/√(var + 1e-6)."""
  h = h - jnp.mean(h, axis=-1, keepdims=True)
  return h * lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)


def attention(qkv: jax.Array, heads: int, dtype: str) -> jax.Array:
  """Attention softmax(q kᵀ/√d) v in every head, with the softmax in float32.

  Args:
    qkv: (batch, tokens, 3·width), ordered by head, and within a head q, k, v. So a split of the
      last axis over devices is a split over heads.
    heads: number of heads, which divides width.
    dtype: "float32" or "bfloat16", of the operands of the products.

  Returns:
    (batch, tokens, width), float32.
  """
  batch, tokens, _ = qkv.shape
  qkv = qkv.astype(compute_dtype(dtype)).reshape(batch, tokens, heads, 3, -1)
  # Each (batch, heads, tokens, depth), the layout of a batched matrix product.
  q, k, v = qkv.transpose(3, 0, 2, 1, 4)

  def attend(q):
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    weights = nn.softmax(logits * q.shape[-1] ** -0.5).astype(v.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v, preferred_element_type=jnp.float32)

  if tokens <= 2 * QUERIES or tokens % QUERIES:
    out = attend(q)
  else:
    # Queries are independent of each other. The gradient recomputes the weights.
    parts = q.reshape(batch, heads, -1, QUERIES, q.shape[-1]).transpose(2, 0, 1, 3, 4)
    out = lax.map(jax.checkpoint(attend, prevent_cse=False), parts)
    out = out.transpose(1, 2, 0, 3, 4).reshape(q.shape)
  return out.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)


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
