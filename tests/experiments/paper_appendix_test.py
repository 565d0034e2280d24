"""Figure 5's measures of curves and the appendix's sums, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper.appendix import equations
from experiments.paper.exact import curves, densities, estimates, laws
from experiments.paper.figures.trajectories import measure as trajectories
from langevin_jax import mixtures, paths, splitting

RNG = np.random.default_rng(0)


def gaussian(*var, mean=0.0):
  return mixtures.Mixture(jnp.ones(1), jnp.full((1, len(var)), mean),
                          jnp.diag(jnp.asarray(var))[None])


# Measures of curves.


def test_a_half_circle_a_straight_line_and_an_about_turn_have_their_known_measures():
  phi = np.linspace(0.0, np.pi, 2001)
  x, velocity = (np.stack(pair, axis=1) for pair in (
      (np.cos(phi), np.sin(phi)), (-np.sin(phi[:-1]), np.cos(phi[:-1]))))
  # The last tangent is one step short of the end.
  assert curves.angles(velocity).sum() == pytest.approx(np.pi * (1.0 - 1.0 / 2000.0), rel=1e-12)
  assert curves.length(x) == pytest.approx(np.pi, rel=1e-6)
  assert curves.chord(x) == pytest.approx(2.0) and curves.bulge(x) == pytest.approx(1.0)
  # ∫‖Δ − v‖² = ‖v‖² − ‖Δ‖² at an even speed v, up to the end's trapezium.
  assert curves.unevenness(phi, x, velocity) == pytest.approx(np.pi**2 - 4.0, rel=1e-3)
  t = np.linspace(3.0, 1.0, 7)
  line = t[:, None] * np.array([1.0, 2.0])
  assert curves.unevenness(t, line, np.tile([1.0, 2.0], (6, 1))) == pytest.approx(0.0, abs=1e-24)
  there_and_back = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
  assert curves.bulge(there_and_back) == pytest.approx(1.0)


def test_turning_does_not_know_size_place_or_direction():
  tangents = RNG.normal(size=(40, 5, 3))
  turned = tangents @ np.linalg.qr(RNG.normal(size=(3, 3)))[0]
  speed = RNG.uniform(0.1, 10.0, size=(40, 5, 1))
  np.testing.assert_allclose(curves.angles(speed * turned), curves.angles(tangents), rtol=1e-9)
  # Angles keep their digits near 0 and π.
  small = np.array([[1.0, 0.0], [1.0, 1e-9]])
  assert curves.angles(small)[0] == pytest.approx(1e-9, rel=1e-6)
  assert curves.angles(small * [[1.0], [-1.0]])[0] == pytest.approx(np.pi)


def test_the_error_of_a_ratio_is_that_of_its_repetitions():
  n, repeats = 400, 2000
  bottom = 1.0 + RNG.exponential(size=(repeats, n))
  top = bottom**2 + RNG.normal(size=(repeats, n))
  found = np.array([estimates.ratio(a, b) for a, b in zip(top, bottom, strict=True)])
  assert np.mean(found[:, 1]) == pytest.approx(np.std(found[:, 0]), rel=0.1)


# Reverse trajectories.


def test_curves_of_gaussian_data_turn_as_their_closed_form(x64):
  """x_i ∝ √(α²S_i + σ²): tangents are known, and for VE and VP turn one way."""
  var, noise = (1.8, 0.2), RNG.normal(size=(8, 2))
  runs = curves.reverse(gaussian(*var), noise, 96)
  rho = np.array([curves.RHO_MAX, curves.RHO_MIN])[:, None, None]
  for name, tangent in (
      ("VE", lambda root: 1.0 / root), ("VP", lambda root: (1.0 - np.array(var)) / root)):
    scale = noise / np.sqrt(np.array(var) + curves.RHO_MAX**2)
    known = curves.angles(scale * tangent(np.sqrt(np.array(var) + rho**2)))[0]
    np.testing.assert_allclose(curves.geometry(runs[name]).turning, known, atol=2e-3)
  np.testing.assert_allclose(runs["VP"].x, runs["cosine"].x, atol=1e-12)


def test_the_mean_path_starts_at_the_noise_and_ends_at_the_denoised(x64):
  mixture = densities.load("three_modes").plane
  noise = RNG.normal(size=(5, 2))
  end = float(curves.times(1)[0])
  start, goal = curves.mean_path(mixture, noise, jnp.array([end, 0.0]))
  path = curves.PATHS["VP"]
  np.testing.assert_allclose(start, path.sigma(end) * noise, rtol=1e-9)
  denoised = jax.jit(mixtures.denoiser(mixture, path))(start, end)
  np.testing.assert_allclose(goal, denoised, rtol=1e-9)


def test_padding_keeps_the_law(x64):
  mixture = densities.load("three_modes").line
  more = trajectories._padded(mixture, 7)
  x = jnp.linspace(-2.0, 2.0, 9)[:, None]
  assert len(more.weights) == 7
  values = jax.jit(lambda *laws: [m.log_prob(x, 0.8, 0.6) for m in laws])(more, mixture)
  np.testing.assert_allclose(*values, rtol=1e-12)


# The appendix.


def test_kl_of_two_gaussians_and_its_decay_are_the_closed_forms(x64):
  p, q = gaussian(0.5), gaussian(1.2, mean=0.4)
  path = paths.rectified_flow()
  y = 4.0 / 3.0 * laws.nodes(q)

  def closed(t):
    a, s = path.alpha(t), path.sigma(t)
    v, w = 0.5 * a**2 + s**2, 1.2 * a**2 + s**2
    return 0.5 * (v / w + (0.4 * a) ** 2 / w - 1.0 + jnp.log(w / v))

  t = jnp.array([0.1, 0.5, 0.9])
  found, value, slope = jax.jit(jax.vmap(lambda t: (
      equations.decay(p, q, equations.instant(path, t), y), *jax.value_and_grad(closed)(t))))(t)
  np.testing.assert_allclose(found.kl, value, rtol=1e-10)
  np.testing.assert_allclose(found.slope, slope, rtol=1e-9)
  np.testing.assert_allclose(found.predicted, slope, rtol=1e-9)


def test_what_does_not_obey_the_equations_is_seen(x64):
  p = densities.load("three_modes").line
  y, path, t = laws.nodes(p), paths.vp(), jnp.asarray(0.5)
  sde = splitting.split(path, 1.0).langevin
  wrong = sde._replace(diffusion=lambda t: 1.1 * sde.diffusion(t))

  @jax.jit
  def residuals():
    now = equations.instant(path, t)
    several = jax.tree.map(
        lambda *v: jnp.stack(v), now, now._replace(drift=0.9 * now.drift),
        now._replace(diffusion=1.1 * now.diffusion))
    flow = jax.vmap(lambda now: equations.fokker_planck(p, now, y))(several)
    return flow, [equations.langevin_drift(p, s, path, t, 1.0, y)[0] for s in (sde, wrong)]

  (right, *astray), (rest, moves) = residuals()
  assert right < 1e-10 and min(astray) > 1e-2
  assert rest < 1e-10 and moves > 1e-2


def test_the_constant_of_gaussian_data_is_its_posterior_variance(x64):
  p, ell = gaussian(0.5), jnp.asarray(0.3)
  y = 4.0 / 3.0 * laws.nodes(p)
  zero = lambda x, ell: jnp.zeros_like(x)
  found = jax.jit(lambda ell: equations.matching(
      p, (equations.of_mixture(p), zero), ell, y, y, jnp.linspace(-8.5, 8.5, 121)))(ell)
  rho = np.exp(-0.3)
  mmse = 0.5 * rho**2 / (0.5 + rho**2)
  np.testing.assert_allclose(found.mmse, mmse, rtol=1e-9)
  np.testing.assert_allclose(found.dsm, [mmse / rho**2, 1.0], rtol=1e-9)
  np.testing.assert_allclose(found.sm, [0.0, 1.0 - mmse / rho**2], atol=1e-9)
  np.testing.assert_allclose(found.squared_score, 1.0 / (0.5 + rho**2), rtol=1e-9)
