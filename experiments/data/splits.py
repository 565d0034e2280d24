"""Sources: examples in the user's units, and the choice of held-out examples."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Source(NamedTuple):
  """n examples with their labels and conditions, in the user's units.

  `x` and the values of `conditions` are arrays, or objects with `shape`, `dtype`, `__len__` and
  `__getitem__` of integers (k,) that read examples when indexed.
  """

  x: Any  # (n, *shape)
  labels: np.ndarray | None  # (n,) class numbers; None when unconditional
  held_out: np.ndarray  # (n,) bool
  num_classes: int  # 0 when unconditional
  kind: str  # of `kinds.KINDS`
  value_range: tuple[float, float] | None  # of images
  classes: tuple[str, ...] = ()  # names, in the order of labels, if they have names
  names: tuple[str, ...] | None = None  # the file of each example, if each has its own
  conditions: Mapping[str, Any] = {}  # (n, …) float32, int32 or bool, by name
  augmentation: Any = None  # of training images, an `augmentation.Augmentation`
  units: tuple[float, float] | None = None  # (mean, scale) in the place of those of the examples
  vocabulary: tuple[str, ...] = ()  # of tokens: the symbol of each; () are their numbers


def hold_out(
    x: Any, labels: np.ndarray | None, holdout: float, *, kind: str,
    value_range: tuple[float, float] | None,
) -> Source:
  """Holds out ⌊n·holdout⌋ examples, a proportional number ±1 of every class.

  The choice is the same in every call.

  Raises:
    ValueError: one side has no example, or a class has no training example.
  """
  n = len(x)
  num_classes = 0 if labels is None else int(labels.max()) + 1
  if not 0.0 < holdout < 1.0 or not int(n * holdout) > 0:
    raise ValueError("data.holdout must be a fraction between 0 and 1 that leaves an example to "
                     f"train on and one to test on; got {holdout} of {n}")
  order = np.random.default_rng(0).permutation(n)
  if labels is not None:
    order = order[np.argsort(labels[order], kind="stable")]
  # Shuffled and sorted by class, every (1/holdout)-th example is held out.
  held_out = np.zeros(n, bool)
  held_out[order[np.diff(np.floor(np.arange(n + 1) * holdout)) > 0]] = True
  if labels is not None:
    check_classes(labels[~held_out], labels)
  return Source(x, labels, held_out, num_classes, kind, value_range)


def check_classes(train: np.ndarray, labels: np.ndarray) -> None:
  """Raises ValueError if a class has no training example.

  The network would have an untrained embedding for it.
  """
  count, num_classes = np.bincount(train), int(labels.max()) + 1
  empty = np.flatnonzero(np.pad(count, (0, num_classes - len(count))) == 0)
  if len(empty):
    largest = np.flatnonzero(labels == num_classes - 1)
    raise ValueError(
        f"data labels must be class numbers 0, 1, 2, … without gaps; class {empty[0]} of "
        f"{num_classes} has no example to train on"
        + (f", nor have {len(empty) - 1} others" if len(empty) > 1 else "")
        + f": the largest label, {num_classes - 1}, is that of {len(largest)} examples, the first "
        f"at index {largest[0]}")


def condition_classes(*conditions: Mapping[str, np.ndarray]) -> dict[str, int]:
  """The number of classes of each integer condition: its largest value plus one.

  Raises:
    ValueError: a negative integer.
  """
  classes: dict[str, int] = {}
  for name, value in (item for values in conditions for item in values.items()):
    if np.issubdtype(value.dtype, np.integer) and value.size:
      if np.min(value) < 0:
        raise ValueError(f"config.data: condition {name!r} has integers, which are classes from 0; "
                         f"got {np.min(value)}")
      classes[name] = max(classes.get(name, 0), int(np.max(value)) + 1)
  return classes
