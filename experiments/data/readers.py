"""Files and arrays that users bring: read, and refused with the field's name where they are bad."""

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

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")
# What numpy, gzip and Pillow are known to raise on a file that is cut short or of another kind.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, IndexError, TypeError, SyntaxError, OverflowError,
    MemoryError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError, Image.DecompressionBombError)

_BLOCK_BYTES = 2**26
_LARGEST = float(np.finfo(np.float32).max)


def read_idx(file: pathlib.Path, rank: int) -> np.ndarray:
  """The uint8 array of an IDX file (plain or .gz), the format of MNIST (LeCun et al. 1998).

  Two zero bytes, the type (8: unsigned bytes), the rank, the sizes as big-endian uint32, the data.

  Raises:
    ValueError: not such a file, or one whose length is not the header's.
  """
  try:
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
  except UNREADABLE as error:
    raise ValueError(f"data.path: {str(file)!r} must be a readable file, gzip if it ends in .gz "
                     f"({_line(error)})") from error
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


def existing(path: str, field: str, *, directory: bool) -> pathlib.Path:
  """`path` as an existing file or directory; else a ValueError that names the field."""
  found = pathlib.Path(os.path.expanduser(path))
  if not path or not (found.is_dir() if directory else found.is_file()):
    kind = "directory" if directory else "file"
    raise ValueError(f"{field} must name an existing {kind}; got {path!r}")
  return found


def _line(error: BaseException) -> str:
  return " ".join(str(error).split()) or type(error).__name__


def read_numpy(
    path: str, field: str, *, mapped: bool = False
) -> np.ndarray | dict[str, np.ndarray]:
  """The array of a .npy, or the named arrays of a .npz; pickles are refused.

  A .npy that is `mapped` stays on the disk until it is indexed, so that it may be larger than
  memory.
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
                     f"({_line(error)})") from error


def pictures(root: pathlib.Path) -> list[pathlib.Path]:
  """The PNG and JPEG files under `root`, sorted; links are followed, names with a dot left out.

  Raises:
    ValueError: a folder that cannot be read, a link to nothing, or a picture that is no file.
  """
  found = []

  def walk(folder, above):
    above = {*above, folder.resolve()}
    for entry in _entries(folder):
      if entry.is_dir():
        if entry.resolve() not in above:
          walk(entry, above)
      elif entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
        found.append(entry)
      elif entry.suffix.lower() in IMAGE_SUFFIXES or not entry.exists():
        what = "a link to nothing" if entry.is_symlink() else "no file"
        raise ValueError(f"data.path: {str(entry)!r} is {what}: mend or remove it")

  try:
    walk(root, set())
  except OSError as error:
    raise ValueError(f"data.path: {str(error.filename or root)!r} cannot be read: {_line(error)}"
                     ) from error
  return sorted(found)


def folders(root: pathlib.Path) -> set[str]:
  """The names of the folders in `root`, but for those that begin with a dot."""
  return {entry.name for entry in _entries(root) if entry.is_dir()}


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  return [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]


def read_image(file: pathlib.Path, size: int, channels: int) -> np.ndarray:
  """One picture as (h, w, channels) uint8; see `sources.images`."""
  try:
    # Not by content alone: of its other formats, Pillow would give some to other programs.
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
      # Cropped first: a resize by `box` blends in pixels from outside of it.
      side = min(image.size)
      left, top = (image.width - side) // 2, (image.height - side) // 2
      image = image.crop((left, top, left + side, top + side))
      image = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, channels)
  except UNREADABLE as error:
    raise ValueError(f"data.path: {str(file)!r} must be a readable PNG or JPEG ({_line(error)})"
                     ) from error


def check_array(x: np.ndarray, field: str) -> tuple[float, float]:
  """The least and largest value; refuses what is not numeric, of rank 2 or more and finite.

  Raises:
    ValueError: another dtype or rank, an empty array, or values that float32 does not hold.
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
    least, largest = float(block.min()), float(block.max())
    low, high = min(low, least), max(high, largest)
    if x.dtype.kind == "f" and not -_LARGEST <= least <= largest <= _LARGEST:  # nor is NaN
      wrong = ~(np.abs(block) <= _LARGEST)
      if not bad and wrong.any():
        first = np.unravel_index(np.argmax(wrong), wrong.shape)
        first = (start + int(first[0]), *(int(i) for i in first[1:]))
      bad += int(wrong.sum())
  if bad:
    raise ValueError(f"{field}: values must be finite and within float32; {bad} of {x.size} "
                     f"are NaN, infinite or beyond it, the first at index {first}")
  return low, high


def is_whole(x: np.ndarray) -> bool:
  """Whether all values are whole numbers, block by block."""
  rows = max(1, _BLOCK_BYTES // (x[0].size * 8))
  return x.dtype.kind in "biu" or not any(
      np.any(np.mod(x[start:start + rows], 1.0)) for start in range(0, len(x), rows))


def check_labels(y: np.ndarray, n: int, field: str, *, num_classes: int = 0) -> None:
  """Refuses what is not n class numbers 0, 1, 2, …, below `num_classes` where that is known."""
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
