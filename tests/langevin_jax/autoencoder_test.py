"""The autoencoder: its published size, its shapes, and its loss against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from langevin_jax import networks, training
from langevin_jax.networks.vae import Normal

TINY = dict(channels=4, multipliers=(1, 2), blocks=1, latent_channels=3, groups=2)


def parameters(module):
  x = jnp.zeros((1, *module.shape))
  return jax.eval_shape(lambda key: module.init(key, x)["params"], jax.random.key(0))


def test_stable_diffusions_layout_has_its_number_of_parameters():
  leaves = jax.tree.leaves(parameters(networks.Autoencoder((256, 256, 3))))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == 83_653_863


@pytest.mark.parametrize("sides", [(8,), (8, 4), (4, 8, 4)], ids=["sequence", "image", "volume"])
def test_latents_have_smaller_sides_at_every_rank(sides):
  module = networks.Autoencoder((*sides, 2), **TINY)
  assert module.latent_shape == (*(side // 2 for side in sides), 3)
  run = lambda x: module.init_with_output(
      jax.random.key(0), x, method=lambda m, x: (m.encode(x), m(x)))[0]
  posterior, y = jax.eval_shape(run, jnp.zeros((5, *sides, 2)))
  assert posterior.mean.shape == posterior.log_std.shape == (5, *module.latent_shape)
  assert y.shape == (5, *sides, 2) and y.dtype == jnp.float32


@pytest.mark.parametrize("change, words", [
    ({"shape": (6, 6, 1), "multipliers": (1, 2, 2)}, "sides must be multiples of 4, got 6"),
    ({"channels": 3}, "groups must divide channels 3"),
    ({"latent_channels": 0}, "latent_channels must be at least 1"),
    ({"multipliers": ()}, "multipliers must be integers from 1"),
    ({"shape": (8,)}, r"shape must be \(\*sides, channels\)")])
def test_numbers_that_do_not_fit_are_refused(change, words):
  with pytest.raises(ValueError, match=words):
    networks.Autoencoder(**{"shape": (8, 8, 1)} | TINY | change).check()


def test_other_shapes_are_refused_by_name():
  module = networks.Autoencoder((8, 8, 1), **TINY)
  with pytest.raises(ValueError, match=r"x must be .*\(8, 8, 1\), got \(2, 8, 8, 3\)"):
    jax.eval_shape(lambda x: module.init(jax.random.key(0), x), jnp.zeros((2, 8, 8, 3)))
  with pytest.raises(ValueError, match=r"z must be .*\(4, 4, 3\), got \(2, 8, 8, 1\)"):
    jax.eval_shape(lambda z: module.init(jax.random.key(0), z, method="decode"),
                   jnp.zeros((2, 8, 8, 1)))


def identity_loss(log_std, **options):
  """The loss of an encoder N(x, s²) and a decoder that returns z."""
  return training.autoencoder_loss(
      lambda params, x: Normal(x, jnp.full_like(x, log_std)), lambda params, z: z, **options)


def test_the_loss_is_its_closed_form_for_an_identity():
  # x̂ − x = s ε: E|s ε| = s √(2/π), E(s ε)² = s². Features that double x: E 4 (s ε)².
  x, s = jax.random.normal(jax.random.key(1), (4000, 5, 1)), 0.3
  loss = identity_loss(math.log(s), kl=0.5, perceptual=0.25, features=lambda x: [2.0 * x])
  value, rows = loss(None, jax.random.key(0), (x, None))
  kl = 0.5 * (float(jnp.mean(x**2)) + s**2 - 1.0 - 2.0 * math.log(s))  # of one number
  expected = s * math.sqrt(2.0 / math.pi) + 0.5 * kl + 0.25 * 4.0 * s**2
  error = (s * math.sqrt(1.0 - 2.0 / math.pi) + math.sqrt(2.0) * s**2) / math.sqrt(x.size)
  assert abs(float(value) - expected) < 4.0 * error
  assert rows["eps_error"].shape == rows["half_log_snr"].shape == (4000,)
  assert abs(float(rows["eps_error"].mean()) - s**2) < 4.0 * math.sqrt(2.0 / x.size) * s**2


def test_parts_of_a_batch_have_the_noise_of_the_whole():
  x = jax.random.normal(jax.random.key(1), (6, 5, 1))
  loss = identity_loss(0.0)
  drawn = loss.draw(jax.random.key(0), (x, None))
  whole = loss.value(None, drawn)[1]["eps_error"]
  parts = [loss.value(None, jax.tree.map(lambda leaf, k=k: leaf[k:k + 3], drawn))[1]["eps_error"]
           for k in (0, 3)]
  np.testing.assert_array_equal(whole, jnp.concatenate(parts))


def test_the_divergence_is_that_of_normal_distributions(x64):
  m, s = 0.7, 0.4
  grid = np.linspace(m - 12 * s, m + 12 * s, 200_001)
  q = np.exp(-0.5 * ((grid - m) / s) ** 2) / (s * np.sqrt(2.0 * np.pi))
  ratio = -0.5 * ((grid - m) / s) ** 2 - np.log(s) + 0.5 * grid**2
  expected = np.trapezoid(q * ratio, grid)
  found = training.kl_from_unit(Normal(jnp.full((2, 3), m), jnp.full((2, 3), np.log(s))))
  np.testing.assert_allclose(found, 3 * expected, rtol=1e-10)
  assert float(training.kl_from_unit(Normal(jnp.zeros((1, 3)), jnp.zeros((1, 3))))[0]) == 0.0


@pytest.mark.parametrize("options, words", [
    ({"kl": -1.0}, "must not be negative"), ({"perceptual": 1.0}, "perceptual needs features")])
def test_weights_that_cannot_be_are_refused(options, words):
  with pytest.raises(ValueError, match=words):
    identity_loss(0.0, **options)
