"""Data sets in standard units, and their conversion to and from the user's units.

`load` maps a config's call of data to a `Dataset`. Examples are in memory if they fit. Otherwise
they are read when indexed, from shards (`array_record`) or from their source. Bad input raises a
one-line ValueError that names the field.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from experiments import config as config_lib
from experiments.config import calls
from experiments.data import (
  codecs,
  fingerprints,
  on_demand,
  shards,
  splits,
  standardize,
  user_data,
)
from experiments.data.batches import batch as batch
from experiments.data.batches import stream as stream
from experiments.data.standardize import standardise as standardise
from experiments.data.toy_data import gaussian_mixture_2d as gaussian_mixture_2d
from experiments.run import conditions, memory
from langevin_jax import conditions as conditions_lib

if TYPE_CHECKING:
  from experiments.data import text

# Examples in memory, or read when indexed.
Examples = Union[np.ndarray, shards.Examples, on_demand.Examples, "text.Crops"]
# (mean, scale), float64.
Units = tuple[np.ndarray, np.ndarray]


class Dataset(NamedTuple):
  """Training and held-out examples in standard units, A⁻¹(x − mean) with A as `standardize` says.

  Tokens are integers (n, length), and stay what they are. `mean` and `scale` (which holds A) are
  computed from the training examples, in the user's units.
  """

  train: Examples  # (n, *shape) float32
  train_labels: np.ndarray  # (n,) int32, or (0,) when unconditional
  test: Examples
  test_labels: np.ndarray
  num_classes: int  # 0 when unconditional
  mean: np.ndarray  # () or, by feature, (c,); float64
  scale: np.ndarray  # (), by feature (c,), or of whitening (c, c); float64
  kind: str  # of `kinds.KINDS`
  value_range: tuple[float, float] | None  # samples are clipped to it; user's units
  integers: bool  # images of integers: samples are rounded
  classes: tuple[str, ...] = ()  # names, in the order of labels
  digests: Mapping[str, str] | None = None  # of the examples as read, by file or by split
  moments: tuple[np.ndarray, np.ndarray] | None = None  # stored, if the examples are missing
  conditions: Mapping[str, Any] = {}  # (n, …) float32, int32 or bool, by name
  test_conditions: Mapping[str, Any] = {}
  condition_classes: Mapping[str, int] = {}  # number of classes of each integer condition
  augmentation: Any = None  # of training images, an `augmentation.Augmentation`
  vocabulary: tuple[str, ...] = ()  # the symbols of tokens, in their order
  origin: str = ""  # of data that are not the user's, with their licence
  codec: codecs.Codec | None = None  # of latents; kind, range and integers are of what it decodes


# Calls of data whose examples have the shape of those of the call inside.
WRAPPERS = ("augmented", "rescaled", "unlabelled")


def fingerprint(dataset: Dataset) -> dict[str, str]:
  """Digests of the examples as read, with their labels: by file, by shard or by split."""
  if dataset.digests is None:
    raise ValueError("a data set without its examples has no fingerprint")
  return dict(dataset.digests)


def digest(dataset: Dataset) -> str:
  """One digest of the whole data set; equal on two machines that hold the same data."""
  parts = []
  for value in dataset:
    values = value if isinstance(value, Mapping) else {"": value}
    parts += [name + (fingerprints.digest(each) if isinstance(each, np.ndarray) else
                      repr(getattr(each, "sha256", each))) for name, each in values.items()
              if not isinstance(each, on_demand.Condition)]  # part of the sha256 of the examples
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def summary(dataset: Dataset) -> str:
  """One line of text: numbers of examples and classes, shape, kind, and range or units."""
  n, held_out = len(dataset.train), len(dataset.test)
  classes = f", {dataset.num_classes} classes" if dataset.num_classes else ""
  if classes and dataset.classes != _numbers(dataset.num_classes):
    classes += f" ({_few(dataset.classes)})"
  conditions = "".join(f", condition {name} {tuple(value.shape[1:]) or ''}".rstrip()
                       for name, value in dataset.conditions.items())
  if dataset.vocabulary:
    values = f"{len(dataset.vocabulary)} symbols" + (f"; {dataset.origin}" * bool(dataset.origin))
  elif dataset.value_range is not None:
    low, high = dataset.value_range
    values = f"{'whole ' if dataset.integers else ''}values {low:g} … {high:g}"
  else:
    values = f"mean {_numbers_of(dataset.mean)}, scale {_numbers_of(dataset.scale)}"
  latents = "" if dataset.codec is None else f", latents of {dataset.codec.shape}"
  storage = "" if isinstance(dataset.train, np.ndarray) or dataset.vocabulary else (
      ", read as they are needed")
  return (f"data: {n:,} training and {held_out:,} held-out examples of shape "
          f"{tuple(dataset.train.shape[1:])}{latents}, kind {dataset.kind}{classes}{conditions}; "
          f"{values}{storage}")


def load(call: config_lib.Call | str, *, units: Units | None = None, **arguments: Any) -> Dataset:
  """The data set of a call of the slot "data": load("digits", holdout=0.1), load(config.data).

  Every call has these arguments besides those of its function:

    shape, num_classes  if given, checked against the loaded data
    scaling             one, features, whiten, or "" for the default of the data; see
                        `standardize`. The scaling of shards is chosen when they are written, and
                        tokens have none

  Args:
    units: (mean, scale) of a run that has begun; they replace those of the examples. Units for
      another number of features are ignored.

  Raises:
    ValueError: bad input; names the argument and the allowed values.
  """
  if isinstance(call, str):
    call = calls.make(config_lib.Call(call, tuple(arguments.items())), "data", "config.data")
  dataset = read_source(call, "config.data")
  if isinstance(dataset, splits.Source):
    dataset = _standardize(dataset, _shared_argument(call, "scaling"), units)
  elif scaling := _shared_argument(call, "scaling"):
    if dataset.vocabulary:
      raise ValueError(f"config.data.scaling is for numbers; got {scaling!r} for tokens")
    raise ValueError("config.data.scaling is chosen when shards are written "
                     f"(experiments.array_records --scaling); got {scaling!r} for {call.name}")
  _check_declared(call, dataset)
  return dataset


def read_source(call: config_lib.Call, field: str) -> "splits.Source | Dataset":
  """The source of a call, in the user's units; of shards, the data set in standard units.

  Raises:
    ValueError: bad input; the message begins with `field`.
  """
  returned = calls.build(call, "data", field)
  if isinstance(returned, Dataset):
    return returned
  try:
    return user_data.source(returned)
  except ValueError as error:
    raise ValueError(f"{field}={calls.short(call, 'data')}: {error}") from error


def _shared_argument(call: config_lib.Call, argument: str) -> Any:
  """An argument that every call of data has: that of this call, else of the call inside it."""
  inner = call.get("data")
  if call.name == "unlabelled" and argument == "num_classes":
    inner = None  # whose classes are left out
  return call[argument] or (
      _shared_argument(inner, argument) if isinstance(inner, config_lib.Call) else call[argument])


def _check_declared(call: config_lib.Call, dataset: Dataset) -> None:
  """Raises ValueError if the data do not have the declared shape or num_classes."""
  loaded = dataset.train.shape[1:]
  shape, classes = (_shared_argument(call, name) for name in ("shape", "num_classes"))
  # A grey image may be declared with its channel axis or without.
  if shape and shape not in (loaded, loaded[:-1] if loaded[2:] == (1,) else loaded):
    raise ValueError(f"config.data.shape: one example of {call.name} must have the declared shape "
                     f"{shape}; it has {loaded}")
  if classes and classes != dataset.num_classes:
    raise ValueError(f"config.data.num_classes: {call.name} must have the declared "
                     f"{classes}; it has {dataset.num_classes}")


def array_record(*, path: str) -> Dataset:
  """The shards in a directory, as `python -m experiments.array_records` writes them."""
  stored = shards.read(path)
  facts = stored.facts
  return Dataset(
      stored.train, stored.train_labels, stored.test, stored.test_labels, facts.num_classes,
      np.asarray(facts.mean), np.asarray(facts.scale), *(
          (facts.kind, facts.value_range, facts.integers) if stored.codec is None else
          (stored.codec.kind, stored.codec.value_range, stored.codec.integers)),
      facts.classes or _numbers(facts.num_classes), codec=stored.codec,
      digests={"shards": facts.sha256} | dict(facts.digests),
      conditions=stored.conditions, test_conditions=stored.test_conditions,
      condition_classes=splits.condition_classes(stored.conditions, stored.test_conditions))


def files(call: config_lib.Call) -> tuple[str, ...]:
  """The files and directories that the data are read from: the arguments path and labels."""
  inner = call.get("data")
  values = [call.get(key) for key in ("path", "labels")]
  return tuple(name for value in values for name in (
      value if isinstance(value, tuple) else (value,)) if isinstance(name, str) and name) + (
      files(inner) if isinstance(inner, config_lib.Call) else ())


def shape_of(
    call: config_lib.Call
) -> tuple[tuple[int, ...], int, dict[str, conditions_lib.Kind], int]:
  """(shape of one example, number of classes, kinds of the named conditions, vocabulary).

  The vocabulary is the number of tokens, 0 of other data.

  Data are loaded for it. For shards on another machine it is the arguments shape and num_classes,
  which have no named conditions.

  Raises:
    ValueError: as `load`; shards on another machine without the argument shape.
  """
  if call.name in WRAPPERS:
    shape, classes, *rest = shape_of(call["data"])
    return shape, 0 if call.name == "unlabelled" else classes, *rest
  if call.name == "absent":
    return call["shape"], call["num_classes"], {}, 0
  elsewhere = call.name == "array_record" and not os.path.isdir(os.path.expanduser(call["path"]))
  if elsewhere and call["shape"]:
    return call["shape"], call["num_classes"], {}, 0
  if elsewhere:
    raise ValueError("config.data.shape (and config.data.num_classes) must say what one example "
                     f"is, where config.data.path={call['path']!r} is no directory on this machine")
  dataset = load(call)
  return (dataset.train.shape[1:], dataset.num_classes, conditions.kinds(dataset),
          len(dataset.vocabulary))


def moments(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
  """(mean, variances) of the training data, each (*shape) float32 in standard units."""
  if dataset.moments is not None:
    return dataset.moments
  x = dataset.train
  mean, variances = ((x.mean(0, dtype=np.float64), x.var(0, dtype=np.float64))
                     if isinstance(x, np.ndarray) else (x.mean, x.var))
  return mean.astype(np.float32), variances.astype(np.float32)


def of_tokens(train: Examples, test: np.ndarray, vocabulary: tuple[str, ...], **rest: Any
              ) -> Dataset:
  """A data set of tokens (n, length) int32, which have no units; `rest` are further fields."""
  none, length = np.zeros(0, np.int32), train.shape[1]
  return Dataset(**{
      "train": train, "train_labels": none, "test": test, "test_labels": none, "num_classes": 0,
      "mean": np.zeros(()), "scale": np.ones(()), "kind": "tokens", "integers": True,
      "value_range": (0.0, len(vocabulary) - 1.0), "vocabulary": vocabulary,
      "moments": (np.zeros(length, np.float32), np.ones(length, np.float32))} | rest)


def example_shape(dataset: Dataset) -> tuple[int, ...]:
  """The shape of one example in the user's units: of latents, that of what they stand for."""
  return dataset.train.shape[1:] if dataset.codec is None else dataset.codec.shape


def bounds(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
  """The range of the values of images in standard units, numbers or arrays by channel.

  Raises:
    ValueError: data that have none: no images, latents, or whitened ones.
  """
  mean, scale = np.asarray(dataset.mean), np.asarray(dataset.scale)
  if dataset.kind != "image" or dataset.value_range is None or dataset.codec is not None or (
      scale.ndim > 1):
    raise ValueError("config.sampling.clip is for images with a range of values, not for latents, "
                     "whitened data or data of another kind: set it to false")
  low, high = ((end - mean) / scale for end in dataset.value_range)
  return low, high


def restore(dataset: Dataset, x: np.ndarray) -> np.ndarray:
  """mean + A x, of latents decoded: x (n, *shape) converted from standard to the user's units."""
  if dataset.vocabulary:
    return x
  restored = standardize.restore(x, dataset.mean, dataset.scale)
  return restored if dataset.codec is None else dataset.codec.decode(restored)


def in_standard_units(dataset: Dataset, x: np.ndarray) -> np.ndarray:
  """A⁻¹(x − mean) of x (n, *shape) in the user's units; of latents, the mean of its posterior."""
  x = x if dataset.codec is None else dataset.codec.encode(x)[0]
  return standardise(x, dataset.mean, dataset.scale)


def _standardize(source: splits.Source, scaling: str, units: Units | None) -> Dataset:
  """The data set of a source: in memory if it fits, else read when indexed."""
  standardize.check(scaling, source.kind)
  if source.kind == "tokens":
    return _tokens(source, scaling)
  if units is None and source.units is not None:
    units = np.asarray(source.units[0]), np.asarray(source.units[1])
  features = source.x.shape[-1:]
  if units and any(np.shape(unit) not in ((), features, 2 * features) for unit in units):
    units = None  # the data have changed; `facts.check` reports it
  # Examples are held in their dtype and as float32 at the same time.
  needed = (source.x.dtype.itemsize + 4.0) * math.prod(source.x.shape) + sum(
      4.0 * math.prod(value.shape) for value in source.conditions.values())
  parts = np.flatnonzero(~source.held_out), np.flatnonzero(source.held_out)
  if needed > memory.free():
    # Random order: the first held-out examples then represent all.
    parts = parts[0], np.random.default_rng(0).permutation(parts[1])
    statistics = on_demand.measure(source, scaling, units)
    train, test = (on_demand.Examples(source, part, statistics) for part in parts)
    mean, scale, integers, digests, condition_classes = (
        statistics.mean, statistics.scale, statistics.integers, statistics.digests,
        statistics.condition_classes)
    conditions = [{name: on_demand.Condition(value, part)
                   for name, value in source.conditions.items()} for part in parts]
  else:
    examples = [source.x[part] for part in parts]
    conditions = [{name: value[part] for name, value in source.conditions.items()}
                  for part in parts]
    mean, scale = units or standardize.statistics(examples[0], source.kind, scaling)
    train, test = (standardise(x, mean, scale) for x in examples)
    integers, digests = not np.any(np.mod(examples[0], 1.0)), {}
    for split, part, x, values in zip(
        fingerprints.SPLITS, parts, examples, conditions, strict=True):
      split_digest = fingerprints.Digest(source, split, part)
      split_digest.add(part, x, values)
      digests |= split_digest.result()
    condition_classes = splits.condition_classes(*conditions)
  labels = [source.labels[part].astype(np.int32) if source.num_classes else
            np.zeros((0,), np.int32) for part in parts]
  return Dataset(
      train, labels[0], test, labels[1], source.num_classes, mean, scale, source.kind,
      source.value_range, integers=source.kind == "image" and integers,
      classes=source.classes or _numbers(source.num_classes), digests=dict(sorted(digests.items())),
      conditions=conditions[0], test_conditions=conditions[1], condition_classes=condition_classes,
      augmentation=source.augmentation)


def _tokens(source: splits.Source, scaling: str) -> Dataset:
  """The data set of a source of tokens, in memory.

  Raises:
    ValueError: a token outside of the vocabulary, named conditions, or a scaling.
  """
  if scaling or source.conditions:
    raise ValueError("config.data: tokens have labels, and no "
                     f"{'scaling' if scaling else 'named conditions'}")
  memory.require({"config.data": 4.0 * math.prod(source.x.shape)}, "the tokens")
  x = np.asarray(source.x[np.arange(len(source.x))])
  low, high = int(x.min()), int(x.max())
  vocabulary = source.vocabulary or _numbers(high + 1)
  most = max(len(vocabulary), 2) - 1
  if low < 0 or high > most:
    raise ValueError(f"config.data: tokens must lie in 0 … {most}, the places of the vocabulary; "
                     f"got {low} … {high}")
  parts, digests = (np.flatnonzero(~source.held_out), np.flatnonzero(source.held_out)), {}
  labels = [source.labels[part].astype(np.int32) if source.num_classes else np.zeros(0, np.int32)
            for part in parts]
  for split, part in zip(fingerprints.SPLITS, parts, strict=True):
    digest_ = fingerprints.Digest(source, split, part)
    digest_.add(part, x[part], {})
    digests |= digest_.result()
  train, test = (x[part].astype(np.int32) for part in parts)
  return of_tokens(
      train, test, vocabulary if len(vocabulary) > 1 else ("0", "1"), digests=digests,
      train_labels=labels[0], test_labels=labels[1], num_classes=source.num_classes,
      classes=source.classes or _numbers(source.num_classes))


def _numbers(num_classes: int) -> tuple[str, ...]:
  """The names of classes without names: their numbers."""
  return tuple(map(str, range(num_classes)))


def _few(names: tuple[str, ...]) -> str:
  """The first four names as text."""
  return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _numbers_of(value: np.ndarray) -> str:
  """A mean or scale as short text; of a matrix, its diagonal."""
  numbers = [f"{number:.4g}" for number in np.ravel(np.diag(value) if value.ndim == 2 else value)]
  return numbers[0] if value.ndim == 0 else f"({_few(tuple(numbers))})"
