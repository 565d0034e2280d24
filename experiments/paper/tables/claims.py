"""What is claimed of Tables 1–7 and of the errata, and the tables cell by cell."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claims, Data, claim, number, statements
from experiments.paper.tables import printed
from experiments.report.page import math

CLAIMS = statements(__file__)


def claims(data: Data) -> Claims:
  for table, rows in data["tables"].items():
    yield from _of_table(table, rows)
  yield claim(CLAIMS["numbers"], max(data["difference"].values()), below=data["rounding"])
  yield from _of_errata(data["errata"], data["rounding"])


def _of_table(table: str, rows: list[dict[str, Any]]) -> Claims:
  """The printed cells, and where the paper errs or is incomplete those that hold instead."""
  mended = [row for row in rows if row["corrected"]]
  wrong = [row for row in rows if not row["corrected"] and not row["agrees"]]
  yield claim(CLAIMS["printed"], len(wrong), below=1,
              words={"count": len(rows) - len(mended), "table": table})
  if mended:
    places = {(row["row"], row["column"]) for row in mended}
    left = [row for row in wrong if (row["row"], row["column"]) not in places]
    yield claim(CLAIMS["mended"], sum(not row["agrees"] for row in mended) + len(left), below=1,
                words={"count": len(mended) - 1, "table": table})


def _of_errata(of: dict[str, Any], rounding: float) -> Claims:
  """Of each erratum what the paper says (wrong), and what holds instead (right)."""
  say = lambda name, value, **bound: claim(CLAIMS[name], value, **bound)
  zero, none = {"near": 0.0, "tolerance": rounding}, {"below": 1}
  yield say("one_minus_wrong", of["one_minus"]["wrong"], below=rounding)
  yield say("one_minus_right", of["one_minus"]["right"], below=rounding)
  yield say("clock_wrong", of["clock"]["least"]["rf"], above=0.0)
  yield say("clock_right", of["clock"]["failing"], **none)
  yield say("own_time_wrong", of["own_time"]["missed"], **zero)
  yield say("own_time_right", of["own_time"]["failing"], **none)
  yield say("sign_wrong", of["sign"]["wrong"], **zero)
  yield say("sign_right", of["sign"]["right"], **zero)
  yield say("independence_wrong", of["independence"]["wrong"], **zero)
  yield say("independence_right", of["independence"]["right"], near=0.0, tolerance=0.0)
  yield say("missing_wrong", of["missing"]["lacking"], **none)
  yield say("missing_right", of["missing"]["failing"], **none)
  yield say("ends_wrong", of["ends"]["diverging"], **none)
  yield say("ends_right", of["ends"]["infinite"], **none)
  yield say("ends_limits", of["ends"]["failing"], **none)
  prior = of["prior"]
  yield say("prior_wrong", prior["plain"], near=0.0, tolerance=2.0**-52)
  yield say("prior_right", prior["plain"] / prior["least"] - 1.0, above=-prior["missed"])
  yield say("prior_matched", prior["matched"] / prior["plain"], below=1.0)
  yield say("exponential_wrong", of["exponential"]["wrong"], **zero)
  yield say("exponential_right", of["exponential"]["failing"], **none)
  yield say("stationary", of["exponential"]["rate"], near=0.0, tolerance=0.0)


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
  """Which errata concern a cell, whether or not it is right as a formula; "" if none does.

  Of Table 3, one cell is wrong (1), and for VE and rectified flow τ is the noise level and no
  Langevin time (3); f, g, the velocity and Table 5 have no value at an end (7).
  """
  path, column = row["row"][:2], row["column"]
  if table == 3 and not row["corrected"] and path in ("ve", "rf"):
    return "1 and 3" if (path, column) == ("rf", 1) else "3"
  ends = table == 5 or (table, path, column) in ((1, "rf", 3), (4, "rf", 2))
  return "7" if ends else ""
