"""Comparison of all formulas of Tables 1–7 with the library's, and the residuals of errata."""

from typing import Any

from experiments.paper.setting import Setting
from experiments.paper.tables import cells, comparison, errata, latex, limits, printed

# How the states and the native predictions of the three paths are written.
_STATE = {"vp": "x", "ve": "z", "rf": "r"}
_NATIVE = {"vp": r"\mathbf{s}", "ve": r"\bm{\epsilon}", "rf": r"\mathbf{v}"}


def measure(setting: Setting) -> dict[str, Any]:
  tables = {}
  for number in printed.TABLES:
    compared = comparison.compared(cells.cells(number), setting.seed, 32 if setting.fast else 512)
    if number == 4:
      compared += [comparison.domain(row) for row in printed.TABLES[4].rows]
    tables[number] = [_row(one) for one in compared]
  return {
      "tables": tables, "rounding": comparison.ROUNDING,
      "difference": {number: max(row["difference"] for row in rows if row["residual"] == "0")
                     for number, rows in tables.items()},
      "ends": limits.towards_the_end(), "density": setting.density.name,
      "errata": {erratum.__name__: erratum(setting) for erratum in (
          errata.one_minus, errata.clock, errata.own_time, errata.sign, limits.independence,
          errata.missing, limits.ends, limits.prior, errata.exponential)}}


def _row(one: comparison.Compared) -> dict[str, Any]:
  """The computed formula and the residual in LaTeX, and the largest difference."""
  cell = one.cell
  if cell.table == 4 and cell.column == 3:
    time = {"vp": "t", "ve": r"\sigma", "rf": "s"}[cell.row[:2]]
    computed = rf"d{time}/d{time}'=" + latex.shown(comparison.shortest(one.computed))
  elif cell.table == 4 and cell.column == 4:
    computed = latex.shown(one.computed)
  else:
    computed = _latex(comparison.shortest(one.computed), cell)
  return {"row": cell.row, "column": cell.column, "corrected": cell.corrected,
          "printed": cell.latex.latex, "computed": computed, "agrees": one.agrees,
          "residual": "0" if one.residual == 0 else _latex(one.residual, cell),
          "difference": one.difference}


def _latex(expression: Any, cell: cells.Cell) -> str:
  """LaTeX of an expression with the names of symbols in that cell."""
  name = cell.row[:2]
  state = _STATE[name]
  level = {"vp": "t", "ve": r"\sigma", "rf": "s"}[name]
  time = r"\tau" if cell.table == 3 else level + ("" if cell.table == 1 else "'")
  learned = r"_{\theta}" if cell.table in (6, 7) and cell.column > 2 else ""
  names = {printed.x: state, printed.x_0: f"{state}_0", printed.eps: r"\epsilon",
           printed.score: rf"\mathbf{{s}}_{{{state}}}", printed.value: _NATIVE[name] + learned}
  if cell.table == 3 and name != "vp":
    names[printed.LEVELS[name]] = r"\tau"
  return latex.shown(expression, names, {printed.dt: time, printed.dw: "W"})
