"""sympy expressions in the LaTeX style of the paper."""

from collections.abc import Mapping
from typing import Any

from experiments.paper.tables import symbolic

sp = symbolic.sp


def shown(
    expression: Any, names: Mapping[Any, str] | None = None,
    increments: Mapping[Any, str] | None = None,
) -> str:
  """LaTeX of an expression.

  Args:
    names: LaTeX of symbols; by default that of their names.
    increments: dτ and dW of a process → LaTeX of τ and W. Their terms are collected and come last.
  """
  names = dict(names or {})
  terms, rest = "", sp.sympify(expression)
  for symbol, name in (increments or {}).items():
    coefficient = rest.coeff(symbol)
    rest = rest - coefficient * symbol
    if coefficient == 0:
      continue
    negative = coefficient.could_extract_minus_sign()
    factor = -coefficient if negative else coefficient
    text = "" if factor == 1 else _print(factor, names)
    text = rf"\left({text}\right)" if factor.is_Add else text
    terms += f"{'-' if negative else '+'}{text}\\,d{name}"
  rest = sp.expand(rest) if terms else rest
  if rest != 0 or not terms:
    return _print(rest, names) + terms
  return terms.removeprefix("+")


def _print(expression, names) -> str:
  squared = sp.together(expression**2)
  if expression.is_Mul and _has_root(expression) and not _has_root(squared) and all(
      symbol.is_positive for symbol in expression.free_symbols):
    # One root of a quotient in place of a quotient of roots.
    return rf"\sqrt{{{_print(squared, names)}}}"
  return sp.latex(expression, symbol_names=names)


def _has_root(expression) -> bool:
  return any(power.exp.is_Rational and power.exp.q == 2 for power in expression.atoms(sp.Pow))
