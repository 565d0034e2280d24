"""Runs that train flow maps: resumed, taught, sampled by both kinds of samplers, and refused."""

import shutil

import numpy as np
import pytest
import runner
from runner import SMALL, manifest

from experiments import config as config_lib
from experiments.configs import digits
from experiments.metrics import few_calls, mixture_metrics
from experiments.run import assembly
from langevin_jax import networks

FLOW = (*SMALL, "--config.training.steps=20", "--config.training.checkpoint_every=10",
        "--config.objective.flow_map=eulerian(ordered(diagonal=0.4), averaged=True)")


def plain(width: int = 4, depth: int = 0):
  """A user's network of one level."""
  return networks.MLP(width=width, depth=depth)


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("flow") / "run"
  runner.succeed("train", *FLOW, f"--workdir={workdir}")
  return workdir


def test_resumes_bitwise(flow_run, tmp_path):
  again = tmp_path / "again"
  shutil.copytree(flow_run, again)
  shutil.rmtree(again / "checkpoints" / "20")
  runner.succeed("train", *FLOW, f"--workdir={again}")
  assert manifest(again)["sha256"] == manifest(flow_run)["sha256"]


@pytest.mark.parametrize("sampler", ["flow_map(0.5)", "ddim()"])
def test_samplers_of_both_kinds_draw(flow_run, tmp_path, sampler):
  """Ordinary ones use the diagonal ℓ′ = ℓ."""
  out = tmp_path / "x.npy"
  said = runner.succeed("sample", f"--workdir={flow_run}", f"--sampler={sampler}",
                        "--num_samples=50", "--grid=explicit((99, 1))", f"--out={out}")
  assert ("the diagonal" in said) == (sampler == "ddim()")
  assert np.isfinite(np.load(out)).all()


def test_an_evaluation_has_few_calls(flow_run):
  run, state = assembly.trained(flow_run)
  rows = few_calls.meter(run, run.config.sampling, run.path, run.dataset, np.zeros(60, np.int32),
                         seed=0, numbers=(1,), solver_numbers=(1,))
  found = {row.key: row for row in rows(state.ema[0])}
  judged = ("map_sliced_w2_1", "map_kl_samples_1", "solver_sliced_w2_1")
  assert all(found[key].value > found[key].floor > 0.0 for key in judged)
  # Of a network that has learned little, D̄ is wrong by nearly the data's deviation, which is 1.
  assert 0.3 < found["map_error_-4_inf"].value < 3.0 and "map_error_1_1" in found


def test_few_calls_of_images_are_judged_as_images():
  """By C2ST and label agreement besides, of the map and of the best solver."""
  config = config_lib.override(digits.get_config(), {
      "network": "dit(width=8, depth=1, heads=1, patch_size=4)",
      "objective.flow_map": "semigroup()"})
  run = assembly.prepare(config)
  labels = assembly.data_labels(run, 30, 0)
  rows = few_calls.meter(run, config.sampling, run.path, run.dataset, labels, seed=0, numbers=(1,),
                         solver_numbers=(1,))
  found = {row.key: row for row in rows(assembly.start(run).ema[0])}
  assert set(found) == {f"{kind}_{key}_1" for kind in ("map", "solver")
                        for key in ("sliced_w2", "c2st", "label_agreement")}
  # The network is 0, so that samples are noise of too small a size, whatever the label.
  assert found["map_c2st_1"].value > 0.8 > found["map_c2st_1"].floor
  assert found["map_label_agreement_1"].value < 0.5 < found["map_label_agreement_1"].floor


@pytest.mark.slow
@pytest.mark.parametrize("identity", ["semigroup()", "eulerian()", "lagrangian()"])
def test_the_shipped_config_learns_every_identity(tmp_path, identity):
  """At its own learning rate and density; a map from noise that has learned nothing is off by 1.

  With this network, batch and seed a Lagrangian gradient that is stopped at the velocity is not
  finite at step 95, and an Eulerian one of half of the batch leaves the diagonal linear.
  """
  runner.succeed("train", "--config=mixture2d", "--config.training.steps=400", "--config.seed=3",
                 "--config.training.batch_size=256", "--config.network=mlp(width=64, depth=3)",
                 "--config.training.ema_half_life_steps=30",
                 f"--config.objective.flow_map={identity}", f"--workdir={tmp_path}")
  run, state = assembly.trained(tmp_path)
  errors = {row.key: row.value for row in mixture_metrics.map_errors(run, run.path)(state.ema[0])}
  print(errors)
  assert errors["map_error_-4_inf"] < 0.25 and errors["map_error_0_0"] < 0.1


def test_a_teacher_takes_the_place_of_the_data(flow_run, small_run, tmp_path):
  taught = tmp_path / "taught"
  runner.succeed("train", *FLOW, f"--config.objective.teacher={small_run}", f"--workdir={taught}")
  assert manifest(taught)["sha256"] != manifest(flow_run)["sha256"]


@pytest.mark.slow
def test_a_sweep_has_teachers(small_run, tmp_path):
  arm = {"objective.flow_map": "eulerian()", "objective.teacher": str(small_run)}
  (tmp_path / "arms.py").write_text(
      f"SEEDS = (0, 1)\ndef sweep(): return {{'taught': {arm!r}}}\n", encoding="utf-8")
  runner.succeed("sweep", *SMALL, "--config.training.steps=10", f"--sweep={tmp_path / 'arms.py'}",
                 f"--workdir={tmp_path / 'sweep'}")
  assert (tmp_path / "sweep" / "arms" / "taught" / "seed_1" / "result.json").exists()


def test_what_cannot_be_is_refused(small_run, tmp_path):
  train = lambda *flags: runner.refused("train", *flags, f"--workdir={tmp_path / 'none'}")
  teacher = f"--config.objective.teacher={small_run}"
  assert "one noise level" in runner.refused(
      "sample", f"--workdir={small_run}", "--sampler=flow_map()", f"--out={tmp_path / 'x.npy'}")
  assert "set objective.flow_map" in train(*SMALL, teacher)
  assert "own data" in train(*FLOW, teacher, "--config.data.train_size=400")
  assert "need data with labels" in train(*FLOW, "--config.objective.flow_map=eulerian(omega=2)")
  assert "must name a condition" in train(
      *FLOW, "--config.objective.flow_map=eulerian(omega='w')")
  assert "must divide the 19 of 32" in train(*FLOW, "--config.training.accumulation=4")
  assert "second_level" in train(*FLOW, "--config.network=flow_map_runs_test:plain()")
