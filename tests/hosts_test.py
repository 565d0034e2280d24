"""Two real processes on loopback: as one, stopped as one, and not left waiting for a dead one.

Every process has one device and a hard limit on its time.
"""

import contextlib
import json
import pathlib
import random
import signal
import socket
import time
import types

import jax
import numpy as np
import pytest
import runner
from runner import SMALL, manifest, unclocked

from experiments import data
from experiments.run import multihost, records

STEPS = "--config.training.steps=60", "--config.training.checkpoint_every=20"
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


def ends(processes, timeout=100):
  """(code, out, err) of each."""
  answers = []
  for process in processes:
    out, err = process.communicate(timeout=timeout)
    answers.append((process.returncode, out, err))
  return answers


def wait_for(condition, processes, seconds=80):
  deadline = time.monotonic() + seconds
  while not condition() and all(p.poll() is None for p in processes):
    assert time.monotonic() < deadline, "too slow"
    time.sleep(0.02)
  assert condition(), ends(processes)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("hosts") / "one"
  code, _, err = runner.run("train", *SMALL, *STEPS, f"--workdir={workdir}")
  assert code == 0, err
  return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("hosts") / "two"
  with pair("train", *SMALL, *STEPS, f"--workdir={workdir}", fresh=True) as processes:
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
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
    wait_for(lambda: listening(port), processes)
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


def test_two_processes_train_as_one(one, two):
  assert manifest(two)["finished"] and len(manifest(two)["devices"]) == 2
  lines = unclocked(one), unclocked(two)
  assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]
  for alone, together in zip(*lines, strict=True):
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-5)
    assert together["level_count"] == alone["level_count"]


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_parameters_split_over_processes_train_as_one_and_are_sampled_by_one(one, tmp_path, axis):
  """No process has the whole model; one process restores it all the same."""
  workdir = tmp_path / axis
  with pair("train", *SMALL, *STEPS, "--config.mesh.data=1", f"--config.mesh.{axis}=2",
            f"--workdir={workdir}") as processes:
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  for alone, together in zip(unclocked(one), unclocked(workdir), strict=True):
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-5)
  if axis == "fsdp":
    code, _, err = runner.run("sample", f"--workdir={workdir}", "--num_samples=30")
    assert code == 0, err
    assert np.isfinite(np.load(workdir / "samples.npy")).all()


def test_two_processes_sample_and_judge_as_one(two, tmp_path):
  code, _, err = runner.run("sample", f"--workdir={two}", "--num_samples=150",
                            f"--out={tmp_path / 'alone.npy'}")
  assert code == 0, err
  with pair("sample", f"--workdir={two}", "--num_samples=150",
            f"--out={tmp_path / 'together.npy'}") as processes:
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  alone, together = (np.load(tmp_path / f"{name}.npy") for name in ("alone", "together"))
  np.testing.assert_allclose(together, alone, atol=1e-5)
  assert together.std() > 0.1
  judged = "--num_samples=100", "--likelihood", "--likelihood_samples=32", "--likelihood_steps=4"
  code, _, err = runner.run("evaluate", f"--workdir={two}", *judged,
                            f"--out={tmp_path / 'judged alone.json'}")
  assert code == 0, err
  with pair("evaluate", f"--workdir={two}", *judged,
            f"--out={tmp_path / 'judged together.json'}") as processes:
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  alone, together = (json.loads((tmp_path / f"judged {name}.json").read_text())["metrics"]
                     for name in ("alone", "together"))
  assert alone.keys() == together.keys() and len(alone) > 4
  for name, number in alone.items():
    np.testing.assert_allclose(together[name]["value"], number["value"], rtol=1e-3, atol=1e-4,
                               err_msg=name)


def test_sigterm_to_one_saves_the_same_step_on_both_and_a_restart_goes_on(tmp_path):
  workdir = tmp_path / "run"
  with pair("train", *SMALL, *LONG, f"--workdir={workdir}") as processes:
    wait_for((workdir / "checkpoints" / "200").exists, processes)
    processes[1].send_signal(signal.SIGTERM)
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  stopped = int(answers[0][1].split("stopped at step ")[1].split()[0])
  steps = [int(step.name) for step in (workdir / "checkpoints").iterdir()]
  assert max(steps) == stopped
  with pair("train", *SMALL, *LONG, f"--workdir={workdir}") as processes:
    wait_for((workdir / "checkpoints" / str((stopped // 200 + 1) * 200)).exists, processes)
    processes[0].send_signal(signal.SIGTERM)
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  assert f"resuming {workdir} at step {stopped}" in answers[0][1]
  written = [line["step"] for line in records.read_metrics(workdir)]
  assert written == sorted(set(written))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_two_processes_end_as_if_they_had_not_been(tmp_path, kills):
  """Both are killed at once, anywhere from their first save on."""
  workdir, dice = tmp_path / "run", random.Random(0)
  steps = f"--config.training.steps={40 * (kills + 2)}", "--config.training.checkpoint_every=10"
  newest = lambda: max([0, *(int(step.name) for step in (workdir / "checkpoints").glob("*")
                             if step.name.isdigit())])
  whole = tmp_path / "whole"
  with pair("train", *SMALL, *steps, f"--workdir={whole}") as processes:
    assert [code for code, _, _ in ends(processes)] == [0, 0]
  for _ in range(kills):
    before = newest()
    with pair("train", *SMALL, *steps, f"--workdir={workdir}") as processes:
      wait_for(lambda before=before: newest() > before, processes)
      time.sleep(dice.uniform(0.0, 0.3))
      for process in processes:
        process.send_signal(signal.SIGKILL)
  with pair("train", *SMALL, *steps, f"--workdir={workdir}") as processes:
    answers = ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], "\n".join(map(str, answers))
  lines = unclocked(whole), unclocked(workdir)
  assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]
  for one, other in zip(*lines, strict=True):
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-5)


@pytest.mark.parametrize(("victim", "number"), [
    (1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_dead_peer_does_not_leave_the_other_waiting(tmp_path, victim, number):
  """Its connection closes, or its heartbeats stop for --peer_timeout seconds."""
  workdir = tmp_path / "run"
  with pair("train", *SMALL, *LONG, f"--workdir={workdir}") as processes:
    wait_for((workdir / "checkpoints" / "200").exists, processes)
    processes[victim].send_signal(number)
    _, err = processes[1 - victim].communicate(timeout=60)
    code = processes[1 - victim].returncode
  assert code != 0
  # Ours where a collective fails first, jax's own where the heartbeat does.
  assert ("another process has ended or cannot be reached" in err
          or "another task died" in err), err
  assert "Current thread" not in err
  assert max(int(step.name) for step in (workdir / "checkpoints").iterdir()
             if step.name.isdigit()) >= 200


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
    wait_for((tmp_path / "x.npy.progress").exists, processes)
    processes[1].send_signal(signal.SIGTERM)
    answers = ends(processes, timeout=60)
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
  code, _, err = runner.call("train", *SMALL, *flags, f"--workdir={tmp_path / 'run'}")
  assert code == 2 and message in err and len(err.splitlines()) == 1
