"""experiments.metrics.classifier: what it learns, that it repeats, and what it refuses."""

import jax
import numpy as np
import pytest
import sklearn.datasets

from experiments import data
from experiments.metrics import classifier, comparisons


@pytest.fixture(scope="module")
def digits():
  """(train, train labels, held out, held-out labels) of a fixed 80/20 split, pixels in [0, 16]."""
  x, y = sklearn.datasets.load_digits(return_X_y=True)
  order = np.random.default_rng(0).permutation(len(x))
  x, y = x[order].reshape(-1, 8, 8, 1).astype(np.float32), y[order]
  return x[:1437], y[:1437], x[1437:], y[1437:]


@pytest.fixture(scope="module")
def trained(digits):
  return classifier.train(digits[0], digits[1], num_classes=10, seed=0, steps=400)


def test_learns_digits(digits, trained):
  # Six runs of 400 steps on two splits gave 98.6 to 99.7 %.
  _, _, x, y = digits
  accuracy = classifier.label_agreement(trained, x, y)
  assert accuracy >= 0.97
  assert accuracy == np.mean(classifier.logits(trained, x).argmax(-1) == y)
  # The same images with every label wrong.
  assert classifier.label_agreement(trained, x, (y + 1) % 10) <= 1.0 - accuracy


def test_features_separate_classes(digits, trained):
  _, _, x, y = digits
  f = classifier.features(trained, x)
  assert f.shape == (len(x), 64) and f.dtype == np.float32 and f.min() >= 0.0
  centres = np.stack([f[y == k].mean(0) for k in range(10)])
  within = np.mean(np.sum((f - centres[y]) ** 2, -1))
  between = np.mean(np.sum((centres[y] - f.mean(0)) ** 2, -1))
  assert between > 1.4 * within  # 1.9 here, 1.0 in pixels


def test_evaluation_does_not_depend_on_the_batch(digits, trained):
  # 1,437 images are two full batches and one filled up; each image rides in another place.
  x = digits[0]
  forward = classifier.logits(trained, x)
  backward = classifier.logits(trained, x[::-1])[::-1]
  assert forward.shape == (1437, 10) and forward.dtype == np.float32
  np.testing.assert_allclose(forward, backward, atol=1e-4)  # float32 sums of ~10² terms
  np.testing.assert_allclose(classifier.logits(trained, x[:1]), forward[:1], atol=1e-4)


def test_training_repeats_for_a_seed_in_any_units(digits):
  x, y = digits[0][:300], digits[1][:300]
  train = lambda x, seed: classifier.train(
      x, y, num_classes=10, seed=seed, steps=20, batch_size=32).params
  one = train(x, 3)
  jax.tree.map(np.testing.assert_array_equal, one, train(x, 3))
  # Powers of two are exact in float32, so the standardised images are the same bit for bit.
  jax.tree.map(np.testing.assert_array_equal, one, train(x / 16.0, 3))
  gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, train(x, 4))
  assert min(jax.tree.leaves(gaps)) > 0.0


def test_other_shapes_constant_channels_and_few_images():
  # Two classes told by the brightness of one channel; the other is constant; 12 images in
  # batches of 32.
  rng = np.random.default_rng(0)
  y = np.arange(12) % 2
  x = rng.normal(size=(12, 28, 20, 2)).astype(np.float32) + y[:, None, None, None]
  x[..., 1] = 7.0
  seen = []
  model = classifier.train(x, y, num_classes=2, seed=0, steps=60, batch_size=32,
                           progress=lambda step, note: seen.append((step, note)))
  assert classifier.label_agreement(model, x, y) == 1.0
  assert [step for step, _ in seen] == list(range(1, 61)) and seen[-1][1].startswith("loss 0.")
  np.testing.assert_array_equal(model.scale[1], 1.0)


def test_shifts_are_by_one_pixel():
  x = np.random.default_rng(0).normal(size=(400, 8, 9, 2)).astype(np.float32)
  moved = classifier._shift(np.random.default_rng(1), x)
  assert moved.shape == x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  windows = np.stack(
      [padded[:, i:i + 8, j:j + 9] for i in range(3) for j in range(3)])
  matches = (windows == moved).all((2, 3, 4))
  np.testing.assert_array_equal(matches.sum(0), 1)  # each image is exactly one of the nine
  assert matches.sum(1).min() > 20  # and each of the nine occurs, about 44 times


X = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
Y = np.arange(6) % 3
NAN = np.where(np.arange(64).reshape(8, 8, 1) == 5, np.nan, X).astype(np.float32)


@pytest.mark.parametrize(("field", "change"), [
    ("images", {"images": X[0]}),
    ("images", {"images": X[:0], "labels": Y[:0]}),
    ("images", {"images": X[:, :7]}),
    ("images", {"images": NAN}),
    ("labels", {"labels": Y[:5]}),
    ("labels", {"labels": Y.astype(float)}),
    ("labels", {"labels": Y + 1}),
    ("labels", {"labels": Y - 1}),
    ("num_classes", {"num_classes": 1}),
    ("seed", {"seed": -1}),
    ("steps", {"steps": 0}),
    ("batch_size", {"batch_size": 0}),
])
def test_train_refuses(field, change):
  options = {"images": X, "labels": Y, "num_classes": 3, "seed": 0, "steps": 1, "batch_size": 2}
  options.update(change)
  images, labels = options.pop("images"), options.pop("labels")
  with pytest.raises(ValueError, match=rf"^{field} must [^\n]*$"):
    classifier.train(images, labels, **options)


@pytest.mark.parametrize("images", [X[:, :, :, 0], X[:0], np.zeros((2, 9, 8, 1)), NAN])
def test_evaluation_refuses(trained, images):
  for function in (classifier.logits, classifier.features):
    with pytest.raises(ValueError, match=r"^images must [^\n]*$"):
      function(trained, images)


def test_label_agreement_refuses(trained):
  for labels in (np.zeros(5, int), np.full(6, 10), np.zeros(6)):
    with pytest.raises(ValueError, match=r"^labels must [^\n]*$"):
      classifier.label_agreement(trained, X, labels)


def test_an_evaluation_trains_it_once(monkeypatch):
  trained = []
  monkeypatch.setattr(classifier, "train", lambda *_, **how: trained.append(how["seed"]))
  dataset = data.load("digits")
  for seed in (7, 7, 8):
    comparisons._classifier(dataset, seed)
  comparisons._classifier(data.load("digits"), 8)
  assert trained == [7, 8, 8]
