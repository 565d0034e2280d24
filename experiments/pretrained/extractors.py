"""Extractors of features of images by public networks, with weights from the user's own file."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pretrained import weights as weights_lib
from experiments.run import meshes

# The numbers of one batch of images as the network sees them.
_BATCH_NUMBERS = 2**22


class Extractor(NamedTuple):
  """Images (n, h, w, c) in standard units → features (n, d), as a function.

  classify: features → logits (n, classes) of the network's own classes, if it has some.
  """

  extract: Callable[[np.ndarray], np.ndarray]
  classify: Callable[[np.ndarray], np.ndarray] | None = None

  def __call__(self, x: np.ndarray) -> np.ndarray:
    return self.extract(x)


def of_images(
    dataset: Any, name: str, program: Callable[[Any, jax.Array], jax.Array], params: Any, *,
    least_side: int = 1, numbers: int = 0,
) -> Callable[[np.ndarray], np.ndarray]:
  """The function images (n, h, w, c) in the standard units of a data set → features (n, d).

  Batches are spread over the devices of this process.

  Args:
    program: (params, x) → features, x (batch, h, w, 3) of values in [0, 1]; a grey image is
      repeated.
    least_side: the smallest side of an image.
    numbers: of one image as the network sees it, if not its own.

  Raises:
    ValueError: data that are no images of 1 or 3 channels, or smaller ones.
  """
  shape, span = dataset.train.shape[1:], dataset.value_range
  if dataset.kind != "image" or shape[-1] not in (1, 3) or min(shape[:2]) < least_side:
    raise ValueError(f"{name} needs images of 1 or 3 channels and at least {least_side} × "
                     f"{least_side} pixels, the data are of shape {shape}")
  mean, scale = np.asarray(dataset.mean), np.asarray(dataset.scale)
  devices = jax.local_devices()
  mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
  split, whole = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
                  for axes in (("batch",), ()))
  params = jax.device_put(params, whole)
  compiled = jax.jit(program, in_shardings=(whole, split),
                     compiler_options=meshes.own_convolutions(devices[0].platform))

  def extract(x):
    most = _BATCH_NUMBERS // (numbers or int(np.prod(shape)))
    size = len(devices) * max(1, min(most, -(-len(x) // len(devices))))
    parts = []
    for first in range(0, len(x), size):
      values = (mean + scale * x[first:first + size] - span[0]) / (span[1] - span[0])
      padded = np.zeros((size, *shape[:-1], 3), np.float32)
      padded[:len(values)] = np.clip(values, 0.0, 1.0)
      parts.append(np.asarray(compiled(params, padded))[:len(values)])
    return np.concatenate(parts)

  return extract


def tensors(name: str, file: str, source: str) -> Mapping[str, np.ndarray]:
  """The tensors in a file of weights. Raises ValueError where it is not given or not readable."""
  if not file:
    raise ValueError(f"{name} needs weights, which are not downloaded: {source}")
  try:
    return weights_lib.read(pathlib.Path(file).expanduser()).tensors
  except ValueError as error:
    raise ValueError(f"{name}: {str(error).removeprefix('--')}") from error


class Reader:
  """Takes tensors by name, and says in one line which are missing or were not taken."""

  def __init__(self, name: str, found: Mapping[str, np.ndarray]):
    self._name, self._found, self._taken = name, found, set()

  def __call__(self, tensor: str) -> np.ndarray:
    if tensor not in self._found:
      names = ", ".join(list(self._found)[:3])
      raise ValueError(f"{self._name}: weights hold no {tensor}; they have {names}, …")
    self._taken.add(tensor)
    return np.asarray(self._found[tensor], np.float32)

  def finish(self, *ignored: str) -> None:
    """Raises ValueError if there are tensors of other names than those taken or `ignored`."""
    extra = [name for name in self._found if name not in self._taken and not name.endswith(ignored)]
    if extra:
      raise ValueError(f"{self._name}: weights of another network, with {', '.join(extra[:3])}")
