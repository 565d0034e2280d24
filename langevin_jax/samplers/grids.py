"""Grids of noise levels, from noise to clean data.

A grid is a function path → ρ: the n + 1 noise-to-signal ratios ρ = σ/α = e^{−ℓ} that the sampler
visits, in float64 on the host. All paths agree in ρ, so one grid gives the same samples along every
path. The named grids fall to exactly 0, from `rho_max` or from the noisy end of the path where that
is less. An `explicit` grid may rise; `within` takes a part of a grid.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from langevin_jax import _programs, _values
from langevin_jax.paths import Path, on_host

__all__ = [
    "Grid", "ancestral", "cosine", "explicit", "karras", "levels_of", "shifted",
    "uniform_half_log_snr", "uniform_time", "within",
]

Grid = Callable[[Path], np.ndarray]


@_programs.memoised
def karras(
    n: int, *, rho_min: float = 0.002, rho_max: float = 80.0, curvature: float = 7.0
) -> Grid:
  """ρ_i = (ρ_max^{1/c} + i/(n−1) (ρ_min^{1/c} − ρ_max^{1/c}))^c, then 0.

  Reference: Karras et al. 2022, eq. 5.

  Args:
    n: number of steps. rho_min, rho_max: the last positive and the first noise-to-signal ratio.
    curvature: c; 1 is uniform in ρ, ∞ uniform in ℓ; the authors use 7.

  Raises:
    ValueError: n < 1, a reversed range, curvature ≤ 0, or what is no number or traced.
  """
  n = _steps(n)
  rho_min, rho_max = _range(rho_min, rho_max)
  curvature = _values.number("curvature", curvature)
  if not curvature > 0.0:
    raise ValueError(f"curvature must be positive, got {curvature}")

  def grid(path):
    first, last = _top(path, rho_max, rho_min) ** (1 / curvature), rho_min ** (1 / curvature)
    return _closed(np.linspace(first, last, n) ** curvature)

  return grid


@_programs.memoised
def uniform_half_log_snr(n: int, *, rho_min: float = 0.002, rho_max: float = 80.0) -> Grid:
  """ℓ uniform from −log ρ_max to −log ρ_min, then the clean end; errors are those of `karras`."""
  n = _steps(n)
  rho_min, rho_max = _range(rho_min, rho_max)
  return lambda path: _closed(np.geomspace(_top(path, rho_max, rho_min), rho_min, n))


@_programs.memoised
def uniform_time(n: int) -> Grid:
  """Uniform in the path's own time from t_max to t_min (eq. 7), ends included, then the clean end.

  Where σ(t_min) = 0 the last time is the clean end.

  Raises:
    ValueError: n < 1; when sampling, a path that is traced (learned): its levels are not known.
  """
  n = _steps(n)

  def grid(path):
    rho = lambda times: np.exp(-_known(on_host(jax.vmap(path.half_log_snr), times)))
    if rho(np.array([path.t_min]))[0] > 0.0:
      return _closed(rho(np.linspace(path.t_max, path.t_min, n)))
    return _closed(rho(np.linspace(path.t_max, path.t_min, n + 1))[:-1])

  return grid


@_programs.memoised
def cosine(n: int) -> Grid:
  """ρ = tan(πu/2) with u falling evenly to 0: uniform in the time of the cosine path, on any path.

  Raises:
    ValueError: n < 1.
  """
  n = _steps(n)

  def grid(path):
    first = 2.0 / np.pi * np.arctan(_top(path, np.inf, 0.0))
    u = np.linspace(first, 0.0, n + 1)[:-1]
    return _closed(np.where(u == 1.0, np.inf, np.tan(0.5 * np.pi * u)))

  return grid


@_programs.memoised
def shifted(n: int, shift: float = 1.0) -> Grid:
  """Flow time s uniform from 1 to 0, shifted by ℓ′ = ℓ − log k: ρ = k s/(1 − s).

  In time, s′ = k s/(1 + (k − 1)s) (Esser et al. 2024, eq. 23). k = 1 is uniform time of rectified
  flow.

  Args:
    n: number of steps. shift: k > 0; larger puts more steps at high noise.

  Raises:
    ValueError: n < 1 or shift ≤ 0.
  """
  n = _steps(n)
  shift = _values.number("shift", shift)
  if not shift > 0.0:
    raise ValueError(f"shift must be positive, got {shift}")

  def grid(path):
    top = _top(path, np.inf, 0.0) / shift
    s = np.linspace(top / (1.0 + top) if np.isfinite(top) else 1.0, 0.0, n + 1)[:-1]
    with np.errstate(divide="ignore"):
      return _closed(shift * s / (1.0 - s))

  return grid


def explicit(rho: Sequence[float] | np.ndarray, *, end: float | None = 0.0) -> Grid:
  """The given positive levels ρ, then `end`; the same for every path.

  Args:
    rho: levels such as (80, 20, 5, 1, .2). A level above the one before it is reached by the
      forward kernel: (80, 20, 5, 1, 5, 1, .2) runs twice from 5 to 1. The first may be ∞, pure
      noise, on a path that reaches it.
    end: the last level. 0 is clean data; None ends at the last of `rho`.

  Raises:
    ValueError: no level, a level that is not positive, two equal ones in a row, a rise at the end,
      or what is no number or traced.
  """
  values = tuple(map(float, _values.numbers("rho", rho, "(80, 20, 5, 1, 0.2)")))
  values = values if end is None else (*values, float(_values.number("end", end)))
  _checked(np.array(values))
  if not all(v > 0.0 for v in values[:-1]):
    raise ValueError(f"levels before the last must be positive, got {_listed(values)}")
  return lambda path: np.array(values)


def ancestral(grid: Grid, stochasticity: float = 1.0) -> Grid:
  """A grid on which an ODE method is the ancestral sampler of k-diffusion: a fall, then a rise.

  A step from ρ to ρ′ falls to √(ρ′² − υ²) by the method, and the forward kernel raises it to ρ′,
  with υ = min(ρ′, η ρ′ √(1 − ρ′²/ρ²)). η = 1 is the noise of the DDPM posterior: `singlestep(2)` on
  this grid is DPM-Solver++(2S) ancestral, and `ddim()` is Euler ancestral. Each fall has one step,
  so multistep methods of order above 1 are refused.

  Args:
    grid: falling. stochasticity: η ≥ 0; 0 returns the levels of `grid`.

  Raises:
    ValueError: a negative stochasticity, or a grid that does not fall.
  """
  stochasticity = _values.number("stochasticity", stochasticity)
  if not stochasticity >= 0.0:
    raise ValueError(f"stochasticity must be >= 0, got {stochasticity}")

  def sequence(path):
    rho = levels_of(grid, path)
    if not np.all(np.diff(rho) < 0.0):
      raise ValueError(f"an ancestral grid is made from one that falls, got {_listed(rho)}")
    before, after = rho[:-1], rho[1:]
    up = np.minimum(after, stochasticity * after * np.sqrt(1.0 - (after / before) ** 2))
    down = np.sqrt(after**2 - up**2)
    # Where no noise is added the level is visited once.
    pairs = [(d, a) if u > 0.0 else (a,) for d, a, u in zip(down, after, up, strict=True)]
    return np.concatenate([rho[:1], *pairs])

  return sequence


def within(grid: Grid, *, start: float = np.inf, stop: float = 0.0) -> Grid:
  """The part of a grid between two levels, which become its ends.

  With `start`, sampling begins with data noised to that level (SDEdit). With `stop`, that much
  noise is left (partial denoising).

  Args:
    grid: falling. start: the first ρ, or that of the grid where it is less. stop: the last ρ.

  Raises:
    ValueError: not 0 <= stop < start, or a stop above the grid's first level.
  """
  start, stop = _values.number("start", start), _values.number("stop", stop)
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
    ValueError: the levels are traced, or are no sequence that ends with a fall.
  """
  rho = np.asarray(_known(grid(path)), np.float64)
  _checked(rho)
  return rho


def _known(values: Any) -> np.ndarray:
  """The values, after a check that they are not traced."""
  if _values.is_traced(values):
    raise ValueError("a grid in the time of a path that is being traced (learned) has no levels "
                     "yet: state it in rho, by samplers.karras or samplers.explicit")
  return values


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
  end = on_host(path.half_log_snr, np.asarray(path.t_max))
  # The end of a traced path is not known: it counts as beyond rho_max.
  end = np.inf if _values.is_traced(end) else float(np.exp(-end))
  if not end > rho_min:
    raise ValueError(f"rho_min={rho_min} lies beyond the path's noisiest level {end:.4g}")
  return min(rho_max, end)


def _closed(rho: np.ndarray) -> np.ndarray:
  """The levels, then the clean end."""
  return np.append(rho, 0.0)


def _steps(n: int) -> int:
  if isinstance(n, Path):
    raise ValueError("grid must be a function of the path, got a factory of one: call it, such as "
                     "samplers.karras(20)")
  return _values.count("n, the number of steps,", n)


def _range(rho_min: float, rho_max: float) -> tuple[float, float]:
  rho_min, rho_max = _values.number("rho_min", rho_min), _values.number("rho_max", rho_max)
  if not 0.0 < rho_min < rho_max < np.inf:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max < inf, got rho_min={rho_min}, "
        f"rho_max={rho_max}")
  return rho_min, rho_max
