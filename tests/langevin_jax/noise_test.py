"""Where noise comes from: one Brownian path for all grids, and the law of the first state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import MEANS, STDS, WEIGHTS

from langevin_jax import paths, predictions, samplers
from langevin_jax.samplers import levels, noise

VE, FLOW = paths.ve(), paths.rectified_flow()


def bimodal(x, ell):
  """D of two equal Gaussians of variance .1 at ±1, at unit scale."""
  frame = predictions.unit_frame(ell)
  var = 0.1 * frame.alpha**2 + frame.sigma**2
  mean = jnp.tanh(frame.alpha * x / var)
  return mean + 0.1 * frame.alpha / var * (x - frame.alpha * mean)


@pytest.mark.parametrize("method", [
    samplers.ddim(lambda ell: 1.5 * jnp.exp(-0.1 * ell**2)), samplers.multistep(2, 1.0),
    samplers.singlestep(2, 1.0)], ids=["ddim(η(ℓ))", "multistep(2, 1)", "singlestep(2, 1)"])
def test_a_key_at_n_and_2n_steps_converges_path_by_path(method):
  """The root mean square distance of successive refinements falls with strong order 1.

  The noise of the equation is additive. Independent draws stay as far apart as two samples.
  """
  denoise, shape = predictions.Denoiser(bimodal, VE), (2000,)
  grid = lambda n: samplers.uniform_half_log_snr(n, rho_min=0.05, rho_max=5.0)

  @jax.jit
  def runs(key):
    draw = lambda n, how: samplers.sample(key, denoise, VE, shape=shape, method=method,
                                          grid=grid(n), brownian=how)
    return [draw(n, samplers.brownian()) for n in (32, 64, 256, 512)], [
        draw(n, None) for n in (32, 64)]

  coupled, free = runs(jax.random.key(0))
  # Of the half that is nearest: flows between the modes separate what is close.
  typical = lambda a, b: np.sqrt(np.mean(np.sort((a - b) ** 2)[:1500]))
  first, last = typical(coupled[0], coupled[1]), typical(coupled[2], coupled[3])
  assert abs(np.log2(first / last) / 3 - 1.0) < 0.25, (first, last)
  assert typical(*free) > 5 * first
  # It is the same law: ±1 with variance .1 + .05².
  x = np.asarray(coupled[-1])
  assert abs(np.mean(x)) < 5 / np.sqrt(len(x))
  assert abs(np.mean(x**2) - 1.1) < 5 * np.std(x**2) / np.sqrt(len(x)) + 0.01


def test_the_adaptive_sde_converges_path_by_path_whatever_steps_it_rejects():
  """To the samples of the same Brownian path on a fine grid, as the tolerance falls."""
  denoise, key, shape, eta = predictions.Denoiser(bimodal, VE), jax.random.key(1), (500,), 1.5
  ends = {"rho_min": 0.05, "rho_max": 5.0}
  fine = samplers.sample(key, denoise, VE, shape=shape, method=samplers.multistep(2, eta),
                         grid=samplers.uniform_half_log_snr(1500, **ends),
                         brownian=samplers.brownian())
  runs = [samplers.adaptive_sde(key, denoise, VE, shape=shape, stochasticity=eta,
                                tolerance=tolerance, **ends) for tolerance in (0.2, 0.02, 0.002)]
  # Of the half that is nearest: flows between the modes separate what is close.
  apart = [np.sqrt(np.mean(np.sort((run.x - fine) ** 2)[:375])) for run in runs]
  calls = [int(run.calls) for run in runs]
  assert apart[1] < 0.4 * apart[0] and apart[2] < 0.4 * apart[1] and apart[2] < 0.005, apart
  assert calls[0] < calls[1] < calls[2] < 3000, calls
  # Without a bound on steps three would do: the error of a step that ends at D is not seen.
  blind = samplers.adaptive_sde(key, denoise, VE, shape=shape, stochasticity=eta, tolerance=1e3,
                                **ends)
  assert blind.calls >= 2 + np.log(100.0) * (1.0 + eta**2) / 2.0
  assert abs(np.mean(blind.x**2) - 1.1) < 0.2, np.mean(blind.x**2)
  with pytest.raises(ValueError, match="was not reached within max_steps=20"):
    samplers.adaptive_sde(key, denoise, VE, shape=shape, tolerance=1e-3, max_steps=20)


def test_values_of_the_path_are_a_stationary_ornstein_uhlenbeck_process(x64):
  """Variance 1 and correlation e^{−|ΔL|} between any two places, and a new key is a new path."""
  n, depth, length = 40_000, 12, 6.0
  place = jnp.array([0.0, 0.2, 0.2001, 0.37, 0.9]) * 2**depth
  cell = jnp.floor(place).astype(jnp.int32)
  like = jax.ShapeDtypeStruct((n,), jnp.float64)
  whole = length, np.exp(-length), np.sqrt(-np.expm1(-2.0 * length))
  value = jax.jit(jax.vmap(lambda cell, part: noise.value(
      jax.random.key(4), like, noise.Positions(cell, part, None, None, *whole), depth)))
  y = np.asarray(value(cell, place - cell))
  gap = np.abs(np.subtract.outer(place, place)) * length / 2**depth
  # A correlation from 40,000 is known to .005. Places 2 and 3 share a cell: its own draw is theirs.
  np.testing.assert_allclose(np.cov(y), np.exp(-gap), atol=0.025)
  np.testing.assert_array_equal(value(cell, place - cell), y)


def test_the_noise_of_every_step_is_standard_normal_and_independent():
  """Read off a model that says 0: x is then a sum of the draws alone."""
  grid, eta, n = samplers.karras(6, rho_min=0.1, rho_max=20.0), 1.0, 20_000
  nodes = levels.place_levels(grid(VE), VE)
  numbers = samplers.ddim(eta).plan(nodes, VE)
  denoise = predictions.Denoiser(lambda x, ell: jnp.zeros_like(x), VE)
  run = samplers.trajectory(jax.random.key(2), denoise, VE, shape=(n,), method=samplers.ddim(eta),
                            grid=grid, brownian=samplers.brownian())
  x = np.asarray(run.x, np.float64) / nodes.scale[:, None]
  xi = (x[1:-1] - numbers.a[:-1, None] * x[:-2]) / numbers.c[:-1, None]
  both = np.concatenate([xi, x[:1] / nodes.sigma[0]])
  np.testing.assert_allclose(np.cov(both), np.eye(len(both)), atol=5 * np.sqrt(2 / n))


def test_a_key_of_a_batch_is_its_own_path():
  denoise, keys = predictions.Denoiser(bimodal, FLOW), jax.random.split(jax.random.key(0), 3)
  draw = lambda keys, shape: samplers.sample(keys, denoise, FLOW, shape=shape,
                                             method=samplers.ddim(1.0), grid=samplers.karras(6),
                                             brownian=samplers.brownian())
  batch = draw(keys, (3, 2))
  np.testing.assert_allclose(draw(keys[1], (2,)), batch[1], atol=1e-5)
  assert len(np.unique(batch)) == 6


@pytest.mark.parametrize("covariance", [False, True])
def test_moments_make_the_first_state_s_law_exact(x64, covariance):
  """Mean αm and variance α²S + σ² of the first state, along any path."""
  mean = jnp.array([1.0, -2.0])
  var = jnp.array([[2.0, 0.6], [0.6, 0.5]]) if covariance else jnp.array([2.0, 0.5])
  n, grid = 100_000, samplers.karras(2, rho_max=2.0)
  denoise = predictions.Denoiser(lambda x, ell: x, FLOW)
  x = np.asarray(samplers.trajectory(
      jax.random.key(0), denoise, FLOW, shape=(n, 2), grid=grid, moments=(mean, var)).x[0])
  s = 2.0 / 3.0
  full = np.asarray(var) if covariance else np.diag(var)
  np.testing.assert_allclose(x.mean(0), (1 - s) * np.asarray(mean), atol=5 / np.sqrt(n))
  np.testing.assert_allclose(np.cov(x.T), (1 - s) ** 2 * full + s**2 * np.eye(2), atol=0.02)


def test_moments_cut_the_error_of_the_prior(x64):
  """KL(law at ρ = 20 ‖ first state), by quadrature: 1e-5 → 2.5e-11 (theory.md#initial-noise)."""
  w, m, s = WEIGHTS, MEANS, STDS
  rho, z = 20.0, np.linspace(-240, 240, 40_001)
  normal = lambda mean, var: np.exp(-0.5 * (z - mean) ** 2 / var) / np.sqrt(2 * np.pi * var)
  p = sum(w * normal(m, s**2 + rho**2) for w, m, s in zip(w, m, s, strict=True))
  mean = w @ m
  var = w @ (s**2 + m**2) - mean**2
  # What the sampler draws: read off its own first state at two unit draws.
  level = levels.pick(levels.place_levels(np.array([rho]), VE), 0)
  at = lambda xi, moments: float(noise.start(lambda: jnp.full((), xi), level, moments)
                                 / level.alpha)
  kl = {}
  for name, moments in (("noise", None), ("moments", (jnp.array(mean), jnp.array(var)))):
    centre = at(0.0, moments)
    q = normal(centre, (at(1.0, moments) - centre) ** 2)
    kl[name] = np.trapezoid(p * (np.log(p) - np.log(q)), z)
  assert 5e-6 < kl["noise"] < 5e-5
  np.testing.assert_allclose(kl["moments"], 2.5e-11, rtol=0.1)


def draw(**options):
  return samplers.sample(jax.random.key(0), predictions.Denoiser(bimodal, VE), VE, shape=(4, 2),
                         **options)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: samplers.brownian(depth=0), "depth must lie in"),
    (lambda: samplers.brownian(depth=31), "depth must lie in"),
    (lambda: draw(initial=jnp.zeros((4, 2)), moments=(jnp.zeros(2), jnp.ones(2))), "not both"),
    *((lambda moments=moments: draw(moments=moments), "moments must be a mean and variances")
      for moments in ((jnp.zeros(3), jnp.ones(3)), (jnp.zeros(2), jnp.ones(3)),
                      (jnp.zeros(2), jnp.ones((3, 3))))),
    (lambda: draw(method=samplers.ddim(jnp.asarray(1.0)), brownian=samplers.brownian()),
     "a number or a callable"),
    (lambda: samplers.adaptive_sde(jax.random.key(0), predictions.Denoiser(bimodal, VE), VE,
                                   shape=(2,), stochasticity=0.0), "or take adaptive")])
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
