"""What the solver study says: the best of ours beside the best of others, and the ratio."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.solver_grids import NAMED, OPTIMISED
from experiments.benchmarks.solver_runs import OURS, Row

# Scope → the grids that ours may be on, and those that theirs may; each side's least error counts.
SCOPES = {
    "karras": (("karras",), ("karras",)),
    "best grid": (tuple(NAMED), tuple(NAMED)),
    "ours optimised": (tuple(OPTIMISED), tuple(NAMED)),
    "both optimised": (tuple(OPTIMISED), tuple(OPTIMISED)),
}
MEANING = {
    "karras": "all on that grid",
    "best grid": "each side with the best of its methods on the best of the named grids",
    "ours optimised": "ours on levels that `samplers.optimised` found on other starts for unipc 2, "
                      "u in φ, or for DPM-Solver++(2M); theirs on the best of the named grids",
    "both optimised": "each side on the better of those two sets of levels",
}
# An error that the exact solutions of the problems have themselves; below it all are as good.
EXACT = 1e-9
# Below this two numbers are the same: rounding of a method that both have.
SAME = 1.0 + 1e-3


class Comparison(NamedTuple):
  """The best runs of ours and of theirs by one error at one budget; ratio = ours/theirs.

  scope: one of SCOPES. theirs is None where no other library is here. An error below the problem's
  floor counts as the floor.
  """

  problem: str
  scope: str
  metric: str
  budget: int
  ours: Row
  theirs: Row | None
  ratio: float | None


def best(rows: Iterable[Row], metric: str) -> Row | None:
  """The row of the least error, or None of no rows."""
  return min(rows, key=lambda row: getattr(row, metric), default=None)


def compare(rows: Sequence[Row], *, scopes: Sequence[str] = tuple(SCOPES),
            metrics: Sequence[str] = ("rmse", "median"), floor: float = EXACT) -> list[Comparison]:
  """Every problem, scope, metric and budget; methods and grids are the least of each side."""
  found = []
  for problem in dict.fromkeys(row.problem for row in rows):
    for scope in scopes:
      for metric in metrics:
        for budget in sorted({row.budget for row in rows}):
          here = [row for row in rows if row.problem == problem and row.budget == budget]
          ours, theirs = (
              best((row for row in here if (row.library == OURS) == mine and row.grid in allowed),
                   metric) for mine, allowed in zip((True, False), SCOPES[scope], strict=True))
          if ours is not None:
            error = lambda row, metric=metric: max(getattr(row, metric), floor)
            ratio = None if theirs is None else error(ours) / error(theirs)
            found.append(Comparison(problem, scope, metric, budget, ours, theirs, ratio))
  return found


def markdown(comparisons: Sequence[Comparison], facts: Sequence[str]) -> str:
  """The report: facts, ratios, where ours is worse, then a table for each scope and metric."""
  lines = ["# Solvers at equal network calls", "", *facts, ""]
  scopes = dict.fromkeys(c.scope for c in comparisons)
  lines += [*(f"- {scope}: {MEANING[scope]}" for scope in scopes), "", *summary(comparisons), ""]
  judged = [c for c in comparisons if c.ratio is not None]
  worse = sorted((c for c in judged if c.ratio > SAME), key=lambda c: -c.ratio)
  if judged:
    at_or_below = len(judged) - len(worse)
    lines += [f"Ours is at or below the best of the others in {at_or_below} of {len(judged)} "
              "comparisons.", ""]
  if worse:
    lines += ["## Where ours is worse", "",
              *_table(("problem", "scope", "error", "calls", "ours", "theirs", "ratio"), (
                  (c.problem, c.scope, c.metric, c.budget, _named(c.ours, c.metric),
                   _named(c.theirs, c.metric), f"{c.ratio:.3g}") for c in worse)), ""]
  for scope, metric in dict.fromkeys((c.scope, c.metric) for c in comparisons):
    lines += [f"## {scope}, {metric}", "",
              *_table(("problem", "calls", "best of ours", "best of theirs", "ours ÷ theirs"), (
                  (c.problem, c.budget, _named(c.ours, c.metric), _named(c.theirs, c.metric),
                   "" if c.ratio is None else f"{c.ratio:.3g}")
                  for c in comparisons if (c.scope, c.metric) == (scope, metric))), ""]
  return "\n".join(lines)


def summary(comparisons: Sequence[Comparison]) -> list[str]:
  """A line a problem: ours ÷ the best of theirs by rmse, a number a scope, at each budget."""
  ratios = {(c.problem, c.budget, c.scope): c.ratio for c in comparisons
            if c.metric == "rmse" and c.ratio is not None}
  problems, budgets, scopes = (list(dict.fromkeys(key[i] for key in ratios)) for i in range(3))
  cell = lambda *key: f"{ratios[key]:.2g}" if key in ratios else "–"
  budgets.sort()
  return _table((f"ours ÷ theirs: {' · '.join(scopes)}", *(f"{b} calls" for b in budgets)), (
      (p, *(" · ".join(cell(p, b, scope) for scope in scopes) for b in budgets))
      for p in problems))


def overall(rows: Sequence[Row]) -> list[str]:
  """The method with a named grid that is best over all problems together, of each side.

  By the geometric mean of rmse over the problems: what one gets who chooses once.
  """
  problems = {row.problem for row in rows}
  logs: dict[tuple[int, bool, str, str], list[float]] = {}
  for row in rows:
    if row.grid in NAMED and np.isfinite(row.rmse):
      name = row.method if row.library == OURS else f"{row.library} {row.method}"
      key = row.budget, row.library == OURS, name, row.grid
      logs.setdefault(key, []).append(np.log(max(row.rmse, EXACT)))
  means = {key: np.exp(np.mean(v)) for key, v in logs.items() if len(v) == len(problems)}
  lines = []
  for budget in sorted({key[0] for key in means}):
    sides = [min((key for key in means if key[:2] == (budget, mine)), key=means.get, default=None)
             for mine in (True, False)]
    if None not in sides:
      ours, theirs = sides
      lines.append((budget, *(f"{means[k]:.3g} ({k[2]}; {k[3]})" for k in sides),
                    f"{means[ours] / means[theirs]:.3g}"))
  return _table(("calls", "ours", "theirs", "ours ÷ theirs"), lines) if lines else []


def methods(rows: Sequence[Row], metric: str, grid: str, title: str) -> str:
  """One table of all methods on one grid: a line each, a column a budget, by the last of them."""
  budgets = sorted({row.budget for row in rows})
  cells: dict[tuple[str, str], dict[int, float]] = {}
  for row in rows:
    if row.grid == grid:
      cells.setdefault((row.library, row.method), {})[row.budget] = getattr(row, metric)
  order = sorted(cells, key=lambda name: cells[name].get(budgets[-1], np.inf))
  return "\n".join([f"### {title}", "", *_table(
      ("library", "method", *map(str, budgets)),
      ((*name, *(f"{cells[name][b]:.3g}" if b in cells[name] else "" for b in budgets))
       for name in order)), ""])


def _named(row: Row | None, metric: str) -> str:
  if row is None:
    return "none here"
  library = "" if row.library == OURS else f"{row.library} "
  return f"{getattr(row, metric):.3g} ({library}{row.method}; {row.grid})"


def _table(head: Sequence[str], body: Iterable[Sequence[object]]) -> list[str]:
  return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}",
          *(f"| {' | '.join(map(str, line))} |" for line in body)]
