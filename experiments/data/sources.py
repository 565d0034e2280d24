"""Examples as users have them: files, folders and laws, in their own units, none of them held out.

What `data` keeps in memory and `array_records` writes into shards both start here. Bad input is a
one-line ValueError that names the field.
"""

import concurrent.futures
import os
import pathlib
import sys
from typing import Literal, NamedTuple

import numpy as np

from experiments.data import readers, toy_data
from experiments.run import memory

# Debian's package puts its files here; data.path names any other directory.
FASHION_MNIST_DIRECTORY = "/usr/share/datasets/fashion-mnist"

KINDS = ("image", "vector", "sequence", "array")
Toy = Literal["moons", "checkerboard", "swiss_roll", "pinwheel", "rings"]


class Source(NamedTuple):
  """n examples, which of them are held out, and what they are."""

  x: "np.ndarray | Pictures"  # (n, *shape); a .npy stays on the disk until it is indexed
  labels: np.ndarray | None  # (n,) class numbers; None when unconditional
  held_out: np.ndarray  # (n,) bool
  num_classes: int  # 0 when unconditional
  kind: str  # "image", "vector", "sequence" or "array": how it is judged and drawn
  value_range: tuple[float, float] | None  # of images
  classes: tuple[str, ...] = ()  # names, in the order of labels, where they have some
  names: tuple[str, ...] | None = None  # of the file of each example, where each has its own


class Pictures:
  """Image files as an array (n, h, w, channels) uint8 that reads them when indexed."""

  dtype = np.dtype(np.uint8)

  def __init__(
      self, files: list[pathlib.Path], size: int, channels: int, shape: tuple[int, ...]
  ):
    self._files, self._size, self._channels = files, size, channels
    first = readers.read_image(files[0], size, channels).shape
    self._wanted = shape if shape and not size else first
    self.shape = (len(files), *self._wanted)
    self._check(files[0], first)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    """The images (k, h, w, channels) of integers (k,), read by as many threads as there are cores.

    Raises:
      ValueError: a file that cannot be read, or an image of another shape.
    """
    # Every array is filled in place: a list of images would double the memory.
    x = np.empty((len(index), *self.shape[1:]), np.uint8)

    def fill(place: int) -> None:
      file = self._files[index[place]]
      image = readers.read_image(file, self._size, self._channels)
      self._check(file, image.shape)
      x[place] = image

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      futures = [pool.submit(fill, place) for place in range(len(index))]
      try:
        for future in futures:
          future.result()
      finally:
        pool.shutdown(cancel_futures=True)
    return x

  def _check(self, file: pathlib.Path, shape: tuple[int, ...]) -> None:
    if shape != self._wanted:
      raise ValueError(f"data.shape: with data.size=0 every image must be {self._wanted}; "
                       f"{str(file)!r} is {shape}. Set data.size to resize them")


def digits(*, path: str = "", labels: str = "", holdout: float = 0.2) -> Source:
  """scikit-learn's 1,797 handwritten digits, (8, 8, 1), 10 classes, values 0…16.

  An array file of images in `path` takes their place, as in `arrays`.
  """
  if path:
    return _arrays(path, labels, holdout, flat="image")
  if labels:
    raise ValueError(f"data.labels={labels!r} goes with an array file in data.path, which is not "
                     "given")
  import sklearn.datasets  # a second of import that no other data set needs
  x, y = sklearn.datasets.load_digits(return_X_y=True)
  return _split(x.reshape(-1, 8, 8, 1), y, holdout, kind="image", value_range=(0.0, 16.0))


def mixture2d(*, train_size: int = 50_000, test_size: int = 10_000) -> Source:
  """Unlabelled points of `gaussian_mixture_2d`, the same in every run."""
  law = lambda rng, n: (toy_data.sample_mixture(rng, n, *toy_data.gaussian_mixture_2d()),
                        toy_data.UNLABELLED)
  return _drawn(law, 0, train_size, test_size)


def toy2d(toy: Toy = "moons", *, train_size: int = 50_000, test_size: int = 10_000) -> Source:
  """Points of one of the laws in `toy_data`, the same in every run, with its classes if it has."""
  laws = {
      "moons": toy_data.moons, "checkerboard": toy_data.checkerboard,
      "swiss_roll": toy_data.swiss_roll, "pinwheel": toy_data.pinwheel, "rings": toy_data.rings}
  return _drawn(laws[toy], toy_data.NUM_CLASSES[toy], train_size, test_size)


def fashion_mnist(*, path: str = "") -> Source:
  """Any data in MNIST's four IDX files, gzipped or not: (28, 28, 1), values 0…255, 10 classes."""
  directory = pathlib.Path(os.path.expanduser(path or FASHION_MNIST_DIRECTORY))
  names = [f"{part}-{content}-ubyte" for part in ("train", "t10k")
           for content in ("images-idx3", "labels-idx1")]
  found = [[file for file in (directory / name, directory / f"{name}.gz") if file.is_file()]
           for name in names]
  if not all(found):
    missing = ", ".join(name for name, files in zip(names, found, strict=True) if not files)
    raise ValueError(
        f"data.path: directory {str(directory)!r} must hold {missing} (each may end in .gz): "
        f"`apt-get install dataset-fashion-mnist` puts them in {FASHION_MNIST_DIRECTORY}, "
        "any copy of the four IDX files will do")
  x, y, x_test, y_test = (
      readers.read_idx(files[0], rank) for files, rank in zip(found, (3, 1, 3, 1), strict=True))
  for images_, labels_, part in ((x, y, "train"), (x_test, y_test, "t10k")):
    readers.check_array(images_, "data.path")
    readers.check_labels(labels_, len(images_), f"data.path ({part} labels)")
  if x.shape[1:] != x_test.shape[1:]:
    raise ValueError(f"data.path: training and test images must be of one size; got {x.shape[1:]} "
                     f"and {x_test.shape[1:]}")
  labels = np.concatenate([y, y_test])
  _check_classes(y, labels)
  return Source(np.concatenate([x, x_test])[..., None], labels, np.arange(len(labels)) >= len(y),
                int(labels.max()) + 1, "image", (0.0, 255.0))


def arrays(
    *, path: str, labels: str = "", holdout: float = 0.2,
    kind: Literal["", "image", "vector", "sequence", "array"] = "",
) -> Source:
  """The user's .npy, or .npz with `x` (or one array of any name) and perhaps `labels` or `y`.

  A .npy in `labels` overrides those of an .npz. By shape, a number is the kind's:

    vector    (n, d)
    sequence  (n, T, c), T steps of c features
    image     (n, h, w), which gets a channel axis, and (n, h, w, c) with c of 1, 3 or 4; samples
              are clipped to the data's range
    array     anything else, and (n, h, w, 4) with negative values, which are no colour and opacity:
              latents of an autoencoder; neither clipped nor drawn

  Args:
    kind: one of these. It must be given for (n, a, b) that is not of whole grey levels, which may
      be images, sequences or arrays.
  """
  return _arrays(path, labels, holdout, kind)


def _arrays(path: str, labels: str, holdout: float, kind: str = "", *, flat: str = "") -> Source:
  """`arrays`; flat: the kind of (n, a, b) where `kind` is not given, "" asks for it."""
  content = readers.read_numpy(path, "data.path", mapped=True)
  y, y_field = None, "data.path (labels)"
  if isinstance(content, dict):
    data = {key: value for key, value in content.items() if key not in ("labels", "y")}
    if "x" not in data and len(data) != 1:
      raise ValueError(f"data.path: {path!r} must hold an array named 'x' or a single one (besides "
                       f"'labels' or 'y'); it holds {', '.join(content) or 'none'}")
    x = data["x"] if "x" in data else next(iter(data.values()))
    y = content.get("labels", content.get("y"))
  else:
    x = content
  if labels:
    y, y_field = readers.read_numpy(labels, "data.labels"), "data.labels"
    if isinstance(y, dict):
      raise ValueError(f"data.labels: {labels!r} must be a .npy file of one array, not a .npz")
  low, high = readers.check_array(x, "data.path")
  if y is not None:
    readers.check_labels(y, len(x), y_field)
  kind = _kind(x, low, high, kind or (flat if x.ndim == 3 else ""))
  return _split(
      x[..., None] if kind == "image" and x.ndim == 3 else x, y, holdout, kind=kind,
      value_range=(low, high) if kind == "image" else None)


def _kind(x: np.ndarray, low: float, high: float, kind: str) -> str:
  """What the array holds by its shape and values, or a ValueError where these do not say it."""
  shape = x.shape
  colour = x.ndim == 4 and shape[-1] in (1, 3, 4)
  first = x.ndim == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4
  turn = "channels come last here: np.moveaxis(x, 1, -1)"
  if kind:
    fits = {"vector": x.ndim == 2, "sequence": x.ndim == 3, "image": x.ndim == 3 or colour,
            "array": x.ndim > 2}
    if not fits[kind]:
      raise ValueError(
          f"data.kind={kind} does not fit an array of shape {shape}: a vector is (n, d), a "
          "sequence (n, T, c), an image (n, h, w) or (n, h, w, 1, 3 or 4), an array of rank 3 or "
          "more"
          + (f"; {turn}" if first and kind == "image" else ""))
    return kind
  if x.ndim == 2:
    return "vector"
  if x.ndim == 3:
    if x.dtype == np.uint8:
      return "image"
    if low < 0.0 or high > 65535.0 or not readers.is_whole(x):
      raise ValueError(f"data.kind must say what an array of shape {shape} is: image (n, h, w), "
                       "sequence (n, T, c) or array; its values are no whole grey levels")
    _warn(f"data.path: whole numbers of shape {shape} are taken for grey images {shape[1]} × "
          f"{shape[2]}; data.kind=sequence if they are {shape[1]} steps of {shape[2]} features")
    return "image"
  if first and not colour:
    _warn(f"data.path: shape {shape} looks like images with channels first, and {turn}; it is "
          "taken for arrays of any kind, which data.kind=array says without this warning")
  return "image" if colour and not (shape[-1] == 4 and low < 0.0) else "array"


def _warn(text: str) -> None:
  print(f"warning: {text}", file=sys.stderr, flush=True)


def images(
    *, path: str, size: int = 0, channels: int = 3, shape: tuple[int, ...] = (),
    holdout: float = 0.2,
) -> Source:
  """The user's folder of PNG and JPEG, read recursively in sorted order; values 0…255.

  With two or more sub-folders, their names in sorted order are the classes; links are followed, and
  names that begin with a dot left out. Each image is turned as
  its EXIF says, laid over white where transparent (unless 4 channels are asked for), cropped to its
  central square and resized with antialiasing to (size, size, channels). With size 0 images are
  kept as they are and must be alike, and of `shape` if that is given.
  """
  if channels not in (1, 3, 4):
    raise ValueError(f"data.channels must be 1, 3 or 4; got {channels}")
  if size < 0:
    raise ValueError(f"data.size must be positive, or 0 to keep images as they are; got {size}")
  root = readers.existing(path, "data.path", directory=True)
  files = readers.pictures(root)
  if not files:
    raise ValueError(f"data.path: no .png, .jpg or .jpeg under {path!r}; at least one is needed")
  folders = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
  classes = sorted(set(folders))
  if "" in classes and len(classes) > 1:
    raise ValueError(f"data.path: {path!r} must hold images or sub-folders of images (one a class),"
                     f" not both; {files[folders.index('')].name!r} is beside sub-folders")
  if "" not in classes and (empty := sorted(readers.folders(root) - set(classes))):
    raise ValueError(f"data.path: folder {str(root / empty[0])!r} holds no .png, .jpg or .jpeg, "
                     "and a class needs some: fill it, or move it elsewhere")
  memory.require({f"config.data.size={size}": 2.0 * size**2 * channels}, "one picture")
  number = {name: i for i, name in enumerate(classes)}
  y = np.array([number[folder] for folder in folders]) if len(classes) > 1 else None
  found = _split(Pictures(files, size, channels, tuple(shape)), y, holdout, kind="image",
                 value_range=(0.0, 255.0))
  return found._replace(classes=tuple(classes) if y is not None else (), names=tuple(
      str(file.relative_to(root)) for file in files))


def _drawn(law, num_classes: int, train_size: int, test_size: int) -> Source:
  for field, n in (("data.train_size", train_size), ("data.test_size", test_size)):
    if n < 2:
      raise ValueError(f"{field} must be at least 2; got {n}")
  # Points of 2 coordinates in float64, their noise and the float32 that is kept.
  memory.require({f"config.data.train_size={train_size}": 40.0 * train_size,
                  f"config.data.test_size={test_size}": 40.0 * test_size}, "drawing the data")
  x, y = law(np.random.default_rng(0), train_size)
  x_test, y_test = law(np.random.default_rng(1), test_size)
  return Source(
      np.concatenate([x, x_test]), np.concatenate([y, y_test]) if num_classes else None,
      np.arange(train_size + test_size) >= train_size, num_classes, "vector", None)


def _split(
    x, y: np.ndarray | None, holdout: float, *, kind: str,
    value_range: tuple[float, float] | None,
) -> Source:
  """Holds out ⌊n·holdout⌋ examples, the same ones always, and of every class its share to ±1."""
  n = len(x)
  num_classes = 0 if y is None else int(y.max()) + 1
  if not 0.0 < holdout < 1.0 or not int(n * holdout) > 0:
    raise ValueError("data.holdout must be a fraction between 0 and 1 that leaves an example to "
                     f"train on and one to test on; got {holdout} of {n}")
  order = np.random.default_rng(0).permutation(n)
  if y is not None:
    order = order[np.argsort(y[order], kind="stable")]
  # Through the shuffled examples sorted by class, every (1/holdout)-th one.
  held_out = np.zeros(n, bool)
  held_out[order[np.diff(np.floor(np.arange(n + 1) * holdout)) > 0]] = True
  if num_classes:
    _check_classes(y[~held_out], y)
  return Source(x, y, held_out, num_classes, kind, value_range)


def _check_classes(train: np.ndarray, y: np.ndarray) -> None:
  """Refuses class numbers with gaps: the network would learn a vector for each empty class."""
  count, num_classes = np.bincount(train), int(y.max()) + 1
  empty = np.flatnonzero(np.pad(count, (0, num_classes - len(count))) == 0)
  if len(empty):
    largest = np.flatnonzero(y == num_classes - 1)
    raise ValueError(
        f"data labels must be class numbers 0, 1, 2, … without gaps; class {empty[0]} of "
        f"{num_classes} has no example to train on"
        + (f", nor have {len(empty) - 1} others" if len(empty) > 1 else "")
        + f": the largest label, {num_classes - 1}, is that of {len(largest)} examples, the first "
        f"at index {largest[0]}")
