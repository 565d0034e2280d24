"""Training runs end to end: resumed, killed, signalled and gone wrong, they lose nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading

import jax
import numpy as np
import pytest
import runner
from runner import SMALL, STEPS, manifest, unclocked
from tensorboardX.proto import event_pb2

import langevin_jax
from experiments import config, data
from experiments.run import assembly, dispatches, meshes, progress, records, reporting
from experiments.sampling import drawing
from langevin_jax import training


def metrics(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps_saved(workdir):
  return sorted(int(step.name) for step in (workdir / "checkpoints").glob("*")
                if step.name.isdigit())


def test_leaves_everything_behind(small_run):
  names = {file.name for file in small_run.iterdir()}
  assert {"config.json", "manifest.json", "metrics.jsonl", "checkpoints", "loss.png",
          "loss_by_level.png"} <= names
  assert any(name.startswith("events.out.tfevents") for name in names)
  facts = manifest(small_run)
  assert len(facts["sha256"]) == 64 and facts["seed"] == 0 and facts["finished"]
  assert facts["config"]["network"]["width"] == 16 and facts["versions"]["jax"]
  assert facts["devices"] and "commit" in facts and facts["version"] == langevin_jax.__version__
  lines = metrics(small_run)
  assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
  assert sum(lines[0]["level_count"]) == 32 * 10


def test_the_time_that_is_left_does_not_count_the_compilation(monkeypatch, capsys):
  """A minute until the first step, then ten steps a second."""
  clock = iter([0.0, 60.0, 65.0, 70.0])
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  with progress.bar(200, 0, "training") as update:
    for done in (1, 51, 101):
      update(done, "")
  printed = capsys.readouterr().out.splitlines()
  assert printed[0] == "training: 1/200  (0.0/s, 11940 s left)"
  assert printed[-1] == "training: 101/200  (10.0/s, 10 s left)"


def test_same_command_again_does_nothing_more(small_run):
  state = lambda: (manifest(small_run), metrics(small_run),
                   sorted(file.name for file in small_run.iterdir()))
  before = state()
  runner.succeed("train", *SMALL, *STEPS, f"--workdir={small_run}")
  assert state() == before


def test_seed_and_path_of_training_matter(small_run, tmp_path):
  shas = {manifest(small_run)["sha256"]}
  for i, change in enumerate((["--config.seed=1"], [
      "--config.objective.density=uniform_time", "--config.path=vp"])):
    runner.succeed("train", *SMALL, *STEPS, *change, f"--workdir={tmp_path / str(i)}")
    shas.add(manifest(tmp_path / str(i))["sha256"])
  assert len(shas) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_the_rest_is_bitwise(number, tmp_path):
  arguments = (*SMALL, "--config.training.steps=20000", "--config.training.checkpoint_every=19995",
               f"--workdir={tmp_path / 'run'}")
  process = runner.start("train", *arguments)
  file = tmp_path / "run" / "metrics.jsonl"
  runner.wait_until(lambda: file.exists() and file.read_text().count("\n") >= 5, process)
  process.send_signal(number)
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert "stopped at step" in out and "saved it" in out
  stopped = int(out.split("stopped at step ")[1].split()[0])
  assert 0 < stopped < 20000
  assert (tmp_path / "run" / "checkpoints" / str(stopped)).is_dir()


@pytest.mark.parametrize("times", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_sigkill_at_any_moment_many_times_ends_bitwise_the_same(tmp_path, times):
  """Saves every 20 steps: most kills fall within or just after one."""
  steps = f"--config.training.steps={1000 + 75 * times}", "--config.training.checkpoint_every=20"
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  runner.succeed("train", *SMALL, *steps, f"--workdir={whole}")
  dice = random.Random(0)
  newest = lambda: max([0, *steps_saved(killed)])
  for kill in range(times):
    before = newest()
    starts = kill % 4 == 2
    process = runner.start("train", *SMALL, *steps, f"--workdir={killed}", fresh=starts)
    if not starts:
      runner.wait_until(lambda before=before: newest() > before, process)
    # From the first import on, start-up and restore included; or a moment after a save.
    with pytest.raises(subprocess.TimeoutExpired):
      process.wait(dice.uniform(0.2, 3.5) if starts else dice.uniform(0.0, 0.2))
    process.kill()
    process.communicate()
  code, out, err = runner.run("train", *SMALL, *steps, f"--workdir={killed}", fresh=True)
  assert code == 0, err
  assert "resuming" in out  # the kills did let some progress be made
  assert manifest(killed)["sha256"] == manifest(whole)["sha256"]
  assert manifest(killed)["sha256_ema"] == manifest(whole)["sha256_ema"]
  assert unclocked(killed) == unclocked(whole)
  # Every session is in the manifest; its events take back what TensorBoard has beyond its start.
  sessions = manifest(killed)["sessions"]
  assert len(sessions) > times / 2
  assert all(session["mesh"]["data"] == -1 and session["versions"] for session in sessions)
  purged = [event.step for file in sorted(killed.glob("events*"))[1:]
            for event in event_records(file) if event.HasField("session_log")]
  # One that is killed at its start may have no events yet.
  assert purged and set(purged) <= {session["from_step"] + 1 for session in sessions[1:]}


def event_records(file):
  """The records of an event file: length, its checksum, the event, its checksum."""
  content, place = file.read_bytes(), 0
  while place + 12 <= len(content):
    size = int.from_bytes(content[place:place + 8], "little")
    yield event_pb2.Event.FromString(content[place + 12:place + 12 + size])
    place += 16 + size


def test_failed_write_keeps_the_checkpoint_before(tmp_path):
  """A limit on file sizes makes large writes fail within Orbax's own threads; then it is lifted."""
  whole, limited = tmp_path / "whole", tmp_path / "limited"
  arguments = "train", *SMALL, *STEPS, "--config.network.width=128"
  runner.succeed(*arguments, f"--workdir={whole}")
  shutil.copytree(whole, limited)
  for step in (40, 60):
    shutil.rmtree(limited / "checkpoints" / str(step))
  (limited / "manifest.json").unlink()
  # Files above 39 KiB fail with EFBIG rather than a signal.
  limit = ("bash", "-c", 'trap "" XFSZ; ulimit -f 39; exec "$@"', "limit")
  code, _, err = runner.run(*arguments, f"--workdir={limited}", prefix=limit)
  assert code == 2
  # Orbax's own threads print their tracebacks around it.
  assert any(line.startswith("error: checkpoint could not be written, earlier ones are complete")
             for line in err.splitlines()), err
  assert steps_saved(limited) == [20]
  out = runner.succeed(*arguments, f"--workdir={limited}")
  assert "at step 20 of 60" in out
  assert manifest(limited)["sha256"] == manifest(whole)["sha256"]


def test_loss_not_finite_stops_with_step_and_level(tmp_path):
  """A learning rate that overflows float32 within a few steps."""
  code, _, err = runner.call(
      "train", *SMALL, "--config.training.steps=200", "--config.training.checkpoint_every=5",
      "--config.training.learning_rate=1e30", "--config.training.schedule.warmup_steps=20",
      f"--workdir={tmp_path / 'run'}")
  assert code == 2 and len(err.splitlines()) == 1
  assert "not finite at step" in err and "half log-SNR" in err
  step = int(err.split("at step ")[1].split(",")[0])
  assert all(saved <= step for saved in steps_saved(tmp_path / "run"))


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_no_more_dispatches_are_in_flight_than_allowed(in_flight):
  """The reporter reads the metrics of all but the last few, and with that waits for their steps."""
  reporter = reporting.Reporter(
      config.Training(dispatches_in_flight=in_flight, log_every=1000), None, 0)
  zeros = training.Metrics(*[np.zeros((5,))] * 2, np.ones((5,), bool), *[np.zeros((5,))] * 5)
  sent = lambda start: dispatches.Dispatch(start, start + 5, None, zeros, 0.1)
  for i in range(8):
    reporter.add(sent(5 * i), now=False)
    assert len(reporter._pending) == min(i + 1, in_flight - 1)
  reporter.add(sent(40), now=True)
  assert not reporter._pending


def tiny(**changes) -> assembly.Run:
  return assembly.prepare(config.override(config.load(str(runner.CONFIGS / "mixture2d.py")), {
      "data.train_size": 100, "data.test_size": 10, "network.width": 8, "network.depth": 1,
      **changes}))


def test_a_state_is_donated():
  run = tiny()
  state = assembly.start(run)
  batch = data.batch(run.dataset, seed=0, step=0, batch_size=512)
  after, _ = assembly.train_step(run)(state, np.uint32(1), batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_convolutions_are_not_put_into_a_loop_on_a_cpu():
  run = tiny()

  @jax.jit
  def smoothed(params, x, ell, labels):
    kernel = jax.numpy.ones((1, 1, 2))
    y = run.apply(params, x, ell, labels)
    return jax.lax.conv_general_dilated(y[:, None], kernel, (1,), "SAME")[:, 0]

  assert assembly.steps_at_once(run) == run.config.training.steps_per_dispatch == 20
  assert assembly.compiler_options(run) == {}
  convolving = run._replace(apply=smoothed)
  assert assembly.steps_at_once(convolving) == 1
  assert assembly.compiler_options(convolving) == meshes.own_convolutions("cpu")
  assert meshes.own_convolutions("tpu") == {}


def test_options_of_the_compiler_reach_training_and_sampling(monkeypatch):
  run = tiny(**{"sampling.batch_size": 16})
  monkeypatch.setattr(assembly, "compiler_options", lambda run: {"no_such_option": "1"})
  batch = data.batch(run.dataset, seed=0, step=0, batch_size=512)
  state, path = assembly.start(run), assembly.build.path(run.config.path)
  labels = np.zeros(16, np.int32)
  for call in (lambda: assembly.train_step(run)(state, np.uint32(1), batch),
               lambda: drawing.draw(run, state.params, run.config.sampling, path, labels, seed=0),
               lambda: drawing.trajectory(
                   run, state.params, run.config.sampling, path, labels, seed=0)):
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
      call()


def test_a_cpu_convolves_by_its_own_kernels():
  x, w = np.ones((8, 28, 28, 32), np.float32), np.ones((3, 3, 32, 32), np.float32)
  convolve = lambda x, w: jax.lax.conv_general_dilated(
      x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  gradient = jax.jit(jax.grad(lambda *given: convolve(*given).sum(), argnums=(0, 1)),
                     compiler_options=meshes.own_convolutions("cpu"))
  program = gradient.lower(x, w).compile().as_text()
  assert "convolution(" in program and "ynn" not in program


def test_slow_steps_make_short_dispatches_and_the_same_files(small_run, tmp_path, monkeypatch):
  """A second a dispatch at most, at the measured time of a step; what is written is the same."""
  with runner.entry("train") as train:
    monkeypatch.setattr(train.pictures, "training", lambda *_: None)
    assert [dispatches._steps_allowed(s, 20) for s in (1e-3, 0.3, 7.0)] == [20, 3, 1]
    settings = config.override(
        records.read_config(small_run), {"training.steps": 43, "training.log_every": 7})
    found = {}
    for number in (5, 2):
      workdir = tmp_path / str(number)
      records.claim(workdir, settings)
      sizes, run_steps = [], dispatches.run_steps
      with monkeypatch.context() as patch:
        patch.setattr(dispatches, "_steps_allowed", lambda seconds, most, number=number: number)
        patch.setattr(dispatches, "run_steps", lambda *args, sizes=sizes, run_steps=run_steps: (
            sizes.append(each.end - each.start) or each for each in run_steps(*args)))
        state = train.train(assembly.prepare(settings), workdir)
      found[number] = (records.sha256(state.params), unclocked(workdir), steps_saved(workdir))
      assert sum(sizes) == 43 and sizes[:2] == [1, 1] and max(sizes) == number
  assert found[2] == found[5] and found[5][2] == [20, 40, 43]


@pytest.mark.parametrize(("last", "says"), [
    (1, "stopped before step 1 of 60"), (4, "stopped at step 4 of 60 and saved it")])
def test_a_signal_waits_for_no_compilation_and_for_one_slow_step(
    last, says, small_run, tmp_path, monkeypatch):
  """It comes in the middle of step `last`; the first does not end, as if it were compiled.

  Nor is any program compiled for the save, but that of the learning rate in the line of metrics.
  """
  end, sent, compiled, make = threading.Event(), [], [], assembly.train_step
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None)
  before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

  def train_step(*args, **options):
    step = make(*args, **options)

    def call(*args):
      sent.append(args)
      if len(sent) == last:
        compiled.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        if last == 1:
          end.wait(60)
      return step(*args)

    return call

  command = "train", *SMALL, *STEPS, f"--workdir={tmp_path}"
  try:
    with monkeypatch.context() as patch:
      patch.setattr(dispatches, "_DISPATCH_SECONDS", 0.0)
      patch.setattr(assembly, "train_step", train_step)
      assert says in runner.succeed(*command)
    assert len(compiled) <= 1, compiled
    assert len(sent) == last and runner.abandoned() == (last == 1)
  finally:
    end.set()
    runner.wait_until(lambda: not runner.abandoned())
    for number, action in before.items():
      signal.signal(number, action)
  runner.succeed(*command)
  assert manifest(tmp_path)["sha256"] == manifest(small_run)["sha256"]


def test_a_run_that_has_learned_no_more_than_moments_says_so(capsys):
  run = tiny()
  linear = reporting.linear_loss(run)
  for loss, resumed_at, told in ((linear * 0.99, 0, 0), (linear * 1.01, 0, 1), (np.nan, 0, 1),
                                 (linear * 1.01, 2000, 0)):
    check = reporting.LinearCheck(run, resumed_at)  # 8,000 steps: compared at 1,600
    for start in range(resumed_at, 3000, 20):
      # Early losses do not count.
      check.add(start, np.full(20, 100.0 if start < 800 else loss))
    out = capsys.readouterr().out
    assert out.count("by step 1600 the loss is") == told and len(out.splitlines()) == told
  # Two dimensions, mean variance 1, eigenvalues of its own: the quadrature by hand.
  x = np.asarray(run.dataset.train, np.float64)
  variances = np.linalg.eigvalsh(np.cov(x, rowvar=False))
  rho = np.exp(np.linspace(np.log(0.01), np.log(100.0), 20_001))
  mean = np.mean((1 + rho) ** 2 * np.mean(variances / (variances + rho[:, None] ** 2), 1))
  np.testing.assert_allclose(linear, mean, rtol=1e-3)


def test_parameters_that_are_not_finite_are_not_kept(tmp_path):
  """The first step overflows with a finite loss and gradient; there is no checkpoint of it."""
  code, _, err = runner.call(
      "train", *SMALL, "--config.training.steps=20", "--config.training.checkpoint_every=1",
      "--config.training.steps_per_dispatch=1", "--config.training.learning_rate=1e39",
      "--config.training.schedule.warmup_steps=0", f"--workdir={tmp_path / 'run'}")
  assert code == 2 and len(err.splitlines()) == 1
  assert "not finite after step 0" in err
  assert not steps_saved(tmp_path / "run")


def test_a_batch_split_over_virtual_devices_learns_the_same(small_run, tmp_path):
  """Sums run in another order over two devices: losses agree to rounding."""
  code, _, err = runner.run("train", *SMALL, *STEPS, "--config.training.cpu_devices=2",
                            f"--workdir={tmp_path / 'run'}")
  assert code == 0, err
  assert len(manifest(tmp_path / "run")["devices"]) == 2
  for one, two in zip(metrics(small_run), metrics(tmp_path / "run"), strict=True):
    assert abs(one["loss"] - two["loss"]) <= 1e-4 * one["loss"]
