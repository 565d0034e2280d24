"""What is claimed of Tables 1–7 and of the errata, and the tables cell by cell."""

from typing import Any

import numpy as np

from experiments.paper.claim import Data, Values, number, value
from experiments.paper.tables import printed
from experiments.report.page import math


def claims(data: Data) -> Values:
  for table, rows in data["tables"].items():
    yield from _of_table(table, rows)
  rounding, errata = data["rounding"], data["errata"]
  yield value("numbers", list(data["difference"].values()), below=rounding)
  for side in ("wrong", "right"):
    yield value(f"one_minus_{side}", errata["one_minus"][side], below=rounding)
    yield value(f"sign_{side}", errata["sign"][side], near=0.0, tolerance=rounding)
  for name, given in (("own_time", errata["own_time"]["missed"]),
                      ("independence", errata["independence"]["wrong"]),
                      ("exponential", errata["exponential"]["wrong"])):
    yield value(f"{name}_wrong", given, near=0.0, tolerance=rounding)
  prior = errata["prior"]
  yield value("prior_right", prior["plain"] / prior["least"] - 1.0, above=-prior["missed"])
  yield value("prior_matched", prior["matched"] / prior["plain"])


def _of_table(table: str, rows: list[dict[str, Any]]) -> Values:
  """The printed cells, and the corrections of a table."""
  mended = [row for row in rows if row["corrected"]]
  wrong = [row for row in rows if not row["corrected"] and not row["agrees"]]
  yield value("printed", len(wrong), count=len(rows) - len(mended), table=table)
  if mended:
    places = {(row["row"], row["column"]) for row in mended}
    left = [row for row in wrong if (row["row"], row["column"]) not in places]
    yield value("mended", sum(not row["agrees"] for row in mended) + len(left),
                count=len(mended) - 1, table=table)


def context(data: Data) -> Data:
  """as_printed, beside: each table as printed, and one row a formula. cell: a printed one."""
  return {
      "as_printed": {number: _as_printed(table) for number, table in printed.TABLES.items()},
      "titles": {number: table.title for number, table in printed.TABLES.items()},
      "beside": {int(key): _beside(int(key), rows) for key, rows in data["tables"].items()},
      "cell": lambda table, row, column: math(printed.TABLES[table].rows[row][column - 1][0]),
      "corrected": {place: math(latex[0]) for place, latex in printed.CORRECTED.items()},
      "largest": lambda values: f"≤ {number(np.max(np.abs(values)))}",
      "coefficients": lambda abc: ", ".join(
          f"{name} = {number(value)}" for name, value in zip("abc", abc, strict=True))}


def _as_printed(table: printed.Table) -> list[list[str]]:
  return [list(table.head)] + [
      [printed.LABELS[row], *(", ".join(map(math, cell)) or "/" for cell in cells)]
      for row, cells in table.rows.items()]


def _beside(number_of_table: int, rows: list[dict[str, Any]]) -> list[list[str]]:
  """Verdict, as printed, as computed, residual, largest difference."""
  table = printed.TABLES[number_of_table]
  lines = [["", "Row", "Cell", "Formula", "The library computes", "Residual", "Difference"]]
  for row in rows:
    lacking = row["row"] not in table.rows
    column = table.head[row["column"]]
    if row["corrected"] and not lacking:
      column += " (corrected)"
    if errata := _errata(number_of_table, row):
      column += f" (see erratum {errata})"
    lines.append([
        "✓" if row["agrees"] else "✗",
        printed.LABELS[row["row"]] + (" (not in the paper)" if lacking else ""), column,
        math(row["printed"]), math(row["computed"]),
        "0" if row["residual"] == "0" else math(row["residual"]), number(row["difference"], 2)])
  return lines


def _errata(table: int, row: dict[str, Any]) -> str:
  """The errata that concern a cell, or "".

  In Table 3 one cell is wrong (1), and for VE and rectified flow τ is the noise level and not the
  Langevin time (3). f, g, the velocity and Table 5 have no value at an end (7).
  """
  path, column = row["row"][:2], row["column"]
  if table == 3 and not row["corrected"] and path in ("ve", "rf"):
    return "1 and 3" if (path, column) == ("rf", 1) else "3"
  ends = table == 5 or (table, path, column) in ((1, "rf", 3), (4, "rf", 2))
  return "7" if ends else ""
