"""The variational bound on −log q of the reverse SDE, η = 1 (paper, §5; theory.md#likelihood).

For any score (Song et al. 2021b, Theorem 3; Kingma et al. 2021, eq. 11)

  E[−log q(z_min)] ≤ E[−log prior(z_max)] + ∫ (E‖ε − ε_θ‖² − d) dℓ,   z_min = x + ρ_min ε.

Both sides are equal if s_θ is the score of a diffused density. The gap is the KL between data and
model processes given their clean ends. There is no such bound for the ODE, η = 0.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from langevin_jax import _programs, _values, objectives, predictions
from langevin_jax.likelihood import prior
from langevin_jax.paths import Path

__all__ = ["Decode", "bound", "control_variate"]

Decode = Callable[[jax.Array, jax.Array, float], jax.Array]


def bound(
    key: jax.Array, denoise: predictions.Denoise, path: Path, x: jax.Array, *, draws: int = 128,
    density: objectives.Density | None = None, decode: Decode | None = None, batch_axes: int = 0,
    moments: prior.Moments | None = None, rho_min: float = 0.002, rho_max: float = 80.0,
) -> jax.Array:
  """An unbiased estimate of the upper bound on −log q of each example, in nats.

  | `decode` | what is bounded from above |
  |---|---|
  | None | E[−log q(x + ρ_min ε)], the density of the data blurred by ρ_min |
  | given | −log P(x) of discrete x: adds E[−log P(x given z_min)] − d/2 log(2πe ρ_min²) |

  The second is that of Kingma et al. 2021, eq. 11.

  Args:
    key: consumed, for levels and noise.
    denoise, path, batch_axes, moments, rho_min, rho_max: as in `log_prob`.
    x: clean data, one example after `batch_axes` leading axes.
    draws: number of noise levels, stratified. The batch shares them; each costs one model call.
    density: π(ℓ) of the levels, on the range of ρ. None is uniform in ℓ; `objectives.by_error` has
      less variance.
    decode: (z_min, x, ρ_min) → log P(x | z_min) of each entry, such as `likelihood.decoder(…)`.

  Returns:
    Nats, of shape x.shape[:batch_axes].

  Raises:
    ValueError: draws < 1, a reversed range, moments or batch_axes that do not fit x, no density,
      or a `denoise` that returns another shape.
  """
  draws = _values.count("draws", draws)
  x = _values.floats(x)
  axes, d = prior.data_axes(x, batch_axes), math.prod(x.shape[batch_axes:])
  rho_min, rho_max = prior.range_on_path(path, rho_min, rho_max)
  if density is None:
    density = objectives.uniform_half_log_snr(rho_min=rho_min, rho_max=rho_max)
  at = predictions.at_level(denoise, path)

  def nats(x, key):
    key_ell, key_eps, key_min = jax.random.split(key, 3)

    def rate(total, draw):
      key, ell = draw
      eps = jax.random.normal(key, x.shape, x.dtype)
      frame = predictions.unit_frame(ell)
      denoised = at(frame.alpha * x + frame.sigma * eps, ell)
      # ‖ε − ε_θ‖² = ‖x − D‖²/ρ²
      error = jnp.exp(2.0 * ell) * jnp.sum((x - denoised) ** 2, axes)
      gain = error - d - control_variate(eps, ell, axes)
      return total + gain / (draws * density.density(ell)).astype(x.dtype), None

    ells = objectives.stratified(key_ell, draws, density).astype(x.dtype)
    integral, _ = _programs.scan(
        rate, jnp.zeros(x.shape[:batch_axes], x.dtype), (jax.random.split(key_eps, draws), ells))
    total = integral - prior.log_prob(x, rho_max, moments, batch_axes, extra=rho_max**2)
    if decode is None:
      return total
    z_min = x + rho_min * jax.random.normal(key_min, x.shape, x.dtype)
    entropy = 0.5 * d * math.log(2.0 * math.pi * math.e * rho_min**2)
    return total - jnp.sum(decode(z_min, x, rho_min), axes) - entropy

  return _programs.call(nats, x, key)


def control_variate(eps: jax.Array, ell: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """α²(‖ε‖² − d), of mean 0, with α² = 1/(1 + ρ²): a control variate of ‖ε − ε_θ‖².

  At small noise ε_θ ≈ 0 and it equals ‖ε‖² − d. At large noise ε_θ ≈ ε and it vanishes.

  Args:
    eps: ε. ell: ℓ, scalar. axes: of one example, over which the norm sums.
  """
  alpha = predictions.unit_frame(ell).alpha
  return alpha**2 * jnp.sum(eps**2 - 1.0, axes)
