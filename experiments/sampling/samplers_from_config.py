"""Builds the reverse process from `config.sampling`; refuses options that would have no effect.

A process is a method, a grid and a source of noise. `denoiser` adds the model and its guidance.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.config import build, calls
from experiments.sampling import token_sampling
from langevin_jax import conditions, discrete, paths, predictions, samplers
from langevin_jax.samplers import levels, sampling
from langevin_jax.samplers.adaptive import check_tolerance

_MOST_STEPS = 100_000  # a plan holds the coefficients of all its steps in memory
# The range of the likelihood, for grids that have no such arguments.
_RHO_MIN, _RHO_MAX = 0.002, 80.0


class Process(NamedTuple):
  """The arguments of `samplers.sample` besides key, model, path and shape."""

  method: samplers.Method
  grid: samplers.Grid
  brownian: Any = None


def process(config: config_lib.Sampling, event_axes: int = 1) -> Process:
  """The reverse process of `config.sampling`, for examples with `event_axes` axes.

  Raises:
    ValueError: a value that is not allowed, or an option that would have no effect.
  """
  _check_arguments(config)
  sampling_method = method(config, event_axes)
  if config.grid.name == "optimised" and levels.is_random(sampling_method):
    raise ValueError("config.sampling: an optimised grid is for the ODE alone: leave "
                     "stochasticity, churn and correctors out, or pass the optimised levels as "
                     "--grid=explicit(…)")
  if is_adaptive(config) and (config.start_level or config.stop_level):
    raise ValueError("config.sampling: adaptive has no levels to start or stop at: leave "
                     "start_level and stop_level out, or choose another sampler")
  if config.brownian and not is_noisy(config):
    raise ValueError("config.sampling.brownian needs stochasticity > 0: there is no noise without "
                     "it")
  build.at_least("sampling.batch_size", config.batch_size, 1)
  return Process(sampling_method, grid(config), samplers.brownian() if config.brownian else None)


def _check_arguments(config: config_lib.Sampling) -> None:
  """Raises ValueError for arguments that are invalid, or that the sampler would not use.

  Without this check the first group would fail only when samples are drawn.
  """
  field, call = "config.sampling.sampler", config.sampler
  if is_adaptive(config):
    try:
      check_tolerance(call["tolerance"], call["max_steps"])
    except ValueError as error:
      raise ValueError(f"{field}: {error}") from error
    if not 0.0 < call["rho_min"] < call["rho_max"]:
      raise ValueError(f"{field}: rho_min must lie in (0, rho_max), got {call['rho_min']} and "
                       f"{call['rho_max']}")
  if call.name == "adaptive_sde":
    if not 0.0 < call["stochasticity"] < math.inf:
      raise ValueError(f"{field}.stochasticity must be positive, got {call['stochasticity']}: take "
                       "adaptive for the ODE")
    for name in ("moments", "brownian"):
      if getattr(config, name):
        raise ValueError(f"config.sampling.{name} is not for adaptive_sde, which starts at noise "
                         "and has a Brownian path of its own")
  inner = call.get("predictor", call)
  if inner.get("largest_budget", math.inf) < math.inf and not is_noisy(config):
    raise ValueError(f"{field}.largest_budget needs stochasticity > 0: there is no noise to limit")
  if config.grid.name == "optimised":
    build.at_least("sampling.grid.rounds", config.grid["rounds"], 0)


def method(config: config_lib.Sampling, event_axes: int = 1) -> samplers.Method:
  """The sampling method. Adaptive solvers have none: for them it is `ddim`, which is not run."""
  if is_adaptive(config):
    return samplers.ddim()
  found = calls.build(config.sampler, "sampler", "config.sampling.sampler", event_axes=event_axes)
  token_sampling.refuse_continuous(found, config.sampler.name)
  return found


def grid(config: config_lib.Sampling) -> samplers.Grid:
  """The noise levels of `config.sampling`."""
  _check_steps(config.grid)
  n = config.grid.get("n")
  # `optimized_grids` replaces an optimised grid once there are weights. Until then this grid has
  # the same ends and the same number of steps.
  full_grid = (samplers.karras(n, rho_max=config.grid["rho_max"]) if config.grid.name == "optimised"
               else calls.build(config.grid, "grid", "config.sampling.grid"))
  for field in ("start_level", "stop_level"):
    if not 0.0 <= getattr(config, field) < math.inf:
      raise ValueError(f"config.sampling.{field} must be >= 0, got {getattr(config, field)}")
  if not (config.start_level or config.stop_level):
    return full_grid
  try:
    return samplers.within(full_grid, start=config.start_level or math.inf, stop=config.stop_level)
  except ValueError as error:
    raise ValueError(f"config.sampling.start_level, stop_level: {error}") from error


def _check_steps(call: config_lib.Call) -> None:
  """Raises ValueError if a grid, or a grid in its arguments, has too many steps to plan."""
  for name, value in call.arguments:
    if isinstance(value, config_lib.Call):
      _check_steps(value)
    elif name == "n":
      build.at_most("sampling.grid.n", build.at_least("sampling.grid.n", value, 1), _MOST_STEPS)


def check(
    config: config_lib.Sampling, path: build.Path, objective: config_lib.Objective | None = None
) -> None:
  """Checks a process on a path before it runs.

  Args:
    objective: of the trained network; without it, the checks that need it are left out.

  Raises:
    ValueError: as `process`; a grid outside the path; fewer steps than the order; a first level at
      which the network's prediction does not determine x₀.
  """
  if isinstance(path, discrete.paths.Path):
    _check_steps(config.grid)
    token_sampling.check(config, path)
    return
  if objective is not None and objective.autoencoder is not None:
    raise ValueError("this run is an autoencoder, which has no samples of its own: "
                     "experiments.encode writes latents, and a model of these is sampled")
  sampling_method, grid, brownian = process(config)
  # Building the guidance raises its errors; the network is never called.
  denoiser(lambda x, ell, labels: x, path, jnp.zeros((1,), jnp.int32), config, null_label=1,
           prediction=predictions.named("x0"))
  try:
    grid_levels = sampling.plan(path, sampling_method, grid, brownian).levels
  except ValueError as error:
    raise ValueError(f"config.sampling: {error}") from error
  end = float(np.exp(-paths.on_host(path.half_log_snr, np.float64(path.t_max))))
  if config.grid.name == "explicit" and config.grid["rho"][0] > end * (1.0 + 1e-9):
    raise ValueError("config.sampling.grid: explicit must begin at the path's noisiest level "
                     f"{end:.4g} or below, got {config.grid['rho'][0]:g}")
  if objective is not None and not is_adaptive(config):
    _check_start(config, grid_levels, objective)
  if objective is not None and objective.flow_map is None and is_flow_map(config.sampler):
    raise ValueError("config.sampling.sampler=flow_map: the run's network has one noise level; a "
                     "flow map is trained with config.objective.flow_map, such as eulerian()")


def check_whole(config: config_lib.Sampling) -> None:
  """Raises ValueError for a grid that does not reach from noise to clean data."""
  for name in ("start_level", "stop_level"):
    if getattr(config, name):
      raise ValueError(f"config.sampling.{name} is for `sample` alone: an evaluation needs a grid "
                       "from noise to clean data")


def _check_start(
    config: config_lib.Sampling, grid_levels: levels.Level, objective: config_lib.Objective
) -> None:
  """Raises ValueError if the prediction y does not determine x₀ at the first level.

    x₀ = (b x − σ y)/(α b − σ a)

  is undetermined at α = 0 and a = 0: for eps and score at pure noise, ρ = ∞.
  """
  if np.float32(grid_levels.alpha[0]) > 0.0:
    return
  a, _ = build.prediction(objective)(predictions.unit_frame(-math.inf))
  if float(a) == 0.0:
    raise ValueError(
        f"config.sampling.grid={config.grid.name} begins at t={grid_levels.t[0]:g} at pure noise "
        "(noise-to-signal ratio ρ = ∞), where a network of "
        f"objective.prediction={objective.prediction.name} says nothing of the data: take a grid "
        "that begins at a finite level, such as karras or uniform_half_log_snr with rho_max=80")


def ends(config: config_lib.Sampling) -> tuple[float, float]:
  """(ρ_min, ρ_max) of the likelihood: the arguments of the grid, or the defaults."""
  return config.grid.get("rho_min", _RHO_MIN), config.grid.get("rho_max", _RHO_MAX)


def is_adaptive(config: config_lib.Sampling) -> bool:
  """Whether the sampler is an adaptive solver. It chooses its steps and uses no grid."""
  return config.sampler.name in ("adaptive", "adaptive_sde")


def is_flow_map(call: config_lib.Call) -> bool:
  """Whether the sampler, or a sampler in its arguments, is `flow_map`."""
  return call.name == "flow_map" or any(
      is_flow_map(value) for _, value in call.arguments if isinstance(value, config_lib.Call))


def is_guided(config: config_lib.Sampling) -> bool:
  """Whether guidance changes the model. A weight of 1 does not."""
  return config.guidance is not None and config.guidance.get("weight") != 1.0


def is_noisy(config: config_lib.Sampling) -> bool:
  """Whether the sampler adds noise between two levels. The noise of correctors is not counted."""
  call = config.sampler.get("predictor", config.sampler)
  return bool(call.get("stochasticity") or call.get("churn") or call.name == "ddpm")


def network_calls(
    config: config_lib.Sampling, path: build.Path,
    wrap: Callable[[samplers.Method], samplers.Method] = lambda method: method,
) -> float:
  """The number of network evaluations for one sample, counted by running a network that counts.

  Args:
    wrap: maps the method to the one that is run, for example to inpainting, for samples (1, 1).
  """
  if isinstance(path, discrete.paths.Path):
    return token_sampling.network_calls(config, path)
  count = []
  sampling_method, grid, brownian = process(config)

  def network(x, ell, labels, ell_s=None):
    jax.debug.callback(functools.partial(count.append, len(x)))
    return jnp.zeros_like(x)

  denoise = denoiser(network, path, jnp.zeros((1,), jnp.int32), config, null_label=1,
                     prediction=predictions.named("x0"), second_level=True)
  jax.block_until_ready(samplers.sample(
      jax.random.key(0), denoise, path, shape=(1, 1), method=wrap(sampling_method), grid=grid,
      brownian=brownian))
  jax.effects_barrier()
  return sum(count)


def denoiser(
    network: Callable[..., jax.Array], path: paths.Path, labels: jax.Array,
    sampling: config_lib.Sampling | None, *, null_label: int, prediction: predictions.Row,
    second_level: bool = False, bounds: tuple[float, float] | None = None,
) -> predictions.Denoiser:
  """The denoiser `denoise(x_t, t)` of a network (x, ℓ, condition) → a row of Table 5.

  Args:
    labels: the condition: labels (batch,), or named arrays (batch, …).
    sampling: its guidance is applied. null_label: the label that stands for no condition.
    prediction: the row of Table 5. second_level: whether the network is a flow map, a function of
      (x, ℓ, condition, ℓ′). bounds: to which D is clipped, if any.
  """
  named = isinstance(labels, Mapping)
  labels = conditions.complete(labels) if named else labels

  def guided(network):
    if sampling is None or not is_guided(sampling):
      return predictions.denoiser(
          lambda x, ell: network(x, ell, labels), path, prediction=prediction)
    return calls.build(sampling.guidance, "guidance", "config.sampling.guidance", network=network,
                       path=path, condition=labels, null=None if named else null_label,
                       prediction=prediction)

  def average(x, ell, ell_s):
    return guided(lambda x, ell, labels: network(x, ell, labels, ell_s)).at(x, ell)

  found = guided(network)
  if second_level:
    found = dataclasses.replace(found, average=average)
  return found if bounds is None else predictions.clipped(found, path, *bounds)


def title(config: config_lib.Sampling) -> str:
  """The sampler and its guidance as a short text, for a picture."""
  words = calls.short(config.sampler, "sampler") + ", clipped" * config.clip
  return f"{words}, {calls.short(config.guidance, 'guidance')}" if is_guided(config) else words
