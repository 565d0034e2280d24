"""Standard units, A⁻¹(x − mean), and the moments of examples that come block by block.

The matrix A acts on the last axis, the features. `scale` stands for it:

  ()      one scale for everything, A = s I
  (c,)    a scale for each feature, A = diag(s)
  (c, c)  whitening, A = D C^½ with deviations D and correlations C: standard units have unit
          covariance, and each is the nearest to its own feature (ZCA-cor; Kessy et al. 2018)

Vectors and sequences have a mean for each feature, images and other arrays one mean. `scaling` is
"one", "features", "whiten" or "": then vectors and sequences get a scale for each feature where the
deviations of two features are more than a factor of 4 apart, and one scale where they are not, so
that coordinates of one space keep their shape; images and other arrays get one scale.
"""

from typing import NamedTuple

import numpy as np

SCALINGS = ("one", "features", "whiten")
# Deviations of features within this factor are those of coordinates of one space.
_ALIKE = 4.0
# A correlation matrix with a smaller eigenvalue is taken for a singular one.
_SINGULAR = 1e-9
# Least ratio of a feature's deviation to the spacing of float32 at its mean.
_RESOLVED = 2.0**10


class Moments(NamedTuple):
  """Element by element over examples seen so far; float64, in the user's units."""

  count: int
  mean: np.ndarray  # (*shape)
  squares: np.ndarray  # (*shape), Σ (x − mean)²


def check(scaling: str, kind: str, field: str = "data.scaling") -> None:
  """Raises ValueError where data of this kind cannot be scaled so."""
  if scaling and scaling not in SCALINGS:
    raise ValueError(f"{field} must be one of {', '.join(SCALINGS)}, or empty to leave the choice "
                     f"to the data; got {scaling!r}")
  if scaling == "whiten" and kind != "vector":
    raise ValueError(f"{field}=whiten is for vectors (n, d); the data are of kind {kind!r}")
  if scaling == "features" and kind == "image":
    raise ValueError(f"{field}=features is not for images, whose channels share their grey levels")


def statistics(
    train: np.ndarray, kind: str, scaling: str = ""
) -> tuple[np.ndarray, np.ndarray]:
  """(mean, scale) of training examples (n, *shape), float64.

  mean is E[x] of each feature, or over everything. One scale is √E[(x − mean)²].

  Raises:
    ValueError: constant data, or features that cannot be whitened.
  """
  axes = tuple(range(np.ndim(train) - 1)) if _by_feature(kind, scaling) else None
  mean = np.asarray(np.mean(train, axis=axes, dtype=np.float64))
  squares = np.square(train - mean)
  one = np.asarray(np.sqrt(np.mean(squares)))
  by_feature = one if axes is None else np.sqrt(np.mean(squares, axis=axes))
  about = lambda: scatter(train, mean) / len(train)
  return mean, _scale(one, by_feature, mean, scaling, about)


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


def of_moments(
    seen: Moments, kind: str, scaling: str = "", covariance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """`statistics` from moments: E[(x − mean)²] = E[var] + var[mean] where one mean is for many.

  Args:
    covariance: (c, c), for scaling="whiten".
  """
  var = seen.squares / seen.count
  axes = tuple(range(var.ndim - 1)) if _by_feature(kind, scaling) else None
  mean = np.asarray(seen.mean.mean(axes))
  square = var.mean(axes) + seen.mean.var(axes)
  one = np.asarray(np.sqrt(square.mean()))
  return mean, _scale(one, np.sqrt(square), mean, scaling, lambda: covariance)


def scatter(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
  """Σ (x − mean)(x − mean)ᵀ of examples (n, c), float64."""
  centred = np.asarray(x, np.float64) - mean
  return centred.T @ centred


def standardise(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """A⁻¹(x − mean) in float32, shape kept; the difference is taken in float64."""
  if np.ndim(scale) == 2:
    return ((x - mean) @ np.linalg.inv(scale).T).astype(np.float32)
  return ((x - mean) / scale).astype(np.float32)


def restore(
    x: np.ndarray, mean: np.ndarray, scale: np.ndarray, *, alpha: np.ndarray | float = 1.0
) -> np.ndarray:
  """α mean + A x: standard units in the user's; α = 1 for data, of noisy states α x₀ + σ ε its own.

  float32, or float64 where float32 does not resolve the data (`dtype`).
  """
  x = np.asarray(x, np.float64)
  moved = x @ np.transpose(scale) if np.ndim(scale) == 2 else scale * x
  return (alpha * mean + moved).astype(dtype(mean, scale))


def dtype(mean: np.ndarray, scale: np.ndarray) -> np.dtype:
  """float32, or float64 where a deviation is under 2¹⁰ spacings of float32 at the mean."""
  spacing = np.spacing(np.abs(np.asarray(mean)).astype(np.float32)).astype(np.float64)
  fine = np.all(deviations(scale) >= _RESOLVED * spacing)
  return np.dtype(np.float32 if fine else np.float64)


def deviations(scale: np.ndarray) -> np.ndarray:
  """Of each feature in the user's units where standard units have unit covariance; () or (c,)."""
  return np.sqrt(np.sum(np.square(scale), axis=1)) if np.ndim(scale) == 2 else np.asarray(scale)


def log_det(scale: np.ndarray, shape: tuple[int, ...]) -> float:
  """log |det| of the change from standard units to the user's, of one example of `shape`, in nats.

  A density in standard units is exp(log_det) times that in the user's.
  """
  if np.ndim(scale) == 0:
    return int(np.prod(shape)) * float(np.log(scale))
  features = np.linalg.slogdet(scale)[1] if np.ndim(scale) == 2 else np.log(scale).sum()
  return int(np.prod(shape[:-1])) * float(features)


def covariances(covariance, scale):
  """A⁻¹ C A⁻ᵀ: covariances (…, c, c) of the user's units in standard units; numpy's or jax's."""
  if np.ndim(scale) == 0:
    return covariance / scale**2
  if np.ndim(scale) == 1:
    return covariance / (scale[:, None] * scale[None, :])
  inverse = np.linalg.inv(np.asarray(scale))
  return inverse @ covariance @ inverse.T


def _by_feature(kind: str, scaling: str) -> bool:
  return kind in ("vector", "sequence") or scaling == "features"


def _scale(one, deviations, mean, scaling, covariance) -> np.ndarray:
  """One scale, one for each feature, or the matrix; a constant feature has the least of all."""
  # Rounding gives equal values a tiny spread, which would be blown up to unit size.
  varies = deviations > 1e-12 * np.abs(mean)
  if not varies.any():
    raise ValueError("data.path: all training examples are equal to the last digit (scale 0); "
                     "examples must differ")
  if scaling == "whiten":
    return _whitening(covariance())
  least, largest = deviations[varies].min(), deviations[varies].max()
  if scaling == "one" or deviations.ndim == 0 or (not scaling and largest <= _ALIKE * least):
    return one
  return np.where(varies, deviations, least)


def _whitening(covariance: np.ndarray) -> np.ndarray:
  """D C^½ of a covariance D C D."""
  d = np.sqrt(np.diag(covariance))
  # A constant feature has no correlation: its eigenvalue is 0.
  unit = np.where(d > 0.0, d, 1.0)
  values, vectors = np.linalg.eigh(covariance / (unit[:, None] * unit))
  if (rank := int(np.sum(values > _SINGULAR))) < len(values):
    raise ValueError(f"data.scaling=whiten needs features that are independent; the training "
                     f"examples span {rank} of {len(values)} dimensions: leave out features that "
                     "are sums of others, or choose data.scaling=features")
  return d[:, None] * ((vectors * np.sqrt(values)) @ vectors.T)
