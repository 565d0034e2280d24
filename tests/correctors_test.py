"""Correctors and annealed Langevin: laws kept, calls counted, histories valid, their own source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from langevin_jax import paths, predictions, samplers
from langevin_jax.samplers import corrected, correctors, levels

WEIGHTS, MEANS, STDS = np.array([[0.35, 0.45, 0.2], [-1.2, 0.4, 1.6], [0.35, 0.25, 0.15]])
MEAN = WEIGHTS @ MEANS
MOMENTS = np.array([MEAN]), np.array([WEIGHTS @ (MEANS**2 + STDS**2) - MEAN**2])
GRID = samplers.karras(20, rho_min=0.05, rho_max=20.0)
CORRECTORS = {
    "exact": correctors.exact(0.1), "euler": correctors.euler(0.1),
    "midpoint": correctors.midpoint(0.4), "baoab": correctors.baoab(0.4),
    "overdamped": correctors.baoab(0.4, friction=np.inf)}


def line(x, ell):
  """The one-dimensional mixture of MATH §6 in elementwise arithmetic."""
  alpha, sigma = predictions.unit_frame(ell)[:2]
  var = [alpha**2 * s**2 + sigma**2 for s in STDS]
  offset = [x - alpha * m for m in MEANS]
  r = jax.nn.softmax(jnp.stack([
      jnp.log(w) - 0.5 * jnp.log(v) - 0.5 * o**2 / v
      for w, v, o in zip(WEIGHTS, var, offset, strict=True)]), axis=0)
  return sum(r[k] * (MEANS[k] + alpha * STDS[k] ** 2 / var[k] * offset[k]) for k in range(3))


def gaussian(x, ell, var=0.3):
  alpha, sigma = predictions.unit_frame(ell)[:2]
  return alpha * var / (alpha**2 * var + sigma**2) * x


VP = paths.vp()
LINE, GAUSSIAN = predictions.Denoiser(line, VP), predictions.Denoiser(gaussian, VP)


def cdf(x):
  return sum(w * stats.norm.cdf(x, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))


def distances(methods, n=20_000, *, grids=None):
  """Kolmogorov–Smirnov distance to the exact law of each method's samples, one compilation."""
  grids = grids or [GRID] * len(methods)
  draw = jax.jit(lambda key: [
      samplers.sample(key, LINE, VP, shape=(n, 1), method=method, grid=grid, moments=MOMENTS)
      for method, grid in zip(methods, grids, strict=True)])
  middle = (np.arange(n) + 0.5) / n
  return np.array([np.abs(cdf(np.sort(np.asarray(x, np.float64)[:, 0])) - middle).max()
                   for x in draw(jax.random.key(7))])


def test_correctors_keep_the_law_and_mend_it():
  """2M alone is near the law at 20 steps, and stays; DDPM is .04 away, and each corrector helps.

  20,000 draws of the exact law exceed .014 once in a thousand.
  """
  good, poor = samplers.multistep(2), samplers.ddim(1.0)
  pairs = [corrected.predictor_corrector(p, c) for p in (good, poor) for c in CORRECTORS.values()]
  alone, mended, more, *rest = distances(
      [good, poor, corrected.predictor_corrector(poor, CORRECTORS["baoab"], 3), *pairs])
  kept, helped = np.split(np.array(rest), 2)
  assert alone < 0.02 and np.all(kept < 0.02), (alone, kept)
  assert mended > 0.035 and np.all(helped < 0.9 * mended), (mended, helped)
  assert more < 0.5 * mended, (mended, more)


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
  """At 39 or 40 calls, as measured (MATH §7), and where it is not so.

  Second-order steps are better spent on the predictor, whatever corrects them; so are DDIM's rather
  than on STEP(0, Λ). But a momentum beats more steps of the first-order DDPM: .023 against .021 at
  20 steps, .009 against .011 at twice as many.
  """
  fine, once = samplers.karras(40, rho_min=0.05, rho_max=20.0), corrected.predictor_corrector
  order_2, order_1, ddpm = samplers.multistep(2), samplers.ddim(), samplers.ddim(1.0)
  finer = samplers.karras(80, rho_min=0.05, rho_max=20.0)
  runs = [
      (order_2, fine), *((once(order_2, c), GRID) for c in CORRECTORS.values()),
      (order_1, fine), (once(order_1, CORRECTORS["exact"]), GRID),
      (ddpm, finer), (once(ddpm, CORRECTORS["baoab"]), fine)]
  found = distances([m for m, _ in runs], 60_000, grids=[g for _, g in runs])
  (two, *twos), (one, stepped), (many, momentum) = np.split(found, [6, 8])
  # 60,000 draws know the distance to .005.
  assert two < min(twos) + 0.002, (two, twos)
  assert stepped > one + 0.003, (one, stepped)
  assert momentum < many, (many, momentum)


def variance(methods, n, steps):
  """Var x₀ of N(0, .3) by each method, over that of the exact law of D at the last level."""
  grid = samplers.karras(steps, rho_min=0.05, rho_max=20.0)
  draw = jax.jit(lambda key: [jnp.var(samplers.sample(
      key, GAUSSIAN, VP, shape=(n, 1), method=method, grid=grid)) for method in methods])
  return np.array(draw(jax.random.key(0))) * (0.3 + 0.05**2) / 0.3**2


def test_a_history_stays_valid_across_corrections():
  """2M corrected is off by what 2M is, and by what 2S corrected is, nearly without error itself.

  With D's jumps in its history it is off by .045 more (measured at 40 steps and Λ = .1). Standard
  errors of .0045 in each of four numbers.
  """
  once = lambda method: corrected.predictor_corrector(method, correctors.exact(0.1))
  two, single = samplers.multistep(2), samplers.singlestep(2)
  alone, both, bare, other = variance([two, once(two), single, once(single)], 100_000, 40) - 1.0
  assert abs(bare) < 0.015 and other < -0.005
  assert abs((both - other) - (alone - bare)) < 0.015, (alone, both, bare, other)


def test_a_momentum_leaves_a_gaussian_s_variance():
  """BAOAB of Λ = .4 at 40 steps: no bias beyond 2S's own; STEP(0, .4) has −.11.

  Standard errors .0045; what changes between two levels adds .004.
  """
  once = lambda corrector, count=1: corrected.predictor_corrector(
      samplers.singlestep(2), corrector, count)
  free, damped, three, step = variance(
      [once(correctors.baoab(0.4, friction=np.inf)), once(correctors.baoab(0.4)),
       once(correctors.baoab(0.4), 3), once(correctors.exact(0.4))], 100_000, 40) - 1.0
  assert abs(free) < 0.02 and abs(damped) < 0.02 and abs(three) < 0.02, (free, damped, three)
  assert step < -0.08


@pytest.mark.parametrize("corrections", [1, 3])
def test_a_corrector_costs_one_call_each_and_one_set_of_draws(corrections):
  """n + (n − 1)k calls of the network, or nk + 1; and no draw is used twice within a step."""
  calls, used = [], []

  def at(x, ell):
    jax.debug.callback(lambda: calls.append(1))
    return gaussian(x, ell)

  denoise, n = predictions.Denoiser(at, VP), 5
  count = lambda method: (
      calls.clear(), jax.block_until_ready(samplers.sample(
          jax.random.key(0), denoise, VP, shape=(2, 1), method=method, grid=samplers.karras(n))),
      jax.effects_barrier(), len(calls))[-1]
  for name, corrector in CORRECTORS.items():
    method = corrected.predictor_corrector(samplers.ddim(1.0), corrector, corrections)
    if name in ("exact", "midpoint", "baoab"):
      assert count(method) == n + (n - 1) * corrections, name
    level = levels.lay(samplers.karras(n)(VP), VP)
    numbers = jax.tree.map(lambda v: jnp.asarray(v[2]), method.plan(level, VP))

    def draw(i):
      used.append(int(i))
      return jnp.ones(2)

    used.clear()
    with jax.disable_jit():
      x = jnp.ones(2)
      method.step(draw, x, method.init(x), lambda x, level: gaussian(x, level.half_log_snr),
                  numbers)
    # The middle of the reverse process's noise is the 0th draw; the rest are odd.
    assert len(set(used)) == len(used) and used.count(0) == 1, (name, used)
    assert all(i % 2 for i in used if i), (name, used)
  annealed = corrected.annealed_langevin(correctors.midpoint(0.1), corrections)
  assert count(annealed) == n * corrections + 1


def test_samples_are_their_keys_and_know_no_path():
  """Along any path, the same; in any batch, the same; under jit and grad."""
  keys, grid = jax.random.split(jax.random.key(0), 3), samplers.karras(6, rho_max=20.0)
  methods = [
      corrected.predictor_corrector(samplers.multistep(2), correctors.baoab(0.4), 2),
      corrected.predictor_corrector(samplers.heun(), correctors.euler(
          correctors.snr(0.16, event_axes=1)))]

  def draw(keys, path, shape):
    return [samplers.sample(keys, predictions.Denoiser(gaussian, path), path, shape=shape,
                            method=method, grid=grid) for method in methods]

  along = jax.jit(lambda keys: [
      draw(keys, path, (3, 4)) for path in (VP, paths.ve(), paths.rectified_flow())])(keys)
  for other in along[1:]:
    np.testing.assert_allclose(other, along[0], atol=1e-5)
  single = jax.jit(lambda key: draw(key, VP, (4,)))(keys[1])
  np.testing.assert_allclose(single, np.asarray(along[0])[:, 1], atol=1e-5)

  # From pure noise (α = 0), and through its derivative in the model.
  def total(var):
    denoise = predictions.Denoiser(lambda x, ell: gaussian(x, ell, var), paths.rectified_flow())
    return jnp.sum(samplers.sample(keys[0], denoise, paths.rectified_flow(), shape=(2, 4),
                                   method=methods[0], grid=samplers.uniform_time(6)) ** 2)

  value, slope = jax.jit(jax.value_and_grad(total))(0.3)
  assert np.isfinite(value) and np.isfinite(slope) and slope > 0.0


def test_the_signal_to_noise_rule():
  """Λ = 2 (r‖ξ‖/‖σs‖)², each sample's own; in many dimensions it is a fixed Λ and keeps the law.

  For N(0, v) data at unit scale ‖σs‖² → d σ²/(α²v + σ²); d = 256 numbers let Λ vary by 12 %.
  """
  noise, scaled = (jax.random.normal(jax.random.key(i), (5, 3, 4)) for i in (0, 1))
  ours = correctors.snr(0.2, event_axes=2)(noise, scaled)
  norm = lambda v: np.sqrt(np.sum(np.asarray(v) ** 2, (1, 2)))
  np.testing.assert_allclose(ours[:, 0, 0], 2 * (0.2 * norm(noise) / norm(scaled)) ** 2, rtol=1e-5)
  assert ours.shape == (5, 1, 1)

  rule = correctors.snr(0.16, event_axes=1)
  methods = [corrected.predictor_corrector(samplers.singlestep(2), c(rule))
             for c in (correctors.exact, correctors.euler)]
  draw = jax.jit(lambda key: [samplers.sample(
      key, GAUSSIAN, VP, shape=(300, 256), method=method, grid=GRID) for method in methods])
  for x in draw(jax.random.key(0)):
    # First order: |bias| ≤ Λ/2 of about .05 to .15; standard error .005.
    assert abs(np.var(x) / 0.3 - 1.0) < 0.08


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
  level = levels.lay(np.append(sigmas, 0.0), path)
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
  """Ten levels of 40 second-order steps; from pure noise along a flow as well."""
  grid = samplers.karras(10, rho_min=0.05, rho_max=20.0)
  method = lambda name: corrected.annealed_langevin(CORRECTORS[name], 40)
  assert np.all(distances([method("midpoint"), method("baoab")], grids=[grid] * 2) < 0.02)
  flow = paths.rectified_flow()
  x = samplers.sample(
      jax.random.key(0), predictions.Denoiser(gaussian, flow), flow, shape=(4_000, 1),
      method=method("baoab"), grid=samplers.uniform_time(10))
  # Standard error of a variance from 4,000: 2.2 %.
  assert np.isfinite(x).all() and abs(np.var(x) / 0.3 - 1.0) < 0.1


def test_bad_input_is_named():
  for make in (correctors.exact, correctors.euler, correctors.midpoint, correctors.baoab):
    for budget in (0.0, -1.0, float("nan")):
      with pytest.raises(ValueError, match="budget must be positive"):
        make(budget)
  with pytest.raises(ValueError, match="friction must be positive"):
    correctors.baoab(0.1, friction=0.0)
  with pytest.raises(ValueError, match="ratio must be positive"):
    correctors.snr(0.0, event_axes=1)
  with pytest.raises(ValueError, match="event_axes must be at least 1"):
    correctors.snr(event_axes=0)
  for make in (lambda k: corrected.predictor_corrector(samplers.ddim(), correctors.exact(), k),
               lambda k: corrected.annealed_langevin(corrections=k)):
    with pytest.raises(ValueError, match="corrections must be at least 1"):
      make(0)
  for predictor in (samplers.unipc(), samplers.multistep(3)):
    with pytest.raises(ValueError, match="corrects its own last step"):
      samplers.sample(jax.random.key(0), GAUSSIAN, VP, shape=(1,), grid=GRID,
                      method=corrected.predictor_corrector(predictor, correctors.exact()))
