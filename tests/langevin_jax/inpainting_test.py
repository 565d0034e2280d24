"""Inpainting: exact laws on Gaussian data, the conditional mixture as oracle, costs, refusals."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import calls_of, gaussian_kl, gaussian_mean, round_denoiser
from scipy import linalg, stats

from langevin_jax import inpainting, paths, predictions, samplers
from langevin_jax.inpainting import _dynamics as dynamics
from langevin_jax.samplers.levels import Level, place_levels

CORRELATED, Y_0 = np.array([[1.0, 0.8], [0.8, 1.0]]), 1.2
MEAN, VAR = 0.8 * Y_0, 1.0 - 0.8**2  # of the unknown coordinate given the known one, Y_0
MASK, KNOWN = np.array([True, False]), np.array([Y_0, np.nan])
GRID = samplers.karras(20, rho_min=0.05, rho_max=20.0)


def kl(mean, var, mean_1=MEAN, var_1=VAR):
  return gaussian_kl(mean, var, mean_1, var_1)


def gaussian(x, alpha, sigma):
  return gaussian_mean(np.zeros(2), CORRELATED, x, alpha, sigma)


# The frozen dynamics and their inner iterations.


def test_the_frozen_dynamics_are_solved_exactly():
  """M is the matrix exponential; L Lᵀ keeps the stationary law and composes, at any size.

  Δ = 1 − 4a/γ takes both signs and 0 (a = 1, γ = 4; a = 9, γ = 36).
  """
  for a, damping, span in itertools.product(
      (1.0, 9.0), (0.01, 4.0, 9.0, 36.0, 225.0, 1e4), (1e-4, 0.075, 0.3, 8.0)):
    matrix, root = dynamics.propagator(a, span, damping)
    covariance, stationary = root @ root.T, np.diag([1.0 / a, damping])
    size = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    drift = np.array([[0.0, 1.0], [-damping * a, -damping]])
    np.testing.assert_allclose(matrix, linalg.expm(drift * span), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(covariance + matrix @ stationary @ matrix.T, stationary,
                               rtol=1e-10, atol=1e-10 * damping)
    half, half_root = dynamics.propagator(a, span / 2, damping)
    twice = half @ half_root @ half_root.T @ half.T + half_root @ half_root.T
    np.testing.assert_allclose((covariance - twice) / size, 0.0, atol=1e-10)
    if span * damping < 0.1:
      # The leading order, to the next one: nothing is lost where everything is small.
      leading = 2 * damping**2 * np.array([[span**3 / 3, span**2 / 2], [span**2 / 2, span]])
      np.testing.assert_allclose(covariance, leading, rtol=2 * span * (damping + 1.0))


def test_strong_friction_is_overdamped():
  """The offset's M and L as γ → ∞, at rate a/γ."""
  for a in (1.0, 9.0):
    (matrix,), (root,) = dynamics.propagator(a, 0.15)
    under, under_root = dynamics.propagator(a, 0.15, 1e7)
    np.testing.assert_allclose(under[0, 0], matrix[0], rtol=1e-5)
    np.testing.assert_allclose(np.hypot(*under_root[0]), root[0], rtol=1e-5)


def unit_draws(draws: int, d: int, levels: int = 1):
  """(rows, draw): an affine method run on these rows gives its law without Monte Carlo.

  Row 0 has no noise; of the others each has one coordinate of one draw of one level equal to 1, so
  that their differences from row 0 are the columns of the method's matrix.
  """
  rows = 1 + levels * draws * d

  def draw(level, i):
    first = 1 + d * (level * draws + i)
    return (jnp.arange(rows)[:, None] == first + jnp.arange(d)[None]).astype(float)

  return rows, draw


def law(ends):
  """Mean and covariance of the method whose rows ended at `ends` (rows, d)."""
  ends = np.asarray(ends, np.float64)
  columns = ends[1:] - ends[:1]
  return ends[0], columns.T @ columns


def iterated(start, alpha, sigma, n, guidance, step_size, friction):
  """Rows, as in `unit_draws`, after n iterations at one level from `start` (2,)."""
  rows, draw = unit_draws((2 if friction is None else 4) * n + 2, 2)
  full = lambda v: jnp.broadcast_to(jnp.asarray(v), (rows, 2))
  return dynamics.iterate(
      functools.partial(draw, 0), full(start), lambda x: gaussian(x, alpha, sigma),
      Level(None, None, alpha, sigma, 1.0), dynamics.KnownPart(full([Y_0, 0.0]), full(MASK)),
      dynamics.plan(n, guidance, step_size, friction))


@pytest.mark.parametrize(("friction", "first"), [(None, 32), (4.0, 128), (1.0, 32)])
def test_iterations_are_of_second_order(friction, first, x64):
  """Law of the state after Langevin time 1.6 σ² at ᾱ = .5, against the exact law of the linear SDE.

  dv = B v ds + noise from a known start; the law of an affine method is exact without Monte Carlo.
  Δ is 0 or positive at friction 4 and negative at 1.
  """
  alpha = sigma = np.sqrt(0.5)
  guidance, total, start = 3.0, 1.6, np.array([0.3, -0.5])
  score = np.linalg.inv(alpha**2 * CORRELATED + sigma**2 * np.eye(2))
  pull = -sigma**2 * np.stack([(1 + guidance) / sigma**2 * np.eye(2)[0] - guidance * score[0],
                               score[1]])
  push = np.array([alpha * (1 + guidance) * Y_0, 0.0])
  if friction is None:
    drift, source, noise, initial = pull, push, 2 * sigma**2 * np.eye(2), np.zeros((2, 2))
  else:
    gamma, zero = friction**2, np.zeros((2, 2))
    drift = np.block([[zero, np.eye(2)], [gamma * pull, -gamma * np.eye(2)]])
    source = np.concatenate([np.zeros(2), gamma * push])
    noise = linalg.block_diag(zero, 2 * gamma**2 * sigma**2 * np.eye(2))
    initial = linalg.block_diag(zero, gamma * sigma**2 * np.eye(2))
  flow, rest = linalg.expm(drift * total), -np.linalg.solve(drift, source)
  origin = np.concatenate([start, np.zeros(len(rest) - 2)])
  mean = (rest + flow @ (origin - rest))[:2]
  settled = linalg.solve_continuous_lyapunov(drift, -noise)
  covariance = (settled + flow @ (initial - settled) @ flow.T)[:2, :2]

  def error(n):
    there = law(jax.jit(
        lambda: iterated(start, alpha, sigma, n, guidance, total / n, friction))())
    return np.hypot(np.linalg.norm(there[0] - mean), np.linalg.norm(there[1] - covariance))

  assert abs(np.log2(error(first) / error(2 * first)) - 2.0) < 0.15


@pytest.mark.parametrize(("guidance", "bias"), [(0.0, 1.536e-2), (5.0, 5.45e-4)])
def test_the_dropped_term_biases_the_law_at_high_noise(guidance, bias, x64):
  """The law that the iterations leave unchanged, at ρ = .8 and ᾱ = .9, and its KL to the exact one.

  Its covariance solves B C + C Bᵀ = −2 I, which gives 1.536e-2 and 5.45e-4
  (theory.md#conditional-sampling). 50 σ² of Langevin time, 12 times the slowest, in steps of .05
  come within 2 % of it.
  """
  alpha, sigma = np.sqrt(0.9), np.sqrt(0.1)
  ends = jax.jit(lambda: iterated(np.zeros(2), alpha, sigma, 1000, guidance, 0.05, None))()
  mean, covariance = law(ends)
  found = kl(mean[1], covariance[1, 1], alpha * MEAN, alpha**2 * VAR + sigma**2)
  np.testing.assert_allclose(found, bias, rtol=0.02)


# The laws of whole methods.


def end_law(inpainter, outer, draws):
  """Mean and covariance of a method's samples on Gaussian data, exactly: every map is affine."""
  d, path, levels = 2, paths.vp(), 20
  laid = place_levels(GRID(path), path)

  @jax.jit
  def ends():
    rows, draw = unit_draws(draws, d, levels + 1)
    full = lambda v: jnp.broadcast_to(jnp.asarray(v), (rows, d))
    method = inpainter(outer, full(KNOWN), full(MASK))
    model = lambda x, level: gaussian(x, level.alpha, level.sigma)

    def step(carry, now):
      i, numbers = now
      x, _, history = method.step(functools.partial(draw, i), *carry, model, numbers)
      return (x, history), None

    x = laid.sigma[0] * draw(levels, 0)
    (x, _), _ = jax.lax.scan(step, (x, method.init(x)), (jnp.arange(levels), jax.tree.map(
        jnp.asarray, method.plan(laid, path))))
    return x

  return law(ends())


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


# Inpainting method, η of DDIM outside, draws of a level that it uses, the KL as estimated from
# finitely many samples; ours are exact: .4845, .0298, .0435, .0154, .00216, .00046.
MEASURED = {
    "replacement": (inpainting.replacement(), 0.0, 2, 0.485),
    "repaint-10": (inpainting.repaint(10), 1.0, 42, 0.031),
    "langevin-10": (inpainting.langevin(10), 0.0, 44, 0.051),
    "lanpaint-5": (inpainting.lanpaint(5), 0.0, 46, 0.0185),
    "lanpaint-10": (inpainting.lanpaint(10), 0.0, 86, 0.0022),
    "lanpaint-20": (inpainting.lanpaint(20), 0.0, 166, 0.0005),
}


@pytest.mark.parametrize("name", [
    "replacement", "repaint-10", "langevin-10", slow("lanpaint-5"), "lanpaint-10",
    slow("lanpaint-20")])
def test_kl_of_every_method_on_the_gaussian(name, x64):
  """KL(method ‖ oracle) of the unknown coordinate, Karras grid ρ 20 → .05 in 20 steps, exact."""
  inpainter, eta, draws, published = MEASURED[name]
  mean, covariance = end_law(inpainter, samplers.ddim(eta), draws)
  np.testing.assert_allclose(mean[0], Y_0)
  np.testing.assert_allclose(kl(mean[1], covariance[1, 1]), published, rtol=0.2)


def test_inner_iterations_repair_the_outer_steps(x64):
  """DDIM with the exact conditional denoiser is left with a KL of .0088 that LanPaint-10 is not."""
  levels = place_levels(GRID(paths.vp()), paths.vp())
  mean, var = 0.0, levels.sigma[0] ** 2
  for alpha, sigma, alpha_s, sigma_s in zip(levels.alpha, levels.sigma, levels.alpha[1:],
                                            levels.sigma[1:], strict=False):
    a, gain = sigma_s / sigma, alpha * VAR / (alpha**2 * VAR + sigma**2)
    b = alpha_s - a * alpha
    mean, var = a * mean + b * (MEAN + gain * (mean - alpha * MEAN)), (a + b * gain) ** 2 * var
  np.testing.assert_allclose(kl(mean, var), 0.0088, atol=1e-4)


# Outer method and the KL it must stay below. First order leaves its own bias. Multistep of x₀,
# whose history the iterations would mislead (.015 here, .08 on the default grid), runs as DDIM.
OUTER = {
    "ddim(1)": (samplers.ddim(1.0), 2e-3), "singlestep(2)": (samplers.singlestep(2), 1e-3),
    "multistep(2)": (samplers.multistep(2), 1e-3),
    "unipc(2, ε)": (samplers.unipc(2, prediction="eps"), 1e-3)}


@pytest.mark.parametrize("name", OUTER)
def test_any_outer_method_ends_at_the_conditional_law(name, x64):
  """Exactly, as above, with LanPaint-20; replacement's KL is .48."""
  outer, most = OUTER[name]
  mean, covariance = end_law(inpainting.lanpaint(20, underdamped=False), outer, 86)
  np.testing.assert_allclose(mean[0], Y_0)
  assert kl(mean[1], covariance[1, 1]) < most


# Mixtures: the oracle is the exact conditional.


def equal(means, std):
  """Equal round Gaussians, as the functions of `oracles` take them."""
  return np.ones(len(means)), np.asarray(means), np.full(len(means), std)


def cdf(law, mask, values, axis, x):
  """Distribution function of coordinate `axis` of equal round Gaussians, given those of `mask`."""
  _, means, stds = law
  weights = np.exp(-0.5 * np.sum(((values - means)[:, mask] / stds[:, None]) ** 2, 1))
  return sum(w * stats.norm.cdf(x, m, s) for w, m, s in zip(
      weights / weights.sum(), means[:, axis], stds, strict=True))


def histogram_kl(samples, exact):
  """KL(samples ‖ model) in one dimension over 64 cells; its floor, 63/(2n), is taken off."""
  edges = np.concatenate([[-np.inf], np.linspace(-3.0, 4.0, 63), [np.inf]])
  counts, expected = np.histogram(samples, edges)[0], np.diff(exact(edges))
  p, q = counts / len(samples), np.maximum(expected, 1e-9)
  return np.sum(p * np.log(np.maximum(p, 1e-300) / q)) - 63 / (2 * len(samples))


# Given y₀ = .5 the modes at (.4, 2) and (1.2, −.8) have weights .935 and .065, of which a state
# learns only at noise levels where it can no longer cross between them.
FOUR, FOUR_KNOWN = equal([(-1.1, 1.1), (-1.6, 0.5), (0.4, 2.0), (1.2, -0.8)], 0.3), 0.5
# Inpainting method, η of DDIM outside, an estimate for four other modes, ours at n = 40,000.
FOUR_KL = {
    "replacement": (inpainting.replacement(), 0.0, 0.70, 0.878),
    "repaint-11": (inpainting.repaint(11), 1.0, 0.40, 0.430),
    "langevin-10": (inpainting.langevin(10), 0.0, 0.51, 0.525),
    "lanpaint-10": (inpainting.lanpaint(10, underdamped=False), 0.0, 0.46, 0.447),
    "lanpaint-20": (inpainting.lanpaint(20, underdamped=False), 0.0, 0.38, 0.318),
}


def four_kl(n, name):
  inpainter, eta, *_ = FOUR_KL[name]
  samples = np.asarray(inpainting.sample(
      jax.random.key(0), round_denoiser(FOUR, paths.vp()), paths.vp(),
      known=np.array([FOUR_KNOWN, np.nan]), mask=MASK, shape=(n, 2), method=inpainter,
      grid=GRID, outer=samplers.ddim(eta)))
  assert np.all(samples[:, 0] == np.float32(FOUR_KNOWN))
  return histogram_kl(samples[:, 1], functools.partial(
      cdf, FOUR, MASK, np.array([FOUR_KNOWN, 0.0]), 1))


@pytest.mark.parametrize("name", [
    slow("replacement"), "repaint-11", slow("langevin-10"), "lanpaint-10", slow("lanpaint-20")])
def test_separated_modes(name):
  """KL to the oracle at 20 levels, ρ 20 → .05; its standard error at n = 4,000 is below .02."""
  *_, published, here = FOUR_KL[name]
  found = four_kl(4000, name)
  np.testing.assert_allclose(found, here, atol=0.06)
  np.testing.assert_allclose(found, published, rtol=0.27)


CORNERS = equal(np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.8, 0.7)
MASKS = np.array([[True, False, False], [False, True, False], [True, True, False]])
VALUES = np.array([[0.5, 0, 0], [0, -0.3, 0], [-0.6, 0.4, 0]])


def corners(path, n, method):
  """n samples for each of the three masks, from one call; (3, n, 3)."""
  masks, known = (np.repeat(v, n, 0) for v in (MASKS, VALUES))
  samples = np.asarray(inpainting.sample(
      jax.random.key(1), round_denoiser(CORNERS, path), path, known=known, mask=masks,
      method=method, grid=GRID))
  np.testing.assert_array_equal(samples[masks], known.astype(np.float32)[masks])
  return samples.reshape(3, n, 3)


def test_a_batch_of_masks_in_three_dimensions():
  """Four overlapping modes at the corners of a tetrahedron: Kolmogorov–Smirnov to the oracle.

  1,500 draws of the exact law exceed .050 once in a thousand; LanPaint-20 at G = 8 is allowed a
  bias of .03 beside that. Replacement is far outside where two coordinates are known.
  """
  def distances(method):
    samples = corners(paths.vp(), 1500, method)
    return [stats.kstest(
        samples[i, :, axis], functools.partial(cdf, CORNERS, mask, value, axis)).statistic
            for i, (mask, value) in enumerate(zip(MASKS, VALUES, strict=True))
            for axis in np.flatnonzero(~mask)]

  assert max(distances(inpainting.lanpaint(20))) < 0.08
  assert max(distances(inpainting.replacement())) > 0.12


# Calls, levels, keys.


def white(x, ell):
  return predictions.unit_frame(ell).alpha * x


@pytest.mark.parametrize(("method", "each"), [
    (inpainting.lanpaint(3), 4), (inpainting.langevin(5), 6), (inpainting.repaint(4), 4),
    (inpainting.replacement(), 1), (inpainting.ddnm(), 1)])
def test_calls_of_the_model(method, each):
  full = jnp.zeros((2, 2)), jnp.broadcast_to(jnp.asarray(MASK), (2, 2))
  assert calls_of(method(samplers.ddim(), *full), paths.vp(), 6) == 6 * each


def test_every_level_of_float32_is_finite():
  """From α = 0 to ρ = 1e-6, and unknown entries of `known` are not looked at."""
  path = paths.rectified_flow()
  grid = lambda path: np.concatenate([[np.inf], np.geomspace(1e4, 1e-6, 12), [0.0]])
  for friction in (0.5, 1e3):
    x = inpainting.sample(
        jax.random.key(2), predictions.Denoiser(white, path), path, known=KNOWN, mask=MASK,
        shape=(64, 2), method=inpainting.lanpaint(2, friction=friction), grid=grid)
    assert np.all(np.isfinite(x)) and np.all(x[:, 0] == np.float32(Y_0))
    assert 0.3 < np.std(x[:, 1]) < 1.3


def test_a_sample_has_its_own_key_and_no_path():
  """Whatever batch it rides in; the same along VP and VE, and with other masks in one program."""
  keys = jax.random.split(jax.random.key(3), 4)
  draw = lambda keys, mask, path: inpainting.sample(
      keys, predictions.Denoiser(white, path), path, known=np.zeros(2), mask=mask,
      shape=(len(keys), 2), method=inpainting.lanpaint(2, underdamped=False),
      grid=samplers.karras(5))
  all_four = draw(keys, MASK, paths.vp())
  np.testing.assert_allclose(draw(keys[2:], MASK, paths.vp()), all_four[2:], atol=1e-6)
  np.testing.assert_allclose(draw(keys, MASK, paths.ve()), all_four, atol=1e-6)
  assert np.all(draw(keys, ~MASK, paths.vp())[:, 1] == 0.0)


# Refusals.


CHECKED = np.zeros((3, 2), np.float32), np.array([True, False])


def test_a_known_part_that_fits_is_broadcast():
  """Values where the mask is False are ignored: they may be infinite, or outside the range."""
  check = inpainting.checked
  assert [v.shape for v in check(*CHECKED, (3, 2))] == [(3, 2), (3, 2)]
  check(np.array([0.0, np.inf]), CHECKED[1], (3, 2))
  check(np.array([16.0, 99.0]), CHECKED[1], (3, 2), value_range=(0.0, 16.0))


REFUSED = [
    *((lambda known=known, mask=mask: inpainting.checked(
        known, mask, (3, 2), value_range=(0.0, 16.0)), match) for known, mask, match in (
            (CHECKED[0], np.array([True, False, False]), "mask must have the shape"),
            (CHECKED[0][:2], CHECKED[1], "known must have the shape"),
            (CHECKED[0][None], CHECKED[1], "known must have the shape"),
            (CHECKED[0], CHECKED[1].astype(int), "mask must be boolean"),
            (CHECKED[0], np.ones(2, bool), "nothing unknown"),
            (CHECKED[0], np.zeros(2, bool), "nothing is known"),
            (np.array([np.nan, 0.0]), CHECKED[1], "finite where mask is True"),
            (np.array([np.inf, 0.0]), CHECKED[1], "finite where mask is True"),
            (np.array([16.5, 0.0]), CHECKED[1], r"range \[0, 16\]"))),
    (lambda: inpainting.lanpaint(0), "inner_steps"),
    (lambda: inpainting.langevin(0), "inner_steps"),
    (lambda: inpainting.lanpaint(5, -1.0), "guidance"),
    (lambda: inpainting.lanpaint(5, float("nan")), "guidance"),
    (lambda: inpainting.lanpaint(step_size=0.0), "step_size"),
    (lambda: inpainting.lanpaint(friction=0.0), "friction"),
    (lambda: inpainting.sample(jax.random.key(0), lambda x, t: x, paths.vp(), known=np.ones(2),
                               mask=np.array([True, False]), method=inpainting.lanpaint),
     r"inpainting\.lanpaint\(\) \(called\)"),
    (lambda: inpainting.repaint(0), "resamples"),
    (lambda: inpainting.lanpaint()("heun", np.ones(2), np.array([True, False])), "sampling method"),
    (lambda: inpainting.repaint()(samplers.heun, np.ones(2), np.array([True, False])),
     "sampling method"),
    (lambda: inpainting.ddnm()(samplers.ddim(), np.ones(2), np.ones(2)), "mask must be booleans")]


def test_what_does_not_fit_is_refused():
  for call, match in REFUSED:
    with pytest.raises(ValueError, match=match):
      call()
