"""Inpainting methods: each makes, of any sampling method, one that ends with the known part known.

A method here is a function (outer, known, mask) → `samplers.Method`: at every level it works on the
state, then lets `outer` step to the next level with the model D̂ = m y₀ + (1 − m) D, m = 1 where
known. What it is called with decides how many calls of the model a level costs:

| | at a level (α, σ) | calls |
|---|---|---|
| `replacement` (Song et al. 2021, appendix I.2) | known ← α y₀ + σ ξ | 1 |
| `ddnm` (Wang et al. 2023, for A = m) | nothing | 1 |
| `repaint` (Lugmayr et al. 2022) | step and noise back, r − 1 times | r |
| `langevin` | n Langevin steps of the unknown, known ← α y₀ + σ ξ in each | n + 1 |
| `lanpaint` (Zheng et al. 2025) | n iterations of guided Langevin dynamics | n + 1 |

All run at unit scale, so every path does. Any outer method will do; one that remembers D, as
multistep and UniPC of x₀ do, would take the pull of the known part for a derivative (on a Gaussian
and the default grid LanPaint-20 is left with a KL of .08 in the place of .002, and more iterations
make it worse) and runs as DDIM of its η wherever the state is moved.

Replacement, DDNM and RePaint with one pass are not consistent: more steps do not bring them to the
conditional law. Inner iterations do, for as far as they mix within a mode. Where modes part at a
noise level above the one that tells them apart, Langevin dynamics of any kind is too late to cross,
and RePaint is as good at equal cost, or better.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs
from langevin_jax.inpainting import dynamics
from langevin_jax.samplers.levels import Level, Method

Inpainter = Callable[[Method, jax.Array, jax.Array], Method]


class _Numbers(NamedTuple):
  """A step's level, what the outer method planned for it, and the level where it ends."""

  level: Level
  outer: Any
  next_level: Level


@functools.lru_cache
def replacement() -> Inpainter:
  """The known part is drawn afresh at every level, given x₀ alone: what it says of x is lost."""
  return _inpainter(lambda draw, x, model, level, known, mask: _noised(
      draw(0), x, level, known, mask))


@functools.lru_cache
def ddnm() -> Inpainter:
  """Only D is corrected, D̂ = A⁺y + (1 − A⁺A) D with A = m (the null-space projection)."""
  return _inpainter(lambda draw, x, model, level, known, mask: x, moves=False)


@functools.lru_cache
def langevin(inner_steps: int = 10, *, step_size: float = 0.15) -> Inpainter:
  """Plain Langevin dynamics of the unknown part, its known part replaced at every iteration.

    x ← x + Λ σ² s + σ √(2Λ) ξ where unknown,   x ← α y₀ + σ ξ where known

  Args:
    inner_steps: n. step_size: Λ, Langevin time in units of σ²; unstable for Λ > 2.

  Raises:
    ValueError: inner_steps < 1 or step_size ≤ 0.
  """
  _check_inner(inner_steps, step_size)

  def relax(draw, x, model, level, known, mask):
    def body(x, i):
      xi = jax.vmap(draw)(2 * i + jnp.arange(2))
      x = _noised(xi[0], x, level, known, mask)
      moved = x + step_size * (level.alpha * model(x, level) - x)
      moved += level.sigma * np.sqrt(2.0 * step_size) * xi[1]
      return jnp.where(mask, x, moved), None

    x, _ = _programs.scan(body, x, jnp.arange(inner_steps))
    return _noised(draw(2 * inner_steps), x, level, known, mask)

  return _inpainter(relax)


@functools.lru_cache
def lanpaint(
    inner_steps: int = 10, guidance: float = 8.0, *, step_size: float = 0.15,
    underdamped: bool = True, friction: float = 15.0,
) -> Inpainter:
  """LanPaint: n iterations of guided Langevin dynamics at every level; see `dynamics`.

  Args:
    inner_steps: n. guidance: G > −1, of the known part; 0 holds it by y₀ alone.
    step_size: Λ, Langevin time of an iteration in units of σ². underdamped: with momentum.
    friction: √γ, the momentum's damping being γ = friction² in the same units; γ → ∞ is overdamped.

  Raises:
    ValueError: inner_steps < 1, guidance ≤ −1, or a step_size or friction that is not positive.
  """
  _check_inner(inner_steps, step_size)
  if not guidance > -1.0:
    raise ValueError(f"guidance must be > -1 to pull towards the known values, got {guidance}")
  if not friction > 0.0:
    raise ValueError(f"friction must be positive, got {friction}")
  numbers = dynamics.inner_numbers(
      inner_steps, guidance, step_size, friction if underdamped else None)

  def relax(draw, x, model, level, known, mask):
    x = _noised(draw(0), x, level, known, mask)
    return dynamics.iterate(draw, x, lambda x: model(x, level), level.alpha, level.sigma,
                            known, mask, guidance, friction, numbers)

  return _inpainter(relax)


@functools.lru_cache
def repaint(resamples: int = 10) -> Inpainter:
  """Every step is taken `resamples` times, the state noised back by the exact kernel in between.

  The known part is replaced before each. `outer` should take noise: `samplers.ddim(1.)`.

  Raises:
    ValueError: resamples < 1.
  """
  if resamples < 1:
    raise ValueError(f"resamples must be at least 1, got {resamples}")

  def make(outer, known, mask):
    outer = outer.without_history or outer

    def step(draw, x, carry, model, n):
      level, ahead = n.level, n.next_level
      back = level.alpha / ahead.alpha
      # σ² − (back σ′)² = σ² (1 − e^{−2h}), which vanishes only with the step.
      r = back * ahead.sigma / level.sigma
      noise = level.sigma * jnp.sqrt((1.0 - r) * (1.0 + r))

      def body(state, u):
        x_s, *_ = state
        xi = jax.vmap(draw)(2 * (2 * u + jnp.arange(2)) + 1)
        again = jnp.where(u == resamples - 1, x, back * x_s + noise * xi[0])
        again = _noised(xi[1], again, level, known, mask)
        return outer.step(lambda i: draw(2 * (i * resamples + u)), again, carry,
                          _substituted(model, known, mask), n.outer), None

      passes = jnp.arange(resamples - 1, -1, -1)
      (x_s, denoised, carry), _ = _programs.scan(body, (x, x, carry), passes)
      return _ended(x_s, ahead, known, mask), denoised, carry

    return Method(
        functools.partial(_plan, outer), outer.init, step, outer.stochasticity, draws=True)

  return _with_clean_known(make)


def _inpainter(relax: Callable, *, moves: bool = True) -> Inpainter:
  """`relax(draw, x, model, level, known, mask)` at each level, then a step of the outer method."""
  def make(outer, known, mask):
    outer = (outer.without_history if moves else None) or outer

    def step(draw, x, carry, model, n):
      # Odd draws are this method's, even ones the outer method's, however many either takes.
      x = relax(lambda i: draw(2 * i + 1), x, model, n.level, known, mask)
      x_s, denoised, carry = outer.step(
          lambda i: draw(2 * i), x, carry, _substituted(model, known, mask), n.outer)
      return _ended(x_s, n.next_level, known, mask), denoised, carry

    return Method(
        functools.partial(_plan, outer), outer.init, step, outer.stochasticity, draws=True)

  return _with_clean_known(make)


def _with_clean_known(make: Inpainter) -> Inpainter:
  """Values where nothing is known are not looked at: they may be NaN."""
  return lambda outer, known, mask: make(outer, jnp.where(mask, known, 0.0), mask)


def _plan(outer, levels, path):
  return _Numbers(Level(*(v[:-1] for v in levels)), outer.plan(levels, path),
                  Level(*(v[1:] for v in levels)))


def _noised(xi, x, level, known, mask):
  """The known part drawn at the level: α y₀ + σ ξ."""
  return jnp.where(mask, level.alpha * known + level.sigma * xi, x)


def _substituted(model, known, mask):
  """D̂ = m y₀ + (1 − m) D."""
  return lambda x, level: jnp.where(mask, known, model(x, level))


def _ended(x_s, level, known, mask):
  """At the clean end the known part is what is known, to the last bit, for any outer method."""
  return jnp.where(mask & (level.sigma == 0.0), known, x_s)


def _check_inner(inner_steps: int, step_size: float) -> None:
  if inner_steps < 1:
    raise ValueError(f"inner_steps must be at least 1, got {inner_steps}")
  if not step_size > 0.0:
    raise ValueError(f"step_size must be positive, got {step_size}")
