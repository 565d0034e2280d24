"""From the config's `sampling` fields to a reverse process; what would do nothing is refused.

A process is a method, a grid and where its noise comes from. The model, and with it guidance, is
`drawing.denoiser`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.config import build
from langevin_jax import guidance, paths, predictions, samplers
from langevin_jax.samplers import correctors, levels, sampling

_MOST_STEPS = 100_000  # of a plan, whose numbers are made before the first one
_STEPS = ("ddim", "euler_maruyama", "multistep", "singlestep", "unipc")
# What a sampler's own options are, and which samplers have them.
TAKERS = {
    "order": ("multistep", "singlestep", "unipc", "adams_bashforth"),
    "prediction": ("multistep", "unipc", "singlestep"),
    "variable": ("multistep", "unipc"),
    "midpoint": ("multistep", "unipc", "singlestep"),
    "largest_budget": ("multistep", "unipc", "singlestep"),
    "stochasticity": _STEPS,
    "churn": ("heun",),
    "churn_noise": ("heun",),
    "noise_interval": (*_STEPS, "heun"),
    "own_time": ("heun",),
    "brownian": _STEPS,
    "tolerance": ("adaptive",),
}
# The same of grids; the two ends have a meaning without a grid, as the ends of the likelihood.
GRIDS = {
    "shift": ("shifted",),
    "levels": ("levels",),
    "rho_min": ("karras", "uniform_half_log_snr"),
    "rho_max": ("karras", "uniform_half_log_snr", "optimised"),
}
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(config_lib.Sampling)}
# What is a polynomial, and in what, for the samplers that leave it open; and their own choice.
_POLYNOMIAL = {"prediction": "x0", "variable": "half_log_snr"}
# What is of a corrector, and of nothing without one.
CORRECTOR = ("corrections", "corrector_budget", "corrector_snr", "corrector_friction")


class Process(NamedTuple):
  """What `samplers.sample` takes besides key, model, path and shape."""

  method: samplers.Method
  grid: samplers.Grid
  brownian: Any = None


def process(config: config_lib.Sampling, event_axes: int = 1) -> Process:
  """The reverse process of `config.sampling`, for examples of `event_axes` axes.

  Raises:
    ValueError: a name or value that is not allowed, or an option that the sampler does not have.
  """
  for field in ("stochasticity", "churn", "corrector_budget", "corrector_snr",
                "corrector_friction", "churn_noise", "tolerance", "start_level", "stop_level",
                "largest_budget"):
    if not 0.0 <= getattr(config, field) < math.inf:
      raise ValueError(f"sampling.{field} must be >= 0, got {getattr(config, field)}")
  build.at_least("sampling.order", config.order, 0)
  build.at_least("sampling.corrections", config.corrections, 0)
  for name, takers in TAKERS.items():
    if changed(config, name) and config.sampler not in takers:
      belongs_to(name, "sampler", takers, config.sampler)
  for name, needs, given in (
      ("noise_interval", "stochasticity or churn", is_noisy(config)),
      ("churn_noise", "churn", config.churn), ("brownian", "stochasticity", config.stochasticity),
      ("largest_budget", "stochasticity", config.stochasticity)):
    if changed(config, name) and not given:
      raise ValueError(f"sampling.{name} needs {needs} > 0: there is no noise without it")
  check_guidance(config)
  for what, is_so in (("adaptive", config.sampler == "adaptive"),
                      ("an optimised grid", config.grid == "optimised")):
    if is_so and (config.corrector or is_noisy(config) or config.sampler == "annealed_langevin"):
      raise ValueError(f"sampling: {what} is for the ODE alone: leave stochasticity, churn and "
                       "corrector out, or pass the levels that it found as --levels")
  if config.sampler == "adaptive" and (config.start_level or config.stop_level):
    raise ValueError("sampling: adaptive has no levels to start or stop at: leave start_level and "
                     "stop_level out, or choose another sampler")
  moved = method(config)
  if config.sampler != "annealed_langevin" and config.corrector:
    moved = samplers.predictor_corrector(
        moved, corrector(config, event_axes), config.corrections or 1)
  elif config.sampler == "annealed_langevin":
    moved = samplers.annealed_langevin(
        corrector(dataclasses.replace(config, corrector=config.corrector or "euler"), event_axes),
        config.corrections or 100)
  elif given := [name for name in CORRECTOR if changed(config, name)]:
    raise ValueError(f"sampling.{given[0]} belongs to a corrector, and there is none: choose "
                     "corrector exact, euler, midpoint or baoab")
  return Process(moved, grid(config), samplers.brownian() if config.brownian else None)


def method(config: config_lib.Sampling) -> samplers.Method:
  """The sampling method of `config.sampling`, without its corrector."""
  low, high = _interval("sampling.noise_interval", config.noise_interval)
  eta = config.stochasticity
  if config.noise_interval:
    eta = _within(eta, low, high)
  order = config.order or 2
  polynomial = {name: getattr(config, name) for name in _POLYNOMIAL if getattr(config, name)}
  rule = {"midpoint": config.midpoint, "largest_budget": config.largest_budget or math.inf}
  return build.choose("sampling.sampler", config.sampler, {
      "ddim": lambda: samplers.ddim(eta),
      "euler": samplers.euler,
      "euler_maruyama": lambda: samplers.euler_maruyama(eta),
      "heun": lambda: samplers.heun(config.churn, churn_min=low, churn_max=high,
                                    noise_scale=config.churn_noise, own_time=config.own_time),
      "multistep": lambda: samplers.multistep(order, eta, **polynomial, **rule),
      "singlestep": lambda: samplers.singlestep(order, eta, **polynomial, **rule),
      "unipc": lambda: samplers.unipc(order, eta, **polynomial, **rule),
      "adams_bashforth": lambda: samplers.adams_bashforth(order),
      "annealed_langevin": samplers.ddim,  # its corrector is the whole of it: see `process`
      "adaptive": samplers.ddim,  # is no method, but a solver of its own: see reverse.batches
  })


def corrector(config: config_lib.Sampling, event_axes: int) -> samplers.Corrector:
  """The identity step of `config.sampling.corrector`."""
  if config.corrector_snr and config.corrector not in ("exact", "euler"):
    belongs_to("corrector_snr", "corrector", ("exact", "euler"), config.corrector)
  if config.corrector_friction and config.corrector != "baoab":
    belongs_to("corrector_friction", "corrector", ("baoab",), config.corrector)
  if config.corrector_snr and config.corrector_budget:
    raise ValueError("sampling.corrector_budget and sampling.corrector_snr are two rules for one "
                     f"step size: give one, got {config.corrector_budget} and "
                     f"{config.corrector_snr}")
  size = {"budget": config.corrector_budget} if config.corrector_budget else {}
  rule = size
  if config.corrector_snr:
    rule = {"budget": correctors.snr(config.corrector_snr, event_axes=event_axes)}
  return build.choose("sampling.corrector", config.corrector, {
      "exact": lambda: correctors.exact(**rule),
      "euler": lambda: correctors.euler(**rule),
      "midpoint": lambda: correctors.midpoint(**size),
      "baoab": lambda: correctors.baoab(**size, friction=config.corrector_friction or 1.0),
  })


def grid(config: config_lib.Sampling) -> samplers.Grid:
  """The noise levels of `config.sampling`."""
  n = build.at_least("sampling.steps", config.steps, 1)
  build.at_most("sampling.steps", n, _MOST_STEPS)
  build.at_least("sampling.batch_size", config.batch_size, 1)
  if not config.rho_max < math.inf:
    raise ValueError(f"sampling.rho_max must be finite, got {config.rho_max}")
  if not config.shift > 0.0:
    raise ValueError(f"sampling.shift must be positive, got {config.shift}")
  for name in ("shift", "levels"):
    if changed(config, name) and config.grid not in GRIDS[name]:
      belongs_to(name, "grid", GRIDS[name], config.grid)
  ends = {"rho_min": config.rho_min, "rho_max": config.rho_max}
  whole = build.choose("sampling.grid", config.grid, {
      "karras": lambda: samplers.karras(n, **ends),
      "uniform_half_log_snr": lambda: samplers.uniform_half_log_snr(n, **ends),
      "uniform_time": lambda: samplers.uniform_time(n),
      "cosine": lambda: samplers.cosine(n),
      "shifted": lambda: samplers.shifted(n, config.shift),
      "levels": lambda: _own_levels(config.levels),
      # Until there are weights to optimise it for (optimal.py), its ends and its length.
      "optimised": lambda: samplers.karras(n, **ends),
  })
  if not (config.start_level or config.stop_level):
    return whole
  try:
    return samplers.within(whole, start=config.start_level or math.inf, stop=config.stop_level)
  except ValueError as error:
    raise ValueError(f"sampling.start_level, stop_level: {error}") from error


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
  try:
    at = sampling.plan(path, moved, grid).levels
  except ValueError as error:
    raise ValueError(f"config.sampling: {error}") from error
  if objective is not None and config.sampler != "adaptive":
    _check_start(config, at, objective)


def check_whole(config: config_lib.Sampling) -> None:
  """Raises ValueError where samples would not begin at noise and end as data."""
  for name in ("start_level", "stop_level"):
    if getattr(config, name):
      raise ValueError(f"sampling.{name} is for `sample` alone: what is judged begins at noise and "
                       "ends clean")


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
        f"sampling.grid={config.grid} begins at t={at.t[0]:g} at pure noise (noise-to-signal ratio "
        f"ρ = ∞), where a network of objective.prediction={objective.prediction} says nothing of "
        "the data: take a grid that begins at a finite level, such as karras or "
        "uniform_half_log_snr with rho_max=80")


def check_guidance(config: config_lib.Sampling) -> None:
  """Raises ValueError for a guidance that is not allowed, or options of one that is not there."""
  if not math.isfinite(config.guidance):
    raise ValueError(f"sampling.guidance must be finite, got {config.guidance}")
  if not 0.0 <= config.guidance_rescale <= 1.0:
    raise ValueError(f"sampling.guidance_rescale must lie in [0, 1], got {config.guidance_rescale}")
  guided_interval(config)
  for name in ("guidance_interval", "guidance_rescale"):
    if changed(config, name) and config.guidance == 1.0:
      raise ValueError(f"sampling.{name} belongs to guidance, and guidance=1 is none")


def guided_interval(config: config_lib.Sampling) -> tuple[float, float]:
  """(ρ_lo, ρ_hi] of the guidance."""
  return _interval("sampling.guidance_interval", config.guidance_interval)


def resolved(config: config_lib.Sampling) -> dict[str, Any]:
  """The fields with the numbers that are used in the place of "the sampler's own"."""
  fields = dataclasses.asdict(config)
  if config.grid == "levels":
    fields["steps"] = len(_positive(config.levels))
  if config.sampler in TAKERS["order"]:
    fields["order"] = config.order or 2
  if config.sampler == "adaptive":
    fields |= {"tolerance": tolerance(config), "steps": None}
  fields |= {name: fields[name] or own for name, own in _POLYNOMIAL.items()
             if config.sampler in TAKERS[name]}
  annealed = config.sampler == "annealed_langevin"
  if annealed or config.corrector:
    fields["corrector"] = config.corrector or "euler"
    fields["corrections"] = config.corrections or (100 if annealed else 1)
    if not config.corrector_snr:
      own = 0.1 if fields["corrector"] in ("exact", "euler") else 0.2
      fields["corrector_budget"] = config.corrector_budget or own
    if config.corrector == "baoab":
      fields["corrector_friction"] = config.corrector_friction or 1.0
  return fields


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

  denoise = guidance.classifier_free(
      network, path, jnp.zeros((1,), jnp.int32), null_label=1, weight=config.guidance,
      interval=guided_interval(config), rescale=config.guidance_rescale)
  jax.block_until_ready(samplers.sample(
      jax.random.key(0), denoise, path, shape=(1, 1), method=wrap(moved), grid=grid,
      brownian=brownian))
  jax.effects_barrier()
  return sum(count)


def tolerance(config: config_lib.Sampling) -> float:
  """Of the adaptive solver."""
  return config.tolerance or 1e-4


def is_noisy(config: config_lib.Sampling) -> bool:
  """Whether noise is taken between two levels."""
  return config.stochasticity > 0.0 or config.churn > 0.0


def title(config: config_lib.Sampling) -> str:
  """The sampler in a few words, for a picture."""
  words = [config.sampler]
  if config.sampler in TAKERS["order"]:
    words.append(f"order {config.order or 2}")
  if config.sampler in _STEPS:
    words.append(f"η = {config.stochasticity:g}")
  if config.churn:
    words.append(f"churn {config.churn:g}")
  if config.corrector:
    words.append(f"{config.corrections or 1} × {config.corrector}")
  if config.guidance != 1.0:
    words.append(f"guidance {config.guidance:g}")
  return ", ".join(words)


def changed(config: config_lib.Sampling, name: str) -> bool:
  """Whether a field is not at its default."""
  return getattr(config, name) != _DEFAULTS[name]


def belongs_to(name: str, kind: str, takers: tuple[str, ...], got: str) -> None:
  """Raises the ValueError of an option that would be ignored."""
  raise ValueError(f"sampling.{name} belongs to {kind} {' or '.join(takers)}; {got!r} has none")


@functools.lru_cache
def _within(eta: float, low: float, high: float) -> Callable[[jax.Array], jax.Array]:
  """η(ℓ): `eta` for ρ in [low, high], 0 outside."""
  ell_low = -math.log(high) if high < math.inf else -math.inf
  ell_high = -math.log(low) if low > 0.0 else math.inf
  return lambda ell: jnp.where((ell >= ell_low) & (ell <= ell_high), eta, 0.0)


def _interval(name: str, values: tuple[float, ...]) -> tuple[float, float]:
  if not values:
    return guidance.EVERYWHERE
  if len(values) != 2 or not 0.0 <= values[0] < values[1]:
    raise ValueError(f"{name} must be two noise-to-signal ratios 0 <= lo < hi, got {values}")
  return values


def _positive(values: tuple[float, ...]) -> tuple[float, ...]:
  """The levels without the clean end, which may be written out or not."""
  return values[:-1] if values and values[-1] == 0.0 else values


@functools.lru_cache
def _own_levels(values: tuple[float, ...]) -> samplers.Grid:
  values = _positive(values)
  if not values:
    raise ValueError("sampling.levels must be given, noise-to-signal ratios such as 80,20,5,1,.2")
  try:
    own = samplers.explicit(values)
  except ValueError as error:
    raise ValueError(f"sampling.levels: {error}") from error

  def at(path):
    end = float(np.exp(-paths.on_host(path.half_log_snr, np.float64(path.t_max))))
    if values[0] > end * (1.0 + 1e-9):
      raise ValueError(f"levels must begin at the path's noisiest level {end:.4g} or below, got "
                       f"{values[0]:g}")
    return own(path)

  return at
