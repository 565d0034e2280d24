"""`sample`, `trajectory` and `encode`: one scan for every method, grid, path and model.

A grid is a sequence of noise levels ρ. Where it falls, the method takes a step. Where it rises, the
exact forward kernel draws the state at the higher level (restart, time travel), and the method
starts again from there without history. A grid may end above 0 (partial denoising) and start at any
level (SDEdit).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, predictions, splitting
from langevin_jax.paths import Path, check_path
from langevin_jax.samplers import grids, levels, multisteps, noise
from langevin_jax.samplers.levels import Level, Method

Moments = tuple[jax.Array, jax.Array]

__all__ = ["Kernel", "Plan", "Trajectory", "check_kinds", "encode", "plan", "run", "sample",
           "trajectory"]

# The index of the draw for the forward kernel before a step; methods count from 0.
_KERNEL_DRAW = 2**31 - 1


class Trajectory(NamedTuple):
  """A reverse run of n falling steps, from noise to data, in the path's own coordinates.

  t: times (n + 1,). x: states (n + 1, *shape). denoised: D of each step (n, *shape).
  Where the grid rises, the state is the one before the rise.
  """

  t: jax.Array
  x: jax.Array
  denoised: jax.Array


def sample(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None,
    initial: jax.Array | None = None, moments: Moments | None = None,
    brownian: noise.Brownian | None = None,
) -> jax.Array:
  """Draws samples by running a reverse process from noise to data, q_T = p_0 (eq. 12).

  Can be used under jit, vmap, grad and shard_map. Peak memory does not depend on the number of
  steps. An eager call traces the model each time, so it runs the model as it is now. The compiled
  program is shared by all calls of one structure: parameters, labels, levels, η and other arrays
  may differ, and so may the object that holds them. Tracing takes about as long as
  `jax.eval_shape` of the network; put a loop over many short runs under your own `jax.jit`, with
  the parameters as an argument.

  Args:
    key: consumed. One key, or an array of keys whose shape leads `shape`: then the noise of a
      sample depends on its own key alone, not on its batch. Noise is drawn by threefry, from the
      words of a key of another kind (`noise.threefry`).
    denoise: (x_t, t) → E[x₀ | xₜ], x_t with any leading axes, t a scalar in the path's time. A
      `predictions.Denoiser` gives bitwise the same samples along every path on one grid.
    path: any path; it need not be the one that the model was trained with.
    shape: of the result, leading axes included.
    method: defaults to `ddim()`. grid: defaults to `karras(40)`.
    initial: the state xₜ = α x₀ + σ ε at the first level of the grid, of shape `shape`. By default
      it is drawn from N(0, σ²I). With a noised example this is SDEdit (Meng et al. 2022).
    moments: mean and variances of the data, of the shape of one example, or mean (d,) and
      covariance (d, d). The first state is then drawn from N(α m, α²S + σ²I), which misses only the
      third and higher moments of the data: a KL of 1e-11 instead of 1e-5 at ρ_max = 20.
    brownian: `samplers.brownian()`: one Brownian path of the key gives the noise on every grid, so
      that samples converge one by one as grids are refined.

  Returns:
    The state at the last level of the grid, of shape `shape`, in the default float type. At ρ = 0
    this is the last D, or what a method with history extrapolates from the last values of it.

  Raises:
    ValueError: a grid that does not end with a fall, an `initial` of another shape, both `initial`
      and `moments`, a D of another shape than its state, or an argument of the wrong kind.
  """
  return _draw(key, denoise, path, shape, method, grid, initial, moments, brownian, keep=False)


def trajectory(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None,
    initial: jax.Array | None = None, moments: Moments | None = None,
    brownian: noise.Brownian | None = None,
) -> Trajectory:
  """`sample` that returns every state; the law of each is q_t′ = p_{T−t′} (eq. 11).

  Arguments and errors are those of `sample`. Memory grows with the number of steps.
  """
  return _draw(key, denoise, path, shape, method, grid, initial, moments, brownian, keep=True)


def encode(
    denoise: predictions.Denoise, path: Path, x_0: jax.Array, *, method: Method | None = None,
    grid: grids.Grid | None = None,
) -> jax.Array:
  """Maps data to noise by the probability-flow ODE: `sample` backwards (DDIM inversion).

  The data are taken as the states at the last positive level of the grid, whose levels are then
  visited in reverse. `sample` with the result as `initial`, and the same grid and method, returns
  the data up to the error of the method.

  Args:
    denoise, path: as in `sample`. x_0: data, with any leading axes.
    method: deterministic; defaults to `ddim()`. grid: falling; defaults to `karras(40)`.

  Returns:
    xₜ at the first level of the grid, of the shape of x_0.

  Raises:
    ValueError: a method that draws noise, or a grid that does not fall.
  """
  method, grid = _defaults(denoise, path, method, grid)
  if levels.is_random(method):
    raise ValueError("encode follows the probability-flow ODE: its method must have stochasticity "
                     f"0, no churn and no corrector, got stochasticity {method.stochasticity}")
  rho = grids.levels_of(grid, path)
  positive = rho[rho > 0.0]
  if len(positive) < 2 or not np.all(np.diff(positive) < 0.0):
    raise ValueError(f"encode climbs a falling grid of at least 2 positive levels, got rho={rho}")
  nodes = levels.place_levels(positive[::-1], path)
  planned = Plan(nodes, method.plan(nodes, path), None, None)
  x_0 = _values.floats(x_0)
  key = jax.random.key(0)  # not used: an ODE draws no noise

  def climb(planned, x_0):
    first = levels.pick(planned.levels, 0)
    initial = (first.alpha * first.scale).astype(x_0.dtype) * x_0
    return run(planned, key, initial, None, model=levels.model(denoise), shape=x_0.shape,
               method=method)

  return _programs.call(climb, planned, x_0)


def _draw(key, denoise, path, shape, method, grid, initial, moments, brownian, *, keep: bool):
  """`sample`, or `trajectory` where `keep`: checks the arguments, plans, and runs."""
  if not isinstance(shape, Sequence) or not all(isinstance(n, (int, np.integer)) for n in shape):
    raise ValueError(f"shape must be a tuple of integers, (samples, *shape of one), got {shape!r}")
  shape = tuple(shape)
  method, grid = _defaults(denoise, path, method, grid)
  if initial is not None and moments is not None:
    raise ValueError("give either an initial state or the moments that it is drawn with, not both")
  initial = noise.initial_state(initial, shape)
  key = noise.threefry(key)
  if key.shape != shape[:key.ndim]:
    raise ValueError(f"keys of shape {key.shape} must lead the shape {shape} of the samples")
  planned = plan(path, method, grid, brownian)
  model = (levels.model_outputs if method.takes_pairs else levels.model)(denoise)
  return _programs.call(
      functools.partial(run, model=model, shape=shape, method=method, keep=keep,
                        depth=0 if brownian is None else brownian.depth),
      planned, key, initial, moments)


def _defaults(denoise, path, method, grid) -> tuple[Method, grids.Grid]:
  """The method and the grid, or their defaults; all four arguments are checked."""
  check_kinds(denoise, path, method=method, grid=grid)
  return (multisteps.ddim() if method is None else method,
          grids.karras(40) if grid is None else grid)


def check_kinds(
    denoise: Any, path: Any, *, method: Any = None, grid: Any = None, name: str = "method"
) -> None:
  """Raises ValueError that says what to pass for an argument of the wrong kind; None is allowed."""
  check_path(path)
  if not callable(denoise):
    raise ValueError(f"denoise must be a function (x_t, t) → E[x₀ | x_t], got {denoise!r}")
  if not (method is None or isinstance(method, Method)):
    raise ValueError(
        f"{name} must be a sampling method, such as samplers.heun() (called), got {method!r}")
  if not (grid is None or callable(grid)):
    raise ValueError(f"grid must be a grid, such as samplers.karras(20), got {grid!r}")


class Kernel(NamedTuple):
  """The forward kernel before each falling step, x ← m x + c ξ at unit scale; (n,) each."""

  m: Any
  c: Any


class Plan(NamedTuple):
  """The numbers of a run of n falling steps, made on the host.

  levels: (n + 1,). numbers: those of the method, with leading axis n.
  places: of the Brownian path (n + 1,), None without one.
  kernel: (n,), None for a grid that only falls.
  """

  levels: Level
  numbers: Any
  places: noise.Positions | None
  kernel: Kernel | None


def plan(
    path: Path, method: Method, grid: grids.Grid, brownian: noise.Brownian | None = None
) -> Plan:
  """The numbers of a run.

  Raises:
    ValueError: a grid that is no sequence of levels or does not end with a fall, a Brownian path on
      a grid that rises or for noise that it does not give, or what the method refuses.
  """
  rho = grids.levels_of(grid, path)
  nodes = levels.place_levels(rho, path)
  rises = np.flatnonzero(np.diff(rho) > 0.0)
  if len(rises):
    if brownian is not None:
      raise ValueError("a Brownian path needs a grid that falls: a rise draws fresh noise")
    return _rising_plan(nodes, rises, method, path)
  places = None
  if brownian is not None and method.draws and splitting.is_zero(method.stochasticity):
    raise ValueError("a Brownian path gives the noise of stochasticity > 0, not that of churn or "
                     "correctors: leave out brownian, or use samplers.singlestep(2, stochasticity)")
  if brownian is not None and not splitting.is_zero(method.stochasticity):
    if isinstance(method.stochasticity, float) and method.stochasticity == np.inf:
      raise ValueError("stochasticity=inf draws all noise afresh at every level, which no Brownian "
                       "path gives: leave out brownian, or take a finite stochasticity")
    places = noise.positions(nodes, method.stochasticity, path, brownian.depth)
  return Plan(nodes, method.plan(nodes, path), places, None)


def _rising_plan(nodes: Level, rises: np.ndarray, method: Method, path: Path) -> Plan:
  """A plan of the falls between the positions `rises`, each planned alone, joined by the kernel."""
  starts, ends = np.append(0, rises + 1), np.append(rises, len(nodes.t) - 1)
  falls = [np.arange(a, b + 1) for a, b in zip(starts, ends, strict=True)]
  if method.for_run is not None:
    method = method.for_run(sum(len(fall) - 1 for fall in falls))
  parts = [method.plan(levels.pick(nodes, fall), path) for fall in falls]
  numbers = jax.tree.map(
      lambda *leaves: splitting.namespace(leaves).concatenate(leaves), *parts)
  after_rise = np.concatenate([np.append(i > 0, np.zeros(len(fall) - 2, bool))
                               for i, fall in enumerate(falls)])
  kernel = _kernel(levels.pick(nodes, rises), levels.pick(nodes, rises + 1), after_rise)
  states = np.append(0, np.concatenate([fall[1:] for fall in falls]))
  return Plan(levels.pick(nodes, states), numbers, None, kernel)


def _kernel(low: Level, high: Level, after_rise: np.ndarray) -> Kernel:
  """The kernel from `low` to `high` at the steps `after_rise` (n,), the identity at the others."""
  m, c = np.ones(len(after_rise)), np.zeros(len(after_rise))
  # STEP with Λ = −h: D drops out.
  m[after_rise], _, c[after_rise] = splitting.weights(
      low.alpha, low.sigma, high.alpha, high.sigma, low.half_log_snr - high.half_log_snr)
  m[after_rise] = np.where(low.sigma == 0.0, high.alpha, m[after_rise])
  return Kernel(m, c)


class _State(NamedTuple):
  """Between two steps: x at unit scale, the method's history, and Y of the Brownian path or ()."""

  x: jax.Array
  history: Any
  brownian: Any


class _Inputs(NamedTuple):
  """Of one step: its number, coefficients, end on the Brownian path, and kernel before it."""

  step: jax.Array
  numbers: Any
  place: noise.Positions | None
  kernel: Kernel | None


def run(
    planned: Plan, key: jax.Array, initial: jax.Array | None, moments: Moments | None, *,
    model: levels.Model, shape: tuple[int, ...], method: Method, keep: bool = False,
    depth: int = 0,
) -> Any:
  """One reverse process by its plan, which may be traced: grids of n steps share a program.

  Args:
    planned: by `plan`, for `method`. key: consumed; keys as in `sample`.
    initial, moments: as in `sample`. model: at unit scale, `levels.model`.
    shape: of the samples. keep: returns a `Trajectory`. depth: of the Brownian path.

  Returns:
    The samples, or a `Trajectory`, in the path's own coordinates.
  """
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
  x = _values.varying_as(x, lambda x: model(x, first))

  def step(state: _State, now: _Inputs):
    x, key_step = state.x, noise.fold(key_steps, now.step)
    if now.kernel is not None:
      kernel_noise = noise.normal(noise.fold(key_step, _KERNEL_DRAW), x)
      x = now.kernel.m * x + now.kernel.c * kernel_noise
    brownian = () if now.place is None else noise.value(key_steps, like, now.place, depth)
    draw = _draws(key_step, x, state.brownian, brownian, now.place)
    x, denoised, history = method.step(draw, x, state.history, model, now.numbers)
    return _State(x, history, brownian), (x, denoised) if keep else None

  start, ends = (jax.tree.map(lambda v, s=s: v[s], planned.places) for s in (0, slice(1, None)))
  brownian = () if start is None else noise.value(key_steps, like, start, depth)
  indices = jnp.arange(len(planned.levels.t) - 1)
  last, states = _programs.scan(
      step, _State(x, method.init(x), brownian),
      _Inputs(indices, planned.numbers, ends, planned.kernel))
  if not keep:
    return planned.levels.scale[-1] * last.x
  scale = planned.levels.scale.reshape(-1, *[1] * len(shape))
  x = jnp.concatenate([x[None], states[0]])
  return Trajectory(planned.levels.t, x * jnp.broadcast_to(scale, x.shape), states[1])


def _draws(
    key: jax.Array, x: jax.Array, before: Any, after: Any, place: noise.Positions | None
) -> levels.Draw:
  """The draws of one step, in the shape of x.

  Args:
    key: of the step. place: of the step on the Brownian path, None without one.
    before, after: Y of that path where the step begins and ends.
  """
  def reverse():
    if place is None:
      return noise.normal(key, x)
    return (after - place.kept * before) / place.spread

  return lambda i: (reverse() if levels.is_reverse_draw(i) else
                    noise.normal(noise.fold(key, i), x))
