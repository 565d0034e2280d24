"""Standard units, z = A⁻¹(x − mean), and moments of examples that are read block by block.

The matrix A acts on the last axis, the features. `scale` holds A as

  ()      one scale for all features, A = s I
  (c,)    a scale for each feature, A = diag(s)
  (c, c)  whitening, A = D C^½ with standard deviations D and correlations C: z has covariance I,
          and the largest correlation with the features (ZCA-cor; Kessy et al. 2018)

Vectors and sequences have a mean for each feature; images and other arrays have one mean.
`scaling` is "one", "features" or "whiten". With "", vectors and sequences get a scale for each
feature if the standard deviations differ by more than a factor of 4. Otherwise they get one scale,
which keeps the geometry of coordinates of one space. Images and other arrays get one scale.
"""

from typing import NamedTuple

import numpy as np

SCALINGS = ("one", "features", "whiten")
# Features whose standard deviations lie within this factor are coordinates of one space.
_SAME_SPACE = 4.0
# A correlation matrix with an eigenvalue below this is singular.
_SINGULAR = 1e-9
# float32 resolves a feature if its standard deviation is at least this many spacings at its mean.
_RESOLVED = 2.0**10


class Moments(NamedTuple):
  """Moments of every element over examples, float64, in the user's units."""

  count: int
  mean: np.ndarray  # (*shape)
  squares: np.ndarray  # (*shape), Σ (x − mean)²


def check(scaling: str, kind: str, field: str = "data.scaling") -> None:
  """Raises ValueError if `scaling` is unknown or does not apply to data of this kind."""
  if scaling and scaling not in SCALINGS:
    raise ValueError(f"{field} must be one of {', '.join(SCALINGS)}, or empty for what fits the "
                     f"data; got {scaling!r}")
  if scaling == "whiten" and kind != "vector":
    raise ValueError(f"{field}=whiten is for vectors (n, d); the data are of kind {kind!r}")
  if scaling == "features" and kind == "image":
    raise ValueError(f"{field}=features is not for images, whose channels share their grey levels")


def statistics(
    train: np.ndarray, kind: str, scaling: str = ""
) -> tuple[np.ndarray, np.ndarray]:
  """(mean, scale) of training examples (n, *shape), float64.

  mean is E[x] of each feature or of all elements. A single scale is √E[(x − mean)²].

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
  """The moments of examples (n, *shape), n ≥ 1."""
  x = np.asarray(x, np.float64)
  mean = x.mean(0)
  return Moments(len(x), mean, np.square(x - mean).sum(0))


def merged(a: Moments, b: Moments) -> Moments:
  """The moments of two blocks together (Chan et al. 1983); exact for large means, too.

  Σ = Σ_a + Σ_b + (mean_b − mean_a)² n_a n_b / n
  """
  n = a.count + b.count
  difference = b.mean - a.mean
  return Moments(n, a.mean + difference * (b.count / n),
                 a.squares + b.squares + difference**2 * (a.count * b.count / n))


def of_moments(
    seen: Moments, kind: str, scaling: str = "", covariance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """(mean, scale) of `statistics`, from moments.

  With one mean for all elements,

    E[(x − mean)²] = E[var] + var[mean].

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
  """A⁻¹(x − mean), float32 of the shape of x; computed in float64."""
  if np.ndim(scale) == 2:
    return ((x - mean) @ np.linalg.inv(scale).T).astype(np.float32)
  return ((x - mean) / scale).astype(np.float32)


def restore(
    x: np.ndarray, mean: np.ndarray, scale: np.ndarray, *, alpha: np.ndarray | float = 1.0
) -> np.ndarray:
  """α mean + A x: x converted from standard to the user's units.

  Args:
    alpha: 1 for data; α of a noisy state α x₀ + σ ε.

  Returns:
    The shape of x; float32, or float64 where float32 does not resolve the data (`dtype`).
  """
  x = np.asarray(x, np.float64)
  scaled = x @ np.transpose(scale) if np.ndim(scale) == 2 else scale * x
  return (alpha * mean + scaled).astype(dtype(mean, scale))


def dtype(mean: np.ndarray, scale: np.ndarray) -> np.dtype:
  """float32, or float64 if a deviation is under 2¹⁰ spacings of float32 at the mean."""
  spacing = np.spacing(np.abs(np.asarray(mean)).astype(np.float32)).astype(np.float64)
  resolved = np.all(deviations(scale) >= _RESOLVED * spacing)
  return np.dtype(np.float32 if resolved else np.float64)


def deviations(scale: np.ndarray) -> np.ndarray:
  """Standard deviation of each feature in the user's units, if cov(z) = I; () or (c,)."""
  return np.sqrt(np.sum(np.square(scale), axis=1)) if np.ndim(scale) == 2 else np.asarray(scale)


def log_det(scale: np.ndarray, shape: tuple[int, ...]) -> float:
  """log |det A| over one example of `shape`, in nats.

  A density in standard units is exp(log_det) times the density in the user's units.
  """
  if np.ndim(scale) == 0:
    return int(np.prod(shape)) * float(np.log(scale))
  features = np.linalg.slogdet(scale)[1] if np.ndim(scale) == 2 else np.log(scale).sum()
  return int(np.prod(shape[:-1])) * float(features)


def covariances(covariance, scale):
  """A⁻¹ C A⁻ᵀ: covariances (…, c, c), arrays of NumPy or JAX, in standard units."""
  if np.ndim(scale) == 0:
    return covariance / scale**2
  if np.ndim(scale) == 1:
    return covariance / (scale[:, None] * scale[None, :])
  inverse = np.linalg.inv(np.asarray(scale))
  return inverse @ covariance @ inverse.T


def _by_feature(kind: str, scaling: str) -> bool:
  """Whether each feature has its own mean."""
  return kind in ("vector", "sequence") or scaling == "features"


def _scale(one, deviations, mean, scaling, covariance) -> np.ndarray:
  """One scale, one for each feature, or the matrix. A constant feature gets the smallest scale."""
  # Rounding gives constant features a tiny deviation, which must not be scaled to 1.
  varies = deviations > 1e-12 * np.abs(mean)
  if not varies.any():
    raise ValueError("data.path: all training examples are equal to the last digit (scale 0); "
                     "examples must differ")
  if scaling == "whiten":
    return _whitening(covariance())
  least, largest = deviations[varies].min(), deviations[varies].max()
  if scaling == "one" or deviations.ndim == 0 or (not scaling and largest <= _SAME_SPACE * least):
    return one
  return np.where(varies, deviations, least)


def _whitening(covariance: np.ndarray) -> np.ndarray:
  """D C^½ (c, c) of a covariance D C D; D is diagonal. Raises ValueError if C is singular."""
  d = np.sqrt(np.diag(covariance))
  # A constant feature has no correlation: its eigenvalue is 0.
  unit = np.where(d > 0.0, d, 1.0)
  values, vectors = np.linalg.eigh(covariance / (unit[:, None] * unit))
  if (rank := int(np.sum(values > _SINGULAR))) < len(values):
    raise ValueError(f"data.scaling=whiten needs features that are independent; the training "
                     f"examples span {rank} of {len(values)} dimensions: leave out features that "
                     "are sums of others, or choose data.scaling=features")
  return d[:, None] * ((vectors * np.sqrt(values)) @ vectors.T)
