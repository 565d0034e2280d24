r"""The paper's formulas: their meaning in sympy, read from the LaTeX that the report shows.

A formula is written once, as the paper has it, so what is shown is what is checked. The notation is
the small part of LaTeX that the tables use: sums, products by juxtaposition, \frac, \sqrt, powers,
brackets, norms, sub- and superscripts, equations and intervals. The caller says what a name means:

  x_t   x_t'   alpha_t      letters, Greek letters and their indices
  *s_x                      bold ones
  *s_theta()                functions of something, whose arguments are ignored
  dt  dx_t  dW_tau          differentials

An expectation 𝔼 means a factor of 1.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.paper.tables import symbolic

sp = symbolic.sp

_SPACE = re.compile(r"\\[,;!]|\\(?:left|right)(?![a-z])|\s+")
_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z]|\d+|[{}()\[\]^_=+\-,/|]")
_GREEK = ("alpha", "epsilon", "sigma", "tau", "theta", "eta", "Sigma", "rho", "beta", "ell")
_END = ("", "+", "-", "=", ")", "]", "}", ",", "\\in")


class Formula(NamedTuple):
  """left: None without an equality. right: its last side."""

  latex: str
  left: Any
  right: Any


def read(latex: str, names: Mapping[str, Any]) -> Formula:
  """A formula with the meanings of its names; a name that `names` lacks is a symbol.

  Raises:
    ValueError: notation outside of the small part of LaTeX that is understood.
  """
  plain = latex.replace(r"\left\|", "(").replace(r"\right\|", ")")
  plain = _SPACE.sub(" ", plain)
  tokens = _TOKEN.findall(plain)
  if "".join(tokens) != re.sub(r"\s", "", plain):
    raise ValueError(f"formula {latex!r} has characters that are not understood")
  reader = _Reader(tokens, names)
  left, right = reader.relation()
  if reader.tokens:
    raise ValueError(f"formula {latex!r} is not understood from {reader.tokens[0]!r} on")
  return Formula(latex, left, right)


class _Reader:
  """Recursive descent; each method takes tokens off the front and returns their meaning."""

  def __init__(self, tokens: list[str], names: Mapping[str, Any]):
    self.tokens, self.names = list(tokens), names

  def peek(self, place: int = 0) -> str:
    return self.tokens[place] if place < len(self.tokens) else ""

  def take(self, wanted: str = "") -> str:
    if not self.tokens or (wanted and self.tokens[0] != wanted):
      raise ValueError(
          f"expected {wanted or 'more'!r} in a formula, got {self.peek() or 'its end'!r}")
    return self.tokens.pop(0)

  def relation(self):
    left, right = None, self.sum()
    if self.peek() in ("=", "\\in"):
      self.take()
      left, right = right, self.sum()
    return left, right

  def sum(self):
    value = self.term()
    while self.peek() in ("+", "-"):
      value = value + self.term()
    return value

  def term(self):
    """A product, with the sign before it."""
    if self.peek() in ("+", "-") and self.take() == "-":
      return -self.product()
    return self.product()

  def product(self):
    value = self.power()
    while self.peek() not in _END:
      value = value * self.power()
    return value

  def power(self):
    value = self.atom()
    if self.peek() == "^":
      self.take()
      return value ** self.group()
    return value

  def group(self):
    self.take("{")
    inside = self.sum()
    self.take("}")
    return inside

  def atom(self):
    token = self.peek()
    if token.isdigit():
      return sp.Integer(self.take())
    if token in ("(", "["):
      return self.bracket()
    if token in ("\\frac", "\\tfrac", "\\dfrac"):
      self.take()
      return self.group() / self.group()
    if token == "\\sqrt":
      self.take()
      return sp.sqrt(self.group())
    if token == "\\mathbb":
      self.take()
      self.text()
      self.take("_")
      self.text()
      return sp.Integer(1)
    return self.name()

  def bracket(self):
    opening = self.take()
    value = self.sum()
    while self.peek() == ",":
      self.take()
      value = sp.Interval(value, self.sum())
    self.take(")" if opening == "(" else "]")
    return value

  def name(self):
    """A letter with its indices; a differential; a function with its arguments."""
    differential = self.peek() == "d" and (self.peek(1).isalpha() or self.peek(1)[:1] == "\\")
    if differential:
      self.take()
    key = self.letter()
    if self.peek() == "_":
      self.take()
      key += "_" + self.text()
    if self.peek() == "^" and self.peek(2) == "\\prime":
      self.take()
      key += self.text().replace("prime", "'")
    if differential:
      return self.meaning("d" + key.removeprefix("*"))
    if key.startswith("*") and self.peek() == "(":
      self.bracket()
      return self.meaning(key + "()")
    return sp.E if key == "e" else self.meaning(key)

  def letter(self) -> str:
    token = self.take()
    if token in ("\\mathbf", "\\bm"):
      self.take("{")
      key = self.letter()
      self.take("}")
      return "*" + key
    if token[1:] in _GREEK or token.isalpha():
      return token.removeprefix("\\")
    raise ValueError(f"{token!r} is not understood in a formula")

  def text(self) -> str:
    """The contents of {…} as they are written, with t^{\\prime} as t'."""
    self.take("{")
    taken, depth = [], 1
    while depth:
      taken.append(self.take())
      depth += {"{": 1, "}": -1}.get(taken[-1], 0)
    return "".join(taken[:-1]).replace("^{\\prime}", "'").replace("\\", "")

  def meaning(self, key: str):
    return self.names[key] if key in self.names else sp.Symbol(key, real=True)
