"""Grids of noise levels, from noise to clean data.

A grid is a function path → ρ, the n + 1 noise-to-signal ratios ρ = σ/α = e^{−ℓ} that the sampler
visits, in float64 on the host. It is stated in ρ, in which all paths agree: the same grid makes the
same samples along every path. The named grids fall from `rho_max`, or from the path's own noisy end
where that is less, to exactly 0; `explicit` also rises, and `within` cuts a part out of any grid.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from langevin_jax import _programs
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
  """Uniform in the path's own time from t_max to t_min (eq. 7), ends included, then clean.

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


def explicit(rho: Sequence[float], *, end: float | None = 0.0) -> Grid:
  """Your own positive levels ρ, then `end`. The same for every path.

  Args:
    rho: the levels, such as (80, 20, 5, 1, .2). A level above the one before it is reached by the
      forward kernel: (80, 20, 5, 1, 5, 1, .2) goes over the range 5 … 1 twice.
    end: the last level; 0 is clean data, and None ends at the last of `rho`.

  Raises:
    ValueError: no level, one that is not positive, two equal ones in a row, or a rise at the end.
  """
  values = tuple(float(v) for v in rho)
  values = values if end is None else (*values, float(end))
  _checked(np.array(values))
  if not all(v > 0.0 for v in values[:-1]):
    raise ValueError(f"levels before the last must be positive, got {_listed(values)}")
  return lambda path: np.array(values)


def ancestral(grid: Grid, stochasticity: float = 1.0) -> Grid:
  """A grid on which an ODE method is an ancestral sampler (k-diffusion): a fall, then a rise.

  A step from ρ to ρ′ goes down to √(ρ′² − υ²) by the method, and the forward kernel brings it up
  to ρ′ again, with υ = min(ρ′, η ρ′ √(1 − ρ′²/ρ²)). η = 1 is the DDPM posterior's noise:
  `singlestep(2)` on it is DPM-Solver++(2S) ancestral, `ddim()` Euler ancestral. Multistep methods
  of a higher order find one step in each fall, and are refused.

  Args:
    grid: falling. stochasticity: η ≥ 0; 0 is the grid itself.

  Raises:
    ValueError: a negative stochasticity, or a grid that does not fall.
  """
  if not stochasticity >= 0.0:
    raise ValueError(f"stochasticity must be >= 0, got {stochasticity}")

  def sequence(path):
    rho = levels_of(grid, path)
    if not np.all(np.diff(rho) < 0.0):
      raise ValueError(f"an ancestral grid is made of one that falls, got {_listed(rho)}")
    before, after = rho[:-1], rho[1:]
    up = np.minimum(after, stochasticity * after * np.sqrt(1.0 - (after / before) ** 2))
    down = np.sqrt(after**2 - up**2)
    # Where nothing is added the level is visited once.
    pairs = [(d, a) if u > 0.0 else (a,) for d, a, u in zip(down, after, up, strict=True)]
    return np.concatenate([rho[:1], *pairs])

  return sequence


def within(grid: Grid, *, start: float = np.inf, stop: float = 0.0) -> Grid:
  """The part of a grid between two levels, both of which are added to it.

  With `start` it begins with data noised to that level (SDEdit), with `stop` it leaves that much
  noise (partial denoising).

  Args:
    grid: falling. start: the first ρ; the grid's own where that is less. stop: the last ρ.

  Raises:
    ValueError: not 0 <= stop < start, or a stop above the grid's first level.
  """
  if not 0.0 <= stop < start:
    raise ValueError(f"a grid runs from start down to stop >= 0, got start={start}, stop={stop}")

  def part(path):
    rho = levels_of(grid, path)
    if not np.all(np.diff(rho) < 0.0):
      raise ValueError(f"a part is of a grid that falls, got {_listed(rho)}")
    first = min(start, rho[0])
    if not stop < first:
      raise ValueError(f"stop={stop} must lie below the grid's first level {first:.6g}")
    return np.concatenate([[first], rho[(rho < first) & (rho > stop)], [stop]])

  return part


def levels_of(grid: Grid, path: Path) -> np.ndarray:
  """The levels ρ of a grid on a path, (n + 1,) float64.

  Raises:
    ValueError: they are traced, or no sequence of levels that ends with a fall.
  """
  rho = grid(path)
  if _programs.is_traced(rho):
    raise ValueError("a grid in the time of a path that is being traced (learned) has no levels "
                     "yet: state it in rho, by samplers.karras or samplers.explicit")
  rho = np.asarray(rho, np.float64)
  _checked(rho)
  return rho


def _checked(rho: np.ndarray) -> None:
  if rho.ndim != 1 or len(rho) < 2 or not np.all(rho >= 0.0) or not np.all(np.isfinite(rho[1:])):
    raise ValueError("a grid must be two or more levels rho >= 0, finite after the first, got "
                     f"{_listed(rho)}")
  step = rho[1:] - rho[:-1]
  if np.any(step == 0.0) or not step[-1] < 0.0:
    raise ValueError("a grid must go to another level at every step, and fall strictly at the end, "
                     f"got {_listed(rho)}")
  if step[0] > 0.0 or np.any((step[1:] > 0.0) & (step[:-1] > 0.0)):
    raise ValueError("a grid must fall before it rises, and rise in one step: the kernel needs no "
                     f"level between, got {_listed(rho)}")


def _listed(rho) -> str:
  return ", ".join(f"{v:.6g}" for v in np.ravel(rho))


def _top(path: Path, rho_max: float, rho_min: float) -> float:
  """The first noise level: rho_max, or the path's noisy end where that comes sooner."""
  end = on_host(path.half_log_snr, np.float64(path.t_max))
  # A path that is being traced has no known end; its levels are taken as they are asked for.
  end = np.inf if _programs.is_traced(end) else float(np.exp(-end))
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
