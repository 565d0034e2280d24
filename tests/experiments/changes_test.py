"""A run that is extended or changed from a step on, and what may not change."""

import shutil

import jax
import numpy as np
import pytest
import runner
from runner import SMALL, manifest, unclocked

from experiments.run import assembly, checkpoints, records, signals

STEPS = ("--config.training.steps=40", "--config.training.checkpoint_every=20",
         "--config.training.schedule=constant(warmup_steps=10)")
CHANGE = ("--config.training.steps=80", "--config.training.learning_rate=3e-4",
          "--config.training.schedule=linear", "--config.training.batch_size=48",
          "--config.training.log_every=5", "--config.training.ema_half_life_steps=20,300",
          "--config.objective.weight=edm")
FIELDS = ("training.steps,training.learning_rate,training.schedule,training.batch_size,"
          "training.log_every,training.ema_half_life_steps,objective.weight")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("changes") / "run"
  runner.succeed("train", *SMALL, *STEPS, f"--workdir={workdir}")
  return workdir


@pytest.fixture
def workdir(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


def result(workdir):
  facts = manifest(workdir)
  assert facts["finished"]
  return facts["sha256"], facts["sha256_ema"], unclocked(workdir)


def test_an_extended_run_is_the_run_of_all_its_steps(workdir, tmp_path):
  runner.succeed("train", f"--workdir={workdir}", "--config.training.steps=60",
                 "--allow_change=training.steps")
  runner.succeed("train", *SMALL, *STEPS, "--config.training.steps=60",
                 f"--workdir={tmp_path / 'whole'}")
  assert result(workdir) == result(tmp_path / "whole")


def test_a_changed_run_resumes_bitwise_with_its_command_and_without(workdir, tmp_path, monkeypatch):
  command = "train", *SMALL, *STEPS, *CHANGE, f"--allow_change={FIELDS}"
  killed = [shutil.copytree(workdir, tmp_path / name) for name in ("same", "bare")]
  out = runner.succeed(*command, f"--workdir={workdir}")
  assert f"{workdir} continues from step 40 with objective.weight: " in out
  assert "training.steps: 40 → 80; training.batch_size: 32 → 48; training.learning_rate" in out
  with monkeypatch.context() as patch:
    patch.setattr(signals, "stopping", lambda: lambda dispatch: dispatch == 3)
    for place in killed:
      assert "stopped at step" in runner.succeed(*command, f"--workdir={place}")
  runner.succeed(*command, f"--workdir={killed[0]}")
  runner.succeed("train", f"--workdir={killed[1]}")
  assert result(killed[0]) == result(killed[1]) == result(workdir)
  sessions = manifest(killed[1])["sessions"]
  assert [session["from_step"] for session in sessions][:2] == [0, 40] and len(sessions) == 3
  assert ["changes" in session for session in sessions] == [False, True, False]
  assert "training.learning_rate: 0.002 → 0.0003" in sessions[1]["changes"]
  assert "objective.weight: 'flow_matching' → 'edm'" in sessions[1]["changes"]
  # What the run had learned counts: another run with these settings ends elsewhere.
  lines = unclocked(workdir)
  assert [line["step"] for line in lines[:6]] == [10, 20, 30, 40, 45, 50]
  assert sum(lines[4]["level_count"]) == 48 * 5


def test_a_change_is_recorded_also_where_its_session_was_killed_before(workdir, monkeypatch):
  with monkeypatch.context() as patch, pytest.raises(runner.Killed):
    patch.setattr(records, "manifest", runner.killed)
    runner.succeed("train", f"--workdir={workdir}", "--config.training.steps=50",
                   "--allow_change=training.steps")
  assert records.read_config(workdir).training.steps == 50
  runner.succeed("train", f"--workdir={workdir}")
  assert manifest(workdir)["sessions"][-1]["changes"] == ["training.steps: 40 → 50"]


def test_an_average_is_kept_by_its_name_and_a_new_one_starts_as_the_parameters(workdir):
  change = "--config.training.ema_half_life_steps=20,300"
  run = assembly.prepare(records.read_config(workdir))
  before = assembly.restored(run, workdir)
  runner.succeed("train", f"--workdir={workdir}", change,
                 "--allow_change=training.ema_half_life_steps")
  after = assembly.restored(assembly.prepare(records.read_config(workdir)), workdir)
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  same(after.ema, (before.params, before.ema[0]))
  same(after.opt_state, before.opt_state)


def test_averages_that_an_earlier_version_has_not_named_cannot_change(workdir):
  run = assembly.prepare(records.read_config(workdir))
  state = assembly.restored(run, workdir)
  with checkpoints.manager(workdir, keep=1) as manager:
    checkpoints.save(manager, 41, state)
    checkpoints.finish(manager)
  assert "does not name its averages" in runner.refused(
      "train", f"--workdir={workdir}", "--config.training.ema_half_life_steps=20,300",
      "--allow_change=training")


@pytest.mark.parametrize(("flags", "wanted"), [
    (["--config.training.steps=60", "--config.training.batch_size=16"],
     "training.steps: 40 → 60; training.batch_size: 32 → 16 (workdir → command); choose another "
     "--workdir, or change the run from its newest checkpoint on with "
     "--allow_change=training.steps,training.batch_size"),
    (["--config.network.width=8", "--config.training.steps=60", "--allow_change=training"],
     "network.width cannot change within a run: choose another --workdir, where --init_from="),
    (["--config.objective.prediction=velocity", "--allow_change=objective"],
     "objective.prediction cannot change within a run: choose another --workdir"),
    (["--allow_change=network.width"], "--allow_change: network.width cannot change within a run"),
    (["--allow_change=training.learningrate"], "did you mean training.learning_rate?"),
    (["--config.training.steps=39", "--allow_change=training.steps"],
     "has done 40 steps already, more than 39"),
    (["--config.training.optimizer=optax:lion", "--allow_change=training.optimizer"],
     "config.training.optimizer: adamw → optax:lion, whose state has other arrays; choose")])
def test_a_change_that_is_refused_names_the_remedy_and_changes_nothing(finished, flags, wanted):
  contents = lambda: {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
  before = contents()
  assert wanted in runner.refused("train", f"--workdir={finished}", *flags)
  after = contents()
  after[finished / ".lock"] = before[finished / ".lock"]
  assert after == before
