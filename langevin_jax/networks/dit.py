"""The diffusion transformer with adaLN-zero blocks (Peebles & Xie 2023, §3.2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from langevin_jax.networks.embeddings import Conditioning
from langevin_jax.networks.products import Dense, compute_dtype

# Of more tokens than twice this, queries attend so many at a time: a TPU keeps the logits of 128
# queries on the chip, where those of 1,024 would be most of what a step moves through its memory.
QUERIES = 128
# What a block that is rematerialised keeps: outputs of its products, in their operands' dtype.
_KEPT = "product"


class DiT(nn.Module):
  """adaLN-zero transformer on patches of an image.

  All blocks start as the identity and the output at zero. Blocks are one scan over stacked
  parameters, so compile time need not grow with depth; a few blocks are unrolled, which spares the
  loop's copies (a fifth of a small network's training step on CPU).

  Attributes:
    patch_size: side of a square patch, in pixels; divides height and width of the image.
    width: channels of a token; `heads` divides it.
    depth: blocks, ≥ 1.
    heads: attention heads.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none; 0 ignores them.
    mlp_ratio: hidden units of a block's MLP, over width.
    dtype: "float32" or "bfloat16", of the products; parameters and output are float32.
    unroll: blocks per iteration of the scan; depth or more leaves no loop.
    remat: whether the gradient keeps of a block its products alone, and recomputes what lies
      between them and the products of attention: under a tenth of the work, a third of the memory.
    constrain: applied to the activations (batch, …) between layers, to say how they are split over
      devices (`training.shardings.constrain`); the identity if left out.
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
    """x (batch, h, w, c) at unit scale, ell a scalar or (batch,), labels (batch,) → as x, float32.

    Raises:
      ValueError: x not (batch, h, w, c), patch_size not dividing it, heads not dividing width,
        depth < 1, an unknown dtype.
    """
    if x.ndim != 4:
      raise ValueError(f"x must be (batch, height, width, channels), got shape {x.shape}")
    batch, height, width, channels = x.shape
    p = self.patch_size
    if p < 1 or height % p or width % p:
      raise ValueError(f"patch_size must divide the image's {height}×{width}, got {p}")
    if self.heads < 1 or self.width % self.heads:
      raise ValueError(f"heads must divide width {self.width}, got {self.heads}")
    if self.depth < 1:
      raise ValueError(f"depth must be at least 1, got {self.depth}")
    rows, columns = height // p, width // p

    condition = Conditioning(self.width, self.num_classes, name="conditioning")(
        half_log_snr, labels, batch)
    patches = x.astype(jnp.float32).reshape(batch, rows, p, columns, p, channels)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, p * p * channels)
    h = Dense(self.width, self.dtype, name="patches")(patches)
    # Learned, from sines and cosines: nearness is known from the start.
    position = self.param("position", lambda _: position_waves(rows, columns, self.width))
    h = self.constrain(h.reshape(batch, rows * columns, self.width) + position[None])

    block = Block
    if self.remat:
      policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
      block = nn.remat(Block, prevent_cse=False, policy=policy)
    h, _ = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
        length=self.depth, unroll=min(self.unroll, self.depth),
    )(self.heads, self.mlp_ratio, self.dtype, self.constrain, name="blocks")(h, condition)

    shift, scale = _modulation(condition, 2, self.dtype, "modulation")
    h = ((1.0 + scale) * normalize(h) + shift).reshape(-1, self.width)
    y = Dense(p * p * channels, self.dtype, zero=True, name="output")(h)
    y = y.reshape(batch, rows, columns, p, p, channels).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(x.shape)


class Block(nn.Module):
  """Attention and MLP, each h ← h + gate ⊙ f((1 + scale) ⊙ norm(h) + shift); all gates start at 0.

  Attributes as in `DiT`.
  """

  heads: int
  mlp_ratio: float
  dtype: str
  constrain: Callable[[jax.Array], jax.Array]

  @nn.compact
  def __call__(self, h: jax.Array, condition: jax.Array) -> tuple[jax.Array, None]:
    """h (batch, tokens, width), condition (batch, width) → h, and None for the scan."""
    width = h.shape[-1]
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = _modulation(
        condition, 6, self.dtype, "modulation")

    # Dense layers see rows (batch·tokens, channels): products of two matrices are the fast ones.
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
  """Layer normalisation over the last axis, without parameters: (h − mean)/√(var + 1e-6)."""
  h = h - jnp.mean(h, axis=-1, keepdims=True)
  return h * lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)


def attention(qkv: jax.Array, heads: int, dtype: str) -> jax.Array:
  """softmax(q kᵀ/√d) v in every head, softmax in float32.

  Args:
    qkv: (batch, tokens, 3·width), head by head, in each q before k before v: so a split of the last
      axis over devices is one of heads.
    heads: divides width.
    dtype: of the products' operands.

  Returns:
    (batch, tokens, width), float32.
  """
  batch, tokens, _ = qkv.shape
  qkv = qkv.astype(compute_dtype(dtype)).reshape(batch, tokens, heads, 3, -1)
  # (batch, heads, tokens, depth) for each: the layout of batched products of two matrices.
  q, k, v = qkv.transpose(3, 0, 2, 1, 4)

  def attend(q):
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    weights = nn.softmax(logits * q.shape[-1] ** -0.5).astype(v.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v, preferred_element_type=jnp.float32)

  if tokens <= 2 * QUERIES or tokens % QUERIES:
    out = attend(q)
  else:
    # A query's softmax needs no other query; the gradient recomputes the weights.
    parts = q.reshape(batch, heads, -1, QUERIES, q.shape[-1]).transpose(2, 0, 1, 3, 4)
    out = lax.map(jax.checkpoint(attend, prevent_cse=False), parts)
    out = out.transpose(1, 2, 0, 3, 4).reshape(q.shape)
  return out.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)


def position_waves(rows: int, columns: int, width: int) -> jax.Array:
  """Sines and cosines of row and column, (rows·columns, width); width not a multiple of 4: zeros.

  Half the channels tell the row, half the column, at wave numbers 10000^{−i/n} (Vaswani et al.
  2017, §3.5).
  """
  n = width // 4
  frequencies = 10000.0 ** (-np.arange(n) / max(n, 1))
  row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
  angles = [np.outer(place.reshape(-1), frequencies) for place in (row, column)]
  waves = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=-1)
  return jnp.asarray(np.pad(waves, ((0, 0), (0, width - waves.shape[-1]))), jnp.float32)


def _kept(product, dtype):
  return checkpoint_name(product.astype(compute_dtype(dtype)), _KEPT)


def _modulation(condition, parts, dtype, name):
  # Zero at first, and with a token axis of length one to broadcast over.
  width = condition.shape[-1]
  out = checkpoint_name(Dense(parts * width, dtype, zero=True, name=name)(condition), _KEPT)
  return jnp.split(out[:, None, :], parts, axis=-1)
