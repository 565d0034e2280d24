"""Standard units, (x − mean)/scale, and the moments of examples that come block by block.

Vectors have a mean per feature and one scale for all, so that shapes are kept; images and other
arrays have one mean and one scale.
"""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
  """Element by element over examples seen so far; float64, in the user's units."""

  count: int
  mean: np.ndarray  # (*shape)
  squares: np.ndarray  # (*shape), Σ (x − mean)²


def statistics(train: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
  """(mean, scale) of training examples (n, *shape), float64.

  mean is E[x], by feature for vectors and over everything else; scale is √E[(x − mean)²].

  Raises:
    ValueError: constant data.
  """
  mean = np.asarray(np.mean(train, axis=0 if kind == "vector" else None, dtype=np.float64))
  return mean, _checked(np.asarray(np.sqrt(np.mean(np.square(train - mean)))), mean)


def moments(x: np.ndarray) -> Moments:
  """Of a block of examples (n, *shape), n ≥ 1."""
  x = np.asarray(x, np.float64)
  mean = x.mean(0)
  return Moments(len(x), mean, np.square(x - mean).sum(0))


def merged(a: Moments, b: Moments) -> Moments:
  """Of two blocks together; no digits are lost where the mean is large (Chan et al. 1983).

  Σ = Σ_a + Σ_b + (mean_b − mean_a)² n_a n_b / n
  """
  n = a.count + b.count
  apart = b.mean - a.mean
  return Moments(n, a.mean + apart * (b.count / n),
                 a.squares + b.squares + apart**2 * (a.count * b.count / n))


def of_moments(seen: Moments, kind: str) -> tuple[np.ndarray, np.ndarray]:
  """`statistics` from moments: E[(x − mean)²] = E[var] + var[mean] where one mean is for all."""
  var = seen.squares / seen.count
  if kind == "vector":
    mean, square = seen.mean, var.mean()
  else:
    mean, square = np.asarray(seen.mean.mean()), var.mean() + seen.mean.var()
  return mean, _checked(np.asarray(np.sqrt(square)), mean)


def standardise(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """(x − mean)/scale in float32, shape kept; the difference is taken in float64."""
  return ((x - mean) / scale).astype(np.float32)


def _checked(scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
  # Rounding gives equal values a tiny spread, which would be blown up to unit size.
  if scale <= 1e-12 * np.max(np.abs(mean)):
    raise ValueError("data.path: all training examples are equal to the last digit (scale 0); "
                     "examples must differ")
  return scale
