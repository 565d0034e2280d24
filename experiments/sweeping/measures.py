"""The metrics of a sweep. They have the same meaning for every arm, and cost little.

  held-out loss   ∫ E‖ε − ε̂‖² dℓ of held-out data, in nats, over one range of ℓ. This is the
                  maximum-likelihood loss (Table 6), whatever the objective of the arm. All arms and
                  seeds use the same draws. Their number brings the standard error below the spread
                  over seeds. On the 2-D mixture the loss of the exact ε̂ is subtracted. The rest is
                  the score error of KL(data‖model), 0 for a perfect model. Of tokens it is the
                  bound of −log P in nats a token: the integral of `discrete.objectives.rate`.
  sliced W2,      between samples and held-out data in standard units. The floor uses the same
  energy distance number of training examples in place of samples. The seed of an arm is also the
                  seed of the samples and of the choice of examples: arms are paired in both.
  FID, label      for labelled images, with the features of a classifier that is trained here. FID
  agreement       is between samples and training images. Its floor uses the same number of held-out
                  images, because FID falls with the number of images, and because the classifier
                  was not fitted to them.
n-gram bits       of a token of samples, under the n-gram of the training text, in the place of
                  distances. The floor is that of held-out text.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import build
from experiments.metrics import classifier, distances, mixture_metrics, ngrams
from experiments.run import assembly, conditions
from experiments.sampling import drawing, samplers_from_config, token_sampling
from experiments.sweeping import arms
from langevin_jax import conditions as conditions_lib
from langevin_jax import discrete, objectives, predictions, samplers

LOSS, DISTANCE, ENERGY = "held-out loss", "sliced W2", "energy distance"
FID, AGREEMENT, CALLS = "FID", "label agreement", "network calls"
NGRAM = "n-gram bits"
ERROR = "its standard error"  # of the held-out loss
_LEVELS = 32
# The draws of all levels have _NUMBERS numbers in total; draws per level are within these bounds.
# On the 2-D mixture one draw at every level has a standard deviation of 0.6 nats. The standard
# deviation over the seeds of an arm is 0.01 to 0.1 nats.
_NUMBERS, _FEWEST, _MOST = 2**21, 256, 4096
_NOISIEST = 1e5  # ρ of the noisiest level; beyond it is next to nothing of the integral
_SAMPLES = 1000


class HeldOut(NamedTuple):
  """Fixed draws (levels, n, …) of the held-out loss.

  example: index of the example. x_0, labels: of the example. ells, eps: ℓ and ε, or noisy tokens.
  exact: ‖ε − ε̂‖²/d of the exact model, which is subtracted, or 0. width: the step between levels
    in ℓ, times d of numbers.
  """

  example: np.ndarray
  x_0: np.ndarray
  labels: Any
  ells: np.ndarray
  eps: np.ndarray
  exact: np.ndarray
  width: float


def held_out(run: assembly.Run) -> HeldOut:
  """The draws of the held-out loss, over the noise levels of the run's objective.

  Levels are those of the midpoint rule in ℓ. They use the held-out examples in turn. The order of
  examples is random, because data may be sorted by class.
  """
  dataset, config = run.dataset, run.config
  tokens = isinstance(run.path, discrete.paths.Path)
  n = _FEWEST if tokens else int(
      np.clip(_NUMBERS // (_LEVELS * dataset.test[0].size), _FEWEST, _MOST))
  rho_min, rho_max = arms.level_ends(config)
  low, high = -np.log(min(rho_max, _NOISIEST)), -np.log(rho_min)
  width = (high - low) / _LEVELS
  levels = (low + width * (np.arange(_LEVELS) + 0.5)).astype(np.float32)
  rng = np.random.default_rng(config.evaluation.seed)
  order = rng.permutation(len(dataset.test))
  example = order[np.arange(_LEVELS * n) % len(order)].reshape(_LEVELS, n)
  x_0 = dataset.test[example]
  labels = (conditions.of_examples(dataset, example, held_out=True) if dataset.conditions
            else dataset.test_labels[example] if dataset.num_classes
            else np.zeros(example.shape, np.int32))
  ells = np.broadcast_to(levels[:, None], example.shape)
  if tokens:
    eps = discrete.paths.corrupt(
        jax.random.key(config.evaluation.seed), x_0, jax.nn.sigmoid(ells), run.path)
    return HeldOut(example, x_0, labels, ells, np.asarray(eps), np.zeros(example.shape),
                   float(width))
  eps = rng.standard_normal(x_0.shape, np.float32)
  exact = np.zeros(example.shape)
  if config.data.name == "mixture2d":
    exact = _exact_errors(mixture_metrics.mixture(dataset), x_0, eps, levels)
  return HeldOut(example, x_0, labels, ells, eps, exact, float(width) * x_0[0, 0].size)


def errors(
    apply: Callable[..., jax.Array], path: build.Path | None = None
) -> Callable[..., jax.Array]:
  """A function (row, seed, params, x₀, labels, ℓ, ε) → ‖ε − ε̂‖²/d of each draw, (levels, n).

  On a `path` of tokens it is `discrete.objectives.rate` for each token.
  """
  def error(row, seed, params, *draws):
    del seed  # all seeds use the same draws

    def level_error(level_draws):
      x_0, labels, ells, eps = level_draws
      if isinstance(labels, dict):
        labels = conditions_lib.complete(labels)
      network = lambda x, ell: apply(params, x, ell, labels)
      if isinstance(path, discrete.paths.Path):
        found = discrete.objectives.corrupted_loss(
            network, x_0, discrete.objectives.Corruption(ells, eps), path, weight=jnp.ones_like)
        return found[1]["error"] * jax.nn.sigmoid(ells) * jax.nn.sigmoid(-ells)
      _, metrics = objectives.corrupted_loss(
          network, x_0, objectives.Corruption(ells, eps), weight=jnp.ones_like, prediction=row)
      return metrics["eps_error"]

    # One level at a time: the activations of all levels may not fit in memory.
    return jax.lax.map(level_error, draws)

  return error


def integral(draws: HeldOut, values: np.ndarray) -> tuple[float, float]:
  """(∫ E‖ε − ε̂‖² dℓ in nats, minus that of the exact model; its standard error).

  Of tokens it is the bound of −log P, in nats a token, between the ends of the levels.

  Draws of one example are not independent. With cₑ the sum of the terms of example e, the standard
  error is

    √(n/(n − 1) Σ (cₑ − c̄)²)  over the n examples.

  Args:
    values: ‖ε − ε̂‖²/d of each draw, (levels, n).
  """
  size = draws.width / draws.example.shape[1]
  terms = size * (np.asarray(values, np.float64) - draws.exact)
  # The mean of each level is subtracted, because examples may be at different numbers of levels.
  deviations = np.bincount(draws.example.ravel(), (terms - terms.mean(1, keepdims=True)).ravel())
  n = len(np.unique(draws.example))
  return float(terms.sum()), float(np.sqrt(n / max(n - 1, 1) * np.sum(deviations**2)))


def labels(run: assembly.Run) -> Any:
  """The labels (n,) or conditions of the samples, the same for all arms and seeds."""
  n = run.config.evaluation.num_samples or _SAMPLES
  n = min(n, _SAMPLES, len(run.dataset.test) if run.dataset.kind != "image" else _SAMPLES)
  return assembly.data_labels(run, n, run.config.evaluation.seed)


def sampler(run: assembly.Run, n: int) -> Callable[..., jax.Array]:
  """A function (row, seed, params, labels) → samples (n, *shape) in standard units.

  It depends only on `arms.sampling_fields` and evaluation.seed of the run's config.
  """
  sampling, shape = run.config.sampling, (n, *run.dataset.train.shape[1:])
  path = arms.sampling_path(run.config, len(run.dataset.vocabulary))

  def keys(seed):
    key = jax.random.fold_in(jax.random.key(run.config.evaluation.seed), seed)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))

  if isinstance(path, discrete.paths.Path):
    draw = token_sampling.sampler(
        lambda params, labels: drawing.denoiser(run, params, path, labels, sampling), sampling,
        path, shape, discrete.samplers.sample)
    return lambda row, seed, params, labels: draw(params, keys(seed), labels, None, None)
  method, grid, brownian = samplers_from_config.process(sampling, event_axes=len(shape) - 1)
  start = data.moments(run.dataset) if sampling.moments else None

  def sample(row, seed, params, labels):
    denoise = samplers_from_config.denoiser(
        lambda x, ell, labels, *ell_s: run.apply(params, x, ell, labels, *ell_s), path, labels,
        sampling, null_label=run.dataset.num_classes, prediction=row,
        second_level=run.config.objective.flow_map is not None)
    return samplers.sample(keys(seed), denoise, path, shape=shape, method=method, grid=grid,
                           brownian=brownian, moments=start)

  return sample


def calls(config: config_lib.Config) -> float:
  """The number of network evaluations for one sample."""
  return samplers_from_config.network_calls(config.sampling, arms.sampling_path(config))


class Judge:
  """Distances of samples to the real data of a run, in `data.in_comparison_units`, with floors.

  Samples are passed in the standard units of the run. Tokens have the bits of an n-gram instead.
  """

  def __init__(self, run: assembly.Run, n: int):
    self._run_dataset, self._dataset = run.dataset, data.in_comparison_units(run.dataset)
    self._seed, self._n = run.config.evaluation.seed, n
    # Every FID compares this number of images with the same number.
    self._images = min(n, len(run.dataset.train), len(run.dataset.test))
    self._model = None
    self._ngram = run.dataset.vocabulary and ngrams.NGram(
        ngrams.training_segments(run.dataset), len(run.dataset.vocabulary))

  def distances(self, x: np.ndarray, seed: int) -> dict[str, float]:
    """Distances of samples (n, *shape) to n held-out examples that the seed chooses, by metric."""
    if self._ngram:
      return {NGRAM: float(self._ngram.bits(np.asarray(x)).mean())}
    flat = lambda a: np.asarray(a).reshape(len(a), -1)
    real = flat(self._dataset.test[self._choice(self._dataset.test, seed)])
    fake = flat(self._to_comparison_units(x))
    return {DISTANCE: distances.sliced_wasserstein2(real, fake, seed=self._seed),
            ENERGY: distances.energy_distance(real, fake)}

  def images(self, x: np.ndarray, labels: Any, seed: int) -> dict[str, float]:
    """FID to training images that the seed chooses, and label agreement, of images (n, *shape).

    Returns an empty dict if the data are not labelled images. FID uses the first images of x, as
    many as there are for its floor.
    """
    dataset = self._dataset
    if dataset.kind != "image" or dataset.num_classes < 2 or (
        min(dataset.train.shape[1:3]) < classifier.LEAST_SIDE):
      return {}
    if self._model is None:
      self._model = classifier.train(dataset.train, dataset.train_labels,
                                     num_classes=dataset.num_classes, seed=self._seed)
    features = lambda images: classifier.features(self._model, images)
    real = dataset.train[self._choice(dataset.train, seed)[:self._images]]
    fake = self._to_comparison_units(x)
    return {FID: distances.frechet(features(real), features(fake[:self._images])),
            AGREEMENT: classifier.label_agreement(
                self._model, fake, labels["label"] if isinstance(labels, dict) else labels)}

  def floors(self, seed: int) -> dict[str, float]:
    """The metrics of the same number of real examples in place of samples."""
    dataset = self._run_dataset
    # Distances are to held-out data, so their floor uses training data. FID is to training images,
    # so its floor uses held-out images.
    index = self._choice(dataset.test, seed)
    train = dataset.test[index] if self._ngram else (
        dataset.train[self._choice(dataset.train, seed)])
    labels = dataset.test_labels[index] if dataset.num_classes else np.zeros(0, np.int32)
    return self.distances(train, seed) | self.images(dataset.test[index], labels, seed)

  def _choice(self, x: np.ndarray, seed: int) -> np.ndarray:
    """Random indices of n examples of x, because data may be sorted by class."""
    return np.random.default_rng((self._seed, seed)).permutation(len(x))[:self._n]

  def _to_comparison_units(self, x: np.ndarray) -> np.ndarray:
    """Samples in the units of `data.in_comparison_units`.

    Images are clipped to the range of the data, and rounded if the data are integers.
    """
    dataset = self._dataset
    if self._run_dataset is dataset and dataset.value_range is None:
      return x
    x = data.restore(self._run_dataset, x)
    if dataset.value_range is not None:
      x = np.clip(np.round(x) if dataset.integers else x, *dataset.value_range)
    return data.standardise(x, dataset.mean, dataset.scale)


def _exact_errors(
    truth: Any, x_0: np.ndarray, eps: np.ndarray, levels: np.ndarray
) -> np.ndarray:
  """‖ε − ε̂‖²/d of each draw for the exact denoiser, (levels, n)."""
  def error(x_0, eps, ell):
    frame = predictions.unit_frame(ell)
    x = frame.alpha * x_0 + frame.sigma * eps
    exact_eps = (x - frame.alpha * truth.denoise(x, frame.alpha, frame.sigma)) / frame.sigma
    return jnp.mean((eps - exact_eps) ** 2, axis=-1)

  return np.asarray(jax.jit(jax.vmap(error))(x_0, eps, jnp.asarray(levels)), np.float64)


def check(config: config_lib.Config) -> None:
  """Raises ValueError if a run of this config cannot be evaluated."""
  if config.evaluation.num_samples and config.evaluation.num_samples < 20:
    raise ValueError("config.evaluation.num_samples: must be at least 20, or 0, in a sweep; got "
                     f"{config.evaluation.num_samples}")
  build.at_least("evaluation.num_samples", config.evaluation.num_samples, 0)
