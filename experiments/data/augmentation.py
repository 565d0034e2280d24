"""Augmentation of training images, a pure function of (seed, place in the run's sequence).

  data="augmented(images(path='my/folder', size=32), flip=True, shift=2)"

The random bits for the example at place p depend only on (seed, p). Therefore a run resumes bit for
bit, and every process can augment its own rows. Held-out examples, mean, scale and fingerprint are
those of the original images.
"""

from typing import Any, NamedTuple

import numpy as np

from experiments.data import shuffle, user_data
from experiments.data.splits import Source

_STREAM = 0x6175676D  # distinguishes these random bits from those of the order


class Augmentation(NamedTuple):
  """flip: mirror left to right with probability ½. shift: largest shift along each axis, pixels."""

  flip: bool
  shift: int

  def apply(self, x: np.ndarray, places: np.ndarray, seed: int) -> np.ndarray:
    """The images x (n, h, w, c), at places (n,) of the run's sequence, augmented."""
    bits = shuffle.bits(places, seed=seed, stream=_STREAM)
    if self.flip:
      x = np.where((bits & np.uint64(1)).astype(bool)[:, None, None, None], x[:, :, ::-1], x)
    if self.shift:
      moves = np.uint64(2 * self.shift + 1)
      down, right = ((bits >> np.uint64(first) & np.uint64(2**24 - 1)) % moves
                     for first in (8, 32))
      rows = self._reflected(down, x.shape[1])
      columns = self._reflected(right, x.shape[2])
      x = x[np.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return x

  def _reflected(self, moves: np.ndarray, size: int) -> np.ndarray:
    """The source index of each pixel, (n, size). Beyond an edge the image is reflected."""
    index = np.abs(np.arange(size) + moves.astype(np.int64)[:, None] - self.shift)
    return np.where(index < size, index, 2 * (size - 1) - index)


def augmented(data: Source, *, flip: bool = True, shift: int = 0) -> Source:
  """The images of another call of data, randomly changed in every training batch.

  Args:
    data: a call, such as images(path='my/folder', size=32).
    flip: whether an image is mirrored left to right with probability ½.
    shift: the largest shift along each axis, in pixels. Beyond its edges the image is reflected.

  Raises:
    ValueError: data that are no images, a shift as large as they are, or a condition of images,
      which would no longer lie on those that are changed.
  """
  source: Any = data if hasattr(data, "train_labels") else user_data.source(data)
  if source.kind != "image":
    raise ValueError(f"augmented is for images; the data are of kind {source.kind!r}")
  shape = (source.train if hasattr(source, "train") else source.x).shape
  if not 0 <= shift < min(shape[1:3]):
    raise ValueError(f"shift must be from 0 to {min(shape[1:3]) - 1}, less than a side of the "
                     f"images; got {shift}")
  for name, value in source.conditions.items():
    if len(value.shape) > 2 + (value.dtype.kind == "f"):
      raise ValueError(f"augmented would not change condition {name!r}, which is of images, as it "
                       "changes the examples: leave augmented out")
  return source._replace(augmentation=Augmentation(flip, shift))
