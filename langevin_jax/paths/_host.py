"""Evaluation of JAX functions on the host CPU in float64.

Grids and solver weights are differences of nearly equal numbers. They are computed once, at trace
time, in float64, and cast to the program's precision last.

The precision depends on what a function closes over. JAX keeps one JAX value for each NumPy array,
in the precision of its first use. An array that is used in both precisions is an error in one of
them. `_kind` therefore sorts functions into three kinds:

| kind | the function closes over | evaluated in |
|---|---|---|
| "plain" | numbers only | float64 |
| "arrays" | NumPy arrays, which the program uses too | the default precision |
| "traced" | traced values, such as a learned schedule under `jax.grad` | the caller's trace |
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.typing import ArrayLike

from langevin_jax._values import is_traced

# The kind of each function that is still alive, so that it is traced for its kind only once.
_KINDS: weakref.WeakKeyDictionary[Callable, str] = weakref.WeakKeyDictionary()


def on_host(function: Callable, *arguments: ArrayLike) -> Any:
  """Evaluates `function` now, on the CPU, even while another function is being traced.

  Args:
    function: function of arrays, written in `jax.numpy`.
    arguments: concrete numbers or arrays, passed to `function` as floats.

  Returns:
    The results as NumPy arrays, floats widened to float64. They are computed in float64, or in the
    default precision if the function closes over NumPy arrays or fails in float64. A function that
    closes over traced values returns JAX arrays in the default precision instead, which
    `_values.is_traced` recognises.
  """
  kind = _kind(function, arguments)
  if kind == "traced":
    return function(*(jnp.asarray(a, float) for a in arguments))
  if kind == "plain":
    # Some functions run in float32 only, for example a scan that carries the dtype of a parameter.
    with contextlib.suppress(TypeError, ValueError), jax.enable_x64(True):
      return _evaluate(function, arguments)
  return _evaluate(function, arguments)


def constant(table: np.ndarray, dtype: Any) -> jax.Array:
  """A table for use inside a function that `on_host` may evaluate, in either precision."""
  # A copy, because JAX ties a NumPy array to the precision of its first use.
  return jnp.asarray(np.array(table, dtype))


def _evaluate(function: Callable, arguments: tuple[ArrayLike, ...]) -> Any:
  cpu = jax.local_devices(backend="cpu")[0]
  # Leaves the current trace, whichever it is: jit, vmap or an eager shard_map.
  with core.eval_context(), jax.default_device(cpu):
    dtype = jnp.result_type(float)
    # Copies, for the same reason as in `constant`.
    result = jax.jit(function)(*(np.array(a, dtype) for a in arguments))
    return jax.tree.map(_widened, result)


def _widened(value: jax.Array) -> np.ndarray:
  array = np.asarray(value)
  return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _kind(function: Callable, arguments: tuple[ArrayLike, ...]) -> str:
  """"plain", "arrays" or "traced", as in the table of the module."""
  try:
    known = _KINDS.get(function)
  except TypeError:  # not hashable
    known = None
  if known is not None:
    return known
  first = _constants(function, arguments)
  if is_traced([constant for constant, _ in first]):
    return "traced"
  arrays = [(c, owner) for c, owner in first if isinstance(c, np.ndarray)]
  again = _constants(function, arguments) if arrays else ()
  same, owners = {id(c) for c, _ in again}, {id(owner) for _, owner in again}
  # An array that the function closes over is the same object in two traces. An array that the
  # function creates is a new object in each. A number inside a cached program (a nested jit) is
  # the same object too, together with its program: it does not count.
  kept = any(id(c) in same and (c.ndim or id(owner) not in owners) for c, owner in arrays)
  kind = "arrays" if kept else "plain"
  with contextlib.suppress(TypeError):  # not hashable, or does not support weak references
    _KINDS[function] = kind
  return kind


def _constants(function: Callable, arguments: tuple[ArrayLike, ...]) -> list[tuple[Any, Any]]:
  """Pairs (constant, program that holds it) of `function`, traced in the default precision."""
  dtype = jnp.result_type(float)
  like = (jax.ShapeDtypeStruct(np.shape(a), dtype) for a in arguments)
  # A new lambda, because JAX would return the cached trace of a function that it knows.
  return list(_walk(jax.make_jaxpr(lambda *a: function(*a))(*like)))


def _walk(program: Any) -> Iterator[tuple[Any, Any]]:
  """Pairs (constant, program) of a jaxpr and of all jaxprs nested in it."""
  body = getattr(program, "jaxpr", program)
  for constant in getattr(program, "consts", ()):
    yield constant, body
  for equation in body.eqns:
    for operand in equation.invars:
      if hasattr(operand, "val"):
        yield operand.val, body
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
      if hasattr(value, "eqns"):
        yield from _walk(value)
