"""Langevin dynamics as a Markov chain: acceptance, autocorrelation, bias; by another's diagnostics.

R̂ and the effective sample size are blackjax's, which knows nothing of these chains.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax import diagnostics
from oracles import LINE, round_law
from scipy import stats

from langevin_jax import langevin

gaussian_log_prob = lambda x: -0.5 * jnp.sum(x**2, -1)
CHAINS, COORDINATES, STEPS = 8, 16, 2_000


def test_effective_sample_size_is_that_of_the_ornstein_uhlenbeck_process():
  """On N(0, v) a step is x′ = φx + noise, so N/ESS = 1 + 2Σφᵏ = (1 + φ)/(1 − φ).

  exact: φ = 1 − (1 − e^{−Λ})σ²/v, which at v = σ² is the process's own e^{−Λ}; euler: φ = 1 − δ/v.
  Sums of K lags over N numbers are known to √(2(2K + 1)/N), here K ≈ 5 N/ESS ≤ 40 and N = 16,000:
  10 % of each of 16 coordinates, 2.5 % of their mean; Geyer's truncation adds a few percent.
  """
  var, sigma, delta = 0.8, 0.7, 0.35
  methods = {
      np.exp(-0.3): (langevin.exact(sigma, 0.3), sigma**2),
      1.0 + np.expm1(-1.2) * sigma**2 / var: (langevin.exact(sigma, 1.2), var),
      1.0 - delta / var: (langevin.euler(delta), var)}

  @jax.jit
  def sizes(key):
    def size(method, v):
      start = jnp.sqrt(v) * jax.random.normal(key, (CHAINS, COORDINATES))
      return diagnostics.effective_sample_size(langevin.chain(
          key, start, lambda x: -x / v, method, steps=STEPS, trajectory=True), 1, 0)

    return jnp.stack([size(*choice) for choice in methods.values()])

  ratio = np.asarray(sizes(jax.random.key(0))).mean(1) / (CHAINS * STEPS)
  phi = np.array(list(methods))
  np.testing.assert_allclose(ratio, (1.0 - phi) / (1.0 + phi), rtol=0.075)


def acceptance(delta):
  """Of MALA on N(0, 1) in one dimension: E min(1, e^a), and the lag-1 autocorrelation; quadrature.

  For quadratic log p the trapezoid is exact, and a = −¼δ(x′² − x²) is all that is left.
  """
  x, xi = np.meshgrid(*2 * [np.linspace(-8.0, 8.0, 1601)])
  weight = stats.norm.pdf(x) * stats.norm.pdf(xi) * 0.01**2
  new = (1.0 - delta) * x + np.sqrt(2.0 * delta) * xi
  accept = np.minimum(1.0, np.exp(-0.25 * delta * (new**2 - x**2)))
  return np.sum(weight * accept), 1.0 - np.sum(weight * accept * x * (x - new))


def test_mala_is_accepted_as_theory_says():
  """1-D: a quadrature. d = 200: a is normal with variance dδ³/2 and mean minus half of that, so
  E min(1, e^a) = 2Φ(−√(dδ³/2)/2), to the next order in δ (2 %).

  400,000 accepts or refusals, less than ten at a time alike: .0025 at three standard errors.
  """
  n, steps, delta, high_delta = 10_000, 40, 1.2, 0.2

  @jax.jit
  def runs(key):
    start = jax.random.normal(key, (n,))
    line = langevin.run(key, start, lambda x: -x,
                        langevin.mala(lambda x: -0.5 * x**2, delta), steps=steps, trajectory=True)
    many = langevin.run(key, jax.random.normal(key, (500, 200)), lambda x: -x,
                        langevin.mala(gaussian_log_prob, high_delta), steps=steps)
    return line, many[1].accepted

  (x, line), many = runs(jax.random.key(3))
  expected, correlation = acceptance(delta)
  assert 0.6 < expected < 0.9
  assert abs(np.mean(line.accepted) / steps - expected) < 0.0025
  assert abs(np.mean(x[1:] * x[:-1]) - correlation) < 0.01
  limit = 2.0 * stats.norm.cdf(-0.5 * np.sqrt(200 * high_delta**3 / 2.0))
  assert 0.5 < limit < 0.8
  np.testing.assert_allclose(np.mean(many) / steps, limit, rtol=0.03)


def test_chains_from_far_apart_agree_on_a_mixture():
  """R̂ < 1.01, and errors of the moments that its effective sample size accounts for.

  Eight chains of MALA from a ring of radius 4 around a two-dimensional mixture.
  """
  w, m, v = np.array([0.4, 0.6]), np.array([[-0.8, 0.3], [0.7, -0.5]]), np.array([0.35, 0.45])
  log_prob = lambda x: round_law((w, m, np.sqrt(v)), x, 1.0, 0.0)[0]
  angle = 2.0 * jnp.pi * jnp.arange(CHAINS) / CHAINS
  start = 4.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)

  @jax.jit
  def diagnosed(key, delta):
    x, carry = langevin.run(
        key, start, lambda x: jax.grad(lambda x: jnp.sum(log_prob(x)))(x),
        langevin.mala(log_prob, delta), steps=4_200, trajectory=True)
    # These diagnostics broadcast as numpy does.
    with jax.numpy_rank_promotion("allow"):
      r_hat = diagnostics.rhat(x[200:], 1, 0)
    ess = diagnostics.effective_sample_size(x[200:], 1, 0)
    return jnp.mean(x[200:], (0, 1)), r_hat, ess, jnp.mean(carry.accepted) / 4_200

  found, r_hat, ess, accepted = diagnosed(jax.random.key(5), 0.25)
  assert np.all(r_hat < 1.01) and accepted > 0.8 and np.all(ess > 0.02 * CHAINS * 4_000)
  mean = w @ m
  var = w @ (m**2 + v[:, None]) - mean**2
  np.testing.assert_array_less(np.abs(found - mean), 4.0 * np.sqrt(var / ess))
  # Chains that hardly move are found out.
  assert np.all(diagnosed(jax.random.key(5), 1e-5)[1] > 1.5)


# The mixture of theory.md#exact-models at noise .5: its chains should keep E x².
LEVEL = 0.5
WEIGHTS, MEANS, VARS = LINE[0], LINE[1][:, 0], LINE[2] ** 2 + LEVEL**2


def line_log_prob(x):
  return round_law(LINE, x[..., None], 1.0, LEVEL)[0]


@pytest.fixture(scope="module")
def bias() -> dict[tuple[str, float], float]:
  """Bias of E x² after Langevin time 10σ² from the exact law, and "error", its standard error."""
  n, score = 500_000, lambda x: jax.grad(lambda x: jnp.sum(line_log_prob(x)))(x)
  rng = np.random.default_rng(0)
  k = rng.choice(3, n, p=WEIGHTS)
  start = jnp.asarray(MEANS[k] + np.sqrt(VARS[k]) * rng.normal(size=n), jnp.float32)
  make = {
      "exact": lambda budget: langevin.exact(LEVEL, budget),
      "euler": lambda budget: langevin.euler(budget * LEVEL**2),
      "midpoint": lambda budget: langevin.midpoint(LEVEL, budget),
      "baoab": lambda budget: langevin.baoab(LEVEL * np.sqrt(2.0 * budget), np.inf),
      "mala": lambda budget: langevin.mala(line_log_prob, budget * LEVEL**2)}
  chosen = [(name, budget) for name in make for budget in (0.8, 0.4)
            if budget == 0.8 or name in ("exact", "euler", "midpoint")]
  ends = jax.jit(lambda key, x: [
      jnp.square(langevin.chain(key, x, score, make[name](budget), steps=round(10 / budget)))
      for name, budget in chosen])(jax.random.key(1), start)
  second = WEIGHTS @ (MEANS**2 + VARS)
  fourth = WEIGHTS @ (MEANS**4 + 6 * MEANS**2 * VARS + 3 * VARS**2)
  found = {c: np.asarray(x, np.float64).mean() - second
           for c, x in zip(chosen, ends, strict=True)}
  return found | {"error": np.sqrt((fourth - second**2) / n)}


def test_the_midpoint_is_an_order_above_the_exact_step(bias):
  """Its bias is less, and by twice as much when the step is halved (.4 covers the errors)."""
  gain = {budget: bias["exact", budget] / bias["midpoint", budget] for budget in (0.8, 0.4)}
  assert gain[0.8] > 2.0 and abs(np.log2(gain[0.4] / gain[0.8]) - 1.0) < 0.4, gain
  assert bias["euler", 0.4] > 5 * bias["error"] and bias["euler", 0.8] > 1.7 * bias["euler", 0.4]


def test_mala_has_no_bias_where_others_have(bias):
  """At Λ = .8 unadjusted moves are 20 standard errors off; BAOAB and MALA less than four."""
  assert bias["euler", 0.8] > 15 * bias["error"]
  assert abs(bias["mala", 0.8]) < 4 * bias["error"]
  assert abs(bias["baoab", 0.8]) < 4 * bias["error"]
