"""The U-Net: published sizes, a float64 reference, symmetries, resampling, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import check_mirrored, check_rematerialised, parameters, shapes

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


def _reference(params, x, ell, *, groups, heads, width):
  """`UNet` on sequences in the dtype of its arguments: two levels, one block, attention below."""
  silu = lambda a: a / (1.0 + jnp.exp(-a))
  dense = lambda p, a: a @ p["kernel"] + p["bias"].reshape((1,) * (a.ndim - 1) + (-1,))
  def conv(p, a, stride=1):
    padded = jnp.pad(a, ((0, 0), (1 if stride == 1 else 0, 1), (0, 0)))
    count = a.shape[1] // stride
    return p["bias"][None, None] + sum(
        padded[:, k:k + stride * (count - 1) + 1:stride] @ p["kernel"][k] for k in range(3))
  def norm(p, a):
    parts = a.reshape(len(a), a.shape[1], groups, -1)
    mean, var = (f(parts, axis=(1, 3), keepdims=True) for f in (jnp.mean, jnp.var))
    return ((parts - mean) / jnp.sqrt(var + 1e-6)).reshape(a.shape) * p["scale"][
        None, None] + p["bias"][None, None]
  def attend(p, a):
    qkv = dense(p["qkv"], norm(p["norm_attention"], a))
    q, k, v = jnp.moveaxis(qkv.reshape(*a.shape[:2], heads, 3, -1), 3, 0)
    logits = jnp.exp(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]))
    weights = logits / logits.sum(-1, keepdims=True)
    return dense(p["merge"], jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(a.shape))
  def block(p, a):
    r = conv(p["hidden"], silu(norm(p["norm_in"], a))) + dense(p["modulation"], vector)[:, None]
    r = conv(p["back"], silu(norm(p["norm_out"], r)))
    a = r + (dense(p["skip"], a) if "skip" in p else a)
    return a + attend(p, a) if "qkv" in p else a

  c = params["conditioning"]
  vector = silu(dense(c["level_out"], silu(dense(
      c["level_in"], embeddings.level_features(jnp.full(len(x), ell, x.dtype))))))
  assert vector.shape[1] == width
  h0 = conv(params["input"], x)
  h1 = block(params["down_0_0"], h0)
  h2 = conv(params["down_1"], h1, stride=2)
  h3 = block(params["down_1_0"], h2)
  h = block(params["middle_1"], block(params["middle_0"], h3))
  h = block(params["up_1_0"], jnp.concatenate([h, h3], -1))
  h = block(params["up_1_1"], jnp.concatenate([h, h2], -1))
  h = conv(params["up_1"], jnp.repeat(h, 2, axis=1))
  h = block(params["up_0_0"], jnp.concatenate([h, h1], -1))
  h = block(params["up_0_1"], jnp.concatenate([h, h0], -1))
  return conv(params["output"], silu(norm(params["norm"], h)))


def test_output_gradient_and_tangent_are_those_of_a_float64_reference(x64):
  network = UNet(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4,
                 head_channels=8)
  shape = (2, 8, 3)
  params = parameters(network, shape)
  x, move, weigh = np.random.default_rng(1).normal(size=(3, *shape))
  exact = functools.partial(_reference, groups=4, heads=2, width=32)

  def everything(apply, params, dtype):
    f = lambda params, x: apply(params, x)
    a, b = jnp.asarray(x, dtype), jnp.asarray(move, dtype)
    gradient = jax.grad(lambda p: jnp.sum(jnp.asarray(weigh, dtype) * f(p, a)))(params)
    return *jax.jvp(functools.partial(f, params), (a,), (b,)), gradient

  labels = jnp.zeros(2, jnp.int32)
  run = lambda dtype: jax.jit(lambda params: everything(
      lambda p, x: network.clone(dtype=dtype).apply({"params": p}, x, 0.3, labels), params,
      jnp.float32))(params)
  expected = jax.jit(lambda p: everything(lambda p, x: exact(p, x, 0.3), p, jnp.float64))(
      jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params))
  # Relative to a leaf's own size: float32's 6e-8 and bfloat16's 4e-3, through a score of layers.
  for dtype, bound in (("float32", 2e-5), ("bfloat16", 0.2)):
    *values, gradient = run(dtype)
    for got, true in zip(values, expected[:2], strict=True):
      assert np.linalg.norm(got - true) < bound * np.linalg.norm(true)
    whole = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    true = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(expected[2])])
    assert 1e-9 < np.linalg.norm(whole - true) / np.linalg.norm(true) < bound


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
  n = len(taps)
  matrix = np.zeros((4, 8))
  for i in range(4):
    for k, tap in enumerate(taps):
      if 0 <= 2 * i + k - n // 2 + 1 < 8:
        matrix[i, 2 * i + k - n // 2 + 1] = tap / sum(taps)
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
