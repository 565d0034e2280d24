"""Methods with identity steps at a level: predictor–corrector, and annealed Langevin dynamics.

A Langevin step at a level brings the law of a state closer to the law of that level. Between the
steps of any method it makes a predictor–corrector. Alone, with z = x/α unchanged from one level to
the next, it is the annealed Langevin dynamics of the first score models.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values
from langevin_jax.paths import Path
from langevin_jax.samplers.correctors import Corrector, euler
from langevin_jax.samplers.levels import Draw, Level, Method, Model, steps_of

__all__ = ["annealed_langevin", "predictor_corrector"]

# Draws reserved for one identity step.
_DRAWS = 4


class _Numbers(NamedTuple):
  """Of n steps: where they begin, α where they end, and the numbers of the predictor.

  due: whether a step begins with corrections. first: whether they are the first of the run.
  """

  level: Level
  alpha_s: Any
  due: Any
  first: Any
  inner: Any


class _Carry(NamedTuple):
  """Between two steps.

  history: of the predictor. denoised: the last D.
  kept: the corrector's carry, () where it begins anew at each level.
  shift: S, the sum of the jumps of D by corrections, () for a predictor without history.
  """

  history: Any
  denoised: Any
  kept: Any
  shift: Any


@_programs.memoised
def predictor_corrector(
    predictor: Method, corrector: Corrector, corrections: int = 1
) -> Method:
  """`corrections` identity steps at each level before the predictor's step (Song et al. 2021).

  Each costs one call of the network. Of n levels n − 1 are corrected: the first holds pure noise.
  There is nothing to correct at the clean end.

  With an exact score, more steps of a second-order predictor gain more than corrections at equal
  calls. A first-order predictor (DDIM, DDPM) gains more from `baoab` from about 40 calls on, never
  from `exact`.

  A predictor with history sees x − αS and D − S, where S is the sum of the jumps of D by the
  corrections, as if the data had been moved by −S. Otherwise its differences of D would contain the
  jumps, and multistep(2) would be of order 1.

  Args:
    predictor: any method that continues from the state it is given.
    corrector: `exact`, `euler`, `midpoint`, `baoab`, or your own `Corrector`.
    corrections: identity steps at each level, ≥ 1.

  Raises:
    ValueError: corrections < 1, or an argument of the wrong kind.
  """
  corrections = _values.count("corrections", corrections)
  if not isinstance(predictor, Method) or not isinstance(corrector, Corrector):
    raise ValueError("predictor_corrector takes a method and a corrector, such as samplers.ddim() "
                     f"and samplers.correctors.exact() (called), got {predictor!r} and "
                     f"{corrector!r}")
  keeps = corrector.settle is not None

  def plan(levels: Level, path: Path) -> _Numbers:
    inner = predictor.plan(levels, path)
    here, after = steps_of(levels)
    index = np.arange(len(levels.t) - 1)
    return _Numbers(here, after.alpha, index > 0, index == 1, inner)

  def init(x):
    zero, history = jnp.zeros_like(x), predictor.init(x)
    kept = _empty_carry(corrector, x) if keeps else ()
    return _Carry(history, zero, kept, zero if jax.tree.leaves(history) else ())

  def correct(draw, x, carry: _Carry, model, n: _Numbers):
    """(x, the first D, what is kept) after the corrections at a level."""
    start = _begin(draw, x, carry.denoised, n.level, corrector)
    if keeps:
      start = jax.tree.map(lambda new, old: jnp.where(n.first, new, old), start, carry.kept)
    end = _identity_steps(draw, x, start, model, n.level, corrector, corrections)
    return end.x, end.first, end.carry if keeps else ()

  def step(draw, x, carry: _Carry, model, n: _Numbers):
    corrected = lambda x, denoised, kept: correct(
        draw, x, carry._replace(denoised=denoised, kept=kept), model, n)
    start = _values.varying_as(
        (x, carry.denoised, carry.kept), lambda start: corrected(*start))
    x, before, kept = jax.lax.cond(n.due, corrected, lambda *start: start, *start)
    # Even draws are the predictor's, the 0th among them; odd ones are the corrector's.
    even = lambda i: draw(2 * i)
    if jax.tree.leaves(carry.history):
      here = model(x, n.level)
      shift = carry.shift + jnp.where(n.due, here - before, 0.0)
      x_s, denoised, history = predictor.step(
          even, x - n.level.alpha * shift, carry.history, _ShiftedModel(model, shift, here),
          n.inner)
      x_s, denoised = x_s + n.alpha_s * shift, denoised + shift
    else:
      shift = carry.shift
      x_s, denoised, history = predictor.step(even, x, carry.history, model, n.inner)
    if corrector.settle is not None:
      kept = corrector.settle(n.level, kept, _score(denoised, x, n.level))
    return x_s, denoised, _Carry(history, denoised, kept, shift)

  again = lambda method: predictor_corrector(method, corrector, corrections)
  plain, for_run = predictor.without_history, predictor.for_run
  return Method(plan, init, step, predictor.stochasticity, plain and again(plain), draws=True,
                for_run=for_run and (lambda n: again(for_run(n))))


class _ShiftedModel:
  """The model of data moved by −S: D(x + αS) − S. Its first call is known and costs nothing."""

  def __init__(self, model: Model, shift: jax.Array, first: jax.Array):
    self._model, self._shift, self._first = model, shift, first

  def __call__(self, x: jax.Array, level: Level) -> jax.Array:
    first, self._first = self._first, None
    denoised = self._model(x + level.alpha * self._shift, level) if first is None else first
    return denoised - self._shift


class _Held(NamedTuple):
  """Of n steps: their level, x′ = a x after it, and whether it is the last, which returns D."""

  level: Level
  a: Any
  last: Any


@_programs.memoised
def annealed_langevin(corrector: Corrector | None = None, corrections: int = 100) -> Method:
  """Annealed Langevin dynamics (Song & Ermon 2019, algorithm 1): Langevin steps, no predictor.

    for each level σ_i:
      repeat `corrections` times:  x ← x + ½ α_i s(x) + √α_i ξ,   α_i = ε σ_i²/σ_L²

  and z = x/α is unchanged from one level to the next. That step is `euler(ε/(2 σ_L²))`: the same Λ
  at every level. Song & Ermon take 100 steps with ε = 2e-5 and σ_L = .01, so Λ = .1, at ten levels
  from σ = 1. They end there; here the last level is followed by D. Calls: n · corrections + 1.

  Args:
    corrector: defaults to `euler(0.1)`. corrections: identity steps at each level, ≥ 1.

  Raises:
    ValueError: corrections < 1.
  """
  corrections = _values.count("corrections", corrections)
  langevin_step = euler(0.1) if corrector is None else corrector

  def plan(levels: Level, path: Path) -> _Held:
    here, after = steps_of(levels)
    # At α = 0 there is no z: the noise is kept instead.
    pure = here.alpha == 0.0
    a = np.where(pure, after.sigma / here.sigma, after.alpha / np.where(pure, 1.0, here.alpha))
    return _Held(here, a, np.arange(len(a)) == len(a) - 1)

  def step(draw, x, denoised, model, n: _Held):
    start = _begin(draw, x, denoised, n.level, langevin_step)
    end = _identity_steps(draw, x, start, model, n.level, langevin_step, corrections)
    x, denoised = jax.lax.cond(
        n.last, lambda x, last: 2 * (model(x, n.level),), lambda x, last: (n.a * x, last),
        end.x, end.last)
    return x, denoised, denoised

  return Method(plan, jnp.zeros_like, step, draws=True)


class _Identity(NamedTuple):
  """State and carry after identity steps at a level, and the first and the last D on the way."""

  x: jax.Array
  carry: Any
  first: jax.Array
  last: jax.Array


class _RecordedScore:
  """x → s(x) at a level; `denoised` is the D of the latest call."""

  def __init__(self, model: Model, level: Level, denoised: jax.Array):
    self._model, self._level, self.denoised = model, level, denoised

  def __call__(self, x: jax.Array) -> jax.Array:
    self.denoised = self._model(x, self._level)
    return _score(self.denoised, x, self._level)


def _identity_steps(
    draw: Draw, x: jax.Array, carry: Any, model: Model, level: Level, corrector: Corrector,
    corrections: int,
) -> _Identity:
  """`corrections` identity steps at a level."""
  discretisation = corrector.at(level)

  def body(state: _Identity, k):
    score = _RecordedScore(model, level, state.last)
    x, carry = discretisation.step(_step_draws(draw, k), state.x, state.carry, score)
    first = jnp.where(k == 1, score.denoised, state.first)
    return _Identity(x, carry, first, score.denoised), None

  return _programs.scan(body, _Identity(x, carry, x, x), jnp.arange(1, corrections + 1))[0]


def _score(denoised: jax.Array, x: jax.Array, level: Level) -> jax.Array:
  return (level.alpha * denoised - x) / level.sigma**2


def _step_draws(draw: Draw, step: jax.Array | int) -> Draw:
  """The odd draws of an identity step, from 1 on; step 0 is what a carry begins with."""
  return lambda i: draw(2 * (_DRAWS * step + i) + 1)


def _begin(
    draw: Draw, x: jax.Array, denoised: jax.Array, level: Level, corrector: Corrector
) -> Any:
  """The corrector's carry at a level. The last D stands for that of this level: no call is made."""
  return corrector.at(level).init(_step_draws(draw, 0), x, lambda x: _score(denoised, x, level))


def _empty_carry(corrector: Corrector, x: jax.Array) -> Any:
  """Zeros in the shapes and types of what a corrector carries."""
  scalar = jax.ShapeDtypeStruct((), x.dtype)
  shapes = jax.eval_shape(lambda x, level: _begin(lambda i: x, x, x, level, corrector),
                          x, Level(scalar, scalar, scalar, scalar, scalar))
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
