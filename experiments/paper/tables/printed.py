r"""Tables 1–7 of the paper: the printed cells and the meaning of their formulas.

printed.toml holds the LaTeX of the paper, errors included, the two rows that are missing in Table
3, and corrections of cells (theory.md#errata). The report shows these cells, and all comparisons
use the expressions parsed from them.

Rows are named by path (vp, ve, rf), with -sde (η = 1) or -ode (η = 0) for reverse processes. One
symbol stands for all names of a quantity: `a` is α_t = e^{−t} of VP, the square of the library's α;
`sigma` and `s` are the noise levels of VE-Karras and rectified flow; `x` is the state (x, z or r)
and `score` its score.
"""

import functools
import pathlib
import tomllib
from typing import NamedTuple

from experiments.paper.tables import formulas, symbolic
from langevin_jax import paths

sp = symbolic.sp

t, a, sigma, s = sp.symbols("t alpha_t sigma s", positive=True)
rho = sp.symbols("rho", positive=True)
x, score, value = sp.symbols("x score value", real=True)
x_0, eps = sp.symbols("x_0 epsilon", real=True)
# Increments of the process's own time and of its Brownian motion; VE's noise and RF's velocity.
dt, dw = sp.symbols("dt dW", real=True)
NOISE, VELOCITY = sp.symbols("noise velocity", real=True)

# Every noise level in terms of ρ > 0, so that sympy sees the sign of each root.
LEVEL = {a: 1 / (1 + rho**2), sigma: rho, s: rho / (1 + rho)}

# The noise-level parameter, and the path in code.
LEVELS = {"vp": a, "ve": sigma, "rf": s}
PATHS = {"vp": paths.vp(), "ve": paths.ve(), "rf": paths.rectified_flow()}
NAMES = tuple(PATHS)
# Each path's native prediction.
ROW_NAMES = {"vp": "score", "ve": "eps", "rf": "velocity"}

LABELS = {"vp": "VP", "ve": "VE-Karras", "rf": "Rectified flow", "vp-sde": "VP-SDE",
          "vp-ode": "VP-ODE", "ve-ode": "VE-Karras", "rf-ode": "Rectified flow",
          "ve-sde": "VE-Karras, SDE", "rf-sde": "Rectified flow, SDE"}


class Table(NamedTuple):
  """head: one name a column, the first that of the rows. rows: cells, each of LaTeX formulas."""

  title: str
  head: list[str]
  rows: dict[str, list[list[str]]]


_PRINTED = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TABLES = {int(number): Table(**table) for number, table in _PRINTED["tables"].items()}
MISSING = _PRINTED["missing"]
# Cells that err, (table, row, column) → what they must be.
CORRECTED = {(cell["table"], cell["row"], cell["column"]): cell["latex"]
             for cell in _PRINTED["corrected"]}

# What the paper's names mean.
_NAMES = {
    "alpha_t": a, "sigma": sigma, "s": s, "t": t,
    **dict.fromkeys(("x_t", "z_sigma", "r_s", "x", "z", "r", "*x", "*z", "*r", "x_t'", "*x_t'",
                     "z_sigma'", "*z_sigma'", "r_s'", "*r_s'"), x),
    **dict.fromkeys(("x_0", "z_0", "r_0"), x_0), "*epsilon": eps,
    **dict.fromkeys(("dt", "dsigma", "ds", "dtau", "dt'", "dsigma'", "ds'"), dt),
    **dict.fromkeys(("dW_t", "dW_sigma", "dW_s", "dW_tau", "dW_t'"), dw),
    **dict.fromkeys(("*s_x", "*s_z", "*s_r", "*s()", "*s_x()", "*s_z()", "*s_r()"), score),
    "*epsilon()": NOISE, "*v()": VELOCITY,
    **dict.fromkeys(("*s_theta()", "*epsilon_theta()", "*v_theta()"), value)}


def names(table: int, row: str) -> dict:
  """The meaning of the names in a row. In Table 3 τ is the noise level (erratum 3)."""
  if table == 3:
    return {**_NAMES, "tau": LEVELS[row[:2]]}
  if table == 5:
    return {**_NAMES, **dict.fromkeys(("*s_x()", "*epsilon()", "*v()"), value)}
  return _NAMES


@functools.lru_cache
def cell(table: int, row: str, column: int, *, corrected: bool = False) -> tuple:
  """The formulas of a cell, `formulas.Formula`; column 1 is the first after the row's name."""
  rows = {**TABLES[table].rows, **(MISSING if table == 3 else {})}
  latex = rows[row][column - 1]
  if corrected:
    latex = CORRECTED.get((table, row, column), latex)
  return tuple(formulas.read(each, names(table, row)) for each in latex)


def meaning(table: int, row: str, column: int, which: int = 0):
  """The right-hand side of a formula of a cell, corrected if it has an erratum."""
  return cell(table, row, column, corrected=True)[which].right


def eta(row: str) -> int:
  """The stochasticity of a row: -sde rows are η = 1."""
  return int(row.endswith("sde"))
