"""Laws on a finite state space: a law is a vector over all S^L states, a step a matrix."""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.discrete import mixtures, paths, samplers, splitting

NOISES = {"masked": paths.absorbing, "uniform": paths.uniform}


class Space(NamedTuple):
  """A law of the data as a table, the noise that acts on it, and a model, by default the table."""

  table: mixtures.Table
  path: paths.Path
  model: Any = None

  @property
  def x(self) -> np.ndarray:
    """All states, masked ones among them, (S^L, L)."""
    length = self.table.probabilities.ndim
    return np.indices((len(self.path.base),) * length).reshape(length, -1).T

  def marginal(self, level: samplers.Level) -> jax.Array:
    """p_t of all states."""
    return self.table.marginal(level.alpha, self.path).ravel()

  def log_denoised(self, level: samplers.Level, power: Any = 1.0) -> jax.Array:
    """log D of all states, (S^L, L, V); D^power, normalised, is a model that errs."""
    logits = power * (self.model or self.table).denoise(
        jnp.asarray(self.x), level.alpha, self.path)
    return splitting.clean_law(jnp.asarray(self.x), logits, level.alpha, level.sigma, self.path)

  def step(self, log_denoised, here: samplers.Level, there: samplers.Level, budget) -> jax.Array:
    """STEP(ℓ′ − ℓ, Λ) of all positions as a matrix (S^L, S^L)."""
    return joint(splitting.step(
        jnp.asarray(self.x), jnp.exp(log_denoised), here.alpha, here.sigma, there.alpha,
        there.sigma, budget, self.path))

  def generator(self, rates) -> np.ndarray:
    """The matrix of jumps between states, from rates (S^L, L, S) of each position."""
    x, size = self.x, len(self.path.base)
    rates = np.nan_to_num(np.asarray(rates))
    matrix = np.zeros((len(x), len(x)))
    place = size ** np.arange(x.shape[1])[::-1]
    for i, stride in enumerate(place):
      for y in range(size):
        np.add.at(matrix, (np.arange(len(x)), np.arange(len(x)) + (y - x[:, i]) * stride),
                  np.where(y == x[:, i], 0.0, rates[:, i, y]))
    return matrix - np.diag(matrix.sum(1))


def space(noise: str, probabilities: Any) -> Space:
  table = mixtures.Table(jnp.asarray(probabilities))
  return Space(table, NOISES[noise](table.probabilities.shape[0]))


def level(ell: Any) -> samplers.Level:
  """α = sigmoid(ℓ), of the linear clock."""
  ell = jnp.asarray(ell)
  return samplers.Level(jax.nn.sigmoid(-ell), ell, jax.nn.sigmoid(ell), jax.nn.sigmoid(-ell))


def joint(law: jax.Array) -> jax.Array:
  """Laws of single positions (N, L, S) as laws of states (N, S^L)."""
  law = jnp.nan_to_num(law)  # of states that have probability 0
  return functools.reduce(
      lambda left, right: (left[:, :, None] * right[:, None, :]).reshape(len(law), -1),
      jnp.moveaxis(law, 1, 0))


_joint = jax.jit(joint)


def kl(p: Any, q: Any) -> Any:
  """Σ p log(p/q) along the last axis, in nats; not below the rounding of the sum."""
  p, q = np.asarray(p), np.maximum(np.asarray(q), 1e-300)
  return np.sum(np.where(p > 0.0, p * np.log(np.maximum(p, 1e-300) / q), 0.0), axis=-1)


class Runner:
  """The laws of several samplers, which take D of one model at each state: one program for all."""

  def __init__(self, space: Space, methods: dict[str, samplers.Method]):
    self.space, self.methods = space, methods

    @jax.jit
    def advance(laws, here, there, budgets, power, correction):
      log_d = lambda level: space.log_denoised(
          level, jnp.where(level.half_log_snr < 0.0, power, 1.0))
      x, log_d_here = jnp.asarray(space.x), log_d(here)
      moves = [method.law for method in methods.values() if method.law is not None]
      laws = jnp.stack([law @ joint(move(x, log_d_here, here, there, budget, space.path))
                        for law, move, budget in zip(laws, moves, budgets, strict=True)])
      stay = laws @ space.step(log_d(there), there, there, correction)
      # At the clean end there is nothing to correct.
      return jnp.where((correction > 0.0) & (there.sigma > 0.0), stay, laws)

    self._advance, self._marginal = advance, jax.jit(space.marginal)
    self._plan = functools.cache(self._planned)

  def _planned(
      self, n: int, ends: tuple[float, float] | None
  ) -> tuple[samplers.Level, np.ndarray]:
    """The levels of `run`, (n + 1,), and the budgets of all methods at each step, (n, methods)."""
    with np.errstate(divide="ignore"):
      rho = 1.0 / np.linspace(0.0, 1.0, n + 1) - 1.0 if ends is None else np.geomspace(*ends, n + 1)
    methods = self.methods.values()
    # Budgets depend on the stochasticity alone, which several methods share.
    plans = {method.stochasticity: samplers.plan(self.space.path, method, lambda path: rho)
             for method in methods}
    return next(iter(plans.values()))[1], np.stack(
        [plans[method.stochasticity][2] for method in methods], 1)

  def run(
      self, n: int, ends: tuple[float, float] | None = None, *, power: float = 1.0,
      correction: float = 0.0,
  ) -> tuple[np.ndarray, np.ndarray]:
    """KL(p_t‖law) at each level, (methods, n + 1), and ℓ (n + 1,), of n steps.

    Args:
      ends: (ρ_max, ρ_min), between which steps are even in ℓ, with a start from p_T. By default
        from noise alone to the data, and steps are even in α.
      power: of D where ℓ < 0, as in `Space.log_denoised`.
      correction: Λ of a Langevin step after each step.
    """
    levels, budgets = self._plan(n, ends)
    each = [samplers.Level(*map(jnp.asarray, level)) for level in zip(*levels, strict=True)]
    laws = np.tile(self._marginal(each[0]), (len(self.methods), 1))
    found = [kl(self._marginal(each[0]), laws)]
    for (here, there), budget in zip(itertools.pairwise(each), budgets, strict=True):
      laws = self._advance(laws, here, there, jnp.asarray(budget), power, correction)
      found.append(kl(self._marginal(there), laws))
    return np.stack(found, 1), levels.half_log_snr


def unmasked(space: Space, calls: int, power: float = 1.0) -> np.ndarray:
  """The law of the data when positions are unmasked in random order, in `calls` groups.

  A group's positions are drawn from D at once, as `samplers.unmask` does; the sizes of the groups
  are as even as they can be. space: of masked noise.
  """
  length, mask = space.x.shape[1], space.path.vocabulary
  sizes = np.diff(np.round(np.linspace(0, length, calls + 1)).astype(int))
  # Under masked noise D does not depend on the level.
  d = np.exp(jax.jit(lambda: space.log_denoised(level(0.0), power))())
  law = np.all(space.x == mask, axis=1).astype(float)
  for size in sizes:
    left = (space.x == mask).sum(1)
    after = np.zeros_like(law)
    for group in itertools.combinations(range(length), size):
      chosen = np.isin(np.arange(length), group)
      able = np.all((space.x == mask) | ~chosen, axis=1)
      drawn = np.where(chosen[:, None], np.pad(d, ((0, 0), (0, 0), (0, 1))),
                       np.eye(mask + 1)[space.x])
      share = np.where(able, law / np.array([max(math.comb(n, size), 1) for n in left]), 0.0)
      after += share @ np.asarray(_joint(drawn))
    law = after
  return law.reshape((mask + 1,) * length)[(slice(mask),) * length].ravel()
