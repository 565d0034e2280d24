"""Bits a token of a held-out text by what needs no network: an n-gram, and compressors.

They stand beside the bound of a model of tokens. Each sees the training text first, and of the
held-out text no more than the model does: the n-gram knows nothing before a crop.
"""

import bz2
import gzip
import lzma
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import data
from experiments.metrics.result import Result

ORDER = 6
# Of a longer training text the n-gram and the compressors see this many tokens, the first ones.
_MOST = 2**24
_COMPRESSORS = {"gzip": lambda x: gzip.compress(x, 9), "bz2": bz2.compress,
                "xz": lambda x: lzma.compress(x, preset=9 | lzma.PRESET_EXTREME)}


class _Level(NamedTuple):
  """The grams of one length: sorted codes with their counts, and those of their contexts.

  discount: D. total, kinds: of each context, Σ counts and the number of grams.
  """

  grams: np.ndarray
  counts: np.ndarray
  contexts: np.ndarray
  total: np.ndarray
  kinds: np.ndarray
  discount: float


class NGram:
  """An interpolated Kneser–Ney model (Chen & Goodman 1999, §2.7).

    p_k(a | c) = [max(N(c a) − D, 0) + D T(c) p_{k−1}(a | c′)]/N(c),   p_0 = 1/V

  N counts the grams of the longest length, and of a shorter one the different tokens before it;
  T(c) is the number of different tokens after c, and c′ is c without its first token.
  """

  def __init__(self, segments: Sequence[np.ndarray], vocabulary: int, order: int = ORDER):
    """Fits grams of up to `order` tokens to the pieces of a text."""
    self._base = vocabulary
    order = min(order, int(62 / math.log2(vocabulary)))  # codes are 63-bit integers
    top = np.concatenate([self._codes(np.asarray(segment)[None], order).ravel()
                          for segment in segments])
    grams, counts = np.unique(top, return_counts=True)
    self._levels = [_level(grams, counts, vocabulary)]
    for length in range(order - 1, 0, -1):
      grams, counts = np.unique(grams % vocabulary**length, return_counts=True)
      self._levels.insert(0, _level(grams, counts, vocabulary))

  def bits(self, x: np.ndarray) -> np.ndarray:
    """−log₂ p of each token of the crops x (n, length), with nothing known before a crop."""
    p = np.full(x.shape, 1.0 / self._base)
    for length, level in enumerate(self._levels, 1):
      if length > x.shape[1]:
        break
      codes, lower = self._codes(x, length), p[:, length - 1:]
      count = _find(level.grams, codes, level.counts)
      total, kinds = (_find(level.contexts, codes // self._base, values)
                      for values in (level.total, level.kinds))
      higher = (np.maximum(count - level.discount, 0.0) + level.discount * kinds * lower
                ) / np.maximum(total, 1)
      p[:, length - 1:] = np.where(total > 0, higher, lower)
    return -np.log2(p)

  def _codes(self, x: np.ndarray, length: int) -> np.ndarray:
    """The grams of x (n, m) that end at its tokens length − 1 …, as integers of base V."""
    m = x.shape[1] - length + 1
    codes = np.zeros((len(x), max(m, 0)), np.int64)
    for i in range(length if m > 0 else 0):
      codes = codes * self._base + x[:, i:i + m]
    return codes


def _level(grams: np.ndarray, counts: np.ndarray, vocabulary: int) -> _Level:
  contexts, first = np.unique(grams // vocabulary, return_index=True)
  once, twice = (counts == 1).sum(), (counts == 2).sum()
  discount = float(once / (once + 2 * twice)) if once else 0.5
  return _Level(grams, counts, contexts, np.add.reduceat(counts, first),
                np.diff(np.append(first, len(grams))), discount)


def _find(keys: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
  """The values of the sorted keys that are `wanted`; 0 of others."""
  place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
  return np.where(keys[place] == wanted, values[place], 0)


def training_segments(dataset: data.Dataset) -> list[np.ndarray]:
  """The training text without overlaps, in pieces."""
  pieces, left = [], _MOST
  for piece in getattr(dataset.train, "segments", dataset.train):
    pieces.append(piece[:left])
    left -= len(pieces[-1])
    if left <= 0:
      break
  return pieces


def baselines(dataset: data.Dataset) -> list[Result]:
  """Bits a token of the held-out text by the n-gram and by compressors."""
  segments, x = training_segments(dataset), np.asarray(dataset.test)
  rows = [row("ngram", f"bits a token, Kneser–Ney {ORDER}-gram",
              NGram(segments, len(dataset.vocabulary)).bits(x))]
  dtype = np.uint8 if len(dataset.vocabulary) <= 256 else np.uint32
  train, test = (np.concatenate(parts).astype(dtype).tobytes() for parts in (segments, list(x)))
  for name, compress in _COMPRESSORS.items():
    size = len(compress(train + test)) - len(compress(train))
    rows.append(Result(f"{name}_bits_per_token", f"bits a token, {name} after the training text",
                       8.0 * size / x.size, None, len(x)))
  return rows


def samples(dataset: data.Dataset, x: np.ndarray) -> list[Result]:
  """Bits a token of samples (n, length) by the n-gram of the training text; the floor is held-out.

  Samples of a model that has learned more than the n-gram have about the bits of held-out text.
  """
  model = NGram(training_segments(dataset), len(dataset.vocabulary))
  found = row("samples_ngram", f"bits a token of samples, Kneser–Ney {ORDER}-gram; floor of "
              "held-out text", model.bits(x))
  return [found._replace(floor=float(model.bits(np.asarray(dataset.test)).mean()))]


def row(key: str, label: str, bits: Any) -> Result:
  """The mean of bits (n, length); its error is that of the mean over crops."""
  mean = np.asarray(bits, np.float64).mean(axis=1)
  error = float(mean.std(ddof=1) / math.sqrt(len(mean))) if len(mean) > 1 else math.nan
  return Result(f"{key}_bits_per_token", label, float(mean.mean()), None, len(mean), error)
