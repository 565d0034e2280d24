"""Sampling on finite state spaces: one scan for every method, grid, path and model.

  sample(key, denoise, path, shape=…, method=…, grid=…)

`denoise(x_t, t)` returns log D up to a constant for each position, (..., L, V): the logits of a
network, or an exact model. A token that `absorbing` noise has not masked needs no answer: it is
known. Grids are those of `langevin_jax.samplers`, in ρ = (1 − α)/α.

| method | one step, D held fixed | calls |
|---|---|---|
| `step` | STEP(h, η²h): unmasking, discrete flow matching; η > 0 remasks | n |
| `ancestral` | the exact time reversal of one position | n |
| `tau_leaping` | a leap with the rates R_η | n |
| `unmask` | a given number of masked positions, at random or the most certain ones | n |
| `corrected` | a method, then STEP(0, Λ) with a new D | n (1 + corrections) |

Positions move independently within a step, so every method errs at first order in the step where
the positions depend on each other. `unmask("random")` with a grid of L steps moves one position at
a time and is exact (any-order sampling; Zheng et al. 2024 show that it is masked diffusion without
its waiting times). `unmask("confidence")` changes the law: it prefers likely examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values
from langevin_jax import samplers as continuous
from langevin_jax import splitting as continuous_splitting
from langevin_jax.discrete import paths, splitting
from langevin_jax.discrete.paths import Path
from langevin_jax.samplers import budgets, grids, noise
from langevin_jax.samplers.levels import place_levels

__all__ = ["Level", "Method", "Trajectory", "ancestral", "classifier_free", "corrected", "sample",
           "step", "tau_leaping", "trajectory", "unmask"]

Denoise = Callable[[jax.Array, jax.Array], jax.Array]


class Level(NamedTuple):
  """Noise levels, noise to data; scalars within a step, float64 arrays (n + 1,) in a plan.

  t: time of the clock. half_log_snr: ℓ = log(α/(1 − α)). alpha, sigma: α and 1 − α.
  """

  t: Any
  half_log_snr: Any
  alpha: Any
  sigma: Any


class Method(NamedTuple):
  """How a sampler moves.

  law(x, log_denoised, here, there, budget, path) → probabilities (..., L, S) of each position.
  move(key, x, log_denoised, here, there, path) → the next state; instead of `law` where positions
    do not move independently.
  stochasticity: η, which gives the budget Λ = ∫η² dℓ of a step.
  corrections, budget: STEP(0, budget) so many times after a step, each with a new D.
  """

  law: Callable | None = None
  move: Callable | None = None
  stochasticity: continuous_splitting.Stochasticity = 0.0
  corrections: int = 0
  budget: float = 0.0


class Trajectory(NamedTuple):
  """A reverse run of n steps. t: times (n + 1,). x: states (n + 1, ..., L)."""

  t: jax.Array
  x: jax.Array


def step(stochasticity: continuous_splitting.Stochasticity = 0.0) -> Method:
  """STEP(h, Λ) with Λ = η²h, or ∫η(ℓ)² dℓ of a function: `splitting.step`.

  η = 0 jumps least. η > 0 draws positions anew: under `absorbing` it masks some again.

  Raises:
    ValueError: when sampling, η < 0.
  """
  def law(x, log_denoised, here, there, budget, path):
    return splitting.step(x, jnp.exp(log_denoised), here.alpha, here.sigma, there.alpha,
                          there.sigma, budget, path)

  return Method(law=law, stochasticity=stochasticity)


def ancestral() -> Method:
  """The exact time reversal of one position, η = 1 (Austin et al. 2021): `splitting.posterior`."""
  def law(x, log_denoised, here, there, budget, path):
    return splitting.posterior(x, log_denoised, here.alpha, here.sigma, there.alpha, there.sigma,
                               path)

  return Method(law=law)


def tau_leaping(stochasticity: float = 1.0) -> Method:
  """A leap with the rates R_η at the start of the step (Campbell et al. 2022): `splitting.split`.

  Raises:
    ValueError: η < 0.
  """
  splitting.split(paths.uniform(2), stochasticity)

  def law(x, log_denoised, here, there, budget, path):
    rates = splitting.reverse_rates(
        *splitting.unit_rates(x, log_denoised, here.alpha, here.sigma, path), stochasticity)
    # A leap that begins at α = 0 is infinitely long; a long one does the same.
    tiny = jnp.finfo(rates.dtype).tiny ** 0.25
    return splitting.jump_law(x, rates * (there.alpha - here.alpha) / jnp.maximum(here.alpha, tiny))

  return Method(law=law)


def unmask(order: str = "random") -> Method:
  """Unmasks positions of `absorbing` noise so that the share 1 − α of them stays masked on average.

  Args:
    order: "random", or "confidence": first where the drawn token is most probable (Chang et al.
      2022). The latter does not sample the model's law.

  Raises:
    ValueError: another order; when sampling, a path without a mask token.
  """
  if order not in ("random", "confidence"):
    raise ValueError(f'order must be "random" or "confidence", got {order!r}')

  def move(key, x, log_denoised, here, there, path):
    if path.mask is None:
      raise ValueError("unmask needs the mask token of discrete.paths.absorbing")
    key_token, key_order = noise.split(key)
    masked = x == path.mask
    token = _categorical(key_token, log_denoised)
    if order == "random":
      score = _random(key_order, jax.random.uniform, x.shape)
    else:
      score = jnp.take_along_axis(log_denoised, token[..., None], axis=-1)[..., 0]
    # Ranks among the masked positions, best first.
    rank = jnp.argsort(jnp.argsort(jnp.where(masked, -score, jnp.inf), axis=-1), axis=-1)
    count = jnp.sum(masked, axis=-1, keepdims=True)
    # Rounded so that the mean is right: a rounded count is the next step's beginning.
    due = count * there.sigma / here.sigma
    whole = jnp.round(due)
    some = jnp.floor(due + _random(noise.fold(key_order, 1), jax.random.uniform, count.shape))
    left = jnp.where(jnp.abs(due - whole) <= 1e-5 * count, whole, some)
    return jnp.where(masked & (rank < count - left), token, x)

  return Method(move=move)


def corrected(method: Method, corrections: int = 1, *, budget: float = 0.5) -> Method:
  """`method` with identity steps STEP(0, Λ) after each of its steps, each with a new D.

  Args:
    corrections: their number. budget: Λ of each; ∞ draws every position anew.

  Raises:
    ValueError: corrections < 1, or budget not positive.
  """
  corrections = _values.count("corrections", corrections)
  budget = _values.number("budget", budget)
  if not budget > 0.0:
    raise ValueError(f"budget must be positive, got {budget}")
  return method._replace(corrections=corrections, budget=budget)


def sample(
    key: jax.Array, denoise: Denoise, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None, known: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
  """Draws samples by running a reverse process from noise to data.

  Args:
    key: consumed. One key, or an array of keys whose shape leads `shape`: then the noise of a
      sample depends on its own key alone.
    denoise: (x_t (..., L), t) → log D up to a constant for each position, (..., L, V).
    path: the forward process that the model was trained with.
    shape: of the result, (..., L).
    method: defaults to `step()`. grid: defaults to `samplers.uniform_time(64)`.
    known, mask: tokens, and True where they are given; both broadcast to `shape`. Under `absorbing`
      the known positions are never masked, and the law is the model's exact conditional one. Under
      `uniform` they are replaced by draws of the forward process at each level, which is biased.

  Returns:
    Tokens, `shape`.

  Raises:
    ValueError: an argument of the wrong kind, known tokens outside the vocabulary, or logits of
      another shape than (..., L, V).
  """
  return _draw(key, denoise, path, shape, method, grid, known, mask).x[-1]


def trajectory(
    key: jax.Array, denoise: Denoise, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None, known: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> Trajectory:
  """`sample` that returns every state. Arguments and errors are those of `sample`."""
  return _draw(key, denoise, path, shape, method, grid, known, mask, keep=True)


def _draw(key, denoise, path, shape, method, grid, known, mask, *, keep=False) -> Trajectory:
  method, levels, budget = plan(path, method, grid)
  if not callable(denoise):
    raise ValueError(f"denoise must be a function (x_t, t) → log D, got {denoise!r}")
  shape, key = tuple(shape), noise.threefry(key)
  if key.shape != shape[:key.ndim]:
    raise ValueError(f"keys of shape {key.shape} must lead the shape {shape} of the samples")
  if (known is None) != (mask is None):
    raise ValueError("give known tokens and their mask together")
  if known is not None:
    mask = jnp.broadcast_to(jnp.asarray(mask, bool), shape)
    known = jnp.where(mask, jnp.broadcast_to(jnp.asarray(known), shape), 0)
    paths.check_tokens(known, path)

  def run(levels, budget, key, known, mask):
    return _scan(key, denoise, path, shape, method, levels, budget, known, mask, keep)

  return _programs.call(run, levels, budget, key, known, mask)


def plan(path: Path, method: Method | None, grid: grids.Grid | None):
  """(method, levels (n + 1,), Λ (n,)): the defaults filled in, and the numbers of the run."""
  paths.check_path(path)
  method = step() if method is None else method
  if not isinstance(method, Method):
    raise ValueError("method must be a sampling method of discrete.samplers, such as step() "
                     f"(called), got {method!r}")
  rho = grids.levels_of(continuous.uniform_time(64) if grid is None else grid, path.clock)
  if np.any(np.diff(rho) >= 0.0):
    raise ValueError("a grid on a finite state space must fall at every step")
  continuous_splitting.checked(method.stochasticity, path.clock)
  placed = place_levels(rho, path.clock)
  budget = budgets.budgets(placed, method.stochasticity, path.clock).budget
  infinite = np.isinf(rho)
  sigma = np.where(infinite, 1.0, rho / (1.0 + np.where(infinite, 0.0, rho)))
  return method, Level(placed.t, placed.half_log_snr, 1.0 / (1.0 + rho), sigma), budget


def _scan(key, denoise, path, shape, method, levels, budget, known, mask, keep) -> Trajectory:
  cast = lambda v: jnp.asarray(v, jnp.result_type(float))
  levels, budget = jax.tree.map(cast, levels), cast(budget)

  def clamp(key, x, level):
    """The known positions at a level."""
    if known is None:
      return x
    noised = known if path.mask is not None else _resampled(key, known, level.alpha, path)
    return jnp.where(mask, noised, x)

  def denoised(x, level):
    logits = denoise(x, level.t)
    if logits.shape != (*shape, path.vocabulary) or not jnp.issubdtype(logits.dtype, jnp.floating):
      raise ValueError(f"denoise must return floats (..., L, V) = {(*shape, path.vocabulary)}, got "
                       f"{logits.dtype} {logits.shape}")
    return splitting.clean_law(x, cast(logits), level.alpha, level.sigma, path)

  def body(x, numbers):
    i, here, there, budget = numbers
    keys = [noise.fold(key, i * (method.corrections + 2) + j)
            for j in range(method.corrections + 2)]
    log_d = denoised(x, here)
    if method.move is not None:
      x = method.move(keys[0], x, log_d, here, there, path)
    else:
      x = _categorical(keys[0], jnp.log(method.law(x, log_d, here, there, budget, path)))
    x = clamp(keys[1], x, there)
    for j in range(method.corrections):
      law = splitting.step(x, jnp.exp(denoised(x, there)), there.alpha, there.sigma, there.alpha,
                           there.sigma, method.budget, path)
      moved = _categorical(keys[2 + j], jnp.log(law))
      # At the clean end no noise is left to correct.
      x = clamp(keys[1], jnp.where(there.sigma > 0.0, moved, x), there)
    return x, x if keep else None

  base = paths.base_law(path, jax.ShapeDtypeStruct(shape, int), budget.dtype)
  start = _categorical(noise.fold(key, 2**31 - 1), jnp.log(base))
  here, there = (jax.tree.map(lambda v, part=part: v[part], levels)
                 for part in (np.s_[:-1], np.s_[1:]))
  start = clamp(noise.fold(key, 2**31 - 2), start, jax.tree.map(lambda v: v[0], levels))
  x, states = _programs.scan(body, start, (jnp.arange(len(budget)), here, there, budget))
  states = jnp.concatenate([start[None], states]) if keep else x[None]
  return Trajectory(levels.t, states)


def _random(key: jax.Array, draw: Callable, shape: tuple[int, ...]) -> jax.Array:
  """draw(key, shape), with the noise of each sample from its own key where there are many."""
  if key.ndim:
    return jax.vmap(lambda key: _random(key, draw, shape[1:]))(key)
  return draw(key, shape)


def _categorical(key: jax.Array, logits: jax.Array) -> jax.Array:
  gumbel = _random(key, lambda k, s: jax.random.gumbel(k, s, logits.dtype), logits.shape)
  return jnp.argmax(logits + gumbel, axis=-1)


def _resampled(key: jax.Array, x: jax.Array, alpha: jax.Array, path: Path) -> jax.Array:
  law = paths.kernel(path, alpha)[x]
  return _categorical(key, jnp.log(law))


def classifier_free(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
  """log D₀ + w (log D₁ − log D₀), normalised for each position (Schiff et al. 2025).

  w = 1 is the conditional model and w = 0 the unconditional one. Products of the laws of single
  positions are not products of joint laws, so that for other w samples follow no simple law.

  Args:
    conditional, unconditional: (x_t, t) → logits.
    weight: w, finite.

  Raises:
    ValueError: a weight that is not finite.
  """
  known = _values.concrete(weight)
  if known is not None and (known.dtype.kind in "USO" or not np.all(np.isfinite(known))):
    raise ValueError(f"weight must be finite, got {weight}")

  def denoise(x, t):
    free = jax.nn.log_softmax(unconditional(x, t))
    given = jax.nn.log_softmax(conditional(x, t))
    return free + jnp.asarray(weight, free.dtype) * (given - free)

  return denoise
