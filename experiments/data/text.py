"""Text as crops of tokens: the shipped call `text`, and tokens as text and back.

A vocabulary is a tuple of symbols, and a token is the place of its symbol. Symbols are characters,
names of categories, or bytes: a byte over 127 is the symbol that Python's "surrogateescape" has for
it, so that text of bytes is joined and split like that of characters.
"""

import hashlib
import math
import os
import pathlib
import pydoc_data.topics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from experiments.data import dataset as datasets
from experiments.data import readers
from experiments.run import buckets

_BYTES = tuple(bytes(range(256)).decode("ascii", "surrogateescape"))
# Held out are whole blocks of this many crops, so that little of a text lies at their ends.
_BLOCK_CROPS = 16
MASK = "░"


class Crops:
  """Crops of a fixed length that begin in some segments of a text, cut out when indexed.

  The array (n, length) of all of them need not fit in memory; the tokens of the text do.
  """

  dtype = np.dtype(np.int32)

  def __init__(self, tokens: np.ndarray, segments: np.ndarray, length: int, stride: int):
    """`segments` (k, 2) are the first and last + 1 token of each; crops lie within one of them."""
    self._tokens, self._first, self._stride = tokens, segments[:, 0], stride
    self._until = np.cumsum(np.maximum((np.diff(segments)[:, 0] - length) // stride + 1, 0))
    self.shape = (int(self._until[-1]) if len(segments) else 0, length)
    self.bytes_per_example = 4 * length
    self.segments = [tokens[first:last] for first, last in segments]
    self.sha256 = hashlib.sha256(b"".join(map(np.ndarray.tobytes, self.segments))).hexdigest()

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(self, dtype=None, copy=None):
    return self[np.arange(len(self))].astype(dtype or self.dtype)

  def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
    """Crops (…, length) int32 at an integer, a slice or an array of integers."""
    index = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
    segment = np.searchsorted(self._until, index, side="right")
    inside = index - np.concatenate([[0], self._until])[segment]
    start = self._first[segment] + inside * self._stride
    return self._tokens[start[..., None] + np.arange(self.shape[1])].astype(self.dtype)


def text(
    *, path: tuple[str, ...] = (), length: int = 128,
    vocabulary: Literal["characters", "bytes"] = "characters", encoding: str = "utf-8",
    holdout: float = 0.1,
) -> datasets.Dataset:
  """Text as crops of `length` characters, or bytes, which begin anywhere in it; kind tokens.

  Without a path it is the reference of the Python language that each Python ships for `help()`
  (`pydoc_data.topics`), each paragraph once: 377,000 characters of English in version 3.11.
  Licence: PSF-2.0.

  Every tenth block of 16 crops is held out (holdout=0.1). No training crop reaches into a held-out
  block, and held-out crops do not overlap.

  Args:
    path: files, or directories whose files are read recursively in sorted order. Names that begin
      with a dot are ignored. Texts are joined by a line break.
    length: of a crop, in tokens.
    vocabulary: characters, those that occur in the text; or the 256 bytes of UTF-8.
    encoding: of the files.
    holdout: the part of the text that is held out.
  """
  if length < 1:
    raise ValueError(f"data.length must be at least 1; got {length}")
  if path:
    named = {str(file): _read(file, encoding) for name in path for file in _files(name)}
    origin = f"{len(named)} file{'s' * (len(named) > 1)} of {', '.join(path)}"
  else:
    named = {"pydoc_data.topics": _reference()}
    origin = "the reference of the Python language, pydoc_data.topics; licence PSF-2.0"
  whole = "\n".join(named.values())
  if vocabulary == "bytes":
    whole = whole.encode().decode("ascii", "surrogateescape")
  symbols = _BYTES if vocabulary == "bytes" else tuple(sorted(set(whole)))
  if len(symbols) < 2:
    raise ValueError(f"data.path: a text must have two different characters; got {whole[:20]!r}")
  tokens = encode(whole, symbols).astype(np.uint8 if len(symbols) <= 256 else np.int32)
  train, test = (Crops(tokens, segments, length, stride) for segments, stride in zip(
      _split(len(tokens), length, holdout), (1, length), strict=True))
  return datasets.of_tokens(
      train, test[:], symbols, origin=origin,
      digests={name: hashlib.sha256(content.encode()).hexdigest()[:16]
               for name, content in named.items()})


def encode(content: str, symbols: Sequence[str]) -> np.ndarray:
  """The tokens (n,) int32 of a text, −1 where a character is no symbol.

  A text of bytes is given as `surrogateescape` has it. Symbols of several letters are separated by
  spaces.
  """
  place = {symbol: i for i, symbol in enumerate(symbols)}
  if max(map(len, symbols)) > 1:
    return np.array([place.get(word, -1) for word in content.split()], np.int32)
  # By code points: a text may have many millions of characters.
  codes = np.frombuffer(content.encode("utf-32-le", "surrogatepass"), np.uint32)
  found, where = np.unique(codes, return_inverse=True)
  return np.array([place.get(chr(code), -1) for code in found], np.int32)[where]


def decode(tokens: np.ndarray, symbols: Sequence[str], *, mask: str = MASK) -> str:
  """Tokens (n,) as text; a token beyond the vocabulary is shown as `mask`."""
  between = " " if max(map(len, symbols)) > 1 else ""
  joined = between.join([*symbols, mask][min(token, len(symbols))] for token in tokens)
  return joined.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def encode_known(content: str, symbols: Sequence[str], field: str) -> tuple[np.ndarray, np.ndarray]:
  """(tokens, where they are known) of a text in which ░ is an unknown symbol.

  Raises:
    ValueError: a character that is no symbol; nothing known, or nothing unknown.
  """
  if symbols == _BYTES:  # one ░ is one unknown byte
    content = MASK.join(part.encode().decode("ascii", "surrogateescape")
                        for part in content.split(MASK))
  tokens = encode(content, (*symbols, MASK))
  if (tokens < 0).any():
    parts = content.split() if max(map(len, symbols)) > 1 else content
    raise ValueError(f"{field}: {parts[int(np.argmax(tokens < 0))]!r} is not in the vocabulary of "
                     f"{len(symbols)} symbols; {MASK} is an unknown one")
  known = tokens < len(symbols)
  return np.where(known, tokens, 0), known


def _reference() -> str:
  """The topics of `help()`, without what they repeat, which would be in both parts of the text.

  Some last paragraphs of topics, 1 % of all, are there twice: they end with a line break.
  """
  paragraphs = (paragraph for topic in pydoc_data.topics.topics.values()
                for paragraph in topic.split("\n\n"))
  return "\n\n".join(dict.fromkeys(paragraphs))


def _files(name: str) -> list[pathlib.Path]:
  """The files that `name` stands for: itself, or all in the directory."""
  place = pathlib.Path(os.path.expanduser(name))
  directory = place.is_dir() and not buckets.is_bucket(name)
  found = readers.existing(name, "data.path", directory=directory)
  if not directory:
    return [found]
  files = sorted(file for file in found.rglob("*") if file.is_file() and not any(
      part.startswith(".") for part in file.relative_to(found).parts))
  if not files:
    raise ValueError(f"data.path: directory {name!r} must hold files of text; it is empty")
  return files


def _read(file: pathlib.Path, encoding: str) -> str:
  """The text of a file. Raises ValueError if it is empty or not in the encoding."""
  try:
    content = file.read_bytes().decode(encoding)
  except (UnicodeDecodeError, LookupError) as error:
    raise ValueError(f"data.path: {str(file)!r} must be text in {encoding} ({error}); "
                     "data.encoding names another encoding") from None
  if not content:
    raise ValueError(f"data.path: {str(file)!r} must hold text; it is empty")
  return content.removeprefix("\ufeff")


def _split(n: int, length: int, holdout: float) -> tuple[np.ndarray, np.ndarray]:
  """The segments (k, 2) of training and of held-out text of n tokens.

  Raises:
    ValueError: a holdout outside of (0, 1), or a text that leaves one side without a crop.
  """
  if not 0.0 < holdout < 1.0:
    raise ValueError(f"data.holdout must be a fraction between 0 and 1; got {holdout}")
  least = length * math.ceil(1.0 / min(holdout, 1.0 - holdout) - 1e-9)
  if n < least:
    raise ValueError(f"data.path: with data.length={length} and data.holdout={holdout:g} a text "
                     f"must have {least} characters; it has {n}")
  # At least eight blocks are held out, or trained on, where the text is long enough.
  crops = int(np.clip(n // (8 * least), 1, _BLOCK_CROPS))
  edges = np.append(np.arange(n // (crops * length)) * crops * length, n)
  held_out = np.diff(np.floor(np.arange(len(edges)) * holdout + 1e-9)) > 0
  # Blocks of one side that meet are one segment.
  change = np.flatnonzero(np.diff(held_out)) + 1
  bounds = edges[np.concatenate([[0], change, [len(held_out)]])]
  segments, side = np.stack([bounds[:-1], bounds[1:]], 1), held_out[np.append(0, change)]
  return segments[~side], segments[side]
