r"""Parser of the paper's LaTeX to sympy.

The report shows the same LaTeX that is checked. The parser knows the notation of the tables: sums,
products by juxtaposition, \frac, \sqrt, powers, brackets, norms, sub- and superscripts, equations
and intervals. The caller gives the meaning of names:

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
_NAME = re.compile(r"""
    (?P<one>\\mathbb\{E\}_\{(?:[^{}]|\{[^{}]*\})*\})
  | (?P<differential>d(?=[A-Za-z\\]))?
    (?:\\(?:mathbf|bm)\{\\?(?P<bold>[A-Za-z]+)\}
      |\\(?P<greek>alpha|epsilon|sigma|tau|theta|eta|Sigma|rho|beta|ell)(?![a-z])
      |(?P<letter>[A-Za-z]))
    (?:_\{(?P<index>(?:[^{}]|\{[^{}]*\})*)\})?
    (?P<prime>\^\{\\prime\})?
    (?(bold)(?P<arguments>\([^()]*\))?)
  | (?P<command>\\[A-Za-z]+)""", re.X)
# Innermost braces first: what is replaced has none inside.
_BRACES = ((re.compile(r"\\[td]?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
           (re.compile(r"\\sqrt\{([^{}]*)\}"), r" sqrt(\1)"),
           (re.compile(r"\^\{([^{}]*)\}"), r"**(\1)"))
_TOKEN = re.compile(r"n\d+|sqrt|\d+|\*\*|[-+/()]")


class Formula(NamedTuple):
  """left: None without an equality. right: its last side."""

  latex: str
  left: Any
  right: Any


def read(latex: str, names: Mapping[str, Any]) -> Formula:
  """Parses a formula. A name that is not in `names` is a symbol.

  Raises:
    ValueError: unknown notation.
  """
  meanings: dict[str, Any] = {}

  def placeholder(match: re.Match) -> str:
    """n0, n1, … in the place of names."""
    if match["command"]:
      return match["command"]
    key = f"n{len(meanings)}"
    meanings[key] = sp.Integer(1) if match["one"] else _meaning(match, names)
    return f" {key} "

  text = latex.replace(r"\left\|", "(").replace(r"\right\|", ")")
  text, before = _NAME.sub(placeholder, _SPACE.sub(" ", text)), ""
  while text != before:
    before = text
    for pattern, replacement in _BRACES:
      text = pattern.sub(replacement, text)
  try:
    *left, right = (_side(side, meanings) for side in re.split(r"=|\\in\b", text, maxsplit=1))
  except (sp.SympifyError, SyntaxError, TypeError, ValueError) as error:
    raise ValueError(f"formula {latex!r} is not understood") from error
  return Formula(latex, left[0] if left else None, right)


def _meaning(match: re.Match, names: Mapping[str, Any]) -> Any:
  key = match["bold"] or match["greek"] or match["letter"]
  for part, before in ((match["index"], "_"), (match["prime"], "")):
    if part:
      key += before + part.replace(r"^{\prime}", "'").replace("\\", "")
  if match["differential"]:
    key = "d" + key
  elif match["bold"]:
    key = f"*{key}" + ("()" if match["arguments"] else "")
  return sp.E if key == "e" else names[key] if key in names else sp.Symbol(key, real=True)


def _side(text: str, meanings: Mapping[str, Any]) -> Any:
  """Parses a sum, or an interval of two sums."""
  if "," in text:
    return sp.Interval(*(_side(end, meanings) for end in text.strip()[1:-1].split(",")))
  if text.count("[") != text.count("]"):
    raise ValueError("brackets do not match")
  text = text.replace("[", "(").replace("]", ")")
  tokens = _TOKEN.findall(text)
  if "".join(tokens) != re.sub(r"\s", "", text):
    raise ValueError("it has characters that are not understood")
  # A product is two factors side by side; a name and a number end in a digit.
  return sp.sympify(re.sub(r"(?<=[\d)]) (?=[ns\d(])", "*", " ".join(tokens)), meanings)
