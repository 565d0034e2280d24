"""Text as data: crops, vocabularies, held-out blocks, what cannot be read; n-grams beside it."""

import itertools
import math
import sys
import types

import numpy as np
import pytest

from experiments import data
from experiments.data import text
from experiments.metrics import ngrams


@pytest.fixture(scope="module")
def book(tmp_path_factory):
  """A text with characters beyond ASCII, whose words say where they stand."""
  file = tmp_path_factory.mktemp("book") / "book.txt"
  file.write_text("".join(f"{i:04d}é " for i in range(500)), encoding="utf-8")
  return file


@pytest.mark.parametrize("vocabulary", ["characters", "bytes"])
def test_crops_are_text_and_no_training_crop_reaches_into_held_out_text(book, vocabulary):
  dataset = data.load("text", path=str(book), length=24, vocabulary=vocabulary, holdout=0.2)
  whole = book.read_text(encoding="utf-8")
  decode = lambda crop: text.decode(crop, dataset.vocabulary).strip("\ufffd")
  crops = dataset.train[:]
  assert crops.shape == dataset.train.shape and all(decode(crop) in whole for crop in crops[::97])
  # Every number stands once in the text: none may be whole on both sides.
  numbers = lambda crops: {word[:4] for crop in crops for word in decode(crop).split(" ")
                           if len(word) == 5}
  train, test = numbers(crops), numbers(dataset.test)
  assert not train & test and len(train | test) > 450
  assert abs(dataset.test.size / (dataset.test.size + sum(
      map(len, dataset.train.segments))) - 0.2) < 0.05
  assert len(np.unique(dataset.test, axis=0)) == len(dataset.test)


def test_batches_are_crops_that_seed_and_step_determine(book):
  dataset = data.load("text", path=str(book), length=24)
  batch = lambda **of: data.batch(dataset, batch_size=8, **of)[0]
  streamed = list(data.stream(dataset, seed=3, start=2, stop=4, batch_size=8))
  np.testing.assert_array_equal(batch(seed=3, step=3), streamed[1][0])
  assert batch(seed=3, step=2).dtype == np.int32
  assert (batch(seed=3, step=2) != batch(seed=4, step=2)).any()


def test_the_default_text_is_large_english_without_repeated_paragraphs():
  dataset = data.load("text")
  content = text.decode(np.concatenate(dataset.train.segments), dataset.vocabulary)
  assert len(content) > 250_000 and "statement" in content and "PSF" in dataset.origin
  paragraphs = [part for part in content.split("\n\n") if len(part) > 200]
  assert len(set(paragraphs)) > 0.98 * len(paragraphs)


@pytest.mark.parametrize("symbols, content", [
    (tuple("ab é"), "éa b"), (text._BYTES, "naïve ░ no"), (("red", "blue"), "blue red ░ red")])
def test_known_text_is_encoded_and_decoded(symbols, content):
  tokens, known = text.encode_known(content, symbols, "--known")
  shown = np.where(known, tokens, len(symbols))
  assert text.decode(shown, symbols) == content and (~known).sum() == content.count("░")


def test_bad_text_is_refused_in_one_line(tmp_path, book):
  (tmp_path / "empty.txt").write_bytes(b"")
  (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 100)
  (tmp_path / "same.txt").write_text("a" * 1000)
  (tmp_path / "folder").mkdir()
  wrong = {
      "it is empty": dict(path=str(tmp_path / "empty.txt")),
      "must be text in utf-8 .*data.encoding names another": dict(path=str(tmp_path / "latin.txt")),
      "must be text in klingon": dict(path=str(book), encoding="klingon"),
      "two different characters": dict(path=str(tmp_path / "same.txt")),
      "must hold files of text": dict(path=str(tmp_path / "folder")),
      "must name an existing file": dict(path=str(tmp_path / "none.txt")),
      "must have 30000 characters; it has 3000": dict(path=str(book), length=3000),
      "data.holdout must be a fraction": dict(path=str(book), holdout=1.0),
      "data.length must be at least 1": dict(path=str(book), length=0),
      "scaling is for numbers": dict(path=str(book), scaling="whiten"),
  }
  for message, arguments in wrong.items():
    with pytest.raises(ValueError, match=message) as error:
      data.load("text", **arguments)
    assert "\n" not in str(error.value)
  latin = data.load("text", path=str(tmp_path / "latin.txt"), encoding="latin-1", length=4,
                    vocabulary="bytes")
  assert text.decode(latin.test[0], latin.vocabulary) == "éé"


def tokens(**parts):
  """What a function of the user's may return."""
  return {"train": np.arange(60).reshape(20, 3) % 4, "kind": "tokens"} | parts


@pytest.mark.parametrize("parts, message", [
    (dict(vocabulary="abc"), r"tokens must lie in 0 … 2, the places of the vocabulary; got 0 … 3"),
    (dict(train=np.full((20, 3), -1)), "tokens must lie in"),
    (dict(train=np.ones((20, 3))), "kind=tokens does not fit an array float64"),
    (dict(vocabulary="aab"), "must be two or more different symbols"),
    (dict(kind="vector", vocabulary="ab"), "of data of the kind tokens"),
    (dict(conditions={"c": np.zeros(20)}), "no named conditions"),
])
def test_bad_tokens_are_refused_in_one_line(parts, message, monkeypatch):
  module = types.SimpleNamespace(load=lambda: tokens(**parts))
  monkeypatch.setitem(sys.modules, "toy_tokens", module)
  with pytest.raises(ValueError, match=message):
    data.load("toy_tokens:load")


def test_an_n_gram_is_a_law_and_learns_a_markov_chain():
  rng = np.random.default_rng(0)
  chain = rng.dirichlet(np.full(3, 0.5), size=3)
  x, edges = [0], np.cumsum(chain, axis=1)[:, :2].tolist()
  for u in rng.random(30_000).tolist():
    x.append(sum(u > edge for edge in edges[x[-1]]))
  x = np.array(x)
  model = ngrams.NGram([x[:7], x[7:20_000]], 3, order=3)
  every = np.array(list(itertools.product(range(3), repeat=5)))
  assert abs(np.sum(2.0 ** -model.bits(every).sum(axis=1)) - 1.0) < 1e-12
  stationary = np.linalg.matrix_power(chain, 100)[0]
  entropy = -stationary @ np.sum(chain * np.log2(chain), axis=1)
  found = model.bits(x[20_000:30_000].reshape(-1, 100))[:, 2:].mean()
  assert abs(found - entropy) < 0.03 < math.log2(3) - entropy
