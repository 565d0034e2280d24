"""A density of noise levels, and a weight on them, learned from the errors of the model.

Let e = ‖ε − ε̂‖² be the error of one example. A loss E_{ℓ ~ π}[w(ℓ) e] is the integral of
g(ℓ) E[e | ℓ] over ℓ, with g = π w. A single draw g e/π has least variance for

  π(ℓ) ∝ g(ℓ) √E[e² | ℓ]

by the Cauchy–Schwarz inequality. A histogram in ℓ keeps a running mean of (g e)². It is a pytree,
so it works in jit and scan and can be stored in a checkpoint. `learned` and `uncertainty` are
choices for `training.adaptive_loss`, which keeps their histograms in the state of a training.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax._values import count, is_traced, number
from langevin_jax.objectives.densities import Density, logit_normal_s, noise_range
from langevin_jax.objectives.weights import Weight, flow_matching

__all__ = [
    "Histogram", "LearnedDensity", "LearnedWeight", "base", "by_error", "histogram", "learned",
    "observe", "uncertainty",
]

# The number of errors that a bin must have before `uncertainty` uses its own mean.
_FEWEST = 10.0


class Histogram(NamedTuple):
  """Running sums in equal bins of ℓ.

  Attributes:
    low, width: the range [low, low + width] of ℓ, scalars.
    mass: (bins,), the discounted number of errors in each bin.
    squares: (bins,), the discounted sum of their squares.
  """

  low: jax.Array
  width: jax.Array
  mass: jax.Array
  squares: jax.Array


def histogram(
    bins: int = 64, *, rho_min: float | jax.Array = 0.002, rho_max: float | jax.Array = 80.0
) -> Histogram:
  """An empty histogram over ℓ ∈ [−log ρ_max, −log ρ_min].

  Raises:
    ValueError: bins < 1, or not 0 < rho_min < rho_max.
  """
  bins = count("bins", bins)
  low, width = noise_range(rho_min, rho_max)
  return Histogram(low, width, jnp.zeros(bins), jnp.zeros(bins))


def observe(
    state: Histogram, ells: jax.Array, errors: jax.Array, *, memory: float = 200.0
) -> Histogram:
  """Adds a batch of errors; earlier batches are discounted by e^{−1/memory}.

  Args:
    state: the histogram.
    ells: the half log-SNRs, (n,).
    errors: (n,), the integrand against dℓ: `eps_error` for maximum likelihood, g · `eps_error` for
      another product g = π w. Errors that are not finite are ignored.
    memory: the time constant of the discount, in batches.

  Returns:
    The new histogram.

  Raises:
    ValueError: memory ≤ 0.
  """
  known = number("memory", memory, may_be_traced=True)
  if not (is_traced(known) or known > 0.0):
    raise ValueError(f"memory must be positive, got {memory} batches")
  bins = len(state.mass)
  place = jnp.clip(_bin(state, ells), 0, bins - 1)
  squared = errors.astype(state.squares.dtype) ** 2
  # An overflow to ∞ would never be forgotten.
  known = jnp.isfinite(squared)
  # A product with one-hot bins: on a GPU the sums of a scatter are not bitwise reproducible.
  member = jax.nn.one_hot(place, bins, axis=0, dtype=squared.dtype)
  add = lambda old, new: jnp.exp(-1.0 / memory) * old + jnp.matmul(
      member, new.astype(old.dtype), precision="highest")
  return state._replace(
      mass=add(state.mass, known),
      squares=add(state.squares, jnp.where(known, squared, 0.0)))


def by_error(state: Histogram, *, floor: float = 0.1) -> Density:
  """π(ℓ) ∝ √E[e² | ℓ], constant in each bin, mixed with the uniform density.

  An estimate that divides by π is unbiased for any contents of the histogram. A bin without data
  takes the mean of the others; an empty histogram gives the uniform density.

  Args:
    state: the histogram.
    floor: weight of the uniform density in the mixture. It bounds 1/π by width/floor.

  Returns:
    The density, without a gradient to the histogram.

  Raises:
    ValueError: floor outside (0, 1].
  """
  known = number("floor", floor, may_be_traced=True)
  if not (is_traced(known) or 0.0 < known <= 1.0):
    raise ValueError(f"floor must lie in (0, 1], got {floor}")
  bins = len(state.mass)
  seen = state.mass > 0.0
  root = jnp.sqrt(jnp.where(seen, state.squares / jnp.where(seen, state.mass, 1.0), 0.0))
  mean = jnp.sum(root) / jnp.maximum(jnp.sum(seen.astype(root.dtype)), 1.0)
  root = jnp.where(seen, root, mean)
  total = jnp.sum(root)
  # Uniform if all errors are exactly zero.
  share = jnp.where(total > 0.0, root / jnp.where(total > 0.0, total, 1.0), 1.0 / bins)
  share = jax.lax.stop_gradient((1.0 - floor) * share + floor / bins)
  below = jnp.concatenate([jnp.zeros(1, share.dtype), jnp.cumsum(share)])
  below = below / below[-1]

  def quantile(u):
    i = jnp.clip(jnp.searchsorted(below, u, side="right") - 1, 0, bins - 1)
    inside = jnp.clip((u - below[i]) / (below[i + 1] - below[i]), 0.0, 1.0)
    return state.low + state.width / bins * (i.astype(inside.dtype) + inside)

  def density(ell):
    i = _bin(state, ell)
    outside = (ell < state.low) | (ell > state.low + state.width)
    return jnp.where(outside, 0.0, share[jnp.clip(i, 0, bins - 1)] * bins / state.width)

  return Density(quantile, density)


class LearnedDensity(NamedTuple):
  """A density with a state that training updates.

  Attributes:
    base: π₀, which defines the objective π₀ w together with the weight.
    init: the state before the first batch, a pytree of arrays.
    at: state → the density π that levels are drawn from, on the range of π₀.
    observe: (state, half log-SNRs (n,), π₀ w e (n,)) → state.
  """

  base: Density
  init: Any
  at: Callable[[Any], Density]
  observe: Callable[[Any, jax.Array, jax.Array], Any]


class LearnedWeight(NamedTuple):
  """A weight with a state that training updates.

  Attributes:
    base: w₀.
    init: the state before the first batch, a pytree of arrays.
    at: state → the weight w.
    observe: (state, half log-SNRs (n,), w₀ e (n,)) → state.
  """

  base: Weight
  init: Any
  at: Callable[[Any], Weight]
  observe: Callable[[Any, jax.Array, jax.Array], Any]


def base(choice: Any) -> Any:
  """The density π₀ or weight w₀ of a learned one; another density or weight is its own base."""
  return choice.base if isinstance(choice, (LearnedDensity, LearnedWeight)) else choice


def learned(
    base: Density | None = None, *, bins: int = 64, memory: float = 200.0, floor: float = 0.1
) -> LearnedDensity:
  """The density of least variance, π ∝ π₀ w √E[e² | ℓ], learned from the errors (`by_error`).

    E_{ℓ ~ π} (π₀/π)(ℓ) w(ℓ) e = E_{ℓ ~ π₀} w(ℓ) e   for every π

  The objective is that of the base density: what is learned changes the variance of the loss and of
  its gradient, and not their means. π has the least variance of the loss of a single draw. That is
  not the least variance of the gradient, which depends on the network.

  Args:
    base: π₀; `logit_normal_s()` if None.
    bins: number of bins, equal in ℓ over the range of π₀.
    memory: time constant of the running means, in batches.
    floor: share of the draws that are uniform in ℓ.

  Raises:
    ValueError: a base that is no density, bins < 1, memory ≤ 0 or floor outside (0, 1].
  """
  base = logit_normal_s() if base is None else base
  if not isinstance(base, Density):
    raise ValueError(f"base must be a density that is not learned, got {type(base).__name__}")
  empty = _over_range(base, bins)
  observe(empty, jnp.zeros(1), jnp.zeros(1), memory=memory)
  by_error(empty, floor=floor)

  def at(state):
    density = by_error(state, floor=floor)
    # An end that rounding has moved is inside.
    inside = lambda ell: jnp.clip(ell, state.low, state.low + state.width)
    return Density(density.quantile, lambda ell: density.density(inside(ell)))

  return LearnedDensity(base, empty, at, lambda state, ells, values: observe(
      state, ells, values, memory=memory))


def uncertainty(
    density: Density, weight: Weight | None = None, *, bins: int = 64, memory: float = 200.0
) -> LearnedWeight:
  """The weight w = w₀ e^{−u} with a learned uncertainty u(ℓ): all levels have the same loss, 1.

    min over u of  E_{ℓ ~ π₀} [e^{−u(ℓ)} w₀(ℓ) e + u(ℓ)]   is at   u(ℓ) = log E[w₀ e | ℓ]

  u is constant in each of equal bins of ℓ, where the minimum is the logarithm of a running mean. So
  no network and no learning rate are needed for it. A bin with fewer than 10 errors takes the mean
  of all.

  It changes the objective: at this u the gradient is that of E_{ℓ ~ π₀} log E[e | ℓ], a product π w
  of π₀/E[e | ℓ], in which w₀ cancels.

  Args:
    density: π₀, which gives the range of ℓ.
    weight: w₀; `flow_matching` if None. It is the weight until errors are known.
    bins: number of bins. memory: time constant of the running means, in batches.

  Raises:
    ValueError: bins < 1 or memory ≤ 0.

  Reference:
    Kendall, Gal & Cipolla 2018, §3; Karras et al. 2024, "Analyzing and Improving the Training
    Dynamics of Diffusion Models", where u is a small network of ℓ.
  """
  weight = flow_matching(density) if weight is None else weight
  if not callable(weight):
    raise ValueError(f"weight must be a weight that is not learned, got {type(weight).__name__}")
  empty = _over_range(density, bins)
  observe(empty, jnp.zeros(1), jnp.zeros(1), memory=memory)

  def at(state):
    # `squares` holds the sums of w₀ e.
    overall = jnp.sum(state.squares) / jnp.maximum(jnp.sum(state.mass), 1.0)
    overall = jnp.where(overall > 0.0, overall, 1.0)
    own = (state.mass >= _FEWEST) & (state.squares > 0.0)
    mean = jnp.where(own, state.squares / jnp.where(own, state.mass, 1.0), overall)
    mean = jax.lax.stop_gradient(mean)
    return lambda ell: weight(ell) / mean[jnp.clip(_bin(state, ell), 0, bins - 1)]

  return LearnedWeight(weight, empty, at, lambda state, ells, values: observe(
      state, ells, jnp.sqrt(values), memory=memory))


def _over_range(density: Density, bins: int) -> Histogram:
  """An empty histogram over the levels that `stratified` draws from a density."""
  tiny = jnp.finfo(jnp.result_type(float)).eps
  low, high = (density.quantile(jnp.asarray(u, float)) for u in (tiny, 1.0 - tiny))
  return histogram(bins, rho_min=jnp.exp(-high), rho_max=jnp.exp(-low))


def _bin(state: Histogram, ell: jax.Array) -> jax.Array:
  """The index of the bin of ℓ, outside 0 … bins − 1 for ℓ outside the range."""
  return jnp.floor((ell - state.low) / state.width * len(state.mass)).astype(int)
