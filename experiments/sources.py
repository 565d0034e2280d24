"""Examples as users have them: files, folders and laws, in their own units, none of them held out.

What `data` keeps in memory and `array_records` writes into shards both start here. Bad input is a
one-line ValueError that names the field.
"""

import concurrent.futures
import os
import pathlib
from typing import NamedTuple

import numpy as np

from experiments import readers, toy_data

# Debian's package puts its files here; data.path names any other directory.
FASHION_MNIST_DIRECTORY = "/usr/share/datasets/fashion-mnist"


class Source(NamedTuple):
  """n examples, which of them are held out, and what they are."""

  x: "np.ndarray | Pictures"  # (n, *shape); a .npy stays on the disk until it is indexed
  labels: np.ndarray | None  # (n,) class numbers; None when unconditional
  held_out: np.ndarray  # (n,) bool
  num_classes: int  # 0 when unconditional
  kind: str  # "image", "vector" or "array": how it is judged and drawn
  value_range: tuple[float, float] | None  # of images


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


def load(
    name: str, *, path: str = "", labels: str = "", shape: tuple[int, ...] = (), size: int = 0,
    channels: int = 3, toy: str = "moons", train_size: int = 50_000, test_size: int = 10_000,
    holdout: float = 0.2,
) -> Source:
  """The examples that a config's `data` fields describe; arguments and errors as in `data.load`."""
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
    raise ValueError(f"data.name must be one of {', '.join([*loaders, 'array_record'])}; "
                     f"got {name!r}")
  if path and name in ("mixture2d", "toy2d"):
    raise ValueError(f"data.path must be empty for data.name={name!r}, which reads no file; got "
                     f"{path!r}")
  if labels and (name not in ("arrays", "digits") or not path):
    raise ValueError("data.labels goes with an array file in data.path (data.name='arrays'); "
                     f"got data.labels={labels!r} with data.name={name!r}, data.path={path!r}")
  return loaders[name]()


def digits(*, path: str = "", labels: str = "", holdout: float = 0.2) -> Source:
  """scikit-learn's 1,797 handwritten digits, (8, 8, 1), 10 classes, values 0…16.

  An array file in `path` takes their place, as in `arrays`.
  """
  if path:
    return arrays(path=path, labels=labels, holdout=holdout)
  import sklearn.datasets  # a second of import that no other data set needs
  x, y = sklearn.datasets.load_digits(return_X_y=True)
  return _split(x.reshape(-1, 8, 8, 1), y, holdout, kind="image", value_range=(0.0, 16.0))


def mixture2d(*, train_size: int = 50_000, test_size: int = 10_000) -> Source:
  """Unlabelled points of `gaussian_mixture_2d`, the same in every run."""
  law = lambda rng, n: (toy_data.sample_mixture(rng, n, *toy_data.gaussian_mixture_2d()),
                        toy_data.UNLABELLED)
  return _drawn(law, 0, train_size, test_size)


def toy2d(*, toy: str = "moons", train_size: int = 50_000, test_size: int = 10_000) -> Source:
  """Points of one of the laws in `toy_data`, the same in every run, with its classes if it has."""
  laws = {
      "moons": toy_data.moons, "checkerboard": toy_data.checkerboard,
      "swiss_roll": toy_data.swiss_roll, "pinwheel": toy_data.pinwheel, "rings": toy_data.rings}
  if toy not in laws:
    raise ValueError(f"data.toy must be one of {', '.join(laws)}; got {toy!r}")
  return _drawn(laws[toy], toy_data.NUM_CLASSES[toy], train_size, test_size)


def fashion_mnist(*, path: str = "") -> Source:
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
  labels = np.concatenate([y, y_test])
  return Source(np.concatenate([x, x_test])[..., None], labels, np.arange(len(labels)) >= len(y),
                int(labels.max()) + 1, "image", (0.0, 255.0))


def arrays(*, path: str, labels: str = "", holdout: float = 0.2) -> Source:
  """The user's .npy, or .npz with `x` (or one array of any name) and perhaps `labels` or `y`.

  (n, d) is n vectors. (n, h, w), which gets a channel axis, and (n, h, w, c) with c of 1, 3 or 4
  are images, but for four channels with negative values, which are no colour and opacity: latents
  of an autoencoder. These and anything of higher rank are arrays, neither clipped nor drawn. A .npy
  in `labels` overrides those of an .npz.
  """
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
  image = x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3, 4))
  if x.ndim == 4 and x.shape[-1] == 4 and low < 0.0:
    image = False
  return _split(
      x[..., None] if x.ndim == 3 else x, y, holdout,
      kind="image" if image else "vector" if x.ndim == 2 else "array",
      value_range=(low, high) if image else None)


def images(
    *, path: str, size: int = 0, channels: int = 3, shape: tuple[int, ...] = (),
    holdout: float = 0.2,
) -> Source:
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
  number = {name: i for i, name in enumerate(classes)}
  y = np.array([number[folder] for folder in folders]) if len(classes) > 1 else None
  return _split(Pictures(files, size, channels, tuple(shape)), y, holdout, kind="image",
                value_range=(0.0, 255.0))


def _drawn(law, num_classes: int, train_size: int, test_size: int) -> Source:
  for field, n in (("data.train_size", train_size), ("data.test_size", test_size)):
    if n < 2:
      raise ValueError(f"{field} must be at least 2; got {n}")
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
  if num_classes and (missing := set(range(num_classes)) - set(np.unique(y[~held_out]).tolist())):
    raise ValueError("data labels must be class numbers 0, 1, 2, … without gaps; class "
                     f"{min(missing)} of {num_classes} has no example to train on")
  return Source(x, y, held_out, num_classes, kind, value_range)
