"""Evaluation on the host, in float64: grids and solver weights are differences of near numbers.

They are made once, at trace time, and cast last. Three kinds of function are told apart by what
they close over, never by what was called before:

- plain functions: float64 on the CPU;
- functions of NumPy arrays. JAX remembers one JAX value for each NumPy array, in the precision of
  its first use, so that an array seen in both precisions is an error in either of them. Such a
  function is evaluated in the default precision alone, in which the program uses it too;
- functions of traced values (a learned schedule under jit or grad): nothing is known yet, and the
  values are traced.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax._programs import is_traced

_KINDS = weakref.WeakKeyDictionary()
"""The kinds of functions that live on, so that each is traced for it once."""


def on_host(function: Callable, *arguments: np.ndarray) -> Any:
  """`function` evaluated now on the CPU, even while another function is being traced.

  Args:
    function: of arrays, written in `jax.numpy`.
    arguments: concrete numbers or arrays; `function` gets them as floats.

  Returns:
    The results as NumPy arrays, floats as float64. They are computed in float64, or in the default
    precision if the function closes over NumPy arrays, or runs in no other precision. A function
    that closes over traced values returns JAX arrays in the default precision, traced where they
    depend on those values: see `is_traced`.
  """
  kind = _kind(function, arguments)
  if kind == "traced":
    return function(*(jnp.asarray(a, float) for a in arguments))
  if kind == "plain":
    # Not all that runs in float32 runs in float64: a scan may carry the dtype of its parameters.
    with contextlib.suppress(TypeError, ValueError), jax.enable_x64(True):
      return _evaluate(function, arguments)
  return _evaluate(function, arguments)


def constant(table: np.ndarray, dtype: Any) -> jax.Array:
  """A table within a function that `on_host` may meet: in float64 there, in `dtype` elsewhere."""
  # A copy, which JAX has not seen in another precision.
  return jnp.asarray(np.array(table, dtype))


def _evaluate(function: Callable, arguments: tuple) -> Any:
  cpu = jax.local_devices(backend="cpu")[0]
  # The evaluating trace, whichever is current: jit, vmap, or the one of an eager shard_map.
  with jax.core.eval_context(), jax.default_device(cpu):
    dtype = jnp.result_type(float)
    # Copies, for arguments are remembered as constants are.
    result = jax.jit(function)(*(np.array(a, dtype) for a in arguments))
    return jax.tree.map(_widened, result)


def _widened(value: jax.Array) -> np.ndarray:
  value = np.asarray(value)
  return value.astype(np.float64) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _kind(function: Callable, arguments: tuple) -> str:
  """"plain", "arrays" or "traced": see the module."""
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
  # An array that JAX remembers is the same object in a second trace; others are made afresh. In a
  # program that is remembered as a whole (a jit within) every number is the same object.
  kept = any(id(c) in same and (c.ndim or id(owner) not in owners) for c, owner in arrays)
  kind = "arrays" if kept else "plain"
  with contextlib.suppress(TypeError):  # not hashable, or no weak reference to it
    _KINDS[function] = kind
  return kind


def _constants(function: Callable, arguments: tuple) -> list[tuple[Any, Any]]:
  """All that the program of `function` closes over, in the default precision, and where it is."""
  dtype = jnp.result_type(float)
  like = (jax.ShapeDtypeStruct(np.shape(a), dtype) for a in arguments)
  # A new function: the trace of a known one would be found again, constants and all.
  return list(_walk(jax.make_jaxpr(lambda *a: function(*a))(*like)))


def _walk(program: Any) -> Iterator[tuple[Any, Any]]:
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
