"""Runs that learn a density of noise levels and a weight: resumed, changed, used and begun from."""

import json
import shutil

import jax
import numpy as np
import pytest
import runner
from runner import SMALL, manifest

from experiments import config
from experiments.config import build
from experiments.run import assembly, records, reporting, signals
from langevin_jax import objectives

STEPS = ("--config.training.steps=40", "--config.training.checkpoint_every=20",
         "--config.training.accumulation=2")
DENSITY = "uniform_half_log_snr(rho_min=0.01, rho_max=100)"
LEARNED = (f"--config.objective.density=learned({DENSITY}, bins=8)",
           "--config.objective.weight=uncertainty(simple(), bins=8)")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("adaptive") / "run"
  runner.succeed("train", *SMALL, *STEPS, *LEARNED, f"--workdir={workdir}")
  return workdir


def final(workdir):
  """The run in a workdir and its newest state, on the host."""
  run = assembly.prepare(records.read_config(workdir))
  return run, jax.device_get(assembly.restored(run, workdir))


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def stop_at(patch, dispatch):
  patch.setattr(signals, "stopping", lambda: lambda number: number == dispatch)


def test_a_stopped_run_ends_with_the_same_bits(finished, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    stop_at(patch, 3)
    runner.succeed("train", *SMALL, *STEPS, *LEARNED, f"--workdir={tmp_path}")
  runner.succeed("train", f"--workdir={tmp_path}")
  (_, one), (_, other) = final(finished), final(tmp_path)
  same(one, other)
  assert set(one.learned) == {"density", "weight"}
  assert all(part.mass.sum() > 30 * 32 and len(part.mass) == 8 for part in one.learned.values())
  assert runner.unclocked(finished) == runner.unclocked(tmp_path)
  assert "base density and weight" in manifest(tmp_path)["loss_of"]


def test_on_two_devices_all_learn_the_same(finished, tmp_path):
  """What is learned is replicated; sums over devices run in another order: rounding alone."""
  code, _, err = runner.run(
      "train", *SMALL, *STEPS, *LEARNED, "--config.training.cpu_devices=2", f"--workdir={tmp_path}")
  assert code == 0, err
  one, two = (final(workdir)[1] for workdir in (finished, tmp_path))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
               (one.params, one.learned), (two.params, two.learned))


def test_the_loss_and_the_linear_baseline_are_of_the_base_objective(finished):
  """The loss that is reported is that of the base objective by another sample of levels."""
  run, state = final(finished)
  plain = config.override(run.config, {
      "objective.density": DENSITY, "objective.weight": "simple()"})
  base = assembly.assemble(plain, (2,), run.dataset.num_classes, run.mesh)._replace(
      dataset=run.dataset)
  assert reporting.linear_loss(run) == reporting.linear_loss(base)
  assert build.base_objective(run.config)[1](1.0) == build.base_objective(plain)[1](1.0)
  x = np.resize(run.dataset.train, (40_000, 2))

  @jax.jit
  def losses(params):
    now = run.loss.at(state.learned)
    batch = x, np.zeros(len(x), np.int32)
    value, levels = now(params, jax.random.key(0), batch)
    expected, _ = base.loss(params, jax.random.key(1), batch)
    return value, run.loss.observe(state.learned, levels)[1], expected

  weighted, reported, expected = map(float, losses(state.params))
  assert reported == pytest.approx(expected, rel=0.05)
  assert abs(weighted / expected - 1.0) > 0.2


def test_another_density_is_refused_or_recorded_and_begins_anew(finished, tmp_path):
  workdir = shutil.copytree(finished, tmp_path / "run")
  error = runner.refused("train", f"--workdir={workdir}", "--config.objective.density.bins=4")
  assert "objective.density.bins: 8 → 4" in error
  assert "--allow_change=objective.density.bins" in error
  # To none, and from none to one.
  for step, change in ((60, DENSITY), (80, f"learned({DENSITY}, bins=4)")):
    runner.succeed("train", f"--workdir={workdir}", f"--config.objective.density={change}",
                   f"--config.training.steps={step}", "--allow_change=objective,training.steps")
    _, state = final(workdir)
    assert set(state.learned) == ({"weight"} if step == 60 else {"density", "weight"})
    # Of 20 steps of 32: what was learned before was of another objective.
    assert 18 * 32 < state.learned["weight"].mass.sum() <= 20 * 32
  changes = [session.get("changes", []) for session in manifest(workdir)["sessions"]]
  assert any("objective.density: 'learned' → 'uniform_half_log_snr'" in each for each in changes)
  # With the same objective it is kept.
  runner.succeed("train", f"--workdir={workdir}", "--config.training.steps=100",
                 "--allow_change=training.steps")
  assert final(workdir)[1].learned["weight"].mass.sum() > 34 * 32


def test_what_is_learned_is_of_training_alone(finished, tmp_path):
  """Sampling and export do without it; a run that begins from another's parameters learns anew."""
  runner.succeed("sample", f"--workdir={finished}", "--num_samples=8",
                 f"--out={tmp_path / 'x.npy'}")
  assert np.isfinite(np.load(tmp_path / "x.npy")).all()
  out = tmp_path / "p.npz"
  runner.succeed("export", f"--workdir={finished}", f"--out={out}")
  assert not [name for name in np.load(out) if "learned" in name]
  runner.succeed("train", *SMALL, "--config.training.steps=5", *LEARNED, f"--init_from={finished}",
                 f"--workdir={tmp_path / 'other'}")
  _, state = final(tmp_path / "other")
  assert 4 * 32 < state.learned["weight"].mass.sum() <= 5 * 32


def test_a_flow_map_refuses_what_is_learned_and_a_call_of_the_user_s_may_learn(
    tmp_path, monkeypatch):
  for field in LEARNED:
    name = field.split("=")[0].removeprefix("--")
    assert f"{name}: a flow map draws pairs of levels" in runner.refused(
        "train", *SMALL, "--config.objective.flow_map=eulerian()", field, f"--workdir={tmp_path}")
  (tmp_path / "adaptive_lab.py").write_text("""
from langevin_jax import objectives

def narrow(*, bins: int = 4):
  return objectives.learned(objectives.log_normal_rho(-0.5, 0.5), bins=bins)
""")
  monkeypatch.syspath_prepend(str(tmp_path))
  made = config.override(config.load("mixture2d"), {"objective.density": "adaptive_lab:narrow"})
  density, _, _ = build.objective(made)
  assert isinstance(density, objectives.LearnedDensity) and len(density.init.mass) == 4
  assert json.loads(config.to_json(made))["objective"]["density"]["bins"] == 4
