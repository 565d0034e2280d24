"""Examples in ArrayRecord shards: written once, then read by index.

A directory holds

  train-00000-of-00008.array_record …   one record per example, its values in C order
  train_labels.npy                      if there are classes
  train_condition_NAME.npy              for each condition
  test…                                 the same for held-out examples
  moments.npy                           mean and variance of every element
  autoencoder.*                         of latents, `codecs`
  metadata.json                         the fields of `Facts`

Shard k of s starts at example ⌊k n/s⌋. Training examples keep the order of their source, so that a
run is the same from shards and from memory. Held-out examples are shuffled, so that the first of
them represent all. A record of latents holds the mean and the standard deviation of a posterior.
"""

import bisect
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from experiments.data import codecs, kinds, readers, shuffle, standardize

DTYPES = {"uint8": np.uint8, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
          "float32": np.float32, "float64": np.float64}
SPLITS = ("train", "test")
VERSION = 1


class Facts(NamedTuple):
  """The content of metadata.json; `examples` and `shards` are (of train, of test)."""

  version: int
  shape: tuple[int, ...]
  dtype: str  # of the values of a record
  num_classes: int
  kind: str
  value_range: tuple[float, float] | None
  integers: bool
  mean: list[float] | float
  scale: list[list[float]] | list[float] | float  # see `standardize`
  examples: tuple[int, int]
  shards: tuple[int, int]
  sha256: str  # of all records and labels, train before test
  classes: tuple[str, ...] = ()  # names, in the order of labels; () in earlier versions
  digests: Mapping[str, str] = {}  # by file; none in earlier versions
  conditions: Mapping[str, Sequence] = {}  # (shape of one example, dtype) by name
  latent_channels: int = 0  # of latents: a record has twice as many


class Stored(NamedTuple):
  """An opened directory of shards."""

  facts: Facts
  train: "Examples"
  train_labels: np.ndarray  # (n,) int32, or (0,) when unconditional; read when indexed
  test: "Examples"
  test_labels: np.ndarray
  conditions: dict[str, np.ndarray]  # (n, …), read when indexed
  test_conditions: dict[str, np.ndarray]
  codec: codecs.Codec | None = None  # of latents


class Examples:
  """Examples (n, *shape), float32 in standard units, read from shards when indexed; thread-safe.

  `mean` and `var` are of every element over all training examples, in standard units.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, files: list[pathlib.Path], facts: Facts, n: int, moments: np.ndarray):
    self.shape = (n, *facts.shape)
    self.bytes_per_example = 4 * int(np.prod(facts.shape))
    self.sha256 = facts.sha256  # of the whole directory
    self._files, self._stored = files, np.dtype(DTYPES[facts.dtype])
    self._record_shape = facts.shape
    self._mean, self._scale = np.asarray(facts.mean), np.asarray(facts.scale)
    self.mean = standardize.standardise(moments[0], self._mean, self._scale)
    # Whitening makes the variances 1.
    self.var = (moments[1] / self._scale**2 if self._scale.ndim < 2 else np.ones(facts.shape))
    self._source = _open(files, n)

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype=None, copy=None):
    raise TypeError(f"{len(self)} examples in shards do not become one array: index them")

  def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
    """Examples (…, *shape) at an integer, a slice, an array of integers, or a boolean array.

    Raises:
      IndexError: an index outside of [0, n).
      OSError: a shard cannot be read, or a record has another length.
    """
    return standardize.standardise(self._values(self._index(index)), self._mean, self._scale)

  def _index(self, index: int | slice | np.ndarray) -> np.ndarray:
    """The integers of an index. Raises IndexError as `__getitem__` does."""
    index = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
    index = np.flatnonzero(index) if index.dtype == np.bool_ else index
    if index.size and not 0 <= index.min() <= index.max() < len(self):
      raise IndexError(f"examples are numbered from 0 to {len(self) - 1}; got {index.min()} to "
                       f"{index.max()}")
    return index

  def _values(self, index: np.ndarray) -> np.ndarray:
    """The stored values (…, *record) at integers."""
    x = np.frombuffer(b"".join(map(self._record, index.ravel().tolist())), self._stored)
    return x.reshape(*index.shape, *self._record_shape)

  def _record(self, i: int) -> bytes:
    """The record of example i. Raises OSError if it is damaged."""
    size = self._stored.itemsize * int(np.prod(self._record_shape))
    try:
      record = self._source[i]
    except RuntimeError as error:
      raise OSError(f"data.path: {self._shard(i)} cannot be read at example {i}: "
                    f"{readers.one_line(error)}") from error
    if len(record) != size:
      raise OSError(f"data.path: {self._shard(i)} is cut short or damaged: example {i} has "
                    f"{len(record)} bytes in place of {size}")
    return record

  def _shard(self, i: int) -> str:
    """The shard of example i, for messages."""
    starts = [part[0] for part in parts(range(len(self)), len(self._files))]
    return f"shard {str(self._files[bisect.bisect_right(starts, i) - 1])!r}"


class Latents(Examples):
  """Latents z = m + s ε of records (m, s). An index gives the same draw of ε in every call."""

  _STREAM = 0x6C61  # distinguishes these random bits from those of the order

  def __init__(self, files: list[pathlib.Path], facts: Facts, n: int, moments: np.ndarray,
               codec: codecs.Codec):
    super().__init__(files, facts._replace(shape=(*facts.shape[:-1], facts.latent_channels)), n,
                     latent_moments(moments))
    self._record_shape = facts.shape
    self.bytes_per_example = 4 * int(np.prod(codec.shape))  # of what it is decoded to

  def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
    """As of `Examples`, with one draw for each example."""
    index = self._index(index)
    return self.draw(index, index, seed=0)

  def draw(self, index: np.ndarray, places: np.ndarray, *, seed: int) -> np.ndarray:
    """Latents at integers `index`, in standard units; ε is a function of (seed, place)."""
    m, s = np.split(self._values(index).astype(np.float32), 2, axis=-1)
    bits = shuffle.bits(places, seed=seed, stream=self._STREAM)
    noise = [np.random.Generator(np.random.Philox(key=int(key))).standard_normal(
        m.shape[index.ndim:], np.float32) for key in bits.ravel()]
    z = m + s * np.reshape(noise, m.shape)
    return standardize.standardise(z, self._mean, self._scale)


def latent_moments(moments: np.ndarray) -> np.ndarray:
  """Mean and variance of z = m + s ε, of those of (m, s): (2, …, 2c) → (2, …, c).

    E z = E m,   Var z = Var m + E s² = Var m + Var s + (E s)²
  """
  (m, s), (var_m, var_s) = (np.split(each, 2, axis=-1) for each in moments)
  return np.stack([m, var_m + var_s + s**2])


def read(path: str) -> Stored:
  """Opens a directory of shards without reading examples.

  Raises:
    ValueError: the directory, metadata, shards or labels are missing, damaged or inconsistent.
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
  codec = codecs.read(root) if facts.latent_channels else None
  splits = []
  for split, n, shards in zip(SPLITS, facts.examples, facts.shards, strict=True):
    files = [root / file_name(split, k, shards) for k in range(shards)]
    examples = (Examples(files, facts, n, moments) if codec is None else
                Latents(files, facts, n, moments, codec))
    splits += [examples, _labels(root, split, n, facts.num_classes)]
  conditions = [_conditions(root, split, n, facts.conditions)
                for split, n in zip(SPLITS, facts.examples, strict=True)]
  return Stored(facts, *splits, *conditions, codec)


def parts(index: Sequence[int], count: int) -> list[Sequence[int]]:
  """The indices of the examples in each of `count` shards."""
  return [index[k * len(index) // count:(k + 1) * len(index) // count] for k in range(count)]


def file_name(split: str, k: int, shards: int) -> str:
  """The file of shard k."""
  return f"{split}-{k:05d}-of-{shards:05d}.array_record"


def condition_file(split: str, name: str) -> str:
  """The file of a condition."""
  return f"{split}_condition_{name}.npy"


def _facts(root: pathlib.Path) -> Facts:
  """The content of metadata.json. Raises ValueError if it is missing, damaged or not valid."""
  file = root / "metadata.json"
  if not file.is_file():
    raise ValueError(f"data.path: {str(root)!r} must hold shards *.array_record and metadata.json, "
                     "as `python -m experiments.array_records` writes; it has no metadata.json")
  try:
    fields = json.loads(file.read_text(encoding="utf-8"))
    facts = Facts(**fields)._replace(
        shape=tuple(map(int, fields["shape"])), examples=tuple(map(int, fields["examples"])),
        shards=tuple(map(int, fields["shards"])), classes=tuple(fields.get("classes", ())),
        value_range=fields["value_range"] and tuple(map(float, fields["value_range"])))
    missing = [name for name, holds in _requirements(facts).items() if not holds]
  except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError,
          RecursionError) as error:
    raise ValueError(f"data.path: {str(file)!r} must be the JSON that `python -m "
                     f"experiments.array_records` writes: {readers.one_line(error)}") from error
  if missing:
    raise ValueError(f"data.path: {str(file)!r} must have {missing[0]}")
  return facts


def _requirements(facts: Facts) -> dict[str, bool]:
  """The requirements on metadata.json in words, and whether each one holds."""
  mean, scale = (np.asarray(value, np.float64) for value in (facts.mean, facts.scale))
  latent = facts.latent_channels
  features = (latent,) if latent else facts.shape[-1:]
  return {
      f"version {VERSION}": facts.version == VERSION,
      "a shape": len(facts.shape) > 0 and min(facts.shape) > 0,
      f"a dtype of {', '.join(DTYPES)}": facts.dtype in DTYPES,
      "num_classes of 0 or more": int(facts.num_classes) >= 0,
      "a name for every class": len(facts.classes) in (0, int(facts.num_classes))
      and all(isinstance(name, str) for name in facts.classes),
      "twice its latent_channels in its shape": latent == 0
      or 2 * latent in facts.shape[-1:],
      "a kind": facts.kind in kinds.KINDS,
      "examples and shards of train and test": len(facts.examples) == len(facts.shards) == 2
      and all(n >= s >= 1 for n, s in zip(facts.examples, facts.shards, strict=True)),
      "finite means and a positive scale": np.isfinite(mean).all() and np.isfinite(scale).all()
      and mean.shape in ((features,) if facts.kind in ("vector", "sequence") else ((), features))
      and scale.shape in ((), features, 2 * features)
      and (standardize.deviations(scale) > 0.0).all()
      and (scale.ndim < 2 or np.linalg.matrix_rank(scale) == len(scale)),
      "digests by file": all(isinstance(value, str) for value in facts.digests.values()),
      "a shape and dtype of every condition": all(
          isinstance(shape, list) and isinstance(dtype, str)
          for shape, dtype in facts.conditions.values()),
  }


def _open(files: list[pathlib.Path], n: int):
  """Grain's source of the n records in these files. Raises ValueError if they are damaged."""
  try:
    import grain  # takes 0.1 s, which data in memory do not need
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
    # The error does not name the damaged shard.
    for name in names:
      try:
        grain.sources.ArrayRecordDataSource(name)
      except RuntimeError as error:
        raise ValueError(f"data.path: shard {name!r} is cut short or damaged: "
                         f"{readers.one_line(error)}") from error
    raise
  if len(source) != n:
    raise ValueError(f"data.path: the shards of {str(files[0].parent)!r} hold {len(source)} "
                     f"examples, and metadata.json says {n}")
  return source


def _labels(root: pathlib.Path, split: str, n: int, num_classes: int) -> np.ndarray:
  """The checked labels (n,) of a split; (0,) without classes."""
  if not num_classes:
    return np.zeros((0,), np.int32)
  file = root / f"{split}_labels.npy"
  labels = readers.read_numpy(str(file), "data.path", mapped=True)
  readers.check_labels(labels, n, f"data.path: {str(file)!r}", num_classes=num_classes)
  return labels


def _conditions(
    root: pathlib.Path, split: str, n: int, conditions: Mapping[str, Sequence]
) -> dict[str, np.ndarray]:
  """The checked conditions (n, …) of a split by name."""
  arrays = {}
  for name, (shape, dtype) in conditions.items():
    file = root / condition_file(split, name)
    arrays[name] = values = readers.read_numpy(str(file), "data.path", mapped=True)
    if values.shape != (n, *shape) or str(values.dtype) != dtype:
      raise ValueError(f"data.path: {str(file)!r} must have the shape {(n, *shape)} and dtype "
                       f"{dtype} that metadata.json says; it has {values.shape} {values.dtype}")
  return arrays
