"""§5, Tables 6–7: one loss, and two functions of the noise level that make every named one.

All three losses of Table 6 are L dt = E‖ε − ε̂‖² |dℓ|, the rate at which KL(data‖model) falls. So a
training loss is a density π(ℓ) of the noise levels drawn and a weight w(ℓ) on them,

  loss = E_{ℓ ~ π} w(ℓ) E‖ε − ε̂‖²;

the product π w says what is optimised, the rest is variance. Maximum likelihood is w = 1/π. What
the network predicts changes nothing: the error of a row (a, b) of Table 5 is
δy = a δx₀ + b δε = (b − a σ/α) δε, and the loss is computed on the row itself, where both ends are
finite.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import predictions
from langevin_jax.paths import Path

Weight = Callable[[jax.Array], jax.Array]


class Density(NamedTuple):
  """A density of noise levels: `quantile(u)` is ℓ at u ∈ (0, 1), `density(ℓ)` is π(ℓ); scalars."""

  quantile: Callable[[jax.Array], jax.Array]
  density: Callable[[jax.Array], jax.Array]


def uniform_half_log_snr(*, rho_min: float = 0.002, rho_max: float = 80.0) -> Density:
  """ℓ uniform between −log ρ_max and −log ρ_min.

  Raises:
    ValueError: not 0 < rho_min < rho_max (also for the others below).
  """
  low, width = _range(rho_min, rho_max)
  return Density(lambda u: low + width * u, lambda ell: jnp.full_like(ell, 1.0 / width))


def uniform_time(path: Path, *, rho_min: float = 0.002, rho_max: float = 80.0) -> Density:
  """t uniform in the path's own time, over the part of it between the two noise levels.

  π(ℓ) = |dt/dℓ| / (t₁ − t₀): DDPM's density for `linear_vp`, flow matching's for `rectified_flow`.
  """
  low, width = _range(rho_min, rho_max)
  first = jnp.clip(path.time(low + width), path.t_min, path.t_max)
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
  if not std > 0.0:
    raise ValueError(f"std of the noise levels must be positive, got {std}")
  low, width = _range(rho_min, rho_max)
  cdf = lambda ell: jax.scipy.special.ndtr((ell - mean) / std)
  bottom, top = cdf(low), cdf(low + width)

  def quantile(u):
    ell = mean + std * jax.scipy.special.ndtri(bottom + (top - bottom) * u)
    return jnp.clip(ell, low, low + width)

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


def _range(rho_min: float, rho_max: float) -> tuple[jax.Array, jax.Array]:
  if not 0.0 < rho_min < rho_max:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  low = -jnp.log(jnp.asarray(rho_max, float))
  return low, -jnp.log(jnp.asarray(rho_min, float)) - low


def stratified(key: jax.Array, n: int, density: Density) -> jax.Array:
  """n noise levels, shape (n,), at u_i = (i + jitter_i)/n: one draw in each n-th of the law.

  The strata are randomly rotated, so that each ℓ_i alone is a draw of π whatever example it meets;
  neighbours in the batch get neighbouring levels. Consumes `key`.
  """
  key_u, key_turn = jax.random.split(key)
  dtype = jnp.result_type(float)
  # A rotation rather than a permutation, whose sort costs as much as a small network's layer.
  stratum = (jnp.arange(n) + jax.random.randint(key_turn, (), 0, n)) % n
  u = (stratum.astype(dtype) + jax.random.uniform(key_u, (n,), dtype)) / n
  # Kept inside (0, 1): the quantile of an end may be infinite.
  tiny = jnp.finfo(dtype).eps
  return density.quantile(jnp.clip(u, tiny, 1.0 - tiny))


def likelihood(density: Density) -> Weight:
  """w = 1/π: maximum likelihood, 1 against dℓ (eq. 19; Table 6 without its reweightings)."""
  return lambda ell: 1.0 / density.density(ell)


def simple(density: Density) -> Weight:
  """w = 1: DDPM's unweighted ε-loss (Ho et al. 2020, eq. 14)."""
  del density
  return jnp.ones_like


def edm(density: Density, *, sigma_data: float = 1.0) -> Weight:
  """w = 1 + ρ²/σ_d²: λ(ρ) = 1/c_out² on ‖x₀ − D‖² = ρ²‖ε − ε̂‖² (Karras et al. 2022, Table 1)."""
  del density
  return lambda ell: 1.0 + jnp.exp(-2.0 * ell) / sigma_data**2


def min_snr(density: Density, *, gamma: float = 5.0) -> Weight:
  """w = min(SNR, γ)/SNR: min(SNR, γ) on ‖x₀ − D‖² (Hang et al. 2023, §3.4)."""
  del density
  return lambda ell: jnp.minimum(1.0, gamma * jnp.exp(-2.0 * ell))


def sigmoid(density: Density, *, bias: float = 0.0) -> Weight:
  """w π = sigmoid(b − 2ℓ) against dℓ, 2ℓ the log-SNR (Kingma & Gao 2023; Hoogeboom et al. 2024)."""
  return lambda ell: jax.nn.sigmoid(bias - 2.0 * ell) / density.density(ell)


def p2(density: Density, *, k: float = 1.0, gamma: float = 1.0) -> Weight:
  """w = (k + SNR)^{−γ} on ‖ε − ε̂‖² (Choi et al. 2022, eq. 8)."""
  del density
  return lambda ell: (k + jnp.exp(2.0 * ell)) ** -gamma


def flow_matching(density: Density) -> Weight:
  """w = (1 + ρ)²: 1 on ‖v − v̂‖² of v = ε − x₀ (Lipman et al. 2023; Liu et al. 2022)."""
  del density
  return lambda ell: (1.0 + jnp.exp(-ell)) ** 2


def loss(
    key: jax.Array, network: Callable[[jax.Array, jax.Array], jax.Array], x_0: jax.Array, *,
    density: Density, weight: Weight, prediction: str | predictions.Row,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The one loss on a batch: corrupted by vmap, one call of the network, weighed by vmap.

  Per example, with the row (a, b) of `prediction` in the unit-scale frame and y = a x₀ + b ε,

    w(ℓ) ‖y − ŷ‖²/(b − a σ/α)² = w(ℓ) ‖ε − ε̂‖²,   averaged over the data's dimensions.

  Args:
    key: consumed, for levels and noise.
    network: (x (n, *shape), ell (n,)) → row values (n, *shape).
    x_0: clean data at unit scale, (n, *shape).
    density: π(ℓ), stratified over the batch. weight: w(ℓ). prediction: row or name.

  Returns:
    The mean loss, and per-example `half_log_snr` and `eps_error` (mean squared, unweighted), (n,).

  Raises:
    ValueError: an unknown prediction.
  """
  row = predictions.named(prediction)
  key_ell, key_eps = jax.random.split(key)
  ells = stratified(key_ell, len(x_0), density).astype(x_0.dtype)
  eps = jax.random.normal(key_eps, x_0.shape, x_0.dtype)

  def corrupt(x_0, eps, ell):
    frame = predictions.unit_frame(ell)
    a, b = row(frame)
    return frame.alpha * x_0 + frame.sigma * eps, a * x_0 + b * eps

  x, target = jax.vmap(corrupt)(x_0, eps, ells)
  output = network(x, ells)

  def weigh(ell, target, output):
    frame = predictions.unit_frame(ell)
    a, b = row(frame)
    per_eps = b - a * frame.sigma / frame.alpha
    error = jnp.mean((target - output) ** 2)
    return weight(ell) / per_eps**2 * error, error / per_eps**2

  losses, eps_errors = jax.vmap(weigh)(ells, target, output)
  return jnp.mean(losses), {"half_log_snr": ells, "eps_error": eps_errors}
