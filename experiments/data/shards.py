"""Examples in ArrayRecord shards: written once, read by index, never whole in memory.

A directory holds, for train and for test, `train-00000-of-00008.array_record` …, a record an
example, its values in C order; `train_labels.npy` where there are classes; `moments.npy`, mean and
variance of every element; and `metadata.json`, the fields of `Facts`. Shard k of s has the examples
from ⌊k n/s⌋ on. Training examples keep the order of their source, so that a run is the same from
shards and from memory; held-out ones are shuffled, so that the first of them stand for all.
"""

import bisect
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from experiments.data import readers, sources, standardize

DTYPES = {"uint8": np.uint8, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
          "float32": np.float32, "float64": np.float64}
SPLITS = ("train", "test")
VERSION = 1


class Facts(NamedTuple):
  """What metadata.json says; `examples` and `shards` are of train and test."""

  version: int
  shape: tuple[int, ...]
  dtype: str  # of a record's values
  num_classes: int
  kind: str
  value_range: tuple[float, float] | None
  integers: bool
  mean: list[float] | float
  scale: list[list[float]] | list[float] | float  # as `standardize` says
  examples: tuple[int, int]
  shards: tuple[int, int]
  sha256: str  # of all records and labels, train before test
  classes: tuple[str, ...] = ()  # names, in the order of labels; of shards from before, numbers


class Stored(NamedTuple):
  """A directory of shards, opened."""

  facts: Facts
  train: "Examples"
  train_labels: np.ndarray  # (n,) int32, or (0,) when unconditional; on the disk until indexed
  test: "Examples"
  test_labels: np.ndarray


class Examples:
  """(n, *shape) float32 in standard units, read from shards when indexed; by threads, too.

  `mean` and `var` are those of every element over all training examples, in standard units.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, files: list[pathlib.Path], facts: Facts, n: int, moments: np.ndarray):
    self.shape = (n, *facts.shape)
    self.bytes_per_example = 4 * int(np.prod(facts.shape))
    self.sha256 = facts.sha256  # of the whole directory
    self._files, self._stored = files, np.dtype(DTYPES[facts.dtype])
    self._mean, self._scale = np.asarray(facts.mean), np.asarray(facts.scale)
    self.mean = standardize.standardise(moments[0], self._mean, self._scale)
    # What has been whitened has unit variances.
    self.var = (moments[1] / self._scale**2 if self._scale.ndim < 2 else np.ones(facts.shape))
    self._source = _opened(files, n)

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype=None, copy=None):
    raise TypeError(f"{len(self)} examples in shards are not read whole: index them")

  def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
    """Examples at an integer, a slice, an array of integers ≥ 0, or where an array is True.

    Raises:
      IndexError: outside of [0, n).
      OSError: a shard that cannot be read, or a record of another length.
    """
    index = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
    index = np.flatnonzero(index) if index.dtype == np.bool_ else index
    if index.size and not 0 <= index.min() <= index.max() < len(self):
      raise IndexError(f"examples are numbered from 0 to {len(self) - 1}; got {index.min()} to "
                       f"{index.max()}")
    x = np.frombuffer(b"".join(map(self._record, index.ravel().tolist())), self._stored)
    x = x.reshape(*index.shape, *self.shape[1:])
    return standardize.standardise(x, self._mean, self._scale)

  def _record(self, i: int) -> bytes:
    wanted = self._stored.itemsize * self.bytes_per_example // 4
    try:
      record = self._source[i]
    except RuntimeError as error:
      raise OSError(f"data.path: {self._shard(i)} cannot be read at example {i}: {_line(error)}"
                    ) from error
    if len(record) != wanted:
      raise OSError(f"data.path: {self._shard(i)} is cut short or damaged: example {i} has "
                    f"{len(record)} bytes in place of {wanted}")
    return record

  def _shard(self, i: int) -> str:
    starts = [part[0] for part in parts(range(len(self)), len(self._files))]
    return f"shard {str(self._files[bisect.bisect_right(starts, i) - 1])!r}"


def read(path: str) -> Stored:
  """Opens a directory of shards; examples stay where they are.

  Raises:
    ValueError: no such directory, or metadata, shards or labels that are missing, damaged or do not
      agree.
  """
  root = readers.existing(path, "data.path", directory=True)
  facts = _facts(root)
  moments = readers.read_numpy(str(root / "moments.npy"), "data.path")
  if np.shape(moments) != (2, *facts.shape):
    raise ValueError(f"data.path: {str(root / 'moments.npy')!r} must have the shape "
                     f"{(2, *facts.shape)}; it has {np.shape(moments)}")
  readers.check_array(moments, f"data.path: {str(root / 'moments.npy')!r}")
  if moments[1].min() < 0.0:
    raise ValueError(f"data.path: {str(root / 'moments.npy')!r} must hold means and variances; it "
                     f"has a variance of {moments[1].min():g}")
  found = []
  for split, n, shards in zip(SPLITS, facts.examples, facts.shards, strict=True):
    files = [root / file_name(split, k, shards) for k in range(shards)]
    found += [Examples(files, facts, n, moments), _labels(root, split, n, facts.num_classes)]
  return Stored(facts, *found)


def parts(index: Sequence[int], count: int) -> list[Sequence[int]]:
  """What each of `count` shards has of the examples of a split."""
  return [index[k * len(index) // count:(k + 1) * len(index) // count] for k in range(count)]


def file_name(split: str, k: int, shards: int) -> str:
  return f"{split}-{k:05d}-of-{shards:05d}.array_record"


def _facts(root: pathlib.Path) -> Facts:
  file = root / "metadata.json"
  if not file.is_file():
    raise ValueError(f"data.path: {str(root)!r} must hold shards *.array_record and metadata.json, "
                     "as `python -m experiments.array_records` writes; it has no metadata.json")
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
    facts = Facts(**found)._replace(
        shape=tuple(map(int, found["shape"])), examples=tuple(map(int, found["examples"])),
        shards=tuple(map(int, found["shards"])), classes=tuple(found.get("classes", ())),
        value_range=found["value_range"] and tuple(map(float, found["value_range"])))
    mean, scale = (np.asarray(value, np.float64) for value in (facts.mean, facts.scale))
    features = facts.shape[-1:]
    sound = {
        f"version {VERSION}": facts.version == VERSION,
        "a shape": len(facts.shape) > 0 and min(facts.shape) > 0,
        f"a dtype of {', '.join(DTYPES)}": facts.dtype in DTYPES,
        "num_classes of 0 or more": int(facts.num_classes) >= 0,
        "a name for every class": len(facts.classes) in (0, int(facts.num_classes))
        and all(isinstance(name, str) for name in facts.classes),
        "a kind": facts.kind in sources.KINDS,
        "examples and shards of train and test": len(facts.examples) == len(facts.shards) == 2
        and all(n >= s >= 1 for n, s in zip(facts.examples, facts.shards, strict=True)),
        "finite means and a positive scale": np.isfinite(mean).all() and np.isfinite(scale).all()
        and mean.shape in ((features,) if facts.kind in ("vector", "sequence") else ((), features))
        and scale.shape in ((), features, 2 * features)
        and (standardize.deviations(scale) > 0.0).all()
        and (scale.ndim < 2 or np.linalg.matrix_rank(scale) == len(scale)),
    }
  except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError,
          RecursionError) as error:
    raise ValueError(f"data.path: {str(file)!r} must be the JSON that `python -m "
                     f"experiments.array_records` writes: {_line(error)}") from error
  if wrong := [name for name, right in sound.items() if not right]:
    raise ValueError(f"data.path: {str(file)!r} must have {wrong[0]}")
  return facts


def _opened(files: list[pathlib.Path], n: int):
  """Grain's source of the records of these files, which must be n."""
  try:
    import grain  # a tenth of a second that data in memory do not need
  except ImportError as error:
    raise ValueError("config.data=array_record needs grain and array-record: `pip install grain "
                     f"array-record` ({error})") from error
  if missing := [file.name for file in files if not file.is_file()]:
    raise ValueError(f"data.path: {str(files[0].parent)!r} must hold {len(files)} shards; "
                     f"{missing[0]} is missing")
  names = [str(file) for file in files]
  try:
    source = grain.sources.ArrayRecordDataSource(names)
  except RuntimeError:
    # It does not say which of them is damaged.
    for name in names:
      try:
        grain.sources.ArrayRecordDataSource(name)
      except RuntimeError as error:
        raise ValueError(f"data.path: shard {name!r} is cut short or damaged: {_line(error)}"
                         ) from error
    raise
  if len(source) != n:
    raise ValueError(f"data.path: the shards of {str(files[0].parent)!r} hold {len(source)} "
                     f"examples, and metadata.json says {n}")
  return source


def _labels(root: pathlib.Path, split: str, n: int, num_classes: int) -> np.ndarray:
  if not num_classes:
    return np.zeros((0,), np.int32)
  file = root / f"{split}_labels.npy"
  labels = readers.read_numpy(str(file), "data.path", mapped=True)
  readers.check_labels(labels, n, f"data.path: {str(file)!r}", num_classes=num_classes)
  return labels


def _line(error: BaseException) -> str:
  return " ".join(str(error).split()) or type(error).__name__
