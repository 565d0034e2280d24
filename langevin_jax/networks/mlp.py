"""A residual MLP for vectors."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from langevin_jax.networks._attention import CrossAttention, sequence
from langevin_jax.networks._embeddings import Conditioning, by_kind, with_mask
from langevin_jax.networks._products import Dense


class MLP(nn.Module):
  """Residual MLP whose hidden layers are scaled and shifted by noise level and label.

    h ← h + W₂ silu((1 + scale) ⊙ W₁ silu(h) + shift),   (scale, shift) linear in the conditioning

  This is FiLM (Perez et al. 2018) in a pre-activation residual block. There is no normalisation,
  because inputs are at unit scale, and in few dimensions the length of the input carries
  information. The output layer starts at zero. Vectors of a condition are scales and shifts too,
  tokens are attended to before each block, images are further inputs.

  Attributes:
    width: hidden units, > 0.
    depth: residual blocks, ≥ 0.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none. 0 ignores labels.
    classes: the number of classes of each named array of integers (`conditions`).
    heads: of the attention to tokens.
    dtype: "float32" or "bfloat16", of the products. Parameters and output are float32.
    constrain: applied to the activations (batch, width) between blocks, as in `DiT`.
    second_level: whether the network is a flow map, with an input ℓ′ besides ℓ (`flow_maps`).
  """

  width: int = 256
  depth: int = 4
  num_classes: int = 0
  classes: Mapping[str, int] = FrozenDict()
  heads: int = 4
  dtype: str = "float32"
  constrain: Callable[[jax.Array], jax.Array] = lambda h: h
  second_level: bool = False

  @nn.compact
  def __call__(
      self, x: jax.Array, half_log_snr: jax.Array, condition: Any,
      half_log_snr_s: jax.Array | None = None,
  ) -> jax.Array:
    """The prediction for a batch.

    Args:
      x: (batch, *shape), states at unit scale.
      half_log_snr: ℓ, a scalar or (batch,).
      condition: labels (batch,), or a dict of named arrays (`conditions`).
      half_log_snr_s: ℓ′ ≥ ℓ, as ℓ, of a network with `second_level`. None is ℓ′ = ℓ.

    Returns:
      (batch, *shape), float32.

    Raises:
      ValueError: x without a batch axis, an unknown dtype, a condition of no known kind.
    """
    if x.ndim < 2:
      raise ValueError(f"x must be (batch, *shape), got shape {x.shape}")
    batch = x.shape[0]
    parts = by_kind(condition, self.classes, batch)
    vector = Conditioning(self.width, self.num_classes, self.second_level, name="conditioning")(
        half_log_snr, parts, batch, half_log_snr_s)
    flat = x.reshape(batch, -1).astype(jnp.float32)
    h = Dense(self.width, self.dtype, coordinates=True, name="input")(flat)
    for name, image in parts.images.items():
      given = with_mask(*image).reshape(batch, -1)
      h += Dense(self.width, self.dtype, coordinates=True, name=f"{name}_input")(given)
    h = self.constrain(h)
    tokens = sequence(parts.tokens, self.width, self.dtype)
    for i in range(self.depth):
      if tokens is not None:
        seen = CrossAttention(self.heads, self.dtype, name=f"tokens_{i}")(h[:, None, :], *tokens)
        h += seen[:, 0, :]
      scale, shift = jnp.split(
          Dense(2 * self.width, self.dtype, name=f"condition_{i}")(vector), 2, axis=-1)
      r = Dense(self.width, self.dtype, name=f"first_{i}")(nn.silu(h))
      r = nn.silu((1.0 + scale) * r + shift)
      h = self.constrain(h + Dense(self.width, self.dtype, name=f"second_{i}")(r))
    output = Dense(flat.shape[-1], self.dtype, zero=True, name="output")(nn.silu(h))
    return output.reshape(x.shape)
