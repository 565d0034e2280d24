"""Report of the solver study: the best run of each side, their ratio, and a picture."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.solver_runs import NAMED, OPTIMISED, OURS, OWN_GRID, Row
from experiments.report import charts, page

# Scope → the grids of our methods, and of the other libraries; the smallest error counts.
_ANY = (*NAMED, OWN_GRID)
SCOPES = {"karras": (("karras",), ("karras",)), "best grid": (_ANY, _ANY),
          "ours optimised": (tuple(OPTIMISED), _ANY),
          "both optimised": (tuple(OPTIMISED), tuple(OPTIMISED))}
MEANING = {
    "karras": "all on that grid",
    "best grid": "each side with the best of its methods on the best of the named grids",
    "ours optimised": "ours on levels that `samplers.optimised` found on other starts for unipc 2, "
                      "u in φ, or for DPM-Solver++(2M); theirs on the best of the named grids",
    "both optimised": "each side on the better of those two sets of levels"}
# The error of the reference solutions. Smaller errors count as equal.
EXACT = 1e-9
# Ratios below this differ by rounding: both sides have the same method.
SAME = 1.0 + 1e-3
COLOURS = {OURS: "#c0392b", "k-diffusion": "#2166ac", "diffusers": "#1b7837", "azula": "#762a83"}


class Comparison(NamedTuple):
  """The best of our runs and of the other libraries' at one budget; ratio = ours/theirs.

  theirs: None without another library. An error below the floor counts as the floor.
  """

  problem: str
  scope: str
  budget: int
  ours: Row
  theirs: Row | None
  ratio: float | None


def compare(rows: Sequence[Row], *, scopes: Sequence[str] = tuple(SCOPES),
            floor: float = EXACT) -> list[Comparison]:
  """The comparisons of each problem, scope and budget."""
  found = []
  for problem in dict.fromkeys(row.problem for row in rows):
    for scope in scopes:
      for budget in sorted({row.budget for row in rows}):
        here = [row for row in rows if row.problem == problem and row.budget == budget]
        ours, theirs = (min((row for row in here if (row.library == OURS) == mine
                             and row.grid in allowed), key=lambda row: row.rmse, default=None)
                        for mine, allowed in zip((True, False), SCOPES[scope], strict=True))
        if ours is not None:
          ratio = None if theirs is None else max(ours.rmse, floor) / max(theirs.rmse, floor)
          found.append(Comparison(problem, scope, budget, ours, theirs, ratio))
  return found


def markdown(comparisons: Sequence[Comparison], rows: Sequence[Row], facts: Sequence[str]) -> str:
  """The report: facts, ratios, where ours is worse, the best of each cell, and every method."""
  scopes = dict.fromkeys(c.scope for c in comparisons)
  lines = ["# Solvers at equal network calls", "", *facts, "",
           *(f"- {scope}: {MEANING[scope]}" for scope in scopes), "", *summary(comparisons), ""]
  judged = [c for c in comparisons if c.ratio is not None]
  worse = sorted((c for c in judged if c.ratio > SAME), key=lambda c: -c.ratio)
  if judged:
    lines += [f"Ours is at or below the best of the others in {len(judged) - len(worse)} of "
              f"{len(judged)} comparisons.", ""]
  for title, shown in (("Where ours is worse", worse), ("The best of each cell", comparisons)):
    if shown:
      lines += [f"## {title}", "", *_table(
          ("problem", "scope", "calls", "ours", "theirs", "ratio"), (
              (c.problem, c.scope, c.budget, _named(c.ours), _named(c.theirs),
               "" if c.ratio is None else f"{c.ratio:.3g}") for c in shown)), ""]
  if alone := overall(rows):
    lines += ["## One method and named grid for all problems, geometric mean", "", *alone, ""]
  lines += ["## Every method on karras", ""]
  for problem in dict.fromkeys(row.problem for row in rows):
    lines += [f"### {problem}", "", *_methods([row for row in rows if row.problem == problem]), ""]
  return "\n".join(lines)


def summary(comparisons: Sequence[Comparison]) -> list[str]:
  """A table with a row for each problem: the ratio in each scope, by budget."""
  ratios = {(c.problem, c.budget, c.scope): c.ratio for c in comparisons if c.ratio is not None}
  problems, budgets, scopes = (list(dict.fromkeys(key[i] for key in ratios)) for i in range(3))
  cell = lambda *key: f"{ratios[key]:.2g}" if key in ratios else "–"
  budgets.sort()
  return _table((f"ours ÷ theirs: {' · '.join(scopes)}", *(f"{b} calls" for b in budgets)), (
      (p, *(" · ".join(cell(p, b, scope) for scope in scopes) for b in budgets))
      for p in problems))


def overall(rows: Sequence[Row]) -> list[str]:
  """A table of the best method and named grid of each side for all problems together.

  The criterion is the geometric mean of the errors over problems.
  """
  problems = {row.problem for row in rows}
  logs: dict[tuple[int, bool, str, str], list[float]] = {}
  for row in rows:
    if row.grid in NAMED and np.isfinite(row.rmse):
      key = row.budget, row.library == OURS, _method(row), row.grid
      logs.setdefault(key, []).append(np.log(max(row.rmse, EXACT)))
  means = {key: np.exp(np.mean(v)) for key, v in logs.items() if len(v) == len(problems)}
  lines = []
  for budget in sorted({key[0] for key in means}):
    sides = [min((key for key in means if key[:2] == (budget, mine)), key=means.get, default=None)
             for mine in (True, False)]
    if None not in sides:
      lines.append((budget, *(f"{means[k]:.3g} ({k[2]}; {k[3]})" for k in sides),
                    f"{means[sides[0]] / means[sides[1]]:.3g}"))
  return _table(("calls", "ours", "theirs", "ours ÷ theirs"), lines) if lines else []


def picture(rows: Sequence[Row], floors: Mapping[str, float], file: pathlib.Path) -> None:
  """Draws a panel for each problem: the smallest error of each library, on two sets of grids."""
  kinds = [(f"{library}, best named grid", {library}, _ANY, "o-", colour)
           for library, colour in COLOURS.items()]
  kinds += [("ours, optimised levels", {OURS}, OPTIMISED, "o--", COLOURS[OURS]),
            ("others, the same levels", {*COLOURS} - {OURS}, OPTIMISED, "o--", charts.GREY)]
  budgets, panels = sorted({row.budget for row in rows}), []
  for problem in dict.fromkeys(row.problem for row in rows):
    # The legend is that of the first panel.
    marks, drawn = [], []
    if floors and not panels:
      marks.append(charts.Line([], [], "as many exact draws", style=":", colour=charts.INK))
    for name, libraries, grids, style, colour in kinds:
      least: dict[int, float] = {}
      for row in rows:
        if row.problem == problem and row.library in libraries and row.grid in grids:
          least[row.budget] = min(least.get(row.budget, np.inf), row.rmse)
      if least:
        errors = np.maximum([least[b] for b in sorted(least)], EXACT)
        drawn += errors[np.isfinite(errors)].tolist()
        marks.append(charts.Line(
            sorted(least), np.where(np.isfinite(errors), errors, np.nan), name, style=style,
            colour=colour, options={"lw": 2.2 if OURS in libraries else 1.3}))
    if problem in floors:
      marks.append(charts.Level(floors[problem], style=":"))
    # Errors near 0, as of points, are outside.
    low = max(0.7 * min(drawn), 1e-5 * max(drawn)) if drawn else None
    panels.append(charts.Panel(marks, "network calls", title=problem, log="xy", ticks=budgets,
                               settings={"ylim": (low, None)}))
  columns = 3 if len(panels) in (5, 6) else min(4, len(panels))
  figure = charts.draw(panels, columns=columns, below=True,
                       size=(5.2 * columns, 5.0 * -(-len(panels) // columns) + 1.2))
  figure.suptitle("Error of the best method of each library at equal network calls", fontsize=14)
  file.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(file, dpi=110)
  charts.plt.close(figure)


def _methods(rows: Sequence[Row]) -> list[str]:
  """A table of all methods on karras, a column for each budget, sorted by the last one."""
  budgets = sorted({row.budget for row in rows})
  cells: dict[str, dict[int, float]] = {}
  for row in rows:
    if row.grid in ("karras", OWN_GRID):
      cells.setdefault(_method(row), {})[row.budget] = row.rmse
  order = sorted(cells, key=lambda name: cells[name].get(budgets[-1], np.inf))
  return _table(("method", *map(str, budgets)), (
      (name, *(f"{cells[name][b]:.3g}" if b in cells[name] else "" for b in budgets))
      for name in order))


def _method(row: Row) -> str:
  return row.method if row.library == OURS else f"{row.library} {row.method}"


def _named(row: Row | None) -> str:
  return "none here" if row is None else f"{row.rmse:.3g} ({_method(row)}; {row.grid})"


def _table(head: Sequence[str], body: Iterable[Sequence[object]]) -> list[str]:
  return page.table([head, *body]).splitlines()
