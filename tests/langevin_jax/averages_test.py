"""Averages of the parameters: what a running one counts, and any other made of what was stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from langevin_jax.training import averages

STDS = (0.05, 0.10)


def snapshots(steps, stds=STDS):
  """(steps, relative_stds) of every profile at every step."""
  return np.repeat(steps, len(stds)), np.tile(stds, len(steps))


def evenly(count, last=4096):
  return np.arange(1, count + 1) * last // count


def walk(steps, seed=0):
  """A stored history (steps + 1, 3): a curve that bends, with noise, far from the origin."""
  noise = np.random.default_rng(seed).normal(size=(steps + 1, 3))
  time = np.arange(steps + 1.0)[:, None] / steps
  return 10.0 + np.exp(-5.0 * time) + np.sin(3.0 * time) + 0.3 * noise


def keep(average, history):
  """The running average of a history, as `train_step` keeps it; float64, at every step."""
  def step(ema, newest):
    k, params = newest
    ema = ema + average(k) * (params - ema)
    return ema, ema

  ks = jnp.arange(1, len(history))
  return np.asarray(jax.lax.scan(step, jnp.asarray(history[0]), (ks, history[1:]))[1])


@pytest.mark.parametrize("average", [
    averages.half_life(7.0), averages.half_life(1e5), averages.power_function(0.05),
    averages.power_function(0.25), averages.power_function(averages.MAX_RELATIVE_STD)])
@pytest.mark.parametrize("steps", [1, 2, 500])
def test_a_running_average_counts_each_step_by_its_share(average, steps, x64):
  history = walk(steps)
  share = averages.shares(average, steps)
  np.testing.assert_allclose(share.sum(), 1.0, rtol=1e-13)
  np.testing.assert_allclose(keep(average, history)[-1], share @ history, rtol=1e-12)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.2])
def test_shares_of_a_power_function_are_the_integrals_of_its_density(std, x64):
  k, gamma = np.arange(301.0), averages.exponent(std)
  integral = np.diff((k / 300.0) ** (gamma + 1.0))
  share = averages.shares(averages.power_function(std), 300)
  # A rate within 1e-16 of 1 is 1: what was before it counts 0.
  np.testing.assert_allclose(share[1:], integral, rtol=1e-10, atol=1e-100)
  assert share[0] == 0.0
  # … and the density's own integral, by Gauss–Legendre over each step.
  nodes, weights = np.polynomial.legendre.leggauss(20)
  time = np.arange(300)[:, None] + 0.5 * (nodes + 1.0)
  by_quadrature = averages.density(time, 300.0, gamma) @ weights / 2.0
  np.testing.assert_allclose(by_quadrature, integral, rtol=1e-9, atol=1e-15)


def test_a_half_life_halves_after_that_many_steps(x64):
  share = averages.shares(averages.half_life(20.0), 1000)
  np.testing.assert_allclose(share[301:] / share[281:-20], 2.0, rtol=1e-12)


@pytest.mark.parametrize("std", [1e-4, 0.01, 0.05, 0.1, 0.25, averages.MAX_RELATIVE_STD])
def test_exponent_and_relative_std_are_inverse_and_are_the_profiles_width(std):
  gamma = averages.exponent(std)
  np.testing.assert_allclose(averages.relative_std(gamma), std, rtol=1e-12)
  # In s, τ = exp(−s/(γ+1)): profiles of all widths are equally smooth there.
  nodes, weights = np.polynomial.legendre.leggauss(200)
  time = np.exp(-20.0 * (nodes + 1.0) / (gamma + 1.0))
  p = averages.density(time, 1.0, gamma) * time / (gamma + 1.0) * 20.0 * weights
  mean = p @ time
  np.testing.assert_allclose(np.sqrt(p @ (time - mean) ** 2), std, rtol=1e-9)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.2887, float("nan")])
def test_a_relative_std_out_of_range_is_refused(std):
  with pytest.raises(ValueError, match="relative_std must lie in"):
    averages.power_function(std)


@pytest.mark.parametrize("pair", [((40, 0.05), (100, 0.1)), ((100, 0.05), (40, 0.1)),
                                  ((100, 0.03), (100, 0.25)), ((7, 0.28), (100, 0.28))])
def test_inner_products_are_those_of_quadrature(pair):
  (step_a, std_a), (step_b, std_b) = pair
  a, b = averages.exponent(std_a), averages.exponent(std_b)
  nodes, weights = np.polynomial.legendre.leggauss(200)
  # In u, τ = end u⁸: smooth at 0, where a power below 1 is not.
  u, end = 0.5 * (nodes + 1.0), min(step_a, step_b)
  measure, time = weights / 2.0 * 8.0 * end * u**7, end * u**8
  expected = (averages.density(time, step_a, a) * averages.density(time, step_b, b)) @ measure
  np.testing.assert_allclose(averages.inner_product(step_a, a, step_b, b), expected, rtol=1e-10)


def test_inner_products_of_long_runs_and_narrow_profiles_neither_overflow_nor_lose_digits():
  a, b = averages.exponent(1e-4), averages.exponent(3e-4)
  with np.errstate(all="raise"):
    value = averages.inner_product(10_000_000, a, 9_999_000, b)
  # In log space: nothing to overflow.
  log = (np.log(a + 1) + np.log(b + 1) - np.log(a + b + 1) + a * np.log1p(-1e-4) - np.log(1e7))
  np.testing.assert_allclose(value, np.exp(log), rtol=1e-10)


def test_a_running_profile_is_the_power_profile_in_the_limit_of_many_steps(x64):
  """Spread over a step, a power function loses O(1/steps²) of its products, and no more."""
  steps, stds = snapshots(evenly(8))
  gammas = np.array([averages.exponent(std) for std in stds])
  errors = []
  for scale in (1, 4):
    running = averages.running_profile(averages.power_function(0.08), 4096 * scale)
    power = averages.power_profile(0.08, 4096 * scale)
    own = power.overlap(steps * scale, gammas)
    errors.append(np.abs(running.overlap(steps * scale, gammas) / own - 1.0)[2:].max())
    assert abs(running.squared / power.squared - 1.0) < 1e-5
  assert errors[0] < 1e-4 and errors[1] < errors[0] / 12.0


@pytest.mark.parametrize(("std", "bound"), [(0.03, 5e-2), (0.05, 1e-7), (0.08, 4e-3), (0.1, 1e-7),
                                            (0.15, 1e-2), (0.2, 3e-2), (0.25, 9e-2)])
def test_reconstruction_falls_with_the_number_of_snapshots_to_its_bound(std, bound, x64):
  """The bound is at 16 times of two profiles; on parameters, the error follows the profile's."""
  last = 4096
  history = walk(last)
  target = averages.power_profile(std, last)
  kept = {own: keep(averages.power_function(own), history) for own in STDS}
  truth = keep(averages.power_function(std), history)[-1]
  residuals, errors = [], []
  for count in (2, 4, 8, 16):
    steps, stds = snapshots(evenly(count))
    weights, residual = averages.reconstruct(steps, stds, target)
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)
    assert np.abs(weights).max() < 4.0  # rounding of what was stored is not blown up
    made = sum(w * kept[own][t - 1] for w, t, own in zip(weights, steps, stds, strict=True))
    residuals.append(residual)
    errors.append(np.linalg.norm(made - truth))
    # Cauchy–Schwarz: no error of the parameters beyond the profile's times their movement.
    norm = residual * np.sqrt(target.squared)
    movement = np.sqrt(((history[1:] - truth) ** 2).sum())
    assert errors[-1] <= norm * movement * (1 + 1e-3) + 1e-7
  assert residuals[-1] < bound
  if std not in STDS:
    assert np.all(np.diff(residuals) < 0.0)
    assert residuals[-1] < residuals[0] / 4.0 and errors[-1] < errors[0] / 4.0
  else:
    # A profile in the set is itself.
    assert errors[-1] < 1e-9
    np.testing.assert_allclose(weights, (stds == std) * (steps == last), atol=1e-10)


def test_the_residual_is_the_distance_of_the_densities():
  steps, stds = snapshots(evenly(5, 100))
  target = averages.power_profile(0.2, 100)
  weights, residual = averages.reconstruct(steps, stds, target)
  nodes, gauss = np.polynomial.legendre.leggauss(20)
  time = (np.arange(100)[:, None] + 0.5 * (nodes + 1.0)).ravel()
  measure = np.tile(gauss / 2.0, 100)
  gamma = np.array([averages.exponent(std) for std in stds])
  made = weights @ averages.density(time, steps[:, None], gamma[:, None])
  wanted = averages.density(time, 100.0, averages.exponent(0.2))
  norm = lambda p: np.sqrt(measure @ p**2)
  np.testing.assert_allclose(residual, norm(made - wanted) / norm(wanted), rtol=1e-6)


def test_an_earlier_step_is_reconstructed_from_what_was_stored_until_then(x64):
  history = walk(4096)
  steps, stds = snapshots(evenly(16)[:12])
  weights, residual = averages.reconstruct(steps, stds, averages.power_profile(0.15, 3072))
  kept = {own: keep(averages.power_function(own), history) for own in STDS}
  made = sum(w * kept[own][t - 1] for w, t, own in zip(weights, steps, stds, strict=True))
  truth = keep(averages.power_function(0.15), history)[3071]
  assert residual < 2e-2
  np.testing.assert_allclose(made, truth, atol=2e-3)
  with pytest.raises(ValueError, match="1 … 2000"):
    averages.reconstruct(steps, stds, averages.power_profile(0.15, 2000))
  # Between two snapshots it is a little worse, and says so.
  between = averages.reconstruct(steps, stds, averages.power_profile(0.15, 3200))
  assert between.residual > 2.0 * residual


def test_a_half_life_is_reconstructed_from_power_functions(x64):
  history = walk(4096)
  average = averages.half_life(400.0)
  steps, stds = snapshots(evenly(16))
  weights, residual = averages.reconstruct(steps, stds, averages.running_profile(average, 4096))
  kept = {own: keep(averages.power_function(own), history) for own in STDS}
  made = sum(w * kept[own][t - 1] for w, t, own in zip(weights, steps, stds, strict=True))
  assert residual < 6e-2
  np.testing.assert_allclose(made, keep(average, history)[-1], atol=2e-2)


def test_parameters_that_stand_still_are_reproduced_however_poor_the_snapshots():
  weights, residual = averages.reconstruct([10], [0.25], averages.power_profile(0.01, 4096))
  np.testing.assert_allclose(weights, [1.0], rtol=1e-14)
  assert residual > 0.9
