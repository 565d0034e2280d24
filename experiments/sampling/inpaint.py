"""Flags and files of inpainting: the known values, the mask, and the method.

`--known` is an array of the shape of one example or (N, …) in the user's units, a PNG, or
`held_out`. `--mask` is a boolean or 0/1 array of one of these shapes, True where known; or a PNG,
white where known; or the known half of the image: left, right, top or bottom. A PNG is cropped and
resized like the data. Of tokens `--known` may be a text in which ░ is unknown, without a mask.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.config import calls, cli
from experiments.data import readers, standardize, text
from experiments.run import assembly, records
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import inpainting

_MASK = flags.DEFINE_string(
    "mask", "", "Inpainting: a .npy (boolean or 0/1) or .png (white), True where known; or the "
    "half of the image that is known: left, right, top, bottom.")
_KNOWN = flags.DEFINE_string(
    "known", "", "Inpainting: a .npy or .png in the data's units, one example or N; or held_out, "
    "the run's held-out data; of tokens also a text in which ░ is unknown.")
_METHOD = flags.DEFINE_string(
    "inpainting", None, "The method: a call such as lanpaint(guidance=4) (lanpaint() if not given) "
    "or repaint(resamples=5); --inpainting.inner_steps=20 sets one argument.")
HALVES = ("left", "right", "top", "bottom")


def files() -> tuple[str, str]:
  """The values of --known and --mask, which may be names of files."""
  return "" if text.MASK in _KNOWN.value else _KNOWN.value, _MASK.value


# A call and the inpainting method that it makes; both None of tokens, which need none.
Method = tuple[config_lib.Call | None, inpainting.Inpainter | None]


def method(sampling: config_lib.Sampling, *, tokens: bool = False) -> Method | None:
  """(the call, the inpainting method) of the flags; None without --known and --mask.

  Args:
    tokens: whether the data are. --known may then be a text in which ░ is unknown.

  Raises:
    ValueError: a flag that would have no effect, or a sampler that the method cannot use.
  """
  arguments = cli.arguments("inpainting")
  if tokens:
    if _METHOD.value or arguments:
      raise ValueError("--inpainting is for numbers: of tokens, known positions are never noised")
    if _MASK.value and not _KNOWN.value:
      raise ValueError("--mask needs --known beside it: what is known, and where")
    return (None, None) if _KNOWN.value else None
  if bool(_MASK.value) != bool(_KNOWN.value):
    missing, present = ("mask", "known") if _KNOWN.value else ("known", "mask")
    raise ValueError(f"--{present} needs --{missing} beside it: what is known, and where")
  if not _MASK.value:
    if _METHOD.value or arguments:
      raise ValueError("--inpainting belongs to inpainting: give --mask and --known")
    return None
  call = calls.make(_METHOD.value or "lanpaint()", "inpainter", "--inpainting")
  for argument, value in arguments.items():
    call = calls.replace(call, argument.split("."), value, "inpainter", "--inpainting")
  if call.name == "repaint" and not samplers_from_config.is_noisy(sampling):
    raise ValueError("--inpainting=repaint resamples by noise, and this sampler takes none: add "
                     "--sampler=ddim --stochasticity=1")
  return call, calls.build(call, "inpainter", "--inpainting")


def read_known(run: assembly.Run, method: inpainting.Inpainter | None) -> drawing.Known:
  """The known values and the mask of the flags, checked against the run's data.

  Raises:
    ValueError: a file that cannot be read; shapes that do not fit; a mask that is not boolean, or
      that is all True or all False; known values that are not finite or outside the data's range.
  """
  dataset = run.dataset
  shape = dataset.train.shape[1:]
  if dataset.codec is not None:
    raise ValueError("--known is for models of examples; this run is one of latents, each of which "
                     "stands for known and unknown parts together")
  if np.ndim(dataset.scale) == 2:
    raise ValueError("--known needs standard units that scale each feature by itself, and this run "
                     "was trained with data.scaling=whiten: train with data.scaling=features")
  if dataset.vocabulary and not _MASK.value:
    return _known_text(run)
  restored = examples(run, _KNOWN.value, "--known")
  mask = half_mask(_MASK.value, dataset) if _MASK.value in HALVES else _mask(shape, _size(run))
  count = max(len(restored), len(mask))
  if count % len(restored) or count % len(mask):
    raise ValueError(f"--known holds {len(restored)} examples and --mask {len(mask)}: give one "
                     "mask, or one for each")
  axes = tuple(range(1, mask.ndim))
  for name, bad in (("everything", mask.all(axes)), ("nothing", ~mask.any(axes))):
    if bad.any():
      remedy = "leaves nothing to sample" if name == "everything" else "is plain sampling"
      raise ValueError(f"--mask: {name} is known in example {int(np.argmax(bad))}, which {remedy}")
  index = np.arange(count)
  restored, masks = restored[index % len(restored)], mask[index % len(mask)]
  if dataset.vocabulary:
    tokens = np.where(masks, restored, 0)
    if not np.isin(tokens, np.arange(len(dataset.vocabulary))).all():
      raise ValueError("--known must be tokens where the mask is True, 0 … "
                       f"{len(dataset.vocabulary) - 1}")
    tokens = tokens.astype(np.int32)
    return drawing.Known(tokens, tokens, masks, None)
  try:
    inpainting.checked(restored, masks, (count, *shape), value_range=dataset.value_range)
  except ValueError as error:
    raise ValueError(f"--known: {error}") from error
  restored = np.where(masks, restored, 0.0).astype(standardize.dtype(dataset.mean, dataset.scale))
  return drawing.Known(
      data.standardise(restored, dataset.mean, dataset.scale), restored, mask, method)


def _known_text(run: assembly.Run) -> drawing.Known:
  """--known as a text in which ░ is unknown, and so is what lies beyond its end.

  Raises:
    ValueError: a text that is longer than the model's, or has other symbols.
  """
  dataset, (length,) = run.dataset, run.dataset.train.shape[1:]
  if _KNOWN.value == "held_out" or _KNOWN.value.endswith(".npy"):
    raise ValueError(f"--known={_KNOWN.value} needs --mask beside it, a .npy that is True where "
                     f"known; a text in which {text.MASK} is unknown needs none")
  tokens, known = text.encode_known(_KNOWN.value, dataset.vocabulary, "--known")
  if len(tokens) > length:
    raise ValueError(f"--known must have at most the {length} symbols of the model's length; it "
                     f"has {len(tokens)}")
  rest = length - len(tokens)
  tokens, known = (np.pad(values, (0, rest))[None] for values in (tokens, known))
  if known.all() or not known.any():
    raise ValueError(f"--known: {'everything' if known.all() else 'nothing'} is known; {text.MASK} "
                     "marks what is not, and so does the end of a shorter text")
  return drawing.Known(tokens, tokens, known, None)


def examples(run: assembly.Run, value: str, flag: str) -> np.ndarray:
  """The examples (k, *shape) of a flag, in the user's units: of a file, or the held-out data.

  Raises:
    ValueError: a file that cannot be read, or whose shape does not fit.
  """
  dataset = run.dataset
  if value != "held_out":
    return read_examples(value, flag, run, data.example_shape(dataset))
  restored = data.restore(dataset, data.in_memory(dataset.test))
  # Removes the rounding error of the conversion from standard units.
  return np.round(restored) if dataset.integers else restored


def read_examples(
    value: str, flag: str, run: assembly.Run, shape: tuple[int, ...]
) -> np.ndarray:
  """The examples (k, *shape) of the file `value`; raises ValueError as `examples` does."""
  return _examples(_read(value, flag, shape, _size(run)), shape, flag)


def _size(run: assembly.Run) -> int:
  """The side in pixels to which the images of the data were cropped and resized; 0 for none.

  Shards do not record it. There square images are assumed to be cropped and resized.
  """
  shape, call = data.example_shape(run.dataset), run.config.data
  while call.name in data.WRAPPERS:
    call = call["data"]
  if call.name == "array_record":
    return shape[0] if len(shape) == 3 and shape[0] == shape[1] else 0
  return call.get("size", 0) if call.name == "images" else 0


def held_out_labels(run: assembly.Run, n: int) -> np.ndarray | None:
  """The labels (n,) of samples that use the held-out examples in turn; None without classes."""
  if not run.dataset.num_classes:
    return None
  return run.dataset.test_labels[np.arange(n) % data.count_in_memory(run.dataset.test)]


def uses_held_out() -> bool:
  """Whether the known values are held-out data, so that the unknown part has a real value."""
  return _KNOWN.value == "held_out"


def half_mask(name: str, dataset: data.Dataset) -> np.ndarray:
  """The mask (1, h, w, c) of an image whose half `name` is known."""
  if dataset.kind != "image":
    raise ValueError(f"--mask={name} needs images; the data are examples of shape "
                     f"{dataset.train.shape[1:]}: give a .npy")
  mask = np.zeros((1, *dataset.train.shape[1:]), bool)
  h, w = mask.shape[1:3]
  rows, columns = {
      "left": (slice(None), slice(w // 2)), "right": (slice(None), slice(w // 2, None)),
      "top": (slice(h // 2), slice(None)), "bottom": (slice(h // 2, None), slice(None))}[name]
  mask[:, rows, columns] = True
  return mask


def _read(name: str, flag: str, shape: tuple[int, ...], size: int) -> np.ndarray:
  """The array of a .npy file, or of a picture (h, w, c), cropped and resized to `size`."""
  file = readers.existing(name, flag, directory=False)
  if file.suffix.lower() not in readers.IMAGE_SUFFIXES:
    content = readers.read_numpy(name, flag)
    if not isinstance(content, np.ndarray):
      raise ValueError(f"{flag}: {name!r} must be a .npy of one array, not a .npz")
    return content
  channels = 1 if flag == "--mask" else shape[-1]
  if len(shape) != 3 or channels not in (1, 3, 4):
    raise ValueError(f"{flag}: {name!r} is a picture, the data are examples of shape {shape}: "
                     "give a .npy")
  try:
    return readers.read_image(pathlib.Path(file), size, channels)
  except ValueError as error:
    raise ValueError(str(error).replace("data.path", flag, 1)) from error


def _examples(array: np.ndarray, shape: tuple[int, ...], flag: str) -> np.ndarray:
  """The array as (k, *shape). It holds one example or k; a single channel may be left out."""
  if array.dtype.kind not in "biuf":
    raise ValueError(f"{flag} must be of numbers, got dtype {array.dtype}")
  grey = shape[:-1] if shape[2:] == (1,) else None
  if array.shape in (shape, grey):
    return array.reshape(1, *shape)
  if array.ndim and len(array) and array.shape[1:] in (shape, grey):
    return array.reshape(len(array), *shape)
  raise ValueError(f"{flag} must have the shape {shape} of one example, or (N, "
                   f"{', '.join(map(str, shape))}); got {array.shape}")


def _mask(shape: tuple[int, ...], size: int) -> np.ndarray:
  """The mask of a file, (k, *shape) booleans, True where known."""
  array = _read(_MASK.value, "--mask", shape, 0)
  picture = not _MASK.value.endswith(".npy")
  true_value = 255 if picture else 1
  if array.dtype.kind not in "biuf" or not np.isin(array, (0, true_value)).all():
    allowed = "black or white" if picture else "boolean or 0/1"
    got = f"values such as {_invalid(array, true_value)}" if array.size else array.shape
    raise ValueError(f"--mask must be {allowed}, True where known; got {got}")
  if picture and size:
    # Resizing makes grey levels at the edges of the mask.
    array = true_value * (_read(_MASK.value, "--mask", shape, size) > true_value // 2)
  array = array == true_value
  if len(shape) == 3 and shape[-1] > 1 and array.shape != shape:
    # A mask without channels applies to all channels of a pixel.
    one_channel = (*shape[:-1], 1)
    allowed = (shape[:-1], one_channel)
    if array.shape in allowed or array.shape[1:] in allowed:
      return np.repeat(_examples(array, one_channel, "--mask"), shape[-1], axis=-1)
  return _examples(array, shape, "--mask")


def _invalid(array: np.ndarray, true_value: int) -> Any:
  """A value of a mask that is neither 0 nor `true_value`; the dtype if it is not of numbers."""
  if array.dtype.kind not in "biuf":
    return array.dtype
  return array[~np.isin(array, (0, true_value))].flat[0]


def for_counting(method: inpainting.Inpainter):
  """The `wrap` of `samplers_from_config.network_calls`: inpainting with one known number."""
  one = np.zeros((1, 1), np.float32)
  return lambda outer: method(outer, one, one == 0.0)


def describe(known: drawing.Known) -> dict[str, Any]:
  """The flags and a digest of the known values, for the record."""
  digest = records.sha256({"known": np.where(known.mask, known.restored, 0.0), "mask": known.mask})
  return {"mask": _MASK.value, "known": _KNOWN.value, "sha256": digest}
