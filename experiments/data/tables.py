"""Tables of categories as tokens: the shipped call `categories`, and samples as rows again.

One position is one column. All columns share a vocabulary, whose symbols are "column=value", so
that a table is known by its symbols. A space in a symbol is shown as ␣. A bin of numbers is
"column=low…high", low ≤ number < high.
"""

import csv
import io
import math
from collections.abc import Sequence

import numpy as np

from experiments.data import readers, splits

_SPACE = "␣"
_MOST = 1000  # values of a column


def categories(
    *, path: str, columns: tuple[str, ...] = (), encoding: str = "utf-8", delimiter: str = ",",
    bins: int = 0, holdout: float = 0.2,
) -> splits.Source:
  """Rows of a CSV file whose columns are categories; kind tokens, one position a column.

  The first line has the names of the columns. A value is the text of its cell, so that an empty
  cell is a value too. Numbers are categories here. With `bins`, the numbers of a column that has
  more different ones are put into bins of about as many rows each; the order of the bins is not
  known to the model. A sample is drawn uniformly from its bin.

  Args:
    path: the file.
    columns: those that are used, in this order; all of them by default.
    bins: of a column of numbers, at least 2; 0 for none.
    encoding, delimiter: of the file.
    holdout: the fraction of the rows that is held out.
  """
  if bins and not 2 <= bins <= _MOST:
    raise ValueError(f"data.bins must be 0, for none, or lie in 2 … {_MOST}; got {bins}")
  file = readers.existing(path, "data.path", directory=False)
  names, rows = _read(file.read_bytes(), repr(path), encoding, delimiter)
  if unknown := [name for name in columns if name not in names]:
    raise ValueError(f"data.columns: {path!r} has no column {unknown[0]!r}; it has "
                     f"{', '.join(names)}")
  symbols, tokens = [], []
  for name in columns or names:
    cells = [row[names.index(name)].strip() for row in rows]
    cells = _binned(cells, bins) if bins else cells
    values, place = np.unique(cells, return_inverse=True)
    if len(values) > _MOST:
      raise ValueError(f"data.path: column {name!r} of {path!r} must hold categories, at most "
                       f"{_MOST} values; it has {len(values)}: leave it out by data.columns, or "
                       "put its numbers into bins by data.bins, such as 20")
    tokens.append(len(symbols) + place)
    symbols += [f"{name}={value}".replace(" ", _SPACE) for value in values]
  if len(symbols) < 2 or len(set(symbols)) < len(symbols):
    raise ValueError(f"data.path: the columns of {path!r} must have two or more values, all "
                     f"different; it has {', '.join(symbols[:4])}")
  found = splits.hold_out(np.stack(tokens, 1).astype(np.int32), None, holdout, kind="tokens",
                          value_range=None)
  return found._replace(vocabulary=tuple(symbols))


def _binned(cells: list[str], bins: int) -> list[str]:
  """Cells with the bin of each number, if all are numbers or empty, and more than `bins` differ.

  The edges are quantiles of six digits, of integers integers.
  """
  try:
    x = np.array([float(cell) for cell in cells if cell])
  except ValueError:
    return cells
  if len(np.unique(x)) <= bins or not np.isfinite(x).all():
    return cells
  whole = np.abs(x).max() < 2**53 and np.all(x == np.round(x))
  edges = np.quantile(x, np.linspace(0.0, 1.0, bins + 1))
  edges = np.floor(edges) if whole else np.array([float(f"{edge:.6g}") for edge in edges])
  edges[-1] += whole  # what is below the last edge is in the last bin
  edges = np.unique(edges)
  if len(edges) < 2:
    return cells
  shown = [str(int(edge)) if whole else np.format_float_positional(
      edge, trim="0") for edge in edges]
  place = lambda cell: int(np.clip(
      np.searchsorted(edges, float(cell), side="right") - 1, 0, len(edges) - 2))
  return [f"{shown[place(cell)]}…{shown[place(cell) + 1]}" if cell else cell for cell in cells]


def _drawn(value: str, rng: np.random.Generator) -> str:
  """A number of a bin as text, drawn uniformly; other values as they are."""
  low, _, high = value.partition("…")
  try:
    between = float(low) < float(high) < math.inf
  except ValueError:
    return value
  if not between:
    return value
  if "." not in low:
    return str(rng.integers(int(low), int(high)))
  return f"{rng.uniform(float(low), float(high)):.6g}"


def _read(content: bytes, shown: str, encoding: str, delimiter: str
          ) -> tuple[list[str], list[list[str]]]:
  """(names of the columns, rows). Raises ValueError for what is no table."""
  try:
    text = content.decode(encoding).removeprefix("\ufeff")
    lines = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
  except (UnicodeDecodeError, LookupError) as error:
    raise ValueError(f"data.path: {shown} must be text in {encoding} ({error}); data.encoding "
                     "names another encoding") from None
  except (csv.Error, TypeError) as error:
    raise ValueError(f"data.path: {shown} must be a CSV file with data.delimiter={delimiter!r} "
                     f"({error})") from None
  lines = [line for line in lines if line]
  if len(lines) < 3:
    raise ValueError(f"data.path: {shown} must hold the names of columns and two or more rows; it "
                     f"has {len(lines)} lines")
  names = [name.strip() for name in lines[0]]
  if len(set(names)) < len(names) or any(not name or "=" in name for name in names):
    raise ValueError(f"data.path: the first line of {shown} must have the names of the columns, "
                     f"all different and without '='; got {', '.join(names)[:80]}")
  for i, line in enumerate(lines[1:], 2):
    if len(line) != len(names):
      raise ValueError(f"data.path: row {i} of {shown} must have {len(names)} cells, one a column; "
                       f"it has {len(line)}")
  return names, lines[1:]


def columns_of(symbols: Sequence[str]) -> list[str]:
  """The columns of a vocabulary of `categories`, in their order; [] of another vocabulary."""
  if not all("=" in symbol[1:] for symbol in symbols):
    return []
  return list(dict.fromkeys(symbol.split("=")[0] for symbol in symbols))


def as_csv(x: np.ndarray, symbols: tuple[str, ...]) -> tuple[str, int]:
  """Tokens (n, columns) as a CSV file, and the number of cells with a value of another column.

  A model may draw one where it has not learned that a column has its own values; such a cell is
  left empty. The numbers that are drawn from bins depend on nothing else.
  """
  columns, wrong, rows, rng = columns_of(symbols), 0, [], np.random.default_rng(0)
  for tokens in x:
    cells = [symbols[int(token)].replace(_SPACE, " ").split("=", 1) for token in tokens]
    own = [name == column.replace(_SPACE, " ")
           for (name, _), column in zip(cells, columns, strict=True)]
    wrong += own.count(False)
    rows.append([_drawn(value, rng) if right else ""
                 for (_, value), right in zip(cells, own, strict=True)])
  out = io.StringIO()
  csv.writer(out, lineterminator="\n").writerows(
      [[column.replace(_SPACE, " ") for column in columns], *rows])
  return out.getvalue(), wrong
