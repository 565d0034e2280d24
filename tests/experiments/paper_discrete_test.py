"""Exact laws on finite state spaces, and what the report's part computes of them, where known."""

import jax
import numpy as np
import pytest

from experiments.paper.questions.discrete import laws, measure, questions, trained
from langevin_jax import samplers as grids
from langevin_jax.discrete import mixtures, samplers

pytestmark = pytest.mark.usefixtures("x64")
noises = pytest.mark.parametrize("noise", laws.NOISES)


@noises
def test_one_position_is_sampled_exactly_and_its_pair_is_exact(noise):
  """Nothing else moves: every step is the reversal itself, whatever its size and stochasticity."""
  space = laws.space(noise, [0.2, 0.5, 0.3])
  runs = laws.Runner(space, {"": samplers.step(0.0), "2": samplers.step(2.0)})
  assert np.abs(runs.run(3, correction=0.5)[0]).max() < 1e-12
  assert questions._chain(space, (3,))["pair"][0] < 1e-12


def test_the_law_of_a_run_is_that_of_the_samples():
  data = measure.probabilities(0, 3, 2)
  space = laws.space("masked", data)
  runs = laws.Runner(space, {"": samplers.step(0.0)})
  kl = runs.run(2)[0][0, -1]
  x = samplers.sample(
      jax.random.key(0), mixtures.denoiser(space.table, space.path), space.path, shape=(20_000, 2),
      method=samplers.step(0.0), grid=grids.uniform_time(2))
  law = np.bincount(np.ravel_multi_index(np.asarray(x).T, (3, 3)), minlength=9) / len(x)
  assert kl > 0.005 and abs(laws.kl(data.ravel(), law) - kl) < 0.003
  # In two groups of one position it is exact, and in one group the positions are independent.
  np.testing.assert_allclose(laws.unmasked(space, 2), data.ravel(), atol=1e-12)
  np.testing.assert_allclose(
      laws.unmasked(space, 1), np.outer(data.sum(1), data.sum(0)).ravel(), atol=1e-12)


def test_a_generator_has_the_rates_of_single_positions():
  space = laws.space("uniform", np.full((2, 2), 0.25))
  rates = np.arange(16.0).reshape(4, 2, 2)
  found = space.generator(rates)
  # From (0, 1): the first position to 1 is (1, 1), the second to 0 is (0, 0).
  assert found[1, 3] == rates[1, 0, 1] and found[1, 0] == rates[1, 1, 0] and found[1, 2] == 0.0
  np.testing.assert_array_equal(found.sum(1), 0.0)


def test_a_vae_with_as_many_latents_as_states_is_exact():
  law = np.array([[0.4, 0.1], [0.05, 0.45]])
  found = questions._vae(laws.space("masked", law), steps=500)
  assert found["kl"][0] == pytest.approx(
      np.sum(law * np.log(law / np.outer(law.sum(1), law.sum(0)))))
  assert found["kl"][1] < 1e-6 and found["free"] == 3


@noises
def test_a_trained_model_of_one_position_is_off_by_less_than_its_bound(noise):
  """One position is reversed exactly at finite steps, so that A.3 holds without a limit."""
  space = laws.space(noise, [0.2, 0.5, 0.3])
  model = trained.train(space, 0, 100)
  kl = laws.Runner(model, {"": samplers.ancestral()}).run(4, trained.ENDS)[0][0, -1]
  p, ends = np.asarray(space.table.probabilities), tuple(-np.log(trained.ENDS))
  excess = questions.bound(model, ends)(p, 1.0) - questions.bound(space, ends)(p, 1.0)
  assert 1e-6 < kl < excess < 0.2
