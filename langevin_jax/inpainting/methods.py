"""Inpainting methods: they turn a sampling method into one that keeps a known part.

An inpainting method is a function (outer, known, mask) → `samplers.Method`. At each level it first
changes the state. Then the method `outer` steps to the next level with the model
D̂ = m y₀ + (1 − m) D, where m = 1 marks the known coordinates and y₀ is their value.

| | change of the state at a level (α, σ) | model calls per level |
|---|---|---|
| `replacement` (Song et al. 2021, appendix I.2) | known ← α y₀ + σ ξ | 1 |
| `ddnm` (Wang et al. 2023, for A = m) | nothing | 1 |
| `repaint` (Lugmayr et al. 2022) | step and noise back, r − 1 times | r |
| `langevin` | n Langevin steps of the unknown, known ← α y₀ + σ ξ in each | n + 1 |
| `lanpaint` (Zheng et al. 2025) | n iterations of guided Langevin dynamics | n + 1 |

All methods work at unit scale, so along every path, and with any outer method. A multistep or UniPC
method of x₀ would mistake the change of the state for a derivative of D: on a Gaussian and the
default grid LanPaint-20 would have a KL of .08 instead of .002, and more iterations would increase
it. Methods that change the state therefore replace it by DDIM with its η.

Replacement, DDNM and RePaint with one pass are not consistent: with more steps they do not converge
to the conditional law. Inner iterations do, as far as they mix within a mode. If modes separate at
a higher noise level than the one at which the known part selects among them, no Langevin dynamics
crosses between them. There RePaint is as accurate as LanPaint at equal cost, or more.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values
from langevin_jax.inpainting import _dynamics
from langevin_jax.inpainting._dynamics import KnownPart
from langevin_jax.samplers.levels import Level, Method

__all__ = ["Inpainter", "ddnm", "langevin", "lanpaint", "repaint", "replacement"]

# (outer, known, mask) → Method.
Inpainter = Callable[[Method, jax.Array, jax.Array], Method]
# (draw, x, model, level, part) → x: the change of the state at a level.
_Relax = Callable[[Callable, jax.Array, Callable, Level, KnownPart], jax.Array]


class _Numbers(NamedTuple):
  """The plan of a step: its first level, the plan of the outer method, and its last level."""

  level: Level
  outer: Any
  next_level: Level


@functools.lru_cache
def replacement() -> Inpainter:
  """Replaces the known part at each level by a new draw of α y₀ + σ ξ (Song et al. 2021)."""
  return _inpainter(lambda draw, x, model, level, part: _noised(draw(0), x, level, part))


@functools.lru_cache
def ddnm() -> Inpainter:
  """Changes D only: D̂ = A⁺y + (1 − A⁺A) D with A = m, the null-space projection."""
  return _inpainter(lambda draw, x, model, level, part: x, changes_state=False)


@_programs.memoised
def langevin(inner_steps: int = 10, *, step_size: float = 0.15) -> Inpainter:
  """Langevin dynamics of the unknown part; the known part is replaced in each iteration.

    x ← x + Λ σ² s + σ √(2Λ) ξ where unknown,   x ← α y₀ + σ ξ where known

  Args:
    inner_steps: n, iterations per level.
    step_size: Λ, Langevin time of an iteration in units of σ²; unstable for Λ > 2.

  Raises:
    ValueError: inner_steps < 1 or step_size ≤ 0.
  """
  inner_steps, step_size = _inner(inner_steps, step_size)

  def relax(draw, x, model, level, part):
    def body(x, i):
      xi = jax.vmap(draw)(2 * i + jnp.arange(2))
      x = _noised(xi[0], x, level, part)
      moved = x + step_size * (level.alpha * model(x, level) - x)
      moved += level.sigma * np.sqrt(2.0 * step_size) * xi[1]
      return jnp.where(part.mask, x, moved), None

    x, _ = _programs.scan(body, x, jnp.arange(inner_steps))
    return _noised(draw(2 * inner_steps), x, level, part)

  return _inpainter(relax)


@_programs.memoised
def lanpaint(
    inner_steps: int = 10, guidance: float = 8.0, *, step_size: float = 0.15,
    underdamped: bool = True, friction: float = 15.0,
) -> Inpainter:
  """LanPaint: n iterations of guided Langevin dynamics at each level (Zheng et al. 2025).

  The dynamics pulls the known part towards y₀ with the stiffness 1 + G
  (theory.md#conditional-sampling).

  Args:
    inner_steps: n, iterations per level.
    guidance: G > −1.
    step_size: Λ, Langevin time of an iteration in units of σ².
    underdamped: whether the dynamics has a momentum.
    friction: √γ, where γ is the damping of the momentum in units of 1/σ². γ → ∞ is overdamped.

  Raises:
    ValueError: inner_steps < 1, guidance ≤ −1, or a step_size or friction that is not positive.
  """
  inner_steps, step_size = _inner(inner_steps, step_size)
  guidance = _values.number("guidance", guidance)
  friction = _values.number("friction", friction)
  if not guidance > -1.0:
    raise ValueError(f"guidance must be > -1 to pull towards the known values, got {guidance}")
  if not friction > 0.0:
    raise ValueError(f"friction must be positive, got {friction}")
  dynamics = _dynamics.plan(inner_steps, guidance, step_size, friction if underdamped else None)

  def relax(draw, x, model, level, part):
    x = _noised(draw(0), x, level, part)
    return _dynamics.iterate(draw, x, lambda x: model(x, level), level, part, dynamics)

  return _inpainter(relax)


@_programs.memoised
def repaint(resamples: int = 10) -> Inpainter:
  """Takes each step `resamples` times, with the forward kernel back to its start in between.

  The known part is replaced before each pass. The outer method should be stochastic, such as
  `samplers.ddim(1.0)` (Lugmayr et al. 2022).

  Args:
    resamples: r, passes per step.

  Raises:
    ValueError: resamples < 1.
  """
  resamples = _values.count("resamples", resamples)

  def inpainter(outer, known, mask):
    _check_outer(outer)
    outer, part = outer.without_history or outer, _known_part(known, mask)

    def step(draw, x, carry, model, n):
      level, ahead = n.level, n.next_level
      back = level.alpha / ahead.alpha
      # σ² − (back σ′)² = σ² (1 − e^{−2h}), positive for h > 0.
      r = back * ahead.sigma / level.sigma
      noise = level.sigma * jnp.sqrt((1.0 - r) * (1.0 + r))

      def body(state, u):
        x_s, *_ = state
        xi = jax.vmap(draw)(2 * (2 * u + jnp.arange(2)) + 1)
        again = jnp.where(u == resamples - 1, x, back * x_s + noise * xi[0])
        again = _noised(xi[1], again, level, part)
        return outer.step(lambda i: draw(2 * (i * resamples + u)), again, carry,
                          _substituted(model, part), n.outer), None

      passes = jnp.arange(resamples - 1, -1, -1)
      (x_s, denoised, carry), _ = _programs.scan(body, (x, x, carry), passes)
      return _with_known(x_s, ahead, part), denoised, carry

    return _method(outer, step)

  return inpainter


def _inpainter(relax: _Relax, *, changes_state: bool = True) -> Inpainter:
  """The inpainting method that applies `relax` at each level, then a step of the outer method."""
  def inpainter(outer, known, mask):
    _check_outer(outer)
    outer = (outer.without_history if changes_state else None) or outer
    part = _known_part(known, mask)

    def step(draw, x, carry, model, n):
      # `relax` uses the odd draws, the outer method the even ones.
      x = relax(lambda i: draw(2 * i + 1), x, model, n.level, part)
      x_s, denoised, carry = outer.step(
          lambda i: draw(2 * i), x, carry, _substituted(model, part), n.outer)
      return _with_known(x_s, n.next_level, part), denoised, carry

    return _method(outer, step)

  return inpainter


def _method(outer: Method, step: Callable) -> Method:
  """A method with the plan, carry and stochasticity of `outer` and another step."""
  def plan(levels, path):
    return _Numbers(Level(*(v[:-1] for v in levels)), outer.plan(levels, path),
                    Level(*(v[1:] for v in levels)))

  return Method(plan, outer.init, step, outer.stochasticity, draws=True)


def _known_part(known: jax.Array, mask: jax.Array) -> KnownPart:
  """The known part with 0 where unknown, since `known` may be NaN there."""
  if jnp.issubdtype(jnp.result_type(mask), jnp.inexact):
    raise ValueError("mask must be booleans, True where the values are known, got "
                     f"{jnp.result_type(mask)}")
  return KnownPart(jnp.where(mask, known, 0.0), mask)


def _noised(xi: jax.Array, x: jax.Array, level: Level, part: KnownPart) -> jax.Array:
  """x with α y₀ + σ ξ in the known part."""
  return jnp.where(part.mask, level.alpha * part.value + level.sigma * xi, x)


def _substituted(model: Callable, part: KnownPart) -> Callable:
  """The model D̂ = m y₀ + (1 − m) D."""
  return lambda x, *levels: jnp.where(part.mask, part.value, model(x, *levels))


def _with_known(x_s: jax.Array, level: Level, part: KnownPart) -> jax.Array:
  """x_s with bitwise the known values at the clean end, for any outer method."""
  return jnp.where(part.mask & (level.sigma == 0.0), part.value, x_s)


def _check_outer(outer: Any) -> None:
  if not isinstance(outer, Method):
    raise ValueError("an inpainter is called with a sampling method, such as "
                     f"lanpaint()(samplers.heun(), known, mask), got {outer!r}")


def _inner(inner_steps: int, step_size: float) -> tuple[int, float]:
  step_size = _values.number("step_size", step_size)
  inner_steps = _values.count("inner_steps", inner_steps)
  if not step_size > 0.0:
    raise ValueError(f"step_size must be positive, got {step_size}")
  return inner_steps, step_size
