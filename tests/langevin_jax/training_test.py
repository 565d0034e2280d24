"""One pure training step: it learns, resumes bit for bit, and never keeps a bad step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from langevin_jax import objectives, training

HALF_LIFE = 20.0
DENSITY = objectives.log_normal_rho()
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
KEY = jax.random.key(7)


def apply(params, x, ell, labels):
  """A small network: one hidden layer of input, noise level and label."""
  level = jnp.stack([jnp.tanh(ell), jnp.tanh(ell / 4)], 1)
  h = jnp.concatenate([x, level, jax.nn.one_hot(labels, 4, dtype=x.dtype)], 1)
  h = jax.nn.silu(h @ params["w_1"] + params["b_1"][None])
  return h @ params["w_2"]


LOSS = training.diffusion_loss(
    apply, density=DENSITY, weight=objectives.edm(DENSITY), prediction="edm", num_classes=3)


def fresh() -> training.TrainState:
  k_1, k_2 = jax.random.split(jax.random.key(0))
  params = {"w_1": 0.5 * jax.random.normal(k_1, (8, 32)), "b_1": jnp.zeros(32),
            "w_2": 0.1 * jax.random.normal(k_2, (32, 2))}
  return training.init(params, OPTIMIZER)


def batches(n: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
  """n batches of three labelled clusters."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, (n, size))
  centres = np.array([[-1.0, 0.5], [1.0, 0.8], [0.1, -1.3]])
  x_0 = centres[labels] + 0.15 * rng.standard_normal((n, size, 2))
  return x_0.astype(np.float32), labels.astype(np.int32)


options = {"loss": LOSS, "optimizer": OPTIMIZER,
           "averages": (training.averages.half_life(HALF_LIFE),)}
loss_of = jax.jit(lambda params, key, batch: LOSS(params, key, batch))
one_step = jax.jit(lambda state, key, batch: training.train_step(state, key, batch, **options))
many_steps = jax.jit(lambda state, key, batch: training.train_steps(state, key, batch, **options))


def run(state, data, start, stop):
  for i in range(start, stop):
    state, _ = one_step(state, KEY, jax.tree.map(lambda v, i=i: v[i], data))
  return state


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_loss_falls():
  data = batches(200)
  state, metrics = many_steps(fresh(), KEY, data)
  loss = np.asarray(metrics.loss)
  # The loss of an untrained F is its unit variance; the posterior's own share of it remains.
  assert 0.7 < loss[:10].mean() < 1.5
  assert loss[-40:].mean() < 0.6 * loss[:10].mean()
  assert int(state.step) == 200 and np.all(metrics.finite)


def test_steps_in_one_dispatch_are_the_steps_one_by_one():
  data = batches(5)
  scanned, metrics = many_steps(fresh(), KEY, data)
  state, single = fresh(), []
  for i in range(5):
    state, m = one_step(state, KEY, (data[0][i], data[1][i]))
    single.append(m)
  # Two programs: their sums may associate differently, 1e-6 after five steps of Adam.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), scanned, state)
  stacked = jax.tree.map(lambda *v: np.stack(v), *single)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
               metrics, stacked)
  assert len(np.unique(metrics.loss)) == 5


def test_norms_are_of_the_parameters_and_of_their_change():
  data, state = batches(1), fresh()
  batch = jax.tree.map(lambda v: v[0], data)
  after, metrics = training.train_step(state, KEY, batch, norms=True, **options)
  change = jax.tree.map(lambda a, b: a - b, after.params, state.params)
  np.testing.assert_allclose(metrics.update_norm, optax.tree.norm(change), rtol=1e-4)
  np.testing.assert_allclose(metrics.param_norm, optax.tree.norm(after.params), rtol=1e-6)
  _, metrics = many_steps(state, KEY, data)
  assert metrics.param_norm is None and metrics.update_norm is None


def test_how_many_steps_a_dispatch_has_changes_no_bit():
  """One program takes any number of steps; those it does not take leave zeros."""
  data = batches(5)

  @jax.jit
  def some(state, batches, count):
    return training.train_steps(state, KEY, batches, count=count, **options)

  part = lambda i, k: jax.tree.map(lambda v: np.resize(v[i:i + k], (5, *v.shape[1:])), data)
  whole, metrics = some(fresh(), data, 5)
  state, losses, start = fresh(), [], 0
  for count in (1, 1, 3):
    state, measured = some(state, part(start, count), count)
    losses.append(measured.loss[:count])
    assert not np.any(measured.loss[count:])
    start += count
  assert_equal(state, whole)
  assert_equal(np.concatenate(losses), metrics.loss)
  assert_equal(many_steps(fresh(), KEY, data), (whole, metrics))


@pytest.mark.parametrize("optimizer", [
    optax.lbfgs(memory_size=3),
    optax.chain(optax.adam(3e-3), optax.contrib.reduce_on_plateau(patience=1, factor=0.5)),
], ids=["lbfgs", "reduce_on_plateau"])
def test_optimizers_that_ask_for_the_loss_are_given_it(optimizer):
  """`value`, `grad` and `value_fn`, of a batch in two parts: a narrow valley, minimum at 1."""
  def value(params, examples):
    error = (examples * (params - 1.0)[None]) ** 2
    levels = {"half_log_snr": jnp.zeros(len(error)), "eps_error": jnp.mean(error, 1)}
    return jnp.mean(error), levels

  state = training.init(jnp.array([3.0, -2.0]), optimizer)
  step = jax.jit(lambda state: training.train_step(
      state, KEY, jnp.array([[1.0, 9.0]] * 4), loss=training.Loss(lambda key, batch: batch, value),
      optimizer=optimizer, averages=options["averages"], accumulation=2))
  losses = []
  for _ in range(6):
    state, metrics = step(state)
    losses.append(float(metrics.loss))
  assert metrics.finite and losses[-1] < losses[0]


def test_a_restored_state_continues_as_if_it_had_never_stopped():
  data = batches(6)
  whole = run(fresh(), data, 0, 6)
  saved = jax.tree.map(np.array, run(fresh(), data, 0, 3))
  assert_equal(run(jax.tree.map(jnp.asarray, saved), data, 3, 6), whole)
  assert_equal(run(fresh(), data, 0, 6), whole)


def test_randomness_is_the_run_s_key_folded_with_the_step():
  state, batch = fresh(), jax.tree.map(lambda v: v[0], batches(1))
  _, metrics = one_step(state._replace(step=jnp.asarray(41, jnp.int32)), KEY, batch)
  value, _ = loss_of(state.params, jax.random.fold_in(KEY, 41), batch)
  np.testing.assert_allclose(metrics.loss, value, rtol=1e-6)
  others = [one_step(state._replace(step=jnp.asarray(41 + i, jnp.int32)),
                     jax.random.key(7 + j), batch)[1].loss for i, j in ((1, 0), (0, 1))]
  assert len({float(metrics.loss), *map(float, others)}) == 3


def test_ema_forgets_its_start_and_halves_at_its_half_life():
  """ema′ = ema + (1 − 2^{−1/h})(params − ema), h = min(half life, steps/10)."""
  state, data = fresh(), batches(3)
  assert_equal(state.ema, (state.params,))
  for step, start in ((1, 0), (10, 9), (200, 199), (5000, 4999)):
    before = state._replace(step=jnp.asarray(start, jnp.int32))
    # An average away from the parameters, so that the rate shows.
    before = before._replace(ema=(jax.tree.map(lambda p: p + 1.0, state.params),))
    after, _ = one_step(before, KEY, (data[0][0], data[1][0]))
    rate = 1 - 2 ** (-1 / min(HALF_LIFE, 0.1 * step))
    expected = jax.tree.map(lambda e, p, rate=rate: e + rate * (p - e), before.ema[0],
                            after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.ema[0], expected)
  # The constant rate does halve a distance in HALF_LIFE steps.
  assert np.isclose((1 - (1 - 2 ** (-1 / HALF_LIFE))) ** HALF_LIFE, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_level(bad):
  data = batches(3)
  state = run(fresh(), data, 0, 2)
  x_0, labels = (v[2].copy() for v in data)
  x_0[17, 1] = bad
  after, metrics = one_step(state, KEY, (x_0, labels))
  assert not metrics.finite
  assert_equal(after, state)
  _, levels = loss_of(state.params, jax.random.fold_in(KEY, state.step), (x_0, labels))
  np.testing.assert_allclose(metrics.worst_half_log_snr, levels["half_log_snr"][17], rtol=1e-6)
  assert np.all(np.isfinite(metrics.level_error)) and metrics.level_count.sum() == 64
  # A good batch afterwards moves on as if nothing had happened.
  good = (data[0][2], data[1][2])
  assert_equal(one_step(after, KEY, good)[0], one_step(state, KEY, good)[0])


def test_a_gradient_that_is_not_finite_is_caught_though_the_loss_is():
  def value(params, examples):
    del examples
    # √ has an infinite slope at 0, where its value is 0.
    return jnp.sqrt(params), {"half_log_snr": jnp.zeros(2), "eps_error": jnp.arange(2.0)}

  optimizer = optax.sgd(1.0)
  state = training.init(jnp.zeros(()), optimizer)
  after, metrics = training.train_step(
      state, KEY, None, loss=training.Loss(lambda key, batch: None, value), optimizer=optimizer,
      averages=(training.averages.half_life(1.0),))
  assert np.isfinite(metrics.loss) and not metrics.finite
  assert_equal(after, state)


def test_the_norm_is_reported_before_clipping_and_clipping_holds():
  optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))
  gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}

  def value(params, examples):
    del examples
    total = jnp.sum(gradient["a"] * params["a"]) + gradient["b"] * params["b"]
    return total, {"half_log_snr": jnp.zeros(1), "eps_error": jnp.ones(1)}

  state = training.init({"a": jnp.zeros(2), "b": jnp.zeros(())}, optimizer)
  after, metrics = training.train_step(
      state, KEY, None, loss=training.Loss(lambda key, batch: None, value), optimizer=optimizer,
      averages=(training.averages.half_life(1.0),))
  np.testing.assert_allclose(metrics.grad_norm, 5.0, rtol=1e-6)
  np.testing.assert_allclose(after.params["a"], [-0.3, 0.0], atol=1e-6)
  np.testing.assert_allclose(after.params["b"], -0.4, atol=1e-6)


def test_levels_are_binned_and_every_example_is_counted_once():
  state, (x_0, labels) = fresh(), batches(1, 512)
  batch = x_0[0], labels[0]
  _, metrics = one_step(state, KEY, batch)
  _, levels = loss_of(state.params, jax.random.fold_in(KEY, 0), batch)
  ell, error = (np.asarray(levels[k], np.float64) for k in ("half_log_snr", "eps_error"))
  edges = np.array([-np.inf, *training.LEVEL_EDGES, np.inf])
  count = np.histogram(ell, edges)[0]
  total = np.histogram(ell, edges, weights=error)[0]
  assert metrics.level_count.shape == (len(training.LEVEL_EDGES) + 1,)
  np.testing.assert_array_equal(metrics.level_count, count)
  np.testing.assert_allclose(metrics.level_error, total, rtol=1e-4)
  assert metrics.level_count.sum() == 512 and (count > 0).sum() > 8
  np.testing.assert_allclose(metrics.worst_half_log_snr, ell[error.argmax()], rtol=1e-6)


def test_labels_are_dropped_to_null_at_their_rate_and_nothing_else_is():
  n, seen = 20_000, []

  def watch(params, x, ell, labels):
    seen.append((x, ell, labels))
    return 0.0 * x

  x_0 = jax.random.normal(jax.random.key(0), (n, 1))
  labels = jnp.arange(n) % 3

  def labels_seen(rate, num_classes, key=KEY):
    loss = training.diffusion_loss(
        watch, density=DENSITY, weight=objectives.edm(DENSITY), prediction="v",
        num_classes=num_classes, label_dropout=rate)
    # Outside jit, so that what the network is given can be looked at.
    loss(None, key, (x_0, labels))
    return tuple(map(np.asarray, seen.pop()))

  for rate in (0.1, 0.5):
    x, ell, given = labels_seen(rate, 3)
    dropped = given == 3
    np.testing.assert_array_equal(given[~dropped], np.asarray(labels)[~dropped])
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    # Which labels go has nothing to do with the noise level that is drawn.
    assert abs(np.corrcoef(dropped, ell)[0, 1]) < 5 / np.sqrt(n)
  assert not np.array_equal(labels_seen(0.5, 3, jax.random.key(8))[2], given)
  for rate, num_classes in ((0.0, 3), (0.5, 0)):
    untouched = labels_seen(rate, num_classes)
    np.testing.assert_array_equal(untouched[2], labels)
    np.testing.assert_array_equal(untouched[0], x)
  assert np.all(labels_seen(1.0, 3)[2] == 3)


def test_bad_input_is_named():
  make = lambda **options: training.diffusion_loss(
      apply, density=DENSITY, weight=objectives.simple(DENSITY), **options)
  for rate in (-0.1, 1.1, float("nan")):
    with pytest.raises(ValueError, match="label_dropout"):
      make(prediction="eps", label_dropout=rate)
  with pytest.raises(ValueError, match="prediction must be one of"):
    make(prediction="epsilon")


def test_random_layers_get_the_key_of_the_step_and_one_for_each_part():
  """A network that answers with the first bits of its key: each part of a batch has other bits."""
  def random(params, x, ell, labels, key):
    return params * jax.random.uniform(key, (len(x), 1)) * jnp.ones_like(x)

  loss = training.diffusion_loss(
      random, density=DENSITY, weight=objectives.edm(DENSITY), prediction="eps", random=True)
  plain = training.diffusion_loss(
      lambda *inputs: 0.0 * inputs[1], density=DENSITY, weight=objectives.edm(DENSITY),
      prediction="eps")
  x = batches(1)[0][0]
  batch = x, np.zeros(len(x), np.int32)
  drawn, same = loss.draw(KEY, batch), plain.draw(KEY, batch)
  assert_equal(drawn[:3], same[:3])
  assert len(np.unique(jax.random.key_data(drawn[3]), axis=0)) == len(x)
  state = training.init(jnp.ones(()), optax.sgd(1.0))
  moved = lambda key, parts: float(training.train_step(
      state, key, batch, loss=loss, optimizer=optax.sgd(1.0), averages=options["averages"],
      accumulation=parts)[0].params)
  assert moved(KEY, 1) == moved(KEY, 1) and len(
      {moved(KEY, 1), moved(jax.random.key(8), 1), moved(KEY, 2)}) == 3
