"""Checked statements, and how their numbers are printed."""

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Data = dict[str, Any]  # what a part measured
_CRITERION = ("below", "above", "near", "tolerance", "sigmas")


class Statement(NamedTuple):
  """One entry of a claims.toml.

  text: a sentence with {words} to fill in. source: its place in the paper or the theory. by:
  "paper", whose statements may be wrong, or "theory". trained: whether it depends on a well trained
  network, so that a fast report does not judge it. value: the place of the number in the part's
  data, such as "errata.sign.right", or "" if claims.py computes it. The other fields: the constant
  part of the criterion, see `claim`.
  """

  text: str
  source: str
  by: str = "theory"
  trained: bool = False
  value: str = ""
  below: float | None = None
  above: float | None = None
  near: float | None = None
  tolerance: float | None = None
  sigmas: float | None = None


class Value(NamedTuple):
  """A value of the statement `name`. given: the rest of its criterion, and words of its text."""

  name: str
  value: Any
  error: Any
  given: Mapping[str, Any]


Values = Iterator[Value]


def value(name: str, value: Any, error: Any = None, **given: Any) -> Value:
  return Value(name, value, error, given)


class Claim(NamedTuple):
  """A statement with its measured value.

  error: the standard error of a Monte-Carlo value, or None. expected: the criterion in words.
  """

  text: str
  value: float
  error: float | None
  expected: str
  holds: bool
  source: str
  by: str
  trained: bool = False

  def measured(self) -> str:
    """The value, with its standard error."""
    return number(self.value) + ("" if self.error is None else f" ± {number(self.error, 2)}")

  def verdict(self, *, fast: bool) -> str:
    """✓, ✗, or a note that a fast report does not judge the claim."""
    if fast and self.trained:
      return "not judged: fast"
    return "✓" if self.holds else "✗"


def claims(
    statements: Mapping[str, Statement], values: Iterable[Value], data: Data
) -> list[Claim]:
  """The claims of a part, in the order of its statements.

  Raises:
    KeyError: a value of no statement, or a statement's value is not in the data.
  """
  stored = [value(name, functools.reduce(operator.getitem, statement.value.split("."), data))
            for name, statement in statements.items() if statement.value]
  place = {name: i for i, name in enumerate(statements)}
  return [claim(statements[each.name], each.value, each.error, **each.given)
          for each in sorted((*values, *stored), key=lambda each: place[each.name])]


def claim(statement: Statement, value: Any, error: Any = None, **given: Any) -> Claim:
  """A claim with `holds` computed: value < below, value > above (both: between), or

    |value − near| ≤ tolerance,   or ≤ sigmas · error   for a Monte-Carlo value.

  Args:
    value: a number, or an array of which the largest counts.
    given: the rest of the criterion, and the words of the text.

  Raises:
    ValueError: nothing to check, `near` without exactly one width, `sigmas` without an error, or an
      unknown `by`.
  """
  below, above, near, tolerance, sigmas = (
      given.pop(name, getattr(statement, name)) for name in _CRITERION)
  text, source, by, trained = statement[:4]
  if given:
    text, source = text.format(**given), source.format(**given)
  value = float(np.max(value))
  error = None if error is None else float(error)
  if by not in ("paper", "theory"):
    raise ValueError(f"by must be 'paper' or 'theory', got {by!r}")
  if near is None and below is None and above is None:
    raise ValueError(f"a claim needs below, above or near: {text!r}")
  holds, expected = True, []
  if near is not None:
    if (tolerance is None) == (sigmas is None) or (sigmas is not None and error is None):
      raise ValueError(f"near needs a tolerance, or sigmas and an error: {text!r}")
    width = tolerance if sigmas is None else sigmas * error
    holds = abs(value - near) <= width
    expected.append(f"{number(near)} ± {number(width)}" + (
        f" ({sigmas:g} standard errors)" if sigmas is not None else ""))
  if below is not None:
    holds = holds and value < below
    expected.append(f"< {number(below)}")
  if above is not None:
    holds = holds and value > above
    expected.append(f"> {number(above)}")
  # A NaN holds nowhere: comparisons with it are false.
  return Claim(text, value, error, " and ".join(expected), bool(holds), source, by, trained)


def number(value: float, digits: int = 3) -> str:
  """A number with few digits, and a power of ten if it is small or large."""
  value = float(value)
  if value == 0.0 or not math.isfinite(value):
    return f"{value:g}".replace("-", "−")
  if value == int(value) and abs(value) < 1e6:
    return f"{int(value):,}".replace("-", "−")
  if 1e-3 <= abs(value) < 1e5:
    digits = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{digits}f}".replace("-", "−")
  mantissa, power = f"{value:.{digits - 1}e}".split("e")
  superscript = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
  # No line is broken at these spaces.
  return f"{mantissa}\u00a0·\u00a010{superscript}".replace("-", "−")


def pm(estimate: Any, digits: int = 3) -> str:
  """A pair (mean, standard error) as "mean ± error"."""
  mean, error = estimate
  return f"{number(mean, digits)} ± {number(error, max(digits - 1, 1))}"
