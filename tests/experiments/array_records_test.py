"""Data in ArrayRecord shards: what goes in comes out, batch by batch, or is refused in a line."""

import itertools
import json
import re
import resource
import threading

import grain  # before any test saves and restores absl's flags: grain defines some
import numpy as np
import pytest
import runner
from absl import flags
from PIL import Image

from experiments import config, data
from experiments.config import sampling_flags
from experiments.data import shard_writer, shards, shuffle, sources, standardize

assert grain.sources and sampling_flags.config  # imported for the flags they define


def made(tmp_path, x, labels=None, *, kind="", **options):
  """(in memory, in shards, path of the shards) of the same array file."""
  np.savez(tmp_path / "x.npz", x=x, **({} if labels is None else {"labels": labels}))
  fields = {"path": str(tmp_path / "x.npz"), "holdout": 0.25, "kind": kind}
  options = {"num_shards": 3} | options
  shard_writer.write(sources.arrays(**fields), tmp_path / "shards", **options)
  return (data.load("arrays", **fields, scaling=options.get("scaling", "")), shards_of(tmp_path),
          tmp_path / "shards")


def shards_of(tmp_path, **fields):
  return data.load("array_record", path=str(tmp_path / "shards"), **fields)


@pytest.fixture
def both(tmp_path):
  x = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
  return made(tmp_path, x, np.arange(40) % 4)


def test_shards_hold_the_data_and_its_facts(both):
  memory, disk, _ = both
  for field in ("num_classes", "kind", "value_range", "integers"):
    assert getattr(disk, field) == getattr(memory, field), field
  for field in ("mean", "scale"):
    np.testing.assert_allclose(getattr(disk, field), getattr(memory, field), rtol=1e-14)
  assert disk.train.shape == memory.train.shape and disk.train.dtype == np.float32
  assert len(disk.test) == len(memory.test)
  pixels = lambda dataset, x: data.restore(dataset, x).round().astype(np.uint8)
  np.testing.assert_array_equal(pixels(disk, disk.train[:]), pixels(memory, memory.train))
  np.testing.assert_array_equal(disk.train_labels, memory.train_labels)
  # Held-out examples are the same with the same labels, in another order.
  pairs = lambda d: [(bytes(x), int(y)) for x, y in zip(pixels(d, d.test[:]), d.test_labels,
                                                        strict=True)]
  assert sorted(pairs(disk)) == sorted(pairs(memory)) and pairs(disk) != pairs(memory)
  for ours, theirs in zip(data.moments(disk), data.moments(memory), strict=True):
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_examples_are_indexed_as_an_array_is(both):
  train = both[1].train
  whole = train[:]
  assert train[3].shape == (4, 4, 3) and train[np.zeros(0, int)].shape == (0, 4, 4, 3)
  for index in (5, slice(4, 20, 3), np.array([29, 0, 0, 17]), np.array([[1, 2], [3, 4]]),
                np.arange(30) % 7 == 2):
    np.testing.assert_array_equal(train[index], whole[index])
  for index in (30, -1, np.array([0, 30])):
    with pytest.raises(IndexError, match="from 0 to 29"):
      train[index]
  with pytest.raises(TypeError, match="index them"):  # not by accident, one at a time
    np.asarray(train)


def test_batches_are_those_of_data_in_memory(both, monkeypatch):
  memory, disk, _ = both
  parts = (slice(None), slice(2, 9), slice(None, None, 4), np.array([0, 1, 8, 12]))
  for step, rows in itertools.product((0, 2, 7), parts):  # the later two straddle epochs of 30
    x, labels = data.batch(memory, seed=1, step=step, batch_size=13)
    part, part_labels = data.batch(disk, seed=1, step=step, batch_size=13, rows=rows)
    np.testing.assert_allclose(part, x[rows], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(part_labels, labels[rows])
    np.testing.assert_array_equal(
        data.batch(memory, seed=1, step=step, batch_size=13, rows=rows)[0], x[rows])
  # Only the rows that are asked for are read.
  read, record = [], shards.Examples._record
  monkeypatch.setattr(shards.Examples, "_record", lambda x, i: read.append(i) or record(x, i))
  data.batch(disk, seed=1, step=0, batch_size=12, rows=slice(3, 6))
  assert len(read) == 3


def test_a_stream_is_its_batches_wherever_it_starts(both):
  for dataset in both[:2]:
    for rows in (None, slice(3, 7)):
      fields = {"seed": 2, "batch_size": 7, "rows": rows}
      streamed = list(data.stream(dataset, start=3, stop=11, **fields))
      assert len(streamed) == 8
      for step, (x, y) in zip(range(3, 11), streamed, strict=True):
        wanted = data.batch(dataset, step=step, **fields)
        np.testing.assert_array_equal(x, wanted[0])
        np.testing.assert_array_equal(y, wanted[1])
    assert list(data.stream(dataset, seed=2, start=3, stop=3, batch_size=7)) == []


def test_a_stream_that_is_left_leaves_no_threads(both):
  before = set(threading.enumerate())
  stream = data.stream(both[1], seed=0, start=0, stop=10_000, batch_size=4)
  next(stream)
  readers = set(threading.enumerate()) - before
  assert readers
  stream.close()
  for thread in readers:
    thread.join(10.0)
    assert not thread.is_alive()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_latents_are_arrays_in_any_precision(tmp_path, dtype):
  x = np.random.default_rng(0).normal(0.3, 4.0, (40, 4, 4, 4)).astype(np.float32)
  memory, disk, path = made(tmp_path, x, dtype=dtype)
  for dataset in (memory, disk):
    assert (dataset.kind, dataset.value_range, dataset.integers) == ("array", None, False)
  # Half a unit in the last place: 11, 8 and 24 digits.
  error = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-23}[dtype]
  back = data.restore(disk, disk.train[:])
  np.testing.assert_allclose(back, data.restore(memory, memory.train), rtol=error, atol=2e-6)
  # Standard units are of what is stored.
  assert abs(np.mean(disk.train[:], dtype=np.float64)) < 1e-6
  np.testing.assert_allclose(np.mean(np.square(disk.train[:], dtype=np.float64)), 1.0, rtol=1e-6)
  assert json.loads((path / "metadata.json").read_text())["dtype"] == dtype


def test_kind_may_be_told(tmp_path):
  x = np.random.default_rng(0).random((40, 4, 4, 3))
  assert made(tmp_path, x, kind="array")[1].value_range is None
  for kind, says in (("vector", "does not fit"), ("picture", "expected one of")):
    code, _, error = convert(f"--path={tmp_path / 'x.npz'}", f"--data.kind={kind}",
                             f"--out={tmp_path / 'no'}")
    assert code == 2 and error.startswith("error: --data") and says in error
  assert not list(tmp_path.glob("no*"))


@pytest.mark.parametrize(("shape", "kind", "scaling", "dims"), [
    ((400, 2), "vector", "", 1), ((400, 2), "vector", "one", 0), ((400, 2), "vector", "whiten", 2),
    ((90, 5, 2), "sequence", "", 1), ((90, 5, 5, 2), "array", "", 0),
    ((90, 5, 5, 2), "array", "features", 1)])
def test_units_are_those_of_data_in_memory(tmp_path, monkeypatch, shape, kind, scaling, dims):
  monkeypatch.setattr(shard_writer, "_BLOCK_BYTES", 1000)
  x = np.random.default_rng(0).normal([1e6, -3.0], [2.0, 0.1], shape)
  x[..., 1] += 0.01 * (x[..., 0] - 1e6)
  memory, disk, path = made(tmp_path, x.astype(np.float32), kind=kind, scaling=scaling)
  assert disk.kind == kind and disk.scale.ndim == dims
  assert disk.mean.shape == ((2,) if dims or kind == "vector" else ())
  np.testing.assert_allclose(disk.mean, memory.mean, rtol=1e-13)
  np.testing.assert_allclose(disk.scale, memory.scale, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(disk.train[:], memory.train, rtol=1e-5, atol=1e-5)
  for ours, theirs in zip(data.moments(disk), data.moments(memory), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  assert disk.train_labels.shape == (0,)
  with pytest.raises(ValueError, match=r"^config\.data\.scaling is chosen when shards are written"):
    data.load("array_record", path=str(path), scaling="features")


def test_a_dtype_that_loses_the_differences_is_refused(tmp_path):
  x = np.random.default_rng(0).normal([1.7e9, 0.0], 1.0, (40, 2))
  with pytest.raises(ValueError, match=r"^--dtype=float32 rounds feature 0 .* --dtype=float64"):
    made(tmp_path, x)
  assert not list(tmp_path.glob("shards*"))
  memory, disk, _ = made(tmp_path, x, dtype="float64")
  # The two means of 1.7e9 differ by a unit in the last place, 2.4e-7.
  np.testing.assert_allclose(disk.train[:], memory.train, rtol=0, atol=1e-6)


def test_moments_of_blocks_are_those_of_the_whole():
  x = np.random.default_rng(0).normal(1e8, [1.0, 3.0], (1000, 2))
  seen = standardize.Moments(0, np.zeros(2), np.zeros(2))
  for block in np.split(x, [1, 17, 600]):
    seen = standardize.merged(seen, standardize.moments(block))
  exact = x.astype(np.longdouble)
  # The sum over a block of 583 rounds as often, by 1.1e-16 at the most; the mean of two blocks and
  # Σ (x − mean)² know a distance of 1 to the same 6.5e-6 of 1e8, but in its square.
  np.testing.assert_allclose(seen.mean, exact.mean(0), rtol=583 * 1.1e-16)
  np.testing.assert_allclose(seen.squares / 1000, exact.var(0), rtol=1e-7)
  for kind, scaling, error in (("vector", "", 1e-9), ("vector", "features", 0.5e-7),
                               ("array", "", 1e-9)):
    for ours, theirs in zip(standardize.of_moments(seen, kind, scaling),
                            standardize.statistics(x, kind, scaling), strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=error)


@pytest.mark.parametrize("n", [2, 3, 16, 17, 1000])
def test_every_index_once_an_epoch_at_no_memory(n, monkeypatch):
  monkeypatch.setattr(shuffle, "WHOLE_UP_TO", 0)
  shuffle._permutation.cache_clear()
  seen = shuffle.indices(np.arange(3 * n), seed=5, n=n).reshape(3, n)
  np.testing.assert_array_equal(np.sort(seen, 1), np.tile(np.arange(n), (3, 1)))
  assert shuffle._permutation.cache_info().currsize == 0
  if n == 1000:
    assert len({tuple(epoch) for epoch in seen}) == 3
    assert not np.array_equal(seen[0], shuffle.indices(np.arange(n), seed=6, n=n))
    # A place at a time is the same as all of them together.
    assert [int(shuffle.indices(np.array(p), seed=5, n=n)) for p in (0, 999, 1000)] == [
        seen[0, 0], seen[0, 999], seen[1, 0]]


def test_the_order_of_many_examples_is_random(monkeypatch):
  # Over 1,500 epochs: where a place goes is uniform (χ², 19 degrees: 99.99 % quantile 51), and
  # neighbours go apart independently (correlation 0 ± 1/√1500, five of these).
  monkeypatch.setattr(shuffle, "WHOLE_UP_TO", 0)
  n, epochs = 20, 1500
  order = shuffle.indices(np.arange(n * epochs), seed=0, n=n).reshape(epochs, n)
  for place in (0, 1, 19):
    count = np.bincount(order[:, place], minlength=n)
    assert np.sum((count - epochs / n) ** 2) / (epochs / n) < 51.0
  # Without replacement the correlation is −1/(n − 1).
  for a, b in ((0, 1), (3, 12)):
    correlation = np.corrcoef(order[:, a], order[:, b])[0, 1]
    assert abs(correlation + 1.0 / (n - 1)) < 5.0 / np.sqrt(epochs)
  # Within one long epoch.
  monkeypatch.undo()
  n = shuffle.WHOLE_UP_TO + 12_345
  index = shuffle.indices(np.arange(100_000), seed=0, n=n)
  assert len(np.unique(index)) == 100_000 and index.min() >= 0 and index.max() < n
  assert abs(index.mean() / n - 0.5) < 5.0 / np.sqrt(12 * 100_000)
  assert abs(np.corrcoef(index[:-1], index[1:])[0, 1]) < 5.0 / np.sqrt(100_000)


def test_what_is_taken_into_memory_is_bounded(both, monkeypatch):
  memory, disk, _ = both
  assert data.comparison_data(memory) is memory and data.in_memory(memory.test) is memory.test
  small = data.comparison_data(disk, most=12)
  assert small.train.shape == (12, 4, 4, 3) and isinstance(small.test, np.ndarray)
  # Whole examples with their own labels, of more than the first shard.
  places = [int(np.flatnonzero((disk.train[:] == x).all((1, 2, 3)))[0]) for x in small.train]
  np.testing.assert_array_equal(small.train_labels, disk.train_labels[places])
  assert len(set(places)) == 12 and max(places) > 20
  monkeypatch.setattr("experiments.data.comparison._MEMORY_BYTES", 5 * disk.test.bytes_per_example)
  assert data.count_in_memory(disk.test) == len(data.in_memory(disk.test)) == 5
  small = data.comparison_data(disk)
  assert len(small.train) == 20 and len(small.test) == len(small.test_labels) == 5
  np.testing.assert_array_equal(small.test, disk.test[:5])


def test_shapes_of_data_that_are_here_and_of_data_that_are_not(both):
  path = str(both[2])
  shape_of = lambda **fields: data.shape_of(
      config.Config(data={"call": "array_record", **fields}).data)
  assert shape_of(path=path) == ((4, 4, 3), 4, {}, 0)
  for path_ in ("", "/nowhere"):
    assert shape_of(path=path_, shape=(64, 64, 3), num_classes=1000) == ((64, 64, 3), 1000, {}, 0)
    with pytest.raises(ValueError, match=r"^config\.data\.shape"):
      shape_of(path=path_)
  with pytest.raises(ValueError, match=r"^config\.data\.shape"):
    shape_of(path=path, shape=(64, 64, 3))
  with pytest.raises(ValueError, match=r"^config\.data\.num_classes"):
    shape_of(path=path, num_classes=1000)
  toys = config.Config(data="toy2d('rings', train_size=10, test_size=10)").data
  assert data.shape_of(toys) == ((2,), data.load(toys).num_classes, {}, 0)


# Bad input: one line each, by the field's name.


def damaged(path, how):
  first = path / "train-00000-of-00003.array_record"
  facts = json.loads((path / "metadata.json").read_text())
  rewrite = lambda **changed: (path / "metadata.json").write_text(json.dumps(facts | changed))
  labels = np.load(path / "train_labels.npy")
  {
      "no metadata": (path / "metadata.json").unlink,
      "no JSON": lambda: (path / "metadata.json").write_text("{"),
      "a list": lambda: (path / "metadata.json").write_text("[1]"),
      "a field less": lambda: (path / "metadata.json").write_text(json.dumps(
          {name: value for name, value in facts.items() if name != "scale"})),
      "version": lambda: rewrite(version=2),
      "shape": lambda: rewrite(shape=[]),
      "another shape": lambda: rewrite(shape=[4, 4, 4]),
      "dtype": lambda: rewrite(dtype="float8"),
      "scale": lambda: rewrite(scale=0.0),
      "mean": lambda: rewrite(mean=[1.0, 2.0]),
      "count": lambda: rewrite(examples=[31, 10]),
      "conditions": lambda: rewrite(conditions={"text": 3}),
      "a shard less": first.unlink,
      "a shard cut short": lambda: first.write_bytes(first.read_bytes()[:-100]),
      "an empty shard": lambda: first.write_bytes(b""),
      "no labels": (path / "train_labels.npy").unlink,
      "labels cut short": lambda: np.save(path / "train_labels.npy", labels[:-1]),
      "a label too large": lambda: np.save(path / "train_labels.npy", np.append(labels[1:], 4)),
      "a label below 0": lambda: np.save(path / "train_labels.npy", np.append(labels[1:], -1)),
      "no moments": (path / "moments.npy").unlink,
      "NaN moments": lambda: np.save(path / "moments.npy", np.full((2, 4, 4, 3), np.nan)),
      "negative moments": lambda: np.save(path / "moments.npy", np.full((2, 4, 4, 3), -1.0)),
      "a matrix of NaN": lambda: rewrite(scale=[[float("nan")] * 3] * 3),
      "a singular matrix": lambda: rewrite(scale=[[1.0] * 3] * 3),
  }[how]()


@pytest.mark.parametrize(("how", "says"), [
    ("no metadata", "metadata.json"), ("no JSON", "metadata.json"), ("a list", "metadata.json"),
    ("a field less", "scale"), ("version", "version 1"), ("shape", "a shape"),
    ("another shape", r"\(2, 4, 4, 4\)"), ("dtype", "bfloat16"), ("scale", "positive scale"),
    ("mean", "finite means"), ("conditions", "metadata.json"),
    ("count", "hold 30 examples, and metadata.json says 31"),
    ("a shard less", "train-00000-of-00003.array_record is missing"),
    ("a shard cut short", "train-00000.*is cut short or damaged"),
    ("an empty shard", "train-00000.*is cut short or damaged"),
    ("no labels", "train_labels.npy"), ("labels cut short", "must be 30 class numbers"),
    ("a label too large", "below num_classes = 4; got 4 at index 29"),
    ("a label below 0", "got -1 at index 29"), ("no moments", "moments.npy"),
    ("NaN moments", "moments.npy.*finite"), ("negative moments", "moments.npy.*variance of -1"),
    ("a matrix of NaN", "positive scale"), ("a singular matrix", "positive scale")])
def test_damaged_directories_are_refused(both, how, says):
  damaged(both[2], how)
  with pytest.raises(ValueError, match=says) as caught:
    data.load("array_record", path=str(both[2]))
  assert "data.path" in str(caught.value) and "\n" not in str(caught.value)


def test_directories_that_are_none_are_refused(tmp_path):
  for path in ("", str(tmp_path / "nowhere")):
    with pytest.raises(ValueError, match=r"data\.path must name an existing directory"):
      data.load("array_record", path=path)
  with pytest.raises(ValueError, match=r"data\.path.*shards.*array_record.*metadata\.json"):
    data.load("array_record", path=str(tmp_path))
  with pytest.raises(ValueError, match=r"^config\.data\.labels"):
    data.load("array_record", path=str(tmp_path), labels="y.npy")


def test_a_shard_that_fails_later_is_named(both):
  path = both[2] / "train-00001-of-00003.array_record"
  disk = data.load("array_record", path=str(both[2]))
  content = bytearray(path.read_bytes())
  # One bit of the 14th example, the fourth of ten in the second shard.
  record = data.restore(disk, disk.train[13]).round().astype(np.uint8).tobytes()
  place = bytes(content).index(record)
  content[place + 7] ^= 1
  path.write_bytes(content)
  disk = data.load("array_record", path=str(both[2]))
  disk.train[12]
  for read in (lambda: disk.train[13],
               lambda: list(data.stream(disk, seed=0, start=0, stop=3, batch_size=10))):
    with pytest.raises(OSError, match=r"^data.path: shard .*train-00001-of.* at example 13"):
      read()
  # Shards that are cut while they are open read as empty.
  path.write_bytes(b"")
  with pytest.raises(OSError, match="train-00001-of"):
    disk.train[19]


# The converter.


def convert(*arguments):
  """(exit code, stdout, stderr); its --path stands in for that of samplers."""
  aside = flags.FLAGS["path"]
  delattr(flags.FLAGS, "path")
  try:
    return runner.call("array_records", *arguments)
  finally:
    flags.FLAGS["path"] = aside
    flags.FLAGS.register_flag_by_module("experiments.config.sampling_flags", aside)


def test_a_folder_becomes_shards_and_a_run(tmp_path):
  rng = np.random.default_rng(0)
  for name in ("cats", "dogs"):
    (tmp_path / "pictures" / name).mkdir(parents=True)
    for i in range(6):
      Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(
          tmp_path / "pictures" / name / f"{i}.png")
  out = tmp_path / "shards"
  code, said, error = convert(f"--path={tmp_path / 'pictures'}", "--data.size=8", "--shards=2",
                              "--data.holdout=0.34", f"--out={out}")
  assert code == 0, error
  assert "8 training and 4 held-out examples (8, 8, 3) uint8" in said and "2 classes" in said
  memory = data.load("images", path=str(tmp_path / "pictures"), size=8, holdout=0.34)
  disk = shards_of(tmp_path, shape=(8, 8, 3), num_classes=2)
  np.testing.assert_allclose(disk.train[:], memory.train, rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(disk.train_labels, memory.train_labels)
  assert disk.classes == memory.classes == ("cats", "dogs")
  again = tmp_path / "again"
  assert convert(f"--path={tmp_path / 'pictures'}", "--data.size=8", "--shards=3",
                 "--data.holdout=0.34", f"--out={again}")[0] == 0
  # The content has a name of its own, however many shards hold it.
  assert shards.read(str(again)).facts.sha256 == shards.read(str(out)).facts.sha256
  code, _, error = convert(f"--path={tmp_path / 'pictures'}", "--data.size=8", f"--out={out}")
  assert code == 2 and "error: --out must name a new or empty directory" in error


def test_what_the_converter_refuses(tmp_path):
  x = np.random.default_rng(0).random((20, 3))
  np.save(tmp_path / "data.path.npy", x)
  path, out = f"--path={tmp_path / 'data.path.npy'}", tmp_path / "out"
  for arguments, says in (
      ((path,), "--out is required"),
      ((f"--out={out}",), "--path is required"),
      ((f"--path={tmp_path / 'absent.npy'}", f"--out={out}"), "data.path must name an exist"),
      ((path, f"--out={out}", "--shards=0"), "--shards must be from 1 to the 16"),
      ((path, f"--out={out}", "--shards=17"), "--shards must be from 1 to the 16"),
      ((path, f"--out={out}", "--dtype=uint8"), "--dtype=uint8 must hold the values"),
      ((path, f"--out={out}", "--dtype=int4"), "--dtype must be one of"),
      ((path, f"--out={out}", "--data.holdout=1.5"), "data.holdout must be a fraction"),
      ((path, f"--out={out}", "--data=imagenet"), "--data: no data 'imagenet'"),
      ((f"--out={out}", "--data=augmented(digits())"), "--data: augmented is for training"),
      ((path, f"--out={out}", "--config.seed=1"), "--config belongs to"),
      ((path, f"--out={tmp_path / 'data.path.npy'}"), "--out: ")):
    code, _, error = convert(*arguments)
    assert code == 2 and error.startswith("error: ") and says in error, (arguments, error)
    assert error.count("\n") == 1
    assert not out.exists() and not list(tmp_path.glob("*.partial"))
  (tmp_path / "out.partial").mkdir()
  code, _, error = convert(path, f"--out={out}")
  assert code == 2 and "out.partial' is there" in error
  assert (tmp_path / "out.partial").is_dir()


def test_data_are_not_begun_on_a_disk_that_cannot_hold_them(tmp_path, monkeypatch):
  source = sources.mixture2d(train_size=1000, test_size=100)
  monkeypatch.setattr(shard_writer.shutil, "disk_usage", lambda _: type("U", (), {"free": 8000}))
  with pytest.raises(ValueError, match=r"^--out.* needs 0.0 GB, and 0.0 are free"):
    shard_writer.write(source, tmp_path / "out", num_shards=1)


@pytest.mark.parametrize("how", ["full disk", "interrupt"])
def test_a_conversion_that_fails_leaves_nothing(tmp_path, how):
  source = sources.mixture2d(train_size=30_000, test_size=100)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def progress(done):
    if how == "interrupt":
      raise KeyboardInterrupt

  try:
    if how == "full disk":  # a file may grow no further than this
      resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    with pytest.raises((OSError, KeyboardInterrupt)) as caught:
      shard_writer.write(source, tmp_path / "out", num_shards=1, progress=progress)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert (how == "interrupt" or re.match(
      "--out.*could not be written, and nothing is left", str(caught.value)))
  assert isinstance(caught.value, KeyboardInterrupt) == (how == "interrupt")
  assert not list(tmp_path.iterdir())


def test_programs_that_look_at_the_data_take_what_they_need_from_shards(tmp_path):
  x = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.5], (400, 2)).astype(np.float32)
  disk, path = made(tmp_path, x, (x[:, 0] > 3.0).astype(int))[1:]
  workdir = runner.untrained(tmp_path / "run", config.override(
      config.load(str(runner.CONFIGS / "mixture2d.py")), {
          "data": f"array_record({str(path)!r}, shape=2, num_classes=2)",
          "network.width": 16, "network.depth": 1,
          "sampling.grid.n": 4, "sampling.batch_size": 100}))
  np.save(tmp_path / "mask.npy", np.array([True, False]))
  runner.succeed(
      "sample", f"--workdir={workdir}", "--num_samples=40", "--known=held_out",
      f"--mask={tmp_path / 'mask.npy'}", "--inpainting=replacement")
  known = np.load(workdir / "samples.npy")[:, 0]
  np.testing.assert_allclose(known, data.restore(disk, disk.test[:40])[:, 0], rtol=1e-6)
  runner.succeed("evaluate", f"--workdir={workdir}", "--num_samples=60")
  judged = json.loads((workdir / "evaluation.json").read_text())
  assert judged["num_train"] == 300 and judged["num_held_out"] == 100
