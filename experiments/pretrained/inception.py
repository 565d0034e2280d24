"""The Inception-v3 of FID (Szegedy et al. 2016; Heusel et al. 2017), as its TensorFlow graph.

Its weights are those of 2015-12-05 in the names of pytorch-fid and torch-fidelity. It differs from
the network of image classification: averages leave out what lies beyond the edge, the last block
takes a maximum instead, and images are resized without antialiasing.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from experiments.pretrained import extractors

SIDE, FEATURES, CLASSES = 299, 2048, 1008
_SOURCE = ("weights='pt_inception-2015-12-05-6726825d.pth' names the file that pytorch-fid "
           "publishes (torch-fidelity: weights-inception-2015-12-05-6726825d.pth)")
# A layer is a name, with "/2" for stride 2 and "!" for no padding; "max" and "mean" are 3 × 3
# pools. A list is a sequence, a tuple is branches that are joined along the channels.
_7x7 = [f"branch7x7dbl_{i}" for i in range(1, 6)]
_C = ("branch1x1", ["branch7x7_1", "branch7x7_2", "branch7x7_3"], _7x7, ["mean", "branch_pool"])
_A = ("branch1x1", ["branch5x5_1", "branch5x5_2"],
      ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["mean", "branch_pool"])
_E = lambda pool: (
    "branch1x1", ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
    ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
    [pool, "branch_pool"])
BLOCKS = {
    "Mixed_5b": _A, "Mixed_5c": _A, "Mixed_5d": _A,
    "Mixed_6a": ("branch3x3/2", ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3/2"], "max/2"),
    "Mixed_6b": _C, "Mixed_6c": _C, "Mixed_6d": _C, "Mixed_6e": _C,
    "Mixed_7a": (["branch3x3_1", "branch3x3_2/2"],
                 ["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4/2"], "max/2"),
    "Mixed_7b": _E("mean"), "Mixed_7c": _E("max")}
STEM = ["Conv2d_1a_3x3/2", "Conv2d_2a_3x3!", "Conv2d_2b_3x3", "max/2", "Conv2d_3b_1x1",
        "Conv2d_4a_3x3!", "max/2"]


def features(params: Any, x: jax.Array) -> jax.Array:
  """The averages of the last block, (n, 2048), of x (n, h, w, 3) of values in [0, 1].

  Values are rounded to 0 … 255, resized to 299 × 299, and scaled to (v − 128)/128.
  """
  rows, columns = (_resizing(side) for side in x.shape[1:3])
  x = jnp.einsum("ih,nhwc,jw->nijc", rows, jnp.round(255.0 * x), columns,
                 precision=lax.Precision.HIGHEST)
  h = _run(params, STEM, "", (x - 128.0) / 128.0)
  for name, block in BLOCKS.items():
    h = _run(params, block, f"{name}.", h)
  return jnp.mean(h, axis=(1, 2))


def inception(dataset, *, weights: str = "") -> extractors.Extractor:
  """FID's own Inception-v3: 2,048 features of images; with it are FID, KID and IS of papers.

  Args:
    weights: the file pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or that of
      torch-fidelity, which has the same tensors.
  """
  params, head = read(extractors.tensors("inception", weights, _SOURCE))
  return extractors.Extractor(
      extractors.of_images(dataset, "inception", features, params, numbers=3 * SIDE**2),
      # As the score is published: without the bias.
      lambda values: values @ head)


def read(tensors) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
  """(convolutions with their normalisation in them, (2048, 1008) of the classes) of tensors."""
  take, params = extractors.Reader("inception", tensors), {}
  for name in (*_names(STEM), *(f"{block}.{name}" for block, parts in BLOCKS.items()
                                for name in _names(parts))):
    kernel = take(f"{name}.conv.weight")
    scale, shift, mean, variance = (take(f"{name}.bn.{part}") for part in (
        "weight", "bias", "running_mean", "running_var"))
    scale = scale / np.sqrt(variance + 1e-3)
    params[name] = {"kernel": np.transpose(kernel * scale[:, None, None, None], (2, 3, 1, 0)),
                    "bias": shift - mean * scale}
  head = take("fc.weight")
  take("fc.bias")
  take.finish("num_batches_tracked")
  try:
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
    shape = jax.eval_shape(features, params, image)
  except (TypeError, ValueError) as error:
    raise ValueError("inception: weights have the names of Inception-v3, not the shapes") from error
  if (shape.shape[1], head.shape) != (FEATURES, (CLASSES, FEATURES)):
    raise ValueError(f"inception: weights of {shape.shape[1]} features and {head.shape[0]} "
                     f"classes; FID's have {FEATURES} and {CLASSES}")
  return params, head.T


def _names(part: Any) -> Sequence[str]:
  """The names of the convolutions of a part of the table."""
  if isinstance(part, str):
    name = part.rstrip("!").removesuffix("/2")
    return () if name in ("max", "mean") else (name,)
  return [name for each in part for name in _names(each)]


def _run(params: Any, part: Any, place: str, h: jax.Array) -> jax.Array:
  """A part of the table, applied to h (n, h, w, c)."""
  if isinstance(part, tuple):
    return jnp.concatenate([_run(params, each, place, h) for each in part], axis=-1)
  if isinstance(part, list):
    for each in part:
      h = _run(params, each, place, h)
    return h
  name = part.rstrip("!").removesuffix("/2")
  stride, padding = (2, "VALID") if part.endswith("/2") else (1, "VALID" if "!" in part else "SAME")
  if name == "max":
    return nn.max_pool(h, (3, 3), (stride, stride), padding)
  if name == "mean":
    return nn.avg_pool(h, (3, 3), padding="SAME", count_include_pad=False)
  layer = params[place + name]
  h = lax.conv_general_dilated(h, layer["kernel"], (stride, stride), padding,
                               dimension_numbers=("NHWC", "HWIO", "NHWC"))
  return nn.relu(h + layer["bias"][None, None, None])


def _resizing(side: int) -> np.ndarray:
  """(299, side): linear interpolation at i·side/299, as TensorFlow 1 did, constant at the end."""
  at = np.arange(SIDE, dtype=np.float32) * np.float32(side / SIDE)
  low = np.floor(at).astype(int)
  matrix = np.zeros((SIDE, side), np.float32)
  matrix[np.arange(SIDE), low] += 1.0 - (at - low)
  matrix[np.arange(SIDE), np.minimum(low + 1, side - 1)] += at - low
  return matrix
