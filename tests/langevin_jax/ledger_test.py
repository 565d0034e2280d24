"""The variational bound and the KL ledger close on mixtures, by quadrature and by Monte Carlo."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import LINE, RoundLaw, round_law

from langevin_jax import likelihood, mixtures, objectives, paths, predictions, samplers

# The mixture of theory.md#exact-models, and another law whose diffused score is a wrong model.
P = LINE
# (Its third component is nothing: the two have one shape, and what is compiled serves both.)
Q = (np.array([0.5, 0.5, 1e-30]), np.array([[-0.8], [1.0], [0.0]]), np.array([0.5, 0.6, 1.0]))
MOMENTS = {name: (w @ m[:, 0], w @ (s**2 + m[:, 0] ** 2) - (w @ m[:, 0]) ** 2)
           for name, (w, m, s) in (("p", P), ("q", Q))}
RHO_MIN, RHO_MAX = 0.05, 20.0
DEVIATIONS = 4.5  # Student's t with 15 degrees of freedom: once in 2500 runs


def parts(law, z, rho):
  """log p and D in the VE frame, elementwise in z."""
  log_prob, denoised = round_law(law, z[..., None], 1.0, rho)
  return log_prob, denoised[..., 0]


def model(law, bend=0.0) -> predictions.Denoiser:
  """The diffused law's denoiser, plus a bend that makes it the score of no density's diffusion."""
  def at(x, ell):
    rho = jnp.exp(-ell)
    z = x / predictions.unit_frame(ell).alpha
    return parts(law, z, rho)[1] + bend * jnp.sin(2.0 * x)

  return predictions.Denoiser(at, paths.vp())


def data(n: int, dtype=np.float32) -> np.ndarray:
  rng = np.random.default_rng(0)
  k = rng.choice(3, n, p=P[0])
  return (P[1][k, 0] + P[2][k] * rng.standard_normal(n))[:, None].astype(dtype)


def expectation(values, rho):
  """E over p at ρ of values(z): the trapezoidal rule, exact to rounding for analytic densities."""
  z = np.linspace(-1.2 - 9 * np.hypot(0.35, rho), 1.6 + 9 * np.hypot(0.25, rho), 4001)
  p = np.exp(parts(P, z, rho)[0])
  return (z[1] - z[0]) * np.sum(p * values(z))


def relative(log_q, rho):
  """KL(p‖q) at ρ."""
  return expectation(lambda z: parts(P, z, rho)[0] - log_q(z), rho)


def gaussian(moments, rho):
  mean, var = moments
  return lambda z: -0.5 * ((z - mean) ** 2 / (var + rho**2) + np.log(2 * np.pi * (var + rho**2)))


def over_levels(rate, low, high, nodes=40):
  """∫ rate dℓ by Gauss–Legendre."""
  points, weights = np.polynomial.legendre.leggauss(nodes)
  half = 0.5 * (high - low)
  return half * sum(w * rate(low + half * (u + 1)) for u, w in zip(points, weights, strict=True))


def score_error(ell, law=Q):
  rho = np.exp(-ell)
  gap = lambda z: (parts(P, z, rho)[1] - parts(law, z, rho)[1]) ** 2
  return expectation(gap, rho) / rho**2


def mmse(ell):
  """E‖x₀ − D*‖² = E‖x₀‖² − E‖D*‖²."""
  second = P[0] @ (P[2] ** 2 + P[1][:, 0] ** 2)
  return second - expectation(lambda z: parts(P, z, np.exp(-ell))[1] ** 2, np.exp(-ell))


ENDS = -np.log(RHO_MAX), -np.log(RHO_MIN)
PRIOR = relative(gaussian(MOMENTS["q"], RHO_MAX), RHO_MAX)
ENTROPY = -expectation(lambda z: parts(P, z, RHO_MIN)[0], RHO_MIN)
KL = relative(lambda z: parts(Q, z, RHO_MIN)[0], RHO_MIN)


def assert_close(estimate: likelihood.Estimate, expected, floor=1e-6):
  assert np.all(np.abs(np.asarray(estimate.value) - expected)
                < DEVIATIONS * np.asarray(estimate.error) + floor), (estimate, expected)


def test_the_sum_is_the_kl_to_six_digits():
  """Prior and score error, integrated by rule, against KL(p‖q) (theory.md#numerics: 1e-6)."""
  scores = over_levels(score_error, *ENDS)
  assert KL > 0.3 and PRIOR > 1e-9
  # The model's prior is Gaussian: the diffused q's own KL at ρ_max is the third digit of 1e-5.
  end = relative(lambda z: parts(Q, z, RHO_MAX)[0], RHO_MAX)
  assert abs(end + scores - KL) < 1e-6
  assert abs(PRIOR + scores - KL) < 1e-6


@functools.cache
def compiled(steps, exact):
  grid = None if steps is None else samplers.karras(steps + 1, rho_min=RHO_MIN, rho_max=RHO_MAX)
  return jax.jit(lambda key, x, law, bend, moments: likelihood.ledger(
      key, model(law, bend), paths.vp(), x, grid=grid, bins=16, moments=moments,
      exact=RoundLaw(*P) if exact else None, rho_min=RHO_MIN, rho_max=RHO_MAX))


def run_ledger(name, *, steps=None, exact=True, bend=0.0, n=16384):
  law = {"p": P, "q": Q}[name]
  made = compiled(steps, exact)(jax.random.key(3), data(n), law, bend, MOMENTS[name])
  return jax.tree.map(np.asarray, made)


def test_the_ledger_of_a_diffused_model_is_its_kl():
  """With the exact law: each bin the quadrature's, the sum KL(data‖model)."""
  made = run_ledger("q")
  bins = [over_levels(score_error, *ends, nodes=6)
          for ends in zip(made.edges[:-1], made.edges[1:], strict=True)]
  assert np.all(made.discretisation.value == 0.0)
  assert_close(made.prior, PRIOR)
  assert_close(made.score, bins)
  assert_close(made.total, KL)
  # And it is precise: the test could tell one in a hundred.
  assert made.total.error < 0.01 * KL
  parts_sum = made.prior.value + made.score.value.sum()
  np.testing.assert_allclose(made.total.value, parts_sum, rtol=1e-5)


def test_of_the_ode_it_says_as_much_as_it_claims(x64):
  """Diffused score: the ODE's KL is the sum. Any other score: the sum does not even bound it.

  The other is D* + .3 ρ sin(2z/ρ), whose error costs .09 E sin² a unit of ℓ and no more.
  """
  def rippled(x, ell):
    rho = jnp.exp(-ell)
    z = x / predictions.unit_frame(ell).alpha
    return parts(P, z, rho)[1] + 0.3 * rho * jnp.sin(2.0 * z / rho)

  z = np.linspace(-4.5, 4.5, 1201)

  def kl(denoise, moments, steps):
    log_q = jax.jit(lambda z: likelihood.log_prob(
        jax.random.key(0), denoise, paths.vp(), z, batch_axes=1, steps=steps, moments=moments,
        rho_min=RHO_MIN, rho_max=RHO_MAX))(z[:, None])
    log_p = parts(P, z, RHO_MIN)[0]
    return (z[1] - z[0]) * np.sum(np.exp(log_p) * (log_p - log_q))

  # 64 steps of RK4 are good to 1e-4 nats (theory.md#likelihood).
  assert abs(kl(model(Q), MOMENTS["q"], 64) - KL) < 1e-4
  error = over_levels(lambda ell: 0.09 * expectation(
      lambda z: np.sin(2.0 * z * np.exp(ell)) ** 2, np.exp(-ell)), *ENDS)
  sum_of_ledger = relative(gaussian(MOMENTS["p"], RHO_MAX), RHO_MAX) + error
  assert kl(predictions.Denoiser(rippled, paths.vp()), MOMENTS["p"], 200) > 3.0 * sum_of_ledger


def test_without_the_density_it_is_the_cross_entropy():
  """Trained networks: total = H(z_min) + KL; two models' bins differ by their score errors."""
  wrong, right = (run_ledger(name, steps=10, exact=False) for name in "qp")
  continuous = wrong.total.value - wrong.discretisation.value.sum()
  assert_close(likelihood.Estimate(continuous, wrong.total.error), ENTROPY + KL)
  assert_close(likelihood.Estimate(
      right.prior.value + right.score.value.sum(), right.total.error), ENTROPY)
  # One key: the two share their noise, so that differences are better known than either.
  bins = [over_levels(score_error, *ends, nodes=6)
          for ends in zip(wrong.edges[:-1], wrong.edges[1:], strict=True)]
  gap = wrong.score.value - right.score.value
  assert_close(likelihood.Estimate(gap, wrong.score.error), bins)
  # The discretisation needs no density: it is that of the exact law's ledger, and so is the rest.
  known = run_ledger("q", steps=10)
  both = np.hypot(wrong.discretisation.error, known.discretisation.error)
  assert_close(likelihood.Estimate(wrong.discretisation.value, both), known.discretisation.value)
  both = np.hypot(wrong.total.error, known.total.error)
  assert_close(likelihood.Estimate(wrong.total.value - ENTROPY, both), known.total.value)


def nodes(steps):
  """ρ at the nodes of the grid that `run_ledger` gives that many steps."""
  return samplers.karras(steps + 1, rho_min=RHO_MIN, rho_max=RHO_MAX)(paths.vp())[:-1]


def marginal(law, bend, rho):
  """KL(data‖model) of STEP(h, Λ = h) at the grid's end, from p at its start, on a lattice."""
  z = [np.linspace(-1.2 - 7 * np.hypot(0.35, r), 1.6 + 7 * np.hypot(0.25, r), 700) for r in rho]
  q = np.exp(parts(P, z[0], rho[0])[0])
  for here, there, r, s in zip(z[:-1], z[1:], rho[:-1], rho[1:], strict=True):
    denoised = parts(law, here, r)[1] + bend * np.sin(2 * here / np.hypot(1, r))
    keep = (s / r) ** 2
    std = s * np.sqrt(1 - keep)
    kernel = np.exp(-0.5 * ((there[:, None] - (denoised + keep * (here - denoised))) / std) ** 2)
    q = kernel @ q * (here[1] - here[0]) / (std * np.sqrt(2 * np.pi))
  cell = z[-1][1] - z[-1][0]
  np.testing.assert_allclose(cell * q.sum(), 1.0, atol=1e-7)
  log_p = parts(P, z[-1], rho[-1])[0]
  return cell * np.sum(np.exp(log_p) * (log_p - np.log(np.maximum(q, 1e-300))))


def path_kl(rho):
  """Σ_i ∫ e^{2ℓ} (mmse(ℓ_i) − mmse(ℓ)) dℓ of the exact model."""
  ells = -np.log(rho)
  total = 0.0
  for i, ends in enumerate(itertools.pairwise(ells)):
    here = mmse(ells[i])
    total += over_levels(lambda ell, here=here: np.exp(2 * ell) * (here - mmse(ell)), *ends,
                         nodes=5)
  return total


def test_discretisation_of_the_exact_model():
  """The ledger is the processes' KL, of order 1; it bounds the marginal KL, of order 2.

  At 10, 20, 40 and 80 steps 2.94, 1.10, .484 and .227 against .127, .0295, .00707 and .00174 nats.
  """
  bounds, ends = [], []
  for n in (10, 20, 40, 80):
    rho = nodes(n)
    bounds.append(path_kl(rho))
    ends.append(marginal(P, 0.0, rho))
    if n == 10:
      made = run_ledger("p", steps=n)
      assert_close(made.discretisation._replace(
          value=made.discretisation.value.sum(),
          error=np.sqrt(np.sum(made.discretisation.error**2))), bounds[-1])
      assert_close(made.total, bounds[-1])
      assert np.all(np.abs(made.score.value) < 1e-5)
      assert made.total.error < 0.05 * bounds[-1]
  slope = lambda errors: np.polyfit(np.log([20, 40, 80]), -np.log(errors[1:]), 1)[0]
  np.testing.assert_allclose(bounds, [2.944, 1.105, 0.4841, 0.2272], rtol=1e-3)
  np.testing.assert_allclose(ends, [0.1272, 0.02946, 0.007072, 0.001739], rtol=1e-3)
  assert abs(slope(bounds) - 1.0) < 0.15, bounds
  assert abs(slope(ends) - 2.0) < 0.2, ends


def test_a_wrong_sampler_is_no_worse_than_its_ledger():
  """A model that is no diffused score: the KL of the ends is below the sum, strictly."""
  made = run_ledger("p", steps=10, bend=0.05)
  end = marginal(P, 0.05, nodes(10))
  assert 0.0 < end < made.total.value - DEVIATIONS * made.total.error, (end, made.total)
  assert made.score.value.sum() > 0.01


def test_the_bound_is_tight_on_a_diffused_score():
  """E[−log q(z_min)] on both sides: by quadrature 1.5006190, and by `bound` to its error."""
  cross = ENTROPY + KL
  np.testing.assert_allclose(cross, 1.5006190, atol=1e-7)
  # ∫(E‖ε − ε_θ‖² − 1)dℓ = ∫(mmse e^{2ℓ} − 1)dℓ + the score error.
  rate = lambda ell: np.exp(2 * ell) * mmse(ell) - 1.0 + score_error(ell)
  start = -expectation(gaussian(MOMENTS["q"], RHO_MAX), RHO_MAX)
  np.testing.assert_allclose(start + over_levels(rate, *ENDS), cross, atol=1e-6)
  # Any density of levels will do: here one that dwells on what it was told are large errors.
  state = objectives.histogram(6, rho_min=RHO_MIN, rho_max=RHO_MAX)
  middles = ENDS[0] + (ENDS[1] - ENDS[0]) * (np.arange(6) + 0.5) / 6
  skewed = objectives.by_error(objectives.observe(
      state, jnp.asarray(middles), jnp.array([0.2, 0.4, 1.0, 2.0, 1.0, 1.0])))
  run = lambda key, x, density: likelihood.bound(
      key, model(Q), paths.vp(), x, draws=64, batch_axes=1, density=density,
      moments=MOMENTS["q"], rho_min=RHO_MIN, rho_max=RHO_MAX)
  # Levels are shared within a batch: independent batches know the error.
  for nats in jax.jit(jax.vmap(lambda key, x: (run(key, x, None), run(key, x, skewed))))(
      jax.random.split(jax.random.key(0), 16), data(16 * 512).reshape(16, 512, 1)):
    means = np.asarray(nats).mean(1)
    assert_close(likelihood.Estimate(means.mean(), means.std(ddof=1) / 4), cross)
    assert means.std(ddof=1) / 4 < 0.02


def test_the_bound_of_discrete_data_is_the_entropy():
  """The exact model of a law on three levels: bound with its decoder = −log P(x), level by level.

  The decoder takes the levels as equally likely, which at ρ_min = .05, an eighth of half their
  distance, changes nothing in the sixth digit.
  """
  levels, chance = np.array([-1.2, 0.0, 1.0], np.float32), np.array([0.2, 0.5, 0.3], np.float32)
  law = chance, levels[:, None], np.zeros(3, np.float32)
  moments = chance @ levels, chance @ levels**2 - (chance @ levels) ** 2
  x = np.tile(levels[:, None], (1, 1024))[..., None]
  run = jax.jit(lambda key: likelihood.bound(
      key, model(law), paths.vp(), x, draws=64, batch_axes=2, moments=moments,
      decode=likelihood.decoder(levels), rho_min=RHO_MIN, rho_max=RHO_MAX))
  nats = np.stack([run(key) for key in jax.random.split(jax.random.key(0), 16)]).mean(2)
  # The Gaussian prior at ρ_max costs its KL to the mixture, 1e-9.
  assert_close(likelihood.Estimate(nats.mean(0), nats.std(0, ddof=1) / 4), -np.log(chance))
  assert nats.std(0, ddof=1).max() / 4 < 0.03


def test_examples_of_any_shape(x64):
  """N(0, 1) in six dimensions: the cross-entropy of the exact model is the entropy of z_min."""
  x = jax.random.normal(jax.random.key(0), (512, 2, 3))
  exact = predictions.Denoiser(lambda x, ell: predictions.unit_frame(ell).alpha * x, paths.ve())
  made = jax.jit(lambda key: likelihood.ledger(
      key, exact, paths.ve(), x, bins=8, rho_min=0.1, rho_max=10.0))(jax.random.key(1))
  assert made.score.value.shape == made.discretisation.error.shape == (8,)
  np.testing.assert_allclose(made.edges, np.linspace(-np.log(10), np.log(10), 9), atol=1e-12)
  assert_close(made.total, 3.0 * np.log(2 * np.pi * np.e * 1.01))


@pytest.mark.slow
def test_a_data_set_as_its_own_law_has_no_error_but_the_grid_s(x64):
  law = mixtures.Empirical(jax.random.normal(jax.random.key(0), (5, 2, 3)))
  made = jax.jit(lambda key: likelihood.ledger(
      key, mixtures.denoiser(law, paths.ve()), paths.ve(), jnp.tile(law.points, (32, 1, 1)),
      exact=law, grid=samplers.karras(6, rho_min=0.1, rho_max=10.0), bins=8))(
          jax.random.PRNGKey(1))
  np.testing.assert_allclose(made.score.value, np.zeros(8), atol=1e-20)
  assert made.discretisation.value.sum() > 10.0 * made.discretisation.error.max() > 0.0


def test_bad_input_is_named():
  x = jnp.zeros((32, 2))
  run = lambda **options: jax.eval_shape(lambda: likelihood.ledger(
      jax.random.key(0), lambda x, t: x, paths.rectified_flow(), x, **options))
  for options, name in (({"bins": 0}, "bins"), ({"draws_per_bin": 0}, "draws_per_bin"),
                        ({"repeats": 1}, "repeats"), ({"repeats": 5}, "repeats=5"),
                        ({"rho_min": 2.0, "rho_max": 1.0}, "rho_min"),
                        ({"grid": samplers.uniform_time(4)}, "finite"),
                        ({"grid": samplers.karras(1)}, "two or more"),
                        ({"moments": (np.zeros(3), 1.0)}, "moments")):
    with pytest.raises(ValueError, match=name):
      run(**options)
  with pytest.raises(ValueError, match="draws"):
    likelihood.bound(jax.random.key(0), lambda x, t: x, paths.vp(), x, draws=0)
  with pytest.raises(ValueError, match="batch_axes"):
    likelihood.bound(jax.random.key(0), lambda x, t: x, paths.vp(), x, batch_axes=3)
