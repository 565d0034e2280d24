"""Files and arrays that users bring: read, and refused with the field's name where they are bad."""

import gzip
import math
import pathlib
import struct
import tokenize
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# What numpy, gzip and Pillow are known to raise on a file that is cut short or of another kind.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, IndexError, TypeError, SyntaxError, OverflowError,
    MemoryError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError, Image.DecompressionBombError)


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
  found = pathlib.Path(path).expanduser()
  if not path or not (found.is_dir() if directory else found.is_file()):
    kind = "directory" if directory else "file"
    raise ValueError(f"{field} must name an existing {kind}; got {path!r}")
  return found


def _line(error: BaseException) -> str:
  return " ".join(str(error).split()) or type(error).__name__


def read_numpy(path: str, field: str) -> np.ndarray | dict[str, np.ndarray]:
  """The array of a .npy, or the named arrays of a .npz; pickles are refused."""
  file = existing(path, field, directory=False)
  try:
    with file.open("rb") as handle:
      content = np.load(handle, allow_pickle=False)
      return content if isinstance(content, np.ndarray) else dict(content)
  except UNREADABLE as error:
    raise ValueError(f"{field}: {path!r} must be a readable .npy or .npz of plain numbers "
                     f"({_line(error)})") from error


def read_image(file: pathlib.Path, size: int, channels: int) -> np.ndarray:
  """One picture as (h, w, channels) uint8; see `data.images`."""
  try:
    with Image.open(file) as opened:
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


def check_array(x: np.ndarray, field: str) -> None:
  """Refuses what is not numeric, of rank 2 or more, not empty, finite and within float32."""
  if x.dtype.kind not in "biuf":
    raise ValueError(f"{field}: array must be of integers or real numbers; got dtype {x.dtype}")
  if x.ndim < 2:
    raise ValueError(f"{field}: array must have rank 2 or more, (n, d) for vectors, (n, h, w) or "
                     f"(n, h, w, c) for images; got shape {x.shape}")
  if x.size == 0:
    raise ValueError(f"{field}: array must not be empty; got shape {x.shape}")
  bad = ~(np.abs(x) <= np.finfo(np.float32).max) if x.dtype.kind == "f" else np.zeros(1, bool)
  if bad.any():
    first = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
    raise ValueError(f"{field}: values must be finite and within float32; {bad.sum()} of {x.size} "
                     f"are NaN, infinite or beyond it, the first at index {first}")


def check_labels(y: np.ndarray, n: int, field: str) -> None:
  """Refuses what is not n class numbers 0, 1, 2, …"""
  allowed = f"{field} must be {n} class numbers 0, 1, 2, …, one an example"
  if y.shape != (n,):
    raise ValueError(f"{allowed}; got shape {y.shape}")
  if y.dtype.kind not in "biu":
    raise ValueError(f"{allowed}, of an integer dtype; got dtype {y.dtype}")
  if y.min() < 0:
    raise ValueError(f"{allowed}; got {y.min()} at index {np.argmin(y)}")
  # The network learns a vector for every class number up to the largest.
  if y.max() >= max(n, 1000):
    raise ValueError(f"{allowed}, without gaps; got {y.max()} at index {np.argmax(y)}")
