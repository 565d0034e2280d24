"""DINOv2's vision transformers (Oquab et al. 2023), for FD-DINOv2 (Stein et al. 2023)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.pretrained import extractors

PATCH, HEAD = 14, 64
# Images are seen as so many tokens a side, of 224 pixels. Published positions are of 37.
TOKENS = 16
# Mean and deviation of ImageNet's channels, of values in [0, 1].
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_SCALE = np.array([0.229, 0.224, 0.225], np.float32)
_SOURCE = ("weights='dinov2_vitl14_pretrain.pth' names the file that DINOv2 publishes, which "
           "FD-DINOv2 of papers has; those of ViT-S and ViT-B will do")
_BLOCK = (
    *(f"{layer}.{leaf}" for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1",
                                      "mlp.fc2") for leaf in ("weight", "bias")),
    "ls1.gamma", "ls2.gamma")


def features(params: Any, x: jax.Array) -> jax.Array:
  """The normalised class token (n, width) of x (n, h, w, 3) of values in [0, 1].

  Images are resized to the tokens of `params`, bicubic with antialiasing.
  """
  n, count = len(x), math.isqrt(len(params["positions"]))
  x = jax.image.resize(x, (n, count * PATCH, count * PATCH, 3), "cubic")
  x = (x - _MEAN[None, None, None]) / _SCALE[None, None, None]
  tokens = x.reshape(n, count, PATCH, count, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
  h = _linear(tokens.reshape(n, count**2, -1), params["patches"], params["patches_bias"])
  first = jnp.broadcast_to(params["class"][None, None], (n, 1, h.shape[-1]))
  h = jnp.concatenate([first, h + params["positions"][None]], axis=1)
  h, _ = lax.scan(_block, h, params["blocks"])
  return _normalised(h[:, 0], params["norm"], params["norm_bias"])


def dinov2(dataset, *, weights: str = "") -> extractors.Extractor:
  """The class token of DINOv2 ViT-S/14, B/14 or L/14; its Fréchet distance is FD-DINOv2.

  Args:
    weights: the published file, such as dinov2_vitl14_pretrain.pth.
  """
  params = read(extractors.tensors("dinov2", weights, _SOURCE))
  return extractors.Extractor(extractors.of_images(
      dataset, "dinov2", features, params, numbers=3 * (TOKENS * PATCH) ** 2))


def read(tensors, *, count: int = TOKENS) -> dict[str, Any]:
  """The parameters in tensors, with positions of count × count tokens."""
  take = extractors.Reader("dinov2", tensors)
  kernel, place = take("patch_embed.proj.weight"), take("pos_embed")[0]
  width = kernel.shape[0]
  if kernel.shape[1:] != (3, PATCH, PATCH) or width % HEAD or place.shape[-1] != width:
    raise ValueError(f"dinov2: patches of shape {kernel.shape}; those of ViT-S/14, B/14 and L/14 "
                     f"are (384, 768 or 1024, 3, {PATCH}, {PATCH})")
  depth = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
                  default=0)
  blocks = {name: np.stack([take(f"blocks.{i}.{name}") for i in range(depth)]) for name in _BLOCK}
  params = {
      "patches": kernel.transpose(2, 3, 1, 0).reshape(-1, width),
      "patches_bias": take("patch_embed.proj.bias"), "blocks": blocks,
      "class": take("cls_token")[0, 0] + place[0], "positions": interpolated(place[1:], count),
      "norm": take("norm.weight"), "norm_bias": take("norm.bias")}
  take.finish("mask_token")
  return params


def interpolated(places: np.ndarray, count: int) -> np.ndarray:
  """Positions (side², width) of count × count tokens, (count², width), bicubic as published.

  The published code asks for count + 0.1 tokens and lays them out as such.
  """
  side = math.isqrt(len(places))
  if count == side:
    return places
  at = (np.arange(count) + 0.5) * side / (count + 0.1) - 0.5
  matrix = np.zeros((count, side))
  for k in range(-1, 3):
    d = np.abs(np.floor(at) + k - at)
    # Keys' kernel with a = −¾, as in PyTorch.
    near = (1.25 * d - 2.25) * d**2 + 1.0
    far = -0.75 * (((d - 5.0) * d + 8.0) * d - 4.0)
    np.add.at(matrix, (np.arange(count), np.clip(np.floor(at) + k, 0, side - 1).astype(int)),
              np.where(d <= 1.0, near, far))
  grid = places.reshape(side, side, -1)
  return np.einsum("ih,jw,hwc->ijc", matrix, matrix, grid).reshape(count**2, -1).astype(np.float32)


def _block(h, params):
  """A block of a vision transformer whose branches are scaled by γ; for `lax.scan`."""
  n, tokens = h.shape[:2]
  linear = lambda h, name: _linear(h, params[f"{name}.weight"].T, params[f"{name}.bias"])
  norm = lambda h, name: _normalised(h, params[f"{name}.weight"], params[f"{name}.bias"])
  qkv = linear(norm(h, "norm1"), "attn.qkv").reshape(n, tokens, 3, -1, HEAD)
  attended = jax.nn.dot_product_attention(*(qkv[:, :, i] for i in range(3)))
  h = h + params["ls1.gamma"][None, None] * linear(attended.reshape(h.shape), "attn.proj")
  hidden = jax.nn.gelu(linear(norm(h, "norm2"), "mlp.fc1"), approximate=False)
  return h + params["ls2.gamma"][None, None] * linear(hidden, "mlp.fc2"), None


def _linear(h, kernel, bias):
  return h @ kernel + bias.reshape((1,) * (h.ndim - 1) + (-1,))


def _normalised(h, scale, bias):
  h = h - jnp.mean(h, axis=-1, keepdims=True)
  h = h * lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6)
  shape = (1,) * (h.ndim - 1) + (-1,)
  return h * scale.reshape(shape) + bias.reshape(shape)
