"""Bad input: one line that names the field, exit code 2, and a workdir left as it was."""

import os
import shutil

import numpy as np
import pytest
import runner
from runner import SMALL

from experiments import build, checkpoints, cli, config, processes, records, runs
from experiments.sweeping import arms


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
    runs.prepare(config.override(config.load(runner.CONFIGS / "mixture2d.py"), override))
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
  check = lambda path: processes.check(
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
    ("--out=x.txt", "--out must end in .npy"),
    ("--seed=-1", "--seed must lie in"),
    ("--config.seed=3", "--config belongs to experiments.train"),
    ("--label=3", "--label must be left out"),
    ("--label=-7", "--label must be left out"),
    ("--label=seven", "--label must be left out"),
    ("--sampler=ddim --stochasticity=-1", "stochasticity must be >= 0"),
    ("--sampler=euler --stochasticity=0.5", "sampling.stochasticity belongs to sampler ddim"),
    ("--sampler=ddim --order=2", "sampling.order belongs to sampler multistep"),
    ("--sampler=multistep --order=4", "order must be one of 1, 2, 3, got 4"),
    ("--sampler=multistep --order=3 --steps=2", "needs a grid of at least 3 steps, got 2"),
    ("--sampler=unipc --steps=1", "needs a grid of at least 2 steps, got 1"),
    ("--sampler=ddim --churn=3", "sampling.churn belongs to sampler heun"),
    ("--sampler=ddim --own_time", "sampling.own_time belongs to sampler heun"),
    ("--sampler=ddim --brownian", "sampling.brownian needs stochasticity > 0"),
    ("--sampler=ddim --noise_interval=.1,1", "noise_interval needs stochasticity or churn > 0"),
    ("--sampler=ddim --stochasticity=1 --noise_interval=1,.1", "0 <= lo < hi, got (1.0, 0.1)"),
    ("--churn_noise=1.01", "churn_noise needs churn > 0"),
    ("--levels=80,20,20,1", "sampling.levels must be positive and fall strictly, got 80.0"),
    ("--levels=80,20,-1", "sampling.levels must be positive and fall strictly, got 80.0"),
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
    runs.trained(tmp_path / "fresh")
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="is a file"):
    records.claim(tmp_path / "file", config.Config())


def test_checkpoint_of_another_shape_or_dtype_names_the_array(trained, tmp_path):
  run = runs.prepare(config.override(records.read_config(trained), {"network.width": 24}))
  with checkpoints.manager(trained, keep=1, read_only=True) as manager:
    with pytest.raises(ValueError, match=r"checkpoint of step 20: ema/.* is float32\[.*\], this"):
      checkpoints.restore(manager, runs.abstract_state(run))
    run = runs.prepare(records.read_config(trained))
    target = runs.abstract_state(run)
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
  run = runs.prepare(records.read_config(trained))
  with checkpoints.manager(trained, keep=1, read_only=True) as manager:
    state = checkpoints.restore(manager, runs.abstract_state(run))
  usage = shutil.disk_usage(tmp_path)._replace(free=100)
  monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
  with checkpoints.manager(tmp_path, keep=1) as manager:
    with pytest.raises(OSError, match="disk full: the checkpoint of step 1 takes"):
      checkpoints.save(manager, 1, state)
    assert manager.all_steps() == []
