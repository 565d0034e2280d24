"""Compares samples with real data, by the kind of the data. The floor compares real with real data.

Images are compared by features: those of a classifier that is trained on the run's real images, or
the pixels, if there are no labels. Other extractors and metrics are calls, also of functions of the
user.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import data
from experiments.config import calls
from experiments.config.calls import Call
from experiments.metrics import classifier, distances, references
from experiments.metrics.result import Result

# The largest number of examples in a set. More take minutes and change no printed digit.
_LIMIT = 10_000
# The number of values of samples in memory at once.
_PART = 2**25
# The largest number of values in a set of raw pixels, and of images in a Fréchet distance.
_PIXELS, _MOST_FRECHET = 2**25, 2048
# Metrics that take a reference of moments in place of real features.
_OF_MOMENTS = ("frechet", "frechet_extrapolated")
# The smallest number of examples in a set: for three folds of two classes, and five neighbours.
LEAST = 6
# The smallest number of images for an inception score, of ten parts.
_LEAST_SCORED = 20


class Choice(NamedTuple):
  """The user's choice: an extractor instead of the default, further metrics, and statistics of the
  extractor's features in place of the run's own real data.
  """

  extractor: Call | None = None
  metrics: tuple[Call, ...] = ()
  reference: references.Reference | None = None


_DEFAULT = Choice()


class _Sets(NamedTuple):
  """Features (n, d) of real data, of samples, and of other real data, for the floor.

  Of a reference, `real` is its moments.
  """

  real: Any
  fake: np.ndarray
  other: np.ndarray


def choice_of_flags(extractor: str, metrics: Sequence[str], reference: str = "") -> Choice:
  """The calls of the flags --extractor and --metric, and the file of --reference.

  Raises:
    ValueError: one of them is invalid, or a reference without an extractor.
  """
  choice = Choice(calls.make(extractor, "extractor", "--extractor") if extractor else None,
                  tuple(calls.make(each, "metric", "--metric") for each in metrics))
  return choice if not reference else choice._replace(reference=references.read(
      pathlib.Path(reference).expanduser(), check_reference(choice).name))


def check_sizes(dataset: data.Dataset, name: str) -> None:
  """Raises ValueError if there are too few real examples for a comparison."""
  train, test = len(dataset.train), len(dataset.test)
  if dataset.kind == "image" and train + test < 2 * LEAST:
    raise ValueError(f"data.path: an evaluation compares halves of the real images and needs "
                     f"{2 * LEAST} of them; config.data={name} has {train + test}")
  if dataset.kind != "image" and min(train, test) < LEAST:
    raise ValueError(f"data.holdout, or data.test_size: an evaluation needs {LEAST} training and "
                     f"{LEAST} held-out examples; config.data={name} has {train} and {test}")


def check(choice: Choice, dataset: data.Dataset) -> None:
  """Runs the user's functions on a few real examples, before samples are drawn.

  Raises:
    ValueError: a function fails, or does not return features (n, d) or a number.
  """
  call = choice.extractor
  if dataset.codec is not None:
    if call is not None and ":" not in call.name:  # weights are read before a program is compiled
      decoded = np.empty((0, *data.example_shape(dataset)), np.float32)
      _features(call, dataset._replace(train=decoded), None)
    dataset = data.in_comparison_units(dataset._replace(
        train=dataset.train[:LEAST], test=dataset.test[:LEAST]))
  few = dataset.test[:LEAST]
  if call is not None and call.name == "classifier" and not _can_classify(dataset):
    raise ValueError("--extractor=classifier needs images with labels, of at least "
                     f"{classifier.LEAST_SIDE} × {classifier.LEAST_SIDE} pixels")
  if call is not None and call.name != "classifier":
    few = _features(call, dataset, None)(few)
  few = few.reshape(len(few), -1)
  if choice.reference is not None:
    if dataset.kind != "image":
      raise ValueError(f"--reference is for images; the data are of kind {dataset.kind!r}")
    if (d := len(choice.reference.moments.mean)) != few.shape[1]:
      raise ValueError(f"--reference={choice.reference.name} is of {d} features, --extractor="
                       f"{check_reference(choice).name} has {few.shape[1]}")
    if (units := choice.reference.units) is not None and not all(map(
        np.array_equal, units, (dataset.mean, dataset.scale))):
      raise ValueError(f"--reference={choice.reference.name} is of {choice.reference.extractor} in "
                       "the standard units of a run with another mean or scale of the data: write "
                       "one from this run")
  user_metrics = tuple(metric for metric in choice.metrics if ":" in metric.name)
  _metric_rows(choice._replace(metrics=user_metrics), _Sets(few, few[::-1], few), seed=0)


def keys(dataset: data.Dataset) -> tuple[str, ...]:
  """The keys of the rows of `images` or `vectors` under the default choice."""
  if dataset.kind != "image":
    return tuple(distances.KEYS.values()) + (("label_agreement",) if dataset.num_classes else ())
  labelled = _can_classify(dataset)
  names = distances.PRDC if labelled else tuple(f"{name}_pixels" for name in distances.PRDC)
  return (*(("fid", "kid") if labelled else ("fd_pixels", "kd_pixels")), *names, "c2st",
          *(("label_agreement",) if labelled else ()), "nearest_train", "nearest_train_part")


def vectors(
    dataset: data.Dataset, x: np.ndarray, seed: int, choice: Choice = _DEFAULT
) -> list[Result]:
  """Two-sample distances of samples to held-out data; the floor is that of training data."""
  count = min(len(x), len(dataset.test), len(dataset.train))
  rng = np.random.default_rng(seed)
  features = _flat if choice.extractor is None else _features(choice.extractor, dataset, None)
  held_out, train, fake = (features(a[rng.permutation(len(a))[:count]])
                           for a in (dataset.test, dataset.train, x))
  value = distances.two_sample(held_out, fake, seed=seed)
  floor = distances.two_sample(held_out, train, seed=seed)
  suffix = "" if choice.extractor is None else f", {choice.extractor.name}"
  return [*(Result(distances.KEYS[name], name + suffix, value[name], floor[name], count)
            for name in value),
          *_metric_rows(choice, _Sets(held_out, fake, train), seed, extractor=suffix[2:])]


def images(
    dataset: data.Dataset, x: np.ndarray | data.InStandardUnits, labels: np.ndarray, seed: int,
    choice: Choice = _DEFAULT,
) -> list[Result]:
  """Feature distances, C2ST, label agreement and distances to the nearest real images.

  FID and similar distances depend on the sizes of the sets. Therefore both samples and, for the
  floor, one half of the real data are compared with the other half, at equal n. C2ST uses all real
  data. Sets of raw pixels have at most 2²⁵ values.
  """
  real, limit = _real(dataset, seed)
  n = min(len(real) // 2, len(x))
  half, other = real[:n], real[len(real) // 2:][:n]
  call, model, features = _extractor(dataset, seed, choice)
  limited = lambda a, n: _in_parts(features, a, min(n, limit) if call.name == "pixels" else n)
  fake = limited(x, n if choice.reference is None else len(x))
  sets = _Sets(limited(half, n), fake[:n], limited(other, n))
  of_moments = sets if choice.reference is None else _Sets(
      choice.reference.moments, fake, limited(dataset.test, len(dataset.test)))
  rows = [*_feature_rows(sets, call.name, seed, choice.reference, of_moments),
          *_metric_rows(choice, sets, seed, of_moments, call.name)]
  if getattr(features, "classify", None) is not None and n >= _LEAST_SCORED:
    # The score rises with the number of images. So it is of all that a reference lets count.
    (value, error), (floor, _) = (distances.inception_score(features.classify(values), seed=seed)
                                  for values in (of_moments.fake, sets.real))
    rows.append(Result("inception_score", f"inception score, {call.name}; floor of "
                       f"{len(sets.real):,} real", value, floor, len(of_moments.fake), error))
  rows += _judge(dataset, model, real, limit, seed)(x, labels)
  near = distances.nearest_distances(
      *(_flat(a[:limit]) for a in (x, dataset.train, dataset.test)), seed=seed)
  return [
      *rows,
      Result("nearest_train", "distance of pixels to the nearest training image, median; floor of "
             "held-out", near["samples to train"], near["held-out to train"], min(len(x), limit)),
      Result("nearest_train_part", "the same to an equal number of training images; floor to "
             "held-out", near["samples to part of train"], near["samples to held-out"],
             min(len(x), limit))]


def image_judge(
    dataset: data.Dataset, seed: int
) -> Callable[[np.ndarray, np.ndarray], list[Result]]:
  """(x, labels) → C2ST and label agreement as in `images`, for many sets of samples.

  The classifier and the floors are computed once.
  """
  return _judge(dataset, _classifier(dataset, seed), *_real(dataset, seed), seed)


def memorised(
    dataset: data.Dataset, x: np.ndarray | data.InStandardUnits, seed: int, choice: Choice,
    count: int,
) -> tuple[dict[str, np.ndarray], Result]:
  """The first `count` samples beside their nearest training and held-out images, in features.

  A nearest image in a larger set is nearer. So random parts of both sets of one size are searched.

  Returns:
    Images by what they are, in standard units, and the share of all samples whose nearest image is
    a training image, whose floor ½ is that of samples without memory.
  """
  rng = np.random.default_rng(seed)
  n = min(len(dataset.train), len(dataset.test), _LIMIT)
  train, held_out = (a[rng.permutation(len(a))[:n]] for a in (dataset.train, dataset.test))
  call, _, features = _extractor(dataset, seed, choice)
  samples = _in_parts(features, x, min(len(x), _limit(x[:1])) if call.name == "pixels" else len(x))
  near = [distances.nearest(samples, features(a)) for a in (train, held_out)]
  (to_train, at_train), (to_held_out, at_held_out) = near
  share = float(np.mean(to_train < to_held_out) + 0.5 * np.mean(to_train == to_held_out))
  return ({"sample": x[:count], "nearest in training": train[at_train[:count]],
           "nearest held out": held_out[at_held_out[:count]]},
          Result("nearest_is_in_train", f"nearest of {n:,} training and {n:,} held-out images is "
                 f"in training, {call.name}", share, 0.5, len(samples)))


def write_reference(
    file: pathlib.Path, own: data.Dataset, dataset: data.Dataset, choice: Choice
) -> int:
  """Writes the statistics of all training examples of `own`; returns their number.

  Args:
    own: the data set of a run. dataset: in memory, in the units of comparisons.
  """
  call = check_reference(choice)
  features = _features(call, dataset, None)
  return references.write(
      file, own, lambda x: features(data.in_standard_units(dataset, data.restore(own, x))),
      call.name, (dataset.mean, dataset.scale) if call.name == "pixels" else None)


def check_reference(choice: Choice) -> Call:
  """The extractor of a reference. Raises ValueError if its features depend on the run."""
  if choice.extractor is None or choice.extractor.name == "classifier":
    raise ValueError("a reference is of features that do not depend on the run: give their "
                     "--extractor, such as inception(weights=…)")
  return choice.extractor


def vector_agreement(dataset: data.Dataset, x: np.ndarray, labels: np.ndarray) -> list[Result]:
  """The share of samples whose label a nearest-neighbour classifier of real data predicts."""
  import sklearn.neighbors  # takes 1 s and is needed only here
  model = sklearn.neighbors.KNeighborsClassifier(min(15, len(dataset.train))).fit(
      _flat(dataset.train), dataset.train_labels)
  return [Result("label_agreement", "label agreement; floor of held-out data",
                 float(model.score(_flat(x), labels)),
                 float(model.score(_flat(dataset.test), dataset.test_labels)), len(x))]


def _real(dataset: data.Dataset, seed: int) -> tuple[np.ndarray, int]:
  """All real images in random order, and the largest number of them in a set of raw pixels."""
  real = np.concatenate([dataset.train, dataset.test])
  limit = _limit(real[:1])
  return real[np.random.default_rng(seed).permutation(len(real))[:2 * _LIMIT]], limit


def _limit(x: np.ndarray) -> int:
  """The largest number of examples like x (1, *shape) in a set of raw pixels."""
  return min(_LIMIT, max(LEAST, _PIXELS // x.size))


def _judge(
    dataset: data.Dataset, model: classifier.Classifier | None, real: np.ndarray, limit: int,
    seed: int
) -> Callable[[np.ndarray, np.ndarray], list[Result]]:
  """`image_judge` with the classifier of labelled images, if there is one, and `_real`."""
  c2st = lambda a, b: distances.c2st(_flat(a), _flat(b), seed=seed)

  @functools.cache
  def floor(n):
    return c2st(real[:n], real[len(real) // 2:][:n])

  @functools.cache
  def accuracy():
    return classifier.label_agreement(model, dataset.test, dataset.test_labels)

  def rows(x, labels):
    compared, n = min(len(x), len(real), limit), min(len(real) // 2, len(x), limit)
    found = [Result("c2st", f"C2ST accuracy, pixels; floor of {n:,} each",
                    c2st(real[:compared], x[:compared]), floor(n), compared)]
    if model is not None:
      values = _in_parts(functools.partial(classifier.logits, model), x, len(x))
      found.append(Result(
          "label_agreement", "label agreement by the run's classifier; floor of "
          f"{len(dataset.test):,} held-out images",
          classifier.agreement(values, labels), accuracy(), len(x)))
    return found

  return rows


def _feature_rows(
    sets: _Sets, extractor: str, seed: int, reference: references.Reference | None,
    of_moments: _Sets,
) -> list[Result]:
  """FID, KID, precision, recall, density and coverage of features.

  For raw pixels they have other names. `fd_pixels` is the Fréchet distance of Gaussian fits to the
  pixels, which is not FID; nor is that of other networks than Inception, and of the classifier of
  the run. With a reference that is to its moments, of all samples.
  """
  value, floor = distances.prdc(sets.real, sets.fake), distances.prdc(sets.real, sets.other)
  n = len(sets.real) if min(sets.real.shape) <= _MOST_FRECHET else _MOST_FRECHET
  against, n = (sets.real[:n], n) if reference is None else (of_moments.real, len(of_moments.fake))
  to_real = f", to {len(sets.real):,} real"
  to_reference = f", to {n:,} real" if reference is None else (
      f", to {reference.description()}; floor of {min(n, len(of_moments.other)):,} held-out")
  frechet = lambda fake: distances.frechet(against, fake[:n])
  kid = lambda fake: distances.kid(sets.real, fake, seed=seed)
  names, end, suffix = ("fid", "kid"), "", f", {extractor}"
  if extractor == "pixels":
    names, end = ("fd_pixels", "kd_pixels"), "_pixels"
  labels = [f"{label}{suffix}" for label in (
      ("FID", "KID") if extractor in ("classifier", "inception") else
      ("Fréchet distance", "kernel distance"))]
  return [
      Result(names[0], labels[0] + to_reference, frechet(of_moments.fake),
             frechet(of_moments.other), n),
      Result(names[1], labels[1] + to_real, kid(sets.fake), kid(sets.other), len(sets.real)),
      *(Result(name + end, name + suffix + to_real, value[name], floor[name], len(sets.real))
        for name in value)]


def _metric_rows(
    choice: Choice, features: _Sets, seed: int, of_moments: _Sets | None = None,
    extractor: str = "",
) -> list[Result]:
  """The metrics of the user's choice; their keys are the texts of their calls."""
  rows = []
  for call in choice.metrics:
    name, sets, against = calls.short(call, "metric"), features, f"{len(features.real):,} real"
    if choice.reference is not None and of_moments is not None and call.name in _OF_MOMENTS:
      sets, against = of_moments, choice.reference.description()
    label = f", {extractor}" if extractor else ""
    value, floor = (float(calls.build(call, "metric", "--metric", x=sets.real, y=y, seed=seed))
                    for y in (sets.fake, sets.other))
    rows.append(Result(name, f"{name}{label}, to {against}", value, floor, len(sets.fake)))
  return rows


def _extractor(
    dataset: data.Dataset, seed: int, choice: Choice
) -> tuple[Call, classifier.Classifier | None, Any]:
  """(the call of the extractor, the classifier of labelled images, the extractor)."""
  model, call = _classifier(dataset, seed), extractor_of(dataset, choice)
  return call, model, _features(call, dataset, model)


def extractor_of(dataset: data.Dataset, choice: Choice) -> Call:
  """The call of the extractor of a comparison of images, the default one included."""
  return choice.extractor or Call("classifier" if _can_classify(dataset) else "pixels")


class _Same(NamedTuple):
  """An array as the key of a cache: equal to itself alone."""

  array: np.ndarray

  def __eq__(self, other) -> bool:
    return isinstance(other, _Same) and self.array is other.array

  def __hash__(self) -> int:
    return id(self.array)


def _classifier(dataset: data.Dataset, seed: int) -> classifier.Classifier | None:
  if not _can_classify(dataset):
    return None
  return _trained(_Same(dataset.train), _Same(dataset.train_labels), dataset.num_classes, seed)


# An evaluation asks for the same one several times. The last one stays, with its images.
@functools.lru_cache(maxsize=1)
def _trained(images: _Same, labels: _Same, num_classes: int, seed: int) -> classifier.Classifier:
  return classifier.train(images.array, labels.array, num_classes=num_classes, seed=seed)


def _features(
    call: Call, dataset: data.Dataset, model: classifier.Classifier | None
) -> Callable[[np.ndarray], np.ndarray]:
  """The extractor of a call, as a function of examples in standard units.

  A user's extractor gets examples in the user's units.
  """
  extract = calls.build(call, "extractor", "--extractor", model=model, dataset=dataset)
  if ":" not in call.name:
    return extract

  def features(x):
    restored = data.restore(dataset, x)
    try:
      values = np.asarray(extract(np.round(restored) if dataset.integers else restored), np.float64)
    except Exception as error:  # a user's function may raise anything
      raise ValueError(f"--extractor={call.name}: {type(error).__name__}: {error}") from error
    if values.ndim != 2 or len(values) != len(x) or not np.isfinite(values).all():
      raise ValueError(f"--extractor={call.name} must map {x.shape} to finite features "
                       f"({len(x)}, d); got {values.shape}")
    return values

  return features


def _in_parts(
    features: Callable[[np.ndarray], np.ndarray], x: np.ndarray | data.InStandardUnits, n: int
) -> np.ndarray:
  """The features of the first n examples of x, of which a part is in memory at a time."""
  size = max(1, _PART // x[:1].size)
  return np.concatenate([features(x[first:min(first + size, n)]) for first in range(0, n, size)])


def _can_classify(dataset: data.Dataset) -> bool:
  """Whether the data are labelled images that are large enough for the classifier."""
  return dataset.kind == "image" and dataset.num_classes > 1 and (
      min(data.example_shape(dataset)[:2]) >= classifier.LEAST_SIDE)


def _flat(x: np.ndarray) -> np.ndarray:
  """Examples (n, *shape) as vectors (n, d)."""
  return x.reshape(len(x), -1)
