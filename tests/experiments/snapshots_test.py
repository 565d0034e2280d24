"""Averages of a real run: those it kept, and others made of its snapshots, at the command line."""

import json
import shutil
import weakref

import jax
import numpy as np
import pytest
import runner

from experiments import config, data
from experiments.data import facts
from experiments.metrics import mixture_metrics, result
from experiments.run import assembly, averages, checkpoints, records, signals
from experiments.sampling import drawing, pictures

STEPS, K, EVERY = 400, 20, 20
KEPT = (0.05, 0.10)
# Kept beside, in memory alone: what the reconstructed ones should have been.
OTHERS = (0.03, 0.08, 0.15, 0.20)
LIVES = (20.0, 60.0)
SETTINGS = config.override(config.load(str(runner.CONFIGS / "mixture2d.py")), {
    "data.train_size": 500, "data.test_size": 200, "network.width": 16, "network.depth": 1,
    "training.steps": STEPS, "training.steps_per_dispatch": K, "training.batch_size": 64,
    "training.schedule.warmup_steps": 10, "training.ema_half_life_steps": LIVES[:1],
    "training.ema_relative_std": KEPT, "training.snapshot_every": EVERY, "sampling.sampler": "ddim",
    "sampling.grid.n": 4, "sampling.batch_size": 50})


def thinned(state, run):
  """The state as a run of SETTINGS has it, from that of one that keeps more."""
  own = dict(zip(averages.kept(run.config.training), state.ema, strict=True))
  return state._replace(ema=tuple(own[name] for name in averages.kept(SETTINGS.training)))


def train(workdir, settings):
  """The last state of a run that keeps all averages; its workdir is that of a run of SETTINGS."""
  run = assembly.prepare(config.override(settings, {
      "training.ema_half_life_steps": LIVES, "training.ema_relative_std": (*KEPT, *OTHERS)}))
  records.claim(workdir, settings)
  facts.claim(workdir, run.dataset)
  step, state, seed = assembly.train_step(run, many=True), assembly.start(run), np.uint32(1)
  with (averages.manager(workdir) as snapshots,
        checkpoints.manager(workdir, keep=1) as manager):
    for start in range(0, STEPS, K):
      batches = [data.batch(run.dataset, seed=0, step=i, batch_size=64)
                 for i in range(start, start + K)]
      batch = tuple(np.stack(part) for part in zip(*batches, strict=True))
      state, _ = step(state, seed, batch)
      if averages.snapshot_due(settings.training, start, start + K):
        averages.save_snapshot(snapshots, start + K, thinned(state, run), settings.training)
    checkpoints.finish(snapshots)
    checkpoints.save(manager, STEPS, thinned(state, run))
    checkpoints.finish(manager)
  return run, state


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp("snapshots") / "run"


@pytest.fixture(scope="module")
def truth(workdir):
  """Every average by its name, as kept during training."""
  run, state = train(workdir, SETTINGS)
  return dict(zip(averages.kept(run.config.training), state.ema, strict=True))


@pytest.fixture(scope="module")
def trained(truth, workdir):
  return assembly.trained(workdir)


def flat(tree):
  return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize(("kind", "value", "bound"), [
    ("relative_std", 0.03, 0.25), ("relative_std", 0.08, 0.002), ("relative_std", 0.15, 0.001),
    ("relative_std", 0.20, 0.015), ("half_life", 60.0, 0.001)])
def test_what_was_not_kept_is_made_within_a_bound(kind, value, bound, trained, truth, workdir):
  """The error is relative to what the average does at all, ‖ema − params‖.

  0.03 is narrower than any profile kept, and the learning rate has decayed to 0: it hardly differs
  from the parameters, while its error is one of steps at which they still moved.
  """
  name = averages.Choice(kind, value)
  made, facts = averages.of(*trained, workdir, name)
  params = flat(trained[1].params)
  error = np.linalg.norm(flat(made) - flat(truth[name]))
  print(f"{name}: error {error / np.linalg.norm(flat(truth[name]) - params):.2g} of ‖ema − "
        f"params‖, profile {facts['residual']:.2g}")
  assert error < bound * np.linalg.norm(flat(truth[name]) - params)
  assert not facts["kept"] and 0.0 < facts["residual"] < 0.1
  assert len(facts["snapshots"]) == len(KEPT) * STEPS // EVERY
  np.testing.assert_allclose(sum(part["weight"] for part in facts["snapshots"]), 1.0, rtol=1e-9)


def test_fewer_snapshots_make_it_worse_and_say_so(trained, truth, tmp_path, workdir, capsys):
  name = averages.Choice("relative_std", 0.2)
  shutil.copytree(workdir / "snapshots" / "200", tmp_path / "snapshots" / "200")
  error = lambda made: np.linalg.norm(flat(made) - flat(truth[name]))
  many, facts = averages.of(*trained, workdir, name)
  assert "poor" not in capsys.readouterr().out
  few, fewer = averages.of(*trained, tmp_path, name)
  assert "that is poor" in capsys.readouterr().out
  assert [part["step"] for part in fewer["snapshots"]] == [200, 200, 400, 400]
  assert fewer["residual"] > 5.0 * facts["residual"] and error(few) > 3.0 * error(many)


def test_not_given_it_is_the_first_half_life_and_none_is_the_parameters(trained, workdir):
  named = lambda text: averages.named(text, SETTINGS.training, workdir)
  assert named("") == averages.Choice("half_life", LIVES[0])
  params, facts = averages.of(*trained, workdir, named("none"))
  assert params is trained[1].params and facts == {"average": "none"}


@pytest.mark.parametrize("name", averages.kept(SETTINGS.training), ids=str)
def test_what_was_kept_is_taken_as_it_is(name, trained, truth, workdir):
  made, facts = averages.of(*trained, workdir, name)
  np.testing.assert_array_equal(flat(made), flat(truth[name]))
  assert facts == {"average": str(name), "kept": True}


def test_no_more_than_one_snapshot_is_in_memory(trained, workdir, tmp_path, monkeypatch):
  for step in ("100", "200", "300"):
    shutil.copytree(workdir / "snapshots" / step, tmp_path / "snapshots" / step)
  restored, alive = averages._restored, []

  def counted(*arguments):
    assert not [ref for ref in alive if ref() is not None]
    tree = restored(*arguments)
    alive.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(tree))
    return tree

  monkeypatch.setattr(averages, "_restored", counted)
  averages.of(*trained, tmp_path, averages.Choice("relative_std", 0.08))
  # That of the last step is the state's own.
  assert len(alive) == 3 * len(KEPT) * len(jax.tree.leaves(trained[1].params))


def test_a_snapshot_taken_again_is_left_and_a_damaged_one_left_out(trained, tmp_path, capsys):
  run, state = trained
  name = averages.Choice("relative_std", 0.15)
  with averages.manager(tmp_path) as snapshots:
    for step in (200, 300, 350):
      averages.save_snapshot(snapshots, step, state, run.config.training)
    checkpoints.finish(snapshots)
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "snapshots").rglob("*") if f.is_file()}
    averages.save_snapshot(snapshots, 300, state, run.config.training)
    checkpoints.finish(snapshots)
  assert files == {f: f.stat().st_mtime_ns for f in (tmp_path / "snapshots").rglob("*")
                   if f.is_file()}
  _, whole = averages.of(run, state, tmp_path, name)
  for file in (tmp_path / "snapshots" / "300").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  capsys.readouterr()
  made, facts = averages.of(run, state, tmp_path, name)
  assert "snapshot of step 300 is damaged and left out" in capsys.readouterr().err
  assert {part["step"] for part in facts["snapshots"]} == {200, 350, 400}
  assert facts["residual"] > whole["residual"] and np.isfinite(flat(made)).all()


def test_training_takes_snapshots_and_a_resumed_run_the_same(tmp_path, monkeypatch):
  """Cut back to step 40 of 100 as a kill would leave it, with one snapshot more than that."""
  monkeypatch.setattr(signals, "stopping", lambda: lambda dispatch: False)
  monkeypatch.setattr(pictures, "training", lambda workdir, run: None)
  settings = config.override(SETTINGS, {
      "training.steps": 100, "training.snapshot_every": 30, "training.checkpoint_every": 40,
      "training.ema_relative_std": KEPT, "training.keep_checkpoints": 9})
  run = assembly.prepare(settings)

  def snapshots(workdir):
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
                        assembly.start(run).params)
    with averages.manager(workdir, read_only=True) as stored:
      return {(step, std): flat(averages._restored(stored, step, str(std), like))
              for step in stored.all_steps() for std in KEPT}

  with runner.entry("train") as train_program, runner.parsed("train"):
    records.claim(tmp_path, settings)
    state = train_program.train(run, tmp_path)
    whole = snapshots(tmp_path)
    # Dispatches of 20 steps pass 30, 60 and 90 at these; the last step is among them.
    assert sorted({step for step, _ in whole}) == [40, 60, 100]
    for std, average in zip(KEPT, state.ema[1:], strict=True):
      np.testing.assert_array_equal(whole[100, std], flat(average))
    for step in ("checkpoints/80", "checkpoints/100", "snapshots/100"):
      shutil.rmtree(tmp_path / step)
    again = train_program.train(run, tmp_path)
  np.testing.assert_array_equal(flat(again.params), flat(state.params))
  resumed = snapshots(tmp_path)
  assert resumed.keys() == whole.keys()
  for name, average in whole.items():
    np.testing.assert_array_equal(resumed[name], average)


def test_the_flag_chooses_and_the_json_says_what_was_used(trained, workdir, tmp_path):
  run = trained[0]
  made, facts = averages.of(*trained, workdir, averages.Choice("relative_std", 0.08))
  out = tmp_path / "samples.npy"
  printed = runner.succeed("sample", f"--workdir={workdir}", "--num_samples=50",
                           f"--out={out}", "--ema=relative_std=0.08")
  assert json.loads(out.with_suffix(".json").read_text())["ema"] == facts and not facts["kept"]
  assert f"residual is {facts['residual']:.2g}" in printed
  draw = lambda params: drawing.draw(
      run, params, run.config.sampling, run.path, np.zeros(50, np.int32), seed=0)
  np.testing.assert_array_equal(np.load(out), draw(made))
  assert not np.array_equal(np.load(out), draw(trained[1].params))


def test_evaluation_takes_the_flag_too(trained, workdir, tmp_path, monkeypatch):
  """What the exact mixture is compared with is seen here; the comparison itself costs seconds."""
  monkeypatch.setattr(mixture_metrics, "rows", lambda run, params, path, x: [
      result.Result("norm", "norm", float(np.linalg.norm(flat(params))), None)])
  out = tmp_path / "evaluation.json"
  runner.succeed("evaluate", f"--workdir={workdir}", "--num_samples=100",
                 f"--out={out}", "--ema=relative_std=0.15")
  written = json.loads(out.read_text())
  made, facts = averages.of(*trained, workdir, averages.Choice("relative_std", 0.15))
  assert written["ema"] == facts and facts["average"] == "relative_std=0.15"
  assert written["metrics"]["norm"]["value"] == np.linalg.norm(flat(made))


@pytest.mark.parametrize(("ema", "words"), [
    ("half_life", "half_life=STEPS or relative_std=WIDTH"), ("none=1", "--ema must be none"),
    ("mean", "this run has kept half_life=20, relative_std=0.05, relative_std=0.1; got 'mean'"),
    ("half_life=x", "got 'half_life=x'"), ("half_life=-3", "positive number of steps, got '-3'"),
    ("half_life=inf", "positive number of steps"), ("relative_std=0.5", "(0, 0.2887]"),
    ("relative_std=nan", "(0, 0.2887]")])
def test_a_bad_average_is_one_line(ema, words, truth, workdir):
  assert words in runner.refused("sample", f"--workdir={workdir}", f"--ema={ema}")


def test_without_snapshots_an_error_says_which_fields_make_them(tmp_path):
  settings = config.override(SETTINGS, {
      "training.ema_relative_std": (), "training.snapshot_every": 0})
  records.claim(tmp_path / "run", settings)
  for ema in ("half_life=60", "relative_std=0.08"):
    err = runner.refused("sample", f"--workdir={tmp_path / 'run'}", f"--ema={ema}")
    for words in ("has kept, half_life=20; ", "training.ema_relative_std", "snapshot_every"):
      assert words in err


@pytest.mark.parametrize(("field", "value", "words"), [
    ("ema_half_life_steps", (), "at least one half-life"),
    ("ema_half_life_steps", (20.0, -1.0), "must be positive, got -1"),
    ("ema_half_life_steps", (20.0, 20.0), "names one average twice"),
    ("ema_relative_std", (0.05, 0.5), "training.ema_relative_std: relative_std must lie in"),
    ("ema_relative_std", (), "snapshots are of training.ema_relative_std"),
    ("snapshot_every", -1, "at least 0")])
def test_bad_averages_in_a_config_are_refused(field, value, words):
  with pytest.raises(ValueError, match=words):
    assembly.prepare(config.override(SETTINGS, {f"training.{field}": value}))


@pytest.mark.parametrize(("every", "k", "expected"), [
    (0, 5, []), (10, 5, [10, 20, 30, 37]), (7, 5, [10, 15, 25, 30, 35, 37]), (50, 5, [37]),
    (5, 10, [10, 20, 30, 37])])
def test_snapshots_are_due_at_dispatches_that_pass_a_multiple_and_at_the_end(every, k, expected):
  settings = config.Training(steps=37, snapshot_every=every)
  ends = [(start, min(start + k, 37)) for start in range(0, 37, k)]
  assert [end for start, end in ends if averages.snapshot_due(settings, start, end)] == expected
