"""§5: how often each noise level is drawn, as a density π(ℓ) with its quantile function.

What π is changes the variance of a loss and not, with a weight to match, what it optimises.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.paths import Path, check_path, is_traced


class Density(NamedTuple):
  """A density of noise levels: `quantile(u)` is ℓ at u ∈ (0, 1), `density(ℓ)` is π(ℓ); scalars."""

  quantile: Callable[[jax.Array], jax.Array]
  density: Callable[[jax.Array], jax.Array]


def uniform_half_log_snr(*, rho_min: float = 0.002, rho_max: float = 80.0) -> Density:
  """ℓ uniform between −log ρ_max and −log ρ_min.

  Raises:
    ValueError: not 0 < rho_min < rho_max (also for the others below), or an infinite rho_max.
  """
  low, width = noise_range(rho_min, rho_max)
  if not is_traced(width) and not np.isfinite(width):
    raise ValueError("rho_max must be finite where half log-SNRs are uniform, got inf")
  return Density(lambda u: low + width * u, lambda ell: jnp.full_like(ell, 1.0 / width))


def uniform_time(path: Path, *, rho_min: float = 0.002, rho_max: float = 80.0) -> Density:
  """t uniform in the path's own time, over the part of it between the two noise levels.

  π(ℓ) = |dt/dℓ| / (t₁ − t₀): DDPM's density for `linear_vp`, flow matching's for `rectified_flow`.
  `rho_max` may be infinite: the path's own noisy end.
  """
  check_path(path)
  low, high = _ends(rho_min, rho_max)
  first = jnp.clip(path.time(high), path.t_min, path.t_max)
  last = jnp.clip(path.time(low), path.t_min, path.t_max)

  def density(ell):
    slope = jax.jvp(path.time, (ell,), (jnp.ones_like(ell),))[1]
    return jnp.abs(slope) / (last - first)

  return Density(lambda u: path.half_log_snr(last + (first - last) * u), density)


def normal_half_log_snr(
    mean: float, std: float, *, rho_min: float = 1e-4, rho_max: float = 1e4
) -> Density:
  """ℓ ~ N(mean, std²), cut off at the two noise levels.

  EDM's log-normal ρ and SD3's logit-normal s are this one density, since ℓ = −log ρ = −logit(s):
  see `log_normal_rho` and `logit_normal_s`.

  Raises:
    ValueError: std ≤ 0 or a reversed range.
  """
  if not is_traced(std) and not np.asarray(std) > 0.0:
    raise ValueError(f"std of the noise levels must be positive, got {std}")
  low, high = _ends(rho_min, rho_max)
  cdf = lambda ell: jax.scipy.special.ndtr((ell - mean) / std)
  bottom, top = cdf(low), cdf(high)

  def quantile(u):
    ell = mean + std * jax.scipy.special.ndtri(bottom + (top - bottom) * u)
    return jnp.clip(ell, low, high)

  return Density(
      quantile, lambda ell: jnp.exp(jax.scipy.stats.norm.logpdf(ell, mean, std)) / (top - bottom))


def log_normal_rho(
    mean: float = -1.2, std: float = 1.2, *, rho_min: float = 1e-4, rho_max: float = 1e4
) -> Density:
  """log ρ ~ N(mean, std²) (Karras et al. 2022, Table 1)."""
  return normal_half_log_snr(-mean, std, rho_min=rho_min, rho_max=rho_max)


def logit_normal_s(
    mean: float = 0.0, std: float = 1.0, *, rho_min: float = 1e-4, rho_max: float = 1e4
) -> Density:
  """logit s ~ N(mean, std²) of the flow time s (Esser et al. 2024, §3.1)."""
  return normal_half_log_snr(-mean, std, rho_min=rho_min, rho_max=rho_max)


def noise_range(rho_min: float, rho_max: float) -> tuple[jax.Array, jax.Array]:
  """(ℓ at ρ_max, the width down to ρ_min); ValueError unless 0 < rho_min < rho_max, if known."""
  if not is_traced((rho_min, rho_max)) and not 0.0 < np.asarray(rho_min) < np.asarray(rho_max):
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  low = -jnp.log(jnp.asarray(rho_max, float))
  return low, -jnp.log(jnp.asarray(rho_min, float)) - low


def _ends(rho_min: float, rho_max: float) -> tuple[jax.Array, jax.Array]:
  """(ℓ at ρ_max, which may be −∞, and ℓ at ρ_min)."""
  low, width = noise_range(rho_min, rho_max)
  return low, jnp.where(jnp.isinf(low), -jnp.log(jnp.asarray(rho_min, float)), low + width)


def stratified(key: jax.Array, n: int, density: Density) -> jax.Array:
  """n noise levels, shape (n,), at u_i = (i + jitter_i)/n: one draw in each n-th of the law.

  The strata are randomly rotated, so that each ℓ_i alone is a draw of π whatever example it meets;
  neighbours in the batch get neighbouring levels. Consumes `key`.

  Raises:
    ValueError: a density that is none.
  """
  if not isinstance(density, Density):
    raise ValueError("density must be an objectives.Density such as "
                     f"objectives.uniform_half_log_snr(), got {_described(density)}")
  key_u, key_turn = jax.random.split(key)
  dtype = jnp.result_type(float)
  # A rotation rather than a permutation, whose sort costs as much as a small network's layer.
  stratum = (jnp.arange(n) + jax.random.randint(key_turn, (), 0, n)) % n
  u = (stratum.astype(dtype) + jax.random.uniform(key_u, (n,), dtype)) / n
  # Kept inside (0, 1): the quantile of an end may be infinite.
  tiny = jnp.finfo(dtype).eps
  return density.quantile(jnp.clip(u, tiny, 1.0 - tiny))


def _described(value) -> str:
  name = getattr(value, "__name__", None)
  return f"the function {name}: call it" if callable(value) and name else repr(value)
