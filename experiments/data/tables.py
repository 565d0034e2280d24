"""Tables of categories as tokens: the shipped call `categories`, and samples as rows again.

One position is one column. All columns share a vocabulary, whose symbols are "column=value", so
that a table is known by its symbols. A space in a symbol is shown as ␣.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np

from experiments.data import readers, splits

_SPACE = "␣"
_MOST = 1000  # values of a column


def categories(
    *, path: str, columns: tuple[str, ...] = (), encoding: str = "utf-8", delimiter: str = ",",
    holdout: float = 0.2,
) -> splits.Source:
  """Rows of a CSV file whose columns are categories; kind tokens, one position a column.

  The first line has the names of the columns. A value is the text of its cell, so that an empty
  cell is a value too. Numbers are categories here: those with many values should be left out, or
  be put into bins.

  Args:
    path: the file.
    columns: those that are used, in this order; all of them by default.
    encoding, delimiter: of the file.
    holdout: the fraction of the rows that is held out.
  """
  file = readers.existing(path, "data.path", directory=False)
  names, rows = _read(file.read_bytes(), repr(path), encoding, delimiter)
  if unknown := [name for name in columns if name not in names]:
    raise ValueError(f"data.columns: {path!r} has no column {unknown[0]!r}; it has "
                     f"{', '.join(names)}")
  symbols, tokens = [], []
  for name in columns or names:
    cells = [row[names.index(name)].strip() for row in rows]
    values, place = np.unique(cells, return_inverse=True)
    if len(values) > _MOST:
      raise ValueError(f"data.path: column {name!r} of {path!r} must hold categories, at most "
                       f"{_MOST} values; it has {len(values)}: leave it out by data.columns, or "
                       "put its numbers into bins")
    tokens.append(len(symbols) + place)
    symbols += [f"{name}={value}".replace(" ", _SPACE) for value in values]
  if len(symbols) < 2 or len(set(symbols)) < len(symbols):
    raise ValueError(f"data.path: the columns of {path!r} must have two or more values, all "
                     f"different; it has {', '.join(symbols[:4])}")
  found = splits.hold_out(np.stack(tokens, 1).astype(np.int32), None, holdout, kind="tokens",
                          value_range=None)
  return found._replace(vocabulary=tuple(symbols))


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
  left empty.
  """
  columns, wrong, rows = columns_of(symbols), 0, []
  for tokens in x:
    cells = [symbols[int(token)].replace(_SPACE, " ").split("=", 1) for token in tokens]
    own = [name == column.replace(_SPACE, " ")
           for (name, _), column in zip(cells, columns, strict=True)]
    wrong += own.count(False)
    rows.append([value if right else "" for (_, value), right in zip(cells, own, strict=True)])
  out = io.StringIO()
  csv.writer(out, lineterminator="\n").writerows(
      [[column.replace(_SPACE, " ") for column in columns], *rows])
  return out.getvalue(), wrong
