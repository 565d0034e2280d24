"""Distances between two sets of vectors, and distances of samples to their training data.

The first set is the reference, the real data. Both are (n, d) arrays in the same units. All
functions are pure. They raise ValueError if a set is not (n, d), is empty or too small, has NaN or
infinity, or if the two differ in d. Compare a distance with its floor: the same call with a second
real set of the same size in place of y.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

_BLOCK = 1 << 22  # the number of entries of a matrix of pairs that are in memory at once
# The keys of the distances of `two_sample` in an evaluation.
KEYS = {"sliced W2": "sliced_w2", "MMD²": "mmd", "energy distance": "energy_distance",
        "C2ST accuracy": "c2st"}
PRDC = ("precision", "recall", "density", "coverage")


def two_sample(
    real: np.ndarray, fake: np.ndarray, *, seed: int, max_n: int = 10_000
) -> dict[str, float]:
  """Four distances of vectors, on subsets of equal size n = min(n_real, n_fake, max_n).

  Returns:
    {"sliced W2", "MMD²", "energy distance", "C2ST accuracy"}.

  Raises:
    ValueError: as above, fewer than 6 vectors in a set, or max_n < 6.
  """
  real, fake = _pair(real, fake, names=("real", "fake"), at_least=6)
  if max_n < 6:
    raise ValueError(f"max_n must be at least 6, got {max_n}")
  n = min(len(real), len(fake), max_n)
  rng = np.random.default_rng(seed)
  real, fake = _subset(rng, real, n), _subset(rng, fake, n)
  return {
      "sliced W2": sliced_wasserstein2(real, fake, seed=seed),
      "MMD²": mmd(real, fake),
      "energy distance": energy_distance(real, fake),
      "C2ST accuracy": c2st(real, fake, seed=seed),
  }


def sliced_wasserstein2(
    x: np.ndarray, y: np.ndarray, *, seed: int, projections: int = 256
) -> float:
  """Sliced Wasserstein distance of order 2, in the units of x.

    SW₂² = E_θ ∫₀¹ (F⁻¹_{θ·x}(u) − F⁻¹_{θ·y}(u))² du,   θ uniform on the sphere

  (Bonneel et al. 2015). The integral is exact for sets of any two sizes; E_θ is a mean over
  `projections` directions.

  Raises:
    ValueError: as above, or projections < 1.
  """
  x, y = _pair(x, y)
  if projections < 1:
    raise ValueError(f"projections must be at least 1, got {projections}")
  theta = np.random.default_rng(seed).normal(size=(x.shape[1], projections))
  theta /= np.linalg.norm(theta, axis=0)
  # Both quantile functions are constant between the multiples of 1/n and of 1/m. In units of 1/nm
  # these breakpoints are integers, so that rounding duplicates none of them.
  n, m = len(x), len(y)
  ends = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
  width = np.diff(ends, prepend=0) / (n * m)
  i, j = (ends - 1) // m, (ends - 1) // n
  total = 0.0
  step = max(1, _BLOCK // len(ends))
  for start in range(0, projections, step):
    block = theta[:, start:start + step]
    gap = np.sort(x @ block, axis=0)[i] - np.sort(y @ block, axis=0)[j]
    total += np.sum(width @ gap**2)
  return float(np.sqrt(total / projections))


def mmd(x: np.ndarray, y: np.ndarray, bandwidths: Sequence[float] | None = None) -> float:
  """Squared maximum mean discrepancy, k the mean of Gaussian kernels; unbiased.

    MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y),   k(a, b) = meanᵢ exp(−|a − b|² / 2sᵢ²)

  (Gretton et al. 2012, eq. 3). Its mean is 0 for equal distributions, so it may be negative.

  Args:
    bandwidths: sᵢ > 0; ½, 1 and 2 times the median distance within x if not given.

  Raises:
    ValueError: as above, fewer than 2 vectors, a bandwidth ≤ 0, or half of x being one vector.
  """
  x, y = _pair(x, y, at_least=2)
  if bandwidths is None:
    subset = x[::-(-len(x) // 2000)]  # 2,000 vectors are enough for the median
    squared = np.concatenate([b[_off_diagonal(b, i)] for i, b in _blocks(subset, subset)])
    median = np.sqrt(np.median(squared))
    if median == 0.0:
      raise ValueError("bandwidths must be given where most of x is one repeated vector")
    bandwidths = (0.5 * median, median, 2.0 * median)
  bandwidths = np.asarray(bandwidths, np.float64)
  if bandwidths.ndim != 1 or bandwidths.size == 0 or not (bandwidths > 0.0).all():
    raise ValueError(f"bandwidths must be one or more positive numbers, got {bandwidths}")

  def kernel(squared):
    squared = squared.astype(np.float32)  # exp is several times faster, with an error of 1e-7
    return sum(np.exp(squared * np.float32(-0.5 / s**2)) for s in bandwidths) / len(bandwidths)

  return _discrepancy(x, y, kernel)


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Energy distance, in the units of x; unbiased, so it may be negative for equal distributions.

    D = 2 E|x − y| − E|x − x′| − E|y − y′|   (Székely & Rizzo 2013, eq. 2.5; also called D²)

  Raises:
    ValueError: as above, or fewer than 2 vectors.
  """
  x, y = _pair(x, y, at_least=2)
  return _discrepancy(x, y, lambda squared: -np.sqrt(squared))


def c2st(x: np.ndarray, y: np.ndarray, *, seed: int, folds: int = 3) -> float:
  """Held-out accuracy of a small MLP that classifies vectors as x or y, by cross-validation.

  0.5 means indistinguishable, 1 means perfectly distinguishable. The standard error for equal
  distributions is about ½/√(2n). Random subsets have equal size n (Lopez-Paz & Oquab 2017).

  Raises:
    ValueError: as above, folds < 2, or fewer than 2 folds vectors.
  """
  import warnings

  import threadpoolctl
  from sklearn import exceptions, model_selection, neural_network, pipeline, preprocessing

  if folds < 2:
    raise ValueError(f"folds must be at least 2, got {folds}")
  x, y = _pair(x, y, at_least=2 * folds)
  rng = np.random.default_rng(seed)
  n = min(len(x), len(y))
  both = np.concatenate([_subset(rng, x, n), _subset(rng, y, n)])
  labels = np.repeat([0, 1], n)
  model = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      # Early stopping on held-out vectors would reduce the power for a thousand vectors. tol = 0
      # continues through plateaus, with which training on a checkerboard begins.
      neural_network.MLPClassifier((64, 64), alpha=0.1, learning_rate_init=3e-3, max_iter=100,
                                   tol=0.0, random_state=seed))
  split = model_selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
  # One BLAS thread is faster: the matrices are small.
  with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1, user_api="blas"):
    # 100 epochs are the budget, whether or not the loss has converged.
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    return float(model_selection.cross_val_score(model, both, labels, cv=split).mean())


class Moments(NamedTuple):
  """The mean (d,) and covariance (d, d) of a set of vectors, in place of the set."""

  mean: np.ndarray
  covariance: np.ndarray


def frechet(x: np.ndarray | Moments, y: np.ndarray | Moments) -> float:
  """Squared Fréchet distance of Gaussian fits to the two sets; FID if the vectors are features.

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½)   (Heusel et al. 2017)

  The last trace is the nuclear norm of F₁ F₂ᵀ with any FᵀF = Σ: of n ≥ d vectors or of moments
  F = Σ^½, of fewer vectors these, centred and over √(n − 1). This needs no root of a nearly
  singular product. The bias is +O(d/n): compare only at equal n.

  Raises:
    ValueError: as above, fewer than 2 vectors, or moments of another d.
  """
  if not isinstance(x, Moments) and not isinstance(y, Moments):
    x, y = _pair(x, y, at_least=2)
  (mean_x, x_root, spread_x), (mean_y, y_root, spread_y) = map(_gaussian, (x, y))
  if len(mean_x) != len(mean_y):
    raise ValueError(f"y must have as many columns as x, {len(mean_x)}, got {len(mean_y)}")
  cross = np.linalg.norm(x_root @ y_root.T, ord="nuc")
  return float(max(0.0, np.sum((mean_x - mean_y) ** 2) + spread_x + spread_y - 2.0 * cross))


def frechet_extrapolated(
    x: np.ndarray | Moments, y: np.ndarray | Moments, *, seed: int, parts: int = 4
) -> float:
  """The Fréchet distance extrapolated to n → ∞ by a line in 1/n (Chong & Forsyth 2020).

  For k = 1 … `parts`, the sets are split into k random parts and the distances of the parts are
  averaged. The line through these means over k/n, at 0, has a bias of O(1/n²). The parts should
  have some d vectors. Of moments there are no parts, and no bias is removed. It may be negative.

  Raises:
    ValueError: as `frechet`, parts < 2, or fewer than 2 vectors in a part.
  """
  if parts < 2:
    raise ValueError(f"parts must be at least 2, got {parts}")
  sets = [each for each in (x, y) if not isinstance(each, Moments)]
  if not sets or min(map(len, sets)) < 2 * parts:
    raise ValueError(f"x and y must have at least {2 * parts} vectors for parts={parts}")
  rng = np.random.default_rng(seed)
  n, means = min(map(len, sets)), []
  split = lambda a, k: [a] * k if isinstance(a, Moments) else np.array_split(_subset(rng, a, n), k)
  for k in range(1, parts + 1):
    means.append(np.mean([frechet(a, b) for a, b in zip(split(x, k), split(y, k), strict=True)]))
  return float(np.polyfit(np.arange(1, parts + 1), means, 1)[1])


def inception_score(logits: np.ndarray, *, seed: int, splits: int = 10) -> tuple[float, float]:
  """exp E_x KL(p(·|x) ‖ p) of a classifier's logits, p the mean of p(·|x) (Salimans et al. 2016).

  Returns:
    The mean over `splits` random parts, and its standard error.

  Raises:
    ValueError: logits that are not (n, classes) and finite, or n < 2 splits.
  """
  logits = np.asarray(logits, np.float64)
  if logits.ndim != 2 or len(logits) < 2 * splits or splits < 2 or not np.isfinite(logits).all():
    raise ValueError(f"logits must be finite (n, classes) with n ≥ {2 * splits} for "
                     f"splits={splits} ≥ 2, got shape {logits.shape}")
  logits = logits - logits.max(1, keepdims=True)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  scores = []
  for part in np.array_split(_subset(np.random.default_rng(seed), log_p, len(log_p)), splits):
    p = np.exp(part)
    scores.append(np.exp(np.mean(np.sum(p * (part - np.log(p.mean(0))), axis=1))))
  return float(np.mean(scores)), float(np.std(scores, ddof=1) / np.sqrt(splits))


def kid(
    x: np.ndarray, y: np.ndarray, *, seed: int, subsets: int = 50, subset_size: int = 1000
) -> float:
  """Kernel inception distance: unbiased MMD² with k(a, b) = (a·b/d + 1)³; may be negative.

  A mean over random `subsets` (Bińkowski et al. 2018) of at most `subset_size` vectors.

  Raises:
    ValueError: as above, fewer than 2 vectors, subsets < 1 or subset_size < 2.
  """
  x, y = _pair(x, y, at_least=2)
  if subsets < 1 or subset_size < 2:
    raise ValueError(f"subsets must be at least 1 and subset_size at least 2, "
                     f"got {subsets} and {subset_size}")
  rng = np.random.default_rng(seed)
  n, m = min(subset_size, len(x)), min(subset_size, len(y))
  if n == len(x) and m == len(y):
    subsets = 1  # every subset is the whole set
  kernel = lambda a, b: (a @ b.T / a.shape[1] + 1.0) ** 3
  within = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
  values = []
  for _ in range(subsets):
    a, b = _subset(rng, x, n), _subset(rng, y, m)
    values.append(within(kernel(a, a)) + within(kernel(b, b)) - 2.0 * kernel(a, b).mean())
  return float(np.mean(values))


def prdc(real: np.ndarray, fake: np.ndarray, *, neighbours: int = 5) -> dict[str, float]:
  """Improved precision and recall, density and coverage.

  With B(a) the ball around a up to its k-th neighbour in its own set:
    precision  share of fakes in some B(real)            (Kynkäänniemi et al. 2019, eq. 2)
    recall     share of reals in some B(fake)
    density    mean over fakes of #{real: fake ∈ B(real)} / k       (Naeem et al. 2020, eq. 4)
    coverage   share of reals whose B(real) contains a fake
  Two sets of equal distribution and size have mean density 1 and coverage about 1 − 2⁻ᵏ; precision
  and recall depend on d. Compare with a floor of the same sizes.

  Raises:
    ValueError: as above, neighbours < 1, or a set of no more than `neighbours` vectors.
  """
  if neighbours < 1:
    raise ValueError(f"neighbours must be at least 1, got {neighbours}")
  real, fake = _pair(real, fake, names=("real", "fake"), at_least=neighbours + 1)
  radius_real, radius_fake = (_nearest(a, a, neighbours + 1)[0][:, -1] for a in (real, fake))
  balls, recalled = np.zeros(len(fake), np.int64), np.zeros(len(real), bool)
  covered = np.zeros(len(real), bool)
  for i, squared in _blocks(real, fake):
    rows = slice(i, i + len(squared))
    distance = np.sqrt(squared)
    inside = distance <= radius_real[rows, None]
    balls += inside.sum(0)
    covered[rows] = inside.any(1)
    recalled[rows] = (distance <= radius_fake).any(1)
  return {"precision": float((balls > 0).mean()), "recall": float(recalled.mean()),
          "density": float(balls.mean() / neighbours), "coverage": float(covered.mean())}


def nearest_distances(
    samples: np.ndarray, train: np.ndarray, held_out: np.ndarray, *, seed: int
) -> dict[str, float]:
  """Distances of samples to the training set, compared with those of new real data.

  A nearest neighbour in a larger set is nearer. Therefore the searched sets have equal sizes: the
  training set, for samples and for held-out data; and random parts of the training and held-out
  sets of equal size, for samples.

  Returns:
    Medians of Euclidean distances, in the units of the data:
      "samples to train", "held-out to train", and their "ratio": ≪ 1 if the model memorised, a
        little below 1 if samples are only smoother than data, NaN if held-out data repeat the
        training set;
      "samples to part of train", "samples to held-out": equal if nothing was memorised;
    and shares:
      "nearest is in train": of samples whose nearest real vector is in the training set, 1 if the
        model memorised;
      "train share": its expected value if training data are not nearer than held-out data.

  Raises:
    ValueError: as above.
  """
  samples, train = _pair(samples, train, names=("samples", "train"))
  _, held_out = _pair(train, held_out, names=("train", "held_out"))
  rng = np.random.default_rng(seed)
  n = min(len(train), len(held_out))
  near = lambda a, b: nearest(a, b)[0]
  to_train, to_held_out = near(samples, train), near(samples, held_out)
  reference = float(np.median(near(held_out, train)))
  return {
      "samples to train": float(np.median(to_train)),
      "held-out to train": reference,
      "ratio": float(np.median(to_train)) / reference if reference > 0.0 else float("nan"),
      "samples to part of train": float(np.median(near(samples, _subset(rng, train, n)))),
      "samples to held-out": float(np.median(near(samples, _subset(rng, held_out, n)))),
      "nearest is in train": float(np.mean(to_train < to_held_out)),
      "train share": len(train) / (len(train) + len(held_out)),
  }


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The distance (n_a,) from each vector of a to the nearest in b, and the row (n_a,) of that."""
  a, b = _pair(a, b, names=("a", "b"))
  distance, index = _nearest(a, b, 1)
  return distance[:, 0], index[:, 0]


def _discrepancy(x: np.ndarray, y: np.ndarray, kernel: Callable[[np.ndarray], np.ndarray]) -> float:
  """E k(x, x′) + E k(y, y′) − 2 E k(x, y) without diagonals; `kernel` maps squared distances."""
  total = lambda a, b: sum(np.sum(kernel(s), dtype=np.float64) for _, s in _blocks(a, b))
  within = lambda a: sum(
      np.sum(kernel(s) * _off_diagonal(s, i), dtype=np.float64) for i, s in _blocks(a, a)
  ) / (len(a) * (len(a) - 1))
  return float(within(x) + within(y) - 2.0 * total(x, y) / (len(x) * len(y)))


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (first row, |xᵢ − yⱼ|² of a block of rows i and all j), float64."""
  centre = y.mean(0)
  x, y = x - centre, y - centre  # |x|² + |y|² − 2x·y cancels less if both are near 0
  y_squared = np.sum(y**2, axis=1)
  step = max(1, _BLOCK // len(y))
  for i in range(0, len(x), step):
    block = x[i:i + step]
    squared = np.sum(block**2, axis=1)[:, None] + y_squared - 2.0 * (block @ y.T)
    yield i, np.maximum(squared, 0.0, out=squared)


def _off_diagonal(block: np.ndarray, first_row: int) -> np.ndarray:
  """A mask of the entries i ≠ j of a block of rows."""
  return np.arange(block.shape[1]) != first_row + np.arange(len(block))[:, None]


def _nearest(a: np.ndarray, b: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """The distances (n_a, count) from each a to its nearest neighbours in b, ascending; their rows.
  """
  from sklearn import neighbors  # takes 0.5 s, which not every distance needs
  return neighbors.NearestNeighbors(n_neighbors=count).fit(b).kneighbors(a)


def _gaussian(x: np.ndarray | Moments) -> tuple[np.ndarray, np.ndarray, float]:
  """(mean, a matrix F with FᵀF = Σ, tr Σ) of a set or its moments."""
  if isinstance(x, Moments) or len(x) >= x.shape[1]:
    mean, covariance = x if isinstance(x, Moments) else (
        x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)))
    values, vectors = np.linalg.eigh(covariance)
    return mean, (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, np.trace(covariance)
  return x.mean(0), (x - x.mean(0)) / np.sqrt(len(x) - 1), x.var(0, ddof=1).sum()


def _subset(rng: np.random.Generator, x: np.ndarray, n: int) -> np.ndarray:
  """n random vectors of x."""
  return x[rng.permutation(len(x))[:n]]


def _pair(
    x: np.ndarray, y: np.ndarray, *, names: tuple[str, str] = ("x", "y"), at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Both sets as float64 (n, d). Raises ValueError if they are invalid."""
  for name, a in zip(names, (x, y), strict=True):
    shape = np.shape(a)
    if len(shape) != 2 or shape[1] < 1:
      raise ValueError(f"{name} must be (n, d) with d ≥ 1, got shape {shape}")
    if shape[0] < at_least:
      raise ValueError(f"{name} must have at least {at_least} vectors, got {shape[0]}")
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  for name, a in zip(names, (x, y), strict=True):
    if not np.isfinite(a).all():
      raise ValueError(f"{name} must be finite, got NaN or infinity")
  if x.shape[1] != y.shape[1]:
    raise ValueError(
        f"{names[1]} must have as many columns as {names[0]}, {x.shape[1]}, got {y.shape[1]}")
  return x, y
