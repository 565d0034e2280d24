"""Arrays that are written to disk batch by batch, and resumed after a kill.

Until `samples.npy` is complete there are two files. `samples.npy.partial` holds the rows so far.
`samples.npy.progress` holds the number of complete rows and the settings of the command. A row
counts once it is on disk; an incomplete row is written again. The complete array is renamed in one
step. Memory does not grow with the number of rows. In a
bucket, where nothing can be appended, `samples.npy.partial/` has an object for each batch, and they
are joined at the end.
"""

import io
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.run import buckets, records


class Stream:
  """An array of `shape` that is written to `file`, by the command with the settings `choice`.

  `done` is the number of rows on disk. End with `finish`, or with `close` to resume later, or with
  `discard`.
  """

  def __init__(
      self, file: pathlib.Path, shape: tuple[int, ...], choice: dict[str, Any], *,
      dtype: np.typing.DTypeLike = np.float32, scratch: bool = False,
  ):
    """Opens the unfinished array of the same command, or begins a new one.

    Args:
      scratch: whether that of another command is deleted; the differences are printed.

    Raises:
      ValueError: there is an unfinished array of another command; the message lists the
        differences.
      OSError: the disk fails, or has no room for the whole array.
    """
    self.file, self._shape = file, shape
    self._progress = file.with_name(file.name + ".progress")
    self._choice = json.loads(json.dumps(choice))
    self._dtype = np.dtype(dtype).newbyteorder("<")
    self._row = self._dtype.itemsize * math.prod(shape[1:])
    self._array = (_Objects if buckets.is_bucket(file) else _File)(
        file, _header(shape, self._dtype), self._row)
    self._scratch = scratch
    self.done = self._rows_done()
    records.make_directory(file.parent, "--out")
    if self.done == shape[0] and not self._array.exists():
      return  # complete and renamed: killed while its companions were written
    self._array.begin(self.done, shape[0])
    if not self.done:
      self._write_progress()

  def write(self, rows: np.ndarray) -> None:
    """Appends rows (k, …); they are on disk when this returns."""
    self._array.write(self.done, np.ascontiguousarray(rows, self._dtype).tobytes())
    self.done += len(rows)
    self._write_progress()

  def finish(self) -> None:
    """Renames the complete array. Call `forget` once all other files of the command are written."""
    self.close()
    if self._array.exists():
      self._array.finish()

  def forget(self) -> None:
    """Removes the record of progress: the same command then starts again from the beginning."""
    self._progress.unlink(missing_ok=True)

  def close(self) -> None:
    """Closes the file. The same command resumes there."""
    self._array.close()

  def discard(self) -> None:
    """Deletes the unfinished array, so that it cannot be resumed."""
    self.close()
    self._array.discard()
    self.forget()

  def _write_progress(self) -> None:
    records.write_text(self._progress, json.dumps(
        {"done": self.done, "shape": list(self._shape), "choice": self._choice}, indent=2) + "\n")

  def _rows_done(self) -> int:
    """The number of complete rows on disk; 0 if there is nothing to resume."""
    try:
      progress = records.read_json(self._progress, done=int, shape=list, choice=dict)
    except (FileNotFoundError, ValueError):
      return 0
    done, choice = progress["done"], {**progress["choice"], "shape": progress["shape"]}
    if not progress["shape"] or done <= 0:
      return 0  # no row of any command would be lost
    changes = difference(choice, {**self._choice, "shape": list(self._shape)})
    if changes and self._scratch:
      print(f"beginning anew, without {done} samples of another command: {'; '.join(changes)} "
            "(there → here)", flush=True)
      self._array.discard()
      self.file.unlink(missing_ok=True)
      return 0
    if changes:
      raise ValueError(
          f"--out {self.file} is being made by another command, {done} of "
          f"{progress['shape'][0]} done: "
          f"{'; '.join(changes)} (there → here); finish it with that one, delete {self._progress}, "
          "or choose another --out")
    if self._array.exists():
      # A failing disk may leave fewer rows than were recorded.
      return done if self._array.rows() >= done else 0
    return done if self.file.exists() and done == self._shape[0] else 0


class _File:
  """The rows so far in a file beside the array's."""

  def __init__(self, file: pathlib.Path, header: bytes, row: int):
    self._file, self._header, self._row = file, header, row
    self._partial = file.with_name(file.name + ".partial")
    self._handle = None

  def exists(self) -> bool:
    return self._partial.exists()

  def rows(self) -> int:
    return (self._partial.stat().st_size - len(self._header)) // self._row

  def begin(self, done: int, n: int) -> None:
    wanted = (n - done) * self._row
    if wanted > (free := shutil.disk_usage(self._file.parent).free):
      raise OSError(f"disk full: {self._file} takes {wanted:,} bytes more, {free:,} are free")
    self._handle = self._partial.open("r+b" if done else "wb")
    if not done:
      self._handle.write(self._header)
    self._handle.seek(len(self._header) + done * self._row)
    self._handle.truncate()

  def write(self, first: int, data: bytes) -> None:
    self._handle.write(data)
    self._handle.flush()
    os.fsync(self._handle.fileno())

  def finish(self) -> None:
    os.replace(self._partial, self._file)

  def close(self) -> None:
    if self._handle is not None:
      self._handle.close()
      self._handle = None

  def discard(self) -> None:
    self._partial.unlink(missing_ok=True)


class _Objects:
  """The rows so far in objects of a bucket, each named by its first row."""

  def __init__(self, file: pathlib.Path, header: bytes, row: int):
    self._file, self._header, self._row = file, header, row
    self._partial = file.with_name(file.name + ".partial")

  def exists(self) -> bool:
    return self._partial.is_dir()

  def rows(self) -> int:
    return sum(size for _, size in self._parts()) // self._row

  def _parts(self) -> Iterator[tuple[pathlib.Path, int]]:
    """Each object and its size, from the first row on, to the first that is missing."""
    first = 0
    while (found := buckets.stat(part := self._partial / f"{first:012}")) is not None:
      yield part, found[0]
      first += found[0] // self._row

  def begin(self, done: int, n: int) -> None:
    # The whole array is copied to this machine where it is read.
    place, whole = tempfile.gettempdir(), n * self._row
    if whole > (free := shutil.disk_usage(place).free):
      raise OSError(f"disk full: a copy of {self._file} takes {whole:,} bytes in {place}, {free:,} "
                    "are free")
    if not done:
      self.discard()

  def write(self, first: int, data: bytes) -> None:
    buckets.write(self._partial / f"{first:012}", data)

  def finish(self) -> None:
    buckets.join(self._file, self._header, (part for part, _ in self._parts()))
    self.discard()

  def close(self) -> None:
    """Every row is there already."""

  def discard(self) -> None:
    buckets.delete_folder(self._partial)


def unfinished(file: pathlib.Path) -> bool:
  """Whether a command has begun `file` and has not yet written all of its files."""
  return file.with_name(file.name + ".progress").exists()


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  """The header of a .npy of format 1.0."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
      header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
  return header.getvalue()


def difference(old: Any, new: Any, prefix: str = "") -> list[str]:
  """The lines "name: old → new", one for each leaf in which two nested dicts differ."""
  if isinstance(old, dict) and isinstance(new, dict):
    return [line for name in {**old, **new} for line in difference(
        old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)]
  return [] if old == new else [f"{prefix}: {old!r} → {new!r}"]
