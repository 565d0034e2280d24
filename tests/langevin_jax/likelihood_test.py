"""Likelihoods of the probability-flow ODE and bits of discrete data, against exact densities."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import LINE, round_law
from scipy import stats

from langevin_jax import likelihood, mixtures, paths, predictions
from langevin_jax.likelihood import flow, prior

RHO_MIN = 0.05


WEIGHTS, STDS = np.full(3, 1 / 3), np.array([0.5, 0.35, 0.25])
ANGLES = 0.3 + 2 * np.pi / 3 * np.arange(3)
# Mean 0 and covariance I exactly: the prior at ρ_max = 80 is then wrong by 1e-6 only.
RADIUS = np.sqrt(2 * (1 - np.mean(STDS**2)))
MEANS = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


LAW = WEIGHTS, MEANS, STDS


def blurred_log_prob(x):
  return round_law(LAW, np.asarray(x, np.float64), 1.0, RHO_MIN)[0]


def denoiser(path):
  """The law's denoiser as a plain function of states and times."""
  return lambda x_t, t: round_law(LAW, x_t, path.alpha(t), path.sigma(t))[1]


def log_probs(path, x, *, key=None, **options):
  key = jax.random.key(0) if key is None else key
  denoise = denoiser(path)
  run = lambda x: likelihood.log_prob(key, denoise, path, x, rho_min=RHO_MIN, **options)
  return jax.jit(jax.vmap(run))(x)


def points(n: int = 64) -> np.ndarray:
  """Draws of the mixture."""
  rng = np.random.default_rng(0)
  k = rng.integers(0, 3, n)
  return MEANS[k] + STDS[k, None] * rng.standard_normal((n, 2))


def test_log_prob_of_an_exact_mixture_at_order_four(x64):
  """64 RK4 steps: within 1e-4 nats of the mixture blurred by ρ_min (theory.md#likelihood)."""
  x = points()
  exact = blurred_log_prob(x)
  errors = {steps: np.abs(log_probs(paths.rectified_flow(), x, steps=steps) - exact).max()
            for steps in (32, 64)}
  assert errors[64] < 1e-4, errors
  # Halving the step divides the error of order four by 16.
  assert errors[64] < errors[32] / 8, errors


def test_gaussian_data_of_any_shape(x64):
  """N(0, 1) data: the prior is exact, and so is the answer but for RK4."""
  path, x = paths.vp(), jax.random.normal(jax.random.key(2), (2, 3))

  def denoise(x_t, t):
    alpha, sigma = path.alpha(t), path.sigma(t)
    return alpha / (alpha**2 + sigma**2) * x_t

  run = jax.jit(lambda x: likelihood.log_prob(jax.random.key(0), denoise, path, x, rho_min=0.01))
  var = 1 + 0.01**2
  expected = -0.5 * jnp.sum(x**2) / var - 3.0 * jnp.log(2 * jnp.pi * var)
  np.testing.assert_allclose(run(x), expected, atol=1e-4)


def test_its_gradient_is_the_score(x64):
  path, x = paths.rectified_flow(), points(4)
  denoise = denoiser(path)
  gradient = jax.jit(jax.vmap(jax.grad(
      lambda x: likelihood.log_prob(jax.random.key(0), denoise, path, x, rho_min=RHO_MIN))))(x)
  # Ten times the error of the value itself: the error varies over distances of a tenth.
  score = jax.grad(lambda x: jnp.sum(round_law(LAW, x, 1.0, RHO_MIN)[0]))(jnp.asarray(x))
  np.testing.assert_allclose(gradient, score, atol=1e-3)


def test_float32_is_good_to_a_thousandth():
  path = paths.vp()
  x = points(32).astype(np.float32)
  denoise = denoiser(path)
  values = jax.jit(jax.vmap(lambda x: likelihood.log_prob(
      jax.random.key(0), denoise, path, x, rho_min=RHO_MIN)))(x)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(values, blurred_log_prob(x), atol=1e-3)


def gaussian(mean, var, path=None) -> predictions.Denoiser:
  """E[x₀ | x] of N(mean, var) data, entries independent."""
  def at(x, ell):
    frame = predictions.unit_frame(ell)
    spread = frame.alpha**2 * var + frame.sigma**2
    return mean + frame.alpha * var / spread * (x - frame.alpha * mean)

  return predictions.Denoiser(at, paths.vp() if path is None else path)


def test_a_denoiser_gives_the_same_digits_along_every_path():
  """It is called at unit scale and ℓ: the path only says where the noise ends."""
  x = jax.random.normal(jax.random.key(0), (4, 3))
  values = [np.asarray(jax.jit(lambda x, path=path: likelihood.log_prob(
      jax.random.key(0), gaussian(0.3, 0.5, path), path, x, batch_axes=1, steps=8))(x))
      for path in (paths.vp(), paths.ve(), paths.rectified_flow(), paths.linear_vp())]
  for value in values[1:]:
    np.testing.assert_array_equal(value, values[0])


def test_moments_make_the_prior_right(x64):
  """N(m, S + ρ²) instead of N(0, 1 + ρ²): KL(p‖prior) at ρ = 20 from 1e-5 to 2.5e-11."""
  weights, means, stds = LINE[0], LINE[1][:, 0], LINE[2]
  mean = weights @ means
  var = weights @ (stds**2 + means**2) - mean**2
  z, cell = np.linspace(-180.0, 180.0, 8001, retstep=True)
  p = stats.norm.pdf(z[:, None], means, np.hypot(stds, 20.0)) @ weights
  kl = lambda moments: cell * np.sum(p * (np.log(np.maximum(p, 1e-300)) - prior.log_prob(
      jnp.asarray(z)[:, None], 20.0, moments, 1)))
  assert 5e-6 < kl(None) < 5e-5
  np.testing.assert_allclose(kl((mean, var)), 2.5e-11, rtol=0.05)


def test_gradients_reach_the_model_and_the_data(x64):
  """Gaussian data, any ρ_max: ∂ log q/∂m = (x − m)/(S + ρ_min²) = −∂ log q/∂x, adaptive or not."""
  var, x = np.array([0.5, 2.0]), np.array([[0.4, -1.0], [1.5, 0.3]])
  mean = np.array([0.2, -0.3])
  key = jax.random.key(0)

  def total(mean, x, **options):
    return jnp.sum(likelihood.log_prob(
        key, gaussian(mean[None], var[None]), paths.vp(), x, batch_axes=1, moments=(mean, var),
        rho_min=0.1, rho_max=3.0, **options))

  # The Jacobian is diagonal: one Rademacher probe finds its trace exactly.
  for options in ({"divergence": "hutchinson"}, {"tolerance": 1e-7}):
    value, gradients = jax.jit(jax.value_and_grad(
        lambda mean, x, options=options: total(mean, x, **options), (0, 1)))(mean, x)
    expected = stats.norm.logpdf(x, mean, np.sqrt(var + 0.01))
    pull = (x - mean) / (var + 0.01)
    np.testing.assert_allclose(value, expected.sum(), atol=1e-5)
    np.testing.assert_allclose(gradients[0], pull.sum(0), atol=1e-4)
    np.testing.assert_allclose(gradients[1], -pull, atol=1e-4)


def test_a_batch_is_its_examples(x64):
  """One call of the model for all; each example's probe is its own key's."""
  def at(x, ell):
    turned = jnp.stack([x[..., 1, :], x[..., 0, :] * x[..., 1, :]], -2)
    return jnp.tanh(x + turned) * jnp.exp(-0.1 * ell)

  x, keys = jax.random.normal(jax.random.key(0), (3, 2, 4)), jax.random.split(jax.random.key(1), 3)
  run = lambda key, x, **options: likelihood.log_prob(
      key, predictions.Denoiser(at, paths.vp()), paths.vp(), x, steps=4, **options)

  @jax.jit
  def both(keys, x):
    probed, all_at_once = {"divergence": "hutchinson"}, {"chunk": None}
    together = [run(keys, x, batch_axes=1, **probed), run(keys, x, batch_axes=1, **all_at_once),
                run(keys, x, batch_axes=1, chunk=3)]
    alone = [jax.vmap(lambda key, x, o=o: run(key, x, **o))(keys, x) for o in (probed, all_at_once)]
    return together, alone

  (probed, exact, chunked), alone = both(keys, x)
  assert probed.shape == (3,) and np.abs(probed - exact).min() > 1e-3
  np.testing.assert_allclose(probed, alone[0], rtol=1e-12)
  np.testing.assert_allclose(exact, alone[1], rtol=1e-12)
  np.testing.assert_allclose(chunked, exact, rtol=1e-12)


def test_a_hutchinson_call_costs_a_call_and_a_push():
  """Two networks' arithmetic for each call of the model (score and trace), not a third."""
  net = jax.random.normal(jax.random.key(0), (3, 64, 64)) / 8.0

  def at(x, ell):
    for layer in net:
      x = jnp.tanh(x @ layer)
    return x

  # XLA counts the body of a loop once, and the loops' body holds one call.
  count = lambda f: jax.jit(f).lower(jnp.zeros((32, 64))).compile().cost_analysis()["flops"]
  ours = count(lambda x: likelihood.log_prob(
      jax.random.key(0), predictions.Denoiser(at, paths.vp()), paths.vp(), x, batch_axes=1,
      divergence="hutchinson"))
  bare = count(lambda x: at(x, 0.0))
  assert 1.9 < ours / bare < 2.3, ours / bare


def test_an_adaptive_solve_keeps_its_tolerance_or_says_so(x64):
  """Errors of the order of the local tolerance; too few steps raise, or are NaN when traced."""
  x, path = points(8), paths.vp()
  denoise = denoiser(path)
  run = lambda x, tolerance, max_steps, denoise=denoise: likelihood.log_prob(
      jax.random.key(0), denoise, path, x, rho_min=RHO_MIN, tolerance=tolerance,
      max_steps=max_steps)
  # The second is below rounding: no step passes.
  tight, never = jax.jit(jax.vmap(lambda tolerance: jax.vmap(
      lambda x: run(x, tolerance, 200))(x)))(jnp.array([1e-8, 1e-30]))
  # The prior's own error is 1e-6; a hundred steps may each add their tolerance.
  np.testing.assert_allclose(tight, blurred_log_prob(x), atol=3e-6)
  assert np.all(np.isnan(never))
  with pytest.raises(ValueError, match="max_steps=3"):
    run(jnp.ones(1), 1e-8, 3, gaussian(0.0, 1.0))


def test_exact_divergence_of_what_does_not_fit_is_refused():
  """Named before anything is computed; a chunk or a probe is the remedy."""
  side = int(np.sqrt(flow.TANGENT_LIMIT_BYTES / 4)) + 1
  run = lambda x, **options: jax.eval_shape(lambda x: likelihood.log_prob(
      jax.random.key(0), lambda x, t: x, paths.vp(), x, **options), x)
  x = jax.ShapeDtypeStruct((side,), jnp.float32)
  with pytest.raises(ValueError, match=f"{side} dimensions.*hutchinson"):
    run(x)
  assert run(x, chunk=8).shape == run(x, divergence="hutchinson").shape == ()
  with pytest.raises(ValueError, match="dimensions"):
    run(jax.ShapeDtypeStruct((9, side // 2), jnp.float32), batch_axes=1)


def test_dequantised_data_are_bounded_by_the_discrete_law():
  """Cells of a Gaussian: E log q(y) falls short of log P by what quadrature says, K draws by less.

  Units change on the way: levels 5 apart, standardised by a mean and a scale.
  """
  step, mean, scale, n = 5.0, 100.0, 8.0, 40_000
  levels = mean + step * np.arange(-12, 13) + 1.0
  edges = (levels[:, None] + step * np.array([-0.5, 0.5]) - mean) / scale
  chance = np.diff(stats.norm.cdf(edges), axis=1)[:, 0]
  u = (np.arange(2000) + 0.5) / 2000
  density = stats.norm.logpdf(edges[:, :1] + (step / scale) * u)
  entropy = -(chance @ np.log2(chance))
  expected = -(chance @ (density.mean(1) + np.log(step / scale))) / np.log(2)
  assert 0.02 < expected - entropy < 0.05
  rng = np.random.default_rng(0)
  x = rng.choice(levels, n, p=chance / chance.sum())

  @jax.jit
  def bits(keys):
    y = jax.vmap(lambda key: likelihood.dequantise(key, x, step=step, mean=mean, scale=scale))(keys)
    log_q = jax.scipy.stats.norm.logpdf(y)
    in_bits = lambda log_q: likelihood.bits_per_dim(log_q, 1, step=step, scale=scale)
    return in_bits(log_q[0]), in_bits(likelihood.log_mean_exp(log_q))

  one, many = (np.asarray(v) for v in bits(jax.random.split(jax.random.key(0), 16)))
  error = one.std() / np.sqrt(n)
  assert abs(one.mean() - expected) < 4 * error
  # Against the exact code length of the same draws, which takes the noise of the data away.
  excess = many + np.log2(chance)[np.searchsorted(levels, x)]
  assert 0.0 < excess.mean() < 0.1 * (expected - entropy)
  assert excess.mean() < one.mean() + np.log2(chance)[np.searchsorted(levels, x)].mean()


def test_bits_per_dim_of_many_dimensions(x64):
  """Uniform grey levels cost log₂ 256 bits, in any units; scales by channel count in the mean."""
  scale = np.array([40.0, 60.0, 90.0])
  y = np.asarray(likelihood.dequantise(
      jax.random.key(0), jnp.zeros((2, 4, 4, 3), jnp.uint8), mean=127.5, scale=scale))
  assert y.shape == (2, 4, 4, 3)
  cell = (np.array([-0.5, 0.5])[:, None] - 127.5) / scale
  assert np.all(y >= cell[0]) and np.all(y <= cell[1])
  log_q = -16 * np.log(256.0 / scale).sum()  # the uniform density over all 256 cells
  np.testing.assert_allclose(likelihood.bits_per_dim(log_q, 48, scale=scale), 8.0, rtol=1e-12)
  np.testing.assert_allclose(  # the same data in [0, 1], 1/255 apart
      likelihood.bits_per_dim(log_q, 48, step=1 / 255, scale=scale / 255), 8.0, rtol=1e-12)


def test_bad_input_is_named():
  path = paths.vp()
  run = lambda **options: likelihood.log_prob(
      jax.random.key(0), lambda x, t: x, path, jnp.zeros(2), **options)
  with pytest.raises(ValueError, match="steps"):
    run(steps=0)
  for low, high in ((1.0, 0.5), (0.0, 1.0), (1.0, 1.0)):
    with pytest.raises(ValueError, match="rho_min"):
      run(rho_min=low, rho_max=high)
  with pytest.raises(ValueError, match="divergence"):
    run(divergence="trace")
  for options, name in (({"tolerance": 0.0}, "tolerance"), ({"max_steps": 0}, "max_steps"),
                        ({"chunk": 0}, "chunk"), ({"batch_axes": 2}, "batch_axes"),
                        ({"moments": (0.0, -1.0)}, "variances"),
                        ({"moments": (np.zeros(3), 1.0)}, "moments"),
                        ({"rho_min": 1e9, "rho_max": 2e9}, "noisiest")):
    with pytest.raises(ValueError, match=name):
      run(**options) if name != "noisiest" else likelihood.log_prob(
          jax.random.key(0), lambda x, t: x, paths.ve(), jnp.zeros(2), **options)
  with pytest.raises(ValueError, match="keys of shape"):
    likelihood.log_prob(jax.random.split(jax.random.key(0), 3), lambda x, t: x, path,
                        jnp.zeros((2, 2)), batch_axes=1, divergence="hutchinson")
  with pytest.raises(ValueError, match="dims"):
    likelihood.bits_per_dim(0.0, 0)
  for options in ({"step": 0.0}, {"scale": np.array([1.0, -1.0])}):
    with pytest.raises(ValueError, match="must be positive"):
      likelihood.dequantise(jax.random.key(0), jnp.zeros(2), **options)
  with pytest.raises(ValueError, match="levels"):
    likelihood.decoder(jnp.zeros((2, 2)))


def test_a_covariance_of_the_data_makes_the_prior_exact(x64):
  """N(m, C) data: log q is the density of N(m, C + ρ_min²) at every ρ_max, and ∂/∂C is finite."""
  mean, cov = np.array([0.2, -0.3]), np.array([[1.0, 0.6], [0.6, 2.0]])
  model = mixtures.Mixture(jnp.ones(1), jnp.asarray(mean)[None], jnp.asarray(cov)[None])
  x, path = np.array([[0.4, -1.0], [1.5, 0.3]]), paths.vp()
  expected = stats.multivariate_normal.logpdf(x, mean, cov + 0.01 * np.eye(2))
  given = jax.jit(lambda cov: likelihood.log_prob(
      jax.random.key(0), mixtures.denoiser(model, path), path, jnp.asarray(x), batch_axes=1,
      moments=(mean, cov), rho_min=0.1, rho_max=2.0))(cov)
  np.testing.assert_allclose(given, expected, atol=1e-5)
  # The average over noise of variance v: E log N(z + √v ξ) = log N(z) − v tr(Σ⁻¹)/2.
  total = cov + 4.0 * np.eye(2)
  np.testing.assert_allclose(
      prior.log_prob(jnp.asarray(x), 2.0, (mean, cov), 1, extra=0.3),
      stats.multivariate_normal.logpdf(x, mean, total) - 0.15 * np.trace(np.linalg.inv(total)))
  # A diagonal one is its variances.
  np.testing.assert_allclose(
      prior.log_prob(jnp.asarray(x), 2.0, (mean, np.diag([0.5, 2.0])), 1, extra=0.3),
      prior.log_prob(jnp.asarray(x), 2.0, (mean, np.array([0.5, 2.0])), 1, extra=0.3), rtol=1e-12)


def test_more_probes_err_less(x64):
  """Two dimensions: one probe errs by ±c, the mean of K by c/√K; chunks change nothing."""
  def at(x, ell):
    return jnp.tanh(jnp.stack([x[..., 1], x[..., 0] + x[..., 1]], -1)) * jnp.exp(-0.1 * ell)

  path, x = paths.vp(), jnp.array([[0.3, -0.4], [1.0, 0.2]])
  run = lambda key, **options: likelihood.log_prob(
      key, predictions.Denoiser(at, path), path, x, steps=2, batch_axes=1, **options)
  probed = lambda key, n, **options: run(key, divergence="hutchinson", probes=n, **options)

  @jax.jit
  def all_of_them(keys):
    many = jax.vmap(lambda key: (probed(key, 1), probed(key, 64)))(keys)
    return *many, probed(keys[0], 64, chunk=5), run(keys[0])

  one, many, chunked, exact = all_of_them(jax.random.split(jax.random.key(0), 12))
  for values, exact_i in zip(one.T, exact, strict=True):
    # In the plane there are two Rademacher probes up to sign; their mean is the exact trace.
    values = np.unique(np.round(values, 11))
    assert len(values) == 2, "one probe for the whole trajectory, drawn from the key"
    np.testing.assert_allclose(values.mean(), exact_i, atol=1e-9)
  error = np.abs(one - exact[None])
  np.testing.assert_allclose(error, np.broadcast_to(error[0], error.shape), rtol=1e-9)
  assert np.all(error > 1e-3) and np.all(np.abs(many - exact[None]) < 5.0 * error / 8.0)
  np.testing.assert_allclose(chunked, many[0], rtol=1e-12)
  own = jax.eval_shape(lambda keys: probed(keys, 3), jax.random.split(jax.random.key(0)))
  assert own.shape == (2,)


def test_what_a_likelihood_is_given_is_checked():
  x, key = jnp.zeros((4, 2)), jax.random.key(0)
  for run in (likelihood.log_prob, likelihood.bound, likelihood.ledger):
    options = {"repeats": 2} if run is likelihood.ledger else {"batch_axes": 1}
    with pytest.raises(ValueError, match="vp: call it"):
      run(key, lambda x, t: x, paths.vp, x, **options)
    with pytest.raises(ValueError, match="denoise must return floats in the shape"):
      run(key, lambda x, t: x[..., :1], paths.vp(), x, **options)
  half = jax.eval_shape(lambda x: likelihood.log_prob(
      key, lambda x, t: x.astype(jnp.bfloat16), paths.vp(), x, batch_axes=1), x)
  assert half.dtype == jnp.float32
  with pytest.raises(ValueError, match="probes must be at least 1"):
    likelihood.log_prob(key, lambda x, t: x, paths.vp(), x, probes=0)
  with pytest.raises(ValueError, match="density must be"):
    likelihood.bound(key, lambda x, t: x, paths.vp(), x, density=1.0)
  with pytest.raises(ValueError, match="grid must be"):
    likelihood.ledger(key, lambda x, t: x, paths.vp(), x, repeats=2, grid=20)


def test_lists_are_arrays():
  data, model = [1.0, 2.0], lambda x, t: 0.5 * x
  for evaluate in (
      lambda x: likelihood.log_prob(jax.random.key(0), model, paths.vp(), x, steps=2),
      lambda x: likelihood.bound(jax.random.key(0), model, paths.vp(), x, draws=2),
      lambda x: likelihood.dequantise(jax.random.key(0), x),
      lambda x: likelihood.ledger(
          jax.random.key(0), model, paths.vp(), x, bins=2, repeats=2).total):
    np.testing.assert_array_equal(evaluate(data), evaluate(jnp.asarray(data)))


@pytest.mark.parametrize("tolerance", [None, 1e-3])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_no_examples_have_no_likelihoods(tolerance, divergence):
  found = likelihood.log_prob(
      jax.random.key(0), lambda x, t: 0.5 * x, paths.vp(), jnp.zeros((0, 2)), batch_axes=1,
      steps=2, tolerance=tolerance, divergence=divergence)
  assert found.shape == (0,)


def test_an_adaptive_solve_needs_no_implicit_promotion():
  with jax.numpy_dtype_promotion("strict"):
    found = likelihood.log_prob(jax.random.key(0), lambda x, t: 0.5 * x, paths.vp(), jnp.ones(2),
                                tolerance=1e-2)
  assert np.isfinite(found)


def test_known_numbers_are_read_on_the_host():
  """Arrays are their numbers inside jit; a traced range is refused, a traced spacing is not."""
  value, model = jnp.float32(0.5), lambda x, t: 0.5 * x
  doors = (lambda **range_: likelihood.log_prob(
               jax.random.key(0), model, paths.vp(), jnp.ones(2), steps=2, **range_),
           lambda **range_: likelihood.bound(
               jax.random.key(0), model, paths.vp(), jnp.ones(2), draws=2, **range_),
           lambda **range_: likelihood.ledger(
               jax.random.key(0), model, paths.vp(), jnp.ones((2, 2)), bins=2, repeats=2,
               **range_).total)
  for door in doors:
    for name in ("rho_min", "rho_max"):
      jax.eval_shape(lambda door=door, name=name: door(**{name: value}))
      with pytest.raises(ValueError, match=f"{name} must be a number, not traced"):
        jax.eval_shape(lambda v, door=door, name=name: door(**{name: v}), value)
      with pytest.raises(ValueError, match=f"{name} must be a number, got '1'"):
        door(**{name: "1"})
  bits = lambda step: likelihood.bits_per_dim(jnp.ones(3), 2, step=step)
  np.testing.assert_allclose(jax.jit(bits)(0.5), bits(0.5), rtol=1e-6)
