"""One scan for every method, grid, path and model: `sample`, `trajectory` and `encode`.

A grid is a sequence of noise levels ρ. Where it falls, the method takes the step; where it rises,
the exact forward kernel draws the state at the higher level (restart, time travel), and the method
starts anew from there. It may end above 0 (partial denoising), and start anywhere (SDEdit).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, predictions, splitting
from langevin_jax.paths import Path, check_path
from langevin_jax.samplers import grids, levels, linear, noise
from langevin_jax.samplers.levels import Level, Method

Moments = tuple[jax.Array, jax.Array]

# The draw of a step that belongs to the forward kernel before it; methods count from 0.
_KERNEL_DRAW = 2**31 - 1


class Trajectory(NamedTuple):
  """A reverse run, noise to data: n + 1 times and states, and the n denoised estimates.

  n counts the falling steps; where the grid rises, the state is the one before the rise.
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
  """Draws from the model by running a reverse process from noise to data, q_T = p_0 (eq. 12).

  Args:
    key: consumed. One key, or an array of keys whose shape leads `shape`: then each sample's noise
      is its own key's, whatever batch it rides in. Noise is drawn by threefry, from the words of
      the key where it is of another kind (`noise.threefry`).
    denoise: (x_t, t) → E[x₀ | xₜ], x_t with any leading axes, t a scalar in the path's time. A
      `predictions.Denoiser` makes the same samples, bit for bit, along every path on one grid.
    path: any path; it need not be the one that the model was trained with.
    shape: of the result, leading axes included.
    method: defaults to `ddim()`. grid: defaults to `karras(40)`; see the module.
    initial: the state at the grid's first level, xₜ = α x₀ + σ ε on `path`; drawn from N(0, σ²I)
      where it is not given. With a noised example it is SDEdit (Meng et al. 2022).
    moments: mean and variance of the data, of one example's shape, or mean (d,) and covariance
      (d, d): the first state is then drawn from N(α m, α²S + σ²I), which is wrong by the data's
      third moments only (at ρ_max = 20, a KL of 1e-11 in the place of 1e-5).
    brownian: `samplers.brownian()`: the noise of a stochastic method is one Brownian path of the
      key, the same on every grid, so that finer grids converge sample by sample.

  Returns:
    The state at the grid's last level, of shape `shape`, in the default float type: x₀ with no
    noise left where the grid ends at ρ = 0, the last D, or what a method whose history reaches the
    clean end extrapolates from it.

  Jit-, vmap-, grad- and shard_map-able. An eager call is traced anew, so that it runs the model as
  it is now; what is compiled is reused for every call of the same structure: parameters, labels,
  grids, η and other arrays and numbers of the method may change, and so may the object that holds
  them. Tracing a network takes about as long as `jax.eval_shape` of it; a loop over many short runs
  is faster under a `jax.jit` of your own, with the parameters as an argument. Peak memory does not
  depend on the number of steps.

  Raises:
    ValueError: a grid that does not end with a fall, an `initial` of another shape, both an
      `initial` and `moments`, a D of another shape than its state, or an argument of another kind.
  """
  return _run(key, initial, moments, denoise, path, shape, method, grid, brownian, False)


def trajectory(
    key: jax.Array, denoise: predictions.Denoise, path: Path, *, shape: tuple[int, ...],
    method: Method | None = None, grid: grids.Grid | None = None,
    initial: jax.Array | None = None, moments: Moments | None = None,
    brownian: noise.Brownian | None = None,
) -> Trajectory:
  """`sample`, keeping every state, of law q_t′ = p_{T−t′} (eq. 11): memory grows with the steps."""
  return _run(key, initial, moments, denoise, path, shape, method, grid, brownian, True)


def encode(
    denoise: predictions.Denoise, path: Path, x_0: jax.Array, *, method: Method | None = None,
    grid: grids.Grid | None = None,
) -> jax.Array:
  """The noise that the probability-flow ODE makes of data: `sample` backwards (DDIM inversion).

  The data are taken as the states at the grid's last positive level, and the grid is climbed from
  there. `sample` with the result as its `initial`, and the same grid and method, returns the data
  up to the error of the method.

  Args:
    denoise, path: as in `sample`. x_0: data at unit scale, any leading axes.
    method: deterministic; defaults to `ddim()`. grid: a falling one; defaults to `karras(40)`.

  Returns:
    xₜ at the grid's first level, of the shape of x_0.

  Raises:
    ValueError: a method that takes noise or keeps a momentum, or a grid that does not fall.
  """
  method, grid = _choices(denoise, path, method, grid)
  if levels.is_random(method):
    raise ValueError("encode follows the probability-flow ODE: its method must have stochasticity "
                     f"0, no churn and no corrector, got stochasticity {method.stochasticity}")
  rho = grids.levels_of(grid, path)
  positive = rho[rho > 0.0]
  if len(positive) < 2 or not np.all(np.diff(positive) < 0.0):
    raise ValueError(f"encode climbs a falling grid of at least 2 positive levels, got rho={rho}")
  nodes = levels.lay(positive[::-1], path)
  planned = Plan(nodes, method.plan(nodes, path), None, None)
  x_0 = jnp.asarray(x_0, jnp.result_type(x_0, float))
  key = jax.random.key(0)  # of draws that an ODE does not make

  def climb(planned, x_0):
    first = levels.pick(planned.levels, 0)
    initial = (first.alpha * first.scale).astype(x_0.dtype) * x_0
    return run(planned, key, initial, None, model=levels.model(denoise), shape=x_0.shape,
               method=method)

  return _programs.call(climb, planned, x_0)


def _run(key, initial, moments, denoise, path, shape, method, grid, brownian, keep):
  shape = tuple(shape)
  method, grid = _choices(denoise, path, method, grid)
  if initial is not None and moments is not None:
    raise ValueError("give either an initial state or the moments that it is drawn with, not both")
  initial = noise.initial_state(initial, shape)
  key = noise.threefry(key)
  if key.shape != shape[:key.ndim]:
    raise ValueError(f"keys of shape {key.shape} must lead the shape {shape} of the samples")
  planned = plan(path, method, grid, brownian)
  depth = 0 if brownian is None else brownian.depth
  model = (levels.both if method.takes_pairs else levels.model)(denoise)
  return _programs.call(
      lambda planned, key, initial, moments: run(
          planned, key, initial, moments, model=model, shape=shape, method=method, keep=keep,
          depth=depth),
      planned, key, initial, moments)


def _choices(denoise, path, method, grid) -> tuple[Method, grids.Grid]:
  """Method and grid, or what stands for them where they are not given; all four are checked."""
  check_kinds(denoise, path, method=method, grid=grid)
  return (linear.ddim() if method is None else method,
          grids.karras(40) if grid is None else grid)


def check_kinds(
    denoise: Any, path: Any, *, method: Any = None, grid: Any = None, name: str = "method"
) -> None:
  """Raises ValueError, saying what to pass, where an argument is of another kind; None is fine."""
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
  """What a run needs besides keys and model, made on the host: arrays with leading axis n (+ 1).

  kernel is None for a grid that only falls, places where there is no Brownian path.
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
      one that rises, or what the method refuses.
  """
  rho = grids.levels_of(grid, path)
  rises = np.flatnonzero(np.diff(rho) > 0.0)
  nodes = levels.lay(rho, path)
  if not len(rises):
    places = None
    if brownian is not None and not splitting.is_zero(method.stochasticity):
      places = noise.positions(nodes, method.stochasticity, path, brownian.depth)
    return Plan(nodes, method.plan(nodes, path), places, None)
  if brownian is not None:
    raise ValueError("a Brownian path needs a grid that falls: a rise draws fresh noise")
  starts, ends = np.append(0, rises + 1), np.append(rises, len(rho) - 1)
  falls = [np.arange(a, b + 1) for a, b in zip(starts, ends, strict=True)]
  parts = [method.plan(levels.pick(nodes, fall), path) for fall in falls]
  numbers = jax.tree.map(
      lambda *leaves: splitting.namespace(leaves).concatenate(leaves), *parts)
  climbed = np.concatenate([np.append(i > 0, np.zeros(len(fall) - 2, bool))
                            for i, fall in enumerate(falls)])
  kernel = _kernel(levels.pick(nodes, rises), levels.pick(nodes, rises + 1), climbed)
  states = np.append(0, np.concatenate([fall[1:] for fall in falls]))
  return Plan(levels.pick(nodes, states), numbers, None, kernel)


def _kernel(low: Level, high: Level, climbed: np.ndarray) -> Kernel:
  """The kernel from `low` to `high` where a step was `climbed` to, and nothing elsewhere."""
  m, c = np.ones(len(climbed)), np.zeros(len(climbed))
  # STEP with Λ = −h: D drops out.
  m[climbed], _, c[climbed] = splitting.weights(
      low.alpha, low.sigma, high.alpha, high.sigma, low.half_log_snr - high.half_log_snr)
  clean = low.sigma == 0.0
  m[climbed] = np.where(clean, high.alpha, m[climbed])
  return Kernel(m, c)


def run(
    planned: Plan, key: jax.Array, initial: jax.Array | None, moments: Moments | None, *,
    model: levels.Model, shape: tuple[int, ...], method: Method, keep: bool = False,
    depth: int = 0,
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
  x = _programs.varying_as(x, lambda x: model(x, first))
  at = lambda place: noise.value(key_steps, like, place, depth)

  def step(carry, now):
    i, numbers, place, kernel = now
    x, history, y = carry
    own = noise.fold(key_steps, i)
    if kernel is not None:
      x = kernel.m * x + kernel.c * noise.normal(noise.fold(own, _KERNEL_DRAW), x)
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
  (x_0, *_), states = _programs.scan(
      step, carry, (steps, planned.numbers, ends, planned.kernel))
  if not keep:
    return planned.levels.scale[-1] * x_0
  scale = planned.levels.scale.reshape(-1, *[1] * len(shape))
  x = jnp.concatenate([x[None], states[0]])
  return Trajectory(planned.levels.t, x * jnp.broadcast_to(scale, x.shape), states[1])
