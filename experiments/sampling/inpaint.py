"""Flags and files of inpainting: what is known, where, and the method that keeps to it.

`--known` is an array of one example's shape or (N, …), or a PNG, in the user's units, or
`held_out`; `--mask` is boolean or 0/1, of the same shapes, True where known, or a PNG that is white
where known, or the half of the image that is known: left, right, top or bottom.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.config import calls, cli
from experiments.data import readers, standardize
from experiments.run import assembly, records
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import inpainting

_MASK = flags.DEFINE_string(
    "mask", "", "Inpainting: a .npy (boolean or 0/1) or .png (white), True where known; or the "
    "half of the image that is known: left, right, top, bottom.")
_KNOWN = flags.DEFINE_string(
    "known", "", "Inpainting: a .npy or .png in the data's units, one example or N; or held_out, "
    "the run's held-out data.")
_METHOD = flags.DEFINE_string(
    "inpainting", None, "The method: a call such as lanpaint(guidance=4) (lanpaint() if not given) "
    "or repaint(resamples=5); --inpainting.inner_steps=20 sets one argument.")
HALVES = ("left", "right", "top", "bottom")


def files() -> tuple[str, str]:
  """What the flags may name a file of."""
  return _KNOWN.value, _MASK.value


def method(sampling: config_lib.Sampling) -> tuple[config_lib.Call, inpainting.Inpainter] | None:
  """(the call, the inpainting method) of the flags; None where nothing is inpainted.

  Raises:
    ValueError: a flag that would do nothing, or a sampler that the method cannot use.
  """
  given = cli.arguments("inpainting")
  if bool(_MASK.value) != bool(_KNOWN.value):
    missing, there = ("mask", "known") if _KNOWN.value else ("known", "mask")
    raise ValueError(f"--{there} needs --{missing} beside it: what is known, and where")
  if not _MASK.value:
    if _METHOD.value or given:
      raise ValueError("--inpainting belongs to inpainting: give --mask and --known")
    return None
  call = calls.make(_METHOD.value or "lanpaint()", "inpainter", "--inpainting")
  for argument, value in given.items():
    call = calls.replaced(call, argument.split("."), value, "inpainter", "--inpainting")
  if call.name == "repaint" and not samplers_from_config.is_noisy(sampling):
    raise ValueError("--inpainting=repaint resamples by noise, and this sampler takes none: add "
                     "--sampler=ddim --stochasticity=1")
  return call, calls.build(call, "inpainter", "--inpainting")


def known(run: assembly.Run, method: inpainting.Inpainter) -> drawing.Known:
  """What the flags say is known, checked against the run's data.

  Raises:
    ValueError: files that cannot be read, shapes that do not fit, a mask that is not boolean, or
      all or nothing known, known values that are not finite or outside the data's range.
  """
  dataset = run.dataset
  shape = dataset.train.shape[1:]
  if np.ndim(dataset.scale) == 2:
    raise ValueError("--known needs a run whose standard units are of one feature each, and this "
                     "one was trained with data.scaling=whiten: train with data.scaling=features")
  restored = examples(run, _KNOWN.value, "--known")
  mask = half(_MASK.value, dataset) if _MASK.value in HALVES else _mask(shape)
  count = max(len(restored), len(mask))
  if count % len(restored) or count % len(mask):
    raise ValueError(f"--known holds {len(restored)} examples and --mask {len(mask)}: give one "
                     "mask, or one for each")
  for name, each in (("everything", mask.all), ("nothing", lambda axis: ~mask.any(axis))):
    if (bad := each(axis=tuple(range(1, mask.ndim)))).any():
      remedy = "leaves nothing to sample" if name == "everything" else "is plain sampling"
      raise ValueError(f"--mask: {name} is known in example {int(np.argmax(bad))}, which {remedy}")
  index = np.arange(count)
  try:
    restored, chosen = restored[index % len(restored)], mask[index % len(mask)]
    inpainting.checked(restored, chosen, (count, *shape), value_range=dataset.value_range)
  except ValueError as error:
    raise ValueError(f"--known: {error}") from error
  restored = np.where(chosen, restored, 0.0).astype(standardize.dtype(dataset.mean, dataset.scale))
  return drawing.Known(
      data.standardise(restored, dataset.mean, dataset.scale), restored, mask, method)


def examples(run: assembly.Run, value: str, flag: str) -> np.ndarray:
  """The examples (k, *shape) that a flag names, in the user's units: a file, or held_out.

  Raises:
    ValueError: a file that cannot be read, or holds something else.
  """
  dataset = run.dataset
  if value != "held_out":
    return read_examples(value, flag, dataset.train.shape[1:])
  restored = data.restore(dataset, data.taken(dataset.test))
  # Whole grey levels come back whole from standard units.
  return np.round(restored) if dataset.integers else restored


def read_examples(value: str, flag: str, shape: tuple[int, ...]) -> np.ndarray:
  """The examples (k, *shape) of the file `value`; raises ValueError as `examples` does."""
  return _examples(_read(value, flag, shape), shape, flag)


def held_out_labels(run: assembly.Run, n: int) -> np.ndarray | None:
  """The labels of n samples made of the held-out examples in turn; None where there are none."""
  if not run.dataset.num_classes:
    return None
  return run.dataset.test_labels[np.arange(n) % data.count_taken(run.dataset.test)]


def is_held_out() -> bool:
  """Whether what is unknown has a real value to be compared with."""
  return _KNOWN.value == "held_out"


def half(name: str, dataset: data.Dataset) -> np.ndarray:
  """The mask (1, h, w, c) of the half of an image that is known."""
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


def _read(name: str, flag: str, shape: tuple[int, ...]) -> np.ndarray:
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
    return readers.read_image(pathlib.Path(file), 0, channels)
  except ValueError as error:
    raise ValueError(str(error).replace("data.path", flag, 1)) from error


def _examples(array: np.ndarray, shape: tuple[int, ...], flag: str) -> np.ndarray:
  """(k, *shape) of one example or k; images may leave out a single channel."""
  if array.dtype.kind not in "biuf":
    raise ValueError(f"{flag} must be of numbers, got dtype {array.dtype}")
  grey = shape[:-1] if shape[2:] == (1,) else None
  if array.shape in (shape, grey):
    return array.reshape(1, *shape)
  if array.ndim and len(array) and array.shape[1:] in (shape, grey):
    return array.reshape(len(array), *shape)
  raise ValueError(f"{flag} must have the shape {shape} of one example, or (N, "
                   f"{', '.join(map(str, shape))}); got {array.shape}")


def _mask(shape: tuple[int, ...]) -> np.ndarray:
  array = _read(_MASK.value, "--mask", shape)
  picture = not _MASK.value.endswith(".npy")
  on = 255 if picture else 1
  if array.dtype.kind not in "biuf" or not np.isin(array, (0, on)).all():
    allowed = "black or white" if picture else "boolean or 0/1"
    raise ValueError(f"--mask must be {allowed}, True where known; got "
                     f"{'values such as ' + str(_other(array, on)) if array.size else array.shape}")
  array = array == on
  if len(shape) == 3 and shape[-1] > 1 and array.shape != shape:
    # A mask of pixels is one of all their channels.
    flat = (*shape[:-1], 1)
    if array.shape in (shape[:-1], flat) or array.shape[1:] in (shape[:-1], flat):
      return np.repeat(_examples(array, flat, "--mask"), shape[-1], axis=-1)
  return _examples(array, shape, "--mask")


def _other(array: np.ndarray, on: int) -> Any:
  """A value that is neither 0 nor `on`, or the type where it is not a number at all."""
  if array.dtype.kind not in "biuf":
    return array.dtype
  return array[~np.isin(array, (0, on))].flat[0]


def wrap(method: inpainting.Inpainter):
  """For `samplers_from_config.network_calls`: the method with one number known."""
  one = np.zeros((1, 1), np.float32)
  return lambda outer: method(outer, one, one == 0.0)


def described(known: drawing.Known) -> dict[str, Any]:
  """What was known, for the record; the digest tells two files of one name apart."""
  digest = records.sha256({"known": np.where(known.mask, known.restored, 0.0), "mask": known.mask})
  return {"mask": _MASK.value, "known": _KNOWN.value, "sha256": digest}
