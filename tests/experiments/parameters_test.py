"""Parameters out of a run and into another: --init_from, export, and what does not fit."""

import json
import shutil

import jax
import numpy as np
import pytest
import runner
from runner import SMALL, manifest

import experiments
from experiments.run import assembly, checkpoints, records

FEW = "--config.training.steps=10", "--config.training.checkpoint_every=10"
WIDER = "--config.network.depth=2"  # a block more


def state_of(workdir, step):
  return assembly.restored(assembly.prepare(records.read_config(workdir)), workdir, step=step)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_exported_parameters_come_back_bitwise(small_run, tmp_path, suffix):
  file = tmp_path / f"model.{suffix}"
  runner.succeed("export", f"--workdir={small_run}", f"--out={file}")
  out = runner.succeed("train", *SMALL, *FEW, f"--init_from={file}",
                       f"--workdir={tmp_path / 'run'}")
  assert f"begins from {file}: " in out and "0 skipped, 0 fresh" in out
  began = state_of(tmp_path / "run", 0)
  same(began.params, experiments.load(small_run).params)
  same(began.ema, (began.params,))
  (session,) = manifest(tmp_path / "run")["sessions"]
  assert session["began_from"]["source"] == str(file)


def test_a_run_begins_from_a_workdir_or_a_checkpoint_and_resumes_without_its_source(
    small_run, tmp_path):
  for name, step in ((small_run, 60), (small_run / "checkpoints" / "40", 40)):
    workdir = tmp_path / str(step)
    out = runner.succeed("train", *SMALL, *FEW, f"--init_from={name}", f"--workdir={workdir}")
    assert f"begins from {small_run} at step {step} (half_life=" in out
    same(state_of(workdir, 0).params, state_of(small_run, step).ema[0])
  sha = manifest(workdir)["sha256"]
  shutil.rmtree(workdir / "checkpoints" / "10")
  (workdir / "manifest.json").unlink()
  runner.succeed("train", f"--workdir={workdir}")
  assert manifest(workdir)["sha256"] == sha


@pytest.mark.parametrize("place", ["before step 0 is saved", "after"])
def test_where_a_run_begins_from_outlives_a_kill(small_run, tmp_path, monkeypatch, place):
  """Before step 0 is saved the flag is needed again; after it, neither needed nor refused."""
  command = "train", *SMALL, *FEW, f"--workdir={tmp_path / 'run'}"
  with monkeypatch.context() as patch, pytest.raises(runner.Killed):
    patch.setattr(*(records, "Metrics") if place == "after" else (assembly, "save"),
                  runner.killed)
    runner.succeed(*command, f"--init_from={small_run}")
  if place != "after":
    assert "--init_from must be given again" in runner.refused(*command)
    runner.succeed(*command, f"--init_from={small_run}")
  else:
    runner.succeed(*command)
  sessions = manifest(tmp_path / "run")["sessions"]
  assert all(session["began_from"]["loaded"] for session in sessions[:2 - (place == "after")])
  runner.succeed(*command, f"--init_from={small_run}")


def test_what_is_skipped_keeps_its_initial_values(small_run, tmp_path):
  command = "train", *SMALL, *FEW, WIDER, f"--init_from={small_run}"
  err = runner.refused(*command, f"--workdir={tmp_path / 'strict'}")
  assert "parameters do not fit (source → this network): " in err and "none → [" in err
  assert err.count("; ") <= 6
  names = checkpoints.by_path(experiments.load(small_run).params)
  new = err.split("network): ")[1].split(" ")[0]
  assert new not in names
  out = runner.succeed(*command, "--init_skip=*_1/*", f"--workdir={tmp_path / 'run'}")
  began, initial = (checkpoints.by_path(params) for params in (
      state_of(tmp_path / "run", 0).params,
      assembly.start(assembly.prepare(records.read_config(tmp_path / "run"))).params))
  record = manifest(tmp_path / "run")["sessions"][0]["began_from"]
  assert record["loaded"] + len(record["fresh"]) == len(began) and new in record["fresh"]
  assert f"{len(record['fresh'])} ({', '.join(record['fresh'][:5])}" in out
  source = checkpoints.by_path(state_of(small_run, 60).ema[0])
  for name, value in began.items():
    same(value, initial[name] if name in record["fresh"] else source[name])


@pytest.mark.parametrize(("flags", "wanted"), [
    (["--init_from={tmp}/none"], "is no workdir with a checkpoint, no checkpoint and no"),
    (["--init_from={tmp}/bad.npz"], "bad.npz cannot be read"),
    (["--init_from={tmp}/bad.safetensors"], "bad.safetensors cannot be read"),
    (["--init_from={run}", "--init_skip=head*"], "'head*' matches no parameter; there are "),
    (["--init_from={run}", "--init_skip=*"], "leaves no parameter to load"),
    (["--init_from={run}", "--config.objective.prediction=eps"],
     "these parameters predict v(), this run predicts eps()"),
    (["--init_skip=*"], "--init_skip belongs to --init_from, which is not given"),
    (["--init_from={run}", "--config.network.width=24"], "condition_0/bias [32] → [48]; ")])
def test_a_source_that_does_not_fit_is_one_line(small_run, tmp_path, flags, wanted):
  for name in ("bad.npz", "bad.safetensors"):
    (tmp_path / name).write_text("no parameters")
  given = [flag.format(tmp=tmp_path, run=small_run) for flag in flags]
  assert wanted in runner.refused("train", *SMALL, *FEW, *given, f"--workdir={tmp_path / 'run'}")
  assert not (tmp_path / "run").exists()  # another command may take the name


def test_a_run_that_has_begun_takes_no_other_parameters(small_run):
  assert "has begun already" in runner.refused(
      "train", f"--workdir={small_run}", f"--init_from={small_run}")


def test_a_model_card_tells_data_metrics_commands_config_and_licence(small_run, tmp_path):
  workdir = shutil.copytree(small_run, tmp_path / "run")
  (workdir / "evaluation.json").write_text(json.dumps({"metrics": {"c2st": {
      "value": 0.5123, "floor": 0.5, "n": 200, "label": "C2ST"}}}))
  record = manifest(workdir)
  first, again, changed = ["train.py", "--a=1"], ["train.py", "--b=2"], ["train.py", "--c=x y"]
  (workdir / "manifest.json").write_text(json.dumps(record | {"sessions": [
      {"command": first}, {"command": again},
      *({"command": [*changed, f"--at={step}"], "changes": ["c: 1 → 2"], "from_step": step}
        for step in (20, 40))]}))
  runner.succeed("export", f"--workdir={workdir}", f"--out={tmp_path / 'm.npz'}",
                 "--licence=cc-by-4.0", "--ema=none", "--step=40")
  card = (tmp_path / "m.md").read_text()
  for words in ("license: cc-by-4.0", "none at step 40", "| kind | vector |", "C2ST | 0.5123 | 0.5",
                "--init_from=m.npz", '"width": 16', manifest(small_run)["commit"],
                "langevin train --a=1\nlangevin train '--c=x y' --at=20\n```"):
    assert words in card, card
  stored = np.load(tmp_path / "m.npz")
  same(dict(stored), checkpoints.by_path(state_of(small_run, 40).params))


@pytest.mark.parametrize(("out", "wanted"), [
    ("there.npz", "there.npz exists; choose another --out, or delete it"),
    ("card.npz", "card.md exists"), ("model.pt", "must end in .safetensors or .npz"),
    ("", "--out is required")])
def test_an_export_replaces_no_file(small_run, tmp_path, out, wanted):
  for name in ("there.npz", "card.md"):
    (tmp_path / name).write_text("mine")
  assert wanted in runner.refused(
      "export", f"--workdir={small_run}", f"--out={out and tmp_path / out}")
  assert (tmp_path / "there.npz").read_text() == "mine"
