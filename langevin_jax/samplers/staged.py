"""Methods of several calls per step: the table of their stages, and the noise before them.

A step first adds noise by the exact forward kernel, x̂ = m x + c ξ, which takes the state from ρ to
ρ̂ = ρ e^Λ. The stages of an ODE step then start from x̂, each a linear update

  x_j = a_j x̂ + Σ_{i<j} b_ji D_i,   D_i = D(x_i) at its own level.

A method is its table of numbers (`Stages`), made in float64 on the host: see edm.py and
singlesteps.py. Because the noise is exact, the weak order is that of the ODE step for every η. An
infinite step is STEP, by its first stage alone, and so is one that would multiply the rounding of D
by too much.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, splitting
from langevin_jax.paths import Path, on_host
from langevin_jax.samplers.budgets import Budgets
from langevin_jax.samplers.levels import (
    Level,
    Method,
    common_namespace,
    levels_along,
    shift_levels,
    steps_of,
)

__all__ = ["Kick", "Row", "Stages", "kick_levels", "stage_table", "staged_method", "where_on_host"]


# Rounding of float32, 6e-8 in each of the terms of an update, is multiplied by at most this: errors
# stay below 1e-4 of the data. Where ρ falls by a factor r the weights of Heun's step sum up to r.
EXTRAPOLATION = 800.0
# A budget of 30 leaves e^{−30} of the state, and no float32 is infinite at the levels it leads to.
_ALL_NOISE = 30.0


class Stages(NamedTuple):
  """x̂ = m x + c ξ, then x_{j+1} = a_j x̂ + Σ_i b_ji D_i for n steps of k stages.

  level: of D_j, (n, k). m, c: (n,). a: (n, k). b: (n, k, k).
  used: (n, k), the stages that are run; the last of them is the result of the step.
  """

  level: Level
  m: Any
  c: Any
  a: Any
  b: Any
  used: Any


class Row(NamedTuple):
  """One stage of all n steps, x_j = a x̂ + Σ_i b[i] D_i: a (n,), b one (n,) for each stage."""

  a: Any
  b: Sequence[Any]


class Kick(NamedTuple):
  """The forward kernel of each step: to the levels `hat` (n,), with noise σ̂ · `amplitude`."""

  hat: Level
  amplitude: Any


def kick_levels(levels: Level, noise: Budgets, path: Path) -> Kick:
  """The forward kernel of each step by Λ ≤ 30, or by what the path has room for.

  There is none where a step begins at pure noise. The noise is √(1 − e^{−2Λ}) of the Λ that is
  used.
  """
  here, _ = steps_of(levels)
  finite = np.isfinite(here.half_log_snr)
  if splitting.namespace(noise) is jnp:
    return _traced_kick(here, finite, noise, path)
  hat = shift_levels(here, np.where(finite, -np.minimum(noise.budget, _ALL_NOISE), 0.0), path)
  ell, ell_hat = (np.where(finite, level.half_log_snr, 0.0) for level in (here, hat))
  return Kick(hat, splitting.amplitude(np.maximum(np.subtract(ell, ell_hat), 0.0)))


def _traced_kick(here: Level, finite: np.ndarray, noise: Budgets, path: Path) -> Kick:
  """`kick_levels` of a traced budget: no value meets an infinity, so that derivatives exist."""
  ell = np.where(finite, here.half_log_snr, 0.0)
  # As in `shift_levels`, which goes beyond t_max where the path has a time there.
  reached = Level(*on_host(levels_along(path), ell - _ALL_NOISE)).half_log_snr
  room = where_on_host(finite, ell - reached, 0.0)
  # At the noisy end there is no room, but for rounding.
  room = jnp.asarray(where_on_host(room > 1e-9, room, 0.0), float)
  hat = shift_levels(here._replace(half_log_snr=ell), -jnp.minimum(noise.budget, room), path)
  hat = Level(*(jnp.where(finite, shifted, jnp.asarray(old, float))
                for shifted, old in zip(hat, here, strict=True)))
  fits = noise.budget < room
  return Kick(hat, splitting.amplitude(
      jnp.where(fits, noise.budget, room), jnp.where(fits, noise.root, jnp.sqrt(room))))


def where_on_host(condition: Any, value: Any, other: float) -> Any:
  """`where` that stays on the host unless an argument is a jax array; None stays None."""
  xp = splitting.namespace(condition, value)
  return None if value is None else xp.where(condition, value, other)


def stage_table(
    levels: Level, kick: Kick, inner: Sequence[Level], rows: Sequence[Row]
) -> Stages:
  """The table of steps from `kick.hat` through the levels `inner`.

  Infinite steps become STEP, and those whose weights exceed EXTRAPOLATION; of a traced path these
  are not known.

  Args:
    inner: the levels of D_1, D_2, … rows: one for each stage.
  """
  finite = np.isfinite(np.diff(levels.half_log_snr))
  first = np.arange(len(rows)) == 0
  with np.errstate(all="ignore"):
    here, after = steps_of(levels)
    xp, here, after, hat, inner, amplitude, rows = common_namespace(
        here, after, kick.hat, list(inner), kick.amplitude, list(rows))
    noisy = here.alpha > 0.0
    m = xp.where(noisy, hat.alpha / xp.where(noisy, here.alpha, 1.0), 1.0)
    c = hat.sigma * amplitude
    step_a, step_b, _ = splitting.weights(
        hat.alpha, hat.sigma, after.alpha, after.sigma, xp.zeros_like(hat.alpha))
    a = xp.stack([row.a for row in rows], 1)
    b = xp.stack([xp.stack(list(row.b), 1) for row in rows], 1)
    if xp is np:
      finite = finite & ~(np.abs(a[:, -1]) + np.abs(b[:, -1]).sum(1) > EXTRAPOLATION)
    a = xp.where(finite[:, None], a, step_a[:, None])
    step_b = xp.where(first, step_b[:, None], 0.0)[:, None, :]
    b = xp.where(finite[:, None, None], b, xp.broadcast_to(step_b, b.shape))
    # The stages that an infinite step does not run have a finite level all the same.
    level = Level(*(xp.stack([start, *(xp.where(finite, v, start) for v in others)], 1)
                    for start, *others in zip(hat, *inner, strict=True)))
    return Stages(level, m, c, a, b, finite[:, None] | first)


def staged_method(
    plan: Callable[[Level, Path], Stages], stages: int, stochasticity: splitting.Stochasticity, *,
    noisy: bool,
) -> Method:
  """A method with the step of the module.

  Args:
    plan: (levels, path) → Stages. stages: k. stochasticity: η. noisy: whether a step draws noise.
  """
  def step(draw, x, carry, model, n):
    hat = n.m * x + n.c * draw(0) if noisy else x

    # A scan over the stages, so that the model is compiled once.
    def stage(state, now):
      place, level, a, b, used = now

      def move(x, known):
        known = known.at[place].set(model(x, level))
        return a * hat + sum(b[i] * known[i] for i in range(stages)), known

      return jax.lax.cond(used, move, lambda x, known: (x, known), *state), None

    start = hat, _values.varying_like(jnp.zeros((stages, *x.shape), x.dtype), x)
    (x_s, known), _ = _programs.scan(
        stage, start, (jnp.arange(stages), n.level, n.a, n.b, n.used))
    return x_s, known[0], carry

  return Method(plan, lambda x: (), step, stochasticity, draws=noisy)
