"""Picture files in a folder, read when indexed."""

import concurrent.futures
import os
import pathlib
import sys

import numpy as np

from experiments.data import readers
from experiments.run import progress

# The numbers of files of other kinds, and of unreadable files, that a message names.
_MOST_NAMES, _MOST_ERRORS = 5, 100
# Files that are looked at between two updates of the progress.
_PART = 1000
# Suffixes of pictures that are no `readers.IMAGE_SUFFIXES`.
_NOT_READ = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".ppm", ".pgm", ".tga",
             ".svg", ".psd")


class Pictures:
  """Image files as an array (n, h, w, channels) uint8, read when indexed."""

  dtype = np.dtype(np.uint8)

  def __init__(
      self, files: list[pathlib.Path], size: int, channels: int, shape: tuple[int, ...]
  ):
    self._files, self._size, self._channels = files, size, channels
    self._unread = len(files)  # until all have been read once
    first, file = self._first()
    self._example_shape = shape if shape and not size else first
    self._check_shape(file, first)
    self.shape = (len(files), *self._example_shape)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    """The images (k, h, w, channels) at integers (k,); one thread per core reads them.

    Raises:
      ValueError: an image has another shape, or files cannot be read. Until all have been read
        once, it names all that cannot be read, also those that are not indexed.
    """
    # The array is filled in place: a list of images would double the memory.
    x = np.empty((len(index), *self.shape[1:]), np.uint8)

    def fill(place: int) -> str:
      file = self._files[index[place]]
      try:
        image = readers.read_image(file, self._size, self._channels)
      except readers.Unreadable as error:
        return error.what
      self._check_shape(file, image.shape)
      x[place] = image
      return ""

    if bad := list(filter(None, _in_threads(fill, range(len(index))))):
      if self._unread > 0:  # data are read in parts, but the user mends all files at once
        bad = list(filter(None, _faults(self._files))) or bad
      raise _merge(bad)
    self._unread -= len(index)
    return x

  def _first(self) -> tuple[tuple[int, ...], pathlib.Path]:
    """The shape of the first file that can be read, and the file."""
    errors = []
    for file in self._files:
      try:
        return readers.read_image(file, self._size, self._channels).shape, file
      except readers.Unreadable as error:
        errors.append(error.what)
    raise _merge(errors)

  def _check_shape(self, file: pathlib.Path, shape: tuple[int, ...]) -> None:
    if shape != self._example_shape:
      raise ValueError(f"data.shape: with data.size=0 every image must be {self._example_shape}; "
                       f"{str(file)!r} is {shape}. Set data.size to resize them")


def readable(files: list[pathlib.Path]) -> list[pathlib.Path]:
  """The files that can be read; prints a warning that names the others."""
  faults = _faults(files)
  if bad := list(filter(None, faults)):
    print(f"warning: {len(bad)} of {len(files)} pictures cannot be read and are left out: "
          f"{_names(bad)}", file=sys.stderr, flush=True)
  return [file for file, fault in zip(files, faults, strict=True) if not fault]


def _faults(files: list[pathlib.Path]) -> list[str]:
  """Of each file, what is wrong with it; "" if it can be read."""

  def fault(file: pathlib.Path) -> str:
    try:
      readers.read_image(file, 1, 1)
    except readers.Unreadable as error:
      return error.what  # the error itself would keep the picture in memory
    return ""

  found: list[str] = []
  with progress.bar(len(files), 0, "looking for unreadable files") as bar:
    for first in range(0, len(files), _PART):
      found += _in_threads(fault, files[first:first + _PART])
      bar(len(found))
  return found


def _in_threads(function, values) -> list:
  """The results of `function` for all values, computed by one thread per core."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    futures = [pool.submit(function, value) for value in values]
    try:
      return [future.result() for future in futures]
    finally:
      pool.shutdown(cancel_futures=True)


def _merge(faults: list[str]) -> readers.Unreadable:
  """One error for several files, with a message of one line."""
  return readers.Unreadable(
      f"{_names(faults)}. images(…, skip_unreadable=True) leaves such files out",
      f"{len(faults)} files " if len(faults) > 1 else "")


def _names(faults: list[str]) -> str:
  return "; ".join(faults[:_MOST_ERRORS]) + "; …" * (len(faults) > _MOST_ERRORS)


def pictures(root: pathlib.Path) -> list[pathlib.Path]:
  """The picture files under `root`, sorted. Links are followed; names with a dot are left out.

  A warning names pictures of kinds that are not read.

  Raises:
    ValueError: a folder cannot be read, a link is broken, or a picture is not a file.
  """
  files, others = [], []

  def walk(folder, parents):
    parents = {*parents, folder.resolve()}
    for entry in _entries(folder):
      if entry.is_dir():
        if entry.resolve() not in parents:  # a link to a parent would never end
          walk(entry, parents)
      elif entry.suffix.lower() in readers.IMAGE_SUFFIXES and entry.is_file():
        files.append(entry)
      elif entry.suffix.lower() in readers.IMAGE_SUFFIXES or not entry.exists():
        what = "a link to nothing" if entry.is_symlink() else "no file"
        raise ValueError(f"data.path: {str(entry)!r} is {what}: mend or remove it")
      elif entry.suffix.lower() in _NOT_READ:
        others.append(str(entry))

  try:
    walk(root, set())
  except OSError as error:
    raise ValueError(f"data.path: {str(error.filename or root)!r} cannot be read: "
                     f"{readers.one_line(error)}") from error
  if others:
    names = ", ".join(others[:_MOST_NAMES]) + ", …" * (len(others) > _MOST_NAMES)
    print(f"warning: pictures of kinds that are not read are left out, {len(others)}: {names}",
          file=sys.stderr, flush=True)
  return sorted(files)


def folders(root: pathlib.Path) -> set[str]:
  """The names of the folders in `root`, except for those that begin with a dot."""
  return {entry.name for entry in _entries(root) if entry.is_dir()}


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  return [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
