"""The data that samples are compared with: in memory, and in the same units for all runs."""

import dataclasses

import numpy as np

from experiments.data import standardize
from experiments.data.dataset import Dataset, Examples, in_standard_units, restore

# If examples are not in memory, at most this many bytes of them are read.
_MEMORY_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class InStandardUnits:
  """Examples (n, *shape) in the user's units, converted when a part of them is indexed.

  x may be an array on disk.
  """

  dataset: Dataset
  x: np.ndarray

  def __len__(self) -> int:
    return len(self.x)

  def __getitem__(self, index: slice) -> np.ndarray:
    return in_standard_units(self.dataset, self.x[index])


def in_memory(x: Examples) -> np.ndarray:
  """Examples (k, *shape) in memory: all of an array, else the first `count_in_memory`.

  Held-out examples that are not in memory are in random order, so the first represent all.
  """
  return x if isinstance(x, np.ndarray) else x[:count_in_memory(x)]


def count_in_memory(x: Examples) -> int:
  """The number of examples that `in_memory` returns: at most 256 MB if x is not an array."""
  if isinstance(x, np.ndarray):
    return len(x)
  return min(len(x), max(2, _MEMORY_BYTES // x.bytes_per_example))


def comparison_data(dataset: Dataset, *, most: int = 20_000) -> Dataset:
  """The data set itself if it is in memory, as tokens are, else a fixed part of it in memory.

  The part has `most` training examples, at most 1 GB, and the held-out examples of `in_memory`.
  """
  x = dataset.train
  if isinstance(x, np.ndarray) or dataset.vocabulary:
    return dataset
  count = min(most, len(x), max(2, 4 * _MEMORY_BYTES // x.bytes_per_example))
  index = np.sort(np.random.default_rng(0).choice(len(x), count, replace=False))
  test = in_memory(dataset.test)
  labels_at = lambda labels, at: np.asarray(labels[at]) if dataset.num_classes else labels
  return dataset._replace(
      train=x[index], train_labels=labels_at(dataset.train_labels, index), test=test,
      test_labels=labels_at(dataset.test_labels, slice(len(test))),
      conditions={name: value[index] for name, value in dataset.conditions.items()},
      test_conditions={name: value[np.arange(len(test))]
                       for name, value in dataset.test_conditions.items()})


def in_comparison_units(dataset: Dataset) -> Dataset:
  """A data set in memory in the units of scaling="". Samples of all runs are compared in them.

  In the units of a run with one scale for all features, a feature of small scale would hardly
  count. Latents are decoded.
  """
  latent = dataset.codec is not None
  if np.ndim(dataset.mean) == 0 and not latent:
    return dataset
  train, test = (restore(dataset, x) for x in (dataset.train, dataset.test))
  mean, scale = standardize.statistics(train, dataset.kind)
  if np.ndim(scale) == np.ndim(dataset.scale) and not latent:
    return dataset
  return dataset._replace(codec=None, train=standardize.standardise(train, mean, scale),
                          test=standardize.standardise(test, mean, scale), mean=mean, scale=scale)
