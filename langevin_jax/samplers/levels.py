"""Noise levels on a path, at unit scale, and the interface of a sampling method.

Inside a sampler the state is held at unit scale, x = xₜ/√(α_t² + σ_t²), for every path. There

  α = 1/√(1 + ρ²),   σ = ρ/√(1 + ρ²),   ρ = e^{−ℓ},

so the arithmetic does not depend on the path, and two paths on one grid give the same samples. The
path only says which t and xₜ a denoiser that is a function of (xₜ, t) is called with.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, predictions, splitting
from langevin_jax.paths import Path, on_host

__all__ = [
    "Draw", "Level", "Method", "Model", "is_random", "model", "model_outputs", "pick",
    "place_levels", "shift_levels",
]


class Level(NamedTuple):
  """Noise levels, noise to data; scalars within a step, float64 arrays (n + 1,) in a plan.

  t: time on the path. half_log_snr: ℓ. alpha, sigma: α and σ at unit scale.
  scale: √(α_t² + σ_t²), the factor from unit scale to the path's own coordinates.

  The clean end has (α, σ) = (1, 0) and scale 1.
  """

  t: Any
  half_log_snr: Any
  alpha: Any
  sigma: Any
  scale: Any


Model = Callable[..., Any]
"""(x, level) → D, one call of the network; a tuple (D, v) where `Method.takes_pairs`.

(x, level, ell_s) → D̄, the average denoiser to ℓ′, of a flow map.
"""
Draw = Callable[[Any], jax.Array]
"""i → ξ ~ N(0, I) in the shape of the state; the same i gives the same ξ within a step.

The Python number 0 is the noise of the reverse process, which may come from a Brownian path. Every
other index, also one that is traced, is an independent draw.
"""


class Method(NamedTuple):
  """How a sampler moves; pure functions of states at unit scale.

  plan(levels, path) → numbers of the n steps, a pytree of arrays with leading axis n.
  init(x) → what the steps carry besides the state (history), () where there is none.
  step(draw, x, carry, model, numbers) → (x_s, denoised, carry): see `Draw` and `Model`.
  stochasticity: η of the reverse process, which draws `draw(0)` in every step.
  without_history: the method to use instead where other code moves the state at its levels, if
    such moves would make this method's history wrong; None where they do not.
  takes_pairs: whether `model` returns a tuple (D, v), as `model_outputs` does.
  draws: whether a step draws noise other than that of `stochasticity`: churn, correctors.
  for_run: n → this method for a grid of n falling steps that also rises; None where a plan does not
    depend on the steps beyond its own fall.
  """

  plan: Callable[[Level, Path], Any]
  init: Callable[[jax.Array], Any]
  step: Callable[[Draw, jax.Array, Any, Model, Any], tuple[jax.Array, jax.Array, Any]]
  stochasticity: splitting.Stochasticity = 0.0
  without_history: Any = None
  takes_pairs: bool = False
  draws: bool = False
  for_run: Callable[[int], Any] | None = None


def place_levels(rho: np.ndarray, path: Path) -> Level:
  """The levels ρ on a path, t = T − t′ from noise to data (eq. 7), in float64.

  Args:
    rho: noise-to-signal ratios (n + 1,); 0 is the clean end, ∞ is pure noise.
    path: a level that it does not reach becomes its end. ρ = 0 is the clean end on every path.

  Returns:
    Levels (n + 1,). On a traced (learned) path t and scale are traced, and every level counts as
    reached, because that is known only when the program runs.

  Raises:
    ValueError: ρ = ∞ on a path where xₜ is infinite there, such as `paths.ve()`.
  """
  with np.errstate(divide="ignore"):
    ell = -np.log(rho)
  level = _on_path(ell, rho, path)
  xp = splitting.namespace(level)
  if xp is np and not np.all(np.isfinite(level.scale)):
    raise ValueError("the path does not reach pure noise, rho=inf: start the grid at a finite rho, "
                     "or use a path that does, such as paths.rectified_flow()")
  # Set, not computed: a path rounds its clean end.
  clean = rho == 0.0
  return Level(level.t, np.where(clean, np.inf, level.half_log_snr),
               np.where(clean, 1.0, level.alpha), np.where(clean, 0.0, level.sigma),
               xp.where(clean, 1.0, level.scale))




def shift_levels(level: Level, shift: Any, path: Path) -> Level:
  """The levels at ℓ + shift; float64 on the host unless `shift` is traced.

  Args:
    level: finite levels (n,) where `shift` is not 0. shift: (n,), in ℓ.
  """
  if isinstance(shift, jax.Array):
    return _levels_at(jnp.asarray(level.half_log_snr, float) + shift, path)
  if not np.any(shift):
    return level
  ell = level.half_log_snr + shift
  return _on_path(ell, np.exp(-ell), path)


def _on_path(ell: np.ndarray, rho: np.ndarray, path: Path) -> Level:
  """Levels at ℓ = −log ρ on a path; of a traced path t and scale alone are traced."""
  level = Level(*on_host(levels_along(path), ell))
  if not _values.is_traced(level):
    return level
  # The ends of a path do not move with what is learned, and slopes such as that of σ at σ = 0 are
  # infinite there.
  finite = np.isfinite(ell)
  inside = levels_along(path)(jnp.where(finite, ell, 0.0))
  t, scale = (jnp.where(finite, here, jax.lax.stop_gradient(end))
              for here, end in ((inside.t, level.t), (inside.scale, level.scale)))
  level = level._replace(t=t, scale=scale)
  pure = np.isinf(rho)
  size = np.hypot(1.0, rho)
  sigma = np.where(pure, 1.0, rho / np.where(pure, 1.0, size))
  return level._replace(half_log_snr=ell, alpha=1.0 / size, sigma=sigma)


@functools.lru_cache(maxsize=64)
def levels_along(path: Path) -> Callable[[jax.Array], Level]:
  """ℓ → levels on this path. One object for each path, so that it is compiled once."""
  return lambda ell: _levels_at(ell, path)


def _levels_at(ell: jax.Array, path: Path) -> Level:
  """Levels at ℓ (n,) on a path, or at its end where it does not reach ℓ."""
  t = jax.vmap(path.time)(ell)
  reached = jax.vmap(path.half_log_snr)(t)
  # ℓ as given between the ends of the path: bitwise the same for all paths. There, what is reached
  # differs by the rounding of t alone, which near the noisy end may have no digits left.
  noisiest, cleanest = path.half_log_snr(path.t_max), path.half_log_snr(path.t_min)
  off = jnp.abs(reached - ell) > 1e-6 * (1.0 + jnp.abs(ell))
  missed = off & ((ell < noisiest) | (ell > cleanest))
  ell = jnp.where(missed, reached, ell)
  rho = jnp.exp(-ell)
  size = jnp.hypot(1.0, rho)
  sigma = jnp.where(jnp.isinf(rho), 1.0, rho / size)
  return Level(t, ell, 1.0 / size, sigma,
               jnp.hypot(jax.vmap(path.alpha)(t), jax.vmap(path.sigma)(t)))


def pick(levels: Level, index: Any) -> Level:
  """The levels at `index`: a position, a slice, or an array of positions."""
  return Level(*(values[index] for values in levels))


def steps_of(levels: Level) -> tuple[Level, Level]:
  """(here, after): the levels where each of the n steps begins and ends, (n,) each."""
  return pick(levels, slice(-1)), pick(levels, slice(1, None))


def model(denoise: predictions.Denoise) -> Model:
  """A denoiser as (x, level) → D for states at unit scale.

  A `predictions.Denoiser` is called at ℓ, any other function at (xₜ, t). D is checked, and cast to
  the dtype of x. Of a denoiser that returns (D, v) this is D. A third argument ℓ′ asks for D̄.
  """
  outputs = model_outputs(denoise)

  def call(x, level, ell_s=None):
    if ell_s is None:
      return outputs(x, level)[0]
    average = getattr(denoise, "average", None)
    if average is None:
      raise ValueError("samplers.flow_map needs a denoiser of two levels, such as "
                       "flow_maps.denoiser(network, path): this one was trained for one")
    return predictions.like_state(average(x, level.half_log_snr, ell_s), x, "average")

  return call


def model_outputs(
    denoise: predictions.Denoise
) -> Callable[[jax.Array, Level], tuple[jax.Array, ...]]:
  """A denoiser as (x, level) → (D,), or (D, v) where it returns two arrays; see `model`."""
  if isinstance(denoise, predictions.Denoiser):
    at = _programs.unjitted(denoise.at)
    call = lambda x, level: at(x, level.half_log_snr)
  else:
    along = _programs.unjitted(denoise)
    call = lambda x, level: along(level.scale * x, level.t)

  def outputs(x, level):
    values = call(x, level)
    values = values if isinstance(values, tuple) else (values,)
    return tuple(predictions.like_state(value, x, "denoise") for value in values)

  return outputs


def common_namespace(*trees: Any) -> tuple[Any, ...]:
  """(xp, *trees) for the numbers of a plan, which are made on the host unless something is traced.

  Returns:
    xp: `jax.numpy` where a leaf is a jax array (a traced η or path), else `numpy`.
    trees: with leaves of xp, in the default float type or in float64.
  """
  xp = splitting.namespace(trees)
  dtype = float if xp is jnp else np.float64
  return (xp, *jax.tree.map(lambda leaf: xp.asarray(leaf, dtype), trees))


def is_reverse_draw(index: Any) -> bool:
  """Whether `draw(index)` is the noise of the reverse process: the Python number 0, see `Draw`."""
  return not isinstance(index, jax.Array) and index == 0


def is_random(method: Method) -> bool:
  """Whether two runs of a method from one state differ."""
  return method.draws or not splitting.is_zero(method.stochasticity)


def check_stochasticity(stochasticity: splitting.Stochasticity) -> None:
  """Raises ValueError for a number η < 0 or η = ∞, or for what is none.

  A callable is checked by the plan.
  """
  if callable(stochasticity) or isinstance(stochasticity, jax.Array):
    return
  known = _values.number("stochasticity", stochasticity)
  if not 0.0 <= known < np.inf:
    raise ValueError(f"stochasticity must be >= 0 and finite, got {stochasticity}")


def check_order(order: int, most: int = 3) -> None:
  """Raises ValueError for an order that is not one of 1 … `most`."""
  if not isinstance(order, int) or order not in range(1, most + 1):
    raise ValueError(f"order must be one of {', '.join(map(str, range(1, most + 1)))}, got {order}")


def check_steps(levels: Level, order: int, name: str) -> None:
  """Raises ValueError where a grid has fewer steps than the method `name` has order."""
  n = len(levels.t) - 1
  if n < order:
    raise ValueError(f"{name} needs a grid of at least {order} steps, got {n}")
