"""Networks that a config may call: (init, apply) pairs for data of any shape that they take."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from langevin_jax import networks

# Blocks that can be traced in some seconds.
_DEEPEST = 1000
Dtype = Literal["float32", "bfloat16"]


class Network(NamedTuple):
  """init: key → parameters. apply: (params, x, half_log_snr, labels) → an array of x's shape."""

  init: Callable[[jax.Array], Any]
  apply: Callable[..., jax.Array]


def mlp(
    shape: tuple[int, ...], num_classes: int, constrain: Callable[[jax.Array], jax.Array], *,
    width: int = 128, depth: int = 4, dtype: Dtype = "float32",
) -> Network:
  """A residual perceptron for vectors (n, d), and for sequences (n, T, c) as T·c numbers."""
  _check(width=width, depth=depth)
  if len(shape) not in (1, 2):
    raise ValueError(f"it takes vectors (n, d) or sequences (n, T, c), the data have examples of "
                     f"shape {shape}")
  module = networks.MLP(width=width, depth=depth, num_classes=num_classes, dtype=dtype,
                        constrain=constrain)
  return linen(module, (math.prod(shape),))


def dit(
    shape: tuple[int, ...], num_classes: int, constrain: Callable[[jax.Array], jax.Array], *,
    width: int = 128, depth: int = 4, heads: int = 4, patch_size: int = 2, dtype: Dtype = "float32",
    unroll: int = 8, remat: bool = False,
) -> Network:
  """A diffusion transformer (Peebles & Xie 2023) for images (n, h, w, c) or sequences (n, T, c).

  Args:
    width, depth, heads: channels, blocks, and heads of attention.
    patch_size: pixels a side, or steps of a sequence, that make a token.
    dtype: of the computation; parameters are float32.
    unroll: blocks an iteration of the scan over blocks; 1 compiles fastest.
    remat: recompute a block in the gradient rather than keep its activations.
  """
  _check(width=width, depth=depth, heads=heads, patch_size=patch_size, unroll=unroll)
  if len(shape) not in (2, 3):
    raise ValueError(f"it takes images (n, h, w, c) or sequences (n, T, c), the data have examples "
                     f"of shape {shape}")
  seen = shape
  if len(shape) == 2:
    if shape[0] % patch_size:
      raise ValueError(f"patch_size must divide the {shape[0]} steps of a sequence; got "
                       f"{patch_size}")
    seen, patch_size = (shape[0] // patch_size, 1, patch_size * shape[1]), 1
  module = networks.DiT(patch_size=patch_size, width=width, depth=depth, heads=heads,
                        num_classes=num_classes, dtype=dtype, unroll=unroll, remat=remat,
                        constrain=constrain)
  return linen(module, seen)


NETWORKS = {"mlp": mlp, "dit": dit}


def linen(module: nn.Module, shape: tuple[int, ...]) -> Network:
  """A Flax Linen module that maps (x, half_log_snr, labels), x (batch, *shape), to x's shape."""
  def init(key):
    return module.init(key, jnp.zeros((1, *shape)), jnp.zeros((1,)),
                       jnp.zeros((1,), jnp.int32))["params"]

  def apply(params, x, ell, labels):
    return module.apply(
        {"params": params}, x.reshape(-1, *shape), ell, labels).reshape(x.shape)

  return Network(init, apply)


def adapted(made: Any, shape: tuple[int, ...]) -> Network:
  """What a call of the network slot has made, as a `Network`.

  Raises:
    ValueError: neither a Linen module nor an (init, apply) pair.
  """
  if isinstance(made, nn.Module):
    return linen(made, shape)
  if isinstance(made, tuple) and len(made) == 2 and all(map(callable, made)):
    return Network(*made)
  raise ValueError("a network is a Flax Linen module or a pair (init, apply), got "
                   f"{type(made).__name__}")


def _check(**values: int) -> None:
  for name, value in values.items():
    if not 1 <= value < 2**31:
      raise ValueError(f"{name} must be at least 1, got {value}")
  if values["depth"] > _DEEPEST:
    raise ValueError(f"depth must be at most {_DEEPEST:,}, got {values['depth']}")
