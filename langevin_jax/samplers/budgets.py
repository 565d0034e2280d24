"""The noise of each step: its budget Λ = ∫η² dℓ (theory.md#step).

η is a number, a function of ℓ, or a jax array that may be traced:

| η | Λ of a step of length h = ℓ′ − ℓ |
|---|---|
| a number, or an array | η² h |
| a function | ∫ η(ℓ)² dℓ, by adaptive Gauss–Legendre quadrature; of traced values by one rule |
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import splitting
from langevin_jax.paths import Path, on_host
from langevin_jax.samplers.levels import Level

__all__ = ["UnresolvedNoise", "budgets", "limited_budgets", "square_integral"]

# Up to this Λ of a step, methods keep the standard deviation of a Gaussian within some per cent of
# what they reach at η = 0: see the table of `singlestep`.
RESOLVED = 1.0
_BISECTIONS = 40  # a jump of η is located to 2^−40 of its step


class UnresolvedNoise(UserWarning):
  """A plan has steps with more noise Λ than its method resolves: the law will be off."""


class Budgets(NamedTuple):
  """Λ (n,) of each step, and √Λ where η is an array, else None (`splitting.amplitude`)."""

  budget: Any
  root: Any


def budgets(levels: Level, stochasticity: splitting.Stochasticity, path: Path) -> Any:
  """Λ (n,) of each of the n steps.

  An infinite step, from α = 0 or to the clean end, has Λ = ∞, or 0 where η vanishes at its finite
  end. Neither changes the law: at α = 0 the state is pure noise, at the clean end none is left.
  """
  ell = levels.half_log_snr
  low, high = ell[:-1], ell[1:]
  h = np.where(low == high, 0.0, high - low)
  if isinstance(stochasticity, jax.Array):
    # A finite stand-in for an infinite step keeps η = 0 from giving 0·∞.
    return stochasticity**2 * jnp.asarray(np.minimum(h, 1e30), float)
  if not callable(stochasticity):
    return np.zeros(len(h)) if stochasticity == 0 else stochasticity**2 * h
  infinite = ~np.isfinite(h)
  end = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
  squared, integral = square_integral(
      stochasticity, np.where(infinite, end, low), np.where(infinite, end, high), path)
  xp = splitting.namespace(squared)
  return xp.where(infinite, xp.where(squared > 0.0, np.inf, 0.0), integral)


def root_budgets(levels: Level, stochasticity: splitting.Stochasticity) -> Any:
  """√Λ = η √h (n,) where η is an array, else None; `splitting.amplitude` says what it is for.

  At an infinite step the noise jumps from none at η = 0 to all of it: its derivative is set to 0.
  """
  if not isinstance(stochasticity, jax.Array):
    return None
  h = np.diff(levels.half_log_snr)
  constant = jax.lax.stop_gradient(stochasticity)
  root = lambda eta: eta * jnp.asarray(np.sqrt(np.clip(h, 0.0, 1e30)), float)
  return jnp.where(np.isfinite(h), root(stochasticity), root(constant))


def limited_budgets(
    levels: Level, stochasticity: splitting.Stochasticity, path: Path, largest: float
) -> Budgets:
  """Λ and √Λ of each step, with Λ ≤ `largest` in every finite step.

  Every η(ℓ) has the same marginals, so a step may take less noise than η asks for. Warns with
  `UnresolvedNoise` where a Λ that is known now exceeds what methods resolve.
  """
  budget, root = budgets(levels, stochasticity, path), root_budgets(levels, stochasticity)
  finite = np.isfinite(np.diff(levels.half_log_snr))
  if root is not None:
    over = finite & (budget > largest)
    return Budgets(jnp.where(over, largest, budget), jnp.where(over, np.sqrt(largest), root))
  xp = splitting.namespace(budget)
  budget = xp.where(finite, xp.minimum(budget, largest), budget)
  if xp is jnp:
    return Budgets(budget, None)
  most = np.max(budget, where=finite, initial=0.0)
  if most > RESOLVED:
    warnings.warn(
        f"a step has noise of budget {most:.2g}, and methods resolve about {RESOLVED:g}: take "
        "more steps, less stochasticity, or largest_budget=0.5", UnresolvedNoise, stacklevel=2)
  return Budgets(budget, root)


def square_integral(
    stochasticity: splitting.Stochasticity, low: np.ndarray, high: np.ndarray, path: Path
) -> tuple[Any, Any]:
  """η² near `low`, and ∫η² dℓ from low to high; arrays of one shape (n,).

  16-point Gauss–Legendre. An interval is bisected where its two halves differ from the whole by
  more than 1e-7 of the largest integral, as at a jump of η.
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

  def in_blocks(low, high):
    """∫η² of any number of intervals, n at a time, so that one compiled rule serves all."""
    fill = lambda v: np.append(v, np.zeros(-len(v) % n))
    split = lambda v: np.split(fill(v), len(fill(v)) // n)
    blocks = [rule(*ends)[1] for ends in zip(split(low), split(high), strict=True)]
    return np.concatenate(blocks)[:len(low)]

  squared, whole = rule(low, high)
  if splitting.namespace(whole) is jnp:  # traced: where η jumps is not known
    return squared, whole
  total, owner = whole.copy(), np.arange(n)
  tolerance = 1e-7 * np.max(total, initial=0.0)
  for _ in range(_BISECTIONS):
    middle = 0.5 * (low + high)
    left, right = in_blocks(low, middle), in_blocks(middle, high)
    change = left + right - whole
    off = np.abs(change) > tolerance
    if not off.any():
      break
    np.add.at(total, owner[off], change[off])
    low, high = np.append(low[off], middle[off]), np.append(middle[off], high[off])
    whole, owner = np.append(left[off], right[off]), np.tile(owner[off], 2)
  return squared, total
