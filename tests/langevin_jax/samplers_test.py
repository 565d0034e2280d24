"""Samplers: the exact law for every path, stochasticity and method, orders, ends, keys, memory."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import (
    LINE,
    MEANS,
    STDS,
    WEIGHTS,
    along,
    cdf,
    gaussian,
    line,
    round_law,
    run_plans,
    slope,
)
from scipy import integrate

from langevin_jax import mixtures, paths, predictions, samplers, splitting
from langevin_jax.samplers import budgets, levels, linear, sampling
from langevin_jax.samplers.sampling import plan as sampling_plan

# A user's own process, two functions and nothing else, stands beside the named ones.
OWN = paths.from_coefficients(lambda t: jnp.exp(-(t**2)), lambda t: 2 * t, t_min=0.0, t_max=3.0)
PATHS = {
    "ve": paths.ve(), "vp": paths.vp(), "rectified_flow": paths.rectified_flow(),
    "linear_vp": paths.linear_vp(), "cosine": paths.cosine(), "sub_vp": paths.sub_vp(),
    "geometric_ve": paths.geometric_ve(), "own": OWN}
ETAS = (0.0, 0.5, 1.0, 2.0)
LINEAR = {
    **{f"ddim({eta})": samplers.ddim(eta) for eta in ETAS},
    "euler": samplers.euler_maruyama(0.0),
    **{f"euler_maruyama({eta})": samplers.euler_maruyama(eta) for eta in ETAS[1:]}}
HEUN = {"heun": samplers.heun(), "heun(churn)": samplers.heun(20.0)}
METHODS = [
    samplers.ddim(), samplers.euler(), samplers.euler_maruyama(), samplers.heun(),
    samplers.heun(own_time=True), samplers.adams_bashforth(2), samplers.adams_bashforth(3),
    *(make(order, eta) for make in (samplers.multistep, samplers.unipc, samplers.singlestep)
      for order in (2, 3) for eta in (0.0, 1.0))]


def side_by_side(chosen: dict[str, samplers.Method]) -> samplers.Method:
  """Methods x′ = a x + b D + c ξ as one, along a leading axis of x of shape (methods, n, d).

  The step is the library's; a compilation then serves eight methods.
  """
  def plan(nodes, path):
    plans = [method.plan(nodes, path) for method in chosen.values()]
    stack = lambda values: np.stack(values, -1)[..., None, None]
    a, b, c = (stack([getattr(p, name) for p in plans]) for name in "abc")
    return linear.Numbers(levels.pick(nodes, slice(-1)), a, b, c)

  return samplers.ddim(1.0)._replace(plan=plan)


ALL_LINEAR = side_by_side(LINEAR)


def mixture() -> mixtures.Mixture:
  return mixtures.Mixture(*map(jnp.asarray, (WEIGHTS, MEANS[:, None], STDS[:, None, None] ** 2)))


def test_the_elementwise_model_is_the_mixture(x64):
  path, x = PATHS["rectified_flow"], jnp.linspace(-3.0, 3.0, 21)[:, None]
  for t in (0.05, 0.5):
    np.testing.assert_allclose(jax.jit(along(path, line))(x, t),
                               jax.jit(mixtures.denoiser(mixture(), path))(x, t), atol=1e-12)


def drawn(name, methods=ALL_LINEAR, n=8000, model=None):
  """Samples of the mixture along a path; the model knows no path, so that one program serves all.
  """
  path = PATHS[name]
  shape = (len(LINEAR), n, 1) if methods is ALL_LINEAR else (n, 1)
  return np.asarray(samplers.sample(
      jax.random.key(0), model or predictions.Denoiser(line, path), path, shape=shape,
      method=methods, grid=samplers.karras(128, rho_min=0.01)))[..., 0]


def test_every_path_stochasticity_and_method_recovers_the_mixture():
  """Kolmogorov–Smirnov distance to the exact distribution function.

  8,000 draws of the exact law exceed .022 once in a thousand. 128 steps from ρ = 80 to .01 are
  .07 each in ℓ; they add .01 to .02, and more where first order is expensive: at η = 2, whose steps
  are five times as long in (1 + η²)h, and for Euler in the logarithmic time of `geometric_ve`.
  """
  made = {(path, name): x for path in ("ve", "rectified_flow", "geometric_ve")
          for name, x in zip(LINEAR, drawn(path), strict=True)}
  made |= {("ve", name): drawn("ve", method) for name, method in HEUN.items()}
  for (path, name), x in made.items():
    u = cdf(np.sort(x))
    distance = np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max()
    coarse = "2.0" in name or (path == "geometric_ve" and "euler" in name)
    assert distance < (0.06 if coarse else 0.035), f"{path}, {name}: {distance:.4f}"


def test_a_model_of_states_and_times_makes_the_same_samples():
  """Rounding is 1e-5; between two modes the flow stretches it, for one sample in a thousand."""
  for name, method in (("own", samplers.ddim(1.0)), ("rectified_flow", HEUN["heun(churn)"])):
    difference = np.abs(drawn(name, method, 2000, along(PATHS[name], line))
                        - drawn("ve", method, 2000))
    assert np.quantile(difference, 0.998) < 1e-5, name
    assert difference.max() < 1e-3, name


def test_levels_lie_on_their_path(x64):
  """t is the path's time of ρ, and (scale α, scale σ) its coefficients there."""
  grid = samplers.karras(5, rho_min=0.02, rho_max=50.0)
  nodes = {name: levels.place_levels(grid(path), path) for name, path in PATHS.items()}
  exact = jax.jit(lambda times: {name: jax.vmap(lambda t, path=path: (
      path.alpha(t), path.sigma(t), path.half_log_snr(t)))(times[name])
      for name, path in PATHS.items()})({name: at.t[:-1] for name, at in nodes.items()})
  for name, at in nodes.items():
    ours = at.scale * at.alpha, at.scale * at.sigma, at.half_log_snr
    for value, wanted in zip(ours, exact[name], strict=True):
      np.testing.assert_allclose(value[:-1], wanted, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(np.exp(-at.half_log_snr), grid(PATHS[name]), rtol=1e-12)


def test_kl_of_the_ancestral_step(x64):
  """KL(model‖data) of STEP at η = 1 from ρ = 20 to .05: the numbers of theory.md#solvers, slope 2.

  Densities are carried from level to level on a lattice by the step's Gaussian kernel.
  """
  points = 500

  def push(q, z, z_next, rho, a, b, c):
    mean = a * z + b * round_law(LINE, z[:, None], 1.0, rho)[1][:, 0]
    kernel = np.exp(-0.5 * ((z_next[:, None] - mean[None]) / c) ** 2) / (c * np.sqrt(2 * np.pi))
    return kernel @ q * (z[1] - z[0])

  log_prob = lambda z, rho: round_law(LINE, z[:, None], 1.0, rho)[0]

  def divergence(n):
    path, grid = paths.ve(), samplers.karras(n + 1, rho_min=0.05, rho_max=20.0)
    nodes = levels.place_levels(grid(path), path)
    numbers = samplers.ddim(1.0).plan(nodes, path)
    rho, size = np.exp(-nodes.half_log_snr[:-1]), 1.0 / nodes.alpha
    # From unit scale to the VE frame, z = x/α.
    a, b, c = (numbers.a * size[1:] / size[:-1], numbers.b[:, 0] * size[1:],
               numbers.c * size[1:])
    z = [np.linspace(-1.2 - 7 * np.hypot(0.35, r), 1.6 + 7 * np.hypot(0.25, r), points)
         for r in rho]
    q = np.exp(log_prob(z[0], rho[0]))
    for i in range(n):
      q = push(q, z[i], z[i + 1], rho[i], a[i], b[i], c[i])
    cell = z[-1][1] - z[-1][0]
    np.testing.assert_allclose(cell * q.sum(), 1.0, atol=1e-8)
    q = np.maximum(q, 1e-300)
    return cell * np.sum(q * (np.log(q) - log_prob(z[-1], rho[-1])))

  kl = np.array([divergence(n) for n in (10, 20, 40, 80)])
  np.testing.assert_allclose(kl, [8.9e-2, 2.4e-2, 6.3e-3, 1.6e-3], rtol=0.03)
  assert abs(slope(kl, 3) - 2.0) < 0.2


def test_heun_is_algorithm_2_of_karras_et_al(x64):
  """As the paper writes it, in σ: churn between its bounds, capped, and in the last step too."""
  path, rho = paths.ve(), samplers.karras(6, rho_min=0.1, rho_max=5.0)(paths.ve())
  nodes, xi = levels.place_levels(rho, path), np.random.default_rng(0).normal(size=(6, 3))
  model = lambda z, rho: 0.5 + 0.3 / (0.3 + rho**2) * (z - 0.5)
  start, churns, expected = np.array([3.0, -2.0, 0.4]), (0.0, 1.2, 40.0), []
  for churn in churns:
    z, acted = start, []
    for i, (now, after) in enumerate(itertools.pairwise(rho)):
      gamma = min(churn / 6, np.sqrt(2.0) - 1.0) if 0.05 <= now <= 2.0 else 0.0
      acted.append(gamma > 0.0)
      hat = now * (1.0 + gamma)
      z = z + np.sqrt(hat**2 - now**2) * 1.1 * xi[i]
      d = (z - model(z, hat)) / hat
      euler = z + (after - hat) * d
      z = euler if after == 0.0 else z + (after - hat) * 0.5 * (
          d + (euler - model(euler, after)) / after)
    assert not churn or (acted[-1] and not acted[0])
    expected.append(z)
  plans = [samplers.heun(churn, churn_min=0.05, churn_max=2.0, noise_scale=1.1).plan(nodes, path)
           for churn in churns]
  x = run_plans(plans, np.tile(start * nodes.alpha[0], (3, 1)),
                lambda x, level: model(x / level.alpha, level.sigma / level.alpha), xi)
  np.testing.assert_allclose(x[:, -1], expected, atol=1e-12)


def test_churn_counts_all_falls_of_a_grid():
  """S_churn/n with n = 5 for a grid that falls twice, within a corrector too."""
  grid = samplers.explicit((8.0, 4.0, 2.0, 4.0, 2.0, 1.0))
  for method in (samplers.heun(1.5), samplers.predictor_corrector(
      samplers.heun(1.5), samplers.correctors.exact())):
    numbers = sampling_plan(paths.ve(), method, grid).numbers
    level = getattr(numbers, "inner", numbers).level
    np.testing.assert_allclose(
        np.exp(-level.half_log_snr[:, 0]), 1.3 * np.array([8.0, 4.0, 4.0, 2.0, 1.0]))


def test_euler_maruyama_is_the_reverse_process_of_the_split(x64):
  """x′ = x + δ drift(x, t, s) + √δ diffusion(t) ξ of Table 4, inside the range."""
  chosen = {name: PATHS[name] for name in ("ve", "linear_vp", "rectified_flow", "sub_vp", "own")}
  grid, x, denoised = samplers.karras(6, rho_min=0.05, rho_max=20.0), 0.7, -0.3
  nodes = {name: levels.place_levels(grid(path), path) for name, path in chosen.items()}

  def processes(t, path):
    alpha, sigma = path.alpha(t), path.sigma(t)
    score = (alpha * denoised - x) / sigma**2
    reverse = [splitting.split(path, eta).reverse for eta in ETAS]
    return [(r.drift(jnp.asarray(x), t, score), r.diffusion(t)) for r in reverse]

  exact = jax.jit(lambda times: {name: jax.vmap(lambda t, path=path: processes(t, path))(
      times[name]) for name, path in chosen.items()})(
          {name: at.t[:-2] for name, at in nodes.items()})
  for name, path in chosen.items():
    at = nodes[name]
    delta = -np.diff(at.t)[:-1]
    for eta, (drift, diffusion) in zip(ETAS, exact[name], strict=True):
      n = samplers.euler_maruyama(eta).plan(at, path)
      moved = at.scale[1:] * (n.a * x / at.scale[:-1] + n.b[:, 0] * denoised)
      np.testing.assert_allclose(moved[:-1], x + delta * drift, rtol=1e-9, err_msg=name)
      np.testing.assert_allclose((at.scale[1:] * n.c)[:-1], np.sqrt(delta) * diffusion,
                                 rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_callable_stochasticity_is_integrated(x64):
  """Λ = ∫η² dℓ; a constant callable is that number."""
  path = paths.rectified_flow()
  nodes = levels.place_levels(samplers.karras(12)(path), path)
  eta = lambda ell: 1.5 * jnp.exp(-0.5 * ell**2)
  n = samplers.ddim(eta).plan(nodes, path)
  ell = nodes.half_log_snr[:-1]
  budget = np.array([integrate.quad(lambda ell: 2.25 * np.exp(-(ell**2)), *ends)[0]
                     for ends in itertools.pairwise(ell)])
  # 16-point Gauss–Legendre of a Gaussian over steps no wider than 2.
  np.testing.assert_allclose(n.c[:-1], nodes.sigma[1:-1] * np.sqrt(-np.expm1(-2 * budget)),
                             rtol=1e-7)
  # Infinite steps at both ends too: from α = 0 and to σ = 0.
  nodes = levels.place_levels(samplers.uniform_time(6)(path), path)
  for make in (samplers.ddim, samplers.euler_maruyama):
    for constant in (0.0, 0.7):
      ours, number = make(lambda ell, c=constant: c).plan(nodes, path), make(constant)
      for a, b in zip(*map(jax.tree.leaves, (ours, number.plan(nodes, path))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_stochasticity_may_be_traced():
  """One compilation for all η, and η as a vmapped axis; 0 and infinite steps included."""
  path, key = paths.rectified_flow(), jax.random.key(0)
  denoise = predictions.Denoiser(gaussian, path)
  draw = lambda eta: jnp.stack([samplers.sample(
      key, denoise, path, shape=(4, 1), method=make(eta), grid=samplers.uniform_time(6))
      for make in (samplers.ddim, samplers.euler_maruyama)])
  etas = (0.0, 0.7)
  expected = np.stack([draw(eta) for eta in etas])
  jitted = jax.jit(draw)
  np.testing.assert_allclose(np.stack([jitted(eta) for eta in etas]), expected, atol=1e-5)
  np.testing.assert_allclose(jax.vmap(draw)(jnp.array(etas)), expected, atol=1e-5)


def test_the_derivative_in_stochasticity_at_0_is_the_one_sided_one(x64):
  """√(1 − e^{−2Λ}) at Λ = η²h rises linearly in η: against (f(h) − f(0))/h, whose error is O(h)."""
  path, denoise = paths.ve(), lambda x, t: 0.2 * x / (0.2 + t**2)
  makes = (samplers.euler_maruyama, lambda eta: samplers.unipc(2, eta),
           lambda eta: samplers.singlestep(2, eta))

  def ends(eta):
    return jnp.stack([samplers.sample(jax.random.key(0), denoise, path, shape=(3,),
                                      method=make(eta), grid=samplers.karras(4)).sum()
                      for make in makes])

  expected = (ends(1e-6) - ends(0.0)) / 1e-6
  assert np.abs(expected).min() > 1e-2
  # A number that is traced, and one that a function of ℓ closes over.
  for form in (lambda eta: eta, lambda eta: lambda ell: eta * jnp.ones_like(ell)):
    slope = jax.jit(lambda eta, form=form: jax.jvp(
        lambda eta: ends(form(eta)), (eta,), (jnp.ones(()),))[1])(0.0)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
  # Also backwards, where an infinite step, which has no derivative, is beside the others.
  flow = jax.jit(jax.grad(lambda eta: samplers.sample(
      jax.random.key(0), denoise, paths.rectified_flow(), shape=(3,),
      method=samplers.multistep(2, eta, variable="alpha"), grid=samplers.uniform_time(6)).sum()))
  assert np.isfinite(flow(0.0))


@pytest.mark.filterwarnings("ignore::langevin_jax.samplers.UnresolvedNoise")
@pytest.mark.parametrize("path", [paths.ve(), paths.vp(), paths.rectified_flow()],
                         ids=["ve", "vp", "rectified_flow"])
def test_stochasticity_is_the_same_in_every_form(path):
  """A number, an array and a function; at η = 3 a step of four has a budget of up to 49."""
  makes = samplers.ddim, lambda eta: samplers.singlestep(2, eta)
  denoise = predictions.Denoiser(gaussian, path)
  for eta in (0.5, 3.0):
    forms = eta, jnp.float32(eta), lambda ell, eta=eta: jnp.full_like(ell, eta)
    drawn = np.array([[samplers.sample(jax.random.key(0), denoise, path, shape=(3, 1),
                                       method=make(form), grid=samplers.karras(4))
                       for make in makes] for form in forms])
    assert np.all(np.isfinite(drawn))
    np.testing.assert_allclose(drawn[1:], drawn[:1].repeat(2, 0), atol=1e-5)


def test_a_jump_of_the_stochasticity_is_integrated(x64):
  """Λ of a window of η is η² times what it covers of each step; steps outside have none."""
  path = paths.ve()
  nodes = levels.place_levels(samplers.karras(5)(path), path)
  eta = lambda ell: jnp.where((ell > -1.3) & (ell < 2.1), 1.5, 0.0)
  low, high = nodes.half_log_snr[:-2], nodes.half_log_snr[1:-1]
  covered = np.maximum(np.minimum(high, 2.1) - np.maximum(low, -1.3), 0.0)
  np.testing.assert_allclose(
      budgets.budgets(nodes, eta, path).budget[:-1], 2.25 * covered, atol=1e-6)


@pytest.mark.parametrize("method", [ALL_LINEAR, HEUN["heun(churn)"]], ids=["linear", "heun"])
def test_flow_starts_at_pure_noise_and_ends_at_the_denoised(method):
  path, grid, shape = paths.rectified_flow(), samplers.uniform_time(6), (len(LINEAR), 500, 1)
  run = samplers.trajectory(jax.random.key(0), along(path), path, shape=shape,
                            method=method, grid=grid)
  np.testing.assert_allclose(run.t, np.linspace(1, 0, 7), atol=1e-7)
  assert np.all(np.isfinite(run.x)) and np.all(np.isfinite(run.denoised))
  # At s = 1 the state is standard noise (five standard errors) and says nothing of x₀ …
  n = run.x[0].size
  assert abs(np.mean(run.x[0])) < 5 / np.sqrt(n) and abs(np.std(run.x[0]) - 1) < 5 / np.sqrt(2 * n)
  np.testing.assert_allclose(run.denoised[0], np.full(shape, 0.5), atol=1e-6)
  # … and at s = 0 it is D itself.
  np.testing.assert_array_equal(run.x[-1], run.denoised[-1])


@pytest.mark.parametrize("path", ["rectified_flow", "cosine", "own"])
def test_every_number_of_a_plan_is_finite_from_the_noisiest_level_on(path):
  """Also where the path starts at α = 0: rectified flow's s = 1, the cosine's t = 1."""
  path = PATHS[path]
  for grid in (samplers.uniform_time(6), samplers.shifted(6, 3.0)):
    nodes = levels.place_levels(grid(path), path)
    assert nodes.alpha.min() >= 0.0 and not np.isnan(nodes.half_log_snr).any()
    for method in METHODS:
      for numbers in jax.tree.leaves(method.plan(nodes, path)._replace(level=())):
        assert np.isfinite(numbers).all()


def test_noise_keeps_its_law_on_the_way_to_a_point_mass():
  """Ten steps: the last is D, the point."""
  path, point, shape = PATHS["rectified_flow"], np.array([1.5, -0.5]), (len(LINEAR), 400, 2)
  denoise = predictions.Denoiser(
      lambda x, ell: jnp.broadcast_to(jnp.asarray(point, x.dtype), x.shape), path)
  grid = samplers.karras(10, rho_min=0.02, rho_max=50.0)
  linear, *heun = [
      samplers.trajectory(jax.random.key(0), denoise, path, shape=shape, method=method, grid=grid).x
      for method in (ALL_LINEAR, *HEUN.values())]
  nodes = levels.place_levels(grid(path), path)
  alpha, sigma = ((nodes.scale * v)[:-1, None, None, None] for v in (nodes.alpha, nodes.sigma))
  noise = lambda x: (np.asarray(x[:-1], np.float64) - alpha * point[None, None, None]) / sigma
  for x in (linear, *heun):
    np.testing.assert_array_equal(x[-1], np.broadcast_to(point, shape).astype(np.float32))
  # The ODE keeps the very noise that it began with: float32 of αD + σε, divided by σ again.
  names = list(LINEAR)
  for eps in (noise(linear)[:, names.index("ddim(0.0)")], noise(heun[0])[:, 0]):
    np.testing.assert_allclose(eps, np.broadcast_to(eps[:1], eps.shape), atol=5e-5)
  # STEP and churn keep its law: 800 numbers know a standard deviation to 2.5 %.
  laws = [noise(linear)[:, names.index(f"ddim({eta})")] for eta in ETAS[1:]]
  for eps in (*laws, noise(heun[1])[:, 0]):
    assert np.all(np.abs(eps.std((1, 2)) - 1) < 5 * 0.025)


def test_grids_are_their_formulas():
  path, n = paths.ve(), 9
  i = np.arange(n) / (n - 1)
  np.testing.assert_allclose(
      samplers.karras(n)(path)[:-1], (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)
  np.testing.assert_allclose(
      samplers.karras(n, rho_min=0.1, rho_max=3.0, curvature=1.0)(path)[:-1], 3 - 2.9 * i)
  ell = -np.log(samplers.uniform_half_log_snr(n)(path)[:-1])
  np.testing.assert_allclose(ell, np.linspace(-np.log(80), -np.log(0.002), n))
  np.testing.assert_allclose(samplers.uniform_time(n)(path), 80 * (1 - np.arange(n + 1) / n))

  flow, u = paths.rectified_flow(), 1 - np.arange(1, n + 1) / n
  assert samplers.uniform_time(n)(flow)[0] == np.inf
  np.testing.assert_allclose(samplers.uniform_time(n)(flow)[1:], u / (1 - u), atol=1e-12)
  np.testing.assert_allclose(samplers.shifted(n)(flow), samplers.uniform_time(n)(flow))
  # Esser et al. 2024, eq. 23: s′ = k s/(1 + (k − 1)s).
  s = 3 * u / (1 + 2 * u)
  np.testing.assert_allclose(samplers.shifted(n, 3.0)(flow)[1:], s / (1 - s), atol=1e-12)
  cosine = samplers.cosine(n)(paths.cosine())
  assert cosine[0] == np.inf
  np.testing.assert_allclose(cosine[1:], np.tan(0.5 * np.pi * u), atol=1e-12)
  np.testing.assert_allclose(samplers.uniform_time(n)(paths.cosine())[1:], cosine[1:], atol=1e-12)
  # σ(0) = σ_min on the geometric path: the path's last time is a level, and clean comes after it.
  np.testing.assert_allclose(samplers.uniform_time(n)(paths.geometric_ve())[:-1],
                             np.geomspace(80, 0.01, n))


@pytest.mark.parametrize("path", ["ve", "rectified_flow", "sub_vp", "geometric_ve", "own"])
def test_grids_fall_in_n_steps_within_the_path_s_range(path):
  path = PATHS[path]
  noisiest = np.exp(-paths.on_host(path.half_log_snr, path.t_max))
  for n in (1, 9):
    for make in (samplers.karras, samplers.uniform_half_log_snr, samplers.uniform_time,
                 samplers.cosine, samplers.shifted, lambda n: samplers.shifted(n, 3.0)):
      rho = make(n)(path)
      assert rho.shape == (n + 1,) and rho.dtype == np.float64 and rho[-1] == 0.0
      assert np.all(np.diff(rho) < 0) and rho[0] <= noisiest * (1 + 1e-12)
      if make in (samplers.uniform_time, samplers.cosine, samplers.shifted):
        np.testing.assert_allclose(rho[0], noisiest)


GRIDS = (samplers.karras, samplers.uniform_half_log_snr, samplers.uniform_time, samplers.cosine,
         samplers.shifted)
BAD = [
    *((lambda make=make: make(0), "must be at least 1") for make in GRIDS),
    *((lambda make=make, low=low: make(5, rho_min=low, rho_max=1.0), "rho_min")
      for make in GRIDS[:2] for low in (2.0, 0.0, -1.0)),
    *((lambda make=make: make(5, rho_min=1e4, rho_max=1e5)(paths.ve()), "noisiest")
      for make in GRIDS[:2]),
    (lambda: samplers.karras(2.5), r"must be a whole number, got 2\.5"),
    (lambda: samplers.karras(5, curvature=0.0), "curvature"),
    (lambda: samplers.shifted(5, -1.0), "shift"),
    *((lambda make=make, eta=eta: make(eta), "stochasticity must be >= 0 and finite")
      for make in (samplers.ddim, samplers.euler_maruyama, lambda eta: samplers.unipc(2, eta),
                   lambda eta: samplers.singlestep(2, eta))
      for eta in (-0.5, np.inf, np.nan)),
    (lambda: jax.jit(lambda rho: draw(grid=samplers.karras(4, rho_max=rho)))(40.0),
     "rho_max must be a number, not traced"),
    (lambda: samplers.heun(-1.0), "churn"),
    (lambda: samplers.heun(1.0, noise_scale=-1.0), "noise_scale"),
    (lambda: samplers.heun(2.0, churn_min=5.0, churn_max=1.0), "churn acts for rho in"),
    (lambda: draw(method="heun"), r"samplers\.heun\(\) \(called\), got 'heun'"),
    (lambda: draw(grid=samplers.karras), "call it, such as"),
    (lambda: draw(grid=20), r"samplers\.karras\(20\), got 20"),
    (lambda: samplers.sample(jax.random.key(0), lambda x, t: x, paths.vp, shape=(4, 1)), "call it"),
    *((lambda shape=shape: samplers.sample(
        jax.random.key(0), lambda x, t: x, paths.vp(), shape=shape), "shape must be a tuple of int")
      for shape in (4, (4, 1.0), jnp.ones(2))),
    (lambda: draw(initial=jnp.zeros((4, 2))), r"initial must have shape \(4, 1\)"),
    (lambda: draw(jax.random.split(jax.random.key(0), 3)), "must lead the shape"),
    *((lambda rho=rho: draw(grid=lambda path: np.array(rho)), "grid must")
      for rho in ([[1.0, 0.0]], [1.0, -1.0], [np.nan, 0.0])),
    *((lambda rho=rho: samplers.explicit(rho), "a grid must") for rho in ((), (1.0, 0.0), (1, 1))),
    *((lambda make=make: draw(method=make(lambda ell: -ell)), "stochasticity")
      for make in (samplers.ddim, samplers.euler_maruyama)),
    (lambda: draw(path=paths.ve(), grid=samplers.explicit((np.inf, 5.0))), "start the grid at a"),
    (lambda: draw(method=samplers.heun(2.0), brownian=samplers.brownian()), "not that of churn"),
    (lambda: jax.jit(lambda k: draw(path=learned(k), grid=samplers.uniform_time(3)))(1.0),
     "being traced"),
]


BAD += [
    *((lambda make=make: make("1"), "must be a number, got '1'") for make in (
        samplers.ddim, samplers.euler_maruyama, samplers.flow_map, samplers.heun,
        lambda v: samplers.multistep(2, v), lambda v: samplers.unipc(2, v),
        lambda v: samplers.singlestep(2, v), lambda v: samplers.unipc(largest_budget=v),
        lambda v: samplers.singlestep(largest_budget=v), lambda v: samplers.explicit([v]),
        lambda v: samplers.karras(4, rho_max=v), lambda v: samplers.shifted(4, v),
        lambda v: samplers.within(samplers.karras(4), stop=v))),
    *((lambda rho=rho: samplers.explicit(rho), r"sequence such as \(80, 20") for rho in ("5", 5.0)),
    (lambda: samplers.heun([2.0]), "churn must be a number"),
    *((lambda eta=eta: draw(method=samplers.ddim(eta)), "stochasticity must be written with jax")
      for eta in (np.cos, math.cos)),
]


def draw(key=None, path=PATHS["rectified_flow"], **options):
  key = jax.random.key(0) if key is None else key
  return samplers.sample(key, along(path), path, shape=(4, 1), **options)


def learned(k):
  """A path whose coefficients hold a parameter."""
  return paths.from_coefficients(
      lambda t: jnp.exp(-k * t**2), lambda t: 2 * t + 0 * k, t_min=0.0, t_max=3.0)


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


VALUE = jnp.asarray(2.0)
GRIDS_OF = {
    "karras rho_min": lambda v: samplers.karras(4, rho_min=v),
    "karras rho_max": lambda v: samplers.karras(4, rho_max=v),
    "karras curvature": lambda v: samplers.karras(4, curvature=v),
    "uniform_half_log_snr": lambda v: samplers.uniform_half_log_snr(4, rho_max=v),
    "shifted": lambda v: samplers.shifted(4, v),
    "explicit": lambda v: samplers.explicit([4.0, v]),
    "explicit end": lambda v: samplers.explicit([4.0], end=v),
    "ancestral": lambda v: samplers.ancestral(samplers.karras(4), v),
    "within start": lambda v: samplers.within(samplers.karras(4), start=v),
    "within stop": lambda v: samplers.within(samplers.karras(4), stop=v),
}


@pytest.mark.parametrize("name", GRIDS_OF)
def test_a_known_number_of_a_grid_is_read_on_the_host(name):
  """An array is its number, also inside jit; one that is not known is refused by name."""
  make = lambda v: GRIDS_OF[name](v)(paths.vp())
  expected = make(2.0)
  for v in (VALUE, np.asarray(2.0)):
    np.testing.assert_array_equal(make(v), expected)
    np.testing.assert_array_equal(jax.jit(lambda v=v: jnp.asarray(make(v)))(),
                                  jnp.asarray(expected))
  with pytest.raises(ValueError, match="must be a number, not traced"):
    jax.eval_shape(lambda v: jnp.asarray(make(v)), VALUE)


def test_known_levels_are_read_on_the_host():
  levels = jnp.array([5.0, 1.0])
  make = lambda rho: jnp.asarray(samplers.explicit(rho)(paths.vp()))
  np.testing.assert_array_equal(jax.jit(lambda: make(levels))(), [5.0, 1.0, 0.0])
  with pytest.raises(ValueError, match="each entry of rho must be a number, not traced"):
    jax.eval_shape(make, levels)


@pytest.mark.parametrize("options", [{}, {"own_time": True}])
def test_churn_may_be_an_array_or_traced(options):
  def numbers(churn, noise_scale=2.0):
    method = samplers.heun(churn, noise_scale=noise_scale, **options)
    planned = sampling.plan(paths.vp(), method, samplers.karras(12))
    return jax.tree.map(lambda v: jnp.asarray(v, float), planned.numbers)

  expected = numbers(2.0)
  check = lambda found, rtol: jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), found, expected)
  check(numbers(VALUE), 0.0)
  check(jax.jit(lambda: numbers(VALUE))(), 0.0)
  check(jax.jit(numbers)(VALUE, VALUE), 1e-4)
  for name in ("churn_min", "churn_max"):
    jax.eval_shape(lambda name=name: samplers.heun(2.0, **{name: VALUE}).init(VALUE))
    with pytest.raises(ValueError, match=f"{name} must be a number, not traced"):
      jax.eval_shape(lambda v, name=name: samplers.heun(2.0, **{name: v}), VALUE)


@pytest.mark.parametrize("make", [
    lambda v: samplers.multistep(2, 1.0, largest_budget=v),
    lambda v: samplers.unipc(2, 1.0, largest_budget=v),
    lambda v: samplers.singlestep(2, 1.0, largest_budget=v)])
def test_a_known_largest_budget_is_read_on_the_host(make):
  jax.jit(lambda: (make(VALUE), None)[1])()
  with pytest.raises(ValueError, match="largest_budget must be a number, not traced"):
    jax.eval_shape(lambda v: (make(v), None)[1], VALUE)


@pytest.mark.filterwarnings("ignore::langevin_jax.samplers.UnresolvedNoise")
def test_a_level_that_a_path_does_not_reach_becomes_its_end():
  """Also of a path that ends where there is more data than noise."""
  betas = np.linspace(1e-4, 2e-2, 1000)[:150]
  path = paths.from_table(np.arange(150.0), betas=betas)
  end = float(np.exp(-path.half_log_snr(jnp.float32(path.t_max))))
  assert end < 0.7
  nodes = levels.place_levels(np.array([0.9, 0.3, 0.0]), path)
  np.testing.assert_allclose(np.exp(-nodes.half_log_snr[:2]), [end, 0.3], rtol=1e-5)
  # At the noisy end there is no room for noise.
  stages = samplers.singlestep(2, 3.0).plan(nodes, path)
  np.testing.assert_allclose(stages.c[0], 0.0, atol=1e-6)


def test_the_derivative_in_churn_is_finite():
  path = paths.ve()
  draw = lambda churn: samplers.sample(
      jax.random.key(0), lambda x, t: 0.2 * x / (0.2 + t**2), path, shape=(3,),
      method=samplers.heun(churn, churn_max=1.0), grid=samplers.karras(6)).sum()
  value, slope = jax.jit(jax.value_and_grad(draw))(2.0)
  np.testing.assert_allclose(value, draw(2.0), rtol=1e-4)
  near = (draw(2.05) - draw(1.95)) / 0.1
  np.testing.assert_allclose(slope, near, rtol=5e-2)


def test_methods_run_along_a_path_that_is_learned():
  """Under jit, with its parameter traced: the numbers and samples of the same path, known."""
  methods = (samplers.euler_maruyama(), samplers.adams_bashforth(3), samplers.heun(5.0),
             samplers.heun(5.0, own_time=True))
  grid = samplers.karras(4, rho_max=5.0, rho_min=0.1)
  plans = lambda k: [sampling_plan(learned(k), method, grid)[:2] for method in methods]
  for ours, known in zip(*map(jax.tree.leaves, (jax.jit(plans)(1.0), plans(1.0))), strict=True):
    np.testing.assert_allclose(ours, known, rtol=1e-5, atol=1e-5)
  run = lambda k: draw(path=learned(k), method=methods[0], grid=grid)
  np.testing.assert_allclose(jax.jit(run)(1.0), run(1.0), atol=1e-5)


CHOICE = {"method": samplers.ddim(1.0), "grid": samplers.karras(6)}


def test_a_sample_is_its_own_key_s_whatever_its_batch():
  path, keys = paths.vp(), jax.random.split(jax.random.key(0), 6)
  denoise = predictions.Denoiser(gaussian, path)
  draw = lambda keys, shape: np.asarray(samplers.sample(
      keys, denoise, path, shape=shape, **CHOICE))
  batch = draw(keys, (6, 2))
  # One program fuses differently from another: float32 roundings, no more.
  for same in (draw(keys.reshape(2, 3), (2, 3, 2)).reshape(6, 2),
               np.stack([draw(key, (2,)) for key in keys])):
    np.testing.assert_allclose(same, batch, atol=1e-5)
  np.testing.assert_array_equal(draw(keys, (6, 2)), batch)
  raw = jax.random.key_data(keys[0])
  np.testing.assert_array_equal(draw(raw, (2,)), draw(keys[0], (2,)))
  # Distinct keys, distinct noise, also between the coordinates and steps of one sample.
  assert len(np.unique(batch)) == batch.size


def test_trajectory_is_the_sample_on_its_way():
  path = paths.rectified_flow()
  key, denoise = jax.random.key(3), along(path)
  run = samplers.trajectory(key, denoise, path, shape=(5, 2), **CHOICE)
  assert run.t.shape == (7,) and run.x.shape == (7, 5, 2) and run.denoised.shape == (6, 5, 2)
  np.testing.assert_allclose(
      samplers.sample(key, denoise, path, shape=(5, 2), **CHOICE), run.x[-1], atol=1e-6)
  nodes = levels.place_levels(CHOICE["grid"](path), path)
  np.testing.assert_allclose(run.t, nodes.t, atol=1e-7)
  for i in range(6):
    np.testing.assert_allclose(run.denoised[i], denoise(run.x[i], run.t[i]), atol=1e-5)
  # The first state is σ times standard noise, and `initial` replaces it.
  again = samplers.trajectory(key, denoise, path, shape=(5, 2), initial=run.x[0], **CHOICE)
  np.testing.assert_allclose(again.x, run.x, atol=1e-6)


def test_samplers_are_differentiable(x64):
  """In the starting state, and in what the denoiser closes over."""
  path = paths.vp()

  def of_mean(mean, initial):
    denoise = along(path, lambda x, ell: gaussian(x, ell, mean=mean))
    return samplers.sample(jax.random.key(0), denoise, path, shape=(2,), initial=initial,
                           method=samplers.heun(3.0), grid=samplers.karras(5)).sum()

  x = jnp.array([40.0, -9.0])
  by_mean, by_start = jax.jit(jax.grad(of_mean, (0, 1)))(0.4, x)
  value = jax.jit(of_mean)
  np.testing.assert_allclose(
      by_mean, (value(0.4 + 1e-4, x) - value(0.4 - 1e-4, x)) / 2e-4, rtol=1e-8)
  # For data N(m, S) a coordinate is m + r(z − m), so ∂/∂m = 1 − r where ∂/∂x = r/α.
  alpha = path.alpha(path.time(-np.log(80.0)))
  np.testing.assert_allclose(by_mean, np.sum(1 - alpha * by_start), rtol=1e-8)


def test_peak_memory_does_not_depend_on_the_number_of_steps():
  path = paths.vp()
  w_1, w_2 = jnp.ones((64, 512)) / 64, jnp.ones((512, 64)) / 512

  def denoise(x_t, t):
    return jnp.tanh(x_t @ w_1 * path.alpha(t)) @ w_2

  def temporary(function, steps):
    run = jax.jit(lambda key: function(key, denoise, path, shape=(512, 64),
                                       method=samplers.ddim(1.0), grid=samplers.karras(steps)))
    memory = run.lower(jax.random.key(0)).compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes

  few, many = (temporary(samplers.sample, steps) for steps in (10, 1000))
  assert few > 512 * 512 * 4 and abs(many / few - 1) < 0.01, (few, many)
  # The measurement can tell: all states of 1000 steps are kept only by `trajectory`.
  assert temporary(samplers.trajectory, 1000) > 20 * many
