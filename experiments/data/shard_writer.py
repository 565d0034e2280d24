"""Writes examples into ArrayRecord shards, in the format that `shards` reads."""

import hashlib
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import numpy as np

from experiments.data import codecs, fingerprints, on_demand, shards, splits, standardize
from experiments.run import buckets

# One record per group, for access by index; uncompressed, as images and latents hardly compress.
_OPTIONS = "group_size:1,uncompressed"
_BLOCK_BYTES = 2**26


def write(
    source: splits.Source, out: pathlib.Path, *, num_shards: int, dtype: str = "",
    scaling: str = "", codec: codecs.Codec | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> shards.Facts:
  """Writes a directory of shards. It gets the name `out` once it is complete.

  Means and scales are computed from the stored values.

  Args:
    num_shards: of the training examples; held-out examples get a proportional number, at least 1.
    dtype: one of `shards.DTYPES`. "" is the dtype of the source if it is one of them, except for
      float64. Otherwise it is uint8 for integer images in 0 … 255, and float32 for all others.
    scaling: of standard units; see `data.load`.
    codec: the autoencoder of latents, whose source is `latents`.
    progress: called with the number of examples written.

  Returns:
    The content of metadata.json.

  Raises:
    ValueError: `out` exists, or arguments do not fit the source.
    OSError: a file cannot be written; the files written so far are deleted.
  """
  if buckets.is_bucket(out):
    return _write_to_bucket(out, lambda place: write(
        source, place, num_shards=num_shards, dtype=dtype, scaling=scaling, codec=codec,
        progress=progress))
  num_held_out = int(source.held_out.sum())
  examples = (len(source.x) - num_held_out, num_held_out)
  if not 1 <= num_shards <= examples[0]:
    raise ValueError(f"--shards must be from 1 to the {examples[0]} training examples; got "
                     f"{num_shards}")
  standardize.check(scaling, source.kind, "--scaling")
  dtype = _stored_dtype(source, dtype)
  counts = (num_shards,
            max(1, min(num_held_out, round(num_shards * num_held_out / examples[0]))))
  partial = out.with_name(out.name + ".partial")
  size = math.prod(source.x.shape) * np.dtype(shards.DTYPES[dtype]).itemsize
  _check_out(out, partial, size)
  try:
    partial.mkdir(parents=True)
  except OSError as error:
    raise OSError(f"--out: {str(partial)!r} cannot be made: {error}") from error
  try:
    if codec is not None:
      codecs.write(codec, partial)
    facts = _fill(partial, source, dtype, scaling, examples, counts, progress,
                  0 if codec is None else codec.latent_shape[-1])
    shards.read(str(partial))
    partial.rename(out)
  except (RuntimeError, OSError) as error:
    raise OSError(f"--out: {str(out)!r} could not be written, and nothing is left of it: "
                  f"{error}") from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return facts


def latents(source: splits.Source, codec: codecs.Codec) -> splits.Source:
  """The source whose examples are the means and standard deviations of a source's posteriors.

  Units of the source, where it has some, are those of the latents.

  Raises:
    ValueError: examples of another shape than the autoencoder's.
  """
  if source.x.shape[1:] != codec.shape:
    square = len(codec.shape) == 3 and codec.shape[0] == codec.shape[1]
    remedy = (f"; pictures are read in that shape by images(path=…, size={codec.shape[0]}, "
              f"channels={codec.shape[2]})"
              if square and codec.shape[2] in (1, 3, 4) and source.kind == "image" else "")
    raise ValueError(f"--data: the autoencoder is of examples of shape {codec.shape}, the data "
                     f"have {source.x.shape[1:]}{remedy}")
  return source._replace(x=_Encoded(source, codec), kind="array", value_range=None)


class _Encoded:
  """(n, *sides, 2c) float32: mean and standard deviation of the examples, computed when indexed."""

  dtype = np.dtype(np.float32)

  def __init__(self, source: splits.Source, codec: codecs.Codec):
    *sides, channels = codec.latent_shape
    self.shape = (len(source.x), *sides, 2 * channels)
    self._source, self._codec = source, codec

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    return np.concatenate(self._codec.encode(np.asarray(self._source.x[index])), axis=-1)


def _write_to_bucket(
    out: pathlib.Path, write_to: Callable[[pathlib.Path], shards.Facts]
) -> shards.Facts:
  """Writes to a temporary directory of this machine and copies it; metadata.json comes last."""
  if out.exists():
    raise ValueError(f"--out must name a new or empty directory; {str(out)!r} is there already")
  with tempfile.TemporaryDirectory() as scratch:
    facts = write_to(pathlib.Path(scratch, "shards"))
    buckets.put(pathlib.Path(scratch, "shards"), out, last="metadata.json")
  return facts


def _fill(
    directory: pathlib.Path, source: splits.Source, dtype: str, scaling: str,
    examples: tuple[int, int], counts: tuple[int, int], progress: Callable[[int], None],
    latent_channels: int = 0,
) -> shards.Facts:
  """Writes all files of a directory of shards.

  Args:
    examples, counts: numbers of examples and of shards, each (of train, of test).
  """
  content = _SplitWriter(source, dtype, progress)
  for split, count in zip(shards.SPLITS, counts, strict=True):
    index = np.flatnonzero(source.held_out == (split == "test"))
    if split == "test":
      index = np.random.default_rng(0).permutation(index)
    content.write_split(directory, split, index, count)
  moments, kind = content.moments, source.kind
  variances = moments.squares / moments.count
  np.save(directory / "moments.npy", np.stack([moments.mean, variances]))
  rounding = content.rounding / moments.count
  if latent_channels:
    mean, of_latents = shards.latent_moments(np.stack([moments.mean, variances]))
    moments = moments._replace(mean=mean, squares=of_latents * moments.count)
    variances, rounding = of_latents, rounding[..., :latent_channels]
  covariance = _covariance(source, dtype, moments, content.rows) if scaling == "whiten" else None
  mean, scale = (map(np.asarray, source.units) if source.units else
                 standardize.of_moments(moments, kind, scaling, covariance))
  _check_rounding(rounding, variances, dtype)
  value_range = source.value_range or (content.low, content.high)
  value_range = np.asarray(value_range).astype(shards.DTYPES[dtype])
  facts = shards.Facts(
      shards.VERSION, source.x.shape[1:], dtype, source.num_classes, kind,
      tuple(map(float, value_range)) if kind == "image" else None,
      kind == "image" and content.integers,
      mean.tolist(), scale.tolist(), examples, counts, content.digest.hexdigest(), source.classes,
      content.digests, {name: (list(value.shape[1:]), str(value.dtype))
                        for name, value in source.conditions.items()}, latent_channels)
  (directory / "metadata.json").write_text(json.dumps(facts._asdict(), indent=2) + "\n",
                                           encoding="utf-8")
  return facts


class _SplitWriter:
  """Writes splits and computes statistics of the stored values.

  moments: of the stored training examples.
  rounding: Σ (stored − given value)² over training examples.
  integers: whether all stored training values are integers. low, high: the range of all values.
  digest: of all records, labels and conditions. digests: of each file.
  """

  def __init__(self, source: splits.Source, dtype: str, progress: Callable[[int], None]):
    shape = source.x.shape[1:]
    self.moments = standardize.Moments(0, np.zeros(shape), np.zeros(shape))
    self.rounding = np.zeros(shape)
    self.integers, self.low, self.high = True, np.inf, -np.inf
    self.digest, self.digests = hashlib.sha256(), {}
    self.rows = max(1, _BLOCK_BYTES // (8 * math.prod(shape)))
    self._source, self._dtype, self._progress, self._done = source, dtype, progress, 0

  def write_split(self, directory: pathlib.Path, split: str, index: np.ndarray, count: int) -> None:
    """Writes the examples `index` as the `count` shards, labels and conditions of a split."""
    conditions = {name: np.lib.format.open_memmap(
        directory / shards.condition_file(split, name), "w+", value.dtype,
        (len(index), *value.shape[1:])) for name, value in self._source.conditions.items()}
    start = 0
    for k, part in enumerate(shards.parts(index, count)):
      slices = {name: values[start:start + len(part)] for name, values in conditions.items()}
      self._write_shard(directory / shards.file_name(split, k, count), part, slices,
                        train=split == "train")
      start += len(part)
    for name, values in conditions.items():
      values.flush()
      self._add_file(shards.condition_file(split, name), values)
    if self._source.num_classes:
      labels = self._source.labels[index].astype(np.int32)
      np.save(directory / f"{split}_labels.npy", labels)
      self._add_file(f"{split}_labels.npy", labels)

  def _write_shard(
      self, file: pathlib.Path, part: np.ndarray, conditions: dict[str, np.ndarray], *, train: bool
  ) -> None:
    """Writes the examples `part` to a file, and their conditions to the arrays `conditions`."""
    from array_record.python import array_record_module
    writer = array_record_module.ArrayRecordWriter(str(file), _OPTIONS)
    file_digest = hashlib.sha256()
    for first in range(0, len(part), self.rows):
      places = part[first:first + self.rows]
      x, values = on_demand.read(self._source, places)
      block = _cast(x, self._dtype)
      for record in map(np.ndarray.tobytes, block):
        writer.write(record)
        self.digest.update(record)
        file_digest.update(record)
      for name, value in values.items():
        conditions[name][first:first + len(places)] = value
      if train:
        self._add_training(x, block)
      self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
      self._done += len(block)
      self._progress(self._done)
    writer.close()
    self.digests[file.name] = file_digest.hexdigest()[:16]

  def _add_training(self, x: np.ndarray, block: np.ndarray) -> None:
    """Adds training examples x (k, *shape), stored as `block`, to the statistics."""
    self.moments = standardize.merged(self.moments, standardize.moments(block))
    if block.dtype != x.dtype:
      self.rounding += np.square(np.subtract(block, x, dtype=np.float64)).sum(0)
    self.integers = self.integers and (
        self._dtype == "uint8" or np.array_equal(block, np.rint(block)))

  def _add_file(self, name: str, values: np.ndarray) -> None:
    """Adds the values of a .npy to the digests."""
    for first in range(0, len(values), self.rows):
      self.digest.update(np.ascontiguousarray(values[first:first + self.rows]).tobytes())
    self.digests[name] = fingerprints.digest(values)


def _check_out(out: pathlib.Path, partial: pathlib.Path, needed: int) -> None:
  """Raises ValueError if `out` or `partial` exists, or fewer than `needed` bytes are free."""
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f"--out must name a new or empty directory; {str(out)!r} is there already")
  if partial.exists():
    raise ValueError(f"--out: {str(partial)!r} is there, left by a conversion that was killed, or "
                     "of one at work: delete it, or choose another --out")
  directory = next(parent for parent in out.absolute().parents if parent.exists())
  free = shutil.disk_usage(directory).free
  if needed > free:
    raise ValueError(f"--out: {str(out)!r} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are "
                     "free there")


def _stored_dtype(source: splits.Source, dtype: str) -> str:
  """The name of the dtype of records; see `write`."""
  if dtype:
    if dtype not in shards.DTYPES:
      raise ValueError(f"--dtype must be one of {', '.join(shards.DTYPES)}; got {dtype!r}")
    return dtype
  given = source.x.dtype
  if given.name in shards.DTYPES and given.name != "float64":
    return given.name
  low, high = source.value_range or (-1.0, 256.0)
  return "uint8" if given.kind in "biu" and 0.0 <= low <= high <= 255.0 else "float32"


def _covariance(
    source: splits.Source, dtype: str, moments: standardize.Moments, rows: int
) -> np.ndarray:
  """The covariance (c, c) of the stored training vectors, by a second pass over the data."""
  train = np.flatnonzero(~source.held_out)
  blocks = (_cast(source.x[train[first:first + rows]], dtype)
            for first in range(0, len(train), rows))
  return sum(standardize.scatter(block, moments.mean) for block in blocks) / moments.count


def _check_rounding(rounding: np.ndarray, variances: np.ndarray, dtype: str) -> None:
  """Raises ValueError if rounding exceeds 1/50 of the standard deviation of a feature.

  That happens if the mean of a feature is large.

  Args:
    rounding, variances: the mean square of the rounding error, and the variance, of each element.
  """
  by_feature = lambda x: x.reshape(-1, x.shape[-1]).mean(0)
  error = np.sqrt(by_feature(rounding))
  deviation = np.sqrt(by_feature(rounding) + by_feature(variances))
  if (error > 0.02 * deviation).any():
    worst = int(np.argmax(error / np.where(deviation > 0.0, deviation, 1.0)))
    raise ValueError(f"--dtype={dtype} rounds feature {worst} by {error[worst]:.2g}, and its "
                     f"standard deviation is {deviation[worst]:.2g}: choose --dtype=float64, or "
                     "subtract a constant from it")


def _cast(block: np.ndarray, dtype: str) -> np.ndarray:
  """The block in the dtype of records. Raises ValueError if that cannot hold the values."""
  with np.errstate(over="ignore", invalid="ignore"):
    stored = np.asarray(block).astype(shards.DTYPES[dtype])
  fits = np.array_equal(stored, block) if dtype == "uint8" else np.isfinite(stored).all()
  if not fits:
    raise ValueError(f"--dtype={dtype} must hold the values, which lie from {block.min():g} to "
                     f"{block.max():g}" + (" and must be whole" if dtype == "uint8" else ""))
  return stored
