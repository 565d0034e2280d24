"""Exact models: every closed form against autodiff, quadrature, Bayes' rule or float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from langevin_jax import mixtures, paths

# Levels (α, σ): data, variance preserving, flow at s = .7, exploding, pure noise.
LEVELS = np.array([(1.0, 0.0), (0.8, 0.6), (0.3, 0.7), (1.0, 3.0), (0.0, 1.0)])


# Compiled once per shape: op by op these tests would spend their time in the compiler.
log_prob = jax.jit(lambda model, x, alpha=1.0, sigma=0.0: model.log_prob(x, alpha, sigma))
score = jax.jit(lambda model, x, alpha, sigma: model.score(x, alpha, sigma))
denoise = jax.jit(lambda model, x, alpha, sigma: model.denoise(x, alpha, sigma))
posterior = jax.jit(lambda model, x, alpha, sigma: model.posterior(x, alpha, sigma))


def planar(dtype=np.float64) -> mixtures.Mixture:
  """Three correlated Gaussians in the plane; the weights sum to 2 on purpose."""
  roots = np.array([[[0.5, 0.0], [0.3, 0.2]], [[0.3, 0.1], [-0.2, 0.4]], [[0.2, 0.0], [0.1, 0.3]]])
  return mixtures.Mixture(*(jnp.asarray(v, dtype) for v in (
      [0.7, 0.9, 0.4], [[-1.0, 0.5], [0.8, 1.0], [0.4, -1.2]], roots @ roots.transpose(0, 2, 1))))


def spatial() -> mixtures.Mixture:
  """Two Gaussians in three dimensions, for conditioning."""
  roots = np.array([[[0.6, 0, 0], [0.3, 0.5, 0], [-0.2, 0.1, 0.4]],
                    [[0.4, 0, 0], [-0.1, 0.5, 0], [0.3, 0.2, 0.5]]])
  return mixtures.Mixture(jnp.array([0.4, 0.6]), jnp.array([[-0.5, 0.3, 0.2], [0.6, -0.4, 0.1]]),
                          jnp.asarray(roots @ roots.transpose(0, 2, 1)))


def states(n: int, d: int, spread: float = 1.5) -> np.ndarray:
  return spread * np.random.default_rng(0).standard_normal((n, d))


def lattice(half_width: float, n: int) -> tuple[np.ndarray, float]:
  """Points (n², 2) of a square lattice and the area of a cell: the trapezoidal rule is then
  exact to rounding for densities that vanish at the edge."""
  u = np.linspace(-half_width, half_width, n)
  return np.stack(np.meshgrid(u, u), -1).reshape(-1, 2), (u[1] - u[0]) ** 2


def test_score_is_the_gradient_of_log_prob(x64):
  model, x = planar(), jnp.asarray(states(20, 2))

  @jax.jit
  @jax.vmap
  def both(level):
    gradient = jax.vmap(jax.grad(lambda x: model.log_prob(x, *level)))(x)
    return gradient, model.score(x, *level)

  gradient, score = both(jnp.asarray(LEVELS))
  # Two orders of summation of float64 terms as large as 1e3 (σ = 0, far from every mode).
  np.testing.assert_allclose(score, gradient, rtol=1e-10, atol=1e-10)


def test_denoiser_is_tweedie_and_the_posterior_mean(x64):
  model, x = planar(), jnp.asarray(states(20, 2))

  @jax.jit
  @jax.vmap
  def all_three(level):
    alpha, sigma = level
    posterior = jax.vmap(lambda x: model.posterior(x, alpha, sigma))(x)
    mean = jnp.einsum("nk,nki->ni", posterior.weights, posterior.means)
    return (alpha * model.denoise(x, alpha, sigma), x + sigma**2 * model.score(x, alpha, sigma),
            alpha * mean)

  denoised, tweedie, mean = all_three(jnp.asarray(LEVELS))
  np.testing.assert_allclose(denoised, tweedie, atol=1e-11)
  np.testing.assert_allclose(denoised, mean, atol=1e-11)


def test_denoiser_jacobian_is_the_posterior_covariance(x64):
  # ∂D/∂x = α Cov(x₀|x)/σ²; not at σ = 0, where it reads 0/0.
  model, x = planar(), jnp.asarray(states(20, 2))

  def covariance(p):
    mean = p.weights @ p.means
    second = p.covariances + p.means[:, :, None] * p.means[:, None, :]
    return jnp.tensordot(p.weights, second, 1) - mean[:, None] * mean[None, :]

  @jax.jit
  @jax.vmap
  def both(level):
    alpha, sigma = level
    jacobian = jax.vmap(jax.jacfwd(lambda x: model.denoise(x, alpha, sigma)))(x)
    posterior = jax.vmap(lambda x: model.posterior(x, alpha, sigma))(x)
    return jacobian, alpha / sigma**2 * jax.vmap(covariance)(posterior)

  jacobian, expected = both(jnp.asarray(LEVELS[1:]))
  np.testing.assert_allclose(jacobian, expected, atol=1e-11)


def test_density_integrates_to_one_though_the_weights_do_not(x64):
  model = planar()
  for alpha, sigma, half_width in ((1.0, 0.0, 5.0), (0.8, 0.6, 7.0), (0.0, 1.0, 9.0)):
    points, cell = lattice(half_width, 401)
    total = cell * np.exp(log_prob(model, points, alpha, sigma)).sum()
    np.testing.assert_allclose(total, 1.0, atol=1e-10)


def test_posterior_is_bayes_rule(x64):
  """log p(x₀|x) = log p(x₀) + log N(x; αx₀, σ²I) − log p(x), at points chosen freely."""
  model, alpha, sigma = planar(), 0.8, 0.6
  x_0, x = states(50, 2), np.array([0.3, -0.4])
  likelihood = (-0.5 * np.sum((x[None] - alpha * x_0) ** 2, 1) / sigma**2
                - np.log(2 * np.pi * sigma**2))
  expected = log_prob(model, x_0) + likelihood - log_prob(model, x, alpha, sigma)
  result = log_prob(posterior(model, x, alpha, sigma), x_0)
  np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mask", [(True, False, False), (False, True, False), (True, False, True)])
def test_condition_is_the_ratio_of_densities(x64, mask):
  model, mask = spatial(), np.array(mask)
  value = jnp.where(jnp.asarray(mask), jnp.array([0.4, -0.2, 0.7]), jnp.nan)
  conditional = jax.jit(lambda value: model.condition(mask, value))(value)
  if mask.sum() == 2:
    free = np.linspace(-6, 6, 2001)[:, None]
    cell = free[1, 0] - free[0, 0]
  else:
    free, cell = lattice(6.0, 201)
  whole = np.empty((len(free), 3))
  whole[:, mask], whole[:, ~mask] = np.asarray(value)[mask], free
  joint = np.asarray(log_prob(model, whole))
  expected = joint - np.log(cell * np.exp(joint).sum())
  np.testing.assert_allclose(log_prob(conditional, free), expected, atol=1e-9)


def test_condition_rejects_a_mask_that_says_nothing():
  model, value = planar(np.float32), jnp.zeros(2)
  for mask in ([True, True], [True], [[True, False]]):
    with pytest.raises(ValueError, match="mask"):
      model.condition(mask, value)


def test_samples_have_the_mixture_s_moments_and_follow_their_key():
  model, n = planar(np.float32), 40_000
  x = np.asarray(model.sample(jax.random.key(0), n), np.float64)
  w = np.asarray(model.weights, np.float64) / np.sum(model.weights)
  mean = w @ np.asarray(model.means)
  second = np.asarray(model.covariances) + np.einsum("ki,kj->kij", model.means, model.means)
  covariance = np.tensordot(w, second, 1) - np.outer(mean, mean)
  # Five standard errors: sd/√n of a mean, and √(E[(x_i x_j)²]/n) < √(3 var_i var_j/n) of a product.
  spread = np.sqrt(np.diag(covariance))
  assert np.all(np.abs(x.mean(0) - mean) < 5 * spread / np.sqrt(n))
  assert np.all(np.abs(np.cov(x.T) - covariance) < 5 * np.sqrt(3 / n) * np.outer(spread, spread))
  # The law itself, not only two moments: E log p(x) is minus the entropy, by quadrature.
  points, cell = lattice(5.0, 401)
  log_p = np.asarray(log_prob(model, points.astype(np.float32)), np.float64)
  drawn = np.asarray(log_prob(model, x.astype(np.float32)), np.float64)
  assert abs(drawn.mean() - cell * np.sum(np.exp(log_p) * log_p)) < 5 * drawn.std() / np.sqrt(n)

  draw = jax.jit(lambda key: model.sample(key, 10))
  one, other = np.asarray(draw(jax.random.key(0))), np.asarray(draw(jax.random.key(1)))
  np.testing.assert_array_equal(one, draw(jax.random.key(0)))
  assert not np.any(one == other)


def test_float32_is_good_to_rounding_at_every_noise_level():
  """|D − D₆₄| and |σ(s − s₆₄)| ≤ 5e-6 for ρ from 1e-3 to 1e4 at unit scale."""
  ell = np.linspace(-np.log(1e4), -np.log(1e-3), 60)
  alpha, sigma = 1 / np.sqrt(1 + np.exp(-2 * ell)), 1 / np.sqrt(1 + np.exp(2 * ell))
  x_0, eps = states(64, 2, 1.0), np.random.default_rng(1).standard_normal((64, 2))

  def at(dtype):
    model = planar(dtype)
    # Drawn near the data and rounded to float32 first: both precisions then see the same states.
    x = (alpha[:, None, None] * x_0 + sigma[:, None, None] * eps).astype(np.float32).astype(dtype)
    levels = [np.asarray(v, np.float32).astype(dtype) for v in (alpha, sigma)]

    @jax.jit
    @jax.vmap
    def both(x, alpha, sigma):
      return model.denoise(x, alpha, sigma), sigma * model.score(x, alpha, sigma)

    return both(jnp.asarray(x), *map(jnp.asarray, levels))

  single = at(np.float32)
  assert single[0].dtype == jnp.float32
  with jax.enable_x64(True):
    double = at(np.float64)
  for name, s, d in zip(("denoised", "score"), single, double, strict=True):
    error = np.abs(np.asarray(s, np.float64) - np.asarray(d)).max()
    assert error < 5e-6, f"{name} is off by {error:.1e}"


def test_empirical_is_the_mixture_without_covariance(x64):
  points = np.random.default_rng(2).standard_normal((5, 2, 3))
  empirical = mixtures.Empirical(jnp.asarray(points))
  mixture = mixtures.Mixture(jnp.ones(5), jnp.asarray(points.reshape(5, 6)), jnp.zeros((5, 6, 6)))
  x = np.random.default_rng(3).standard_normal((4, 2, 3))
  flat = x.reshape(4, 6)
  for alpha, sigma in LEVELS[1:]:
    np.testing.assert_allclose(
        log_prob(empirical, x, alpha, sigma), log_prob(mixture, flat, alpha, sigma), atol=1e-11)
    for function in (score, denoise):
      ours, theirs = function(empirical, x, alpha, sigma), function(mixture, flat, alpha, sigma)
      np.testing.assert_allclose(ours, np.reshape(theirs, x.shape), atol=1e-11)
    np.testing.assert_allclose(
        posterior(empirical, x[0], alpha, sigma),
        posterior(mixture, flat[0], alpha, sigma).weights, atol=1e-11)


def test_empirical_samples_are_its_points():
  points = jnp.arange(24.0).reshape(4, 2, 3)
  drawn = mixtures.Empirical(points).sample(jax.random.key(0), 4000)
  index = np.asarray(drawn)[:, 0, 0] / 6
  np.testing.assert_array_equal(drawn, np.asarray(points)[index.astype(int)])
  # Binomial(4000, ¼) has standard deviation 27.4: five of them.
  assert np.all(np.abs(np.bincount(index.astype(int), minlength=4) - 1000) < 137)


def test_any_leading_axes():
  points = jnp.asarray(np.random.default_rng(2).standard_normal((5, 2)), jnp.float32)
  x = np.random.default_rng(3).standard_normal((2, 3, 2)).astype(np.float32)
  for model in (planar(np.float32), mixtures.Empirical(points)):
    for function in (log_prob, score, denoise):
      whole = function(model, x, 0.8, 0.6)
      assert whole.shape == (x.shape[:-1] if function is log_prob else x.shape)
      rows = [[function(model, x[i, j], 0.8, 0.6) for j in range(3)] for i in range(2)]
      # One row and many take different products: a few float32 roundings.
      np.testing.assert_allclose(whole, np.array(rows), rtol=2e-5, atol=2e-6)


def test_pure_noise_knows_only_the_mean(x64):
  x = states(5, 2)
  points = jnp.asarray(np.random.default_rng(2).standard_normal((5, 2)))
  mixture = planar()
  means = (mixture.weights / mixture.weights.sum()) @ mixture.means, points.mean(0)
  for model, mean in zip((mixture, mixtures.Empirical(points)), means, strict=True):
    np.testing.assert_allclose(denoise(model, x, 0.0, 2.0), np.tile(mean, (5, 1)), atol=1e-13)
    np.testing.assert_allclose(score(model, x, 0.0, 2.0), -x / 4, atol=1e-13)


def test_denoiser_reads_the_level_off_the_path(x64):
  model, x = planar(), states(5, 2)
  for path, t in ((paths.rectified_flow(), 0.4), (paths.vp(), 1.3), (paths.ve(), 2.0)):
    along = jax.jit(mixtures.denoiser(model, path))(jnp.asarray(x), t)
    level = float(path.alpha(t)), float(path.sigma(t))
    np.testing.assert_allclose(along, denoise(model, x, *level), atol=1e-14)
