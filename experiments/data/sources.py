"""The calls of data: files, folders and distributions, each a function that returns a `Source`.

A source is in the user's units. `dataset` reads it into memory; `array_records` writes it into
shards. Bad input raises a one-line ValueError that names the field.
"""

import json
import os
import pathlib
from typing import Any, Literal

import numpy as np

from experiments.data import image_files, kinds, readers, splits, toy_data, user_data
from experiments.data.augmentation import augmented as augmented
from experiments.data.splits import Source
from experiments.run import buckets, memory

# The directory of Debian's package; data.path names another one.
FASHION_MNIST_DIRECTORY = "/usr/share/datasets/fashion-mnist"

Toy = Literal["moons", "checkerboard", "swiss_roll", "pinwheel", "rings"]


def digits(*, path: str = "", labels: str = "", holdout: float = 0.2) -> Source:
  """scikit-learn's 1,797 handwritten digits, (8, 8, 1), 10 classes, values 0…16.

  With `path`, an array file of images is read instead; see `arrays`.
  """
  if path:
    return _arrays(path, labels, holdout, flat="image")
  if labels:
    raise ValueError(f"data.labels={labels!r} needs an array file in data.path")
  import sklearn.datasets  # a second of import that no other data set needs
  x, y = sklearn.datasets.load_digits(return_X_y=True)
  return splits.hold_out(x.reshape(-1, 8, 8, 1), y, holdout, kind="image", value_range=(0.0, 16.0))


def mixture2d(*, train_size: int = 50_000, test_size: int = 10_000) -> Source:
  """Points (n, 2) of `gaussian_mixture_2d` without labels, the same in every run."""
  sample = lambda rng, n: (toy_data.sample_mixture(rng, n, *toy_data.gaussian_mixture_2d()),
                           toy_data.UNLABELLED)
  return _from_distribution(sample, 0, train_size, test_size)


def toy2d(toy: Toy = "moons", *, train_size: int = 50_000, test_size: int = 10_000) -> Source:
  """Points (n, 2) of a distribution in `toy_data`, the same in every run, with labels if any."""
  samplers = {
      "moons": toy_data.moons, "checkerboard": toy_data.checkerboard,
      "swiss_roll": toy_data.swiss_roll, "pinwheel": toy_data.pinwheel, "rings": toy_data.rings}
  return _from_distribution(samplers[toy], toy_data.NUM_CLASSES[toy], train_size, test_size)


def fashion_mnist(*, path: str = "") -> Source:
  """Data in the four IDX files of MNIST, gzipped or not: (28, 28, 1), values 0…255, 10 classes."""
  directory = (readers.existing(path, "data.path", directory=True) if buckets.is_bucket(path) else
               pathlib.Path(os.path.expanduser(path or FASHION_MNIST_DIRECTORY)))
  names = [f"{part}-{content}-ubyte" for part in ("train", "t10k")
           for content in ("images-idx3", "labels-idx1")]
  candidates = [[file for file in (directory / name, directory / f"{name}.gz") if file.is_file()]
                for name in names]
  if not all(candidates):
    missing = ", ".join(name for name, files in zip(names, candidates, strict=True) if not files)
    raise ValueError(
        f"data.path: directory {str(directory)!r} must hold {missing} (each may end in .gz): "
        f"`apt-get install dataset-fashion-mnist` puts them in {FASHION_MNIST_DIRECTORY}, "
        "any copy of the four IDX files will do")
  x, y, x_test, y_test = (readers.read_idx(files[0], rank)
                          for files, rank in zip(candidates, (3, 1, 3, 1), strict=True))
  for images_, labels_, part in ((x, y, "train"), (x_test, y_test, "t10k")):
    readers.check_array(images_, "data.path")
    readers.check_labels(labels_, len(images_), f"data.path ({part} labels)")
  if x.shape[1:] != x_test.shape[1:]:
    raise ValueError(f"data.path: training and test images must be of one size; got {x.shape[1:]} "
                     f"and {x_test.shape[1:]}")
  labels = np.concatenate([y, y_test])
  splits.check_classes(y, labels)
  return Source(np.concatenate([x, x_test])[..., None], labels, np.arange(len(labels)) >= len(y),
                int(labels.max()) + 1, "image", (0.0, 255.0))


def cifar10(*, path: str) -> Source:
  """CIFAR-10 in its binary version, unpacked: (32, 32, 3), values 0…255, 10 classes with names.

  The directory holds data_batch_1.bin … data_batch_5.bin and test_batch.bin. A record is a class
  number and 3 × 32 × 32 bytes. An optional batches.meta.txt has the name of one class per line.
  """
  root = readers.existing(path, "data.path", directory=True)
  names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
  parts = [readers.read_records(root / name, 1 + 3 * 32 * 32) for name in names]
  records, num_held_out = np.concatenate(parts), len(parts[-1])
  labels, x = records[:, 0], np.moveaxis(records[:, 1:].reshape(-1, 3, 32, 32), 1, -1)
  readers.check_labels(labels, len(x), "data.path (labels)", num_classes=10)
  splits.check_classes(labels[:-num_held_out], labels)
  num_classes, meta = int(labels.max()) + 1, root / "batches.meta.txt"
  classes = meta.read_text(encoding="utf-8").split() if meta.is_file() else ()
  return Source(x, labels, np.arange(len(x)) >= len(x) - num_held_out, num_classes, "image",
                (0.0, 255.0), tuple(classes) if len(classes) == num_classes else ())


def arrays(
    *, path: str, labels: str = "", holdout: float = 0.2, kind: kinds.Kind = ""
) -> Source:
  """A .npy, or an .npz with `x` (or one array of any name) and optional `labels` or `y`.

  `labels` is a .npy of class numbers; it replaces those in an .npz. The shape gives the kind:

    vector    (n, d)
    sequence  (n, length, channels)
    image     (n, h, w), to which a channel axis is added, and (n, h, w, c) with c = 1, 3 or 4;
              samples are clipped to the range of the data
    volume    (n, d, h, w, channels)
    array     any other, and (n, h, w, 4) with negative values, such as latents; samples are not
              clipped and have no picture

  Args:
    kind: one of these. It is required for (n, a, b), except for uint8 with b > 4, which are grey
      images; and for volumes, which would be arrays.
  """
  return _arrays(path, labels, holdout, kind)


def _arrays(path: str, labels: str, holdout: float, kind: str = "", *, flat: str = "") -> Source:
  """As `arrays`; if `kind` is "", arrays (n, a, b) have the kind `flat`."""
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
  kind = kinds.kind_of(x.shape, x.dtype, low, kind or (flat if x.ndim == 3 else ""))
  return splits.hold_out(
      x[..., None] if kind == "image" and x.ndim == 3 else x, y, holdout, kind=kind,
      value_range=(low, high) if kind == "image" else None)


def images(
    *, path: str, size: int = 0, channels: int = 3, shape: tuple[int, ...] = (),
    holdout: float = 0.2, skip_unreadable: bool = False,
) -> Source:
  """A folder of PNG, JPEG, WebP, BMP and GIF, read recursively in sorted order; values 0…255.

  Two or more sub-folders are classes, in the order of their sorted names. Links are followed; names
  that begin with a dot are ignored. Each image (the first frame of a GIF) is rotated by its EXIF
  orientation, composed over white if it is transparent (unless channels=4), cropped to its central
  square and resized with antialiasing to (size, size, channels).

  Args:
    size: pixels. With 0 images are not resized; all must have one shape, `shape` if it is given.
    skip_unreadable: whether files that cannot be read are left out, with a warning that names
      them. All files are then read once more at the start.
  """
  if channels not in (1, 3, 4):
    raise ValueError(f"data.channels must be 1, 3 or 4; got {channels}")
  if size < 0:
    raise ValueError(f"data.size must be positive, or 0 to keep images as they are; got {size}")
  root = readers.existing(path, "data.path", directory=True)
  files, suffixes = image_files.pictures(root), ", ".join(readers.IMAGE_SUFFIXES)
  if skip_unreadable:
    files = image_files.readable(files)
  if not files:
    raise ValueError(f"data.path: no {suffixes} under {path!r}; at least one is needed")
  folders = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
  classes = sorted(set(folders))
  if "" in classes and len(classes) > 1:
    raise ValueError(f"data.path: {path!r} must hold images or sub-folders of images (one a class),"
                     f" not both; {files[folders.index('')].name!r} is beside sub-folders")
  if "" not in classes and (empty := sorted(image_files.folders(root) - set(classes))):
    raise ValueError(f"data.path: folder {str(root / empty[0])!r} holds no {suffixes}; a "
                     "class needs some: fill it, or move it elsewhere")
  memory.require({f"config.data.size={size}": 2.0 * size**2 * channels}, "one picture")
  number = {name: i for i, name in enumerate(classes)}
  y = np.array([number[folder] for folder in folders]) if len(classes) > 1 else None
  source = splits.hold_out(image_files.Pictures(files, size, channels, tuple(shape)), y, holdout,
                           kind="image", value_range=(0.0, 255.0))
  return source._replace(classes=tuple(classes) if y is not None else (), names=tuple(
      str(file.relative_to(root)) for file in files))


def emoji(*, path: str, size: int = 0, holdout: float = 0.1) -> Source:
  """Colour emoji of an npm package emoji-datasource-…, unpacked: (64, 64, 3), values 0…255.

  Its emoji.json has their categories, which are the classes. Emoji of several skin tones are held
  out together, or not.

  Args:
    size: pixels a side; 0 keeps the 64 × 64 of the files.
  """
  root = readers.existing(path, "data.path", directory=True)
  folders = sorted(root.glob("img/*/64"))
  try:
    table = json.loads((root / "emoji.json").read_text(encoding="utf-8"))
    groups = [(emoji["category"], [emoji["image"], *(
        tone["image"] for tone in emoji.get("skin_variations", {}).values())]) for emoji in table]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"data.path: {path!r} must be an unpacked package emoji-datasource-google, or "
                     f"another of its kind, with emoji.json: {error}") from error
  classes = sorted({category for category, _ in groups})
  found = [(i, folders[0] / name) for i, (_, names) in enumerate(groups) for name in names
           if folders and (folders[0] / name).is_file()]
  if not found:
    raise ValueError(f"data.path: {path!r} holds no pictures of emoji.json in img/…/64")
  of, files_ = (list(column) for column in zip(*found, strict=True))
  labels = np.array([classes.index(category) for category, _ in groups])
  split = splits.hold_out(np.arange(len(labels)), labels, holdout, kind="image", value_range=None)
  source = Source(image_files.Pictures(files_, size, 3, ()), labels[of], split.held_out[of],
                  len(classes), "image", (0.0, 255.0), tuple(classes))
  return source._replace(names=tuple(file.name for file in files_))


def rescaled(data: Source, *, mean: float, scale: float) -> Source:
  """The examples of another call of data in standard units that are given, x = mean + scale z.

  A network that was trained elsewhere sees its data in units of its own: of pictures of 0 … 255,
  mean=127.5 and scale=127.5 are the [−1, 1] of most, scale=63.75 those of EDM.

  Args:
    data: a call, such as images(path='my/folder', size=32).
    mean, scale: in the units of these data.

  Raises:
    ValueError: a scale that is not positive, or shards, whose units are chosen when they are
      written.
  """
  if not scale > 0.0:
    raise ValueError(f"scale must be positive, got {scale}")
  if hasattr(data, "train_labels"):
    raise ValueError("shards have the units that were chosen when they were written: write them "
                     f"from rescaled(…, mean={mean:g}, scale={scale:g})")
  return user_data.source(data)._replace(units=(mean, scale))


def unlabelled(data: Source) -> Source:
  """The examples of another call of data without their labels.

  Args:
    data: a call, such as cifar10(path='my/folder').
  """
  if hasattr(data, "train_labels"):  # shards
    none: Any = np.zeros(0, np.int32)
    return data._replace(train_labels=none, test_labels=none, num_classes=0, classes=())
  return user_data.source(data)._replace(labels=None, num_classes=0, classes=())


def absent(
    *, shape: tuple[int, ...], num_classes: int = 0, kind: kinds.Kind = "image"
) -> Source:
  """The data of a network that was imported without any; they cannot be loaded.

  Args:
    shape: of one example. num_classes: of the labels, 0 without labels. kind: as of `arrays`.
  """
  del shape, num_classes, kind  # what the record of the run's data says, too
  raise ValueError("the run was imported without data; convert the weights again with --data")


def _from_distribution(sample, num_classes: int, train_size: int, test_size: int) -> Source:
  """Samples of a distribution, `sample(rng, n)` → (points, labels).

  Training and held-out examples have separate generators.
  """
  for field, n in (("data.train_size", train_size), ("data.test_size", test_size)):
    if n < 2:
      raise ValueError(f"{field} must be at least 2; got {n}")
  # Two coordinates: the points and their noise in float64, and the points in float32.
  memory.require({f"config.data.train_size={train_size}": 40.0 * train_size,
                  f"config.data.test_size={test_size}": 40.0 * test_size}, "drawing the data")
  x, y = sample(np.random.default_rng(0), train_size)
  x_test, y_test = sample(np.random.default_rng(1), test_size)
  return Source(
      np.concatenate([x, x_test]), np.concatenate([y, y_test]) if num_classes else None,
      np.arange(train_size + test_size) >= train_size, num_classes, "vector", None)
