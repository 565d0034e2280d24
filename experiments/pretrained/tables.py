"""The mechanism of layouts: one table of rows, their name → ours.

A row names a layer, whose weight and bias are our kernel (or scale) and bias, or one array. Names
hold places such as {level} and {i}. The values of ours give those of theirs, with the numbers that
a layout derives from them.

  Row("down_{level}_{i}/hidden", "down_blocks.{level}.resnets.{i}.conv1")

Where their name has {i} and ours has not, ours holds their layers along its first axis.
"""

import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.pretrained.weights import Weights

How = Callable[[list[np.ndarray], tuple[int, ...]], np.ndarray]
Numbers = Callable[[dict[str, int]], dict[str, int]]
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_SHOWN = 5


def plain(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """(out, in, *sides) as (*sides, in, out), without sides of 1 where ours has none; vectors as
  they are. Several arrays are joined along their outputs."""
  a = np.concatenate(arrays)
  if a.ndim < 2:
    return a
  a = np.moveaxis(a, (0, 1), (-1, -2))
  return a.reshape(a.shape[-2:]) if len(shape) == 2 and a.size == math.prod(a.shape[-2:]) else a


def first_outputs(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """The first outputs alone: the others are a learned variance."""
  return plain([arrays[0][:shape[-1]]], shape)


def negated(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """Outputs of the other sign."""
  return -plain(arrays, shape)


def sines_first(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """A kernel on (sin, cos) as one on (cos, sin); the bias is as it is."""
  a = arrays[0]
  return plain([np.roll(a, a.shape[1] // 2, axis=1) if a.ndim == 2 else a], shape)


def embedding(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """Rows by label; a row of zeros for no label where there is none."""
  (a,) = arrays
  return np.concatenate([a, np.zeros_like(a[:1])]) if len(a) == shape[0] - 1 else a


def one_hot_product(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """A product of one-hot labels."""
  return embedding([arrays[0].T], shape)


def scaled_one_hot_product(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """A product and a bias of one-hot labels, scaled by the root of their number, on (sin, cos)."""
  rows = arrays[0].T * math.sqrt(shape[0] - 1)
  return np.roll(np.concatenate([rows + arrays[1], arrays[1][None]]), shape[1] // 2, axis=1)


def qkv(order: str, depth: int | None, heads: int = 1) -> How:
  """Outputs in the order of 3 (q, k, v), h (heads) and d (depth) as ours, "h3d".

  Args:
    depth: of a head; None is as many heads as `heads`.
  """
  def how(arrays, shape):
    a = np.concatenate(arrays)
    size = len(a) // 3
    each = depth or size // heads
    sizes = {"3": 3, "h": size // each, "d": each}
    split = a.reshape(*(sizes[axis] for axis in order), *a.shape[1:])
    split = np.moveaxis(split, [order.index(axis) for axis in "h3d"], (0, 1, 2))
    return plain([split.reshape(a.shape)], shape)

  return how


class Row(NamedTuple):
  """ours, theirs: names of a layer or of an array; several, or none, of theirs make one of ours."""

  ours: str
  theirs: str | tuple[str, ...]
  how: How = plain


def rows(
    places: Sequence[tuple[str, str]], layers: Sequence[tuple[Any, ...]]
) -> tuple[Row, ...]:
  """The rows of the same layers (ours, theirs[, how]) at several places (ours, theirs)."""
  join = lambda place, name: (tuple(f"{place}.{each}" for each in name)
                              if isinstance(name, tuple) else f"{place}.{name}")
  return tuple(Row(f"{our_place}/{ours}", join(their_place, theirs), *how)
               for our_place, their_place in places for ours, theirs, *how in layers)


def fill(
    shapes: Mapping[str, tuple[int, ...]], weights: Weights, table: Sequence[Row], *,
    numbers: Numbers = lambda found: found, ignored: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Our arrays by path, float32, from theirs.

  Args:
    shapes: of our parameters, by path.
    numbers: what the places in our name are → what may stand in theirs.
    ignored: patterns (fnmatch) of tensors that have no place here.

  Raises:
    ValueError: tensors that are missing, have another shape, or that no row takes; by their name.
  """
  filled, used, missing, misshapen = {}, set(), [], []
  for path, shape in shapes.items():
    row, values, leaf = _row_of(path, table)
    stacked = "{i}" in str(row.theirs) and "i" not in values
    parts = []
    for i in range(shape[0] if stacked else 1):
      names = _their_names(row, numbers(values | ({"i": i} if stacked else {})), leaf)
      used.update(names)
      missing += (absent := [name for name in names if name not in weights.tensors])
      if not absent:
        arrays, inner = [weights.tensors[name] for name in names], shape[stacked:]
        try:
          value = row.how(arrays, inner)
          if value.shape != inner:
            raise ValueError
          parts.append(value)
        except (ValueError, IndexError):
          misshapen.append(f"{names[0]} {arrays[0].shape} where {path} is {inner}")
    if len(parts) == (shape[0] if stacked else 1):
      filled[path] = np.asarray(np.stack(parts) if stacked else parts[0], np.float32)
  extra = [name for name in weights.tensors if name not in used and not any(
      fnmatch.fnmatch(name, pattern) for pattern in ignored)]
  _refuse(weights, missing=missing, misshapen=misshapen, extra=extra)
  return filled


def _refuse(weights: Weights, **wrong: list[str]) -> None:
  said = [f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', …' * (len(names) > _SHOWN)})"
          for kind, names in wrong.items() if names]
  if said:
    raise ValueError(f"--weights={weights.place}: tensors do not fit the network: "
                     f"{'; '.join(said)}")


def _row_of(path: str, table: Sequence[Row]) -> tuple[Row, dict[str, int], str]:
  """(the row of a parameter, the values of the places in its name, the leaf of a layer or "")."""
  layer, _, leaf = path.rpartition("/")
  for name, end in ((path, ""), (layer, leaf)):
    for row in table:
      pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(row.ours))
      if match := re.fullmatch(pattern, name):
        return row, {key: int(value) for key, value in match.groupdict().items()}, end
  raise ValueError(f"the layout has no row for {path}")


def _their_names(row: Row, numbers: Mapping[str, int], leaf: str) -> list[str]:
  theirs = (row.theirs,) if isinstance(row.theirs, str) else row.theirs
  end = f".{_LEAVES[leaf]}" if leaf else ""
  return [name.format(**numbers) + end for name in theirs]
