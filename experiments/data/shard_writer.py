"""Writes examples into ArrayRecord shards, in the format that `shards` reads."""

import hashlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from experiments.data import shards, sources, standardize

# Records of a shard are found by index, each by itself; images and latents hardly compress.
_OPTIONS = "group_size:1,uncompressed"
_BLOCK_BYTES = 2**26


def write(
    source: sources.Source, out: pathlib.Path, *, num_shards: int, dtype: str = "",
    scaling: str = "", progress: Callable[[int], None] = lambda done: None,
) -> shards.Facts:
  """Writes a directory of shards, which appears under its name when it is whole.

  Args:
    num_shards: of the training examples; test has its share of as many, one at the least.
    dtype: of `shards.DTYPES`; "" is that of the source where it is one of them, else uint8 for
      integers of images in 0 … 255 and float32 for all else, float64 too. Means and scales are
      those of what is stored.
    scaling: of standard units, as `data.load` takes it.
    progress: is told how many examples are written.

  Raises:
    ValueError: `out` is there already, or arguments that do not fit the source.
    OSError: the disk. Nothing is left of what was written.
  """
  held = int(source.held_out.sum())
  examples = (len(source.x) - held, held)
  if not 1 <= num_shards <= examples[0]:
    raise ValueError(f"--shards must be from 1 to the {examples[0]} training examples; got "
                     f"{num_shards}")
  standardize.check(scaling, source.kind, "--scaling")
  dtype = _stored_as(source, dtype)
  counts = (num_shards, max(1, min(held, round(num_shards * held / examples[0]))))
  partial = out.with_name(out.name + ".partial")
  size = math.prod(source.x.shape) * np.dtype(shards.DTYPES[dtype]).itemsize
  _check_out(out, partial, size)
  try:
    partial.mkdir(parents=True)
  except OSError as error:
    raise OSError(f"--out: {str(partial)!r} cannot be made: {error}") from error
  try:
    facts = _fill(partial, source, dtype, scaling, examples, counts, progress)
    shards.read(str(partial))
    partial.rename(out)
  except (RuntimeError, OSError) as error:
    raise OSError(f"--out: {str(out)!r} could not be written, and nothing is left of it: "
                  f"{error}") from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return facts


def _fill(
    directory: pathlib.Path, source: sources.Source, dtype: str, scaling: str,
    examples: tuple[int, int], counts: tuple[int, int], progress: Callable[[int], None],
) -> shards.Facts:
  from array_record.python import array_record_module
  shape, kind = source.x.shape[1:], source.kind
  rows = max(1, _BLOCK_BYTES // (8 * math.prod(shape)))
  seen = standardize.Moments(0, np.zeros(shape), np.zeros(shape))
  lost = np.zeros(shape)
  digest, whole, low, high, done = hashlib.sha256(), True, np.inf, -np.inf, 0
  for split, count in zip(shards.SPLITS, counts, strict=True):
    index = np.flatnonzero(source.held_out == (split == "test"))
    if split == "test":
      index = np.random.default_rng(0).permutation(index)
    for k, part in enumerate(shards.parts(index, count)):
      writer = array_record_module.ArrayRecordWriter(
          str(directory / shards.file_name(split, k, count)), _OPTIONS)
      for first in range(0, len(part), rows):
        given = source.x[part[first:first + rows]]
        block = _cast(given, dtype)
        for record in map(np.ndarray.tobytes, block):
          writer.write(record)
          digest.update(record)
        if split == "train":
          seen = standardize.merged(seen, standardize.moments(block))
          if block.dtype != given.dtype:
            lost += np.square(np.subtract(block, given, dtype=np.float64)).sum(0)
          whole = whole and (dtype == "uint8" or np.array_equal(block, np.rint(block)))
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        done += len(block)
        progress(done)
      writer.close()
    if source.num_classes:
      labels = source.labels[index].astype(np.int32)
      np.save(directory / f"{split}_labels.npy", labels)
      digest.update(labels.tobytes())
  np.save(directory / "moments.npy", np.stack([seen.mean, seen.squares / seen.count]))
  mean, scale = standardize.of_moments(
      seen, kind, scaling, _covariance(source, dtype, seen, rows) if scaling == "whiten" else None)
  _check_loss(lost / seen.count, seen.squares / seen.count, dtype)
  ends = np.asarray(source.value_range or (low, high)).astype(shards.DTYPES[dtype])
  facts = shards.Facts(
      shards.VERSION, shape, dtype, source.num_classes, kind,
      tuple(map(float, ends)) if kind == "image" else None, kind == "image" and whole,
      mean.tolist(), scale.tolist(), examples, counts, digest.hexdigest(), source.classes)
  (directory / "metadata.json").write_text(json.dumps(facts._asdict(), indent=2) + "\n",
                                           encoding="utf-8")
  return facts


def _check_out(out: pathlib.Path, partial: pathlib.Path, needed: int) -> None:
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f"--out must name a new or empty directory; {str(out)!r} is there already")
  if partial.exists():
    raise ValueError(f"--out: {str(partial)!r} is there, left by a conversion that was killed, or "
                     "of one at work: delete it, or choose another --out")
  there = next(parent for parent in out.absolute().parents if parent.exists())
  free = shutil.disk_usage(there).free
  if needed > free:
    raise ValueError(f"--out: {str(out)!r} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are "
                     "free there")


def _stored_as(source: sources.Source, dtype: str) -> str:
  if dtype:
    if dtype not in shards.DTYPES:
      raise ValueError(f"--dtype must be one of {', '.join(shards.DTYPES)}; got {dtype!r}")
    return dtype
  own = source.x.dtype
  if own.name in shards.DTYPES and own.name != "float64":
    return own.name
  low, high = source.value_range or (-1.0, 256.0)
  return "uint8" if own.kind in "biu" and 0.0 <= low <= high <= 255.0 else "float32"


def _covariance(
    source: sources.Source, dtype: str, seen: standardize.Moments, rows: int
) -> np.ndarray:
  """Of the training vectors as they are stored, by a second pass about their mean."""
  train = np.flatnonzero(~source.held_out)
  blocks = (_cast(source.x[train[first:first + rows]], dtype)
            for first in range(0, len(train), rows))
  return sum(standardize.scatter(block, seen.mean) for block in blocks) / seen.count


def _check_loss(lost: np.ndarray, var: np.ndarray, dtype: str) -> None:
  """Refuses rounding by more than 1/50 of a feature's deviation: a large mean takes the digits."""
  features = lambda x: x.reshape(-1, x.shape[-1]).mean(0)
  error, spread = np.sqrt(features(lost)), np.sqrt(features(lost) + features(var))
  if (error > 0.02 * spread).any():
    worst = int(np.argmax(error / np.where(spread > 0.0, spread, 1.0)))
    raise ValueError(f"--dtype={dtype} rounds feature {worst} by {error[worst]:.2g}, and its "
                     f"values differ by {spread[worst]:.2g}: choose --dtype=float64, or subtract "
                     "a constant from them")


def _cast(block: np.ndarray, dtype: str) -> np.ndarray:
  """In the dtype of the records, or a ValueError where that cannot hold the values."""
  with np.errstate(over="ignore", invalid="ignore"):
    stored = np.asarray(block).astype(shards.DTYPES[dtype])
  fits = np.array_equal(stored, block) if dtype == "uint8" else np.isfinite(stored).all()
  if not fits:
    raise ValueError(f"--dtype={dtype} must hold the values, which lie from {block.min():g} to "
                     f"{block.max():g}" + (" and must be whole" if dtype == "uint8" else ""))
  return stored


