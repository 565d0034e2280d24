"""How networks of other projects see the noise level: calls for `config.network.level`.

A network of this project knows ℓ = log(α/σ) and sees states at unit scale. One that was trained
elsewhere knows an index, a logarithm or a time, and may see states at another scale:

| call | its time | its input, of x = α x₀ + σ ε at unit scale |
|---|---|---|
| `timesteps` | the place of ℓ among the levels of a table of β | x |
| `vp_time` | (steps − 1) t, t that of VP with a linear β | x |
| `log_sigma` | log(σ_d ρ)/4, ρ = e^{−ℓ} | x |
| `ve_log_sigma` | log(ρ/2) | x/α |
| `flow_time` | α/(α + σ) = sigmoid(ℓ) | x/(α + σ) |
| `unseen` | none | x |
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import networks, paths
from langevin_jax.networks import Level

Schedule = Literal["linear", "scaled_linear", "cosine"]
# ℓ beyond ±30 is clean data or pure noise; a wave of ±∞ is no number.
_FURTHEST = 30.0


def timesteps(
    *, schedule: Schedule = "linear", steps: int = 1000, beta_min: float = 1e-4,
    beta_max: float = 0.02, zero_terminal_snr: bool = False, features: int = 256,
    endpoint: bool = False, labels_first: bool = False, fourier: bool = False,
) -> Level:
  """The level as DDPM, ADM and DiT see it: the step 0 … steps − 1 of a table of β.

    linear         β from beta_min to beta_max (Ho et al. 2020)
    scaled_linear  √β linear (Rombach et al. 2022)
    cosine         β = 1 − ᾱ(k + 1)/ᾱ(k) ≤ .999, ᾱ = cos²((k/steps + .008)/1.008 · π/2) (Nichol &
                   Dhariwal 2021, eq. 17)

  Between the steps it is interpolated in ℓ (`langevin_jax.paths.from_table`).

  Args:
    zero_terminal_snr: whether the last step is noise alone (Lin et al. 2024).
    features, endpoint, labels_first, fourier: as of `langevin_jax.networks.clock`.
  """
  if steps < 2 or not 0.0 < beta_min <= beta_max < 1.0:
    raise ValueError("it needs 0 < beta_min <= beta_max < 1 and 2 or more steps, got "
                     f"{beta_min}, {beta_max} and {steps}")
  if schedule == "cosine":
    kept = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2.0) ** 2
    betas = np.minimum(1.0 - kept[1:] / kept[:-1], 0.999)
  else:
    power = 0.5 if schedule == "scaled_linear" else 1.0
    betas = np.linspace(beta_min**power, beta_max**power, steps) ** (1.0 / power)
  table = paths.from_table(
      np.arange(float(steps)), betas=betas, zero_terminal_snr=zero_terminal_snr)
  return networks.clock(table.time, features=features, endpoint=endpoint,
                        labels_first=labels_first, fourier=fourier)


def vp_time(
    *, beta_min: float = 0.1, beta_max: float = 20.0, steps: int = 1000, features: int = 128,
    endpoint: bool = True, labels_first: bool = True, fourier: bool = False,
) -> Level:
  """The level as EDM's VP networks see it: (steps − 1) t, t ≤ 1 (Karras et al. 2022, table 1).

  Args:
    beta_min, beta_max: of `langevin_jax.paths.linear_vp`, whose time t is.
    features, endpoint, labels_first, fourier: as of `langevin_jax.networks.clock`.
  """
  path = paths.linear_vp(beta_min=beta_min, beta_max=beta_max)
  return networks.clock(
      lambda ell: (steps - 1.0) * jnp.minimum(path.time(ell), 1.0), features=features,
      endpoint=endpoint, labels_first=labels_first, fourier=fourier)


def log_sigma(
    *, sigma_data: float = 0.5, features: int = 128, endpoint: bool = True,
    labels_first: bool = True, fourier: bool = False,
) -> Level:
  """The level as EDM's networks see it: log(σ)/4, σ = σ_d e^{−ℓ} (Karras et al. 2022, table 1).

  Args:
    sigma_data: σ_d, the standard deviation of the data in the units of σ.
    features, endpoint, labels_first, fourier: as of `langevin_jax.networks.clock`.
  """
  if not sigma_data > 0.0:
    raise ValueError(f"sigma_data must be positive, got {sigma_data}")
  time = lambda ell: 0.25 * (math.log(sigma_data) - jnp.clip(ell, -_FURTHEST, _FURTHEST))
  return networks.clock(time, features=features, endpoint=endpoint, labels_first=labels_first,
                        fourier=fourier)


def ve_log_sigma(
    *, features: int = 128, endpoint: bool = True, labels_first: bool = True, fourier: bool = False,
) -> Level:
  """The level as EDM's VE networks see it: log(ρ/2), of the state x₀ + ρ ε, at that scale.

  Args:
    features, endpoint, labels_first, fourier: as of `langevin_jax.networks.clock`.
  """
  bounded = lambda ell: jnp.clip(ell, -_FURTHEST, _FURTHEST)
  return networks.clock(
      lambda ell: -math.log(2.0) - bounded(ell), lambda ell: jnp.hypot(1.0, jnp.exp(-bounded(ell))),
      features=features, endpoint=endpoint, labels_first=labels_first, fourier=fourier)


def flow_time() -> Level:
  """The level as SiT sees it: the time t of the state t x₀ + (1 − t) ε, at that scale."""
  scale = lambda ell: jnp.hypot(jax.nn.sigmoid(ell), jax.nn.sigmoid(-ell))
  return networks.clock(jax.nn.sigmoid, scale)


def unseen() -> Level:
  """The level is not seen: of masked tokens it is known from their number (Ou et al. 2025)."""
  return Level(lambda ell: jnp.ones((*ell.shape, 1), ell.dtype))
