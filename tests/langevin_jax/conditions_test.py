"""Conditions: masks, what is lost in training, guidance of each, and networks by kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import round_mixture

from langevin_jax import conditions, guidance, paths, predictions
from langevin_jax.networks import MLP, DiT, UNet, UNetEDM2

N = 5
RNG = np.random.default_rng(0)
# One of every kind, and both forms of a mask.
CONDITION = {
    "size": RNG.normal(size=(N, 2)).astype(np.float32),
    "angle": RNG.normal(size=N).astype(np.float32),
    "label": np.arange(N) % 3,
    "text": RNG.normal(size=(N, 4, 3)).astype(np.float32),
    "text_mask": np.arange(4)[None] < np.array([4, 2, 1, 3, 4])[:, None],
    "low": RNG.normal(size=(N, 2, 2, 1)).astype(np.float32),
    "low_mask": np.array([True, True, False, True, True]),
}
NAMES = sorted(name for name in CONDITION if not name.endswith("_mask"))
NETWORKS = {
    "mlp": (MLP(width=8, depth=2, classes={"label": 3}, heads=2), (N, 5)),
    "dit": (DiT(width=8, depth=2, heads=2, classes={"label": 3}), (N, 4, 4, 1)),
    "unet": (UNet(channels=8, multipliers=(1, 2), blocks=1, attention=(2,), groups=4,
                  classes={"label": 3}), (N, 4, 4, 1)),
    "unet_edm2": (UNetEDM2(channels=8, multipliers=(1, 2), blocks=1, attention=(2,),
                           head_channels=8, classes={"label": 3}), (N, 4, 4, 1)),
}
TOKENLESS = {name: value for name, value in CONDITION.items() if not name.startswith("text")}
each = pytest.mark.parametrize("name", NETWORKS)


def test_what_is_masked_is_zero_and_what_is_complete_stays():
  whole = conditions.complete(CONDITION)
  assert sorted(whole) == sorted([*NAMES, *(f"{name}_mask" for name in NAMES)])
  assert np.all(whole["size_mask"]) and whole["size_mask"].shape == (N,)
  np.testing.assert_array_equal(whole["text"], np.where(
      CONDITION["text_mask"][..., None], CONDITION["text"], 0.0))
  assert not np.any(whole["low"][2]) and np.all(whole["low"][0] == CONDITION["low"][0])
  jax.tree.map(np.testing.assert_array_equal, whole, conditions.complete(whole))
  nothing = conditions.null(CONDITION)
  assert jax.tree.structure(nothing) == jax.tree.structure(whole)
  assert not any(np.any(value) for value in nothing.values())


def test_conditions_are_lost_together_and_alone_as_often_as_said():
  """P(lost) of one of two is 1 − (1 − p)², of both p + (1 − p) p², of a single one p."""
  n, p = 40_000, 0.3
  two = {"a": np.ones((n, 1), np.float32), "b": np.ones(n, np.float32)}
  lost = conditions.drop(jax.random.key(0), two, p)
  a, b = (~np.asarray(lost[name]) for name in ("a_mask", "b_mask"))
  one = ~np.asarray(conditions.drop(jax.random.key(1), {"a": two["a"]}, p)["a_mask"])
  for share, expected in ((a.mean(), 1 - 0.7**2), (b.mean(), 1 - 0.7**2), (one.mean(), p),
                          ((a & b).mean(), p + 0.7 * p**2)):
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
  assert not np.any(np.asarray(lost["b"])[b]) and np.all(np.asarray(lost["b"])[~b] == 1.0)


def test_labels_are_dropped_as_ever():
  """A label's draw is that of `bernoulli` with the key: runs of before are the same bits."""
  labels, key = jnp.arange(20) % 3, jax.random.key(4)
  expected = jnp.where(jax.random.bernoulli(key, 0.5, (20,)), 3, labels)
  np.testing.assert_array_equal(conditions.drop(key, labels, 0.5, null_label=3), expected)


@functools.cache
def case(name):
  network, shape = NETWORKS[name]
  x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
  condition = TOKENLESS if name == "unet_edm2" else CONDITION  # it refuses tokens
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, 0.0, condition)["params"]
  # Drawn, so that no gate is closed.
  params = jax.tree.map(lambda leaf: jnp.asarray(
      np.random.default_rng(1).normal(scale=0.3, size=leaf.shape), leaf.dtype), shapes)
  return x, params, condition, jax.jit(lambda x, condition: network.apply(
      {"params": params}, x, 0.3, condition))


@each
def test_a_network_sees_every_condition_of_its_own_example_and_nothing_masked(name):
  x, _, condition, apply = case(name)
  base = np.asarray(apply(x, condition))
  changed = lambda value: np.abs(np.asarray(value) - base).reshape(N, -1).max(1)
  for part in sorted(condition.keys() & NAMES):
    mask = condition.get(f"{part}_mask", np.ones(N, bool))
    value = condition[part].copy()
    value[0] = (value[0] + 1) % 3 if part == "label" else value[0] + 1.0
    moved = changed(apply(x, condition | {part: value}))
    assert moved[0] > 1e-4 and np.all(moved[1:] < 1e-6), part
    # What lies under a mask is not seen; that it is lost is.
    hidden = mask & (np.arange(N).reshape(N, *[1] * (mask.ndim - 1)) > 0)
    without = {**condition, f"{part}_mask": hidden}
    lost = apply(x, without)
    assert changed(lost)[0] > 1e-4, part
    np.testing.assert_array_equal(lost, apply(x, without | {part: value}))
    value[0] = 0
    zeros = np.asarray(apply(x, condition | {part: value}))
    assert np.abs(zeros - np.asarray(lost))[0].max() > 1e-4, part


@each
def test_guidance_of_named_conditions_is_one_call(name):
  """Against two calls; with a null of one's own, away from another condition."""
  x, params, condition, apply = case(name)
  network, rows = NETWORKS[name][0], []

  def counted(x, ell, condition):
    rows.append(len(x))
    return network.apply({"params": params}, x, ell, condition)

  other = condition | {"size": condition["size"] + 1.0}
  for null, against in ((None, conditions.null(condition)), (other, other)):
    rows.clear()
    model = guidance.classifier_free(
        counted, paths.vp(), condition, null=null, weight=3.0, prediction="x0")
    value = jax.jit(model.at)(x, 0.3)
    assert rows == [2 * N]
    given, free = apply(x, condition), apply(x, against)
    np.testing.assert_allclose(value, free + 3.0 * (given - free), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("change", "words"), [
    ({"size": np.zeros((4, 2))}, "one batch axis in front, got shapes"),
    ({"size": np.float32(1.0)}, "one batch axis in front"),
    ({"size": np.zeros((N, 2), complex)}, "'size' must have real numbers or integers, got complex"),
    ({"sise_mask": np.ones(N, bool)}, "there is no 'sise' that it could mask"),
    ({"size_mask": np.ones(N)}, r"'size_mask' must be booleans whose shape leads \(5, 2\)"),
    ({"size_mask": np.ones((N, 3), bool)}, r"got bool of shape \(5, 3\)"),
    ({"other": np.zeros((N, 2), int)}, "'other' has integers, whose number of classes"),
    ({"low": np.zeros((N, 3, 3, 1))}, "'low' must be an image whose sides divide 4×4, got 3×3"),
    ({"video": np.zeros((N, 2, 2, 2, 1))}, r"'video' must have examples of shape"),
])
def test_bad_conditions_are_named(change, words):
  network, shape = NETWORKS["dit"]
  with pytest.raises(ValueError, match=words) as error:
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape), 0.0, CONDITION | change)
  assert "\n" not in str(error.value)


def test_bad_guidance_is_named():
  network = lambda x, ell, condition: x
  guide = lambda condition, **options: guidance.classifier_free(
      network, paths.vp(), condition, weight=2.0, **options)
  for call, words in (
      (lambda: guide(np.arange(3)), "null must be given"),
      (lambda: guide((np.zeros((3, 1)),)), "null must be given"),
      (lambda: guide((np.zeros((3, 1)),), null=(np.zeros((3, 2)),)), "null must have the arrays"),
      (lambda: guide({"a": np.zeros((3, 1))}, null={"b": np.zeros((3, 1))}), "null must have the"),
      (lambda: guide({"a": np.zeros((3, 1))}).at(jnp.zeros((4, 2)), 0.0), r"\(3,\) must lead"),
      (lambda: guide({"a": np.zeros((3, 1))}, null={"a": np.ones((3, 1))}).at(
          jnp.zeros((3, 2), int), 0.0), "network must return floats")):
    with pytest.raises(ValueError, match=words):
      call()


def test_guidance_of_a_conditional_mixture_is_the_tilted_target(x64):
  """∇ log p(x)^{1−w} p(x|c)^w at every level, p(x|c) a mixture whose means move with c."""
  weights, means, stds = np.array([0.3, 0.7]), np.array([[-1.0, 0.2], [0.8, -0.5]]), np.array(
      [0.3, 0.5])
  c, x = np.array([[0.5, -0.2], [1.0, 0.3]]), jnp.asarray(RNG.normal(size=(2, 2)))
  w, ells = 2.5, np.array([-2.0, 0.0, 2.0])
  of = lambda shift: round_mixture((weights, jnp.asarray(means) + shift[None], stds))

  def network(x, ell, condition):
    frame = predictions.unit_frame(ell)
    one = lambda x, shift: of(shift).denoise(x, frame.alpha, frame.sigma)
    return jax.vmap(one)(x, condition["c"])  # nothing given is c = 0

  model = guidance.classifier_free(network, paths.vp(), {"c": c}, weight=w)
  for ell in ells:
    alpha, sigma, *_ = predictions.unit_frame(ell)
    score = lambda shift, x, a=alpha, s=sigma: of(shift).score(x, a, s)
    wanted = w * jax.vmap(score)(jnp.asarray(c), x) + (1 - w) * jax.vmap(
        lambda x: score(jnp.zeros(2), x))(x)  # noqa: B023
    got = (alpha * model.at(x, ell) - x) / sigma**2
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
