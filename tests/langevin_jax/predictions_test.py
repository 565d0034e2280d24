"""Predictions: one linear map between all of them, and one denoiser from all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import BATCHED, LINE, PATHS, round_law

from langevin_jax import mixtures, paths, predictions

ROWS = tuple(predictions.ROWS)
SIGMA_DATA = 1.0


def textbook_rows(alpha, sigma, alpha_dot, sigma_dot):
  """Coefficients of (x₀, ε), each as its source states it, in numpy float64."""
  zero, one = np.zeros_like(alpha), np.ones_like(alpha)
  z_var = (sigma / alpha) ** 2 + SIGMA_DATA**2
  # Karras et al. 2022, Table 1, in the VE frame z = x₀ + ρε: D = c_skip z + c_out F.
  c_skip, c_out = SIGMA_DATA**2 / z_var, (sigma / alpha) * SIGMA_DATA / np.sqrt(z_var)
  return {
      "x0": (one, zero), "eps": (zero, one), "score": (zero, -1.0 / sigma),
      "velocity": (alpha_dot, sigma_dot), "v": (-sigma, alpha),
      "edm": ((1.0 - c_skip) / c_out, -c_skip * (sigma / alpha) / c_out),
  }


def times_and_draws(path, n=41):
  """Times with ρ in [.02, 50] where the path has them, data and noise; float64 numpy."""
  ends = paths.on_host(path.half_log_snr, np.array([path.t_max, path.t_min]))
  ells = np.linspace(max(ends[0] + 0.01, -np.log(50)), min(ends[1] - 0.01, np.log(50)), n)
  rng = np.random.default_rng(7)
  return paths.on_host(path.time, ells), rng.standard_normal(n), rng.standard_normal(n)


@pytest.mark.parametrize("name", PATHS)
def test_every_pair_is_the_linear_form_of_x0_and_eps(name, x64):
  path = BATCHED[name]
  t, x_0, eps = times_and_draws(path)
  frame = [np.asarray(v) for v in predictions.frame(path, t)]
  x_t = frame[0] * x_0 + frame[1] * eps
  values = {k: a * x_0 + b * eps for k, (a, b) in textbook_rows(*frame).items()}
  for source, target in itertools.product(ROWS, ROWS):
    actual = predictions.convert(
        jnp.asarray(values[source]), jnp.asarray(x_t), t, path, source=source, target=target)
    # float64 rounding × 50 (an ε to x₀ at ρ = 50) × 50 (a score at ρ = .02), and cancellation in
    # the textbook's 1 − c_skip.
    np.testing.assert_allclose(
        actual, values[target], rtol=1e-10, atol=1e-10, err_msg=f"{source} to {target}")


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("source", ROWS)
def test_round_trips_through_v_in_float32(name, source):
  """source → v → source costs ≤ 2e-6 of the size of the row, at every level."""
  path = BATCHED[name]
  t, x_0, eps = times_and_draws(path)
  t = jnp.asarray(t, jnp.float32)
  frame = predictions.frame(path, t)
  a, b = predictions.named(source)(frame)
  x_t = frame.alpha * x_0.astype(np.float32) + frame.sigma * eps.astype(np.float32)
  value = a * x_0.astype(np.float32) + b * eps.astype(np.float32)
  v = predictions.convert(value, x_t, t, path, source=source, target="v")
  back = predictions.convert(v, x_t, t, path, source="v", target=source)
  assert back.dtype == np.float32
  scale = np.hypot(a, b) * np.hypot(x_0, eps)
  assert np.max(np.abs(back - value) / scale) <= 2e-6


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 3.0])
def test_edm_is_karras_preconditioning(sigma_data, x64):
  """c_skip, c_out of Karras et al. 2022, Table 1, in the VE frame; F has unit variance there."""
  rho, x, value = (jnp.asarray(v) for v in (
      np.geomspace(1e-3, 1e3, 31), np.linspace(-2, 3, 31), np.linspace(1, -1, 31)))
  row = predictions.edm(sigma_data)
  denoised = predictions.convert(value, x, rho, BATCHED["ve"], source=row, target="x0")
  c_skip = sigma_data**2 / (rho**2 + sigma_data**2)
  c_out = rho * sigma_data / jnp.sqrt(rho**2 + sigma_data**2)
  np.testing.assert_allclose(denoised, c_skip * x + c_out * value, rtol=1e-12, atol=1e-12)
  a, b = row(predictions.frame(BATCHED["ve"], rho))
  np.testing.assert_allclose(a**2 * sigma_data**2 + b**2, np.ones(31), rtol=1e-12)


def test_edm_of_unit_data_is_v_on_a_variance_preserving_frame(x64):
  """At σ_d = 1, F = −v: the two families are one (Salimans & Ho 2022; Karras et al. 2022)."""
  frame = predictions.unit_frame(jnp.linspace(-9.0, 9.0, 31))
  for own, other in zip(predictions.named("edm")(frame), predictions.named("v")(frame),
                        strict=True):
    np.testing.assert_allclose(own, -other, rtol=1e-12)


def test_unit_frame_has_unit_scale_up_to_the_ends():
  """α² + σ² = 1 with α/σ = e^ℓ, to float32 rounding relative to each, ±∞ included."""
  ells = np.linspace(-15.0, 15.0, 61)
  frame = predictions.unit_frame(jnp.asarray(ells, jnp.float32))
  np.testing.assert_allclose(frame.alpha**2 + frame.sigma**2, np.ones(61), rtol=5e-7)
  np.testing.assert_allclose(frame.sigma, np.sqrt(1 / (1 + np.exp(2 * ells))), rtol=2e-6)
  np.testing.assert_allclose(frame.alpha, np.sqrt(1 / (1 + np.exp(-2 * ells))), rtol=2e-6)
  ends = predictions.unit_frame(jnp.asarray([-jnp.inf, jnp.inf]))
  np.testing.assert_array_equal(ends.alpha, [0.0, 1.0])
  np.testing.assert_array_equal(ends.sigma, [1.0, 0.0])


@jax.jit
def exact(x, alpha, sigma):
  """(D, ε̂) of the mixture for vectors of states and levels; ε̂ = −σ s is finite at both ends."""
  def one(x, alpha, sigma):
    log_prob = lambda x: round_law(LINE, x[None], alpha, sigma)[0]
    return round_law(LINE, x[None], alpha, sigma)[1][0], -sigma * jax.grad(log_prob)(x)

  return jax.vmap(one)(x, alpha, sigma)


def network_of(prediction):
  """What a perfect network of this prediction says: its row, at unit scale, of the mixture."""
  def network(x, ell):
    frame = predictions.unit_frame(ell)
    a, b = predictions.named(prediction)(frame)
    denoised, eps = exact(x, frame.alpha, frame.sigma)
    return a * denoised + b * eps

  return network


@pytest.mark.parametrize("name", PATHS)
def test_every_prediction_gives_the_same_denoiser(name, x64):
  path = BATCHED[name]
  t, x_0, eps = times_and_draws(path)
  alpha, sigma = path.alpha(t), path.sigma(t)
  x_t = alpha * x_0 + sigma * eps
  wanted = exact(x_t, alpha, sigma)[0]
  for prediction in (*ROWS, predictions.edm(0.5)):
    denoised = predictions.denoiser(network_of(prediction), path, prediction=prediction)(x_t, t)
    # ε and score amplify float64 rounding 50 times, and the level's own by its condition.
    np.testing.assert_allclose(denoised, wanted, rtol=1e-11, atol=1e-11, err_msg=str(prediction))
  # A plain function of states and times, by level: the rounding of t(ℓ).
  at = predictions.at_level(lambda x_t, t: exact(x_t, path.alpha(t), path.sigma(t))[0], path)
  found = at(x_t / jnp.hypot(alpha, sigma), path.half_log_snr(t))
  np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["x0", "velocity", "v", "edm"])
@pytest.mark.parametrize("name", ["rectified_flow", "cosine"])
def test_denoiser_at_both_ends(name, prediction):
  """α = 0: D is the data's mean. σ = 0: D is the state. Nothing is 0/0 there."""
  path = BATCHED[name]
  t, x = jnp.asarray([path.t_max, path.t_min]), jnp.asarray([0.7, 0.7])
  denoised = predictions.denoiser(network_of(prediction), path, prediction=prediction)(x, t)
  mean = LINE[0] @ LINE[1][:, 0]
  np.testing.assert_allclose(denoised, [mean, 0.7], rtol=2e-6)
  by_eps = predictions.denoiser(network_of("eps"), path, prediction="eps")(x[1:], t[1:])
  np.testing.assert_allclose(by_eps, [0.7], rtol=1e-6)


@pytest.mark.parametrize("name", ["rectified_flow", "cosine"])
def test_velocity_at_the_noisy_end_is_the_state_minus_the_mean(name, x64):
  """At s = 1 flow's velocity is r − E[x₀]; a cosine path's, −(π/2) E[x₀]."""
  path = BATCHED[name]
  x, mean = jnp.asarray([0.7]), jnp.asarray([0.3])
  velocity = predictions.convert(
      mean, x, jnp.ones(1), path, source="x0", target="velocity")
  wanted = {"rectified_flow": 0.7 - 0.3, "cosine": -0.5 * np.pi * 0.3}[name]
  np.testing.assert_allclose(velocity, [wanted], rtol=1e-12)


def float32_errors(prediction, rho, n=500):
  """Largest errors of (x₀, ε) from a float32 `prediction` at ratio ρ, in units of the draws."""
  rng = np.random.default_rng(0)
  x_0, eps = rng.standard_normal((2, n))
  with jax.enable_x64(True):
    exact_frame = predictions.unit_frame(jnp.full(n, -np.log(rho)))
    a, b = predictions.named(prediction)(exact_frame)
    x_t = np.asarray(exact_frame.alpha * x_0 + exact_frame.sigma * eps)
    value = np.asarray(a * x_0 + b * eps)
  frame = predictions.unit_frame(jnp.full(n, -np.log(rho), jnp.float32))
  solved = predictions.solve(jnp.asarray(value, jnp.float32), jnp.asarray(x_t, jnp.float32),
                             frame, predictions.named(prediction))
  scale = np.hypot(x_0, eps)
  return tuple(np.max(np.abs(own - true) / scale)
               for own, true in zip(solved, (x_0, eps), strict=True))


@pytest.mark.parametrize("rho", np.geomspace(1e-4, 1e4, 9))
def test_v_is_well_conditioned_at_every_level(rho):
  """Through v both x₀ and ε stay below 5e-7 in float32 (theory.md#predictions)."""
  assert max(float32_errors("v", rho)) <= 5e-7


def test_eps_and_x0_lose_digits_at_the_far_ends():
  """D from ε loses eps·σ/α, 4.5e-3 at ρ = 1e4 (theory.md#predictions); ε from D the mirror."""
  assert 5e-4 < float32_errors("eps", 1e4)[0] < 1e-2
  assert 5e-4 < float32_errors("x0", 1e-4)[1] < 1e-2
  # And nothing at the ends where they are good.
  assert float32_errors("eps", 1e-4)[0] <= 5e-7
  assert float32_errors("x0", 1e4)[1] <= 5e-7


def test_a_row_of_your_own():
  """x₀ − ε, in one line."""
  row = lambda frame: (jnp.ones_like(frame.alpha), -jnp.ones_like(frame.alpha))
  path = paths.rectified_flow()
  x_0, eps = jnp.asarray([0.4, -1.0]), jnp.asarray([0.9, 0.2])
  x_t = paths.corrupt(x_0, eps, 0.3, path)
  np.testing.assert_allclose(
      predictions.convert(x_0 - eps, x_t, 0.3, path, source=row, target="eps"), eps, rtol=2e-6)
  assert predictions.named(row) is row


@pytest.mark.parametrize(("wrong", "got"), [
    (lambda x: x[..., :1], r"float32 of shape \(3, 1\)"), (lambda x: 0.0, r"of shape \(\)"),
    (lambda x: x.astype(int), r"int32 of shape \(3, 2\)"), (lambda x: x + 0j, "complex64"),
    (lambda x: None, "a NoneType"), (lambda x: (x, x), "a tuple")])
def test_a_model_that_returns_something_else_is_refused(wrong, got):
  """Every door: a network, a function of times, and a Denoiser of one's own."""
  path, x = paths.vp(), jax.ShapeDtypeStruct((3, 2), jnp.float32)
  model = lambda x, level: wrong(x)
  for name, call in (
      ("network", predictions.denoiser(model, path, prediction="v")),
      ("denoise", predictions.at_level(model, path)),
      ("denoise", predictions.at_level(predictions.Denoiser(model, path), path))):
    want = rf"{name} must return .*\(3, 2\) of the state, got .*{got}"
    with pytest.raises(ValueError, match=want):
      jax.eval_shape(lambda x, call=call: call(x, 0.5), x)
  with pytest.raises(ValueError, match=r"\(3, 1\) and \(3, 2\)"):
    predictions.convert(jnp.ones((3, 1)), jnp.ones((3, 2)), 0.5, path, source="v", target="v")


def test_a_half_precision_model_denoises_in_the_states_precision():
  path, x = paths.vp(), jnp.ones(2)
  half = lambda x, level: x.astype(jnp.bfloat16)
  for call in (predictions.denoiser(half, path, prediction="v"), predictions.at_level(half, path)):
    assert call(x, 0.5).dtype == jnp.float32


PLAIN = lambda x, ell: x
NAMES = "x0, eps, score, velocity, v, edm, got 'noise'"


@pytest.mark.parametrize(("call", "message"), [
    (lambda x: predictions.convert(x, x, 0.5, paths.vp(), source="noise", target="eps"), NAMES),
    (lambda x: predictions.convert(x, x, 0.5, paths.vp(), source="eps", target="noise"), NAMES),
    (lambda x: predictions.denoiser(PLAIN, paths.vp(), prediction="noise"), NAMES),
    (lambda x: predictions.denoiser(PLAIN, paths.vp, prediction="v"), "vp: call it"),
    (lambda x: predictions.denoiser(1.0, paths.vp(), prediction="v"), "network must be a function"),
    (lambda x: predictions.at_level("model", paths.vp()), "denoise must be a function"),
    (lambda x: predictions.convert(x, x, 0.5, "vp", source="v", target="eps"),
     "path must be a Path")])
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.ones(2))


def test_a_clipped_denoiser_is_limited_and_an_exact_one_is_not_changed():
  """At every level and scale, arrays by channel too, and of a flow map its average."""
  law = mixtures.Mixture(
      jnp.ones(2) / 2, jnp.array([[-1.0, 0.5], [1.0, -0.5]]), jnp.zeros((2, 2, 2)))
  path, x = paths.ve(), 3.0 * jax.random.normal(jax.random.key(0), (50, 2))
  exact = mixtures.denoiser(law, path)
  low, high = np.array([-1.0, -0.5]), jnp.array([1.0, 0.5])
  np.testing.assert_allclose(predictions.clipped(exact, path, low, high)(x, 0.7), exact(x, 0.7),
                             rtol=0, atol=1e-6)
  wild = predictions.Denoiser(lambda x, ell: 2.0 * x, path, lambda x, ell, ell_s: -3.0 * x)
  found = predictions.clipped(wild, path, low, high)
  limited = lambda value: np.clip(value, low[None], high[None])
  np.testing.assert_array_equal(found.at(x, 0.0), limited(2.0 * x))
  np.testing.assert_array_equal(found.average(x, 0.0, 1.0), limited(-3.0 * x))
  plain = predictions.clipped(lambda x_t, t: 2.0 * x_t, path, -1.0, 1.0)
  np.testing.assert_allclose(plain(x, 0.5), np.clip(2.0 * x, -1.0, 1.0), rtol=1e-6)
  assert plain.average is None
