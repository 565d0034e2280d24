"""Compilation of eager calls.

**What is compiled in, and what is an argument.** `call` traces its function at every eager call, as
`jax.jit` does at the first one. So no result depends on an earlier call: a parameter that was
rebound, or changed in place inside an NNX module, is seen. Every array that the trace meets is an
argument of the program: given, closed over, or held by a module (parameters, labels, known values,
noise levels, the numbers of a method). The rest is the structure: operations, shapes, dtypes, and
Python numbers in the caller's functions. Calls of one structure share one compiled program, which
holds none of their arrays.

Exception: an array that a function under the caller's own `jax.jit` closes over, other than the
denoiser itself, belongs to that function, as everywhere in JAX. Another such function is another
program.
"""

import collections
import functools
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from jax.extend import core

from langevin_jax import _values

_MOST_PROGRAMS = 64
# Constants of a nested program are compared by value up to this size, larger ones by identity.
_SMALL_BYTES = 4096
# Rules for derivatives are new objects at every trace. They are left out: a program is evaluated,
# never differentiated.
_RULES = frozenset({"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"})

_JITTED = type(jax.jit(lambda: None))

_programs: collections.OrderedDict[Hashable, tuple[Callable, list]] = collections.OrderedDict()


def check_jaxlib(version: str) -> None:
  """Warns of a jaxlib that compiles some programs wrongly."""
  if version == "0.10.2":
    warnings.warn("jaxlib 0.10.2 computes wrong sums of products on CPUs (jax issue 39103): "
                  "install another version", stacklevel=2)


check_jaxlib(jaxlib.version.__version__)


def call(function: Callable, *arguments: Any) -> Any:
  """`function(*arguments)`; eagerly, as one compiled program (see the module).

  With traced arguments, or where the function closes over traced values, it becomes part of the
  program that is being traced.

  Args:
    function: pure, of pytrees of arrays. It is traced at every call.
  """
  if _values.is_traced(arguments):
    return function(*arguments)
  closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
  if _values.is_traced(closed.consts):
    return jax.jit(function)(*arguments)
  identified = []
  key = _signature(closed.jaxpr, identified)
  # Objects that the key contains by id must live as long as the key does.
  entry = _programs.pop(key, None) or (_compiled(closed.jaxpr), identified)
  _programs[key] = entry
  while len(_programs) > _MOST_PROGRAMS:
    _programs.popitem(last=False)
  leaves = entry[0](closed.consts, jax.tree.leaves(arguments))
  return jax.tree.unflatten(jax.tree.structure(shape), leaves)


def unjitted(function: Callable) -> Callable:
  """The function inside `jax.jit`, whose arrays `call` can see; any other function unchanged."""
  return getattr(function, "__wrapped__", function) if isinstance(function, _JITTED) else function


def lifted(function: Callable, *arguments: Any) -> tuple[Callable, list]:
  """(g, arrays) with g(arrays, *arguments) = function(*arguments), where g closes over no array.

  A rule for derivatives (`jax.custom_vjp`) needs what its function closes over as an argument.

  Args:
    arguments: pytrees of arrays, as those that g will get: of the same shapes, dtypes and, inside
      `jax.shard_map`, axes over which they vary.
  """
  closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
  program, structure = _opened(closed.jaxpr), jax.tree.structure(shape)
  return (lambda arrays, *arguments: jax.tree.unflatten(
      structure, program(*arrays, *jax.tree.leaves(arguments)))), closed.consts


def memoised(factory: Callable[..., Any]) -> Callable[..., Any]:
  """Returns one object for equal arguments, so that it can be a static argument of `jax.jit`.

  A call with an array among its arguments, also one within a method or a corrector, is not
  remembered.
  """
  cached = functools.lru_cache(factory)

  @functools.wraps(factory)
  def make(*args, **kwargs):
    try:
      hash((args, tuple(kwargs.values())))
    except TypeError:  # an array, or what the factory refuses
      return factory(*args, **kwargs)
    return cached(*args, **kwargs)

  return make


def scan(body: Callable, carry: Any, xs: Any, length: int | None = None) -> tuple[Any, Any]:
  """`jax.lax.scan`, also inside `jax.shard_map`.

  There a carry may start as a constant, equal on all devices, and vary after a step. JAX requires
  that it is marked as varying from the start.
  """
  first = jax.tree.map(lambda leaf: leaf[0], xs)
  # Twice: in the second step one leaf may take the axes of another.
  for _ in range(2):
    carry = _values.varying_as(carry, lambda carry: body(carry, first)[0])
  return jax.lax.scan(body, carry, xs, length)


def _compiled(jaxpr: core.Jaxpr) -> Callable:
  """A program (consts, arguments) → leaves of a jaxpr, whose constants are arguments too."""
  function = _opened(jaxpr)
  return jax.jit(lambda consts, arguments: function(*consts, *arguments))


def _opened(jaxpr: core.Jaxpr) -> Callable:
  """A jaxpr as a function of its constants and arguments."""
  return core.jaxpr_as_fun(core.ClosedJaxpr(
      jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars]), []))


def _signature(jaxpr: core.Jaxpr, identified: list) -> Hashable:
  """A value that is equal for two jaxprs if they are the same program.

  Objects that it contains by id are appended to `identified`.
  """
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
       tuple((name, _parameter(value, identified)) for name, value in sorted(eqn.params.items())
             if name not in _RULES))
      for eqn in jaxpr.eqns)
  return head, body, tuple(map(named, jaxpr.outvars))


def _parameter(value: Any, identified: list) -> Hashable:
  """A parameter of an operation as part of a signature."""
  if isinstance(value, core.ClosedJaxpr):
    constants = tuple(_constant(c, identified) for c in value.consts)
    return _signature(value.jaxpr, identified), constants
  if isinstance(value, core.Jaxpr):
    return _signature(value, identified)
  if isinstance(value, (tuple, list)):
    return type(value), tuple(_parameter(item, identified) for item in value)
  if isinstance(value, dict):
    return tuple((name, _parameter(item, identified)) for name, item in value.items())
  try:
    hash(value)
  except TypeError:
    identified.append(value)
    return id(value)
  return type(value), value


def _constant(value: Any, identified: list) -> Hashable:
  """A constant of a nested program as part of a signature."""
  if getattr(value, "nbytes", _SMALL_BYTES + 1) <= _SMALL_BYTES and not jnp.issubdtype(
      value.dtype, jax.dtypes.extended):
    return value.dtype, np.shape(value), np.asarray(value).tobytes()
  identified.append(value)
  return id(value)
