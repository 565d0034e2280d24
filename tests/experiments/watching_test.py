"""Numbers and pictures during a training: they say what is so, and change nothing."""

import importlib.util
import json
import os
import signal
import sys
import threading

import jax
import numpy as np
import optax
import pytest
import runner
import train_test
from runner import SMALL, STEPS, manifest, unclocked

import experiments
from experiments.config import build
from experiments.metrics import samples
from experiments.run import assembly, loggers, records, signals
from experiments.sweeping import measures

WATCH = ("--config.training.sample_every=20", "--config.training.evaluate_every=30",
         "--config.training.evaluate_metrics=sliced_w2,mmd,own_logger:gap()",
         "--config.evaluation.num_samples=60",
         "--config.training.logger=both(tensorboard(), 'own_logger:remember')")
REMEMBERED = {"scalars": [], "images": [], "closed": 0}


def remember(workdir, step) -> loggers.Logger:
  """A user's own logger."""
  del workdir, step

  def closed():
    REMEMBERED["closed"] += 1

  return loggers.Logger(
      lambda step, values: REMEMBERED["scalars"].append((step, dict(values))),
      lambda step, images: REMEMBERED["images"].append((step, dict(images))), close=closed)


def gap(x, y) -> float:
  """A user's own metric."""
  return float(np.abs(x.mean(0) - y.mean(0)).sum())


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
  sys.modules["own_logger"] = sys.modules[__name__]
  workdir = tmp_path_factory.mktemp("watching") / "run"
  runner.succeed("train", *SMALL, *STEPS, *WATCH, f"--workdir={workdir}")
  yield workdir
  del sys.modules["own_logger"]


def test_watching_changes_no_parameter_and_no_other_number(small_run, watched):
  for name in ("sha256", "sha256_ema"):
    assert manifest(watched)[name] == manifest(small_run)[name]
  plain = {line["step"]: line for line in unclocked(small_run)}
  for line in unclocked(watched):
    assert {name: line[name] for name in plain[line["step"]]} == plain[line["step"]]


def test_the_held_out_loss_is_that_of_the_first_average(watched):
  lines = {line["step"]: line for line in records.read_metrics(watched)}
  assert [step for step, line in lines.items() if "held_out_loss" in line] == [30, 60]
  assert [step for step, line in lines.items() if "watch_seconds" in line] == [20, 30, 40, 60]
  run, state = assembly.trained(watched)
  draws = measures.held_out(run)
  row = build.prediction(run.config.objective)
  found = jax.jit(lambda params: measures.errors(run.apply)(
      row, 0, params, draws.x_0, draws.labels, draws.ells, draws.eps))(state.ema[0])
  loss, error = measures.integral(draws, found)
  np.testing.assert_allclose(lines[60]["held_out_loss"], loss, rtol=1e-4)
  np.testing.assert_allclose(lines[60]["held_out_loss_error"], error, rtol=1e-3)
  np.testing.assert_allclose(
      lines[60]["held_out_level_error"], np.mean(found, axis=1), rtol=1e-3, atol=1e-5)
  assert len(lines[60]["held_out_half_log_snr"]) == len(lines[60]["held_out_level_error"])
  assert lines[30].keys() >= {"sliced_w2", "mmd", "own_logger:gap()"} and "mmd" not in lines[40]


def test_samples_are_pictures_in_the_workdir_and_in_every_logger(watched):
  assert sorted(file.name for file in (watched / "samples").iterdir()) == [
      "00000020.png", "00000040.png", "00000060.png"]
  assert [step for step, _ in REMEMBERED["images"]] == [20, 40, 60]
  image = REMEMBERED["images"][0][1]["samples"]
  assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.std() > 0
  assert REMEMBERED["closed"] == 1
  step, values = REMEMBERED["scalars"][-1]
  last = records.read_metrics(watched)[-1]
  assert step == 60 and values["held_out_loss"] == last["held_out_loss"]
  tags = set()
  for file in watched.glob("events*"):
    for event in train_test.event_records(file):
      tags |= {(event.step, value.tag) for value in event.summary.value if value.HasField("image")}
  assert tags == {(20, "samples"), (40, "samples"), (60, "samples")}


def test_a_resumed_run_is_watched_at_the_same_steps(watched, tmp_path, monkeypatch):
  workdir = tmp_path / "run"
  command = "train", *SMALL, *STEPS, *WATCH, f"--workdir={workdir}"
  with monkeypatch.context() as patch:
    patch.setattr(signals, "stopping", lambda: lambda dispatch: dispatch == 7)
    runner.succeed(*command)
  runner.succeed(*command)
  lines = [[line for line in unclocked(place) if "held_out_loss" in line]
           for place in (workdir, watched)]
  assert [line["held_out_loss"] for line in lines[0]] == [
      line["held_out_loss"] for line in lines[1]]


def test_rates_and_norms_are_those_of_the_training(small_run):
  lines = records.read_metrics(small_run)
  config = records.read_config(small_run).training
  for line in lines:
    assert line["learning_rate"] == float(
        jax.jit(build.schedule(config))(line["step"] - 1))
    np.testing.assert_allclose(line["examples_per_second"], 32 * line["steps_per_second"], 1e-2)
    # A step of Adam moves each parameter by the learning rate, about.
    assert 0 < line["update_norm"] < 2 * config.learning_rate * line["param_norm"] * 100
  state = experiments.load(small_run, ema="none")
  np.testing.assert_allclose(lines[-1]["param_norm"], optax.tree.norm(state.params), rtol=1e-5)


def test_a_signal_does_not_wait_for_a_watch(tmp_path, monkeypatch):
  """The run saves the step before it; the watch is left to its thread."""
  end = threading.Event()

  def endless(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    end.wait(60)
    return []

  monkeypatch.setattr(samples, "rows", endless)
  before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    out = runner.succeed("train", *SMALL, *STEPS, *WATCH[1:2], *WATCH[3:4],
                         "--config.training.evaluate_metrics=mmd", f"--workdir={tmp_path}")
    assert "stopped at step 30 of 60" in out
    assert runner.abandoned() and not end.is_set()
  finally:
    end.set()
    runner.wait_until(lambda: not runner.abandoned())
    for number, action in before.items():
      signal.signal(number, action)
  assert (tmp_path / "checkpoints" / "30").is_dir()


def lines(train_size: int = 0, test_size: int = 0):
  """Vectors of one feature."""
  return np.random.default_rng(0).normal(size=(train_size + test_size, 1))


def refusing() -> loggers.Logger:
  raise RuntimeError("no account")


def failing() -> loggers.Logger:
  def scalars(step, values):
    raise RuntimeError("no host")

  return loggers.Logger(scalars, lambda step, images: None)


@pytest.mark.parametrize(("flags", "wanted"), [
    (["--config.training.sample_every=-1"], "training.sample_every: must be at least 0, got -1"),
    (["--config.training.sample_every=10", "--config.sampling.grid=optimised(5)"],
     "sampling.grid=optimised is searched for"),
    (["--config.data=watching_test:lines", "--config.training.sample_every=10"],
     "pictures are of images and of vectors with two features or more; the data are vectors of"),
    (["--config.training.evaluate_metrics=c2st"], "would do nothing without"),
    (["--config.training.evaluate_metrics=fid", "--config.training.evaluate_every=60"],
     "no metric 'fid' of these data; there are sliced_w2, "),
    (["--config.training.evaluate_metrics=kidd()", "--config.training.evaluate_every=60"],
     "config.training.evaluate_metrics: no metric 'kidd'"),
    (["--config.training.evaluate_metrics=json:dumps()", "--config.training.evaluate_every=60"],
     "json:dumps"),
    (["--config.training.logger=tensorbord"], "did you mean tensorboard?"),
    (["--config.training.logger=json:dumps(obj=1)"], "it must return a"),
    (["--config.training.logger=both(None, watching_test:failing())"], "is in quotes"),
    (["--config.training.logger=watching_test:failing()"], "scalars: RuntimeError: no host"),
    (["--config.training.logger=watching_test:refusing()"], "no account"),
    (["--config.training.logger=nowhere:log"], "module 'nowhere' cannot be imported"),
    pytest.param(["--config.training.logger=wandb(project='x')"], "wandb is not installed",
                 marks=pytest.mark.skipif(importlib.util.find_spec("wandb") is not None,
                                          reason="wandb is installed"))])
def test_what_cannot_be_watched_is_one_line(tmp_path, flags, wanted):
  code, _, err = runner.call("train", *SMALL, *STEPS, *flags, f"--workdir={tmp_path / 'run'}")
  assert code == 2 and wanted in err and err.count("\n") == 1, err
  # What is wrong is found before the workdir is claimed, but for what only a line says.
  assert (tmp_path / "run" / "config.json").exists() == ("no host" in err)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_keeps_an_offline_run_in_the_workdir(tmp_path):
  runner.succeed("train", *SMALL, *STEPS, "--config.training.logger=wandb(project='x')",
                 f"--workdir={tmp_path / 'run'}")
  assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
  assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["logger"]
