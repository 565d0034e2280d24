"""Files that are written whole or not at all, and directories that have one writer.

Where `pathlib.Path` is said, it may be a path in a bucket (`buckets`), with the same methods.
"""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from experiments.run import buckets, leases


def path(flag: str, value: str) -> pathlib.Path:
  """The path that a flag names: in a bucket, or with ~ and ~user as in a shell.

  Raises:
    ValueError: the user has no home directory; as `buckets.path`.
  """
  if buckets.is_bucket(value):
    return buckets.path(flag, value)
  try:
    return pathlib.Path(value).expanduser()
  except RuntimeError as error:
    user = pathlib.Path(value).parts[0]
    raise ValueError(f"{flag} {value}: {user} is no home directory here; write the path out"
                     ) from error


@contextlib.contextmanager
def written(file: pathlib.Path) -> Iterator[BinaryIO]:
  """A stream whose content replaces `file` in one step, once it is left without an error.

  A reader sees the old or the new, never a part.
  """
  if buckets.is_bucket(file):
    content = io.BytesIO()
    yield content
    buckets.write(file, content.getvalue())
    return
  temporary = file.with_name(file.name + ".tmp")
  with temporary.open("wb") as stream:
    yield stream
    stream.flush()
    os.fsync(stream.fileno())
  os.replace(temporary, file)


def write_text(file: pathlib.Path, text: str) -> None:
  """Replaces `file` by `text` in one step."""
  with written(file) as stream:
    stream.write(text.encode("utf-8"))


def load(file: pathlib.Path) -> np.ndarray:
  """The array in a .npy file, mapped into memory; one in a bucket is copied to this machine."""
  if not buckets.is_bucket(file):
    return np.load(file, mmap_mode="r")
  with tempfile.TemporaryDirectory() as scratch:
    # On Linux what is mapped stays readable when its name is gone.
    return np.load(fetched(file, pathlib.Path(scratch)), mmap_mode="r")


def fetched(file: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
  """A file on this machine with the content of `file`: itself, or a copy in `scratch`."""
  if not buckets.is_bucket(file):
    return file
  copy = scratch / file.name
  with file.open("rb") as source, copy.open("wb") as target:
    shutil.copyfileobj(source, target, 2**22)
  return copy


class Lines:
  """A file that begins with `text` and grows by lines, which are there after `sync`.

  On a disk they are appended. In a bucket the whole object is written again at each `sync`, on the
  condition that nobody else has written it.
  """

  def __init__(self, file: pathlib.Path, text: str):
    self._file, self._stream = file, None
    if buckets.is_bucket(file):
      self._text, self._synced = [text], 1
      self._generation = buckets.write(file, text.encode("utf-8"))
    else:
      write_text(file, text)
      self._stream = file.open("a", encoding="utf-8")

  def add(self, line: str) -> None:
    if self._stream is None:
      self._text.append(line)
    else:
      self._stream.write(line)

  def sync(self) -> None:
    """Raises OSError where the file cannot be written."""
    if self._stream is not None:
      self._stream.flush()
      os.fsync(self._stream.fileno())
    elif len(self._text) > self._synced:
      try:
        self._generation = buckets.write(
            self._file, "".join(self._text).encode("utf-8"), generation=self._generation)
      except FileExistsError as error:
        raise self._replaced() from error
      self._synced = len(self._text)

  def check(self) -> None:
    """Raises OSError where the file is no longer the one that is being written."""
    if self._stream is None:
      found = buckets.stat(self._file)
      there = found is not None and found[1] == self._generation
    else:
      try:
        there = os.path.samestat(self._file.stat(), os.fstat(self._stream.fileno()))
      except FileNotFoundError:
        there = False
    if not there:
      raise self._replaced()

  def _replaced(self) -> OSError:
    return OSError(f"--workdir {self._file.parent} was deleted, renamed or replaced while this "
                   "run wrote there; nothing more was written")

  def close(self) -> None:
    self.sync()
    if self._stream is not None:
      self._stream.close()


@contextlib.contextmanager
def locked(workdir: pathlib.Path, *, flag: str = "--workdir") -> Iterator[None]:
  """Makes `workdir`, named by `flag`, and keeps every other writer out, until left or killed.

  Raises:
    ValueError: it is a file, or another process writes there; says which.
    OSError: it cannot be made or written.
  """
  make_directory(workdir, flag)
  if buckets.is_bucket(workdir):
    with leases.held(workdir / ".lock", flag):
      yield
    return
  with (workdir / ".lock").open("a+", encoding="utf-8") as file:
    try:
      # The kernel's lock: it ends with the process, however that ends.
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      owner = file.read().strip() or "another process"
      raise ValueError(f"{flag} {workdir} is in use by {owner}; wait for it or choose another "
                       f"{flag}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    try:
      yield
    finally:
      file.truncate(0)


def make_directory(workdir: pathlib.Path, flag: str = "--workdir") -> None:
  """Makes `workdir`, named by `flag`; raises ValueError where it is a file."""
  if buckets.is_bucket(workdir):
    return  # it has no directories, only names with slashes
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"{flag} {workdir} is a file")
  workdir.mkdir(parents=True, exist_ok=True)


def move(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Moves a directory, in the place of another one if there is one."""
  if buckets.is_bucket(folder):
    buckets.move(folder, target)
  else:
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(folder, target)


def delete_folder(folder: pathlib.Path) -> None:
  """Deletes a directory and all below it, if it is there."""
  if buckets.is_bucket(folder):
    buckets.delete_folder(folder)
  else:
    shutil.rmtree(folder, ignore_errors=True)


def link(target: pathlib.Path, name: pathlib.Path) -> None:
  """Makes `name` a symbolic link to a file or directory; in a bucket a copy of it."""
  if buckets.is_bucket(name):
    buckets.copy(target, name)
  else:
    name.symlink_to(os.path.relpath(target, name.parent))


def is_empty(file: pathlib.Path) -> bool:
  """Whether there is nothing that could be lost by writing it."""
  if buckets.is_bucket(file):
    return not file.exists()
  return not (file.is_dir() or (file.exists() and file.stat().st_size))


def absolute(path: pathlib.Path) -> pathlib.Path:
  """Where it is, however it is named."""
  return path if buckets.is_bucket(path) else path.resolve()


# What a run and a sweep write themselves, in directories that hold a config.json.
_OWN_FILES = ("config.json", "data.json", "data_moments.npy", "manifest.json", "metrics.jsonl",
              "grids.json", "result.json", ".lock", "loss.png", "loss_by_level.png")
_OWN_DIRECTORIES = ("checkpoints", "snapshots", "samples", "damaged_checkpoints", "arms")


def check_not_owned(
    files: Sequence[pathlib.Path], inputs: Sequence[str | pathlib.Path] = ()
) -> None:
  """Raises ValueError where one of `files`, of `--out`, is a run's own or among `inputs`.

  Args:
    inputs: files, and directories with all that is in them; names of neither are left out.
  """
  read = [place for given in inputs if given
          and (place := absolute(_expanded(str(given)))).exists()]
  for file in files:
    whole = absolute(file)
    for place in read:
      # A run may have been put into its data's directory: what lies beside its config is its own.
      own = (whole.parent / "config.json").is_file()
      if place == whole or (place in whole.parents and not own):
        raise ValueError(f"--out: {file} is or lies in {place}, which is read; choose another "
                         "--out")
    for parent in whole.parents:
      name = whole.relative_to(parent).parts[0]
      own = name in _OWN_FILES if parent == whole.parent else name in _OWN_DIRECTORIES
      if own and (parent / "config.json").is_file():
        raise ValueError(f"--out: {file} is a name of the run in {parent} itself; choose another "
                         "--out")


def _expanded(given: str) -> pathlib.Path:
  return (buckets.path("--out", given) if buckets.is_bucket(given)
          else pathlib.Path(os.path.expanduser(given)))


def wrote(file: pathlib.Path, written: Callable[[Any], bool]) -> bool:
  """Whether `file` is a JSON of which `written` is true."""
  try:
    return bool(written(json.loads(file.read_text(encoding="utf-8"))))
  except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
    return False


def read_json(file: pathlib.Path, **kinds: Any) -> dict[str, Any]:
  """The JSON object in a file of ours, with at least the fields of `kinds`, which are types.

  Raises:
    ValueError: it is cut, edited into something else, or not text; names the file.
    OSError: it cannot be read.
  """
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
  except RecursionError:
    raise ValueError(f"{file} is damaged: it is nested too deeply") from None
  except ValueError as error:  # of JSON, UTF-8 or an integer of thousands of digits
    raise ValueError(f"{file} is damaged: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{file} is damaged: expected an object, got {type(found).__name__}")
  for name, kind in kinds.items():
    if name not in found:
      raise ValueError(f"{file} is damaged: it lacks {name!r}")
    if not isinstance(found[name], kind):
      raise ValueError(f"{file} is damaged: {name!r} is of type {type(found[name]).__name__}")
  return found
