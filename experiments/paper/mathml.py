"""Presentation MathML: pieces that formulas are put together of, and sympy's expressions."""

from collections.abc import Mapping
from typing import Any

from experiments.paper import symbolic

sp = symbolic.sp


def math(*formulas: str) -> str:
  """Formulas in MathML, side by side, as a <math> element."""
  return "<math>" + '<mo>,</mo><mspace width="1em"/>'.join(formulas) + "</math>"


def row(*parts: str) -> str:
  return f"<mrow>{''.join(parts)}</mrow>"


def mark(text: str) -> str:
  return f"<mo>{text}</mo>"


def increment(shown: str) -> str:
  """d of something, as of a time or a Brownian motion."""
  return '<mi mathvariant="normal">d</mi>' + shown


def flat(bracket: str) -> str:
  """A bracket that does not grow with indices and primes inside it."""
  return f'<mo stretchy="false">{bracket}</mo>'


def shown(expression, names: Mapping[Any, str], increments: Mapping[Any, str] | None = None) -> str:
  """MathML of a sympy expression.

  Args:
    names: how symbols look, where not as they are called.
    increments: dτ and dW of a process, with the looks of τ and W: the terms that hold one are
      collected, and it stands last.
  """
  terms, rest = [], expression
  for symbol, look in (increments or {}).items():
    coefficient = expression.coeff(symbol)
    rest = rest - coefficient * symbol
    if coefficient != 0:
      negative = coefficient.could_extract_minus_sign()
      factor = -coefficient if negative else coefficient
      printed = "" if factor == 1 else _print(factor, names)
      if factor.is_Add:
        printed = row(mark("("), printed, mark(")"))
      terms.append((negative, printed + increment(f"<mi>{look}</mi>")))
  rest = sp.expand(rest) if terms else rest
  if rest != 0 or not terms:
    terms.insert(0, (False, _print(rest, names)))
  signs = [mark("−") if negative else mark("+") for negative, _ in terms]
  if not terms[0][0]:
    signs[0] = ""
  return row(*(sign + printed for sign, (_, printed) in zip(signs, terms, strict=True)))


def _print(expression, names) -> str:
  renamed = expression.xreplace({old: sp.Symbol(new) for old, new in names.items()})
  squared = sp.together(expression**2)
  if expression.is_Mul and _has_root(expression) and not _has_root(squared) and all(
      symbol.is_positive for symbol in expression.free_symbols):
    # One root of a quotient, as the paper writes it, where sympy has a quotient of roots.
    return f"<msqrt>{_print(squared, names)}</msqrt>"
  text = sp.printing.mathml(renamed, printer="presentation")
  return (text.replace("<mo>-</mo>", mark("−")).replace("<mn>-", "<mn>−")
          .replace("&ExponentialE;", "e"))


def _has_root(expression) -> bool:
  return any(power.exp.is_Rational and power.exp.q == 2 for power in expression.atoms(sp.Pow))
