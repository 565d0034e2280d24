"""Exact laws on the line: against Gaussian closed forms, the forward kernel, and their limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper.exact import densities, laws
from langevin_jax import mixtures, predictions, splitting


def gaussian(mean: float, var: float) -> mixtures.Mixture:
  return mixtures.Mixture(jnp.ones(1), jnp.array([[mean]]), jnp.array([[[var]]]))


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.4, 1.7])
def test_a_step_of_gaussian_data_has_the_law_of_its_recursion(budget, x64):
  """m(x) = a x + b D(x) is affine: mean and variance follow, and so does KL."""
  data, ell, ell_s = gaussian(0.3, 0.5), -0.4, 0.3
  x = laws.nodes(data)
  here, there = predictions.unit_frame(ell), predictions.unit_frame(ell_s)
  law = laws.step(laws.exact(data, ell, x), data, ell, ell_s, budget, x)
  a, b, c = splitting.weights(here.alpha, here.sigma, there.alpha, there.sigma, jnp.float64(budget))
  d_0, d_1 = (data.denoise(jnp.array([v]), here.alpha, here.sigma)[0] for v in (0.0, 1.0))
  slope, var = a + b * (d_1 - d_0), here.alpha**2 * 0.5 + here.sigma**2
  mean, var = slope * here.alpha * 0.3 + b * d_0, slope**2 * var + c**2
  total = lambda f: float(jnp.sum(law.weight * law.density * f))
  np.testing.assert_allclose(
      [total(1.0), total(law.x), total((law.x - mean) ** 2)], [1.0, mean, var], rtol=1e-7)
  wanted, centre = there.alpha**2 * 0.5 + there.sigma**2, there.alpha * 0.3
  kl = 0.5 * (wanted / var + (mean - centre) ** 2 / var - 1.0 - jnp.log(wanted / var))
  np.testing.assert_allclose(laws.kl(data, ell_s, law), kl, rtol=1e-5, atol=1e-11)


def test_the_forward_step_gives_the_noisier_law_exactly(x64):
  """STEP(−d, d) does not depend on D: the kernel of the forward process, without error."""
  data = densities.load("three_modes").line
  x = laws.nodes(data)
  law = laws.step(laws.exact(data, 1.0, x), data, 1.0, 0.6, 0.4, x)
  assert abs(laws.kl(data, 0.6, law)) < 1e-10


def test_noise_finer_than_the_nodes_and_densities_too_narrow_are_refused(x64):
  data = densities.load("three_modes").line
  x = laws.nodes(data)
  with pytest.raises(ValueError, match="finer than the nodes"):
    laws.step(laws.exact(data, 3.0, x), data, 3.0, 3.1, 1e-5, x)
  with pytest.raises(ValueError, match="too narrow"):
    laws.nodes(gaussian(0.0, 1e-8))
