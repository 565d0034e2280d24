"""Networks of somebody's own: the documented templates, in files outside of the repository."""

import importlib
import json
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner

from experiments.config import build, calls
from experiments.planning import model_flops
from experiments.run import assembly, records, signals
from experiments.sweeping import arms, equivalence, layouts

PAGE = runner.ROOT / "docs" / "howto" / "networks.md"
TEMPLATES = dict(re.findall(r"```python\n# (lab_\w+)\.py\n(.*?)```", PAGE.read_text(), re.S))
each = pytest.mark.parametrize("name", sorted(TEMPLATES))
BROKEN = '''
import equinox as eqx
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Statistics(nn.Module):
  @nn.compact
  def __call__(self, x, half_log_snr, condition):
    return nn.BatchNorm(use_running_average=False)(x)


class Streams(nnx.Module):
  def __init__(self, *, rngs):
    self.norm, self.drop = nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)


class Stateful(eqx.Module):
  norm: eqx.nn.BatchNorm

  def __init__(self):
    self.norm = eqx.nn.BatchNorm(2, "batch", mode="batch")

  def __call__(self, x, half_log_snr, condition):
    return self.norm(x)


class Counter(eqx.Module):
  count: object

  def __init__(self):
    self.count = jnp.zeros(3, int)

  def __call__(self, x, half_log_snr, condition):
    return x


def pair(apply):
  return lambda key: {"w": jnp.ones(())}, apply


def narrow():
  return pair(lambda params, x, half_log_snr, condition: x[:, :1])


def integers():
  return pair(lambda params, x, half_log_snr, condition: jnp.round(x).astype(int))


def unary():
  return pair(lambda params, x: x)


def number():
  return 3
'''


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """A directory of modules, on the path of imports and not in the repository."""
  place = tmp_path / "lab"
  place.mkdir()
  for name, text in (TEMPLATES | {"lab_broken": BROKEN}).items():
    (place / f"{name}.py").write_text(text)
  monkeypatch.syspath_prepend(str(place))
  importlib.invalidate_caches()
  return place


def make(text, shape=(2,), num_classes=3):
  return build.network(calls.make(text, "network", "config.network"), shape, num_classes)


def test_the_page_has_a_template_of_every_kind():
  assert set(TEMPLATES) == {"lab_linen", "lab_nnx", "lab_equinox", "lab_functions"}
  assert max(text.count("\n") for text in TEMPLATES.values()) <= 30


@each
def test_a_template_is_a_function_of_its_parameters(name, lab):
  """The seed decides on the parameters; examples do not see each other; x is not reshaped."""
  network = make(f"{name}:Wave(width=5)", (3, 1))
  first, again, other = (network.init(jax.random.key(i)) for i in (0, 0, 1))
  same = jax.tree.map(lambda a, b: np.array_equal(a, b), first, again)
  assert all(jax.tree.leaves(same))
  assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first, other)),
                                                      strict=True))
  assert {type(node) for node in (first, *first.values())} <= {dict, *map(type, jax.tree.leaves(
      first))}
  x, labels = jnp.arange(12.0).reshape(4, 3, 1) / 12.0, jnp.array([0, 1, 2, 3])
  params = jax.tree.map(lambda leaf: leaf + 0.1, first)
  whole = network.apply(params, x, jnp.array([0.1, -1.0, 0.1, 2.0]), labels)
  alone = network.apply(params, x[1:2], -1.0, labels[1:2])
  assert whole.shape == x.shape and whole.dtype == jnp.float32
  np.testing.assert_allclose(whole[1:2], alone, rtol=1e-5)
  assert not np.allclose(whole[1], network.apply(params, x[1:2], -1.0, labels[2:3]))
  gradient = jax.grad(lambda p: jnp.sum(network.apply(p, x, 0.3, labels) ** 2))(params)
  assert all(np.abs(leaf).max() > 0.0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("name", "words"), [
    ("Statistics", "collections batch_stats; only params are trained, so take LayerNorm"),
    ("Streams", "variables of the types BatchStat, RngCount, RngKey; only nnx.Param"),
    ("Stateful", "layers with state, which is not kept"),
    ("Counter", "a jax array of int32, which cannot be trained: make it a NumPy array"),
    ("narrow", r"floats in the shape \(2, 2\) of the state, got float32 of shape \(2, 1\)"),
    ("integers", "got int32 of shape"),
    ("unary", "TypeError: .* takes 2 positional arguments but 4 were given"),
    ("number", r"a network is a Flax Linen, Flax NNX or Equinox module, or a pair .*, got int"),
])
def test_what_cannot_be_trained_is_one_line(name, words, lab):
  with pytest.raises(ValueError, match=rf"^config\.network=lab_broken:{name}.*{words}") as error:
    make(f"lab_broken:{name}")
  assert "\n" not in str(error.value)


@pytest.mark.slow
@each
def test_a_template_goes_through_every_command(name, lab, tmp_path, monkeypatch):
  """Train, stop, resume, sample, inpaint, evaluate, sweep and plan; resuming is bitwise."""
  settings = (*runner.SMALL[:3], f"--config.network={name}:Wave(width=6)",
              *runner.SMALL[5:], "--config.training.steps=30",
              "--config.training.checkpoint_every=30")
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  runner.succeed("train", *settings, f"--workdir={whole}")
  with monkeypatch.context() as patched:
    patched.setattr(signals, "stopping", lambda: lambda dispatch: dispatch >= 2)
    assert "stopped at step" in runner.succeed("train", *settings, f"--workdir={parts}")
  assert "resuming" in runner.succeed("train", *settings, f"--workdir={parts}")
  assert runner.manifest(parts)["sha256"] == runner.manifest(whole)["sha256"]
  code, _, err = runner.call("train", *settings, "--config.network.width=7", f"--workdir={whole}")
  assert code == 2 and "network.width: 6 → 7" in err

  runner.succeed("sample", f"--workdir={whole}", "--num_samples=20")
  assert np.isfinite(np.load(whole / "samples.npy")).all()
  known = tmp_path / "known.npy"
  np.save(known, np.zeros((1, 2)))
  np.save(tmp_path / "mask.npy", np.array([True, False]))
  runner.succeed("sample", f"--workdir={whole}", "--num_samples=20", f"--known={known}",
                 f"--mask={tmp_path / 'mask.npy'}", f"--out={tmp_path / 'in.npy'}")
  assert np.array_equal(np.load(tmp_path / "in.npy")[:, 0], np.zeros(20))
  runner.succeed("evaluate", f"--workdir={whole}", "--num_samples=50")
  assert json.loads((whole / "evaluation.json").read_text())

  base = records.read_config(whole)
  sweep = arms.Sweep({"a": {}, "b": {"objective.prediction": "eps"},
                      "c": {"network.width": 7}}, "a", (0,))
  configs = arms.configs(base, sweep)
  groups = layouts.make(base, sweep, configs, equivalence.find(configs)).groups
  assert groups == [["a", "b"], ["c"]]  # one program of the arms of one shape
  run = assembly.prepare(base)
  # Six inputs, six hidden units: the products of forward and backward pass, at least.
  assert model_flops.of_step(base, (2,), run.dataset.num_classes, run.mesh) > 32 * 2 * 3 * 6 * 2


@pytest.mark.slow
def test_the_library_does_not_need_what_it_adapts(lab):
  """Equinox and NNX are imported by the user's module alone."""
  code = ("import sys; from experiments.config import build, calls; "
          "build.network(calls.make('mlp(width=4, depth=1)', 'network', 'x'), (2,), 0); "
          "sys.exit('equinox' in sys.modules)")
  assert subprocess.run([runner.sys.executable, "-c", code], cwd=runner.ROOT).returncode == 0
