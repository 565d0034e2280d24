"""Compilation of eager calls, and helpers for values that may be traced.

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
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

_MOST_PROGRAMS = 64
# Constants of a nested program are compared by value up to this size, larger ones by identity.
_SMALL_BYTES = 4096
# Rules for derivatives are new objects at every trace. They are left out: a program is evaluated,
# never differentiated.
_RULES = frozenset({"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"})

_JITTED = type(jax.jit(lambda: None))

_programs: collections.OrderedDict[Hashable, tuple[Callable, list]] = collections.OrderedDict()


def call(function: Callable, *arguments: Any) -> Any:
  """`function(*arguments)`; eagerly, as one compiled program (see the module).

  With traced arguments, or where the function closes over traced values, it becomes part of the
  program that is being traced.

  Args:
    function: pure, of pytrees of arrays. It is traced at every call.
  """
  if is_traced(arguments):
    return function(*arguments)
  closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
  if is_traced(closed.consts):
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


def is_traced(tree: Any) -> bool:
  """Whether any leaf of a tree is a tracer."""
  return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def concrete(value: Any) -> np.ndarray | None:
  """`value` as a NumPy array for a check on the host, or None where it is traced.

  Inside `jax.jit` an operation of `jax.numpy` is traced even on a concrete array.
  """
  return None if isinstance(value, Tracer) else np.asarray(value)


def number(name: str, value: Any, *, may_be_traced: bool = False) -> Any:
  """A number, as a Python number where it is an array: for code on the host, also inside `jax.jit`.

  Args:
    name: of the argument, for messages. may_be_traced: returns a traced value as it is.

  Raises:
    ValueError: not a real number, or a traced one unless `may_be_traced`.
  """
  if is_traced(value):
    if may_be_traced:
      return value
    raise ValueError(f"{name} must be a number, not traced: it is read on the host, before the "
                     "program runs")
  if isinstance(value, (int, float, np.integer, np.floating)):
    return value
  array = np.asarray(value)
  if array.shape or not any(jnp.issubdtype(array.dtype, kind)
                            for kind in (jnp.floating, jnp.integer)):
    raise ValueError(f"{name} must be a number, got {value!r}")
  return array.item()


def numbers(name: str, values: Any, example: str) -> tuple:
  """The entries of a sequence, each as `number`; a jax array is read on the host.

  Args:
    example: of the sequence, for messages.

  Raises:
    ValueError: no sequence, or an entry that `number` refuses.
  """
  if isinstance(values, jax.Array) and not is_traced(values):
    values = np.asarray(values)  # its entries would be traced inside `jax.jit`
  if isinstance(values, str) or not np.iterable(values):
    raise ValueError(f"{name} must be a sequence such as {example}, got {values!r}")
  return tuple(number(f"each entry of {name}", value) for value in values)


def count(name: str, value: Any, least: int = 1) -> int:
  """A whole number of at least `least`, as a Python number; of arrays as `number`.

  Raises:
    ValueError: another number, or as `number`.
  """
  known = number(name, value)
  if known % 1 != 0:
    raise ValueError(f"{name} must be a whole number, got {value}")
  if known < least:
    raise ValueError(f"{name} must be at least {least}, got {value}")
  return int(known)


def check_positive(**values: Any) -> None:
  """Raises ValueError that names the first value that is known and not positive everywhere."""
  for name, value in values.items():
    known = concrete(value)
    if known is None:
      continue
    # A comparison of strings raises what names neither the argument nor its value.
    if known.dtype.kind in "USO" or not np.all(known > 0.0):
      raise ValueError(f"{name} must be positive, got {value!r}")


def floats(x: Any) -> jax.Array:
  """x as an array of floats: arrays keep their precision, all else takes the default."""
  x = array(x)
  return jnp.asarray(x, jnp.result_type(x, float))


def array(x: Any) -> jax.Array:
  """x itself if it is an array, else as one: a list, on the host unless it holds traced values."""
  values: Any = x
  if not hasattr(x, "dtype"):
    values = jnp.asarray(x) if is_traced(x) else np.asarray(x)
  return values


def in_jax(name: str, function: Callable) -> Callable:
  """A user's function, whose failure on a traced value is a ValueError that says what to write."""
  if not callable(function):
    raise ValueError(f"{name} must be a function, got {function!r}")

  def call(*arguments):
    try:
      return function(*arguments)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
      raise ValueError(f"{name} must be written with jax.numpy, such as jnp.cos, not with numpy or "
                       "math, and without a Python `if` on its argument") from error

  return call


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
    carry = varying_as(carry, lambda carry: body(carry, first)[0])
  return jax.lax.scan(body, carry, xs, length)


def varying_as(tree: Any, function: Callable[[Any], Any]) -> Any:
  """`tree`, marked as varying over the mesh axes over which `function(tree)` varies.

  `function` returns a tree of the same structure. Outside `jax.shard_map` nothing varies, and it is
  not called.
  """
  if not jax.sharding.get_abstract_mesh().manual_axes:
    return tree
  after = jax.make_jaxpr(function)(tree).out_avals
  leaves, structure = jax.tree.flatten(tree)
  return jax.tree.unflatten(structure, [
      _varying(leaf, aval) for leaf, aval in zip(leaves, after, strict=True)])


def varying_like(value: jax.Array, x: jax.Array) -> jax.Array:
  """`value`, marked as varying over the mesh axes over which x varies."""
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
