"""The likelihood of held-out data under a trained model: nats per example and bits per dimension.

All values are in the units of the data. Integer grey levels have a probability, for which there are
two bounds. The first spreads each level uniformly over its cell; it is loose for a model that has
learned integers. The second adds noise of a quarter of a level and decodes the level again. Other
data have a density, that of the model at noise level ρ_min. Tokens have a probability, and the
bound of the jump process. Labels are used if there are some;
guidance is not part of the model.
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
from experiments.run import assembly, conditions, multihost
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import discrete, likelihood
from langevin_jax.training import shardings

# Up to this number of dimensions the exact divergence is the default: random probes add noise.
EXACT_UP_TO = 16
_NOISE = 0.25  # in grey levels
_LEVELS = 64  # noise levels in the bound of tokens, of each part
_PARTS = 16  # number of parts of the data in the bound; each part draws its own noise levels


class Settings(NamedTuple):
  """The values of the flags; 0 and "" mean "not given"."""

  samples: int
  divergence: str
  steps: int


def check(settings: Settings, sampling: config_lib.Sampling) -> None:
  """Raises ValueError for settings that are not allowed. It needs no run."""
  build.at_least("likelihood_samples", settings.samples, 0)
  build.at_least("likelihood_steps", settings.steps, 1)
  if settings.divergence not in ("", "exact", "hutchinson"):
    raise ValueError(f"--divergence must be exact or hutchinson, got {settings.divergence!r}")
  if samplers_from_config.is_guided(sampling):
    raise ValueError("--likelihood is of the model itself, not of a guided one: leave --guidance "
                     f"at 1, got {calls.short(sampling.guidance, 'guidance')}")
  if sampling.clip:
    raise ValueError("--likelihood is of the model itself, not of a clipped one: leave --clip out")


class _Pass(NamedTuple):
  """One quantity, in nats for each example: `nats(params, *arguments)`.

  key, name: of the results. size: number of examples at once. is_density: whether it is a density
  in standard units; otherwise it is a probability.
  """

  key: str
  name: str
  nats: Callable[..., jax.Array]
  arguments: tuple[Any, ...]
  size: int
  is_density: bool


def check_run(
    run: assembly.Run, sampling: config_lib.Sampling, path: build.Path, settings: Settings
) -> None:
  """Traces the computation of `rows`, so that its errors are raised before it starts.

  Raises:
    ValueError: settings that the likelihood does not allow, or a network without derivatives.
  """
  if run.dataset.codec is not None:
    raise ValueError("--likelihood: this run is a model of latents, whose density is not that of "
                     "the examples they stand for")
  params = assembly.abstract_state(run).params
  for pass_ in _passes(run, sampling, path, settings)[0]:
    index, _ = next(_groups(count(run, settings), pass_.size, shardings.batch_shards(run.mesh)))
    try:
      jax.eval_shape(pass_.nats, params, *_take(pass_.arguments, index))
    except TypeError as error:  # jax raises it for a network without a forward-mode derivative
      raise ValueError(f"--likelihood: the network cannot be differentiated: "
                       f"{multihost.first_line(error)}") from error


def rows(
    run: assembly.Run, params: Any, sampling: config_lib.Sampling, path: build.Path,
    settings: Settings, progress: Callable[[int], None],
) -> tuple[list[Result], dict[str, Any]]:
  """(rows of the evaluation, the settings for the record).

  Args:
    progress: called with the amount of work that is done; the total is `work`.

  Raises:
    ValueError: an exact divergence does not fit in memory.
  """
  dataset, n = run.dataset, count(run, settings)
  x, d = dataset.test[:n], math.prod(dataset.test.shape[1:])
  passes, facts = _passes(run, sampling, path, settings)
  # Converts a density in standard units to the units of the data.
  log_det = standardize.log_det(dataset.scale, dataset.test.shape[1:])
  values = {}
  for i, pass_ in enumerate(passes):
    values[pass_.key] = log_det * pass_.is_density + _compute(
        run.mesh, params, pass_.nats, pass_.arguments, pass_.size,
        lambda done, i=i: progress(i * n + done))

  floor, table = None, []
  names = {pass_.key: pass_.name for pass_ in passes}
  if run.config.data.name == "mixture2d":
    truth = mixture_metrics.mixture(dataset)
    floor = mixture_metrics.entropy(truth) + log_det
    # Both densities are at the same points and noise level: the difference is the model's error.
    gap = values["nll"] - log_det + np.asarray(
        truth.log_prob(jnp.asarray(x), 1.0, samplers_from_config.ends(sampling)[0]))
    table.append(_row("kl_held_out", "KL(data‖model), nats, held-out points", gap, gap, 1.0, 0.0))
  for key, nats in values.items():
    # Examples of a part of the bound share their noise levels: only the parts are independent.
    size = _part_size(n)
    independent = [nats[i:i + size].mean() for i in range(0, n, size)] if "bound" in key else nats
    table.append(_row(f"{key}_nats", f"{names[key]}, nats", nats, independent, 1.0, floor))
    ending, unit = ("token", "bits a token") if dataset.vocabulary else ("dim", "bits/dim")
    table.append(_row(f"{key}_bits_per_{ending}", f"{names[key]}, {unit}", nats, independent,
                      d * math.log(2.0), floor))
  return table, facts


class _Nats(NamedTuple):
  """Functions (params, keys, x, labels) → nats of each example, x (n, *shape) in standard units.

  noise: the ρ from which grey levels are decoded, or at which the density is taken.
  ends: the range of ρ of the sampler. moments: of the data, for the prior, or None.
  decode: as in `likelihood.bound`, or None.
  """

  run: assembly.Run
  path: build.Path
  steps: int
  divergence: str
  noise: float
  ends: tuple[float, float]
  moments: Any
  decode: Callable[..., jax.Array] | None

  def density(self, params, keys, x, labels) -> jax.Array:
    """−log q by the probability-flow ODE."""
    return self._flow(params, keys, x, labels, self.ends[0])

  def decoded(self, params, keys, x, labels) -> jax.Array:
    """An upper bound on −log P of grey levels, by the ODE from a noisy example.

      −log P(x) ≤ E[−log q(z) − log P(x | z) + log q(z | x)],   z = x + ρ ξ
    """
    keys = jax.vmap(jax.random.split)(keys)
    xi = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys[:, 1])
    z = x + self.noise * xi
    # The ½ ‖ξ‖² of the last term is kept, not replaced by its mean: it cancels the noise of the
    # first term if the model is certain of the levels.
    decoding = jnp.sum(self.decode(z, x, self.noise) + 0.5 * xi**2, axis=tuple(range(1, x.ndim)))
    log_normal = -0.5 * math.prod(x.shape[1:]) * math.log(2.0 * math.pi * self.noise**2)
    return self._flow(params, keys[:, 0], z, labels, self.noise) - decoding + log_normal

  def bound(self, params, keys, x, labels) -> jax.Array:
    """The upper bound on −log q or −log P by the SDE, η = 1."""
    return likelihood.bound(
        keys[0], drawing.denoiser(self.run, params, self.path, labels), self.path, x,
        decode=self.decode, rho_min=self.noise, rho_max=self.ends[1], moments=self.moments,
        batch_axes=1)

  def tokens(self, params, keys, x, labels) -> jax.Array:
    """The upper bound on −log P of tokens."""
    return discrete.objectives.elbo(
        keys[0], drawing.denoiser(self.run, params, self.path, labels), self.path, x,
        levels=_LEVELS)

  def _flow(self, params, keys, x, labels, rho_min) -> jax.Array:
    """−log q at noise level ρ_min, by the probability-flow ODE."""
    return -likelihood.log_prob(
        keys, drawing.denoiser(self.run, params, self.path, labels), self.path, x,
        steps=self.steps, divergence=self.divergence, rho_min=rho_min, rho_max=self.ends[1],
        moments=self.moments, batch_axes=1)


def _passes(
    run: assembly.Run, sampling: config_lib.Sampling, path: build.Path, settings: Settings
) -> tuple[list[_Pass], dict[str, Any]]:
  """(the quantities that are computed, in order; the settings for the record)."""
  dataset, n = run.dataset, count(run, settings)
  x, d = dataset.test[:n], math.prod(dataset.test.shape[1:])
  if dataset.conditions:
    labels = conditions.of_examples(dataset, np.arange(n), held_out=True)
  else:
    labels = dataset.test_labels[:n] if dataset.num_classes else np.zeros(n, np.int32)
  if dataset.vocabulary:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(run.config.evaluation.seed), jnp.arange(n))
    nats = _Nats(run, path, settings.steps, "", 0.0, (0.0, math.inf), None, None)
    return [_Pass("nll_bound", "−log P ≤", nats.tokens, (keys, x, labels), _part_size(n), False)
            ], {"n": n, "levels": _LEVELS, "dimensions": d}
  divergence = settings.divergence or ("exact" if d <= EXACT_UP_TO else "hutchinson")
  ends = samplers_from_config.ends(sampling)
  # Only images have integer grey levels, and images have one scale.
  noise = max(ends[0], _NOISE / float(dataset.scale)) if dataset.integers else ends[0]
  decode = likelihood.decoder(jnp.asarray(_grey_levels(dataset))) if dataset.integers else None
  # The prior is the distribution from which samples start.
  nats = _Nats(run, path, settings.steps, divergence, noise, ends,
               data.moments(dataset) if sampling.moments else None, decode)
  # Every example has its own keys.
  keys = [jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
          for key in jax.random.split(jax.random.key(run.config.evaluation.seed), 4)]
  size = drawing.batch_size(run.mesh, sampling, n)
  if divergence == "exact":
    # The tangents of a batch must fit in memory. The library refuses an example that does not fit.
    largest = likelihood.flow.TANGENT_LIMIT_BYTES // (4 * d * d)
    size = max(min(size, largest) // jax.device_count(), 1) * jax.device_count()
  part = _part_size(n)
  facts = {"n": n, "divergence": divergence, "steps": settings.steps, "dimensions": d,
           "discrete": dataset.integers, "rho_min": noise, "rho_max": ends[1]}
  if not dataset.integers:
    return [_Pass("nll", "−log q (ODE)", nats.density, (keys[0], x, labels), size, True),
            _Pass("nll_bound", "−log q ≤ (η = 1)", nats.bound, (keys[2], x, labels), part,
                  True)], facts
  uniform = np.asarray(jax.vmap(lambda key, x: likelihood.dequantise(
      key, x, mean=float(dataset.mean), scale=float(dataset.scale)))(
          keys[3], np.round(data.restore(dataset, x))))
  noise_text = "noise of ¼ level"
  return [
      _Pass("nll_even", "−log P ≤ (ODE, even over cells)", nats.density, (keys[0], uniform, labels),
            size, True),
      _Pass("nll_noise", f"−log P ≤ (ODE, {noise_text})", nats.decoded, (keys[1], x, labels), size,
            False),
      _Pass("nll_bound", f"−log P ≤ (η = 1, {noise_text})", nats.bound, (keys[2], x, labels), part,
            False)], facts


def _part_size(n: int) -> int:
  """The number of examples that share noise levels in the bound. It does not depend on the mesh."""
  return -(-n // min(_PARTS, n))


def count(run: assembly.Run, settings: Settings) -> int:
  """The number of held-out examples that are used: `settings.samples`, or all in memory."""
  return min(settings.samples or data.count_in_memory(run.dataset.test), len(run.dataset.test))


def work(run: assembly.Run, settings: Settings) -> int:
  """The total work of `rows`: the number of examples times the number of quantities."""
  quantities = 1 if run.dataset.vocabulary else 3 if run.dataset.integers else 2
  return count(run, settings) * quantities


def _row(key: str, label: str, values, independent, unit: float, floor: float | None) -> Result:
  """The mean of `values` in a unit. Its error is that of the mean of the `independent` values."""
  independent = np.asarray(independent) / unit
  n = len(independent)
  error = float(independent.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
  return Result(key, label, float(np.mean(values)) / unit, None if floor is None else floor / unit,
                len(values), error)


def _grey_levels(dataset: data.Dataset) -> np.ndarray:
  """The integer grey levels in the range of the data, in standard units."""
  low, high = dataset.value_range
  return (np.arange(low, high + 1.0) - float(dataset.mean)) / float(dataset.scale)


def _compute(mesh, params, function, arguments, size, progress) -> np.ndarray:
  """`function(params, *arguments)` for all examples (n,), in batches of `size` over the mesh."""
  n = len(arguments[1])
  compiled = jax.jit(function)
  parts = []
  for index, count in _groups(n, size, shardings.batch_shards(mesh)):
    batch = multihost.spread(shardings.batch(mesh), _take(arguments, index))
    parts.append(multihost.fetch(compiled(params, *batch)).astype(np.float64)[:count])
    progress(min(int(index[0]) + size, n))
  return np.concatenate(parts)


def _take(arguments: Any, index: np.ndarray) -> Any:
  """The examples `index` of every array."""
  return jax.tree.map(lambda values: values[index], arguments)


def _groups(n: int, size: int, shards: int) -> Iterator[tuple[np.ndarray, int]]:
  """Yields (indices of a batch, how many of them count), for n examples in batches of `size`.

  The size is padded to a multiple of `shards`. The padding comes last. So the examples that count,
  and their noise, do not depend on `shards`.
  """
  for first in range(0, n, size):
    index = np.arange(first, first + size + -size % shards)
    yield np.minimum(index, n - 1), min(size, n - first)
