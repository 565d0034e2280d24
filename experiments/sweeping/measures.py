"""What arms are compared by: two numbers that mean the same for every arm, and cost little.

  held-out loss   ∫ E‖ε − ε̂‖² dℓ in nats over one range of ℓ, the maximum-likelihood loss (Table 6)
                  of held-out data, whatever the arm was trained on; the same noise for every arm,
                  of as many draws as bring its own standard error below the spread of seeds where
                  the held-out data are enough; that error stands beside it.
                  On the 2-D mixture the exact ε̂'s own is taken off: what is left is the score error
                  that KL(data‖model) is made of, 0 for a perfect model.
  sliced W2       and energy distance, of samples to held-out data in standard units, beside the
                  floor: as many training examples in their place. Noise of samples and held-out
                  examples are the seed's, the same for every arm: intervals over seeds are of both
                  training and sampling, differences of arms are paired in both.

For labelled images, FID on the features of a classifier trained here and label agreement besides,
of the samples at the end. FID is of samples to training images, and its floor that of as many
held-out images, which the classifier has not been fitted to either, to the same ones: FID falls
with the number of images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import build
from experiments.metrics import classifier, distances, mixture_metrics
from experiments.run import assembly
from experiments.sampling import samplers_from_config
from experiments.sweeping import arms
from langevin_jax import objectives, predictions, samplers

LOSS, DISTANCE, ENERGY = "held-out loss", "sliced W2", "energy distance"
FID, AGREEMENT, CALLS = "FID", "label agreement", "network calls"
ERROR = "its standard error"  # of the held-out loss
_LEVELS = 32
# Draws a level: as many as make so many numbers over all levels, within these bounds. On the 2-D
# mixture a draw of all levels has a standard deviation of 0.6 nats, and seeds have 0.01 … 0.1.
_NUMBERS, _FEWEST, _MOST = 2**21, 256, 4096
_SAMPLES = 1000


class HeldOut(NamedTuple):
  """Fixed draws (levels, n, …): example, its x₀ and label, ℓ and ε; `exact` is taken off.

  width: of one level in ℓ.
  """

  example: np.ndarray
  x_0: np.ndarray
  labels: np.ndarray
  ells: np.ndarray
  eps: np.ndarray
  exact: np.ndarray
  width: float


def held_out(run: assembly.Run) -> HeldOut:
  """The draws of the held-out loss, over the noise levels that the run's objective names.

  The midpoint rule in ℓ. Levels take the held-out examples in turn, in random order: data may lie
  class by class.
  """
  dataset, config = run.dataset, run.config
  n = int(np.clip(_NUMBERS // (_LEVELS * dataset.test[0].size), _FEWEST, _MOST))
  rho_min, rho_max = arms.level_ends(config)
  low, high = -np.log(rho_max), -np.log(rho_min)
  width = (high - low) / _LEVELS
  levels = (low + width * (np.arange(_LEVELS) + 0.5)).astype(np.float32)
  rng = np.random.default_rng(config.evaluation.seed)
  order = rng.permutation(len(dataset.test))
  example = order[np.arange(_LEVELS * n) % len(order)].reshape(_LEVELS, n)
  x_0 = dataset.test[example]
  labels = (dataset.test_labels[example] if dataset.num_classes
            else np.zeros(example.shape, np.int32))
  eps = rng.standard_normal(x_0.shape, np.float32)
  floor = np.zeros(example.shape)
  if config.data.name == "mixture2d":
    floor = _exact(mixture_metrics.mixture(dataset), x_0, eps, levels)
  ells = np.broadcast_to(levels[:, None], example.shape)
  return HeldOut(example, x_0, labels, ells, eps, floor, float(width))


def errors(apply: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """(row, seed, params, x₀, labels, ℓ, ε) → ‖ε − ε̂‖²/d of each draw, (levels, n)."""
  def error(row, seed, params, *draws):
    del seed  # the same draws for all

    def level(of_level):
      x_0, labels, ells, eps = of_level
      _, measured = objectives.corrupted_loss(
          lambda x, ell: apply(params, x, ell, labels), x_0, objectives.Corruption(ells, eps),
          weight=jnp.ones_like, prediction=row)
      return measured["eps_error"]

    # A level at a time: the activations of all draws would not fit.
    return jax.lax.map(level, draws)

  return error


def integral(draws: HeldOut, values: np.ndarray) -> tuple[float, float]:
  """(∫ E‖ε − ε̂‖² dℓ in nats from the values of the draws, less the exact one's; standard error).

  The error is that of examples, whose draws are not independent: with cₑ the sum of example e's
  terms, √(n/(n − 1) Σ (cₑ − c̄)²) over the n examples.
  """
  size = draws.width * draws.x_0[0, 0].size / draws.example.shape[1]
  terms = size * (np.asarray(values, np.float64) - draws.exact)
  # Terms about the mean of their level: an example stands at more levels than another.
  apart = np.bincount(draws.example.ravel(), (terms - terms.mean(1, keepdims=True)).ravel())
  n = len(np.unique(draws.example))
  return float(terms.sum()), float(np.sqrt(n / max(n - 1, 1) * np.sum(apart**2)))


def labels(run: assembly.Run) -> np.ndarray:
  """Labels of the samples, as many as there are to be, the same for every arm and seed."""
  n = run.config.evaluation.num_samples or _SAMPLES
  n = min(n, _SAMPLES, len(run.dataset.test) if run.dataset.kind != "image" else _SAMPLES)
  return assembly.data_labels(run, n, run.config.evaluation.seed)


def sampler(run: assembly.Run, n: int) -> Callable[..., jax.Array]:
  """(row, seed, params, labels) → samples (n, *shape) in standard units, by the run's sampling.

  Of the run's config it reads `arms.sampling_fields` and evaluation.seed alone.
  """
  sampling, shape = run.config.sampling, (n, *run.dataset.train.shape[1:])
  path = arms.sampling_path(run.config)
  method, grid, brownian = samplers_from_config.process(sampling, event_axes=len(shape) - 1)
  start = data.moments(run.dataset) if sampling.moments else None

  def sample(row, seed, params, labels):
    key = jax.random.fold_in(jax.random.key(run.config.evaluation.seed), seed)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
    denoise = samplers_from_config.denoiser(
        lambda x, ell, labels: run.apply(params, x, ell, labels), path, labels, sampling,
        null_label=run.dataset.num_classes, prediction=row)
    return samplers.sample(keys, denoise, path, shape=shape, method=method, grid=grid,
                           brownian=brownian, moments=start)

  return sample


def calls(config: config_lib.Config) -> float:
  """Network evaluations for one sample."""
  return samplers_from_config.network_calls(config.sampling, arms.sampling_path(config))


class Judge:
  """Distances of samples to the real data of a run, in `data.judged` units, and their floors.

  Samples come in the run's own standard units.
  """

  def __init__(self, run: assembly.Run, n: int):
    self._own, self._dataset = run.dataset, data.judged(run.dataset)
    self._seed, self._n = run.config.evaluation.seed, n
    # As many images on every side of every FID.
    self._images = min(n, len(run.dataset.train), len(run.dataset.test))
    self._model = None

  def distances(self, x: np.ndarray, seed: int) -> dict[str, float]:
    """Of samples (n, …) to n held-out examples, which the seed chooses."""
    flat = lambda a: np.asarray(a).reshape(len(a), -1)
    real = flat(self._dataset.test[self._chosen(self._dataset.test, seed)])
    fake = flat(self._finished(x))
    return {DISTANCE: distances.sliced_wasserstein2(real, fake, seed=self._seed),
            ENERGY: distances.energy_distance(real, fake)}

  def images(self, x: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """FID to training images, which the seed chooses, and label agreement, of images (n, …).

    Nothing where data are no images or have no labels. FID is of the first so many of `x`, as many
    as its floor can have.
    """
    dataset = self._dataset
    if dataset.kind != "image" or dataset.num_classes < 2 or (
        min(dataset.train.shape[1:3]) < classifier.LEAST_SIDE):
      return {}
    if self._model is None:
      self._model = classifier.train(dataset.train, dataset.train_labels,
                                     num_classes=dataset.num_classes, seed=self._seed)
    features = lambda images: classifier.features(self._model, images)
    real = dataset.train[self._chosen(dataset.train, seed)[:self._images]]
    fake = self._finished(x)
    return {FID: distances.frechet(features(real), features(fake[:self._images])),
            AGREEMENT: classifier.label_agreement(self._model, fake, labels)}

  def floors(self, seed: int) -> dict[str, float]:
    """The same numbers of real data in the place of samples, as many as those."""
    dataset = self._own
    # Where the others are compared with held-out data, training data are the other real set; images
    # are compared with training images, and held-out ones are it.
    train = dataset.train[self._chosen(dataset.train, seed)]
    chosen = self._chosen(dataset.test, seed)
    labels = dataset.test_labels[chosen] if dataset.num_classes else np.zeros(0, np.int32)
    return self.distances(train, seed) | self.images(dataset.test[chosen], labels, seed)

  def _chosen(self, x: np.ndarray, seed: int) -> np.ndarray:
    """Places of n of the examples, drawn from all: data may lie class by class."""
    return np.random.default_rng((self._seed, seed)).permutation(len(x))[:self._n]

  def _finished(self, x: np.ndarray) -> np.ndarray:
    """In the units of judging; images clipped to the data's range and rounded where those are."""
    own, dataset = self._own, self._dataset
    if own is dataset and dataset.value_range is None:
      return x
    x = data.restore(own, x)
    if dataset.value_range is not None:
      x = np.clip(np.round(x) if dataset.integers else x, *dataset.value_range)
    return data.standardise(x, dataset.mean, dataset.scale)


def _exact(truth: Any, x_0: np.ndarray, eps: np.ndarray, levels: np.ndarray) -> np.ndarray:
  """‖ε − ε̂*‖²/d of each draw for the exact denoiser."""
  def error(x_0, eps, ell):
    frame = predictions.unit_frame(ell)
    x = frame.alpha * x_0 + frame.sigma * eps
    best = (x - frame.alpha * truth.denoise(x, frame.alpha, frame.sigma)) / frame.sigma
    return jnp.mean((eps - best) ** 2, axis=-1)

  return np.asarray(jax.jit(jax.vmap(error))(x_0, eps, jnp.asarray(levels)), np.float64)


def check(config: config_lib.Config) -> None:
  """Raises ValueError where a run of this config could not be judged."""
  if config.evaluation.num_samples and config.evaluation.num_samples < 20:
    raise ValueError("config.evaluation.num_samples: must be at least 20, or 0, in a sweep; got "
                     f"{config.evaluation.num_samples}")
  build.at_least("evaluation.num_samples", config.evaluation.num_samples, 0)
