r"""The paper's formulas, read from its LaTeX: their meaning in sympy and their look in MathML.

A formula is written once, as the paper has it, so what is shown is what is checked. The notation is
the small part of LaTeX that the tables use: sums, products by juxtaposition, \frac, \sqrt, powers,
brackets, norms, sub- and superscripts, equations and intervals. What a name means is the caller's
to say; names are written

  x_t   x_t'   alpha_t      letters, Greek letters and their indices
  *s_x                      bold ones
  *s_theta()                functions of something, whose arguments mean nothing further
  dt  dx_t  dW_tau          differentials

An expectation 𝔼 stands for itself: it is shown, and means a factor of 1.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.paper import mathml, symbolic

sp = symbolic.sp

GREEK = {"alpha": "α", "epsilon": "ϵ", "sigma": "σ", "tau": "τ", "theta": "θ", "eta": "η",
         "Sigma": "Σ", "rho": "ρ", "beta": "β", "ell": "ℓ"}
_MARKS = {"sim": "∼", "mid": "|", "cdot": "·"}
_PRIME = '<mo lspace="0" rspace="0">′</mo>'
_SPACE = re.compile(r"\\(?:[,;!]|left(?![a-z])|right(?![a-z]))|\s+")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\\||[A-Za-z]|\d+|[{}()\[\]^_=+\-,/|]")


class Formula(NamedTuple):
  """mathml: without the <math> around it. left: None without an equality. right: its last side."""

  mathml: str
  left: Any
  right: Any


def read(latex: str, names: Mapping[str, Any]) -> Formula:
  """A formula with the meanings of its names; what `names` lacks becomes a symbol of that name.

  Raises:
    ValueError: notation outside of the small part of LaTeX that is understood.
  """
  plain = _SPACE.sub(" ", latex)
  tokens = _TOKEN.findall(plain)
  if "".join(tokens) != re.sub(r"\s", "", plain):
    raise ValueError(f"formula {latex!r} has characters that are not understood")
  reader = _Reader(tokens, names)
  shown, left, right = reader.relation()
  if reader.tokens:
    raise ValueError(f"formula {latex!r} is not understood from {reader.tokens[0]!r} on")
  return Formula(shown, left, right)


class _Reader:
  """Recursive descent; each method takes tokens off and returns (MathML, meaning)."""

  def __init__(self, tokens: list[str], names: Mapping[str, Any]):
    self.tokens, self.names = list(tokens), names
    self.in_norm = False

  def peek(self, place: int = 0) -> str:
    return self.tokens[place] if place < len(self.tokens) else ""

  def take(self, wanted: str = "") -> str:
    if not self.tokens or (wanted and self.tokens[0] != wanted):
      raise ValueError(
          f"expected {wanted or 'more'!r} in a formula, got {self.peek() or 'its end'!r}")
    return self.tokens.pop(0)

  def relation(self):
    shown, left = self.sum()
    right = left
    left = None
    if self.peek() in ("=", "\\in"):
      sign = self.take()
      left = right
      more, right = self.sum()
      shown = mathml.row(shown, mathml.mark("=" if sign == "=" else "∈"), more)
    return shown, left, right

  def sum(self):
    sign = self.take() if self.peek() == "-" else ""
    shown, value = self.product()
    if sign:
      shown, value = mathml.mark("−") + shown, -value
    while self.peek() in ("+", "-"):
      sign = self.take()
      more, term = self.product()
      shown += mathml.mark("+" if sign == "+" else "−") + more
      value = value + term if sign == "+" else value - term
    return mathml.row(shown), value

  def product(self):
    shown, value = self.power()
    while self.peek() and self.peek() not in ("+", "-", "=", ")", "]", "}", ",", "\\in") and not (
        self.in_norm and self.peek() == "\\|"):
      more, factor = self.power()
      shown, value = shown + more, value * factor
    return shown, value

  def power(self):
    shown, value = self.atom()
    if self.peek() == "^":
      self.take()
      raised, exponent = self.group()
      return f"<msup>{mathml.row(shown)}{raised}</msup>", value**exponent
    return shown, value

  def group(self):
    self.take("{")
    inside = self.sum()
    self.take("}")
    return inside

  def atom(self):
    token = self.peek()
    if token.isdigit():
      return f"<mn>{self.take()}</mn>", sp.Integer(token)
    if token in ("\\frac", "\\tfrac", "\\dfrac"):
      self.take()
      (top, numerator), (bottom, denominator) = self.group(), self.group()
      return f"<mfrac>{top}{bottom}</mfrac>", numerator / denominator
    if token == "\\sqrt":
      self.take()
      inside, value = self.group()
      return f"<msqrt>{inside}</msqrt>", sp.sqrt(value)
    if token in ("(", "["):
      return self.bracket()
    if token == "\\|":
      self.take()
      self.in_norm = True
      inside, value = self.sum()
      self.in_norm = False
      self.take("\\|")
      return mathml.row(mathml.mark("‖"), inside, mathml.mark("‖")), value
    if token == "\\mathbb":
      self.take(), self.take("{"), self.take("E"), self.take("}"), self.take("_")
      return f"<msub><mi>𝔼</mi>{self.index()[0]}</msub>", sp.Integer(1)
    return self.name()

  def bracket(self):
    opening = self.take()
    inside, value = self.sum()
    while self.peek() == ",":
      self.take()
      more, upper = self.sum()
      inside, value = inside + mathml.mark(",") + more, sp.Interval(value, upper)
    closing = self.take(")" if opening == "(" else "]")
    look = mathml.mark if "<mfrac>" in inside else mathml.flat
    return mathml.row(look(opening), inside, look(closing)), value

  def name(self):
    """A letter with its indices; a differential; a function with its arguments."""
    differential = self.peek() == "d" and (self.peek(1).isalpha() or self.peek(1)[:1] == "\\")
    if differential:
      self.take()
    shown, key = self.letter()
    if self.peek() == "_":
      self.take()
      index, index_key = self.index()
      shown, key = f"<msub>{shown}{index}</msub>", f"{key}_{index_key}"
    if self.peek() == "^" and self.peek(2) == "\\prime":
      self.take(), self.take("{"), self.take(), self.take("}")
      shown, key = mathml.row(shown, _PRIME), key + "'"
    if differential:
      return mathml.increment(shown), self.meaning("d" + key.removeprefix("*"))
    if key.startswith("*") and self.peek() == "(":
      return shown + self.bracket()[0], self.meaning(key + "()")
    # Euler's number is upright in print and in meaning.
    return shown, sp.E if key == "e" else self.meaning(key)

  def letter(self):
    token = self.take()
    if token in ("\\mathbf", "\\bm"):
      self.take("{")
      shown, key = self.letter()
      self.take("}")
      return shown.replace("<mi>", '<mi style="font-weight:bold">'), "*" + key
    if token[:1] == "\\" and token[1:] in GREEK:
      return f"<mi>{GREEK[token[1:]]}</mi>", token[1:]
    if not token.isalpha():
      raise ValueError(f"{token!r} is not understood in a formula")
    return f"<mi>{token}</mi>", token

  def index(self):
    """A subscript, which is part of a name: shown token by token."""
    self.take("{")
    shown, key = [], ""
    while self.peek() != "}":
      token = self.peek()
      if token in ("^", "_"):
        self.take()
        if self.peek(1) == "\\prime":
          self.take(), self.take(), self.take()
          shown[-1], key = mathml.row(shown[-1], _PRIME), key + "'"
          continue
        more, more_key = self.index()
        shown[-1], key = f"<msub>{shown[-1]}{more}</msub>", key + more_key
      elif token[:1] == "\\" and token[1:] in _MARKS:
        self.take()
        shown.append(mathml.mark(_MARKS[token[1:]]))
        key += token
      elif token.isdigit() or token in "(),|":
        shown.append(f"<mn>{self.take()}</mn>" if token.isdigit() else mathml.flat(self.take()))
        key += token
      else:
        more, more_key = self.letter()
        shown.append(more)
        key += more_key
    self.take("}")
    return mathml.row(*shown), key

  def meaning(self, key: str):
    return self.names[key] if key in self.names else sp.Symbol(key, real=True)
