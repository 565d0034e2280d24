"""Attention of a sequence to itself and to the tokens of a condition."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from langevin_jax.networks._fused_attention import fused, plain, suits
from langevin_jax.networks._products import Dense, compute_dtype, largest_divisor

# With more than twice as many tokens, attention processes this many queries at a time. A TPU keeps
# the logits of 128 queries on the chip; those of 1,024 would dominate its memory traffic.
QUERIES = 128
# Added to the logit of a token that is not there; finite, so that no gradient is 0/0.
_ABSENT = -1e30


def normalize(h: jax.Array) -> jax.Array:
  """Layer normalisation over the last axis without parameters, (h − mean)/√(var + 1e-6)."""
  h = h - jnp.mean(h, axis=-1, keepdims=True)
  return h * lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)


class RMSNorm(nn.Module):
  """γ h/√(mean h² + 1e-6) over the last axis, in float32 (Zhang & Sennrich 2019)."""

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    scale = self.param("scale", nn.initializers.ones, h.shape[-1:], jnp.float32)
    h = h.astype(jnp.float32)
    h = h * lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)
    return h * scale.reshape((1,) * (h.ndim - 1) + (-1,))


def rotation(sides: tuple[int, ...], depth: int) -> np.ndarray:
  """Angles of rotary positions (Su et al. 2021) on a grid of tokens, place·10000^{−i/n}.

  The pairs of channels of a head are shared out evenly over the axes, n = ⌊depth/(2·axes)⌋ each.
  Those that are left do not turn.

  Args:
    sides: tokens along each axis. depth: channels of a head.

  Returns:
    (tokens, depth // 2), for `attention`.
  """
  n = depth // (2 * len(sides))
  places = np.indices(sides).reshape(len(sides), -1)
  angles = np.concatenate(
      [np.outer(place, 10000.0 ** (-np.arange(n) / max(n, 1))) for place in places], axis=-1)
  return np.pad(angles, ((0, 0), (0, depth // 2 - angles.shape[-1])))


def rotated(h: jax.Array, angles: np.ndarray) -> jax.Array:
  """h (…, tokens, depth) with channels i and i + ⌊depth/2⌋ turned by angle i of the token."""
  half = angles.shape[-1]
  shape = (1,) * (h.ndim - 2) + angles.shape
  cos, sin = (jnp.asarray(f(angles), jnp.float32).reshape(shape) for f in (np.cos, np.sin))
  a, b, rest = jnp.split(h.astype(jnp.float32), (half, 2 * half), axis=-1)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos, rest], axis=-1).astype(h.dtype)


def attention(
    qkv: jax.Array, heads: int, dtype: str,
    prepare: Callable[[jax.Array, str], jax.Array] = lambda h, name: h,
) -> jax.Array:
  """Attention softmax(q kᵀ/√d) v in every head, with the softmax in float32.

  On CUDA in bfloat16 it is cuDNN's kernel.

  Args:
    qkv: (batch, tokens, 3·width), ordered by head, and within a head q, k, v. So a split of the
      last axis over devices is a split over heads.
    heads: number of heads, which divides width.
    dtype: "float32" or "bfloat16", of the operands of the products.
    prepare: applied to q and k, (batch, heads, tokens, depth), with "q" and "k".

  Returns:
    (batch, tokens, width), float32.
  """
  batch, tokens, _ = qkv.shape
  qkv = qkv.astype(compute_dtype(dtype)).reshape(batch, tokens, heads, 3, -1)
  # Each (batch, heads, tokens, depth), the layout of a batched matrix product.
  q, k, v = qkv.transpose(3, 0, 2, 1, 4)
  q, k = (prepare(h, name).astype(v.dtype) for h, name in ((q, "q"), (k, "k")))

  attend = lambda q: plain(q, k, v)
  if suits(q.dtype, q.shape[-1]):
    out = fused(q, k, v)
  elif tokens <= 2 * QUERIES or tokens % QUERIES:
    out = attend(q)
  else:
    # Queries are independent of each other. The gradient recomputes the weights.
    parts = q.reshape(batch, heads, -1, QUERIES, q.shape[-1]).transpose(2, 0, 1, 3, 4)
    out = lax.map(jax.checkpoint(attend, prevent_cse=False), parts)
    out = out.transpose(1, 2, 0, 3, 4).reshape(q.shape)
  return out.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)


def sequence(
    tokens: Mapping[str, tuple[jax.Array, jax.Array]], width: int, dtype: str
) -> tuple[jax.Array, jax.Array] | None:
  """All tokens of a condition as one sequence of `width` channels, or None where there are none.

  Its first token is a learned one that is always there: what is attended to where nothing is given.
  Called inside a module, whose parameters the embeddings become.

  Args:
    tokens: values (batch, tokens, d) and masks (batch, tokens) by name.

  Returns:
    (batch, 1 + tokens, width) and its mask.
  """
  if not tokens:
    return None
  embedded = []
  for name, (value, mask) in tokens.items():
    batch, length, d = value.shape
    h = Dense(width, dtype, coordinates=True, name=f"{name}_tokens")(value.reshape(-1, d))
    embedded.append((h.reshape(batch, length, width), mask))
  first = Dense(width, dtype, name="no_token")(jnp.ones((batch, 1)))[:, None, :]
  values, masks = zip((first, jnp.ones((batch, 1), bool)), *embedded, strict=True)
  return jnp.concatenate(values, axis=1), jnp.concatenate(masks, axis=1)


def check_attention(
    attention: Sequence[int], sides: Sequence[int], widths: Sequence[int], name: str, value: int
) -> None:
  """Raises ValueError where a U-Net's levels cannot attend as they should.

  Args:
    attention: the longest sides of the levels that attend; the last level does in any case.
    sides: of the first level; each further one has half of them.
    widths: the channels of each level.
    name, value: the option that must divide the channels of levels that attend.
  """
  there = [max(sides) >> level for level in range(len(widths))]
  if wrong := [side for side in attention if side not in there]:
    raise ValueError(f"attention must be among the longest sides of the levels, "
                     f"{', '.join(map(str, there))}; got {wrong[0]}")
  attending = {side: width for side, width in zip(there, widths, strict=True)
               if side in attention or side == there[-1]}
  for side, width in attending.items():
    if width % value:
      raise ValueError(f"{name} must divide the {width} channels of the level of side {side}, "
                       f"which has attention; got {value}: "
                       f"{largest_divisor(value, *attending.values())} does")


class CrossAttention(nn.Module):
  """Attention softmax(q kᵀ/√d) v to the tokens of a condition; zero at initialisation.

  Attributes:
    heads: number of heads, which divides the width.
    dtype: "float32" or "bfloat16", of the products.
  """

  heads: int
  dtype: str

  @nn.compact
  def __call__(self, h: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """h (batch, n, width), tokens (batch, m, d), mask (batch, m) → (batch, n, width)."""
    batch, n, width = h.shape
    if self.heads < 1 or width % self.heads:
      raise ValueError(f"heads must divide width {width}, got {self.heads}: "
                       f"{largest_divisor(self.heads, width)} does")
    dense = lambda features, name, x, zero=False: Dense(
        features, self.dtype, zero=zero, name=name)(x.reshape(-1, x.shape[-1]))
    split = lambda x, m: x.astype(compute_dtype(self.dtype)).reshape(
        batch, m, self.heads, -1).transpose(0, 2, 1, 3)
    # The names are those of `training.shardings.RULES`. Channels are ordered by head, so that their
    # split over devices is a split over heads.
    q = split(dense(width, "query", normalize(h)), n)
    k, v = jnp.split(split(dense(2 * width, "key_value", tokens), tokens.shape[1]), 2, axis=-1)
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    logits = logits * q.shape[-1] ** -0.5 + jnp.where(mask, 0.0, _ABSENT)[:, None, None, :]
    out = jnp.einsum("bhqk,bhkd->bhqd", nn.softmax(logits).astype(v.dtype), v,
                     preferred_element_type=jnp.float32)
    out = out.transpose(0, 2, 1, 3).reshape(batch, n, width)
    return dense(width, "attended", out, zero=True).reshape(h.shape)
