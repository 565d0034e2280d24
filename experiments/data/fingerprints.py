"""Digests of examples as read: by file if each example has its own file, else by split."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.data import splits

SPLITS = ("training examples", "held-out examples")


class Digest:
  """Digests of the examples of a split as read, with their labels.

  There is one for each file if each example has its own file, else one for the split; and one for
  each condition.
  """

  def __init__(self, source: splits.Source, split: str, places: np.ndarray):
    self._source, self._split = source, split
    self._labels = (np.asarray(source.labels[places]) if source.num_classes
                    else np.zeros(len(places)))
    self._by_file: dict[str, str] = {}
    header = lambda value: (value.dtype, (len(places), *value.shape[1:]))
    self._split_hasher = _hasher(*header(source.x))
    self._condition_hashers = {
        name: _hasher(*header(value)) for name, value in source.conditions.items()}

  def add(self, index: np.ndarray, x: np.ndarray, conditions: Mapping[str, np.ndarray]) -> None:
    """Adds the examples `index` of the source, x (k, *shape), in their order."""
    names, labels = self._source.names, self._source.labels
    if names is not None:
      for i, value in zip(index.tolist(), x, strict=True):
        label = np.asarray(labels[i]) if self._source.num_classes else np.zeros(())
        self._by_file[names[i]] = digest(value, label)
    else:
      _update(self._split_hasher, x)
    for name, value in conditions.items():
      _update(self._condition_hashers[name], value)

  def result(self) -> dict[str, str]:
    """The digests by name of the file, split or condition."""
    digests = {f"condition {name}, {self._split}": hasher.hexdigest()[:16]
               for name, hasher in self._condition_hashers.items()}
    if self._source.names is not None:
      return digests | self._by_file
    _update(self._split_hasher, self._labels, header=True)
    return digests | {self._split: self._split_hasher.hexdigest()[:16]}


def digest(*arrays: np.ndarray) -> str:
  """A digest of arrays with their dtypes and shapes."""
  hasher = hashlib.sha256()
  for array in arrays:
    _update(hasher, array, header=True)
  return hasher.hexdigest()[:16]


def _hasher(dtype: np.dtype, shape: tuple[int, ...]) -> Any:
  return hashlib.sha256(f"{dtype} {shape}".encode())


def _update(hasher: Any, array: np.ndarray, *, header: bool = False) -> None:
  if header:
    hasher.update(f"{array.dtype} {array.shape}".encode())
  hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
