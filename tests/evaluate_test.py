"""Sampling and judging a trained run from the command line, and the exact numbers of a mixture."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
from runner import SMALL

from experiments import build, config, data, exact, runs
from langevin_jax import mixtures, paths


@pytest.fixture(scope="module")
def mixture_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("evaluate") / "run"
  code, _, err = runner.run("train", *SMALL, "--config.training.steps=300", f"--workdir={workdir}")
  assert code == 0, err
  return workdir


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("digits") / "run"
  code, _, err = runner.run(
      "train", f"--config={runner.CONFIGS / 'digits.py'}", "--config.network.width=32",
      "--config.network.depth=1", "--config.training.steps=20", "--config.training.batch_size=16",
      "--config.sampling.steps=4", "--config.sampling.batch_size=40", f"--workdir={workdir}")
  assert code == 0, err
  return workdir


def test_sample_along_another_path_by_another_method(mixture_run, tmp_path):
  out = tmp_path / "deep" / "samples.npy"
  code, stdout, err = runner.run(
      "sample", f"--workdir={mixture_run}", "--num_samples=150", "--path=vp", "--sampler=ddim",
      "--stochasticity=0.7", "--steps=8", f"--out={out}")
  assert code == 0, err
  x = np.load(out)
  assert x.shape == (150, 2) and np.isfinite(x).all()
  choice = json.loads(out.with_suffix(".json").read_text())
  assert choice["path"]["name"] == "vp" and choice["sampling"]["stochasticity"] == 0.7
  assert choice["sampling"]["steps"] == 8 and choice["step"] == 300
  assert out.with_suffix(".png").stat().st_size > 1000 and str(out) in stdout


def test_samples_do_not_depend_on_the_batch_they_ride_in(mixture_run):
  run, state = runs.trained(mixture_run)
  labels = runs.even_labels(run, 60)
  draws = [runs.draw(run, state.ema, config.Sampling(
      sampler="ddim", stochasticity=1.0, steps=5, batch_size=size), paths.ve(), labels, seed=3)
      for size in (60, 25)]
  np.testing.assert_allclose(*draws, rtol=0, atol=1e-5)
  # Same noise on another path: the same samples.
  other = runs.draw(run, state.ema, config.Sampling(
      sampler="ddim", stochasticity=1.0, steps=5), paths.rectified_flow(), labels, seed=3)
  np.testing.assert_allclose(draws[0], other, rtol=0, atol=2e-4)


def test_evaluate_a_mixture(mixture_run):
  code, out, err = runner.run("evaluate", f"--workdir={mixture_run}", "--num_samples=200")
  assert code == 0, err
  result = json.loads((mixture_run / "evaluation.json").read_text())
  names = list(result["metrics"])
  for start in ("sliced W2", "MMD", "energy distance", "C2ST", "KL(data‖model)",
                "KL(data‖samples)", "score error"):
    assert any(name.startswith(start) for name in names), names
    assert start in out
  assert result["num_samples"] == 200 and result["num_held_out"] == 200


def test_evaluate_digits(digits_run):
  code, _, err = runner.run("evaluate", f"--workdir={digits_run}", "--num_samples=200",
                              "--path=ve", timeout=400)
  assert code == 0, err
  metrics = json.loads((digits_run / "evaluation.json").read_text())["metrics"]
  for start in ("FID", "KID", "precision", "recall", "density", "coverage", "C2ST",
                "label agreement", "distance to the nearest training"):
    name = next(name for name in metrics if name.startswith(start))
    assert np.isfinite(metrics[name]["value"]) and metrics[name]["floor"] is not None
  agreement = next(v for k, v in metrics.items() if k.startswith("label agreement"))
  assert agreement["floor"] >= 0.96  # the classifier that judges can tell digits
  assert agreement["value"] < 0.5  # and an untrained model does not pass


def test_sample_digits_of_one_class(digits_run):
  code, _, err = runner.run("sample", f"--workdir={digits_run}", "--num_samples=30", "--label=3")
  assert code == 0, err
  x, labels = np.load(digits_run / "samples.npy"), np.load(digits_run / "samples.labels.npy")
  assert x.shape == (30, 8, 8, 1) and set(labels) == {3}
  assert x.min() >= 0.0 and x.max() <= 16.0
  for name in ("samples.png", "trajectories.png", "loss.png", "loss_by_level.png"):
    assert (digits_run / name).stat().st_size > 1000


def test_kl_by_quadrature_of_known_laws():
  """The exact model has KL 0; a model of another Gaussian has the closed form of two Gaussians."""
  path, rho = paths.ve(), 0.01
  truth = mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
  other = mixtures.Mixture(
      jnp.ones(1), jnp.array([[0.3, 0.0]]), jnp.diag(jnp.array([1.0, 1.5]))[None])
  kl, mass = exact.kl_by_quadrature(
      truth, mixtures.denoiser(truth, path), path, rho_min=rho, points=48)
  assert abs(kl) < 2e-3 and abs(mass - 1.0) < 2e-3
  kl, mass = exact.kl_by_quadrature(
      truth, mixtures.denoiser(other, path), path, rho_min=rho, points=48)
  closed = 0.5 * (1.0 + 1.0 / 1.5 - 2.0 + 0.09 + np.log(1.5))
  assert abs(kl - closed) < 4e-3 and abs(mass - 1.0) < 2e-3


def test_histogram_kl_of_the_law_itself_is_its_floor():
  dataset = data.load("mixture2d", train_size=1000, test_size=1000)
  truth = exact.mixture(dataset)
  draw = lambda seed: np.asarray(truth.sample(jax.random.key(seed), 5000))
  value, floor = exact.kl_to_samples(truth, draw(1), draw(2))
  assert abs(value - floor) < 0.03 and 0.0 < floor < 0.15
  shifted, _ = exact.kl_to_samples(truth, draw(1) + np.float32([0.3, 0.0]), draw(2))
  assert shifted > value + 0.2
  # Half of the samples far outside of every bin: at least log 2.
  x = draw(1).copy()
  x[:2500] += 100.0
  assert exact.kl_to_samples(truth, x, draw(2))[0] > value + 0.6


def test_every_shipped_config_builds(tmp_path):
  rng = np.random.default_rng(0)
  np.save(tmp_path / "x.npy", rng.normal(size=(20, 3)))
  (tmp_path / "pictures").mkdir()
  from PIL import Image
  for i in range(10):
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(
        tmp_path / "pictures" / f"{i}.png")
  given = {"arrays": {"data.path": str(tmp_path / "x.npy")},
           "images": {"data.path": str(tmp_path / "pictures")}}
  for file in sorted(pathlib.Path(runner.CONFIGS).glob("[a-z]*.py")):
    settings = config.override(config.load(str(file)), given.get(file.stem, {}))
    build.network(settings.network, (3,) if settings.network.name == "mlp" else (32, 32, 3), 0)
    assert config.from_json(config.to_json(settings)) == settings
    if file.stem != "fashion_mnist":
      runs.prepare(settings)
