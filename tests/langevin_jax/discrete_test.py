"""Finite state spaces against exact laws: every law on S^L states is computed, none is sampled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from langevin_jax import samplers as grids
from langevin_jax.discrete import mixtures, objectives, paths, samplers, splitting

V, L = 3, 2
PATHS = {
    "absorbing": paths.absorbing(V), "uniform": paths.uniform(V),
    "absorbing, geometric": paths.absorbing(V, paths.geometric()),
    "uniform, cosine": paths.uniform(V, paths.cosine()),
    "absorbing, own rate": paths.absorbing(V, paths.from_rate(lambda t: 2.0 + t, t_max=5.0)),
}
both_noises = pytest.mark.parametrize(
    "path", [PATHS["absorbing"], PATHS["uniform"]], ids=["absorbing", "uniform"])
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def table(x64):
  p = np.random.default_rng(0).dirichlet(np.full(V**L, 0.6)).reshape((V,) * L)
  return mixtures.Table(jnp.asarray(p))


def states(path) -> np.ndarray:
  size = len(path.base)
  return np.stack(np.indices((size,) * L), -1).reshape(-1, L)


def joint(law) -> np.ndarray:
  """Laws of single positions (N, L, S) as laws of states (N, S^L); unreachable states give 0."""
  law = np.nan_to_num(np.asarray(law))
  return functools.reduce(
      lambda left, i: (left[:, :, None] * law[:, i, None, :]).reshape(len(law), -1),
      range(1, L), law[:, 0])


def generator(path, rates) -> np.ndarray:
  """The matrix of rates between states, from rates (N, L, S) of single positions."""
  x, size = states(path), len(path.base)
  q = np.zeros((len(x), len(x)))
  for k in range(len(x)):
    for i in range(L):
      for y in set(range(size)) - {int(x[k, i])}:
        to = x[k].copy()
        to[i] = y
        q[k, np.ravel_multi_index(to, (size,) * L)] = rates[k, i, y]
  return q - np.diag(q.sum(1))


def exact(table, path, alpha, sigma):
  """log D of all states."""
  x = jnp.asarray(states(path))
  return splitting.clean_law(x, table.denoise(x, alpha, path), jnp.asarray(alpha),
                             jnp.asarray(sigma), path)


def run_laws(table, path, method, n):
  """(the law after each step, p_t there) of a run with the exact denoiser."""
  x = jnp.asarray(states(path))
  method, levels, budget = samplers.plan(path, method, grids.uniform_time(n))
  law = jax.jit(lambda here, there, budget: method.law(
      x, exact(table, path, here.alpha, here.sigma), here, there, budget, path))
  p = joint(np.broadcast_to(path.base, (1, L, len(path.base))))[0]
  for i in range(n):
    here, there = (jax.tree.map(lambda v, i=i: jnp.asarray(v[i]), levels) for i in (i, i + 1))
    p = p @ joint(law(here, there, jnp.asarray(budget[i])))
    yield p, np.asarray(table.marginal(there.alpha, path)).ravel()


@each_path
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_langevin_is_forward_plus_reverse_and_in_detailed_balance(table, path, eta):
  @jax.jit
  def at(t):
    alpha, sigma = path.clock.alpha(t), path.clock.sigma(t)
    log_d = exact(table, path, alpha, sigma)
    marginal, slope = jax.jvp(
        lambda t: table.marginal(path.clock.alpha(t), path).ravel(), (t,), (jnp.ones_like(t),))
    return marginal, slope, [rates(jnp.asarray(states(path)), log_d, t)
                             for rates in splitting.split(path, eta)]

  p, slope, rates = jax.device_get(at(0.4 * path.clock.t_max))
  g, q, r = (generator(path, np.nan_to_num(rate)) for rate in rates)
  flow = p[:, None] * g
  np.testing.assert_allclose(flow, flow.T, atol=1e-12)
  np.testing.assert_allclose(p @ g, 0.0, atol=1e-12)
  np.testing.assert_allclose(p @ r, -p @ q, atol=1e-12)
  np.testing.assert_allclose(p @ q, slope, atol=1e-12)


METHODS = {"step(0)": samplers.step(), "step(.5)": samplers.step(0.5),
           "step(1)": samplers.step(1.0),
           "step(eta)": samplers.step(lambda ell: jnp.where(ell > 0.0, 1.0, 0.5)),
           "ancestral": samplers.ancestral(), "tau_leaping(0)": samplers.tau_leaping(0.0),
           "tau_leaping(.5)": samplers.tau_leaping(0.5),
           "tau_leaping(2)": samplers.tau_leaping(2.0)}


@both_noises
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_reverse_runs_have_the_forward_marginals_to_first_order(table, path, method):
  errors = [max(0.5 * np.abs(p - q).sum() for p, q in run_laws(table, path, method, n))
            for n in (32, 64)]
  assert errors[1] < 0.06
  assert 0.75 < np.log2(errors[0] / errors[1]) < 1.1


@both_noises
def test_one_position_has_the_exact_law_in_one_step(path):
  """With L = 1 nothing else moves; STEP and the posterior are exact at any size and budget."""
  p0 = jnp.array([0.2, 0.5, 0.3])
  model, x = mixtures.Table(p0), jnp.arange(len(path.base))[:, None]
  a, b = jnp.asarray(0.2), jnp.asarray(0.7)

  @jax.jit
  def computed(a, b):
    log_d = splitting.clean_law(x, model.denoise(x, a, path), a, 1.0 - a, path)
    laws = [splitting.step(x, jnp.exp(log_d), a, 1.0 - a, b, 1.0 - b, budget, path)
            for budget in (0.0, 0.3, jnp.inf)]
    laws.append(splitting.posterior(x, log_d, a, 1.0 - a, b, 1.0 - b, path))
    return model.marginal(a, path), model.marginal(b, path), laws

  before, after, laws = jax.device_get(computed(a, b))
  for law in laws:
    np.testing.assert_allclose(before @ law[:, 0], after, atol=1e-12)
    np.testing.assert_allclose(law.sum(-1), 1.0, atol=1e-12)
  if path.mask is not None:
    np.testing.assert_allclose(laws[0], laws[3], atol=1e-12)


@both_noises
def test_steps_compose_by_adding_and_the_forward_kernel_is_one(path):
  size = len(path.base)
  x, clean = jnp.arange(size)[:, None], jax.nn.one_hot(jnp.zeros((size, 1), int), V)
  at = lambda ell: (jax.nn.sigmoid(ell), jax.nn.sigmoid(-ell))
  law = lambda start, end, budget: splitting.step(
      x, clean, *at(jnp.asarray(start)), *at(jnp.asarray(end)), budget, path)[:, 0]
  np.testing.assert_allclose(law(-1.0, 0.2, 0.3) @ law(0.2, 1.1, 0.9), law(-1.0, 1.1, 1.2),
                             atol=1e-12)
  keep = at(-1.0)[0] / at(0.5)[0]
  kernel = keep * np.eye(size) + (1.0 - keep) * np.tile(path.base, (size, 1))
  np.testing.assert_allclose(law(0.5, -1.0, 1.5), kernel, atol=1e-12)


@pytest.mark.parametrize("name", ["absorbing", "uniform", "uniform, cosine"])
def test_the_bound_is_the_entropy_for_the_exact_model(table, name):
  """Sums over all x₀ and x_t; the integral over ℓ by Gauss–Legendre panels of |ℓ| < 32."""
  path = PATHS[name]
  x = jnp.asarray(states(path))
  nodes, weights = np.polynomial.legendre.leggauss(12)
  edges = np.linspace(-32.0, 32.0, 41)
  ells = (edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1.0) / 2).ravel()
  weights = (np.diff(edges)[:, None] * weights / 2).ravel()

  @jax.jit
  def mean_rate(ell):
    alpha, sigma = jax.nn.sigmoid(ell), jax.nn.sigmoid(-ell)
    log_d, q = exact(table, path, alpha, sigma), paths.kernel(path, alpha, sigma)

    def given(x_0):
      law = jnp.prod(jnp.stack([q[x_0[i]][x[:, i]] for i in range(L)]), axis=0)
      rate = objectives.rate(x, jnp.broadcast_to(x_0, x.shape), log_d, alpha, sigma, path)
      return jnp.sum(jnp.where(law > 0.0, law * rate, 0.0))

    return jnp.ravel(table.probabilities) @ jax.vmap(given)(jnp.asarray(table.states))

  integral = sum(w * float(mean_rate(ell)) for w, ell in zip(weights, ells, strict=True))
  assert abs(integral - table.entropy()) < 1e-10


def test_a_model_of_the_wrong_law_pays_its_divergence(table):
  """Discrete A.3: the bound of another exact model is the cross-entropy of its law, to sampling."""
  path = PATHS["absorbing"]
  other = mixtures.Table(jnp.full((V,) * L, 1.0 / V**L))
  x_0 = jnp.repeat(jnp.asarray(table.states), 50, axis=0)
  bound = objectives.elbo(jax.random.key(0), mixtures.denoiser(other, path), path, x_0, levels=20)
  np.testing.assert_allclose(bound.mean(), L * np.log(V), rtol=2e-2)


def test_importance_weights_close_the_gap_of_the_discretised_model(table):
  path, grid = PATHS["uniform"], grids.uniform_time(8)
  denoise = mixtures.denoiser(table, path)
  x_0 = jnp.tile(jnp.array([[1, 2]]), (400, 1))
  law = [p for p, _ in run_laws(table, path, samplers.ancestral(), 8)][-1]
  truth = -np.log(law.reshape((V,) * L)[1, 2])
  one, many = (objectives.importance_weighted(
      jax.random.key(1), denoise, path, x_0, method=samplers.ancestral(), grid=grid, particles=k)
      for k in (1, 64))
  assert one.mean() > truth + 0.01
  assert abs(many.mean() - truth) < 0.005


def test_the_loss_estimates_the_bound_and_its_gradient_vanishes_at_the_exact_model(table):
  path = PATHS["absorbing"]
  x_0 = table.sample(jax.random.key(0), 4096)

  def loss(shift):
    def network(x, ell):
      exact = jax.vmap(lambda x, a: table.denoise(x, a, path))(x, jax.nn.sigmoid(ell))
      return exact + shift * jnp.arange(V)[None, None]
    return objectives.loss(jax.random.key(1), network, x_0, path)[0]

  judge = jax.jit(jax.value_and_grad(loss))
  value, slope = judge(0.0)
  np.testing.assert_allclose(value, table.entropy() / L, rtol=4e-2)
  assert abs(slope) < 0.02 < abs(judge(0.3)[1])


def frequencies(x) -> np.ndarray:
  return np.bincount(np.ravel_multi_index(np.asarray(x).T, (V,) * L), minlength=V**L) / len(x)


@pytest.mark.parametrize(("length", "steps"), [(24, 64), (64, 100), (16, 16)])
def test_unmasking_keeps_to_its_share(length, steps):
  """More steps than positions, too: rounding must not add up over steps."""
  path = paths.absorbing(2)
  run = samplers.trajectory(
      jax.random.key(0), lambda x, t: jnp.zeros((*x.shape, 2)), path, shape=(400, length),
      method=samplers.unmask(), grid=grids.uniform_time(steps))
  masked = np.mean(run.x == path.mask, axis=-1)
  # At most a binomial's spread about the share, and none where the steps are the positions.
  np.testing.assert_allclose(masked.mean(1), run.t, atol=5.0 * 0.5 / np.sqrt(400 * length))
  if steps == length:
    assert np.ptp(masked, axis=1).max() == 0.0


def test_a_clock_that_ends_before_all_is_masked_has_a_finite_bound(table):
  x_0 = jnp.asarray(table.states)
  long, short = (objectives.elbo(
      jax.random.key(0), mixtures.denoiser(table, path), path, x_0, levels=400)
      for path in (paths.absorbing(V), paths.absorbing(V, paths.geometric())))
  np.testing.assert_allclose(short, long, atol=0.1)


@pytest.mark.parametrize("method", [samplers.unmask(), samplers.corrected(samplers.step(), 1)])
def test_samples_have_the_law_of_the_data(table, method):
  path, grid = PATHS["absorbing"], grids.uniform_time(L if method.move else 24)
  x = samplers.sample(jax.random.key(0), mixtures.denoiser(table, path), path, shape=(8000, L),
                      method=method, grid=grid)
  assert 0.5 * np.abs(frequencies(x) - np.asarray(table.probabilities).ravel()).sum() < 0.025


def test_corrections_bring_a_coarse_run_nearer_to_the_law(table):
  path = PATHS["absorbing"]

  def distance(method):
    x = samplers.sample(jax.random.key(0), mixtures.denoiser(table, path), path, shape=(8000, L),
                        method=method, grid=grids.uniform_time(4))
    return 0.5 * np.abs(frequencies(x) - np.asarray(table.probabilities).ravel()).sum()

  plain = distance(samplers.step())
  assert plain > 0.05
  assert distance(samplers.corrected(samplers.step(), 4, budget=1.0)) < 0.7 * plain


def test_confident_orders_change_the_law():
  path = PATHS["absorbing"]
  p = jnp.array([[0.30, 0.02, 0.02], [0.02, 0.30, 0.02], [0.16, 0.0, 0.16]])
  model = mixtures.Table(p / p.sum())
  x = samplers.sample(jax.random.key(0), mixtures.denoiser(model, path), path, shape=(8000, L),
                      method=samplers.unmask("confidence"), grid=grids.uniform_time(L))
  assert 0.5 * np.abs(frequencies(x) - np.asarray(model.probabilities).ravel()).sum() > 0.05


@pytest.mark.parametrize("method", [samplers.step(), samplers.step(1.0), samplers.unmask()])
def test_infilling_draws_from_the_exact_conditional(table, method):
  path = PATHS["absorbing"]
  x = samplers.sample(jax.random.key(0), mixtures.denoiser(table, path), path, shape=(8000, L),
                      method=method, grid=grids.uniform_time(24), known=jnp.array([1, 0]),
                      mask=jnp.array([True, False]))
  assert np.all(x[:, 0] == 1)
  truth = np.asarray(table.probabilities)[1] / np.asarray(table.probabilities)[1].sum()
  assert 0.5 * np.abs(np.bincount(x[:, 1], minlength=V) / len(x) - truth).sum() < 0.02


def test_guidance_tilts_single_positions_and_one_is_the_conditional_model():
  path = paths.absorbing(V)
  p, q = jnp.array([0.2, 0.5, 0.3]), jnp.array([0.6, 0.2, 0.2])
  at = lambda p: mixtures.denoiser(mixtures.Table(p), path)
  x, tilted = jnp.array([[V]]), q**2 / p
  for weight, law in ((1.0, q), (0.0, p), (2.0, tilted / tilted.sum())):
    guided = jax.jit(samplers.classifier_free(at(q), at(p), weight))(x, 0.5)
    np.testing.assert_allclose(jax.nn.softmax(guided)[0, 0], law, atol=1e-12)


def test_products_agree_with_their_table(table):
  path, x = PATHS["uniform"], jnp.asarray(states(PATHS["uniform"]))
  products = table.as_products()
  compute = jax.jit(lambda a: (products.log_prob(x, a, path), table.log_prob(x, a, path),
                               jnp.exp(products.denoise(x, a, path)).sum(-1)))
  of_products, of_table, total = compute(0.3)
  np.testing.assert_allclose(of_products, of_table, atol=1e-12)
  np.testing.assert_allclose(total, 1.0, atol=1e-12)


def test_float32_is_finite_at_both_ends_and_a_sample_depends_on_its_own_key():
  with jax.enable_x64(False):
    model = mixtures.Products(jnp.ones(2), jnp.array([[[0.9, 0.1]] * 5, [[0.2, 0.8]] * 5]))
    for path in (paths.absorbing(2, paths.cosine()), paths.uniform(2)):
      keys = jax.random.split(jax.random.key(0), 6)
      draw = lambda keys, path=path: samplers.sample(
          keys, mixtures.denoiser(model, path), path, shape=(len(keys), 5),
          method=samplers.step(1.0), grid=grids.uniform_time(6))
      x = draw(keys)
      assert x.min() >= 0 and x.max() <= 1
      np.testing.assert_array_equal(draw(keys[2:4]), x[2:4])


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda: paths.absorbing(1), "vocabulary must be at least 2"),
    (lambda: paths.from_survival(lambda t: 0.5 + t), "falls"),
    (lambda: paths.from_survival(lambda t: 1.0 - 0.5 * t + jnp.sin(9.0 * t) / 4), "fall"),
    (lambda: splitting.split(paths.uniform(3), -1.0), "stochasticity"),
    (lambda: paths.corrupt(jax.random.key(0), jnp.array([3]), 0.5, paths.uniform(3)), "0 … 2"),
    (lambda: paths.corrupt(jax.random.key(0), jnp.array([0.5]), 0.5, paths.uniform(3)), "integers"),
    (lambda: _sample(method="ancestral"), "method must be"),
    (lambda: _sample(path=paths.uniform), "discrete path"),
    (lambda: _sample(path=paths.uniform(3), method=samplers.unmask()), "mask token"),
    (lambda: _sample(known=jnp.array([7, 0]), mask=jnp.array([True, False])), "0 … 2"),
    (lambda: _sample(known=jnp.array([1, 0])), "together"),
    (lambda: _sample(denoise=lambda x, t: jnp.zeros((*x.shape, 4))), r"\(2, 3\)"),
    (lambda: samplers.unmask("best"), "order"),
    (lambda: samplers.classifier_free(None, None, float("nan")), "finite"),
    (lambda: objectives.importance_weighted(
        jax.random.key(0), None, paths.uniform(3), jnp.zeros((1, 2), int),
        method=samplers.unmask()), "independently"),
])
def test_bad_input_is_refused_in_one_line(wrong, message):
  with pytest.raises(ValueError, match=message) as error:
    wrong()
  assert "\n" not in str(error.value)


def _sample(path=None, denoise=None, **options):
  denoise = denoise or (lambda x, t: jnp.zeros((*x.shape, 3)))
  return samplers.sample(jax.random.key(0), denoise, path or paths.absorbing(3), shape=(2,),
                         **options)
