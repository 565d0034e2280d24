"""Data sets in memory: standardised on the way in, restored to the user's own units on the way out.

`load` maps a config's `data` fields to a `Dataset`; `batch` is a pure function of (seed, step), so
that a run resumes from its step alone. Bad input is a one-line ValueError that names the field.
"""

import functools
import pathlib
from typing import NamedTuple

import numpy as np

from experiments import readers, toy_data
from experiments.toy_data import gaussian_mixture_2d

# Debian's package puts its files here; data.path names any other directory.
FASHION_MNIST_DIRECTORY = "/usr/share/datasets/fashion-mnist"


class Dataset(NamedTuple):
  """Training and held-out examples in standard units, (x − mean)/scale.

  Vectors have a mean per feature and one scale for all, so that shapes are kept; images and other
  arrays have one mean and one scale. Both are of the training examples and in the user's units.
  """

  train: np.ndarray  # (n, *shape) float32
  train_labels: np.ndarray  # (n,) int32, or (0,) when unconditional
  test: np.ndarray
  test_labels: np.ndarray
  num_classes: int  # 0 when unconditional
  mean: np.ndarray  # (d,) for vectors, else (); float64
  scale: np.ndarray  # (); float64
  kind: str  # "image", "vector" or "array": how it is judged and drawn
  value_range: tuple[float, float] | None  # samples are clipped to it; user's units
  integers: bool  # images of whole grey levels: samples are rounded to them


def load(
    name: str, *, path: str = "", labels: str = "", shape: tuple[int, ...] = (), size: int = 0,
    channels: int = 3, toy: str = "moons", train_size: int = 50_000, test_size: int = 10_000,
    holdout: float = 0.2,
) -> Dataset:
  """The data set that a config's `data` fields describe; "", 0 and () mean "not given".

  Args:
    name: digits, mixture2d, toy2d, fashion_mnist, arrays or images.
    path: the user's file (arrays; digits takes one in place of its own) or directory
      (fashion_mnist, images).
    labels: a .npy of class numbers beside an array file.
    shape: shape of one example, checked against what was loaded; also the size of images kept as
      they are.
    size: images are cropped to a square and resized to this many pixels; 0 keeps them.
    channels: of images: 1 grey, 3 colour, 4 colour and opacity.
    toy: moons, checkerboard, swiss_roll, pinwheel or rings.
    train_size, test_size: points drawn by mixture2d and toy2d.
    holdout: fraction of digits, arrays and images that is held out, the same in every run.

  Raises:
    ValueError: bad input, by the field's name and what is allowed.
  """
  loaders = {
      "digits": lambda: digits(path=path, labels=labels, holdout=holdout),
      "mixture2d": lambda: mixture2d(train_size=train_size, test_size=test_size),
      "toy2d": lambda: toy2d(toy=toy, train_size=train_size, test_size=test_size),
      "fashion_mnist": lambda: fashion_mnist(path=path),
      "arrays": lambda: arrays(path=path, labels=labels, holdout=holdout),
      "images": lambda: images(
          path=path, size=size, channels=channels, shape=shape, holdout=holdout),
  }
  if name not in loaders:
    raise ValueError(f"data.name must be one of {', '.join(loaders)}; got {name!r}")
  if path and name in ("mixture2d", "toy2d"):
    raise ValueError(f"data.path must be empty for data.name={name!r}, which reads no file; got "
                     f"{path!r}")
  if labels and (name not in ("arrays", "digits") or not path):
    raise ValueError("data.labels goes with an array file in data.path (data.name='arrays'); "
                     f"got data.labels={labels!r} with data.name={name!r}, data.path={path!r}")
  dataset = loaders[name]()
  loaded = dataset.train.shape[1:]
  # A grey image may be declared with its channel axis or without.
  if shape and tuple(shape) not in (loaded, loaded[:-1] if loaded[2:] == (1,) else loaded):
    raise ValueError(f"data.shape: one example of data.name={name!r} must have the declared shape "
                     f"{tuple(shape)}; it has {loaded}")
  return dataset


def digits(*, path: str = "", labels: str = "", holdout: float = 0.2) -> Dataset:
  """scikit-learn's 1,797 handwritten digits, (8, 8, 1), 10 classes, values 0…16.

  An array file in `path` takes their place, as in `arrays`.
  """
  if path:
    return arrays(path=path, labels=labels, holdout=holdout)
  import sklearn.datasets  # a second of import that no other data set needs
  x, y = sklearn.datasets.load_digits(return_X_y=True)
  return _held_out(x.reshape(-1, 8, 8, 1), y, holdout=holdout, kind="image",
                   value_range=(0.0, 16.0))


def mixture2d(*, train_size: int = 50_000, test_size: int = 10_000) -> Dataset:
  """Unlabelled points of `gaussian_mixture_2d`, the same in every run."""
  law = lambda rng, n: (toy_data.sample_mixture(rng, n, *gaussian_mixture_2d()),
                        toy_data.UNLABELLED)
  return _drawn(law, 0, train_size, test_size)


def toy2d(*, toy: str = "moons", train_size: int = 50_000, test_size: int = 10_000) -> Dataset:
  """Points of one of the laws in `toy_data`, the same in every run, with its classes if it has."""
  laws = {
      "moons": toy_data.moons, "checkerboard": toy_data.checkerboard,
      "swiss_roll": toy_data.swiss_roll, "pinwheel": toy_data.pinwheel, "rings": toy_data.rings}
  if toy not in laws:
    raise ValueError(f"data.toy must be one of {', '.join(laws)}; got {toy!r}")
  return _drawn(laws[toy], toy_data.NUM_CLASSES[toy], train_size, test_size)


def fashion_mnist(*, path: str = "") -> Dataset:
  """Any data in MNIST's four IDX files, gzipped or not: (28, 28, 1), values 0…255, 10 classes."""
  directory = pathlib.Path(path or FASHION_MNIST_DIRECTORY).expanduser()
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
  return _standardised(x[..., None], y, x_test[..., None], y_test, kind="image",
                       value_range=(0.0, 255.0), num_classes=int(max(y.max(), y_test.max())) + 1)


def arrays(*, path: str, labels: str = "", holdout: float = 0.2) -> Dataset:
  """The user's .npy, or .npz with `x` (or one array of any name) and perhaps `labels` or `y`.

  (n, d) is n vectors. (n, h, w), which gets a channel axis, and (n, h, w, c) with c of 1, 3 or 4
  are images. Anything of higher rank is an array. A .npy in `labels` overrides those of an .npz.
  """
  content = readers.read_numpy(path, "data.path")
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
  readers.check_array(x, "data.path")
  if y is not None:
    readers.check_labels(y, len(x), y_field)
  image = x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3, 4))
  return _held_out(
      x[..., None] if x.ndim == 3 else x, y, holdout=holdout,
      kind="image" if image else "vector" if x.ndim == 2 else "array",
      value_range=(float(x.min()), float(x.max())) if image else None)


def images(
    *, path: str, size: int = 0, channels: int = 3, shape: tuple[int, ...] = (),
    holdout: float = 0.2,
) -> Dataset:
  """The user's folder of PNG and JPEG, read recursively in sorted order; values 0…255.

  With two or more sub-folders, their names in sorted order are the classes. Each image is turned as
  its EXIF says, laid over white where transparent (unless 4 channels are asked for), cropped to its
  central square and resized with antialiasing to (size, size, channels). With size 0 images are
  kept as they are and must be alike, and of `shape` if that is given.
  """
  if channels not in (1, 3, 4):
    raise ValueError(f"data.channels must be 1, 3 or 4; got {channels}")
  if size < 0:
    raise ValueError(f"data.size must be positive, or 0 to keep images as they are; got {size}")
  root = readers.existing(path, "data.path", directory=True)
  files = sorted(
      file for file in root.rglob("*")
      if file.suffix.lower() in readers.IMAGE_SUFFIXES and file.is_file()
      and not any(part.startswith(".") for part in file.relative_to(root).parts))
  if not files:
    raise ValueError(f"data.path: no .png, .jpg or .jpeg under {path!r}; at least one is needed")
  folders = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
  classes = sorted(set(folders))
  if "" in classes and len(classes) > 1:
    raise ValueError(f"data.path: {path!r} must hold images or sub-folders of images (one a class),"
                     f" not both; {files[folders.index('')].name!r} is beside sub-folders")
  x = None
  for i, file in enumerate(files):
    image = readers.read_image(file, size, channels)
    if x is None:
      # Every array is filled in place: a list of images would double the memory.
      x = np.empty((len(files), *image.shape), np.uint8)
    if image.shape != x.shape[1:] or (shape and not size and image.shape != tuple(shape)):
      allowed = tuple(shape) or x.shape[1:]
      raise ValueError(
          f"data.shape: with data.size=0 every image must be {allowed}; {str(file)!r} is "
          f"{image.shape}. Set data.size to resize them")
    x[i] = image
  y = np.array([classes.index(folder) for folder in folders]) if len(classes) > 1 else None
  return _held_out(x, y, holdout=holdout, kind="image", value_range=(0.0, 255.0))


def batch(
    dataset: Dataset, *, seed: int, step: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """The training batch of a step, a pure function of (seed, step).

  Example j of step s is at place s·batch_size + j of an endless sequence of epochs, each a
  permutation of the data by (seed, epoch): every example is seen once an epoch, and a batch may
  end one epoch and start the next.

  Returns:
    (x, labels) of shapes (batch_size, *shape) float32 and (batch_size,) int32; labels are zeros,
    the null label of zero classes, when the data have none.
  """
  if batch_size < 1 or step < 0:
    raise ValueError(f"batch_size must be positive and step not negative; got {batch_size}, {step}")
  n = len(dataset.train)
  start = int(step) * int(batch_size)
  stop = start + int(batch_size)
  parts = []
  for epoch in range(start // n, (stop - 1) // n + 1):
    order = _permutation(int(seed), epoch, n)
    parts.append(order[max(start - epoch * n, 0):stop - epoch * n])
  index = np.concatenate(parts)
  labels = dataset.train_labels[index] if dataset.num_classes else np.zeros(batch_size, np.int32)
  return dataset.train[index], labels


def statistics(train: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
  """(mean, scale) of training examples (n, *shape), float64: see `Dataset`.

  mean is E[x], by feature for vectors and over everything else; scale is √E[(x − mean)²].

  Raises:
    ValueError: constant data.
  """
  mean = np.asarray(np.mean(train, axis=0 if kind == "vector" else None, dtype=np.float64))
  scale = np.asarray(np.sqrt(np.mean(np.square(train - mean))))
  # Rounding gives equal values a tiny spread, which would be blown up to unit size.
  if scale <= 1e-12 * np.max(np.abs(mean)):
    raise ValueError("data.path: all training examples are equal to the last digit (scale 0); "
                     "examples must differ")
  return mean, scale


def standardise(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
  """(x − mean)/scale in float32, shape kept; the difference is taken in float64."""
  return ((x - mean) / scale).astype(np.float32)


def restore(dataset: Dataset, x: np.ndarray) -> np.ndarray:
  """Standard units back to the user's: mean + scale x, float32, any leading axes."""
  return (dataset.mean + dataset.scale * np.asarray(x, np.float64)).astype(np.float32)


def _drawn(law, num_classes: int, train_size: int, test_size: int) -> Dataset:
  for field, n in (("data.train_size", train_size), ("data.test_size", test_size)):
    if n < 2:
      raise ValueError(f"{field} must be at least 2; got {n}")
  x, y = law(np.random.default_rng(0), train_size)
  x_test, y_test = law(np.random.default_rng(1), test_size)
  return _standardised(x, y, x_test, y_test, kind="vector", value_range=None,
                       num_classes=num_classes)


def _held_out(
    x: np.ndarray, y: np.ndarray | None, *, holdout: float, kind: str,
    value_range: tuple[float, float] | None,
) -> Dataset:
  """Holds out ⌊n·holdout⌋ examples, the same ones always, and of every class its share to ±1."""
  n = len(x)
  num_classes = 0 if y is None else int(y.max()) + 1
  y = np.zeros(n, np.int32) if y is None else y
  if not 0.0 < holdout < 1.0 or not int(n * holdout) > 0:
    raise ValueError("data.holdout must be a fraction between 0 and 1 that leaves an example to "
                     f"train on and one to test on; got {holdout} of {n}")
  order = np.random.default_rng(0).permutation(n)
  order = order[np.argsort(y[order], kind="stable")]
  # Through the shuffled examples sorted by class, every (1/holdout)-th one.
  chosen = np.diff(np.floor(np.arange(n + 1) * holdout)) > 0
  test, train = np.sort(order[chosen]), np.sort(order[~chosen])
  if missing := sorted(set(range(num_classes)) - set(y[train].tolist())):
    raise ValueError("data labels must be class numbers 0, 1, 2, … without gaps; class "
                     f"{missing[0]} of {num_classes} has no example to train on")
  return _standardised(x[train], y[train], x[test], y[test], kind=kind, value_range=value_range,
                       num_classes=num_classes)


def _standardised(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, *, kind: str,
    value_range: tuple[float, float] | None, num_classes: int,
) -> Dataset:
  mean, scale = statistics(x, kind)
  labels = lambda y: y.astype(np.int32) if num_classes else np.zeros((0,), np.int32)
  return Dataset(standardise(x, mean, scale), labels(y), standardise(x_test, mean, scale),
                 labels(y_test), num_classes, mean, scale, kind, value_range,
                 integers=kind == "image" and not np.any(np.mod(x, 1.0)))


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  # Four epochs are kept because a batch may straddle two; the array is shared, so it is frozen.
  sequence = np.random.SeedSequence(seed % 2**64, spawn_key=(epoch,))
  order = np.random.default_rng(sequence).permutation(n)
  order.setflags(write=False)
  return order
