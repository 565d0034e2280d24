"""The conditioning of every network: noise level, label, and other conditions by their kind.

The noise level enters as ℓ = log(α/σ), independent of time and path. ℓ may be ±∞ (clean data, pure
noise), so the features are functions of u = tanh(ℓ/4) ∈ [−1, 1]. At ρ = e^{−ℓ} = 10^{±3} the slope
of u is an eighth of its maximum.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from langevin_jax import conditions

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


def time_features(half_log_snr: jax.Array) -> jax.Array:
  """Fourier features of rectified flow's time s = sigmoid(−ℓ): (sin ωᵢs, cos ωᵢs), ωᵢ ≤ 16.

  They are analytic in s at both ends, as average denoisers are, and their slopes are small enough
  for losses with derivatives in ℓ.

  Args:
    half_log_snr: ℓ, (batch,), ±∞ allowed.

  Returns:
    (batch, 2·NUM_FREQUENCIES), values in [−1, 1].
  """
  frequencies = jnp.geomspace(0.5, 16.0, NUM_FREQUENCIES, dtype=half_log_snr.dtype)
  angles = jax.nn.sigmoid(-half_log_snr)[:, None] * frequencies[None, :]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Level(NamedTuple):
  """How a network sees the noise level.

  Attributes:
    features: ℓ (batch,) → (batch, n), the input of the conditioning.
    scale: ℓ (batch,) → (batch,), what the state at unit scale is multiplied by; None is 1.
  """

  features: Callable[[jax.Array], jax.Array] = level_features
  scale: Callable[[jax.Array], jax.Array] | None = None


def clock(
    time: Callable[[jax.Array], jax.Array],
    scale: Callable[[jax.Array], jax.Array] | None = None, *, features: int = 256,
) -> Level:
  """The level as published transformers see it: (cos ωᵢt, sin ωᵢt), ωᵢ = 10000^{−i/n}, of a time t.

  Args:
    time: ℓ (batch,) → t (batch,), such as `Path.time`.
    scale: as in `Level`; √(α² + σ²) of the path of t, where it is not 1.
    features: 2n, waves in all.
  """
  frequencies = 10000.0 ** (-np.arange(features // 2) / (features // 2))

  def waves(ell):
    angles = time(ell)[:, None] * jnp.asarray(frequencies, jnp.float32)[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)

  return Level(waves, scale)


class Parts(NamedTuple):
  """A condition by the way in which a network takes it; (value, mask) by name.

  Attributes:
    labels: integers (batch,), or None.
    vectors: values (batch, d), masks (batch, 1): modulation of the layers.
    tokens: values (batch, tokens, d), masks (batch, tokens): cross-attention.
    images: values (batch, height, width, d), masks in their shape but for d, which is 1:
      concatenation with the state.
  """

  labels: jax.Array | None
  vectors: dict[str, tuple[jax.Array, jax.Array]]
  tokens: dict[str, tuple[jax.Array, jax.Array]]
  images: dict[str, tuple[jax.Array, jax.Array]]


def by_kind(condition: Any, classes: Mapping[str, int], batch: int) -> Parts:
  """Sorts the arrays of a condition by their number of axes; integers become one-hot first.

  | array | with integers | part |
  |---|---|---|
  | (batch, d), (batch,) | (batch,) | vectors |
  | (batch, tokens, d) | (batch, tokens) | tokens |
  | (batch, height, width, d) | (batch, height, width) | images |

  Args:
    condition: labels (batch,), or a dict of named arrays (`conditions`).
    classes: the number of classes of each array of integers.
    batch: the number of examples.

  Raises:
    ValueError: as `conditions.complete`; another number of examples; integers without `classes`; an
      array of another number of axes.
  """
  if not isinstance(condition, Mapping):
    return Parts(condition, {}, {}, {})
  whole = conditions.complete(condition)
  found = Parts(None, {}, {}, {})
  for name, value in whole.items():
    mask = whole.get(name + conditions.MASK)
    if mask is None:
      continue
    if len(value) != batch:
      raise ValueError(f"condition {name!r} has {len(value)} examples, x has {batch}")
    if jnp.issubdtype(value.dtype, jnp.integer):
      if name not in classes:
        raise ValueError(f"condition {name!r} has integers, whose number of classes must be given; "
                         f"classes has {', '.join(classes) or 'none'}")
      value = jax.nn.one_hot(value, classes[name]) * conditions.over(mask, value.ndim + 1)
    elif value.ndim == 1:
      value = value[:, None]
    if value.ndim > 4 or mask.ndim == value.ndim:
      raise ValueError(f"condition {name!r} must have examples of shape (d,), (tokens, d) or "
                       f"(height, width, d), and its mask no axis for d; got {value.shape[1:]}")
    part = (found.vectors, found.tokens, found.images)[value.ndim - 2]
    shape = value.shape[:2] if value.ndim == 3 else (*value.shape[:-1], 1)
    part[name] = (value.astype(jnp.float32),
                  jnp.broadcast_to(conditions.over(mask, len(shape)), shape))
  return found


def with_mask(value: jax.Array, mask: jax.Array) -> jax.Array:
  """A value and its mask side by side, so that zeros differ from nothing given."""
  return jnp.concatenate([value, mask.astype(value.dtype)], axis=-1)


def enlarged(image: jax.Array, sides: tuple[int, ...], name: str) -> jax.Array:
  """An image (batch, …, c) with its pixels repeated to (batch, *sides, c)."""
  own = image.shape[1:-1]
  if len(own) != len(sides) or any(side % n for side, n in zip(sides, own, strict=True)):
    raise ValueError(f"condition {name!r} must be an image whose sides divide "
                     f"{'×'.join(map(str, sides))}, got {'×'.join(map(str, own))}")
  for axis, (side, n) in enumerate(zip(sides, own, strict=True), 1):
    image = jnp.repeat(image, side // n, axis=axis)
  return image


class Conditioning(nn.Module):
  """Noise level, label and vectors as one vector, silu(MLP(features of ℓ) + Σ embeddings).

  Attributes:
    width: length of the vector.
    num_classes: labels are 0 … num_classes − 1, and num_classes for none. 0 ignores labels.
    second_level: whether there is a level ℓ′ besides ℓ, for flow maps. `time_features` of both are
      added to those of ℓ.
    features: of ℓ, as in `Level`.
  """

  width: int
  num_classes: int
  second_level: bool = False
  features: Callable[[jax.Array], jax.Array] = level_features

  @nn.compact
  def __call__(
      self, half_log_snr: jax.Array, parts: Parts, batch: int,
      half_log_snr_s: jax.Array | None = None,
  ) -> jax.Array:
    """ℓ, a scalar or (batch,), conditions, and ℓ′ as ℓ → (batch, width), float32."""
    if half_log_snr_s is not None and not self.second_level:
      raise ValueError("the network has no second level: make it with second_level=True")
    ell = jnp.broadcast_to(jnp.asarray(half_log_snr, jnp.float32), (batch,))
    h = self.features(ell)
    if self.second_level:
      ell_s = ell if half_log_snr_s is None else jnp.broadcast_to(
          jnp.asarray(half_log_snr_s, jnp.float32), (batch,))
      h = jnp.concatenate([h, time_features(ell), time_features(ell_s)], axis=-1)
    h = nn.silu(nn.Dense(self.width, name="level_in")(h))
    h = nn.Dense(self.width, name="level_out")(h)
    if self.num_classes and parts.labels is not None:
      # A product, not a gather: its gradient is bitwise reproducible and can be partitioned.
      one_hot = jax.nn.one_hot(parts.labels, self.num_classes + 1, dtype=h.dtype)
      h += nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.normal(0.02),
                    name="label")(one_hot)
    for name, (value, mask) in parts.vectors.items():
      hidden = nn.silu(nn.Dense(self.width, name=f"{name}_first")(with_mask(value, mask)))
      h += nn.Dense(self.width, name=f"{name}_second")(hidden)
    return nn.silu(h)
