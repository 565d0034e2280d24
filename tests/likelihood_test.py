"""The likelihood of the probability-flow ODE against exact densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from langevin_jax import likelihood, mixtures, paths

RHO_MIN = 0.05


WEIGHTS, STDS = np.full(3, 1 / 3), np.array([0.5, 0.35, 0.25])
ANGLES = 0.3 + 2 * np.pi / 3 * np.arange(3)
# Mean 0 and covariance I exactly: the prior at ρ_max = 80 is then wrong by 1e-6 only.
RADIUS = np.sqrt(2 * (1 - np.mean(STDS**2)))
MEANS = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def planar(dtype=np.float64) -> mixtures.Mixture:
  """Three round Gaussians on a circle."""
  return mixtures.Mixture(*(jnp.asarray(v, dtype) for v in (
      WEIGHTS, MEANS, STDS[:, None, None] ** 2 * np.eye(2)[None])))


blurred_log_prob = jax.jit(lambda model, x: model.log_prob(x, 1.0, RHO_MIN))
blurred_score = jax.jit(lambda model, x: model.score(x, 1.0, RHO_MIN))


def denoiser(path):
  """The same model in elementwise arithmetic, which compiles in a fraction of the time."""
  def denoise(x_t, t):
    alpha, sigma = path.alpha(t), path.sigma(t)
    weights, means, stds = (jnp.asarray(v, x_t.dtype) for v in (WEIGHTS, MEANS, STDS))
    var = alpha**2 * stds**2 + sigma**2
    offset = x_t[None] - alpha * means
    r = jax.nn.softmax(jnp.log(weights) - jnp.log(var) - 0.5 * jnp.sum(offset**2, 1) / var)
    return jnp.sum(r[:, None] * (means + (alpha * stds**2 / var)[:, None] * offset), 0)

  return denoise


def log_probs(path, x, *, key=None, **options):
  key = jax.random.key(0) if key is None else key
  denoise = denoiser(path)
  run = lambda x: likelihood.log_prob(key, denoise, path, x, rho_min=RHO_MIN, **options)
  return jax.jit(jax.vmap(run))(x)


def points(n: int = 64) -> np.ndarray:
  """Draws of the mixture."""
  rng = np.random.default_rng(0)
  k = rng.integers(0, 3, n)
  return MEANS[k] + STDS[k, None] * rng.standard_normal((n, 2))


def test_log_prob_of_an_exact_mixture_at_order_four(x64):
  """64 RK4 steps: within 1e-4 nats of the mixture blurred by ρ_min (MATH §8, §10)."""
  x = points()
  exact = np.asarray(blurred_log_prob(planar(), x))
  errors = {steps: np.abs(log_probs(paths.rectified_flow(), x, steps=steps) - exact).max()
            for steps in (32, 64)}
  assert errors[64] < 1e-4, errors
  # Halving the step divides the error of order four by 16.
  assert errors[64] < errors[32] / 8, errors


def test_the_path_does_not_matter(x64):
  x = points(8)
  reference = log_probs(paths.rectified_flow(), x, steps=16)
  for path in (paths.ve(), paths.sub_vp()):
    np.testing.assert_allclose(log_probs(path, x, steps=16), reference, atol=1e-9)


def test_gaussian_data_of_any_shape(x64):
  """N(0, 1) data: the prior is exact, and so is the answer but for RK4."""
  path, x = paths.vp(), jax.random.normal(jax.random.key(2), (2, 3))

  def denoise(x_t, t):
    alpha, sigma = path.alpha(t), path.sigma(t)
    return alpha / (alpha**2 + sigma**2) * x_t

  run = jax.jit(lambda x: likelihood.log_prob(jax.random.key(0), denoise, path, x, rho_min=0.01))
  var = 1 + 0.01**2
  expected = -0.5 * jnp.sum(x**2) / var - 3.0 * jnp.log(2 * jnp.pi * var)
  np.testing.assert_allclose(run(x), expected, atol=1e-4)


def test_hutchinson_is_unbiased(x64):
  """In the plane there are two Rademacher probes up to sign; their mean is the exact trace."""
  path, x = paths.vp(), points(2)
  denoise = denoiser(path)
  run = jax.jit(jax.vmap(
      lambda key, x: likelihood.log_prob(key, denoise, path, x, steps=16, rho_min=RHO_MIN,
                                         divergence="hutchinson"), (0, None)))
  exact = log_probs(path, x, steps=16)
  for x_i, exact_i in zip(x, exact, strict=True):
    values = np.unique(np.round(run(jax.random.split(jax.random.key(0), 12), x_i), 11))
    assert len(values) == 2, "one probe for the whole trajectory, drawn from the key"
    assert abs(values[1] - values[0]) > 1e-3
    np.testing.assert_allclose(values.mean(), exact_i, atol=1e-9)


def test_its_gradient_is_the_score(x64):
  path, x = paths.rectified_flow(), points(4)
  denoise = denoiser(path)
  gradient = jax.jit(jax.vmap(jax.grad(
      lambda x: likelihood.log_prob(jax.random.key(0), denoise, path, x, rho_min=RHO_MIN))))(x)
  # Ten times the error of the value itself: the error varies over distances of a tenth.
  np.testing.assert_allclose(gradient, blurred_score(planar(), x), atol=1e-3)


def test_float32_is_good_to_a_thousandth():
  path, model = paths.vp(), planar(np.float32)
  x = points(32).astype(np.float32)
  denoise = denoiser(path)
  values = jax.jit(jax.vmap(lambda x: likelihood.log_prob(
      jax.random.key(0), denoise, path, x, rho_min=RHO_MIN)))(x)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values, blurred_log_prob(model, x), atol=1e-3)


def test_bad_input_is_named():
  path = paths.vp()
  run = lambda **options: likelihood.log_prob(
      jax.random.key(0), lambda x, t: x, path, jnp.zeros(2), **options)
  with pytest.raises(ValueError, match="steps"):
    run(steps=0)
  for low, high in ((1.0, 0.5), (0.0, 1.0), (1.0, 1.0)):
    with pytest.raises(ValueError, match="rho_min"):
      run(rho_min=low, rho_max=high)
  with pytest.raises(ValueError, match="divergence"):
    run(divergence="trace")
