"""The U-Net: published sizes, a float64 reference, symmetries, resampling, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import check_mirrored, check_rematerialised, parameters, shapes
from references import (
  TEXT,
  attention,
  check_against_float64,
  cross_attention,
  dense,
  heads_of,
  silu,
)

from langevin_jax.networks import UNet
from langevin_jax.networks import _embeddings as embeddings
from langevin_jax.networks import unet as unet_lib

SONG = {"multipliers": (2, 2, 2), "blocks": 4, "attend_last": True, "resampling": "block",
        "project_skip": True, "skip_scale": 0.5**0.5}
ADM = {"channels": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (32, 16, 8),
       "head_channels": 64, "scale_shift": True, "resampling": "block", "num_classes": 1000}
TINY = UNet(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, head_channels=4,
            scale_shift=True, resampling="block", taps=(1.0, 3.0, 3.0, 1.0), project_skip=True,
            input_pyramid=True, skip_scale=0.5**0.5)


@pytest.mark.parametrize(("settings", "side", "millions"), [
    ({}, 32, "35.7"),  # DDPM, Ho et al. 2020, appendix B
    (SONG, 32, "55.7"),  # DDPM++ of Karras et al. 2022
    (SONG | {"taps": (1, 3, 3, 1), "input_pyramid": True}, 32, "56"),  # NCSN++ of the same
    (ADM, 64, "296"),  # Dhariwal & Nichol 2021, table 4
])
def test_published_layouts_have_their_published_size(settings, side, millions):
  leaves = jax.tree.leaves(shapes(UNet(**settings), (1, side, side, 3)))
  digits = len(millions.partition(".")[2])
  assert f"{sum(leaf.size for leaf in leaves) / 1e6:.{digits}f}" == millions


def _halving(side, taps, outside=0):
  """The matrix of `resample` down a side, of values from `outside` before it to as many after."""
  matrix = np.zeros((side // 2, side + 2 * outside))
  for i, k in np.ndindex(side // 2, len(taps)):
    if 0 <= (place := 2 * i + k - len(taps) // 2 + 1 + outside) < matrix.shape[1]:
      matrix[i, place] = taps[k] / sum(taps)
  return matrix


def _reference(network, params, x, ell):
  """`network` on sequences in the dtype of its arguments: two levels, one block, attention."""
  groups, taps, scaled = network.groups, network.taps, lambda a: network.skip_scale * a
  def conv(p, a, stride=1, padding=1):
    padded = jnp.pad(a, ((0, 0), (padding if stride == 1 else 0, padding), (0, 0)))
    count = (padded.shape[1] - 3) // stride + 1
    return p["bias"][None, None] + sum(
        padded[:, k:k + stride * (count - 1) + 1:stride] @ p["kernel"][k] for k in range(3))
  def norm(p, a):
    parts = a.reshape(len(a), a.shape[1], groups, -1)
    mean, var = (f(parts, axis=(1, 3), keepdims=True) for f in (jnp.mean, jnp.var))
    return ((parts - mean) / jnp.sqrt(var + 1e-6)).reshape(a.shape) * p["scale"][
        None, None] + p["bias"][None, None]
  def resized(a, way):
    if way is None:
      return a
    matrix = _halving(x.shape[1], taps)
    return jnp.einsum("ij,bjc->bic", matrix if way == "down" else 2.0 * matrix.T, a)
  def block(p, a, way=None):
    r = conv(p["hidden"], resized(silu(norm(p["norm_in"], a)), way))
    m, a = dense(p["modulation"], vector)[:, None], resized(a, way)
    if network.scale_shift:
      scale, shift = jnp.split(m, 2, axis=-1)
      r = (1.0 + scale) * norm(p["norm_out"], r) + shift
    else:
      r = norm(p["norm_out"], r + m)
    a = scaled(conv(p["back"], silu(r)) + (dense(p["skip"], a) if "skip" in p else a))
    heads = a.shape[-1] // network.head_channels
    if "qkv" in p:
      q, k, v = heads_of(dense(p["qkv"], norm(p["norm_attention"], a)), heads, 3)
      a = scaled(a + dense(p["merge"], attention(q, k, v)))
    return scaled(a + cross_attention(params, p["cross"], a, heads)) if "cross" in p else a

  c = params["conditioning"]
  vector = silu(dense(c["level_out"], silu(dense(
      c["level_in"], embeddings.level_features(jnp.full(len(x), ell, x.dtype))))))
  h0 = conv(params["input"], x)
  h1 = block(params["down_0_0"], h0)
  in_blocks = network.resampling == "block"
  h2 = (block(params["down_1"], h1, "down") if in_blocks else
        conv(params["down_1"], h1, stride=2))
  if network.input_pyramid:
    half = len(taps) // 2
    h2 = scaled(h2 + jnp.einsum("ij,bjc->bic", _halving(x.shape[1], taps, half - 1), conv(
        params["pyramid_1"], x, padding=half)))
  h3 = block(params["down_1_0"], h2)
  h = block(params["middle_1"], block(params["middle_0"], h3))
  h = block(params["up_1_0"], jnp.concatenate([h, h3], -1))
  h = block(params["up_1_1"], jnp.concatenate([h, h2], -1))
  h = (block(params["up_1"], h, "up") if in_blocks else
       conv(params["up_1"], jnp.repeat(h, 2, axis=1)))
  h = block(params["up_0_0"], jnp.concatenate([h, h1], -1))
  h = block(params["up_0_1"], jnp.concatenate([h, h0], -1))
  return conv(params["output"], silu(norm(params["norm"], h)))


@pytest.mark.parametrize(("network", "condition"), [
    (UNet(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, head_channels=8),
     np.zeros(3, int)),
    (TINY.clone(attend_last=True, remat=True), TEXT)], ids=["ddpm", "all"])
def test_output_gradient_and_tangent_are_those_of_a_float64_reference(network, condition, x64):
  # float32's 6e-8 and bfloat16's 4e-3, through a score of layers.
  check_against_float64(network, _reference, (3, 8, 3), condition, scale=0.2,
                        bounds={"float32": 2e-5, "bfloat16": 0.05})


@pytest.mark.parametrize("shape", [(2, 8, 1), (1, 8, 4, 2)])
def test_mirrored_input_and_kernels_mirror_the_output(shape):
  """True of every layer: padding and filters are symmetric, attention knows no positions."""
  check_mirrored(TINY, parameters(TINY, shape), shape)


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 0.0, 1.0)])
def test_resampling_is_the_convolution_and_its_transpose(taps):
  draw = np.random.default_rng(0).normal
  x, y = (draw(size=(2, *sides, 3)).astype(np.float32) for sides in ((6, 8), (3, 4)))
  down, up = jax.jit(lambda: tuple(
      unet_lib.resample(h, way, taps) for h, way in ((x, "down"), (y, "up"))))()
  matrix = _halving(8, taps)
  expected = np.einsum("ia,jb,nabc->nijc", matrix[:3, :6], matrix, x)
  np.testing.assert_allclose(down, expected, atol=1e-5)
  np.testing.assert_allclose(
      up, 4.0 * np.einsum("ia,jb,nijc->nabc", matrix[:3, :6], matrix, y), atol=1e-5)


def test_group_norm_keeps_float32_far_from_zero():
  """A mean 100 times the deviation loses 2 of 7 digits, not 4 as E[x²] − E[x]² would."""
  h = 100.0 + np.random.default_rng(0).normal(size=(2, 5, 7, 8)).astype(np.float32)
  scale, shift = np.random.default_rng(1).normal(size=(2, 2, 8)).astype(np.float32)
  norm = unet_lib.GroupNorm(2)
  value = jax.jit(lambda h: norm.apply(norm.init(jax.random.key(0), h), h, scale, shift))(h)
  parts = h.astype(np.float64).reshape(2, 35, 2, 4)
  exact = (parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(
      parts.var((1, 3), keepdims=True) + 1e-6)
  exact = exact.reshape(h.shape) * (1.0 + scale[:, None, None]) + shift[:, None, None]
  np.testing.assert_allclose(value, exact, atol=1e-4)


def test_rematerialised_is_the_same_function_with_less_to_store():
  network = UNet(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4,
                 head_channels=4)
  check_rematerialised(network, parameters(network, (2, 8, 8, 1)), stored=0.6, error=1e-4)


def test_dropout_is_random_in_training_alone():
  network, shape = UNet(channels=4, multipliers=(1,), blocks=1, attention=(), groups=2), (1, 4, 1)
  params, x = parameters(network, shape), jnp.ones(shape)
  call = lambda network, rngs: network.apply({"params": params}, x, 0.4, jnp.zeros(1, int),
                                             rngs=rngs)
  key = lambda seed: {"dropout": jax.random.key(seed)}
  random = network.clone(dropout=0.5)
  plain, without, a, again, b = jax.jit(lambda: (
      call(network, None), call(random, None), call(random, key(0)), call(random, key(0)),
      call(random, key(1))))()
  np.testing.assert_array_equal(plain, without)
  np.testing.assert_array_equal(a, again)
  plain, a, b = map(np.asarray, (plain, a, b))
  assert min(np.abs(a - plain).max(), np.abs(a - b).max()) > 1e-3


@pytest.mark.parametrize("resampling", unet_lib.RESAMPLINGS)
def test_volumes_keep_their_shape_with_every_resampling(resampling):
  network, shape = TINY.clone(resampling=resampling, attention=()), (2, 4, 8, 4, 1)
  value, variables = jax.eval_shape(
      network.init_with_output, jax.random.key(0), jnp.zeros(shape), 0.0, jnp.zeros(2, int))
  assert (value.shape, value.dtype) == (shape, jnp.float32)
  assert variables["params"]["input"]["kernel"].shape == (3, 3, 3, 1, 8)
  assert ("down_1" in variables["params"]) == (resampling != "filter")
