"""Langevin steps: the law they leave invariant, and how far a finite step is from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from langevin_jax import langevin, mixtures, paths, splitting

# The noise level of every discretisation in the Gaussian tests; targets have variance v σ².
SIGMA = 0.8


def linear_map(monkeypatch, discretisation, var):
  """One step on N(0, var) as numbers, read off the code: state′ = M state + N ξ.

  The score −x/var makes a step linear in the state (x and what it carries) and in its normal
  draws, which are replaced by unit vectors here.
  """
  score = lambda x: -x / var
  draws = []
  monkeypatch.setattr(
      jax.random, "normal", lambda key, shape, dtype: jnp.full(shape, draws.pop(0), dtype))
  zero = jnp.zeros(1)
  has_carry = len(jax.tree.leaves(discretisation.init(zero, score))) > 0

  def step(x, carry, noise):
    draws[:] = noise
    x, carry = discretisation.step(
        jax.random.key(0), jnp.full(1, x), jnp.full(1, carry) if has_carry else (), score)
    return [float(x[0]), float(carry[0]) if has_carry else 0.0]

  quiet = [0.0, 0.0]
  m = np.array([step(1.0, 0.0, quiet), step(0.0, 1.0, quiet)]).T
  n = np.array([step(0.0, 0.0, [1.0, 0.0]), step(0.0, 0.0, [0.0, 1.0])]).T
  monkeypatch.undo()
  return m, n


def stationary_variance(monkeypatch, discretisation, var):
  """Var x at rest: P = M P Mᵀ + N Nᵀ, solved exactly."""
  m, n = linear_map(monkeypatch, discretisation, var)
  assert np.max(np.abs(np.linalg.eigvals(m))) < 1.0
  p = np.linalg.solve(np.eye(4) - np.kron(m, m), (n @ n.T).reshape(4)).reshape(2, 2)
  return p[0, 0]


METHODS = {
    "exact": lambda step: langevin.exact(SIGMA, step),
    "euler": lambda step: langevin.euler(step * SIGMA**2),
    "midpoint": lambda step: langevin.midpoint(SIGMA, step),
}


@pytest.mark.parametrize(("method", "order"), [("exact", 1), ("euler", 1), ("midpoint", 2)])
@pytest.mark.parametrize("ratio", [0.3, 2.5])
def test_bias_of_the_stationary_variance(method, order, ratio, monkeypatch, x64):
  """|Var − v| falls as step^order for targets narrower and wider than the noise level."""
  var = ratio * SIGMA**2
  steps = 0.02 * 0.5 ** np.arange(4)
  bias = [stationary_variance(monkeypatch, METHODS[method](float(h)), var) - var for h in steps]
  slopes = np.diff(np.log(np.abs(bias))) / np.diff(np.log(steps))
  # MATH §10: ±.15 over the last halvings.
  np.testing.assert_allclose(slopes, np.full(3, float(order)), atol=0.15)


def test_closed_form_of_the_exact_step(monkeypatch, x64):
  """x′ = (1 − (1 − e^{−Λ})σ²/v) x + σ√(1 − e^{−2Λ}) ξ, hence its stationary variance."""
  var, budget = 0.5, 0.7
  lost = -np.expm1(-budget) * SIGMA**2 / var
  noise_var = -SIGMA**2 * np.expm1(-2 * budget)
  m, n = linear_map(monkeypatch, langevin.exact(SIGMA, budget), var)
  np.testing.assert_allclose(m[0, 0], 1.0 - lost, rtol=1e-12)
  np.testing.assert_allclose(n[0] @ n[0], noise_var, rtol=1e-12)
  np.testing.assert_allclose(
      stationary_variance(monkeypatch, langevin.exact(SIGMA, budget), var),
      noise_var / (1.0 - (1.0 - lost) ** 2), rtol=1e-12)


@pytest.mark.parametrize("method", ["exact", "midpoint"])
@pytest.mark.parametrize("budget", [0.01, 1.0, 30.0])
def test_no_bias_where_the_target_is_the_noise(method, budget, monkeypatch, x64):
  """At v = σ² (D = 0 everywhere) the Ornstein–Uhlenbeck forms are exact for every Λ."""
  step = METHODS[method](budget)
  np.testing.assert_allclose(
      stationary_variance(monkeypatch, step, SIGMA**2), SIGMA**2, rtol=1e-12)


def test_exact_stays_bounded_where_euler_explodes(monkeypatch, x64):
  """ULA needs δ < 2v; the OU form contracts for every Λ when σ² < 2v."""
  var = 1.3 * SIGMA**2
  radius = lambda d: np.max(np.abs(np.linalg.eigvals(linear_map(monkeypatch, d, var)[0])))
  assert radius(langevin.euler(2.01 * var)) > 1.0 > radius(langevin.euler(1.99 * var))
  for budget in (0.1, 3.0, 100.0):
    assert radius(langevin.exact(SIGMA, budget)) < 1.0


def test_the_exact_step_is_step_0_budget():
  """`ornstein_uhlenbeck` with the score is STEP(0, Λ) with the denoiser (MATH §1)."""
  key, x, denoised = jax.random.key(4), jnp.asarray([0.3, -1.2]), jnp.asarray([0.9, 0.1])
  alpha, sigma = 0.6, 0.8
  score = (alpha * denoised - x) / sigma**2
  for budget in (0.0, 0.3, 4.0, jnp.inf):
    np.testing.assert_allclose(
        langevin.ornstein_uhlenbeck(key, x, score, sigma, budget),
        splitting.step(key, x, denoised, alpha, sigma, alpha, sigma, budget), rtol=2e-6, atol=2e-7)


@functools.cache
def mixture():
  return mixtures.Mixture(
      jnp.asarray([0.4, 0.6]), jnp.asarray([[-0.8, 0.3], [0.7, -0.5]]),
      jnp.asarray([[[0.2, 0.05], [0.05, 0.1]], [[0.1, 0.0], [0.0, 0.3]]]))


@pytest.mark.parametrize("method", ["exact", "euler", "midpoint"])
def test_a_mixture_is_left_as_it_is(method):
  """Identity on p_t: samples of the noised mixture keep its moments, and are fresh ones.

  n = 4,000 chains: five standard errors, plus the first-order bias Λ/2 of a step for two methods.
  """
  model, path, t, n = mixture(), paths.rectified_flow(), 0.4, 4_000
  alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
  discretisation = {
      "exact": langevin.exact(sigma, 0.1), "euler": langevin.euler(0.1 * sigma**2),
      "midpoint": langevin.midpoint(sigma, 0.2)}[method]
  key_0, key_eps, key_chain = jax.random.split(jax.random.key(11), 3)
  x_t = alpha * model.sample(key_0, n) + sigma * jax.random.normal(key_eps, (n, 2))
  score = lambda x: model.score(x, alpha, sigma)
  after = jax.jit(lambda key, x: langevin.chain(key, x, score, discretisation, steps=25))(
      key_chain, x_t)

  # The exact first two moments at (α, σ).
  w, m, c = (np.asarray(v, np.float64) for v in model)
  means, covs = alpha * m, alpha**2 * c + sigma**2 * np.eye(2)
  mean = w @ means
  second = np.einsum("k,kij->ij", w, covs + np.einsum("ki,kj->kij", means, means))
  after = np.asarray(after, np.float64)
  bias = 0.01 if method == "midpoint" else 0.05
  spread = np.sqrt(np.diag(second))
  np.testing.assert_array_less(np.abs(after.mean(0) - mean), 5 * spread / np.sqrt(n))
  error = np.abs(after.T @ after / n - second)
  np.testing.assert_array_less(error, np.outer(spread, spread) * (bias + 5 * np.sqrt(3 / n)))
  # It is another sample by then: Langevin time 25Λ has forgotten half of where it started.
  correlation = np.corrcoef(after[:, 0], np.asarray(x_t)[:, 0])[0, 1]
  assert correlation < 0.7


def test_a_chain_reaches_its_target_from_elsewhere():
  """Started at 3 on N(1, v), the midpoint chain forgets it: eq. 1's stationary law."""
  var, n = 0.5, 20_000
  last = langevin.chain(
      jax.random.key(2), jnp.full(n, 3.0), lambda x: (1.0 - x) / var,
      langevin.midpoint(0.7, 0.3), steps=50)
  last = np.asarray(last, np.float64)
  assert abs(last.mean() - 1.0) < 5 * np.sqrt(var / n)
  assert abs(last.var() - var) < 5 * var * np.sqrt(2 / n) + 0.01 * var


@pytest.mark.parametrize("method", METHODS)
def test_chain_shapes_and_trajectory(method):
  """A state of any shape; the trajectory's last state is what the chain returns."""
  x = jnp.ones((3, 2), jnp.float32)
  run = functools.partial(
      langevin.chain, jax.random.key(5), x, lambda x: -x, METHODS[method](0.1), steps=7)
  last, states = run(), run(trajectory=True)
  assert last.shape == (3, 2) and states.shape == (7, 3, 2)
  assert last.dtype == states.dtype == np.float32
  np.testing.assert_array_equal(states[-1], last)
  assert np.all(np.diff(np.asarray(states), axis=0) != 0.0)


def test_one_score_per_step():
  """Every discretisation calls the score once a step, plus once at the start for midpoint."""
  calls = []

  def score(x):
    jax.debug.callback(lambda: calls.append(1))
    return -x

  for method, extra in (("exact", 0), ("euler", 0), ("midpoint", 1)):
    calls.clear()
    jax.block_until_ready(langevin.chain(
        jax.random.key(0), jnp.ones(2), score, METHODS[method](0.1), steps=6))
    jax.effects_barrier()
    assert len(calls) == 6 + extra, method


@pytest.mark.parametrize(("make", "name"), [
    *((lambda b=b: langevin.exact(0.5, b), "budget") for b in (0.0, -1.0, float("nan"))),
    *((lambda s=s: langevin.exact(s, 0.1), "sigma") for s in (0.0, -1.0)),
    *((lambda d=d: langevin.euler(d), "time_step") for d in (0.0, -0.1)),
    (lambda: langevin.midpoint(0.5, 0.0), "budget"),
    (lambda: langevin.midpoint(0.0, 0.1), "sigma"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_bad_numbers_are_value_errors(make, name):
  with pytest.raises(ValueError, match=f"{name} must be positive"):
    make()


@pytest.mark.parametrize("steps", [0, -3])
def test_a_chain_needs_a_step(steps):
  with pytest.raises(ValueError, match="steps must be at least 1"):
    langevin.chain(jax.random.key(0), jnp.ones(2), lambda x: -x, langevin.euler(0.1), steps=steps)
