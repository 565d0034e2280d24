"""Inpainting from the command line: what is known comes from files or from held-out data."""

import json

import numpy as np
import pytest
import runner
from PIL import Image

from experiments import config, data
from experiments.data import readers
from experiments.metrics import classifier
from experiments.run import assembly, records
from experiments.sampling import drawing, inpaint
from langevin_jax import inpainting


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  settings = config.override(config.load(str(runner.CONFIGS / "digits.py")), {
      "network.width": 16, "network.depth": 1, "network.patch_size": 4, "sampling.grid.n": 3,
      "sampling.sampler": "ddim", "sampling.batch_size": 20})
  return runner.untrained(tmp_path_factory.mktemp("inpaint") / "run", settings)


@pytest.fixture(scope="module")
def run(workdir):
  return assembly.prepare(records.read_config(workdir))


def sample(workdir, out, *arguments, pictures=False):
  runner.succeed("sample", f"--workdir={workdir}", f"--out={out}", *arguments, pictures=pictures)
  return np.load(out), json.loads(out.with_suffix(".json").read_text())


def test_held_out_halves_keep_what_is_known_and_have_the_labels_of_the_real_ones(
    workdir, run, tmp_path):
  x, made = sample(workdir, tmp_path / "x.npy", "--known=held_out", "--mask=left",
                   "--inpainting.inner_steps=2", "--num_samples=30", "--stochasticity=1",
                   pictures=True)
  real = data.restore(run.dataset, run.dataset.test[:30])
  np.testing.assert_array_equal(x[:, :, :4], np.round(real[:, :, :4]))
  assert np.mean(x[:, :, 4:] != np.round(real[:, :, 4:])) > 0.3
  assert x.min() >= 0.0 and x.max() <= 16.0 and not np.any(np.mod(x, 1.0))
  labels = np.load(tmp_path / "x.labels.npy")
  np.testing.assert_array_equal(labels, run.dataset.test_labels[:30])
  assert made["inpainting"]["call"] == "lanpaint" and made["inpainting"]["inner_steps"] == 2
  assert made["labels"] == "held out" and made["network_calls"] == 3 * (2 + 1)
  assert (tmp_path / "x.png").stat().st_size > 1000


def test_files_of_one_example_or_many_as_arrays_or_pictures(workdir, run, tmp_path):
  """The same example and mask by every way of giving them."""
  known = np.round(data.restore(run.dataset, run.dataset.test[0]))
  mask = np.zeros((8, 8), bool)
  mask[2:6, 1:7] = True
  np.save(tmp_path / "one.npy", known)
  np.save(tmp_path / "grey.npy", known[..., 0].astype(np.uint8))
  np.save(tmp_path / "many.npy", np.stack([known] * 4))
  # What is not known need not be a number.
  np.save(tmp_path / "holes.npy", np.where(mask[..., None], known, np.nan))
  np.save(tmp_path / "mask.npy", mask)
  np.save(tmp_path / "masks.npy", np.stack([mask] * 4)[..., None].astype(np.int64))
  Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
  Image.fromarray(known[..., 0].astype(np.uint8)).save(tmp_path / "one.png")
  def read(known_file, mask_file):
    with runner.parsed("sample", f"--known={tmp_path / known_file}",
                       f"--mask={tmp_path / mask_file}"):
      return inpaint.read_known(run, inpainting.ddnm())

  for names in (("one.npy", "mask.npy"), ("many.npy", "masks.npy"), ("holes.npy", "mask.png"),
                ("one.png", "masks.npy"), ("grey.npy", "mask.npy")):
    given = read(*names)
    for i in range(4):
      values, there = given.values[i % len(given.values)], given.mask[i % len(given.mask)][..., 0]
      np.testing.assert_array_equal(there, mask)
      np.testing.assert_allclose(values[mask], run.dataset.test[0][mask], atol=1e-6)
      assert np.isfinite(values).all()

  x, _ = sample(workdir, tmp_path / "x.npy", f"--known={tmp_path / 'one.npy'}",
                f"--mask={tmp_path / 'mask.npy'}", "--num_samples=4", "--stochasticity=1",
                "--inpainting=replacement")
  np.testing.assert_array_equal(x[:, mask], np.stack([known[mask]] * 4))
  assert np.any(x[0] != x[1])  # each sample has noise of its own
  # Nothing says which labels they have: the model without labels is asked.
  assert set(np.load(tmp_path / "x.labels.npy")) == {10}


@pytest.mark.parametrize(("known", "mask", "wanted"), [
    (np.zeros((7, 8, 1)), np.eye(8) > 0, "--known must have the shape (8, 8, 1) of one example"),
    (np.zeros((8, 8, 1)), np.eye(7) > 0, "--mask must have the shape (8, 8, 1) of one example"),
    (np.zeros((8, 8, 1)), np.eye(8) * 0.5, "--mask must be boolean or 0/1, True where known; got"),
    (np.zeros((8, 8, 1)), np.full((8, 8), "x"), "--mask must be boolean or 0/1"),
    (np.full((8, 8, 1), 17.0), np.eye(8), "the data's range [0, 16], got [17, 17]"),
    (np.full((8, 8, 1), np.nan), np.eye(8), "known must be finite where mask is True"),
    (np.full((8, 8, 1), "x"), np.eye(8), "--known must be of numbers"),
    (np.zeros((8, 8, 1)), np.zeros((8, 8)), "nothing is known in example 0"),
    (np.zeros((2, 8, 8, 1)), np.stack([np.eye(8), np.ones((8, 8))]), "everything is known in exam"),
    (np.zeros((2, 8, 8, 1)), np.stack([np.eye(8)] * 3), "--known holds 2 examples and --mask 3"),
    (np.zeros((0, 8, 8, 1)), np.eye(8), "--known must have the shape"),
])
def test_bad_files_are_refused_in_one_line(known, mask, wanted, workdir, tmp_path):
  np.save(tmp_path / "known.npy", known)
  np.save(tmp_path / "mask.npy", mask)
  err = runner.refused(
      "sample", f"--workdir={workdir}", f"--known={tmp_path / 'known.npy'}",
      f"--mask={tmp_path / 'mask.npy'}", f"--out={tmp_path / 'x.npy'}")
  assert wanted in err
  assert sorted(path.name for path in tmp_path.iterdir()) == ["known.npy", "mask.npy"]


def test_files_that_are_no_masks(workdir, tmp_path):
  Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "grey.png")
  (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
  for mask, wanted in (("grey.png", "--mask must be black or white, True where known; got values "
                        "such as 100"), ("torn.npy", "--mask: ")):
    err = runner.refused("sample", f"--workdir={workdir}", "--known=held_out",
                         f"--mask={tmp_path / mask}", f"--out={tmp_path / 'x.npy'}")
    assert wanted in err


def test_no_such_label(workdir):
  code, _, err = runner.call("sample", f"--workdir={workdir}", "--label=10")
  assert code == 2 and "--label must be a class in 0 … 9, or none; got '10'" in err


def test_guidance_needs_a_model_that_knows_no_label(run):
  settings = config.override(run.config, {"training.label_dropout": 0.0})
  without = run._replace(config=settings)
  with pytest.raises(ValueError, match="does nothing without a label"):
    assembly.check_labels(run, config.Sampling(guidance=2.0), unlabelled=True)
  for sampling, unlabelled in ((config.Sampling(guidance=2.0), False), (config.Sampling(), True)):
    with pytest.raises(ValueError, match=r"trained with training\.label_dropout > 0"):
      assembly.check_labels(without, sampling, unlabelled=unlabelled)


def test_digits_are_the_same_whatever_the_batch(workdir, run):
  """Equal after rounding, guided and inpainted, and one is not the other's label or example."""
  state = assembly.restored(run, workdir)
  mask = np.zeros((3, 8, 8, 1), bool)
  for i in range(3):
    mask[i, :2 + i] = True
  real = np.round(data.restore(run.dataset, run.dataset.test[:5]))
  known = drawing.Known(run.dataset.test[:5], real, mask, inpainting.langevin(1))
  draws = [drawing.draw(
      run, state.ema[0], config.Sampling(
          sampler="ddim(1)", grid="karras(3)", guidance=1.5, moments=True, batch_size=size),
      run.path, assembly.even_labels(run, 23), seed=3, known=known) for size in (23, 8)]
  # Where float32 stands at a half, rounding may go either way: at most a few of 1,472 pixels.
  assert np.mean(draws[0] != draws[1]) < 2e-3 and np.abs(draws[0] - draws[1]).max() <= 1.0
  for i in range(23):
    here = mask[i % 3]
    np.testing.assert_array_equal(draws[0][i][here], real[i % 5][here])


def test_the_benchmark_measures_what_it_says(workdir, run):
  state = assembly.restored(run, workdir)
  judge = classifier.train(run.dataset.train, run.dataset.train_labels, num_classes=10, seed=0,
                           steps=2)
  with runner.entry("benchmarks.inpainting") as benchmark:
    mask = benchmark.halves(run.dataset, 8)
    assert [mask[i, :, 0, 0].sum() for i in range(4)] == [8, 0, 4, 4]
    row, x = benchmark.restore(run, state.ema[0], "DDNM", *benchmark.METHODS["DDNM"], mask, judge,
                               steps=2)
    benchmark.report([row], 8, 0.98, 0.9)
  real = data.restore(run.dataset, run.dataset.test[:8])
  np.testing.assert_array_equal(x[mask], real[mask])
  assert row.calls == 2 and 0.0 <= row.unlabelled[0] <= 1.0
  np.testing.assert_allclose(
      row.rmse[0], np.sqrt(np.mean((x - real)[~mask] ** 2)), rtol=1e-5)


def test_points_are_inpainted_too(tmp_path):
  """A vector's known entry comes back, on a run without labels."""
  settings = config.override(config.load(str(runner.CONFIGS / "mixture2d.py")), {
      "data.train_size": 300, "data.test_size": 50, "network.width": 8, "network.depth": 1,
      "sampling.grid.n": 2, "sampling.sampler": "ddim"})
  workdir = runner.untrained(tmp_path / "run", settings)
  np.save(tmp_path / "known.npy", np.float32([[0.5, 0.0], [0.7, 0.0]]))
  np.save(tmp_path / "mask.npy", np.array([1, 0]))
  x, made = sample(workdir, tmp_path / "x.npy", f"--known={tmp_path / 'known.npy'}",
                   f"--mask={tmp_path / 'mask.npy'}", "--inpainting=ddnm", pictures=True)
  np.testing.assert_array_equal(x[:, 0], np.float32([0.5, 0.7]))
  assert made["num_samples"] == 2 and made["labels"] is None
  assert (tmp_path / "x.png").stat().st_size > 1000


def test_pictures_in_and_out_are_prepared_as_the_data_were(tmp_path):
  """Of folders cropped and resized to 8: a large known PNG and its mask, and a PNG a sample."""
  rng = np.random.default_rng(0)
  for i in range(12):
    file = tmp_path / "data" / ("suns", "flags")[i % 2] / f"{i}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (10, 14, 3), np.uint8)).save(file)
  workdir = runner.untrained(tmp_path / "run", config.override(
      config.load(str(runner.CONFIGS / "images.py")), {
          "data.path": str(tmp_path / "data"), "data.size": 8, "network.width": 8,
          "network.depth": 1, "network.heads": 2, "network.patch_size": 4, "sampling.grid.n": 2,
          "sampling.sampler": "ddim"}))
  large = rng.integers(0, 255, (30, 20, 3), np.uint8)
  white = np.zeros((30, 20), np.uint8)
  white[:, :10] = 255
  Image.fromarray(large).save(tmp_path / "known.png")
  Image.fromarray(white).save(tmp_path / "mask.png")
  pngs = tmp_path / "pngs"
  known = readers.read_image(tmp_path / "known.png", 8, 3)
  x, _ = sample(workdir, tmp_path / "x.npy", f"--known={tmp_path / 'known.png'}", "--label=suns",
                f"--mask={tmp_path / 'mask.png'}", "--num_samples=3", f"--pngs={pngs}")
  np.testing.assert_array_equal(x[:, :, :4], np.stack([known[:, :4]] * 3))
  assert sorted(str(file.relative_to(pngs)) for file in pngs.rglob("*.png")) == [
      f"suns/{i:06}.png" for i in range(3)]
  np.testing.assert_array_equal(np.asarray(Image.open(pngs / "suns" / "000002.png")), x[2])
  # Into a directory of something else it does not write; into one of its own it would.
  for arguments, says in (
      ((f"--pngs={tmp_path / 'data'}",), "--pngs: "), ((f"--pngs={tmp_path}",), "a new directory"),
      ((f"--pngs={pngs}", "--stop_level=1"), "leave --encode and --stop_level out")):
    assert says in runner.refused(
        "sample", f"--workdir={workdir}", f"--out={tmp_path / 'y.npy'}", *arguments)
