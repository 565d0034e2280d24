"""The probability-flow ODE by an adaptive solver, to a tolerance (diffrax, extra "adaptive").

At unit scale, x = xₜ/√(α² + σ²), and in ℓ it is the same for every path,

  dx/dℓ = α (D − α x),   α = 1/√(1 + e^{−2ℓ}),

bounded at both ends. How many calls it takes depends on the model and the batch: fixed steps are
for pods, this is for references and for models whose stiffness nobody knows.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, predictions
from langevin_jax.paths import Path
from langevin_jax.samplers import levels, noise, sampling


class Solution(NamedTuple):
  """Samples, and how many times the model was called for them."""

  x: jax.Array
  calls: jax.Array


def adaptive(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    tolerance: float = 1e-4, max_steps: int = 1024, rho_min: float = 0.002, rho_max: float = 80.0,
    initial: jax.Array | None = None, moments: tuple[jax.Array, jax.Array] | None = None,
) -> Solution:
  """Samples of the probability-flow ODE by Tsitouras' 5(4) method with error control.

  The largest error of any entry of the batch decides on a step: a sample is as exact in a batch as
  alone, but not bitwise the same. Arguments as in `samplers.sample`, whose first state a key gives
  here too; then

  Args:
    tolerance: of each entry, absolute at unit scale and relative.
    max_steps: accepted and refused ones together; six calls each.
    rho_min: where the integration ends and D is returned. rho_max: where it starts, or the path's
      end where that comes sooner.

  Returns:
    (x₀, calls of the model). Reverse-mode differentiable; traced, x₀ is NaN where the tolerance was
    not reached, for nothing can be raised there.

  Raises:
    ValueError: the tolerance was not reached within `max_steps`, diffrax is missing, a reversed
      noise range, or an `initial` of another shape.
  """
  shape = tuple(shape)
  sampling.check_kinds(denoise, path)
  initial = noise.initial_state(initial, shape)
  if not 0.0 < rho_min < rho_max:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  key = noise.threefry(key)
  first = levels.pick(levels.lay(np.array([rho_max, rho_min]), path), 0)
  check_tolerance(tolerance, max_steps)
  if 0 in shape:
    return Solution(jnp.zeros(shape), jnp.zeros((), int))
  denoised = predictions.at_level(denoise, path)
  dtype = jnp.result_type(float) if initial is None else initial.dtype
  lifted, arrays = _programs.lifted(
      lambda x, ell: predictions.like_state(denoised(x, ell), x, "denoise"),
      *(jax.ShapeDtypeStruct(s, dtype) for s in (shape, ())))

  def solve(arrays, first, tolerance, key, initial, moments):
    at = lambda x, ell: lifted(arrays, x, ell)

    def slope(x, ell):
      alpha = jnp.sqrt(jax.nn.sigmoid(2.0 * ell))
      return alpha * (at(x, ell) - alpha * x)

    if initial is None:
      like = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
      x = noise.start(lambda: noise.normal(noise.split(key)[0], like), first, moments)
    else:
      x = initial / jnp.asarray(first.scale, initial.dtype)
    end = jnp.asarray(-math.log(rho_min), x.dtype)
    x, steps, reached = integrate(
        slope, x, first.half_log_snr, end, tolerance=tolerance, max_steps=max_steps)
    return Solution(at(x, end), 6 * steps + 2), reached

  solution, reached = _programs.call(solve, arrays, first, tolerance, key, initial, moments)
  check_reached(reached, tolerance, max_steps)
  return solution


def integrate(
    slope: Callable[[Any, jax.Array], Any], state: Any, start: float, end: float, *,
    tolerance: float, max_steps: int,
) -> tuple[Any, jax.Array, jax.Array]:
  """A state moved along d(state)/dτ = slope(state, τ) from start to end.

  Returns:
    (state, steps, whether the tolerance was reached); the state is NaN where it was not. Arguments
    are those that `check_tolerance` has let pass.
  """
  import diffrax
  # The largest entry, not the mean square: an example is as exact in a batch as alone.
  largest = lambda error: jnp.max(jnp.stack([jnp.max(jnp.abs(e)) for e in jax.tree.leaves(error)]))
  dtype = jax.tree.leaves(state)[0].dtype
  solution = diffrax.diffeqsolve(
      diffrax.ODETerm(lambda tau, state, _: slope(state, tau)), diffrax.Tsit5(),
      jnp.asarray(start, dtype), jnp.asarray(end, dtype), None, state, max_steps=max_steps,
      throw=False,
      stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=largest))
  reached = solution.result == diffrax.RESULTS.successful
  return (jax.tree.map(lambda leaf: jnp.where(reached, leaf[0], jnp.nan), solution.ys),
          solution.stats["num_steps"], reached)


def check_tolerance(tolerance: float | jax.Array, max_steps: int) -> None:
  """Raises ValueError where diffrax is missing, or tolerance or max_steps is not positive."""
  if importlib.util.find_spec("diffrax") is None:
    raise ValueError("a tolerance needs diffrax: pip install 'langevin_jax[adaptive]', or take "
                     "fixed steps")
  known = _programs.concrete(tolerance)
  if max_steps < 1 or (known is not None and not known > 0.0):
    raise ValueError(f"tolerance must be positive and max_steps at least 1, got {tolerance} and "
                     f"{max_steps}")


def check_reached(reached: jax.Array, tolerance: float, max_steps: int) -> None:
  """Raises ValueError where it is known that the tolerance was not reached."""
  known = _programs.concrete(reached)
  if known is not None and not known:
    raise ValueError(f"tolerance={tolerance} was not reached within max_steps={max_steps}: raise "
                     "either, or take fixed steps")
