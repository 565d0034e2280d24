"""Data sets: standardised on the way in, restored to the user's own units on the way out.

`load` maps a config's call of data to a `Dataset`; `batch` is a pure function of (seed, step), so
that a run resumes from its step alone, and `stream` reads ahead. Examples are in memory, or in
shards on a disk (`array_record`) and read when asked for. Bad input is a one-line ValueError that
names the field.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments import config as config_lib
from experiments.config import calls
from experiments.data import shards, shuffle, sources, standardize
from experiments.data.standardize import standardise as standardise
from experiments.data.toy_data import gaussian_mixture_2d as gaussian_mixture_2d
from experiments.run import memory

# As much of a data set on a disk is taken into memory to be compared with samples, or drawn.
_TAKEN_BYTES = 2**28
# Threads that read ahead: they wait for a disk most of the time, and for each other in Python.
_READERS = 4


class Dataset(NamedTuple):
  """Training and held-out examples in standard units, A⁻¹(x − mean) with A as `standardize` says.

  `mean` and `scale`, which stands for A, are of the training examples and in the user's units.
  """

  train: np.ndarray | shards.Examples  # (n, *shape) float32
  train_labels: np.ndarray  # (n,) int32, or (0,) when unconditional
  test: np.ndarray | shards.Examples
  test_labels: np.ndarray
  num_classes: int  # 0 when unconditional
  mean: np.ndarray  # () or, by feature, (c,); float64
  scale: np.ndarray  # (), by feature (c,), or of whitening (c, c); float64
  kind: str  # "image", "vector", "sequence" or "array": how it is judged and drawn
  value_range: tuple[float, float] | None  # samples are clipped to it; user's units
  integers: bool  # images of whole grey levels: samples are rounded to them
  classes: tuple[str, ...] = ()  # names, in the order of labels
  digests: Mapping[str, str] | None = None  # of the examples as read, by file or by split
  moments: tuple[np.ndarray, np.ndarray] | None = None  # of a data set without its examples


def fingerprint(dataset: Dataset) -> dict[str, str]:
  """Digests of the examples as they were read, with their labels: by file or shard, or by split."""
  if dataset.digests is not None:
    return dict(dataset.digests)
  if isinstance(dataset.train, shards.Examples):
    return {"shards": dataset.train.sha256}
  raise ValueError("a data set without its examples has no fingerprint")


def _digest(*arrays: np.ndarray) -> str:
  whole = hashlib.sha256()
  for array in arrays:
    whole.update(f"{array.dtype} {array.shape}".encode())
    whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return whole.hexdigest()[:16]


def digest(dataset: Dataset) -> str:
  """A digest of what is trained on and judged by: the same on two machines that hold the same."""
  parts = [_digest(value) if isinstance(value, np.ndarray) else
           repr(getattr(value, "sha256", value)) for value in dataset]
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load(call: config_lib.Call | str, **arguments: Any) -> Dataset:
  """The data set of a call of the slot "data": load("digits", holdout=0.1), load(config.data).

  Besides the arguments of the function, every call has these.

    shape, num_classes  checked against what was loaded, where they are given
    scaling             one, features or whiten, or "" for what fits the data; see `standardize`.
                        Shards have theirs from the writing

  Raises:
    ValueError: bad input, by the argument's name and what is allowed.
  """
  if isinstance(call, str):
    call = calls.make(config_lib.Call(call, tuple(arguments.items())), "data", "config.data")
  found = calls.build(call, "data", "config.data")
  size = call.get("size")
  if isinstance(found, sources.Source):
    found = _in_memory(found, call["scaling"], f"config.data.size={size}" if size
                       else "config.data.path")
  elif call["scaling"]:
    raise ValueError("config.data.scaling is chosen when shards are written "
                     f"(experiments.array_records --scaling); got {call['scaling']!r} for "
                     f"{call.name}")
  loaded, shape = found.train.shape[1:], call["shape"]
  # A grey image may be declared with its channel axis or without.
  if shape and shape not in (loaded, loaded[:-1] if loaded[2:] == (1,) else loaded):
    raise ValueError(f"config.data.shape: one example of {call.name} must have the declared shape "
                     f"{shape}; it has {loaded}")
  if call["num_classes"] and call["num_classes"] != found.num_classes:
    raise ValueError(f"config.data.num_classes: {call.name} must have the declared "
                     f"{call['num_classes']}; it has {found.num_classes}")
  return found


def array_record(*, path: str) -> Dataset:
  """The shards in a directory, as `python -m experiments.array_records` writes them, unread."""
  found = shards.read(path)
  return Dataset(
      found.train, found.train_labels, found.test, found.test_labels, found.facts.num_classes,
      np.asarray(found.facts.mean), np.asarray(found.facts.scale), found.facts.kind,
      found.facts.value_range, found.facts.integers,
      found.facts.classes or _numbers(found.facts.num_classes))


def files(call: config_lib.Call) -> tuple[str, ...]:
  """The files and directories that the data are read from: the texts among the arguments."""
  return tuple(value for key, value in call.arguments
               if isinstance(value, str) and key in ("path", "labels") and value)


def shape_of(call: config_lib.Call) -> tuple[tuple[int, ...], int]:
  """(shape of one example, number of classes), also of shards that are on another machine.

  Of these the arguments shape and num_classes say it; anything else is loaded.

  Raises:
    ValueError: as `load`, or shards that are not here and of which the arguments say nothing.
  """
  away = call.name == "array_record" and not os.path.isdir(os.path.expanduser(call["path"]))
  if away and call["shape"]:
    return call["shape"], call["num_classes"]
  if away:
    raise ValueError("config.data.shape (and config.data.num_classes) must say what one example "
                     f"is, where config.data.path={call['path']!r} is no directory on this machine")
  dataset = load(call)
  return dataset.train.shape[1:], dataset.num_classes


def batch(
    dataset: Dataset, *, seed: int, step: int, batch_size: int,
    rows: np.ndarray | slice | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The training batch of a step, a pure function of (seed, step).

  Example j of step s is at place s·batch_size + j of an endless sequence of epochs, each a
  permutation of the data by (seed, epoch): every example is seen once an epoch, and a batch may
  end one epoch and start the next.

  Args:
    batch_size: of the whole batch, over all processes.
    rows: those of the batch that this process needs, integers or a slice; all if not given. Only
      they are read.

  Returns:
    (x, labels) of shapes (rows, *shape) float32 and (rows,) int32; labels are zeros, the null label
    of zero classes, when the data have none.
  """
  if batch_size < 1 or step < 0:
    raise ValueError(f"batch_size must be positive and step not negative; got {batch_size}, {step}")
  places = int(step) * int(batch_size) + np.arange(batch_size)
  places = places if rows is None else places[rows]
  index = shuffle.indices(places, seed=int(seed), n=len(dataset.train))
  labels = dataset.train_labels[index] if dataset.num_classes else np.zeros(len(index), np.int32)
  return dataset.train[index], labels


def stream(
    dataset: Dataset, *, seed: int, start: int, stop: int, batch_size: int,
    rows: np.ndarray | slice | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The batches of steps start … stop − 1, as `batch` makes each.

  Shards are read ahead by threads, a few batches and no more than 256 MB.
  """
  made = lambda step: batch(dataset, seed=seed, step=step, batch_size=batch_size, rows=rows)
  if isinstance(dataset.train, np.ndarray):
    yield from map(made, range(start, stop))
    return
  import grain  # a tenth of a second that data in memory do not need
  count = batch_size if rows is None else len(np.arange(batch_size)[rows])
  ahead = _TAKEN_BYTES // max(4 * count * int(np.prod(dataset.train.shape[1:])), 1)
  batches = iter(grain.MapDataset.range(start, stop).map(lambda step: made(int(step)))
                 .to_iter_dataset(grain.ReadOptions(
                     num_threads=_READERS, prefetch_buffer_size=int(np.clip(ahead, 2, 32)))))
  try:
    yield from batches
  finally:
    batches.close()


def moments(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variances of the training data, of one example's shape, in standard units, float32."""
  if dataset.moments is not None:
    return dataset.moments
  x = dataset.train
  found = (x.mean, x.var) if isinstance(x, shards.Examples) else (
      x.mean(0, dtype=np.float64), x.var(0, dtype=np.float64))
  return tuple(moment.astype(np.float32) for moment in found)


def taken(x: np.ndarray | shards.Examples) -> np.ndarray:
  """Examples in memory: an array as it is, of shards the first `count_taken`.

  The held-out examples of shards lie in random order, so that the first of them stand for all.
  """
  return x if isinstance(x, np.ndarray) else x[:count_taken(x)]


def count_taken(x: np.ndarray | shards.Examples) -> int:
  """All of an array, of shards as many as 256 MB hold."""
  if isinstance(x, np.ndarray):
    return len(x)
  return min(len(x), max(2, _TAKEN_BYTES // x.bytes_per_example))


def reduced(dataset: Dataset, *, most: int = 20_000) -> Dataset:
  """A data set in memory, to judge samples by: itself, or of shards as much as is enough.

  That is `most` training examples, or 1 GB of them, the same ones always, and `taken` held out.
  """
  x = dataset.train
  if isinstance(x, np.ndarray):
    return dataset
  count = min(most, len(x), max(2, 4 * _TAKEN_BYTES // x.bytes_per_example))
  index = np.sort(np.random.default_rng(0).choice(len(x), count, replace=False))
  test = taken(dataset.test)
  some = lambda labels, index: np.asarray(labels[index]) if dataset.num_classes else labels
  return dataset._replace(
      train=x[index], train_labels=some(dataset.train_labels, index), test=test,
      test_labels=some(dataset.test_labels, slice(len(test))))


def restore(dataset: Dataset, x: np.ndarray) -> np.ndarray:
  """Standard units back to the user's: mean + A x, any leading axes; of `standardize.dtype`."""
  return standardize.restore(x, dataset.mean, dataset.scale)


def judged(dataset: Dataset) -> Dataset:
  """A data set in memory in the units of scaling="", in which samples of any run are compared.

  A feature of a small scale would not count in the units of a run with one scale for all.
  """
  if np.ndim(dataset.mean) == 0:
    return dataset
  train, test = (restore(dataset, x) for x in (dataset.train, dataset.test))
  mean, scale = standardize.statistics(train, dataset.kind)
  if np.ndim(scale) == np.ndim(dataset.scale):
    return dataset
  return dataset._replace(train=standardise(train, mean, scale),
                          test=standardise(test, mean, scale), mean=mean, scale=scale)


def _in_memory(source: sources.Source, scaling: str, field: str) -> Dataset:
  """The data of a source; a ValueError that names `field` where they would not fit."""
  standardize.check(scaling, source.kind)
  # As they come, and as float32.
  memory.require({field: (source.x.dtype.itemsize + 4.0) * math.prod(source.x.shape)}, "the data")
  x, x_test = (source.x[np.flatnonzero(part)] for part in (~source.held_out, source.held_out))
  mean, scale = standardize.statistics(x, source.kind, scaling)
  labels = lambda part: (source.labels[part].astype(np.int32) if source.num_classes
                         else np.zeros((0,), np.int32))
  return Dataset(
      standardise(x, mean, scale), labels(~source.held_out), standardise(x_test, mean, scale),
      labels(source.held_out), source.num_classes, mean, scale, source.kind, source.value_range,
      integers=source.kind == "image" and not np.any(np.mod(x, 1.0)),
      classes=source.classes or _numbers(source.num_classes),
      digests=_digests(source, x, x_test))


def _numbers(num_classes: int) -> tuple[str, ...]:
  """The names of classes that have no others."""
  return tuple(map(str, range(num_classes)))


def _digests(source: sources.Source, x: np.ndarray, x_test: np.ndarray) -> dict[str, str]:
  """Digests of examples as read, with their labels: by file where each has one, else by split."""
  found: dict[str, str] = {}
  for split, part, values in (("training examples", ~source.held_out, x),
                              ("held-out examples", source.held_out, x_test)):
    labels = np.asarray(source.labels[part]) if source.num_classes else np.zeros(len(values))
    if source.names is None:
      found[split] = _digest(np.asarray(values), labels)
    else:
      found |= {name: _digest(value, label) for name, value, label in zip(
          np.asarray(source.names)[part].tolist(), values, labels, strict=True)}
  return dict(sorted(found.items()))
