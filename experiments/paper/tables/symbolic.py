"""JAX functions as sympy expressions.

A function is traced to primitive operations (`jax.make_jaxpr`, float64), derivatives included, and
each operation is applied to sympy expressions. So the expressions are derived from the code that
samples and trains.

Values are single numbers; arrays with one element count as numbers. Constants become exact: 0.5 is
½, 0.002 is 1/500, and multiples of π are recognised. Comparisons (max, |·|, where) are decided by
sympy's assumptions, otherwise by the values at a given interior point.
"""

import fractions
import importlib
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def required():
  """The sympy module; ValueError in one line where it is not installed."""
  try:
    return importlib.import_module("sympy")
  except ImportError as error:
    raise ValueError("the tables need sympy, which is not installed: "
                     "pip install 'langevin_jax[paper]'") from error


sp = required()


def of(function: Callable, arguments: Any, at: Mapping[Any, float]) -> Any:
  """function(arguments) as sympy expressions.

  Args:
    function: of one pytree, composed of jax operations on single numbers.
    arguments: a pytree of sympy expressions.
    at: a value for each symbol, which decides comparisons that sympy cannot.

  Returns:
    The result of `function` with an expression at each leaf.

  Raises:
    ValueError: names an operation on arrays, or one without a formula here.
  """
  leaves, tree = jax.tree.flatten(arguments)
  with jax.enable_x64(True):
    numbers = jax.tree.unflatten(tree, [jnp.zeros((), jnp.float64)] * len(leaves))
    closed, shape = jax.make_jaxpr(function, return_shape=True)(numbers)
  results = _run(closed.jaxpr, [exact(c) for c in closed.consts], leaves, dict(at))
  return jax.tree.unflatten(jax.tree.structure(shape), results)


def exact(number: Any):
  """A constant as a rational number, a multiple of π, ±∞, or a bool."""
  array = np.asarray(number)
  if array.size != 1:
    raise ValueError(f"a formula is of single numbers, got an array of shape {array.shape}")
  value = array.item()
  if isinstance(value, bool):
    return value
  if isinstance(value, int) or not math.isfinite(value):
    return sp.Integer(value) if isinstance(value, int) else sp.oo * (1 if value > 0 else -1)
  for unit, factor in ((1.0, sp.Integer(1)), (math.pi, sp.pi)):
    near = fractions.Fraction(value / unit).limit_denominator(10**4)
    if float(near) * unit == value:
      return sp.Rational(near.numerator, near.denominator) * factor
  return sp.Rational(*value.as_integer_ratio())


def _run(jaxpr, constants, arguments, at) -> list:
  """The outputs of a jaxpr."""
  known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
  read = lambda atom: exact(atom.val) if hasattr(atom, "val") else known[atom]
  for equation in jaxpr.eqns:
    name, inputs = equation.primitive.name, [read(v) for v in equation.invars]
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    for variable in equation.outvars:
      if math.prod(variable.aval.shape) != 1:
        raise ValueError(f"a formula is of single numbers, but {name} makes an array of shape "
                         f"{variable.aval.shape}")
    if name in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"):
      outputs = _run(inner.jaxpr, [exact(c) for c in inner.consts], inputs, at)
    elif name in _COMPARISONS:
      outputs = [_decided(name, *inputs, at)]
    elif name == "select_n":
      outputs = [inputs[1 + int(inputs[0])]]
    elif name in ("max", "min"):
      first = _decided("ge" if name == "max" else "le", *inputs, at)
      outputs = [inputs[0] if first else inputs[1]]
    elif name == "abs":
      outputs = [inputs[0] if _decided("ge", inputs[0], sp.Integer(0), at) else -inputs[0]]
    elif name == "sign":
      outputs = [sp.Integer(1 if _decided("gt", inputs[0], sp.Integer(0), at) else -1)]
    elif name in ("integer_pow", "pow"):
      outputs = [inputs[0] ** (inputs[1] if name == "pow" else equation.params["y"])]
    elif name in _FORMULAS:
      outputs = [_FORMULAS[name](*inputs)]
    else:
      raise ValueError(f"the operation {name!r} has no formula: add it to "
                       "experiments/paper/tables/symbolic.py")
    known.update(zip(equation.outvars, outputs, strict=True))
  return [read(v) for v in jaxpr.outvars]


_COMPARISONS = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
                "gt": operator.gt, "ge": operator.ge}


def _decided(name: str, left, right, at) -> bool:
  """The result of a comparison, by sympy's assumptions or by the values at a point."""
  if left.is_finite is not False and right.is_finite is not False:
    difference = left - right
    sign = (0 if difference.is_zero else 1 if difference.is_positive
            else -1 if difference.is_negative else None)
    if sign is not None:
      return _COMPARISONS[name](sign, 0)
  return _COMPARISONS[name](*(float(sp.sympify(v).subs(at)) for v in (left, right)))


_SAME = lambda value, *_: value

# Shaping, copying and summing do not change a single number.
_FORMULAS = {
    **dict.fromkeys(
        ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy",
         "copy_p", "stop_gradient", "reduce_sum", "reduce_max", "reduce_min", "transpose",
         "optimization_barrier"), _SAME),
    "add": operator.add, "add_any": operator.add, "sub": operator.sub, "mul": operator.mul,
    "div": operator.truediv, "neg": operator.neg,
    "square": lambda u: u**2, "sqrt": sp.sqrt, "rsqrt": lambda u: 1 / sp.sqrt(u),
    "exp": sp.exp, "exp2": lambda u: 2**u, "expm1": lambda u: sp.exp(u) - 1,
    "log": sp.log, "log1p": lambda u: sp.log(1 + u), "logistic": lambda u: 1 / (1 + sp.exp(-u)),
    "sin": sp.sin, "cos": sp.cos, "tan": sp.tan, "asin": sp.asin, "acos": sp.acos,
    "atan": sp.atan, "atan2": sp.atan2, "sinh": sp.sinh, "cosh": sp.cosh, "tanh": sp.tanh,
    "asinh": sp.asinh, "erf": sp.erf,
    "and": lambda a, b: a and b, "or": lambda a, b: a or b, "not": lambda a: not a,
}
