"""Dense layers whose products take bfloat16 operands and accumulate in float32.

Matrix units multiply bfloat16 and add in float32. Left to itself, autodiff would put the float32
cotangent into the transposed products, which then are float32 throughout; so the gradient is
written out here.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> jnp.dtype:
  """The dtype called `name`.

  Raises:
    ValueError: neither "float32" nor "bfloat16".
  """
  if name not in DTYPES:
    raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
  return DTYPES[name]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: jax.Array, w: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """x w with operands rounded to `dtype`; float32 out, as are both gradients.

  Args:
    x: (n, a). w: (a, b).
  """
  return _product(x.astype(dtype), w.astype(dtype), 1, 0)


def _forward(x, w, dtype):
  x, w = x.astype(dtype), w.astype(dtype)
  return _product(x, w, 1, 0), (x, w)


def _backward(dtype, operands, cotangent):
  x, w = operands
  cotangent = cotangent.astype(dtype)
  return _product(cotangent, w, 1, 1), _product(x, cotangent, 0, 0)


def _product(a, b, axis_a, axis_b):
  return lax.dot_general(
      a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=jnp.float32)


matmul.defvjp(_forward, _backward)


class Dense(nn.Module):
  """x W + b on rows (n, a) → (n, features), float32.

  Attributes:
    features: width of the output.
    dtype: "float32" or "bfloat16", of the operands; parameters are float32.
    zero: whether W starts at zero, as b always does, rather than Xavier-uniform.
  """

  features: int
  dtype: str = "float32"
  zero: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.zeros if self.zero else nn.initializers.xavier_uniform()
    w = self.param("kernel", init, (x.shape[-1], self.features))
    b = self.param("bias", nn.initializers.zeros, (self.features,))
    # The plain product has forward-mode derivatives too, which likelihoods need; matmul has not.
    y = x @ w if compute_dtype(self.dtype) == x.dtype else matmul(x, w, compute_dtype(self.dtype))
    return y + b[None, :]
