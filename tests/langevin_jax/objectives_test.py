"""One loss: Table 6 and the published weights as values, noise-level densities, A.3 and A.4."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import LINE, NAMED_PATHS, round_law, round_mixture
from scipy import stats

from langevin_jax import mixtures, objectives, paths, predictions

ELLS = np.linspace(-2.0, 2.5, 7)


def coefficient(row, weight, ell):
  """What the loss multiplies (y − ŷ)² of the row's own value with, at one noise level.

  With clean data at 0 a network can be wrong by exactly 1: the target is b ε and x = σ ε.
  """
  def network(x, ells):
    frame = predictions.unit_frame(ells[0])
    return predictions.named(row)(frame)[1] * x / frame.sigma + 1.0

  level = objectives.Density(lambda u: jnp.full_like(u, ell), None)
  return objectives.loss(jax.random.key(0), network, jnp.zeros((1, 1)), density=level,
                         weight=weight, prediction=row)[0]


@pytest.mark.parametrize("name", NAMED_PATHS)
def test_table_6_is_one_weight_in_every_prediction(x64, name):
  """Maximum likelihood with t uniform in the path's own time: Table 6 and theory.md#loss."""
  path = NAMED_PATHS[name]
  weight = objectives.likelihood(objectives.uniform_time(path, rho_min=0.02, rho_max=70.0))

  @jax.jit
  @jax.vmap
  def at(ell):
    t = path.time(ell)
    alpha, sigma = path.alpha(t), path.sigma(t)
    speed, snr = jnp.abs(jax.grad(path.half_log_snr)(t)), (alpha / sigma) ** 2
    first, last = (path.time(-jnp.log(rho)) for rho in (0.02, 70.0))
    # Uniform t has density 1/(t₁ − t₀); the path's own score is the unit frame's over √(α² + σ²).
    own = {row: coefficient(row, weight, ell) / (last - first) for row in predictions.ROWS}
    own["score"] *= alpha**2 + sigma**2
    c_out_squared = sigma**2 / (sigma**2 + alpha**2)
    return own, {
        "eps": speed, "x0": speed * snr, "score": 0.5 * path.diffusion(t) ** 2,
        "edm": speed * c_out_squared * snr,
        **({"velocity": (1.0 - t) / t} if name == "rectified_flow" else {}),
        **({"v": speed * alpha**2} if name in ("vp", "linear_vp", "cosine") else {})}

  ours, published = at(jnp.asarray(ELLS))
  for prediction, expected in published.items():
    np.testing.assert_allclose(ours[prediction], expected, rtol=1e-10, err_msg=prediction)


def test_published_weights_in_their_own_predictions(x64):
  """Each as its paper writes it, on the value that its paper regresses."""
  density = objectives.log_normal_rho()
  snr, rho, ones = np.exp(2 * ELLS), np.exp(-ELLS), np.ones(7)
  pi = np.asarray(jax.jit(jax.vmap(density.density))(jnp.asarray(ELLS)))
  cases = {
      "min-SNR (Hang et al. 2023)": (
          "x0", objectives.min_snr(density, gamma=3.0), np.minimum(snr, 3.0)),
      "EDM's λ (Karras et al. 2022)": ("x0", objectives.edm(density), (rho**2 + 1) / rho**2),
      "EDM's λ at σ_d = ½": (
          "x0", objectives.edm(density, sigma_data=0.5), (rho**2 + 0.25) / (0.5 * rho) ** 2),
      "EDM on F": ("edm", objectives.edm(density), ones),
      "EDM on F at σ_d = ½": (
          predictions.edm(0.5), objectives.edm(density, sigma_data=0.5), ones),
      "simple (Ho et al. 2020)": ("eps", objectives.simple(density), ones),
      "flow matching (Liu et al. 2022)": ("velocity", objectives.flow_matching(density), ones),
      "P2 (Choi et al. 2022)": (
          "eps", objectives.p2(density, k=2.0, gamma=0.5), (2 + snr) ** -0.5),
      # These two are stated against dℓ: the loss draws from π, so π w is what is published.
      "sigmoid (Kingma & Gao 2023)": (
          "eps", objectives.sigmoid(density, bias=1.5), 1 / (1 + snr * np.exp(-1.5)) / pi),
      "likelihood": ("eps", objectives.likelihood(density), 1 / pi)}
  rows = [(row, weight) for row, weight, _ in cases.values()]
  ours = jax.jit(jax.vmap(lambda ell: [coefficient(*row, ell) for row in rows]))(jnp.asarray(ELLS))
  for value, (name, (_, _, published)) in zip(ours, cases.items(), strict=True):
    np.testing.assert_allclose(value, published, rtol=1e-11, err_msg=name)


DENSITIES = {
    "uniform_half_log_snr": objectives.uniform_half_log_snr,
    "normal": functools.partial(objectives.normal_half_log_snr, 0.5, 1.5),
    "log_normal_rho": objectives.log_normal_rho,
    "logit_normal_s": functools.partial(objectives.logit_normal_s, 0.3, 1.2),
    **{name: functools.partial(objectives.uniform_time, path)
       for name, path in NAMED_PATHS.items()}}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_is_the_derivative_of_its_quantile(x64, name):
  density = DENSITIES[name](rho_min=0.02, rho_max=60.0)
  low, high = -np.log(60.0), -np.log(0.02)
  u = jnp.linspace(0.001, 0.999, 101)

  @jax.jit
  def evaluate(u, ells):
    ell, slope = jax.vmap(jax.value_and_grad(density.quantile))(u)
    return (ell, slope * jax.vmap(density.density)(ell), jax.vmap(density.density)(ells),
            jax.vmap(density.quantile)(jnp.array([1e-15, 1.0 - 1e-15])))

  # 200-point Gauss–Legendre of a smooth density: exact to rounding.
  nodes, weights = np.polynomial.legendre.leggauss(200)
  half = 0.5 * (high - low)
  ell, product, values, ends = evaluate(u, jnp.asarray(low + half * (nodes + 1)))
  np.testing.assert_allclose(product, np.ones(101), rtol=1e-8)
  np.testing.assert_allclose(half * weights @ np.asarray(values), 1.0, rtol=1e-8)
  np.testing.assert_allclose(ends, [low, high], atol=1e-5)
  assert np.all(np.diff(ell) > 0)


def test_named_densities_are_the_published_laws(x64):
  """EDM's log ρ ~ N(−1.2, 1.2²), SD3's logit s ~ N(m, s²): medians and quartiles."""
  u = jnp.array([0.25, 0.5, 0.75])
  quartiles = stats.norm.ppf([0.25, 0.5, 0.75])
  log_rho = -jax.vmap(objectives.log_normal_rho().quantile)(u)[::-1]
  np.testing.assert_allclose(log_rho, -1.2 + 1.2 * quartiles, atol=1e-9)
  ell = jax.vmap(objectives.logit_normal_s(0.3, 0.8).quantile)(u)[::-1]
  s = paths.rectified_flow().time(ell)
  np.testing.assert_allclose(jnp.log(s / (1 - s)), 0.3 + 0.8 * quartiles, atol=1e-9)
  flow = objectives.uniform_time(paths.rectified_flow(), rho_min=1e-6, rho_max=1e6)
  s = paths.rectified_flow().time(jax.vmap(flow.quantile)(u))
  np.testing.assert_allclose(s, 1 - u, atol=1e-5)


def test_stratified_levels_cover_every_stratum_and_each_follows_the_law():
  n, repeats = 32, 2000
  density = objectives.normal_half_log_snr(0.3, 1.2)
  draw = jax.jit(jax.vmap(lambda key: objectives.stratified(key, n, density)))
  ells = np.asarray(draw(jax.random.split(jax.random.key(0), repeats)), np.float64)
  u = stats.norm.cdf((ells - 0.3) / 1.2)
  # A float32 quantile moves a draw across the edge of its stratum about once in 1e5.
  assert np.mean(np.floor(np.sort(u, axis=1) * n) == np.arange(n)) > 0.9999
  # Each place in the batch holds a draw of the law itself: Kolmogorov–Smirnov at 1e-4.
  for place in (0, 1, n - 1):
    assert stats.kstest(u[:, place], "uniform").pvalue > 1e-4
  # Rotated as a whole: example i is in the stratum after that of example i − 1, round the end.
  strata = np.floor(u * n).astype(int)
  assert np.mean((strata[:, 1:] - strata[:, :-1]) % n == 1) > 0.9998


def test_stratified_and_learned_levels_are_the_estimates_with_less_variance():
  """∫E‖ε − ε̂*‖² dℓ of the mixture from 64 examples, four ways (theory.md#densities-and-weights)

    iid 1.00, stratified .93, learned .70, both .69   (ρ .02 … 80).

  Learned iid levels reach the least that any density can: (∫√E[e²] dℓ)² − (∫E[e] dℓ)², over B.
  """
  ends, n, repeats = {"rho_min": 0.02, "rho_max": 80.0}, 64, 3000

  @jax.vmap
  def network(x, ell):
    frame = predictions.unit_frame(ell)
    denoised = round_law(LINE, x, frame.alpha, frame.sigma)[1]
    return (x - frame.alpha * denoised) / frame.sigma

  def batch(key, density, n):
    key_k, key_x, key_loss = jax.random.split(key, 3)
    weights, means, stds = (jnp.asarray(v, jnp.float32) for v in LINE)
    k = jax.random.choice(key_k, 3, (n,), p=weights)
    x_0 = means[k, 0] + stds[k] * jax.random.normal(key_x, (n,))
    return objectives.loss(key_loss, network, x_0[:, None], density=density,
                           weight=objectives.likelihood(density), prediction="eps")

  @jax.jit
  def learn(state, key):
    def observe(state, key):
      levels = batch(key, objectives.by_error(state), 512)[1]
      return objectives.observe(state, levels["half_log_snr"], levels["eps_error"]), None

    return jax.lax.scan(observe, state, jax.random.split(key, 300))[0]

  @jax.jit
  def estimates(state, key):
    # A floor that is nothing beside what was learned, for the theory's sake.
    density = objectives.by_error(state, floor=0.01)

    def one(key):
      alone = jax.vmap(lambda key: batch(key, density, 1)[0])(jax.random.split(key, n))
      return jnp.mean(alone), batch(key, density, n)[0]

    return jax.lax.map(one, jax.random.split(key, repeats), batch_size=500)

  empty = objectives.histogram(48, **ends)  # uniform in ℓ
  state = learn(empty, jax.random.key(0))
  values = np.concatenate([
      estimates(empty, jax.random.key(1)), estimates(state, jax.random.key(2))])
  iid, stratified, learned, both = values.std(1)
  # All are unbiased estimates of one integral, and 3000 repeats know a deviation to 1.3 %.
  error = np.hypot(iid, stratified) / np.sqrt(repeats)
  assert np.all(np.abs(values.mean(1) - values.mean()) < 5 * error), values.mean(1)
  width = float(state.width) / len(state.mass)
  second = np.asarray(state.squares / state.mass)
  least = np.sqrt(((width * np.sqrt(second).sum()) ** 2 - values.mean() ** 2) / n)
  assert abs(learned / least - 1) < 0.06, (learned, least)
  assert stratified < 0.95 * iid, (stratified, iid)
  assert learned < 0.75 * iid and both < 0.8 * stratified, values.std(1)
  assert both < 1.04 * learned, "strata cost nothing where little is left to gain"


def test_a_learned_density_whatever_it_was_taught(x64):
  """Quantile and density agree; bins unseen are the seen ones' mean; what is infinite is dropped.
  """
  ends = {"rho_min": 0.1, "rho_max": 10.0}
  low, width = -np.log(10.0), 2 * np.log(10.0)
  empty = objectives.histogram(4, **ends)
  # Bins 0, 1 and 3: mean squares 9, 1 and 4; an error that overflowed leaves no trace.
  ells = jnp.asarray(low + width * np.array([0.1, 0.3, 0.9, 0.95, 0.2]))
  taught = objectives.observe(empty, ells, jnp.array([3.0, 1.0, 0.0, np.sqrt(8.0), np.inf]))
  later = objectives.observe(taught, ells[:1], jnp.array([6.0]), memory=1 / np.log(2))
  shares = {"empty": (empty, [0.25] * 4), "taught": (taught, np.array([3, 1, 2, 2]) / 8)}
  half = np.sqrt((9 / 2 + 36) / 1.5)  # the older square counts half
  shares["later"] = later, np.array([half, 1, (half + 3) / 3, 2]) / (half + 3 + (half + 3) / 3)
  floor = 0.2

  @jax.jit
  def look(state):
    density = objectives.by_error(state, floor=floor)
    u = jnp.linspace(0.011, 0.987, 33)  # an edge is a kink
    ell, slope = jax.vmap(jax.value_and_grad(density.quantile))(u)
    middles = low + width * (jnp.arange(4) + 0.5) / 4
    return (slope * jax.vmap(density.density)(ell), jax.vmap(density.density)(middles),
            density.quantile(jnp.array([0.0, 1.0])), density.density(jnp.array([-5.0, 5.0])))

  for name, (state, share) in shares.items():
    product, values, reached, outside = look(state)
    np.testing.assert_allclose(product, np.ones(33), rtol=1e-10, err_msg=name)
    expected = ((1 - floor) * np.asarray(share) + floor / 4) * 4 / width
    np.testing.assert_allclose(values, expected, rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(reached, [low, low + width], atol=1e-12)
    np.testing.assert_array_equal(outside, [0.0, 0.0])


def perturbed(theta, x, alpha, sigma):
  """A wrong denoiser with one parameter, the same function whatever the row."""
  denoised = round_mixture(LINE).denoise(x, alpha, sigma)
  return denoised + theta * jnp.sin(2.0 * x / jnp.hypot(alpha, sigma))


def test_what_the_network_predicts_changes_neither_loss_nor_gradient(x64):
  """The same function through every row: one number, and one gradient (only conditioning differs).
  """
  density = objectives.uniform_half_log_snr(rho_min=0.05, rho_max=20.0)
  x_0 = round_mixture(LINE).sample(jax.random.key(0), 256)

  def value(theta, row):
    def one(x, ell):
      frame = predictions.unit_frame(ell)
      a, b = row(frame)
      denoised = perturbed(theta, x, frame.alpha, frame.sigma)
      return a * denoised + b * (x - frame.alpha * denoised) / frame.sigma

    total, levels = objectives.loss(
        jax.random.key(1), jax.vmap(one), x_0, density=density,
        weight=objectives.sigmoid(density, bias=1.0), prediction=row)
    return total, levels["eps_error"]

  rows = [*predictions.ROWS.values(), predictions.edm(0.5)]
  results = jax.jit(lambda theta: [
      jax.value_and_grad(value, has_aux=True)(theta, row) for row in rows])(0.3)
  (loss, error), gradient = results[1]
  assert loss > 0.1 and abs(gradient) > 0.1
  for (other, other_error), other_gradient in results:
    np.testing.assert_allclose(other, loss, rtol=1e-11)
    np.testing.assert_allclose(other_error, error, rtol=1e-9)
    np.testing.assert_allclose(other_gradient, gradient, rtol=1e-11)


def test_loss_is_the_weighted_mean_of_what_it_reports(x64):
  density = objectives.logit_normal_s()
  weight = objectives.min_snr(density)
  x_0 = jax.random.normal(jax.random.key(0), (64, 2, 3))
  total, levels = jax.jit(lambda key: objectives.loss(
      key, lambda x, ells: jnp.tanh(x), x_0, density=density, weight=weight, prediction="v"))(
          jax.random.key(1))
  assert levels["half_log_snr"].shape == levels["eps_error"].shape == (64,)
  expected = jnp.mean(jax.vmap(weight)(levels["half_log_snr"]) * levels["eps_error"])
  np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_denoising_score_matching_is_score_matching_and_a_constant(x64):
  """DSM − SM = C for any network (A.4): in ε-units C = mmse/ρ²; as z-scores d/ρ² − E‖s‖²."""
  model, theta, n = round_mixture(LINE), 0.3, 20_000

  @jax.jit
  def integrals(rho, x_0, eps, z):
    wrong = lambda z: perturbed(theta, z[..., None], 1.0, rho)[..., 0]
    joint = (jnp.exp(model.log_prob(x_0[:, None]))[:, None]
             * jnp.exp(-0.5 * eps**2)[None] / jnp.sqrt(2 * jnp.pi))
    joint *= (x_0[1] - x_0[0]) * (eps[1] - eps[0])
    state = x_0[:, None] + rho * eps[None]
    dsm = jnp.sum(joint * ((state - wrong(state)) / rho - eps[None]) ** 2)
    p = jnp.exp(model.log_prob(z[:, None], 1.0, rho)) * (z[1] - z[0])
    exact, slope = jax.jvp(
        lambda z: model.denoise(z[:, None], 1.0, rho)[:, 0], (z,), (jnp.ones_like(z),))
    sm = jnp.sum(p * (wrong(z) - exact) ** 2) / rho**2
    # mmse = ρ² E ∂D/∂z: not by way of the two integrals that are being compared.
    mmse = rho**2 * jnp.sum(p * slope)
    return dsm, sm, mmse, jnp.sum(p * model.score(z[:, None], 1.0, rho)[:, 0] ** 2)

  @jax.jit
  def monte_carlo(key, rho, x_0):
    level = objectives.Density(lambda u: jnp.full_like(u, -jnp.log(rho)), None)

    def network(x, ells):
      frame = predictions.unit_frame(ells[0])
      return (x - frame.alpha * perturbed(theta, x / frame.alpha, 1.0, rho)) / frame.sigma

    return objectives.loss(key, network, x_0, density=level, weight=objectives.simple(level),
                           prediction="eps")

  x_0 = jax.jit(lambda key: model.sample(key, n))(jax.random.key(1))
  for rho in (0.1, 0.5, 2.0):
    axes = (np.linspace(-4.5, 4.5, 801), np.linspace(-7, 7, 301),
            np.linspace(-5 - 7 * rho, 5 + 7 * rho, 4001))
    dsm, sm, mmse, score_squared = integrals(rho, *map(jnp.asarray, axes))
    assert sm > 1e-2
    # Trapezoidal rules of analytic densities; the tails left out weigh 1e-12.
    np.testing.assert_allclose(dsm - sm, mmse / rho**2, atol=1e-6)
    np.testing.assert_allclose(1 / rho**2 - score_squared, mmse / rho**4, atol=1e-6)
    # And the loss is that integral, to five standard errors.
    loss, levels = monte_carlo(jax.random.key(0), rho, x_0)
    assert abs(loss - dsm) < 5 * np.std(levels["eps_error"]) / np.sqrt(n)


def test_kl_falls_at_the_rate_of_the_loss(x64):
  """A.3: d KL(p‖q)/dℓ = ρ² E‖s_p − s_q‖² in z, and −g²/2 E‖s_p − s_q‖² in the path's own time."""
  p = round_mixture(LINE)
  q = mixtures.Mixture(jnp.array([0.5, 0.5]), jnp.array([[-0.8], [1.0]]),
                       jnp.array([0.5, 0.6])[:, None, None] ** 2)

  def kl(alpha, sigma, x, cell):
    log_p = p.log_prob(x[:, None], alpha, sigma)
    return cell * jnp.sum(jnp.exp(log_p) * (log_p - q.log_prob(x[:, None], alpha, sigma)))

  def fisher(alpha, sigma, x, cell):
    gap = p.score(x[:, None], alpha, sigma) - q.score(x[:, None], alpha, sigma)
    return cell * jnp.sum(jnp.exp(p.log_prob(x[:, None], alpha, sigma)) * gap[:, 0] ** 2)

  path = paths.rectified_flow()

  @jax.jit
  def rates(ell, x, cell):
    rho, t = jnp.exp(-ell), path.time(ell)
    in_ell = jax.grad(lambda ell: kl(1.0, jnp.exp(-ell), x, cell))(ell)
    in_t = jax.grad(lambda t: kl(path.alpha(t), path.sigma(t), x, cell))(t)
    own = fisher(path.alpha(t), path.sigma(t), x, cell)
    return in_ell, rho**2 * fisher(1.0, rho, x, cell), in_t, -0.5 * path.diffusion(t) ** 2 * own

  for ell in (-0.5, 0.0, 1.0, 2.0):
    half_width = 3.5 + 7 * np.exp(-ell)
    x, cell = np.linspace(-half_width, half_width, 2001, retstep=True)
    in_ell, loss_rate, in_t, own_rate = rates(ell, jnp.asarray(x), cell)
    assert loss_rate > 1e-4
    np.testing.assert_allclose(in_ell, loss_rate, atol=1e-6)
    np.testing.assert_allclose(in_t, own_rate, atol=1e-6)


def test_bad_input_is_named():
  for make in DENSITIES.values():
    for ends in ({"rho_min": 2.0, "rho_max": 1.0}, {"rho_min": 0.0, "rho_max": 1.0},
                 {"rho_min": 1.0, "rho_max": 1.0}):
      with pytest.raises(ValueError, match="rho_min"):
        make(**ends)
  for std in (0.0, -1.0):
    with pytest.raises(ValueError, match="std"):
      objectives.normal_half_log_snr(0.0, std)
  for bins in (0, -2):
    with pytest.raises(ValueError, match="bins"):
      objectives.histogram(bins)
  with pytest.raises(ValueError, match="memory"):
    objectives.observe(objectives.histogram(), jnp.zeros(1), jnp.zeros(1), memory=0.0)
  for floor in (0.0, 1.5):
    with pytest.raises(ValueError, match="floor"):
      objectives.by_error(objectives.histogram(), floor=floor)


def test_a_learned_density_needs_no_implicit_promotion():
  with jax.numpy_dtype_promotion("strict"):
    state = objectives.observe(
        objectives.histogram(4), jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0]))
    density = objectives.by_error(state)
    ell = density.quantile(jnp.array(0.3))
    assert np.isfinite(ell) and density.density(ell) > 0.0


def test_the_linear_loss_is_that_of_the_best_linear_denoiser():
  """Against `loss` of the exact denoiser of a Gaussian, which is linear; one variance is 0."""
  variances = np.array([2.5, 0.3, 0.0], np.float32)
  density = objectives.logit_normal_s(0.2, 1.1)

  def network(x, ells):
    frame = jax.vmap(predictions.unit_frame)(ells)
    alpha, sigma = frame.alpha[:, None], frame.sigma[:, None]
    denoised = alpha * variances[None] / (alpha**2 * variances[None] + sigma**2) * x
    return alpha * (x - alpha * denoised) / sigma - sigma * denoised

  for weight in (objectives.flow_matching(density), objectives.edm(density)):
    x = jax.random.normal(jax.random.key(0), (200_000, 3)) * np.sqrt(variances)[None]
    value, _ = jax.jit(lambda x, weight=weight: objectives.loss(
        jax.random.key(1), network, x, density=density, weight=weight, prediction="v"))(x)
    linear = objectives.linear_loss(variances, density=density, weight=weight)
    # 600,000 squares of a few units each: σ of about 3e-3.
    np.testing.assert_allclose(linear, value, rtol=1e-2)
  with pytest.raises(ValueError, match=r"variances must have shape \(d,\)"):
    objectives.linear_loss(np.eye(2), density=density, weight=weight)


def test_uniform_time_up_to_pure_noise():
  """rho_max = ∞ of rectified flow: s is uniform on (0, 1), and π(ℓ) = s(1 − s)."""
  density = objectives.uniform_time(paths.rectified_flow(), rho_min=1e-4, rho_max=np.inf)
  s = jax.nn.sigmoid(-jax.vmap(density.quantile)(jnp.array([0.1, 0.5, 0.9])))
  np.testing.assert_allclose(s, [0.9, 0.5, 0.1], atol=2e-4)
  np.testing.assert_allclose(density.density(jnp.float32(1.0)), 0.196612, rtol=2e-4)
  with pytest.raises(ValueError, match="rho_max must be finite"):
    objectives.uniform_half_log_snr(rho_max=np.inf)


def test_the_numbers_of_a_density_may_be_arrays_or_traced():
  """Arrays made inside jit, traced numbers that are differentiated, and a check of the others."""
  def quantile(mean, std, rho_min):
    return objectives.log_normal_rho(mean, std, rho_min=rho_min).quantile(jnp.float32(0.5))

  inside = jax.jit(lambda: quantile(jnp.float32(-1.2), jnp.float32(1.2), jnp.float32(1e-4)))
  np.testing.assert_allclose(inside(), 1.2, rtol=1e-5)
  np.testing.assert_allclose(jax.jit(jax.grad(quantile))(-1.2, 1.2, 1e-4), -1.0, rtol=1e-5)
  with pytest.raises(ValueError, match="std"):
    quantile(-1.2, jnp.float32(-1.0), 1e-4)


@pytest.mark.parametrize("make", [
    lambda v: objectives.edm(None, sigma_data=v), lambda v: objectives.min_snr(None, gamma=v),
    lambda v: objectives.p2(None, k=v), lambda v: objectives.p2(None, gamma=v),
    lambda v: objectives.sigmoid(objectives.log_normal_rho(), bias=v)])
def test_the_numbers_of_a_weight_may_be_arrays_or_traced(make):
  weigh = lambda v: make(v)(jnp.float32(0.3))
  expected, value = weigh(2.0), jnp.float32(2.0)
  for found in (weigh(value), jax.jit(lambda: weigh(value))(), jax.jit(weigh)(value)):
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert np.isfinite(jax.grad(weigh)(value))


@pytest.mark.parametrize("make", [
    lambda v: objectives.edm(None, sigma_data=v), lambda v: objectives.min_snr(None, gamma=v),
    lambda v: objectives.p2(None, k=v), lambda v: objectives.p2(None, gamma=v),
    lambda v: objectives.sigmoid(None, bias=v), objectives.log_normal_rho,
    lambda v: objectives.normal_half_log_snr(0.0, v),
    lambda v: objectives.uniform_half_log_snr(rho_max=v),
    lambda v: objectives.learned(floor=v), lambda v: objectives.learned(memory=v)])
def test_a_number_that_is_none_is_named(make):
  with pytest.raises(ValueError, match="must be a number, got '1'"):
    make("1")


NET_MESSAGE = r"network must return floats in the shape \(4, 2\) of the state, got {}"


@pytest.mark.parametrize(("options", "message"), [
    ({"network": lambda x, ells: x[:, :1]}, NET_MESSAGE.format(r"float32 of shape \(4, 1\)")),
    ({"network": lambda x, ells: 1.0}, NET_MESSAGE.format(r"float32 of shape \(\)")),
    ({"network": lambda x, ells: x.astype(int)}, NET_MESSAGE.format("int32")),
    ({"network": lambda x, ells: x + 0j}, NET_MESSAGE.format("complex64")),
    ({"weight": 1.0}, "weight must be a function.*got 1.0"),
    ({"weight": objectives.edm}, "call it with the density"),
    ({"density": objectives.log_normal_rho}, "density must be.*log_normal_rho: call it"),
    ({"density": 2.0}, "density must be.*got 2.0"),
    ({"prediction": predictions.edm}, "call edm"),
    ({"prediction": 3}, "prediction must be one of"),
    ({"prediction": "noise"}, "prediction must be one of"),
])
def test_what_a_loss_is_given_is_checked(options, message):
  density = objectives.uniform_half_log_snr()
  options = {"network": lambda x, ells: x, "density": density, "prediction": "v",
             "weight": objectives.simple(density), **options}
  network = options.pop("network")
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda x: objectives.loss(jax.random.key(0), network, x, **options),
                   jax.ShapeDtypeStruct((4, 2), jnp.float32))


def test_a_half_precision_network_has_a_loss_in_the_datas_precision():
  density = objectives.uniform_half_log_snr()
  for dtype in (jnp.bfloat16, jnp.float16):
    loss, parts = jax.eval_shape(lambda x, dtype=dtype: objectives.loss(
        jax.random.key(0), lambda x, ells: x.astype(dtype), x, density=density,
        weight=objectives.simple(density), prediction="v"), jax.ShapeDtypeStruct((4, 2), "float32"))
    assert loss.dtype == parts["eps_error"].dtype == jnp.float32
