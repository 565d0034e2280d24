"""EDM2's U-Net: published sizes, a float64 reference, symmetry, magnitudes, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import check_mirrored, check_rematerialised, parameters, shapes

from experiments.planning import model_flops
from langevin_jax.networks import UNetEDM2
from langevin_jax.networks import unet_edm2 as edm2
from langevin_jax.training import forced_weight_normalization

TINY = UNetEDM2(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
NONE = jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize(("channels", "millions", "giga_multiply_adds"), [
    (192, 280, 102), (448, 1523, 552)])  # Karras et al. 2024, table 4
def test_published_layouts_have_their_published_size_and_work(
    channels, millions, giga_multiply_adds):
  network, shape = UNetEDM2(channels=channels, num_classes=1000), (1, 64, 64, 4)
  params = shapes(network, shape)
  # Less 100,000 parameters of the uncertainty, which is another part here.
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert size / 1e6 == pytest.approx(millions, rel=5e-3)
  traced = jax.make_jaxpr(lambda p, x: network.apply({"params": p}, x, 0.0, jnp.zeros(1, int)))(
      params, jnp.zeros(shape))
  # The paper counts all operations, of weights too; products alone are 1 to 2.5 % less.
  assert 0.975 < model_flops.count(traced, 0, edges=True) / 2e9 / giga_multiply_adds < 0.995


def _reference(params, x, ell):
  """`TINY` on sequences in NumPy."""
  unit = lambda a, axis: a / np.sqrt(np.mean(a**2, axis, keepdims=True) + 1e-8)
  silu = lambda a: a / (1.0 + np.exp(-a)) / 0.596
  mix = lambda a, b: (0.7 * a + 0.3 * b) / np.sqrt(0.7**2 + 0.3**2)
  both = lambda a, b: np.concatenate([a / np.sqrt(2 * a.shape[-1]), b / np.sqrt(
      2 * b.shape[-1])], -1) * np.sqrt(a.shape[-1] + b.shape[-1])
  def product(p, a):
    w = np.asarray(p["weight"])
    w = unit(w, tuple(range(w.ndim - 1))) / np.sqrt(w[..., 0].size) * (p.get("gain", np.ones(1)))
    if w.ndim == 2:
      return a @ w
    padded = np.pad(a, ((0, 0), (1, 1), (0, 0)))
    return sum(padded[:, k:k + a.shape[1]] @ w[k] for k in range(3))
  def block(p, a, down=False):
    skip = product(p["skip"], a) if "skip" in p else a
    if down:
      a = skip = unit(skip, -1)
    r = product(p["hidden"], silu(a)) * (1.0 + product(p["modulation"], vector))[:, None]
    a = mix(skip, product(p["back"], silu(r)))
    if "qkv" in p:
      qkv = product(p["qkv"], a)
      q, k, v = np.moveaxis(unit(qkv.reshape(*a.shape[:2], -1, 3, 8), -1), 3, 0)
      logits = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(8))
      seen = np.einsum("bhqk,bkhd->bqhd", logits / logits.sum(-1, keepdims=True), v)
      a = mix(a, product(p["merge"], seen.reshape(a.shape)))
    return np.clip(a, -256.0, 256.0)

  draw = np.random.default_rng(0)
  frequencies, phases = draw.normal(size=8), draw.uniform(size=8)
  vector = silu(product(params["level"], np.sqrt(2.0) * np.cos(
      2 * np.pi * (-ell / 4 * frequencies + phases)))[None])
  h0 = product(params["input"], np.concatenate([x, np.ones_like(x[..., :1])], -1))
  h1 = block(params["down_0_0"], h0, True)
  h2 = block(params["down_1"], h1.reshape(len(x), 4, 2, -1).mean(2), True)
  h3 = block(params["down_1_0"], h2, True)
  h = block(params["middle_1"], block(params["middle_0"], h3))
  h = block(params["up_1_1"], both(block(params["up_1_0"], both(h, h3)), h2))
  h = block(params["up_1"], np.repeat(h, 2, axis=1))
  h = block(params["up_0_1"], both(block(params["up_0_0"], both(h, h1)), h0))
  return product(params["output"], h)


@pytest.mark.parametrize(("dtype", "bound"), [
    ("float32", 1e-5), pytest.param("bfloat16", 0.05, marks=pytest.mark.slow)])
def test_output_tangent_and_gradient_are_those_of_a_float64_reference(dtype, bound):
  """The gradient along a direction of each leaf. Slopes are difference quotients of the reference.

  Relative to their own size: float32's 6e-8 and bfloat16's 4e-3, through a score of layers.
  """
  shape, draw = (2, 8, 3), np.random.default_rng(0).normal
  drawn = lambda tree: jax.tree.map(lambda leaf: draw(size=leaf.shape), tree)
  leaves, tree = jax.tree.flatten((drawn(shapes(TINY, shape)), draw(size=shape)))
  moves, weigh = drawn(leaves), draw(size=shape)
  single = lambda leaves: [jnp.asarray(leaf, jnp.float32) for leaf in leaves]

  def apply(leaves):
    params, x = tree.unflatten(leaves)
    return TINY.clone(dtype=dtype).apply({"params": params}, x, 0.3, NONE)

  @jax.jit
  def everything(leaves, moves):
    value, slope = jax.jvp(apply, (leaves,), (moves,))
    gradient = jax.grad(lambda leaves: jnp.sum(jnp.asarray(weigh, jnp.float32) * apply(leaves)))
    return value, slope, jnp.stack([
        jnp.vdot(bar, move) for bar, move in zip(gradient(leaves), moves, strict=True)])

  # Central differences of step 1e-5 have 10 digits in float64.
  at = lambda moves, t: _reference(*tree.unflatten([
      leaf + t * move for leaf, move in zip(leaves, moves, strict=True)]), 0.3)
  slope = lambda moves: (at(moves, 1e-5) - at(moves, -1e-5)) / 2e-5
  alone = [[move if i == j else 0.0 for j, move in enumerate(moves)] for i in range(len(moves))]
  expected = at(moves, 0.0), slope(moves), np.stack([np.sum(weigh * slope(m)) for m in alone])
  for got, true in zip(everything(single(leaves), single(moves)), expected, strict=True):
    error = np.linalg.norm(got - true) / np.linalg.norm(true)
    assert 1e-9 < error < bound


@pytest.mark.parametrize("shape", [(2, 8, 1), (1, 8, 4, 2)])
def test_mirrored_input_and_kernels_mirror_the_output(shape):
  """True of every layer: padding and resampling are symmetric, attention knows no positions."""
  check_mirrored(TINY, parameters(TINY, shape, scale=1.0), shape)


def test_rematerialised_is_the_same_function_with_less_to_store():
  params = parameters(TINY, (2, 8, 8, 1), scale=1.0)
  check_rematerialised(TINY, params, stored=0.5, error=1e-5)


@pytest.mark.slow
def test_magnitudes_do_not_drift_in_a_thousand_steps():
  """Forced, all weights have magnitude 1 and activations theirs; else Adam makes weights grow."""
  network = TINY.clone(multipliers=(1,), attention=())
  x = jax.random.normal(jax.random.key(0), (4, 4, 2))
  plain, forced = optax.adam(0.01), forced_weight_normalization()
  start = network.init(jax.random.key(1), x, 0.0, jnp.zeros(4, int))["params"]

  def norms(params):
    return jnp.stack([jnp.mean(leaf**2, axis=tuple(range(leaf.ndim - 1))).max() for path, leaf in (
        jax.tree_util.tree_leaves_with_path(params)) if path[-1].key == "weight"])

  def activations(params):
    _, seen = network.apply({"params": params}, x, 0.0, jnp.zeros(4, int),
                            capture_intermediates=lambda module, _: isinstance(module, edm2.Block))
    return jnp.stack([jnp.sqrt(jnp.mean(leaf**2)) for leaf in jax.tree.leaves(seen)])

  @jax.jit
  def train(force):
    def step(i, carry):
      params, state = carry
      noise, ell = (jax.random.normal(jax.random.fold_in(jax.random.key(j), i), s)
                    for j, s in ((2, x.shape), (3, (4,))))
      loss = lambda p: jnp.mean((network.apply(
          {"params": p}, x, ell, jnp.zeros(4, int)) - noise) ** 2)
      updates, state = plain.update(jax.grad(loss)(params), state, params)
      projected, _ = forced.update(updates, optax.EmptyState(), params)
      updates = jax.tree.map(lambda a, b: jnp.where(force, a, b), projected, updates)
      return optax.apply_updates(params, updates), state

    params, _ = jax.lax.fori_loop(0, 1000, step, (start, plain.init(start)))
    return norms(params), activations(params)

  (kept, still), (grown, _) = train(True), train(False)
  np.testing.assert_allclose(norms(start), 1.0, rtol=1e-5)
  np.testing.assert_allclose(kept, 1.0, rtol=1e-5)
  assert float(grown.min()) > 1.05
  # Magnitudes of five blocks' outputs: 1 for independent terms, less where they correlate.
  assert float(still.min()) > 0.5 and float(still.max()) < 2.0


def test_tokens_are_refused_and_the_update_needs_parameters():
  condition = {"text": jnp.zeros((2, 3, 4)), "size": jnp.zeros((2, 1))}
  with pytest.raises(ValueError, match=r"^condition 'text': unet_edm2 takes no tokens"):
    jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((2, 8, 1)), 0.0, condition)
  with pytest.raises(ValueError, match="needs params"):
    forced_weight_normalization().update({}, optax.EmptyState())
