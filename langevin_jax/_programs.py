"""How the library's functions meet JAX: eager calls compiled once, values that may be traced.

**What is compiled in, and what is an argument.** `call` traces its function at every eager call, as
`jax.jit` would at its first one. So nothing is remembered of the call before: a parameter that was
rebound, or changed in place inside an NNX module, is found. Arrays are arguments of the program,
wherever the trace meets them: given, closed over, or held by a module (parameters, labels, known
values, noise levels, a method's numbers). What remains is the structure: operations, shapes, types,
and Python numbers in the caller's own functions. Calls of one structure share one compiled program,
which holds none of their arrays.

An array that a function under the caller's own `jax.jit` closes over, deeper than the denoiser
itself, belongs to that function, as everywhere in JAX: another such function is another program.
"""

import collections
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_MOST_PROGRAMS = 64
# Constants of a nested program are told apart by value up to this size, then by identity.
_SMALL_BYTES = 4096
# Rules for derivatives, new at every trace; a program is only ever evaluated.
_RULES = frozenset({"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"})

_JITTED = type(jax.jit(lambda: None))

_programs: collections.OrderedDict[Hashable, Callable] = collections.OrderedDict()


def call(function: Callable, *arguments: Any) -> Any:
  """`function(*arguments)`; eagerly, as one compiled program; see the module.

  A call with traced arguments, or of a function that closes over traced values, is part of the
  program that is being traced.

  Args:
    function: pure, of pytrees of arrays; called, and so traced, at every call.
  """
  if is_traced(arguments):
    return function(*arguments)
  closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
  if is_traced(closed.consts):
    return jax.jit(function)(*arguments)
  kept = []
  key = _signature(closed.jaxpr, kept)
  # `kept` is what the key knows by identity alone: as long as the key lives, so must it.
  entry = _programs.pop(key, None) or (_compiled(closed.jaxpr), kept)
  _programs[key] = entry
  while len(_programs) > _MOST_PROGRAMS:
    _programs.popitem(last=False)
  leaves = entry[0](closed.consts, jax.tree.leaves(arguments))
  return jax.tree.unflatten(jax.tree.structure(shape), leaves)


def unjitted(function: Callable) -> Callable:
  """A function under `jax.jit` as the function itself, whose arrays `call` can find."""
  return function.__wrapped__ if isinstance(function, _JITTED) else function


def lifted(function: Callable, *arguments: Any) -> tuple[Callable, list]:
  """(g, arrays) with g(arrays, *arguments) = function(*arguments), one array.

  `call` finds what a function closes over, but not within a rule for derivatives of another library
  (custom_vjp), where it would be a constant of the program.

  Args:
    arguments: arrays, or `jax.ShapeDtypeStruct`s of them.
  """
  closed = jax.make_jaxpr(function)(*arguments)
  program = _opened(closed.jaxpr)
  return lambda arrays, *arguments: program(*arrays, *arguments)[0], closed.consts


def is_traced(tree: Any) -> bool:
  """Whether any leaf of a tree is a tracer."""
  return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def concrete(value: Any) -> np.ndarray | None:
  """`value` for a check on the host, or None where it is traced.

  By numpy: an operation of `jax.numpy` on a concrete array is traced inside `jax.jit`.
  """
  return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def scan(body: Callable, carry: Any, xs: Any, length: int | None = None) -> tuple[Any, Any]:
  """`jax.lax.scan`, also inside `jax.shard_map`.

  There a carry that starts as a constant, the same on every device, becomes one that varies. JAX
  wants it to be marked as varying from the start.
  """
  first = jax.tree.map(lambda leaf: leaf[0], xs)
  # Twice: what one leaf varies over may reach another in the next step.
  for _ in range(2):
    carry = varying_as(carry, lambda carry: body(carry, first)[0])
  return jax.lax.scan(body, carry, xs, length)


def varying_as(tree: Any, function: Callable[[Any], Any]) -> Any:
  """`tree`, marked as varying over the mesh axes over which `function(tree)`, alike, does.

  Only inside `jax.shard_map`; elsewhere nothing varies and `function` is not called.
  """
  if not jax.sharding.get_abstract_mesh().manual_axes:
    return tree
  after = jax.make_jaxpr(function)(tree).out_avals
  leaves, structure = jax.tree.flatten(tree)
  return jax.tree.unflatten(structure, [
      _varying(leaf, aval) for leaf, aval in zip(leaves, after, strict=True)])


def varying_like(value: jax.Array, x: jax.Array) -> jax.Array:
  """`value`, marked as varying over the mesh axes over which x does."""
  return _varying(value, jax.typeof(x))


def _varying(value: Any, aval: Any) -> jax.Array:
  value = jnp.asarray(value)
  axes = lambda aval: aval.manual_axis_type.varying
  missing = tuple(axes(aval) - axes(jax.typeof(value)))
  return jax.lax.pcast(value, missing, to="varying") if missing else value


def _compiled(jaxpr: core.Jaxpr) -> Callable:
  """A program (consts, arguments) → leaves of a jaxpr, whose constants are arguments too."""
  function = _opened(jaxpr)
  return jax.jit(lambda consts, arguments: function(*consts, *arguments))


def _opened(jaxpr: core.Jaxpr) -> Callable:
  """A jaxpr as a function of its constants and arguments."""
  return core.jaxpr_as_fun(core.ClosedJaxpr(
      jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars]), []))


def _signature(jaxpr: core.Jaxpr, kept: list) -> Hashable:
  """A value that is equal for two jaxprs if they are the same program."""
  numbers: dict[Any, int] = {}

  def named(var):
    if isinstance(var, core.Literal):
      return var.aval, np.asarray(var.val).tobytes()
    return numbers.setdefault(var, len(numbers))

  def declared(variables):
    return tuple((named(var), var.aval) for var in variables)

  head = declared(jaxpr.constvars), declared(jaxpr.invars)
  def context(eqn):
    ctx = eqn.ctx
    return ctx.compute_type, ctx.threefry_partitionable, str(ctx.xla_metadata)

  body = tuple(
      (eqn.primitive, context(eqn), tuple(map(named, eqn.invars)), declared(eqn.outvars),
       tuple((name, _parameter(value, kept)) for name, value in sorted(eqn.params.items())
             if name not in _RULES))
      for eqn in jaxpr.eqns)
  return head, body, tuple(map(named, jaxpr.outvars))


def _parameter(value: Any, kept: list) -> Hashable:
  """A parameter of an operation as part of a signature."""
  if isinstance(value, core.ClosedJaxpr):
    return _signature(value.jaxpr, kept), tuple(_constant(c, kept) for c in value.consts)
  if isinstance(value, core.Jaxpr):
    return _signature(value, kept)
  if isinstance(value, (tuple, list)):
    return type(value), tuple(_parameter(item, kept) for item in value)
  if isinstance(value, dict):
    return tuple((name, _parameter(item, kept)) for name, item in value.items())
  try:
    hash(value)
  except TypeError:
    kept.append(value)
    return id(value)
  return type(value), value


def _constant(value: Any, kept: list) -> Hashable:
  """A constant of a nested program as part of a signature."""
  if getattr(value, "nbytes", _SMALL_BYTES + 1) <= _SMALL_BYTES and not jnp.issubdtype(
      value.dtype, jax.dtypes.extended):
    return value.dtype, np.shape(value), np.asarray(value).tobytes()
  kept.append(value)
  return id(value)
