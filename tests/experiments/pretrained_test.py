"""Public weights: outputs and samples against other projects' networks, runs of them, refusals."""

import dataclasses
import functools
import json
import pathlib
import pickle
import re
import zipfile

import grain  # before any test saves and restores absl's flags: grain defines some
import jax
import jax.numpy as jnp
import numpy as np
import pretrained_cases
import pytest
import runner
import safetensors.numpy
from flax import traverse_util

import experiments
from experiments import config
from experiments.config import calls
from experiments.metrics.certificate import measures
from experiments.pretrained import dinov2, imported, weights
from experiments.sampling import drawing
from langevin_jax import paths, predictions, samplers

assert grain.sources  # imported for the flags it defines
CASES = pretrained_cases.CASES


def tensors_of(case):
  kept = {key.removeprefix("kept/"): value for key, value in case.items() if "kept/" in key}
  return pretrained_cases.random_weights(case["shapes"], kept)


def saved(case, folder, tensors=None):
  """The weights of a case as their project saves them: a directory of diffusers, or a file."""
  tensors = tensors_of(case) if tensors is None else tensors
  if "config" not in case:
    np.savez(folder / "weights.npz", **tensors)
    return folder / "weights.npz"
  for name, content in (("model/config.json", case["config"]),
                        ("scheduler/scheduler_config.json", case["scheduler"])):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
  safetensors.numpy.save_file(tensors, folder / "model/diffusion_pytorch_model.safetensors")
  return folder / "model"


@functools.cache
def built(name, folder):
  """(the facts of a case, its run, its parameters, what the layout says of it)."""
  case = pretrained_cases.load(name)
  network, read = imported.read(saved(case, pathlib.Path(folder)), CASES[name][0])
  _, run = imported.run(network, None)
  source = imported.fill(run, network, read)
  params = traverse_util.unflatten_dict(source.arrays, sep="/")
  return case, run, params, network


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  def make(name):
    place = tmp_path_factory.getbasetemp() / f"weights-{name}"
    place.mkdir(exist_ok=True)
    return str(place)

  return make


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_reference_at_ten_levels(name, folder):
  case, run, params, network = built(name, folder(name))
  channels = network.shape[-1]
  x, labels = pretrained_cases.inputs(channels, network.num_classes + network.null_label)
  arguments = (params, np.moveaxis(x, 1, -1), case["ell"].astype(np.float32), labels)
  value = jax.jit(run.apply)(*arguments)
  # The velocity of SiT is from noise to data.
  expected = np.moveaxis(case["value"], 1, -1)[..., :channels] * (-1.0 if name == "sit" else 1.0)
  norms = lambda a: np.linalg.norm(np.reshape(a, (len(x), -1)), axis=1)
  assert np.max(norms(value - expected) / norms(expected)) < 1e-5


@pytest.mark.parametrize(("weights", "name", "method"), [
    ("ddpm", "ddim", samplers.ddim()), ("ddpm", "dpm", samplers.multistep(2, midpoint=True)),
    ("classes", "ddim", samplers.ddim()), ("ddpm", "clipped", samplers.ddim()),
    ("classes", "clipped", samplers.ddim())])
def test_samples_are_those_of_diffusers_pipelines(weights, name, method, folder):
  """ε of a linear β, and v of one with labels, rescaled to end at noise alone."""
  case, run, params, _ = built(weights, folder(weights))
  ells = pretrained_cases.table(case["scheduler"], case[f"{name}_times"])
  assert np.isinf(ells[0]) == (weights == "classes")
  start = np.moveaxis(pretrained_cases.inputs(3, 0)[0][:2], 1, -1)
  model = drawing.denoiser(run, params, paths.vp(), jnp.arange(2))
  if name == "clipped":
    model = predictions.clipped(model, paths.vp(), -1.0, 1.0)
    assert np.abs(case["clipped"] - case["ddim"]).max() > 0.1
  x = samplers.sample(
      jax.random.key(0), model, paths.vp(), shape=start.shape, method=method, initial=start,
      grid=samplers.explicit(np.exp(-ells)))
  expected = np.moveaxis(case[name], 1, -1)
  assert np.linalg.norm(x - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", [*CASES, *pretrained_cases.OTHERS])
def test_fixtures_are_what_the_packages_compute(name):
  packages = {"inception": ("torch_fidelity", "torchvision"), "dinov2": ("timm", "torchvision"),
              "vgg16": ()}.get(name, ("diffusers", "azula"))
  pytest.importorskip("torch")
  for package in packages:
    pytest.importorskip(package, minversion="0.38" if package == "diffusers" else None)
  try:
    found = pretrained_cases.reference(name)
  except ImportError as error:
    pytest.skip(f"{error}: a clone that is no package")
  for key, expected in pretrained_cases.load(name).items():
    if isinstance(expected, np.ndarray):
      np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="session")
def run_of_classes(folder, tmp_path_factory):
  """A run of the case "classes": v-prediction, zero terminal SNR, four classes."""
  workdir = tmp_path_factory.mktemp("classes") / "run"
  place = saved(pretrained_cases.load("classes"), pathlib.Path(folder("classes")))
  said = runner.succeed("convert", f"--weights={place}", f"--workdir={workdir}")
  assert "examples of shape (8, 8, 3), 4 classes, predicting v" in said
  return workdir


def test_the_run_is_a_model_in_the_units_of_pictures(run_of_classes, folder):
  model = experiments.load(run_of_classes)
  assert (model.shape, len(model.classes), model.step) == ((8, 8, 3), 4, 0)
  params = built("classes", folder("classes"))[2]
  x = np.random.default_rng(0).uniform(0.0, 255.0, (2, 8, 8, 3)).astype(np.float32)
  labels = np.array([1, 3], np.int32)
  # D of the picture x = α x₀ + σ ε in 0 … 255 is D of the network's states in [−1, 1].
  state = 0.6 * (x - 127.5) / 127.5
  compiled = model.run._replace(apply=jax.jit(model.run.apply))
  got = dataclasses.replace(model, run=compiled).denoise(
      0.6 * x, alpha=0.6, sigma=0.8 * 127.5, condition=labels)
  expected = drawing.denoiser(compiled, params, paths.vp(), labels).at(state, jnp.log(0.6 / 0.8))
  np.testing.assert_allclose(got, 127.5 * (1.0 + expected), rtol=1e-4, atol=1e-2)
  with pytest.raises(ValueError, match="label_dropout"):
    model.denoise(x, alpha=0.6, sigma=100.0)


@pytest.mark.slow
def test_the_run_is_sampled_and_inpainted_like_any_other(run_of_classes, tmp_path):
  out = tmp_path / "x.npy"
  sample = "sample", f"--workdir={run_of_classes}", f"--out={out}", "--steps=2"
  runner.succeed(*sample, "--num_samples=2", "--path=rectified_flow", "--stochasticity=1")
  x = np.load(out)
  assert x.shape == (2, 8, 8, 3) and 0 <= x.min() < x.max() <= 255 and np.all(x == np.round(x))
  np.save(tmp_path / "known.npy", np.full((8, 8, 3), 100.0, np.float32))
  runner.succeed(*sample, f"--known={tmp_path / 'known.npy'}", "--mask=top", "--num_samples=1",
                 "--label=1", "--inpainting=lanpaint(inner_steps=1)")
  assert (np.load(out)[:, :4] == 100.0).all()
  code, _, said = runner.call("evaluate", f"--workdir={run_of_classes}")
  assert code == 2 and "imported without data" in said


@pytest.mark.slow
def test_with_data_the_run_is_trained_further(folder, tmp_path):
  place = saved(pretrained_cases.load("ddpm"), pathlib.Path(folder("ddpm")))
  x = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
  np.savez(tmp_path / "x.npz", x=x, labels=np.arange(20) % 2)
  workdir = tmp_path / "run"
  runner.succeed("convert", f"--weights={place}", f"--data=arrays(path='{tmp_path / 'x.npz'}')",
                 "--data.holdout=0.5", f"--workdir={workdir}")
  begun = experiments.load(workdir)
  assert (begun.run.dataset.mean, begun.run.dataset.scale) == (127.5, 127.5)
  # The network knows no labels, so those of the data are left out.
  assert "unlabelled" in (workdir / "config.json").read_text() and not begun.run.dataset.num_classes
  with pytest.raises(ValueError, match="condition must be left out: the data have no labels"):
    begun.sample(0, 2, condition=3)
  assert "holds a run already" in runner.refused(
      "convert", f"--weights={place}", f"--workdir={workdir}")
  assert repr(begun).startswith("Model(unet(") and "shape (8, 8, 3)" in repr(begun)
  convert = "convert", f"--weights={place}", f"--workdir={tmp_path / 'other'}"
  assert "values 0 … 16; pictures fill" in runner.refused(*convert, "--data=digits()")
  assert "shape" in runner.refused(*convert, "--data=rescaled(digits(), mean=8, scale=8)")
  # Units that are given are those of the run.
  arrays = f"arrays(path='{tmp_path / 'x.npz'}', holdout=0.5)"
  call = calls.make(f"rescaled({arrays}, mean=100, scale=50)", "data", "--data")
  dataset = imported.run(imported.read(place, "")[0], call)[1].dataset
  assert (dataset.mean, dataset.scale) == (100.0, 50.0)
  runner.succeed("train", f"--workdir={workdir}", "--config.training.steps=1",
                 "--config.training.batch_size=4", "--allow_change=training")
  trained = experiments.load(workdir)
  assert trained.step == 1
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), begun.params, trained.params)
  assert 0.0 < max(jax.tree.leaves(moved)) < 0.1


@pytest.mark.slow
def test_a_run_of_public_weights_is_judged_and_has_likelihoods_and_a_certificate(
    folder, tmp_path, monkeypatch):
  place = saved(pretrained_cases.load("ddpm"), pathlib.Path(folder("ddpm")))
  np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(
      0, 256, (20, 8, 8, 3), dtype=np.uint8))
  runner.succeed("convert", f"--weights={place}", f"--data=arrays(path='{tmp_path / 'x.npy'}')",
                 "--data.holdout=0.5", f"--workdir={tmp_path / 'run'}")
  runner.succeed("evaluate", f"--workdir={tmp_path / 'run'}", "--num_samples=20", "--steps=1",
                 "--path=ve", "--sampler=heun", "--likelihood", "--likelihood_samples=2",
                 "--likelihood_steps=1")
  found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
  assert np.isfinite(found["nll_even_nats"]["value"])
  monkeypatch.setattr(measures, "sizes", lambda *, fast: {
      "points": 10, "steps": 1, "examples": 100, "draws": 2, "waves": 4})
  said = runner.succeed("certify", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
  # Random weights are of no law of data.
  assert "step 0, breaks duality for ρ from 20" in " ".join(said.split())


def test_names_of_older_diffusers_are_read(folder, tmp_path):
  _, run, params, network = built("ddpm", folder("ddpm"))
  older = {after: before for before, after in network.older.items()}
  case = pretrained_cases.load("ddpm")
  tensors = {imported._today(name, older): value for name, value in tensors_of(case).items()}
  assert any(".query." in name for name in tensors)
  source = imported.fill(run, network, weights.read(saved(case, tmp_path, tensors)))
  name = "middle_0/qkv/kernel"
  np.testing.assert_array_equal(source.arrays[name], params["middle_0"]["qkv"]["kernel"])


def test_tensors_that_do_not_fit_are_named(folder, tmp_path):
  case = pretrained_cases.load("ddpm")
  tensors = tensors_of(case)
  tensors["mid_block.extra"] = tensors.pop("conv_in.bias")
  tensors["conv_norm_out.weight"] = np.ones(7, np.float32)
  said = runner.refused("convert", f"--weights={saved(case, tmp_path, tensors)}",
                        f"--workdir={tmp_path / 'run'}")
  assert "1 missing (conv_in.bias)" in said and "1 extra (mid_block.extra)" in said
  assert "1 misshapen (conv_norm_out.weight (7,) where norm/scale is (16,))" in said
  assert not (tmp_path / "run").exists()


# Autoencoders, too.
LAYOUTS = {name: layout for name, (layout, _) in CASES.items()} | dict.fromkeys(
    ("autoencoder_kl", "autoencoder_plain"), "autoencoder_kl")
# Nothing else in these weights says that there are labels.
LABELS = {("adm", "label_emb.weight"), ("edm_adm", "map_label.weight"),
          ("edm_iddpm", "model.map_label.weight")}


@pytest.fixture
def without(monkeypatch, tmp_path):
  """(case, "tensors" or "config") → of each name in them: (what is read without it, or the error).

  With `instead`, its value is changed. What is read leaves out functions, which are made anew.
  """
  def each(name, kind, instead=None):
    case = pretrained_cases.load(name)
    given = {"tensors": tensors_of(case), "config": case.get("config", {})}
    place, values = tmp_path / "weights.npz", given[kind]
    place.touch()
    monkeypatch.setattr(weights, "_read", lambda file: given["tensors"])
    for absent in ("", *values):
      given[kind] = {key: instead(value) if key == absent else value
                     for key, value in values.items() if key != absent or instead}
      if kind == "config" or not absent:
        (tmp_path / "config.json").write_text(json.dumps(given["config"]))
      try:
        found = imported.read(place, LAYOUTS[name])[0]
        yield absent, found._replace(table=[row[:2] for row in found.table], numbers=None)
      except ValueError as error:
        yield absent, str(error)

  return each


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tensor_that_is_missing_is_named_whatever_is_read_from_it(name, without):
  """By the layout, or by `fill` if the layout says the same of the network."""
  (_, whole), *others = without(name, "tensors")
  assert not isinstance(whole, str)
  for tensor, found in others:
    if isinstance(found, str):
      assert tensor.removeprefix("model.") in found and "weights.npz" in found, (tensor, found)
      assert "\n" not in found
    else:
      assert found == whole or (name, tensor) in LABELS, tensor


def test_a_tensor_that_is_missing_from_dinov2_is_named():
  tensors = tensors_of(pretrained_cases.load("dinov2"))
  for name in tensors:
    with pytest.raises(ValueError, match=f"^dinov2: weights hold no {name}; "):
      dinov2.read({key: value for key, value in tensors.items() if key != name}, count=2)


@pytest.mark.parametrize(("name", "needed"), [
    ("ddpm", {"block_out_channels", "sample_size", "down_block_types", "up_block_types"}),
    ("autoencoder_kl", {"block_out_channels", "sample_size"}),
    ("diffusers_dit", {"num_layers", "num_attention_heads", "attention_head_dim", "patch_size",
                       "sample_size"})])
def test_a_key_of_a_config_that_is_missing_is_named(name, needed, without):
  """The others have defaults in diffusers."""
  errors = {key: found for key, found in without(name, "config") if isinstance(found, str)}
  assert set(errors) == needed
  for key, error in errors.items():
    assert key in error and "config.json" in error and "\n" not in error, error


@pytest.mark.parametrize(("name", "kind", "instead"), [
    *((name, "tensors", np.ravel) for name in CASES),
    *((name, "config", instead) for name in ("ddpm", "autoencoder_kl", "diffusers_dit")
      for instead in (lambda _: 5, lambda _: {"a": 1}, lambda _: [[0]], lambda _: "b"))])
def test_values_of_another_form_are_one_line(name, kind, instead, without):
  errors = {key: found for key, found in without(name, kind, instead) if isinstance(found, str)}
  assert errors
  for key, error in errors.items():
    assert "\n" not in error and re.search(r"--weights|--layout|config\.json", error), (key, error)


@pytest.mark.parametrize(("name", "layout", "words"), [
    ("adm", "edm", "has not the names of edm: it looks like adm"),
    ("dit", "", "looks like dit or sit: say --layout=NAME"),
    ("ddpmpp", "diffusers_unet", "has not the names of diffusers_unet: it looks like edm"),
    ("ddpmpp", "edm(sigma=1)", "edm has no argument 'sigma'"),
    ("edm_iddpm", "edm", "weights with the table `u` are of preconditioning='iddpm'"),
    ("edm_vp", "edm(preconditioning='vp', sigma_data=1.0)", "preconditioning='vp' has none"),
    ("edm_vp", "edm(preconditioning='sub_vp')", "preconditioning"),
    ("ddpmpp", "edn", "did you mean edm"),
])
def test_weights_of_another_layout_are_named(name, layout, words, folder, tmp_path):
  place = saved(pretrained_cases.load(name), pathlib.Path(folder(name)))
  assert words in runner.refused("convert", f"--weights={place}", f"--layout={layout}",
                                 f"--workdir={tmp_path / 'run'}")


def test_labels_beyond_the_classes_of_the_weights_are_refused(run_of_classes):
  code, _, said = runner.call("sample", f"--workdir={run_of_classes}", "--label=4")
  assert code == 2 and "--label must be a class in 0 … 3, or none; got '4'" in said


class _Code:
  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path("it-ran"),)


def test_a_pickle_of_code_is_refused_and_nothing_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code = pickle.dumps({"a": _Code()})
  with zipfile.ZipFile("new.pt", "w") as archive:
    archive.writestr("weights/data.pkl", code)
  for name, words in (("new.pt", "its pickle would run pathlib"), ("old.pt", "would run pathlib"),
                      ("edm.pkl", "a pickle runs the code")):
    if name != "new.pt":
      pathlib.Path(name).write_bytes(code)
    with pytest.raises(ValueError, match=words) as error:
      weights.read(pathlib.Path(name))
    assert "\n" not in str(error.value)
  assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("name", ["tensors.pt", "tensors_old.pt"])
def test_a_file_of_torch_is_read_without_torch(name):
  """Transposed, offset, bfloat16, integer: what `pretrained_cases.torch_file` has saved."""
  found = weights.read(pretrained_cases.FOLDER / name).tensors
  a = np.arange(6.0).reshape(2, 3)
  assert set(found) == {"a", "b", "c", "d"}
  for name, value in (("a", a.T), ("b", a[1:]), ("c", a[0, 1]), ("d", [3])):
    np.testing.assert_array_equal(found[name].astype(np.float64), value)


def test_noise_levels_beyond_a_table_and_infinite_ones_are_finite(folder):
  _, run, params, _ = built("classes", folder("classes"))
  x = np.zeros((3, 8, 8, 3), np.float32)
  value = jax.jit(run.apply)(params, x, np.array([-np.inf, 20.0, np.inf], np.float32),
                             np.zeros(3, np.int32))
  assert np.isfinite(value).all()


@pytest.mark.parametrize(("layout", "words"), [
    ("adm(side=8)", "weights do not say how attention is split into heads: give either"),
    ("adm(side=8, heads=2, head_channels=8)", "give either head_channels"),
    ("adm(side=8, heads=3)", "heads must divide the 64 channels"),
])
def test_heads_are_never_guessed(layout, words, folder, tmp_path):
  place = saved(pretrained_cases.load("adm"), pathlib.Path(folder("adm")))
  said = runner.refused("convert", f"--weights={place}", f"--layout={layout}",
                        f"--workdir={tmp_path / 'run'}")
  assert words in said


def test_a_network_of_latents_takes_its_autoencoder_along(folder, tmp_path):
  x = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
  np.savez(tmp_path / "x.npz", x=x, labels=np.arange(20) % 3)
  pictures = f"arrays(path='{tmp_path / 'x.npz'}')"
  runner.untrained(tmp_path / "ae", config.Config(
      data=pictures, network="autoencoder(channels=4, "
      "multipliers=(1, 2), blocks=1, groups=2)",
      objective=config.Objective(autoencoder="reconstruction()")))
  case = pretrained_cases.load("diffusers_dit")
  place = saved(case, pathlib.Path(folder("diffusers_dit")))
  convert = ("convert", f"--weights={place}", f"--autoencoder={tmp_path / 'ae'}")
  runner.succeed(*convert, f"--workdir={tmp_path / 'run'}")
  out = tmp_path / "x_out.npy"
  runner.succeed("sample", f"--workdir={tmp_path / 'run'}", "--num_samples=2", "--steps=1",
                 f"--out={out}")
  x = np.load(out)
  assert x.shape == (2, 16, 16, 3) and 0.0 <= x.min() <= x.max() <= 255.0
  # It is trained further on latents in its own units: z = x/2 of latents x.
  encode = ("encode", f"--workdir={tmp_path / 'ae'}", "--shards=2")
  further = (*convert[:2], f"--layout={CASES['diffusers_dit'][0]}",
             f"--workdir={tmp_path / 'further'}")
  runner.succeed(*encode, f"--data={pictures}", f"--out={tmp_path / 'other_units'}")
  data = f"--data=array_record(path='{tmp_path / 'other_units'}')"
  assert "rescaled(…, mean=0, scale=2)" in runner.refused(*further, data)
  runner.succeed(*encode, f"--data=rescaled({pictures}, mean=0, scale=2)",
                 f"--out={tmp_path / 'latents'}")
  data = f"--data=array_record(path='{tmp_path / 'latents'}')"
  runner.succeed(*further, data)
  runner.succeed("train", f"--workdir={tmp_path / 'further'}", "--config.training.steps=1",
                 "--config.training.batch_size=4", "--allow_change=training")
  trained = experiments.load(tmp_path / "further")
  assert trained.step == 1 and trained.run.dataset.codec.shape == (16, 16, 3)
  place = saved(pretrained_cases.load("adm"), pathlib.Path(folder("adm")))
  assert "--autoencoder has latents of shape (8, 8, 4), the network takes (8, 8, 3)" in (
      runner.refused("convert", f"--weights={place}", "--layout=adm(side=8, head_channels=16)",
                     f"--autoencoder={tmp_path / 'ae'}", f"--workdir={tmp_path / 'other'}"))
