"""The VAE beside diffusion: the modules, bounds against closed forms, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper import claim
from experiments.paper.questions.vae import bounds as vae_bounds
from experiments.paper.questions.vae import claims as vae
from experiments.paper.questions.vae import plane as vae_plane
from experiments.paper.questions.vae import training as vae_training
from langevin_jax import mixtures, networks, paths, samplers

CLASSES = 3
VAE = networks.VAE(shape=(4, 2, 1), latent=3, width=8, depth=1, num_classes=CLASSES)
PLANE = networks.VAE(shape=(2,), latent=2, width=8, depth=1)
SHALLOW = PLANE.clone(depth=0)
LABELS = jnp.array([0, 2])


def _params(model, seed=0):
  x = jnp.zeros((2, *model.shape))
  shapes = jax.eval_shape(model.init, jax.random.key(0), x, LABELS)["params"]
  draw = np.random.default_rng(seed).normal
  return jax.tree.map(lambda leaf: jnp.asarray(draw(scale=0.3, size=leaf.shape), leaf.dtype),
                      shapes)


def test_encoder_and_decoder_have_the_shapes_of_latent_and_data_and_heed_labels():
  params, x = _params(VAE), jax.random.normal(jax.random.key(1), (2, 4, 2, 1))
  encode = lambda labels: VAE.apply({"params": params}, x, labels, method="encode")
  q = encode(LABELS)
  assert q.mean.shape == q.log_std.shape == (2, 3)
  p = VAE.apply({"params": params}, q.mean, LABELS, method="decode")
  assert p.mean.shape == p.log_std.shape == x.shape
  np.testing.assert_array_equal(p.log_std[0], params["log_std"])
  moved = jnp.abs(encode(jnp.array([1, 2])).mean - q.mean).max(1)
  assert float(moved[0]) > 1e-3 and float(moved[1]) == 0.0
  # Without classes labels are ignored, and examples do not see each other.
  params, z = _params(PLANE), jnp.array([[0.3, -1.0], [2.0, 0.1]])
  decode = lambda z, labels: PLANE.apply({"params": params}, z, labels, method="decode").mean
  np.testing.assert_array_equal(decode(z, LABELS), decode(z, 0 * LABELS))
  np.testing.assert_allclose(decode(z, LABELS)[:1], decode(z[:1], LABELS[:1]), rtol=1e-5)


@pytest.mark.parametrize(("call", "field"), [
    (lambda: VAE.apply({"params": _params(VAE)}, jnp.zeros((2, 5)), LABELS, method="encode"), "x"),
    (lambda: VAE.apply({"params": _params(VAE)}, jnp.zeros((2, 4)), LABELS, method="decode"), "z"),
    (lambda: _params(networks.VAE(shape=(2,), latent=0)), "latent"),
])
def test_bad_input_is_one_line_that_names_the_field(call, field):
  with pytest.raises(ValueError, match=field) as error:
    call()
  assert "\n" not in str(error.value)


def _blind(log_std=-1.0):
  """A decoder that ignores z: p(x) = N(b, s²) exactly, whatever the encoder."""
  params = _params(PLANE)
  output = params["decoder"]["output"]
  params["decoder"]["output"] = {"kernel": 0.0 * output["kernel"], "bias": jnp.array([0.5, -0.2])}
  return params | {"log_std": jnp.full(2, log_std)}


def test_integral_and_bounds_of_a_decoder_that_ignores_its_latent():
  params, x = _blind(), jnp.array([[0.4, 0.0], [1.0, -1.0], [0.5, -0.2]])
  blank = jnp.zeros(3, jnp.int32)
  exact = vae_training.log_normal(x, PLANE.apply(
      {"params": params}, jnp.zeros((3, 2)), blank, method="decode"))
  # ∫ N(z) dz over [−6, 6]² is one to 4e-9: float32.
  found = jax.jit(lambda x: vae_bounds.integrated(PLANE, params, x, points=100))(x)
  np.testing.assert_allclose(found, exact, atol=2e-5)
  weights = jax.jit(lambda key: vae_bounds.of_vae(
      key, PLANE, params, x, blank, draws=4096))(jax.random.key(1))
  l_k = vae_bounds.bounds(weights, (1, 64, 4096))
  assert np.all(np.diff(np.asarray(l_k), axis=0) > 0.0)
  # The gap of L₁ is KL(q‖N(0, I)), by two routes: weights, and the closed form in the ELBO.
  q = PLANE.apply({"params": params}, x, blank, method="encode")
  kl = jnp.sum(0.5 * (q.mean**2 + jnp.exp(2.0 * q.log_std) - 1.0) - q.log_std, axis=1)
  error = jnp.std(weights, 0) / 64.0
  assert np.all(np.abs(exact - l_k[0] - kl) < 5.0 * error + 1e-4)
  draws = jax.jit(jax.vmap(lambda key: vae_training.elbo(key, PLANE, params, x, blank)))(
      jax.random.split(jax.random.key(2), 4))
  np.testing.assert_allclose(draws, jnp.broadcast_to((exact - kl)[None], draws.shape), atol=1e-4)


def _gaussian_chain(rho, S):
  """The variance of the model at its last level, for data N(0, S): a recursion."""
  var = S + rho[0] ** 2
  for noisy, clean in itertools.pairwise(rho):
    gain, keep = S / (S + noisy**2), (clean / noisy) ** 2
    mean = gain + keep * (1.0 - gain)
    var = mean**2 * var + clean**2 * (1.0 - keep)
  return var


def test_bound_of_the_chain_rises_to_the_exact_law_of_ddpm_on_gaussian_data():
  # STEP(h, h) on Gaussian data is a Gaussian chain: its law at ρ_min is known, and so log p(x).
  path, S, steps = paths.ve(), 0.7, 8
  grid = samplers.uniform_half_log_snr(steps + 1, rho_min=0.2, rho_max=10.0)
  model = mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.full((1, 1, 1), S))
  x = jnp.array([[-1.2], [0.1], [0.9]])
  weights = vae_bounds.of_chain(
      jax.random.key(3), mixtures.denoiser(model, path), path, grid, x, draws=4096,
      moments=(0.0, S))
  var = _gaussian_chain(np.asarray(grid(path))[:-1], S)
  exact = -0.5 * (x[:, 0] ** 2 / var + np.log(2.0 * np.pi * var))
  # E w = p(x): the mean weight within its own error.
  ratio = np.exp(np.asarray(weights, np.float64) - np.asarray(exact)[None])
  assert np.all(np.abs(ratio.mean(0) - 1.0) < 4.0 * ratio.std(0) / 64.0)
  assert np.all(np.asarray(vae_bounds.bounds(weights, (1,)))[0] < exact)


def _train(keys, x):
  blank = np.zeros(len(x), np.int32)
  return vae_training.train(keys, SHALLOW, x, blank, watched=(x, blank), rho_min=0.1, steps=40,
                            batch_size=16, every=10)


def test_training_keeps_the_best_of_each_seed_and_a_seed_is_a_model():
  x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
  _, found = _train(jax.random.wrap_key_data(jnp.array([[0, 4], [0, 4], [0, 5]], jnp.uint32)), x)
  watched = found["vae_watched"]
  assert found["vae_elbo"].shape == watched.shape == (4, 3)
  np.testing.assert_array_equal(watched[:, 0], watched[:, 1])
  assert np.all(watched[:, 0] != watched[:, 2]) and np.all(watched.max(0) > watched[0])
  np.testing.assert_array_equal(found["vae_best"], 10 * (1 + watched.argmax(0)))
  with pytest.raises(FloatingPointError, match="ELBO"):
    _train(jax.random.split(jax.random.key(0), 1), np.full((8, 2), np.nan, np.float32))


def test_slope_crossing_and_errors_over_seeds():
  steps = [16, 32, 64, 128]
  value, error = vae.slope(steps, [[8.0 / n, 0.08 / n] for n in steps])
  # Even logarithms: Σ (u − ū)² = 5 (log 2)².
  assert abs(value + 1.0) < 1e-12 and abs(error - 0.01 / (5.0**0.5 * np.log(2.0))) < 1e-12
  entries = [{"total": [8.0 / n, 0.0]} for n in steps]
  assert abs(vae.crossing(steps, entries, 0.2) - 40.0) < 1e-9
  assert vae.crossing(steps, entries, 0.01) is None
  larger = lambda error: claim.claims({"x": claim.Statement("…", "§")}, [
      vae.more("x", [1.0, 0.3], [0.0, error])], {})[0]
  assert larger(0.39).holds and not larger(0.41).holds
  mean, error = vae_plane.over_seeds(np.array([[1.0, 3.0], [2.0, 4.0]]))
  assert mean == 2.5 and abs(error - np.sqrt(0.5 / 2.0 + 2.0 / 2.0)) < 1e-12
