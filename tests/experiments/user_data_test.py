"""Data of a user's own function: dicts of arrays and objects with items, in memory and not."""

import importlib
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import runner
from PIL import Image

import experiments
from experiments import config, data
from experiments.config import calls
from experiments.data import augmentation, facts, on_demand, shard_writer, user_data
from experiments.run import memory

RNG = np.random.default_rng(0)
X = RNG.normal([3.0, -1.0], [2.0, 0.5], (40, 2))
LABELS = np.arange(40) % 4
TEXT = RNG.normal(size=(40, 5, 3))
CONDITIONS = {"text": TEXT, "text_mask": np.arange(200).reshape(40, 5) % 3 > 0,
              "count": np.arange(40)}


class Rows:
  """The protocol of Grain's data sources, of PyTorch's Dataset and of others."""

  def __init__(self, item, n=40, **attributes):
    self._item, self._n = item, n
    vars(self).update(attributes)

  def __len__(self):
    return self._n

  def __getitem__(self, i):
    return self._item(i)


def item(i):
  return {"x": X[i], "label": int(LABELS[i])} | {k: v[i] for k, v in CONDITIONS.items()}


def loaded(returned, **options):
  """The data set that a user's function returns, through the door of the runner."""
  MODULE.returned = returned
  return data.load("user_data_test:MODULE.load", **options)


class MODULE:
  """Stands for the user's module."""

  returned = None

  @staticmethod
  def load():
    return MODULE.returned


@pytest.fixture(params=["in memory", "on demand"])
def place(request, monkeypatch):
  if request.param == "on demand":
    monkeypatch.setattr(memory, "free", lambda: 0.0)
    monkeypatch.setattr("experiments.data.items._BLOCK_BYTES", 1000)
    monkeypatch.setattr("experiments.data.on_demand._BLOCK_BYTES", 1000)
  return request.param


def batches(dataset):
  return [data.batch(dataset, seed=1, step=step, batch_size=13) for step in (0, 2, 7)]


def assert_same(a, b, **tolerance):
  np.testing.assert_allclose(a[0], b[0], **tolerance)
  if not isinstance(a[1], dict):
    np.testing.assert_array_equal(a[1], b[1])
    return
  assert set(a[1]) == set(b[1])
  for name in a[1]:
    np.testing.assert_array_equal(a[1][name], b[1][name])
    assert a[1][name].dtype == b[1][name].dtype


WHOLE = {"train": X, "labels": LABELS, "conditions": CONDITIONS, "classes": list("abcd")}


@pytest.mark.parametrize(("returned", "wanted"), [
    (WHOLE, WHOLE), (Rows(item, classes=tuple("abcde")), WHOLE),
    (Rows(item, dataset_info=SimpleNamespace(features={  # tensorflow_datasets
        "label": SimpleNamespace(names=list("abcd"))})), WHOLE),
    (Rows(lambda i: {"image": X[i]}, classes="ab"), {"train": X}),
    (Rows(lambda i: X[i]), {"train": X}), (X, {"train": X}), (X.tolist(), {"train": X}),
    (Rows(lambda i: (X[i], LABELS[i])), {"train": X, "labels": LABELS}),
    ([(X[i], LABELS[i]) for i in range(40)], {"train": X, "labels": LABELS})])
def test_every_form_is_the_same_data(place, returned, wanted, monkeypatch):
  ours = loaded(returned)
  assert isinstance(ours.train, on_demand.Examples) == (place == "on demand")
  monkeypatch.undo()
  theirs = loaded(wanted)
  tolerance = {"rtol": 1e-6, "atol": 1e-6}
  for a, b in zip(batches(ours), batches(theirs), strict=True):
    assert_same(a, b, **tolerance)
  for a, b in zip(data.stream(ours, seed=0, start=3, stop=6, batch_size=7),
                  data.stream(theirs, seed=0, start=3, stop=6, batch_size=7), strict=True):
    assert_same(a, b, **tolerance)
  # Held-out examples are the same with the same labels, in random order where they are not read.
  order = np.lexsort(np.round(ours.test[:], 3).T), np.lexsort(np.round(theirs.test, 3).T)
  np.testing.assert_allclose(ours.test[:][order[0]], theirs.test[order[1]], **tolerance)
  for name in theirs.test_conditions:
    np.testing.assert_array_equal(ours.test_conditions[name][order[0]],
                                  theirs.test_conditions[name][order[1]])
  if theirs.num_classes:
    np.testing.assert_array_equal(ours.test_labels[order[0]], theirs.test_labels[order[1]])
    np.testing.assert_array_equal(ours.train_labels, theirs.train_labels)
  assert data.fingerprint(ours) == data.fingerprint(theirs)
  np.testing.assert_allclose(data.moments(ours), data.moments(theirs), rtol=1e-5, atol=1e-6)
  for field in ("num_classes", "classes", "kind", "value_range", "integers", "condition_classes"):
    assert getattr(ours, field) == getattr(theirs, field), field


def test_a_batch_has_the_conditions_of_its_examples(place):
  dataset = loaded(WHOLE)
  x, condition = data.batch(dataset, seed=0, step=3, batch_size=9)
  index = [int(np.argmin(np.abs(X - row).sum(1))) for row in data.restore(dataset, x)]
  assert set(condition) == {"label", "text", "text_mask", "count"}
  assert dataset.condition_classes == {"count": 40}
  np.testing.assert_array_equal(condition["label"], LABELS[index])
  np.testing.assert_array_equal(condition["text"], np.float32(TEXT[index]))
  np.testing.assert_array_equal(condition["count"], np.int32(index))
  assert condition["text"].dtype == np.float32 and condition["count"].dtype == np.int32
  assert condition["text_mask"].dtype == bool
  # Rows are those of the whole batch.
  part = data.batch(dataset, seed=0, step=3, batch_size=9, rows=slice(2, 5))
  assert_same(part, (x[2:5], {name: value[2:5] for name, value in condition.items()}))
  alone = loaded({"train": X, "conditions": {"flag": LABELS > 1}})
  _, condition = data.batch(alone, seed=0, step=0, batch_size=4)
  assert set(condition) == {"flag"} and condition["flag"].dtype == np.int32
  small = data.comparison_data(dataset, most=12)
  assert isinstance(small.train, np.ndarray) and len(small.conditions["text"]) == len(small.train)
  assert len(small.test_conditions["count"]) == len(small.test)


def test_augmented_refuses_what_would_no_longer_lie_on_the_image():
  x = RNG.integers(0, 9, (40, 6, 6, 1))
  whole = {"train": x, "conditions": CONDITIONS}
  assert augmentation.augmented(whole).augmentation
  for low in (x[:, ::2, ::2] / 9.0, x[..., 0]):
    with pytest.raises(ValueError, match="would not change condition 'low'"):
      augmentation.augmented(whole | {"conditions": CONDITIONS | {"low": low}})


def test_data_with_conditions_have_a_digest_of_them(place):
  dataset = loaded(WHOLE)
  changed = CONDITIONS | {"count": CONDITIONS["count"] + 1}
  other = loaded(WHOLE | {"conditions": changed})
  assert data.digest(dataset) == data.digest(loaded(WHOLE)) != data.digest(other)
  assert facts.differences(data.fingerprint(dataset), data.fingerprint(other)) == [
      "2 changed (condition count, held-out examples, condition count, training examples)"]


def test_shards_hold_conditions(tmp_path, place):
  MODULE.returned = Rows(item, classes=tuple("abcd"))
  source = data.read_source(config.Call("user_data_test:MODULE.load"), "--data")
  shard_writer.write(source, tmp_path / "shards", num_shards=3, dtype="float64")
  disk = data.load("array_record", path=str(tmp_path / "shards"))
  memory_ = loaded(WHOLE)
  for a, b in zip(batches(disk), batches(memory_), strict=True):
    assert_same(a, b, rtol=1e-6, atol=1e-6)
  counts = disk.test_conditions["count"]
  np.testing.assert_allclose(data.restore(disk, disk.test[:]), X[counts], rtol=1e-5)
  np.testing.assert_array_equal(disk.test_conditions["text"], np.float32(TEXT[counts]))
  # Other shards of the same content are the same data; other content is said by file.
  mine = data.fingerprint(disk)
  shard_writer.write(source, tmp_path / "more", num_shards=5, dtype="float64")
  again = data.fingerprint(data.load("array_record", path=str(tmp_path / "more")))
  assert facts.differences(mine, again) == [] and set(mine) != set(again)
  assert facts.differences({"shards": "x"}, mine) == ["1 changed (shards)"]
  other = dict(mine) | {"shards": "x", "train-00001-of-00003.array_record": "y"}
  assert facts.differences(mine, other) == ["1 changed (train-00001-of-00003.array_record)"]
  np.save(tmp_path / "shards" / "train_condition_count.npy", np.arange(3))
  with pytest.raises(ValueError, match=r"train_condition_count.npy.*\(32,\) and dtype int32"):
    data.load("array_record", path=str(tmp_path / "shards"))


def test_held_out_examples_of_ones_own(place):
  parts = {"test": X[:10] + 9.0, "test_labels": LABELS[:10],
           "test_conditions": {k: v[:10] for k, v in CONDITIONS.items()}}
  dataset = loaded(WHOLE | parts)
  assert len(dataset.train) == 40 and len(dataset.test) == 10
  order = np.argsort(dataset.test_conditions["count"][np.arange(10)])
  np.testing.assert_allclose(data.restore(dataset, dataset.test[:][order]), X[:10] + 9.0, rtol=1e-5)
  objects = loaded({"train": Rows(item), "test": Rows(item, 10)})
  assert len(objects.train) == 40 and len(objects.test) == 10
  assert len(loaded({"train": X, "holdout": 0.5}).test) == 20


@pytest.mark.parametrize(("shape", "dtype", "kind", "loaded_shape"), [
    ((9, 3), float, "vector", (3,)), ((9, 12, 3), float, "sequence", (12, 3)),
    ((9, 12, 3), float, "image", (12, 3, 1)), ((9, 6, 6), np.uint8, "", (6, 6, 1)),
    ((9, 6, 6, 3), np.uint8, "", (6, 6, 3)), ((9, 4, 4, 4, 2), float, "volume", (4, 4, 4, 2)),
    ((9, 4, 4, 4, 2), float, "array", (4, 4, 4, 2))])
def test_kinds(place, shape, dtype, kind, loaded_shape):
  x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
  for returned in ({"train": x, "kind": kind}, Rows(lambda i: x[i], len(x), kind=kind)):
    dataset = loaded(returned)
    assert dataset.kind == (kind or "image") and dataset.train.shape == (8, *loaded_shape)
    assert dataset.train[np.arange(3)].shape == (3, *loaded_shape)
    assert f"kind {dataset.kind}" in data.summary(dataset)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, float])
def test_a_sequence_is_not_taken_for_grey_images(dtype):
  for returned in (np.ones((9, 100, 3), dtype), Rows(lambda i: np.ones((100, 3), dtype), 9)):
    with pytest.raises(ValueError, match=r"data\.kind must say .*\(9, 100, 3\).*100 steps of 3"):
      loaded(returned)


def test_channels_first_warns(capsys):
  loaded({"train": RNG.random((20, 3, 8, 8))})
  assert "np.moveaxis(x, 1, -1)" in capsys.readouterr().err


def test_one_line_says_what_was_read():
  assert data.summary(loaded(WHOLE)) == (
      "data: 32 training and 8 held-out examples of shape (2,), kind vector, 4 classes (a, b, c, d)"
      ", condition text (5, 3), condition text_mask (5,), condition count; "
      + data.summary(loaded({"train": X, "labels": LABELS})).split("; ")[1])
  assert data.summary(data.load("digits")).endswith(
      "(8, 8, 1), kind image, 10 classes; whole values 0 … 16")


def test_hugging_face_datasets():
  datasets = pytest.importorskip("datasets")
  features = datasets.Features({
      "x": datasets.Sequence(datasets.Value("float64"), length=2),
      "label": datasets.ClassLabel(names=list("abcd"))})
  table = datasets.Dataset.from_dict({"x": X.tolist(), "label": LABELS.tolist()}, features)
  ours, theirs = loaded(table), loaded({"train": X, "labels": LABELS, "classes": list("abcd")})
  assert data.fingerprint(ours) == data.fingerprint(theirs) and ours.classes == theirs.classes
  both = datasets.DatasetDict(train=table, test=table.select(range(10)))
  assert len(loaded(both).test) == 10
  picture = datasets.Dataset.from_dict(
      {"image": [np.full((4, 4, 3), i, np.uint8) for i in range(9)]},
      datasets.Features({"image": datasets.Image()}))
  assert loaded(picture).kind == "image"


def refusal(returned) -> str:
  with pytest.raises(ValueError) as caught:
    loaded(returned)
  message = str(caught.value)
  assert message.startswith("config.data=user_data_test:MODULE.load(): ") and "\n" not in message
  return message


def differing(i):
  return {"x": X[i]} | ({"extra": 1.0} if i == 7 else {})


def failing(i):
  if i == 7:
    raise OSError("disk\non fire")
  return X[i]


@pytest.mark.parametrize(("returned", "says"), [
    (None, "must return a dict with 'train', an array, or an object"), (3, "got int"),
    ((x for x in X), "got generator"), ("text", "got str"),
    ((X, LABELS), "'train' is a tuple of 2: return a dict"),
    ({"x": X}, "the dict has 'x'; it may have train, test, labels"),
    ({"labels": LABELS}, "must have 'train'"),
    ({"train": X[:, 0]}, "'train': array must have rank 2"),
    ({"train": np.full((9, 2), np.nan)}, "'train': values must be finite"),
    ({"train": X.astype(str)}, "dtype <U"),
    ({"train": X, "labels": LABELS[:9]}, "'labels' must be 40 class numbers"),
    ({"train": X, "labels": LABELS + 1}, "without gaps; class 0 of 5"),
    ({"train": X, "labels": LABELS, "classes": "ab"}, "'classes' must be 4 names, one a class"),
    ({"train": X, "labels": LABELS, "classes": "aacd"}, "different names"),
    ({"train": X, "classes": "ab"}, "'classes' must be 0 names"),
    ({"train": X, "kind": "picture"}, "data.kind must be one of image, vector"),
    ({"train": X, "kind": "image"}, "data.kind=image does not fit"),
    ({"train": X, "holdout": 2}, "data.holdout must be a fraction"),
    ({"train": X, "holdout": "half"}, "'holdout' must be a fraction"),
    ({"train": X, "test_labels": LABELS}, "'test_labels' without 'test'"),
    ({"train": X, "test": X[:, :1]}, "examples of one shape"),
    ({"train": X, "labels": LABELS, "test": X}, "both be given, or neither"),
    ({"train": X, "test": Rows(item)}, "both be arrays, or both be objects"),
    ({"train": Rows(item), "labels": LABELS}, "'labels' goes with arrays"),
    ({"train": X, "conditions": TEXT}, "'conditions' must be a dict"),
    ({"train": X, "conditions": {"text": TEXT[:7]}}, "'text' must have one entry an example, 40"),
    ({"train": X, "conditions": {"text": X.astype(str)}}, "'text' must be an array of numbers"),
    ({"train": X, "conditions": {"text": X * 1j}}, "'text' must be an array of numbers"),
    ({"train": X, "conditions": {"text": np.array([{}] * 40)}}, "got dtype object"),
    ({"train": X, "conditions": {"text": np.inf * X}}, "finite and within float32"),
    ({"train": X, "conditions": {"count": np.arange(40) * 2**40}}, "within 32 bits"),
    ({"train": X, "conditions": {"label": LABELS}}, "give it as 'labels'"),
    ({"train": X, "conditions": {"a b": LABELS}}, "letters, digits and underscores"),
    ({"train": X, "conditions": {"text": TEXT, "text_mask": np.ones((40, 5), int)}},
     "'text_mask' must be booleans, such as mask.astype(bool), whose shape leads (40, 5, 3)"),
    ({"train": X, "conditions": {"text": TEXT, "text_mask": np.ones((40, 4), bool)}},
     "got bool of shape (40, 4)"),
    ({"train": X, "test": X, "conditions": {"text": TEXT}}, "must have the same names"),
    ({"train": X, "test": X, "conditions": {"text": TEXT},
      "test_conditions": {"text": TEXT[:, :2]}}, "must have the same names, shapes"),
    (Rows(item, 0), "must have items"), ([], "rank 2"),
    (Rows(failing), "item 7 of 'train': OSError: disk on fire"),
    (Rows(lambda i: {"y": 1}), "item 0 of 'train' must have 'x' or 'image'; it has y"),
    (Rows(lambda i: {"x": 1, "image": 1}), "both 'x' and 'image'"),
    (Rows(lambda i: (1, 2, 3)), "it is a tuple of 3"),
    (Rows(lambda i: {"x": X[i], "caption": "a cat"}), "'caption' must be numbers, not of dtype"),
    (Rows(lambda i: X[i, :1 + i // 39]), "item 39 of 'train': 'x' has shape (2,)"),
    (Rows(lambda i: np.full(2, i, np.uint16 if i else np.uint8)), "item 1 of 'train': 'x' has"),
    (Rows(lambda i: Image.new("P", (4, 4))), "item 0 of 'train': 'x' is a picture whose pixels"),
    (Rows(differing), "item 7 of 'train' has extra, x, and item 0 x"),
    (Rows(lambda i: (X[i], 0.5)), "'label' of the items must be 40 class numbers"),
    (Rows(lambda i: X[i] if i < 30 else np.full(2, np.nan)), "'x': values must be finite")])
def test_what_is_no_data_is_refused(returned, says):
  assert says in refusal(returned)


MINE = '''
"""A data set of somebody's own, in a file of their own."""
import numpy as np


def load(root, *, n: int = 80):
  x = np.random.default_rng(0).normal([1.0, 200.0], [1.0, 50.0], (n, 2))
  return {"train": x, "labels": (x[:, 0] > 1.0).astype(int), "classes": ("low", "high")}


class Rows:
  def __init__(self, root):
    self.root, self.x = root, np.random.default_rng(1).normal(size=(60, 6, 2))

  kind = "sequence"

  def __len__(self):
    return len(self.x)

  def __getitem__(self, i):
    return {"x": self.x[i]}
'''


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """The user's directory, outside of the repository, with a module of data."""
  (tmp_path / "lab").mkdir()
  (tmp_path / "lab" / "my_data.py").write_text(MINE)
  monkeypatch.syspath_prepend(str(tmp_path / "lab"))
  monkeypatch.chdir(tmp_path / "lab")
  importlib.invalidate_caches()
  return tmp_path / "lab"


@pytest.mark.parametrize(("text", "says"), [
    ("my_dat:load('x')", "config.data: module 'my_dat' cannot be imported"),
    ("my_data:laod('x')", "config.data: module 'my_data' has no attribute 'laod'"),
    ("my_data:load", "needs root"), ("my_data:load('x', m=1)", "no argument 'm'; it has root, n"),
    ("my_data:load('x', n=0)", "array must not be empty")])
def test_a_module_of_ones_own_that_is_wrong(lab, text, says):
  with pytest.raises(ValueError) as caught:
    data.load(calls.make(text, "data", "config.data"))
  assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_on_data_of_ones_own(lab):
  """Trained, loaded without the data, and refused in one line when they have changed."""
  command = ("train", "--config=mixture2d", "--config.data=my_data:load(root='x')",
             "--config.network.width=8", "--config.network.depth=1", "--workdir=run",
             "--config.training.batch_size=16", "--config.training.checkpoint_every=2",
             "--config.training.steps_per_dispatch=1")
  out = runner.succeed(*command, "--config.training.steps=2")
  assert "64 training and 16 held-out examples of shape (2,)" in out and "(low, high)" in out
  assert experiments.load(lab / "run").classes == ("low", "high")
  (lab / "my_data.py").write_text(MINE.replace("(x[:, 0] > 1.0)", "(x[:, 0] < 1.0)"))
  importlib.reload(importlib.import_module("my_data"))
  changed = "2 changed (held-out examples, training examples)"
  assert changed in runner.refused(*command, "--config.training.steps=2")


def test_a_run_outlives_the_module_of_its_data(lab, monkeypatch):
  """Sampled, exported and loaded where the function is gone; what needs the data says so."""
  runner.succeed("train", "--config=mixture2d", "--config.data=my_data:load(root='x')",
                 "--config.network.width=8", "--config.network.depth=1", "--workdir=run",
                 "--config.training.batch_size=16", "--config.training.steps=2")
  before = experiments.load(lab / "run").sample(jax.random.key(0), 2, condition="low")
  (lab / "my_data.py").unlink()
  monkeypatch.delitem(sys.modules, "my_data")
  importlib.invalidate_caches()
  np.testing.assert_array_equal(
      experiments.load(lab / "run").sample(jax.random.key(0), 2, condition="low"), before)
  runner.succeed("sample", "--workdir=run", "--num_samples=2", "--out=x.npy")
  runner.succeed("export", "--workdir=run", "--out=x.npz")
  for command in ("evaluate", "train"):
    assert "module 'my_data' cannot be imported" in runner.refused(command, "--workdir=run")


def test_a_sequence_source_has_a_kind(lab):
  dataset = data.load(config.override(config.load("mixture2d"), {"data": "my_data:Rows('x')"}).data)
  assert dataset.kind == "sequence" and dataset.scale.shape == ()


def test_the_examples_of_the_documentation(lab):
  """The module in docs/howto/data.md reads what it says, as a dict and as items."""
  page = (runner.ROOT / "docs" / "howto" / "data.md").read_text()
  blocks = re.findall(r"```python\n(# mylab\.py.*?)```", page, re.DOTALL)
  assert len(blocks) == 3
  (lab / "mylab.py").write_text("\n\n".join(blocks))
  x, labels, speed = RNG.normal(size=(30, 12, 3)), np.arange(30) % 2, RNG.normal(size=30)
  (lab / "recordings").mkdir()
  np.savez(lab / "recordings" / "series.npz", x=x, labels=labels, speed=speed)
  for i in range(30):
    np.savez(lab / "recordings" / f"{i}.npz", x=x[i], label=labels[i], speed=speed[i])
  importlib.invalidate_caches()
  a, b = (data.load(calls.make(text, "data", "config.data")) for text in (
      "mylab:load(root='recordings', holdout=0.2)", "mylab:Recordings('recordings', count=30)"))
  assert data.fingerprint(a) == data.fingerprint(b) and len(a.train) == 24
  for dataset in (a, b):
    assert (dataset.kind, dataset.classes) == ("sequence", ("walking", "running"))
    assert_same(data.batch(a, seed=0, step=1, batch_size=5),
                data.batch(dataset, seed=0, step=1, batch_size=5))


def test_the_docstring_names_every_key():
  assert all(key in user_data.__doc__ for key in user_data.KEYS)
