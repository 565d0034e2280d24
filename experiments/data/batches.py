"""Training batches, a pure function of (seed, step), so that a run resumes from its step.

Example j of step s is at place s·batch_size + j of an endless sequence of epochs. Each epoch is a
permutation of the data by (seed, epoch). A batch may span two epochs.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data import on_demand, shards, shuffle

if TYPE_CHECKING:
  from experiments.data.dataset import Dataset

# The memory for batches that are read ahead.
AHEAD_BYTES = 2**28
# The number of threads that read ahead. More would wait for the disk or for Python's lock.
_READERS = 4


def batch(
    dataset: "Dataset", *, seed: int, step: int, batch_size: int,
    rows: np.ndarray | slice | None = None,
) -> tuple[np.ndarray, Any]:
  """The training batch of a step.

  Args:
    batch_size: of all processes together.
    rows: the rows of the batch that this process needs, integers or a slice; all if not given. Only
      these are read.

  Returns:
    (x, condition). x is (rows, *shape) float32, of tokens int32. Without named conditions, the
    condition is the labels, (rows,) int32; zeros if there are no classes. Otherwise it is a dict of
    the named conditions, (rows, …), with "label" if there are classes.
  """
  if batch_size < 1 or step < 0:
    raise ValueError(f"batch_size must be positive and step not negative; got {batch_size}, {step}")
  places = int(step) * int(batch_size) + np.arange(batch_size)
  places = places if rows is None else places[rows]
  index = shuffle.indices(places, seed=int(seed), n=len(dataset.train))
  labels = dataset.train_labels[index] if dataset.num_classes else np.zeros(len(index), np.int32)
  if isinstance(dataset.train, shards.Latents):
    x = dataset.train.draw(index, places, seed=int(seed))
    conditions = {name: value[index] for name, value in dataset.conditions.items()}
  elif dataset.conditions and isinstance(dataset.train, on_demand.Examples):
    x, conditions = dataset.train.rows(index)
  else:
    x = dataset.train[index]
    conditions = {name: value[index] for name, value in dataset.conditions.items()}
  if dataset.augmentation is not None:
    x, told = dataset.augmentation.apply(x, places, int(seed))
    conditions = {**conditions, **told}
  if not conditions:
    return x, labels
  return x, conditions | ({"label": labels} if dataset.num_classes else {})


def stream(
    dataset: "Dataset", *, seed: int, start: int, stop: int, batch_size: int,
    rows: np.ndarray | slice | None = None,
) -> Iterator[tuple[np.ndarray, Any]]:
  """Yields the results of `batch` for the steps start … stop − 1.

  Threads read data that are not in memory ahead: a few batches, at most 256 MB.
  """
  batch_of = lambda step: batch(dataset, seed=seed, step=step, batch_size=batch_size, rows=rows)
  if isinstance(dataset.train, np.ndarray) or dataset.vocabulary:
    yield from map(batch_of, range(start, stop))
    return
  import grain  # takes 0.1 s, which data in memory do not need
  count = batch_size if rows is None else len(np.arange(batch_size)[rows])
  ahead = AHEAD_BYTES // max(4 * count * int(np.prod(dataset.train.shape[1:])), 1)
  batches = iter(grain.MapDataset.range(start, stop).map(lambda step: batch_of(int(step)))
                 .to_iter_dataset(grain.ReadOptions(
                     num_threads=_READERS, prefetch_buffer_size=int(np.clip(ahead, 2, 32)))))
  try:
    yield from batches
  finally:
    batches.close()
