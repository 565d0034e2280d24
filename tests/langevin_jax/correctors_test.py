"""Correctors and annealed Langevin: laws kept, calls counted, histories valid, their own source."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import MEANS, STDS, WEIGHTS, cdf

from langevin_jax import paths, predictions, samplers
from langevin_jax.samplers import corrected, correctors, levels

MEAN = WEIGHTS @ MEANS
MOMENTS = np.array([MEAN]), np.array([WEIGHTS @ (MEANS**2 + STDS**2) - MEAN**2])
GRID = samplers.karras(20, rho_min=0.05, rho_max=20.0)
CORRECTORS = {
    "exact": correctors.exact(0.1), "euler": correctors.euler(0.1),
    "midpoint": correctors.midpoint(0.4), "baoab": correctors.baoab(0.4)}


gaussian = functools.partial(oracles.gaussian, mean=0.0)
VP = paths.vp()
LINE, GAUSSIAN = predictions.Denoiser(oracles.line, VP), predictions.Denoiser(gaussian, VP)


def draws(methods, n, grids=None, denoise=LINE):
  """n sorted samples of each method, float64; one compilation."""
  grids = grids or [GRID] * len(methods)
  run = jax.jit(lambda key: [jnp.sort(samplers.sample(
      key, denoise, VP, shape=(n, 1), method=method, grid=grid, moments=MOMENTS)[:, 0])
      for method, grid in zip(methods, grids, strict=True)])
  return np.asarray(run(jax.random.key(7)), np.float64)


def distances(methods, grids=None):
  """Kolmogorov–Smirnov distance to the exact law; 20,000 draws of it exceed .014 once in 1,000."""
  n = 20_000
  return np.abs(cdf(draws(methods, n, grids)) - (np.arange(n) + 0.5) / n).max(1)


def test_correctors_keep_the_law_and_mend_it():
  """2M alone is at the law in 20 steps, and stays (.009); DDPM is .0375 off, corrected .0326 by
  STEP, .022 by a momentum, .0105 by three steps of it.
  """
  good, poor, once = samplers.multistep(2), samplers.ddim(1.0), corrected.predictor_corrector
  momentum = CORRECTORS["baoab"]
  alone, *kept, mended, helped, more = distances([
      good, *(once(good, c) for c in CORRECTORS.values()), poor, once(poor, momentum),
      once(poor, momentum, 3)])
  assert alone < 0.014 and np.all(np.array(kept) < 0.016), (alone, kept)
  assert mended > 0.03 and helped < 0.75 * mended and more < 0.5 * mended, (mended, helped, more)


def biased(shift):
  """DDIM which moves every state by `shift` σ at every step but the last, which returns D."""
  inner = samplers.ddim()

  def plan(levels, path):
    return levels.sigma[1:], inner.plan(levels, path)

  def step(draw, x, carry, model, n):
    sigma_s, inner_numbers = n
    x, denoised, carry = inner.step(draw, x, carry, model, inner_numbers)
    return x + shift * sigma_s, denoised, carry

  return samplers.Method(plan, inner.init, step)


def test_correctors_bring_a_biased_predictor_s_mean_back():
  """On N(0, .3), by how much the mean is off: less with every correction.

  The difference from the predictor without its shift, from the same draws, is free of sampling
  error for a linear model.
  """
  correct = lambda shift, count: corrected.predictor_corrector(
      biased(shift), correctors.exact(0.3), count) if count else biased(shift)
  draw = jax.jit(lambda key: [
      [samplers.sample(key, GAUSSIAN, VP, shape=(10, 1), method=correct(shift, count), grid=GRID)
       for shift in (0.0, 0.1)] for count in (0, 1, 3, 8)])
  off = np.array([np.mean(with_shift - without) for without, with_shift in draw(jax.random.key(0))])
  assert off[0] > 0.1 and np.all(np.diff(off) < 0.0) and off[3] < 0.2 * off[0], off


def test_with_an_exact_score_more_predictor_steps_buy_more_than_corrections():
  """Wasserstein distance at equal calls, as measured (theory.md#correctors), and where not.

  At 19 or 20 calls steps are better spent on a predictor: 2M .013 against .059 (STEP) and .037 (a
  momentum). Later a momentum beats more steps of the first-order DDPM: at 79 or 80 calls .015
  against .030. 40,000 draws of the law itself have .01.
  """
  n, once = 40_000, corrected.predictor_corrector
  grid = lambda steps: samplers.karras(steps, rho_min=0.05, rho_max=20.0)
  predictor, ddpm, momentum = samplers.multistep(2), samplers.ddim(1.0), CORRECTORS["baoab"]
  x = draws([predictor, once(predictor, CORRECTORS["exact"]), once(predictor, momentum),
             ddpm, once(ddpm, momentum)], n, list(map(grid, (20, 10, 10, 80, 40))))
  fine = np.linspace(-4.0, 4.0, 40_001)
  quantiles = np.interp((np.arange(n) + 0.5) / n, cdf(fine), fine)
  two, two_step, two_momentum, many, few = np.abs(x - quantiles[None]).mean(1)
  assert two < 0.6 * min(two_step, two_momentum), (two, two_step, two_momentum)
  assert few < 0.8 * many, (few, many)


def variance(methods, n, steps):
  """Var x₀ of N(0, .3) by each method, over that of the exact law of D at the last level."""
  grid = samplers.karras(steps, rho_min=0.05, rho_max=20.0)
  draw = jax.jit(lambda key: [jnp.var(samplers.sample(
      key, GAUSSIAN, VP, shape=(n, 1), method=method, grid=grid)) for method in methods])
  return np.array(draw(jax.random.key(0))) * (0.3 + 0.05**2) / 0.3**2


def test_histories_stay_valid_and_a_momentum_leaves_no_bias():
  """On N(0, .3), 40 steps, one correction a level; standard errors of .0045.

  2M corrected is off by what 2M is (.014), and by what 2S corrected is (−.012). With D's jumps in
  its history it is off by .032 more. BAOAB of Λ = .4 adds nothing to 2S, STEP(0, .4) −.11.
  """
  once = corrected.predictor_corrector
  two, single, step = samplers.multistep(2), samplers.singlestep(2), correctors.exact(0.1)
  momentum = correctors.baoab(0.4)
  alone, both, bare, other, free, three, coarse = variance(
      [two, once(two, step), single, once(single, step), once(single, momentum),
       once(single, momentum, 3), once(single, correctors.exact(0.4))], 100_000, 40) - 1.0
  assert abs((both - other) - (alone - bare)) < 0.015, (alone, both, bare, other)
  assert abs(bare) < 0.015 and abs(free) < 0.015 and abs(three) < 0.015, (bare, free, three)
  assert coarse < -0.08


@pytest.mark.parametrize(("method", "expected"), [
    (corrected.predictor_corrector(samplers.ddim(), CORRECTORS["midpoint"], 3), 5 + 4 * 3),
    (corrected.predictor_corrector(samplers.multistep(2), CORRECTORS["baoab"]), 5 + 4),
    (corrected.annealed_langevin(CORRECTORS["midpoint"], 3), 5 * 3 + 1)])
def test_a_correction_costs_one_call(method, expected):
  """n + (n − 1)k calls of the network; annealed Langevin nk + 1."""
  assert oracles.calls_of(method, VP, 5) == expected


@pytest.mark.parametrize("name", ["midpoint", "baoab"])
def test_no_draw_is_used_twice(name):
  """The predictor keeps the 0th, the reverse process's own; the corrector's are odd."""
  method = corrected.predictor_corrector(samplers.ddim(1.0), CORRECTORS[name], 3)
  level = levels.place_levels(samplers.karras(5)(VP), VP)
  numbers = jax.tree.map(lambda v: jnp.asarray(v[1]), method.plan(level, VP))
  used = []

  def draw(i):
    used.append(int(i))
    return jnp.ones(2)

  with jax.disable_jit():
    method.step(draw, jnp.ones(2), method.init(jnp.ones(2)), lambda x, level: 0.5 * x, numbers)
  assert len(set(used)) == len(used) == (7 if name == "midpoint" else 5), used
  assert used.count(0) == 1 and all(i % 2 for i in used if i), used


def test_samples_are_their_keys_and_know_no_path():
  """Along any path, the same; in any batch, the same; differentiable from pure noise (α = 0) on."""
  keys, flow = jax.random.split(jax.random.key(0), 3), paths.rectified_flow()
  method = corrected.predictor_corrector(samplers.multistep(2), correctors.baoab(0.4), 2)
  rule = corrected.predictor_corrector(
      samplers.ddim(), correctors.euler(correctors.snr(0.16, event_axes=1)))
  grid = samplers.karras(6, rho_max=20.0)

  def draw(keys, path, shape, method=method, var=0.3, grid=grid):
    denoise = predictions.Denoiser(lambda x, ell: gaussian(x, ell, var), path)
    return samplers.sample(keys, denoise, path, shape=shape, method=method, grid=grid)

  np.testing.assert_allclose(draw(keys, flow, (3, 4)), draw(keys, VP, (3, 4)), atol=1e-5)
  np.testing.assert_allclose(draw(keys[1], VP, (4,), rule), draw(keys, VP, (3, 4), rule)[1],
                             atol=1e-5)
  slope = jax.jit(jax.grad(lambda var: jnp.sum(
      draw(keys[0], flow, (2, 4), var=var, grid=samplers.uniform_time(6)) ** 2)))(0.3)
  # Wider data, wider samples.
  assert np.isfinite(slope) and slope > 0.0


def test_the_signal_to_noise_rule():
  """Λ = 2 (r‖ξ‖/‖σs‖)², each sample's own; in many dimensions it is a fixed Λ and keeps the law.

  For N(0, v) data at unit scale ‖σs‖² → d σ²/(α²v + σ²); d = 256 numbers let Λ vary by 12 %.
  """
  noise, scaled = (jax.random.normal(jax.random.key(i), (5, 3, 4)) for i in (0, 1))
  ours = correctors.snr(0.2, event_axes=2)(noise, scaled)
  norm = lambda v: np.sqrt(np.sum(np.asarray(v) ** 2, (1, 2)))
  np.testing.assert_allclose(ours[:, 0, 0], 2 * (0.2 * norm(noise) / norm(scaled)) ** 2, rtol=1e-5)
  assert ours.shape == (5, 1, 1)

  draw = jax.jit(lambda key: samplers.sample(
      key, GAUSSIAN, VP, shape=(200, 256), grid=GRID, method=corrected.predictor_corrector(
          samplers.singlestep(2), correctors.exact(correctors.snr(0.16, event_axes=1)))))
  # First order, −.066 as measured, of Λ from .05 to .2; standard error .006.
  bias = np.var(draw(jax.random.key(0))) / 0.3 - 1.0
  assert -0.1 < bias < -0.04


def test_annealed_langevin_is_song_and_ermon_s_algorithm(x64):
  """Algorithm 1 of Song & Ermon (2019) in plain numpy, from the same draws."""
  var, sigmas, steps, eps = 0.3, np.geomspace(1.0, 0.01, 4), 6, 2e-5
  rng = np.random.default_rng(0)
  noise, start = rng.normal(size=(4, steps, 5)), rng.normal(size=5)

  x = start.copy()
  for i, sigma in enumerate(sigmas):
    alpha = eps * sigma**2 / sigmas[-1] ** 2
    for t in range(steps):
      x = x + 0.5 * alpha * (-x / (var + sigma**2)) + np.sqrt(alpha) * noise[i, t]

  method = corrected.annealed_langevin(correctors.euler(eps / (2 * sigmas[-1] ** 2)), steps)
  path = paths.ve()
  level = levels.place_levels(np.append(sigmas, 0.0), path)
  plan = method.plan(level, path)
  state = jnp.asarray(start * level.alpha[0])
  carry = method.init(state)
  for i in range(4):
    # A step's k-th identity step draws at 2·4k + 1, k from 1.
    table = jnp.asarray(noise[i])
    draw = lambda j, table=table: table[(j - 1) // 8 - 1]
    state, denoised, carry = method.step(
        draw, state, carry, lambda x, level: gaussian(x, level.half_log_snr, var),
        jax.tree.map(lambda v, i=i: jnp.asarray(v[i]), plan))
  np.testing.assert_allclose(state, x * var / (var + sigmas[-1] ** 2), rtol=1e-9)
  np.testing.assert_array_equal(state, denoised)


def test_annealed_langevin_finds_the_law():
  """Ten levels of 40 second-order steps on the mixture; and from pure noise along a flow."""
  grid = samplers.karras(10, rho_min=0.05, rho_max=20.0)
  method = corrected.annealed_langevin(CORRECTORS["midpoint"], 40)
  assert distances([method], [grid])[0] < 0.014
  flow = paths.rectified_flow()
  x = samplers.sample(
      jax.random.key(0), predictions.Denoiser(gaussian, flow), flow, shape=(4_000, 1),
      method=method, grid=samplers.uniform_time(10))
  # Standard error of a variance from 4,000: 2.2 %; the midpoint's bias at Λ = .4: 4 %.
  assert abs(np.var(x) / 0.3 - 1.0) < 0.15


@pytest.mark.parametrize(("call", "message"), [
    *((lambda make=make, budget=budget: make(budget), "budget must be positive")
      for make in (correctors.exact, correctors.euler, correctors.midpoint, correctors.baoab)
      for budget in (0.0, -1.0, float("nan"))),
    *((lambda make=make: make("1"), "must be positive, got '1'")
      for make in (correctors.exact, correctors.euler, correctors.midpoint, correctors.baoab,
                   lambda v: correctors.baoab(friction=v),
                   lambda v: correctors.snr(v, event_axes=1))),
    (lambda: correctors.baoab(0.1, friction=0.0), "friction must be positive"),
    (lambda: correctors.snr(0.0, event_axes=1), "ratio must be positive"),
    (lambda: correctors.snr(event_axes=0), "event_axes must be at least 1"),
    (lambda: corrected.predictor_corrector(samplers.ddim(), correctors.exact(), 0),
     "corrections must be at least 1"),
    (lambda: corrected.annealed_langevin(corrections=0), "corrections must be at least 1")])
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
