"""Grids of noise levels, from noise to clean data.

A grid is a function path → ρ, the n + 1 noise-to-signal ratios ρ = σ/α = e^{−ℓ} that the sampler
visits, falling and ending at exactly 0, in float64 on the host. It is stated in ρ, in which all
paths agree: the same grid makes the same samples along every path. A grid starts at `rho_max`, or
at the path's own noisy end where that is less.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from langevin_jax.paths import Path, on_host

Grid = Callable[[Path], np.ndarray]


@functools.lru_cache
def karras(
    n: int, *, rho_min: float = 0.002, rho_max: float = 80.0, curvature: float = 7.0
) -> Grid:
  """ρ_i = (ρ_max^{1/c} + i/(n−1) (ρ_min^{1/c} − ρ_max^{1/c}))^c, then 0 (Karras et al., eq. 5).

  Args:
    n: number of steps. rho_min, rho_max: the last and first positive noise-to-signal ratios.
    curvature: c; 1 is uniform in ρ, ∞ uniform in ℓ, 7 the authors' choice.

  Raises:
    ValueError: n < 1, a reversed range, or curvature ≤ 0.
  """
  _check(n)
  _check_range(rho_min, rho_max)
  if not curvature > 0.0:
    raise ValueError(f"curvature must be positive, got {curvature}")

  def grid(path):
    first, last = _top(path, rho_max, rho_min) ** (1 / curvature), rho_min ** (1 / curvature)
    return _closed(np.linspace(first, last, n) ** curvature)

  return grid


@functools.lru_cache
def uniform_half_log_snr(n: int, *, rho_min: float = 0.002, rho_max: float = 80.0) -> Grid:
  """ℓ uniform from −log ρ_max to −log ρ_min, then clean. Raises ValueError as `karras` does."""
  _check(n)
  _check_range(rho_min, rho_max)
  return lambda path: _closed(np.geomspace(_top(path, rho_max, rho_min), rho_min, n))


@functools.lru_cache
def uniform_time(n: int) -> Grid:
  """Uniform in the path's own time from t_max to t_min, both ends included, then clean.

  Where σ(t_min) = 0 the last time is the clean end itself. Raises ValueError for n < 1.
  """
  _check(n)

  def grid(path):
    rho = lambda times: np.exp(-on_host(jax.vmap(path.half_log_snr), times))
    if rho(np.array([path.t_min]))[0] > 0.0:
      return _closed(rho(np.linspace(path.t_max, path.t_min, n)))
    return _closed(rho(np.linspace(path.t_max, path.t_min, n + 1))[:-1])

  return grid


@functools.lru_cache
def cosine(n: int) -> Grid:
  """ρ = tan(πu/2), u falling evenly to 0: uniform in the cosine path's time, for any path."""
  _check(n)

  def grid(path):
    first = 2.0 / np.pi * np.arctan(_top(path, np.inf, 0.0))
    u = np.linspace(first, 0.0, n + 1)[:-1]
    return _closed(np.where(u == 1.0, np.inf, np.tan(0.5 * np.pi * u)))

  return grid


@functools.lru_cache
def shifted(n: int, shift: float = 1.0) -> Grid:
  """Flow time s uniform from 1 to 0, shifted by ℓ′ = ℓ − log k: ρ = k s/(1 − s).

  s′ = k s/(1 + (k − 1)s) (Esser et al. 2024, eq. 23). Shift 1 is rectified flow's uniform time.

  Raises:
    ValueError: n < 1 or shift ≤ 0.
  """
  _check(n)
  if not shift > 0.0:
    raise ValueError(f"shift must be positive, got {shift}")

  def grid(path):
    top = _top(path, np.inf, 0.0) / shift
    s = np.linspace(top / (1.0 + top) if np.isfinite(top) else 1.0, 0.0, n + 1)[:-1]
    with np.errstate(divide="ignore"):
      return _closed(shift * s / (1.0 - s))

  return grid


def explicit(rho: Sequence[float]) -> Grid:
  """Your own levels ρ, falling and positive; the clean end is added. The same for every path.

  Raises:
    ValueError: no level, or levels that do not fall or are not positive.
  """
  values = tuple(float(v) for v in rho)
  falls = all(a > b for a, b in itertools.pairwise(values))
  if not values or not falls or not values[-1] > 0.0:
    given = ", ".join(map(str, values))
    raise ValueError(f"levels must be positive and fall strictly, got {given}")
  return _explicit(values)


@functools.lru_cache
def _explicit(values: tuple[float, ...]) -> Grid:
  return lambda path: _closed(np.array(values))


def _top(path: Path, rho_max: float, rho_min: float) -> float:
  """The first noise level: rho_max, or the path's noisy end where that comes sooner."""
  end = float(np.exp(-on_host(path.half_log_snr, np.float64(path.t_max))))
  if not end > rho_min:
    raise ValueError(f"rho_min={rho_min} lies beyond the path's noisiest level {end:.4g}")
  return min(rho_max, end)


def _closed(rho: np.ndarray) -> np.ndarray:
  return np.append(rho, 0.0)


def _check(n: int) -> None:
  if not isinstance(n, (int, np.integer)) or n < 1:
    raise ValueError(f"a grid needs at least 1 step, and whole ones, got n={n}")


def _check_range(rho_min: float, rho_max: float) -> None:
  if not 0.0 < rho_min < rho_max:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
