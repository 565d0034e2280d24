"""What is read from a checkpoint is what was written, or it is not used."""

import itertools
import pathlib
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from experiments.run import checkpoints


def tree(seed, **more):
  keys = jax.random.split(jax.random.key(seed), 2)
  return {"kernel": jax.random.normal(keys[0], (40, 30)), "step": jnp.int32(7),
          "half": jax.random.normal(keys[1], (9,), jnp.bfloat16), **more}


def abstract(state):
  return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)


@pytest.fixture
def manager(tmp_path):
  """Checkpoints of steps 1 and 2."""
  with checkpoints.Manager(tmp_path / "checkpoints", keep=None) as opened:
    for step in (1, 2):
      checkpoints.save(opened, step, tree(step))
    checkpoints.finish(opened)
    yield opened


def same(one, two):
  return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, two)))


def data_files(manager, step):
  files = [file for file in (pathlib.Path(manager.directory) / str(step) / "state").rglob("d/*")
           if file.is_file()]
  assert files
  return files


def flip(file, at):
  content = bytearray(file.read_bytes())
  content[at] ^= 0x40
  file.write_bytes(content)


def test_a_reader_logs_nothing(manager, caplog):
  with checkpoints.Manager(pathlib.Path(manager.directory), keep=None, read_only=True) as reader:
    assert list(reader.all_steps()) == [1, 2]
  assert not [record for record in caplog.records if record.name == "absl"]


@pytest.mark.parametrize(("dtype", "words"), [
    (np.float32, np.uint32), (jnp.bfloat16, np.uint16), (np.int8, np.uint8), (np.bool_, np.uint8)])
def test_a_checksum_is_the_sum_of_its_definition(dtype, words):
  array = np.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)) * 3.0).astype(dtype)
  total = 0
  for i, word in enumerate(array.view(words).ravel().tolist()):
    word ^= i * 0x9E3779B9 % 2**32
    word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
    word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
    total += word ^ word >> 16
  assert checkpoints._checksums({"a": {"b": jnp.asarray(array)}}) == {"a/b": total % 2**32}
  assert int(checkpoints._sum(jnp.asarray(array))) == total % 2**32  # as a program for devices


def test_a_checksum_of_many_words_is_the_same_by_numpy_and_by_a_program():
  x = np.random.default_rng(0).normal(size=(3, checkpoints._BLOCK + 5)).astype(np.float32)
  assert checkpoints._sum_on_host(x) == int(checkpoints._sum(jnp.asarray(x)))


def test_a_checksum_changes_with_any_bit_and_any_place():
  x = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
  of = lambda a: checkpoints._checksums([a])["0"]
  bits, seen = x.view(np.uint32).ravel(), {of(x)}
  others = []
  for place, bit in itertools.product((0, 20, 41), range(32)):
    others.append(bits.copy())
    others[-1][place] ^= np.uint32(1 << bit)
  others += [np.roll(bits, 1), bits[::-1], bits.reshape(6, 7)[::-1]]
  for i, j in ((0, 1), (0, 16), (3, 35)):  # swapped, and two signs
    others += [bits.copy(), bits.copy()]
    others[-2][[i, j]] = others[-2][[j, i]]
    others[-1][[i, j]] ^= np.uint32(1 << 31)
  seen |= {of(other.reshape(6, 7).view(np.float32)) for other in others}
  assert len(seen) == 1 + len(others)


@pytest.mark.parametrize("places", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_read_as_a_number(manager, places):
  """In many places of the newest data: what is read is what was saved, or it is refused."""
  target, refused, silent = abstract(tree(0)), 0, 0
  file = max(data_files(manager, 2), key=lambda file: file.stat().st_size)
  whole = file.read_bytes()
  for at in np.linspace(0, len(whole) - 1, places).astype(int):
    flip(file, at)
    try:
      assert same(checkpoints.read(manager, 2, target), tree(2))
    except checkpoints.Damaged as error:
      refused += 1
      silent += "not what was written" in str(error)
    file.write_bytes(whole)
  # Most are of no concern to Orbax.
  assert refused > places / 2 and silent > places / 3


def test_the_one_before_is_used_and_says_why(manager, capsys):
  for file in data_files(manager, 2):
    flip(file, file.stat().st_size // 2)
  restored = checkpoints.restore(manager, abstract(tree(0)), discard_damaged=True)
  assert same(restored, tree(1)) and manager.all_steps() == [1]
  said = capsys.readouterr().err
  assert "checkpoint of step 2 is damaged, trying the one before (" in said
  assert said.count("\n") == 1


@pytest.mark.parametrize("gone", ["state", "checksums/metadata", "state/_METADATA"])
def test_what_is_missing_is_damage(manager, gone):
  place = pathlib.Path(manager.directory) / "2" / gone
  shutil.rmtree(place) if place.is_dir() else place.unlink()
  with pytest.raises(checkpoints.Damaged):
    checkpoints.read(manager, 2, abstract(tree(0)))
  assert same(checkpoints.restore(manager, abstract(tree(0))), tree(1))


def test_what_was_saved_before_there_were_checksums_is_read(manager):
  shutil.rmtree(pathlib.Path(manager.directory) / "2" / "checksums")
  assert same(checkpoints.read(manager, 2, abstract(tree(0))), tree(2))


def test_a_part_is_read_and_checked_alone(manager):
  part = {"half": abstract(tree(0)["half"])}
  assert same(checkpoints.read(manager, 2, part, part=True), {"half": tree(2)["half"]})
  with pytest.raises(ValueError, match=r"snapshot of step 2 was .*: half is bfloat16"):
    checkpoints.read(manager, 2, {"half": abstract(jnp.zeros(9))}, part=True)
  file = max(data_files(manager, 2), key=lambda file: file.stat().st_size)
  flip(file, file.stat().st_size // 2)
  assert same(checkpoints.read(manager, 2, part, part=True), {"half": tree(2)["half"]})
  with pytest.raises(checkpoints.Damaged, match="1 of 1 arrays are not what was written, kernel"):
    checkpoints.read(manager, 2, {"kernel": abstract(tree(0)["kernel"])}, part=True)


def test_an_earlier_version_s_averages_are_named_as_such(tmp_path):
  average = {"blocks": {"kernel": jnp.ones((2, 3))}}
  with checkpoints.Manager(tmp_path / "checkpoints", keep=None) as manager:
    checkpoints.save(manager, 1, {"ema": average, "params": average})
    checkpoints.finish(manager)
    with pytest.raises(ValueError, match="step 1 was written by an earlier version of langevin_j"):
      checkpoints.restore(manager, abstract({"ema": (average,), "params": average}))
    more = abstract({"ema": average, "params": average | {"other": jnp.ones(2)}})
    checkpoints.save(manager, 2, {"ema": (average,), "params": average})
    checkpoints.finish(manager)
    with pytest.raises(ValueError, match=r"step 2 was .*: params/other .* only in this config"):
      checkpoints.restore(manager, more | {"ema": (more["ema"],)})


def test_an_error_without_text_is_named_by_its_type(manager, monkeypatch):
  def fail(*arguments, **options):
    raise OSError

  monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fail)
  with pytest.raises(ValueError, match="can be read: step 2: OSError: OSError; step 1: OSError"):
    checkpoints.restore(manager, abstract(tree(0)))
  monkeypatch.setattr(checkpoints.Manager, "save", fail)
  with pytest.raises(OSError, match="earlier ones are complete: OSError"):
    checkpoints.save(manager, 3, tree(3))


def test_what_orbax_leaves_unfinished_is_not_printed_and_all_else_is(manager, monkeypatch):
  printed = []
  monkeypatch.setattr(sys, "unraisablehook", printed.append)
  shutil.rmtree(pathlib.Path(manager.directory) / "2" / "state" / "ocdbt.process_0")
  with pytest.raises(checkpoints.Damaged):
    checkpoints.read(manager, 2, abstract(tree(0)))
  notice = lambda error, file=None: types.SimpleNamespace(
      exc_value=error, object=file and types.SimpleNamespace(
          cr_code=types.SimpleNamespace(co_filename=file)))
  other = [notice(ValueError("x")), notice(ValueError("x"), "/here.py")]
  for each in (notice(RuntimeError("Event loop is closed")), *other,
               notice(Exception("read"), "/lib/orbax/checkpoint/reading.py")):
    sys.unraisablehook(each)
  assert printed == other


def test_what_is_saved_may_be_donated_at_once_and_jax_is_not_asked_to_stop(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point",
                      lambda step: asked.append(step) or True)
  spoil = jax.jit(lambda state: jax.tree.map(lambda a: a * 0 + 5, state), donate_argnums=0)
  with checkpoints.Manager(tmp_path / "checkpoints", keep=2) as manager:
    for step in (1, 2, 3):
      state = tree(step)
      checkpoints.save(manager, step, state)
      spoil(state)
      assert state["kernel"].is_deleted()
    checkpoints.finish(manager)
    assert sorted(manager.all_steps()) == [2, 3] and not asked
    for step in (2, 3):
      assert same(checkpoints.read(manager, step, abstract(tree(0))), tree(step))


def test_an_accelerator_keeps_no_second_copy(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jnp, "copy", lambda leaf: pytest.fail("a copy on the device"))
  with checkpoints.Manager(tmp_path / "checkpoints", keep=None) as manager:
    checkpoints.save(manager, 1, tree(1))
    checkpoints.finish(manager)
    assert same(checkpoints.read(manager, 1, abstract(tree(0))), tree(1))
