"""How likely a trained model finds held-out data: nats an example, bits a dimension, and bounds.

Everything is in the data's own units. Whole grey levels have a probability, which is bounded twice:
spread evenly over their cells, where a model that has learned whole levels puts little, and with
noise of a quarter of a level, from which the level is read off again. Other data have a density, of
the model blurred by ρ_min. Labels are given where there are some; guidance is none of the model.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import build, calls
from experiments.data import standardize
from experiments.metrics import mixture_metrics
from experiments.metrics.result import Result
from experiments.run import assembly, multihost
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import likelihood, paths
from langevin_jax.training import shardings

# Up to so many dimensions an exact divergence costs less than the noise of a probe is worth.
EXACT_UP_TO = 16
_NOISE = 0.25  # of a grey level
_PARTS = 16  # of the data for the bound, each with levels of its own


class Settings(NamedTuple):
  """What the flags ask for; 0 and "" mean "not given"."""

  samples: int
  divergence: str
  steps: int


def check(settings: Settings, sampling: config_lib.Sampling) -> None:
  """Raises ValueError for settings that are not allowed, before a run is loaded."""
  build.at_least("likelihood_samples", settings.samples, 0)
  build.at_least("likelihood_steps", settings.steps, 1)
  if settings.divergence not in ("", "exact", "hutchinson"):
    raise ValueError(f"--divergence must be exact or hutchinson, got {settings.divergence!r}")
  if samplers_from_config.is_guided(sampling):
    raise ValueError("--likelihood is of the model itself, not of a guided one: leave --guidance "
                     f"at 1, got {calls.short(sampling.guidance, 'guidance')}")


class _Pass(NamedTuple):
  """Nats of each example: `nats(params, *arguments)`, so many examples at once.

  key: of the results. is_density: they are of a density in standard units; otherwise of what has a
  probability.
  """

  key: str
  name: str
  nats: Callable[..., jax.Array]
  arguments: tuple[Any, ...]
  size: int
  is_density: bool


def check_run(
    run: assembly.Run, sampling: config_lib.Sampling, path: paths.Path, settings: Settings
) -> None:
  """Raises, as `rows` would, before anything is computed: traces what `rows` computes.

  Raises:
    ValueError: what the likelihood or the network's derivatives refuse.
  """
  params = assembly.abstract_state(run).params
  for each in _passes(run, sampling, path, settings)[0]:
    index, _ = next(_groups(count(run, settings), each.size, shardings.batch_shards(run.mesh)))
    try:
      jax.eval_shape(each.nats, params, *(a[index] for a in each.arguments))
    except TypeError as error:  # jax's answer for a network without a forward-mode derivative
      raise ValueError(f"--likelihood: the network cannot be differentiated: "
                       f"{multihost.first_line(error)}") from error


def rows(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: paths.Path,
    settings: Settings, progress: Callable[[int], None],
) -> tuple[list[Result], dict[str, Any]]:
  """Rows of the evaluation's table, and the facts.

  `progress` is told of what is done, `work` in all.

  Raises:
    ValueError: an exact divergence that would not fit in memory.
  """
  dataset, n = run.dataset, count(run, settings)
  x, d = dataset.test[:n], math.prod(dataset.test.shape[1:])
  passes, facts = _passes(run, sampling, path, settings)
  # From a density in standard units to one in the data's own.
  nats = standardize.log_det(dataset.scale, dataset.test.shape[1:])
  values = {}
  for i, each in enumerate(passes):
    values[each.key] = nats * each.is_density + _batches(
        run.mesh, params, each.nats, each.arguments, each.size,
        lambda done, i=i: progress(i * n + done))

  floor, table = None, []
  parts = {each.key: each.name for each in passes}
  if run.config.data.name == "mixture2d":
    truth = mixture_metrics.mixture(dataset)
    floor = mixture_metrics.entropy(truth) + nats
    # The same points by the same blur: what is left is the model's.
    gap = values["nll"] - nats + np.asarray(
        truth.log_prob(jnp.asarray(x), 1.0, samplers_from_config.ends(sampling)[0]))
    table.append(_row("kl_held_out", "KL(data‖model), nats, held-out points", gap, gap, 1.0, 0.0))
  for key, each in values.items():
    # Examples of a part share their levels: there the parts are what is independent.
    part = _part(n)
    apart = [each[i:i + part].mean() for i in range(0, n, part)] if "bound" in key else each
    table.append(_row(f"{key}_nats", f"{parts[key]}, nats", each, apart, 1.0, floor))
    table.append(_row(f"{key}_bits_per_dim", f"{parts[key]}, bits/dim", each, apart,
                      d * math.log(2.0), floor))
  return table, facts


def _passes(
    run: assembly.Run, sampling: config_lib.Sampling, path: paths.Path, settings: Settings
) -> tuple[list[_Pass], dict[str, Any]]:
  """What is computed of every example, in order, and the facts of it."""
  dataset = run.dataset
  n = count(run, settings)
  x, d = dataset.test[:n], math.prod(dataset.test.shape[1:])
  labels = dataset.test_labels[:n] if dataset.num_classes else np.zeros(n, np.int32)
  divergence = settings.divergence or ("exact" if d <= EXACT_UP_TO else "hutchinson")
  # The prior has the moments that samples start from.
  moments = data.moments(dataset) if sampling.moments else None
  least, rho_max = samplers_from_config.ends(sampling)
  ends = {"rho_max": rho_max, "moments": moments, "batch_axes": 1}
  # Whole grey levels are those of images, which have one scale.
  rho_min = max(least, _NOISE / float(dataset.scale)) if dataset.integers else least
  grey = _grey_levels(dataset) if dataset.integers else None
  decode = likelihood.decoder(jnp.asarray(grey)) if dataset.integers else None
  # Every example has keys, and with them noise, of its own.
  keys = [jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
          for key in jax.random.split(jax.random.key(run.config.evaluation.seed), 4)]

  def flow(params, keys, x, labels, rho_min):
    return -likelihood.log_prob(
        keys, drawing.denoiser(run, params, path, labels), path, x, steps=settings.steps,
        divergence=divergence, rho_min=rho_min, **ends)

  def density(params, keys, x, labels):
    return flow(params, keys, x, labels, least)

  def decoded(params, keys, x, labels):
    keys = jax.vmap(jax.random.split)(keys)
    xi = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys[:, 1])
    z = x + rho_min * xi
    # −log P(x) ≤ E[−log q(z) − log P(x | z) + log q(z | x)], z = x + ρ ξ. Where the model knows
    # the levels, the ½ ‖ξ‖² of the first and of the last cancel: no entropy in its place.
    given = jnp.sum(decode(z, x, rho_min) + 0.5 * xi**2, axis=tuple(range(1, x.ndim)))
    log_normal = -0.5 * d * math.log(2.0 * math.pi * rho_min**2)
    return flow(params, keys[:, 0], z, labels, rho_min) - given + log_normal

  def bound(params, keys, x, labels):
    return likelihood.bound(keys[0], drawing.denoiser(run, params, path, labels), path, x,
                            decode=decode, rho_min=rho_min, **ends)

  size = drawing.batch_size(run.mesh, sampling, n)
  if divergence == "exact":
    # The tangents of a batch must fit; a single example that does not is refused by the library.
    largest = likelihood.flow.TANGENT_LIMIT_BYTES // (4 * d * d)
    size = max(min(size, largest) // jax.device_count(), 1) * jax.device_count()
  part = _part(n)
  if dataset.integers:
    even = np.asarray(jax.vmap(lambda key, x: likelihood.dequantise(
        key, x, mean=float(dataset.mean), scale=float(dataset.scale)))(
            keys[3], np.round(data.restore(dataset, x))))
    noise = "noise of ¼ level"
    passes = [
        _Pass("nll_even", "−log P ≤ (ODE, even over cells)", density, (keys[0], even, labels), size,
              True),
        _Pass("nll_noise", f"−log P ≤ (ODE, {noise})", decoded, (keys[1], x, labels), size, False),
        _Pass("nll_bound", f"−log P ≤ (η = 1, {noise})", bound, (keys[2], x, labels), part, False)]
  else:
    passes = [_Pass("nll", "−log q (ODE)", density, (keys[0], x, labels), size, True),
              _Pass("nll_bound", "−log q ≤ (η = 1)", bound, (keys[2], x, labels), part, True)]
  return passes, {
      "n": n, "divergence": divergence, "steps": settings.steps, "dimensions": d,
      "discrete": dataset.integers, "rho_min": rho_min, "rho_max": rho_max}


def _part(n: int) -> int:
  """Examples that share their levels in the bound; the same whatever the mesh."""
  return -(-n // min(_PARTS, n))


def count(run: assembly.Run, settings: Settings) -> int:
  """How many held-out examples are judged: all (of shards, `data.taken`), or the first so many."""
  return min(settings.samples or data.count_taken(run.dataset.test), len(run.dataset.test))


def work(run: assembly.Run, settings: Settings) -> int:
  """How much `rows` tells of: examples, as often as they are gone through."""
  return count(run, settings) * (3 if run.dataset.integers else 2)


def _row(key: str, label: str, each, apart, unit: float, floor: float | None) -> Result:
  """The mean of `each`, of which `apart` are independent."""
  apart = np.asarray(apart) / unit
  error = float(apart.std(ddof=1) / math.sqrt(len(apart))) if len(apart) > 1 else math.nan
  return Result(key, label, float(np.mean(each)) / unit, None if floor is None else floor / unit,
                len(each), error)


def _grey_levels(dataset: data.Dataset) -> np.ndarray:
  """The whole grey levels of the data's range, in standard units."""
  low, high = dataset.value_range
  return (np.arange(low, high + 1.0) - float(dataset.mean)) / float(dataset.scale)


def _batches(mesh, params, function, arguments, size, progress) -> np.ndarray:
  """`function(params, *arguments)` of examples, `size` at a time, as many on every device."""
  n = len(arguments[1])
  compiled = jax.jit(function)
  parts = []
  for index, count in _groups(n, size, shardings.batch_shards(mesh)):
    batch = multihost.spread(shardings.batch(mesh), tuple(a[index] for a in arguments))
    parts.append(multihost.fetch(compiled(params, *batch)).astype(np.float64)[:count])
    progress(min(int(index[0]) + size, n))
  return np.concatenate(parts)


def _groups(n: int, size: int, shards: int) -> Iterator[tuple[np.ndarray, int]]:
  """(examples, how many of them count): `size` of n at a time, all groups alike.

  What counts is the same for any `shards`. The rest fills up what they divide; it comes last, where
  jax's noise for the rows before it does not depend on it.
  """
  for first in range(0, n, size):
    index = np.arange(first, first + size + -size % shards)
    yield np.minimum(index, n - 1), min(size, n - first)
