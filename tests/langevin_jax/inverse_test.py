"""Linear inverse problems: exact posteriors on Gaussian data, mixtures, costs, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian_kl, gaussian_mean

from langevin_jax import mixtures, paths, predictions, samplers
from langevin_jax.inpainting import inverse

# Three correlated coordinates with a mean; two sums of them are observed.
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.5]])
MEAN, MATRIX = np.array([0.3, -0.2, 0.5]), np.array([[1.0, 0.5, 0.0], [0.0, -1.0, 1.0]])
OBSERVED, NOISE_STD = np.array([0.9, 0.4]), 0.3


def operator(x):
  return jnp.asarray(MATRIX, x.dtype) @ x


def posterior(noise_std, alpha=1.0, sigma=0.0, x=None):
  """Mean and covariance of x₀ given y, and given x = α x₀ + σ ε too where σ > 0, by precisions."""
  precision = np.linalg.inv(COVARIANCE) + MATRIX.T @ MATRIX / noise_std**2
  pull = np.linalg.solve(COVARIANCE, MEAN) + MATRIX.T @ OBSERVED / noise_std**2
  if sigma > 0.0:
    precision, pull = precision + (alpha / sigma) ** 2 * np.eye(3), pull + alpha / sigma**2 * x
  covariance = np.linalg.inv(precision)
  return (covariance @ pull.T).T, covariance


def gaussian(path):
  """The exact denoiser."""
  def at(x, ell):
    frame = predictions.unit_frame(ell)
    return gaussian_mean(MEAN, COVARIANCE, x, frame.alpha, frame.sigma)

  return predictions.Denoiser(at, path)


def conditioned(method, path=paths.vp(), noise_std=NOISE_STD, **options):  # noqa: B008
  return method(gaussian(path), path, observed=OBSERVED, operator=operator, noise_std=noise_std,
                shape=(3,), **options)


@pytest.mark.parametrize("noise_std", [1e-3, 3.0])
def test_moment_matching_is_the_posterior_mean_at_every_level(noise_std, x64):
  """Two iterations solve two observations: D_y is E[x₀ | x, y] from ρ = 1e3 to 1e-3."""
  x = np.random.default_rng(0).normal(size=(2, 4, 3))
  denoise = conditioned(inverse.mmps, noise_std=noise_std, iterations=2)
  ells = -np.log(np.geomspace(900.0, 1e-3, 9))
  found = jax.jit(lambda ells: jax.lax.map(lambda ell: denoise.at(jnp.asarray(x), ell), ells))(ells)
  for ell, there in zip(ells, found, strict=True):
    frame = predictions.unit_frame(ell)
    expected, _ = posterior(noise_std, float(frame.alpha), float(frame.sigma), x.reshape(8, 3))
    np.testing.assert_allclose(there.reshape(8, 3), expected, atol=1e-7)


def test_order_of_the_methods_on_gaussian_data(x64):
  """KL of the samples to the exact posterior: MMPS is left with the solver's error alone.

  On Gaussian data an ODE method is affine, so four starts give its law without Monte Carlo. Heun in
  40 steps, σ_y = .3: DPS 4.8, ΠGDM .076, MMPS 3.3e-4.
  """
  path = paths.vp()
  starts = jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])
  found = []
  for method in (inverse.dps, inverse.pi_gdm, inverse.mmps):
    end = np.asarray(samplers.sample(
        jax.random.key(0), conditioned(method, path), path, shape=(4, 3), method=samplers.heun(),
        grid=samplers.karras(40, rho_min=0.01), initial=starts))
    columns = (end[1:] - end[:1]).T
    found.append(gaussian_kl(end[0], columns @ columns.T, *posterior(NOISE_STD)))
  assert found[0] > 20 * found[1] > 400 * found[2]
  assert found[2] < 1e-3


def test_white_data_need_no_jacobian(x64):
  """Cov(x₀ | x) = σ² I there: ΠGDM is MMPS, and exact; little is known of y where σ_y is large."""
  path = paths.ve()
  white = predictions.Denoiser(lambda x, ell: predictions.unit_frame(ell).alpha * x, path)
  x, ell = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3))), 0.3
  make = lambda method, noise_std: method(
      white, path, observed=OBSERVED, operator=operator, noise_std=noise_std, shape=(3,)).at(x, ell)
  frame = predictions.unit_frame(ell)
  alpha, var = float(frame.alpha), float(frame.sigma) ** 2
  gain = var * MATRIX.T @ np.linalg.inv(0.09 * np.eye(2) + var * MATRIX @ MATRIX.T)
  x_np = np.asarray(x)
  exact = alpha * x_np + (OBSERVED - alpha * x_np @ MATRIX.T) @ gain.T
  for method in (inverse.pi_gdm, inverse.mmps):
    np.testing.assert_allclose(make(method, 0.3), exact, atol=1e-12)
  # V/σ_y² is 1e-4 of the correction.
  np.testing.assert_allclose((make(inverse.dps, 100.0) - alpha * x) * 1e4,
                             (make(inverse.mmps, 100.0) - alpha * x) * 1e4, rtol=1e-3)


def test_a_selection_without_noise_is_inpainting():
  """A D_y = y to rounding, with an observation of its own for each sample, in float32."""
  path, observed = paths.rectified_flow(), np.random.default_rng(2).normal(size=(6, 1))
  denoise = inverse.mmps(gaussian(path), path, observed=observed, operator=lambda x: x[1:2],
                         noise_std=0.0, shape=(3,), iterations=3)
  samples = samplers.sample(jax.random.key(0), denoise, path, shape=(6, 3),
                            method=samplers.multistep(2), grid=samplers.uniform_time(12))
  np.testing.assert_allclose(samples[:, 1:2], observed, atol=1e-5)


def test_a_mixture_given_a_linear_observation(x64):
  """E[x₀ | x, y] of a mixture in closed form: error of each method at three levels.

  Moment matching takes the posterior of x₀ for Gaussian, which it is not near ρ = 1, and is where
  one component remains. RMSE at ρ = 1, .3, .1: MMPS .18, .019, 1.8e-4, ΠGDM .20, .027, 3.1e-4, DPS
  2.5, .19, 3.9e-3.
  """
  weights, means = np.array([0.5, 0.3, 0.2]), np.array([[-1.0, 0.5], [1.0, 1.0], [0.5, -1.2]])
  covariances = np.array([[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.4]],
                          [[0.3, -0.1], [-0.1, 0.1]]])
  row, observed, noise_std, path = np.array([[1.0, 0.7]]), np.array([0.4]), 0.3, paths.vp()
  model = mixtures.Mixture(*map(jnp.asarray, (weights, means, covariances)))
  # Given y: again a mixture, with the components' own Kalman gains and evidences.
  evidence = np.einsum("i,kij,j->k", row[0], covariances, row[0]) + noise_std**2
  gain = covariances @ row[0] / evidence[:, None]
  residual = observed - means @ row[0]
  given = mixtures.Mixture(
      jnp.asarray(weights * np.exp(-0.5 * residual**2 / evidence) / np.sqrt(evidence)),
      jnp.asarray(means + gain * residual[:, None]),
      jnp.asarray(covariances - evidence[:, None, None] * np.einsum("ki,kj->kij", gain, gain)))
  methods = {name: method(mixtures.denoiser(model, path), path, observed=observed, shape=(2,),
                          operator=lambda x: jnp.asarray(row) @ x, noise_std=noise_std)
             for name, method in (("dps", inverse.dps), ("pi_gdm", inverse.pi_gdm),
                                  ("mmps", inverse.mmps))}

  @jax.jit
  def errors(key, ell):
    frame = predictions.unit_frame(ell)
    x_0, xi = given.sample(key, 400), jax.random.normal(jax.random.fold_in(key, 1), (400, 2))
    x = frame.alpha * x_0 + frame.sigma * xi
    exact = given.denoise(x, frame.alpha, frame.sigma)
    return {name: jnp.sqrt(jnp.mean((d.at(x, ell) - exact) ** 2)) for name, d in methods.items()}

  found = [jax.tree.map(float, errors(jax.random.key(4), -np.log(rho))) for rho in (1.0, 0.3, 0.1)]
  assert all(at["mmps"] < at["pi_gdm"] < 0.2 * at["dps"] for at in found)
  assert found[-1]["mmps"] < 1e-3


def test_what_does_not_fit_is_refused():
  for method in (inverse.dps, inverse.pi_gdm, inverse.mmps):
    with pytest.raises(ValueError, match="noise_std"):
      conditioned(method, noise_std=-0.1)
  with pytest.raises(ValueError, match="noise_std must be > 0"):
    conditioned(inverse.dps, noise_std=0.0)
  for method in (inverse.pi_gdm, inverse.mmps):
    with pytest.raises(ValueError, match="iterations"):
      conditioned(method, iterations=0)
  path = paths.vp()
  make = lambda observed: inverse.mmps(gaussian(path), path, observed=observed, operator=operator,
                                       noise_std=0.1, shape=(3,))
  with pytest.raises(ValueError, match="observed must have the shape"):
    make(np.zeros(3))
  with pytest.raises(ValueError, match="observed must be finite"):
    make(np.array([0.0, np.nan]))
  with pytest.raises(ValueError, match="must lead with the samples"):
    make(np.zeros((5, 2))).at(jnp.zeros((4, 3)), 0.0)
  with pytest.raises(ValueError, match="states must end in"):
    make(np.zeros(2)).at(jnp.zeros((4, 2)), 0.0)
