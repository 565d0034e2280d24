"""Sampling and judging a trained run from the command line, and the exact numbers of a mixture."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
from runner import SMALL

from experiments import config, data
from experiments.config import build, calls
from experiments.data import comparison, sources
from experiments.metrics import classifier, comparisons, likelihoods, mixture_metrics, samples
from experiments.run import assembly, meshes, records
from experiments.sampling import drawing, pictures, resumable_npy
from langevin_jax import mixtures, paths, predictions


@pytest.fixture(scope="module")
def mixture_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("evaluate") / "run"
  runner.succeed("train", *SMALL, "--config.training.steps=300", f"--workdir={workdir}")
  return workdir


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("digits") / "run"
  runner.succeed(
      "train", f"--config={runner.CONFIGS / 'digits.py'}", "--config.network.width=32",
      "--config.network.depth=1", "--config.training.steps=20", "--config.training.batch_size=16",
      "--config.sampling.grid.n=4", "--config.sampling.batch_size=40", f"--workdir={workdir}",
      pictures=True)
  return workdir


def test_sample_along_another_path_by_another_method(mixture_run, tmp_path):
  out = tmp_path / "deep" / "samples.npy"
  stdout = runner.succeed(
      "sample", f"--workdir={mixture_run}", "--num_samples=150", "--path=vp", "--sampler=ddim",
      "--stochasticity=0.7", "--steps=8", f"--out={out}", pictures=True)
  x = np.load(out)
  assert x.shape == (150, 2) and np.isfinite(x).all()
  choice = json.loads(out.with_suffix(".json").read_text())
  assert choice["path"]["call"] == "vp" and choice["sampling"]["sampler"]["stochasticity"] == 0.7
  assert choice["sampling"]["grid"]["n"] == 8 and choice["step"] == 300
  assert out.with_suffix(".png").stat().st_size > 1000 and str(out) in stdout


def test_samples_do_not_depend_on_the_batch_they_ride_in(mixture_run):
  run, state = assembly.trained(mixture_run)
  labels = assembly.even_labels(run, 60)
  draws = [drawing.draw(run, state.ema[0], config.Sampling(
      sampler="ddim(1)", grid="karras(5)", batch_size=size), paths.ve(), labels, seed=3)
      for size in (60, 25)]
  np.testing.assert_allclose(*draws, rtol=0, atol=1e-5)
  # Same noise on another path: the same samples.
  other = drawing.draw(run, state.ema[0], config.Sampling(
      sampler="ddim(1)", grid="karras(5)"), paths.rectified_flow(), labels, seed=3)
  np.testing.assert_allclose(draws[0], other, rtol=0, atol=2e-4)


def test_evaluate_a_mixture(mixture_run, tmp_path):
  out = runner.succeed(
      "evaluate", f"--workdir={mixture_run}", "--num_samples=200", "--likelihood",
      f"--out={tmp_path / 'deep' / 'one.json'}")
  result = json.loads((tmp_path / "deep" / "one.json").read_text())
  assert not (mixture_run / "evaluation.json").exists()
  metrics = result["metrics"]
  for key in ("sliced_w2", "mmd", "energy_distance", "c2st", "kl", "kl_samples", "score_error"):
    assert metrics[key]["label"] in out and np.isfinite(metrics[key]["value"])
  assert result["num_samples"] == 200 and result["num_held_out"] == 200
  keys = samples.keys(assembly.prepare(records.read_config(mixture_run)).dataset, "mixture2d")
  assert tuple(metrics)[:len(keys)] == keys

  # Held-out points say of the same flow what the quadrature does, within their own error.
  kl = metrics["kl_held_out"]
  assert abs(kl["value"] - metrics["kl"]["value"]) < 4.0 * kl["error"] < 0.5
  nats, bits = metrics["nll_nats"], metrics["nll_bits_per_dim"]
  np.testing.assert_allclose(bits["value"], nats["value"] / (2.0 * np.log(2.0)), rtol=1e-12)
  assert result["likelihood"]["n"] == 200 and result["likelihood"]["divergence"] == "exact"


def test_a_killed_evaluation_goes_on_with_its_samples(mixture_run, tmp_path, monkeypatch):
  command = ("evaluate", f"--workdir={mixture_run}", "--num_samples=250")
  runner.succeed(*command, f"--out={tmp_path / 'whole.json'}")
  out = tmp_path / "killed.json"
  with monkeypatch.context() as patch:  # after the first 100
    patch.setattr(resumable_npy.Stream, "write", runner.after(1, resumable_npy.Stream.write))
    with pytest.raises(runner.Killed):
      runner.call(*command, f"--out={out}")
  with monkeypatch.context() as patch:
    patch.setattr(samples, "rows", runner.killed)
    with pytest.raises(runner.Killed):
      runner.call(*command, f"--out={out}")
  with monkeypatch.context() as patch:  # nothing is drawn again
    patch.setattr(drawing, "batches", runner.killed)
    assert "at sample 250 of 250" in runner.succeed(*command, f"--out={out}")
  whole, killed = (json.loads((tmp_path / f"{name}.json").read_text())
                   for name in ("whole", "killed"))
  assert killed == whole
  assert {file.name for file in tmp_path.iterdir()} == {"whole.json", "killed.json"}
  with monkeypatch.context() as patch:  # another command begins anew
    patch.setattr(resumable_npy.Stream, "write", runner.after(1, resumable_npy.Stream.write))
    with pytest.raises(runner.Killed):
      runner.call(*command, "--steps=7", f"--out={out}")
  said = runner.succeed(*command, f"--out={out}")
  assert "anew, without 100 samples of another command: sampling.grid.n: 7 → 6" in said
  assert json.loads(out.read_text()) == whole
  (tmp_path / "killed.samples.npy").write_text("mine")
  assert "would replace" in runner.refused(*command, f"--out={out}")


def test_samples_of_images_are_judged_a_part_at_a_time(digits_run, monkeypatch):
  """On disk, as they are; what a part is changes nothing."""
  run = assembly.prepare(records.read_config(digits_run))
  x = data.restore(run.dataset, run.dataset.train[:300])
  labels, model = run.dataset.train_labels[:300], classifier.train(
      run.dataset.train, run.dataset.train_labels, num_classes=10, seed=0, steps=20)
  monkeypatch.setattr(classifier, "train", lambda *arguments, **options: model)
  call = calls.make("pixels", "extractor", "--extractor")
  judged = lambda: comparisons.images(
      run.dataset, data.InStandardUnits(run.dataset, x), labels, 0, comparisons.Choice(call))
  whole, read = judged(), []
  convert = comparison.in_standard_units
  monkeypatch.setattr(comparison, "in_standard_units", lambda dataset, x: (
      read.append(len(x)), convert(dataset, x))[1])
  monkeypatch.setattr(comparisons, "_PART", 64 * 70)
  assert judged() == whole
  # C2ST and the nearest image are of pixels; the rest reads 70 at a time.
  assert sorted(read)[:-2] == sorted([1] * 2 + [70] * 8 + [20] * 2)


@pytest.mark.parametrize("scaling", ["", "whiten"])
def test_likelihood_of_the_exact_model_is_the_entropy(scaling, monkeypatch):
  """With the law's own score the flow and the bound both give −log p, in the data's own units."""
  stretched = data.gaussian_mixture_2d()
  if scaling:
    # A second feature of a hundredth of the first's scale, and correlated with it.
    by = np.array([[1.0, 0.0], [0.005, 0.01]])
    weights, means, covariances = stretched
    stretched = weights, means @ by.T, by @ covariances @ by.T
    monkeypatch.setattr(data, "gaussian_mixture_2d", lambda: stretched)
    monkeypatch.setattr(sources.toy_data, "gaussian_mixture_2d", lambda: stretched)
  settings = config.override(config.load(str(runner.CONFIGS / "mixture2d.py")), {
      "data.train_size": 2000, "data.test_size": 600, "data.scaling": scaling})
  run = assembly.prepare(settings)
  truth = mixture_metrics.mixture(run.dataset)
  monkeypatch.setattr(drawing, "denoiser", lambda run, params, path, labels: mixtures.denoiser(
      truth, path))
  table, _ = likelihoods.rows(
      run, (), settings.sampling, paths.vp(), likelihoods.Settings(0, "", 32), lambda done: None)
  found = {row.key: row for row in table}

  # The same points blurred by ρ_min: no sampling error is left, only RK4's, 2e-3 at 32 steps.
  assert abs(found["kl_held_out"].value) < 2e-3
  for key in ("nll_nats", "nll_bound_nats"):
    assert abs(found[key].value - found[key].floor) < 4.0 * found[key].error < 0.2
  # Entropy in the user's units, against draws from the law itself.
  weights, means, covariances = stretched
  law = mixtures.Mixture(*(jnp.asarray(a, jnp.float32) for a in (weights, means, covariances)))
  log_p = np.asarray(law.log_prob(law.sample(jax.random.key(0), 20_000), 1.0, 0.0))
  assert abs(found["nll_nats"].floor + log_p.mean()) < 4.0 * log_p.std() / np.sqrt(20_000)


def test_likelihood_of_grey_levels_bounds_their_probability(digits_run, monkeypatch):
  """A model that knows of digits that they are N(0, I): every bound is known, to a quadrature."""
  run = assembly.prepare(records.read_config(digits_run))
  alpha = lambda ell: jnp.sqrt(jax.nn.sigmoid(2.0 * ell))
  monkeypatch.setattr(drawing, "denoiser", lambda run, params, path, labels: predictions.Denoiser(
      lambda x, ell: alpha(ell) * x, path))
  table, facts = likelihoods.rows(
      run, (), run.config.sampling, run.path, likelihoods.Settings(64, "", 64), lambda done: None)
  assert facts["divergence"] == "hutchinson" and facts["n"] == 64 and facts["discrete"]
  found = {row.key: row for row in table}
  x, s = run.dataset.test[:64].astype(np.float64), float(run.dataset.scale)

  # Even over cells of width 1/s: E_u −log q(y) = Σ ½(x² + 1/12s²)/v + ½ log 2πv + log s.
  v = 1.0 + run.config.sampling.grid["rho_min"] ** 2
  closed = np.mean(np.sum(0.5 * (x**2 + 1.0 / (12.0 * s**2)) / v, axis=(1, 2, 3))) + 64 * (
      0.5 * np.log(2.0 * np.pi * v) + np.log(s))
  # What is left of u in a mean of 64: Σ x u/s has variance Σ x²/12s².
  spread = np.sqrt(np.sum(x**2) / (12.0 * s**2)) / 64
  assert abs(found["nll_even_nats"].value - closed) < 4.0 * spread < 0.5

  # Noise of r = 1/4s: E −log q(z) = ½(x² + r²)/v + ½ log 2πv; E −log P(x | z), of a level by
  # quadrature over ξ; and the entropy of z given x, ½ log 2πe r².
  rho = 0.25 / s
  v = 1.0 + rho**2
  nodes, weights = np.polynomial.hermite_e.hermegauss(60)
  grey = (np.arange(17.0) - float(run.dataset.mean)) / s
  gaps = (grey[:, None, None] + rho * nodes[None, :, None] - grey) ** 2 / (2.0 * rho**2)
  read = np.sum(weights / weights.sum() * (
      0.5 * nodes**2 + np.log(np.sum(np.exp(-gaps), axis=2))), axis=1)
  levels = np.round(data.restore(run.dataset, x)).astype(int)
  closed = np.mean(np.sum(0.5 * (x**2 + rho**2) / v + 0.5 * np.log(2.0 * np.pi * v) + read[levels]
                          - 0.5 * np.log(2.0 * np.pi * np.e * rho**2), axis=(1, 2, 3)))
  for key in ("nll_noise", "nll_bound"):
    row = found[f"{key}_nats"]
    # Of the ODE ½ ‖ξ‖² is left, of variance d/2 in each of 64; a mistake in r would be many nats.
    assert abs(row.value - closed) < 4.0 * (
        np.sqrt(32.0 / 64.0) if key == "nll_noise" else row.error)
    bits = found[f"{key}_bits_per_dim"].value
    np.testing.assert_allclose(bits, row.value / (64 * np.log(2.0)), rtol=1e-12)


def test_an_exact_divergence_that_does_not_fit_is_refused(digits_run, monkeypatch):
  run, state = assembly.trained(digits_run)
  monkeypatch.setattr(likelihoods.likelihood.flow, "TANGENT_LIMIT_BYTES", 1000)
  with pytest.raises(ValueError, match=r"exact divergence of x of shape .* 64 dimensions"):
    likelihoods.rows(run, state.ema[0], run.config.sampling, run.path,
                     likelihoods.Settings(4, "exact", 8), lambda done: None)


@pytest.mark.parametrize(("arguments", "wanted"), [
    ("--divergence=exact", "--divergence belongs to --likelihood"),
    ("--likelihood --divergence=trace", "--divergence must be exact or hutchinson, got 'trace'"),
    ("--likelihood --likelihood_steps=0", "likelihood_steps: must be at least 1"),
    ("--likelihood --likelihood_samples=1", "likelihood_samples: must be at least 2"),
    ("--likelihood --guidance=2", "--likelihood is of the model itself"),
    ("--likelihood --clip", "--likelihood is of the model itself, not of a clipped one"),
    ("--clip", "--clip is for images with a range of values"),
    ("--out=x.txt", "--out must end in .json"),
    ("--sampler=unipc --sampler.order=3 --steps=2", "needs a grid of at least 3 steps"),
])
def test_evaluate_says_one_line(arguments, wanted, mixture_run):
  assert wanted in runner.refused("evaluate", f"--workdir={mixture_run}", *arguments.split())


def test_evaluate_digits(digits_run, monkeypatch):
  # 400 of 1,000 steps: `classifier_test` has what that many learn.
  monkeypatch.setattr(classifier, "train", functools.partial(classifier.train, steps=400))
  runner.succeed("evaluate", f"--workdir={digits_run}", "--num_samples=200",
                 "--path=ve")
  made = json.loads((digits_run / "evaluation.json").read_text())
  metrics = made["metrics"]
  assert made["extractor"] == {"call": "classifier"} and made["seed"] == 0
  for key in ("fid", "kid", "precision", "recall", "density", "coverage", "c2st",
              "label_agreement", "nearest_train", "nearest_train_part"):
    assert np.isfinite(metrics[key]["value"]) and metrics[key]["floor"] is not None
  dataset = assembly.prepare(records.read_config(digits_run)).dataset
  assert tuple(metrics) == samples.keys(dataset, "digits")
  agreement = metrics["label_agreement"]
  assert agreement["floor"] >= 0.96  # the classifier that judges can tell digits
  assert agreement["value"] < 0.5  # and an untrained model does not pass


def test_predictions_are_clipped_to_the_range_of_the_images(digits_run):
  """Every D of a network that exaggerates, and not the samples at the end alone."""
  run, state = assembly.trained(digits_run)
  wild = run._replace(apply=lambda params, x, ell, labels: -5.0 * x)  # a velocity ε − x₀
  labels = assembly.even_labels(run, 20)
  draw = lambda **fields: drawing.trajectory(
      wild, state.ema[0], config.Sampling(grid="karras(5)", **fields), run.path, labels, seed=0)
  grey = lambda trajectory: data.restore(run.dataset, np.asarray(trajectory.denoised))
  assert grey(draw()).max() > 20.0 and grey(draw()).min() < -4.0
  found = grey(draw(clip=True))
  np.testing.assert_allclose([found.min(), found.max()], [0.0, 16.0], atol=1e-4)


def test_sample_digits_of_one_class(digits_run):
  runner.succeed("sample", f"--workdir={digits_run}", "--num_samples=30", "--label=3",
                 pictures=True)
  x, labels = np.load(digits_run / "samples.npy"), np.load(digits_run / "samples.labels.npy")
  assert x.shape == (30, 8, 8, 1) and set(labels) == {3}
  assert x.min() >= 0.0 and x.max() <= 16.0
  assert json.loads((digits_run / "samples.json").read_text())["version"]
  for name in ("samples.png", "trajectories.png", "loss.png", "loss_by_level.png"):
    assert (digits_run / name).stat().st_size > 1000


def test_a_sheet_shows_all_images_in_rows_by_class():
  labels = np.array([2, 0, 1] * 30)
  # Of 30 of each class 8 to a row, the class named at its first row.
  rows = pictures.layout(labels, [0, 1, 2], [30, 30, 30], 90, 8)
  assert [label for label, _ in rows] == [0, None, None, None, 1, None, None, None, 2] + [None] * 3
  assert [len(index) for _, index in rows] == [8, 8, 8, 6] * 3
  assert all(np.all(labels[index] == i // 4) for i, (_, index) in enumerate(rows))
  assert len(np.unique(np.concatenate([index for _, index in rows]))) == 90
  # Real images beside 12 samples of one class; without labels; of a class that has none.
  assert [len(index) for _, index in pictures.layout(labels, [2], [12], 90, 8)] == [8, 4]
  rows = pictures.layout(np.zeros(0, int), [None], [20], 20, 8)
  assert [(label, len(index)) for label, index in rows] == [(None, 8), (None, 8), (None, 4)]
  assert [len(index) for _, index in pictures.layout(labels, [5], [9], 90, 8)] == [0]


@pytest.mark.parametrize(("kind", "n", "says"), [
    ("image", 10, "data.path: .* needs 12 of them; config.data=arrays has 10"),
    ("vector", 20, "data.holdout, or data.test_size: .* has 16 and 4"),
    ("sequence", 20, "data.holdout, or data.test_size: .* has 16 and 4")])
def test_too_few_real_examples_are_said_before_samples_are_drawn(tmp_path, kind, n, says):
  shape = {"image": (8, 8, 1), "vector": (3,), "sequence": (4, 2)}[kind]
  np.save(tmp_path / "x.npy", np.random.default_rng(0).random((n, *shape)))
  dataset = data.load("arrays", path=str(tmp_path / "x.npy"), kind=kind)
  with pytest.raises(ValueError, match=f"^{says}$"):
    comparisons.check_sizes(dataset, "arrays")
  np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, *shape)))
  comparisons.check_sizes(data.load("arrays", path=str(tmp_path / "x.npy"), kind=kind), "arrays")


def test_pixels_without_labels_are_named_and_bounded(tmp_path, monkeypatch):
  x = np.random.default_rng(0).random((60, 9, 8, 1))
  np.save(tmp_path / "x.npy", x)
  dataset = data.load("arrays", path=str(tmp_path / "x.npy"), kind="image")
  monkeypatch.setattr(comparisons, "_PIXELS", 20 * 72)
  monkeypatch.setattr(comparisons, "_MOST_FRECHET", 10)
  rows = {row.key: row for row in comparisons.images(dataset, dataset.test, None, 0)}
  assert {"fd_pixels", "kd_pixels", "precision_pixels", "coverage_pixels"} <= set(rows)
  assert not {"fid", "kid"} & set(rows) and rows["fd_pixels"].n == 10
  assert tuple(rows) == samples.keys(dataset, "arrays")
  assert rows["c2st"].n == 12 and "floor of 12 each" in rows["c2st"].label
  assert rows["fd_pixels"].label == "Fréchet distance, pixels, to 10 real"


MINE = '''
import numpy as np


def extractor(*, bins: int = 4):
  def features(x):
    assert x.shape[1:] == (8, 8, 1) and np.all(x % 1 == 0) and x.max() == 16, "no grey levels"
    return np.stack([np.histogram(image, bins, (0, 17))[0] for image in x])
  return features


def torn():
  return lambda x: x[:2].reshape(2, -1)


def gap(x, y, *, power: float = 1.0) -> float:
  return np.abs(x.mean() - y.mean()) ** power
'''


def test_an_extractor_and_metrics_of_ones_own(digits_run, tmp_path, monkeypatch):
  """They see grey levels and features, and have rows; faults are found before samples are drawn."""
  (tmp_path / "my_metrics.py").write_text(MINE)
  monkeypatch.syspath_prepend(str(tmp_path))
  out = tmp_path / "e.json"
  monkeypatch.setattr(classifier, "train", functools.partial(classifier.train, steps=2))
  runner.succeed("evaluate", f"--workdir={digits_run}", "--num_samples=40", f"--out={out}",
                 "--extractor=my_metrics:extractor(bins=5)", "--metric=kid(subsets=3)",
                 "--metric=my_metrics:gap(power=2)")
  made = json.loads(out.read_text())
  assert made["extractor"] == {"call": "my_metrics:extractor", "bins": 5}
  metrics = made["metrics"]
  assert metrics["fid"]["label"] == "Fréchet distance, my_metrics:extractor, to 40 real"
  assert metrics["coverage"]["label"] == "coverage, my_metrics:extractor, to 40 real"
  assert metrics["fid"]["floor"] >= 0.0
  # Five counts of 64 pixels have the same mean whatever the image.
  assert metrics["my_metrics:gap(power=2)"]["value"] < 1e-20
  assert metrics["kid(subsets=3)"]["label"] == "kid(subsets=3), my_metrics:extractor, to 40 real"
  monkeypatch.setattr(drawing, "batches", lambda *_, **__: pytest.fail("samples were drawn"))
  for argument, says in (
      ("--extractor=my_metrics:torn", "must map (6, 8, 8, 1) to finite features (6, d)"),
      ("--extractor=my_metrics:gap", "my_metrics:gap(x, y, power=1.0) needs x"),
      ("--extractor=clasifier", "no extractor 'clasifier' (did you mean classifier?)"),
      ("--metric=my_metrics:torn", "it must return a Real, got <function"),
      ("--metric=kid(subset=3)", "--metric.subset: kid has no argument 'subset' (did you mean")):
    assert says in runner.refused("evaluate", f"--workdir={digits_run}", argument)


def test_kl_by_quadrature_of_known_laws():
  """The exact model has KL 0; a model of another Gaussian has the closed form of two Gaussians."""
  path, rho = paths.ve(), 0.01
  truth = mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
  other = mixtures.Mixture(
      jnp.ones(1), jnp.array([[0.3, 0.0]]), jnp.diag(jnp.array([1.0, 1.5]))[None])
  kl, mass = mixture_metrics.kl_by_quadrature(
      truth, mixtures.denoiser(truth, path), path, rho_min=rho, points=48)
  assert abs(kl) < 2e-3 and abs(mass - 1.0) < 2e-3
  kl, mass = mixture_metrics.kl_by_quadrature(
      truth, mixtures.denoiser(other, path), path, rho_min=rho, points=48)
  closed = 0.5 * (1.0 + 1.0 / 1.5 - 2.0 + 0.09 + np.log(1.5))
  assert abs(kl - closed) < 4e-3 and abs(mass - 1.0) < 2e-3


def test_histogram_kl_of_the_law_itself_is_its_floor():
  dataset = data.load("mixture2d", train_size=1000, test_size=1000)
  truth = mixture_metrics.mixture(dataset)
  draw = lambda seed: np.asarray(truth.sample(jax.random.key(seed), 5000))
  value, floor = mixture_metrics.kl_to_samples(truth, draw(1), draw(2))
  assert abs(value - floor) < 0.03 and 0.0 < floor < 0.15
  shifted, _ = mixture_metrics.kl_to_samples(truth, draw(1) + np.float32([0.3, 0.0]), draw(2))
  assert shifted > value + 0.2
  # Half of the samples far outside of every bin: at least log 2.
  x = draw(1).copy()
  x[:2500] += 100.0
  assert mixture_metrics.kl_to_samples(truth, x, draw(2))[0] > value + 0.6


@pytest.mark.parametrize(("call", "kernel"), [
    ("mlp(width=8, depth=1)", (24, 8)), ("dit(width=8, depth=1, heads=2, patch_size=3)", (12, 8)),
    ("unet(channels=8, multipliers=(1, 2), blocks=1, attention=(), groups=4)", (3, 4, 8))])
def test_a_sequence_is_seen_by_every_network(call, kernel):
  """All numbers at once, a token for every three of six steps of four features, or three steps."""
  init, apply = build.network(config.Config(network=call).network, (6, 4), 0)
  params = jax.eval_shape(init, jax.random.key(0))
  assert kernel in {leaf.shape for leaf in jax.tree.leaves(params)}
  x = jax.ShapeDtypeStruct((5, 6, 4), jnp.float32)
  assert jax.eval_shape(apply, params, x, jnp.zeros(5), jnp.zeros(5, jnp.int32)).shape == x.shape
  with pytest.raises(ValueError, match=r"^config.network=.*must divide all sides, 7; got 3"):
    build.network(config.Config(network="dit(patch_size=3)").network, (7, 4), 0)
  with pytest.raises(ValueError, match=r"^config.network=.*multiples of 8, got 12; take fewer"):
    build.network(config.Config(network="unet()").network, (12, 4), 0)


def test_every_shipped_config_builds(tmp_path):
  rng = np.random.default_rng(0)
  np.save(tmp_path / "x.npy", rng.normal(size=(20, 3)))
  (tmp_path / "pictures").mkdir()
  from PIL import Image
  for i in range(10):
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(
        tmp_path / "pictures" / f"{i}.png")
  given = {"arrays": {"data.path": str(tmp_path / "x.npy")},
           "images": {"data.path": str(tmp_path / "pictures")},
           "autoencoder": {"data.path": str(tmp_path / "pictures")},
           "latents": {"data.shape": (16, 16, 4)}}
  for file in sorted(pathlib.Path(runner.CONFIGS).glob("[a-z]*.py")):
    settings = config.override(config.load(str(file)), given.get(file.stem, {}))
    build.network(settings.network, (3,) if settings.network.name == "mlp" else (32, 32, 3), 0)
    assert config.from_json(config.to_json(settings)) == settings
    if settings.data.name == "array_record":
      # A config for a pod: its data are elsewhere, and its mesh is of other devices.
      one = meshes.make(config.Mesh())
      assert assembly.assemble(settings, *data.shape_of(settings.data)[:2], one).mesh.size == 1
    elif file.stem not in ("cifar10", "emoji", "fashion_mnist"):
      assembly.prepare(settings)
