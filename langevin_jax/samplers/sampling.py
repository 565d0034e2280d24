"""One scan for every method, grid, path and model: `sample`, and `trajectory` when it is wanted."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import predictions, splitting
from langevin_jax.paths import Path
from langevin_jax.samplers import grids, levels, linear, noise
from langevin_jax.samplers.levels import Level, Method

Moments = tuple[jax.Array, jax.Array]


class Trajectory(NamedTuple):
  """A reverse run, noise to data: n + 1 times and states, and the n denoised estimates."""

  t: jax.Array
  x: jax.Array
  denoised: jax.Array


def sample(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None,
    initial: jax.Array | None = None, moments: Moments | None = None,
    brownian: noise.Brownian | None = None,
) -> jax.Array:
  """Draws from the model by running a reverse process from noise to data.

  Args:
    key: consumed. One key, or an array of keys whose shape leads `shape`: then each sample's noise
      is its own key's, whatever batch it rides in.
    denoise: (x_t, t) → E[x₀ | xₜ], x_t with any leading axes, t a scalar in the path's time. A
      `predictions.Denoiser` makes the same samples, bit for bit, along every path on one grid.
    path: any path; it need not be the one that the model was trained with.
    shape: of the result, leading axes included.
    method: defaults to `ddim()`. grid: defaults to `karras(40)`.
    initial: the state at the grid's first level; drawn from N(0, σ²I) where it is not given.
    moments: mean and variance of the data, of one example's shape, or mean (d,) and covariance
      (d, d): the first state is then drawn from N(α m, α²S + σ²I), which is wrong by the data's
      third moments only (at ρ_max = 20, a KL of 1e-11 in the place of 1e-5).
    brownian: `samplers.brownian()`: the noise of a stochastic method is one Brownian path of the
      key, the same on every grid, so that finer grids converge sample by sample.

  Returns:
    x₀, of shape `shape`, in the default float type, with no noise left: the last D, or what a
    method whose history reaches the clean end extrapolates from it.

  Jit-, vmap-, grad- and shard-able. Called eagerly it compiles once for each (denoise, path,
  method, grid, shape) and keeps the last eight: pass the same `denoise` object to reuse it.
  Peak memory does not depend on the number of steps.

  Raises:
    ValueError: a grid that does not fall, an `initial` of another shape, or both an `initial` and
      `moments`.
  """
  return _run(key, initial, moments, denoise, path, shape, method, grid, brownian, False)


def trajectory(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None,
    initial: jax.Array | None = None, moments: Moments | None = None,
    brownian: noise.Brownian | None = None,
) -> Trajectory:
  """`sample`, keeping every state on the way: memory grows with the number of steps."""
  return _run(key, initial, moments, denoise, path, shape, method, grid, brownian, True)


def _run(key, initial, moments, denoise, path, shape, method, grid, brownian, keep):
  shape = tuple(shape)
  if initial is not None and moments is not None:
    raise ValueError("give either an initial state or the moments that it is drawn with, not both")
  if initial is not None and jnp.shape(initial) != shape:
    raise ValueError(f"initial must have shape {shape}, got {jnp.shape(initial)}")
  if initial is not None:
    initial = jnp.asarray(initial, jnp.result_type(initial, float))
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if key.shape != shape[:key.ndim]:
    raise ValueError(f"keys of shape {key.shape} must lead the shape {shape} of the samples")
  choice = (denoise, path, shape, linear.ddim() if method is None else method,
            grids.karras(40) if grid is None else grid, brownian, keep)
  arguments = key, initial, moments
  # A traced call is part of the outer function's compilation and is not remembered here.
  if isinstance(choice[3].stochasticity, jax.Array) or any(
      isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
    return _runner(*choice)(*arguments)
  return _compiled(*choice)(*arguments)


@functools.lru_cache(maxsize=8)
def _compiled(*choice):
  return jax.jit(_runner(*choice))


class Plan(NamedTuple):
  """What a run needs besides keys and model, made on the host: arrays with leading axis n (+ 1)."""

  levels: Level
  numbers: Any
  places: noise.Positions | None


def plan(
    path: Path, method: Method, grid: grids.Grid, brownian: noise.Brownian | None = None
) -> tuple[Plan, float]:
  """The numbers of a run, and the length of its Brownian path's clock (0 where there is none).

  Raises:
    ValueError: a grid that does not fall strictly to 0, or what the method refuses.
  """
  rho = np.asarray(grid(path), np.float64)
  if rho.ndim != 1 or len(rho) < 2 or rho[-1] != 0.0 or not np.all(np.diff(rho) < 0.0):
    raise ValueError(f"a grid must fall strictly to a last rho of 0, got {rho}")
  nodes = levels.lay(rho, path)
  places, length = None, 0.0
  if brownian is not None and not splitting.is_zero(method.stochasticity):
    places, length = noise.positions(nodes, method.stochasticity, path, brownian.depth)
  return Plan(nodes, method.plan(nodes, path), places), length


def _runner(denoise, path, shape, method, grid, brownian, keep):
  planned, length = plan(path, method, grid, brownian)
  depth = 0 if brownian is None else brownian.depth
  return lambda key, initial, moments: run(
      planned, key, initial, moments, model=levels.model(denoise), shape=shape, method=method,
      keep=keep, length=length, depth=depth)


def run(
    planned: Plan, key: jax.Array, initial: jax.Array | None, moments: Moments | None, *,
    model: levels.Model, shape: tuple[int, ...], method: Method, keep: bool = False,
    length: float = 0.0, depth: int = 0,
) -> jax.Array | Trajectory:
  """One reverse process by its numbers, which may be traced: grids of n steps share a program."""
  dtype = jnp.result_type(float) if initial is None else initial.dtype
  cast = lambda v: jnp.asarray(v, dtype if jnp.issubdtype(v.dtype, jnp.floating) else v.dtype)
  planned = jax.tree.map(cast, planned)
  key_start, key_steps = noise.split(key)
  like = jax.ShapeDtypeStruct(shape, dtype)
  first = levels.pick(planned.levels, 0)
  if initial is None:
    x = noise.start(lambda: noise.normal(key_start, like), first, moments)
  else:
    x = initial / first.scale
  at = lambda place: noise.value(key_steps, like, place.cell, place.part, length, depth)

  def step(carry, now):
    i, numbers, place = now
    x, history, y = carry
    own = noise.fold(key_steps, i)
    if place is None:
      reverse = lambda: noise.normal(own, x)
    else:
      before, y = y, at(place)
      reverse = lambda: (y - place.kept * before) / place.spread
    # Draw 0 is the reverse process's own; a traced index is a corrector's, and never 0.
    draw = lambda j: (reverse() if isinstance(j, int) and j == 0 else
                      noise.normal(noise.fold(own, j), x))
    x, denoised, history = method.step(draw, x, history, model, numbers)
    return (x, history, y), (x, denoised) if keep else None

  start, ends = (jax.tree.map(lambda v, s=s: v[s], planned.places) for s in (0, slice(1, None)))
  carry = x, method.init(x), () if start is None else at(start)
  steps = jnp.arange(len(planned.levels.t) - 1)
  (x_0, *_), states = jax.lax.scan(step, carry, (steps, planned.numbers, ends))
  if not keep:
    return x_0
  scale = planned.levels.scale.reshape(-1, *[1] * len(shape))
  x = jnp.concatenate([x[None], states[0]])
  return Trajectory(planned.levels.t, x * jnp.broadcast_to(scale, x.shape), states[1])
