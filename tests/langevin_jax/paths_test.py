"""Paths: ℓ ↔ t, derived against closed forms, conversion, exact noising, a user's own path."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCHED, FEW_PATHS, NAMED_PATHS, PATHS, along_paths, line

from langevin_jax import paths, predictions, samplers, splitting

DTYPES = (np.float32, np.float64)


def inner_times(path, n=61, margin=1e-3):
  return path.t_min + (path.t_max - path.t_min) * np.linspace(margin, 1.0 - margin, n)


@functools.cache
def ends(name):
  return paths.on_host(BATCHED[name].half_log_snr, np.array([PATHS[name].t_max, PATHS[name].t_min]))


def shared_levels(*names, low=-10.0, high=10.0, n=61, margin=0.05):
  """n levels ℓ that all the paths reach, a margin from their ends."""
  return np.linspace(max(low, *(ends(name)[0] + margin for name in names)),
                     min(high, *(ends(name)[1] - margin for name in names)), n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_log_snr_and_time_invert_each_other(dtype):
  """Both ways, to the rounding of what lies in between.

  A time near 1 of a path that ends there cannot carry a large −ℓ: |ℓ̇| ulp(t) is the least error of
  any implementation, and likewise |dt/dℓ| ulp(ℓ) on the way back.
  """
  def both_ways(path, t, ell):
    level = lambda t: jax.jvp(path.half_log_snr, (t,), (jnp.ones_like(t),))
    # Behind a barrier, or log(exp(x)) would be simplified.
    (ell_t, slope), t_ell = level(t), jax.lax.optimization_barrier(path.time(ell))
    return path.time(jax.lax.optimization_barrier(ell_t)), ell_t, slope, t_ell, *level(t_ell)

  with jax.enable_x64(dtype == np.float64):
    given = {name: (inner_times(path).astype(dtype), shared_levels(name).astype(dtype))
             for name, path in PATHS.items()}
    found = along_paths(both_ways, **given)
  # XLA's log1p is good to 90 units in float64, everything else to a few.
  unit = {np.float32: 8.0, np.float64: 100.0}[dtype] * np.finfo(dtype).eps
  for name, (t, ell) in given.items():
    back, ell_t, slope, t_ell, ell_back, slope_back = found[name]
    assert ell_t.dtype == t_ell.dtype == dtype
    assert np.all(np.abs(back - t) <= unit * (
        np.abs(t) + (1 + np.abs(ell_t)) / np.abs(slope))), name
    assert np.all(np.abs(ell_back - ell) <= unit * (
        1 + np.abs(ell) + np.abs(slope_back * t_ell))), name


@pytest.mark.parametrize("name", PATHS)
def test_ends(name):
  """Infinite ℓ are times like others, and (α, σ) there is pure data and pure noise."""
  path = PATHS[name]
  clean, noisy = path.time(jnp.inf), path.time(-jnp.inf)
  if name == "geometric_ve":
    # σ = σ_min at t = 0: the clean end lies at t = −∞.
    assert clean == -np.inf
  else:
    assert clean == path.t_min
  assert (path.alpha(clean), path.sigma(clean)) == (1.0, 0.0)
  assert path.half_log_snr(clean) == np.inf
  if name in ("cosine", "rectified_flow"):
    assert noisy == path.t_max == 1.0
    assert (path.alpha(noisy), path.sigma(noisy)) == (0.0, 1.0)
    assert path.half_log_snr(noisy) == -np.inf
  elif name.startswith("own"):
    assert noisy == path.t_max
  else:
    # Their closed forms go on past t_max.
    assert noisy == np.inf


def test_closed_forms_are_the_derived_ones(x64):
  """ℓ, its inverse, dt/dℓ, f and g follow from α and σ alone."""
  def both(path, t, ell):
    derived = paths.from_coefficients(path.alpha, path.sigma, t_min=path.t_min, t_max=path.t_max)
    numbers = lambda path: (path.half_log_snr(t), path.drift(t), path.diffusion(t),
                            *jax.jvp(path.time, (ell,), (jnp.ones_like(ell),)))
    return numbers(path), numbers(derived)

  times = {name: inner_times(path) for name, path in NAMED_PATHS.items()}
  found = along_paths(both, **{
      name: (t, paths.on_host(BATCHED[name].half_log_snr, t)) for name, t in times.items()})
  for name, (own, derived) in found.items():
    for a, b in zip(own, derived, strict=True):
      # float64 rounding through |ℓ̇| ≤ 1e3 at the margins.
      np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12, err_msg=name)


def test_diffusion_is_the_speed_of_half_log_snr(x64):
  """g² = 2σ²|ℓ̇|, α̇ = f α, and σσ̇ = fσ² + g²/2, ℓ̇ and α̇ by autodiff."""
  def numbers(path, t):
    slope, rate = (jax.jvp(h, (t,), (jnp.ones_like(t),))[1]
                   for h in (path.half_log_snr, path.alpha))
    return slope, rate, *(function(t) for function in (
        path.alpha, path.sigma, path.drift, path.diffusion, path.alpha_dot, path.sigma_dot))

  found = along_paths(numbers, **{name: (inner_times(path),) for name, path in PATHS.items()})
  for name, (slope, rate, alpha, sigma, f, g, alpha_dot, sigma_dot) in found.items():
    # from_sde's integrals are polynomials of degree 15, differentiated here: 1e-9.
    close = functools.partial(np.testing.assert_allclose, rtol=2e-9, atol=1e-9, err_msg=name)
    close(-2.0 * sigma**2 * slope, g**2)
    close(alpha_dot, f * alpha)
    close(rate, f * alpha)
    close(sigma_dot * sigma, f * sigma**2 + 0.5 * g**2)


SDES = {
    "vp": (lambda t: -0.5, lambda t: 1.0, 0.0, 10.0,
           lambda t: (np.exp(-t / 2), np.sqrt(-np.expm1(-t)))),
    "linear_vp": (lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: jnp.sqrt(0.1 + 19.9 * t), 0.0, 1.0,
                  lambda t: (np.exp(-0.5 * (0.1 * t + 9.95 * t**2)),
                             np.sqrt(-np.expm1(-(0.1 * t + 9.95 * t**2))))),
    # dz = dW in the time σ²: VE again.
    "ve": (lambda t: 0.0, lambda t: 1.5, 0.0, 4.0,
           lambda t: (np.ones_like(t), 1.5 * np.sqrt(t))),
    "ornstein_uhlenbeck": (
        lambda t: -0.7, lambda t: 1.3, -1.0, 3.0, lambda t: (
            np.exp(-0.7 * (t + 1.0)), 1.3 * np.sqrt(-np.expm1(-1.4 * (t + 1.0)) / 1.4)))}


@pytest.mark.parametrize("name", SDES)
def test_an_sde_reproduces_the_closed_form(name):
  drift, diffusion, t_min, t_max, closed = SDES[name]
  path = paths.from_sde(drift, diffusion, t_min=t_min, t_max=t_max)
  # α multiplies the rounding of log α ≥ −10 in float32.
  for dtype, tolerance in ((np.float32, 3e-6), (np.float64, 1e-12)):
    with jax.enable_x64(dtype == np.float64):
      t = inner_times(path).astype(dtype)
      own = jax.jit(jax.vmap(lambda t: (path.alpha(t), path.sigma(t), path.half_log_snr(t))))(t)
    alpha, sigma = closed(t.astype(np.float64))
    np.testing.assert_allclose(own[0], alpha, rtol=tolerance)
    np.testing.assert_allclose(own[1], sigma, rtol=tolerance)
    np.testing.assert_allclose(own[2], np.log(alpha / sigma), rtol=0, atol=3 * tolerance)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_conversion_round_trips_to_every_path(dtype):
  """There and back up to ρ = 12: ≤ 2e-6 of the state in float32, 1e-13 in float64.

  Beyond, the least error is that of a time near 1, as in the test of ℓ ↔ t: a VE state's scale is
  ρ itself, and flow time 1 − 2e-4 holds ρ = 5000 to only 3e-4.
  """
  unit = {np.float32: 16.0, np.float64: 100.0}[dtype] * np.finfo(dtype).eps
  with jax.enable_x64(dtype == np.float64):
    for given, other in itertools.product(BATCHED, BATCHED):
      path_a, path_b = BATCHED[given], BATCHED[other]
      ells = shared_levels(given, other, low=-2.5, high=6.0)
      t = jnp.asarray(paths.on_host(path_a.time, ells), dtype)
      x = jnp.full_like(t, 1.37)
      x_b, t_b = paths.convert(x, t, path_a, path_b)
      x_a, t_a = paths.convert(x_b, t_b, path_b, path_a)
      assert x_b.dtype == t_b.dtype == dtype
      ratio = path_b.alpha(t_b) / path_a.alpha(t)
      assert np.max(np.abs(x_b / (ratio * x) - 1.0)) <= 13 * unit, (given, other)
      assert np.max(np.abs(x_a / x - 1.0)) <= 1.05 * unit, (given, other)
      # Levels agree up to ulp(t) times ℓ's speed in log t, at most 13 (1 − s = .076) at ρ = 12.
      level_b = path_b.half_log_snr(t_b)
      assert np.max(np.abs(level_b - path_a.half_log_snr(t))) <= 13 * unit, (given, other)
      assert np.max(np.abs(t_a - t) / (np.abs(t) + 0.1)) <= 13 * unit, (given, other)


def test_conversion_at_the_ends():
  """Rectified flow's s = 1 and s = 0 are states of the cosine path, and of a far VE time."""
  flow, cosine, ve = (PATHS[n] for n in ("rectified_flow", "cosine", "ve"))
  for t in (0.0, 1.0):
    assert [float(v) for v in paths.convert(jnp.float32(1.5), t, flow, cosine)] == [1.5, t]
  assert [float(v) for v in paths.convert(jnp.float32(1.5), 0.0, flow, ve)] == [1.5, 0.0]
  # A path that stops short answers with its own end.
  short = PATHS["own_sde"]
  x_b, t_b = paths.convert(jnp.float32(1.5), 1.0, flow, short)
  assert t_b == short.t_max and np.isfinite(x_b)


def kernel(path, s, t):
  """Mean coefficient and noise standard deviation of `paths.transition`, one draw apart."""
  key = jax.random.key(0)
  draw = lambda x: paths.transition(key, jnp.asarray([x]), s, t, path)[0]
  return draw(1.0) - draw(0.0), draw(0.0) / jax.random.normal(key, (1,))[0]


def test_transitions_compose(x64):
  """s → t → u has the law of s → u, and from the clean end the law of `corrupt` (Table 1)."""
  def laws(path, s, t, u):
    from_clean = kernel(path, path.t_min, u)
    return [kernel(path, *pair) for pair in ((s, t), (t, u), (s, u))], from_clean, (
        path.alpha(u), path.sigma(u))

  parts = np.array([[0.01, 0.1, 0.5], [0.1, 0.3, 0.55], [0.3, 0.31, 0.9]])
  found = along_paths(laws, **{name: tuple(
      PATHS[name].t_min + (PATHS[name].t_max - PATHS[name].t_min) * parts) for name in FEW_PATHS})
  for first_two_and_both, clean, exact in found.values():
    first, second, both = first_two_and_both
    np.testing.assert_allclose(second[0] * first[0], both[0], rtol=1e-12)
    np.testing.assert_allclose(
        (second[0] * first[1]) ** 2 + second[1] ** 2, both[1] ** 2, rtol=1e-10)
    np.testing.assert_allclose(clean, exact, rtol=1e-12)


@pytest.mark.parametrize("name", ["rectified_flow", "own_sde"])
def test_simulated_trajectories_have_the_exact_law(name):
  """Means α x₀, and E over pairs of times cov = (α_t/α_s) σ_s² (s ≤ t), whatever the step."""
  path, n = PATHS[name], 40_000
  times = path.t_min + (path.t_max - path.t_min) * jnp.asarray([0.02, 0.3, 0.35, 1.0])
  x_0 = jnp.asarray([0.8])
  keys = jax.random.split(jax.random.key(3), n)
  states = jax.jit(jax.vmap(lambda k: paths.simulate(k, x_0, times, path)))(keys)
  assert states.shape == (n, 4, 1)
  states = np.asarray(states[..., 0], np.float64)
  alpha, sigma = (np.asarray(jax.vmap(h)(times), np.float64) for h in (path.alpha, path.sigma))
  # Five standard errors of each moment.
  np.testing.assert_array_less(
      np.abs(states.mean(0) - 0.8 * alpha), 5.0 * sigma / np.sqrt(n))
  earlier = np.minimum(*np.indices((4, 4)))
  later = np.maximum(*np.indices((4, 4)))
  ratio = np.divide(alpha[later], alpha[earlier], where=later > earlier, out=np.ones((4, 4)))
  cov = ratio * sigma[earlier] ** 2
  spread = np.sqrt((np.outer(sigma, sigma) ** 2 + cov**2) / n)
  np.testing.assert_array_less(np.abs(np.cov(states.T) - cov), 5.0 * spread)


@pytest.mark.parametrize("name", ["own_coefficients", "own_sde"])
def test_a_path_of_your_own_works_everywhere(name):
  """Two functions are enough for conversion, the split, the exact denoiser and the sampler."""
  path, ve = PATHS[name], paths.ve()
  x, t = jnp.asarray([0.4]), 0.6
  z, sigma = paths.convert(x, t, path, ve)
  denoise = lambda path, x, t: predictions.Denoiser(line, path)(x, t)
  denoised = denoise(path, x, t)
  np.testing.assert_allclose(denoised, denoise(ve, z, sigma), rtol=2e-6)
  score = (path.alpha(t) * denoised - x) / path.sigma(t) ** 2
  parts = splitting.split(path, 0.5)
  np.testing.assert_allclose(
      parts.forward.drift(x, t, score) + parts.reverse.drift(x, t, score),
      parts.langevin.drift(x, t, score), rtol=1e-5)
  # The same noise gives the same samples as along VE, from a level that both paths reach.
  grid = samplers.karras(12, rho_max=8.0)
  draw = lambda path, model: samplers.sample(
      jax.random.key(1), model, path, shape=(64, 1), method=samplers.ddim(1.0), grid=grid)
  np.testing.assert_allclose(draw(path, functools.partial(denoise, path)),
                             draw(ve, predictions.Denoiser(line, ve)), atol=2e-5)


BETAS = np.linspace(1e-4, 0.02, 200)
TIMES = np.arange(200.0)
ALPHA = np.sqrt(np.cumprod(1.0 - BETAS))
TWICE = np.array(2.0)


def schedule(t):
  return jnp.interp(t, TIMES, ALPHA)


@pytest.mark.parametrize(("alpha", "before"), [
    (schedule, False), (schedule, True), (jax.jit(schedule), False),
    (lambda t: TWICE - 0.004 * t, False), (lambda t: jnp.ones((), t.dtype), False),
    (lambda t: 1, True)], ids=["first", "second", "jit", "scalar", "dtype", "number"])
def test_a_table_of_numpy_may_be_a_path(alpha, before):
  """On the host and in the program, in whatever order: JAX remembers an array in one precision."""
  sigma = lambda t: (1.0 + t) * TWICE
  if before:
    jax.jit(alpha)(jnp.float32(3.0))
  path = paths.from_coefficients(
      alpha, sigma, t_min=0.0, t_max=199.0, time=lambda ell: jnp.exp(-ell))
  # A function that lives on keeps alive what JAX remembers.
  level = jax.vmap(path.half_log_snr)
  t = np.array([0.0, 17.25, 199.0])
  first = paths.on_host(level, t)
  assert first.dtype == np.float64
  ours = jax.jit(level)(jnp.asarray(t, jnp.float32))
  assert ours.dtype == jnp.float32
  np.testing.assert_allclose(ours, first, atol=2e-6)
  np.testing.assert_array_equal(paths.on_host(level, t), first)
  assert path.alpha(3).dtype == path.alpha_dot(3).dtype == path.alpha(3.0).dtype == jnp.float32


def test_the_host_is_in_float64_where_it_can_be():
  """Formulas and the library's own tables; what closes over NumPy arrays has the program's digits.
  """
  sde = paths.from_sde(lambda t: -0.5, lambda t: 1.0, t_min=0.0, t_max=9.0, panels=16)
  table = paths.from_table(TIMES, betas=BETAS)
  for path, t, expected in (
      (sde, 1.7, np.log(1.0 / np.expm1(1.7)) / 2), (PATHS["own_coefficients"], 1.7,
                                                    -1.7 - 1.5 * np.log(1.7)),
      (table, 7.0, np.log(ALPHA[7] / np.sqrt(1.0 - ALPHA[7] ** 2)))):
    np.testing.assert_allclose(paths.on_host(path.half_log_snr, t), expected, rtol=1e-12)
    np.testing.assert_allclose(paths.on_host(path.time, expected), t, rtol=1e-12)
  # A function that runs in float32 alone.
  carry = lambda t: jax.lax.fori_loop(0, 2, lambda i, y: y + jnp.ones(2), jnp.zeros(2))[0] + t
  narrow = lambda t: carry(t) + jax.lax.scan(
      lambda y, _: (y * t, None), jnp.float32(1.0), None, length=2)[0]
  assert paths.on_host(narrow, 3.0) == 14.0


@pytest.mark.parametrize("name", ["ve", "ve_from_0", "linear_vp", "rectified_flow"])
def test_a_path_from_a_table_is_the_path_at_its_times(name, x64):
  """To 1e-12, infinite ends included; between the times t(ℓ) is the inverse."""
  path, times = {
      "ve": (PATHS["ve"], np.geomspace(0.002, 80.0, 50)),
      "ve_from_0": (PATHS["ve"], np.append(0.0, np.geomspace(0.002, 80.0, 50))),
      "linear_vp": (PATHS["linear_vp"], np.linspace(0.0, 1.0, 101)),
      "rectified_flow": (PATHS["rectified_flow"], np.linspace(0.0, 1.0, 33))}[name]
  columns = lambda path, t: jax.jit(jax.vmap(
      lambda t: (path.alpha(t), path.sigma(t), path.half_log_snr(t))))(t)
  alpha, sigma, ell = columns(path, times)
  table = paths.from_table(times, sigma=sigma, **({} if name.startswith("ve") else {
      "alpha": alpha}))
  for ours, theirs in zip(columns(table, times), (alpha, sigma, ell), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
  between = times[:-1] + np.linspace(0.1, 0.9, len(times) - 1) * np.diff(times)

  @jax.jit
  @jax.vmap
  def at(t):
    ell, slope = jax.jvp(table.half_log_snr, (t,), (jnp.ones_like(t),))
    return table.time(ell), table.diffusion(t) ** 2, -2.0 * table.sigma(t) ** 2 * slope

  back, squared, expected = at(between)
  np.testing.assert_allclose(back, between, rtol=1e-12, atol=1e-12)
  np.testing.assert_allclose(squared, expected, rtol=1e-9)
  np.testing.assert_allclose(jax.jit(jax.vmap(table.time))(ell), times, rtol=1e-12, atol=1e-12)


def test_a_table_of_betas_is_ddpm(x64):
  """α² = ∏(1 − β), whatever stands between; rescaled, the last level is pure noise."""
  plain, rescaled, given = (paths.from_table(TIMES, **options) for options in (
      {"betas": BETAS}, {"betas": BETAS, "zero_terminal_snr": True},
      {"betas": np.append(BETAS[:-1], 1.0)}))
  levels = lambda path, t: np.asarray(jax.jit(jax.vmap(
      lambda t: (path.alpha(t), path.sigma(t))))(t))
  np.testing.assert_allclose(levels(plain, TIMES.copy())[0], ALPHA, rtol=1e-12)
  shifted = (ALPHA - ALPHA[-1]) * ALPHA[0] / (ALPHA[0] - ALPHA[-1])
  np.testing.assert_allclose(levels(rescaled, TIMES.copy())[0], shifted, rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(
      np.sum(levels(plain, np.linspace(0.0, 199.0, 77)) ** 2, 0), np.ones(77), rtol=1e-12)
  for path in (rescaled, given):
    assert (path.alpha(199.0), path.sigma(199.0)) == (0.0, 1.0)
    assert path.half_log_snr(199.0) == -np.inf and path.time(-np.inf) == 199.0
  # Beyond its ends a table goes no further.
  assert plain.time(np.inf) == 0.0 and plain.time(-np.inf) == 199.0


def learned(a):
  return paths.from_coefficients(lambda t: jnp.exp(-a * t), lambda t: t**a, t_min=0.0, t_max=3.0)


def test_a_path_may_close_over_traced_values(x64):
  """A learned schedule under jit, vmap and grad: every function of it is differentiated."""
  x = jnp.ones(2)
  clock = lambda a: splitting.split(learned(a), clock=lambda t: a * (50.0 + t))

  def values(a):
    path = learned(a)
    table = splitting.split(path, lambda ell: a * jnp.exp(-(ell**2)))
    return jnp.stack([
        path.time(0.3), path.half_log_snr(0.4), path.drift(0.5), path.diffusion(0.5),
        table.reverse.diffusion(0.5), clock(a).langevin.diffusion(0.5),
        paths.transition(jax.random.key(0), x, 0.2, 0.5, path)[0]])

  h = 1e-5
  more, less, twice = jax.jit(jax.vmap(values))(jnp.array([1.2 + h, 1.2 - h, 1.2]))
  given, gradient = jax.jit(lambda a: (values(a), jax.jacrev(values)(a)))(1.2)
  np.testing.assert_allclose(given, twice, rtol=1e-12)
  level = 1.2 * given[0] + 1.2 * np.log(given[0])  # −ℓ at t(ℓ)
  np.testing.assert_allclose(level, -0.3, rtol=1e-9)
  np.testing.assert_allclose(gradient, (more - less) / (2.0 * h), rtol=1e-8)
  with pytest.raises(ValueError, match="from_coefficients"):
    jax.jit(lambda a: paths.from_sde(lambda t: a * t, lambda t: a, t_min=0.0, t_max=1.0).alpha(a))(
        1.0)


def test_an_sde_beyond_the_range_of_float32():
  """σ²/α² = e^{500} − 1: ℓ and σ are finite numbers all the same."""
  path = paths.from_sde(lambda t: -250.0, lambda t: 1.0, t_min=0.0, t_max=1.0)
  t = np.array([0.001, 0.1, 0.3, 0.6, 1.0])
  ours = jax.jit(jax.vmap(lambda t: (path.half_log_snr(t), path.sigma(t), path.time(
      path.half_log_snr(t)))))(jnp.asarray(t, jnp.float32))
  ell = -0.5 * (500.0 * t + np.log(-np.expm1(-500.0 * t)) - np.log(500.0))
  np.testing.assert_allclose(ours[0], ell, rtol=3e-6)
  # The rounding of a large ℓ.
  np.testing.assert_allclose(ours[1], np.sqrt(-np.expm1(-500.0 * t) / 500.0), rtol=1e-4)
  np.testing.assert_allclose(ours[2], t, rtol=1e-5)


def test_a_simulated_path_that_begins_with_noise_has_it():
  """geometric_ve(σ_min = .5): the states' variance is σ(t)², not σ(t)² − σ_min²."""
  path, times = paths.geometric_ve(sigma_min=0.5, sigma_max=2.0), jnp.array([0.1, 0.6, 1.0])
  states = jax.jit(jax.vmap(lambda key: paths.simulate(key, jnp.zeros(1), times, path)))(
      jax.random.split(jax.random.key(0), 20_000))[..., 0]
  var = np.asarray(jax.vmap(path.sigma)(times)) ** 2
  np.testing.assert_array_less(
      np.abs(np.asarray(states).var(0) - var), 5.0 * var * np.sqrt(2.0 / 20_000))


def test_factories_are_memoised():
  """Equal arguments give one object, so that compiled code is reused."""
  assert paths.linear_vp(beta_max=10.0) is paths.linear_vp(beta_max=10.0)
  assert paths.rectified_flow() is paths.rectified_flow()


def test_a_path_can_be_made_while_tracing():
  """Its tables are made on the host at once, not traced."""
  @jax.jit
  def sigma(t):
    path = paths.from_sde(lambda t: -0.5, lambda t: 1.0, t_min=0.0, t_max=3.0, panels=16)
    return path.sigma(path.time(path.half_log_snr(t)))

  np.testing.assert_allclose(sigma(0.7), np.sqrt(-np.expm1(-0.7)), rtol=1e-6)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: paths.from_coefficients(lambda t: 1.0, lambda t: t, t_min=1.0, t_max=1.0), "t_min"),
    (lambda: paths.from_coefficients(
        lambda t: jnp.ones_like(t), lambda t: jnp.sin(t), t_min=0.0, t_max=3.0), "fall"),
    (lambda: paths.from_coefficients(
        lambda t: jnp.ones_like(t), lambda t: 1.0 - t, t_min=0.0, t_max=0.9), "fall"),
    (lambda: paths.from_coefficients(
        lambda t: jnp.nan * t, lambda t: t, t_min=0.0, t_max=0.9), "fall"),
    (lambda: paths.from_sde(lambda t: 0.0, lambda t: 1.0, t_min=2.0, t_max=1.0), "t_min"),
    (lambda: paths.from_sde(
        lambda t: jnp.log(0.5 - t), lambda t: 1.0, t_min=0.0, t_max=1.0), r"f\(t\) must be finite"),
    (lambda: paths.from_sde(
        lambda t: 0.0, lambda t: jnp.sqrt(t - 0.5), t_min=0.0, t_max=1.0), r"g\(t\) must be"),
    (lambda: paths.from_sde(
        lambda t: jnp.sign(t - 0.43), lambda t: 1.0, t_min=0.0, t_max=1.0), "not smooth"),
    (lambda: paths.from_sde(lambda t: -1.0, lambda t: 0.0, t_min=0.0, t_max=1.0), "fall"),
    (lambda: paths.vp(t_max=0.0), "t_max"),
    (lambda: paths.ve(sigma_max=-1.0), "t_max"),
    (lambda: paths.linear_vp(beta_min=0.0), "beta_min"),
    (lambda: paths.linear_vp(beta_min=2.0, beta_max=1.0), "beta_min"),
    (lambda: paths.sub_vp(beta_min=-0.1), "beta_min"),
    (lambda: paths.geometric_ve(sigma_min=0.0), "sigma_min"),
    (lambda: paths.geometric_ve(sigma_min=2.0, sigma_max=1.0), "sigma_min"),
    (lambda: paths.from_table([1.0, 0.0], betas=[0.1, 0.2]), "times"),
    (lambda: paths.from_table([0.0, 1.0], betas=[0.1, 0.2, 0.3]), "betas must have shape"),
    (lambda: paths.from_table([0.0, 1.0], betas=[0.1, -0.2]), "betas must lie"),
    (lambda: paths.from_table([0.0, 1.0]), "either betas"),
    (lambda: paths.from_table([0.0, 1.0], betas=[0.1, 0.2], sigma=[1.0, 2.0]), "either betas"),
    (lambda: paths.from_table([0.0, 1.0], sigma=[1.0, 2.0], zero_terminal_snr=True), "needs betas"),
    (lambda: paths.from_table([0.0, 1.0], sigma=[2.0, 1.0]), "fall strictly"),
    (lambda: paths.from_table([0.0, 1.0], sigma=[0.0, 1.0], alpha=[1.0, 0.0]), "fall strictly"),
    (lambda: paths.from_table([0.0, 1.0], sigma=[1.0, np.nan]), "finite"),
    (lambda: paths.corrupt(1.0, 0.0, 0.5, paths.vp), r"paths.vp\(\).*call it"),
    (lambda: paths.convert(1.0, 0.5, paths.vp(), "ve"), "must be a Path.*'ve'"),
    (lambda: paths.simulate(jax.random.key(0), jnp.ones(1), jnp.ones(1), None), "must be a Path"),
    (lambda: splitting.split(paths.ve), "call it"),
    (lambda: splitting.split(paths.vp(), "1.0"), "must be a number or a function"),
    *((lambda alpha=alpha, sigma=sigma: paths.from_coefficients(
        alpha, sigma, t_min=0.0, t_max=1.5), message)
      for alpha, sigma, message in (
          (np.cos, np.sin, "alpha must be written with jax.numpy"),
          (math.cos, jnp.sin, "alpha must be written with jax.numpy"),
          (jnp.cos, math.sin, "sigma must be written with jax.numpy"),
          (1.0, jnp.sin, "alpha must be a function, got 1.0"))),
    (lambda: jax.jit(paths.from_coefficients(
        jnp.cos, jnp.sin, t_min=0.0, t_max=1.5, drift=np.tan).drift)(1.0),
     "drift must be written with jax.numpy"),
    (lambda: paths.from_sde(math.cos, lambda t: 1.0, t_min=0.0, t_max=1.0),
     "f must be written with jax.numpy"),
    (lambda: splitting.split(paths.vp(), clock=np.cos), "clock must be written with jax.numpy"),
    (lambda: splitting.split(paths.vp(), np.cos), "stochasticity must be written with jax.numpy"),
    *((lambda make=make: make("1"), "must be a number, got '1'") for make in (
        lambda v: paths.vp(t_max=v), lambda v: paths.ve(sigma_max=v),
        lambda v: paths.linear_vp(beta_max=v), lambda v: paths.geometric_ve(sigma_min=v))),
], ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.filterwarnings("ignore:invalid value")  # ∞ − ∞ of g = 0 on the way to its error
def test_bad_input_is_a_value_error(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make()
  assert "\n" not in str(error.value)


ENDS = {
    "vp": lambda v: paths.vp(t_max=v), "ve": lambda v: paths.ve(sigma_max=v),
    "t_min": lambda v: paths.from_coefficients(jnp.ones_like, jnp.exp, t_min=v, t_max=3.0),
    "t_max": lambda v: paths.from_coefficients(jnp.ones_like, jnp.exp, t_min=0.0, t_max=v),
    "from_sde": lambda v: paths.from_sde(
        lambda t: -0.5, lambda t: 1.0, t_min=0.0, t_max=v, panels=16),
}
LEARNED = {
    "linear_vp min": lambda v: paths.linear_vp(beta_min=v),
    "linear_vp max": lambda v: paths.linear_vp(beta_max=v),
    "sub_vp": lambda v: paths.sub_vp(beta_max=v),
    "geometric_ve min": lambda v: paths.geometric_ve(sigma_min=v),
    "geometric_ve max": lambda v: paths.geometric_ve(sigma_max=v),
}


@pytest.mark.parametrize("name", [*ENDS, *LEARNED])
def test_a_known_number_of_a_path_is_read_on_the_host(name):
  """An array is its number, also inside jit; a traced one is learned, or refused by name."""
  make = {**ENDS, **LEARNED}[name]

  def values(v):
    path = make(v)
    return path.half_log_snr(0.5), path.sigma(0.5), path.t_min, path.t_max

  expected, value = values(2.0), jnp.asarray(2.0)
  for v in (value, np.asarray(2.0)):
    np.testing.assert_array_equal(values(v), expected)
    np.testing.assert_allclose(jax.jit(lambda v=v: values(v))(), expected, rtol=1e-6)
  # Where it is known the path is, so that a grid in its time has levels.
  jax.eval_shape(lambda: jnp.asarray(samplers.uniform_time(3)(make(value))))
  if name in LEARNED:
    np.testing.assert_allclose(jax.jit(values)(2.0), expected, rtol=1e-5)
  else:
    with pytest.raises(ValueError, match="must be a number, not traced"):
      jax.eval_shape(values, value)


def test_a_table_must_be_known():
  sigma, times = jnp.linspace(0.0, 1.0, 4), np.arange(4.0)
  jax.eval_shape(lambda: paths.from_table(times, sigma=sigma).sigma(0.5))
  with pytest.raises(ValueError, match="sigma must not be traced"):
    jax.eval_shape(lambda sigma: paths.from_table(times, sigma=sigma).sigma(0.5), sigma)


@pytest.mark.parametrize(("make", "name", "value"), [
    (paths.linear_vp, "beta_max", 20.0), (paths.sub_vp, "beta_min", 0.1),
    (paths.geometric_ve, "sigma_min", 0.01)])
def test_numbers_of_named_paths_may_be_learned(x64, make, name, value):
  """dℓ/dθ at fixed t, and of the ℓ that t(ℓ) inverts: that of a difference quotient."""
  ell = lambda theta: make(**{name: theta}).half_log_snr(0.3)
  back = lambda theta: (path := make(**{name: theta})).half_log_snr(path.time(jnp.asarray(0.4)))
  h = 1e-5 * value
  numeric = (ell(value + h) - ell(value - h)) / (2.0 * h)
  np.testing.assert_allclose(jax.jit(jax.grad(ell))(value), numeric, rtol=1e-6)
  np.testing.assert_allclose(jax.grad(back)(value), 0.0, atol=1e-9)
