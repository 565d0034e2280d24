"""A residual MLP for vectors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from langevin_jax.networks._embeddings import Conditioning
from langevin_jax.networks._products import Dense


class MLP(nn.Module):
  """Residual MLP whose hidden layers are scaled and shifted by noise level and label.

    h ← h + W₂ silu((1 + scale) ⊙ W₁ silu(h) + shift),   (scale, shift) linear in the conditioning

  This is FiLM (Perez et al. 2018) in a pre-activation residual block. There is no normalisation,
  because inputs are at unit scale, and in few dimensions the length of the input carries
  information. The output layer starts at zero.

  Attributes:
    width: hidden units, > 0.
    depth: residual blocks, ≥ 0.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none. 0 ignores labels.
    dtype: "float32" or "bfloat16", of the products. Parameters and output are float32.
    constrain: applied to the activations (batch, width) between blocks, as in `DiT`.
  """

  width: int = 256
  depth: int = 4
  num_classes: int = 0
  dtype: str = "float32"
  constrain: Callable[[jax.Array], jax.Array] = lambda h: h

  @nn.compact
  def __call__(self, x: jax.Array, half_log_snr: jax.Array, labels: jax.Array) -> jax.Array:
    """The prediction for a batch.

    Args:
      x: (batch, *shape), states at unit scale.
      half_log_snr: ℓ, a scalar or (batch,).
      labels: (batch,).

    Returns:
      (batch, *shape), float32.

    Raises:
      ValueError: x without a batch axis, or an unknown dtype.
    """
    if x.ndim < 2:
      raise ValueError(f"x must be (batch, *shape), got shape {x.shape}")
    batch = x.shape[0]
    condition = Conditioning(self.width, self.num_classes, name="conditioning")(
        half_log_snr, labels, batch)
    flat = x.reshape(batch, -1).astype(jnp.float32)
    h = self.constrain(Dense(self.width, self.dtype, coordinates=True, name="input")(flat))
    for i in range(self.depth):
      scale, shift = jnp.split(
          Dense(2 * self.width, self.dtype, name=f"condition_{i}")(condition), 2, axis=-1)
      r = Dense(self.width, self.dtype, name=f"first_{i}")(nn.silu(h))
      r = nn.silu((1.0 + scale) * r + shift)
      h = self.constrain(h + Dense(self.width, self.dtype, name=f"second_{i}")(r))
    output = Dense(flat.shape[-1], self.dtype, zero=True, name="output")(nn.silu(h))
    return output.reshape(x.shape)
