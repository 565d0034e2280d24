"""Values that may be traced: read on the host, checked, and marked inside `jax.shard_map`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


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
