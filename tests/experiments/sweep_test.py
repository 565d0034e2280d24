"""Sweeps: bad input, equivalent arms, tables, resuming, failures, launchers."""

import functools
import html
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import types
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
import scipy.stats

from experiments import config, data
from experiments.config import build
from experiments.configs import digits, mixture2d
from experiments.run import assembly, meshes, records, subprocesses
from experiments.sampling import samplers_from_config
from experiments.sweeping import (
  arms,
  curves,
  equivalence,
  group_training,
  history,
  launchers,
  layouts,
  measures,
  report,
  results,
)
from langevin_jax import objectives, paths, predictions, samplers, training

SMALL = (*runner.SMALL, "--config.training.steps=40")
FULL = '''
BASELINE = "v"
SEEDS = (0, 3)

def sweep():
  return {
      "v": {},
      "same": {"path": "cosine"},
      "coarse": {"sampling.grid.n": 3},
      "clipped": {"training.gradient_clip": 0.01},
      "mine": {"objective.weight": "sweep_parts:power", "objective.weight.exponent": 2.0},
      "hot": {"training.learning_rate": 1e30},
  }
'''
MINE = """
def power(exponent: float = 1.0):
  return lambda ell: 2.0 ** -exponent * (1.0 + 0.0 * ell)
"""
TWO = "SEEDS = (0,)\nsweep = lambda: {'a': {}, 'b': {'network.width': 8}}"


def written(folder: pathlib.Path, text: str) -> pathlib.Path:
  file = folder / "sweep.py"
  file.write_text(text)
  return file


def sweep(file: pathlib.Path, workdir: pathlib.Path, *more: str):
  """A small sweep in this process, with an eighth of the draws of the held-out loss."""
  with unittest.mock.patch.object(measures, "_MOST", 512):
    return runner.call("sweep", *SMALL, f"--sweep={file}", f"--workdir={workdir}", *more)


@pytest.mark.parametrize(("text", "message"), [
    ("swep = lambda: {}", "it has no function sweep(), such as: def sweep(): return {'base'"),
    ("sweep = {'a': {}}", "it has no function sweep()"),
    ("sweep = lambda: {}", "at least one arm"),
    ("sweep = lambda: 1 / 0", "ZeroDivisionError"),
    ("sweep = lambda: {'a': {'training.learning_rat': 1.0}}",
     "arm 'a': config.training.learning_rat: no field 'learning_rat' (did you mean learning_"),
    ("sweep = lambda: {'a': {}, 'b': {'training.steps': 'many'}}", "'b': config.training.steps"),
    ("sweep = lambda: {'b': {'objective.density': 'flat'}}", "arm 'b': config.objective.density"),
    ("sweep = lambda: {'b': {'sampling.grid.order': 3}}", "config.sampling.grid.order: karras has"),
    ("sweep = lambda: {'b': {'data': 'digit'}}", "arm 'b': config.data: no data 'digit' (did y"),
    ("sweep = lambda: {'a': {'objective.weight.gamma': 3.0}}",
     "config.objective.weight.gamma: flow_matching has no argument 'gamma'; it has none"),
    ("sweep = lambda: {'a': {'seed': 3}}", "arm 'a': config.seed belongs to SEEDS"),
    ("sweep = lambda: {'a': {'mesh.fsdp': 2}}", "arm 'a': config.mesh.fsdp has no place"),
    ("sweep = lambda: {'a': {'evaluation.seed': 3}}", "arm 'a': config.evaluation.seed is of the"),
    ("sweep = lambda: {'a': {'training.snapshot_every': 3}}", "config.training.snapshot_every"),
    ("sweep = lambda: {'a': {3: 4}}", "arm 'a': config.3: no field '3'"),
    ("sweep = lambda: {'a': {'path': abs}}", "with a function as 'package.module:name'; got"),
    ("sweep = lambda: {'a b': {}, 'A_b': {}}", "would share the directory arms/A_b"),
    ("sweep = lambda: {'..': {}}", "would share the directory"),
    ("sweep = lambda: {'a\\nb': {}}", "must be of printable characters"),
    ("sweep = lambda: {'é' * 101: {}}", "200 bytes at most in UTF-8"),
    ("BASELINE = 'c'\nsweep = lambda: {'a': {}, 'b': {}}", "'c' is no arm; there are a, b"),
    ("BASELINE = ['a']\nsweep = lambda: {'a': {}}", "['a'] is no arm; there are a"),
    ("SEEDS = (0, 1, 0)\nsweep = lambda: {'a': {}}", "SEEDS has 0 2 times"),
    ("SEEDS = ()\nsweep = lambda: {'a': {}}", "SEEDS must be a tuple"),
])
def test_bad_files_and_arms_are_named(tmp_path, text, message):
  with pytest.raises(ValueError, match=re.escape(message)) as caught:
    arms.configs(mixture2d.get_config(), arms.load(str(written(tmp_path, text))))
  assert str(caught.value).startswith("--sweep: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "flag", "message"), [
    ("swep = lambda: {}", "", "--sweep: .*it has no function"),
    ("sweep = lambda: {'b': {'network': 'dit'}}", "",
     "--sweep: arm 'b': .*dit.*: it takes seq"),
    ("sweep = lambda: {'a': {}}", "--config.mesh.fsdp=2", "config.mesh.fsdp has no place in a swe"),
    ("sweep = lambda: {'a': {}}", "--config.training.snapshot_every=9",
     "config.training.snapshot_every asks for snapshots"),
    ("sweep = lambda: {'a': {}}", "--workers=0", "--workers must be at least 1"),
])
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, text, flag, message):
  code, out, err = sweep(written(tmp_path, text), tmp_path / "w", *([flag] if flag else []))
  assert code == 2 and out == "" and err.count("\n") == 1
  assert re.match(f"error: {message}", err) and not (tmp_path / "w" / "sweep.json").exists()


def test_arms_take_arrays_calls_and_functions_of_the_user(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / "sweep_parts.py").write_text(MINE)
  file = written(tmp_path, """
import numpy as np
SEEDS = np.arange(2)

def sweep():
  return {"a": {"training.learning_rate": np.float32(0.5), "training.steps": np.int64(7),
                "sampling.moments": np.bool_(True), "sampling.grid": "explicit(3)",
                "sampling.grid.rho": np.array([2.0, 1.0]), "training.optimizer.b2": np.array(0.5),
                "sampling.guidance": None, "objective.weight": "sweep_parts:power(3)",
                "network": "mlp(width=8)", "network.depth": 2}}
""")
  loaded = arms.load(str(file))
  arm = arms.configs(mixture2d.get_config(), loaded)["a"]
  assert (arm.training.learning_rate, arm.training.steps, arm.sampling.moments) == (0.5, 7, True)
  assert arm.sampling.grid["rho"] == (2.0, 1.0) and arm.training.optimizer["b2"] == 0.5
  assert (arm.network["width"], arm.network["depth"]) == (8, 2)
  assert build.weight(arm.objective, None)(0.0) == 0.125
  assert loaded.seeds == (0, 1) and json.loads(json.dumps(loaded.arms)) == loaded.arms


@pytest.mark.parametrize(("sampler", "grid", "matters"), [
    ("heun", "karras(9)", False), ("predictor_corrector(heun(own_time=True), euler())",
                                   "karras(9)", True), ("ddim(1)", "explicit((9, 1))", False)])
def test_samples_of_one_model_are_shared_where_the_path_does_not_matter(sampler, grid, matters):
  settings = config.override(mixture2d.get_config(), {
      "sampling.sampler": sampler, "sampling.grid": grid})
  assert arms.path_matters(settings) == matters
  # As the samplers have it: on the same levels and noise, paths differ in scale alone.
  method, levels, _ = samplers_from_config.process(settings.sampling)
  levels = samplers.explicit(levels(paths.vp())[:-1])
  draws = [samplers.sample(jax.random.key(0), predictions.denoiser(
      lambda x, ell: jnp.tanh(x) * jnp.exp(-ell), path, prediction="v"), path, shape=(4, 2),
      method=method, grid=levels) for path in (paths.vp(), paths.rectified_flow())]
  assert np.allclose(*draws, rtol=1e-3, atol=1e-4) == (not matters)
  cosine = config.override(settings, {"sampling.grid": "cosine(9)"})
  assert arms.path_matters(cosine)


def test_arms_of_one_training_are_named_and_share_what_they_can():
  base = mixture2d.get_config()
  configs = {name: config.override(base, changes) for name, changes in {
      "a": {}, "width": {"network.width": base.network["width"]}, "b": {"sampling.grid.n": 3},
      "c": {"sampling.grid.n": 3}, "d": {"sampling.grid.n": 4}, "e": {"path": "cosine"},
      "f": {"path": "cosine", "sampling.grid.n": 5}}.items()}
  found = equivalence.find(configs)
  assert [(f.arm, f.like, f.kind, f.sampled_alike) for f in found] == [
      ("width", "a", "identical", True), ("b", "a", "sampling", False),
      ("c", "b", "identical", True), ("d", "a", "sampling", False), ("e", "a", "identical", True),
      ("f", "e", "sampling", False)]
  said = "\n".join(equivalence.sentences(found))
  assert "b; d sample from the model of a\nf samples from the model of e" in said
  assert said.count("trained once, and the results are shared") == 3
  assert equivalence.sentences(found, most=1)[-2] == "b … (2) sample from the model of a"
  layout = layouts.make(base, arms.Sweep({}, "a", (0,)), configs, found)
  assert set(layout.model_of.values()) == {"a"}


@pytest.mark.parametrize(("changes", "kind", "factor"), [
    ({"path": "cosine"}, "identical", 1.0),
    ({"path": "vp", "sampling.grid.n": 3, "training.log_every": 7}, "identical", 1.0),
    ({"objective.prediction": "edm"}, "mirrored", 1.0),
    ({"objective.prediction": "edm(0.5)"}, None, None),
    ({"objective.prediction": "eps"}, None, None),
    ({"objective.weight": "simple"}, None, None),
    ({"objective.density.rho_max": 99.0}, None, None),
    ({"training.optimizer.b2": 0.9}, None, None),
    ({"objective.density": "learned(uniform_half_log_snr(rho_min=0.01, rho_max=100))"},
     "expectation", 1.0),
    ({"objective.weight": "uncertainty"}, None, None),
])
def test_what_is_one_experiment_is_seen_in_its_functions(changes, kind, factor):
  base = mixture2d.get_config()
  found = equivalence.find({"a": base, "b": config.override(base, changes)})
  assert [(f.kind, f.factor) for f in found] == ([] if kind is None else [(kind, factor)])


def test_flow_maps_have_a_canonical_form():
  """`stop` is canonical where v has no gradient; on the diagonal alone all identities are one."""
  base = mixture2d.get_config()
  configs = {call: config.override(base, {"objective.flow_map": call}) for call in (
      "semigroup()", "semigroup(uniform())", "semigroup(stop='velocity')", "semigroup(stop='none')",
      "eulerian(stop='velocity')", "eulerian(stop='none')", "lagrangian(stop='velocity')",
      "lagrangian(stop='none')", "eulerian(velocity='diagonal', stop='velocity')",
      "lagrangian(uniform(diagonal=1.0))", "eulerian(ordered(diagonal=1.0))",
      "eulerian(ordered(diagonal=1.0), adaptive=1)", "eulerian()",
      "eulerian(uniform(diagonal=0.75))")}
  configs["edm"] = config.override(configs["semigroup()"], {"objective.prediction": "edm"})
  assert [(f.arm, f.like, f.kind) for f in equivalence.find(configs)] == [
      ("semigroup(uniform())", "semigroup()", "identical"),
      ("semigroup(stop='none')", "semigroup(stop='velocity')", "identical"),
      ("eulerian(stop='none')", "eulerian(stop='velocity')", "identical"),
      ("eulerian(ordered(diagonal=1.0))", "lagrangian(uniform(diagonal=1.0))", "identical"),
      ("eulerian(uniform(diagonal=0.75))", "eulerian()", "identical"),
      ("edm", "semigroup()", "mirrored")]


def test_equivalent_arms_have_proportional_expected_gradients():
  """By the midpoint rule in ℓ at random parameters, examples and noise."""
  base = config.override(mixture2d.get_config(), {
      "network.width": 16, "network.depth": 1, "objective.weight": "likelihood"})
  changes = {"objective.density": "uniform_time", "path": "linear_vp",
             "objective.prediction": "edm"}
  both = {"a": base, "b": config.override(base, changes)}
  finding, = equivalence.find(both)
  assert finding.kind == "mirrored expectation"
  init, apply = build.network(base.network, (2,), 0)
  params = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.cos(jnp.arange(leaf.size)).reshape(
      leaf.shape), init(jax.random.key(0)))
  x_0, eps = jax.random.normal(jax.random.key(1), (2, 256, 2))
  low, high = arms.level_ends(base)
  ells = -jnp.log(high) + (jnp.arange(256) + 0.5) / 256 * jnp.log(high / low)

  def gradient(settings, sign):
    density = build.density(settings.objective, build.path(settings.path))
    weight = build.weight(settings.objective, density)
    loss = lambda params: objectives.corrupted_loss(
        lambda x, ell: sign * apply(params, x, ell, jnp.zeros(256, int)), x_0,
        objectives.Corruption(ells, eps), weight=lambda ell: weight(ell) * density.density(ell),
        prediction=build.prediction(settings.objective))[0]
    slope = jax.jit(jax.grad(loss))(params)
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(slope)])

  first = gradient(both["a"], 1.0)
  for sign, equal in ((-1.0, True), (1.0, False)):
    gap = np.linalg.norm(gradient(both["b"], sign) / finding.factor - first)
    assert (gap < 1e-4 * np.linalg.norm(first)) == equal


def test_models_are_grouped_by_what_programs_are_compiled_for():
  base = mixture2d.get_config()
  configs = {name: config.override(base, values) for name, values in {
      "a": {}, "rate": {"training.learning_rate": 1.0}, "eps": {"objective.prediction": "eps"},
      "wide": {"network.width": 8}, "two": {"training.ema_half_life_steps": (9.0, 99.0)},
      "long": {"training.steps": 9}, "noisy": {"sampling.sampler.churn": 1.0},
      "wide too": {"network.width": 8, "path": "vp"}}.items()}
  made = layouts.make(base, arms.Sweep({}, "a", (0,)), configs, [])
  assert made.groups == [["a", "rate", "eps"], ["wide", "wide too"], ["two"], ["long"]]
  assert made.model_of["noisy"] == "a"


def test_names_are_no_formulas_in_pictures(tmp_path):
  curve = [(1.0, results.Interval(1.0, 0.1, 2)), (2.0, results.Interval(0.5, None, 1))]
  names = ["$a_", "a$b$c", "$\\frac$", "_hidden", "<x>", "100 %"]
  curves.picture(tmp_path / "x.png", dict.fromkeys(names, curve), "training steps", "loss", None)
  assert (tmp_path / "x.png").stat().st_size > 0


def test_intervals_are_student_s_and_differences_paired():
  rng = np.random.default_rng(0)
  seed_effect, gain = rng.normal(size=5), 0.1 + 0.01 * rng.normal(size=5)
  base = dict(enumerate(seed_effect))
  arm = dict(enumerate(seed_effect + gain))
  found = results.interval(seed_effect)
  low, high = scipy.stats.t.interval(0.95, 4, seed_effect.mean(), scipy.stats.sem(seed_effect))
  assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
  difference = results.paired(arm, base)
  assert difference.mean == pytest.approx(gain.mean()) and difference.half < 0.05 * found.half
  assert results.paired({7: 1.0}, base) is None
  assert results.interval([2.0]) == (2.0, None, 1)
  with pytest.raises(ValueError, match="at least one"):
    results.interval([])


def test_steps_to_the_baseline_s_loss_are_within_each_seed_and_censored_ones_bound_the_mean():
  def result(losses):
    return results.Result(
        {measures.LOSS: {seed: of_seed[-1] for seed, of_seed in losses.items()}},
        {seed: [{"step": 10 * (i + 1), measures.LOSS: loss} for i, loss in enumerate(of_seed)]
         for seed, of_seed in losses.items()}, {}, None, {})

  found = {
      "base": result({0: [3.0, 2.5, 2.0], 1: [9.0, 8.5, 8.0]}),
      "better": result({0: [3.0, 2.0, 1.0], 1: [8.0, 7.0, 6.0]}),
      "once": result({0: [3.0, 2.5, 2.1], 1: [7.9, 7.0, 7.5]}),  # below the mean of both throughout
      "never": result({0: [3.0, 3.0, 3.0], 1: [9.0, 9.0, 9.0]})}
  sweep_ = arms.Sweep({name: {} for name in found}, "base", (0, 1))
  layout = layouts.Layout(mixture2d.get_config(), sweep_, {}, [], dict.fromkeys(found, "base"), [])
  results._add_steps(layout, found)
  table = results.table(layout, found, {})
  cells = {row[0]: row[-1] for row in report.rows(table)}
  steps = {row["arm"]: row[results.STEPS]["by seed"] for row in table["arms"]}
  assert steps == {"base": {"0": 30.0, "1": 30.0}, "better": {"0": 20.0, "1": 10.0},
                   "once": {"0": None, "1": 10.0}, "never": {"0": None, "1": None}}
  assert cells["better"].startswith("15 ± ") and cells["**base**"] == "30"
  assert cells["once"] == "≥ 20 (1 of 2 seeds)" and cells["never"] == "≥ 30 (0 of 2 seeds)"


def test_arms_whose_loss_is_less_certain_than_seeds_are_named():
  of = lambda arm, error: {
      "arm": arm, "metrics": {measures.LOSS: {"by seed": {"0": 1.0, "1": 1.2}}},
      "points": {seed: [{measures.ERROR: 9.0}, {measures.ERROR: error}] for seed in "01"}}
  # √((.1² + .1²)/1) = .141
  assert report._uncertain({"arms": [of("sure", 0.14), of("unsure", 0.142)]}) == ["unsure"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A finished sweep: (file, workdir, code, out, err, a copy of workdir after 20 of 40 steps)."""
  folder = tmp_path_factory.mktemp("sweep")
  file, half = written(folder, FULL), folder / "half"
  (folder / "sweep_parts.py").write_text(MINE)
  save = group_training.checkpoints.save

  def copied(manager, step, *rest):
    save(manager, step, *rest)
    if step == 20 and not half.exists():
      group_training.checkpoints.finish(manager)
      shutil.copytree(folder / "w", half)

  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(folder))
    patch.setattr(group_training.checkpoints, "save", copied)
    told = sweep(file, folder / "w")
    yield file, folder / "w", *told, half


def test_a_failed_arm_is_reported_and_the_table_made(done):
  _, workdir, code, out, err, _ = done
  assert code == 1
  assert err.count("failed: hot, seed") == 2 and "loss is not finite at step" in err
  assert "same is the same experiment as v; trained once, and the results are shared" in out
  assert "6 arms, 4 models × 2 seeds, 1 program" in out
  table = json.loads((workdir / "table.json").read_text())
  rows = {row["arm"]: row for row in table["arms"]}
  assert set(rows["hot"]["errors"]) == {"0", "3"} and not rows["hot"]["metrics"]
  loss = {arm: row["metrics"]["held-out loss"] for arm, row in rows.items() if arm != "hot"}
  assert loss["same"]["by seed"] == loss["v"]["by seed"]
  assert loss["coarse"]["by seed"] == loss["v"]["by seed"]
  gap = [loss["clipped"]["by seed"][seed] - loss["v"]["by seed"][seed] for seed in ("0", "3")]
  assert loss["clipped"]["minus baseline"]["mean"] == pytest.approx(np.mean(gap)) and gap[0] != 0.0
  # A model that several arms share is followed by the sampling of the first of them.
  assert sum("sliced W2" in point for point in rows["v"]["points"]["0"]) == 4
  distance = {arm: row["metrics"]["sliced W2"]["mean"] for arm, row in rows.items() if arm != "hot"}
  assert distance["coarse"] != distance["v"] == distance["same"]
  text = (workdir / "report.md").read_text()
  of = table["held out"]
  assert of["draws"] == 32 * 512 and of["examples"] == 200 and 0.0 < of["standard error"] < 10.0
  assert "it is of 200 held-out examples in 16384 draws" in text
  assert "| **v** |" in text and records.commit().removesuffix("+changes") in text


def test_the_report_says_how_each_arm_is_trained_alone_and_is_one_file(done):
  _, workdir, *_ = done
  text, one_file = ((workdir / f"report.{kind}").read_text() for kind in ("md", "html"))
  commands = [shlex.split(line) for line in text.splitlines()
              if line.startswith("python -m experiments.train")]
  assert len(commands) == len(arms.load(str(done[0])).arms)
  for words in commands:
    values = dict(word.removeprefix("--config.").split("=", 1) for word in words
                  if word.startswith("--config."))
    arm = pathlib.Path(words[-1]).parent.name
    file = next(word for word in words if word.startswith("--config=")).removeprefix("--config=")
    assert config.override(config.load(file), values) == records.read_config(
        workdir / "arms" / arm / "seed_0")
    assert shlex.join(words) in html.unescape(one_file)
  assert text.count("![") == one_file.count('src="data:image/png;base64,') > 0
  assert not re.search(r'(src|href)="(?!data:)', one_file)
  for row in report.rows(json.loads((workdir / "table.json").read_text()))[1:]:
    assert all(cell in one_file for cell in row[1:])
  manifest = json.loads((workdir / "arms" / "v" / "seed_0" / "manifest.json").read_text())
  assert f"Trained at commit {manifest['commit']}" in text


def test_what_is_done_is_kept_and_arms_of_several_commits_are_told_apart(
    done, tmp_path, monkeypatch):
  file, finished, *_ = done
  shutil.copytree(finished, tmp_path / "w", symlinks=True)
  place = tmp_path / "w" / "arms" / "clipped" / "seed_3" / "manifest.json"
  place.write_text(json.dumps(json.loads(place.read_text()) | {"commit": "abc"}))
  monkeypatch.setattr(group_training, "train", None)  # nothing is to be trained
  code, out, _ = sweep(file, tmp_path / "w")
  assert code == 1 and "12 of 12 (arm, seed) are done already" in out
  assert (tmp_path / "w" / "table.json").read_bytes() == (finished / "table.json").read_bytes()
  text = (tmp_path / "w" / "report.md").read_text()
  assert "trained at commit abc: clipped, seed 3" in text and "v, seed 0; v, seed 3" in text


def test_every_arm_and_seed_is_a_run_that_can_be_sampled_from(done, tmp_path):
  _, workdir, *_ = done
  # The checkpoints of "coarse" are a link to those of "v".
  runner.succeed("sample", f"--workdir={workdir / 'arms' / 'coarse' / 'seed_3'}",
                 "--num_samples=20", f"--out={tmp_path / 'x.npy'}")
  assert np.load(tmp_path / "x.npy").shape == (20, 2)
  for arm in ("v", "coarse"):
    run = workdir / "arms" / arm / "seed_3"
    assert records.read_config(run).seed == 3
    assert json.loads((run / "manifest.json").read_text())["finished"]
    lines = records.read_metrics(run)
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == 40
    assert all(np.sum(line["level_count"]) % 32 == 0 for line in lines)


def test_another_sweep_is_refused_and_a_run_s_workdir(done, tmp_path):
  _, workdir, *_ = done
  file = written(tmp_path, FULL.replace("0.01", "0.02").replace("(0, 3)", "(0, 4)"))
  code, _, err = sweep(file, workdir)
  assert code == 2 and "holds another sweep: arm 'clipped'; SEEDS: (0, 3) → (0, 4)" in err
  code, _, err = sweep(file, workdir, "--config.training.steps=50")
  assert code == 2 and "training.steps: 40 → 50" in err
  code, _, err = sweep(file, workdir / "arms" / "v" / "seed_0")
  assert code == 2 and "holds a run" in err
  with records.locked(tmp_path / "held"):
    code, _, err = sweep(file, tmp_path / "held")
  assert code == 2 and "in use" in err


def test_measuring_is_no_part_of_the_seconds_of_training(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(history, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
  kept = history.History(tmp_path)
  now[0] = 10.0
  with kept.paused():
    now[0] = 15.0
  now[0] = 22.0
  one = np.ones((1, 1))
  kept.add(0, training.Metrics(**dict.fromkeys(training.Metrics._fields, one)), 1)
  assert kept.content["lines"][0]["seconds"] == 17.0


def test_a_sweep_goes_on_from_its_checkpoint_and_ends_in_the_same_table(done, tmp_path):
  file, finished, *_, half = done
  shutil.copytree(half, tmp_path / "w")
  code, out, _ = sweep(file, tmp_path / "w")
  assert code == 1 and "resuming group 0 at step 20 of 40" in out
  assert (tmp_path / "w" / "table.json").read_bytes() == (finished / "table.json").read_bytes()


@pytest.mark.slow
def test_perfect_samples_are_as_good_as_real_data_where_these_lie_class_by_class(monkeypatch):
  monkeypatch.setattr(measures.classifier, "train", functools.partial(
      measures.classifier.train, steps=400))
  settings = digits.get_config()
  dataset = data.load(settings.data)
  # A third of the training data plays the perfect sampler, and is not learned or compared with.
  shuffled = np.random.default_rng(0).permutation(len(dataset.train))
  chosen = shuffled[::3]
  part = np.isin(np.arange(len(dataset.train)), chosen)
  fresh, fresh_labels = dataset.train[chosen], dataset.train_labels[chosen]
  order, order_test = (np.argsort(labels, kind="stable") for labels in (
      dataset.train_labels[~part], dataset.test_labels))
  dataset = dataset._replace(
      train=dataset.train[~part][order], train_labels=dataset.train_labels[~part][order],
      test=dataset.test[order_test], test_labels=dataset.test_labels[order_test])
  one = meshes.make(config.Mesh(1, 1, 1), jax.devices()[:1])
  run = assembly.assemble(settings, dataset.train.shape[1:], 10, one)._replace(dataset=dataset)
  judge = measures.Judge(run, len(fresh))
  floor, found = judge.floors(0), judge.images(fresh, fresh_labels, 0)
  assert found[measures.FID] < 1.3 * floor[measures.FID]
  assert found[measures.AGREEMENT] > 0.95 < floor[measures.AGREEMENT]
  # What the first of such data are, which miss the last classes, is far from it.
  assert judge.images(fresh[np.argsort(fresh_labels)], fresh_labels, 0)[measures.FID] > (
      2.0 * floor[measures.FID])
  draws = measures.held_out(run)
  assert draws.labels.shape == (32, 1024) and set(draws.labels[0]) == set(range(10))
  np.testing.assert_array_equal(draws.x_0, dataset.test[draws.example])


def test_the_error_of_the_held_out_loss_is_that_of_its_examples():
  """Over draws of examples that each have an error of their own, beside that of every draw."""
  rng = np.random.default_rng(0)
  found = []
  for _ in range(400):
    own = rng.normal(size=150)  # of an example, at every level
    example = rng.permutation(150)[np.arange(4 * 100) % 150].reshape(4, 100)
    values = 2.0 + own[example] + rng.normal(size=(4, 100)) + np.arange(4)[:, None]
    found.append(measures.integral(measures.HeldOut(
        example, np.zeros((4, 100, 3)), None, None, None, np.zeros((4, 100)), 0.5 * 3), values))
  values, errors = np.array(found).T
  assert abs(values.mean() - 0.5 * 3 * (4 * 2.0 + 6.0)) < 4.0 * values.std() / np.sqrt(400)
  # The standard deviation of 400 values is known to 1/√800 = 3.5 %, and four of these.
  assert abs(errors.mean() / values.std() - 1.0) < 4.0 / np.sqrt(800.0)


def test_a_process_that_dies_is_reported_with_its_last_words(tmp_path, monkeypatch):
  ends = {0: "import os; os.kill(os.getpid(), 9)",
          1: "import sys; print('error: no luck', file=sys.stderr); sys.exit(2)"}
  monkeypatch.setattr(launchers, "command", lambda workdir, index, **_: [
      sys.executable, "-S", "-c", ends[index]])
  code, _, err = sweep(written(tmp_path, TWO), tmp_path / "w", "--workers=2")
  assert code == 1
  assert "failed: a, seed 0: its process was ended by SIGKILL" in err
  assert "failed: b, seed 0: no luck" in err
  assert (tmp_path / "w" / "table.json").exists()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds processes in /proc")
@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGKILL, -9),
    pytest.param(signal.SIGTERM, subprocesses.TERMINATED, marks=pytest.mark.slow)])
def test_nothing_outlives_a_sweep_that_is_ended_and_its_locks_are_free(tmp_path, number, code):
  file, workdir = written(tmp_path, TWO), tmp_path / "w"
  words = (*runner.SMALL, "--config.training.steps=1000000", f"--sweep={file}",
           f"--workdir={workdir}", "--workers=2")
  locks = [workdir / "groups" / name / ".lock" for name in "01"]

  def started(process, training):
    """Whether both workers have started, and train: their locks name them."""
    below = runner.children(process.pid)
    return len(below) == 2 and (not training or all(lock.exists() and any(
        f"process {pid} " in lock.read_text() for pid in below) for lock in locks))

  process = runner.start("sweep", *words)
  runner.wait_until(functools.partial(started, process, number == signal.SIGTERM), process)
  below = runner.children(process.pid)
  process.send_signal(number)
  _, err = process.communicate(timeout=100)
  assert process.returncode == code and runner.gone(below, 100.0)
  assert ("SIGTERM: ending; the same command goes on" in err) == (number == signal.SIGTERM)
  with records.locked(workdir), records.locked(workdir / "groups" / "0"):
    pass


def test_slurm_jobs_are_commands_and_their_errors_are_reported(tmp_path, monkeypatch):
  pytest.importorskip("submitit")
  file = written(tmp_path, TWO)
  base = mixture2d.get_config()
  loaded = arms.load(str(file))
  layout = layouts.make(base, loaded, arms.configs(base, loaded), [])
  words = {0: "open('done', 'w')", 1: "raise ValueError('no luck')"}
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(launchers, "command", lambda workdir, index, **_: [
      sys.executable, "-S", "-c", words[index]])
  errors = launchers.slurm(tmp_path, layout, [0, 1], at_once=0, resources={"timeout_min": 1},
                      cluster="local")
  assert list(errors) == [1] and "no luck" in errors[1] and (tmp_path / "done").exists()


def test_slurm_without_slurm_is_one_line(tmp_path, monkeypatch):
  pytest.importorskip("submitit")
  monkeypatch.setenv("PATH", str(tmp_path))
  code, _, err = sweep(written(tmp_path, TWO), tmp_path / "w", "--launcher=slurm")
  assert code == 2 and err.startswith("error: --launcher=slurm: ") and err.count("\n") == 1


def test_a_dry_run_writes_nothing(tmp_path):
  code, out, _ = runner.call("sweep", *SMALL, f"--sweep={written(tmp_path, TWO)}", "--dry_run")
  assert code == 0 and "2 arms, 2 models × 1 seeds, 2 programs" in out
  assert [file.name for file in tmp_path.iterdir()] == ["sweep.py"]


def test_shipped_sweeps_and_the_one_of_the_page_are_accepted(tmp_path, monkeypatch):
  base = mixture2d.get_config()
  for name in ("parameterizations", "levels", "stochasticity"):
    loaded = arms.load(str(runner.ROOT / "experiments" / "sweeps" / f"{name}.py"))
    configs = arms.configs(base, loaded)
    assert len(layouts.make(base, loaded, configs, []).groups) == 1 and len(configs) >= 16
  howto = runner.ROOT / "docs" / "howto"
  for page, file in (("configs", "mylab"), ("sweeps", "my_sweep")):
    text = (howto / f"{page}.md").read_text()
    block = re.search(rf"```python\n(# {file}\.py\n.*?)```", text, re.DOTALL)
    (tmp_path / f"{file}.py").write_text(block[1])
  monkeypatch.syspath_prepend(str(tmp_path))
  configs = arms.configs(base, arms.load(str(tmp_path / "my_sweep.py")))
  assert configs["mine"].network["width"] == 32 and configs["wide"].network["width"] == 128
