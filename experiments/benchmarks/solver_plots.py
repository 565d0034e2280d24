"""Pictures of the solver study: error against network calls, ours warm, other libraries cool."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np

from experiments.benchmarks import solver_grids, solver_tables
from experiments.benchmarks.solver_runs import OURS, Row

matplotlib.use("Agg")  # must precede pyplot
import matplotlib.pyplot as plt

COLOURS = {OURS: "#c0392b", "k-diffusion": "#2166ac", "diffusers": "#1b7837", "azula": "#762a83"}
# Ours by family: what a name contains → what the family is called, and a warm colour.
FAMILIES = {"time": ("adams_bashforth", "#a8780a"), "ddim": ("ddim", "#222222"),
            "in α": ("x₀ in α", "#f0a202"), "u in φ": ("u in φ", "#d7191c"),
            "u in ℓ": ("u in ℓ", "#e377c2"), "ε in ℓ": ("ε in ℓ", "#8c564b"),
            "multistep": ("x₀ in ℓ", "#ee6c1f"), "unipc": ("x₀ in ℓ", "#ee6c1f"),
            "singlestep": ("singlestep, heun", "#7a0019"),
            "heun": ("singlestep, heun", "#7a0019")}
MARKERS = "osD^v*PX<>hpd"
BOLD = {"lw": 1.2, "ms": 5.5, "mec": "white", "mew": 0.5, "zorder": 3}
INK = "#222222"


def every_method(rows: Sequence[Row], file: pathlib.Path, *, grid: str) -> None:
  """A panel a problem: root mean square errors on one grid, the best of each family of ours."""
  figure, panels = _panels(list(dict.fromkeys(row.problem for row in rows)))
  shown: dict[str, object] = {}
  for problem, axes in panels.items():
    here = [row for row in rows if row.problem == problem and row.grid == grid]
    _others(axes, here, shown)
    mine = [row for row in here if row.library == OURS]
    families = dict.fromkeys(_family(row.method) for row in mine)
    for (family, colour), marker in zip(families, MARKERS, strict=False):
      least = _least(row for row in mine if _family(row.method)[0] == family)
      line, = axes.plot(sorted(least), _drawn([least[b] for b in sorted(least)]), color=colour,
                        marker=marker, **BOLD)
      shown.setdefault(f"ours: {family}", line)
    _finish(axes, problem, here)
  _save(figure, file, shown, f"Root mean square error of x₀ against the exact flow on the grid "
        f"{grid}; of ours, the best of each family at each budget")


def laws(rows: Sequence[Row], file: pathlib.Path, *, grid: str, floor: float) -> None:
  """W₁ of methods that draw noise on one grid: a panel for each stochasticity of ours.

  The other libraries' are the same in all panels: their own, which is η = 1.
  """
  rows = [row for row in rows if row.grid == grid]
  mine = [row for row in rows if row.library == OURS]
  kinds = list(dict.fromkeys(row.method.partition(", ")[2].partition(" = ")[0] for row in mine))
  values = list(dict.fromkeys(row.method.partition(", ")[2] for row in mine
                              if kinds[0] in row.method))
  figure, panels = _panels(values)
  shown: dict[str, object] = {}
  for value, axes in panels.items():
    _others(axes, rows, shown)
    names = [name for name in dict.fromkeys(row.method for row in mine)
             if name.endswith(value) or kinds[0] not in name]
    for method, line in _mine(axes, rows, names).items():
      shown.setdefault(f"ours: {method.removesuffix(', ' + value)}", line)
    line = axes.axhline(floor, color=INK, ls=":", lw=1.2)
    shown.setdefault("as many exact draws", line)
    _finish(axes, f"ours at {value}", rows)
  _save(figure, file, shown, f"Law of the 1-D mixture: W₁ of samples on the grid {grid}")


def best_of_each(rows: Sequence[Row], file: pathlib.Path) -> None:
  """A panel a problem: the least error of each library over its methods, on two sets of grids."""
  figure, panels = _panels(list(dict.fromkeys(row.problem for row in rows)))
  shown: dict[str, object] = {}
  kinds = [(library, solver_grids.NAMED, f"{library}, best named grid", "-", colour)
           for library, colour in COLOURS.items()]
  kinds += [(OURS, solver_grids.OPTIMISED, "ours, optimised levels", "--", COLOURS[OURS]),
            (None, solver_grids.OPTIMISED, "others, the same levels", "--", "#777777")]
  for problem, axes in panels.items():
    here = [row for row in rows if row.problem == problem]
    for library, grids, name, style, colour in kinds:
      least = _least(
          row for row in here if row.grid in grids
          and (row.library == library or (library is None and row.library != OURS)))
      if least:
        bold = library == OURS
        line, = axes.plot(sorted(least), _drawn([least[b] for b in sorted(least)]), style,
                          color=colour, marker="o", ms=4.5, lw=2.2 if bold else 1.3,
                          zorder=3 if bold else 2)
        shown.setdefault(name, line)
    _finish(axes, problem, here, whole=True)
  _save(figure, file, shown, "Error of x₀ against the exact flow: the best method of each library "
        "at equal network calls")


def _panels(names: Sequence[str]):
  columns = min(4, len(names)) if len(names) != 6 else 3
  lines = -(-len(names) // columns)
  figure, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 5.0 * lines + 1.2),
                              squeeze=False, layout="constrained")
  for unused in axes.ravel()[len(names):]:
    unused.set_visible(False)
  return figure, dict(zip(names, axes.ravel(), strict=False))


def _others(axes, rows: Sequence[Row], shown: dict[str, object]) -> None:
  """Each method of other libraries as a thin line, and the least of them all."""
  for library in (name for name in COLOURS if name != OURS):
    for method in dict.fromkeys(row.method for row in rows if row.library == library):
      line = _curve(axes, rows, library, method, color=COLOURS[library], lw=1.0, alpha=0.5,
                    zorder=2)
      shown.setdefault(f"{library}: each method", line)
  least = _least(row for row in rows if row.library != OURS)
  if least:
    line, = axes.plot(sorted(least), _drawn([least[b] for b in sorted(least)]), color=INK, ls="--",
                      lw=1.6, zorder=4)
    shown.setdefault("the least of the others", line)


def _mine(axes, rows: Sequence[Row], names: Sequence[str]) -> dict[str, object]:
  """Our methods by name, each with its family's colour."""
  lines: dict[str, object] = {}
  seen: dict[str, int] = {}
  for name in names:
    colour = _family(name)[1]
    seen[colour] = seen.get(colour, -1) + 1
    lines[name] = _curve(axes, rows, OURS, name, color=colour,
                         marker=MARKERS[seen[colour] % len(MARKERS)], **BOLD)
  return lines


def _family(method: str) -> tuple[str, str]:
  """Name and colour."""
  return next(family for part, family in FAMILIES.items() if part in method)


def _least(rows: Iterable[Row]) -> dict[int, float]:
  """Budget → the least error."""
  least: dict[int, float] = {}
  for row in rows:
    least[row.budget] = min(least.get(row.budget, np.inf), row.rmse)
  return least


def _curve(axes, rows: Sequence[Row], library: str, method: str, **style):
  points = sorted((row.calls, row.rmse) for row in rows
                  if row.library == library and row.method == method)
  calls, errors = zip(*points, strict=True)
  return axes.plot(calls, _drawn(errors), **style)[0]


def _drawn(errors: Sequence[float]) -> np.ndarray:
  """What a logarithmic axis can show: finite, and 0 as the error of the exact solutions."""
  errors = np.asarray(errors, float)
  return np.where(np.isfinite(errors), np.maximum(errors, solver_tables.EXACT), np.nan)


def _finish(axes, title: str, rows: Sequence[Row], *, whole: bool = False) -> None:
  budgets = sorted({row.budget for row in rows})
  errors = _drawn([row.rmse for row in rows])
  first = errors[[row.budget == budgets[0] for row in rows]]
  axes.set(xscale="log", yscale="log", xlabel="network calls", title=title)
  if not whole and np.isfinite(first).any():
    # Methods that diverge at few calls would flatten all the others.
    axes.set_ylim(0.6 * np.nanmin(errors), 3.0 * np.nanmedian(first))
  # What falls to 0, as points do, leaves the panel instead of flattening it.
  low, high = axes.get_ylim()
  axes.set_ylim(max(low, 1e-5 * high), high)
  axes.set_xticks(budgets, map(str, budgets))
  axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
  axes.grid(alpha=0.25, lw=0.5)


def _save(figure, file: pathlib.Path, shown: Mapping[str, object], title: str) -> None:
  figure.suptitle(title, fontsize=14)
  figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=5, frameon=False,
                fontsize=10, handlelength=3.2)
  file.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(file, dpi=110)
  plt.close(figure)
