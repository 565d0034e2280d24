"""Networks against references: layers in plain formulas, in the dtype of their arguments."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import oracles

# Tokens of a condition of three examples, some of which are not there.
TEXT = {"text": np.random.default_rng(5).normal(size=(3, 4, 2)).astype(np.float32),
        "text_mask": np.arange(4)[None] < np.array([4, 2, 0])[:, None]}


def silu(a):
  return a / (1.0 + jnp.exp(-a))


def dense(p, a):
  return a @ p["kernel"] + p["bias"].reshape((1,) * (a.ndim - 1) + (-1,))


def standardized(a):
  """Layer normalisation without parameters."""
  mean, var = (f(a, axis=-1, keepdims=True) for f in (jnp.mean, jnp.var))
  return (a - mean) / jnp.sqrt(var + 1e-6)


def heads_of(a, heads, parts):
  """(batch, n, parts·width) → `parts` arrays (batch, n, heads, depth)."""
  return jnp.moveaxis(a.reshape(*a.shape[:2], heads, parts, -1), 3, 0)


def attention(q, k, v, there=None):
  """softmax(q kᵀ/√d) v of heads (batch, n, heads, depth) over the keys that are there."""
  weights = jnp.exp(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]))
  if there is not None:
    weights = weights * there[:, None, None]
  weights = weights / weights.sum(-1, keepdims=True)
  return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*q.shape[:2], -1)


def cross_attention(params, p, a, heads):
  """The attention of a block with parameters p to `TEXT`, in a network with `params`."""
  mask = TEXT["text_mask"]
  first = dense(params["no_token"], jnp.ones((len(a), 1), a.dtype))[:, None]
  text = dense(params["text_tokens"], jnp.asarray(TEXT["text"] * mask[..., None], a.dtype))
  k, v = heads_of(dense(p["key_value"], jnp.concatenate([first, text], 1)), heads, 2)
  q, = heads_of(dense(p["query"], standardized(a)), heads, 1)
  there = np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
  return dense(p["attended"], attention(q, k, v, there))


def parameters_of(network, shape, condition, scale=0.2):
  """As `oracles.parameters`, of a network with a condition."""
  given = types.SimpleNamespace(
      init=lambda key, x, ell, _: network.init(key, x, ell, condition))
  return oracles.parameters(given, shape, scale=scale)


def check_against_float64(network, reference, shape, condition, *, scale, bounds):
  """Output, tangent and gradient are those of reference(network, params, x, ell) in float64.

  Args:
    scale: of the parameters.
    bounds: of the errors in each dtype, relative to the size of the output, the tangent and the
      gradient by all parameters.
  """
  params = parameters_of(network, shape, condition, scale)
  x, move, weigh = np.random.default_rng(1).normal(size=(3, *shape))

  def everything(apply, params, dtype):
    a, b, c = (jnp.asarray(h, dtype) for h in (x, move, weigh))
    gradient = jax.grad(lambda p: jnp.sum(c * apply(p, a)))(params)
    return *jax.jvp(functools.partial(apply, params), (a,), (b,)), gradient

  def run(apply, dtype):
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    parts = jax.jit(lambda p: everything(apply, p, dtype))(cast)
    return [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)]) for part in parts]

  expected = run(lambda p, a: reference(network, p, a, 0.3), jnp.float64)
  for dtype, bound in bounds.items():
    low = network.clone(dtype=dtype)
    got = run(lambda p, a, low=low: low.apply({"params": p}, a, 0.3, condition), jnp.float32)
    for value, true in zip(got, expected, strict=True):
      assert 1e-9 < np.linalg.norm(value - true) / np.linalg.norm(true) < bound, dtype
