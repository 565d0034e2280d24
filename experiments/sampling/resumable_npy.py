"""Arrays that are written to disk batch by batch, and gone on with after a kill.

While `samples.npy` is being made there are `samples.npy.partial`, the array so far, and
`samples.npy.progress`, which says how many rows of it are whole and of which command they are. A
row counts once it is on disk; what a kill has cut off is written again. The array gets its own name
in one step when it is complete, and memory does not grow with it.
"""

import io
import json
import math
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from experiments.run import records


class Stream:
  """One array of `shape` on its way to `file`, of the command that `choice` describes.

  `done` rows are there already. `close` it where it is left, or `finish` it, or `discard` it.
  """

  def __init__(
      self, file: pathlib.Path, shape: tuple[int, ...], choice: dict[str, Any], *,
      dtype: np.typing.DTypeLike = np.float32,
  ):
    """Opens what an earlier run of the same command has left, or begins.

    Raises:
      ValueError: another command's array is unfinished there; says what differs.
      OSError: the disk, also where it has no room for the whole.
    """
    self.file, self._shape = file, shape
    self._partial = file.with_name(file.name + ".partial")
    self._progress = file.with_name(file.name + ".progress")
    self._choice = json.loads(json.dumps(choice))
    self._dtype = np.dtype(dtype).newbyteorder("<")
    self._row = self._dtype.itemsize * math.prod(shape[1:])
    self._header = _header(shape, self._dtype)
    self.done = self._left()
    file.parent.mkdir(parents=True, exist_ok=True)
    self._handle = None
    if self.done == shape[0] and not self._partial.exists():
      return  # complete and renamed: killed while its companions were written
    wanted = (shape[0] - self.done) * self._row
    if wanted > (free := shutil.disk_usage(file.parent).free):
      raise OSError(f"disk full: {file} takes {wanted:,} bytes more, {free:,} are free")
    self._handle = self._partial.open("r+b" if self.done else "wb")
    if not self.done:
      self._handle.write(self._header)
      self._note()
    self._handle.seek(len(self._header) + self.done * self._row)
    self._handle.truncate()

  def write(self, rows: np.ndarray) -> None:
    """Appends rows (k, …); they are on disk when this returns."""
    self._handle.write(np.ascontiguousarray(rows, self._dtype).tobytes())
    self._handle.flush()
    os.fsync(self._handle.fileno())
    self.done += len(rows)
    self._note()

  def finish(self) -> None:
    """Gives the complete array its name; `forget` is to follow when all that goes with it is."""
    self.close()
    if self._partial.exists():
      os.replace(self._partial, self.file)

  def forget(self) -> None:
    """The end: from here on the same command begins anew."""
    self._progress.unlink(missing_ok=True)

  def close(self) -> None:
    if self._handle is not None:
      self._handle.close()
      self._handle = None

  def discard(self) -> None:
    """Leaves nothing: for arrays that must not be gone on with."""
    self.close()
    self._partial.unlink(missing_ok=True)
    self.forget()

  def _note(self) -> None:
    records.write_text(self._progress, json.dumps(
        {"done": self.done, "shape": list(self._shape), "choice": self._choice}, indent=2) + "\n")

  def _left(self) -> int:
    """Rows that are whole; 0 where there is nothing to go on with."""
    try:
      left = records.read_json(self._progress, done=int, shape=list, choice=dict)
    except (FileNotFoundError, ValueError):
      return 0
    done, choice = left["done"], {**left["choice"], "shape": left["shape"]}
    if not (left["shape"] and done >= 0):
      return 0
    if not done:
      return 0  # nothing is lost by beginning anew, whatever command it was
    changes = difference(choice, {**self._choice, "shape": list(self._shape)})
    if changes:
      raise ValueError(
          f"--out {self.file} is being made by another command, {done} of {left['shape'][0]} done: "
          f"{'; '.join(changes)} (there → here); finish it with that one, delete {self._progress}, "
          "or choose another --out")
    if self._partial.exists():
      # Less than was noted is what a failing disk leaves.
      rows = (self._partial.stat().st_size - len(self._header)) // self._row
      return done if rows >= done else 0
    return done if self.file.exists() and done == self._shape[0] else 0


def unfinished(file: pathlib.Path) -> bool:
  """Whether `file`, or what goes with it, is yet to be completed by the command that began it."""
  return file.with_name(file.name + ".progress").exists()


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  """What a .npy begins with."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
      header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
  return header.getvalue()


def difference(old: Any, new: Any, prefix: str = "") -> list[str]:
  """One "name: old → new" for each leaf in which two trees of dicts differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    return [line for name in {**old, **new} for line in difference(
        old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)]
  return [] if old == new else [f"{prefix}: {old!r} → {new!r}"]
