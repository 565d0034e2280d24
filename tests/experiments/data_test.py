"""experiments.data and its sources: pure batches, standard units, loaders, refusals by name."""

import gzip
import json
import os
import pathlib
import struct

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.config import calls
from experiments.data import augmentation, image_files, readers, sources, standardize, toy_data
from experiments.run import conditions, memory
from langevin_jax import conditions as conditions_lib


@pytest.fixture
def vectors(tmp_path):
  """Fourteen different examples, of which twelve are for training."""
  np.save(tmp_path / "v.npy", np.arange(28.0).reshape(14, 2) ** 1.5)
  return data.load("arrays", path=str(tmp_path / "v.npy"))


def rows(x):
  return sorted(map(bytes, x))


def refusal(field, call, **fields):
  """The error of a load, which must be one line with the field's name, and is of the data."""
  with pytest.raises(ValueError) as caught:
    data.load(call, **fields)
  message = str(caught.value)
  assert message.startswith(("config.data", "data.")) and field in message, message
  assert "\n" not in message
  return message


def test_batch_is_a_function_of_seed_and_step(vectors):
  x, labels = data.batch(vectors, seed=3, step=5, batch_size=4)
  for step in (40, 0, 2):  # other batches, and other epochs in the cache, between the two calls
    data.batch(vectors, seed=4, step=step, batch_size=4)
  again, _ = data.batch(vectors, seed=3, step=5, batch_size=4)
  np.testing.assert_array_equal(x, again)
  assert x.shape == (4, 2) and x.dtype == np.float32
  np.testing.assert_array_equal(labels, np.zeros(4, np.int32))
  assert rows(data.batch(vectors, seed=4, step=5, batch_size=4)[0]) != rows(x)
  data.batch(vectors, seed=-1, step=0, batch_size=4)


def test_batches_are_consecutive_parts_of_shuffled_epochs(vectors):
  """Of 12 examples, for batches that divide the epoch, straddle it, and are larger than it."""
  batches = lambda size: np.concatenate([
      data.batch(vectors, seed=0, step=step, batch_size=size)[0] for step in range(-(-48 // size))])
  whole = batches(12)
  for epoch in np.split(whole, 4):
    assert rows(epoch) == rows(vectors.train)
  assert any(not np.array_equal(whole[:12], epoch) for epoch in np.split(whole, 4)[1:])
  for size in (1, 5, 13, 31):
    np.testing.assert_array_equal(batches(size)[:48], whole)


def test_labels_stay_with_their_examples():
  dataset = data.load("toy2d", toy="rings", train_size=500, test_size=100)
  x, labels = data.batch(dataset, seed=0, step=7, batch_size=64)
  radius = np.linalg.norm(data.restore(dataset, x), axis=1)
  # Radii are 0.5 apart with a standard deviation of 0.05: five of them to the boundary.
  np.testing.assert_array_equal(labels, np.round(2 * radius) - 1)


def test_batch_arguments(vectors):
  for fields in (dict(step=0, batch_size=0), dict(step=-1, batch_size=1)):
    with pytest.raises(ValueError, match="batch_size must be positive and step not negative"):
      data.batch(vectors, seed=0, **fields)


def test_augmentation_is_a_function_of_seed_and_place():
  """Every image is one of its 2 · 3² changed ones, each as often as another."""
  plain = data.load("digits")
  ours = data.load(calls.make("augmented(digits(), flip=True, shift=1)", "data", "x"))
  assert data.fingerprint(ours) == data.fingerprint(plain)
  np.testing.assert_array_equal(ours.train, plain.train)
  batch = lambda dataset, **fields: data.batch(dataset, seed=3, batch_size=600, **fields)[0]
  x, before = batch(ours, step=2), batch(plain, step=2)
  np.testing.assert_array_equal(x, batch(ours, step=2))
  np.testing.assert_array_equal(x[7:300:2], batch(ours, step=2, rows=slice(7, 300, 2)))
  padded = np.pad(before, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
  flipped = np.pad(before[:, :, ::-1], ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
  found = np.array([[(image[:, i:i + 8, j:j + 8] == x).all((1, 2, 3)) for i in range(3)
                     for j in range(3)] for image in (padded, flipped)]).reshape(18, -1)
  assert found.any(0).all()
  # 600 draws of 18 are 33 ± 5.6 each; some images are their own mirror or shift.
  assert found.sum(1).min() > 10 and found.sum(1).max() < 70
  other = batch(data.load(calls.make("augmented(digits(), flip=False)", "data", "x")), step=2)
  np.testing.assert_array_equal(other, before)
  for text, says in (("augmented(mixture2d(train_size=9, test_size=9))", "is for images"),
                     ("augmented(digits(shape=(9, 9)))", "declared shape"),
                     ("augmented(digits(), shift=8)", "shift must be from 0 to 7"),
                     ("augmented(digits(), shift=-1)", "shift must be from 0 to 7")):
    with pytest.raises(ValueError, match=says):
      data.load(calls.make(text, "data", "config.data"))


def test_geometric_changes_are_what_the_network_is_told():
  """Whole pixels are moved exactly, a smooth image as its formula, and samples are not changed."""
  plain = data.load("digits")
  ours = data.load(calls.make("augmented(digits(), geometry=0.3)", "data", "x"))
  batch = lambda dataset, **fields: data.batch(dataset, seed=3, step=1, batch_size=400, **fields)
  x, given = batch(ours)
  np.testing.assert_array_equal(x[5:9], batch(ours, rows=slice(5, 9))[0])
  told, before = given["augmentation"], batch(plain)[0]
  np.testing.assert_array_equal(given["label"], batch(plain)[1])
  assert np.all(np.abs((told != 0).mean(0) - [.5, .15, .3, .3, .3, .3, .15, .3, .3]) < 0.08)
  mirrored, turned = told[:, 0] == 1, told[:, 1] == 1
  still = ~told[:, 2:].any(1)
  expected = np.where(mirrored[:, None, None, None], before[:, :, ::-1], before)
  expected = np.where(turned[:, None, None, None], expected[:, ::-1], expected)
  np.testing.assert_allclose(x[still], expected[still], atol=1e-6)
  assert not np.allclose(x[~still], expected[~still], atol=0.1)
  # A wave of all places, scaled, turned and moved as it is told.
  down, across = np.mgrid[:33, :33] - 16.0
  wave = lambda across, down: np.sin(0.11 * across) + np.cos(0.07 * down)
  image = np.repeat(wave(across, down)[None, ..., None], 200, axis=0).astype(np.float32)
  changed, found = augmentation.Augmentation(False, 0, 0.5).apply(image, np.arange(200), 0)
  for y, (_, flip, scale, cos, sin, u, v, right, below) in zip(
      changed[..., 0], found["augmentation"].astype(np.float64), strict=True):
    point = np.stack([across - right * 33 / 8, down - below * 33 / 8], axis=-1)
    rotation = lambda r: np.array([[np.cos(r), -np.sin(r)], [np.sin(r), np.cos(r)]])
    axis, narrow = 0.5 * np.arctan2(v, u), 2.0 ** (-0.2 * np.hypot(u, v))
    point = point @ rotation(axis) * [narrow, 1.0 / narrow] @ rotation(-axis)
    point = point @ rotation(np.arctan2(sin, cos + 1.0)) * 2.0 ** (-0.2 * scale)
    source = point * [1.0, 1.0 - 2.0 * flip]
    inside = np.abs(source).max(-1) < 13.0
    assert np.abs(y - wave(source[..., 0], source[..., 1]))[inside].max() < 1e-4
  assert not conditions.given(ours, {"label": 3}, 2, dropout=0.0)["augmentation"].any()
  kept = conditions_lib.drop(jax.random.key(0), given, 1.0)
  np.testing.assert_array_equal(kept["augmentation"], told)
  assert not kept["label_mask"].any() and conditions_lib.null(given)["augmentation_mask"].all()
  with pytest.raises(ValueError, match="geometry must lie in"):
    data.load(calls.make("augmented(digits(), geometry=2.0)", "data", "config.data"))


@pytest.mark.parametrize(("shape", "scaling"), [
    ((40, 3), "one"), ((40, 3), "features"), ((40, 3), "whiten"), ((40, 4, 4, 1), ""),
    ((40, 5, 2, 2), ""), ((40, 5, 2, 2), "features"), ((40, 6, 3), "one"),
    ((40, 6, 3), "features")])
def test_restore_undoes_standardise(tmp_path, shape, scaling):
  x = np.random.default_rng(0).normal(size=shape) * [3.0, 0.1, 7.0][:shape[-1]] + 100.0
  np.save(tmp_path / "x.npy", x)
  dataset = data.load("arrays", path=str(tmp_path / "x.npy"), scaling=scaling,
                      kind="sequence" if len(shape) == 3 else "")
  back = np.concatenate([data.restore(dataset, dataset.train), data.restore(dataset, dataset.test)])
  # float32 holds numbers near 100 to 4e-6; standard units near 1 times the scale add about as much.
  np.testing.assert_allclose(np.sort(back, axis=0), np.sort(x, axis=0), atol=2e-5)
  assert dataset.train.dtype == dataset.test.dtype == back.dtype == np.float32
  by_feature = dataset.kind in ("vector", "sequence") or scaling == "features"
  assert dataset.mean.shape == (shape[-1:] if by_feature else ())
  assert dataset.scale.shape == {"features": shape[-1:], "whiten": 2 * shape[-1:]}.get(scaling, ())
  # Over the training examples: mean 0 and mean square 1, by feature where units are.
  axis = tuple(range(len(shape) - 1)) if by_feature else None
  np.testing.assert_allclose(dataset.train.mean(axis), 0.0, atol=1e-5)
  axis = axis if scaling in ("features", "whiten") else None
  np.testing.assert_allclose(np.mean(np.square(dataset.train), axis), 1.0, rtol=1e-5)
  if dataset.kind == "vector":
    covariance = np.cov(data.restore(dataset, dataset.train).astype(float), rowvar=False)
    np.testing.assert_allclose(standardize.covariances(covariance, dataset.scale), np.cov(
        dataset.train.astype(float), rowvar=False), atol=1e-4)
  if scaling == "whiten":
    np.testing.assert_allclose(np.cov(dataset.train, rowvar=False, bias=True), np.eye(3), atol=1e-5)
  # The density of a uniform law on the cube of standard units is 1: its volume in the user's.
  if scaling != "":
    corner = lambda at: standardize.restore(
        at, np.zeros(shape[-1]), dataset.scale).astype(np.float64)
    sides = np.stack([corner(row) for row in np.eye(shape[-1])])
    np.testing.assert_allclose(standardize.log_det(dataset.scale, shape[1:]), np.prod(
        shape[1:-1]) * np.linalg.slogdet(sides)[1], rtol=1e-6)
  assert data.restore(dataset, dataset.train[:6].reshape(2, 3, *shape[1:])).shape[:2] == (2, 3)


def test_features_of_other_scales_get_their_own(tmp_path):
  """Deviations more than a factor of 4 apart; of constant features, the least of the others."""
  rng, path = np.random.default_rng(0), str(tmp_path / "x.npy")
  unit = rng.normal(size=(2000, 2))
  unit = (unit - unit.mean(0)) / unit.std(0)
  for ratio, alike in ((3.5, True), (0.27, True), (4.6, False), (1e-6, False)):
    np.save(path, np.concatenate([unit * [1.0, ratio] + 5.0, np.full((2000, 1), 7.0)], 1))
    scale = data.load("arrays", path=path).scale
    assert (scale.shape == ()) == alike, ratio
    if not alike:
      np.testing.assert_allclose(scale[:2], [1.0, ratio], rtol=0.05)
      assert scale[2] == scale.min()
    assert data.load("arrays", path=path, scaling="one").scale.shape == ()
  with pytest.raises(ValueError, match=r"^data\.scaling=whiten .* span 2 of 3 dimensions"):
    data.load("arrays", path=path, scaling="whiten")
  refusal("data.scaling must be one of", "arrays", path=path, scaling="pca")
  refusal("data.scaling=features is not for images", "digits", scaling="features")
  refusal("data.scaling=whiten is for vectors", "digits", scaling="whiten")


@pytest.mark.parametrize("scaling", ["one", "features", "whiten"])
def test_samples_are_judged_in_units_that_no_run_chooses(tmp_path, scaling):
  x = np.random.default_rng(0).normal(size=(300, 2)) * [2e4, 18.0] + [4e4, 40.0]
  np.save(tmp_path / "x.npy", x)
  dataset = data.load("arrays", path=str(tmp_path / "x.npy"), scaling=scaling)
  judged = data.in_comparison_units(dataset)
  plain = data.load("arrays", path=str(tmp_path / "x.npy"))
  assert data.in_comparison_units(plain) is plain
  np.testing.assert_allclose(judged.scale, plain.scale, rtol=1e-5)
  np.testing.assert_allclose(judged.test, plain.test, atol=1e-4)


def test_a_large_offset_does_not_collapse(tmp_path):
  x = 1.7e9 + np.random.default_rng(0).normal(size=(500, 2))
  np.save(tmp_path / "x.npy", x)
  for scaling in ("one", "features", "whiten"):
    dataset = data.load("arrays", path=str(tmp_path / "x.npy"), scaling=scaling)
    back = data.restore(dataset, np.concatenate([dataset.train, dataset.test]))
    assert back.dtype == np.float64
    np.testing.assert_allclose(np.sort(back, 0), np.sort(x, 0), rtol=0, atol=1e-5)


def test_digits():
  dataset = data.load("digits", shape=(8, 8))
  assert dataset.train.shape == (1438, 8, 8, 1) and dataset.test.shape == (359, 8, 8, 1)
  assert (dataset.num_classes, dataset.kind, dataset.value_range) == (10, "image", (0.0, 16.0))
  assert dataset.train_labels.dtype == np.int32 and dataset.train_labels.shape == (1438,)
  train, test = np.bincount(dataset.train_labels), np.bincount(dataset.test_labels)
  assert np.all(np.abs(test - 0.2 * (train + test)) <= 1)  # stratified
  pixels = data.restore(dataset, dataset.train)
  np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-5)
  assert pixels.round().min() == 0 and pixels.round().max() == 16
  assert not set(rows(dataset.train)) & set(rows(dataset.test))
  np.testing.assert_array_equal(dataset.train, data.load("digits").train)


def write_idx(path, array, *, opener=open, cut=0):
  header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
  with opener(path, "wb") as file:
    file.write((header + array.astype(np.uint8).tobytes())[:-cut or None])


@pytest.fixture
def idx_directory(tmp_path):
  rng = np.random.default_rng(0)
  for part, n in (("train", 30), ("t10k", 6)):
    write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", rng.integers(256, size=(n, 28, 28)),
              opener=gzip.open)
    write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
  return tmp_path


def test_fashion_mnist(idx_directory):
  dataset = data.load("fashion_mnist", path=str(idx_directory), shape=(28, 28, 1))
  assert dataset.train.shape == (30, 28, 28, 1) and dataset.test.shape == (6, 28, 28, 1)
  assert (dataset.num_classes, dataset.kind, dataset.value_range) == (10, "image", (0.0, 255.0))
  np.testing.assert_array_equal(dataset.test_labels, np.arange(6))
  first = np.random.default_rng(0).integers(256, size=(30, 28, 28))
  np.testing.assert_allclose(data.restore(dataset, dataset.train)[..., 0], first, atol=1e-4)


def test_fashion_mnist_refusals(idx_directory):
  path = str(idx_directory)
  images = idx_directory / "t10k-images-idx3-ubyte"
  (idx_directory / "t10k-images-idx3-ubyte.gz").rename(idx_directory / "aside")
  message = refusal("data.path", "fashion_mnist", path=path)
  assert "t10k-images-idx3-ubyte" in message and "train-" not in message
  assert "apt-get install dataset-fashion-mnist" in message
  assert "train-images" in refusal("data.path", "fashion_mnist", path=path + "/absent")
  write_idx(images, np.zeros((6, 28, 28)), cut=5)
  assert "cut short" in refusal("data.path", "fashion_mnist", path=path)
  for start in (b"", b"\0\0\x08", b"\0\0\x08\3\0\0", b"\0\0\x0d\3" + bytes(12), b"PNG garbage"):
    images.write_bytes(start)
    assert str(images) in refusal("data.path", "fashion_mnist", path=path)
  images.unlink()
  cut = (idx_directory / "aside").read_bytes()[:200]
  for content in (cut, b"not gzip"):
    (idx_directory / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    assert "gzip" in refusal("data.path", "fashion_mnist", path=path)
  write_idx(images, np.zeros((7, 28, 28)))
  assert "7 class numbers" in refusal("data.path (t10k labels)", "fashion_mnist", path=path)
  (idx_directory / "t10k-labels-idx1-ubyte").write_bytes(
      struct.pack(">BBBBI", 0, 0, 8, 1, 6) + bytes([0, 1, 2, 3, 4, 55]))
  write_idx(images, np.zeros((6, 28, 28)))
  stray = refusal("data labels must be class numbers", "fashion_mnist", path=path)
  assert ("class 10 of 56" in stray and "nor have 45 others" in stray
          and "the largest label, 55, is that of 1 examples, the first at index 35" in stray)
  write_idx(images, np.zeros((6, 14, 28)))
  assert "one size" in refusal("data.path", "fashion_mnist", path=path)


def test_emoji(tmp_path):
  """Skin tones are on one side of the split, and files that are not there are left out."""
  place = tmp_path / "img" / "vendor" / "64"
  place.mkdir(parents=True)
  table = []
  for i in range(20):
    names = [f"{i}.png", *(f"{i}-{tone}.png" for tone in range(3) if i % 2)]
    table.append({"category": "Flags" if i < 12 else "Animals", "image": names[0],
                  "skin_variations": {str(k): {"image": name} for k, name in enumerate(names[1:])}})
    for name in names:
      Image.new("RGBA", (64, 64), (i, 2 * i, 3 * i, 255)).save(place / name)
  (place / "3-1.png").unlink()
  (tmp_path / "emoji.json").write_text(json.dumps(table), encoding="utf-8")
  dataset = data.load("emoji", path=str(tmp_path), holdout=0.25)
  assert dataset.classes == ("Animals", "Flags") and dataset.train.shape[1:] == (64, 64, 3)
  assert len(dataset.train) + len(dataset.test) == 49
  shades = [set(data.restore(dataset, x)[:, 0, 0, 0].round().astype(int))
            for x in (dataset.train, dataset.test)]
  assert not shades[0] & shades[1] and len(shades[1]) == 5
  assert data.load("emoji", path=str(tmp_path), size=16).train.shape[1:] == (16, 16, 3)
  (tmp_path / "emoji.json").write_text("[1]", encoding="utf-8")
  assert "emoji-datasource-google" in refusal("data.path", "emoji", path=str(tmp_path))


def test_cifar10(tmp_path):
  rng, names = np.random.default_rng(0), [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
  x = rng.integers(256, size=(6, 4, 3, 32, 32), dtype=np.uint8)
  labels = np.arange(24, dtype=np.uint8).reshape(6, 4) % 3
  for name, images, own in zip(names, x, labels, strict=True):
    records = np.concatenate([own[:, None], images.reshape(4, -1)], axis=1)
    (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
  (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
  dataset = data.load("cifar10", path=str(tmp_path))
  assert (dataset.classes, dataset.kind) == (("airplane", "automobile", "bird"), "image")
  np.testing.assert_array_equal(dataset.test_labels, labels[5])
  np.testing.assert_array_equal(
      data.restore(dataset, dataset.train).round(), np.moveaxis(x[:5].reshape(20, 3, 32, 32), 1, 3))
  (tmp_path / "test_batch.bin").write_bytes(b"cut short")
  assert "records of 3073 bytes; it has 9" in refusal("data.path", "cifar10", path=str(tmp_path))
  (tmp_path / "test_batch.bin").unlink()
  assert "test_batch.bin" in refusal("data.path must name", "cifar10", path=str(tmp_path))


@pytest.mark.parametrize(("shape", "loaded", "kind", "warned"), [
    ((20, 3), (3,), "vector", ""),
    ((20, 6, 6, 3), (6, 6, 3), "image", ""), ((20, 6, 6, 2), (6, 6, 2), "array", ""),
    ((20, 3, 6, 6), (3, 6, 6), "array", "channels come last here: np.moveaxis(x, 1, -1)"),
    ((20, 2, 2, 2, 2), (2, 2, 2, 2), "array", "")])
def test_arrays_by_rank(tmp_path, shape, loaded, kind, warned, capsys):
  x = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
  np.save(tmp_path / "x.npy", x)
  path = str(tmp_path / "x.npy")
  for declared in ((), loaded, shape[1:]):
    dataset = data.load("arrays", path=path, shape=declared, holdout=0.25)
  assert dataset.train.shape == (15, *loaded) and dataset.test.shape == (5, *loaded)
  assert dataset.kind == kind and dataset.num_classes == 0 and dataset.train_labels.shape == (0,)
  assert dataset.value_range == ((0.0, x.max()) if kind == "image" else None)
  said = set(capsys.readouterr().err.splitlines())
  assert len(said) == bool(warned) and all(warned in line for line in said)
  assert str(loaded) in refusal("data.shape", "arrays", path=path, shape=(5, 5))


def test_kind_is_asked_for_where_a_shape_leaves_it_open(tmp_path, capsys):
  series = np.random.default_rng(0).normal(size=(20, 6, 4)) * [1.0, 10.0, 1.0, 1.0] + 3.0
  np.save(tmp_path / "x.npy", series)
  fields = {"call": "arrays", "path": str(tmp_path / "x.npy")}
  assert "sequence (6 steps of 4 channels) or array" in refusal("data.kind must say", **fields)
  for kind, loaded, value_range in (
      ("sequence", (6, 4), None), ("array", (6, 4), None),
      ("image", (6, 4, 1), (series.min(), series.max()))):
    dataset = data.load(**fields, kind=kind)
    assert (dataset.kind, dataset.train.shape[1:], dataset.value_range) == (
        kind, loaded, value_range)
    assert dataset.scale.shape == ((4,) if kind == "sequence" else ())
  # The digits' own place is for images.
  assert data.load("digits", path=fields["path"]).kind == "image"
  refusal("data.kind=vector does not fit", **fields, kind="vector")
  refusal("data.kind: expected one of '', image, vector", **fields, kind="series")
  refusal("data.kind: toy2d has no argument 'kind'", "toy2d", kind="image")
  np.save(tmp_path / "x.npy", np.zeros((20, 3, 8, 8)) + np.arange(8))
  assert "np.moveaxis(x, 1, -1)" in refusal("data.kind=image does not fit", **fields, kind="image")
  assert not capsys.readouterr().err
  assert data.load(**fields, kind="array").kind == "array" and not capsys.readouterr().err


def test_four_channels_with_negative_values_are_latents(tmp_path):
  x = np.random.default_rng(0).random((20, 4, 4, 4))
  for values, kind, value_range in ((x, "image", (x.min(), x.max())), (x - 0.5, "array", None)):
    np.save(tmp_path / "x.npy", values)
    dataset = data.load("arrays", path=str(tmp_path / "x.npy"))
    assert (dataset.kind, dataset.value_range) == (kind, value_range)


def test_arrays_are_gone_through_block_by_block(tmp_path, monkeypatch):
  monkeypatch.setattr(readers, "_BLOCK_BYTES", 3 * 2 * 8)  # three examples of two numbers
  x = np.arange(20.0).reshape(10, 2) - 4.0
  assert readers.check_array(x, "x") == (-4.0, 15.0)
  x[4, 1], x[7, 0], x[9, 1] = np.nan, -np.inf, np.inf
  with pytest.raises(ValueError, match=r"3 of 20 are .*, the first at index \(4, 1\)"):
    readers.check_array(x, "x")
  np.save(tmp_path / "x.npy", GOOD)
  assert isinstance(sources.arrays(path=str(tmp_path / "x.npy")).x, np.memmap)


def test_declared_classes_are_checked(tmp_path):
  np.savez(tmp_path / "x.npz", x=GOOD, y=np.arange(10) % 2)
  assert data.load("arrays", path=str(tmp_path / "x.npz"), num_classes=2).num_classes == 2
  assert "it has 2" in refusal("data.num_classes", "arrays", path=str(tmp_path / "x.npz"),
                               num_classes=3)


def test_arrays_keys_and_labels(tmp_path):
  x, y = np.arange(20.0).reshape(10, 2), np.arange(10) // 5
  path = str(tmp_path / "a.npz")
  for names in (dict(x=x, labels=y), dict(x=x, y=y, more=y), dict(points=x, y=y)):
    np.savez(path, **names)
    dataset = data.load("arrays", path=path)
    assert dataset.num_classes == 2
    first = data.restore(dataset, dataset.train)[:, 0]
    np.testing.assert_array_equal(dataset.train_labels, first >= 9.0)
  np.save(tmp_path / "labels.npy", 1 - y)
  dataset = data.load("arrays", path=path, labels=str(tmp_path / "labels.npy"))
  first = data.restore(dataset, dataset.train)[:, 0]
  np.testing.assert_array_equal(dataset.train_labels, first < 9.0)
  np.save(tmp_path / "labels.npy", 2 - y)
  with pytest.raises(ValueError, match="without gaps; class 0 of 3"):
    data.load("arrays", path=path, labels=str(tmp_path / "labels.npy"))
  np.savez(path, points=x)
  assert data.load("arrays", path=path).num_classes == 0
  np.savez(path, a=x, b=x)
  assert "holds a, b" in refusal("data.path", "arrays", path=path)


GOOD = np.arange(20.0).reshape(10, 2)
HOLED = np.where(GOOD == 7.0, np.nan, np.where(GOOD == 18.0, np.inf, GOOD))


@pytest.mark.parametrize(("x", "says"), [
    (np.float32(1.0), "rank 2 or more"), (np.arange(5.0), "rank 2 or more"),
    (HOLED, "2 of 20 are NaN, infinite or beyond it, the first at index (3, 1)"),
    (GOOD * 1e38, "beyond it"), (GOOD[:0], "empty"), (GOOD[:, :0], "empty"),
    (GOOD.astype(str), "dtype <U"), (GOOD * 1j, "dtype complex128"),
    (np.full((10, 2), 0.1), "must differ"), (np.zeros((10, 5, 5), np.uint8), "must differ"),
    (np.array([["a", None]], object), "plain numbers")])
def test_arrays_refuses_data(tmp_path, x, says):
  np.save(tmp_path / "x.npy", x, allow_pickle=True)
  assert says in refusal("data.path", "arrays", path=str(tmp_path / "x.npy"))
  np.savez(tmp_path / "x.npz", x=x)
  assert says in refusal("data.path", "arrays", path=str(tmp_path / "x.npz"))


@pytest.mark.parametrize(("y", "says"), [
    (np.zeros(9, int), "shape (9,)"), (np.zeros((10, 1), int), "shape (10, 1)"),
    (np.zeros(10), "dtype float64"), (np.arange(10) - 4, "-4 at index 0"),
    (np.full(10, "a"), "dtype <U1"), (np.arange(10) * 10**6, "9000000 at index 9")])
def test_arrays_refuses_labels(tmp_path, y, says):
  np.save(tmp_path / "x.npy", GOOD)
  np.save(tmp_path / "y.npy", y)
  np.savez(tmp_path / "x.npz", x=GOOD, y=y)
  path, labels = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
  assert says in refusal("data.labels", "arrays", path=path, labels=labels)
  message = refusal("data.path (labels)", "arrays", path=str(tmp_path / "x.npz"))
  assert "10 class numbers" in message and says in message


def test_arrays_refuses_damaged_files(tmp_path):
  np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(50, 3)))
  np.save(tmp_path / "a.npy", GOOD)
  for name in ("a.npy", "a.npz"):
    whole = (tmp_path / name).read_bytes()
    damaged = tmp_path / f"damaged-{name}"
    for keep in (0, 3, 60, len(whole) // 2, len(whole) - 1):
      damaged.write_bytes(whole[:keep])
      assert "readable" in refusal("data.path", "arrays", path=str(damaged))
  middle = bytearray(whole)
  middle[len(whole) // 2] ^= 255
  damaged.write_bytes(middle)
  assert "readable" in refusal("data.path", "arrays", path=str(damaged))
  good, labels = str(tmp_path / "a.npy"), str(tmp_path / "a.npz")
  refusal("data.labels", "arrays", path=good, labels=str(damaged))
  assert "not a .npz" in refusal("data.labels", "arrays", path=good, labels=labels)
  for path in ("", str(tmp_path / "absent.npy"), str(tmp_path)):
    assert "existing file" in refusal("data.path", "arrays", path=path)
  assert "existing file" in refusal("data.labels", "arrays", path=good, labels="absent.npy")
  for holdout in (0.0, 1.0, -1.0, 0.01, float("nan")):
    refusal("data.holdout", "arrays", path=good, holdout=holdout)


@pytest.fixture
def folder(tmp_path):
  """Two classes of three: PNG and JPEG, wide and tall, colour, grey, palette, opacity, 16 bits."""
  for name in ("cats", "dogs/small"):
    (tmp_path / name).mkdir(parents=True)
  wide = np.zeros((8, 24, 3), np.uint8)
  wide[:, 8:16] = (200, 100, 50)  # the central square
  Image.fromarray(wide).save(tmp_path / "cats" / "a.png")
  Image.fromarray(wide.swapaxes(0, 1)).save(tmp_path / "cats" / "b.JPG", subsampling=0)
  Image.fromarray(np.full((9, 9), 128, np.uint8)).convert("P").save(tmp_path / "cats" / "c.png")
  Image.fromarray(np.full((9, 9), 80, np.uint8)).save(tmp_path / "dogs" / "small" / "d.png")
  clear = np.zeros((9, 9, 4), np.uint8)
  Image.fromarray(clear).save(tmp_path / "dogs" / "e.png")
  Image.fromarray(np.full((9, 9), 40 * 257, np.uint16)).save(tmp_path / "dogs" / "f.png")
  (tmp_path / "dogs" / "._e.png").write_bytes(b"hidden")
  (tmp_path / "notes.txt").write_text("not an image")
  return tmp_path


def test_images(folder):
  dataset = data.load("images", path=str(folder), size=4, shape=(4, 4, 3), holdout=0.34)
  assert dataset.train.shape == (4, 4, 4, 3) and dataset.test.shape == (2, 4, 4, 3)
  assert (dataset.num_classes, dataset.kind, dataset.value_range) == (2, "image", (0.0, 255.0))
  pixels = np.concatenate([dataset.train, dataset.test])
  labels = np.concatenate([dataset.train_labels, dataset.test_labels])
  order = np.lexsort((pixels[:, 0, 0, 0], labels))
  np.testing.assert_array_equal(labels[order], [0, 0, 0, 1, 1, 1])
  # Flat after the crop, whose edges are edges of JPEG's blocks; JPEG is true to a few units.
  colours = [(128,) * 3, (200, 100, 50), (200, 100, 50), (40,) * 3, (80,) * 3, (255,) * 3]
  found = data.restore(dataset, pixels[order])
  np.testing.assert_allclose(
      found, np.broadcast_to(np.array(colours)[:, None, None], found.shape), atol=4.0)
  for channels in (1, 4):
    dataset = data.load("images", path=str(folder), size=5, channels=channels, holdout=0.34)
    assert dataset.train.shape == (4, 5, 5, channels)


def test_a_folder_that_does_not_fit_in_memory_is_read_batch_by_batch(folder, monkeypatch):
  fields = {"path": str(folder), "size": 4, "holdout": 0.34}
  whole = data.load("images", **fields)
  monkeypatch.setattr(memory, "free", lambda: 100.0)  # one picture
  ours = data.load("images", **fields)
  assert not isinstance(ours.train, np.ndarray)
  np.testing.assert_allclose(ours.train[:], whole.train, rtol=1e-6, atol=1e-6)
  assert data.fingerprint(ours) == data.fingerprint(whole) and ours.integers and whole.integers
  with pytest.raises(TypeError, match="index them"):
    np.asarray(ours.train)


def test_formats_of_images(tmp_path, capsys):
  x = np.zeros((4, 4, 3), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None] * 60
  frames = [Image.fromarray(255 * (i > 0) + 0 * x[..., 0]) for i in range(2)]
  frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
  for name in ("b.bmp", "c.PNG"):
    Image.fromarray(x).save(tmp_path / name)
  Image.fromarray(x).save(tmp_path / "d.webp", lossless=True)
  (tmp_path / "e.tiff").touch()
  seen = sources.images(path=str(tmp_path), holdout=0.25).x[np.arange(4)]
  np.testing.assert_array_equal(seen, [0 * x, x, x, x])
  assert "kinds that are not read are left out, 1: " in capsys.readouterr().err


def test_unreadable_files_are_named_all_at_once(folder, capsys):
  fields = {"path": str(folder), "size": 4, "holdout": 0.34}
  bad = "cats/0.png", "cats/z.jpg", "dogs/y.webp"
  for name in bad:
    (folder / name).write_bytes(b"nothing")
  said = refusal("data.path: 3 files must be readable", "images", **fields)
  assert all(name[5:] in said for name in bad) and "skip_unreadable=True" in said
  pictures = sources.images(**fields).x  # data in parts: one of them is read
  (place,) = (i for i, file in enumerate(pictures._files) if file.name == "z.jpg")
  with pytest.raises(ValueError, match=r"data\.path: 3 files must be readable"):
    pictures[np.asarray([place])]
  dataset = data.load("images", **fields, skip_unreadable=True)
  assert len(dataset.train) + len(dataset.test) == 6 and len(data.fingerprint(dataset)) == 6
  warning = capsys.readouterr().err
  assert "3 of 9 pictures cannot be read and are left out" in warning and "z.jpg" in warning
  for file in (folder / "cats").iterdir():
    file.write_bytes(b"")
  refusal("data.path: folder", "images", **fields, skip_unreadable=True)


def test_files_that_are_damaged_later_are_named_at_once(folder, monkeypatch):
  """A training does not wait until all files have been looked at."""
  pictures = sources.images(path=str(folder), size=4).x
  pictures[np.arange(len(pictures))]
  for file in pictures._files[:2]:
    file.write_bytes(b"nothing")
  with pytest.raises(ValueError, match=f"{pictures._files[0].name}[^;]*$"):
    pictures[np.asarray([0])]
  monkeypatch.setattr(image_files, "_faults", lambda files: [""] * len(files))  # mended meanwhile
  with pytest.raises(ValueError, match=f"pictures: .*{pictures._files[0].name}"):
    sources.images(path=str(folder), size=4).x[np.asarray([0])]


def test_images_kept_as_they_are(tmp_path):
  x = np.random.default_rng(0).integers(256, size=(6, 5, 7, 3), dtype=np.uint8)
  for i, image in enumerate(x):
    Image.fromarray(image).save(tmp_path / f"{i}.png")
  path = str(tmp_path)
  for shape in ((), (5, 7, 3)):
    dataset = data.load("images", path=path, shape=shape)
    assert dataset.num_classes == 0 and dataset.test.shape == (1, 5, 7, 3)
    back = data.restore(dataset, np.concatenate([dataset.train, dataset.test])).round()
    assert rows(back.astype(np.uint8)) == rows(x)
  assert "0.png" in refusal("data.shape", "images", path=path, shape=(7, 5, 3))
  assert "(4, 4, 3)" in refusal("data.shape", "images", path=path, size=4, shape=(5, 7, 3))
  Image.fromarray(x[0, :4]).save(tmp_path / "9.png")
  assert "9.png" in refusal("data.shape", "images", path=path)


def test_folders_that_are_links_are_classes(folder, tmp_path_factory):
  """A class elsewhere counts, and a link back to the whole does not lead round in circles."""
  birds = tmp_path_factory.mktemp("elsewhere") / "birds"
  (folder / "dogs" / "small").rename(birds)
  (folder / "birds").symlink_to(birds)
  (folder / "cats" / "back").symlink_to(folder)
  dataset = data.load("images", path=str(folder), size=4, holdout=0.17)
  assert dataset.num_classes == 3 and len(dataset.train) + len(dataset.test) == 6


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
  iterdir = pathlib.Path.iterdir

  def refused(path):
    if path.name == "dogs":
      raise PermissionError(13, "Permission denied", str(path))
    return iterdir(path)

  monkeypatch.setattr(pathlib.Path, "iterdir", refused)
  assert "dogs' cannot be read" in refusal("data.path", "images", path=str(folder), size=4)


def test_images_are_turned_as_their_exif_says(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # turn clockwise by 90° to see it
  x = np.zeros((2, 4, 6, 3), np.uint8)
  x[:, :, 3:] = 255  # right half white: the lower half once turned
  for i, image in enumerate(x):
    Image.fromarray(image).save(tmp_path / f"{i}.png", exif=exif)
  dataset = data.load("images", path=str(tmp_path), shape=(6, 4, 3), holdout=0.5)
  seen = data.restore(dataset, dataset.train[0]).round()
  np.testing.assert_array_equal(seen, np.rot90(x[0], -1))


def test_images_refusals(folder):
  path = str(folder)
  for bad in ("", path + "/absent", path + "/notes.txt"):
    assert "existing directory" in refusal("data.path", "images", path=bad, size=4)
  (folder / "empty").mkdir()
  assert "no .png" in refusal("data.path", "images", path=path + "/empty", size=4)
  empty = refusal("data.path: folder", "images", path=path, size=4)
  assert "empty" in empty and "fill it" in empty
  (folder / "empty").rmdir()
  refusal("data.channels", "images", path=path, size=4, channels=2)
  refusal("data.size", "images", path=path, size=-4)
  whole = (folder / "cats" / "b.JPG").read_bytes()
  for content in (b"", b"text", whole[:len(whole) // 2]):
    (folder / "dogs" / "x.jpg").write_bytes(content)
    assert "x.jpg" in refusal("data.path", "images", path=path, size=4)
  # Pillow reads these, by their content; they are none of the formats.
  for format_ in ("TIFF", "EPS"):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "dogs" / "x.jpg", format=format_)
    assert "x.jpg" in refusal("data.path", "images", path=path, size=4)
  (folder / "dogs" / "x.jpg").unlink()
  for name, says in (("y.png", "a link to nothing"), ("birds", "a link to nothing")):
    (folder / name).symlink_to(folder / "absent")
    assert says in refusal("data.path", "images", path=path, size=4)
    (folder / name).unlink()
  os.mkfifo(folder / "cats" / "z.png")
  assert "z.png' is no file" in refusal("data.path", "images", path=path, size=4)
  (folder / "cats" / "z.png").unlink()
  (folder / "cats" / "a.png").rename(folder / "beside.png")
  assert "beside.png" in refusal("data.path", "images", path=path, size=4)


def test_fields_that_do_not_belong_are_refused(tmp_path):
  assert "digits, mixture2d" in refusal("data", "mnist")
  assert "moons, checkerboard" in refusal("data.toy", "toy2d", toy="spirals")
  refusal("data.path", "toy2d", path="x.npz")
  for name in ("digits", "toy2d", "images", "fashion_mnist"):
    refusal("data.labels", name, labels="y.npy")
  refusal("data.shape", "toy2d", shape=(3,), train_size=10, test_size=10)
  refusal("data.train_size", "mixture2d", train_size=0)
  refusal("data.test_size", "toy2d", test_size=-1)


# Laws. n = 100,000 points: a mean is known to sd/316, and tests allow five of these.

N = 100_000


def assert_mean(values, expected):
  np.testing.assert_array_less(
      np.abs(values.mean(0, dtype=np.float64) - expected), 5.0 * values.std(0) / np.sqrt(N))


def test_mixture_moments():
  weights, means, covariances = data.gaussian_mixture_2d()
  assert [a.shape for a in (weights, means, covariances)] == [(8,), (8, 2), (8, 2, 2)]
  assert abs(weights.sum() - 1.0) < 1e-15 and len(set(weights)) == 8
  spread = np.linalg.eigvalsh(covariances)
  assert np.all(spread > 0) and np.all(spread[:, 1] > 1.5 * spread[:, 0])  # anisotropic
  # R diag(a², b²) Rᵀ has (a² − b²) sin φ cos φ off its diagonal; the first of them by hand.
  np.testing.assert_allclose(
      covariances[0, 0, 1], (0.4**2 - 0.12**2) * np.sin(1.9) * np.cos(1.9), rtol=1e-12)
  for k in range(8):  # a component drawn alone
    x = toy_data.sample_mixture(
        np.random.default_rng(k), N, np.ones(1), means[k:k + 1], covariances[k:k + 1]) - means[k]
    assert_mean(x, 0.0)
    assert_mean(x[:, :, None] * x[:, None], covariances[k])
  dataset = data.load("mixture2d", train_size=N, test_size=10)
  assert dataset.num_classes == 0 and dataset.kind == "vector"
  x = data.restore(dataset, dataset.train).astype(np.float64)
  mean = weights @ means
  second = np.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None])
  assert_mean(x, mean)
  assert_mean(x[:, :, None] * x[:, None], second)
  # A functional beyond two moments, E exp(u·x) = Σ wₖ exp(u·mₖ + uᵀCₖu/2), sees each component.
  for u in np.array([[1.0, 0.4], [-0.6, 0.9], [0.2, -1.0]]):
    exact = weights @ np.exp(means @ u + 0.5 * np.einsum("kij,i,j->k", covariances, u, u))
    assert_mean(np.exp(x @ u), exact)


def draw(law):
  points, labels = law(np.random.default_rng(0), N)
  assert points.shape == (N, 2) and points.dtype == np.float32 and labels.dtype == np.int32
  assert labels.shape in ((N,), (0,))
  classes = toy_data.NUM_CLASSES[law.__name__]
  assert len(labels) == (N if classes else 0)
  if classes:
    assert_mean(np.eye(classes)[labels], 1.0 / classes)
  return points.astype(np.float64), labels


def test_checkerboard_is_uniform_on_its_squares():
  x, _ = draw(toy_data.checkerboard)
  square = np.floor(x).astype(int)
  assert np.all(square.sum(1) % 2 == 0) and square.min() == -2 and square.max() == 1
  assert np.all(x > square) and np.all(x < square + 1)  # float32 has not rounded one to an edge
  squares = np.unique(square, axis=0)
  assert len(squares) == 8
  assert_mean(np.all(square[:, None] == squares[None], -1).astype(float), 1 / 8)
  inside = x - square  # uniform, and independent of the square and of each other
  assert_mean(inside, 0.5)
  assert_mean(inside**2, 1 / 3)
  assert_mean(inside[:, :1] * inside[:, 1:], 0.25)
  assert_mean(inside * square, 0.5 * np.array([-0.5, -0.5]))


def test_moons():
  x, labels = draw(toy_data.moons)
  upper = np.where(labels[:, None] == 0, x, np.array([1.0, 0.5]) - x)
  assert_mean(upper, np.array([0.0, 2.0 / np.pi]))  # E sin θ on (0, π)
  assert_mean(np.sum(upper**2, 1), 1.0 + 2 * 0.01)  # radius² plus two variances of noise


def test_swiss_roll():
  x, _ = draw(toy_data.swiss_roll)
  low, high = 1.5 * np.pi, 4.5 * np.pi
  mean_square = (high**3 - low**3) / (3.0 * (high - low)) / 49.0
  assert_mean(np.sum(x**2, 1), mean_square + 2 * 0.05**2)
  # ∫ θ cos θ = θ sin θ + cos θ and ∫ θ sin θ = sin θ − θ cos θ, from 3π/2 to 9π/2.
  exact = np.array([high + low, 2.0]) / (7.0 * (high - low))
  assert_mean(x, exact)


def test_pinwheel():
  x, labels = draw(toy_data.pinwheel)
  assert_mean(np.sum(x**2, 1), 1.0 + 0.3**2 + 0.1**2)
  angle = 2.0 * np.pi * labels / 5.0
  # Each arm turned back onto the first.
  turned = np.stack([np.cos(angle) * x[:, 0] + np.sin(angle) * x[:, 1],
                     np.cos(angle) * x[:, 1] - np.sin(angle) * x[:, 0]], 1)
  # E[(r, s) turned by e^r/4]: s has mean 0, r by Gauss–Hermite quadrature.
  nodes, weights = np.polynomial.hermite_e.hermegauss(60)
  r = 1.0 + 0.3 * nodes
  bend = 0.25 * np.exp(r)
  exact = np.array([weights @ (r * np.cos(bend)), weights @ (r * np.sin(bend))]) / weights.sum()
  assert_mean(turned, exact)
  for k in range(5):
    np.testing.assert_allclose(turned[labels == k].mean(0), exact, atol=5.0 / np.sqrt(N / 5))


def test_rings():
  x, labels = draw(toy_data.rings)
  assert_mean(x, 0.0)
  assert_mean(np.sum(x**2, 1) - (0.5 * (labels + 1.0)) ** 2, 2 * 0.05**2)
  assert_mean(x[:, 0] * x[:, 1], 0.0)
