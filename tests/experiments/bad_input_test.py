"""Bad input: one line that names the field, exit code 2, and a workdir left as it was."""

import ast
import json
import math
import os
import pathlib
import resource
import shutil
import types
import zipfile

import jax
import numpy as np
import pytest
import runner
from runner import SMALL

from experiments import config, data
from experiments.config import cli
from experiments.data import readers
from experiments.paper import record
from experiments.paper.exact import densities
from experiments.run import assembly, checkpoints, memory, meshes, records
from experiments.sampling import optimized_grids, samplers_from_config
from experiments.sweeping import arms, history, layouts
from langevin_jax import paths


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("bad_input") / "run"
  code, _, err = runner.run("train", *SMALL, "--config.training.steps=20",
                            "--config.training.checkpoint_every=10", f"--workdir={workdir}")
  assert code == 0, err
  return workdir


def contents(directory):
  return {str(file.relative_to(directory)): file.read_bytes()
          for file in sorted(directory.rglob("*")) if file.is_file()}


def refused(override):
  """The message with which a config with this override is refused, before anything is written."""
  with pytest.raises(ValueError) as caught:
    assembly.prepare(config.override(config.load(runner.CONFIGS / "mixture2d.py"), override))
  message = str(caught.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize(("name", "value", "wanted"), [
    ("network.widht", "3", "mlp has no argument 'widht' (did you mean width?)"),
    ("nonsense", "3", "no field 'nonsense'"),
    ("training", "3", "group of fields"),
    ("training.steps.x", "3", "single field"),
    ("network.width.x", "3", "width of mlp is no call"),
    ("network.width", "2.5", "config.network.width: expected an integer, got 2.5"),
    ("network.width", True, "expected an integer"),
    ("training.learning_rate", "fast", "config.training.learning_rate: expected a number, got 'f"),
    ("path", "vpp", "config.path: no path 'vpp' (did you mean vp?)"),
    ("path", "from_table((0, 1))", "give from_table either betas, or sigma"),
    ("objective.prediction", "noise", "objective.prediction: no prediction 'noise'; there are "),
    ("objective.weight", "none", "objective.weight: no weight 'none'; there are edm, "),
    ("objective.density", "flat", "objective.density: no density 'flat'"),
    ("objective.density.rho_min", "600", "0 < rho_min < rho_max"),
    ("objective.density", "log_normal_rho(std=-1)", "std of the noise levels must be positive"),
    ("path", "linear_vp(beta_min=30)", "0 < beta_min <= beta_max"),
    ("network", "cnn", "config.network: no network 'cnn'; there are mlp, dit, unet"),
    ("network", "dit", "images"),
    ("network.dtype", "float16", "network.dtype: expected one of float32, bfloat16"),
    ("network.width", "0", "width must be at least 1, got 0"),
    ("sampling.grid.n", "0", "sampling.grid.n: must be at least 1"),
    ("sampling.sampler", "magic", "sampling.sampler: no sampler 'magic'"),
    ("sampling.grid", "magic", "sampling.grid: no grid 'magic'"),
    ("sampling.sampler", "ddim(-0.5)", "stochasticity must be >= 0 and finite, got -0.5"),
    ("sampling.sampler.stochasticity", "0.5", "heun has no argument 'stochasticity'"),
    ("sampling.grid.rho_min", "100", "0 < rho_min < rho_max"),
    ("training.steps", "0", "training.steps: must be at least 1"),
    ("training.batch_size", "-1", "training.batch_size: must be at least 1"),
    ("training.schedule", "exponential", "training.schedule: no schedule 'exponential'"),
    ("training.schedule.warmup_steps", "-1", "warmup_steps must be at least 0, got -1"),
    ("training.label_dropout", "1.5", "label_dropout must lie in [0, 1]"),
    ("training.learning_rate", "0", "training.learning_rate must be positive"),
    ("training.optimizer.b2", "2", "b2 must lie in [0, 1), got 2"),
    ("training.optimizer.b1", "-1", "b1 must lie in [0, 1), got -1"),
    ("training.optimizer.weight_decay", "-1", "weight_decay must be >= 0 and finite, got -1"),
    ("sampling.grid", "shifted(8, shift=-1)", "shift must be positive"),
    ("objective.weight", "edm(sigma_data=0)", "sigma_data must be positive"),
    ("objective.density", "log_normal_rho(nan)", "objective.density.mean must be finite"),
    ("evaluation.num_samples", "-4", "evaluation.num_samples: must be at least 0"),
    ("evaluation.seed", "-1", "config.evaluation.seed: must lie in"),
    ("seed", str(10**20), "config.seed: must lie in"),
    ("data", "imagenet", "config.data: no data 'imagenet'"),
    ("data", "fashion_mnist(path='/nowhere')", "data.path: directory '/nowhere' must hold"),
    ("data", "arrays", "config.data: arrays(path, labels='', holdout=0.2"),
    ("data", "arrays('')", "data.path must name an existing file"),
    ("sampling.guidance", "2", "sampling.guidance needs data with labels"),
])
def test_config_is_refused_by_name(name, value, wanted):
  assert wanted in refused({name: value})


@pytest.mark.parametrize(("override", "field"), [
    ({"network.width": 20_000}, "config.network.width=20000"),
    ({"network": "unet(channels=20000)"}, "config.network.channels=20000"),
    ({"network": f"unet_edm2(blocks={10**6})"}, "config.network.blocks=1000000"),
    ({"network.width": 10**9}, "config.network.width=1000000000"),
    ({"network.depth": 2**31 - 1, "network.width": 1}, "config.network"),
    ({"network.depth": 10**6}, "config.network"),
    ({"training.cpu_devices": 2**31 - 1}, "config.training.cpu_devices"),
    ({"sampling.grid.n": 10**9}, "config.sampling.grid.n"),
    ({"sampling.clip": True}, "config.sampling.clip is for images"),
    ({"data.train_size": 10**9}, "config.data.train_size=1000000000"),
    ({"data.test_size": 10**9}, "config.data.test_size=1000000000"),
    *(({name: 10**30}, f"config.{name}") for name in (
        "network.width", "training.batch_size", "data.size", "evaluation.num_samples"))])
def test_what_does_not_fit_is_refused_before_work(override, field, monkeypatch):
  monkeypatch.setattr(memory, "free", lambda: 5e9)
  assert field in refused(override)


def test_nothing_is_assumed_of_the_memory_of_a_network_of_ones_own(monkeypatch):
  monkeypatch.setattr(memory, "free", lambda: 1.0)
  own = config.Call("mylab:Net", (("multipliers", 2), ("channels", "many")))
  memory.check_state(types.SimpleNamespace(network=own, training=config.Training()))


@pytest.mark.parametrize(("override", "field"), [
    ({"training.batch_size": 10**9}, "batch_size=1000000000: training takes at least 4 GB"),
    ({"network.width": 7500}, "config.network.width=7500: training takes at least 3.38 GB"),
    ({"training.batch_size": 4096, "training.steps_per_dispatch": 10**6}, "steps_per_dispatch")])
def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(override, field, monkeypatch):
  monkeypatch.setattr(memory, "free", lambda: 3e9)
  mine = config.override(config.Config(), {
      "network": "mlp", "network.width": 1, "network.depth": 1, **override})
  mesh = meshes.make(config.Mesh(), jax.devices()[:1])
  memory.check_state(mine, mesh)  # that of a run to sample from fits
  with pytest.raises(ValueError, match=field):
    memory.check_training(mine, (2,), mesh)


def test_samples_that_do_not_fit_are_refused_before_they_are_drawn(trained, monkeypatch):
  monkeypatch.setattr(memory, "free", lambda: 5e9)
  before = contents(trained)
  for module, flag, wanted in (
      ("sample", "--num_samples=2000000000", "--num_samples=2000000000: sampling takes at least"),
      ("evaluate", "--num_samples=200000000", "--num_samples=200000000: sampling takes at least"),
      ("evaluate", f"--likelihood --likelihood_steps={10**30}", "--likelihood_steps: must be at"),
      ("evaluate", f"--num_samples={10**30}", "--num_samples: must be at most")):
    code, _, err = runner.call(module, f"--workdir={trained}", *flag.split())
    assert code == 2 and err.startswith(f"error: {wanted}") and err.count("\n") == 1, err
  assert contents(trained) == before


def test_free_memory_is_what_the_process_may_still_take(monkeypatch):
  assert 0.0 < memory.free() < math.inf
  own = 1024 * memory._fields(pathlib.Path("/proc/self/status"))["VmSize"]
  monkeypatch.setattr(resource, "getrlimit", lambda limit: (
      (own + 10**6 if limit == resource.RLIMIT_AS else resource.RLIM_INFINITY), 0))
  assert memory.free() <= 2e6


@pytest.mark.parametrize("error", [
    MemoryError(), MemoryError("Unable to allocate 7.28 TiB\nfor an array"),
    OverflowError("Python int too large to convert to C long"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 10 bytes.\nmore")])
def test_out_of_memory_anywhere_is_one_line_with_the_largest_setting(error, monkeypatch):
  def prepare(*_, **__):
    raise error

  monkeypatch.setattr(assembly, "prepare", prepare)
  code, out, err = runner.call("train", *SMALL, "--config.network.width=5000", "--workdir=x")
  assert code == 2 and not out
  assert err.count("\n") == 1 and "the largest setting is config.network.width=5000" in err, err


DAMAGED = {
    "empty": b"", "cut": b'{"a": ', "a list": b"[1]", "binary": b"\xff\xfe\x00",
    "other": b'{"a": 1}',
    "deep": b"[" * 100_000, "long integer": b'{"seed": ' + b"9" * 5000 + b"}",
    "strings": json.dumps(dict.fromkeys((
        "config", "arms", "baseline", "seeds", "findings", "model_of", "groups", "lines", "points",
        "failed", "error", "final", "claims", "tables", "data", "seed"), "x")).encode()}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_files_of_ours_that_are_damaged_are_named(content, tmp_path):
  readers_of = {
      "config.json": lambda: records.read_config(tmp_path),
      "sweep.json": lambda: layouts.read(tmp_path),
      "result.json": lambda: records.read_result(tmp_path / "result.json"),
      "history.json": lambda: history.History(tmp_path),
      "grids.json": lambda: optimized_grids._read(tmp_path / "grids.json"),
      "nothing.json": lambda: record.read(tmp_path / "nothing.json"),
      "density.json": lambda: densities.load(str(tmp_path / "density.json"))}
  for name, read in readers_of.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
      read()
    assert "\n" not in str(caught.value), name
  # What a run has said is no part of it: it goes on, and says it anew.
  for name in ("manifest.json", "metrics.jsonl"):
    (tmp_path / name).write_bytes(content)
  assert not records.read_metrics(tmp_path)
  assert "sessions" not in records.read_manifest(tmp_path)
  records.manifest(tmp_path, config.Config(), from_step=0)
  assert len(records.read_manifest(tmp_path)["sessions"]) == 1


def test_a_finished_run_does_not_need_its_manifest(trained, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  sha = records.read_manifest(workdir)["sha256"]
  (workdir / "manifest.json").write_text('{"command": [')
  lines = records.read_metrics(workdir)
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 3, "loss": "x"}\n[]\n{"loss"')
  code, _, err = runner.call("train", *SMALL, "--config.training.steps=20",
                             "--config.training.checkpoint_every=10", f"--workdir={workdir}")
  assert code == 0, err
  assert records.read_manifest(workdir)["sha256"] == sha and records.read_metrics(workdir) == lines


def test_archives_that_hold_no_arrays(tmp_path):
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
    file.writestr("x", b"no array")
  shutil.copy(tmp_path / "x.npz", tmp_path / "zip.npy")
  np.save(tmp_path / "mine.npy", np.arange(18.0).reshape(9, 2))
  shutil.copy(tmp_path / "mine.npy", tmp_path / "mine.npz")
  for name in ("x.npz", "zip.npy"):
    with pytest.raises(ValueError, match=r"data\.path: .* 'x' is no array"):
      readers.read_numpy(str(tmp_path / name), "data.path", mapped=True)
  assert data.load("arrays", path=str(tmp_path / "mine.npz")).train.shape[1:] == (2,)
  for name in ("x.npz", "mine.npz"):
    with pytest.raises(ValueError, match=r"--density .*(does not hold arrays|lacks 'weights')"):
      densities.load(str(tmp_path / name))


def test_text_files_are_utf8_whatever_the_locale_says():
  text = ("read_text", "write_text", "open")
  for file in (*(runner.ROOT / "experiments").rglob("*.py"),
               *(runner.ROOT / "langevin_jax").rglob("*.py")):
    for node in ast.walk(ast.parse(file.read_bytes())):
      if not isinstance(node, ast.Call) or (isinstance(node.func, ast.Attribute) and isinstance(
          node.func.value, ast.Name) and node.func.value.id in ("records", "os", "Image")):
        continue
      binary = any(isinstance(word, ast.Constant) and "b" in str(word.value)
                   for argument in node.args for word in ast.walk(argument))
      if ast.unparse(node.func).split(".")[-1] in text and not binary and (
          ast.unparse(node.func) != "write_text"):  # which is records.write_text
        assert any(word.arg == "encoding" for word in node.keywords), f"{file}:{node.lineno}"


@pytest.mark.parametrize(("array", "labels", "wanted"), [
    (np.zeros(7), None, "data.path"),
    (np.zeros((0, 2)), None, "data.path"),
    (np.full((20, 2), np.nan), None, "data.path"),
    (np.random.default_rng(0).normal(size=(20, 2)), np.zeros(7, int), "labels"),
    (np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 3 * 7, "class 1 of 15"),
])
def test_bad_arrays_are_refused(array, labels, wanted, tmp_path):
  file = tmp_path / "mine.npz"
  np.savez(file, x=array, **({} if labels is None else {"labels": labels}))
  assert wanted in refused({"data": f"arrays({str(file)!r})"})


def test_image_of_a_size_the_network_cannot_cut(tmp_path):
  np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 9, 9, 1)))
  file = str(tmp_path / "x.npy")
  assert "patch_size" in refused({"data": f"arrays({file!r})", "network": "dit"})
  message = refused({"data": f"arrays({file!r})", "network": "dit", "data.shape": "8,8,1"})
  assert "data.shape" in message


def test_a_config_file_that_does_not_run_says_so(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("from experiments.config import Config\nget_config = lambda: Config(sede=3)\n")
  with pytest.raises(ValueError, match=r"mine\.py: TypeError: .*sede"):
    config.load(str(file))


def test_a_config_file_that_ends_the_process_does_not(tmp_path):
  (tmp_path / "mine.py").write_text("import sys\nsys.exit(0)\n")
  with pytest.raises(ValueError, match=r"mine\.py: SystemExit: 0"):
    config.load(str(tmp_path / "mine.py"))
  with pytest.raises(ValueError, match=r"mine\.py: SystemExit: 0"):
    arms.load(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("grid", ["cosine", "shifted", "uniform_time", "karras"])
@pytest.mark.parametrize("prediction", ["x0", "eps", "score", "velocity", "v", "edm"])
def test_pure_noise_is_refused_where_the_prediction_says_nothing_there(grid, prediction):
  """x₀ = (x − σ ε)/α at α = 0; on a path that ends at a finite level every grid will do."""
  sampling = config.Sampling(grid=f"{grid}(6)")
  check = lambda path: samplers_from_config.check(
      sampling, path, config.Objective(prediction=prediction))
  check(paths.vp())
  if prediction not in ("eps", "score") or grid == "karras":
    check(paths.rectified_flow())
    return
  wanted = rf"grid={grid} begins at t=.*\.prediction={prediction} says"
  with pytest.raises(ValueError, match=wanted):
    check(paths.rectified_flow())


@pytest.mark.parametrize(("module", "out", "wanted"), [
    ("sample", "config.npy", "config.json is a name of the run"),
    ("sample", "loss.npy", "loss.png is a name of the run"),
    ("sample", "checkpoints/x.npy", "is a name of the run in"),
    ("sample", "mine.npy", "would replace"),
    ("sample", "picture.npy", "picture.png, which this command has not written"),
    ("sample", "directory.npy", "directory.npy is a directory"),
    ("sample", "mine.npy/x.npy", "mine.npy"),
    ("evaluate", "manifest.json", "manifest.json is a name of the run"),
    ("evaluate", "grids.json", "grids.json is a name of the run"),
    ("evaluate", "other.json", "would replace"),
    ("evaluate", "directory.json", "directory.json is a directory"),
    ("evaluate", "mine.npy/e.json", "mine.npy"),
    ("targets", "config.json", "config.json is a name of the run"),
    ("targets", "other.json", "would replace"),
])
def test_out_replaces_nothing_but_its_own(module, out, wanted, trained, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  np.save(workdir / "mine.npy", np.ones(3))
  (workdir / "picture.png").write_bytes(b"mine")
  (workdir / "other.json").write_text('{"mine": 1}')
  for name in ("directory.npy", "directory.json"):
    (workdir / name).mkdir()
  before = contents(workdir)
  flags = ["--target=1"] if module.startswith("targets") else ["--num_samples=20"]
  code, said, err = runner.call(module, f"--workdir={workdir}", f"--out={workdir / out}", *flags)
  assert code == 2 and not said, err
  assert err.startswith("error: ") and len(err.splitlines()) == 1 and wanted in err, err
  assert contents(workdir) == before


def test_out_is_not_what_is_read(tmp_path):
  """The training data, its labels, and a folder of pictures; but a run may lie among its data."""
  data = tmp_path / "data"
  data.mkdir()
  np.save(data / "x.npy", np.ones((4, 2)))
  (data / "x.json").write_text('{"sampling": {}, "seed": 0}')  # earlier samples, trained on
  written = lambda made: "sampling" in made
  for inputs in ((data / "x.npy",), (data,), ("", f"{data}/../data/x.npy")):
    with pytest.raises(ValueError, match=r"is or lies in .*, which is read"):
      cli.out(data / "x.npy", written, suffix=".npy", inputs=inputs)
  assert cli.out(data / "x.npy", written, suffix=".npy", inputs=["held_out"]) == data / "x.npy"
  run = data / "run"
  run.mkdir()
  (run / "config.json").write_text("{}")
  assert cli.out(run / "x.npy", written, suffix=".npy", inputs=[data]) == run / "x.npy"


@pytest.mark.parametrize("arguments", [
    ["--config.network.widht=3"], ["--config.path=x"], ["--config.network=dit("],
    ["--config.training.steps=0"],
    ["--unknown=1"], ["--config=nowhere.py"], ["positional"]])
def test_command_line_says_one_line_and_makes_no_workdir(arguments, tmp_path):
  code, out, err = runner.call("train", *SMALL, *arguments, f"--workdir={tmp_path / 'run'}")
  assert code == 2 and not out
  assert err.startswith("error: ") and len(err.splitlines()) == 1, err
  assert not (tmp_path / "run").exists()


def test_sample_from_its_own_process_says_one_line(trained):
  before = contents(trained)
  code, out, err = runner.run("sample", f"--workdir={trained}", "--sampler=nonsense")
  assert code == 2 and not out
  assert err.startswith("error: ") and len(err.splitlines()) == 1, err
  assert contents(trained) == before


@pytest.mark.parametrize(("arguments", "wanted"), [
    ("--path=nonsense", "--path: no path 'nonsense'"),
    ("--steps=0", "--steps: must be at least 1"),
    ("--sampler=nonsense", "--sampler: no sampler 'nonsense'"),
    ("--num_samples=0", "num_samples: must be at least 1"),
    (f"--num_samples={10**12}", "--num_samples: must be at most 2,147,483,647"),
    (f"--steps={10**9}", "--steps: must be at most 100,000"),
    (f"--batch_size={10**30}", "--batch_size: must lie in"),
    ("--mask=left --known=held_out --inpainting.inner_steps=2147483648", "inner_steps: must lie"),
    ("--out=x.txt", "--out must end in .npy"),
    ("--seed=-1", "--seed must lie in"),
    ("--config.seed=3", "--config belongs to experiments.train"),
    ("--label=3", "--label must be left out"),
    ("--label=-7", "--label must be left out"),
    ("--label=seven", "--label must be left out"),
    ("--sampler=ddim --stochasticity=-1", "stochasticity must be >= 0"),
    ("--sampler=euler --stochasticity=0.5", "euler has no argument 'stochasticity'; it has none"),
    ("--sampler=ddim --sampler.order=2", "ddim has no argument 'order'; it has stochasticity"),
    ("--sampler=multistep --sampler.order=5", "order must be one of 1, 2, 3, 4, got 5"),
    ("--sampler=multistep(order=3) --steps=2", "needs a grid of at least 3 steps, got 2"),
    ("--sampler=unipc --steps=1", "needs a grid of at least 2 steps, got 1"),
    ("--sampler=heun(chrun=3)", "heun has no argument 'chrun' (did you mean churn?)"),
    ("--sampler=multistep(2,order=3)", "multistep got order twice"),
    ("--sampler=heun(", "expected a call of literals such as name(2, option='text'), got 'heun('"),
    ("--sampler=predictor_corrector(heun(),karras(3))", "--sampler.corrector: no corrector 'karr"),
    ("--sampler=predictor_corrector(heun())",
     "predictor_corrector(predictor, corrector, corrections=1) needs corrector"),
    ("--sampler=ddim --brownian", "--brownian needs stochasticity > 0"),
    ("--sampler=ddim(noise_interval(1,1,.1))", "rho_min must lie in [0, rho_max), got 1.0 and 0.1"),
    ("--grid=explicit((80,20,20,1))", "--grid=explicit(rho=(80.0, 20.0, 20.0, 1.0)): a grid"),
    ("--grid=explicit((80,20,-1))", "a grid"),
    ("--grid=explicit((80,'x'))", "--grid.rho: expected a number, got 'x'"),
    ("--grid=explicit((80,20)) --steps=3", "--steps: explicit has no argument 'n'"),
    ("--grid=explicit", "--grid: explicit(rho, end=0.0) needs rho"),
    ("--grid=explicit((200,20)) --path=geometric_ve", "begin at the path's noisiest level 80"),
    ("--grid=cosine --grid.rho_min=.1", "--grid.rho_min: cosine has no argument"),
    ("--grid.rho_min=90", "0 < rho_min < rho_max"),
    ("--grid.rho_max=inf", "0 < rho_min < rho_max < inf"),
    ("--sampler=predictor_corrector(heun(),exact(-1))", "budget must be"),
    ("--sampler=predictor_corrector(heun(),exact(),corrections=0)", "corrections must be"),
    ("--sampler=unipc --sampler.variable=beta", "variable: expected one of half_log_snr, alpha"),
    ("--sampler=adaptive --steps=5", "--grid and --steps would do nothing: the adaptive sampler"),
    ("--sampler=adaptive --trajectory", "--sampler=adaptive has no levels"),
    ("--sampler=adaptive --start_level=3", "adaptive has no levels to start or stop at"),
    ("--sampler=ddim(1) --grid=optimised", "an optimised grid is for the ODE alone"),
    ("--sampler=adaptive --sampler.tolerance=-1", "--sampler: tolerance must be positive"),
    ("--sampler=adaptive(max_steps=0)", "max_steps must be at least 1, got 0"),
    ("--sampler=adaptive(rho_min=90)", "--sampler: rho_min must lie in (0, rho_max), got 90.0"),
    ("--sampler=adaptive_sde(stochasticity=0)",
     "--sampler.stochasticity must be positive, got 0.0: take adaptive for the ODE"),
    ("--sampler=adaptive_sde --moments", "--moments is not for adaptive_sde"),
    ("--grid=optimised(8,rounds=-1)", "--grid.rounds: must be at least 0, got -1"),
    ("--sampler=multistep(largest_budget=.5)", "largest_budget needs stochasticity > 0"),
    ("--guidance=2", "--guidance needs data with labels"),
    ("--guidance=nan", "--guidance.weight must be finite"),
    ("--guidance.interval=1,2", "there is no call yet whose arguments could be set"),
    ("--guidance=classifier_free(2,interval=(3,1))", "guidance=classifier_free("),
    ("--guidance=2 --guidance.rescale=2", "rescale must lie in [0, 1]"),
    ("--inpainting.inner_steps=4", "--inpainting belongs to inpainting: give --mask and --known"),
    ("--mask=left", "--mask needs --known beside it"),
    ("--known=held_out", "--known needs --mask beside it"),
    ("--mask=left --known=held_out", "--mask=left needs images"),
    ("--mask=m.npy --known=nowhere.npy", "--known must name an existing file"),
    ("--mask=m.npy --known=held_out", "--mask must name an existing file"),
    ("--mask=left --known=held_out --inpainting=magic", "--inpainting: no inpainter 'magic'"),
    ("--mask=left --known=held_out --inpainting=ddnm --inpainting.friction=3",
     "--inpainting.friction: ddnm has no argument 'friction'; it has none"),
    ("--mask=left --known=held_out --inpainting=repaint", "repaint resamples by noise"),
    ("--mask=left --known=held_out --inpainting.inner_steps=0", "inner_steps must be at least 1"),
])
def test_sample_says_one_line_and_leaves_the_workdir(arguments, wanted, trained):
  before = contents(trained)
  code, out, err = runner.call("sample", f"--workdir={trained}", *arguments.split())
  assert code == 2 and not out
  assert err.startswith("error: ") and len(err.splitlines()) == 1 and wanted in err, err
  assert contents(trained) == before


def test_another_config_is_refused_by_its_fields(trained):
  before = contents(trained)
  code, _, err = runner.run("train", *SMALL, "--config.training.steps=30", "--config.seed=3",
                            f"--workdir={trained}")
  assert code == 2
  assert "training.steps: 20 → 30" in err and "seed: 0 → 3" in err
  assert contents(trained) == before


def test_directories_that_hold_no_run(trained, tmp_path):
  for module in ("sample", "evaluate"):
    code, _, err = runner.call(module, f"--workdir={tmp_path}")
    assert code == 2 and "holds no run" in err
  records.claim(tmp_path / "fresh", config.Config())
  with pytest.raises(ValueError, match=r"has no data\.json"):
    assembly.trained(tmp_path / "fresh")
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="is a file"):
    records.claim(tmp_path / "file", config.Config())


def test_checkpoint_of_another_shape_or_dtype_names_the_array(trained, tmp_path):
  run = assembly.prepare(config.override(records.read_config(trained), {"network.width": 24}))
  with checkpoints.manager(trained, keep=1, read_only=True) as manager:
    with pytest.raises(ValueError, match=(
        r"checkpoint of step 20 was written for another network or optimizer: params/.* is float32"
        r"\[32\], this config makes float32\[48\]; (params/[^;]*; ){4}and \d+ more$")) as error:
      checkpoints.restore(manager, assembly.abstract_state(run))
    assert "\n" not in str(error.value)
    run = assembly.prepare(records.read_config(trained))
    target = assembly.abstract_state(run)
    other = target._replace(step=target.step.update(dtype="int16"))
    with pytest.raises(ValueError, match=r"step is int32\[\], this config makes int16"):
      checkpoints.restore(manager, other)


def truncate(step_directory):
  """Cuts every large file of a checkpoint in half."""
  files = [file for file in step_directory.rglob("*") if file.is_file()]
  for file in sorted(files, key=os.path.getsize)[-3:]:
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def test_truncated_checkpoint_falls_back_to_the_one_before(trained, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(trained, workdir)
  sha = (workdir / "manifest.json").read_text().split('"sha256": ')[1].split(",")[0]
  truncate(workdir / "checkpoints" / "20")
  code, out, err = runner.run("train", *SMALL, "--config.training.steps=20",
                              "--config.training.checkpoint_every=10", f"--workdir={workdir}")
  assert code == 0, err
  assert "checkpoint of step 20 is damaged" in err and "at step 10" in out
  assert sha in (workdir / "manifest.json").read_text()

  for step in ("10", "20"):
    truncate(workdir / "checkpoints" / step)
  before = contents(workdir)
  code, _, err = runner.run("train", *SMALL, "--config.training.steps=20",
                            "--config.training.checkpoint_every=10", f"--workdir={workdir}")
  assert code == 2 and err.splitlines()[-1].startswith("error: checkpoints: none of steps [20, 10]")
  assert contents(workdir) == before
  code, _, err = runner.run("sample", f"--workdir={workdir}")
  assert code == 2 and err.splitlines()[-1].startswith("error: checkpoints: none of steps [20, 10]")
  assert contents(workdir) == before


def test_disk_without_room_is_said_before_writing(trained, tmp_path, monkeypatch):
  run = assembly.prepare(records.read_config(trained))
  with checkpoints.manager(trained, keep=1, read_only=True) as manager:
    state = checkpoints.restore(manager, assembly.abstract_state(run))
  usage = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
  with checkpoints.manager(tmp_path, keep=1) as manager:
    with pytest.raises(OSError, match="disk full: the checkpoint of step 1 takes"):
      checkpoints.save(manager, 1, state)
    assert manager.all_steps() == []
