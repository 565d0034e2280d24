"""Objects with `__len__` and `__getitem__` as columns of arrays: Grain's random-access protocol.

Such objects are Grain's data sources, Datasets of PyTorch and of Hugging Face, the results of
`tensorflow_datasets.data_source`, and objects of the user. An item is an array, a tuple (array,
label), or a dict with `x` or `image`, an optional `label`, and named conditions.
"""

import concurrent.futures
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.data import readers

_BLOCK_BYTES = 2**26


class Items:
  """The column `x` of n items, as an array (n, *shape) that reads items when indexed.

  `columns` reads all columns of some items. `specs` has the (shape, dtype) of each column of one
  item.
  """

  def __init__(self, items: Any, name: str):
    """`name` is the name of the object in messages."""
    self._items, self._name = items, name
    self._length = len(items)
    if not self._length:
      raise ValueError(f"{name} must have items; len() says 0")
    self.specs = {key: (value.shape, value.dtype) for key, value in self._item(0).items()}
    shape, self.dtype = self.specs["x"]
    self.shape = (self._length, *shape)
    self.ndim, self.size = len(self.shape), int(np.prod(self.shape))

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    return self.columns(index)["x"]

  def columns(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """All columns, each (k, …), of the items `index` (k,); one thread per core reads them.

    Raises:
      ValueError: an item cannot be read, or differs from the first in names, shapes or dtypes.
    """
    columns = {name: np.empty((len(index), *shape), dtype)
               for name, (shape, dtype) in self.specs.items()}

    def fill(place: int) -> None:
      for name, value in self._item(int(index[place])).items():
        columns[name][place] = value

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      futures = [pool.submit(fill, place) for place in range(len(index))]
      try:
        for future in futures:
          future.result()
      finally:
        pool.shutdown(cancel_futures=True)
    columns["x"] = columns["x"].reshape(len(index), *self.shape[1:])
    return columns

  def blocks(self) -> list[np.ndarray]:
    """The indices of all items in blocks of at most 64 MB, or of one item."""
    size = sum(np.prod(shape) * dtype.itemsize for shape, dtype in self.specs.values())
    rows = max(1, int(_BLOCK_BYTES // max(size, 1)))
    return [np.arange(first, min(first + rows, self._length))
            for first in range(0, self._length, rows)]

  def bytes_in_memory(self) -> float:
    """The memory of all columns, with a second copy of `x` as float32."""
    sizes = [np.prod(shape) * dtype.itemsize for shape, dtype in self.specs.values()]
    return self._length * (sum(sizes) + 4.0 * np.prod(self.shape[1:]))

  def _item(self, i: int) -> dict[str, np.ndarray]:
    """The checked columns of item i."""
    what = f"item {i} of {self._name}"
    try:
      item = self._items[i]
      columns = {name: _array(value, name) for name, value in _columns(item, what).items()}
    except ValueError as error:
      raise ValueError(str(error) if str(error).startswith(what) else
                       f"{what}: {readers.one_line(error)}") from error
    except Exception as error:  # a user's object may raise anything
      raise ValueError(f"{what}: {type(error).__name__}: {readers.one_line(error)}") from error
    for name, value in columns.items():
      if value.dtype.kind not in "biuf":
        raise ValueError(f"{what}: {name!r} must be numbers, not of dtype {value.dtype}; leave "
                         "it out, or encode it")
    if i:
      self._check_like_first(columns, what)
    return columns

  def _check_like_first(self, columns: Mapping[str, np.ndarray], what: str) -> None:
    """Raises ValueError if names, shapes or dtypes differ from those of item 0."""
    if set(columns) != set(self.specs):
      raise ValueError(f"{what} has {', '.join(sorted(columns))}, and item 0 "
                       f"{', '.join(sorted(self.specs))}; all items must have the same")
    for name, value in columns.items():
      shape, dtype = self.specs[name]
      # Integers that are too large for the dtype of the first item would wrap around.
      cast = "same_kind" if dtype.kind == "f" else "safe"
      if value.shape != shape or not np.can_cast(value.dtype, dtype, cast):
        raise ValueError(f"{what}: {name!r} has shape {value.shape} and dtype {value.dtype}, and "
                         f"in item 0 {shape} and {dtype}; all items must be alike")


class Column:
  """One condition of `Items`, an array (n, …) that is read when indexed."""

  def __init__(self, items: Items, name: str, dtype: np.dtype):
    self._items, self._name, self.dtype = items, name, dtype
    self.shape = (len(items), *items.specs[name][0])

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    return self._items.columns(index)[self._name].astype(self.dtype)


class Joined:
  """The items of `first` followed by those of `second`."""

  def __init__(self, first: Any, second: Any):
    self._first, self._second = first, second

  def __len__(self) -> int:
    return len(self._first) + len(self._second)

  def __getitem__(self, i: int) -> Any:
    n = len(self._first)
    return self._first[i] if i < n else self._second[i - n]


def _array(value: Any, name: str) -> np.ndarray:
  """An array of a column; raises ValueError for a picture of Pillow that holds palette numbers."""
  if getattr(value, "mode", "") == "P":
    raise ValueError(f"{name!r} is a picture whose pixels are numbers of a palette: "
                     "convert('RGB') it")
  return np.asarray(value)


def _columns(item: Any, what: str) -> dict[str, Any]:
  """The columns of an item by name: x, label and conditions."""
  if isinstance(item, Mapping):
    columns = dict(item)
    if "x" in columns and "image" in columns:
      raise ValueError(f"{what} has both 'x' and 'image': name one of them otherwise")
    if "image" in columns:
      columns["x"] = columns.pop("image")
    if "x" not in columns:
      raise ValueError(f"{what} must have 'x' or 'image'; it has {', '.join(map(str, columns))}")
    return columns
  if isinstance(item, tuple):
    if len(item) != 2:
      raise ValueError(f"{what} must be an array, a tuple (array, label) or a dict with 'x' or "
                       f"'image'; it is a tuple of {len(item)}")
    return {"x": item[0], "label": item[1]}
  return {"x": item}
