"""Runs with named conditions: from a user's data through training to samples, by an object."""

import dataclasses
import importlib
import json
import re

import jax
import numpy as np
import pytest
import runner

import experiments
from experiments import config
from experiments.planning import roofline, topologies
from experiments.run import assembly
from experiments.sampling import conditioning
from experiments.sweeping import measures
from langevin_jax import predictions

LAB = '''
import numpy as np


def load(*, seed: int = 0):
  rng = np.random.default_rng(seed)
  n, place = 200, rng.normal(size=(200, 2))
  words = rng.normal(size=(n, 3, 4))
  return {"train": place + 0.1 * rng.normal(size=(n, 2)), "labels": np.arange(n) % 3,
          "conditions": {"place": place, "words": words, "count": np.arange(n) % 5,
                         "words_mask": np.arange(n * 3).reshape(n, 3) % 4 > 0,
                         "flag": np.arange(n) % 2 == 0}}
'''
SETTINGS = (*runner.SMALL[:1], "--config.data=named_lab:load", *runner.SMALL[3:],
            "--config.training.steps=10")
SWEEP = """
SEEDS = (0,)
def sweep():
  return {"all": {}, "some": {"training.label_dropout": 0.0}, "v": {"objective.prediction": "v"}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  place = tmp_path_factory.mktemp("lab")
  (place / "named_lab.py").write_text(LAB)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    runner.succeed("train", *SETTINGS, f"--workdir={place / 'run'}")
    yield experiments.load(place / "run")


def test_a_model_is_drawn_from_under_any_part_of_its_conditions(model):
  """Nothing, one condition of all samples, several of their own; guidance moves them."""
  key = jax.random.key(0)
  given = {"place": np.ones(2), "label": np.arange(6) % 3, "words": np.zeros((6, 3, 4)),
           "words_mask": np.ones((6, 3), bool), "flag": True}
  draw = lambda condition, **options: model.sample(key, 6, condition=condition, **options)
  nothing, whole = draw(None), draw(given)
  assert np.isfinite(whole).all() and np.array_equal(nothing, draw({}))
  for name in ("place", "label", "flag"):
    assert not np.array_equal(whole, draw({k: v for k, v in given.items() if k != name})), name
  assert not np.array_equal(whole, draw(given, guidance=3))
  # A class alone, by name or number, is the condition in which no more is given.
  for label in (1, "1", {"label": "1"}):
    np.testing.assert_array_equal(draw(label), draw({"label": 1}))
  # A mask of one example is for all samples; as many samples as words are ambiguous.
  one = {"words": np.ones((3, 4)), "words_mask": np.array([True, False, True])}
  each = {name: np.stack([value] * 6) for name, value in one.items()}
  np.testing.assert_array_equal(draw(one), draw(each))
  with pytest.raises(ValueError, match="may be of 3 samples, or of one example"):
    model.sample(key, 3, condition=one)
  np.testing.assert_array_equal(draw(given, guidance=1), whole)
  with pytest.raises(ValueError, match="guidance does nothing without a label"):
    draw(None, guidance=3)
  x = np.zeros((6, 2))
  assert not np.array_equal(*(model.denoise(x, alpha=1.0, sigma=1.0, condition=condition)
                              for condition in (None, given)))


@pytest.mark.parametrize(("condition", "words"), [
    ({"plaze": np.ones(2)}, "has no 'plaze'; it has place, words, count, flag, label, and"),
    ({"place": np.ones((5, 2))}, r"'place' must be real numbers of shape \(6, 2\) or \(2,\), got"),
    ({"place": np.ones(3)}, r"'place' must be real numbers of shape"),
    ({"place": np.array(["a", "b"])}, "'place' must be real numbers"),
    ({"count": 5}, r"'count' must be integers 0 … 4 of shape \(6,\) or \(\), got .*, 5 … 5"),
    ({"count": 1.5}, "'count' must be integers 0 … 4"),
    ({"words": np.ones((6, 3, 4)), "words_mask": np.ones((6, 2), bool)}, "'words_mask' must be"),
    ({"words": [[1.0, 2.0], [3.0]]}, "'words' has lists of different lengths: make them equally"),
    ({"place": np.array([np.nan, 1.0])}, "'place' must be finite; 1 of its 2 numbers are not"),
    (7, r"must be a class by number \(0 … 2\) or name"), ("cat", "must be a class by number"),
    ({"words_mask": np.ones((6, 3), bool)}, "'words_mask' masks 'words', which is not there"),
])
def test_conditions_that_do_not_fit_are_one_line(model, condition, words):
  with pytest.raises(ValueError, match=words) as error:
    model.sample(jax.random.key(0), 6, condition=condition)
  assert "\n" not in str(error.value)


def test_a_condition_of_a_file_has_arrays_by_name(model, tmp_path):
  np.save(tmp_path / "one.npy", np.ones(2))
  (tmp_path / "text.npz").write_text("no arrays")
  for name, words in (("one.npy", "one.npy is one array; give an .npz of arrays by name, such as "
                                  "np.savez('condition.npz', place=array)"),
                      ("text.npz", "must be a readable .npy or .npz of plain numbers"),
                      ("none.npz", "--condition must name an existing file")):
    with pytest.raises(ValueError, match=re.escape(words)):
      conditioning._read(str(tmp_path / name), model.run.dataset, 6, dropout=0.1)


def test_a_model_that_was_never_without_its_conditions_needs_all_of_them(model):
  settings = config.override(model.run.config, {"training.label_dropout": 0.0})
  strict = dataclasses.replace(model, run=model.run._replace(config=settings))
  with pytest.raises(ValueError, match="'place' must be given: the run was trained with"):
    strict.sample(jax.random.key(0), 2, condition={"label": 1})
  with pytest.raises(ValueError, match=r"trained with training\.label_dropout > 0"):
    strict.denoise(np.zeros((2, 2)), alpha=1.0, sigma=1.0)


def test_samples_that_are_judged_have_conditions_of_the_data(model):
  with pytest.raises(ValueError, match=r"the data that have them are not here; give place, words"):
    assembly.data_labels(model.run, 4, 0)
  dataset = experiments.data.load("named_lab:load")
  run = model.run._replace(dataset=dataset)
  found = assembly.data_labels(run, 500, 0)
  assert set(found) == {"place", "words", "words_mask", "count", "flag", "label"}
  # Every training example, with what belongs to it.
  count = np.unique(found["place"], axis=0)
  assert len(count) == len(dataset.train) and {len(value) for value in found.values()} == {500}


def test_a_step_under_named_conditions_is_planned(model, tmp_path, monkeypatch):
  """By a CPU in the place of a chip: the program has the model's products, and no others."""
  monkeypatch.setattr(topologies, "prepare_environment", lambda: None)
  monkeypatch.setattr(topologies, "require_libtpu", lambda: None)
  monkeypatch.setattr(topologies, "devices", lambda _: jax.devices()[:1])
  monkeypatch.setattr(roofline, "places", lambda devices: [(0, 0, 0) for _ in devices])
  out = tmp_path / "plan.json"
  runner.succeed("plan", *SETTINGS, "--topology=v5e:1x1", "--nolargest_batch", f"--out={out}")
  plan, = json.loads(out.read_text())
  assert plan["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(model.params))
  # Products over an axis of one are none of the program's: of the token of ones, and of the only
  # query in the gradients of the keys and of the values. Its metrics have a sum by 26 levels.
  batch, width, tokens = 32, 16, 1 + 3
  gap = 2 * batch * (width + 2 * tokens * width - 26)
  assert plan["hardware_flops_per_step"] == plan["model_flops_per_step"] - gap


def test_the_held_out_loss_gives_a_network_all_masks(model):
  draws = measures.held_out(model.run._replace(dataset=experiments.data.load("named_lab:load")))
  given = []

  def apply(params, x, ell, condition):
    given.append({name: value.shape for name, value in condition.items()})
    return x

  jax.eval_shape(lambda: measures.errors(apply)(
      predictions.named("v"), 0, {}, draws.x_0, draws.labels, draws.ells, draws.eps))
  n = draws.x_0.shape[1]
  assert given[0]["place_mask"] == (n,) and given[0]["words_mask"] == (n, 3)


@pytest.mark.slow
def test_a_sweep_trains_and_judges_all_arms_under_their_conditions(model, tmp_path):
  (tmp_path / "sweep.py").write_text(SWEEP)
  runner.succeed("sweep", *SETTINGS, f"--sweep={tmp_path / 'sweep.py'}",
                 f"--workdir={tmp_path / 'sweep'}")
  report = next((tmp_path / "sweep").glob("*.md")).read_text()
  assert all(f"| {arm} |" in report for arm in ("all", "some", "v"))
