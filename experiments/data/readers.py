"""Reads and checks the user's files and arrays; errors name the field and the remedy."""

import gzip
import math
import os
import pathlib
import struct
import tokenize
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageOps

from experiments.run import buckets

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
# The errors of NumPy, gzip and Pillow for a damaged file or a file of another format.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, IndexError, TypeError, SyntaxError, OverflowError,
    MemoryError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError, Image.DecompressionBombError)

_BLOCK_BYTES = 2**26
_LARGEST = float(np.finfo(np.float32).max)


class Unreadable(ValueError):
  """A picture cannot be read; `what` is its name and the reason."""

  def __init__(self, what: str, count: str = ""):
    super().__init__(f"data.path: {count}must be readable pictures: {what}")
    self.what = what


def read_idx(file: pathlib.Path, rank: int) -> np.ndarray:
  """The uint8 array of an IDX file (plain or .gz), the format of MNIST (LeCun et al. 1998).

  The file holds two zero bytes, the type (8: unsigned bytes), the rank, the sizes as big-endian
  uint32, and the data.

  Raises:
    ValueError: another format, or a length that does not match the header.
  """
  try:
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
  except UNREADABLE as error:
    raise ValueError(f"data.path: {str(file)!r} must be a readable file, gzip if it ends in .gz "
                     f"({one_line(error)})") from error
  if raw[:4] != bytes((0, 0, 8, rank)):
    raise ValueError(f"data.path: {str(file)!r} must start as IDX bytes of rank {rank}, 00 00 08 "
                     f"{rank:02x}; got {raw[:4].hex(' ') or 'an empty file'}")
  header = 4 + 4 * rank
  sizes = struct.unpack(f">{rank}I", raw[4:header]) if len(raw) >= header else None
  if sizes is None or len(raw) != header + math.prod(sizes):
    wanted = f"{header + math.prod(sizes)}" if sizes else f"at least {header}"
    raise ValueError(f"data.path: {str(file)!r} must be {wanted} bytes long as its header says; "
                     f"it is cut short or damaged at {len(raw)}")
  return np.frombuffer(raw, np.uint8, offset=header).reshape(sizes)


def read_records(file: pathlib.Path, size: int) -> np.ndarray:
  """A file of records of `size` bytes as (n, size) uint8.

  Raises:
    ValueError: the file is missing or empty, or its length is no multiple of `size`.
  """
  content = existing(str(file), "data.path", directory=False).read_bytes()
  if not content or len(content) % size:
    raise ValueError(f"data.path: {str(file)!r} must be records of {size} bytes; it has "
                     f"{len(content)}: it is cut short or damaged")
  return np.frombuffer(content, np.uint8).reshape(-1, size)


def existing(path: str, field: str, *, directory: bool) -> pathlib.Path:
  """`path` as an existing file or directory; else a ValueError that names the field.

  What is in a bucket is copied to this machine, and the copy is returned.
  """
  result = pathlib.Path(os.path.expanduser(path))
  if buckets.is_bucket(path):
    result = buckets.local(buckets.path(field, path)) or result
  if not path or not (result.is_dir() if directory else result.is_file()):
    kind = "directory" if directory else "file"
    raise ValueError(f"{field} must name an existing {kind}; got {path!r}")
  return result


def one_line(error: BaseException) -> str:
  """The message of an error in one line; the name of its type if it has no message."""
  return " ".join(str(error).split()) or type(error).__name__


def read_numpy(
    path: str, field: str, *, mapped: bool = False
) -> np.ndarray | dict[str, np.ndarray]:
  """The array of a .npy, or the named arrays of a .npz.

  Args:
    mapped: whether a .npy is read when indexed; it may then be larger than memory.

  Raises:
    ValueError: the file is missing or damaged, or holds pickled objects.
  """
  file = existing(path, field, directory=False)
  try:
    if mapped and file.suffix == ".npy" and isinstance(
        content := np.load(file, mmap_mode="r", allow_pickle=False), np.ndarray):
      return content
    with file.open("rb") as handle:
      content = np.load(handle, allow_pickle=False)
      if isinstance(content, np.ndarray):
        return content
      content = dict(content)
      if others := [name for name, member in content.items() if not isinstance(member, np.ndarray)]:
        raise ValueError(f"its member {others[0]!r} is no array")
      return content
  except UNREADABLE as error:
    raise ValueError(f"{field}: {path!r} must be a readable .npy or .npz of plain numbers "
                     f"({one_line(error)})") from error


def read_image(file: pathlib.Path, size: int, channels: int) -> np.ndarray:
  """A picture, or the first frame of a GIF, as (h, w, channels) uint8; see `sources.images`.

  Raises:
    Unreadable: the file is damaged or has another format.
  """
  try:
    # `formats` is limited because Pillow runs other programs for some of its formats.
    with Image.open(file, formats=FORMATS) as opened:
      image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
      # Pillow would clip 16-bit grey at 255.
      image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data and channels < 4:
      image = image.convert("RGBA")
      image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    if size:
      # Crop before resizing: a resize with `box` would blend in pixels from outside of it.
      side = min(image.size)
      left, top = (image.width - side) // 2, (image.height - side) // 2
      image = image.crop((left, top, left + side, top + side))
      image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)
  except UNREADABLE as error:
    raise Unreadable(f"{str(file)!r} ({one_line(error)})") from error


def check_array(x: np.ndarray, field: str) -> tuple[float, float]:
  """(smallest value, largest value) of an array, which is read block by block.

  Raises:
    ValueError: dtype or rank are not allowed, the array is empty, or float32 cannot hold a value.
  """
  if x.dtype.kind not in "biuf":
    raise ValueError(f"{field}: array must be of integers or real numbers; got dtype {x.dtype}")
  if x.ndim < 2:
    raise ValueError(f"{field}: array must have rank 2 or more, (n, d) for vectors, (n, h, w) or "
                     f"(n, h, w, c) for images; got shape {x.shape}")
  if x.size == 0:
    raise ValueError(f"{field}: array must not be empty; got shape {x.shape}")
  low, high, bad, first = math.inf, -math.inf, 0, ()
  # Block by block: `x` may be larger than memory.
  rows = max(1, _BLOCK_BYTES // (x[0].size * 8))
  for start in range(0, len(x), rows):
    block = x[start:start + rows]
    block_low, block_high = float(block.min()), float(block.max())
    low, high = min(low, block_low), max(high, block_high)
    if x.dtype.kind == "f" and not -_LARGEST <= block_low <= block_high <= _LARGEST:  # or NaN
      wrong = ~(np.abs(block) <= _LARGEST)
      if not bad and wrong.any():
        first = np.unravel_index(np.argmax(wrong), wrong.shape)
        first = (start + int(first[0]), *(int(i) for i in first[1:]))
      bad += int(wrong.sum())
  if bad:
    raise ValueError(f"{field}: values must be finite and within float32; {bad} of {x.size} "
                     f"are NaN, infinite or beyond it, the first at index {first}")
  return low, high


def check_labels(y: np.ndarray, n: int, field: str, *, num_classes: int = 0) -> None:
  """Raises ValueError unless `y` is n class numbers ≥ 0, below `num_classes` if it is not 0."""
  allowed = f"{field} must be {n} class numbers 0, 1, 2, …, one an example"
  if y.shape != (n,):
    raise ValueError(f"{allowed}; got shape {y.shape}")
  if y.dtype.kind not in "biu":
    raise ValueError(f"{allowed}, of an integer dtype; got dtype {y.dtype}")
  if y.min() < 0:
    raise ValueError(f"{allowed}; got {y.min()} at index {np.argmin(y)}")
  if num_classes and y.max() >= num_classes:
    raise ValueError(f"{allowed} below num_classes = {num_classes}; got {y.max()} at index "
                     f"{np.argmax(y)}")
  # The network learns a vector for every class number up to the largest.
  if y.max() >= max(n, 1000, num_classes):
    raise ValueError(f"{allowed}, without gaps; got {y.max()} at index {np.argmax(y)}")
