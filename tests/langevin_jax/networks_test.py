"""Networks: shapes, bounded levels, zero output, no leaks between examples, and bad input."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from oracles import parameters, shapes
from references import TEXT, parameters_of

from langevin_jax import likelihood, objectives, paths, predictions, samplers, training
from langevin_jax.networks import MLP, DiT, UNet, UNetEDM2
from langevin_jax.networks import _attention as attentions
from langevin_jax.networks import _embeddings as embeddings
from langevin_jax.networks import _fused_attention as fused_attention
from langevin_jax.networks import _products as products
from langevin_jax.networks._attention import attention

IMAGE, VECTOR, CLASSES = (3, 4, 6, 2), (3, 5), 3
NETWORKS = {
    "mlp": (MLP(width=16, depth=2, num_classes=CLASSES), VECTOR),
    "dit": (DiT(patch_size=2, width=16, depth=2, heads=2, num_classes=CLASSES), IMAGE),
    "jit": (DiT(patch_size=2, width=16, depth=1, heads=2, num_classes=CLASSES, norm="rms",
                qk_norm=True, mlp="swiglu", positions="fixed", rotary=True, bottleneck=8), IMAGE),
    "unet": (UNet(channels=8, multipliers=(1, 2), blocks=1, attention=(3,), groups=4,
                  head_channels=4, scale_shift=True, num_classes=CLASSES), IMAGE),
    "unet_edm2": (UNetEDM2(channels=8, multipliers=(1, 2), blocks=1, attention=(3,),
                           head_channels=8, num_classes=CLASSES), IMAGE),
}


@functools.partial(jax.jit, static_argnums=0)
def _apply(network, params, x, ell, labels):
  return network.apply({"params": params}, x, ell, labels)


@functools.cache
def _case(name):
  network, shape = NETWORKS[name]
  x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  params = parameters(network, shape)
  return network, params, x, lambda *inputs: np.asarray(_apply(network, *inputs))


LABELS = np.array([0, 2, CLASSES])
each = pytest.mark.parametrize("name", NETWORKS)


@each
def test_starts_at_zero_with_a_gradient(name):
  network, _, x, _ = _case(name)

  @jax.jit
  def start(key):
    params = network.init(key, x, 0.3, LABELS)
    return jax.value_and_grad(
        lambda params: jnp.mean((network.apply(params, x, 0.3, LABELS) - 1.0) ** 2))(params)

  value, gradient = start(jax.random.key(0))
  assert value == 1.0
  assert max(np.abs(leaf).max()
             for leaf in jax.tree.leaves(gradient["params"]["output"])) > 0.0


@each
def test_bfloat16_is_near_float32_and_lives_in_its_parameters(name):
  network, params, x, apply = _case(name)
  low = network.clone(dtype="bfloat16")
  y, expected = np.asarray(_apply(low, params, x, 0.3, LABELS)), apply(params, x, 0.3, LABELS)
  assert y.shape == x.shape and y.dtype == expected.dtype == np.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes(low, x.shape))} == {jnp.dtype("float32")}
  # bfloat16 keeps 8 bits, and errors of a few layers add up: 5 % of the output's own size. Less
  # than 1e-4 would mean that it was not used.
  error = np.linalg.norm(y - expected) / np.linalg.norm(expected)
  assert 1e-4 < error < 0.05


@each
def test_scalar_level_is_the_level_of_every_example(name):
  _, params, x, apply = _case(name)
  # Two programs of the same float32 arithmetic, in another order at most.
  np.testing.assert_allclose(
      apply(params, x, 0.7, LABELS), apply(params, x, np.full(len(x), 0.7), LABELS), atol=1e-5)


@each
def test_examples_do_not_see_each_other(name):
  _, params, x, apply = _case(name)
  ell = np.array([-1.0, 0.5, 2.0])
  together = apply(params, x, ell, LABELS)
  alone = np.concatenate([
      apply(params, x[i:i + 1], ell[i:i + 1], LABELS[i:i + 1]) for i in range(len(x))])
  # Sums over another batch size may be ordered otherwise: float32 rounding.
  np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@each
def test_ends_of_the_noise_range_are_finite_and_smooth(name):
  network, params, x, _ = _case(name)
  at_end = jax.jit(lambda end: jax.jvp(
      lambda ell: network.apply({"params": params}, x, ell, LABELS), (end,), (1.0,)),
      compiler_options=oracles.OPTIMIZED)
  for end in (-np.inf, np.inf):
    value, slope = at_end(end)
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    # |ℓ| = 40 is infinite to float32: 1 − tanh(10) = 4e-9.
    np.testing.assert_allclose(value, at_end(np.sign(end) * 40.0)[0], atol=1e-5)


@each
def test_level_and_label_are_told_apart(name):
  _, params, x, apply = _case(name)
  base = apply(params, x, 0.0, LABELS)
  scale = np.abs(base).max()
  assert np.abs(apply(params, x, 0.5, LABELS) - base).max() / scale > 1e-3
  moved = np.abs(apply(params, x, 0.0, np.array([1, 2, 0])) - base) / scale
  moved = moved.reshape(len(x), -1).max(axis=1)
  assert moved[0] > 1e-3 and moved[2] > 1e-3 and moved[1] == 0.0


@each
def test_without_classes_labels_are_ignored(name):
  network, _, x, _ = _case(name)
  network = network.clone(num_classes=0)
  params = parameters(network, x.shape)
  y = _apply(network, params, x, 0.0, np.zeros_like(LABELS))
  np.testing.assert_array_equal(y, _apply(network, params, x, 0.0, LABELS))
  assert not any("label" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def test_levels_are_resolved_over_six_decades():
  # Two noise levels 5 % apart must differ by more than bfloat16's 0.4 % in their features, and
  # nothing may jump: the slope of sin ωu is ω/4 at most.
  ell = np.arange(-np.log(1e3), np.log(1e3), 0.05)
  features = np.asarray(jax.jit(embeddings.level_features)(ell))
  steps = np.diff(features, axis=0)
  assert np.abs(features).max() <= 1.0
  assert np.linalg.norm(steps, axis=1).min() > 0.05
  assert np.abs(steps).max() <= 0.05 * embeddings.MAX_FREQUENCY / 4.0


def change(apply, params, x, place):
  """The change of the output for a change of one number of x."""
  other = x.copy()
  other[place] += 1.0
  return apply(params, other, 0.0, LABELS) - apply(params, x, 0.0, LABELS)


def test_patches_are_put_back_where_they_were():
  # Blocks of zeros are the identity, so a pixel can only move its own patch of the output.
  network, params, x, apply = _case("dit")
  params = params | {"blocks": jax.tree.map(np.zeros_like, params["blocks"])}
  moved = np.abs(change(apply, params, x, (0, 3, 4, 1))).max(axis=(0, 3)) > 0.0
  assert moved[2:4, 4:6].all() and moved.sum() == network.patch_size**2


def test_tokens_attend_to_each_other():
  _, params, x, apply = _case("dit")
  assert np.abs(change(apply, params, x, (0, 0, 0, 0))[0, -2:, -2:]).max() > 1e-4


def test_attention_is_the_textbook_sum():
  batch, tokens, heads, depth = 2, 5, 3, 4
  qkv = jax.random.normal(jax.random.key(3), (batch, tokens, 3 * heads * depth))
  q, k, v = np.asarray(qkv, np.float64).reshape(batch, tokens, heads, 3, depth).transpose(
      3, 0, 1, 2, 4)
  expected = np.zeros((batch, tokens, heads, depth))
  for b in range(batch):
    for h in range(heads):
      weights = np.exp(q[b, :, h] @ k[b, :, h].T / depth**0.5)
      expected[b, :, h] = weights / weights.sum(axis=1, keepdims=True) @ v[b, :, h]
  # float32 against float64, numbers of order one.
  np.testing.assert_allclose(
      jax.jit(lambda qkv: attention(qkv, heads, "float32"))(qkv),
      expected.reshape(batch, tokens, -1), atol=1e-5)


def test_queries_in_parts_attend_as_all_at_once(monkeypatch):
  qkv = jax.random.normal(jax.random.key(5), (2, 3 * attentions.QUERIES, 3 * 2 * 8))
  weigh = jax.random.normal(jax.random.key(6), (2, 3 * attentions.QUERIES, 2 * 8))

  def both(qkv):
    return jax.value_and_grad(lambda q: jnp.sum(weigh * attention(q, 2, "float32")))(qkv)

  parts = jax.jit(both)(qkv)
  monkeypatch.setattr(attentions, "QUERIES", 10**6)
  whole = jax.jit(lambda qkv: both(qkv))(qkv)
  np.testing.assert_allclose(parts[0], whole[0], rtol=1e-4)
  np.testing.assert_allclose(parts[1], whole[1], atol=1e-5)


def test_fused_attention_has_all_derivatives_and_its_gradient_is_the_kernels(monkeypatch):
  """With `plain` as the kernel, which has a gradient and no tangent as cuDNN's does."""
  kernel, asked, pulled = jax.custom_vjp(fused_attention.plain), [], []

  def backward(saved, bar):
    pulled.append(bar.shape)
    return jax.vjp(fused_attention.plain, *saved)[1](bar)

  kernel.defvjp(lambda *qkv: (fused_attention.plain(*qkv), qkv), backward)

  def call(q, k, v, *, implementation):
    asked.append(implementation)
    return jnp.swapaxes(kernel(*(jnp.swapaxes(h, 1, 2) for h in (q, k, v))), 1, 2)

  monkeypatch.setattr(jax.nn, "dot_product_attention", call)
  qkv, move = np.random.default_rng(0).normal(size=(2, 2, 5, 3 * 2 * 8)).astype(np.float32)

  def derivatives(dtype):
    f = lambda x: jnp.sin(attention(x, 2, dtype))
    tangent = lambda x, move: jax.jvp(f, (x,), (move,))[1]
    return (f(qkv), jax.grad(lambda x: jnp.sum(f(x)))(qkv), tangent(qkv, move),
            jax.vmap(lambda move: tangent(qkv, move))(jnp.stack([move, qkv])),
            jax.grad(lambda x: jnp.sum(tangent(x, move)))(qkv))

  expected = jax.jit(lambda: derivatives("float32"))()
  assert not asked
  monkeypatch.setattr(attentions, "suits", lambda dtype, depth: True)
  got = jax.jit(lambda: derivatives("float32"))()
  assert set(asked) == {"cudnn"} and set(pulled) == {(2, 2, 5, 8)}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_fused_attention_is_chosen_on_cuda_in_bfloat16(monkeypatch):
  class Cuda:
    platform_version = "PJRT C API\ncuda 13000"

  assert not fused_attention.suits(jnp.bfloat16, 64)  # on this machine
  monkeypatch.setattr(fused_attention.backend, "get_backend", Cuda)
  assert fused_attention.suits(jnp.bfloat16, 64)
  assert not any(fused_attention.suits(*case) for case in (
      (jnp.float32, 64), (jnp.bfloat16, 12), (jnp.bfloat16, 256)))


@pytest.mark.parametrize(("version", "dtype", "calls"), [
    ("cuda 13000", "bfloat16", 2), ("cuda 13000", "float32", 0), ("<unknown>", "bfloat16", 0)])
def test_attention_and_its_gradient_are_cudnns_on_cuda_in_bfloat16_alone(
    version, dtype, calls, monkeypatch):
  """Even where queries would be processed in parts, and q and k are prepared in float32."""
  heads, asked, by_xla = 2, [], jax.nn.dot_product_attention
  draw = np.random.default_rng(0).normal
  qkv, weigh = (draw(size=(3, 6, n * heads * 8)).astype(np.float32) for n in (3, 1))
  prepare = lambda h, name: h.astype(jnp.float32) * (2.0 if name == "q" else 0.5)

  def run(dtype):
    def loss(qkv):
      value = attention(qkv, heads, dtype, prepare)
      return jnp.sum(weigh * value), value
    gradient, value = jax.jit(jax.grad(loss, has_aux=True))(qkv)
    assert gradient.dtype == value.dtype == jnp.float32
    return gradient, value

  def call(q, k, v, **options):
    asked.append((q.shape, q.dtype, options))
    return by_xla(q, k, v, implementation="xla")

  expected = run("float32")
  monkeypatch.setattr(attentions, "QUERIES", 2)
  monkeypatch.setattr(fused_attention.backend, "get_backend", lambda: types.SimpleNamespace(
      platform_version=version))
  monkeypatch.setattr(jax.nn, "dot_product_attention", call)
  got = run(dtype)
  # The forward pass, and the kernel whose gradient is taken: all queries at once in either.
  assert asked == [((3, 6, heads, 8), jnp.bfloat16, {"implementation": "cudnn"})] * calls
  # bfloat16 keeps 8 bits.
  for a, b in zip(got, expected, strict=True):
    assert np.linalg.norm(a - b) < {"float32": 1e-5, "bfloat16": 0.02}[dtype] * np.linalg.norm(b)


def test_unrolled_and_rematerialised_are_the_same_function():
  network, params, x, _ = _case("dit")

  @functools.partial(jax.jit, static_argnums=1)
  def gradient(params, network):
    return jax.grad(lambda p: jnp.sum(network.apply({"params": p}, x, 0.4, LABELS) ** 2))(params)

  expected = gradient(params, network)
  for changes in ({"unroll": 1}, {"remat": True}):
    got = gradient(params, network.clone(**changes))
    # The same sums, perhaps in another order: float32, relative to the largest of a leaf.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, atol=1e-4 * np.abs(b).max()), got, expected)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("bfloat16", 0.03)])  # 8 bits
def test_derivatives_of_the_product_are_autodiff(dtype, rtol):
  """Gradient, tangent, a batch of tangents, and the gradient of a tangent."""
  draw = np.random.default_rng(0).normal
  x, w = (draw(size=shape).astype(np.float32) for shape in ((7, 4), (4, 3)))
  weigh, moves = np.arange(21.0, dtype=np.float32).reshape(7, 3), np.stack([x**2, 1.0 - x])

  def derivatives(product):
    tangent = lambda x, w, move: jax.jvp(lambda x: jnp.sin(product(x, w)), (x,), (move,))[1]
    return (jax.grad(lambda x, w: jnp.sum(weigh * product(x, w)), (0, 1))(x, w),
            jax.jvp(product, (x, w), (moves[0], w**2))[1],
            jax.vmap(lambda move: tangent(x, w, move))(moves),
            jax.vmap(lambda w, move: tangent(x, w, move))(jnp.stack([w, 2.0 * w]), moves),
            jax.grad(lambda x, w: jnp.sum(weigh * tangent(x, w, moves[0])), (0, 1))(x, w))

  product = functools.partial(products.matmul, dtype=products.compute_dtype(dtype))
  got, expected = jax.jit(lambda: (derivatives(product), derivatives(jnp.matmul)))()
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("case", [
    *NETWORKS, "mlp-text", "dit-remat", "dit-text", "unet-remat-text", "unet_edm2-remat"])
def test_forward_and_reverse_mode_agree_in_bfloat16(case):
  """Both give the derivative of the output by the input: what likelihoods need of a network."""
  name, *changes = case.split("-")
  network, params, x, _ = _case(name)
  network, condition = network.clone(dtype="bfloat16"), LABELS
  if "remat" in changes:
    network = network.clone(remat=True)
  if "text" in changes:
    condition, params = TEXT, parameters_of(network, x.shape, TEXT, scale=0.3)

  @jax.jit
  def both(direction):
    f = lambda x: network.apply({"params": params}, x, 0.3, condition)
    return jax.jvp(f, (x,), (direction,))[1], jax.vjp(f, x)[1](direction)[0]

  columns, rows = zip(*(both(e.reshape(x.shape)) for e in np.eye(x.size, dtype=np.float32)),
                      strict=True)
  assert columns[0].dtype == rows[0].dtype == jnp.float32
  forward, backward = (np.reshape(parts, (x.size, x.size)) for parts in (columns, rows))
  # Each rounds other numbers to 8 bits, in a few layers.
  assert np.linalg.norm(forward.T - backward) < 0.03 * np.linalg.norm(forward)


@pytest.mark.parametrize("d", [2, 100])
def test_what_an_mlp_makes_of_data_has_unit_scale(d):
  """So that few coordinates are not left where the network is linear in them."""
  x, labels = jax.random.normal(jax.random.key(0), (512, d)), jnp.zeros(512, int)
  network = MLP(width=256, depth=0)
  seen = jax.jit(lambda x: network.init_with_output(
      jax.random.key(1), x, 0.0, labels, capture_intermediates=True,
      mutable=True)[1]["intermediates"])(x)
  hidden = seen["input"]["__call__"][0]
  # The mean square of 256 units, 2·256 or more squares of normal numbers: σ of 4 % for d = 2.
  assert abs(np.mean(np.asarray(hidden) ** 2) - 1.0) < 0.3


@pytest.mark.parametrize(("name", "dtype", "of_x"), [
    ("mlp", "bfloat16", np.float64), ("dit", "float32", np.float32)])
def test_networks_train_sample_and_are_judged_under_x64(name, dtype, of_x, x64):
  """Parameters and output are float32, whatever the default dtype is, and of x."""
  network, shape = NETWORKS[name]
  network = network.clone(depth=1, dtype=dtype)
  apply = lambda params, x, ell, labels: network.apply({"params": params}, x, ell, labels)
  density = objectives.log_normal_rho()
  loss = training.diffusion_loss(
      apply, density=density, weight=objectives.edm(density), prediction="v", num_classes=CLASSES)
  path, average = paths.rectified_flow(), training.averages.half_life(10.0)

  @jax.jit
  def everything(x):
    params = network.init(jax.random.key(0), x, 0.0, LABELS)["params"]
    state = training.init(params, optax.adam(1e-3))
    state, metrics = training.train_step(
        state, jax.random.key(1), (x, LABELS), loss=loss, optimizer=optax.adam(1e-3),
        averages=(average,), accumulation=3)
    values = [metrics.loss]
    if name == "mlp":  # what follows is the same of any network, and long to compile
      denoise = predictions.denoiser(
          lambda x, ell: apply(state.params, x, ell, LABELS), path, prediction="v")
      values += [
          samplers.sample(jax.random.key(2), denoise, path, shape=shape, method=samplers.ddim(),
                          grid=samplers.karras(2)),
          likelihood.log_prob(jax.random.key(3), denoise, path, x, steps=1, batch_axes=1,
                              divergence="hutchinson")]
    return state.params, apply(state.params, x, 0.3, LABELS), values

  params, output, values = everything(np.random.default_rng(0).normal(size=shape).astype(of_x))
  assert {leaf.dtype for leaf in jax.tree.leaves((params, output))} == {jnp.dtype("float32")}
  assert all(np.isfinite(value).all() for value in values)


REFUSED = [
    (DiT, {"patch_size": 3}, (2, 8, 9, 1), "patch_size must divide all sides, 8×9; got 3: 1 does"),
    (DiT, {"patch_size": 5}, (2, 8, 12, 1), "must divide all sides, 8×12; got 5: 4 does"),
    (DiT, {"patch_size": 0}, (2, 8, 8, 1), "must divide all sides, 8×8; got 0: 1 does"),
    (DiT, {"width": 130, "heads": 4}, (2, 8, 8, 1), "heads must divide width 130, got 4: 2 does"),
    (DiT, {"depth": 0}, (2, 8, 8, 1), "depth"),
    (DiT, {"dtype": "float16"}, (2, 8, 8, 1), "dtype"),
    (DiT, {}, (2, 8), "x must be .batch, .sides, channels., got shape .2, 8."),
    (DiT, {"rotary": True, "heads": 64}, (2, 8, 8, 1), "rotary needs 4 channels a head for 2 axes"),
    (DiT, {"bottleneck": 0}, (2, 8, 8, 1), "bottleneck must be at least 1, got 0"),
    (DiT, {"bottleneck": 4, "tied": True}, (2, 8, 8, 1), "tied ties the output to the patches"),
    (DiT, {"stem": 3, "tied": True}, (2, 8, 8, 1), "tied ties the output to the patches"),
    (DiT, {"stem": 2}, (2, 8, 8, 1), "stem must be an odd number of patches, got 2"),
    (DiT, {"norm": "batch"}, (2, 8, 8, 1), "norm must be one of layer, rms, got 'batch'"),
    (DiT, {"mlp": "relu"}, (2, 8, 8, 1), "mlp must be one of gelu, swiglu"),
    (DiT, {"positions": "sine"}, (2, 8, 8, 1), "positions must be one of learned, fixed, none"),
    (MLP, {"dtype": "half"}, (2, 3), "dtype"), (MLP, {}, (8,), "batch"),
    (UNet, {"channels": 48}, (2, 16, 16, 1), "groups must divide channels 48, got 32: 24 does"),
    (UNet, {"head_channels": 96}, (2, 32, 32, 1), "head_channels must divide the 256 channels of .*"
                                                  "16, which has attention; got 96: 64 does"),
    (UNet, {"multipliers": (3, 4), "heads": 5, "attention": (32,)}, (2, 32, 1),
     "heads must divide the 384 channels of the level of side 32, .* got 5: 4 does"),
    (UNet, {"attention": (14,)}, (2, 32, 32, 1), "attention must be among the longest sides of the "
                                                 "levels, 32, 16, 8, 4; got 14"),
    (UNet, {"multipliers": (1, 0)}, (2, 32, 1), "multipliers"),
    (UNet, {"dropout": 1.0}, (2, 32, 1), "dropout must lie in"),
    (UNet, {"resampling": "pool"}, (2, 32, 1), "resampling must be one of convolution, filter, bl"),
    (UNet, {"taps": (1.0, 2.0, 1.0)}, (2, 32, 1), "taps must be an even number"),
    (UNetEDM2, {"attention": (14,)}, (2, 32, 32, 1), "attention must be among the longest sides"),
    (UNetEDM2, {"head_channels": 100, "attention": ()}, (2, 32, 1),
     "head_channels must divide the 768 channels of .*; got 100: 96 does"),
    *((network, *case) for network in (UNet, UNetEDM2) for case in (
        ({}, (2, 12, 1), "multipliers has 4 levels, so sides must be multiples of 8, got 12"),
        ({"multipliers": ()}, (2, 32, 1), "multipliers must be integers from 1"),
        ({"blocks": 0}, (2, 32, 1), "blocks must be at least 1"),
        ({"dtype": "float16"}, (2, 32, 32, 1), "dtype"),
        ({}, (2, 32), "x must be .batch, .sides, channels.")))]


@pytest.mark.parametrize(("network", "settings", "shape", "words"), REFUSED)
def test_bad_input_is_one_line_that_names_the_field(network, settings, shape, words):
  with pytest.raises(ValueError, match=words) as error:
    shapes(network(**settings), shape)
  assert "\n" not in str(error.value)
