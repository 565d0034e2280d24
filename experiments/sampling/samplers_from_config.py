"""From the config's `sampling` fields to a reverse process; what would do nothing is refused.

A process is a method, a grid and where its noise comes from. The model, and with it guidance, is
`drawing.denoiser`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.config import build, calls
from langevin_jax import paths, predictions, samplers
from langevin_jax.samplers import levels, sampling

_MOST_STEPS = 100_000  # of a plan, whose numbers are made before the first one
# What the likelihood begins and ends at where the grid has no ends of its own.
_RHO_MIN, _RHO_MAX = 0.002, 80.0


class Process(NamedTuple):
  """What `samplers.sample` takes besides key, model, path and shape."""

  method: samplers.Method
  grid: samplers.Grid
  brownian: Any = None


def process(config: config_lib.Sampling, event_axes: int = 1) -> Process:
  """The reverse process of `config.sampling`, for examples of `event_axes` axes.

  Raises:
    ValueError: a value that is not allowed, or an option that would do nothing.
  """
  moved = method(config, event_axes)
  random = levels.is_random(moved)
  for what, is_so in (("adaptive", is_adaptive(config)),
                      ("an optimised grid", config.grid.name == "optimised")):
    if is_so and random:
      raise ValueError(f"config.sampling: {what} is for the ODE alone: leave stochasticity, churn "
                       "and correctors out, or pass the levels that it found as "
                       "--grid=explicit(…)")
  if is_adaptive(config) and (config.start_level or config.stop_level):
    raise ValueError("config.sampling: adaptive has no levels to start or stop at: leave "
                     "start_level and stop_level out, or choose another sampler")
  if config.brownian and not is_noisy(config):
    raise ValueError("config.sampling.brownian needs stochasticity > 0: there is no noise without "
                     "it")
  build.at_least("sampling.batch_size", config.batch_size, 1)
  return Process(moved, grid(config), samplers.brownian() if config.brownian else None)


def method(config: config_lib.Sampling, event_axes: int = 1) -> samplers.Method:
  """The sampling method; of `adaptive`, which is no method, the ODE's first-order one."""
  if is_adaptive(config):
    return samplers.ddim()
  return calls.build(config.sampler, "sampler", "config.sampling.sampler", event_axes=event_axes)


def grid(config: config_lib.Sampling) -> samplers.Grid:
  """The noise levels of `config.sampling`."""
  _check_steps(config.grid)
  n = config.grid.get("n")
  # Until there are weights to optimise it for (`optimized_grids`), its ends and its length.
  whole = (samplers.karras(n, rho_max=config.grid["rho_max"]) if config.grid.name == "optimised"
           else calls.build(config.grid, "grid", "config.sampling.grid"))
  for field in ("start_level", "stop_level"):
    if not 0.0 <= getattr(config, field) < math.inf:
      raise ValueError(f"config.sampling.{field} must be >= 0, got {getattr(config, field)}")
  if not (config.start_level or config.stop_level):
    return whole
  try:
    return samplers.within(whole, start=config.start_level or math.inf, stop=config.stop_level)
  except ValueError as error:
    raise ValueError(f"config.sampling.start_level, stop_level: {error}") from error


def _check_steps(call: config_lib.Call) -> None:
  """Raises ValueError where a grid, or one inside it, has more steps than can be planned."""
  for name, value in call.arguments:
    if isinstance(value, config_lib.Call):
      _check_steps(value)
    elif name == "n":
      build.at_most("sampling.grid.n", build.at_least("sampling.grid.n", value, 1), _MOST_STEPS)


def check(
    config: config_lib.Sampling, path: paths.Path, objective: config_lib.Objective | None = None
) -> None:
  """Everything that can be said of a process on a path before it runs.

  Args:
    objective: of the network that is run, where it is known.

  Raises:
    ValueError: as `process`; a grid that the path cannot have, or fewer steps than the order; a
      first level at which the network's prediction says nothing of the data.
  """
  moved, grid, _ = process(config)
  # What guides is made of a network that is never called, for the sake of its errors.
  denoiser(None, path, jnp.zeros((1,), jnp.int32), config, null_label=1,
           prediction=predictions.named("x0"))
  try:
    at = sampling.plan(path, moved, grid).levels
  except ValueError as error:
    raise ValueError(f"config.sampling: {error}") from error
  end = float(np.exp(-paths.on_host(path.half_log_snr, np.float64(path.t_max))))
  if config.grid.name == "explicit" and config.grid["rho"][0] > end * (1.0 + 1e-9):
    raise ValueError("config.sampling.grid: explicit must begin at the path's noisiest level "
                     f"{end:.4g} or below, got {config.grid['rho'][0]:g}")
  if objective is not None and not is_adaptive(config):
    _check_start(config, at, objective)


def check_whole(config: config_lib.Sampling) -> None:
  """Raises ValueError where samples would not begin at noise and end as data."""
  for name in ("start_level", "stop_level"):
    if getattr(config, name):
      raise ValueError(f"config.sampling.{name} is for `sample` alone: what is judged begins at "
                       "noise and ends clean")


def _check_start(
    config: config_lib.Sampling, at: levels.Level, objective: config_lib.Objective
) -> None:
  """Raises ValueError where D at the first level is not determined: x₀ = (b x − σ y)/(α b − σ a).

  That is so where α = 0 and a = 0: of eps and score at pure noise, ρ = ∞.
  """
  if np.float32(at.alpha[0]) > 0.0:
    return
  a, _ = build.prediction(objective)(predictions.unit_frame(-math.inf))
  if float(a) == 0.0:
    raise ValueError(
        f"config.sampling.grid={config.grid.name} begins at t={at.t[0]:g} at pure noise "
        "(noise-to-signal ratio ρ = ∞), where a network of "
        f"objective.prediction={objective.prediction.name} says nothing of the data: take a grid "
        "that begins at a finite level, such as karras or uniform_half_log_snr with rho_max=80")


def ends(config: config_lib.Sampling) -> tuple[float, float]:
  """(ρ_min, ρ_max) of the likelihood: the grid's, where it has them as arguments."""
  return config.grid.get("rho_min", _RHO_MIN), config.grid.get("rho_max", _RHO_MAX)


def is_adaptive(config: config_lib.Sampling) -> bool:
  """Whether the sampler is the adaptive solver, which is no method on a grid."""
  return config.sampler.name == "adaptive"


def is_guided(config: config_lib.Sampling) -> bool:
  """Whether guidance changes the model: a weight of 1 does not."""
  return config.guidance is not None and config.guidance.get("weight") != 1.0


def is_noisy(config: config_lib.Sampling) -> bool:
  """Whether the sampler itself takes noise between two levels, a corrector's set aside."""
  call = config.sampler.get("predictor", config.sampler)
  return bool(call.get("stochasticity") or call.get("churn") or call.name == "ddpm")


def network_calls(
    config: config_lib.Sampling, path: paths.Path,
    wrap: Callable[[samplers.Method], samplers.Method] = lambda method: method,
) -> float:
  """Evaluations of the network for one sample, counted while a model that counts is run.

  `wrap` makes of the method, for samples of shape (1, 1), the one that is run.
  """
  count = []
  moved, grid, brownian = process(config)

  def network(x, ell, labels):
    jax.debug.callback(functools.partial(count.append, len(x)))
    return jnp.zeros_like(x)

  denoise = denoiser(network, path, jnp.zeros((1,), jnp.int32), config, null_label=1,
                     prediction=predictions.named("x0"))
  jax.block_until_ready(samplers.sample(
      jax.random.key(0), denoise, path, shape=(1, 1), method=wrap(moved), grid=grid,
      brownian=brownian))
  jax.effects_barrier()
  return sum(count)


def denoiser(
    network: Callable[..., jax.Array], path: paths.Path, labels: jax.Array,
    sampling: config_lib.Sampling | None, *, null_label: int, prediction: predictions.Row,
) -> predictions.Denoiser:
  """A network (x, ℓ, labels) → a row of Table 5 as `denoise(x_t, t)`, under guidance if asked."""
  if sampling is None or not is_guided(sampling):
    return predictions.denoiser(lambda x, ell: network(x, ell, labels), path, prediction=prediction)
  return calls.build(sampling.guidance, "guidance", "config.sampling.guidance", network=network,
                     path=path, labels=labels, null_label=null_label, prediction=prediction)


def title(config: config_lib.Sampling) -> str:
  """The sampler in a few words, for a picture."""
  words = calls.short(config.sampler, "sampler")
  return f"{words}, {calls.short(config.guidance, 'guidance')}" if is_guided(config) else words
