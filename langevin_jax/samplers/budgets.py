"""The noise of each step: its budget Λ = ∫η² dℓ (theory.md#step).

η is a number, a function of ℓ, or a jax array that may be traced:

| η | Λ of a step of length h = ℓ′ − ℓ |
|---|---|
| a number, or an array | η² h |
| a function | ∫ η(ℓ)² dℓ, by adaptive Gauss–Legendre quadrature; of traced values by one rule |
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import splitting
from langevin_jax.paths import Path, on_host
from langevin_jax.samplers.levels import Level

__all__ = ["UnresolvedNoise", "budgets", "limited_budgets", "square_integral", "traced_root"]

# Up to this Λ of a step, methods keep the standard deviation of a Gaussian within some per cent of
# what they reach at η = 0: see the table of `singlestep`.
RESOLVED = 1.0
_ENDLESS = 1e30
_BISECTIONS = 40  # a jump of η is located to 2^−40 of its step


class UnresolvedNoise(UserWarning):
  """A plan has steps with more noise Λ than its method resolves: the law will be off."""


class Budgets(NamedTuple):
  """Λ (n,) of each step, and √Λ where it is traced, else None (`splitting.amplitude`)."""

  budget: Any
  root: Any


def budgets(levels: Level, stochasticity: splitting.Stochasticity, path: Path) -> Budgets:
  """Λ (n,) of each of the n steps, and √Λ where it is traced.

  An infinite step, from α = 0 or to the clean end, has Λ = ∞, or 0 where η vanishes at its finite
  end. Neither changes the law: at α = 0 the state is pure noise, at the clean end none is left. Of
  traced values it has 10³⁰, which keeps η = 0 from giving 0·∞, and no derivative of √Λ.
  """
  ell = levels.half_log_snr
  low, high = ell[:-1], ell[1:]
  h = np.where(low == high, 0.0, high - low)
  if isinstance(stochasticity, jax.Array):
    some = np.minimum(h, _ENDLESS)
    root = lambda eta: eta * jnp.asarray(np.sqrt(np.clip(some, 0.0, None)), float)
    return Budgets(stochasticity**2 * jnp.asarray(some, float), jnp.where(
        np.isfinite(h), root(stochasticity), root(jax.lax.stop_gradient(stochasticity))))
  if not callable(stochasticity):
    return Budgets(np.zeros(len(h)) if stochasticity == 0 else stochasticity**2 * h, None)
  infinite = ~np.isfinite(h)
  end = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))
  low, high = np.where(infinite, end, low), np.where(infinite, end, high)
  squared, integral = square_integral(stochasticity, low, high, path)
  if splitting.namespace(squared) is np:
    return Budgets(np.where(infinite, np.where(squared > 0.0, np.inf, 0.0), integral), None)
  budget = jnp.where(infinite, jnp.where(squared > 0.0, _ENDLESS, 0.0), integral)
  # Where η is 0 in all of a step, √∫η² has the derivative of ∫η/√h, which is its value for equal η.
  _, total = _integral(
      jax.vmap(jax.vmap(lambda ell: jnp.asarray(stochasticity(ell), float))), low, high)
  equal = total / np.sqrt(np.where(high > low, high - low, 1.0))
  return Budgets(budget, traced_root(budget, equal))


def traced_root(budget: jax.Array, at_0: jax.Array | float) -> jax.Array:
  """√Λ, and `at_0` where Λ = 0: its derivative is then that of `at_0`."""
  some = budget > 0.0
  return jnp.where(some, jnp.sqrt(jnp.where(some, budget, 1.0)), at_0)


def limited_budgets(
    levels: Level, stochasticity: splitting.Stochasticity, path: Path, largest: float
) -> Budgets:
  """Λ and √Λ of each step, with Λ ≤ `largest` in every finite step.

  Every η(ℓ) has the same marginals, so a step may take less noise than η asks for. Warns with
  `UnresolvedNoise` where a Λ that is known now exceeds what methods resolve.
  """
  budget, root = budgets(levels, stochasticity, path)
  finite = np.isfinite(np.diff(levels.half_log_snr))
  if root is not None:
    over = finite & (budget > largest)
    return Budgets(jnp.where(over, largest, budget), jnp.where(over, np.sqrt(largest), root))
  budget = np.where(finite, np.minimum(budget, largest), budget)
  most = np.max(budget, where=finite, initial=0.0)
  if most > RESOLVED:
    warnings.warn(
        f"a step has noise of budget {most:.2g}, and methods resolve about {RESOLVED:g}: take "
        "more steps, less stochasticity, or a method with largest_budget=0.5, such as multistep",
        UnresolvedNoise, stacklevel=2)
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
  square = jax.vmap(jax.vmap(lambda ell: jnp.asarray(eta(ell), float) ** 2))
  n = len(low)

  def in_blocks(low, high):
    """∫η² of any number of intervals, n at a time, so that one compiled rule serves all."""
    fill = lambda v: np.append(v, np.zeros(-len(v) % n))
    split = lambda v: np.split(fill(v), len(fill(v)) // n)
    blocks = [_integral(square, *ends)[1] for ends in zip(split(low), split(high), strict=True)]
    return np.concatenate(blocks)[:len(low)]

  squared, whole = _integral(square, low, high)
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


def _integral(function: Callable, low: np.ndarray, high: np.ndarray) -> tuple[Any, Any]:
  """A function of ℓ (n, 16) near `low`, and its integral to `high`, (n,) each: 16-point Gauss."""
  nodes, weights = np.polynomial.legendre.leggauss(16)
  middle, half = 0.5 * (low + high), 0.5 * (high - low)
  values = on_host(function, middle[:, None] + half[:, None] * nodes)
  return values[:, 0], half * (values @ weights)
