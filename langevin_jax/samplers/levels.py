"""Where a sampler stands: noise levels laid on a path, at unit scale, and the numbers made of them.

Inside a sampler a state is held at unit scale, x = xₜ/√(α² + σ²), for every path, with

  α = 1/√(1 + ρ²),   σ = ρ/√(1 + ρ²),   ρ = e^{−ℓ}.

So a path does not enter the arithmetic at all, and two paths on one grid make the same samples. It
only says, for a model that is a function of (xₜ, t), what t and xₜ are.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, predictions, splitting
from langevin_jax.paths import Path, on_host


class Level(NamedTuple):
  """Noise levels, noise to data; scalars within a step, float64 arrays (n + 1,) in a plan.

  t and scale = √(α_t² + σ_t²) are the path's own time and size; half_log_snr is ℓ; alpha and sigma
  are those at unit scale. The last of a plan is the data itself, (α, σ) = (1, 0), at scale 1.
  """

  t: Any
  half_log_snr: Any
  alpha: Any
  sigma: Any
  scale: Any


Model = Callable[[jax.Array, Level], jax.Array]
Draw = Callable[[int], jax.Array]


class Method(NamedTuple):
  """How a sampler moves; pure functions of states at unit scale.

  plan(levels, path) → numbers for the n steps, a pytree of arrays with leading axis n.
  init(x) → what the steps carry besides the state (history; () where there is none).
  step(draw, x, carry, model, numbers) → (x_s, denoised, carry). `draw(i)` is the i-th ξ ~ N(0, I)
    of this step in the shape of x, the 0th being the reverse process's own; `model(x, level)` is D,
    one call of the network.
  stochasticity: η, which says how much noise the process takes between two levels.
  without_history: the method to take in its place where others move the state at its levels, if
    what it remembers would then mislead it.
  draws: whether a step takes noise that `stochasticity` does not say: churn, correctors.
  takes_pairs: whether `model` is `both` of the denoiser, which then returns (D, v).
  """

  plan: Callable[[Level, Path], Any]
  init: Callable[[jax.Array], Any]
  step: Callable[[Draw, jax.Array, Any, Model, Any], tuple[jax.Array, jax.Array, Any]]
  stochasticity: splitting.Stochasticity = 0.0
  without_history: Any = None
  takes_pairs: bool = False
  draws: bool = False


def lay(rho: np.ndarray, path: Path) -> Level:
  """The levels ρ (n + 1,) on a path, in float64; one that a path does not reach becomes its end.

  ρ = 0 is the data itself, also for a path that stops short of it.
  """
  with np.errstate(divide="ignore"):
    ell = -np.log(rho)
  level = Level(*on_host(_along(path), ell))
  if _programs.is_traced(level):
    # Whether it reaches a level is known when it runs: all are taken to be reached.
    size = np.hypot(1.0, rho)
    sigma = np.where(np.isinf(rho), 1.0, rho / np.where(np.isinf(rho), 1.0, size))
    level = level._replace(half_log_snr=ell, alpha=1.0 / size, sigma=sigma)
  xp = splitting.namespace(level)
  # 0 by its own name: a path's clean end may be rounded.
  clean = rho == 0.0
  return Level(level.t, np.where(clean, np.inf, level.half_log_snr),
               np.where(clean, 1.0, level.alpha), np.where(clean, 0.0, level.sigma),
               xp.where(clean, 1.0, level.scale))


def moved(level: Level, by: Any, path: Path) -> Level:
  """The level `by` further on in ℓ, where ℓ is finite; in float64 unless `by` is traced."""
  if isinstance(by, jax.Array):
    return _at(jnp.asarray(level.half_log_snr, float) + by, path)
  if not np.any(by):
    return level
  return Level(*on_host(_along(path), level.half_log_snr + by))


@functools.lru_cache(maxsize=64)
def _along(path: Path) -> Callable[[jax.Array], Level]:
  """`_at` on this path as one object, so that its compilation is found again."""
  return lambda ell: _at(ell, path)


def _at(ell: jax.Array, path: Path) -> Level:
  """Levels at ℓ (n,) on a path, or at its end where it does not go so far."""
  t = jax.vmap(path.time)(ell)
  reached = jax.vmap(path.half_log_snr)(t)
  # The given number wherever the path has it: the same for all paths, to the last bit.
  missed = jnp.abs(reached - ell) > 1e-6 * (1.0 + jnp.abs(ell))
  ell = jnp.where(missed, reached, ell)
  rho = jnp.exp(-ell)
  size = jnp.hypot(1.0, rho)
  sigma = jnp.where(jnp.isinf(rho), 1.0, rho / size)
  return Level(t, ell, 1.0 / size, sigma,
               jnp.hypot(jax.vmap(path.alpha)(t), jax.vmap(path.sigma)(t)))


def is_random(method: Method) -> bool:
  """Whether two runs of a method from one state differ."""
  return method.draws or not splitting.is_zero(method.stochasticity)


def pick(levels: Level, index: Any) -> Level:
  """The levels at `index`, a slice or an array of positions."""
  return Level(*(values[index] for values in levels))


def model(denoise: predictions.Denoise) -> Model:
  """A denoiser as samplers call it: one that knows no path at its level, another at (xₜ, t).

  D is checked where it comes in, and of the state's type from there on. Of a denoiser that returns
  a pair it is the first: see `both`.
  """
  call = both(denoise)
  return lambda x, level: call(x, level)[0]


def both(denoise: predictions.Denoise) -> Callable[[jax.Array, Level], tuple[jax.Array, ...]]:
  """(x, level) → (D,), or (D, v) of a denoiser that returns two arrays in the state's shape."""
  if isinstance(denoise, predictions.Denoiser):
    at = _programs.unjitted(denoise.at)
    call = lambda x, level: at(x, level.half_log_snr)
  else:
    along = _programs.unjitted(denoise)
    call = lambda x, level: along(level.scale * x, level.t)

  def checked(x, level):
    found = call(x, level)
    found = found if isinstance(found, tuple) else (found,)
    return tuple(predictions.like_state(value, x, "denoise") for value in found)

  return checked


def numbers(function: Callable, *arguments: Any) -> Any:
  """`function(xp, *arguments)` by numpy in float64; by jax.numpy where an argument is traced."""
  xp = splitting.namespace(arguments)
  if xp is jnp:
    return function(jnp, *jax.tree.map(lambda a: jnp.asarray(a, float), arguments))
  # Infinite steps make numbers that are not selected.
  with np.errstate(all="ignore"):
    return function(np, *jax.tree.map(lambda a: np.asarray(a, np.float64), arguments))


def memoised(factory: Callable[..., Any]) -> Callable[..., Any]:
  """Makes a method once for equal arguments: a static argument of `jax.jit`; η may be traced."""
  cached = functools.lru_cache(factory)

  @functools.wraps(factory)
  def make(*args, **kwargs):
    # Also within a method or a corrector that is an argument.
    traced = any(isinstance(a, jax.Array) for a in jax.tree.leaves((args, kwargs)))
    return (factory if traced else cached)(*args, **kwargs)

  return make


def check_stochasticity(stochasticity: splitting.Stochasticity) -> None:
  """Raises ValueError for a number η < 0 or ∞; a callable is checked where it is planned."""
  known = not callable(stochasticity) and not isinstance(stochasticity, jax.Array)
  if known and not 0.0 <= stochasticity < np.inf:
    raise ValueError(f"stochasticity must be >= 0 and finite, got {stochasticity}")


def check_order(order: int, most: int = 3) -> None:
  """Raises ValueError for an order that is not one of 1 … `most`."""
  if not isinstance(order, int) or order not in range(1, most + 1):
    raise ValueError(f"order must be one of {', '.join(map(str, range(1, most + 1)))}, got {order}")


def budgets(levels: Level, stochasticity: splitting.Stochasticity, path: Path) -> Any:
  """Λ = ∫η² dℓ of each of the n steps.

  An infinite step (from α = 0, or to the clean end) has Λ = ∞, or 0 where η vanishes at its finite
  end: from α = 0 the state is pure noise whatever Λ, and at the clean end no noise is left.
  """
  ell = levels.half_log_snr
  low, high = ell[:-1], ell[1:]
  h = np.where(low == high, 0.0, high - low)
  if isinstance(stochasticity, jax.Array):
    # A finite stand-in for an infinite step keeps η = 0 from making 0·∞.
    return stochasticity**2 * jnp.asarray(np.minimum(h, 1e30), float)
  if not callable(stochasticity):
    return np.zeros(len(h)) if stochasticity == 0 else stochasticity**2 * h
  infinite = ~np.isfinite(h)
  end = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
  squared, integral = square_integral(
      stochasticity, np.where(infinite, end, low), np.where(infinite, end, high), path)
  return np.where(infinite, np.where(squared > 0.0, np.inf, 0.0), integral)


def roots(levels: Level, stochasticity: splitting.Stochasticity) -> Any:
  """√Λ = η √h of each step where η is traced, else None: `splitting.amplitude` says what for.

  An infinite step jumps from no noise at η = 0 to all of it: its derivative is taken as 0.
  """
  if not isinstance(stochasticity, jax.Array):
    return None
  h = np.diff(levels.half_log_snr)
  jump = jax.lax.stop_gradient(stochasticity)
  root = lambda eta: eta * jnp.asarray(np.sqrt(np.clip(h, 0.0, 1e30)), float)
  return jnp.where(np.isfinite(h), root(stochasticity), root(jump))


# Λ of a step up to which methods keep the law of a Gaussian within some per cent of their own at
# η = 0; the table is in the README.
RESOLVED = 1.0


class UnresolvedNoise(UserWarning):
  """A plan has steps whose noise Λ is beyond what its method resolves: the law will be off."""


def spend(
    levels: Level, stochasticity: splitting.Stochasticity, path: Path, largest: float
) -> tuple[Any, Any]:
  """Λ and √Λ (`budgets`, `roots`) of each step, no Λ of a finite step being above `largest`.

  Every η(ℓ) has the same marginals, so that a step may take less noise than it was given.
  """
  budget, root = budgets(levels, stochasticity, path), roots(levels, stochasticity)
  finite = np.isfinite(np.diff(levels.half_log_snr))
  if root is not None:
    over = finite & (budget > largest)
    return jnp.where(over, largest, budget), jnp.where(over, np.sqrt(largest), root)
  budget = np.where(finite, np.minimum(budget, largest), budget)
  most = np.max(budget, where=finite, initial=0.0)
  if most > RESOLVED:
    warnings.warn(
        f"a step has noise of budget {most:.2g}, and methods resolve about {RESOLVED:g}: take "
        "more steps, less stochasticity, or largest_budget=0.5", UnresolvedNoise, stacklevel=2)
  return budget, root


_BISECTIONS = 40  # a jump of η is found to 2^−40 of its step


def square_integral(
    stochasticity: splitting.Stochasticity, low: np.ndarray, high: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray]:
  """η² near `low`, and ∫η² dℓ from low to high; arrays of one shape.

  By 16-point Gauss–Legendre, and where the two halves of an interval contradict the whole by more
  than 1e-7 of the greatest integral, as at a jump of η, by bisection of what still does.
  """
  if not callable(stochasticity):
    return np.full(np.shape(low), stochasticity**2), stochasticity**2 * (high - low)
  eta = splitting.checked(stochasticity, path)
  nodes, weights = np.polynomial.legendre.leggauss(16)
  square = jax.vmap(jax.vmap(lambda ell: jnp.asarray(eta(ell), float) ** 2))
  n = len(low)

  def rule(low, high):
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    squared = on_host(square, middle[:, None] + half[:, None] * nodes)
    return squared[:, 0], half * (squared @ weights)

  squared, total = rule(low, high)
  total, whole, owner = total.copy(), total, np.arange(n)
  tolerance = 1e-7 * np.max(total, initial=0.0)
  for _ in range(_BISECTIONS):
    middle = 0.5 * (low + high)
    # Blocks of n intervals, so that one compiled rule serves all.
    fill = lambda v: np.append(v, np.zeros(-len(v) % n))
    halves = [np.concatenate([rule(*ends)[1] for ends in zip(
        *(np.split(fill(v), len(fill(v)) // n) for v in (a, b)), strict=True)])[:len(owner)]
              for a, b in ((low, middle), (middle, high))]
    left, right = halves
    off = np.abs(left + right - whole) > tolerance
    if not off.any():
      break
    np.add.at(total, owner[off], (left + right - whole)[off])
    low, high = np.append(low[off], middle[off]), np.append(middle[off], high[off])
    whole, owner = np.append(left[off], right[off]), np.tile(owner[off], 2)
  return squared, total
