"""How published networks know the noise level: their own time as a function of ℓ.

A network of this library knows ℓ = log(α/σ) and sees states at unit scale. One that was trained
elsewhere knows an index, a logarithm or a time, and may see states at another scale:

| clock | its time | its input, x = α x₀ + σ ε at unit scale |
|---|---|---|
| `ddpm_clock` | the place of ℓ among the levels of a table of β | x |
| `edm_clock` | log(σ_d ρ)/4, ρ = e^{−ℓ} | x |
| `flow_clock` | α/(α + σ) = sigmoid(ℓ) | x/(α + σ) |

A network with a clock has sines and cosines of its time in the place of the features of ℓ.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Clock", "betas", "ddpm_clock", "edm_clock", "flow_clock"]

Schedule = Literal["linear", "scaled_linear", "cosine"]


class Clock(NamedTuple):
  """The time of a network, and the sines that it is told by: sin ωₖt, cos ωₖt.

  Attributes:
    time: ℓ → t.
    scale: ℓ → the scale of the network's input, in units of x at unit scale.
    frequencies: ω; a number n of them where they are parameters, as in NCSN++.
    labels_first: whether labels are added to the sines and cosines, not to the embedding of them.
  """

  time: Callable[[jax.Array], jax.Array]
  scale: Callable[[jax.Array], jax.Array]
  frequencies: tuple[float, ...] | int
  labels_first: bool = False


def betas(
    schedule: Schedule = "linear", *, steps: int = 1000, beta_min: float = 1e-4,
    beta_max: float = 0.02,
) -> np.ndarray:
  """The noise that each step of a discrete VP process adds, (steps,) float64.

    linear         β from beta_min to beta_max (Ho et al. 2020)
    scaled_linear  √β linear (Rombach et al. 2022)
    cosine         β = 1 − ᾱ(k + 1)/ᾱ(k) ≤ .999, ᾱ = cos²((k/steps + .008)/1.008 · π/2) (Nichol &
                   Dhariwal 2021, eq. 17)
  """
  if steps < 2 or not 0.0 < beta_min <= beta_max < 1.0:
    raise ValueError("a table of β needs steps ≥ 2 and 0 < beta_min ≤ beta_max < 1, got "
                     f"steps={steps}, beta_min={beta_min}, beta_max={beta_max}")
  if schedule == "linear":
    return np.linspace(beta_min, beta_max, steps)
  if schedule == "scaled_linear":
    return np.linspace(beta_min**0.5, beta_max**0.5, steps) ** 2
  remaining = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2.0) ** 2
  return np.minimum(1.0 - remaining[1:] / remaining[:-1], 0.999)


def ddpm_clock(
    *, schedule: Schedule = "linear", steps: int = 1000, beta_min: float = 1e-4,
    beta_max: float = 0.02, zero_terminal_snr: bool = False, channels: int = 128,
    endpoint: bool = False,
) -> Clock:
  """The index k of a table of β, between levels by interpolation in ℓ.

    ℓ_k = ½ log(ᾱ_k/(1 − ᾱ_k)),   ᾱ_k = Π_{i ≤ k} (1 − β_i),   ω from 1 to 1/10000

  Levels outside of the table have the index of its end.

  Args:
    schedule, steps, beta_min, beta_max: as of `betas`.
    zero_terminal_snr: whether √ᾱ is shifted and scaled so that its last value is 0 (Lin et al.
      2024, algorithm 1). Towards ℓ = −∞ the index is linear in α.
    channels: of the sines and cosines together.
    endpoint: whether 1/10000 is the last frequency, or would be the one after it.
  """
  roots = np.sqrt(np.cumprod(1.0 - betas(
      schedule, steps=steps, beta_min=beta_min, beta_max=beta_max)))
  if zero_terminal_snr:
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
  finite = roots[:-1] if zero_terminal_snr else roots
  levels = 0.5 * np.log(finite**2 / (1.0 - finite**2))

  def time(ell):
    index = jnp.interp(-ell, -levels, np.arange(len(levels)))
    if not zero_terminal_snr:
      return index
    return index + jnp.clip(1.0 - jnp.exp(ell - levels[-1]), 0.0, 1.0)

  return Clock(time, jnp.ones_like, _frequencies(channels, endpoint))


def edm_clock(
    *, sigma_data: float = 0.5, channels: int = 128, endpoint: bool = True,
    labels_first: bool = True, fourier: bool = False,
) -> Clock:
  """c_noise = log(σ)/4 of σ = σ_d e^{−ℓ} (Karras et al. 2022, table 1).

  Args:
    sigma_data: σ_d, the standard deviation of the data in the units of σ.
    channels, endpoint: as of `ddpm_clock`. labels_first: as of `Clock`.
    fourier: whether frequencies are parameters, which are kept as they are.
  """
  if not sigma_data > 0.0:
    raise ValueError(f"sigma_data must be positive, got {sigma_data}")
  # Beyond |ℓ| = 30 nothing is left to say, and a sine of ±∞ is no number.
  time = lambda ell: 0.25 * (math.log(sigma_data) - jnp.clip(ell, -30.0, 30.0))
  return Clock(time, jnp.ones_like, channels // 2 if fourier else _frequencies(channels, endpoint),
               labels_first)


def flow_clock(*, channels: int = 256) -> Clock:
  """Time from 0, noise, to 1, data, on x = t x₀ + (1 − t) ε (Ma et al. 2024).

  Args:
    channels: as of `ddpm_clock`.
  """
  scale = lambda ell: 1.0 / (jnp.sqrt(jax.nn.sigmoid(2.0 * ell)) + jnp.sqrt(
      jax.nn.sigmoid(-2.0 * ell)))
  return Clock(jax.nn.sigmoid, scale, _frequencies(channels, False))


def _frequencies(channels: int, endpoint: bool) -> tuple[float, ...]:
  """ωₖ = 10000^{−k/(n − endpoint)}, n = channels/2 of them."""
  if channels < 4 or channels % 2:
    raise ValueError(f"channels must be even and at least 4, got {channels}")
  n = channels // 2
  return tuple((10_000.0 ** -(np.arange(n) / (n - endpoint))).tolist())
