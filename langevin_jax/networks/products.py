"""Dense layers whose products take bfloat16 operands and accumulate in float32.

Matrix units multiply bfloat16 and add in float32. Autodiff of such a product would multiply the
float32 cotangent, and with it run every transposed product in float32. So the product is a
primitive, which rounds its operands whatever they are. It is bilinear but for the rounding: the
derivatives of either mode and of any order are again such products.
"""

import string

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> jnp.dtype:
  """The dtype called `name`.

  Raises:
    ValueError: neither "float32" nor "bfloat16".
  """
  if name not in DTYPES:
    raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
  return DTYPES[name]


def matmul(x: jax.Array, w: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """x w with operands rounded to `dtype`; float32 out, as are tangents and cotangents.

  Args:
    x: (n, a). w: (a, b).
  """
  return _product(x, w, ("na", "ab", "nb"), dtype)


# a, b → Σ a b over the letters that the result has not, as in `einsum`; the letters of a, of b and
# of the result are `axes`.
product_p = Primitive("product")


def _product(a, b, axes, dtype):
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
  # One more letter, in front of each operand that has the axis, and of the result.
  new = next(letter for letter in string.ascii_letters if letter not in axes[0] + axes[1])
  operands = [a if place is None else jnp.moveaxis(a, place, 0)
              for a, place in zip(operands, places, strict=True)]
  spelt = [letters if place is None else new + letters
           for letters, place in zip(axes, places, strict=False)]
  return _product(*operands, (*spelt, new + axes[2]), dtype), 0


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
# The operand that a tangent meets is kept for the gradient: rounded, at half the memory.
ad.defjvp(
    product_p,
    lambda dot, a, b, axes, dtype: _product(dot, b.astype(dtype), axes, dtype),
    lambda dot, a, b, axes, dtype: _product(a.astype(dtype), dot, axes, dtype))


class Dense(nn.Module):
  """x W + b on rows (n, a) → (n, features), float32.

  Attributes:
    features: width of the output.
    dtype: "float32" or "bfloat16", of the operands; parameters are float32.
    zero: whether W starts at zero, as b always does, rather than Xavier-uniform.
    coordinates: whether x has data's own coordinates, of unit scale. W is then N(0, 1/a), and x W
      of unit scale for any a. Xavier's variance, 2/(a + features), is as good where a ≈ features;
      where a is small it leaves x W so close to 0 that what follows is linear in x.
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
    # A plain product where nothing is rounded: XLA knows more of it.
    y = x @ w if compute_dtype(self.dtype) == x.dtype else matmul(x, w, compute_dtype(self.dtype))
    return y + b[None, :]
