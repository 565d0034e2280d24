"""Questions 2 and 4: the pieces that the parts are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper.exact import densities, planned
from experiments.paper.questions.flow_matching import heads, measure, readings
from experiments.paper.questions.stochasticity import runs
from langevin_jax import mixtures, paths, samplers


def test_arms_differ_in_objective_and_path_and_customs_are_what_their_fields_say():
  ells = np.linspace(-4.6, 4.6, 201).astype(np.float32)
  configs = heads.configs(fast=True)
  assert len({(str(config.network), str(config.training)) for config in configs.values()}) == 1
  counted = {head: heads.objective(configs[heads.Arm(head, heads.CUSTOMARY)], ells)
             for head in readings.HEADS}
  ratio = lambda values, expected: np.ptp(values / expected) / np.mean(values / expected)
  # λ = σ² at geometric levels is maximum likelihood; v on cosine and flow matching count ρ alike.
  assert ratio(counted["score"], np.ones_like(ells)) < 1e-5
  assert ratio(counted["v"], np.exp(-ells)) < 1e-4
  assert ratio(counted["velocity"], np.exp(-ells)) < 1e-4
  for head in readings.HEADS:
    config = configs[heads.Arm(head, heads.LIKELIHOOD)]
    assert ratio(heads.objective(config, ells), np.ones_like(ells)) < 1e-5


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_every_reading_of_a_network_has_one_gradient(kind):
  """And in float64 the three losses of Table 6 as they are printed."""
  x_0 = np.random.default_rng(0).normal(size=(32, 2))
  found = measure._gradients(jax.random.key(0), x_0, double=kind == "float64")
  assert len(found) == len(readings.HEADS) + 3 * (kind == "float64")
  assert max(found.values()) < measure._rounding(kind)


def test_planned_numbers_make_the_samples_of_the_sampler_itself():
  mixture, path = densities.load("gaussian").plane, paths.cosine()
  denoise, key = mixtures.denoiser(mixture, path), jax.random.key(2)
  grid = samplers.karras(6, rho_min=0.05, rho_max=20.0)
  etas = (0.0, 0.7)
  plans = planned.stacked([planned.plan(path, samplers.multistep(2, eta), grid) for eta in etas])
  x = jax.jit(lambda plans: jax.lax.map(lambda plan: planned.run(
      plan, key, denoise.at, shape=(5, 2), method=samplers.multistep(2, 1.0)), plans))(plans)
  for eta, found in zip(etas, x, strict=True):
    expected = samplers.sample(key, denoise, path, shape=(5, 2), grid=grid,
                               method=samplers.multistep(2, eta))
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_noise_of_a_process_adds_up_over_its_windows():
  everywhere = runs.Process("", 1.0)
  cut = [runs.Process("", 1.0, low, high) for low, high in ((0.0, 0.2), (0.2, 2.0), (2.0, 1e9))]
  assert sum(p.noise() for p in cut) == pytest.approx(everywhere.noise())
  ell = jnp.linspace(-4.0, 4.0, 9)
  np.testing.assert_array_equal(sum(p.stochasticity()(ell) for p in cut), np.ones(9))


def test_chance_allows_more_where_a_null_is_known_from_few_draws():
  """Student's predictive bound: exact in law for normal numbers, as a simulation of it shows."""
  rng = np.random.default_rng(0)
  null, new = rng.normal(size=(200_000, 6)), rng.normal(size=200_000)
  deviations = (new - null.mean(1)) / null.std(1, ddof=1)
  assert np.mean(deviations > planned.farthest(1, 6)) == pytest.approx(1e-3, abs=4e-4)
  assert planned.farthest(1, 10**6) == pytest.approx(3.0902, abs=1e-3)
  assert planned.farthest(100, 20) > planned.farthest(100, 40) > planned.farthest(1, 40)


def test_two_sets_of_exact_draws_are_as_far_apart_as_their_null_says():
  mixture = densities.load("gaussian").plane
  mean, std = planned.between(mixture, jax.random.key(4), 0.0, 50, repeats=10)
  judge = planned.judge(mixture, jax.random.key(5), 0.0, 50, repeats=2)
  found = np.log(planned.distance(judge.exact[:50], judge.exact[50:100]))
  assert abs(found - mean) < planned.farthest(1, 10) * std
  assert planned.deviation(judge, np.exp(judge.mean)) == pytest.approx(0.0, abs=1e-9)
  assert planned.deviation(judge, planned.distance(judge.exact, np.full((50, 2), 3.0))) > 4.0
