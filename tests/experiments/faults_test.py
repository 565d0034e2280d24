"""What goes wrong around a run: writers, disks and clocks; nothing is lost and one line says it."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock

import jax
import pytest
import runner
from runner import SMALL, manifest, unclocked

import experiments
from experiments import config as config_lib
from experiments.config import cli
from experiments.run import assembly, averages, multihost, records, signals

STEPS = ("--config.training.steps=60", "--config.training.checkpoint_every=20",
         "--config.training.ema_relative_std=0.05,0.1", "--config.training.snapshot_every=15")


def train(workdir, *more):
  """What a run in this process prints, as (exit code, stdout, stderr)."""
  return runner.call("train", *SMALL, *STEPS, *more, f"--workdir={workdir}")


def finish(workdir, *more):
  """What a run that must succeed prints."""
  return runner.succeed("train", *SMALL, *STEPS, *more, f"--workdir={workdir}")


def same(one, two):
  assert manifest(one)["sha256"] == manifest(two)["sha256"]
  assert manifest(one)["sha256_ema"] == manifest(two)["sha256_ema"]
  assert unclocked(one) == unclocked(two)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("faults") / "run"
  finish(workdir)
  return workdir


def unfinished(undisturbed, tmp_path):
  """A copy of the run that has to look at its checkpoints again."""
  workdir = tmp_path / "run"
  shutil.copytree(undisturbed, workdir)
  (workdir / "manifest.json").unlink()
  return workdir


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(undisturbed, tmp_path):
  workdir = tmp_path / "run"
  first = runner.start("train", *SMALL, "--config.training.steps=20000", f"--workdir={workdir}")
  try:
    runner.wait_until((workdir / "metrics.jsonl").exists, first)
    err = runner.refused("train", *SMALL, "--config.training.steps=20000",
                         f"--workdir={workdir}")
    assert f"is in use by process {first.pid}" in err and "choose another --workdir" in err
  finally:
    first.kill()
    first.communicate()
  with records.locked(workdir):
    pass


@pytest.mark.parametrize("jump", [
    -3600.0 * 24, pytest.param(3600.0 * 24 * 365, marks=pytest.mark.slow)])
def test_a_clock_that_is_set_during_the_run_loses_nothing(undisturbed, tmp_path, jump):
  """The wall clock is set back a day, or a year ahead, at step 30.

  Orbax times its own waits by it: should one be under way it may give up, in one line, and the same
  command goes on.
  """
  true, add = time.time, averages.snapshot_due

  def due(config, start, end):
    moved.append(jump if end >= 30 else 0.0)
    return add(config, start, end)

  workdir, moved = tmp_path / "run", [0.0]
  with (unittest.mock.patch.object(time, "time", lambda: true() + moved[-1]),
        unittest.mock.patch.object(averages, "snapshot_due", due)):
    code, _, err = train(workdir)
  if code:
    assert code == 2 and len(err.splitlines()) == 1 and "earlier ones are complete" in err
    finish(workdir)
  assert moved[-1] == jump
  same(workdir, undisturbed)
  assert all(line["seconds"] < 600 for line in records.read_metrics(workdir))


def test_a_corrupt_newest_checkpoint_gives_way_to_the_one_before(undisturbed, tmp_path):
  """Bytes flipped all over the newest step's numbers, of which Orbax takes no notice mostly.

  One place alone may hold nothing; `checkpoints_test` flips single bits.
  """
  workdir = unfinished(undisturbed, tmp_path)
  state = workdir / "checkpoints" / "60" / "state"
  file = max((state / "ocdbt.process_0" / "d").iterdir(), key=lambda file: file.stat().st_size)
  content = bytearray(file.read_bytes())
  for place in range(len(content) // 20, len(content), len(content) // 10):
    content[place:place + 64] = bytes(byte ^ 0xFF for byte in content[place:place + 64])
  file.write_bytes(content)
  out = finish(workdir)
  assert "checkpoint of step 60 is damaged, trying the one before" in out
  assert "at step 40 of 60" in out
  same(workdir, undisturbed)
  assert (workdir / "damaged_checkpoints" / "60").is_dir()


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(undisturbed, tmp_path):
  workdir = tmp_path / "run"
  usage, asked = shutil.disk_usage, []

  def full(path):
    # Room for the snapshot of step 15, the checkpoint of 20 and the snapshot of 30, then none.
    asked.append(path)
    return usage(path)._replace(free=2**40 if len(asked) <= 3 else 0)

  with unittest.mock.patch.object(shutil, "disk_usage", full):
    code, _, err = train(workdir)
  assert code == 2 and "disk full: the checkpoint of step 40" in err and "are complete" in err
  assert len(err.splitlines()) == 1
  assert [step.name for step in (workdir / "checkpoints").iterdir()] == ["20"]
  out = finish(workdir)
  assert "at step 20 of 60" in out
  same(workdir, undisturbed)


def train_mounted(mount, workdir):
  """Runs a shell command in a mount namespace of its own, then the training."""
  if shutil.which("unshare") is None:
    pytest.skip("needs unshare (util-linux)")
  script = (f"{mount} && exec {sys.executable} -m experiments.train {' '.join(SMALL)} "
            f"{' '.join(STEPS)} --workdir={workdir}")
  done = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=runner.ROOT, timeout=200,
                        capture_output=True, text=True)
  if "mount" in done.stderr or "unshare" in done.stderr:
    pytest.skip("this machine allows no mounts")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
  return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", ["nr_inodes=50", "ro"])
def test_a_disk_that_is_really_full_or_read_only_ends_the_run_in_one_line(options, tmp_path):
  """A file system without room for more files, or checkpoints/ that cannot be written."""
  room = tmp_path / "room"
  place = room / "run" / "checkpoints" if options == "ro" else room
  place.mkdir(parents=True)
  if options == "ro":
    records.write_text(room / "run" / "config.json", config_lib.to_json(config_lib.override(
        config_lib.load(runner.CONFIGS / "mixture2d.py"),
        {word.removeprefix("--config.").split("=")[0]: word.split("=")[1]
         for word in (*SMALL, *STEPS) if word.startswith("--config.")})))
  assert "could not be written, earlier ones are complete" in train_mounted(
      f"mount -t tmpfs -o {options} none {place}", room / "run")


def test_a_read_only_workdir_is_one_line(undisturbed):
  """Root ignores modes, so this is a bind mount made read-only where that is allowed."""
  before = manifest(undisturbed)
  assert "Read-only file system" in train_mounted(
      f"mount --bind {undisturbed} {undisturbed} && mount -o remount,ro,bind {undisturbed}",
      undisturbed)
  assert manifest(undisturbed) == before


def test_another_mesh_is_how_and_not_what(undisturbed, tmp_path, capsys):
  """A run goes on under other execution settings, which it says; another recipe is refused."""
  workdir = tmp_path / "run"
  shutil.copytree(undisturbed, workdir)
  out = finish(workdir, "--config.mesh.data=1", "--config.training.dispatches_in_flight=3")
  assert "from step 60 with training.dispatches_in_flight: 2 → 3; mesh.data: -1 → 1" in out
  assert records.read_config(workdir).mesh.data == 1
  code, _, err = train(workdir, "--config.training.accumulation=2")
  assert code == 2 and "training.accumulation: 1 → 2" in err


def test_lines_tell_the_host_s_share_and_all_the_seconds(undisturbed):
  lines = records.read_metrics(undisturbed)
  assert [line["step"] for line in lines] == [10, 15, 20, 30, 40, 45, 50, 60]
  seconds = [line["seconds"] for line in lines]
  assert seconds == sorted(seconds) and seconds[0] > 0
  for line in lines:
    assert line["host_seconds_per_step"] > 0
  # The first dispatch is compiled while the host waits.
  assert seconds[-1] > 60 * min(line["host_seconds_per_step"] for line in lines)


def test_snapshots_are_those_of_the_plan(undisturbed):
  with averages.manager(undisturbed, read_only=True) as snapshots:
    assert sorted(snapshots.all_steps()) == [15, 30, 45, 60]


@pytest.mark.parametrize("steps", [(30,), pytest.param((15, 30, 45), marks=pytest.mark.slow)])
def test_killed_with_snapshots_being_written_ends_with_the_same(undisturbed, tmp_path, steps):
  """SIGKILL at once after a snapshot appears: it lies before the next checkpoint."""
  workdir = tmp_path / "run"
  for step in steps:
    process = runner.start("train", *SMALL, *STEPS, f"--workdir={workdir}")
    runner.wait_until((workdir / "snapshots" / str(step)).exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
  finish(workdir)
  same(workdir, undisturbed)
  names = lambda place: sorted(step.name for step in pathlib.Path(place, "snapshots").iterdir()
                               if step.name.isdigit())
  assert names(workdir) == names(undisturbed)


def test_a_packed_source_knows_its_commit(tmp_path):
  """As the launch recipes bring it to machines without the repository."""
  git = lambda *words: subprocess.run(
      ["git", *words], cwd=runner.ROOT, capture_output=True, check=True).stdout
  head = git("rev-parse", "HEAD").decode().strip()
  subprocess.run(["tar", "x", "-C", str(tmp_path)], input=git("archive", "HEAD"), check=True)
  code = "from experiments.run import records; print(records.commit())"
  said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                        env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True).stdout
  assert said.strip() == head
  assert records.commit().startswith(head)


def test_a_workdir_that_goes_away_is_no_trained_run(tmp_path):
  """Renamed at step 30; what was complete goes on from where it now is."""
  workdir, moved, due = tmp_path / "run", tmp_path / "moved", averages.snapshot_due

  def away(config, start, end):
    if end == 30:
      workdir.rename(moved)
    return due(config, start, end)

  with unittest.mock.patch.object(averages, "snapshot_due", away):
    code, out, err = train(workdir)
  assert code == 2 and "trained" not in out
  assert f"--workdir {workdir} was deleted, renamed or replaced" in err
  assert len(err.splitlines()) == 1
  assert not manifest(moved)["finished"]


@pytest.mark.parametrize(("setting", "name"), [
    (lambda: jax.threefry_partitionable(False), "jax_threefry_partitionable: True → False"),
    (lambda: jax.enable_x64(True), "jax_enable_x64: False → True"),
    (lambda: jax.default_matmul_precision("highest"), "matmul_precision: None → highest")])
def test_a_run_goes_on_under_the_settings_of_jax_that_it_began_with(undisturbed, setting, name):
  assert manifest(undisturbed)["numerics"] == records.numerics()
  records.check_numerics(undisturbed)
  with setting(), pytest.raises(ValueError, match="was trained under another setting") as refusal:
    records.check_numerics(undisturbed)
  assert name in str(refusal.value)


def test_other_settings_of_jax_are_refused_by_the_command(undisturbed):
  with jax.threefry_partitionable(False):
    code, _, err = train(undisturbed)
  assert code == 2 and "set JAX_THREEFRY_PARTITIONABLE as it was" in err


def test_a_checkpoint_under_another_name_is_not_taken_for_a_later_one(undisturbed, tmp_path):
  """It would stand in the way of all that the run has yet to save."""
  workdir = unfinished(undisturbed, tmp_path)
  shutil.rmtree(workdir / "checkpoints" / "60")
  (workdir / "checkpoints" / "40").rename(workdir / "checkpoints" / "600")
  out = finish(workdir)
  assert "step 600 is damaged" in out and "it was written as step 40" in out
  assert "at step 20 of 60" in out
  same(workdir, undisturbed)


def test_a_broken_line_of_metrics_leaves_those_after_it(tmp_path, capsys):
  (tmp_path / "metrics.jsonl").write_text(
      '{"step": 10, "loss": 1.0}\n{"step": 2\n\nnull\n{"loss": 1.0}\n'
      '{"step": 20, "loss": 0.5}\n{"step": 30, "lo')
  assert [line["step"] for line in records.read_metrics(tmp_path)] == [10, 20]
  assert "line 2, 3, 4, 5" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_output_that_nobody_reads_any_longer_is_a_request_to_stop(number, monkeypatch):
  """`train | head`, also where the end of the reader and the signal come together."""
  pipe = os.pipe()
  os.close(pipe[0])
  before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  with os.fdopen(pipe[1], "w") as unread:
    monkeypatch.setattr(sys, "stdout", unread)
    try:
      stop = signals.stopping()
      assert not stop(0)
      if number:
        os.kill(os.getpid(), number)
        assert stop(0)
      with signals.heard():
        print("what follows leads nowhere", flush=True)
    finally:
      for number, action in before.items():
        signal.signal(number, action)
    assert stop(1)


def test_an_error_ends_the_process_whatever_its_threads_wait_for_and_its_streams_are(tmp_path):
  """With stderr closed: the next file that is opened must not get what is printed there."""
  code = f"""
import os, signal, threading
from experiments.config import cli
def main():
  threading.Thread(target=threading.Event().wait).start()
  assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
  with open({str(tmp_path / "file")!r}, "w") as file:
    os.write(2, b"noise")
    file.write("kept")
  raise OSError("no disk, \\udcff")
cli.run(main, at_once=True)
"""
  done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code], timeout=60,
                        cwd=runner.ROOT, env=os.environ | {"PYTHONPATH": str(runner.ROOT)})
  assert done.returncode == 2
  assert (tmp_path / "file").read_text() == "kept"


def test_a_warning_is_told_once():
  code = """
import warnings
from experiments.config import cli
def main():
  for said in ("this", "this", "that"):
    warnings.warn(said)
  warnings.simplefilter("always")
  warnings.warn("this")
  return 0
cli.run(main)
"""
  said = subprocess.run([sys.executable, "-c", code], cwd=runner.ROOT, capture_output=True,
                        text=True, timeout=60, check=True).stderr
  assert said.splitlines() == ["warning: this", "warning: that"]


def test_ctrl_c_is_not_for_callbacks_to_swallow_while_a_command_is_imported():
  code = "import sys; sys.argv = ['-m']; import experiments, signal; print(signal.getsignal(2))"
  said = subprocess.run([sys.executable, "-c", code], cwd=runner.ROOT, capture_output=True,
                        text=True, timeout=60, check=True).stdout
  assert said.strip() == str(signal.SIG_DFL)


def test_a_user_without_a_home(monkeypatch):
  """As in a container whose user is in no passwd: nothing compiled is kept."""
  for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pathlib.Path, "home", unittest.mock.Mock(side_effect=RuntimeError("none")))
  with unittest.mock.patch.object(jax.config, "update") as update:
    assembly.keep_compiled()
  assert all(call.args[0] != "jax_compilation_cache_dir" for call in update.call_args_list)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend")])
def test_devices_that_are_not_there_are_one_line(error, monkeypatch):
  monkeypatch.setattr(jax, "devices", unittest.mock.Mock(side_effect=error))
  with pytest.raises(ValueError, match=r"JAX_PLATFORMS=.*: jax finds no such devices here"):
    multihost.check_devices()


def test_paths_of_flags_are_those_of_a_shell(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert cli.workdir("~/run") == tmp_path / "run"
  assert f"{tmp_path / 'run'} holds no" in runner.refused(
      "targets", "--workdir=~/run", "--target=1")
  with pytest.raises(ValueError, match=f"{tmp_path / 'run'} holds no run"):
    experiments.load("~/run")
  with pytest.raises(ValueError, match=r"^--workdir ~nobody_here/run: ~nobody_here is no home"):
    cli.workdir("~nobody_here/run")
  assert "is no text in UTF-8" in runner.refused("train", *SMALL, "--workdir=runs/\udcff")
