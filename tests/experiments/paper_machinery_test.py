"""What runs the paper's parts: records, kills, failures, directories; densities; bad input."""

import json
import pathlib
import shutil
import signal
import types

import numpy as np
import pytest
import runner

from experiments import config
from experiments.paper import claim, contents, record, report, sources
from experiments.paper.exact import densities
from experiments.paper.figures.clouds import measure as clouds
from experiments.paper.setting import Setting
from experiments.run import records, subprocesses

pytest.importorskip("sympy")

SAID = claim.Statement("x.", "here")


def test_nothing_outlives_a_report_that_is_killed_and_one_that_runs_is_alone(tmp_path):
  process = runner.start("paper", "--only=flow_matching", f"--out={tmp_path / 'r'}")
  log = tmp_path / "r" / "logs" / "flow_matching.txt"
  runner.wait_until(lambda: log.exists() and runner.children(process.pid), process, seconds=60.0)
  below = runner.children(process.pid)
  code, _, err = runner.call("paper.__main__", "--only=steps", f"--out={tmp_path / 'r'}")
  assert code == 2 and "is in use by process" in err and err.count("\n") == 1
  process.send_signal(signal.SIGKILL)
  process.communicate(timeout=30)
  assert runner.gone(below, 60.0)
  with records.locked(tmp_path / "r", flag="--out"):  # the kernel's lock went with it
    pass


def test_a_job_that_is_killed_leaves_nothing_and_old_errors_are_not_its_own(tmp_path):
  log = tmp_path / "log.txt"
  log.write_text("error: of another day\n")
  command = f"sleep 100 & echo $! > {tmp_path}/pid; kill -9 $$"
  job = subprocesses.Job("one", ["sh", "-c", command], log)
  errors = subprocesses.run([job], workers=1, began=lambda _: None, ended=lambda *_: None)
  assert "ended by SIGKILL" in errors["one"]
  assert runner.gone([int((tmp_path / "pid").read_text())], 10.0)


LINE = {"weights": [1.0, 1.0], "means": [[0.0], [1.0]], "covariances": [[[0.1]], [[0.2]]]}


@pytest.mark.parametrize(("flag", "wanted"), [
    ("--density=cauchy", "'cauchy' is not known: choose one of three_modes"),
    ("--density=missing.json", "missing.json cannot be read"),
    ("--density={tmp}/narrow.json", "too narrow"), ("--seed=-1", "seed"),
    ("--only=tables,figures", "got 'figures'"),
    ("--config=x.py", "--config belongs to experiments.train"),
    ("--workdir=nowhere", "nowhere holds no run"), ("--workdir={tmp}/run", "has no checkpoint yet"),
    ("--out={tmp}/file/below", "cannot be written")])
def test_bad_input_is_one_line_before_anything_is_begun(tmp_path, flag, wanted):
  (tmp_path / "file").touch()
  (tmp_path / "narrow.json").write_text(json.dumps(
      {"weights": [1, 1], "means": [[-9], [9]], "covariances": [[[1e-6]], [[1e-6]]]}))
  if "run" in flag:
    shutil.rmtree(small_run(tmp_path / "run") / "checkpoints")
  calls = [("paper.__main__", "--only=certificate"), *([("certify",)] if "workdir" in flag else [])]
  for call in calls:
    code, _, err = runner.call(*call, f"--out={tmp_path / 'out'}", flag.format(tmp=tmp_path))
    assert code == 2 and wanted in err and err.count("\n") == 1, err
  assert not (tmp_path / "out" / "logs").exists()


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
  (tmp_path / "a b" / "mine.json").write_text(json.dumps(LINE))
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
  assert record.from_root(subprocesses.ROOT / "runs" / "x") == "runs/x"


class Nothing(contents.Part):
  """A part without sources, that counts how often it is measured."""

  def load(self, module):
    def measure(setting):
      self.counted.append(setting)
      return self.data

    return types.SimpleNamespace(measure=measure)


def nothing(data=()):
  part = Nothing("nothing", "nothing")
  part.data, part.counted = dict(data), []
  return part


def test_numbers_that_are_not_finite_are_kept_and_shown(tmp_path):
  data = {"y": np.array([1.0, np.nan, -np.inf]), "z": float("nan"), "text": ["a"], "flags": [True],
          "ragged": [[1], [2, 3]], "none": None}
  found = record.measure(nothing(data), Setting(tmp_path))["data"]
  def refuse(name):
    raise AssertionError(name)

  stored = json.loads(record.record_file(tmp_path, "nothing").read_text(), parse_constant=refuse)
  assert stored["data"]["y"] == [1.0, "nan", "-inf"]
  np.testing.assert_array_equal(found["y"], data["y"])
  assert np.isnan(found["z"]) and found["text"] == ["a"] and found["none"] is None
  assert found["flags"].dtype == bool and [list(row) for row in found["ragged"]] == [[1], [2, 3]]
  lost = claim.claim(SAID, float("nan"), error=float("inf"), below=1.0)
  assert not lost.holds and lost.measured() == "nan ± inf" and lost.verdict(fast=True) == "✗"


@pytest.fixture
def source(tmp_path, monkeypatch):
  """A repository: measure.py of `nothing` imports law.py, and that, in a function, deep.py."""
  root = tmp_path / "source"
  for name, text in {
      "experiments/paper/nothing/measure.py": "from experiments.paper import law",
      "experiments/paper/law.py": "def f():\n  import langevin_jax.deep",
      "langevin_jax/__init__.py": "", "langevin_jax/deep.py": "1", "experiments/train.py": "1",
      "experiments/paper/nothing/claims.py": "1", "experiments/benchmarks/speed.py": "1"}.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
  monkeypatch.setattr(subprocesses, "ROOT", root)
  return root


def test_a_record_stands_until_what_it_depends_on_has_changed(tmp_path, source):
  mine = tmp_path / "mine.json"
  mine.write_text(json.dumps(LINE))
  asked, one = Setting(tmp_path, source=str(mine)), nothing()

  def times(options=asked, part=one):
    record.measure(part, options)
    return len(one.counted)

  assert [times(), times()] == [1, 1]
  mine.write_text(json.dumps(LINE | {"weights": [2.0, 1.0]}))
  assert [times(), times()] == [2, 2]
  for i, file in enumerate(("experiments/paper/law.py", "langevin_jax/deep.py",
                            "langevin_jax/__init__.py", "experiments/paper/nothing/measure.py")):
    (source / file).write_text((source / file).read_text() + "\n# another")
    assert [times(), times()] == [3 + i] * 2, file
  for file in ("experiments/paper/nothing/claims.py", "experiments/benchmarks/speed.py",
               "experiments/train.py"):
    (source / file).write_text("2")
    assert times() == 6, file
  assert times(asked._replace(seed=1)) == 7 and times(asked._replace(seed=1, fast=True)) == 8
  # Half a record, as of another program, is measured anew.
  record.record_file(tmp_path, "nothing").write_text("{")
  assert times() == 9


@pytest.mark.parametrize("name", contents.PARTS)
def test_numbers_depend_on_no_text_and_on_the_programs_that_are_run(name):
  part = contents.PARTS[name]
  files = [str(file.relative_to(subprocesses.ROOT)) for file in sources.files(
      [part.path("measure"), *part.programs])]
  assert f"experiments/paper/{part.package.replace('.', '/')}/measure.py" in files
  assert "langevin_jax/paths/__init__.py" in files
  assert ("experiments/train.py" in files) == ("experiments/paper/trained.py" in files)
  for file in files:
    assert not file.endswith(("claims.py", "figures.py", "claim.py", "charts.py")), file
    assert not file.startswith((
        "experiments/benchmarks/", "experiments/report/", "experiments/paper/report")), file


def test_a_record_that_was_edited_is_refused_by_its_name(tmp_path):
  record.measure(nothing({"x": 1.0}), Setting(tmp_path))
  file = record.record_file(tmp_path, "nothing")
  found = json.loads(file.read_text())
  for change in ({"data": {"x": 2.0}}, {"data": 1}, {"command": [1]}, {"seed": "0"}, {"fast": True},
                 {"commit": "abc"}, {"sha256": ""}):
    file.write_text(json.dumps(found | change))
    with pytest.raises(ValueError, match=r"nothing\.json is damaged"):
      report.write(tmp_path, [nothing()], {}, [])


def test_statements_about_networks_are_not_judged_in_a_fast_report():
  learned = claim.Statement("x.", "here", "paper", trained=True)
  ask = lambda value: claim.claim(learned, value, below=1.0)
  rows = [report.Section("a", "A", claims=[ask(0.0), ask(2.0)])]
  assert ask(2.0).verdict(fast=True) == "not judged: fast" and ask(2.0).verdict(fast=False) == "✗"
  assert "2 more depend" in report._holds(rows, True) and "✗" not in report._holds(rows, True)
  assert "1 of 2 statements of the paper hold" in report._holds(rows, False)


@pytest.mark.parametrize(("content", "wanted"), [
    ({"means": None}, "lacks 'means'"), ({"means": [[0, 0, 0], [1, 1, 1]]}, "d 1 or 2"),
    ({"weights": [1.0, -1.0]}, "positive"), ({"covariances": [[[1]], [[-1.0]]]}, "definite"),
    ({"weights": "a"}, "arrays of numbers"), ({"weights": 1.0}, r"weights \(K,\)"),
    ({"covariances": [[[1]], [[float("inf")]]]}, "finite"), ([1.0], "arrays of numbers"),
    ({"weights": [10**400, 1]}, "arrays of numbers"),
    ({"means": [[0], [1e200]]}, r"less than 1e\+100"),
    ({"weights": [1] * 33, "means": [[0]] * 33, "covariances": [[[1]]] * 33}, "take 32 at most"),
    ({"weights": [1] * 3000, "means": [[0, 0]] * 3000, "covariances": np.tile(
        np.eye(2), (3000, 1, 1)).tolist()}, "3,000 components: the report's grids take 1,024"),
    (b"", "arrays of numbers"), (b"PK\x03\x04 cut off", "arrays of numbers")])
def test_a_file_that_is_no_mixture_is_one_line(tmp_path, content, wanted):
  file = tmp_path / ("mine.npz" if isinstance(content, bytes) else "mine.json")
  if isinstance(content, dict):
    content = {key: value for key, value in (LINE | content).items() if value is not None}
  file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
  with pytest.raises(ValueError, match=wanted) as caught:
    densities.load(str(file))
  assert "\n" not in str(caught.value) and file.name in str(caught.value)


def test_a_density_of_yours_is_standardised_and_seen_twice(tmp_path, x64):
  np.savez(tmp_path / "mine.npz", weights=[1.0, 3.0], means=[[0.0, 10.0], [4.0, 30.0]],
           covariances=[np.eye(2), [[2.0, 0.5], [0.5, 1.0]]])
  found = densities.load(str(tmp_path / "mine.npz"))
  for law, d in ((found.line, 1), (found.plane, 2)):
    mean, covariance = clouds.moments_of(law)
    np.testing.assert_allclose(mean, np.zeros(d), atol=1e-12)
    np.testing.assert_allclose(np.trace(covariance) / d, 1.0, rtol=1e-12)
  (tmp_path / "line.json").write_text(json.dumps(LINE))
  found = densities.load(str(tmp_path / "line.json"))
  # Two independent draws: the density of a pair is the product.
  x = np.array([0.3, -0.8])
  np.testing.assert_allclose(
      found.plane.log_prob(x), found.line.log_prob(x[:, None]).sum(), rtol=1e-12)


def test_a_claim_holds_where_it_is_asked_to_and_nowhere_else():
  ask = lambda value, **options: claim.claim(SAID, value, **options).holds
  assert ask(1.0, below=2.0) and not ask(2.0, below=2.0)
  assert ask(1.0, above=0.0, below=2.0) and not ask(3.0, above=0.0, below=2.0)
  assert ask(1.1, near=1.0, tolerance=0.2) and not ask(1.3, near=1.0, tolerance=0.2)
  assert ask(1.1, near=1.0, error=0.1, sigmas=2.0) and not ask(1.3, near=1.0, error=0.1, sigmas=2.0)
  assert not ask(float("nan"), below=1.0) and not ask(float("nan"), near=0.0, tolerance=1.0)
  assert not ask([1.0, 3.0, 1.0], below=2.0)
  for options in ({}, {"near": 1.0}, {"near": 1.0, "sigmas": 2.0}):
    with pytest.raises(ValueError, match=r"claim|near"):
      ask(1.0, **options)
  with pytest.raises(ValueError, match="by must be"):
    claim.claim(claim.Statement("x.", "here", "hearsay"), 1.0, below=2.0)


def test_a_statement_has_its_criterion_and_may_say_where_the_data_hold_its_value():
  statements = {
      "stored": claim.Statement("At {where}.", "§1", value="part.numbers", below=3.0),
      "computed": claim.Statement("Of {count}.", "§{count}", near=1.0)}
  first, second = claim.claims(
      statements, [claim.value("computed", 1.5, 0.2, sigmas=3.0, count=4)],
      {"part": {"numbers": np.array([1.0, 2.0])}})
  assert first[:5] == ("At {where}.", 2.0, None, "< 3", True)
  assert second[:3] == ("Of 4.", 1.5, 0.2) and second.holds and second.source == "§4"


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0"), (3.0, "3"), (-3.0, "−3"), (0.12345, "0.123"), (123.456, "123"), (1.5, "1.50"),
    (2.5e-7, "2.50\u00a0·\u00a010⁻⁷"), (1.23456e6, "1.23\u00a0·\u00a010⁶"), (float("nan"), "nan"),
    (float("-inf"), "−inf"), (12345.0, "12,345")])
def test_numbers_are_short_and_readable(value, text):
  assert claim.number(value) == text
