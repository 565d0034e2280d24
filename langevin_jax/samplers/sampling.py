"""One scan for every method, grid, path and model: `sample`, and `trajectory` when it is wanted."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.paths import Path
from langevin_jax.samplers import grids, methods
from langevin_jax.samplers.methods import Denoiser, Method


class Trajectory(NamedTuple):
  """A reverse run, noise to data: n + 1 times and states, and the n denoised estimates."""

  t: jax.Array
  x: jax.Array
  denoised: jax.Array


def sample(
    key: jax.Array, denoise: Denoiser, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None,
    initial: jax.Array | None = None,
) -> jax.Array:
  """Draws from the model by running a reverse process from noise to data.

  Args:
    key: consumed. One key, or an array of keys whose shape leads `shape`: then each sample's noise
      is its own key's, whatever batch it rides in.
    denoise: (x_t, t) → E[x₀ | xₜ], x_t with any leading axes, t a scalar in the path's time.
    path: any path; it need not be the one that the model was trained with.
    shape: of the result, leading axes included.
    method: defaults to `ddim()`. grid: defaults to `karras(40)`.
    initial: the state at the grid's first level; drawn from N(0, σ²I) where it is not given.

  Returns:
    x₀, of shape `shape`, in the default float type. The last step returns D, with no noise left.

  Jit-, vmap-, grad- and shard-able. Called eagerly it compiles once for each (denoise, path,
  method, grid, shape) and keeps the last eight: pass the same `denoise` object to reuse it.
  Peak memory does not depend on the number of steps.

  Raises:
    ValueError: a grid that does not fall, or an `initial` of another shape.
  """
  return _run(key, initial, denoise, path, shape, method, grid, False)


def trajectory(
    key: jax.Array, denoise: Denoiser, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None,
    initial: jax.Array | None = None,
) -> Trajectory:
  """`sample`, keeping every state on the way: memory grows with the number of steps."""
  return _run(key, initial, denoise, path, shape, method, grid, True)


def _run(key, initial, denoise, path, shape, method, grid, keep):
  shape = tuple(shape)
  if initial is not None and jnp.shape(initial) != shape:
    raise ValueError(f"initial must have shape {shape}, got {jnp.shape(initial)}")
  if initial is not None:
    initial = jnp.asarray(initial, jnp.result_type(initial, float))
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if key.shape != shape[:key.ndim]:
    raise ValueError(f"keys of shape {key.shape} must lead the shape {shape} of the samples")
  choice = (denoise, path, shape, methods.ddim() if method is None else method,
            grids.karras(40) if grid is None else grid, keep)
  # A traced call is part of the outer function's compilation and is not remembered here.
  if isinstance(key, jax.core.Tracer) or isinstance(initial, jax.core.Tracer):
    return _runner(*choice)(key, initial)
  return _compiled(*choice)(key, initial)


@functools.lru_cache(maxsize=8)
def _compiled(*choice):
  return jax.jit(_runner(*choice))


def _runner(denoise, path, shape, method, grid, keep):
  rho = np.asarray(grid(path), np.float64)
  if rho.ndim != 1 or len(rho) < 2 or rho[-1] != 0.0 or not np.all(np.diff(rho) < 0.0):
    raise ValueError(f"a grid must fall strictly to a last rho of 0, got {rho}")
  nodes = methods.lay(rho, path)
  numbers = method.plan(nodes, path)

  def run(key, initial):
    dtype = jnp.result_type(float) if initial is None else initial.dtype
    split, fold_in = jax.random.split, jax.random.fold_in
    for _ in key.shape:
      split, fold_in = jax.vmap(split), jax.vmap(fold_in, (0, None))
    key_start, key_steps = jnp.moveaxis(split(key), -1, 0)
    if initial is None:
      initial = jnp.asarray(nodes.sigma[0], dtype) * methods.noise(
          key_start, jnp.zeros(shape, dtype))

    def step(carry, now):
      i, numbers = now
      x, history = carry
      x, denoised, history = method.step(fold_in(key_steps, i), x, history, denoise, numbers)
      return (x, history), (x, denoised) if keep else None

    cast = lambda v: jnp.asarray(v, dtype if v.dtype != bool else bool)
    steps = jnp.arange(len(rho) - 1), jax.tree.map(cast, numbers)
    (x_0, _), states = jax.lax.scan(step, (initial, method.init(initial)), steps)
    if not keep:
      return x_0
    return Trajectory(cast(nodes.t), jnp.concatenate([initial[None], states[0]]), states[1])

  return run
