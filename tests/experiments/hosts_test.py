"""Two real processes on loopback: as one, stopped as one, and not left waiting for a dead one.

Every process has one device and a hard limit on its time. A pair is expensive: fast tests have
those alone that end before the first step.
"""

import contextlib
import json
import pathlib
import random
import signal
import socket
import subprocess
import types

import jax
import numpy as np
import pytest
import runner
from runner import SMALL, STEPS, manifest, unclocked

from experiments import data
from experiments.run import assembly, multihost, records, signals, watching

WATCH = ("--config.training.sample_every=60", "--config.training.evaluate_every=60",
         "--config.training.evaluate_metrics=sliced_w2", "--config.evaluation.num_samples=60")
LONG = ("--config.training.steps=20000", "--config.training.checkpoint_every=200",
        "--config.training.log_every=100")


@contextlib.contextmanager
def pair(module, *arguments, of_second=(), fresh=False):
  """Both processes of a run, killed on the way out if they are still there."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = [
      runner.start(module, *arguments, f"--coordinator=127.0.0.1:{port}", "--num_processes=2",
                   f"--process_id={i}", "--peer_timeout=10", *(of_second if i else ()), fresh=fresh)
      for i in range(2)]
  try:
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.communicate()


def ends(processes, timeout=300):
  """(code, out, err) of each."""
  answers = []
  for process in processes:
    out, err = process.communicate(timeout=timeout)
    answers.append((process.returncode, out, err))
  return answers


def succeed(module, *arguments, **options):
  """(code, out, err) of each process of a pair, both of which exit with code 0."""
  with pair(module, *arguments, **options) as processes:
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  return answers


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("hosts") / "two"
  answers = succeed("train", *SMALL, *STEPS, *WATCH, f"--workdir={workdir}", fresh=True)
  assert "trained to step 60" in answers[0][1] and "trained" not in answers[1][1]
  return workdir


def listening(port):
  """The addresses at which this machine listens on a port, as Linux's /proc tells them."""
  lines = [line.split() for name in ("tcp", "tcp6")
           for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]]
  ends = [line[1].split(":") for line in lines if line[3] == "0A"]
  return {address for address, at in ends if int(at, 16) == port}


def test_processes_with_other_configs_are_told_apart_before_the_first_step(tmp_path):
  """And the first of them listens where it was told to, not on all addresses."""
  workdir = tmp_path / "run"
  with pair("train", *SMALL, *STEPS, f"--workdir={workdir}",
            of_second=("--config.seed=5", "--config.network.width=24")) as processes:
    port = int(next(word for word in processes[0].args if word.startswith("--coordinator="))
               .rpartition(":")[2])
    runner.wait_until(lambda: listening(port), *processes)
    # 127.0.0.1, which gRPC may have mapped into IPv6.
    assert {address[-8:] for address in listening(port)} == {"0100007F"}
    answers = ends(processes)
  for code, _, err in answers:
    assert code == 2
    assert ("error: processes 0 and 1 differ in config.network.width: 16 → 24; config.seed: 0 → 5; "
            "all processes" in err)
  assert not workdir.exists()


@pytest.mark.parametrize(("counts", "facts", "wanted"), [
    ((1, 2), ({}, {}), "process 0 1, process 1 2"),
    ((1, 1), ({"a": 1, "b": [1]}, {"a": 1, "b": [1]}), None),
    ((1, 1), ({"a": 1}, {"a": 1, "data": "x"}), "differ in data: None → 'x'")])
def test_what_processes_compare(counts, facts, wanted, monkeypatch):
  devices = [types.SimpleNamespace(process_index=i) for i, n in enumerate(counts) for _ in range(n)]
  encoded = [np.frombuffer(json.dumps(one).encode(), np.uint8) for one in facts]

  def gathered(value):
    if value.ndim == 0:
      return np.asarray([len(one) for one in encoded])
    return np.stack([np.pad(one, (0, len(value) - len(one))) for one in encoded])

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "devices", lambda: devices)
  monkeypatch.setattr(multihost.multihost_utils, "process_allgather", gathered)
  if wanted is None:
    multihost.check_same(facts[0])
    return
  with pytest.raises(ValueError, match=wanted):
    multihost.check_same(facts[0])


def test_data_have_a_digest_of_all_that_is_learned_from():
  load = lambda **fields: data.load("mixture2d", train_size=60, test_size=20, **fields)
  dataset = load()
  assert data.digest(dataset) == data.digest(load())
  for name in ("train", "test"):
    changed = np.array(getattr(dataset, name))
    changed[3, 1] += 1e-6
    assert data.digest(dataset._replace(**{name: changed})) != data.digest(dataset)
  assert data.digest(dataset._replace(integers=True)) != data.digest(dataset)


def test_two_processes_train_as_one(small_run, two):
  assert manifest(two)["finished"] and len(manifest(two)["devices"]) == 2
  lines = unclocked(small_run), unclocked(two)
  assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]
  for alone, together in zip(*lines, strict=True):
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-5)
    assert together["level_count"] == alone["level_count"]


def test_two_processes_are_watched_as_one(two):
  """The held-out loss is that of one process with their parameters; process 0 judges and draws."""
  last = records.read_metrics(two)[-1]
  assert last["step"] == 60 and last["sliced_w2"] > 0
  assert [file.name for file in (two / "samples").iterdir()] == ["00000060.png"]
  run, state = assembly.trained(two)
  found = watching.Watcher(run, two)._loss(state.ema[0])
  for name in ("held_out_loss", "held_out_loss_error"):
    np.testing.assert_allclose(last[name], found[name], rtol=1e-4)


def check_split_run(small_run, workdir, axis):
  """Trains with parameters split over both processes; asserts the losses of one process."""
  succeed("train", *SMALL, *STEPS, "--config.mesh.data=1", f"--config.mesh.{axis}=2",
          f"--workdir={workdir}")
  for alone, together in zip(unclocked(small_run), unclocked(workdir), strict=True):
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-5)


def test_matrices_split_over_processes_train_as_one(small_run, tmp_path):
  check_split_run(small_run, tmp_path / "run", "tensor")


def test_parameters_split_over_processes_train_as_one_and_are_sampled_by_one(small_run, tmp_path):
  """Each process has half of every kernel; one restores them all.

  Then the half of process 1 in the newest step is emptied: both processes use the step before.
  """
  workdir = tmp_path / "run"
  check_split_run(small_run, workdir, "fsdp")
  runner.succeed("sample", f"--workdir={workdir}", "--num_samples=30")
  assert np.isfinite(np.load(workdir / "samples.npy")).all()
  files = list((workdir / "checkpoints" / "60" / "state" / "ocdbt.process_1" / "d").iterdir())
  assert files
  for file in files:
    file.write_bytes(b"")
  (workdir / "manifest.json").unlink()
  answers = succeed("train", *SMALL, *STEPS, "--config.mesh.data=1", "--config.mesh.fsdp=2",
                    f"--workdir={workdir}")
  said = "checkpoint of step 60 is damaged, trying the one before ("
  assert f"{said}another process cannot read it)" in answers[0][2]
  assert said in answers[1][2] and "another process" not in answers[1][2]
  assert "at step 40 of 60" in answers[0][1] and "trained to step 60" in answers[0][1]
  assert (workdir / "damaged_checkpoints" / "60").is_dir()


def test_two_processes_sample_as_one(two, tmp_path):
  sampled = "sample", f"--workdir={two}", "--num_samples=150"
  runner.succeed(*sampled, f"--out={tmp_path / 'alone.npy'}")
  succeed(*sampled, f"--out={tmp_path / 'together.npy'}")
  alone, together = (np.load(tmp_path / f"{name}.npy") for name in ("alone", "together"))
  np.testing.assert_allclose(together, alone, atol=1e-5)
  assert together.std() > 0.1


def test_two_processes_judge_as_one(two, tmp_path):
  judged = ("evaluate", f"--workdir={two}", "--num_samples=100", "--likelihood",
            "--likelihood_samples=32", "--likelihood_steps=4")
  runner.succeed(*judged, f"--out={tmp_path / 'alone.json'}")
  succeed(*judged, f"--out={tmp_path / 'together.json'}")
  alone, together = (json.loads((tmp_path / f"{name}.json").read_text())["metrics"]
                     for name in ("alone", "together"))
  assert alone.keys() == together.keys() and len(alone) > 4
  for name, number in alone.items():
    np.testing.assert_allclose(together[name]["value"], number["value"], rtol=1e-3, atol=1e-4,
                               err_msg=name)


def test_sigterm_to_one_saves_the_same_step_on_both_and_a_restart_goes_on(tmp_path, monkeypatch):
  workdir = tmp_path / "run"
  with pair("train", *SMALL, *LONG, f"--workdir={workdir}") as processes:
    runner.wait_until((workdir / "checkpoints" / "200").exists, *processes)
    processes[1].send_signal(signal.SIGTERM)
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  stopped = int(answers[0][1].split("stopped at step ")[1].split()[0])
  assert max(int(step.name) for step in (workdir / "checkpoints").iterdir()) == stopped
  # One process goes on, for 50 dispatches.
  monkeypatch.setattr(signals, "stopping", lambda: lambda dispatch: dispatch == 50)
  out = runner.succeed("train", *SMALL, *LONG, f"--workdir={workdir}")
  assert f"resuming {workdir} at step {stopped}" in out
  written = [line["step"] for line in records.read_metrics(workdir)]
  assert written == sorted(set(written)) and written[-1] > stopped


def assert_stopped_alone(process):
  """The process has noticed that its peer is gone, and says so."""
  _, err = process.communicate(timeout=300)
  assert process.returncode != 0
  # Ours where a collective fails first, jax's own where the heartbeat does.
  assert ("another process has ended or cannot be reached" in err
          or "another task died" in err), err
  assert "Current thread" not in err


def test_killed_at_random_moments_two_processes_end_as_if_they_had_not_been(tmp_path):
  """Anywhere from the first save on: at first the coordinator alone, later both at once."""
  workdir, whole, dice, kills = tmp_path / "run", tmp_path / "whole", random.Random(0), 4
  steps = f"--config.training.steps={40 * (kills + 2)}", "--config.training.checkpoint_every=10"
  newest = lambda: max([0, *(int(step.name) for step in (workdir / "checkpoints").glob("*")
                             if step.name.isdigit())])
  runner.succeed("train", *SMALL, *steps, f"--workdir={whole}")
  for kill in range(kills):
    before = newest()
    with pair("train", *SMALL, *steps, f"--workdir={workdir}") as processes:
      runner.wait_until(lambda before=before: newest() > before, *processes)
      with contextlib.suppress(subprocess.TimeoutExpired):
        processes[0].wait(dice.uniform(0.0, 0.3) if kill else 0.0)
      for process in processes if kill else processes[:1]:
        process.send_signal(signal.SIGKILL)
      if not kill:
        assert_stopped_alone(processes[1])
  succeed("train", *SMALL, *steps, f"--workdir={workdir}")
  lines = unclocked(whole), unclocked(workdir)
  assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]
  for one, other in zip(*lines, strict=True):
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_peer_does_not_leave_the_coordinator_waiting(tmp_path, number):
  """Its connection closes, or its heartbeats stop for --peer_timeout seconds."""
  workdir = tmp_path / "run"
  with pair("train", *SMALL, *LONG, f"--workdir={workdir}") as processes:
    runner.wait_until((workdir / "checkpoints" / "200").exists, *processes)
    processes[1].send_signal(number)
    assert_stopped_alone(processes[0])
  assert (workdir / "checkpoints" / "200").exists()


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_finds_no_other_says_so(tmp_path, index):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  code, _, err = runner.run(
      "train", *SMALL, f"--workdir={tmp_path / 'run'}", f"--coordinator=127.0.0.1:{port}",
      "--num_processes=2", f"--process_id={index}", "--connect_timeout=3", timeout=90)
  assert code == 2
  assert "the processes did not find each other within 3 seconds" in err.splitlines()[-1]
  assert not (tmp_path / "run").exists()


def test_sigterm_ends_sampling_on_both(two, tmp_path):
  """Nothing is to be agreed on: samples that are on disk are gone on with."""
  with pair("sample", f"--workdir={two}", "--num_samples=200000", "--batch_size=1000",
            f"--out={tmp_path / 'x.npy'}") as processes:
    runner.wait_until((tmp_path / "x.npy.progress").exists, *processes)
    processes[1].send_signal(signal.SIGTERM)
    answers = ends(processes)
  assert all(code != 0 for code, _, _ in answers)
  assert (tmp_path / "x.npy.partial").exists()


@pytest.mark.parametrize(("flags", "message"), [
    (["--num_processes=2"], "--num_processes goes with --coordinator=host:port"),
    (["--coordinator=somewhere"], "--coordinator must be host:port, got 'somewhere'"),
    (["--coordinator=127.0.0.1:1234"], "--coordinator needs --num_processes too"),
    (["--coordinator=127.0.0.1:1234", "--num_processes=2"], "--coordinator needs --process_id too"),
    (["--coordinator=127.0.0.1:1234", "--num_processes=2", "--process_id=2"],
     "--process_id must lie in [0, --num_processes=2), got 2"),
    (["--coordinator=127.0.0.1:99999", "--num_processes=2", "--process_id=1"],
     "--coordinator must be host:port, got '127.0.0.1:99999'"),
    (["--coordinator=127.0.0.1:1234", "--multihost"], "--multihost finds the processes by itself"),
    (["--coordinator=127.0.0.1:1", "--num_processes=2", "--process_id=1", "--peer_timeout=0"],
     "--peer_timeout must be at least 1 second, got 0"),
    (["--coordinator_bind=0.0.0.0:1234"], "--coordinator_bind goes with --coordinator=host:port"),
    (["--coordinator=127.0.0.1:1", "--coordinator_bind=here", "--num_processes=2",
      "--process_id=0"], "--coordinator_bind must be host:port, got 'here'")])
def test_bad_flags_are_one_line_each(tmp_path, flags, message):
  assert message in runner.refused("train", *SMALL, *flags, f"--workdir={tmp_path / 'run'}")
