"""A run keeps the facts of its data: it is used without them, and says when they have changed."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import runner

import experiments
from experiments import config, data
from experiments.data import facts
from experiments.run import records

CLASSES = ("flags", "suns")


def pictures(folder: pathlib.Path, count: int = 12) -> pathlib.Path:
  """Grey pictures of two classes by sub-folder."""
  rng = np.random.default_rng(0)
  for name in CLASSES:
    (folder / name).mkdir(parents=True)
    for i in range(count):
      values = rng.integers(0, 256, (8, 8), np.uint8)
      PIL.Image.fromarray(values).save(folder / name / f"{i:02d}.png")
  return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(workdir, data folder) of an untrained run on pictures."""
  root = tmp_path_factory.mktemp("facts")
  folder = pictures(root / "pictures")
  settings = config.override(config.load("images"), {
      "data": f"images({str(folder)!r}, size=8, channels=1)", "training.label_dropout": 0.1,
      "network": "dit(width=16, depth=1, heads=2, patch_size=4)", "sampling.sampler": "ddim()",
      "sampling.grid": "karras(3)", "sampling.batch_size": 8})
  return runner.untrained(root / "run", settings), folder


def sampled(workdir, out, *options) -> np.ndarray:
  code, said, err = runner.call("sample", f"--workdir={workdir}", "--num_samples=6",
                                f"--out={out}", *options)
  assert code == 0, err
  return np.load(out), said


def test_samples_are_the_same_with_the_data_changed_and_gone(run, tmp_path):
  workdir, folder = run
  whole, said = sampled(workdir, tmp_path / "a.npy")
  assert "samples alone" not in said
  aside = tmp_path / "aside"
  shutil.copytree(folder, aside)
  try:
    for i in range(5):
      PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "flags" / f"black{i}.png")
    changed, said = sampled(workdir, tmp_path / "b.npy")
    assert "5 added" in said
    shutil.rmtree(folder)
    gone, said = sampled(workdir, tmp_path / "c.npy")
    assert "samples alone" in said
  finally:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(aside, folder)
  np.testing.assert_array_equal(whole, changed)
  np.testing.assert_array_equal(whole, gone)


@pytest.mark.parametrize(("change", "wanted"), [
    (lambda folder: (folder / "flags" / "00.png").unlink(), "1 removed (flags/00.png)"),
    (lambda folder: shutil.copy(folder / "suns" / "01.png", folder / "suns" / "new.png"),
     "1 added (suns/new.png)"),
    (lambda folder: shutil.copy(folder / "suns" / "01.png", folder / "flags" / "01.png"),
     "1 changed (flags/01.png)"),
    (lambda folder: (folder / "flags").rename(folder / "zebras"),
     "classes without flags and with zebras"),
    (lambda folder: shutil.copytree(folder / "suns", folder / "zebras"), "classes with zebras"),
])
def test_what_differs_is_said_where_it_would_be_wrong(run, change, wanted, tmp_path):
  workdir, folder = run
  aside = tmp_path / "aside"
  shutil.copytree(folder, aside)
  try:
    change(folder)
    for command in (("evaluate", f"--workdir={workdir}"),
                    ("sample", f"--workdir={workdir}", "--start=held_out", "--start_level=1",
                     f"--out={tmp_path / 'x.npy'}")):
      message = runner.refused(*command)
      assert wanted in message, message
    with pytest.raises(ValueError, match="not those that"):
      facts.claim(workdir, data.load(records.read_config(workdir).data))
  finally:
    shutil.rmtree(folder)
    shutil.copytree(aside, folder)


def test_a_class_is_asked_for_by_its_name(run, tmp_path):
  workdir, _ = run
  sampled(workdir, tmp_path / "a.npy", "--label=suns")
  np.testing.assert_array_equal(np.load(tmp_path / "a.labels.npy"), np.ones(6))
  assert json.loads((tmp_path / "a.json").read_text())["labels"] == "suns"
  assert "flags, suns, or none" in runner.refused("sample", f"--workdir={workdir}", "--label=moons")


def test_a_model_is_loaded_without_its_data(run, tmp_path):
  """Its denoiser is that of the network: at the data's units, for any α and σ."""
  workdir, folder = run
  away = tmp_path / "away"
  folder.rename(away)
  try:
    model = experiments.load(workdir)
  finally:
    away.rename(folder)
  assert model.classes == CLASSES and model.shape == (8, 8, 1)
  x = np.float32(np.random.default_rng(0).uniform(0.0, 255.0, (3, 8, 8, 1)))
  whole = model.denoise(x, alpha=1.0, sigma=40.0, condition=1)
  assert whole.shape == x.shape and np.isfinite(whole).all()
  # The same state on another scale.
  np.testing.assert_allclose(
      model.denoise(0.5 * x, alpha=0.5, sigma=20.0, condition=1), whole, rtol=1e-4, atol=1e-2)
  # An untrained velocity network says 0: of v = ε − x₀ = 0, D = x/(α + σ) in standard units.
  mean, scale = model.run.dataset.mean, model.run.dataset.scale
  exact = mean + (x - mean) / (1.0 + 40.0 / scale)
  np.testing.assert_allclose(whole, exact, rtol=1e-4, atol=1e-2)
  first = model.sample(jax.random.key(0), 4, condition=np.array([0, 1, 0, 1]), grid="karras(2)")
  assert first.shape == (4, 8, 8, 1)
  np.testing.assert_array_equal(
      first, model.sample(jax.random.key(0), 4, condition=[0, 1, 0, 1], grid="karras(2)"))
  for bad in (lambda: model.denoise(x[..., 0], alpha=1.0, sigma=1.0),
              lambda: model.denoise(x, alpha=-1.0, sigma=1.0),
              lambda: model.denoise(x, alpha=1.0, sigma=0.0),
              lambda: model.sample(jax.random.key(0), 2, condition=7),
              lambda: model.sample(jax.random.key(0), 2, condition=0.9),
              lambda: model.sample(jax.random.key(0), 2, grid="optimised(3)"),
              lambda: model.sample(jax.random.key(0), 2, sampler="hen")):
    with pytest.raises(ValueError):
      bad()


@pytest.mark.parametrize("scaling", ["one", "features", "whiten"])
def test_a_denoiser_is_that_of_the_data_in_their_own_units(tmp_path, scaling):
  """Of noise in proportion to the scales, a linear network has D = α C (α² C + τ² A Aᵀ)⁻¹ x."""
  x = np.random.default_rng(0).normal(size=(80, 2)) @ [[30.0, 0.4], [0.0, 0.2]] + [1000.0, 3.0]
  np.save(tmp_path / "x.npy", x)
  settings = config.override(config.load("arrays"), {
      "data": f"arrays({str(tmp_path / 'x.npy')!r})", "data.scaling": scaling,
      "objective.prediction": "x0()", "network": "mlp(width=8, depth=1)"})
  model = experiments.load(runner.untrained(tmp_path / "run", settings))
  # E[z₀] of unit Gaussian standard units: the exact answer for a network that is right for them.
  exact = lambda params, z, ell, labels: z * jnp.sqrt(jax.nn.sigmoid(2.0 * ell))
  model = dataclasses.replace(model, run=model.run._replace(apply=exact))
  mean, matrix = model.run.dataset.mean, model.scale * np.eye(2) if scaling != "whiten" else (
      model.scale)
  state = np.float32([[900.0, 2.0], [400.0, 9.0], [0.0, 0.0]])
  alpha, tau = 0.8, 0.5
  covariance = matrix @ matrix.T  # of the data whose standard units are N(0, I)
  gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + tau**2 * covariance)
  np.testing.assert_allclose(
      model.denoise(state, alpha=alpha, sigma=tau * model.scale),
      mean + (state - alpha * mean) @ gain.T, rtol=2e-4, atol=1e-2)
  wrong = [2.0, 1.0] if scaling == "features" else [[1.0, 0.0], [0.0, 1.0]]
  for sigma in (wrong, -model.scale, 0.0 * model.scale) + (() if scaling == "one" else (1.0,)):
    with pytest.raises(ValueError, match="sigma"):
      model.denoise(state, alpha=alpha, sigma=sigma)


def test_a_run_goes_on_in_the_units_that_it_has_recorded(run):
  """Another machine's mean may differ in its last digits; the batches of the run do not."""
  workdir, _ = run
  call = records.read_config(workdir).data
  file, before = workdir / facts.FILE, data.load(call)
  recorded = json.loads(file.read_text())
  moved = recorded | {"mean": recorded["mean"] * (1.0 + 1e-9)}
  file.write_text(json.dumps(moved))
  try:
    after = facts.load(workdir, call)
    assert after.mean == moved["mean"] != before.mean
    facts.check(workdir, after)
    np.testing.assert_array_equal(after.train, data.standardise(
        data.restore(before, before.train).round(), after.mean, after.scale))
    kept, why = facts.with_examples(workdir, call)
    assert not why
    np.testing.assert_array_equal(kept.train, after.train)
  finally:
    file.write_text(json.dumps(recorded))
  assert facts.load(workdir / "none", call).mean == before.mean


@pytest.mark.parametrize("name", ["mean", "scale", facts.MOMENTS])
def test_a_record_that_is_not_finite_is_damaged(tmp_path, name):
  x = np.random.default_rng(0).normal(size=(40, 2))
  facts.claim(tmp_path, data.load("arrays", path=str(save(tmp_path / "x.npy", x))))
  recorded = json.loads((tmp_path / facts.FILE).read_text())
  if name == facts.MOMENTS:
    save(tmp_path / name, np.full((2, 2), np.nan))
  else:
    (tmp_path / facts.FILE).write_text(json.dumps(recorded | {name: float("nan")}))
  with pytest.raises(ValueError, match=r"is damaged: .* not finite"):
    facts.read(tmp_path)


def test_facts_have_the_conditions(tmp_path):
  x = np.random.default_rng(0).normal(size=(40, 2))
  dataset = data.load("arrays", path=str(save(tmp_path / "x.npy", x)))._replace(
      conditions={"text": np.zeros((32, 5, 3), np.float32)})
  facts.claim(tmp_path, dataset)
  assert json.loads((tmp_path / facts.FILE).read_text())["conditions"] == {
      "text": [[5, 3], "float32"]}
  assert facts.read(tmp_path).conditions["text"].shape == (0, 5, 3)
  facts.check(tmp_path, dataset)
  with pytest.raises(ValueError, match=r"conditions text \(5, 3\) float32 → none"):
    facts.check(tmp_path, dataset._replace(conditions={}))


def save(file, x):
  np.save(file, x)
  return file


def test_units_that_have_changed_are_other_data(tmp_path):
  """Four times the values have the same standard units, and another scale."""
  x = np.random.default_rng(0).standard_normal((40, 2))
  np.save(tmp_path / "x.npy", x)
  settings = config.override(config.load("arrays"), {
      "data": f"arrays({str(tmp_path / 'x.npy')!r})", "network": "mlp(width=8, depth=1)"})
  workdir = runner.untrained(tmp_path / "run", settings)
  np.save(tmp_path / "x.npy", 4.0 * x)
  with pytest.raises(ValueError, match=r"training examples.*scale"):
    facts.claim(workdir, data.load(settings.data))
  with pytest.raises(ValueError, match=r"2 changed \(held-out examples, training examples\)$"):
    facts.claim(workdir, facts.load(workdir, settings.data))
  np.save(tmp_path / "x.npy", x[:, [0, 0, 1]])
  with pytest.raises(ValueError, match=r"training examples\); shape 2 → 3"):
    facts.claim(workdir, facts.load(workdir, settings.data))
