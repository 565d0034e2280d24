"""Bad input: one line that names the field, exit code 2, and a workdir left as it was."""

import ast
import dataclasses
import json
import math
import os
import pathlib
import resource
import shutil
import zipfile

import jax
import numpy as np
import pytest
import runner
from runner import SMALL

from experiments import config, data
from experiments.config import build, cli
from experiments.data import readers
from experiments.paper import densities, part
from experiments.run import assembly, checkpoints, memory, meshes, records
from experiments.sampling import optimized_grids, samplers_from_config
from experiments.sweeping import arms, history, plan


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
    ("network.widht", "3", "did you mean width"),
    ("nonsense", "3", "no field 'nonsense'"),
    ("network", "3", "group of fields"),
    ("network.width.x", "3", "single field"),
    ("network.width", "2.5", "config.network.width: expected int, got '2.5'"),
    ("network.width", True, "expected int"),
    ("training.learning_rate", "fast", "config.training.learning_rate: expected float"),
    ("path.name", "vpp", "path.name: must be one of vp, linear_vp"),
    ("objective.prediction", "noise", "objective.prediction: must be one of x0, eps"),
    ("objective.weight", "none", "objective.weight: must be one of likelihood"),
    ("objective.density", "flat", "objective.density: must be one of"),
    ("objective.rho_min", "600", "0 < rho_min < rho_max"),
    ("objective.level_std", "-1", None),
    ("path.beta_min", "30", None),
    ("network.name", "unet", "network.name: must be one of mlp, dit"),
    ("network.name", "dit", "images"),
    ("network.dtype", "float16", "network.dtype must be float32 or bfloat16"),
    ("network.width", "0", "network.width: must be at least 1"),
    ("sampling.steps", "0", "sampling.steps: must be at least 1"),
    ("sampling.sampler", "magic", "sampling.sampler: must be one of"),
    ("sampling.grid", "magic", "sampling.grid: must be one of"),
    ("sampling.stochasticity", "-0.5", "stochasticity must be >= 0, got -0.5"),
    ("sampling.stochasticity", "0.5", "belongs to sampler ddim or euler_maruyama"),
    ("sampling.rho_min", "100", "0 < rho_min < rho_max"),
    ("training.steps", "0", "training.steps: must be at least 1"),
    ("training.batch_size", "-1", "training.batch_size: must be at least 1"),
    ("training.decay", "exponential", "training.decay: must be one of"),
    ("training.label_dropout", "1.5", "label_dropout must lie in [0, 1]"),
    ("training.learning_rate", "0", "training.learning_rate must be positive"),
    ("training.beta_2", "2", "training.beta_2 must lie in (0, 1)"),
    ("training.weight_decay", "-1", "training.weight_decay must be >= 0"),
    ("sampling.shift", "-1", "sampling.shift must be positive"),
    ("objective.sigma_data", "0", "objective.sigma_data must be positive"),
    ("objective.level_mean", "nan", "objective.level_mean must be finite"),
    ("evaluation.num_samples", "-4", "evaluation.num_samples: must be at least 0"),
    ("evaluation.seed", "-1", "config.evaluation.seed: must lie in"),
    ("seed", str(10**20), "config.seed: must lie in"),
    ("data.name", "imagenet", "data.name must be one of"),
    ("data.name", "fashion_mnist", None),
    ("data.name", "arrays", "data.path"),
])
def test_config_is_refused_by_name(name, value, wanted, tmp_path):
  override = {name: value}
  if name == "objective.level_std":
    override["objective.density"], wanted = "log_normal_rho", "objective.level_std must be positive"
  if name == "path.beta_min":
    override["path.name"], wanted = "linear_vp", "0 < beta_min <= beta_max"
  if value == "fashion_mnist":
    override["data.path"], wanted = str(tmp_path / "nowhere"), "data.path"
  assert wanted in refused(override)


def with_field(name, value):
  """A config as a Python file may make it, which checks nothing."""
  group, _, field = name.rpartition(".")
  if not group:
    return dataclasses.replace(config.Config(), **{field: value})
  return dataclasses.replace(config.Config(), **{
      group: dataclasses.replace(getattr(config.Config(), group), **{field: value})})


@pytest.mark.parametrize(("name", "value", "wanted"), [
    ("training.steps", 20.0, 20), ("training.steps", np.int64(20), 20), ("seed", np.array(3), 3),
    ("training.learning_rate", np.float32(0.5), 0.5), ("training.learning_rate", 1, 1.0),
    ("network.remat", np.bool_(True), True), ("data.shape", [8, 8.0, np.int8(1)], (8, 8, 1)),
    ("sampling.levels", np.array([3.0, 1.0]), (3.0, 1.0)), ("data.path", np.str_("x"), "x"),
    ("sampling.noise_interval", [0.5, math.inf], (0.5, math.inf)),
    *(("training.steps", value, None) for value in (
        20.5, "20", None, True, [20], {}, math.nan, math.inf, 2**31, 10**400)),
    *(("training.learning_rate", value, None) for value in (
        "1", None, False, math.nan, 10**400, 1j)),
    ("network.remat", 1, None), ("data.path", 3, None), ("data.path", pathlib.Path("x"), None),
    ("sampling.levels", (3.0, math.nan), None), ("data.shape", ["8"], None),
    ("data.shape", "8,8", None), ("objective.gamma", math.nan, None), ("network", {}, None),
    ("network", config.Data(), None), ("evaluation.seed", object(), None)],
    # An address differs between the processes of a test run.
    ids=lambda value: "object" if type(value) is object else f"{value!r:.30}")
def test_configs_of_python_files_have_the_types_of_overrides(name, value, wanted):
  if wanted is None:
    with pytest.raises(ValueError, match=rf"^config\.{name}\b") as caught:
      config.checked(with_field(name, value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return
  made = config.checked(with_field(name, value))
  found = dict(config.flatten(made))[name]
  assert found == wanted and type(found) is type(wanted)
  # What trains can be resumed, and its file is JSON for every reader.
  text = config.to_json(made)
  json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
  assert config.from_json(text) == made


@pytest.mark.parametrize("name", config._TAKERS)
def test_fields_that_the_choice_does_not_read_are_refused_or_left_behind(name):
  default = dict(config.flatten(config.Config()))[name]
  value = {int: 7, float: 0.7, str: "rings", bool: True}[type(default)]
  choices = dict.fromkeys((choice for choice, _ in config._TAKERS[name]), "another")
  with pytest.raises(ValueError, match=rf"config\.{name}=.* would do nothing with .*another"):
    config.refuse_unused(config.override(config.Config(), {**choices, name: value}))
  taken = {choice: names[0] for choice, names in config._TAKERS[name]}
  has_it = config.override(config.Config(), {**taken, name: value})
  config.refuse_unused(has_it)
  # Another choice alone takes what was set for the one before it with it.
  config.refuse_unused(config.override(has_it, choices))
  assert dict(config.flatten(config.override(has_it, choices)))[name] == default
  # A run that was trained with such a field is still read.
  old = with_field(name, value)
  assert config.from_json(config.to_json(old)) == old


@pytest.mark.parametrize(("override", "field"), [
    ({"network.width": 20_000}, "config.network.width=20000"),
    ({"network.width": 10**9}, "config.network.width=1000000000"),
    ({"network.depth": 2**31 - 1, "network.width": 1}, "config.network.depth"),
    ({"network.depth": 10**6}, "config.network.depth"),
    ({"training.cpu_devices": 2**31 - 1}, "config.training.cpu_devices"),
    ({"sampling.steps": 10**9}, "config.sampling.steps"),
    ({"data.train_size": 10**9}, "config.data.train_size=1000000000"),
    ({"data.test_size": 10**9}, "config.data.test_size=1000000000"),
    *(({name: 10**30}, f"config.{name}") for name in (
        "network.width", "training.batch_size", "data.size", "evaluation.num_samples"))])
def test_what_does_not_fit_is_refused_before_work(override, field, monkeypatch):
  monkeypatch.setattr(memory, "free", lambda: 5e9)
  assert field in refused(override)


@pytest.mark.parametrize(("override", "field"), [
    ({"training.batch_size": 10**9}, "batch_size=1000000000: training takes at least 4 GB"),
    ({"network.width": 7500}, "config.network.width=7500: training takes at least 3.38 GB"),
    ({"training.batch_size": 4096, "training.steps_per_dispatch": 10**6}, "steps_per_dispatch")])
def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(override, field, monkeypatch):
  monkeypatch.setattr(memory, "free", lambda: 3e9)
  mine = config.override(config.Config(), {
      "network.name": "mlp", "network.width": 1, "network.depth": 1, **override})
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
  def prepare(_):
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
      "sweep.json": lambda: plan.read(tmp_path),
      "result.json": lambda: records.read_result(tmp_path / "result.json"),
      "history.json": lambda: history.History(tmp_path, 1),
      "grids.json": lambda: optimized_grids._read(tmp_path / "grids.json"),
      "nothing.json": lambda: part.read_record(tmp_path / "nothing.json"),
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
  assert wanted in refused({"data.name": "arrays", "data.path": str(file)})


def test_image_of_a_size_the_network_cannot_cut(tmp_path):
  np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 9, 9, 1)))
  message = refused({"data.name": "arrays", "data.path": str(tmp_path / "x.npy"),
                     "network.name": "dit"})
  assert "patch_size" in message
  message = refused({"data.name": "arrays", "data.path": str(tmp_path / "x.npy"),
                     "network.name": "dit", "data.shape": "8,8,1"})
  assert "data.shape" in message


def test_shipped_configs_set_nothing_that_does_nothing():
  files = list(runner.CONFIGS.glob("[a-z]*.py"))
  assert len(files) > 5
  for file in files:
    config.refuse_unused(config.load(str(file)))  # raises


def test_a_config_file_that_does_not_run_says_so(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("from experiments.config import Data\nget_config = lambda: Data(nme='x')\n")
  with pytest.raises(ValueError, match=r"mine\.py: TypeError: .*nme"):
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
  sampling = config.Sampling(grid=grid, steps=6)
  check = lambda path: samplers_from_config.check(
      sampling, build.path(path), config.Objective(prediction=prediction))
  check(config.Path("vp"))
  if prediction not in ("eps", "score") or grid == "karras":
    check(config.Path("rectified_flow"))
    return
  wanted = rf"grid={grid} begins at t=.*\.prediction={prediction} says"
  with pytest.raises(ValueError, match=wanted):
    check(config.Path("rectified_flow"))


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
    ("targets.__main__", "config.json", "config.json is a name of the run"),
    ("targets.__main__", "other.json", "would replace"),
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
    ["--config.network.widht=3"], ["--config.path.name=x"], ["--config.training.steps=0"],
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
    ("--path=nonsense", "path.name: must be one of vp"),
    ("--steps=0", "sampling.steps: must be at least 1"),
    ("--sampler=nonsense", "adaptive; got 'nonsense'"),
    ("--num_samples=0", "num_samples: must be at least 1"),
    (f"--num_samples={10**12}", "--num_samples: must be at most 2,147,483,647"),
    (f"--steps={10**9}", "config.sampling.steps: must be at most 100,000"),
    (f"--batch_size={10**30}", "config.sampling.batch_size: must lie in"),
    (f"--mask=left --known=held_out --inner_steps={10**30}", "--inner_steps: must be at most"),
    ("--out=x.txt", "--out must end in .npy"),
    ("--seed=-1", "--seed must lie in"),
    ("--config.seed=3", "--config belongs to experiments.train"),
    ("--label=3", "--label must be left out"),
    ("--label=-7", "--label must be left out"),
    ("--label=seven", "--label must be left out"),
    ("--sampler=ddim --stochasticity=-1", "stochasticity must be >= 0"),
    ("--sampler=euler --stochasticity=0.5", "sampling.stochasticity belongs to sampler ddim"),
    ("--sampler=ddim --order=2", "sampling.order belongs to sampler multistep"),
    ("--sampler=multistep --order=5", "order must be one of 1, 2, 3, 4, got 5"),
    ("--sampler=multistep --order=3 --steps=2", "needs a grid of at least 3 steps, got 2"),
    ("--sampler=unipc --steps=1", "needs a grid of at least 2 steps, got 1"),
    ("--sampler=ddim --churn=3", "sampling.churn belongs to sampler heun"),
    ("--sampler=ddim --own_time", "sampling.own_time belongs to sampler heun"),
    ("--sampler=ddim --brownian", "sampling.brownian needs stochasticity > 0"),
    ("--sampler=ddim --noise_interval=.1,1", "noise_interval needs stochasticity or churn > 0"),
    ("--sampler=ddim --stochasticity=1 --noise_interval=1,.1", "0 <= lo < hi, got (1.0, 0.1)"),
    ("--churn_noise=1.01", "churn_noise needs churn > 0"),
    ("--levels=80,20,20,1", "sampling.levels: a grid must"),
    ("--levels=80,20,-1", "sampling.levels: a grid must"),
    ("--levels=80,x", "config.sampling.levels: expected floats separated by commas, got"),
    ("--levels=80,20 --steps=3", "--steps would do nothing beside --levels"),
    ("--levels=80,20 --grid=karras", "sampling.levels belongs to grid levels; 'karras' has none"),
    ("--grid=levels", "sampling.levels must be given"),
    ("--levels=200,20 --path=geometric_ve", "begin at the path's noisiest level 80"),
    ("--grid=cosine --rho_min=.1", "sampling.rho_min belongs to grid karras"),
    ("--grid=cosine --shift=2", "sampling.shift belongs to grid shifted"),
    ("--rho_min=90", "0 < rho_min < rho_max"),
    ("--rho_max=inf", "sampling.rho_max must be finite"),
    ("--corrections=2", "sampling.corrections belongs to a corrector"),
    ("--corrector=metropolis", "must be one of exact, euler, midpoint, baoab"),
    ("--corrector=midpoint --corrector_snr=.2", "corrector_snr belongs to corrector exact or"),
    ("--corrector=exact --corrector_friction=2", "corrector_friction belongs to corrector baoab"),
    ("--corrector=exact --corrector_snr=.2 --corrector_budget=.1", "two rules for one step size"),
    ("--sampler=unipc --variable=beta", "variable must be one of half_log_snr, alpha"),
    ("--sampler=heun --variable=alpha", "sampling.variable belongs to sampler multistep or unipc"),
    ("--sampler=adaptive --steps=5", "--steps would do nothing: the adaptive sampler"),
    ("--sampler=adaptive --corrector=exact", "adaptive is for the ODE alone"),
    ("--sampler=adaptive --trajectory", "--sampler=adaptive has no levels"),
    ("--sampler=ddim --tolerance=1e-3", "sampling.tolerance belongs to sampler adaptive"),
    ("--sampler=ddim --stochasticity=1 --grid=optimised", "an optimised grid is for the ODE alone"),
    ("--guidance=2", "sampling.guidance needs data with labels"),
    ("--guidance=nan", "sampling.guidance must be finite"),
    ("--guidance_interval=1,2", "sampling.guidance_interval belongs to guidance"),
    ("--guidance=2 --guidance_rescale=2", "guidance_rescale must lie in [0, 1]"),
    ("--inner_steps=4", "--inner_steps belongs to inpainting: give --mask and --known"),
    ("--mask=left", "--mask needs --known beside it"),
    ("--known=held_out", "--known needs --mask beside it"),
    ("--mask=left --known=held_out", "--mask=left needs images"),
    ("--mask=m.npy --known=nowhere.npy", "--known must name an existing file"),
    ("--mask=m.npy --known=held_out", "--mask must name an existing file"),
    ("--mask=left --known=held_out --inpainting=magic", "--inpainting must be one of lanpaint"),
    ("--mask=left --known=held_out --inpainting=ddnm --friction=3", "belongs to --inpainting=lan"),
    ("--mask=left --known=held_out --inpainting=repaint", "repaint resamples by noise"),
    ("--mask=left --known=held_out --inner_steps=0", "inner_steps must be at least 1"),
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
  with pytest.raises(ValueError, match="has no checkpoint yet"):
    assembly.trained(tmp_path / "fresh")
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="is a file"):
    records.claim(tmp_path / "file", config.Config())


def test_checkpoint_of_another_shape_or_dtype_names_the_array(trained, tmp_path):
  run = assembly.prepare(config.override(records.read_config(trained), {"network.width": 24}))
  with checkpoints.manager(trained, keep=1, read_only=True) as manager:
    with pytest.raises(ValueError, match=r"checkpoint of step 20: ema/.* is float32\[.*\], this"):
      checkpoints.restore(manager, assembly.abstract_state(run))
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
