"""Learned densities and weights: what they converge to, what stays unbiased, and their state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from langevin_jax import objectives, predictions, training

VARIANCE = 0.3  # of Gaussian data in one dimension
BASE = objectives.log_normal_rho()
KEY = jax.random.key(5)
AVERAGES = (training.averages.half_life(20.0),)


def exact(params, x, ell, condition):
  """The exact ε̂ of N(0, VARIANCE): its error is N(0, λ/(λ + ρ²))."""
  del condition
  def one(x, ell):
    frame = predictions.unit_frame(ell)
    return x * frame.sigma / (frame.alpha**2 * VARIANCE + frame.sigma**2)

  return (1.0 + params) * jax.vmap(one)(x, ell)


def error(ell):
  """E[e | ℓ] = λ/(λ + ρ²); E[e² | ℓ] is three times its square."""
  return VARIANCE / (VARIANCE + np.exp(-2.0 * ell))


def make_loss(density, weight, apply=exact):
  make = lambda density, weight: training.diffusion_loss(
      apply, density=density, weight=weight, prediction="eps")
  return training.adaptive_loss(make, density=density, weight=weight)


def test_on_an_exact_model_both_converge_to_their_optimum():
  """π ∝ π₀ w √E[e² | ℓ] and u = log E[w₀ e | ℓ]; with both, Gaussian data have π = π₀."""
  density, w_0 = objectives.learned(BASE, bins=16), objectives.flow_matching(BASE)
  weight = objectives.uncertainty(BASE, w_0, bins=16)

  def learn(loss):
    """(what is learned, reported losses), the points (16, 64) of the bins, their probabilities."""
    def step(learned, key):
      key_x, key_loss = jax.random.split(key)
      batch = VARIANCE**0.5 * jax.random.normal(key_x, (512, 1)), jnp.zeros(512, int)
      return loss.observe(learned, loss.at(learned)(jnp.zeros(()), key_loss, batch)[1])

    learned, reported = jax.lax.scan(step, loss.init, jax.random.split(KEY, 400))
    width = learned["density"].width / 16
    middles = learned["density"].low + width * (jnp.arange(16) + 0.5)
    fine = middles[:, None] + width * (jnp.arange(64) / 64 - 0.5)[None]
    found = jax.vmap(density.at(learned["density"]).density)(middles) * width
    return learned, reported, fine, found

  for loss, expected in (
      (make_loss(density, w_0), lambda ell: (1 + np.exp(-ell)) ** 2 * error(ell)),
      (make_loss(density, weight), np.ones_like)):
    learned, reported, fine, found = jax.jit(lambda loss=loss: learn(loss))()
    fine, found = np.asarray(fine), np.asarray(found)
    # Within a bin π is constant: the root of the mean square.
    optimum = np.sqrt(((np.asarray(BASE.density(fine)) * expected(fine)) ** 2).mean(1))
    optimum = 0.9 * optimum / optimum.sum() + 0.1 / 16  # the floor
    assert 0.5 * np.abs(found - optimum).sum() < 0.03, (found, optimum)
    assert 0.5 * np.abs(found - 1 / 16).sum() > 0.3
    # The reported loss is that of the base objective, by the midpoint rule.
    ell = np.asarray(BASE.quantile((jnp.arange(4096) + 0.5) / 4096), np.float64)
    base_loss = np.mean((1 + np.exp(-ell)) ** 2 * error(ell))
    np.testing.assert_allclose(reported.mean(), base_loss, rtol=0.02)
  ells = np.linspace(-3.0, 5.0, 40)
  u = np.log((1 + np.exp(-ells)) ** 2) - np.log(jax.vmap(weight.at(learned["weight"]))(
      jnp.asarray(ells, jnp.float32)))
  middles = fine[:, 32]
  ends = np.r_[-np.inf, (middles[1:] + middles[:-1]) / 2, np.inf]
  place = np.searchsorted(ends, ells) - 1
  in_bin = ((1 + np.exp(-fine)) ** 2 * error(fine)).mean(1)
  np.testing.assert_allclose(u, np.log(in_bin)[place], atol=0.12)


def test_whatever_is_learned_the_gradient_is_that_of_the_base_objective(x64):
  """By the midpoint rule in the quantile of π, which draws noisy levels too often."""
  density, weight = objectives.learned(BASE), objectives.simple(BASE)
  loss, plain = make_loss(density, weight), make_loss(BASE, weight)
  squares = np.random.default_rng(0).uniform(0.0, 4.0, 64) * (np.arange(64) < 30)
  learned = {"density": density.init._replace(mass=jnp.ones(64), squares=jnp.asarray(squares))}
  n = 1_000_000

  def measure(loss, pi):
    ells = pi.quantile((jnp.arange(n) + 0.5) / n)
    examples = (jnp.full((n, 1), 0.4), jnp.zeros(n, int),
                objectives.Corruption(ells, jnp.full((n, 1), 0.7)), None)
    return jax.value_and_grad(loss.value, has_aux=True)(jnp.asarray(0.2), examples)

  (value, _), slope = measure(plain, BASE)
  (other, levels), other_slope = measure(loss.at(learned), density.at(learned["density"]))
  np.testing.assert_allclose([other, other_slope], [value, slope], rtol=5e-4)
  np.testing.assert_allclose(loss.observe(learned, levels)[1], other, rtol=1e-10)
  unweighted, _ = measure(plain, density.at(learned["density"]))[0]
  assert abs(unweighted / value - 1.0) > 0.1


def test_the_state_of_what_is_learned_resumes_bitwise_and_skips_bad_steps():
  """In one program of any number of steps; the parts of a batch change rounding alone."""
  def network(params, x, ell, condition):
    del condition
    return jnp.tanh(x @ params["in"] + ell[:, None]) @ params["out"]

  loss = make_loss(objectives.learned(BASE, bins=8), objectives.uncertainty(BASE, bins=8), network)
  params = {"in": 0.5 * jax.random.normal(KEY, (2, 8)), "out": jnp.zeros((8, 2))}
  fresh = lambda: training.init(params, optax.adam(1e-2), loss=loss)
  data = np.random.default_rng(0).standard_normal((5, 64, 2)).astype(np.float32)

  def steps(parts):
    return jax.jit(lambda state, x, count: training.train_steps(
        state, KEY, (x, jnp.zeros(x.shape[:2], int)), count=count, loss=loss,
        optimizer=optax.adam(1e-2), averages=AVERAGES, accumulation=parts))

  some, same = steps(1), lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  whole, _ = some(fresh(), data, 5)
  state = fresh()
  for start, count in ((0, 1), (1, 1), (2, 3)):
    state, _ = some(jax.tree.map(np.array, state), np.resize(data[start:], data.shape), count)
  same(state, whole)
  assert all(float(part.mass.sum()) > 300 for part in whole.learned.values())
  assert not np.array_equal(whole.learned["density"].squares, whole.learned["weight"].squares)
  bad = data.copy()
  bad[0, 3] = np.nan
  after, metrics = some(whole, bad, 1)
  same(after, whole)
  assert not metrics.finite[0]
  in_parts, _ = steps(4)(fresh(), data, 5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), in_parts, whole)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: objectives.learned(objectives.learned()), "base must be a density that is not learn"),
    (lambda: objectives.learned(floor=0.0), "floor must lie in"),
    (lambda: objectives.learned(memory=0.0), "memory must be positive"),
    (lambda: objectives.learned(bins=0), "bins must be at least 1"),
    (lambda: objectives.uncertainty(BASE, objectives.uncertainty(BASE)), "weight must be a weight"),
    (lambda: objectives.uncertainty(BASE, memory=-1.0), "memory must be positive")])
def test_bad_input_is_named(make, words):
  with pytest.raises(ValueError, match=words):
    make()
