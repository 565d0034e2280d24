"""The kind of examples by the shape of the array: vector, sequence, image, volume or array.

Channels, or features, are the last axis. Integers (n, length) are tokens where the argument `kind`
says so. A shape that fits two kinds needs it.
"""

import sys
from typing import Literal

import numpy as np

Kind = Literal["", "image", "vector", "sequence", "volume", "array", "tokens"]
KINDS = ("image", "vector", "sequence", "volume", "array", "tokens")
SHAPES = ("a vector is (n, d), a sequence (n, length, channels), an image (n, h, w) or (n, h, w, 1,"
          " 3 or 4), a volume (n, d, h, w, channels), an array of rank 3 or more, tokens are "
          "integers (n, length)")


def kind_of(shape: tuple[int, ...], dtype: np.dtype, low: float, kind: str = "") -> str:
  """The kind of an array of this shape and dtype whose smallest value is `low`.

  Args:
    kind: the kind that the user gives, or "".

  Raises:
    ValueError: the shape does not fit `kind`, or fits several kinds and `kind` is "".
  """
  rank = len(shape)
  colour = rank == 4 and shape[-1] in (1, 3, 4)
  channels_first = rank == 4 and not colour and shape[1] in (1, 3, 4) and min(shape[2:]) > 4
  remedy = "channels come last here: np.moveaxis(x, 1, -1)"
  if kind and kind not in KINDS:
    raise ValueError(f"data.kind must be one of {', '.join(KINDS)}; got {kind!r}")
  if kind:
    fits = {"vector": rank == 2, "sequence": rank == 3, "image": rank == 3 or colour,
            "volume": rank == 5, "array": rank > 2, "tokens": rank == 2 and dtype.kind in "iu"}
    if not fits[kind]:
      raise ValueError(f"data.kind={kind} does not fit an array {dtype} of shape {shape}: {SHAPES}"
                       + (f"; {remedy}" if channels_first and kind == "image" else ""))
    return kind
  if rank == 2:
    return "vector"
  if rank == 3:
    if dtype == np.uint8 and shape[-1] > 4:
      return "image"
    raise ValueError(
        f"data.kind must say what an array of shape {shape} is: image (grey, {shape[1]} × "
        f"{shape[2]}), sequence ({shape[1]} steps of {shape[2]} channels) or array")
  if channels_first:
    print(f"warning: data: shape {shape} looks like images with channels first, and {remedy}; it "
          "is taken for arrays of any kind, which data.kind=array says without this warning",
          file=sys.stderr, flush=True)
  # Latents have four channels and, unlike images, negative values.
  return "image" if colour and not (shape[-1] == 4 and low < 0.0) else "array"
