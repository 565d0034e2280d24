"""Augmentation of training images, a pure function of (seed, place in the run's sequence).

  data="augmented(images(path='my/folder', size=32), flip=True, shift=2)"
  data="augmented(cifar10(path='…'), flip=True, geometry=0.12)"

The random bits for the example at place p depend only on (seed, p). Therefore a run resumes bit for
bit, and every process can augment its own rows. Held-out examples, mean, scale and fingerprint are
those of the original images. With `geometry` the network is told how an image was changed, so that
samples, for which this is nothing, are not (Karras et al. 2022, appendix F.2).
"""

from typing import Any, NamedTuple

import numpy as np

from experiments.data import shuffle, user_data
from experiments.data.splits import Source
from langevin_jax import conditions

CONDITION = conditions.AUGMENTATION

_STREAM = 0x6175676D  # distinguishes these random bits from those of the order


class Augmentation(NamedTuple):
  """flip: mirror left to right with probability ½. shift: largest shift along each axis, pixels.
  geometry: probability of each of five geometric changes.
  """

  flip: bool
  shift: int
  geometry: float = 0.0

  def apply(
      self, x: np.ndarray, places: np.ndarray, seed: int
  ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(the images x (n, h, w, c), at places (n,) of the run's sequence, augmented; conditions).

    The condition `augmentation` (n, 9), with `geometry` alone, has whether an image was mirrored
    left to right and top to bottom, w of a scaling by 2^0.2w, cos r − 1 and sin r of a rotation
    by r, w cos 2r and w sin 2r of a scaling by 2^±0.2w along and across the direction r, and
    shifts in eighths of the sides. EDM has w cos r and w sin r, which do not tell w from −w.
    """
    bits = shuffle.bits(places, seed=seed, stream=_STREAM)
    mirrored = (bits & np.uint64(1)).astype(bool) & self.flip
    if self.flip:
      x = np.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    if self.shift:
      moves = np.uint64(2 * self.shift + 1)
      down, right = ((bits >> np.uint64(first) & np.uint64(2**24 - 1)) % moves
                     for first in (8, 32))
      rows = self._reflected(down, x.shape[1])
      columns = self._reflected(right, x.shape[2])
      x = x[np.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]
    if not self.geometry:
      return x, {}
    x, told = self._changed(x, places, seed)
    return x, {CONDITION: np.concatenate([mirrored[:, None], told], axis=1).astype(np.float32)}

  def _reflected(self, moves: np.ndarray, size: int) -> np.ndarray:
    """The source index of each pixel, (n, size). Beyond an edge the image is reflected."""
    return _within(np.arange(size) + moves.astype(np.int64)[:, None] - self.shift, size)

  def _changed(
      self, x: np.ndarray, places: np.ndarray, seed: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """(x with geometric changes, what they are, (n, 8))."""
    uniform = [(shuffle.bits(places, seed=seed, stream=_STREAM + i) >> np.uint64(11)) * 2.0**-53
               for i in range(1, 16)]
    chance = lambda value, i: np.where(uniform[i] < self.geometry, value, 0.0)
    # Box and Muller's normal numbers, of two uniform ones.
    normal = lambda i: np.sqrt(-2.0 * np.log1p(-uniform[i])) * np.cos(2 * np.pi * uniform[i + 1])
    upside_down = chance(uniform[5] < 0.5, 0)
    scaling, stretch = chance(normal(6), 1), chance(normal(8), 2)
    turn = chance(np.pi * (2.0 * uniform[10] - 1.0), 3)
    axis = np.where(uniform[11] < 0.5, 4.0 * np.pi * (uniform[11] - 0.25), 0.0)
    radius, angle = np.sqrt(-2.0 * np.log1p(-uniform[12])), 2.0 * np.pi * uniform[13]
    move = np.stack([chance(radius * f(angle), 4) for f in (np.cos, np.sin)], axis=1)
    diagonal = lambda a, b: np.stack([a, b], axis=1)[:, :, None] * np.eye(2)
    rotation = lambda r: np.moveaxis(np.array([[np.cos(r), -np.sin(r)], [np.sin(r), np.cos(r)]]),
                                     -1, 0)
    # From a place of the result, (across, down) from the centre, to one of the image.
    shrink, narrow = 2.0 ** (-0.2 * scaling), 2.0 ** (-0.2 * stretch)
    back = (diagonal(np.ones(len(x)), 1.0 - 2.0 * upside_down) @ diagonal(shrink, shrink)
            @ rotation(-turn) @ rotation(axis) @ diagonal(narrow, 1.0 / narrow) @ rotation(-axis))
    told = np.stack([upside_down, scaling, np.cos(turn) - 1.0, np.sin(turn),
                     stretch * np.cos(2 * axis), stretch * np.sin(2 * axis), *move.T], axis=1)
    moved = told.any(1)
    x = x.copy()
    x[moved] = _resampled(x[moved], back[moved], move[moved] / 8.0 * x.shape[2:0:-1])
    return x, told


def _resampled(x: np.ndarray, back: np.ndarray, move: np.ndarray) -> np.ndarray:
  """Images whose value at a place p, from the centre, is that of x at back (p − move); cubic.

  Args:
    x: (n, h, w, c). back: (n, 2, 2) and move: (n, 2) of (across, down), in pixels.
  """
  h, w = x.shape[1:3]
  centre = np.array([w - 1.0, h - 1.0]) / 2.0
  places = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1) - centre
  across, down = np.moveaxis(
      np.einsum("nij,nhwj->nhwi", back, places - move[:, None, None]) + centre, -1, 0)
  found, image = np.zeros(x.shape, np.float32), np.arange(len(x))[:, None, None]
  for row, of_row in _taps(down, h):
    for column, of_column in _taps(across, w):
      found += (of_row * of_column)[..., None] * x[image, row, column]
  return found.astype(x.dtype)


def _taps(at: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """(index, weight) of the four pixels of an axis next to the places `at`."""
  low = np.floor(at + 1e-9)
  return [(_within((low + k).astype(np.int64), size), _keys(at - low - k).astype(np.float32))
          for k in range(-1, 3)]


def _keys(d: np.ndarray) -> np.ndarray:
  """The kernel of cubic interpolation (Keys 1981, a = −½)."""
  d = np.abs(d)
  return np.where(d < 1.0, (1.5 * d - 2.5) * d**2 + 1.0,
                  np.where(d < 2.0, ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0, 0.0))


def _within(index: np.ndarray, size: int) -> np.ndarray:
  """Indices reflected at the first and the last pixel of an axis."""
  index = np.mod(index, max(2 * (size - 1), 1))
  return np.where(index < size, index, 2 * (size - 1) - index)


def augmented(
    data: Source, *, flip: bool = True, shift: int = 0, geometry: float = 0.0
) -> Source:
  """The images of another call of data, randomly changed in every training batch.

  Args:
    data: a call, such as images(path='my/folder', size=32).
    flip: whether an image is mirrored left to right with probability ½.
    shift: the largest shift along each axis, in pixels. Beyond its edges the image is reflected.
    geometry: the probability of each of five changes: upside down, larger or smaller, turned,
      stretched, moved. The network is told which, as the condition `augmentation`; 0.12 is EDM's
      for CIFAR-10.

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
  if not 0.0 <= geometry <= 1.0:
    raise ValueError(f"geometry must lie in [0, 1], got {geometry}")
  for name, value in source.conditions.items():
    if len(value.shape) > 2 + (value.dtype.kind == "f"):
      raise ValueError(f"augmented would not change condition {name!r}, which is of images, as it "
                       "changes the examples: leave augmented out")
  if geometry:
    none = lambda n: {CONDITION: np.zeros((n, 9), np.float32)}
    if hasattr(source, "train"):
      source = source._replace(test_conditions=source.test_conditions | none(len(source.test)))
    source = source._replace(conditions={**source.conditions, **none(shape[0])})
  return source._replace(augmentation=Augmentation(flip, shift, geometry))
