"""The groups in which a likelihood goes through the data, whatever the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner

from experiments import config
from experiments.metrics import likelihoods
from experiments.run import assembly
from experiments.sampling import drawing
from langevin_jax import likelihood, paths, predictions


@pytest.mark.parametrize(("n", "size"), [(1, 1), (16, 1), (50, 4), (360, 23), (64, 64)])
def test_what_counts_in_a_group_is_the_same_on_any_mesh(n, size):
  alone = [index[:count] for index, count in likelihoods._groups(n, size, 1)]
  np.testing.assert_array_equal(np.concatenate(alone), np.arange(n))
  for shards in (2, 3, 8, 96):
    groups = list(likelihoods._groups(n, size, shards))
    assert len(groups) == len(alone)
    for (index, count), one in zip(groups, alone, strict=True):
      assert len(index) % shards == 0 and len(index) < size + shards
      assert index.max() < n
      np.testing.assert_array_equal(index[:count], one)


def test_the_bound_of_an_example_does_not_depend_on_what_fills_its_group_up():
  denoise = predictions.Denoiser(lambda x, ell: 0.5 * x, paths.vp())
  bound = lambda x: likelihood.bound(
      jax.random.key(1), denoise, paths.vp(), x, draws=8, batch_axes=1, decode=None)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)
  values = []
  for shards in (1, 2, 8, 32):
    groups = likelihoods._groups(7, 5, shards)
    values.append(np.concatenate([np.asarray(bound(x[index]))[:count] for index, count in groups]))
    np.testing.assert_allclose(values[-1], values[0], rtol=1e-6)
  assert len(np.unique(values[0])) == 7


SMALL = config.override(config.load(str(runner.CONFIGS / "mixture2d.py")), {
    "data.train_size": 100, "data.test_size": 20, "network.width": 8, "network.depth": 1})


def test_a_network_in_bfloat16_has_a_likelihood_and_one_without_derivatives_says_so():
  run = assembly.prepare(config.override(SMALL, {"network.dtype": "bfloat16"}))
  arguments = run.config.sampling, paths.vp(), likelihoods.Settings(4, "", 2)
  likelihoods.check_run(run, *arguments)

  @jax.custom_vjp
  def opaque(x):
    return x

  opaque.defvjp(lambda x: (x, None), lambda _, bar: (bar,))
  apply = lambda *inputs: opaque(run.apply(*inputs))
  with pytest.raises(ValueError, match="--likelihood: the network cannot be differentiated"):
    likelihoods.check_run(run._replace(apply=apply), *arguments)


def test_what_a_likelihood_refuses_is_refused_before_anything_is_sampled(tmp_path, monkeypatch):
  workdir = runner.untrained(tmp_path / "run", SMALL)
  monkeypatch.setattr(likelihood.flow, "TANGENT_LIMIT_BYTES", 10)
  monkeypatch.setattr(drawing, "batches", lambda *_, **__: pytest.fail("it has sampled"))
  err = runner.refused(
      "evaluate", f"--workdir={workdir}", "--likelihood", "--divergence=exact")
  assert "hutchinson" in err
