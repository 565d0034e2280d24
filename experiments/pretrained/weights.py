"""Weights from files, by the names of their tensors; no code of a file is ever run.

A .pt is a zip archive: a pickle of names, types and shapes, and one file of numbers a tensor.
Before PyTorch 1.6 it was these one after the other. Its pickle may name what makes up a dict of
tensors, and nothing else.
"""

import collections
import io
import json
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.flax

from experiments.run import multihost

TORCH = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".npz", *TORCH)
# Folders of a pipeline that hold a network, and names of its weights.
_FOLDERS = ("unet", "transformer", "vae")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "weights")
# Of a checkpoint of a training: what samplers use, before what is trained.
_STATES = ("ema", "ema_state_dict", "state_dict", "model")
_DTYPES = {
    "FloatStorage": np.float32, "HalfStorage": np.float16, "DoubleStorage": np.float64,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_}
# What files of torch.save before version 1.6 begin with.
_OLD_MARK, _OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001


class NamedValues(dict):
  """A dict in which the index of a missing name, or of a null, is a ValueError of one line.

  Attributes:
    source: the beginning of that line.
  """

  def __init__(self, values: Mapping[str, Any], source: str):
    super().__init__(values)
    self.source = source

  def __getitem__(self, name: str) -> Any:
    if (value := self.get(name)) is None:
      raise ValueError(f"{self.source}: 1 missing ({name})")
    return value


class Weights(NamedTuple):
  """tensors: by name. config, scheduler: of the files beside them, {} where there are none."""

  place: pathlib.Path
  tensors: NamedValues
  config: NamedValues
  scheduler: Mapping[str, Any] = {}

  def shapes(self) -> NamedValues:
    """The shapes of the tensors."""
    return NamedValues({name: value.shape for name, value in self.tensors.items()},
                       self.tensors.source)


def read(place: pathlib.Path) -> Weights:
  """The weights in a file, or in a directory as diffusers saves a network or a pipeline.

  Raises:
    ValueError: nothing there, a file that cannot be read, or a pickle that would run code.
  """
  if place.is_dir():
    weights = _of_directory(place)
  elif place.is_file():
    weights = Weights(place, _unwrapped(_read(place)), _json(place.parent / "config.json"))
  else:
    raise ValueError(f"--weights={place}: no such file or directory")
  return weights._replace(tensors=NamedValues(
      weights.tensors, f"--weights={place}: tensors do not fit the network"))


def _of_directory(place: pathlib.Path) -> Weights:
  inner = next((place / name for name in _FOLDERS if (place / name / "config.json").is_file()),
               place)
  found = [inner / f"{stem}{suffix}" for suffix in SUFFIXES for stem in _STEMS]
  index = next(iter(sorted(inner.glob("*.safetensors.index.json"))), None)
  if index is not None:
    places = _json(index)["weight_map"]
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
      raise ValueError(f"--weights: weight_map in {index} must give the file of each tensor")
    files = [inner / name for name in sorted(set(places.values()))]
  else:
    files = [file for file in found if file.is_file()][:1]
  if not files:
    raise ValueError(f"--weights={place}: the directory holds no {_STEMS[0]}{SUFFIXES[0]} or the "
                     "like; name the file of weights itself")
  tensors: dict[str, np.ndarray] = {}
  for file in files:
    tensors |= _unwrapped(_read(file))
  schedulers = (folder / "scheduler" / "scheduler_config.json" for folder in (place, place.parent))
  scheduler = next((file for file in schedulers if file.is_file()), None)
  return Weights(place, tensors, _json(inner / "config.json"),
                 _json(scheduler) if scheduler else {})


def _read(file: pathlib.Path) -> Any:
  readers: Mapping[str, Callable] = {
      ".safetensors": lambda file: {name: np.asarray(leaf) for name, leaf in safetensors.flax.load(
          file.read_bytes()).items()},
      ".npz": lambda file: dict(np.load(file)), **dict.fromkeys(TORCH, _read_torch)}
  if file.suffix not in readers:
    code = ": a pickle runs the code that it names" if file.suffix in (".pkl", ".pickle") else ""
    raise ValueError(
        f"--weights={file} must end in {', '.join(SUFFIXES)}{code}; save its state_dict() by "
        "torch.save or safetensors where you trust it")
  try:
    return readers[file.suffix](file)
  except Exception as error:  # of zipfile, pickle, NumPy or safetensors
    raise ValueError(f"--weights={file} cannot be read: {multihost.first_line(error)}") from error


def _json(file: pathlib.Path) -> NamedValues:
  """The object in a JSON file; {} where there is no file."""
  if not file.is_file():
    return NamedValues({}, f"--weights: {file} of the model must lie beside its weights")
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"--weights: {file} is no JSON: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"--weights: {file} must hold an object")
  return NamedValues(found, f"--weights: {file}")


def _unwrapped(found: Any) -> dict[str, np.ndarray]:
  """The tensors of a state dict, or of the one in a checkpoint; without a prefix of all names.

  Buffers of the module around the network have names without a dot.
  """
  if isinstance(found, dict):
    for name in _STATES:
      if isinstance(found.get(name), dict):
        return _unwrapped(found[name])
  tensors = found if isinstance(found, dict) else {}
  tensors = {name: value for name, value in tensors.items() if isinstance(value, np.ndarray)}
  if not tensors:
    raise ValueError("--weights: the file holds no dict of tensors")
  for prefix in ("module.", "model."):
    if all(name.startswith(prefix) or "." not in name for name in tensors):
      tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
  return tensors


def _read_torch(file: pathlib.Path) -> Any:
  """What a .pt holds, with NumPy arrays in the place of tensors."""
  if not zipfile.is_zipfile(file):
    return _read_old_torch(file)
  with zipfile.ZipFile(file) as archive:
    root = next((name[:-len("data.pkl")] for name in archive.namelist() if name.endswith(
        "data.pkl")), None)
    if root is None:
      raise ValueError("it is no archive of torch.save")
    stream = io.BytesIO(archive.read(f"{root}data.pkl"))
    return _Tensors(stream, lambda key, *_: archive.read(f"{root}data/{key}")).load()


def _read_old_torch(file: pathlib.Path) -> Any:
  """What torch.save wrote before version 1.6: pickles, then the numbers of one storage each.

  The numbers follow the tensors, so that these are read twice: first with zeros.
  """
  stream, sizes, numbers = io.BytesIO(file.read_bytes()), {}, {}

  def zeros(key, size):
    sizes[key] = size
    return bytes(size)

  # A mark of the format, its version, and facts of the machine.
  if [_Tensors(stream, zeros).load() for _ in range(3)][:2] != [_OLD_MARK, _OLD_VERSION]:
    raise ValueError("it is no file of torch.save")
  start = stream.tell()
  _Tensors(stream, zeros).load()
  for key in _Tensors(stream, zeros).load():
    stream.seek(8, io.SEEK_CUR)  # the number of elements
    numbers[key] = stream.read(sizes[key])
  stream.seek(start)
  return _Tensors(stream, lambda key, size: numbers[key]).load()


class _Tensors(pickle.Unpickler):
  """An unpickler of dicts of tensors, which refuses all other names."""

  def __init__(self, stream: Any, storage: Callable[[str, int], bytes]):
    super().__init__(stream)
    self._storage = storage

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if module == "torch" and name in _DTYPES:
      return np.dtype(_DTYPES[name])
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _strided
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return lambda tensor, *_: tensor
    raise ValueError(f"its pickle would run {module}.{name}; save its state_dict() alone")

  def persistent_load(self, pid: Any) -> np.ndarray:
    _, dtype, key, _, count = pid[:5]
    return np.frombuffer(self._storage(key, count * dtype.itemsize), dtype, count)


def _strided(storage, offset, shape, strides, *_) -> np.ndarray:
  """The tensor in a storage, strides in elements."""
  size = storage.dtype.itemsize
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
  if 0 not in shape and not 0 <= offset <= last < len(storage):
    raise ValueError("a tensor lies outside of its numbers")
  return np.lib.stride_tricks.as_strided(
      storage[offset:], shape, [step * size for step in strides], writeable=False).copy()
