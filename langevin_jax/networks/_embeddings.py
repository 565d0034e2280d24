"""The conditioning of every network: noise level and label.

The noise level enters as ℓ = log(α/σ), independent of time and path. ℓ may be ±∞ (clean data, pure
noise), so the features are functions of u = tanh(ℓ/4) ∈ [−1, 1]. At ρ = e^{−ℓ} = 10^{±3} the slope
of u is an eighth of its maximum.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

# The features are sin and cos of ωu, ω from 1 to 64. ω = 1 is a third of a period over all ℓ. A
# period of ω = 64 is Δℓ ≈ 0.4 at ℓ = 0, and 3 at ρ = 10^{±3}.
MAX_FREQUENCY = 64.0
NUM_FREQUENCIES = 32


def level_features(half_log_snr: jax.Array) -> jax.Array:
  """Fourier features of the noise level: (sin ωᵢu, cos ωᵢu), u = tanh(ℓ/4), ωᵢ geometric.

  Args:
    half_log_snr: ℓ, (batch,), ±∞ allowed.

  Returns:
    (batch, 2·NUM_FREQUENCIES), values in [−1, 1], smooth in ℓ.
  """
  u = jnp.tanh(half_log_snr / 4.0)
  frequencies = jnp.geomspace(1.0, MAX_FREQUENCY, NUM_FREQUENCIES, dtype=u.dtype)
  angles = u[:, None] * frequencies[None, :]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Conditioning(nn.Module):
  """Noise level and label as one vector, silu(MLP(features of ℓ) + embedding of the label).

  Attributes:
    width: length of the vector.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none. 0 ignores labels.
  """

  width: int
  num_classes: int

  @nn.compact
  def __call__(self, half_log_snr: jax.Array, labels: jax.Array, batch: int) -> jax.Array:
    """ℓ, a scalar or (batch,), and labels (batch,) → (batch, width), float32."""
    ell = jnp.broadcast_to(jnp.asarray(half_log_snr, jnp.float32), (batch,))
    h = nn.silu(nn.Dense(self.width, name="level_in")(level_features(ell)))
    h = nn.Dense(self.width, name="level_out")(h)
    if self.num_classes:
      # A product, not a gather: its gradient is bitwise reproducible and can be partitioned.
      one_hot = jax.nn.one_hot(labels, self.num_classes + 1, dtype=h.dtype)
      h += nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.normal(0.02),
                    name="label")(one_hot)
    return nn.silu(h)
