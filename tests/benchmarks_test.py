"""Benchmarks: turns, rounds and ratios by a clock of the test's own; the same model in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import measure
from langevin_jax import networks


class Clock:
  """Stands still but for tasks, which take as long as they say."""

  def __init__(self):
    self.now, self.calls = 0.0, []

  def __call__(self):
    return self.now

  def task(self, name, seconds):
    def run(n):
      self.calls.append((name, n))
      self.now += n * seconds(self.now)

    return run


def test_ratio_is_the_median_of_ratios_within_rounds():
  # The second round ran on a busy machine: each median alone would say 10/4, the rounds say 2.
  found = measure.ratio(np.array([2.0, 60.0, 10.0]), np.array([1.0, 20.0, 4.0]))
  assert found == measure.Spread(2.5, 2.0, 3.0)
  assert measure.spread([3.0, 1.0, 2.0, 10.0]) == measure.Spread(2.5, 1.0, 10.0)
  with pytest.raises(ValueError, match="numerator"):
    measure.ratio(np.ones(3), np.ones(2))


def test_rivals_take_turns_for_as_long_as_asked():
  clock = Clock()
  tasks = {"fast": clock.task("fast", lambda now: 0.125),
           "slow": clock.task("slow", lambda now: 0.25)}
  times = measure.interleaved(tasks, repeats=3, seconds=1.0, slices=2, clock=clock)
  # Powers of two: the sums are exact.
  np.testing.assert_array_equal(times["fast"], [0.125] * 3)
  np.testing.assert_array_equal(times["slow"], [0.25] * 3)
  turns = clock.calls[-12:]
  assert turns == [("fast", 4), ("slow", 2), ("slow", 2), ("fast", 4)] * 3


def test_a_machine_that_slows_down_leaves_the_ratio():
  clock = Clock()
  tasks = {name: clock.task(name, lambda now, cost=cost: cost * 2.0 ** (now / 20.0))
           for name, cost in (("one", 0.01), ("two", 0.02))}
  times = measure.interleaved(tasks, repeats=5, seconds=1.0, slices=4, clock=clock)
  # Within a round the machine slows by 7 %; turns taken in both orders even that out.
  assert measure.ratio(times["two"], times["one"]).median == pytest.approx(2.0, rel=0.01)
  assert times["one"][-1] > 1.2 * times["one"][0]


def test_long_iterations_take_fewer_turns():
  clock = Clock()
  tasks = {"long": clock.task("long", lambda now: 3.0)}
  measure.interleaved(tasks, repeats=2, seconds=1.0, slices=5, clock=clock)
  assert clock.calls[-2:] == [("long", 1)] * 2 and len(clock.calls) == 5


@pytest.mark.parametrize("field, values", [
    ("repeats", {"repeats": 0, "seconds": 1.0}), ("seconds", {"repeats": 1, "seconds": 0.0}),
    ("slices", {"repeats": 1, "seconds": 1.0, "slices": 0})])
def test_bad_counts_are_named(field, values):
  with pytest.raises(ValueError, match=field):
    measure.interleaved({"none": lambda n: None}, **values)


def test_machine_says_what_and_when():
  facts = measure.machine()
  assert facts["cores"] >= 1 and facts["processor"] and len(facts["load_average"]) == 3
  assert facts["versions"]["jax"] == jax.__version__


def test_torch_dit_is_the_same_model():
  torch = pytest.importorskip("torch", reason="torch is not installed (extra [bench])")
  from experiments.benchmarks import torch_dit  # needs torch

  setting = torch_dit.Setting(
      height=4, width_pixels=6, channels=2, num_classes=3, patch_size=2, width=16, depth=2,
      heads=2, batch_size=5, learning_rate=1e-3, beta_2=0.99, weight_decay=0.0, gradient_clip=1.0,
      ema_half_life_steps=10.0, label_dropout=0.1, threads=1)
  network = networks.DiT(patch_size=2, width=16, depth=2, heads=2, num_classes=3)
  keys = iter(jax.random.split(jax.random.key(0), 100))
  x, ell = jax.random.normal(next(keys), (5, 4, 6, 2)), jnp.linspace(-3.0, 3.0, 5)
  labels = jnp.array([0, 1, 2, 3, 0])
  params = network.init(next(keys), x, ell, labels)["params"]
  params = jax.tree.map(
      lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), params)

  model = torch_dit.DiT(setting)
  assert (sum(parameter.numel() for parameter in model.parameters())
          == sum(leaf.size for leaf in jax.tree.leaves(params)))
  given = torch_parameters(params)
  model.load_state_dict({name: torch.tensor(np.array(value)) for name, value in given.items()})
  with torch.no_grad():
    found = model(*(torch.tensor(np.array(a)) for a in (x, ell, labels))).numpy()
  # Two float32 programs, a dozen layers deep, on values of order one.
  np.testing.assert_allclose(
      found, network.apply({"params": params}, x, ell, labels), rtol=1e-4, atol=1e-5)
  trainer = torch_dit.Trainer(setting)
  assert np.isfinite([trainer.step() for _ in range(3)]).all()


def torch_parameters(params):
  """The JAX parameters by their names and layouts in PyTorch; frequencies are no parameters."""
  def linear(name, tree):
    yield f"{name}.weight", tree["kernel"].T
    yield f"{name}.bias", tree["bias"]

  def entries():
    condition = params["conditioning"]
    yield from linear("level_in", condition["level_in"])
    yield from linear("level_out", condition["level_out"])
    yield "label.weight", condition["label"]["kernel"]
    yield "position", params["position"]
    for name in ("patches", "modulation", "output"):
      yield from linear(name, params[name])
    for name, stacked in params["blocks"].items():
      for i in range(len(stacked["bias"])):
        yield from linear(f"blocks.{i}.{name}", jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
    yield "frequencies", jnp.geomspace(1.0, 64.0, 32)

  return dict(entries())
