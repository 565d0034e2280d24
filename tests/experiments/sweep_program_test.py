"""Many arms in one program: each computes what its own run would, on one device and on two."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import config, data
from experiments.configs import mixture2d
from experiments.run import assembly, checkpoints, meshes
from experiments.sweeping import program
from tests import runner

STEPS, K = 20, 10
BASE = config.override(mixture2d.get_config(), {
    "data.train_size": 500, "data.test_size": 200, "network.width": 16, "network.depth": 1,
    "training.batch_size": 32, "training.steps": STEPS, "training.schedule.warmup_steps": 3})
# Everything that a program takes as a number is another one in some arm.
ARMS = (
    {},
    {"objective.prediction": "eps", "objective.density": "uniform_time", "path": "cosine",
     "objective.weight": "likelihood", "training.learning_rate": 1e-3,
     "training.gradient_clip": 0.1},
    {"objective.prediction": "x0", "objective.weight": "sigmoid", "objective.weight.bias": 1.0,
     "training.optimizer": "adamw(b2=0.95, weight_decay=0.1)",
     "training.ema_half_life_steps": 20.0, "training.label_dropout": 0.5},
    {"objective.density": "learned(log_normal_rho(), bins=16)",
     "objective.weight": "uncertainty(simple(), bins=8)"},
)
SEEDS = (0, 3)


def members():
  """(run, seed) of every arm and seed, on one device; a third of the examples in each class."""
  dataset = data.load("mixture2d", train_size=500, test_size=200)
  dataset = dataset._replace(
      num_classes=3, train_labels=np.arange(len(dataset.train), dtype=np.int32) % 3)
  one = meshes.make(config.Mesh(1, 1, 1), jax.devices()[:1])
  made = [assembly.assemble(config.override(BASE, arm), (2,), 3, one)._replace(dataset=dataset)
          for arm in ARMS]
  return [(run, seed) for run in made for seed in SEEDS]


def few():
  """Two members of the first arm, and one of the last."""
  return [*members()[:2], members()[-1]]


def batches(run: assembly.Run, seed: int, start: int):
  parts = [data.batch(run.dataset, seed=seed, step=step, batch_size=32)
           for step in range(start, start + K)]
  return tuple(np.stack(part) for part in zip(*parts, strict=True))


def together(these, devices, at_once):
  """(states, losses (members, steps)) after `STEPS` steps as one program."""
  many = program.make(these, devices, at_once=at_once)
  states, losses = many.init(many.members), []
  for start in range(0, STEPS, K):
    of_seeds = [batches(these[0][0], seed, start) for seed in many.seeds]
    states, measured = many.advance(
        many.members, states, tuple(np.stack(part) for part in zip(*of_seeds, strict=True)))
    losses.append(np.asarray(measured.loss))
  return states, np.concatenate(losses, axis=1)


@pytest.fixture(scope="module")
def alone():
  """(first state, last state, losses) of every member by itself, as experiments.train has it."""
  found = []
  for run, _ in members()[::len(SEEDS)]:
    step = assembly.train_step(run, many=True)
    for seed in SEEDS:
      state = assembly.start(run._replace(config=dataclasses.replace(run.config, seed=seed)))
      first, losses = jax.device_get(state), []
      for start in range(0, STEPS, K):
        state, measured = step(state, np.uint32(seed + 1), batches(run, seed, start))
        losses.append(np.asarray(measured.loss))
      found.append((first, jax.device_get(state), np.concatenate(losses)))
  return found


def test_each_member_trains_as_a_run_of_its_own(alone):
  these = members()
  many = program.make(these, jax.devices()[:1])
  # The arms of a seed share its batches, and the first states are those of the runs bit for bit.
  assert many.seeds == SEEDS
  np.testing.assert_array_equal(many.members.batch, [0, 1] * len(ARMS))
  begun = many.init(many.members)
  states, losses = together(these, jax.devices()[:1], 0)
  # Arms and seeds differ, or this would show nothing.
  assert len({float(loss) for loss in losses[:, -1]}) == len(these)
  for i, (first, last, loss) in enumerate(alone):
    jax.tree.map(np.testing.assert_array_equal, program.member_state(many, begun, i), first)
    np.testing.assert_allclose(losses[i], loss, rtol=1e-5)
    assert set(dict(last.learned)) == ({"density", "weight"} if i >= 6 else set())
    mine = program.member_state(many, states, i)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(last), strict=True):
      assert a.dtype == b.dtype
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_in_a_loop_on_two_devices_as_alone(alone, tmp_path):
  """Three members on two devices: the last is computed twice. Checkpoints fit both, bit for bit."""
  here, there = tmp_path / "here", tmp_path / "there"
  mine, _ = together(few(), jax.devices()[:1], 0)
  with checkpoints.manager(here, keep=1) as manager:
    checkpoints.save(manager, STEPS, mine)
  code = f"""
import pathlib
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from experiments.run import checkpoints
from experiments.sweeping import program
from tests.experiments import sweep_program_test as t
these = t.few()
states, losses = t.together(these, jax.devices(), 1)
assert len(jax.tree.leaves(states)[0].sharding.device_set) == 2
many = program.make(these, jax.devices())
with checkpoints.manager(pathlib.Path({str(there)!r}), keep=1) as manager:
  checkpoints.save(manager, t.STEPS, states)
with checkpoints.manager(pathlib.Path({str(here)!r}), keep=1) as manager:
  other = checkpoints.restore(manager, many.abstract)
for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(states), strict=True):
  assert a.shape == b.shape and a.sharding.is_equivalent_to(b.sharding, a.ndim)
np.savez({str(tmp_path / "states.npz")!r}, *jax.tree.leaves(states))
np.savez({str(tmp_path / "other.npz")!r}, *jax.tree.leaves(other))
np.save({str(tmp_path / "losses.npy")!r}, losses)
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=runner.ROOT, capture_output=True,
                        text=True, timeout=200)
  assert done.returncode == 0, done.stderr
  many = program.make(few(), jax.devices()[:1])
  with checkpoints.manager(there, keep=1) as manager:
    restored = checkpoints.restore(manager, many.abstract)
  for file, states in (("states", restored), ("other", mine)):
    for stored, leaf in zip(np.load(tmp_path / f"{file}.npz").values(), jax.tree.leaves(states),
                            strict=True):
      np.testing.assert_array_equal(stored, leaf)
  losses = np.load(tmp_path / "losses.npy")
  assert losses.shape == (3, STEPS)
  for of_two, (_, _, own) in zip(losses, [*alone[:2], alone[-1]], strict=True):
    np.testing.assert_allclose(of_two, own, rtol=1e-5)
