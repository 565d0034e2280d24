"""Checkpoints of a run, by Orbax: asynchronous, atomic, and verified when they are read."""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from experiments.run import buckets, files, multihost

State = Any
Result = TypeVar("Result")
# Arrays of another network that a message names.
_NAMED = 5
# Words that are summed at once, in a processor's cache.
_BLOCK = 2**15
# Beside the checksums, under names that no array has.
_STEP, _AVERAGES, _LEARNED = "/step", "/averages", "/learned"


class Damaged(Exception):
  """A checkpoint cannot be read, or differs from what was written; the text says how."""


class Manager(ocp.CheckpointManager):
  """Orbax's, of a directory of trees with their checksums; `keep` is None where all are kept."""

  def __init__(self, place: pathlib.Path, *, keep: int | None, read_only: bool = False):
    every = keep is None or read_only
    with _without_warnings() if read_only else contextlib.nullcontext():
      super().__init__(
          place if buckets.is_bucket(place) else place.absolute(),
          options=ocp.CheckpointManagerOptions(
              preservation_policy=None if every else checkpoint_managers.LatestN(keep),
              read_only=read_only, create=not read_only, cleanup_tmp_directories=not read_only),
          item_handlers={"state": ocp.StandardCheckpointHandler(),
                         "checksums": ocp.JsonCheckpointHandler()})
    self._abandoned = False

  def __exit__(self, kind, error, trace):
    try:
      return super().__exit__(kind, error, trace)
    except Exception as after:
      if error is None or after is error:
        raise
      return False  # what came first says why

  def abandon(self) -> None:
    """After a save that failed: its threads wait for its parts, and are not waited for in turn."""
    self._abandoned = True

  def close(self) -> None:
    if not self._abandoned:
      super().close()

  def reached_preemption(self, step: int) -> bool:
    # `signals.stopping` asks jax at every dispatch, and jax has all processes stop at the highest
    # number that one of them has asked with. Orbax would ask with steps, which are many more: the
    # stop after a SIGTERM would be as many dispatches late.
    return False


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
  """Hides what Orbax logs, as a warning, of a directory that is only to be read."""
  level = logging.get_verbosity()
  logging.set_verbosity(min(level, logging.ERROR))
  try:
    yield
  finally:
    logging.set_verbosity(level)


def manager(workdir: pathlib.Path, *, keep: int, read_only: bool = False) -> Manager:
  """The checkpoints under `workdir`, of which the newest `keep` are kept."""
  return Manager(workdir / "checkpoints", keep=keep, read_only=read_only)


def save(
    manager: Manager, step: int, state: State, averages: Sequence[str] = (), learned: str = ""
) -> None:
  """Starts saving; returns as soon as `state` is copied, so that it may be donated after.

  Args:
    averages: names of the averages in the state, if it has any. learned: of its `learned`.

  Raises:
    OSError: an earlier save could not be written (a full disk, say). What was complete before it
      is untouched.
  """
  place, state = manager.directory, _stored(state)
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  if not buckets.is_bucket(place) and (free := shutil.disk_usage(place).free) < needed:
    raise OSError(f"disk full: the checkpoint of step {step} takes {needed / 1e6:.1f} MB, {place} "
                  f"has {free / 1e6:.1f} MB left; earlier checkpoints are complete")
  if jax.default_backend() == "cpu":
    # The host's view of an array is the buffer itself, which the training step overwrites while
    # Orbax writes. Elsewhere Orbax has transferred everything to the host before its `save`
    # returns (transfer_arrays_to_host), and a copy would take the device's memory for nothing.
    # Unlike jnp.copy, device_put has no program to compile for each shape.
    state = jax.tree.map(lambda leaf: jax.device_put(
        leaf, getattr(leaf, "sharding", None), may_alias=False), state)
  checksums = _checksums(state) | {
      _STEP: step, _AVERAGES: list(averages), _LEARNED: learned}
  _quieten()

  def start():
    if not manager.save(step, args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), checksums=ocp.args.JsonSave(checksums))):
      raise OSError(f"step {step} is not after step {manager.latest_step()}, which is in {place}")

  _reported(manager, start)


def finish(manager: Manager) -> None:
  """Waits until what was started is on disk. Raises OSError as `save` does."""
  _reported(manager, manager.wait_until_finished)


def restore(
    manager: Manager, target: State, *, discard_damaged: bool = False,
    reader: Callable[[Manager, int, State], State] | None = None,
) -> State | None:
  """The newest readable checkpoint, or None where there is none at all.

  Args:
    target: a tree of `jax.ShapeDtypeStruct` with shardings, which the answer fits exactly.
    discard_damaged: move unreadable checkpoints out of the way (to `damaged_checkpoints/`), so that
      a run can write those steps again.
    reader: reads one step; `read` if not given.

  Raises:
    ValueError: a checkpoint of another shape, dtype or structure, by the parameter's name; or
      checkpoints of which none can be read.
  """
  steps = sorted(manager.all_steps(), reverse=True)
  damaged: dict[int, str] = {}
  for step in steps:
    try:
      restored = (reader or read)(manager, step, target)
    except Damaged as error:
      damaged[step] = f"step {step}: {error}"
      print(f"checkpoint of step {step} is damaged, trying the one before ({error})",
            file=sys.stderr)
      continue
    if damaged and discard_damaged:
      multihost.by_first(lambda: _discard(manager, damaged))
      manager.reload()
    return restored
  if steps:
    raise ValueError(f"checkpoints: none of steps {steps} in {manager.directory} can be read: "
                     f"{'; '.join(damaged.values())}")
  return None


def read(manager: Manager, step: int, target: State, *, part: bool = False) -> State:
  """The tree of `step`. If one process cannot read it, all raise.

  A tree without checksums, of an earlier version, is accepted.

  Args:
    target: as in `restore`; with `part`, some of what the tree has outermost.

  Raises:
    Damaged: it cannot be read, or is not what was written.
    ValueError: another shape, dtype or structure, by the array's name.
  """
  place, handler = manager.directory / str(step), ocp.PyTreeCheckpointHandler()
  whole, target = target, _stored(target)
  found = _together(lambda: by_path(handler.metadata(place / "state").tree))
  if part:
    found = {name: leaf for name, leaf in found.items() if name.split("/")[0] in target}
  kind = "snapshot" if part and target is whole else "checkpoint"
  _check_same(found, by_path(target), f"{kind} of step {step}")
  # Not `manager.restore`: it waits for the other processes when it is done, and one that has
  # failed never is.
  state = _together(lambda: handler.restore(place / "state", args=ocp.args.PyTreeRestore(
      item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target),
      partial_restore=part)))
  checksums = _checksums(state)
  _together(lambda: _check_written(checksums, place / "checksums", step))
  return whole._replace(**state) if hasattr(whole, "_replace") else state


def _stored(state: State) -> State:
  """The tree that is stored: of a training state a dict, without `learned` where it is empty.

  Earlier versions had no such field.
  """
  if not hasattr(state, "_asdict"):
    return state
  return {name: value for name, value in state._asdict().items()
          if name != "learned" or jax.tree.leaves(value)}


def read_average(manager: Manager, step: int) -> State:
  """The first average of the parameters in `step`, of a run of which nothing else is known.

  All averages are read, to one device of each process.

  Raises:
    Damaged: as `read`.
  """
  place = manager.directory / str(step) / "state"
  stored = _together(lambda: ocp.PyTreeCheckpointHandler().metadata(place).tree["ema"])
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), stored)
  return read(manager, step, {"ema": target}, part=True)["ema"][0]


def names_of(manager: Manager, step: int) -> tuple[list[str], str]:
  """(`averages`, `learned`) of the `save` of `step`; empty where an earlier version has saved it.

  Raises:
    Damaged: it cannot be read.
  """
  place = manager.directory / str(step) / "checksums"
  stored = _together(lambda: ocp.JsonCheckpointHandler().restore(place) if place.is_dir() else {})
  return stored.get(_AVERAGES, []), stored.get(_LEARNED, "")


def _together(action: Callable[[], Result]) -> Result:
  """The result of `action`; if it fails on one process, all raise Damaged."""
  result, failure = None, None
  try:
    result = action()
  except (PermissionError, MemoryError):
    raise
  except Exception as error:
    if buckets.is_out_of_reach(error):  # it is not damaged, and stays where it is
      raise OSError(f"checkpoints cannot be read: {multihost.first_line(error)[:200]}") from error
    failure = f"{type(error).__name__}: {multihost.first_line(error)[:200]}"
    _quieten()
  if not multihost.everywhere(failure is None):
    raise Damaged(failure or "another process cannot read it")
  return result


def _quieten() -> None:
  """Hides what Python prints about reads and writes that Orbax abandons after a failure.

  TensorStore's threads print tens of kilobytes, array by array, which would bury the error. Other
  exceptions that cannot be raised are printed as usual.
  """
  for name in ("unraisablehook", "excepthook"):
    shown = getattr(sys, name)
    if getattr(shown, "__module__", None) != __name__:  # else it is that already
      setattr(sys, name, _other_than_orphans(shown))


def _other_than_orphans(shown: Callable[..., None]) -> Callable[..., None]:
  """A hook of `sys` that passes on to `shown` what is not about a read or write given up."""
  def hook(*notice):
    # Of unraisablehook one object, of excepthook a type, a value and a traceback.
    value = notice[1] if len(notice) > 1 else notice[0].exc_value
    code = getattr(getattr(notice[0], "object", None), "cr_code", None)
    orphan = code is not None and "orbax" in code.co_filename
    if not orphan and str(value) != "Event loop is closed":
      shown(*notice)

  return hook


def _checksums(tree: State) -> dict[str, int]:
  """A checksum of every array by its name, the same on any mesh; all processes must call it.

  Orbax guards the index of what it writes and not the numbers themselves.
  """
  sums = ([_sum_on_host(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
          if multihost.in_host_memory() else multihost.fetch(_sums(tree)).tolist())
  return dict(zip(by_path(tree), sums, strict=True))


@jax.jit
def _sums(tree: State) -> jax.Array:
  return jnp.stack([_sum(leaf) for leaf in jax.tree.leaves(tree)])


@jax.jit
def _sum(leaf: jax.Array) -> jax.Array:
  """Σᵢ h(bitsᵢ ⊕ i φ) modulo 2³², of 32-bit words: exact, so in any order.

  h is the finaliser of MurmurHash3 (Appleby 2011), which is one-to-one: one wrong word is always
  found; several, moved ones or those of a wrong place are missed once in 2³².
  """
  if leaf.dtype == bool:
    leaf = leaf.astype(jnp.uint8)
  word = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
  bits = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
  index = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    index = index * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  bits ^= index * np.uint32(0x9E3779B9)
  bits = (bits ^ bits >> 16) * np.uint32(0x85EBCA6B)
  bits = (bits ^ bits >> 13) * np.uint32(0xC2B2AE35)
  return jnp.sum(bits ^ bits >> 16, dtype=jnp.uint32)


def _sum_on_host(array: np.ndarray) -> int:
  """`_sum` by NumPy."""
  word = {1: np.uint8, 2: np.uint16}.get(array.itemsize, np.uint32)
  words, total = np.ascontiguousarray(array).reshape(-1).view(word), np.uint64(0)
  for first in range(0, len(words), _BLOCK):
    bits = words[first:first + _BLOCK].astype(np.uint32)
    bits ^= np.arange(first, first + len(bits)).astype(np.uint32) * np.uint32(0x9E3779B9)
    bits = (bits ^ bits >> 16) * np.uint32(0x85EBCA6B)
    bits = (bits ^ bits >> 13) * np.uint32(0xC2B2AE35)
    total += np.sum(bits ^ bits >> 16, dtype=np.uint64)
  return int(total) % 2**32


def _check_written(checksums: dict[str, int], place: pathlib.Path, step: int) -> None:
  """Raises ValueError where what was read has not the checksums that were saved with it.

  Nor may its directory have another step's name: it would stand in the way of all steps up to it.
  """
  if not place.is_dir():
    return
  written = ocp.JsonCheckpointHandler().restore(place)
  if written.get(_STEP, step) != step:
    raise ValueError(f"it was written as step {written[_STEP]}; its directory was renamed")
  if wrong := [name for name, value in checksums.items() if written[name] != value]:
    raise ValueError(f"{len(wrong)} of {len(checksums)} arrays are not what was written, "
                     f"{wrong[0]} the first")


def _discard(manager: Manager, steps) -> None:
  """Moves checkpoints to damaged_checkpoints/, once an older one is known to be good."""
  place = manager.directory.parent / "damaged_checkpoints"
  files.make_directory(place)
  for step in steps:
    files.move(manager.directory / str(step), place / str(step))


def by_path(tree: State) -> dict[str, Any]:
  """The leaves of a tree by their paths, such as blocks/qkv/kernel."""
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_same(found: dict[str, Any], target: dict[str, Any], what: str) -> None:
  """Names the first arrays in which a checkpoint differs; Orbax would cast a dtype silently."""
  # Averages have been numbered since there can be several.
  if found.keys() != target.keys() and any(
      name.startswith("ema/") and not name.split("/")[1].isdecimal() for name in found):
    raise ValueError(f"{what} was written by an earlier version of langevin_jax, whose states "
                     "this one does not read; train it again in another --workdir")
  plain = lambda leaf: f"{leaf.dtype}{list(leaf.shape)}"
  wrong = []
  # Parameters first: averages and the optimizer's state only repeat them.
  for name in sorted(found.keys() | target.keys(), key=lambda name: (
      not name.startswith("params/"), name)):
    if name not in target:
      wrong.append(f"{name} {plain(found[name])} exists only in the checkpoint")
    elif name not in found:
      wrong.append(f"{name} {plain(target[name])} exists only in this config")
    elif plain(found[name]) != plain(target[name]):
      wrong.append(f"{name} is {plain(found[name])}, this config makes {plain(target[name])}")
  if wrong:
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    raise ValueError(f"{what} was written for another network or optimizer: "
                     f"{'; '.join(wrong[:_NAMED])}{more}")


def _reported(manager: Manager, action: Callable[[], None]) -> None:
  try:
    action()
  except Exception as error:
    # Orbax wraps what the file system said, or passes it on; some of its own errors are neither.
    manager.abandon()
    raise OSError("checkpoint could not be written, earlier ones are complete: "
                  f"{multihost.first_line(error)}") from error
