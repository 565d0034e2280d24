"""Benchmarks: turns, rounds and ratios by a clock of the test's own; the same model in PyTorch."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
from scipy import stats

from experiments import config as config_lib
from experiments.benchmarks import (
  conditional_digits,
  conditions,
  dispatches,
  exact_conditions,
  learning,
  measure,
  recipes,
  scale_host,
  starts,
)
from experiments.configs import mixture2d
from experiments.run import assembly, meshes
from langevin_jax import networks, predictions
from langevin_jax.training import shardings


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
  assert clock.calls[-12:] == [("fast", 4), ("slow", 2), ("slow", 2), ("fast", 4)] * 3
  # Iterations that are longer than a turn take fewer turns.
  clock = Clock()
  measure.interleaved({"long": clock.task("long", lambda now: 3.0)}, repeats=2, seconds=1.0,
                      clock=clock)
  assert clock.calls == [("long", 1)] * 5
  for field, values in (("repeats", {"repeats": 0, "seconds": 1.0}),
                        ("seconds", {"repeats": 1, "seconds": 0.0}),
                        ("slices", {"repeats": 1, "seconds": 1.0, "slices": 0})):
    with pytest.raises(ValueError, match=field):
      measure.interleaved({"none": lambda n: None}, **values)


def test_a_machine_that_slows_down_leaves_the_ratio():
  clock = Clock()
  tasks = {name: clock.task(name, lambda now, cost=cost: cost * 2.0 ** (now / 20.0))
           for name, cost in (("one", 0.01), ("two", 0.02))}
  times = measure.interleaved(tasks, repeats=5, seconds=1.0, slices=4, clock=clock)
  # Within a round the machine slows by 7 %; turns taken in both orders even that out.
  assert measure.ratio(times["two"], times["one"]).median == pytest.approx(2.0, rel=0.01)
  assert times["one"][-1] > 1.2 * times["one"][0]


def test_a_report_has_the_rows_the_rounds_and_the_machine(tmp_path, capsys):
  part = measure.Part([measure.Row("a ÷ b", measure.spread([2.0, 1.0, 4.0]), "<= 3", "a note"),
                       measure.Row("absent", None)], {"both": {"a": np.arange(2), "b": [0.5]}})
  out = tmp_path / "new" / "report.json"
  measure.report({"one": lambda: part, "two": None}, only=["one"], out=str(out))
  assert "  a ÷ b: 2.000 (1.000…4.000)  <= 3  a note\n  absent:\n" in capsys.readouterr().out
  content = json.loads(out.read_text())
  assert measure.is_report(content) and content["seconds"] == {"both": {"a": [0, 1], "b": [0.5]}}
  assert [row["part"] for row in content["rows"]] == ["one", "one"]
  assert content["rows"][0]["value"] == {"median": 2.0, "low": 1.0, "high": 4.0}
  facts = content["machine"]
  assert facts["cores"] >= 1 and facts["processor"] and len(facts["load_average"]) == 3
  assert facts["versions"]["jax"] == jax.__version__
  with pytest.raises(ValueError, match="--only must be of one, two, got 'three'"):
    measure.report({"one": None, "two": None}, only=["three"], out=str(out))


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


@pytest.fixture(scope="module")
def small():
  """A small run, two steps a dispatch, whose step and start are compiled once for all tests."""
  run = assembly.prepare(config_lib.override(mixture2d.get_config(), {
      "data.train_size": 200, "data.test_size": 100, "network.width": 8, "network.depth": 1,
      "training.batch_size": 16, "training.steps_per_dispatch": 2}))
  step, start = assembly.train_step(run, many=True), jax.device_get(assembly.start(run))
  places = jax.tree.map(lambda leaf: leaf.sharding, assembly.abstract_state(run))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(assembly, "train_step", lambda run, many: step)
    patch.setattr(assembly, "start", lambda run: jax.device_put(start, places))
    yield run


def test_steps_are_fed_as_the_run_is_trained(small):
  fed = scale_host.fed(small)
  fed(2)
  state = assembly.start(small)
  step = assembly.train_step(small, many=True)
  for first in (0, 2):
    batches = [assembly.data.batch(small.dataset, seed=0, step=first + i, batch_size=16)
               for i in range(2)]
    state, _ = step(state, np.uint32(1), jax.device_put(
        tuple(map(np.stack, zip(*batches, strict=True))), shardings.batch(small.mesh, axis=1)))
  jax.tree.map(np.testing.assert_array_equal, fed.state, state)
  # Beside it steps whose batch is there: as many, and they learn.
  held = dispatches.sharded(small)
  held(2)
  assert int(held.state.step) == 4
  assert not np.array_equal(held.state.params["output"]["kernel"], assembly.start(
      small).params["output"]["kernel"])
  spent = scale_host.pieces(small, count=3)
  assert all(values.shape == (3,) and (values > 0).all() for values in spent.values())


def test_the_share_of_the_host_leaves_out_what_has_compiled():
  lines = [{"host_seconds_per_step": cost, "steps_per_second": rate}
           for cost, rate in ((9.0, 0.1), (0.25, 2.0), (0.125, 1.0))]
  np.testing.assert_array_equal(scale_host.shares(lines), [0.5, 0.125])


def test_scale_says_what_it_measured(small, tmp_path):
  with runner.entry("benchmarks.scale") as scale:
    part = scale.saved(small.config, repeats=2, seconds=0.01)
  row, rounds = part.rows[0], part.seconds["checkpoints"]
  lost = np.subtract(rounds["saved"], rounds["plain"])[0]
  assert row.value.median == pytest.approx(np.median(lost) / 60.0)
  # Every save was made, and the steps after it waited for it.
  assert np.shape(rounds["blocked"]) == (2, 2) and (np.array(rounds["blocked"]) > 0.0).all()
  with pytest.raises(OSError, match="exit code 2"):
    starts.train(tmp_path, tmp_path / "run", options=["--config.training.stepz=1"])


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


@pytest.mark.parametrize("law", ["whitened_signs", pytest.param("ring_8", marks=pytest.mark.slow)])
def test_training_leaves_the_trivial_solution(law):
  """Whitened data have no linear part: a network that is linear in its input learns nothing.

  The width and rates of the config for one's own vectors, a smaller batch and half the depth.
  """
  arrays = config_lib.override(config_lib.load(str(learning.CONFIGS / "arrays.py")), {
      "network.depth": 2, "training.batch_size": 64})
  losses, _, linear = learning.learned(arrays, learning.examples(law), seeds=2, steps=250)
  # Nearly linear layers end within 1 % of it, this one 5 to 8 % below.
  assert np.all(losses < 0.98 * linear), (losses, linear)


def test_known_means_of_pixels_are_known_haar_coefficients():
  """H is orthogonal, and its first coefficients are twice the means."""
  x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
  z = conditions.haar(x)
  np.testing.assert_allclose(conditions.from_haar(z), x, atol=1e-6)
  np.testing.assert_allclose((z**2).sum((1, 2, 3)), (x**2).sum((1, 2, 3)), rtol=1e-5)
  np.testing.assert_allclose(z[..., :1], 2.0 * conditional_digits.pooled(x), atol=1e-6)


def test_the_energy_score_is_that_of_its_definition(monkeypatch):
  monkeypatch.setattr(conditions.classifier, "label_agreement", lambda *_: 1.0)
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(3, 2, 8, 8, 1)), rng.normal(size=(2, 8, 8, 1))
  test = conditional_digits.Digits(y, np.zeros(2), np.zeros(2))
  norm = np.linalg.norm
  far = np.mean([norm(a - b) for draw in x for a, b in zip(draw, y, strict=True)])
  apart = np.mean([norm(x[i, k] - x[j, k]) for i, j in ((0, 1), (0, 2), (1, 2)) for k in range(2)])
  found = conditions.score(x, test, None)
  np.testing.assert_allclose(found["energy"], far - 0.5 * apart)
  # Of a point it is the distance; replicated means miss none of the means.
  flat = np.broadcast_to(conditional_digits.pooled(y).repeat(2, 1).repeat(2, 2), x.shape)
  found = conditions.score(flat, test, None)
  np.testing.assert_allclose(found["energy"], np.mean([norm(a) for a in flat[0] - y]))
  assert found["low"] < 1e-6 and found["rmse"] == pytest.approx(found["rmse of mean"])


def test_real_digits_in_the_place_of_samples_have_perfect_scores(monkeypatch):
  train, test = conditional_digits.digits()
  number = {x.tobytes(): y for part in (train, test)
            for x, y in zip(part.x, part.number, strict=True)}
  logits = lambda judge, x: np.eye(10)[[number.get(image.tobytes(), 0) for image in x]]

  class Model:
    def sample(self, key, n, *, condition, grid, guidance=1):
      x = test.x if "low" in condition else train.x[:n]
      return np.tile(x, (n // len(x), 1, 1, 1))

  for module, name, value in (
      (conditions, "_trained", lambda name: Model()), (conditions, "_judge", lambda train: None),
      (conditions, "lanpainted", lambda model, low: np.zeros((len(low), 8, 8, 1))),
      (conditions.classifier, "logits", logits),
      (conditions.classifier, "label_agreement",
       lambda judge, x, labels: (logits(judge, x).argmax(1) == labels).mean())):
    monkeypatch.setattr(module, name, value)
  scores, rows = conditions.super_resolution()
  assert scores["condition"] == {"energy": 0.0, "rmse": 0.0, "rmse of mean": 0.0, "low": 0.0,
                                 "agreement": 1.0}
  assert scores["nearest pixel"]["low"] == 0.0 < scores["nearest example"]["low"]
  # The nearest training digit mostly is of the number, more often than a black image, a 0.
  assert 0.9 < scores["nearest example"]["agreement"] < 1.0
  assert scores["LanPaint-10"]["agreement"] == np.mean(test.number == 0)
  assert {x.shape for x in rows.values()} == {(10, 8, 8, 1)}
  found, rows = conditions.two_labels()
  for name, row in found.items():
    assert all(row.get(key, 1.0) == 1.0 for key in ("number", "ink")), name
    assert row["distance"] == 0.0 or name == "real"
  assert 0.0 < found["real"]["distance"] < 0.1 and len(found) == 6 and len(rows) == 3


@pytest.mark.slow
def test_images_by_inpainting_have_the_means_that_are_known(monkeypatch):
  """By the exact denoiser of white data; grey levels are whole, so means are off by up to ½."""
  at = lambda x, ell: predictions.unit_frame(ell).alpha * x
  monkeypatch.setattr(conditions.drawing, "denoiser",
                      lambda *_: predictions.Denoiser(at, conditions.paths.vp()))
  monkeypatch.setattr(conditions.run_conditions, "given", lambda *_, **options: None)
  dataset = types.SimpleNamespace(mean=np.float64(8.0), scale=np.float64(2.0))
  monkeypatch.setattr(conditions.data, "restore", lambda dataset, x: 8.0 + 2.0 * x)
  low = np.random.default_rng(0).uniform(7.0, 9.0, (2, 2, 2, 1))
  x = conditions.lanpainted(types.SimpleNamespace(
      run=types.SimpleNamespace(dataset=dataset), params=None), low)
  assert x.shape == (2, 4, 4, 1) and np.all(x == np.round(x)) and x.std() > 1.0
  assert np.abs(conditional_digits.pooled(x) - low).max() <= 0.5


def test_tilted_quantiles_are_those_of_the_class_and_of_the_whole_at_weights_one_and_nought():
  mean, std = exact_conditions.MEANS[0], exact_conditions.STDS[0]
  found = exact_conditions.tilted_quantiles(1.0, 9)
  np.testing.assert_allclose(found, stats.norm.ppf((np.arange(9) + 0.5) / 9, mean, std), atol=1e-4)
  whole = exact_conditions.tilted_quantiles(0.0, 9)
  share = sum(0.5 * stats.norm.cdf(whole, m, s)
              for m, s in zip(exact_conditions.MEANS, exact_conditions.STDS, strict=True))
  np.testing.assert_allclose(share, (np.arange(9) + 0.5) / 9, atol=1e-4)


@pytest.mark.slow
def test_a_density_given_a_vector_is_recovered():
  assert exact_conditions.vector(steps=3000) <= 0.03


def test_the_time_to_a_quality_is_that_to_the_best_of_theirs():
  """In steps until it is reached and not left again, times the ratio of a step's time."""
  row = lambda value: {metric: {"value": value, "floor": 0.0} for metric in recipes.METRICS}
  # Each side has its best sampler at each number of steps.
  rows = {"ours, 12": {500: row(9.0), 1000: row(3.0), 1500: row(4.0), 2000: row(1.0)},
          "ours, 50": {500: row(8.0), 1000: row(6.0), 1500: row(2.0), 2000: row(3.0)},
          "diffusers, 12": {1000: row(40.0), 2000: row(4.0)},
          "diffusers, their own": {2000: row(2.5)}}
  assert recipes.time_to_theirs(rows, "fid", 1.2) == pytest.approx(1.2 * 1500 / 2000)
  # Of a share more is better: the first measurement that is below leaves it for good.
  assert recipes.time_to_theirs(rows, "label_agreement", 1.2) is None


def test_a_killed_comparison_goes_on_with_what_it_has_judged(tmp_path):
  file, of = tmp_path / "out.json", {"num_samples": 10}
  assert recipes.unfinished(file, of) is None
  content = {"of": of, "rows": {"ours, 12": {500: {"fid": {"value": 1.0}}}}}
  measure.write(file, content)
  assert recipes.unfinished(file, of) == content
  assert recipes.unfinished(file, {"num_samples": 20}) is None
  measure.write(file, content | {"ratio of times": {}})
  assert recipes.unfinished(file, of) is None


# The sizes of diffusers' UNet2DModel of `torch_images`.
@pytest.mark.parametrize(("name", "shape", "theirs"), [
    ("fashion_mnist", (28, 28, 1), 1_164_385), ("emoji", (32, 32, 3), 1_165_539)])
def test_both_recipes_train_a_network_of_one_size(name, shape, theirs):
  settings = recipes.our_config(config_lib.Call(name, (("path", "nowhere"),)), 1000, 500)
  run = assembly.assemble(settings, shape, 10, meshes.make(settings.mesh, jax.devices()[:1]))
  ours = sum(leaf.size for leaf in jax.tree.leaves(assembly.abstract_state(run).params))
  assert ours == pytest.approx(theirs, rel=0.01)
