"""How likely a trained model finds held-out data: nats an example, bits a dimension, and bounds.

Everything is in the data's own units. Whole grey levels are spread evenly over their cells first,
so that a mean log-density is a lower bound of their log-probability; other data have a density, of
the model blurred by ρ_min. Labels are given where there are some; guidance is none of the model.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import build, data, exact, runs
from experiments import config as config_lib
from langevin_jax import likelihood, paths

# Up to so many dimensions an exact divergence costs less than the noise of a probe is worth.
EXACT_UP_TO = 16
_PARTS = 16  # of the data for the bound, each with levels of its own


class Settings(NamedTuple):
  """What the flags ask for; 0 and "" mean "not given"."""

  samples: int
  divergence: str
  steps: int


class Measured(NamedTuple):
  """Mean of n numbers and its standard error."""

  mean: float
  error: float
  n: int


def check(settings: Settings, sampling: config_lib.Sampling) -> None:
  """Raises ValueError for settings that are not allowed, before a run is loaded."""
  build.at_least("likelihood_samples", settings.samples, 0)
  build.at_least("likelihood_steps", settings.steps, 1)
  if settings.divergence not in ("", "exact", "hutchinson"):
    raise ValueError(f"--divergence must be exact or hutchinson, got {settings.divergence!r}")
  if sampling.guidance != 1.0:
    raise ValueError("--likelihood is of the model itself, not of a guided one: leave --guidance "
                     f"at 1, got {sampling.guidance:g}")


def rows(
    run: runs.Run, params: Any, sampling: config_lib.Sampling, path: paths.Path,
    settings: Settings, progress: Callable[[int], None],
) -> tuple[list, dict[str, Any]]:
  """Rows of the evaluation's table, and the facts with their standard errors.

  `progress` is told of held-out examples done, twice each: once for the flow, once for the bound.

  Raises:
    ValueError: an exact divergence that would not fit in memory.
  """
  dataset = run.dataset
  n = count(run, settings)
  x, d = dataset.test[:n], math.prod(dataset.test.shape[1:])
  labels = dataset.test_labels[:n] if dataset.num_classes else np.zeros(n, np.int32)
  divergence = settings.divergence or ("exact" if d <= EXACT_UP_TO else "hutchinson")
  # The prior has the moments that samples start from.
  moments = runs.moments(dataset) if sampling.moments else None
  ends = {"rho_min": sampling.rho_min, "rho_max": sampling.rho_max, "moments": moments}
  scale = float(dataset.scale)
  nats = d * math.log(scale)  # from standard units into the data's own

  # Every example has keys, and with them noise, of its own.
  keys = [jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
          for key in jax.random.split(jax.random.key(run.config.evaluation.seed), 3)]
  if dataset.integers:
    whole = np.round(data.restore(dataset, x))
    x = np.asarray(jax.vmap(lambda key, x: likelihood.dequantise(
        key, x, mean=float(dataset.mean), scale=scale))(keys[2], whole))

  def flow(params, keys, x, labels):
    return likelihood.log_prob(
        keys, runs.denoiser(run, params, path, labels), path, x, steps=settings.steps,
        divergence=divergence, batch_axes=1, **ends)

  def bound(params, keys, x, labels):
    return likelihood.bound(
        keys[0], runs.denoiser(run, params, path, labels), path, x, batch_axes=1, **ends)

  size = runs.batch_size(sampling, n)
  if divergence == "exact":
    # The tangents of a batch must fit; a single example that does not is refused by the library.
    largest = likelihood.flow.TANGENT_LIMIT_BYTES // (4 * d * d)
    size = max(min(size, largest) // jax.device_count(), 1) * jax.device_count()
  part = -(-n // min(_PARTS, n))
  part += -part % jax.device_count()
  density = nats - _batches(flow, params, (keys[0], x, labels), size, progress)
  upper = nats + _batches(
      bound, params, (keys[1], x, labels), part, lambda done: progress(n + done))
  # Examples of a part share their levels: the parts are what is independent.
  means = [upper[i:i + part].mean() for i in range(0, n, part)]
  ode = Measured(float(density.mean()), _error(density), n)
  sde = Measured(float(upper.mean()), _error(means), n)

  floor = None
  facts = {"n": n, "divergence": divergence, "steps": settings.steps, "dimensions": d,
           "discrete": dataset.integers, "rho_min": ends["rho_min"], "rho_max": ends["rho_max"]}
  table = []
  if run.config.data.name == "mixture2d":
    truth = exact.mixture(dataset)
    floor = exact.entropy(truth) + nats
    # The same points by the same blur: what is left is the model's.
    gap = density - nats + np.asarray(truth.log_prob(jnp.asarray(x), 1.0, sampling.rho_min))
    table.append(_row("KL(data‖model), nats, held-out points", Measured(
        float(gap.mean()), _error(gap), n), 0.0))
  what = "−log P" if dataset.integers else "−log q"
  equals = "≤, dequantised" if dataset.integers else "="
  for name, measured in ((f"{what} {equals} (ODE)", ode), (f"{what} ≤ (η = 1 bound)", sde)):
    table.append(_row(f"{name}, nats", measured, floor))
    table.append(_row(f"{name}, bits/dim", Measured(
        *(value / (d * math.log(2.0)) for value in measured[:2]), n),
        None if floor is None else floor / (d * math.log(2.0))))
  facts["values"] = {name: {"value": value, "standard_error": error}
                     for (name, value, _), error in table}
  return [row for row, _ in table], facts


def count(run: runs.Run, settings: Settings) -> int:
  """How many held-out examples are judged: all, or the first so many."""
  return min(settings.samples or len(run.dataset.test), len(run.dataset.test))


def _row(name: str, measured: Measured, floor: float | None) -> tuple[tuple, float]:
  row = f"{name} (± {measured.error:.2g}, n = {measured.n})", measured.mean, floor
  return row, measured.error


def _batches(function, params, arguments, size, progress) -> np.ndarray:
  """`function(params, *arguments)` of examples, `size` at a time, the last batch filled up."""
  n = len(arguments[1])
  compiled = jax.jit(function)
  params = jax.device_put(params, runs.sharding())
  parts = []
  for first in range(0, n, size):
    index = np.minimum(np.arange(first, first + size), n - 1)
    batch = jax.device_put(tuple(a[index] for a in arguments), runs.sharding("data"))
    parts.append(np.asarray(compiled(params, *batch), np.float64)[:n - first])
    progress(min(first + size, n))
  return np.concatenate(parts)


def _error(values) -> float:
  """Standard error of a mean; of a single value it is not known."""
  values = np.asarray(values)
  return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
