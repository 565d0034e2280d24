"""Distributions in the plane with known densities, as functions (rng, n) → (points, labels).

`points` is (n, 2) float32 of about unit scale. `labels` is (n,) int32 if the distribution is a
mixture of equally likely classes, else (0,). The generator `rng` is advanced.
"""

import numpy as np

NUM_CLASSES = {"moons": 2, "checkerboard": 0, "swiss_roll": 0, "pinwheel": 5, "rings": 4}
UNLABELLED = np.zeros((0,), np.int32)


def moons(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
  """Two interleaved half circles of radius 1 (the distribution of scikit-learn's make_moons).

  θ ~ U(0, π); class 0 is (cos θ, sin θ), class 1 is (1 − cos θ, ½ − sin θ); plus N(0, 0.1² I).
  """
  labels = rng.integers(2, size=n)
  theta = np.pi * rng.random(n)
  upper = np.stack([np.cos(theta), np.sin(theta)], 1)
  points = np.where(labels[:, None] == 0, upper, np.array([1.0, 0.5]) - upper)
  return _cast(points + 0.1 * rng.standard_normal((n, 2)), labels)


def checkerboard(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
  """Uniform on the eight unit squares of [−2, 2]² with ⌊x⌋ + ⌊y⌋ even; density 1/8."""
  column, pair = rng.integers(4, size=n), rng.integers(2, size=n)
  corner = np.stack([column, 2 * pair + column % 2], 1) - 2
  # Midpoints of a grid of spacing 2⁻²² are exact in float32 at this scale. So no point is rounded
  # to the edge of its square.
  inside = (rng.integers(2**22, size=(n, 2)) + 0.5) / 2**22
  return (corner + inside).astype(np.float32), UNLABELLED


def swiss_roll(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
  """The plane section of scikit-learn's make_swiss_roll, divided by 7 to a radius of about 2.

  θ ~ U(3π/2, 9π/2); (θ cos θ, θ sin θ)/7 plus N(0, 0.05² I).
  """
  theta = 1.5 * np.pi * (1.0 + 2.0 * rng.random(n))
  points = np.stack([np.cos(theta), np.sin(theta)], 1) * (theta / 7.0)[:, None]
  return (points + 0.05 * rng.standard_normal((n, 2))).astype(np.float32), UNLABELLED


def pinwheel(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
  """Five curved arms (Johnson et al. 2016, "Composing graphical models with neural networks").

  r ~ N(1, 0.3²) is the coordinate along an arm, s ~ N(0, 0.1²) the one across. (r, s) is rotated
  counter-clockwise by 2πk/5 + e^r/4 for arm and class k. So x² + y² = r² + s², with mean 1.1.
  """
  labels = rng.integers(5, size=n)
  r, s = 1.0 + 0.3 * rng.standard_normal(n), 0.1 * rng.standard_normal(n)
  angle = 2.0 * np.pi * labels / 5.0 + 0.25 * np.exp(r)
  cos, sin = np.cos(angle), np.sin(angle)
  return _cast(np.stack([r * cos - s * sin, r * sin + s * cos], 1), labels)


def rings(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
  """Four concentric circles of radius ½, 1, 3/2, 2, the class k = 0…3, plus N(0, 0.05² I)."""
  labels = rng.integers(4, size=n)
  theta = 2.0 * np.pi * rng.random(n)
  points = np.stack([np.cos(theta), np.sin(theta)], 1) * (0.5 * (labels + 1.0))[:, None]
  return _cast(points + 0.05 * rng.standard_normal((n, 2)), labels)


def gaussian_mixture_2d() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """An eight-component mixture without symmetry: all weights, means and covariances differ.

  Returns:
    (weights, means, covariances), float64 of shapes (8,), (8, 2), (8, 2, 2). Component k is
    N(mₖ, R(φₖ) diag(aₖ², bₖ²) R(φₖ)ᵀ) with standard deviations aₖ, bₖ along and across angle φₖ.
  """
  weights = np.array([0.20, 0.16, 0.15, 0.13, 0.12, 0.10, 0.08, 0.06])
  means = np.array([
      [1.7, 0.3], [1.0, 1.6], [-0.4, 1.9], [-1.6, 1.0], [-1.8, -0.6], [-0.5, -1.7], [1.1, -1.4],
      [0.1, 0.2]])
  stds = np.array([
      [0.40, 0.12], [0.25, 0.18], [0.45, 0.10], [0.20, 0.14], [0.35, 0.20], [0.50, 0.12],
      [0.22, 0.10], [0.16, 0.12]])
  angle = np.array([1.9, 0.6, 0.2, 1.1, 2.3, 2.9, 0.9, 1.5])
  rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  return weights, means, np.einsum("iak,ka,jak->kij", rotation, stds**2, rotation)


def sample_mixture(
    rng: np.random.Generator, n: int, weights: np.ndarray, means: np.ndarray,
    covariances: np.ndarray,
) -> np.ndarray:
  """n points of the Gaussian mixture Σ wₖ N(mₖ, Cₖ), shape (n, d) float32."""
  k = rng.choice(len(weights), size=n, p=weights)
  noise = rng.standard_normal((n, means.shape[1]))
  points = means[k] + np.einsum("nij,nj->ni", np.linalg.cholesky(covariances)[k], noise)
  return points.astype(np.float32)


def _cast(points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  return points.astype(np.float32), labels.astype(np.int32)
