"""Langevin steps: the law they leave invariant, and how far a finite step is from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import round_law
from scipy import stats

from langevin_jax import langevin, splitting

# The noise level of every discretisation in the Gaussian tests; targets have variance v σ².
SIGMA = 0.8


def linear_map(discretisation, var):
  """One step on N(0, var) as numbers, read off the code: state′ = M state + N ξ.

  The score −x/var makes a step linear in the state (x and what it carries) and in its normal
  draws, which are unit vectors here.
  """
  score = lambda x: -x / var
  draws = lambda noise: lambda i: jnp.full(1, noise[i])
  fresh = discretisation.init(draws([0.0]), jnp.zeros(1), score)

  def step(x, carried, noise):
    # What is carried is nothing, αD, or a momentum with the mark that half a kick is owed to it.
    carry = jax.tree.map(lambda leaf: jnp.full(1, carried) if leaf.ndim else jnp.ones(()), fresh)
    x, carry = discretisation.step(draws(noise), jnp.full(1, x), carry, score)
    return [float(x[0]), *(float(leaf[0]) for leaf in jax.tree.leaves(carry)[:1]), 0.0][:2]

  quiet = [0.0, 0.0]
  m = np.array([step(1.0, 0.0, quiet), step(0.0, 1.0, quiet)]).T
  n = np.array([step(0.0, 0.0, [1.0, 0.0]), step(0.0, 0.0, [0.0, 1.0])]).T
  return m, n


def stationary_variance(discretisation, var):
  """Var x at rest: P = M P Mᵀ + N Nᵀ, solved exactly."""
  m, n = linear_map(discretisation, var)
  assert np.max(np.abs(np.linalg.eigvals(m))) < 1.0
  p = np.linalg.solve(np.eye(4) - np.kron(m, m), (n @ n.T).reshape(4)).reshape(2, 2)
  return p[0, 0]


METHODS = {
    "exact": lambda step: langevin.exact(SIGMA, step),
    "euler": lambda step: langevin.euler(step * SIGMA**2),
    "midpoint": lambda step: langevin.midpoint(SIGMA, step),
    "baoab": lambda step: langevin.baoab(step * SIGMA, 1.5),
}


@pytest.mark.parametrize(("method", "order"), [("exact", 1), ("euler", 1), ("midpoint", 2)])
@pytest.mark.parametrize("ratio", [0.3, 2.5])
def test_bias_of_the_stationary_variance(method, order, ratio, x64):
  """|Var − v| falls as step^order for targets narrower and wider than the noise level."""
  var = ratio * SIGMA**2
  steps = 0.02 * 0.5 ** np.arange(4)
  bias = [stationary_variance(METHODS[method](float(h)), var) - var for h in steps]
  slopes = np.diff(np.log(np.abs(bias))) / np.diff(np.log(steps))
  # ±.15 over the last halvings (theory.md#numerics).
  np.testing.assert_allclose(slopes, np.full(3, float(order)), atol=0.15)


@pytest.mark.parametrize("method", ["exact", "midpoint"])
@pytest.mark.parametrize("budget", [0.01, 1.0, 30.0])
def test_no_bias_where_the_target_is_the_noise(method, budget, x64):
  """At v = σ² (D = 0 everywhere) the Ornstein–Uhlenbeck forms are exact for every Λ."""
  step = METHODS[method](budget)
  np.testing.assert_allclose(
      stationary_variance(step, SIGMA**2), SIGMA**2, rtol=1e-12)


def test_exact_stays_bounded_where_euler_explodes(x64):
  """ULA needs δ < 2v; the OU form contracts for every Λ when σ² < 2v."""
  var = 1.3 * SIGMA**2
  radius = lambda d: np.max(np.abs(np.linalg.eigvals(linear_map(d, var)[0])))
  assert radius(langevin.euler(2.01 * var)) > 1.0 > radius(langevin.euler(1.99 * var))
  for budget in (0.1, 3.0, 100.0):
    assert radius(langevin.exact(SIGMA, budget)) < 1.0


@pytest.mark.parametrize("friction", [0.1, 2.0, np.inf])
@pytest.mark.parametrize("time_step", [0.1, 1.0, 1.9])
def test_a_momentum_leaves_no_bias_on_a_gaussian(friction, time_step, x64):
  """BAOAB: Var x = v at every stable step h < 2√v; at h > 2√v it explodes."""
  var = 0.5
  scaled = lambda h: langevin.baoab(h * np.sqrt(var), friction / np.sqrt(var))
  np.testing.assert_allclose(stationary_variance(scaled(time_step), var), var, rtol=1e-11)
  m, _ = linear_map(scaled(2.01), var)
  assert np.max(np.abs(np.linalg.eigvals(m))) > 1.0


def test_a_momentum_takes_half_its_first_kick(x64):
  """Two steps, and the carry between them, are B A O A B twice, written out."""
  h, gamma, score = 0.3, 0.8, lambda x: -(x**3)
  p, first, second = 0.4, -0.7, 1.1
  x, q = 0.9, p
  for noise in (first, second):
    q += 0.5 * h * score(x)
    x += 0.5 * h * q
    q = np.exp(-gamma * h) * q + np.sqrt(1.0 - np.exp(-2.0 * gamma * h)) * noise
    x += 0.5 * h * q
    q += 0.5 * h * score(x)
  method = langevin.baoab(h, gamma)
  draw = lambda value: lambda i: jnp.full(1, value)
  ours = jnp.full(1, 0.9)
  carry = method.init(draw(p), ours, score)
  for noise in (first, second):
    ours, carry = method.step(draw(noise), ours, carry, score)
  np.testing.assert_allclose(ours, np.full(1, x), rtol=1e-13)
  np.testing.assert_allclose(carry[0] + 0.5 * h * score(ours), np.full(1, q), rtol=1e-13)


def test_mala_accepts_by_the_ratio_of_densities(x64):
  """a is log p(x′)q(x|x′) − log p(x)q(x′|x), here with a score that is not the density's own.

  A (3, 2) batch of examples of shape (2, 4): each is accepted as a whole and on its own.
  """
  delta, shape = 0.2, (3, 2, 2, 4)
  log_prob = lambda x: -jnp.sum(x**4, (-1, -2))
  score = lambda x: -jnp.sin(x) - 0.5 * x
  keys = jax.random.split(jax.random.key(8), 3)
  x, noise, other = (jax.random.normal(key, shape) for key in keys)
  method = langevin.mala(log_prob, delta)
  draw = lambda i: (noise, other)[i]
  moved, carry = method.step(draw, x, method.init(draw, x, score), score)

  x_, s = np.asarray(x), np.asarray(score(x))
  new = x_ + delta * s + np.sqrt(2.0 * delta) * np.asarray(noise)
  q = lambda to, start: -np.sum((to - start - delta * np.asarray(score(start))) ** 2, (-1, -2))
  ratio = (np.asarray(log_prob(new) - log_prob(x)) + (q(x_, new) - q(new, x_)) / (4.0 * delta))
  accept = np.log(stats.norm.cdf(np.asarray(other)[..., 0, 0])) < ratio
  assert 0 < accept.sum() < accept.size
  np.testing.assert_allclose(moved, np.where(accept[..., None, None], new, x_), rtol=1e-13)
  np.testing.assert_array_equal(carry.accepted, accept)
  np.testing.assert_allclose(carry.log_prob, log_prob(moved), rtol=1e-13)
  np.testing.assert_allclose(carry.score, score(moved), rtol=1e-13)


def test_mala_refuses_what_has_no_density():
  """Moves to where log p is −∞, or NaN, are never made: Exp(1) keeps to its half line.

  2,000 independent numbers know the mean 1 to .022; these are 80,000, correlated.
  """
  score = lambda x: -jnp.ones_like(x)
  density = lambda outside: lambda x: jnp.where(x > 0.0, -x, outside)
  runs = jax.jit(lambda key: [
      langevin.run(key, jnp.ones(2_000), score, langevin.mala(density(outside), 0.5), steps=60,
                   trajectory=True) for outside in (-jnp.inf, jnp.nan)])
  for x, carry in runs(jax.random.key(1)):
    assert np.all(np.asarray(x) > 0.0) and 0 < np.min(carry.accepted) < 60
    assert abs(np.mean(x[20:]) - 1.0) < 0.06


def test_the_exact_step_is_step_0_budget():
  """`ornstein_uhlenbeck` with the score is STEP(0, Λ) with the denoiser (theory.md#step)."""
  key, x, denoised = jax.random.key(4), jnp.asarray([0.3, -1.2]), jnp.asarray([0.9, 0.1])
  alpha, sigma = 0.6, 0.8
  score = (alpha * denoised - x) / sigma**2
  for budget in (0.0, 0.3, 4.0, jnp.inf):
    np.testing.assert_allclose(
        langevin.ornstein_uhlenbeck(jax.random.normal(key, x.shape), x, score, sigma, budget),
        splitting.step(key, x, denoised, alpha, sigma, alpha, sigma, budget), rtol=2e-6, atol=2e-7)


# A mixture at a noise level of its own: isotropic, α and σ included.
WEIGHTS, MEANS, VARS = np.array([0.4, 0.6]), np.array([[-0.8, 0.3], [0.7, -0.5]]), (0.35, 0.5)
LEVEL = 0.45


def mixture_log_prob(x):
  return round_law((WEIGHTS, MEANS, np.sqrt(VARS)), x, 1.0, 0.0)[0]


def mixture_score(x):
  return jax.grad(lambda x: jnp.sum(mixture_log_prob(x)))(x)


def test_a_mixture_is_left_as_it_is():
  """Identity on p: the moments stay, the samples are fresh ones.

  n = 4,000 chains: five standard errors; besides, the bias of a step, Λ/2 at first order, its
  square at second, and nothing for MALA.
  """
  n, key_k, key_x, key_chain = 4_000, *jax.random.split(jax.random.key(11), 3)
  k = np.asarray(jax.random.bernoulli(key_k, WEIGHTS[1], (n,)), int)
  x = MEANS[k] + np.sqrt(np.take(VARS, k))[:, None] * np.asarray(jax.random.normal(key_x, (n, 2)))
  methods = {
      "exact": (langevin.exact(LEVEL, 0.1), 0.05),
      "euler": (langevin.euler(0.1 * LEVEL**2), 0.05),
      "midpoint": (langevin.midpoint(LEVEL, 0.2), 0.01),
      "baoab": (langevin.baoab(0.45 * LEVEL, 2.0 / LEVEL), 0.01),
      "mala": (langevin.mala(mixture_log_prob, 0.1 * LEVEL**2), 0.0)}
  run = jax.jit(lambda key, x: [
      langevin.chain(key, x, mixture_score, method, steps=25) for method, _ in methods.values()])
  mean = WEIGHTS @ MEANS
  second = sum(w * (np.outer(m, m) + v * np.eye(2))
               for w, m, v in zip(WEIGHTS, MEANS, VARS, strict=True))
  spread = np.sqrt(np.diag(second))
  for (name, (_, bias)), after in zip(methods.items(), run(key_chain, jnp.asarray(x, float)),
                                      strict=True):
    after = np.asarray(after, np.float64)
    np.testing.assert_array_less(np.abs(after.mean(0) - mean), 5 * spread / np.sqrt(n), name)
    error = np.abs(after.T @ after / n - second)
    np.testing.assert_array_less(
        error, np.outer(spread, spread) * (bias + 5 * np.sqrt(3 / n)), name)
    # Langevin time 25 Λ σ² = .5 (five times that for a momentum) has forgotten half of the start.
    assert np.corrcoef(after[:, 0], x[:, 0])[0, 1] < 0.75, name


def test_a_chain_reaches_its_target_from_elsewhere():
  """Started at 3 on N(1, v), the midpoint chain forgets it: eq. 1's stationary law."""
  var, n = 0.5, 20_000
  last = langevin.chain(
      jax.random.key(2), jnp.full(n, 3.0), lambda x: (1.0 - x) / var,
      langevin.midpoint(0.7, 0.3), steps=50)
  last = np.asarray(last, np.float64)
  assert abs(last.mean() - 1.0) < 5 * np.sqrt(var / n)
  assert abs(last.var() - var) < 5 * var * np.sqrt(2 / n) + 0.01 * var


ANY = METHODS | {"mala": lambda step: langevin.mala(
    lambda x: -0.5 * jnp.sum(x**2, -1), step * SIGMA**2)}


@pytest.mark.parametrize("method", ["euler", "baoab", "mala"])  # with no carry, and with one
def test_chain_shapes_trajectory_and_going_on(method):
  """A state of any shape; the trajectory ends at the chain's result; a run goes on from a carry."""
  name, method = method, ANY[method](0.1)
  x, score = jnp.ones((3, 2), jnp.float32), lambda x: -x
  draws = lambda key: lambda i: jax.random.normal(jax.random.fold_in(key, i), x.shape)

  @jax.jit
  def runs(key):
    states, carry = langevin.run(key, x, score, method, steps=7, trajectory=True)
    on = langevin.run(key, states[-1], score, method, steps=1, carry=carry)
    _, key_steps = jax.random.split(key)
    last = langevin.chain(key, x, score, method, steps=7)
    return states, last, on, method.step(
        draws(jax.random.split(key_steps, 1)[0]), states[-1], carry, score)

  states, last, on, expected = runs(jax.random.key(5))
  assert last.shape == (3, 2) and states.shape == (7, 3, 2)
  assert last.dtype == states.dtype == np.float32
  np.testing.assert_allclose(states[-1], last, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), on, expected)
  moved = np.diff(np.asarray(states), axis=0) != 0.0
  assert moved.any(-1).mean() > 0.8 if name == "mala" else moved.all()


@pytest.mark.parametrize(("method", "extra"), [
    ("exact", 0), ("euler", 0), ("midpoint", 1), ("baoab", 0), ("mala", 1)])
def test_one_score_per_step(method, extra):
  """Every discretisation calls the score once a step, plus at the start where one is carried."""
  calls = []

  def score(x):
    calls.append(1)
    return -x

  method, x = ANY[method](0.1), jnp.ones(2)
  draw = lambda i: jnp.zeros(2)
  carry = jax.eval_shape(lambda x: method.init(draw, x, score), x)
  assert len(calls) == extra
  jax.eval_shape(lambda x, carry: method.step(draw, x, carry, score), x, carry)
  assert len(calls) == extra + 1


@pytest.mark.parametrize(("make", "name"), [
    *((lambda b=b: langevin.exact(0.5, b), "budget") for b in (0.0, -1.0, float("nan"))),
    *((lambda s=s: langevin.exact(s, 0.1), "sigma") for s in (0.0, -1.0)),
    *((lambda d=d: langevin.euler(d), "time_step") for d in (0.0, -0.1)),
    (lambda: langevin.midpoint(0.5, 0.0), "budget"),
    (lambda: langevin.midpoint(0.0, 0.1), "sigma"),
    (lambda: langevin.baoab(-0.1, 1.0), "time_step"),
    (lambda: langevin.baoab(0.1, 0.0), "friction"),
    (lambda: langevin.mala(lambda x: -x, 0.0), "time_step"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_bad_numbers_are_value_errors(make, name):
  with pytest.raises(ValueError, match=f"{name} must be positive"):
    make()


def test_a_chain_needs_steps_and_a_log_prob_that_fits():
  for steps in (0, -3):
    with pytest.raises(ValueError, match="steps must be at least 1"):
      langevin.chain(jax.random.key(0), jnp.ones(2), lambda x: -x, langevin.euler(0.1), steps=steps)
  with pytest.raises(ValueError, match=r"leading axes of .* \(3, 2\), got \(2,\)"):
    langevin.chain(jax.random.key(0), jnp.ones((3, 2)), lambda x: -x,
                   langevin.mala(lambda x: -jnp.sum(x**2, 0), 0.1), steps=1)
