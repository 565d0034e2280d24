"""Sources that do not fit in memory: examples are read batch by batch, when they are indexed.

At the start all examples are read once, block by block, to compute mean, scale, variances and
digests. They equal those of the same data in memory up to rounding.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.data import fingerprints, items, splits, standardize
from experiments.run import progress

_BLOCK_BYTES = 2**26


class Examples:
  """The examples `index` of a source, (k, *shape) float32 in standard units, read when indexed.

  `mean` and `var` (*shape) are those of every element over the training examples, in standard
  units.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, source: splits.Source, index: np.ndarray, statistics: "Statistics"):
    self.shape = (len(index), *source.x.shape[1:])
    self.bytes_per_example = 4 * math.prod(source.x.shape[1:])
    self.sha256 = statistics.sha256
    self._source, self._index = source, index
    self._mean, self._scale = statistics.mean, statistics.scale
    self.mean = standardize.standardise(statistics.moments.mean, self._mean, self._scale)
    variances = statistics.moments.squares / statistics.moments.count
    # Whitening makes the variances 1.
    self.var = (variances / self._scale**2 if self._scale.ndim < 2
                else np.ones(source.x.shape[1:]))

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype=None, copy=None):
    raise TypeError(f"{len(self)} examples do not fit in memory as one array: index them")

  def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
    """Examples (…, *shape) at an integer, a slice, an array of integers, or a boolean array."""
    place = self._index[index]
    x = self._source.x[np.ravel(place)].reshape(*np.shape(place), *self.shape[1:])
    return standardize.standardise(x, self._mean, self._scale)

  def rows(self, index: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(examples, conditions) at integers (k,); every item is read once."""
    x, conditions = read(self._source, self._index[index])
    return standardize.standardise(x, self._mean, self._scale), conditions


class Condition:
  """A condition of the examples `index` of a source, read when indexed."""

  def __init__(self, values: Any, index: np.ndarray):
    self._values, self._index = values, index
    self.shape, self.dtype = (len(index), *values.shape[1:]), values.dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
    place = self._index[index]
    return self._values[np.ravel(place)].reshape(*np.shape(place), *self.shape[1:])


class Statistics(NamedTuple):
  """Statistics of all examples of a source."""

  mean: np.ndarray
  scale: np.ndarray
  moments: standardize.Moments  # of the training examples
  integers: bool  # whether all training values are integers
  digests: dict[str, str]  # see `fingerprints`
  sha256: str  # of the digests
  condition_classes: dict[str, int]  # see `splits.condition_classes`


def measure(
    source: splits.Source, scaling: str, units: tuple[np.ndarray, np.ndarray] | None
) -> Statistics:
  """Reads all examples, block by block, and computes their statistics.

  Args:
    units: (mean, scale) that replace those of the data.
  """
  shape = source.x.shape[1:]
  moments = standardize.Moments(0, np.zeros(shape), np.zeros(shape))
  integers, digests, classes = True, {}, {}
  with progress.bar(len(source.x), 0, "reading the data") as bar:
    done = 0
    for split, held_out in zip(fingerprints.SPLITS, (False, True), strict=True):
      places = np.flatnonzero(source.held_out == held_out)
      digest = fingerprints.Digest(source, split, places)
      for index in _blocks(source, places):
        x, conditions = read(source, index)
        digest.add(index, x, conditions)
        for name, count in splits.condition_classes(conditions).items():
          classes[name] = max(classes.get(name, 0), count)
        if not held_out:
          moments = standardize.merged(moments, standardize.moments(x))
          integers = integers and not np.any(np.mod(x, 1.0))
        done += len(index)
        bar(done)
      digests |= digest.result()
  mean, scale = units or standardize.of_moments(
      moments, source.kind, scaling,
      _covariance(source, moments) if scaling == "whiten" else None)
  sha256 = hashlib.sha256("\n".join(f"{k} {v}" for k, v in sorted(digests.items())).encode())
  return Statistics(mean, scale, moments, integers, digests, sha256.hexdigest(), classes)


def read(source: splits.Source, index: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """(x (k, *shape), conditions (k, …) by name) at integers (k,), in the user's units."""
  if isinstance(source.x, items.Items) and source.conditions:
    columns = source.x.columns(index)
    return columns["x"], {name: columns[name].astype(value.dtype)
                          for name, value in source.conditions.items()}
  return source.x[index], {name: value[index] for name, value in source.conditions.items()}


def _blocks(source: splits.Source, places: np.ndarray) -> Iterator[np.ndarray]:
  """Yields `places` in blocks of 64 MB as float64, or of one example."""
  size = 8 * math.prod(source.x.shape[1:])
  size += sum(8 * math.prod(value.shape[1:]) for value in source.conditions.values())
  rows = max(1, _BLOCK_BYTES // size)
  for first in range(0, len(places), rows):
    yield places[first:first + rows]


def _covariance(source: splits.Source, moments: standardize.Moments) -> np.ndarray:
  """The covariance (c, c) of the training vectors, by one more pass over the data."""
  places = np.flatnonzero(~source.held_out)
  return sum(standardize.scatter(source.x[index], moments.mean)
             for index in _blocks(source, places)) / moments.count
