"""The transformer: published sizes and work, a float64 reference, symmetries, ranks, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import parameters, shapes
from references import (
  TEXT,
  attention,
  check_against_float64,
  cross_attention,
  dense,
  heads_of,
  silu,
  standardized,
)

from experiments.config import levels as calls
from experiments.planning import model_flops
from langevin_jax import networks
from langevin_jax.networks import DiT, _patches
from langevin_jax.networks import _attention as attentions
from langevin_jax.networks import _embeddings as embeddings

JIT = {"norm": "rms", "mlp": "swiglu", "qk_norm": True, "rotary": True, "positions": "fixed"}
JIT_B = JIT | {"width": 768, "depth": 12, "heads": 12, "bottleneck": 128, "patch_size": 16,
               "num_classes": 1000}


def _size(width, depth, heads):
  return {"width": width, "depth": depth, "heads": heads, "num_classes": 1000,
          "positions": "fixed", "level": networks.clock(jax.nn.sigmoid)}


@pytest.mark.parametrize(("settings", "shape", "millions", "giga_multiply_adds"), [
    (_size(384, 12, 6), (32, 32, 4), 33, 6.06),  # Peebles & Xie 2023, tables 1 and 4
    (_size(768, 12, 12), (32, 32, 4), 130, 23.01),
    (_size(1024, 24, 16), (32, 32, 4), 458, 80.71),
    (_size(1152, 28, 16), (32, 32, 4), 675, 118.64),
    # Li & He 2025 have 25, with 32 tokens of the class beside the 256 in 8 of 12 blocks.
    (JIT_B, (256, 256, 3), 131, 25.0 / (1.0 + 32 / 256 * 8 / 12)),
])
def test_published_layouts_have_their_published_size_and_work(
    settings, shape, millions, giga_multiply_adds):
  network = DiT(**settings)
  params = shapes(network, (1, *shape))
  # The paper's output has as many channels again, for the variance: 18,000 parameters at most,
  # and 0.2 % of the work.
  assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6) == millions
  traced = jax.make_jaxpr(lambda p, x: network.apply({"params": p}, x, 0.0, jnp.zeros(1, int)))(
      params, jnp.zeros((1, *shape)))
  assert model_flops.count(traced, 0) / 2e9 == pytest.approx(giga_multiply_adds, rel=0.01)


def _reference(network, params, x, ell):
  """`network` on sequences in the dtype of its arguments."""
  heads, batch, channels, patch = network.heads, len(x), x.shape[-1], network.patch_size
  def normal(p, a):
    if p is None:
      return standardized(a)
    scale = p["scale"].reshape((1,) * (a.ndim - 1) + (-1,))
    return scale * a / jnp.sqrt(jnp.mean(a**2, -1, keepdims=True) + 1e-6)
  def turned(a):  # (batch, tokens, heads, depth): the complex numbers of pairs, times e^{i angle}
    half = a.shape[-1] // 2
    turn = np.exp(1j * np.arange(a.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half))
    z = (a[..., :half] + 1j * a[..., half:]) * turn[None, :, None]
    return jnp.concatenate([z.real, z.imag], axis=-1)
  def mlp(p, r):
    if "gate" in p:
      return dense(p["back"], silu(dense(p["gate"], r)) * dense(p["hidden"], r))
    r = dense(p["hidden"], r)
    return dense(p["back"], 0.5 * r * (1.0 + jnp.tanh(np.sqrt(2 / np.pi) * (r + 0.044715 * r**3))))
  modulation = lambda p, n: jnp.split(dense(p, vector)[:, None], n, axis=-1)
  c = params["conditioning"]
  features = embeddings.level_features(jnp.full(batch, ell, x.dtype))
  vector = silu(dense(c["level_out"], silu(dense(c["level_in"], features))))
  h = x.reshape(batch, -1, patch * channels)
  h = dense(params["patches"], dense(params["bottleneck"], h) if "bottleneck" in params else h)
  h = h + params.get("position", _patches.position_waves(h.shape[1:2], network.width))[None]
  for i in range(network.depth):
    p = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation(p["modulation"], 6)
    qkv = dense(p["qkv"], (1.0 + scale_a) * normal(p.get("norm_attention"), h) + shift_a)
    q, k, v = heads_of(qkv, heads, 3)
    if network.qk_norm:
      q, k = normal(p["q_norm"], q), normal(p["k_norm"], k)
    if network.rotary:
      q, k = turned(q), turned(k)
    h = h + gate_a * dense(p["merge"], attention(q, k, v))
    if "cross" in p:
      h = h + cross_attention(params, p["cross"], h, heads)
    h = h + gate_m * mlp(p, (1.0 + scale_m) * normal(p.get("norm_mlp"), h) + shift_m)
  shift, scale = modulation(params["modulation"], 2)
  h = (1.0 + scale) * normal(params.get("norm"), h) + shift
  return dense(params["output"], h).reshape(x.shape)


@pytest.mark.parametrize(("settings", "condition"), [
    (JIT | {"bottleneck": 5}, np.zeros(3, int)), ({"remat": True}, TEXT)], ids=["jit", "dit"])
def test_output_gradient_and_tangent_are_those_of_a_float64_reference(settings, condition, x64):
  # float32's 6e-8 and bfloat16's 4e-3, through a dozen layers.
  network = DiT(width=16, depth=2, heads=2, unroll=1, **settings)
  check_against_float64(network, _reference, (3, 8, 3), condition, scale=0.3,
                        bounds={"float32": 2e-5, "bfloat16": 0.1})


@pytest.mark.parametrize(("settings", "equivariant"), [
    ({"positions": "none"}, True), ({"positions": "none", "rotary": True}, False)])
def test_without_positions_permuted_tokens_permute_the_output(settings, equivariant):
  network, shape = DiT(patch_size=1, width=16, depth=1, heads=2, **settings), (1, 2, 3, 2)
  params = parameters(network, shape, scale=0.3)
  x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  apply = jax.jit(lambda x: network.apply({"params": params}, x, 0.2, jnp.zeros(1, int)))
  order = np.random.default_rng(3).permutation(6)
  permuted = lambda a: a.reshape(1, 6, 2)[:, order].reshape(shape)
  error = np.abs(np.asarray(apply(permuted(x))) - permuted(np.asarray(apply(x)))).max()
  assert error < 1e-5 if equivariant else error > 1e-3


@pytest.mark.parametrize("sides", [(5,), (3, 4), (2, 3, 2)])
def test_rotated_products_know_the_differences_of_places_alone(sides):
  depth = 14
  angles = attentions.rotation(sides, depth)
  assert angles.shape == (np.prod(sides), depth // 2)
  assert np.count_nonzero(angles.any(axis=0)) == depth // (2 * len(sides)) * len(sides)
  a, b = np.random.default_rng(0).normal(size=(2, depth)).astype(np.float32)
  q, k = (attentions.rotated(jnp.broadcast_to(h, (len(angles), depth)), angles) for h in (a, b))
  logits, places = np.asarray(q @ k.T), np.indices(sides).reshape(len(sides), -1).T
  differences = places[None] - places[:, None]
  found = {}
  for difference, logit in zip(differences.reshape(-1, len(sides)), logits.ravel(), strict=True):
    found.setdefault(tuple(difference), []).append(logit)
  assert max(np.ptp(values) for values in found.values()) < 1e-5
  assert len({round(float(values[0]), 4) for values in found.values()}) == len(found)


@pytest.mark.parametrize("sides", [(6,), (4, 6), (4, 2, 6)])
def test_patches_of_every_rank_are_put_back_where_they_were(sides):
  shape = (2, *sides, 3)
  x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  rows = _patches.split(jnp.asarray(x), 2)
  first = x[(0, *[slice(0, 2)] * len(sides))]
  np.testing.assert_array_equal(rows[0], first.ravel())
  np.testing.assert_array_equal(_patches.join(rows, shape, 2), x)
  network = DiT(width=16, depth=1, heads=2, **JIT)
  assert jax.eval_shape(
      network.init_with_output, jax.random.key(0), x, 0.0, jnp.zeros(2, int))[0].shape == shape


def test_a_clock_is_the_published_embedding_of_its_time():
  """Peebles & Xie's code: cos, then sin, of t times exp(−log(10000) i/128)."""
  level = networks.clock(lambda ell: 100.0 - ell)
  t = np.array([99.0, 3.25, 0.0])
  angles = t[:, None] * np.exp(-np.log(10000.0) * np.arange(128) / 128)
  np.testing.assert_allclose(
      level.features(jnp.asarray(100.0 - t)), np.concatenate([np.cos(angles), np.sin(angles)], 1),
      atol=2e-5)


def test_the_runners_levels_are_those_of_dit_and_sit():
  """DDPM's step of a table of β, and the share t of the data in t x₀ + (1 − t) ε."""
  steps = np.array([0, 1, 400, 998, 999])
  for schedule in ("linear", "scaled_linear"):
    betas = (np.linspace(1e-4, 0.02, 1000) if schedule == "linear" else
             np.linspace(0.01, 0.02**0.5, 1000) ** 2)
    kept = np.cumprod(1.0 - betas)[steps]
    got = calls.timesteps(schedule=schedule).features(
        jnp.asarray(0.5 * np.log(kept / (1.0 - kept))))
    # A step is 200 times ℓ's, so float32 leaves it 4 digits behind the point.
    np.testing.assert_allclose(
        got, networks.clock(lambda t: t).features(jnp.asarray(steps, jnp.float32)), atol=1e-3)
  t = np.array([0.0, 0.2, 1.0])
  level = calls.flow_time()
  with np.errstate(divide="ignore"):
    ell = jnp.asarray(np.log(t / (1.0 - t)))
  np.testing.assert_allclose(level.scale(ell), np.hypot(t, 1.0 - t), rtol=1e-6)
  np.testing.assert_allclose(
      level.features(ell), networks.clock(lambda t: t).features(jnp.asarray(t)), atol=1e-6)
  with pytest.raises(ValueError, match="beta_min <= beta_max"):
    calls.timesteps(beta_min=0.1)


def test_the_scale_of_a_level_multiplies_the_state():
  shape = (2, 4, 1)
  plain = DiT(width=8, depth=1, heads=2)
  params, x = parameters(plain, shape, scale=0.3), np.random.default_rng(1).normal(size=shape)
  ell, labels = np.float32([0.5, -1.0]), jnp.zeros(2, int)
  apply = lambda network, x: network.apply({"params": params}, x, ell, labels)
  got, expected = jax.jit(lambda: (
      apply(plain.clone(level=networks.Level(scale=jnp.exp)), x),
      apply(plain, x * np.exp(ell)[:, None, None])))()
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_tied_output_is_the_transpose_of_the_input_and_an_unseen_level_has_no_effect():
  shape = (2, 6, 5)
  free = DiT(patch_size=1, width=8, depth=1, heads=2, level=calls.unseen())
  params, x = parameters(free, shape, scale=0.3), np.random.default_rng(1).normal(size=shape)
  params["output"]["kernel"] = params["patches"]["kernel"].T
  tied = {name: leaf for name, leaf in params.items() if name != "output"} | {
      "output_bias": params["output"]["bias"]}
  assert jax.tree.structure(tied) == jax.tree.structure(shapes(free.clone(tied=True), shape))
  apply = lambda network, params, ell: network.apply({"params": params}, x, ell, jnp.zeros(2, int))
  expected, got, other = jax.jit(lambda: (
      apply(free, params, jnp.float32(0.3)), apply(free.clone(tied=True), tied, jnp.float32(0.3)),
      apply(free, params, jnp.float32(-jnp.inf))))()
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(other, expected)


def test_a_stem_is_a_convolution_of_patches():
  rng, grid, side, width = np.random.default_rng(0), (4, 5), 3, 2
  x, kernel = rng.normal(size=(2, *grid, 6)), rng.normal(size=(side, side, 6, width))
  got = _patches.convolve(
      jnp.asarray(x.reshape(-1, 6) @ kernel.transpose(2, 0, 1, 3).reshape(6, -1)), (2, *grid), side)
  expected = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  np.testing.assert_allclose(got, expected.reshape(-1, width), rtol=1e-4, atol=1e-4)
  shape = (2, 6, 5)
  params = shapes(DiT(patch_size=1, width=8, depth=1, heads=2, stem=5), shape)
  assert params["patches"]["kernel"].shape == (5, 5 * 8)
