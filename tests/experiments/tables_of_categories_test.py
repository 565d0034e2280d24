"""Tables of categories: read from CSV, learned as tokens, and drawn as CSV again."""

import csv
import io
import json

import numpy as np
import pytest
import runner

from experiments import data
from experiments.data import tables, text

HEADER = "colour,wheel size,label\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  """The colour determines the size; the label is independent, and sometimes missing."""
  rng = np.random.default_rng(0)
  rows = [f"{colour},{size},{label}\n" for (colour, size), label in zip(
      np.array([["red", "very large"], ["blue", "small"]])[rng.integers(0, 2, 200)],
      np.array(["a", "b", ""])[rng.integers(0, 3, 200)], strict=True)]
  path = tmp_path_factory.mktemp("table") / "t.csv"
  path.write_text(HEADER + "".join(rows))
  return path


def test_rows_are_tokens_of_one_vocabulary_and_become_rows_again(file):
  dataset = data.load("categories", path=str(file))
  assert dataset.vocabulary == (
      "colour=blue", "colour=red", "wheel␣size=small", "wheel␣size=very␣large", "label=",
      "label=a", "label=b")
  assert dataset.kind == "tokens" and dataset.train.shape == (160, 3)
  x = np.concatenate([dataset.train, dataset.test])
  written, wrong = tables.as_csv(x, dataset.vocabulary)
  lines = file.read_text().splitlines()
  assert wrong == 0 and sorted(written.splitlines()[1:]) == sorted(lines[1:])
  assert written.splitlines()[0] == lines[0]
  two = data.load("categories", path=str(file), columns="label,colour")
  assert two.vocabulary[:4] == ("label=", "label=a", "label=b", "colour=blue")
  # A value in a column that is not its own is left out.
  assert tables.as_csv(np.array([[0, 1, 5]]), dataset.vocabulary) == (HEADER + "blue,,a\n", 1)
  tokens, known = text.encode_known("░ wheel␣size=small ░", dataset.vocabulary, "--known")
  assert list(tokens[known]) == [2]
  assert not tables.columns_of("ab=") and not tables.columns_of(("red", "blue"))


def test_a_model_of_a_table_draws_rows_as_csv(file, tmp_path):
  run = tmp_path / "run"
  runner.succeed(
      "train", "--config=characters", f"--config.data=categories(path='{file}')",
      f"--workdir={run}", "--config.network=mlp(width=32,depth=1)", "--config.training.steps=300",
      "--config.training.batch_size=64", "--config.training.learning_rate=5e-3",
      "--config.training.steps_per_dispatch=100", "--config.sampling.grid.n=3")
  out = tmp_path / "x.npy"
  runner.succeed("sample", f"--workdir={run}", "--num_samples=200", f"--out={out}")
  rows = list(csv.DictReader(io.StringIO(out.with_suffix(".csv").read_text())))
  record = json.loads(out.with_suffix(".json").read_text())
  assert len(rows) == 200 and record["cells_without_a_value_of_their_column"] <= 6
  # The size is that of the colour: chance would be half.
  assert np.mean([{"red": "very large", "blue": "small"}.get(row["colour"]) == row["wheel size"]
                  for row in rows]) > 0.9


def test_numbers_are_put_into_bins_and_drawn_from_them(tmp_path):
  rng = np.random.default_rng(0)
  age, size = rng.integers(18, 90, 500), rng.lognormal(size=500) - 0.5
  path = tmp_path / "t.csv"
  path.write_text("age,size,label,few\n" + "".join(
      f"{a},{s if i % 50 else ''},{'ab'[i % 2]},{i % 3}\n"
      for i, (a, s) in enumerate(zip(age, size, strict=True))))
  dataset = data.load("categories", path=str(path), bins=4)
  assert tables.columns_of(dataset.vocabulary) == ["age", "size", "label", "few"]
  assert set(dataset.vocabulary[-5:]) == {"label=a", "label=b", "few=0", "few=1", "few=2"}
  assert len(dataset.vocabulary) == 4 + 5 + 5 and "size=" in dataset.vocabulary
  x = np.concatenate([dataset.train, dataset.test])
  assert np.bincount(x[:, 0]).min() > 100 < np.bincount(x[:, 1])[5:].min()
  drawn, wrong = tables.as_csv(x, dataset.vocabulary)
  rows = list(csv.DictReader(io.StringIO(drawn)))
  ages, sizes = [int(row["age"]) for row in rows], [row["size"] for row in rows]
  assert wrong == 0 and set(ages) <= set(range(18, 90)) and sizes.count("") == 10
  for column, found, true in ((0, np.array(ages), age), (
      1, np.array([float(s or "nan") for s in sizes]), size[np.arange(500) % 50 > 0])):
    for token in np.unique(x[:, column]):
      low, _, high = dataset.vocabulary[token].split("=")[1].partition("…")
      if low:
        inside = found[x[:, column] == token]
        assert float(low) <= inside.min() and inside.max() <= float(high)
        # Rounded edges may have another number on their other side.
        assert abs(np.sum((float(low) <= true) & (true < float(high))) - len(inside)) <= 1
  assert tables.as_csv(x, dataset.vocabulary)[0] == drawn
  assert tables._drawn("a…b", rng) == "a…b" and tables._drawn("9…3", rng) == "9…3"


@pytest.mark.parametrize(("content", "arguments", "message"), [
    ("", {}, "two or more rows; it has 0 lines"),
    ("a,b\n1,2\n", {}, "two or more rows; it has 2 lines"),
    ("a,a\n1,2\n1,3\n", {}, "all different and without '='; got a, a"),
    ("a,\n1,2\n1,3\n", {}, "the names of the columns"),
    ("a,b\n1,2\n1\n", {}, "row 3 of .* must have 2 cells, one a column; it has 1"),
    ("a,b\n1,2\n1,3\n", {"columns": "c"}, "has no column 'c'; it has a, b"),
    ("a\n1\n1\n", {}, "two or more values"),
    ("a\n" + "".join(f"{i}\n" for i in range(1001)), {}, "at most 1000 values; it has 1001"),
    ("a,b\né,2\n1,3\n", {"encoding": "ascii"}, "must be text in ascii"),
    ("a,b\n1,2\n1,3\n", {"delimiter": ";;"}, "delimiter"),
    ("a,b\n1,2\n1,3\n2,3\n", {"holdout": 2.0}, "data.holdout must be a fraction"),
    ("a\n" + "".join(f"{i}\n" for i in range(1001)), {"bins": 1}, "data.bins must be 0, for none"),
    (None, {}, "must name an existing file"),
])
def test_a_bad_table_is_refused_in_one_line(content, arguments, message, tmp_path):
  path = tmp_path / "bad.csv"
  if content is not None:
    path.write_text(content, encoding="utf-8")
  with pytest.raises(ValueError, match=message) as error:
    data.load("categories", path=str(path), **arguments)
  assert "\n" not in str(error.value)
