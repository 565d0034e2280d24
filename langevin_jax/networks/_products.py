"""Dense layers whose products take bfloat16 operands and accumulate in float32.

Matrix units multiply bfloat16 and add in float32. Under JAX's automatic differentiation of such a
product the cotangent is float32, so every transposed product would run in float32. The product is
therefore a primitive of its own, which rounds all its operands. Apart from the rounding it is
bilinear: derivatives of both modes and any order are again such products.
"""

import math
import string
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from langevin_jax import _values

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> Any:
  """The dtype with a given name.

  Raises:
    ValueError: neither "float32" nor "bfloat16".
  """
  if name not in DTYPES:
    raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
  return DTYPES[name]


def largest_divisor(most: int, *numbers: int) -> int:
  """The largest integer from 1 to `most` that divides all numbers, for messages."""
  common = math.gcd(*numbers)
  return next((n for n in range(min(most, common), 1, -1) if common % n == 0), 1)


def matmul(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
  """x w with operands rounded to `dtype`. Result, tangents and cotangents are float32.

  Args:
    x: (n, a). w: (a, b). dtype: of the operands.
  """
  return _product(x, w, ("na", "ab", "nb"), dtype)


# An `einsum` of two operands. Its parameter `axes` holds the letters of a, of b and of the result.
product_p = Primitive("product")


def _product(a, b, axes, dtype):
  # Inside `jax.shard_map` both vary alike. JAX does this for its own primitives.
  a, b = _values.varying_like(a, b), _values.varying_like(b, a)
  return product_p.bind(a, b, axes=axes, dtype=jnp.dtype(dtype))


def _rounded_product(a, b, *, axes, dtype):
  return jnp.einsum(f"{axes[0]},{axes[1]}->{axes[2]}", a.astype(dtype), b.astype(dtype),
                    preferred_element_type=jnp.float32)


def _abstract(a, b, *, axes, dtype):
  del dtype
  size = dict(zip(axes[0] + axes[1], a.shape + b.shape, strict=True))
  return a.update(shape=tuple(size[axis] for axis in axes[2]), dtype=jnp.dtype(jnp.float32),
                  weak_type=False)


def _batched(operands, places, *, axes, dtype):
  # A new letter in front of each operand that has the batch axis, and of the result.
  new = next(letter for letter in string.ascii_letters if letter not in axes[0] + axes[1])
  a, b = (operand if place is None else jnp.moveaxis(operand, place, 0)
          for operand, place in zip(operands, places, strict=True))
  axes_a, axes_b = (letters if place is None else new + letters
                    for letters, place in zip(axes[:2], places, strict=True))
  return _product(a, b, (axes_a, axes_b, new + axes[2]), dtype), 0


product_p.def_impl(jax.jit(_rounded_product, static_argnames=("axes", "dtype")))
product_p.def_abstract_eval(_abstract)
mlir.register_lowering(product_p, mlir.lower_fun(_rounded_product, multiple_results=False))
batching.primitive_batchers[product_p] = _batched
ad.defbilinear(
    product_p,
    lambda bar, a, b, axes, dtype: _product(
        bar, b, (axes[2], axes[1], axes[0]), dtype).astype(a.aval.dtype),
    lambda bar, a, b, axes, dtype: _product(
        a, bar, (axes[0], axes[2], axes[1]), dtype).astype(b.aval.dtype))
# The operand that multiplies a tangent is stored for the gradient: rounded, at half the memory.
ad.defjvp(
    product_p,
    lambda dot, a, b, axes, dtype: _product(dot, b.astype(dtype), axes, dtype),
    lambda dot, a, b, axes, dtype: _product(a.astype(dtype), dot, axes, dtype))


class Dense(nn.Module):
  """x W + b on rows, (n, a) → (n, features), float32. b starts at zero.

  | `zero` | `coordinates` | W at initialisation |
  |---|---|---|
  | True | | 0 |
  | False | True | N(0, 1/a) |
  | False | False | Xavier-uniform, variance 2/(a + features) |

  Attributes:
    features: width of the output.
    dtype: "float32" or "bfloat16", of the operands. Parameters are float32.
    zero: whether W starts at zero.
    coordinates: whether x holds coordinates of the data at unit scale. With N(0, 1/a) x W has unit
      scale for every a. With Xavier's variance and a small a, x W would be so small that the
      network is nearly linear in x.
  """

  features: int
  dtype: str = "float32"
  zero: bool = False
  coordinates: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.zero:
      init = nn.initializers.zeros
    elif self.coordinates:
      init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    else:
      init = nn.initializers.xavier_uniform()
    w = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
    b = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    # A plain product if nothing is rounded, because XLA optimises it better.
    y = x @ w if compute_dtype(self.dtype) == x.dtype else matmul(x, w, compute_dtype(self.dtype))
    return y + b[None, :]
