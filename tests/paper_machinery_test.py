"""What runs the paper's parts: records, kills, failures, directories; densities; bad input."""

import json
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest
import runner

from experiments import config
from experiments.paper import densities, part, report
from experiments.run import records, subprocesses

pytest.importorskip("sympy")


def test_two_reports_of_one_directory_are_one_too_many(tmp_path):
  with records.locked(tmp_path, flag="--out"):
    code, _, err = runner.call("paper.__main__", "--only=steps", f"--out={tmp_path}")
  assert code == 2 and f"--out {tmp_path} is in use by process" in err and err.count("\n") == 1


def test_nothing_outlives_a_report_that_is_killed(tmp_path):
  process = runner.start("paper", "--only=flow_matching", f"--out={tmp_path / 'r'}")
  log = tmp_path / "r" / "logs" / "flow_matching.txt"
  until = time.monotonic() + 60.0
  while not log.exists() or not (below := runner.children(process.pid)):
    assert process.poll() is None and time.monotonic() < until, process.communicate()
    time.sleep(0.1)
  process.send_signal(signal.SIGKILL)
  process.communicate(timeout=30)
  assert runner.gone(below, 60.0)
  # The kernel's lock went with it.
  code, _, err = runner.call("paper.__main__", "--only=nothing", f"--out={tmp_path / 'r'}")
  assert code == 2 and "--only must be among tables" in err


@pytest.mark.parametrize(("flag", "wanted"), [
    ("--density=cauchy", "'cauchy' is not known: choose one of three_modes"),
    ("--density=missing.json", "missing.json cannot be read"),
    ("--seed=-1", "seed"),
    ("--only=tables,figures", "got 'figures'"),
    ("--config=x.py", "--config belongs to experiments.train"),
    ("--workdir=nowhere", "nowhere holds no run"),
])
def test_bad_input_is_one_line(tmp_path, flag, wanted):
  code, _, err = runner.call("paper.__main__", flag, "--only=certificate", f"--out={tmp_path}"
                             ) if "only" not in flag else runner.call(
                                 "paper.__main__", flag, f"--out={tmp_path}")
  assert code == 2 and wanted in err and err.count("\n") == 1, err


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / "file").touch()
  code, _, err = runner.call("paper.__main__", f"--out={tmp_path / 'file' / 'below'}")
  assert code == 2 and err.count("\n") == 1 and "--out" in err and "cannot be written" in err


def small_run(workdir: pathlib.Path) -> pathlib.Path:
  """A run of no step, with all that a run has."""
  small = config.override(config.load(runner.CONFIGS / "mixture2d.py"), {
      "data.train_size": "50", "data.test_size": "20", "network.width": "16",
      "network.depth": "1", "training.batch_size": "10"})
  runner.untrained(workdir, small)
  records.manifest(workdir, small)
  return workdir


def commanded(tmp_path, monkeypatch, *arguments):
  """(code, stderr, the jobs) of a report whose parts all fail as soon as they are begun."""
  jobs = []
  monkeypatch.setattr(subprocesses, "run", lambda given, **_: jobs.extend(given) or {
      job.name: "it broke" for job in given})
  monkeypatch.chdir(tmp_path)
  code, _, err = runner.call("paper.__main__", *arguments)
  return code, err, jobs


def test_a_part_that_fails_is_in_the_report_and_in_the_exit_code(tmp_path, monkeypatch):
  code, err, _ = commanded(tmp_path, monkeypatch, "--only=steps,clouds", "--out=r")
  assert code == 1 and err.count("error: ") == 2 and "steps: it broke" in err
  text = (tmp_path / "r" / "report.html").read_text()
  assert text.count("This part did not end:</strong> it broke") == 2


def test_paths_are_those_of_the_directory_that_the_command_was_given_in(tmp_path, monkeypatch):
  """Parts run in the repository's root."""
  (tmp_path / "a b").mkdir()
  (tmp_path / "a b" / "mine.json").write_text(json.dumps(
      {"weights": [1.0, 1.0], "means": [[0.0], [1.0]], "covariances": [[[0.1]], [[0.2]]]}))
  small_run(tmp_path / "run")
  code, err, (job,) = commanded(
      tmp_path, monkeypatch, "--only=certificate", "--density=a b/mine.json", "--out=a b/r",
      "--workdir=run")
  assert code == 1, err
  wanted = {"out": "a b/r", "density": "a b/mine.json", "workdir": "run"}
  for flag, path in wanted.items():
    assert f"--{flag}={tmp_path / path}" in job.words, job.words
  assert job.log.is_relative_to(tmp_path)
  # Within the repository they are told from its root, as a reader of the report would.
  assert part.from_root(subprocesses.ROOT / "runs" / "x") == "runs/x"


def nothing(claims=(), data=(), counted=None):
  """A part that measures nothing, and how often it did."""
  def measure(_):
    if counted is not None:
      counted.append(1)
    return part.Findings(list(claims), dict(data), {})

  return part.Part("nothing", "Nothing", "", measure, lambda data: {})


def test_what_is_no_number_is_kept_and_shown(tmp_path, capsys):
  lost = part.claim("x.", float("nan"), error=float("inf"), below=1.0, source="here")
  part.run(nothing([lost], {"y": np.array([1.0, np.nan, -np.inf])}), part.Options(tmp_path))
  def refuse(name):
    raise AssertionError(name)

  found = json.loads(part.record_file(tmp_path, "nothing").read_text(), parse_constant=refuse)
  assert not found["claims"][0]["holds"] and found["data"]["y"] == [1.0, "nan", "-inf"]
  assert part.measured(found["claims"][0]) == "nan ± inf"
  part.said(found)
  assert "✗ x. (here): nan ± inf" in capsys.readouterr().out


def test_a_record_stands_until_what_it_depends_on_has_changed(tmp_path, monkeypatch):
  source = tmp_path / "source" / "experiments" / "x.py"
  source.parent.mkdir(parents=True)
  source.write_text("1")
  mine, counted = tmp_path / "mine.json", []
  mixture = {"weights": [1.0, 1.0], "means": [[0.0], [1.0]], "covariances": [[[0.1]], [[0.2]]]}
  mine.write_text(json.dumps(mixture))
  monkeypatch.setattr(subprocesses, "ROOT", tmp_path / "source")
  asked = part.Options(tmp_path, density=str(mine))
  one = nothing(counted=counted)
  times = lambda options: (part.run(one, options), len(counted))[1]
  assert [times(asked), times(asked)] == [1, 1]
  mine.write_text(json.dumps(mixture | {"weights": [2.0, 1.0]}))
  assert [times(asked), times(asked)] == [2, 2]
  source.write_text("2")
  assert [times(asked), times(asked)] == [3, 3]
  assert times(asked._replace(seed=1)) == 4 and times(asked._replace(seed=1, fast=True)) == 5
  # Half a record, as of another program, is measured anew.
  part.record_file(tmp_path, "nothing").write_text("{")
  assert times(asked) == 6


def test_a_record_that_was_edited_is_refused_by_its_name(tmp_path):
  lost = part.claim("x.", 1.0, below=2.0, source="here")
  found = part.run(nothing([lost]), part.Options(tmp_path))
  file = part.record_file(tmp_path, "nothing")
  assert part.read_record(file) == found
  for change in ({"claims": [1]}, {"claims": [found["claims"][0] | {"value": "x"}]}, {"data": 1},
                 {"captions": {"../../secret": "x"}}, {"tables": [{"title": "x", "rows": [[1]]}]},
                 {"tables": [{"title": "x", "rows": []}]}, {"command": [1]}, {"seed": "0"}):
    file.write_text(json.dumps(found | change))
    with pytest.raises(ValueError, match=r"nothing\.json is damaged"):
      report.write(tmp_path, [nothing()], {}, [])


def test_a_job_that_is_killed_leaves_nothing_and_old_errors_are_not_its_own(tmp_path):
  log = tmp_path / "log.txt"
  log.write_text("error: of another day\n")
  command = f"sleep 100 & echo $! > {tmp_path}/pid; kill -9 $$"
  job = subprocesses.Job("one", ["sh", "-c", command], log)
  errors = subprocesses.run([job], workers=1, began=lambda _: None, ended=lambda *_: None)
  assert "ended by SIGKILL" in errors["one"]
  assert runner.gone([int((tmp_path / "pid").read_text())], 10.0)


def test_help_names_every_option():
  _, said, _ = runner.run("paper", "--help")
  for flag in ("out", "[no]fast", "seed", "density", "only", "workdir"):
    assert f"\n  --{flag}: " in said


def test_a_run_without_checkpoints_is_one_line(tmp_path):
  workdir = small_run(tmp_path / "run")
  shutil.rmtree(workdir / "checkpoints")
  for call, module in ((runner.run, "paper.duality"), (runner.call, "paper.__main__")):
    code, _, err = call(module, f"--workdir={workdir}", f"--out={tmp_path / 'out'}")
    assert code == 2 and "has no checkpoint yet" in err and err.count("\n") == 1, err
  assert not (tmp_path / "out" / "logs").exists()  # before anything was begun


@pytest.mark.parametrize(("content", "wanted"), [
    ({"weights": [1.0]}, "lacks 'means'"),
    ({"weights": [1.0], "means": [[0, 0, 0]], "covariances": [[[1.0]]]}, "d 1 or 2"),
    ({"weights": [1.0, -1.0], "means": [[0], [1]], "covariances": [[[1]], [[1]]]}, "positive"),
    ({"weights": [1.0], "means": [[0]], "covariances": [[[-1.0]]]}, "positive definite"),
    ({"weights": "a", "means": [[0]], "covariances": [[[1]]]}, "arrays of numbers"),
    ({"weights": 1.0, "means": [[0]], "covariances": [[[1]]]}, r"weights \(K,\)"),
    ({"weights": [1.0], "means": [[0]], "covariances": [[[float("inf")]]]}, "finite"),
    ([1.0], "arrays of numbers"),
    ({"weights": [10**400], "means": [[0]], "covariances": [[[1]]]}, "arrays of numbers"),
    ({"weights": [1], "means": [[1e200]], "covariances": [[[1]]]}, r"less than 1e\+100"),
    ({"weights": [1] * 33, "means": [[0]] * 33, "covariances": [[[1]]] * 33}, "take 32 at most"),
    ({"weights": [1] * 3000, "means": [[0, 0]] * 3000, "covariances": np.tile(
        np.eye(2), (3000, 1, 1)).tolist()}, "3,000 components: the report's grids take 1,024"),
])
def test_a_file_that_is_no_mixture_is_one_line(tmp_path, content, wanted):
  file = tmp_path / "mine.json"
  file.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=wanted) as caught:
    densities.load(str(file))
  assert "\n" not in str(caught.value) and "mine.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_a_file_that_is_no_archive_is_one_line(tmp_path, content):
  file = tmp_path / "mine.npz"
  file.write_bytes(content)
  with pytest.raises(ValueError, match=r"mine\.npz does not hold arrays of numbers"):
    densities.load(str(file))


def test_a_density_too_narrow_for_a_grid_is_refused_at_the_door(tmp_path):
  (tmp_path / "mine.json").write_text(json.dumps(
      {"weights": [1, 1], "means": [[-9], [9]], "covariances": [[[1e-6]], [[1e-6]]]}))
  with pytest.raises(ValueError, match="too narrow"):
    part.check(part.Options(tmp_path / "out", density=str(tmp_path / "mine.json")))


def test_a_density_of_yours_is_standardised_and_seen_twice(tmp_path, x64):
  file = tmp_path / "mine.npz"
  np.savez(file, weights=[1.0, 3.0], means=[[0.0, 10.0], [4.0, 30.0]],
           covariances=[np.eye(2), [[2.0, 0.5], [0.5, 1.0]]])
  found = densities.load(str(file))
  for law, d in ((found.line, 1), (found.plane, 2)):
    mean = law.weights @ law.means
    second = np.einsum("k,ki,kj->ij", law.weights, law.means, law.means) + np.einsum(
        "k,kij->ij", law.weights, law.covariances)
    np.testing.assert_allclose(mean, np.zeros(d), atol=1e-12)
    np.testing.assert_allclose(np.trace(second) / d, 1.0, rtol=1e-12)
  line = {"weights": [1.0, 1.0], "means": [[0.0], [1.0]], "covariances": [[[0.1]], [[0.2]]]}
  (tmp_path / "line.json").write_text(json.dumps(line))
  found = densities.load(str(tmp_path / "line.json"))
  # Two independent draws: the density of a pair is the product.
  x = np.array([0.3, -0.8])
  np.testing.assert_allclose(
      found.plane.log_prob(x), found.line.log_prob(x[:, None]).sum(), rtol=1e-12)


def test_a_claim_holds_where_it_is_asked_to_and_nowhere_else():
  ask = lambda value, **options: part.claim("x.", value, source="here", **options).holds
  assert ask(1.0, below=2.0) and not ask(2.0, below=2.0)
  assert ask(1.0, above=0.0, below=2.0) and not ask(3.0, above=0.0, below=2.0)
  assert ask(1.1, near=1.0, tolerance=0.2) and not ask(1.3, near=1.0, tolerance=0.2)
  assert ask(1.1, near=1.0, error=0.1, sigmas=2.0) and not ask(1.3, near=1.0, error=0.1, sigmas=2.0)
  assert not ask(float("nan"), below=1.0) and not ask(float("nan"), near=0.0, tolerance=1.0)
  for options in ({}, {"near": 1.0}, {"near": 1.0, "sigmas": 2.0},
                  {"below": 1.0, "by": "hearsay"}):
    with pytest.raises(ValueError, match=r"claim|near|by must be"):
      ask(1.0, **options)


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0"), (3.0, "3"), (-3.0, "−3"), (0.12345, "0.123"), (123.456, "123"), (1.5, "1.50"),
    (2.5e-7, "2.50\u00a0·\u00a010⁻⁷"), (1.23456e6, "1.23\u00a0·\u00a010⁶"), (float("nan"), "nan"),
    (float("-inf"), "−inf"), (12345.0, "12,345")])
def test_numbers_are_short_and_readable(value, text):
  assert part.number(value) == text


