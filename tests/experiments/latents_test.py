"""Latents: an autoencoder's shards, runs on them, and samples in the units of the examples."""

import itertools
import json
import pickle
import shutil

import grain  # before any test saves and restores absl's flags: grain defines some
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runner

from experiments import config, data
from experiments.config import autoencoders, build
from experiments.data import batches, codecs, shards
from experiments.metrics import comparisons
from experiments.pretrained import vgg
from experiments.run import meshes
from langevin_jax import training
from langevin_jax.networks.vae import Normal

assert grain.sources  # imported for the flags it defines
NETWORK = "autoencoder(channels=4, multipliers=(1, 2), blocks=1, latent_channels=2, groups=2)"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with images x.npz, an autoencoder ae/, latents shards/, and a run on them run/."""
  place = tmp_path_factory.mktemp("latents")
  x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
  np.savez(place / "x.npz", x=x, labels=np.arange(60) % 3)
  settings = config.Config(
      data=f"arrays(path={str(place / 'x.npz')!r}, holdout=0.4)", network=NETWORK,
      objective=config.Objective(autoencoder="reconstruction()"))
  runner.untrained(place / "ae", settings)
  out = runner.succeed("encode", f"--workdir={place / 'ae'}", f"--out={place / 'shards'}",
                       "--shards=2")
  assert "36 training and 24 held-out examples (4, 4, 4)" in out
  runner.untrained(place / "run", config.Config(
      data=f"array_record(path={str(place / 'shards')!r})", network="dit(width=8, depth=1, "
      "heads=1, patch_size=2)", sampling=config.Sampling(grid="karras(3)")))
  # Neither the images nor the autoencoder nor the shards are needed any longer.
  for name in ("ae", "shards"):
    shutil.move(place / name, place / f"{name}-elsewhere")
  return place


@pytest.fixture(scope="module")
def latents(place):
  return data.load("array_record", path=str(place / "shards-elsewhere"))


def test_an_autoencoder_trains_and_reports_reconstructions(place, tmp_path):
  command = ("train", "--config=autoencoder", f"--config.data=arrays(path='{place / 'x.npz'}')",
             f"--config.network={NETWORK}", "--config.training.steps=2",
             "--config.training.batch_size=8", f"--workdir={tmp_path / 'ae'}")
  assert "trained to step 2" in runner.succeed(*command, pictures=True)
  assert {file.name for file in (tmp_path / "ae").glob("loss*.png")} == {"loss.png"}  # no levels
  runner.succeed("evaluate", f"--workdir={tmp_path / 'ae'}", "--extractor=pixels")
  found = json.loads((tmp_path / "ae" / "evaluation.json").read_text())["metrics"]
  assert {"rmse", "psnr", "kl", "fd_pixels"} <= set(found)
  rmse = found["rmse"]["value"]
  assert found["psnr"]["value"] == pytest.approx(20 * np.log10(255 / rmse), abs=0.05)


def test_latents_are_those_of_the_autoencoder(place, latents):
  codec = latents.codec
  assert latents.train.shape == (36, 4, 4, 2) and data.example_shape(latents) == (8, 8, 1)
  assert (latents.kind, latents.integers, latents.num_classes) == ("image", True, 3)
  images = data.load("arrays", path=str(place / "x.npz"), holdout=0.4)
  mean, std = codec.encode(data.restore(images, images.train))
  # A fixed draw of each example, standardised by the moments of z.
  z = latents.train[:] * latents.scale + latents.mean
  scores = (z - mean) / std
  assert abs(scores.mean()) < 4 / np.sqrt(scores.size) and abs(scores.std() - 1.0) < 0.1
  np.testing.assert_array_equal(latents.train[:], latents.train[np.arange(36)])
  expected = np.sqrt(mean.var() + np.mean(std**2))
  assert float(latents.scale) == pytest.approx(expected, rel=1e-5)
  assert float(latents.mean) == pytest.approx(mean.mean(), rel=1e-4)
  np.testing.assert_allclose(
      data.in_standard_units(latents, data.restore(images, images.test)) * latents.scale
      + latents.mean, codec.encode(data.restore(images, images.test))[0], rtol=1e-5, atol=1e-5)


def test_batches_draw_anew_and_are_functions_of_seed_and_step(latents):
  draw = lambda step: batches.batch(latents, seed=3, step=step, batch_size=36)[0]
  first, again, later = draw(0), draw(0), draw(1)
  np.testing.assert_array_equal(first, again)
  # Both steps are whole epochs: the same examples with other noise.
  order = lambda x: np.sort(x.reshape(36, -1).mean(1))
  assert not np.any(order(first) == order(later))
  part = batches.batch(latents, seed=3, step=0, batch_size=36, rows=np.array([5, 7]))[0]
  np.testing.assert_array_equal(part, first[[5, 7]])


def test_moments_of_latents_are_those_of_draws():
  rng = np.random.default_rng(0)
  m, s = rng.normal(1.0, 2.0, (200_000, 3)), rng.uniform(0.5, 1.5, (200_000, 3))
  both = np.concatenate([m, s], axis=1)
  mean, variance = shards.latent_moments(np.stack([both.mean(0), both.var(0)]))
  z = m + s * rng.standard_normal(m.shape)
  np.testing.assert_allclose(mean, z.mean(0), atol=0.03)
  np.testing.assert_allclose(variance, z.var(0), rtol=0.02)


def test_samples_are_decoded_without_autoencoder_and_data(place, tmp_path):
  out = tmp_path / "samples.npy"
  runner.succeed("sample", f"--workdir={place / 'run'}", "--num_samples=5", f"--out={out}",
                 f"--pngs={tmp_path / 'pngs'}", pictures=True)
  x = np.load(out)
  assert x.shape == (5, 8, 8, 1) and x.min() >= 0.0 and x.max() <= 255.0
  np.testing.assert_array_equal(x, np.round(x))
  assert len(list((tmp_path / "pngs").rglob("*.png"))) == 5 and out.with_suffix(".png").is_file()
  runner.succeed("sample", f"--workdir={place / 'run'}", "--num_samples=5", "--stop_level=0.5",
                 f"--out={tmp_path / 'noisy.npy'}")
  assert np.load(tmp_path / "noisy.npy").shape == (5, 4, 4, 2)  # latents


def test_a_copy_of_a_codec_is_the_codec(latents, tmp_path):
  codecs.write(latents.codec, tmp_path)
  again, z = codecs.read(tmp_path), latents.test[:3]
  np.testing.assert_array_equal(again.decode(z), latents.codec.decode(z))
  assert again.decode(z[:0]).shape == (0, 8, 8, 1)
  (tmp_path / codecs.PARAMETERS).write_bytes(b"cut")
  with pytest.raises(ValueError, match=r"autoencoder\.safetensors .*damaged"):
    codecs.read(tmp_path)


def test_autoencoders_have_the_kernels_of_convolutions(latents, monkeypatch):
  monkeypatch.setattr(meshes, "own_convolutions", lambda platform: {"no_such_option": platform})
  monkeypatch.setattr(codecs, "_programs", codecs._programs.__wrapped__)
  for call, x in ((latents.codec.encode, np.zeros((1, 8, 8, 1), np.float32)),
                  (latents.codec.decode, latents.test[:1])):
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
      call(x)


def test_an_extractor_without_weights_is_refused_before_latents_are_decoded(latents, monkeypatch):
  monkeypatch.setattr(codecs, "_programs", lambda *network: pytest.fail("a program was made"))
  with pytest.raises(ValueError, match="inception needs weights"):
    comparisons.check(comparisons.choice_of_flags("inception()", ()), latents)


@pytest.mark.parametrize("command, words", [
    (("sample", "--workdir={ae}"), "this run is an autoencoder, which has no samples of its own"),
    (("evaluate", "--workdir={ae}", "--likelihood"), "--likelihood is of diffusion models"),
    (("sample", "--workdir={run}", "--known=held_out", "--mask=left"), "--known"),
    (("encode", "--workdir={run}", "--out={new}"), "this run is no autoencoder"),
    (("encode", "--workdir={ae}", "--out={new}", "--data=digits"), ""),
    (("encode", "--workdir={ae}", "--out={new}", "--data=mixture2d"),
     "the autoencoder is of examples of shape (8, 8, 1), the data have (2,)\n"),
    (("encode", "--workdir={ae}", "--out={new}", "--data=arrays(path='{colour}')"),
     "have (8, 8, 3); pictures are read in that shape by images(path=…, size=8, channels=1)\n"),
    (("train", "--config=digits", "--config.network=autoencoder", "--workdir={new}"),
     "config.network=autoencoder is trained with config.objective.autoencoder"),
    (("train", "--config=digits", "--config.objective.autoencoder=reconstruction",
      "--workdir={new}"), "objective.autoencoder trains the network autoencoder"),
    (("train", "--config=autoencoder", "--config.data=digits", "--workdir={new}",
      "--config.network.groups=3"), "groups must divide channels"),
    (("train", "--config=autoencoder", "--config.data=digits", "--workdir={new}",
      "--config.training.evaluate_every=5"), "config.training.evaluate_every is for diffusion"),
], ids=lambda value: value if isinstance(value, str) else None)
def test_what_an_autoencoder_cannot_do_is_one_line(command, words, place, tmp_path):
  names = {"ae": place / "ae-elsewhere", "run": place / "run", "new": tmp_path / "new",
           "colour": tmp_path / "colour.npy"}
  np.save(names["colour"], np.zeros((20, 8, 8, 3), np.uint8))
  code, _, err = runner.call(*(word.format(**names) for word in command))
  if not words:
    assert code == 0, err
    return
  assert code == 2 and words in err and err.count("\n") == 1, err


def test_weights_of_vgg_are_read_as_arrays_alone(tmp_path):
  class Call:
    def __reduce__(self):
      return print, ("called",)

  file = tmp_path / "vgg16.ckpt"
  file.write_bytes(pickle.dumps({"VGG16_0": Call()}))
  with pytest.raises(ValueError, match=r"it would call builtins\.print"):
    vgg.read(str(file))
  file.write_bytes(pickle.dumps({"VGG16_0": {
      f"Conv_{i}": {"kernel": np.zeros((3, 3, 3, 8)), "bias": np.zeros(8)} for i in range(13)}}))
  with pytest.raises(ValueError, match="convolutions of another network"):
    vgg.read(str(file))
  with pytest.raises(ValueError, match="cannot be read"):
    vgg.read(str(tmp_path / "none.ckpt"))


@pytest.fixture
def narrow_vgg(monkeypatch):
  """Random weights of a VGG16 with few channels, which are read in the place of the installed ones.
  """
  rng, widths = np.random.default_rng(0), [3, *(4, 4), *(6, 6), *(8,) * 9]
  params = {f"Conv_{i}": {
      "kernel": np.float32(rng.normal(size=(3, 3, *pair)) / np.sqrt(4.5 * pair[0])),
      "bias": np.float32(0.1 * rng.normal(size=pair[1:]))}
      for i, pair in enumerate(itertools.pairwise(widths))}
  monkeypatch.setattr(vgg, "read", lambda: params)
  return params


def test_the_perceptual_term_is_the_distance_of_vggs_features(narrow_vgg):
  """That of Zhang et al. 2018 with equal weights: 0 of equal images, and more of others."""
  x = np.random.default_rng(1).uniform(-1.0, 1.0, (3, 16, 20, 1)).astype(np.float32)
  encode = lambda params, x: Normal(x, jnp.full_like(x, -80.0))  # z = x

  @jax.jit
  def term(factor):
    value = lambda weight: autoencoders.reconstruction(
        encode, lambda factor, z: factor * z, kl=0.0, perceptual=weight)(
            factor, jax.random.key(0), (x, None))[0]
    return value(2.0) - value(0.0)

  def unit_layers(x):
    layers = jax.jit(vgg.layers)(narrow_vgg, np.repeat(x, 3, axis=-1))
    return [h / (np.linalg.norm(h, axis=-1, keepdims=True) + 1e-10) for h in layers]

  expected = sum(float(np.mean(np.sum((a - b) ** 2, axis=-1)))
                 for a, b in zip(unit_layers(x), unit_layers(-0.5 * x), strict=True))
  assert abs(float(term(1.0))) < 1e-9 and expected > 0.1
  assert float(term(-0.5)) == pytest.approx(2.0 * expected, rel=1e-4)
  with pytest.raises(ValueError, match="at least 16 × 16 pixels; got examples of shape"):
    vgg.unit_layers(narrow_vgg)(x[:, :15])


def test_training_lowers_the_distance_of_vggs_features(narrow_vgg):
  """Of a decoder that mixes the colours of z = x, by steps of the objective of a config."""
  def apply(mixture, x, how):
    return Normal(x, jnp.full_like(x, -80.0)) if how == "encode" else x @ mixture

  loss = build.autoencoder(config.Config(
      network=NETWORK, objective=config.Objective(autoencoder="reconstruction(perceptual=1000)")),
      apply)
  optimizer = optax.adam(0.02)
  x = np.random.default_rng(1).uniform(-1.0, 1.0, (4, 16, 16, 3)).astype(np.float32)
  step = jax.jit(lambda state: training.train_step(
      state, jax.random.key(0), (x, None), loss=loss, optimizer=optimizer,
      averages=(training.averages.half_life(1.0),)))
  state, losses = training.init(np.eye(3, dtype=np.float32)[::-1] / 2.0, optimizer), []
  for _ in range(40):
    state, measured = step(state)
    losses.append(float(measured.loss))
    if len(losses) == 1:
      assert measured.grad_norm > 10.0  # that of |x − x̂| is at most 3
  # The squared distance of two non-negative vectors of length 1 is at most 2, in five layers.
  assert 100.0 < losses[0] < 10_000.0 and losses[-1] < 0.3 * losses[0]
