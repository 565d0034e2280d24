"""The probability-flow ODE by an adaptive solver, to a tolerance (diffrax, extra "adaptive").

At unit scale, x = xₜ/√(α² + σ²), and in ℓ it is the same for every path,

  dx/dℓ = α (D − α x),   α = 1/√(1 + e^{−2ℓ}),

bounded at both ends. How many calls it takes depends on the model and the batch: fixed steps are
for pods, this is for references and for models whose stiffness nobody knows.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import predictions
from langevin_jax.paths import Path
from langevin_jax.samplers import levels, noise


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
  if initial is not None and jnp.shape(initial) != tuple(shape):
    raise ValueError(f"initial must have shape {tuple(shape)}, got {jnp.shape(initial)}")
  if not 0.0 < rho_min < rho_max:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  ends = levels.lay(np.array([rho_max, rho_min]), path)
  at, first = predictions.at_level(denoise, path), levels.pick(ends, 0)
  if initial is None:
    like = jax.ShapeDtypeStruct(tuple(shape), jnp.result_type(float))
    x = noise.start(lambda: noise.normal(noise.split(key)[0], like), first, moments)
  else:
    x = jnp.asarray(initial, jnp.result_type(initial, float)) / first.scale

  def slope(x, ell):
    alpha = jnp.sqrt(jax.nn.sigmoid(2.0 * ell))
    return alpha * (at(x, ell) - alpha * x)

  x, steps = integrate(slope, x, first.half_log_snr, -math.log(rho_min), tolerance=tolerance,
                       max_steps=max_steps)
  return Solution(at(x, jnp.asarray(-math.log(rho_min), x.dtype)), 6 * steps + 2)


def integrate(
    slope: Callable[[Any, jax.Array], Any], state: Any, start: float, end: float, *,
    tolerance: float, max_steps: int,
) -> tuple[Any, jax.Array]:
  """A state moved along d(state)/dτ = slope(state, τ) from start to end, and the steps it took.

  Raises:
    ValueError: diffrax is missing, or, where it can be known, the tolerance was not reached; a
      traced result is NaN then.
  """
  try:
    import diffrax
  except ImportError as error:
    raise ValueError("a tolerance needs diffrax: pip install 'langevin_jax[adaptive]', or take "
                     "fixed steps") from error
  if max_steps < 1 or (isinstance(tolerance, (int, float)) and not tolerance > 0.0):
    raise ValueError(f"tolerance must be positive and max_steps at least 1, got {tolerance} and "
                     f"{max_steps}")
  # The largest entry, not the mean square: an example is as exact in a batch as alone.
  largest = lambda error: jnp.max(jnp.stack([jnp.max(jnp.abs(e)) for e in jax.tree.leaves(error)]))
  dtype = jax.tree.leaves(state)[0].dtype
  solution = diffrax.diffeqsolve(
      diffrax.ODETerm(lambda tau, state, _: slope(state, tau)), diffrax.Tsit5(),
      jnp.asarray(start, dtype), jnp.asarray(end, dtype), None, state, max_steps=max_steps,
      throw=False,
      stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance, norm=largest))
  reached = solution.result == diffrax.RESULTS.successful
  if not isinstance(reached, jax.core.Tracer) and not reached:
    raise ValueError(f"tolerance={tolerance} was not reached within max_steps={max_steps}: raise "
                     "either, or take fixed steps")
  return (jax.tree.map(lambda leaf: jnp.where(reached, leaf[0], jnp.nan), solution.ys),
          solution.stats["num_steps"])
