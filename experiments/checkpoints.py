"""Checkpoints of a run, by Orbax: asynchronous, atomic, and verified before they are believed."""

import pathlib
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from experiments import hosts

State = Any


def manager(workdir: pathlib.Path, *, keep: int, read_only: bool = False) -> ocp.CheckpointManager:
  """The checkpoints under `workdir`, of which the newest `keep` are kept."""
  options = ocp.CheckpointManagerOptions(
      preservation_policy=None if read_only else checkpoint_managers.LatestN(keep),
      read_only=read_only, create=not read_only, cleanup_tmp_directories=not read_only)
  return ocp.CheckpointManager(
      (workdir / "checkpoints").absolute(), options=options,
      item_handlers={"state": ocp.StandardCheckpointHandler()})


def save(manager: ocp.CheckpointManager, step: int, state: State) -> None:
  """Starts saving; returns as soon as `state` is copied, so that it may be donated after.

  Raises:
    OSError: an earlier save could not be written (a full disk, say). What was complete before it
      is untouched.
  """
  place = pathlib.Path(manager.directory)
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  free = shutil.disk_usage(place).free
  if free < needed:
    raise OSError(f"disk full: the checkpoint of step {step} takes {needed / 1e6:.1f} MB, {place} "
                  f"has {free / 1e6:.1f} MB left; earlier checkpoints are complete")
  # Orbax may write from the buffers themselves on CPU; the training step overwrites them.
  snapshot = jax.tree.map(jnp.copy, state)
  _reported(lambda: manager.save(step, args=ocp.args.Composite(
      state=ocp.args.StandardSave(snapshot))))


def finish(manager: ocp.CheckpointManager) -> None:
  """Waits until what was started is on disk. Raises OSError as `save` does."""
  _reported(manager.wait_until_finished)


def restore(
    manager: ocp.CheckpointManager, target: State, *, discard_damaged: bool = False
) -> State | None:
  """The newest readable checkpoint, or None where there is none at all.

  Args:
    target: a tree of `jax.ShapeDtypeStruct` with shardings, which the answer fits exactly.
    discard_damaged: move unreadable checkpoints out of the way (to `damaged_checkpoints/`), so that
      a run can write those steps again.

  Raises:
    ValueError: a checkpoint of another shape, dtype or structure, by the parameter's name; or
      checkpoints of which none can be read.
  """
  steps = sorted(manager.all_steps(), reverse=True)
  damaged: dict[int, str] = {}
  for step in steps:
    restored = _restored(manager, step, target, damaged)
    # Several processes read a part each: what one of them cannot read, all leave.
    if not hosts.everywhere(restored is not None):
      damaged.setdefault(step, f"step {step}: another process cannot read it")
      continue
    if damaged and discard_damaged:
      hosts.by_first(lambda: _discard(manager, damaged))
      manager.reload()
    return restored
  if steps:
    raise ValueError(f"checkpoints: none of steps {steps} in {manager.directory} can be read: "
                     f"{'; '.join(damaged.values())}")
  return None


def _restored(manager, step, target, damaged) -> State | None:
  """The state of a step, or None where it cannot be read: `damaged` then says why."""
  try:
    found = manager.item_metadata(step)["state"]
    if found is None:
      raise ValueError("its metadata are missing")
    found = getattr(found, "tree", found)
  except (PermissionError, MemoryError):
    raise
  except Exception as error:
    damaged[step] = _damage(step, error)
    return None
  _check_same(found, target, step)
  try:
    return manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(target)))["state"]
  except (PermissionError, MemoryError):
    raise
  except Exception as error:
    damaged[step] = _damage(step, error)
    return None


def _damage(step: int, error: Exception) -> str:
  reason = f"step {step}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
  print(f"checkpoint of step {step} is damaged, trying the one before ({reason})", file=sys.stderr)
  return reason


def _discard(manager: ocp.CheckpointManager, steps) -> None:
  """Moves checkpoints to damaged_checkpoints/, once an older one is known to be good."""
  place = pathlib.Path(manager.directory).parent / "damaged_checkpoints"
  place.mkdir(exist_ok=True)
  for step in steps:
    shutil.rmtree(place / str(step), ignore_errors=True)
    shutil.move(pathlib.Path(manager.directory) / str(step), place / str(step))


def _check_same(found: State, target: State, step: int) -> None:
  """Names the first array in which a checkpoint differs; Orbax would cast a dtype silently."""
  names = lambda tree: {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
                        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
  found, target = names(found), names(target)
  for name in sorted(found.keys() | target.keys()):
    if name not in found or name not in target:
      holder = "the checkpoint" if name in found else "this config"
      raise ValueError(f"checkpoint of step {step}: {name} exists only in {holder}; "
                       "it was written for another network or optimizer")
    old, new = found[name], target[name]
    if tuple(old.shape) != tuple(new.shape) or old.dtype != new.dtype:
      raise ValueError(f"checkpoint of step {step}: {name} is {old.dtype}{list(old.shape)}, "
                       f"this config makes {new.dtype}{list(new.shape)}")


def _reported(action) -> None:
  try:
    action()
  except (ValueError, OSError) as error:
    # Orbax wraps what the file system said, or passes it on.
    reason = str(error).splitlines()[0][:300]
    raise OSError(
        f"checkpoint could not be written, earlier ones are complete: {reason}") from error
