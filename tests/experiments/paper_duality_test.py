"""Exact laws on the line against known numbers, duality, and the certificate's inequality."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import runner

from experiments import config
from experiments.metrics.certificate import bound, network, walks
from experiments.paper import contents, record, report
from experiments.paper.exact import densities, laws
from experiments.paper.questions.duality import line as duality
from experiments.paper.setting import Setting
from langevin_jax import mixtures, predictions, samplers, splitting
from langevin_jax.samplers import levels


def gaussian(var: float, mean: float = 0.0) -> mixtures.Mixture:
  return mixtures.Mixture(jnp.ones(1), jnp.array([[mean]]), jnp.array([[[var]]]))


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.4, 1.7])
def test_a_step_of_gaussian_data_has_the_law_of_its_recursion(budget, x64):
  """m(x) = a x + b D(x) is affine: mean and variance follow, and so does KL."""
  data, ell, ell_s = gaussian(0.5, 0.3), -0.4, 0.3
  x = laws.nodes(data)
  here, there = predictions.unit_frame(ell), predictions.unit_frame(ell_s)
  law = laws.step(laws.exact(data, ell, x), data, ell, ell_s, budget, x)
  a, b, c = splitting.weights(here.alpha, here.sigma, there.alpha, there.sigma, jnp.float64(budget))
  d_0, d_1 = (data.denoise(jnp.array([v]), here.alpha, here.sigma)[0] for v in (0.0, 1.0))
  slope, var = a + b * (d_1 - d_0), here.alpha**2 * 0.5 + here.sigma**2
  mean, var = slope * here.alpha * 0.3 + b * d_0, slope**2 * var + c**2
  total = lambda f: float(jnp.sum(law.weight * law.density * f))
  np.testing.assert_allclose(
      [total(1.0), total(law.x), total((law.x - mean) ** 2)], [1.0, mean, var], rtol=1e-7)
  wanted, centre = there.alpha**2 * 0.5 + there.sigma**2, there.alpha * 0.3
  kl = 0.5 * (wanted / var + (mean - centre) ** 2 / var - 1.0 - jnp.log(wanted / var))
  np.testing.assert_allclose(laws.kl(data, ell_s, law), kl, rtol=1e-5, atol=1e-11)


def test_the_forward_step_gives_the_noisier_law_exactly(x64):
  """STEP(−d, d) does not depend on D: the kernel of the forward process, without error."""
  data = densities.load("three_modes").line
  x = laws.nodes(data)
  law = laws.step(laws.exact(data, 1.0, x), data, 1.0, 0.6, 0.4, x)
  assert abs(laws.kl(data, 0.6, law)) < 1e-10


def test_noise_finer_than_the_nodes_and_densities_too_narrow_are_refused(x64):
  data = densities.load("three_modes").line
  x = laws.nodes(data)
  with pytest.raises(ValueError, match="finer than the nodes"):
    laws.step(laws.exact(data, 3.0, x), data, 3.0, 3.1, 1e-5, x)
  with pytest.raises(ValueError, match="too narrow"):
    laws.nodes(gaussian(1e-8))
  with pytest.raises(ValueError, match="take fewer steps"):
    laws.sampled(data, samplers.ddim(0.01), duality.PATHS["VE"], level("VE", 80, (20.0, 0.1)))


def level(name: str, n: int, ends: tuple[float, float]) -> levels.Level:
  return levels.place_levels(np.append(duality.grid(name, n, ends), 0.0), duality.PATHS[name])


def test_the_kl_of_step_is_that_of_the_specification(x64):
  """STEP at η = 1, ρ = 20 to .05, on the mixture of theory.md#exact-models, 40 steps: 6.3e-3.

  It does not name the grid; Karras' is a little worse than equal steps of ℓ, and it lies between.
  """
  mixture = mixtures.Mixture(
      jnp.array([0.35, 0.45, 0.2]), jnp.array([[-1.2], [0.4], [1.6]]),
      jnp.array([0.35, 0.25, 0.15])[:, None, None] ** 2)
  even, karras = (laws.sampled(mixture, samplers.ddim(1.0), duality.PATHS[name],
                               level(name, 40, (20.0, 0.05))).kl for name in ("geometric VE", "VE"))
  assert even[-1] < 6.3e-3 < karras[-1] < 1.5 * even[-1]
  assert abs(even[0]) < 1e-12 and abs(karras[0]) < 1e-12


@pytest.mark.parametrize(("scheme", "eta"), [("STEP", 1.5), ("own time", 0.0), ("own time", 0.5)])
def test_the_law_of_gaussian_data_is_that_of_its_recursion(scheme, eta, x64):
  """D is affine, so mean 0 stays and the variance follows v′ = (a + b D′)² v + c²."""
  var, path = 0.6, duality.PATHS["rectified flow"]
  data = gaussian(var)
  at = level("rectified flow", 40, (10.0, 0.2))
  numbers = duality.SCHEMES[scheme](eta).plan(at, path)
  law = at.alpha[0] ** 2 * var + at.sigma[0] ** 2
  for i in range(40):
    slope = at.alpha[i] * var / (at.alpha[i] ** 2 * var + at.sigma[i] ** 2)
    law = (numbers.a[i] + numbers.b[i, 0] * slope) ** 2 * law + numbers.c[i] ** 2
  ratio = (at.alpha[40] ** 2 * var + at.sigma[40] ** 2) / law
  found = laws.sampled(data, duality.SCHEMES[scheme](eta), path, at)
  np.testing.assert_allclose(found.kl[-1], 0.5 * (ratio - 1.0 - math.log(ratio)), rtol=1e-4)
  assert abs(found.outside) < 1e-7


def test_the_processes_differ_by_one_over_n(x64):
  """With the exact score the ledger's discretisation falls as 1/n (theory.md#likelihood)."""
  mmse = duality.mmse_of(densities.load("three_modes").line, (20.0, 0.1))
  kl = np.array([duality.process_kl(mmse, -np.log(duality.grid("VE", n, (20.0, 0.1))))
                 for n in (40, 80, 160)])
  assert np.all(kl > 0.0)
  np.testing.assert_allclose(np.log2(kl[:-1] / kl[1:]), 1.0, atol=0.15)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_correction_takes_off_no_more_than_there_is(share):
  """Of target = g + noise, 2 target·φ − ‖φ‖² is on average at most ‖g‖², and 0 where g is."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((8000, 2))
  g = share * np.stack([np.sin(2.0 * x[:, 0]), x[:, 1]], 1)
  target = g + rng.standard_normal(g.shape)
  features = np.concatenate([x, bound.random_waves(rng, x, 100)], 1)
  phi = bound.fitted(features, 2, target, np.arange(8000) % bound.FOLDS,
                           shared=np.ones((8000, 2, 1)))
  each = np.sum((2.0 * target - phi) * phi, 1) - np.sum(g**2, 1)
  error = each.std() / math.sqrt(len(each))
  assert each.mean() < 3.0 * error
  assert each.mean() + np.sum(g**2, 1).mean() >= 0.8 * np.sum(g**2, 1).mean() - 3.0 * error


def test_one_weight_for_all_entries_needs_few_examples():
  rng = np.random.default_rng(1)
  x = rng.standard_normal((160, 50))
  phi = bound.fitted(
      x, 50, 0.3 * x + rng.standard_normal(x.shape), np.arange(160) % bound.FOLDS,
      shared=x[:, :, None])
  np.testing.assert_allclose(np.sum(phi * x) / np.sum(x * x), 0.3, atol=0.1)
  assert np.abs(phi - x * np.sum(phi * x) / np.sum(x * x)).max() < 0.2


@pytest.mark.parametrize("n", [300, 12_000])
def test_sets_have_no_example_in_common(n):
  pairs = list(walks.sets(n, 750, np.random.default_rng(0)))
  assert len(pairs) == walks.REPEATS
  for ours, others in pairs:
    assert len(ours) == len(others) and not set(ours) & set(others)
  if n == 12_000:
    assert len(np.unique(np.concatenate([np.concatenate(p) for p in pairs]))) == n


def test_noised_twice_is_noised_once():
  rng = np.random.default_rng(0)
  x = np.full((40_000, 1), 0.7, np.float32)
  y = network.noisier(rng, network.noised(rng, x, 0.8), 0.8, -0.3)
  alpha, sigma = network.frame(-0.3)
  np.testing.assert_allclose([y.mean(), y.std()], [0.7 * alpha, sigma], atol=0.02)


def test_a_network_that_knows_nothing_breaks_duality_and_its_record_says_what_it_is(tmp_path):
  settings = config.load(str(runner.CONFIGS / "mixture2d.py"))
  settings = config.override(settings, dict(
      word.removeprefix("--config.").split("=") for word in runner.SMALL[1:]))
  workdir = runner.untrained(tmp_path / "run", settings)
  (workdir / "manifest.json").write_text(json.dumps({"steps": 1, "sha256": "a", "sha256_ema": "b"}))
  options = Setting(tmp_path / "report", fast=True, workdir=str(workdir))
  part = contents.PARTS["certificate"]
  found = record.measure(part, options)
  assert found["workdir"] == str(workdir) and f"--workdir={workdir}" in found["command"]
  assert record.describe_run(str(workdir)) == {
      "workdir": str(workdir), "step": 1, "parameters": "a", "averaged": "b"}
  assert len(found["data"]["sound"]["broken"]) and "hurt" not in found["data"]
  assert not part.claims(found["data"])
  assert "breaks duality" in report.template(part, found).answer
  assert record.draw(part, found, options.out) == ["levels"]
  assert (options.out / "figures" / "certificate-levels.png").stat().st_size > 10_000
