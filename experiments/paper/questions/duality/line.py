"""Exact laws of samplers on the line (`laws`), compared with the exact density.

KL(p‖q) in nats at every level, for every path, η and number of steps and two schemes; and the KL
due to a Gaussian start in place of p_T (eq. 10).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import laws
from langevin_jax import mixtures, paths, predictions, samplers
from langevin_jax.samplers import levels

ETAS = (0.0, 0.5, 1.0, 1.5)
PATHS = {
    "VP": paths.vp(), "linear VP": paths.linear_vp(), "cosine": paths.cosine(), "VE": paths.ve(),
    "geometric VE": paths.geometric_ve(), "sub-VP": paths.sub_vp(),
    "rectified flow": paths.rectified_flow(),
    # A path defined by two functions, as a user's.
    "cos t, sin² t": paths.from_coefficients(
        jnp.cos, lambda t: jnp.sin(t) ** 2, t_min=0.0, t_max=1.55)}
FEW = ("VP", "VE", "rectified flow", "cos t, sin² t")  # of a fast report
SCHEMES = {"STEP": samplers.ddim, "own time": samplers.euler_maruyama}
# Paths on which steps even in time would be too long at the clean end.
_KARRAS = ("VP", "VE")


def grid(name: str, n: int, ends: tuple[float, float]) -> np.ndarray:
  """n + 1 levels ρ between the ends: even in the path's time, or Karras' levels."""
  path = PATHS[name]
  if name in _KARRAS:
    rho = np.linspace(ends[0] ** (1 / 7), ends[1] ** (1 / 7), n + 1) ** 7
  else:
    time, log_snr = _clock(path)
    times = np.linspace(*paths.on_host(time, -np.log(np.array(ends))), n + 1)
    rho = np.exp(-paths.on_host(log_snr, times))
  rho[[0, -1]] = ends  # to the last bit
  return rho


@functools.lru_cache
def _clock(path: paths.Path):
  return jax.vmap(path.time), jax.vmap(path.half_log_snr)


def measure(
    mixture: mixtures.Mixture, counts: tuple[int, ...], ends: tuple[float, float],
    names: Sequence[str],
) -> dict[str, Any]:
  """KL(p‖q) in nats of every scheme, path in `names`, η and number of steps.

  Returns:
    end (schemes, paths, ETAS, counts): KL at the last level. bound (paths, counts): KL of the
    processes at η = 1, an upper bound. along (schemes, paths, ETAS, counts, counts[0] + 1): KL at
    the levels common to all counts. shown: one of counts, with half_log_snr (paths, shown + 1) and
    kl (schemes, paths, ETAS, shown + 1) at all of its levels.
  """
  shown = counts[min(1, len(counts) - 1)]
  end = np.zeros((len(SCHEMES), len(names), len(ETAS), len(counts)))
  kl, along = np.zeros((*end.shape[:3], shown + 1)), np.zeros((*end.shape, counts[0] + 1))
  ells, bound, outside = [], np.zeros((len(names), len(counts))), 0.0
  mmse = mmse_of(mixture, ends)
  for p, name in enumerate(names):
    path = PATHS[name]
    finest = levels.place_levels(np.append(grid(name, counts[-1], ends), 0.0), path)
    for k, count in enumerate(counts):
      level = levels.pick(finest, np.append(
          np.arange(0, counts[-1] + 1, counts[-1] // count), counts[-1] + 1))
      bound[p, k] = process_kl(mmse, level.half_log_snr[:-1])
      if count == shown:
        ells.append(level.half_log_snr[:-1])
      for s, method in enumerate(SCHEMES.values()):
        for e, eta in enumerate(ETAS):
          found = laws.sampled(mixture, method(eta), path, level)
          end[s, p, e, k] = found.kl[-1]
          along[s, p, e, k] = found.kl[::count // counts[0]]
          if count == counts[-1]:
            outside = max(outside, abs(found.outside))
          if count == shown:
            kl[s, p, e] = found.kl
  return {"paths": names, "schemes": list(SCHEMES), "etas": ETAS, "counts": counts,
          "ends": ends, "end": end, "bound": bound, "shown": shown, "outside": outside,
          "half_log_snr": np.stack(ells), "kl": kl, "along": along}


def mmse_of(
    mixture: mixtures.Mixture, ends: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
  """(ℓ, E Var(x₀ | x)) by quadrature over the range of the grids."""
  x, ells = laws.nodes(mixture), np.linspace(*-np.log(ends), 801)

  def explained(ell):
    law = laws.exact(mixture, ell, x)
    return jnp.sum(law.weight * law.density * laws.denoised(mixture, ell, x) ** 2)

  second = mixture.weights @ (mixture.means[:, 0] ** 2 + mixture.covariances[:, 0, 0])
  second = second / jnp.sum(mixture.weights)
  return ells, np.asarray(second - jax.jit(lambda e: jax.lax.map(explained, e))(jnp.asarray(ells)))


def process_kl(mmse: tuple[np.ndarray, np.ndarray], ell: np.ndarray) -> float:
  """KL of the exact reverse process and of STEP at η = 1, as processes (`likelihood.ledger`):

    Σ_i ∫ e^{2ℓ} (mmse(ℓ_i) − mmse(ℓ)) dℓ

  The KL between the laws of their ends is no larger: data processing.
  """
  fine = np.unique(np.concatenate([mmse[0], ell]))
  value = np.interp(fine, *mmse)
  held = value[np.searchsorted(fine, ell)][np.searchsorted(ell, fine[:-1], side="right") - 1]
  rate = lambda end: np.exp(2.0 * end)
  gap = 0.5 * (rate(fine[:-1]) * (held - value[:-1]) + rate(fine[1:]) * (held - value[1:]))
  return float(np.sum(gap * np.diff(fine)))


def start(mixture: mixtures.Mixture, n: int, rho_min: float) -> dict[str, Any]:
  """KL due to a start from N(0, σ²I) in place of p_T (eq. 10), in nats.

  Returns:
    rho, with the KL of p_T to that start (plain), and to the Gaussian with the data's moments
    (moments), and the difference that theory gives (difference); the same at the end of each path
    (own, own_plain, own_moments); the KL by level from N(0, σ²) at ρ = `from`, for each η (kl), and
    from p_T (exact).
  """
  mean = mixture.weights @ mixture.means[:, 0]
  var = mixture.weights @ (mixture.means[:, 0] ** 2 + mixture.covariances[:, 0, 0]) - mean**2

  def normal(rho, moments):
    frame = predictions.unit_frame(-math.log(rho))
    centre, spread = (frame.alpha * mean, frame.alpha**2 * var) if moments else (0.0, 0.0)
    spread = spread + frame.sigma**2
    return lambda x: jnp.exp(-0.5 * (x - centre) ** 2 / spread) / jnp.sqrt(2 * jnp.pi * spread)

  x, rhos = laws.nodes(mixture), np.geomspace(1.0, 160.0, 14)
  cost = lambda rho, moments: 0.0 if rho > 1e6 else laws.kl(
      mixture, -math.log(rho), laws.fresh(x, normal(rho, moments)(x)))
  own = {name: float(np.exp(-paths.on_host(path.half_log_snr, path.t_max)))
         for name, path in PATHS.items()}
  first, path = 3.0, PATHS["VP"]
  level = levels.place_levels(np.append(grid("VP", n, (first, rho_min)), 0.0), path)
  ran = lambda eta, law: laws.sampled(mixture, samplers.ddim(eta), path, level, law).kl
  ratio = float(var) / rhos**2
  return {
      "rho": rhos, "plain": [cost(rho, False) for rho in rhos],
      "moments": [cost(rho, True) for rho in rhos],
      "difference": 0.5 * (ratio - np.log1p(ratio) + float(mean) ** 2 / rhos**2),
      "own": own, "own_plain": {k: cost(v, False) for k, v in own.items()},
      "own_moments": {k: cost(v, True) for k, v in own.items()},
      "from": first, "steps": n, "etas": ETAS, "half_log_snr": level.half_log_snr[:-1],
      "kl": [ran(eta, normal(first, False)) for eta in ETAS],
      "exact": [ran(eta, None) for eta in ETAS]}
