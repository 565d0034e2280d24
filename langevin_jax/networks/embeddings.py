"""What every network is told besides its input: the noise level and the label.

A network knows no time and no path, only ℓ = log(α/σ). It may be ±∞ (clean data, pure noise), so
it enters through u = tanh(ℓ/4) ∈ [−1, 1], whose slope at ρ = e^{−ℓ} = 10^{±3} is still an eighth of
the steepest.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

# sin and cos of u times 1 … 64: from a third of a wave over the whole range to a wave over Δℓ ≈ 0.4
# in the middle and 3 at ρ = 10^{±3}.
MAX_FREQUENCY = 64.0
NUM_FREQUENCIES = 32


def level_features(half_log_snr: jax.Array) -> jax.Array:
  """Fourier features of the noise level: (sin ωᵢu, cos ωᵢu), u = tanh(ℓ/4), ωᵢ geometric.

  Args:
    half_log_snr: ℓ, shape (batch,), ±∞ allowed.

  Returns:
    (batch, 2·NUM_FREQUENCIES), bounded by 1, smooth in ℓ.
  """
  u = jnp.tanh(half_log_snr / 4.0)
  frequencies = jnp.geomspace(1.0, MAX_FREQUENCY, NUM_FREQUENCIES, dtype=u.dtype)
  angles = u[:, None] * frequencies[None, :]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Conditioning(nn.Module):
  """Noise level and label as one vector, silu(MLP(features of ℓ) + label's vector).

  Attributes:
    width: length of the vector.
    num_classes: labels are 0 … num_classes − 1 and num_classes, the null label; 0 ignores them.
  """

  width: int
  num_classes: int

  @nn.compact
  def __call__(self, half_log_snr: jax.Array, labels: jax.Array, batch: int) -> jax.Array:
    """ell, a scalar or (batch,), and labels (batch,) → (batch, width), float32."""
    ell = jnp.broadcast_to(jnp.asarray(half_log_snr, jnp.float32), (batch,))
    h = nn.silu(nn.Dense(self.width, name="level_in")(level_features(ell)))
    h = nn.Dense(self.width, name="level_out")(h)
    if self.num_classes:
      # A product rather than a gather: its gradient is bitwise reproducible, and partitions.
      one_hot = jax.nn.one_hot(labels, self.num_classes + 1, dtype=h.dtype)
      h += nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.normal(0.02),
                    name="label")(one_hot)
    return nn.silu(h)
