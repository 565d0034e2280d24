"""A workdir, samples and data in a bucket, served by `bucket_server` on this machine."""

import json

import numpy as np
import pytest
import runner

pytest.importorskip("gcsfs", reason="needs gcsfs: pip install -e '.[buckets]'")
pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator, of [test]")
import bucket_server
import hosts_test

from experiments.data import shard_writer
from experiments.run import buckets, files, leases, model, parameters


@pytest.fixture(scope="module")
def bucket():
  with bucket_server.served() as served:
    yield served


@pytest.fixture(autouse=True)
def works(bucket):
  """Each test begins with a bucket that works."""
  bucket.fault = lambda method, path: None
  bucket.requests.clear()
  yield
  bucket.fault = lambda method, path: None


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  """The same run in a local workdir, never stopped."""
  workdir = tmp_path_factory.mktemp("local") / "run"
  runner.succeed("train", f"--workdir={workdir}", *runner.SMALL, *runner.STEPS)
  return workdir


def same_as(reference, bucket, name):
  """Asserts that the run in gs://runs/<name> is the one in `reference`."""
  manifest = json.loads(bucket.read(f"{name}/manifest.json"))
  for field in ("sha256", "sha256_ema", "steps"):
    assert manifest[field] == runner.manifest(reference)[field], field
  lines = [json.loads(line) for line in bucket.read(f"{name}/metrics.jsonl").splitlines()]
  clocked = runner.records.CLOCKED
  assert [{k: v for k, v in line.items() if k not in clocked} for line in lines
          ] == runner.unclocked(reference)


def killed_at(bucket, write, *command):
  """Runs a command that is killed as it sends its write of this number; whether it was."""
  process, writes = None, 0

  def fault(method, path):
    nonlocal writes
    if method in ("POST", "PUT", "DELETE"):
      writes += 1
      if writes == write:
        process.kill()
    return

  bucket.fault = fault
  process = runner.start(*command)
  out, err = process.communicate(timeout=120)
  bucket.fault = lambda method, path: None
  assert process.returncode in (0, -9), (out, err)
  return process.returncode == -9


# Writes of one session: 1 lease, 2 … 5 config, data, manifest, 6 metrics, then a checkpoint of some
# 35 with its metrics every 20 steps, at last manifest and pictures.
@pytest.mark.parametrize("moments", [
    (4, 30, 50, 20),
    pytest.param((1, 2, 10, 41, 44, 80), marks=pytest.mark.slow)])
def test_a_run_that_is_killed_ends_the_same(bucket, reference, moments):
  name = f"killed{len(moments)}"
  command = "train", f"--workdir=gs://runs/{name}", *runner.SMALL, *runner.STEPS
  assert all([killed_at(bucket, moment, *command) for moment in moments])
  code, _, err = runner.run(*command)
  assert code == 0, err
  same_as(reference, bucket, name)


@pytest.fixture
def quick(monkeypatch):
  """Seconds of a lease become tenths."""
  for name in ("HEARTBEAT", "LOST", "STALE"):
    monkeypatch.setattr(leases, name, getattr(leases, name) / 50.0)


def foreign(bucket, name, **facts):
  """Writes a lease of a process on another machine, and returns its file."""
  file = files.path("--workdir", f"gs://runs/{name}") / ".lock"
  buckets.write(file, json.dumps({"owner": "process 7 on elsewhere", **facts}).encode())
  return file


def test_a_second_writer_is_refused(bucket, quick):
  """By a process of this machine at once; by another one that renews its lease after a while."""
  workdir = "gs://runs/shared"
  command = "train", f"--workdir={workdir}", *runner.SMALL, *runner.STEPS
  with files.locked(files.path("--workdir", workdir)):
    first = bucket.generation("shared/.lock")
    assert f"{workdir} is in use by process" in runner.refused(*command)
    runner.wait_until(lambda: bucket.generation("shared/.lock") != first)
  assert bucket.names("shared/") == []

  file, answered = foreign(bucket, "shared"), []

  def renewed(method, path):
    if path.endswith(".lock") and method == "GET":
      answered.append(path)
      if len(answered) == 4:  # each look is two requests, and more are made on the way
        bucket.fault = lambda method, path: None
        bucket.storage.patch_object("runs", "shared/.lock", {
            **bucket.storage.get_file_obj("runs", "shared/.lock"), "generation": "77"})

  bucket.fault = renewed
  with pytest.raises(ValueError, match="in use by process 7 on elsewhere"):
    files.locked(file.parent).__enter__()


@pytest.mark.parametrize("owner", ["silent", "dead"])
def test_a_stale_lease_is_taken_over(bucket, quick, owner, capsys):
  """After STALE seconds; at once where its process ran here and is gone."""
  facts = {} if owner == "silent" else {
      "machine": leases._machine(), "process": 1, "began": "another process of that number"}
  file = foreign(bucket, f"stale_{owner}", **facts)
  with files.locked(file.parent):
    held = json.loads(bucket.read(f"stale_{owner}/.lock"))
    assert leases._lives(held)
  assert ("waiting up to" in capsys.readouterr().out) == (owner == "silent")


def test_of_several_writers_one_gets_the_lease(bucket):
  """A condition on the generation decides, also where the first answer is lost."""
  file = files.path("--workdir", "gs://runs/race") / ".lock"
  first = buckets.write(file, b"a", generation="0")
  with pytest.raises(FileExistsError):
    buckets.write(file, b"b", generation="0")
  assert buckets.write(file, b"a", generation="0") == first  # it is what was to be written
  second = buckets.write(file, b"b", generation=first)
  assert buckets.read(file) == (b"b", second)
  buckets.delete(file, first)
  assert buckets.read(file) is not None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_loses_its_lease_ends(bucket, quick, monkeypatch, capsys):
  left = []

  def leave(code):
    left.append(code)
    raise SystemExit

  monkeypatch.setattr(leases.os, "_exit", leave)
  with files.locked(files.path("--workdir", "gs://runs/lost")):
    foreign(bucket, "lost")
    runner.wait_until(lambda: bool(left), seconds=60)
  assert left[0] == 2
  assert "error: the lease gs://runs/lost/.lock is lost: another" in capsys.readouterr().err
  assert b"elsewhere" in bucket.read("lost/.lock")


def test_metrics_are_not_written_over_those_of_another(bucket):
  lines = files.Lines(files.path("--workdir", "gs://runs/lines") / "metrics.jsonl", "a\n")
  lines.add("b\n")
  lines.sync()
  assert bucket.read("lines/metrics.jsonl") == b"a\nb\n"
  foreign_text = buckets.write(files.path("--workdir", "gs://runs/lines") / "metrics.jsonl", b"c\n")
  lines.add("d\n")
  with pytest.raises(OSError, match="deleted, renamed or replaced"):
    lines.sync()
  assert bucket.generation("lines/metrics.jsonl") == foreign_text


def put(bucket, run, name):
  """Copies a run to gs://runs/<name>, and returns that."""
  for file in run.rglob("*"):
    if file.is_file() and file.name != ".lock":
      bucket.put(f"{name}/{file.relative_to(run)}", file.read_bytes())
  for step in (run / "checkpoints").iterdir():  # how Orbax marks what is whole in a bucket
    for folder in ("", "state/", "checksums/"):
      bucket.put(f"{name}/checkpoints/{step.name}/{folder}commit_success.txt", b"committed")
  return f"gs://runs/{name}"


@pytest.fixture(scope="module")
def trained(bucket, reference):
  return put(bucket, reference, "trained")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_put_aside(bucket, reference):
  """And the steps after the one before it are trained again, to the same end."""
  workdir = put(bucket, reference, "damaged")
  for name in bucket.names("damaged/checkpoints/60/state/"):
    if "/d/" in name:
      bucket.put(name, bytes(len(bucket.read(name))))
  code, out, err = runner.run("train", f"--workdir={workdir}")
  assert code == 0 and "step 60 is damaged" in err and "at step 40 of 60" in out, (out, err)
  assert bucket.names("damaged/damaged_checkpoints/60/")
  same_as(reference, bucket, "damaged")


SAMPLES = "--num_samples=250", "--seed=3"


def test_sampling_goes_on_after_kills(bucket, reference, trained):
  """From a run in a bucket into it: as from the local run, and nothing is left besides."""
  command = "sample", f"--workdir={trained}", *SAMPLES
  before = set(bucket.names("trained/"))
  # Writes: a note, an object and a note for each of three batches, the whole, and what is deleted.
  assert killed_at(bucket, 3, *command)
  assert "trained/samples.npy.partial/000000000000" in bucket.names("trained/")
  assert killed_at(bucket, 2, *command) and killed_at(bucket, 4, *command)
  code, out, err = runner.run(*command)
  assert code == 0, err
  assert "going on with gs://runs/trained/samples.npy at sample 2" in out
  runner.succeed("sample", f"--workdir={reference}", *SAMPLES)
  assert bucket.read("trained/samples.npy") == (reference / "samples.npy").read_bytes()
  assert set(bucket.names("trained/")) - before == {f"trained/{name}" for name in (
      "samples.npy", "samples.json", "samples.png", "trajectories.png")}


def test_a_run_in_a_bucket_is_evaluated_and_loaded(bucket, reference, trained):
  for workdir in (trained, reference):
    runner.succeed("evaluate", f"--workdir={workdir}", "--num_samples=100")
  there, here = (json.loads(text) for text in (
      bucket.read("trained/evaluation.json"), (reference / "evaluation.json").read_bytes()))
  assert there["metrics"] == here["metrics"]
  loaded = [model.load(workdir).params for workdir in (trained, reference)]
  assert runner.records.sha256(loaded[0]) == runner.records.sha256(loaded[1])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_parameters_are_written_to_a_bucket_and_read(trained, suffix):
  own = parameters.read(files.path("--init_from", trained)).arrays
  out = files.path("--out", f"gs://runs/exported/model{suffix}")
  parameters.write(out, own)
  found = parameters.read(out).arrays
  assert found.keys() == own.keys() and all(np.array_equal(found[k], own[k]) for k in own)


def test_data_and_shards_in_a_bucket(bucket, tmp_path, monkeypatch):
  """Shards written there are those of a disk, and a run on them is the one on the array there."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
  np.save(tmp_path / "x.npy", x)
  bucket.put("data/x.npy", (tmp_path / "x.npy").read_bytes())
  for out in ("gs://runs/data/shards", str(tmp_path / "shards")):
    code, _, err = runner.run("array_records", "--data=arrays(path='gs://runs/data/x.npy')",
                              f"--out={out}", "--shards=2")
    assert code == 0, err
  for file in (tmp_path / "shards").iterdir():
    assert bucket.read(f"data/shards/{file.name}") == file.read_bytes(), file
  with pytest.raises(ValueError, match="is there already"):
    shard_writer.write(None, files.path("--out", "gs://runs/data/shards"), num_shards=1)
  digests = []
  for name, data in (("a", "arrays(path='gs://runs/data/x.npy')"),
                     ("s", "array_record(path='gs://runs/data/shards')")):
    small = [flag for flag in runner.SMALL if "config.data" not in flag]
    runner.succeed("train", f"--workdir={tmp_path / name}", *small, f"--config.data={data}",
                   "--config.training.steps=10")
    digests.append(runner.manifest(tmp_path / name)["sha256"])
  assert digests[0] == digests[1]


# What fails, in which answer, and what the one line says.
@pytest.mark.parametrize("wanted, status, said", [
    ("gs://nowhere/run", None, "--workdir gs://nowhere/run: there is no bucket nowhere"),
    ("gs://", None, "a bucket is given as gs://bucket/folder"),
    ("az://runs/x", None, "a bucket is given as gs://bucket/folder"),
    ("s3://runs/x", None, "s3:// is not supported; use gs://bucket/folder, or a disk"),
    ("gs://runs/x", 401, "needs credentials"),
    ("gs://runs/x", 403, "does not permit it")])
def test_a_bucket_that_cannot_be_used_is_one_line(bucket, wanted, status, said):
  bucket.fault = lambda method, path: status
  assert said in runner.refused("train", f"--workdir={wanted}", *runner.SMALL, *runner.STEPS)


@pytest.mark.parametrize("command, field", [
    (("train", "--config=arrays", "--config.data.path=gs://nowhere/x"), "data.path"),
    (("train", *runner.SMALL, "--init_from=gs://nowhere/x"), "--init_from"),
    (("array_records", "--path=x.npy", "--out=gs://nowhere/x"), "--out"),
    (("sample", "--out=gs://nowhere/x.npy"), "--out"),
    (("evaluate", "--out=gs://nowhere/x.json"), "--out"),
    (("export", "--out=gs://nowhere/x.npz"), "--out")])
def test_no_flag_takes_a_bucket_that_is_not_there(bucket, small_run, tmp_path, command, field):
  workdir = tmp_path / "new" if command[0] == "train" else small_run
  error = runner.refused(*command, *([] if "--path=x.npy" in command else [f"--workdir={workdir}"]))
  assert f"{field} gs://nowhere/x" in error and "there is no bucket nowhere" in error
  assert not (tmp_path / "new").exists()


@pytest.fixture
def fresh():
  """Credentials are looked for again."""
  buckets._system.cache_clear()
  yield
  buckets._system.cache_clear()


@pytest.mark.parametrize("content, said", [
    ("", "was not found"), ("{}", "does not have a valid type")])
def test_a_file_without_credentials_is_one_line(
    bucket, fresh, tmp_path, monkeypatch, content, said):
  """gcsfs would go on without a word, with another account."""
  file = tmp_path / "account.json"
  if content:
    file.write_text(content)
  monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
  error = runner.refused("train", "--workdir=gs://runs/x", *runner.SMALL)
  assert f"GOOGLE_APPLICATION_CREDENTIALS={file}: no credentials there" in error and said in error
  assert not bucket.requests


def failing(bucket, begin, status, times):
  """From its write number `begin` on, the bucket answers `times` requests with a status."""
  seen, left = 0, times

  def fault(method, path):
    nonlocal seen, left
    seen += method == "POST"
    if seen < begin or not left:
      return None
    left -= 1
    return status

  bucket.fault = fault


@pytest.mark.parametrize("begin", [pytest.param(4, marks=pytest.mark.slow), 30])
def test_a_bucket_that_recovers_is_asked_again(bucket, reference, begin):
  """503 as a file of the run is written, and within a checkpoint: the run ends the same."""
  command = "train", f"--workdir=gs://runs/recovers{begin}", *runner.SMALL, *runner.STEPS
  failing(bucket, begin, 503, times=2)
  code, _, err = runner.run(*command)
  assert code == 0, err
  same_as(reference, bucket, f"recovers{begin}")


@pytest.mark.parametrize("begin", [pytest.param(4, marks=pytest.mark.slow), 60])
def test_a_lost_permission_is_one_line_and_loses_nothing(bucket, reference, begin):
  """What was whole stays, and the same command ends the same once it is permitted again."""
  command = "train", f"--workdir=gs://runs/lost{begin}", *runner.SMALL, *runner.STEPS
  failing(bucket, begin, 403, times=-1)
  code, _, err = runner.run(*command)
  assert code == 2 and len(errors := [
      line for line in err.splitlines() if line.startswith("error: ")]) == 1, err
  assert "permi" in errors[0].lower() or "forbidden" in errors[0].lower(), errors
  assert "Traceback" not in err
  bucket.fault = lambda method, path: None
  code, out, err = runner.run(*command)
  assert code == 0, err
  assert ("resuming" in out) == (begin == 60)
  same_as(reference, bucket, f"lost{begin}")


@pytest.mark.slow
def test_two_processes_that_are_killed_end_as_one_that_is_not(bucket, reference):
  """In the middle of a checkpoint. The first process alone holds the lease and writes."""
  command = "train", "--workdir=gs://runs/pair", *runner.SMALL, *runner.STEPS
  with hosts_test.pair(*command) as processes:
    killed = []

    def fault(method, path):
      if not killed and bucket.names("pair/checkpoints/40"):
        killed.extend(process.kill() for process in processes)

    bucket.fault = fault
    hosts_test.ends(processes)
    bucket.fault = lambda method, path: None
  assert killed and [process.returncode for process in processes] == [-9, -9]
  with hosts_test.pair(*command) as processes:
    answers = hosts_test.ends(processes)
  assert [code for code, _, _ in answers] == [0, 0], answers
  assert "resuming gs://runs/pair at step 20 of 60" in answers[0][1]
  lines = [json.loads(line) for line in bucket.read("pair/metrics.jsonl").splitlines()]
  whole = runner.unclocked(reference)
  assert [line["step"] for line in lines] == [line["step"] for line in whole]
  np.testing.assert_allclose([line["loss"] for line in lines], [line["loss"] for line in whole],
                             rtol=1e-5)


SWEEP = """
SEEDS = (0,)
def sweep():
  return {"a": {}, "fewer": {"sampling.grid.n": 3}%s}
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ', "wider": {"network.width": 24}'])
def test_a_sweep_in_a_bucket_is_that_of_a_disk(bucket, tmp_path, more):
  """An arm that samples from another arm's model; with more of them, programs in processes."""
  (tmp_path / "sweep.py").write_text(SWEEP % more)
  name = f"sweep{len(more)}"
  for workdir in (tmp_path / "sweep", f"gs://runs/{name}"):
    command = ("sweep", *runner.SMALL, "--config.training.steps=20",
               f"--sweep={tmp_path / 'sweep.py'}", f"--workdir={workdir}")
    runner.succeed(*command)
  assert json.loads(bucket.read(f"{name}/table.json")) == json.loads(
      (tmp_path / "sweep" / "table.json").read_text())
  assert bool(bucket.names(f"{name}/groups/0/log.txt")) == bool(more)
  digests = {arm: json.loads(bucket.read(f"{name}/arms/{arm}/seed_0/manifest.json"))["sha256"]
             for arm in ("a", "fewer")}
  assert digests["a"] == digests["fewer"]
  assert model.load(f"gs://runs/{name}/arms/fewer/seed_0").step == 20
  assert "(arm, seed) are done already" in runner.succeed(*command)
  assert "needs a disk that its jobs share" in runner.refused(*command, "--launcher=slurm")
