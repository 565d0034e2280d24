"""What is claimed of Tables 1–7 and of the errata, and the tables cell by cell."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim, number
from experiments.paper.tables import printed
from experiments.report.page import math


def claims(data: dict[str, Any]) -> list[Claim]:
  found = []
  for table, rows in data["tables"].items():
    found += _of_table(table, rows)
  found.append(claim(
      "At random noise levels, states and scores the library's float64 numbers are those of the "
      "formulas, up to rounding (largest relative difference over all cells).",
      max(data["difference"].values()), below=data["rounding"], source="Tables 1–7"))
  return found + _of_errata(data)


def _of_table(table: str, rows: list[dict[str, Any]]) -> list[Claim]:
  """The printed cells, and where the paper errs or is incomplete those that hold instead."""
  as_printed = [row for row in rows if not row["corrected"]]
  wrong = [row for row in as_printed if not row["agrees"]]
  found = [claim(
      f"All {len(as_printed)} formulas that Table {table} prints are those that the library "
      "computes from α and σ alone (how many are not).", len(wrong), below=1,
      source=f"Table {table}", by="paper")]
  if len(as_printed) < len(rows):
    mended = [row for row in rows if row["corrected"]]
    places = {(row["row"], row["column"]) for row in mended}
    left = [row for row in wrong if (row["row"], row["column"]) not in places]
    found.append(claim(
        f"With its erratum corrected, and with the {len(mended) - 1} formulas of the rows that it "
        f"leaves out, all of Table {table} is what the library computes (how many are not).",
        sum(not row["agrees"] for row in mended) + len(left), below=1,
        source=f"Table {table}; theory.md#split"))
  return found


def _of_errata(data: dict[str, Any]) -> list[Claim]:
  """Of each erratum what the paper says, and what holds instead."""
  of, rounding = data["errata"], data["rounding"]
  return [
      claim("Table 3's Langevin cell of rectified flow is the sum of its forward and reverse cells "
            "(largest relative difference).", of["one_minus"]["wrong"], below=rounding,
            source="Table 3", by="paper"),
      claim("With τ/(1 − τ) in the place of τ/(1 + τ) Table 3's Langevin cell of rectified flow is "
            "that sum (largest relative difference).", of["one_minus"]["right"], below=rounding,
            source="Table 3; theory.md#errata, 1"),
      claim("With one g in eq. 1 and in eq. 3, as the paper writes them, rectified flow's reverse "
            "process has a noise variance that is nowhere negative (least value).",
            of["clock"]["least"]["rf"], above=0.0, source="eq. 1, eq. 3", by="paper"),
      claim("With a clock H = (1 + η²)/2 · g² of its own, Langevin noise is forward plus reverse "
            "noise for every η (how many of the three paths fail).", of["clock"]["failing"],
            below=1, source="theory.md#split"),
      claim("With τ a Langevin time that starts at 0 (eq. 4), Table 3's VE row starts with the "
            "noise of its level (relative difference of the amplitudes).", of["own_time"]["missed"],
            near=0.0, tolerance=rounding, source="eq. 4, Table 3", by="paper"),
      claim("With τ the noise level itself, the forward cells of VE and rectified flow are the "
            "library's (how many are not).", of["own_time"]["failing"], below=1,
            source="theory.md#errata, 3"),
      claim("The reverse process is dr = −v ds (its slope dr/ds less the library's, in units of "
            "v).", of["sign"]["wrong"], near=0.0, tolerance=rounding, source="after eq. 20",
            by="paper"),
      claim("The reverse process is dr = −v ds′ with ds′ = −ds (the same difference of slopes).",
            of["sign"]["right"], near=0.0, tolerance=rounding, source="Table 4"),
      claim("A Langevin run as long as the variance of a Gaussian target makes its sample "
            "independent of the one it started from (their correlation).",
            of["independence"]["wrong"], near=0.0, tolerance=rounding, source="§2", by="paper"),
      claim("A Langevin run makes its sample independent as it grows without end (the limit of the "
            "correlation).", of["independence"]["right"], near=0.0, tolerance=0.0,
            source="theory.md#errata, 5"),
      claim("Table 3, the paper's answer to how ODE and SDE are unified, has an SDE row for each "
            "of the three paths (how many it lacks).", of["missing"]["lacking"], below=1,
            source="Table 3", by="paper"),
      claim("In the rows that Table 3 lacks Langevin is forward plus reverse, and the reverse is "
            "the library's at η = 1 (how many equalities fail).", of["missing"]["failing"], below=1,
            source="theory.md#split"),
      claim("The coefficients of Tables 1 and 5 are finite on their closed domains (how many that "
            "diverge were found).", of["ends"]["diverging"], below=1, source="Tables 1 and 5",
            by="paper"),
      claim("What the library computes with at both ends, the numbers of its step and the frame of "
            "its networks, is finite (how many are not).", of["ends"]["infinite"], below=1,
            source="theory.md#step, theory.md#predictions"),
      claim("At pure noise the velocity tends to r − E[x₀], which the library makes of D there "
            "(how many of such limits differ).", of["ends"]["failing"], below=1,
            source="theory.md#predictions"),
      *_of_prior(of["prior"]),
      claim("The exponential turns a product into a sum (h(E₁E₂) − h(E₁) − h(E₂) at β = E₁ = E₂ = "
            "1).", of["exponential"]["wrong"], near=0.0, tolerance=rounding, source="A.1, step 3",
            by="paper"),
      claim("The exponential turns a sum into a product and alone has one f′/f for all energies, "
            "and the logarithm turns a product into a sum (how many of the three fail).",
            of["exponential"]["failing"], below=1, source="theory.md#errata, 9"),
      claim("The density exp(−E) is stationary under dx = −E′ dt + √2 dW for every E (its ∂p/∂t).",
            of["exponential"]["rate"], near=0.0, tolerance=0.0, source="A.1, A.2")]


def _of_prior(found: dict[str, Any]) -> list[Claim]:
  return [
      claim("At VE's own σ_max the prior term that eq. 14 drops is nothing (nats).", found["plain"],
            near=0.0, tolerance=2.0**-52, source="eq. 14", by="paper"),
      claim("The dropped prior term is at least that of a Gaussian of the same variance, known in "
            "closed form (relative excess).", found["plain"] / found["least"] - 1.0,
            above=-found["missed"], source="theory.md#initial-noise"),
      claim("A prior with the data's mean and variance lowers the dropped term (ratio of the two).",
            found["matched"] / found["plain"], below=1.0, source="theory.md#initial-noise")]


def context(data: dict[str, Any]) -> dict[str, Any]:
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
