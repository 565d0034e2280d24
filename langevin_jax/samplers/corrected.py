"""Methods with identity steps at a level: predictor–corrector, and annealed Langevin dynamics.

A Langevin step at a level brings a state whose law is off nearer to the law of that level. Between
the steps of any method it makes a predictor–corrector; alone, with z = x/α held from one level to
the next, the annealed Langevin dynamics with which score models began.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs
from langevin_jax.paths import Path
from langevin_jax.samplers.correctors import Corrector, euler
from langevin_jax.samplers.levels import Draw, Level, Method, Model, memoised, pick

# Draws set apart for one identity step.
_DRAWS = 4


class _Corrected(NamedTuple):
  """The levels where a step begins, which are `due` and `first` to be corrected, and the rest."""

  level: Level
  alpha_s: Any
  due: Any
  first: Any
  inner: Any


class _Carry(NamedTuple):
  """The predictor's history, the last D, what the corrector keeps, and the data's move S."""

  history: Any
  denoised: Any
  kept: Any
  shift: Any


@memoised
def predictor_corrector(
    predictor: Method, corrector: Corrector, corrections: int = 1
) -> Method:
  """`corrections` identity steps at each level that the predictor comes to (Song et al. 2021).

  One call of the network each, before the predictor's own at that level: n − 1 levels of n steps
  are corrected. The first holds pure noise, and at the clean end no noise is left to make a step.

  With an exact score, more steps of a second-order predictor buy more at equal calls. First-order
  ones (DDIM, DDPM) are overtaken from about 40 calls on by `baoab`, never by `exact`.

  A predictor with a history is shown states and D from which the jumps of D by the corrector, S in
  all, are taken away: x − αS and D − S, as if the data had been moved. Differences of a D that
  jumps would be no derivatives, and multistep(2) of order 1.

  Args:
    predictor: any method that goes on from the state it is given.
    corrector: `exact`, `euler`, `midpoint`, `baoab`, or a `Corrector` of your own.
    corrections: how many at a level, ≥ 1.

  Raises:
    ValueError: corrections < 1.
  """
  _check(corrections)
  if not isinstance(predictor, Method) or not isinstance(corrector, Corrector):
    raise ValueError("predictor_corrector takes a method and a corrector, such as samplers.ddim() "
                     f"and samplers.correctors.exact() (called), got {predictor!r} and "
                     f"{corrector!r}")

  def plan(levels: Level, path: Path) -> _Corrected:
    inner = predictor.plan(levels, path)
    count = np.arange(len(levels.t) - 1)
    return _Corrected(pick(levels, slice(-1)), levels.alpha[1:], count > 0, count == 1, inner)

  def init(x):
    zero, history = jnp.zeros_like(x), predictor.init(x)
    kept = () if corrector.settle is None else jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _carry_of(corrector, x))
    return _Carry(history, zero, kept, zero if jax.tree.leaves(history) else ())

  def step(draw, x, carry, model, n):
    history, denoised, kept, shift = carry

    def correct(x, kept):
      made = _begin(draw, x, denoised, n.level, corrector)
      if corrector.settle is not None:
        made = jax.tree.map(lambda made, kept: jnp.where(n.first, made, kept), made, kept)
      x, made, before, _ = _identity(draw, x, made, model, n.level, corrector, corrections)
      return x, before, () if corrector.settle is None else made

    start = _programs.varying_as((x, denoised, kept), lambda start: correct(start[0], start[2]))
    x, before, kept = jax.lax.cond(
        n.due, lambda x, _, kept: correct(x, kept), lambda *start: start, *start)
    corrected = x
    # The predictor keeps the even draws, its 0th among them; the odd ones are the corrector's.
    own = lambda i: draw(2 * i)
    if jax.tree.leaves(history):
      known = [model(x, n.level)]
      shift = shift + jnp.where(n.due, known[0] - before, 0.0)
      # Its first call is the one made here.
      moved = lambda x, level: (
          known.pop() if known else model(x + level.alpha * shift, level)) - shift
      x, denoised, history = predictor.step(
          own, x - n.level.alpha * shift, history, moved, n.inner)
      x, denoised = x + n.alpha_s * shift, denoised + shift
    else:
      x, denoised, history = predictor.step(own, x, history, model, n.inner)
    if corrector.settle is not None:
      kept = corrector.settle(n.level, kept, _score(denoised, corrected, n.level))
    return x, denoised, _Carry(history, denoised, kept, shift)

  plain = predictor.without_history
  return Method(plan, init, step, predictor.stochasticity,
                plain and predictor_corrector(plain, corrector, corrections), draws=True)


class _Held(NamedTuple):
  """The level of a step, x′ = a x after it, and whether it is the last, which returns D."""

  level: Level
  a: Any
  last: Any


@memoised
def annealed_langevin(corrector: Corrector | None = None, corrections: int = 100) -> Method:
  """Annealed Langevin dynamics (Song & Ermon 2019, algorithm 1): no predictor, Langevin alone.

  `corrections` identity steps at every level, from which z = x/α goes to the next unchanged; after
  the last, D. Their step α_i = ε σ_i²/σ_L², of x + ½α_i s + √α_i ξ, is `euler(ε/2σ_L²)` at every
  level; theirs are 100 steps of ε = 2e-5 at σ_L = .01, Λ = .1, at ten levels from σ = 1. They end
  without D. Calls: n · corrections + 1.

  Args:
    corrector: defaults to `euler(0.1)`. corrections: how many at each level, ≥ 1.

  Raises:
    ValueError: corrections < 1.
  """
  _check(corrections)
  corrector = euler(0.1) if corrector is None else corrector

  def plan(levels: Level, path: Path) -> _Held:
    alpha, sigma = levels.alpha, levels.sigma
    # Pure noise, α = 0, has no z to keep: its noise is.
    noise = alpha[:-1] == 0.0
    a = np.where(noise, sigma[1:] / sigma[:-1], alpha[1:] / np.where(noise, 1.0, alpha[:-1]))
    return _Held(pick(levels, slice(-1)), a, np.arange(len(a)) == len(a) - 1)

  def step(draw, x, denoised, model, n):
    made = _begin(draw, x, denoised, n.level, corrector)
    x, _, _, denoised = _identity(draw, x, made, model, n.level, corrector, corrections)
    x, denoised = jax.lax.cond(
        n.last, lambda x, old: 2 * (model(x, n.level),), lambda x, old: (n.a * x, old), x, denoised)
    return x, denoised, denoised

  return Method(plan, jnp.zeros_like, step, draws=True)


def _score(denoised: jax.Array, x: jax.Array, level: Level) -> jax.Array:
  return (level.alpha * denoised - x) / level.sigma**2


def _draws(draw: Draw, step: jax.Array | int) -> Draw:
  """The odd draws that belong to an identity step, 0 being what is drawn before the first."""
  return lambda i: draw(2 * (_DRAWS * step + i) + 1)


def _begin(
    draw: Draw, x: jax.Array, denoised: jax.Array, level: Level, corrector: Corrector
) -> Any:
  """A carry at this level. A D found before stands in for its own: no call is spent."""
  return corrector.at(level).init(_draws(draw, 0), x, lambda x: _score(denoised, x, level))


def _carry_of(corrector: Corrector, x: jax.Array) -> Any:
  """The shapes and types of what a corrector carries."""
  level = Level(*[jax.ShapeDtypeStruct((), x.dtype)] * 5)
  return jax.eval_shape(lambda x, level: _begin(lambda i: x, x, x, level, corrector), x, level)


def _identity(
    draw: Draw, x: jax.Array, carry: Any, model: Model, level: Level, corrector: Corrector,
    corrections: int,
) -> tuple[jax.Array, Any, jax.Array, jax.Array]:
  """`corrections` steps at a level: the state, the carry, and the first and the last D found."""
  discretisation = corrector.at(level)

  def body(state, k):
    x, carry, first, _ = state
    found = []

    def score(x):
      found.append(model(x, level))
      return _score(found[-1], x, level)

    x, carry = discretisation.step(_draws(draw, k), x, carry, score)
    return (x, carry, jnp.where(k == 1, found[0], first), found[-1]), None

  start = x, carry, x, x
  return _programs.scan(body, start, jnp.arange(1, corrections + 1))[0]


def _check(corrections: int) -> None:
  if not isinstance(corrections, (int, np.integer)) or corrections < 1:
    raise ValueError(f"corrections must be at least 1 a level, got {corrections}: the predictor "
                     "alone takes none")
