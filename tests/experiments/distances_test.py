"""experiments.metrics.distances against POT, brute force, closed forms and limits."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.stats

from experiments.metrics import distances

NORMAL = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)


def pairs(n, m, d, *, shift=0.0, seed=1):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + shift


@pytest.fixture
def small_blocks(monkeypatch):
  """Blocks of a few rows that do not divide the sets, so that every seam is crossed."""
  monkeypatch.setattr(distances, "_BLOCK", 200)


# Sliced Wasserstein.


def test_sliced_wasserstein_is_exact_in_one_dimension():
  import ot  # seconds, which no other test needs to wait
  for n, m in ((50, 50), (30, 42), (7, 100), (1, 5)):
    x, y = pairs(n, m, 1, shift=0.7)
    exact = np.sqrt(ot.emd2_1d(x[:, 0], y[:, 0], metric="sqeuclidean"))
    # One line has one direction, up to sign, so that projections change nothing.
    got = distances.sliced_wasserstein2(x, y, seed=0, projections=3)
    assert got == pytest.approx(exact, rel=1e-9)
  x, y = pairs(60, 35, 3, shift=0.5)
  theta = np.random.default_rng(5).normal(size=(3, 64))
  theta /= np.linalg.norm(theta, axis=0)
  assert distances.sliced_wasserstein2(x, y, seed=5, projections=64) == pytest.approx(
      ot.sliced_wasserstein_distance(x, y, projections=theta), rel=1e-9)


def test_sliced_wasserstein_of_a_shift(small_blocks):
  # W₂(θ)² = (θ·Δ)², and E (θ·Δ)² = |Δ|²/d; in the plane 256 directions leave a relative error of
  # 1/√(2·256)/2 ≈ 2 %, and five of that are allowed.
  x, shift = NORMAL[:300, :2], np.array([3.0, -4.0])
  got = distances.sliced_wasserstein2(x, x + shift, seed=0)
  assert got == pytest.approx(5.0 / np.sqrt(2.0), rel=0.11)
  assert distances.sliced_wasserstein2(x, x[::-1], seed=0) == pytest.approx(0.0, abs=1e-12)
  # Each point three times over is the same law, though not the same number of points.
  assert distances.sliced_wasserstein2(x, np.tile(x, (3, 1)), seed=0) == pytest.approx(
      0.0, abs=1e-12)


# Maximum mean discrepancy and energy distance.


def brute_force(x, y, kernel):
  """The U-statistic, one pair at a time."""
  n, m = len(x), len(y)
  within = lambda a: sum(
      kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(a) if i != j)
  between = sum(kernel(p, q) for p in x for q in y)
  return (within(x) / (n * (n - 1)) + within(y) / (m * (m - 1)) - 2.0 * between / (n * m))


@pytest.mark.parametrize(("function", "kernel"), [
    # Kernels of `mmd` are float32, at most 1.
    (lambda x, y: distances.mmd(x, y, [0.3, 2.0]), lambda a, b: np.mean(
        [np.exp(-np.sum((a - b) ** 2) / (2.0 * s**2)) for s in (0.3, 2.0)])),
    (distances.energy_distance, lambda a, b: -np.linalg.norm(a - b)),
    (lambda x, y: distances.kid(x, y, seed=0), lambda a, b: (a @ b / 3.0 + 1.0) ** 3)])
def test_the_unbiased_statistics(small_blocks, function, kernel):
  x, y = pairs(41, 33, 3, shift=0.4)
  assert function(x, y) == pytest.approx(brute_force(x, y, kernel), abs=1e-6)
  # Many small subsets of KID have the same mean, to five of their standard errors.
  parts = [distances.kid(x, y, seed=seed, subset_size=10, subsets=20) for seed in range(40)]
  whole = distances.kid(x, y, seed=0)
  assert np.mean(parts) == pytest.approx(whole, abs=5.0 * np.std(parts) / np.sqrt(40))


def test_bandwidths_are_about_the_median_distance():
  x, y = pairs(41, 33, 3, shift=0.4)
  median = np.median(scipy.spatial.distance.pdist(x))
  assert distances.mmd(x, y) == pytest.approx(
      distances.mmd(x, y, (0.5 * median, median, 2.0 * median)), rel=1e-5)


def test_far_from_the_origin():
  # |x|² + |y|² − 2x·y would lose all digits of these in float32, and half of them uncentred.
  x, y = pairs(60, 60, 2, shift=0.5)
  for function in (distances.mmd, distances.energy_distance):
    assert function(x + 1e6, y + 1e6) == pytest.approx(function(x, y), rel=1e-4)


@pytest.mark.parametrize("function", [
    distances.mmd, distances.energy_distance,
    lambda x, y: distances.kid(x, y, seed=0, subset_size=60)])
def test_unbiased_on_one_law(function):
  values = [function(*pairs(80, 120, 3, seed=seed)) for seed in range(60)]
  error = np.std(values) / np.sqrt(len(values))
  assert abs(np.mean(values)) < 3.5 * error and min(values) < 0.0
  # A shift of one standard deviation is far outside the spread under one law.
  assert function(*pairs(80, 120, 3, shift=1.0)) > 8.0 * np.std(values)


# On features.


def gaussian(mean, covariance, n, seed=0):
  """n vectors whose mean and unbiased covariance are exactly those given."""
  x = np.random.default_rng(seed).normal(size=(n, len(mean)))
  x -= x.mean(0)
  whiten = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
  return mean + x @ whiten.T @ np.linalg.cholesky(covariance).T


def test_frechet_of_gaussians():
  # Commuting covariances: |Δ|² + Σ (√λ − √μ)².
  x = gaussian(np.zeros(3), np.diag([1.0, 4.0, 9.0]), 50)
  y = gaussian(np.ones(3), np.diag([4.0, 4.0, 1.0]), 70, seed=1)
  assert distances.frechet(x, y) == pytest.approx(3.0 + 1.0 + 0.0 + 4.0, rel=1e-9)
  # In general, by SciPy's matrix square root.
  a, b = np.random.default_rng(2).normal(size=(2, 3, 3))
  a, b = a @ a.T + np.eye(3), b @ b.T + np.eye(3)
  x, y = gaussian(np.zeros(3), a, 50), gaussian(np.zeros(3), b, 70, seed=1)
  exact = np.trace(a + b - 2.0 * scipy.linalg.sqrtm(a @ b).real)
  assert distances.frechet(x, y) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(7, 7), (7, 30), (30, 9)])
def test_frechet_of_few_vectors_is_that_of_their_covariances(n, m):
  """The n × m product in place of roots of d × d matrices, of which no entry is exact to 1e-8."""
  x, y = pairs(n, m, 12)
  y = 0.5 * y @ np.random.default_rng(0).normal(size=(12, 12)) + 1.0
  exact = distances.frechet(*(
      distances.Moments(a.mean(0), np.cov(a, rowvar=False)) for a in (x, y)))
  assert distances.frechet(x, y) == pytest.approx(exact, rel=1e-6)
  assert distances.frechet(*pairs(6, 8, 100_000)) > 0.0  # 100,000² numbers would be 80 GB


def test_frechet_of_singular_covariances():
  # Fewer vectors than dimensions; on orthogonal subspaces the cross term is 0.
  x = np.zeros((10, 40))
  y = np.zeros((12, 40))
  x[:, :20], y[:, 20:] = pairs(10, 12, 20)
  exact = (np.sum((x.mean(0) - y.mean(0)) ** 2)
           + x.var(0, ddof=1).sum() + y.var(0, ddof=1).sum())
  assert distances.frechet(x, y) == pytest.approx(exact, rel=1e-6)
  assert distances.frechet(x, x + 0.0) == pytest.approx(0.0, abs=1e-9)
  assert distances.frechet(x, x + 1.0) == pytest.approx(40.0, rel=1e-9)
  assert distances.frechet(NORMAL[:, :1], 3.0 * NORMAL[:, :1]) == pytest.approx(
      4.0 * (np.var(NORMAL[:, 0], ddof=1) + np.mean(NORMAL[:, 0]) ** 2), rel=1e-5)


def test_prdc_by_brute_force(small_blocks):
  real, fake = pairs(37, 29, 2, shift=0.8)
  k = 3
  pairwise = scipy.spatial.distance.cdist
  radius = lambda a: np.sort(pairwise(a, a), axis=1)[:, k]
  d = pairwise(real, fake)
  in_real, in_fake = d <= radius(real)[:, None], d <= radius(fake)[None, :]
  assert distances.prdc(real, fake, neighbours=k) == pytest.approx({
      "precision": in_real.any(0).mean(), "recall": in_fake.any(1).mean(),
      "density": in_real.sum() / (k * len(fake)), "coverage": in_real.any(1).mean()}, rel=1e-12)


def test_prdc_limits():
  real, fake = NORMAL[:500], NORMAL[500:]
  same = distances.prdc(real, fake)
  # Precision and recall of 500 normal vectors in 4 dimensions are about .95; the others' limits
  # are 1 and 1 − 2⁻⁵, with spreads of .05 and .01.
  assert same["precision"] > 0.9 and same["recall"] > 0.9
  assert same["density"] == pytest.approx(1.0, abs=0.2)
  assert same["coverage"] == pytest.approx(1.0 - 2.0**-5, abs=0.04)
  assert set(distances.prdc(real, fake + 100.0).values()) == {0.0}
  # One mode of two: every fake is good, half of the data is not reached.
  two = np.concatenate([real, fake + 100.0])
  lost = distances.prdc(two, real[::-1] + 1e-3)
  assert lost["precision"] > 0.95 and lost["recall"] == pytest.approx(0.5, abs=0.02)
  assert lost["coverage"] == pytest.approx(0.5, abs=0.02)


# Classifier two-sample test.


def test_c2st():
  x, y = NORMAL[:400], NORMAL[400:800]
  # Under one law the standard error is ½/√800 ≈ .018, a little more for folds that share data.
  assert distances.c2st(x, y, seed=0) == pytest.approx(0.5, abs=0.06)
  assert distances.c2st(x, y + 4.0, seed=0) > 0.99
  # Not seen by means or variances: a sign that depends on the others' product.
  signs = np.sign(np.random.default_rng(0).normal(size=(1200, 2)))
  xor = np.abs(signs + 0.2 * np.random.default_rng(1).normal(size=(1200, 2))) * signs
  same, opposite = xor[signs.prod(1) > 0], xor[signs.prod(1) < 0]
  assert distances.c2st(same[:300], opposite[:250], seed=0) > 0.97
  # Always answering "the larger set" would score .9 if sizes were not made equal.
  assert distances.c2st(NORMAL[:900], NORMAL[900:], seed=0) == pytest.approx(0.5, abs=0.13)


# Nearest neighbours.


def test_memorising_is_seen():
  train, held_out, fresh = NORMAL[:600], NORMAL[600:800], NORMAL[800:]
  honest = distances.nearest_distances(fresh, train, held_out, seed=0)
  assert honest["train share"] == 0.75
  assert honest["nearest is in train"] == pytest.approx(0.75, abs=0.12)  # 4 √(.75 · .25 / 200)
  assert honest["ratio"] == pytest.approx(1.0, abs=0.2)
  assert honest["samples to part of train"] == pytest.approx(
      honest["samples to held-out"], rel=0.2)

  copies = distances.nearest_distances(train[:200] + 1e-3, train, held_out, seed=0)
  assert copies["ratio"] < 0.01 and copies["nearest is in train"] == 1.0
  assert copies["held-out to train"] == honest["held-out to train"]
  # A quarter of the samples copied is not in the median, and is in the share.
  some = distances.nearest_distances(
      np.concatenate([train[:50] + 1e-3, fresh[:150]]), train, held_out, seed=0)
  assert some["nearest is in train"] > honest["nearest is in train"]


def test_nearest_distances_by_brute_force():
  samples, train = pairs(20, 50, 3)
  held_out = pairs(15, 1, 3, seed=4)[0]
  near = lambda a, b: np.median(scipy.spatial.distance.cdist(a, b).min(1))
  got = distances.nearest_distances(samples, train, held_out, seed=0)
  for name, expected in (("samples to train", near(samples, train)),
                         ("held-out to train", near(held_out, train)),
                         ("samples to held-out", near(samples, held_out))):
    assert got[name] == pytest.approx(expected, rel=1e-6)
  assert got["samples to part of train"] > got["samples to train"]
  few = distances.nearest_distances(samples, held_out, train, seed=0)  # the larger held out
  assert few["samples to part of train"] == few["samples to train"]
  assert few["samples to held-out"] > near(samples, train)


# All four, and what is refused.


def test_two_sample():
  x, y = NORMAL[:300, :2], NORMAL[300:700, :2]
  floor = distances.two_sample(x, y, seed=0)
  assert list(floor) == ["sliced W2", "MMD²", "energy distance", "C2ST accuracy"]
  assert floor == distances.two_sample(x, y, seed=0)
  far = distances.two_sample(x, y + 1.0, seed=0, max_n=200)
  for name in floor:
    assert far[name] > floor[name] + 0.05


TWO_SETS = {
    "sliced_wasserstein2": lambda x, y: distances.sliced_wasserstein2(x, y, seed=0),
    "mmd": distances.mmd,
    "energy_distance": distances.energy_distance,
    "c2st": lambda x, y: distances.c2st(x, y, seed=0),
    "frechet": distances.frechet,
    "kid": lambda x, y: distances.kid(x, y, seed=0),
    "prdc": distances.prdc,
    "two_sample": lambda x, y: distances.two_sample(x, y, seed=0),
    "nearest_distances": lambda x, y: distances.nearest_distances(x, y, y, seed=0),
}


@pytest.mark.parametrize("name", TWO_SETS)
def test_refuses_bad_sets(name):
  good = NORMAL[:20]
  nan = np.where(np.arange(80).reshape(20, 4) == 7, np.nan, good)
  for bad in (good[:0], nan, nan * np.inf, good[:, 0], good[:, :0], good[:, :3]):
    for sets in ((good, bad), (bad, good)):
      with pytest.raises(ValueError, match=r"^(x|y|real|fake|samples|train) must [^\n]*$"):
        TWO_SETS[name](*sets)


@pytest.mark.parametrize(("field", "call"), [
    ("projections", lambda x: distances.sliced_wasserstein2(x, x, seed=0, projections=0)),
    ("bandwidths", lambda x: distances.mmd(x, x, [1.0, 0.0])),
    ("bandwidths", lambda x: distances.mmd(x, x, [])),
    ("bandwidths", lambda x: distances.mmd(0.0 * x, x)),
    ("x", lambda x: distances.mmd(x[:1], x)),
    ("y", lambda x: distances.energy_distance(x, x[:1])),
    ("folds", lambda x: distances.c2st(x, x, seed=0, folds=1)),
    ("y", lambda x: distances.c2st(x, x[:5], seed=0)),
    ("subsets", lambda x: distances.kid(x, x, seed=0, subsets=0)),
    ("subsets", lambda x: distances.kid(x, x, seed=0, subset_size=1)),
    ("neighbours", lambda x: distances.prdc(x, x, neighbours=0)),
    ("fake", lambda x: distances.prdc(x, x[:5])),
    ("max_n", lambda x: distances.two_sample(x, x, seed=0, max_n=5)),
    ("held_out", lambda x: distances.nearest_distances(x, x, x[:, :2], seed=0)),
])
def test_refuses_bad_options(field, call):
  with pytest.raises(ValueError, match=rf"^{field} must [^\n]*$"):
    call(NORMAL[:20])
