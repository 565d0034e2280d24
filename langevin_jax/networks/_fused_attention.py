"""cuDNN's fused attention on CUDA, with derivatives of both modes.

The fused kernel has a gradient and no tangent. Here the tangent of attention is a primitive: it is
computed by products as that of `plain`, and its transpose, which is what training needs, by the
kernel. Under `vmap` and in higher derivatives all of it is `plain`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import backend
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# The kernel takes heads of a multiple of 8 channels, and no more than this.
_DEEPEST = 128


def suits(dtype: Any, depth: int) -> bool:
  """Whether the default device is CUDA and the kernel takes heads of this dtype and depth."""
  return (dtype == jnp.bfloat16 and depth % 8 == 0 and depth <= _DEEPEST
          and "cuda" in backend.get_backend().platform_version.lower())


def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """softmax(q kᵀ/√d) v, each (batch, heads, tokens, depth), float32."""
  logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5).astype(v.dtype)
  return jnp.einsum("bhqk,bhkd->bhqd", weights, v, preferred_element_type=jnp.float32)


def _kernel(q, k, v):
  """`plain` by cuDNN, which has the axes (batch, tokens, heads, depth)."""
  q, k, v = (jnp.swapaxes(h, 1, 2) for h in (q, k, v))
  out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
  return jnp.swapaxes(out, 1, 2).astype(jnp.float32)


@jax.custom_jvp
def fused(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """`plain` by cuDNN's kernel."""
  return _kernel(q, k, v)


tangent_p = Primitive("attention_tangent")


@fused.defjvp
def _(primals, tangents):
  return fused(*primals), tangent_p.bind(*primals, *tangents)


def _tangent(*operands):
  return jax.jvp(plain, operands[:3], operands[3:])[1]


def _transposed(bar, *operands):
  bars = jax.vjp(_kernel, *operands[:3])[1](bar)
  return [None] * 3 + [each if ad.is_undefined_primal(tangent) else None
                       for each, tangent in zip(bars, operands[3:], strict=True)]


def _batched(operands, axes):
  return jax.vmap(_tangent, in_axes=axes)(*operands), 0


tangent_p.def_impl(jax.jit(_tangent))
tangent_p.def_abstract_eval(lambda q, *rest: q.update(
    shape=(*q.shape[:-1], rest[1].shape[-1]), dtype=jnp.dtype(jnp.float32), weak_type=False))
mlir.register_lowering(tangent_p, mlir.lower_fun(_tangent, multiple_results=False))
batching.primitive_batchers[tangent_p] = _batched
ad.primitive_transposes[tangent_p] = _transposed
ad.primitive_jvps[tangent_p] = lambda primals, tangents: jax.jvp(
    _tangent, primals, tuple(map(ad.instantiate_zeros, tangents)))
