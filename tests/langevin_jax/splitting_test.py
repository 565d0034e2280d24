"""Langevin = forward + reverse: as SDEs with the right densities, as finite steps that compose."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PATHS

from langevin_jax import mixtures, paths, splitting

ETAS = {"0": 0.0, "1": 1.0, "2": 2.0, "callable": lambda ell: 1.0 + jnp.tanh(ell)}
# The split takes a path's functions, which paths_test.py checks for all paths.
FEW = ("ve", "linear_vp", "rectified_flow", "own_sde")
ALL = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in PATHS]


def levels(path, n=5):
  """Times of n noise levels, ρ from .15 to 5 where the path has them, in float64."""
  ends = paths.on_host(jax.vmap(path.half_log_snr), np.array([path.t_max, path.t_min]))
  ells = np.linspace(max(ends[0] + 0.1, -np.log(5.0)), min(ends[1] - 0.1, -np.log(0.15)), n)
  return paths.on_host(jax.vmap(path.time), ells)


# The split in continuous time


def mixture():
  return mixtures.Mixture(
      jnp.asarray([0.3, 0.5, 0.2]), jnp.asarray([[-1.2, 0.4], [0.6, 0.8], [0.9, -1.1]]),
      jnp.asarray([[[0.20, 0.08], [0.08, 0.15]], [[0.1, -0.03], [-0.03, 0.3]],
                   [[0.25, 0.0], [0.0, 0.12]]]))


@jax.jit
def densities(x, alpha, sigma, alpha_dot, sigma_dot):
  """s, ∇s and ∂ₜ log pₜ of the mixture at one state, all by autodiff of its log-density."""
  log_prob = mixture().log_prob
  score, hessian = jax.grad(log_prob), jax.hessian(log_prob)
  rate = jax.jvp(lambda a, s: log_prob(x, a, s), (alpha, sigma), (alpha_dot, sigma_dot))[1]
  return score(x, alpha, sigma), hessian(x, alpha, sigma), rate


@functools.cache
def density_table(name):
  """`densities` at five levels × four states near the mass, in float64 numpy."""
  path = PATHS[name]
  with jax.enable_x64(True):
    t = np.repeat(levels(path), 4)
    draws = np.random.default_rng(5).standard_normal((2, len(t), 2))

    def coefficients(t):
      # The derivatives of α and σ themselves, not those that the path states.
      one = jnp.ones_like(t)
      return (*jax.jvp(path.alpha, (t,), (one,)), *jax.jvp(path.sigma, (t,), (one,)))

    alpha, alpha_dot, sigma, sigma_dot = jax.vmap(coefficients)(t)
    x = np.asarray(alpha)[:, None] * draws[0] + np.asarray(sigma)[:, None] * draws[1]
    table = jax.vmap(densities)(x, alpha, sigma, alpha_dot, sigma_dot)
  return t, x, *(np.asarray(v) for v in table)


def divergences(sde, t, x, score, hessian):
  """∇·drift, drift and noise of an SDE at n states.

  The drift is differentiated in x along the score's own derivative, which it takes as a value.
  """
  def one(t, x, score, hessian):
    columns = jax.vmap(lambda e, h: jax.jvp(
        lambda x, s: sde.drift(x, t, s), (x, score), (e, h))[1])(jnp.eye(2), hessian)
    return jnp.trace(columns), sde.drift(x, t, score), sde.diffusion(t)

  return jax.vmap(one)(t, x, score, hessian)


@functools.cache
def processes(name):
  """By η: `divergences` of the three processes at `density_table`'s states, and η; and g²."""
  def all_of(table):
    return {key: ([divergences(part, *table) for part in splitting.split(path, eta)], jax.vmap(
        lambda t, eta=eta: jnp.asarray(eta(path.half_log_snr(t)) if callable(eta) else eta))(
            table[0])) for key, eta in ETAS.items()}, jax.vmap(path.diffusion)(table[0]) ** 2

  path = PATHS[name]
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, jax.jit(all_of)(density_table(name)[:4]))


def fokker_planck(part, score, hessian):
  """[−∇·(drift p) + ½ noise² ∇²p]/p of a process, and the size of its terms."""
  div, drift, noise = part
  laplacian = np.trace(hessian, axis1=1, axis2=2) + np.sum(score**2, 1)
  transport = np.sum(drift * score, 1)
  size = np.abs(div) + np.abs(transport) + 0.5 * noise**2 * (
      np.sum(np.abs(hessian), (1, 2)) + np.sum(score**2, 1))
  return -div - transport + 0.5 * noise**2 * laplacian, size


@pytest.mark.parametrize("name", ALL)
def test_the_split_moves_the_density_and_adds_up(name):
  """Forward moves pₜ by dt, reverse in its own clock by −dt, Langevin not at all: ≤ 1e-8.

  Each process alone must move the density of the exact mixture as claimed:
  ∂p/∂τ = −∇·(drift p) + ½ noise² ∇²p with ∂p/∂τ = ±∂p/∂t or 0, divided by p. Drifts add up, noise
  variances add up, and H = (1 + η²)/2 g².
  """
  _, _, score, hessian, rate = density_table(name)
  by_eta, g_squared = processes(name)
  for parts, eta in by_eta.values():
    for part, direction in zip(parts, (0.0, 1.0, -1.0), strict=True):
      moved, size = fokker_planck(part, score, hessian)
      residual = np.abs(moved - direction * rate) / (size + np.abs(rate))
      assert np.max(residual) <= 1e-8
    (_, langevin, noise), (_, forward, noise_f), (_, reverse, noise_r) = parts
    np.testing.assert_allclose(forward + reverse, langevin, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(noise_f**2 + noise_r**2, noise**2, rtol=1e-12)
    np.testing.assert_allclose(noise**2, (1 + eta**2) * g_squared, rtol=1e-12)
    np.testing.assert_allclose(noise_r**2, eta**2 * g_squared, rtol=1e-12, atol=1e-12)


def test_the_residual_can_fail():
  """A noise 1 % too large shows."""
  _, _, score, hessian, rate = density_table("rectified_flow")
  div, drift, noise = processes("rectified_flow")[0]["1"][0][2]
  moved, size = fokker_planck((div, drift, 1.01 * noise), score, hessian)
  assert np.max(np.abs(moved + rate) / (size + np.abs(rate))) > 1e-3


@pytest.mark.parametrize("name", ["vp", "own_sde"])
def test_a_clock_says_the_same_as_its_stochasticity(name, x64):
  """H = (1 + η²)/2 g², at η = 0 on the very edge of what is allowed."""
  path = PATHS[name]
  x, score = jnp.asarray([0.4, -1.3]), jnp.asarray([1.1, 0.2])

  def numbers(t):
    both = [(splitting.split(path, eta), splitting.split(
        path, clock=lambda t, eta=eta: 0.5 * (1.0 + eta**2) * path.diffusion(t) ** 2))
            for eta in (0.0, 0.6, 2.0)]
    return [[[(p.drift(x, t, score), p.diffusion(t) ** 2) for p in parts] for parts in pair]
            for pair in both]

  for own, other in jax.jit(jax.vmap(numbers))(levels(path)):
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


def test_stochasticity_may_be_traced():
  path = paths.vp()
  noise = jax.jit(jax.vmap(lambda eta: splitting.split(path, eta).reverse.diffusion(0.7)))
  np.testing.assert_allclose(noise(jnp.asarray([0.0, 0.5, 2.0])), [0.0, 0.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_small_step_is_the_reverse_sde(name, x64):
  """(STEP(h, η²h) − identity)/δ → reverse drift, noise variance/δ → η²g², as δ = t − t′ → 0."""
  path, eta, delta = PATHS[name], 0.8, 1e-6
  reverse = splitting.split(path, eta).reverse
  x, denoised = jnp.asarray([0.7]), jnp.asarray([-0.4])

  def rates(t):
    s = t - delta
    alpha, sigma = path.alpha(t), path.sigma(t)
    h = path.half_log_snr(s) - path.half_log_snr(t)
    a, b, c = splitting.weights(alpha, sigma, path.alpha(s), path.sigma(s), eta**2 * h)
    score = (alpha * denoised - x) / sigma**2
    return ((a - 1.0) * x + b * denoised) / delta, reverse.drift(x, t, score), (
        c**2 / delta), reverse.diffusion(t) ** 2

  drift, wanted_drift, var, wanted_var = jax.jit(jax.vmap(rates))(levels(path))
  # The next order is δ times rates up to 1e3 (linear_vp, geometric_ve).
  np.testing.assert_allclose(drift, wanted_drift, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(var, wanted_var, rtol=1e-3)


@pytest.mark.parametrize("eta", [-0.1, float("nan"), lambda ell: ell])
def test_negative_stochasticity_is_a_value_error(eta):
  with pytest.raises(ValueError, match="stochasticity must be >= 0"):
    splitting.split(paths.vp(), eta)


@pytest.mark.parametrize("name", ["vp", "own_sde"])
def test_a_clock_below_half_g_squared_is_a_value_error(name):
  """And the message says why: the reverse process would need negative noise."""
  path = PATHS[name]
  with pytest.raises(ValueError, match=r"clock must be at least g²/2.*negative") as error:
    splitting.split(path, clock=lambda t: 0.49 * path.diffusion(t) ** 2)
  assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match="clock"):
    splitting.split(path, clock=lambda t: 0.0)


def test_clock_and_stochasticity_exclude_each_other():
  with pytest.raises(ValueError, match="either a stochasticity or a clock"):
    splitting.split(paths.vp(), 1.0, clock=lambda t: 1.0)


# The finite step


def random_levels(n, seed, places=3):
  """`places` levels (α, σ) of random scale for n cases: any path, any direction."""
  rng = np.random.default_rng(seed)
  alpha, sigma = np.exp(rng.uniform(-2.5, 1.0, (places, n))), np.exp(
      rng.uniform(-4.0, 3.0, (places, n)))
  return list(zip(alpha, sigma, strict=True)), rng


def then(first, second):
  """Weights of one step after another that uses the same D; noises are independent."""
  return second[0] * first[0], second[0] * first[1] + second[1], np.hypot(
      second[0] * first[2], second[2])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 5e-6), (np.float64, 1e-12)])
def test_steps_compose(dtype, tolerance):
  """STEP(h₁, Λ₁) then STEP(h₂, Λ₂) is STEP(h₁ + h₂, Λ₁ + Λ₂): 2,000 random cases.

  Errors are relative to the terms that are added up.
  """
  (start, middle, end), rng = random_levels(2000, 0)
  budgets = [rng.exponential(1.0, 2000) * rng.choice([0.0, 1e-3, 1.0, 8.0], 2000)
             for _ in range(2)]
  with jax.enable_x64(dtype == np.float64):
    step = lambda *args: [np.asarray(v) for v in splitting.weights(
        *(jnp.asarray(v, dtype) for v in args))]
    first, second = step(*start, *middle, budgets[0]), step(*middle, *end, budgets[1])
    whole = step(*start, *end, budgets[0] + budgets[1])
  a, b, c = then(first, second)
  assert whole[0].dtype == dtype
  np.testing.assert_allclose(a, whole[0], rtol=tolerance, atol=0)
  size = np.abs(whole[0]) * start[0] + np.abs(second[0]) * middle[0] + end[0]
  assert np.max(np.abs(b - whole[1]) / size) <= tolerance
  np.testing.assert_allclose(c, whole[2], rtol=tolerance, atol=0)


def test_forward_then_reverse_is_langevin(x64):
  """The paper's triangle at finite size: (−d, d) + (d, η²d) = (0, (1 + η²)d)."""
  ((alpha, sigma), (alpha_s, _)), rng = random_levels(200, 1, places=2)
  d, eta = rng.uniform(0.01, 2.0, 200), rng.uniform(0.0, 2.0, 200)
  sigma_s = alpha_s * sigma / alpha * np.exp(d)  # noisier by d
  forward = splitting.weights(alpha, sigma, alpha_s, sigma_s, d)
  reverse = splitting.weights(alpha_s, sigma_s, alpha, sigma, eta**2 * d)
  identity = splitting.weights(alpha, sigma, alpha, sigma, (1 + eta**2) * d)
  for own, wanted in zip(then(forward, reverse), identity, strict=True):
    np.testing.assert_allclose(own, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_forward_kernel_needs_no_denoiser(name, x64):
  """h < 0, Λ = −h: D drops out and what is left is `paths.transition`."""
  path, x = PATHS[name], jnp.asarray([0.7, -2.0])
  key = jax.random.key(0)
  t = levels(path)
  s, t = sorted((t[1], t[3]))

  def both(s, t):
    numbers = path.alpha(s), path.sigma(s), path.alpha(t), path.sigma(t)
    budget = path.half_log_snr(s) - path.half_log_snr(t)
    return (splitting.weights(*numbers, budget),
            splitting.step(key, x, jnp.full(2, 1e3), *numbers, budget),
            paths.transition(key, x, s, t, path), path.alpha(t) / path.alpha(s))

  (a, b, _), stepped, moved, ratio = jax.jit(both)(s, t)
  np.testing.assert_allclose(a, ratio, rtol=1e-12)
  np.testing.assert_allclose(b, 0.0, atol=1e-14)
  np.testing.assert_allclose(stepped, moved, rtol=1e-10)


def test_the_identity_step(x64):
  """h = 0, Λ = 0 changes nothing; h = 0, Λ → ∞ draws afresh around αD."""
  ((alpha, sigma),), _ = random_levels(50, 2, places=1)
  a, b, c = splitting.weights(alpha, sigma, alpha, sigma, np.zeros(50))
  np.testing.assert_array_equal(np.stack([a, c]), np.stack([np.ones(50), np.zeros(50)]))
  np.testing.assert_allclose(b, np.zeros(50), atol=1e-15)
  a, b, c = splitting.weights(alpha, sigma, alpha, sigma, np.full(50, np.inf))
  np.testing.assert_array_equal(np.stack([a, b, c]), np.stack([np.zeros(50), alpha, sigma]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ode_step_is_ddim_and_euler_in_rho(dtype):
  """Λ = 0: x′ = α′D + σ′ε̂ (Song et al. 2021, DDIM eq. 12); z′ = z + (ρ′ − ρ)(z − D)/ρ in VE."""
  rng = np.random.default_rng(3)
  with jax.enable_x64(dtype == np.float64):
    rho, rho_s = np.exp(rng.uniform(-4, 3, (2, 100))).astype(dtype)
    z, denoised = rng.standard_normal((2, 100)).astype(dtype)
    one = np.ones(100, dtype)
    a, b, c = splitting.weights(one, rho, one, rho_s, np.zeros(100, dtype))
    np.testing.assert_array_equal(c, np.zeros(100))
    euler = z + (rho_s - rho) * ((z - denoised) / rho)
    size = np.abs(z) + (rho_s / rho + 1) * (np.abs(z) + np.abs(denoised))
    assert np.max(np.abs(a * z + b * denoised - euler) / size) <= 4 * np.finfo(dtype).eps
    (start, end), _ = random_levels(100, 4, places=2)
    a, b, _ = splitting.weights(*(jnp.asarray(v, dtype) for v in (*start, *end, np.zeros(100))))
    eps = (z - start[0] * denoised) / start[1]
    ddim = end[0] * denoised + end[1] * eps
    size = end[0] * np.abs(denoised) + end[1] / start[1] * (np.abs(z) + start[0] * np.abs(denoised))
    assert np.max(np.abs(a * z + b * denoised - ddim) / size) <= 8 * np.finfo(dtype).eps


def test_the_sde_step_is_the_posterior_of_the_forward_kernel(x64):
  """Λ = h is q(x_s | x_t, x₀ = D) by Gaussian conditioning, on any path; on VP, DDPM's own form."""
  (start, end), rng = random_levels(200, 5, places=2)
  (alpha, sigma), alpha_s = start, end[0]
  h = rng.uniform(0.01, 3.0, 200)
  sigma_s = alpha_s * sigma / alpha * np.exp(-h)
  a, b, c = splitting.weights(alpha, sigma, alpha_s, sigma_s, h)
  # Prior N(α_s x₀, σ_s²) and x_t = k x_s + N(0, σ² − k²σ_s²).
  k = alpha / alpha_s
  gain = sigma_s**2 * k / sigma**2
  np.testing.assert_allclose(a, gain, rtol=1e-11)
  np.testing.assert_allclose(b, alpha_s - gain * alpha, rtol=1e-11, atol=1e-12)
  np.testing.assert_allclose(c**2, sigma_s**2 * (1 - gain * k), rtol=1e-11, atol=1e-13)
  # Ho et al. 2020, eqs. 6–7, at β = .01 and ᾱ = .4.
  beta, bar, bar_s = 0.01, 0.4 * 0.99, 0.4
  h = 0.5 * (np.log(bar_s) - np.log1p(-bar_s) - np.log(bar) + np.log1p(-bar))
  numbers = splitting.weights(*np.sqrt([bar, 1 - bar, bar_s, 1 - bar_s]), h)
  np.testing.assert_allclose(numbers, [
      np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar), np.sqrt(bar_s) * beta / (1 - bar),
      np.sqrt((1 - bar_s) / (1 - bar) * beta)], rtol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_stochasticity_and_ddims_own(eta, x64):
  """DDIM's η has noise variance η²σ′²(1 − e^{−2h}): ours at η ∈ {0, 1} only (theory.md#step)."""
  h = np.linspace(0.1, 2.0, 5)
  sigma, sigma_s = np.exp(h), np.ones(5)
  c = splitting.weights(np.ones(5), sigma, np.ones(5), sigma_s, eta**2 * h)[2]
  same = np.allclose(c**2, eta**2 * sigma_s**2 * -np.expm1(-2 * h), rtol=1e-12)
  assert same == (eta in (0.0, 1.0))


@pytest.mark.parametrize("budget", [0.0, 0.5, np.inf])
def test_ends(budget):
  """From α = 0, from σ = 0 and to σ′ = 0 the step is finite and what it must be."""
  key, x, denoised = jax.random.key(1), jnp.asarray([0.7, -2.0]), jnp.asarray([0.3, 0.4])
  noise = jax.random.normal(key, (2,))
  step = functools.partial(splitting.step, key, x, denoised)
  # To the clean end: D.
  np.testing.assert_array_equal(step(0.6, 0.8, 1.0, 0.0, budget), denoised)
  np.testing.assert_array_equal(step(0.0, 1.0, 1.0, 0.0, budget), denoised)
  # From pure noise, x = σε̂.
  kept, fresh = np.exp(-budget), np.sqrt(-np.expm1(-2 * budget))
  wanted = 0.6 * denoised + 0.8 * (kept * x + fresh * noise)
  np.testing.assert_allclose(step(0.0, 1.0, 0.6, 0.8, budget), wanted, rtol=1e-6)
  # From clean data x = αD no ε̂ is known: the forward kernel's Λ = ∞ is `corrupt`.
  stepped = splitting.step(key, x, x, 1.0, 0.0, 0.6, 0.8, budget)
  np.testing.assert_allclose(stepped, 0.6 * x + 0.8 * fresh * noise, rtol=1e-6)
  np.testing.assert_array_equal(splitting.step(key, x, x, 1.0, 0.0, 1.0, 0.0, budget), x)


def test_step_draws_the_weights(x64):
  """`step` is a x + b D + c ξ with the numbers of `weights`, in the dtype of x, any shape."""
  key = jax.random.key(2)
  x, denoised = jax.random.normal(jax.random.key(3), (2, 4, 3), jnp.float32)
  a, b, c = splitting.weights(*(jnp.float32(v) for v in (0.6, 0.8, 0.9, 0.3, 0.4)))
  wanted = a * x + b * denoised + c * jax.random.normal(key, (4, 3), jnp.float32)
  stepped = splitting.step(key, x, denoised, 0.6, 0.8, 0.9, 0.3, 0.4)
  assert stepped.dtype == np.float32
  np.testing.assert_array_equal(stepped, wanted)


def test_gradients_at_the_ends_are_finite():
  """Samplers are differentiated: no NaN may come out of a masked branch."""
  def total(x, alpha, sigma, alpha_s, sigma_s):
    return jnp.sum(splitting.step(
        jax.random.key(0), x, 0.5 * x, alpha, sigma, alpha_s, sigma_s, 0.3))

  grad = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4)))
  for numbers in itertools.product((0.0, 1.0), repeat=4):
    if numbers[:2] != (0.0, 0.0):
      assert all(np.all(np.isfinite(g)) for g in grad(jnp.ones(2), *numbers)), numbers


def test_bad_steps():
  key, x = jax.random.key(0), jnp.ones(3)
  for budget in (-0.1, float("nan"), np.array(-1e-9)):
    with pytest.raises(ValueError, match="budget must be >= 0"):
      splitting.step(key, x, x, 0.6, 0.8, 0.9, 0.3, budget)
  with pytest.raises(AssertionError):
    splitting.step(key, x, jnp.ones((3, 1)), 0.6, 0.8, 0.9, 0.3, 0.1)
