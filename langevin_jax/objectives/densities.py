"""Densities π(ℓ) of the noise levels that a training loss draws (theory.md#densities-and-weights).

With a weight that keeps π w, another π changes the variance of a loss, but not its optimum.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax._values import is_traced, number
from langevin_jax.paths import Path, check_path

__all__ = [
    "Density", "log_normal_rho", "logit_normal_s", "noise_range", "normal_half_log_snr",
    "stratified", "uniform_half_log_snr", "uniform_time",
]


class Density(NamedTuple):
  """A density of half log-SNRs.

  Attributes:
    quantile: u ∈ (0, 1) → ℓ, scalars.
    density: ℓ → π(ℓ), scalars.
  """

  quantile: Callable[[jax.Array], jax.Array]
  density: Callable[[jax.Array], jax.Array]


def uniform_half_log_snr(*, rho_min: float = 0.002, rho_max: float = 80.0) -> Density:
  """ℓ uniform on [−log ρ_max, −log ρ_min].

  Raises:
    ValueError: not 0 < rho_min < rho_max < ∞.
  """
  low, width = noise_range(rho_min, rho_max)
  if not is_traced(width) and not np.isfinite(width):
    raise ValueError("rho_max must be finite where half log-SNRs are uniform, got inf")
  return Density(lambda u: low + width * u, lambda ell: jnp.full_like(ell, 1.0 / width))


def uniform_time(path: Path, *, rho_min: float = 0.002, rho_max: float = 80.0) -> Density:
  """The path's own time t uniform between two noise levels: π(ℓ) = |dt/dℓ|/(t₁ − t₀).

  This is DDPM's density for `linear_vp`, and that of flow matching for `rectified_flow`.

  Args:
    path: the path.
    rho_min, rho_max: the levels, within the path's range. ρ_max = ∞ is the path's noisy end.

  Raises:
    ValueError: not 0 < rho_min < rho_max, or no path.
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
  """ℓ ~ N(mean, std²), truncated to [−log ρ_max, −log ρ_min].

  EDM's log-normal ρ (`log_normal_rho`) and SD3's logit-normal s (`logit_normal_s`) are the same
  density, because ℓ = −log ρ = −logit s.

  Raises:
    ValueError: std ≤ 0, or not 0 < rho_min < rho_max.
  """
  number("mean", mean, may_be_traced=True)
  known = number("std", std, may_be_traced=True)
  if not is_traced(known) and not known > 0.0:
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
  return normal_half_log_snr(_negated(mean), std, rho_min=rho_min, rho_max=rho_max)


def logit_normal_s(
    mean: float = 0.0, std: float = 1.0, *, rho_min: float = 1e-4, rho_max: float = 1e4
) -> Density:
  """logit s ~ N(mean, std²), s the time of rectified flow (Esser et al. 2024, §3.1)."""
  return normal_half_log_snr(_negated(mean), std, rho_min=rho_min, rho_max=rho_max)


def _negated(mean: float) -> float:
  number("mean", mean, may_be_traced=True)
  return -mean


def noise_range(
    rho_min: float | jax.Array, rho_max: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(ℓ at ρ_max, the width of the range of ℓ).

  Raises:
    ValueError: not 0 < rho_min < rho_max, unless traced.
  """
  low, high = (number(name, value, may_be_traced=True)
               for name, value in (("rho_min", rho_min), ("rho_max", rho_max)))
  if not is_traced((low, high)) and not 0.0 < low < high:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  low = -jnp.log(jnp.asarray(rho_max, float))
  return low, -jnp.log(jnp.asarray(rho_min, float)) - low


def _ends(rho_min: float, rho_max: float) -> tuple[jax.Array, jax.Array]:
  """(ℓ at ρ_max, ℓ at ρ_min). The first may be −∞."""
  low, width = noise_range(rho_min, rho_max)
  return low, jnp.where(jnp.isinf(low), -jnp.log(jnp.asarray(rho_min, float)), low + width)


def stratified(key: jax.Array, n: int, density: Density) -> jax.Array:
  """n noise levels, one in each of n strata of equal probability.

    ℓ_i = quantile(u_i),   u_i = ((i + shift) mod n + jitter_i)/n

  The random shift gives each ℓ_i alone the law π. Neighbours in the batch get neighbouring levels.

  Args:
    key: consumed.
    n: number of levels.
    density: π.

  Returns:
    The half log-SNRs, (n,).

  Raises:
    ValueError: `density` is not a `Density`.
  """
  if not isinstance(density, Density):
    raise ValueError("density must be an objectives.Density such as "
                     f"objectives.uniform_half_log_snr(), got {_described(density)}")
  key_u, key_turn = jax.random.split(key)
  dtype = jnp.result_type(float)
  # A shift, because the sort of a permutation costs as much as a layer of a small network.
  stratum = (jnp.arange(n) + jax.random.randint(key_turn, (), 0, n)) % n
  u = (stratum.astype(dtype) + jax.random.uniform(key_u, (n,), dtype)) / n
  # Inside (0, 1), because the quantile of an end may be infinite.
  tiny = jnp.finfo(dtype).eps
  return density.quantile(jnp.clip(u, tiny, 1.0 - tiny))


def _described(value) -> str:
  name = getattr(value, "__name__", None)
  return f"the function {name}: call it" if callable(value) and name else repr(value)
