"""Errata of the paper (theory.md#errata): sizes of errors, and residuals of corrections.

Each function measures one erratum. A residual is the printed formula minus the library's, in LaTeX
("0" if it vanishes), or a number. Errata that concern a limit are in `limits`.
"""

from typing import Any

import numpy as np

from experiments.paper.setting import Setting
from experiments.paper.tables import cells, comparison, formulas, latex, printed, symbolic
from langevin_jax import splitting

sp = symbolic.sp
a, s, x, value = printed.a, printed.s, printed.x, printed.value
tau = sp.Symbol("tau", positive=True)
eta = sp.Symbol("eta", nonnegative=True)


def shown(expression: Any) -> str:
  return latex.shown(expression, {printed.score: r"\mathbf{s}", value: r"\mathbf{v}"},
                     {printed.dt: r"\tau", printed.dw: "W"})


def failing(*expressions) -> int:
  """The number of expressions that do not vanish identically."""
  return sum(comparison.in_rho(expression) != 0 for expression in expressions)


def one_minus(setting: Setting) -> dict[str, Any]:
  """1: Table 3's Langevin cell of rectified flow."""
  wrong, right = comparison.compared(
      [c for c in cells.cells(3) if (c.row, c.column) == ("rf-ode", 1)], setting.seed, 32)
  return {"residual": shown(wrong.residual.subs(s, tau)), "left": shown(right.residual),
          "wrong": wrong.difference, "right": right.difference}


def clock(_: Setting) -> dict[str, Any]:
  """2: g is the Langevin clock in eq. 1 and the noise amplitude from eq. 3 on."""
  rows, least, balances = [], {}, []
  levels = np.geomspace(comparison.RHO_MIN, comparison.RHO_MAX, 200)
  for name, path in printed.PATHS.items():
    # The noise variance of the reverse process whose Langevin clock is the g of the forward SDE.
    variance = comparison.shortest(comparison.derived(
        name, lambda q, path=path: 2.0 * path.diffusion(q.t) - path.diffusion(q.t) ** 2))
    least[name] = np.min(sp.lambdify(
        printed.rho, variance.subs(printed.LEVEL), "numpy")(levels) * np.ones_like(levels))
    time = -sp.log(a) if name == "vp" else printed.LEVELS[name]
    balance = symbolic.of(lambda q, path=path: _balance(splitting.split(path, q[1]), q[0]),
                          (time, eta), at=comparison.interior(0.7))
    balances.append(balance)
    rows.append({"path": printed.LABELS[name], "residual": shown(variance),
                 "left": shown(comparison.in_rho(balance))})
  return {"rows": rows, "least": least, "failing": failing(*balances)}


def _balance(parts: splitting.Split, t):
  """The noise variance of Langevin dynamics minus those of its two parts."""
  return (parts.langevin.diffusion(t) ** 2 - parts.forward.diffusion(t) ** 2
          - parts.reverse.diffusion(t) ** 2)


def own_time(_: Setting) -> dict[str, Any]:
  """3: τ is the noise level in the VE and RF rows of Table 3, and a separate time in eq. 4."""
  rows, left, apart = [], [], {}
  for row in ("ve-ode", "rf-ode"):
    name = row[:2]
    read = formulas.read(printed.TABLES[3].rows[row][2][0], {**printed.names(3, row), "tau": tau})
    apart[name] = read.right - comparison.derived(name, cells.process(name, 0.0, "forward"))
    left.append(apart[name].subs(tau, printed.LEVELS[name]))
    rows.append({"path": printed.LABELS[row], "latex": read.latex,
                 "level": latex.shown(printed.LEVELS[name]),
                 "residual": shown(apart[name].subs(x, sp.Symbol("r"))),
                 "left": shown(comparison.in_rho(left[-1]))})
  # At τ = 0, where Langevin time starts: printed noise amplitude over that of the level, minus 1.
  noise = apart["ve"].coeff(printed.dw)
  missed = sp.limit(noise, tau, 0) / -noise.subs(tau, 0)
  return {"rows": rows, "missed": float(missed), "failing": failing(*left)}


def sign(_: Setting) -> dict[str, Any]:
  """4: after eq. 20 the reverse process is written in the forward time."""
  # The reverse process runs against s: dr/ds along it is minus its drift.
  slope = -comparison.shortest(comparison.derived("rf", cells.reverse("rf", 0.0))).coeff(printed.dt)
  wrong, right = -value - slope, -value + slope
  return {"residual": shown(wrong), "left": shown(right), "wrong": float(wrong / value),
          "right": float(right / value)}


def missing(_: Setting) -> dict[str, Any]:
  """6: that ODE and SDE are splits of different Langevin dynamics is shown for VP only."""
  rows, residuals = [], []
  for row in printed.MISSING:
    name = row[:2]
    whole, reverse, forward = (printed.meaning(3, row, column) for column in (1, 2, 3))
    variances = [e.coeff(printed.dw) ** 2 for e in (whole, reverse, forward)]
    residuals += [
        (whole - reverse - forward).coeff(printed.dt), variances[0] - variances[1] - variances[2],
        reverse - comparison.derived(name, cells.process(name, 1.0, "reverse"))]
    rows.append({"path": printed.LABELS[row], "latex": printed.MISSING[row][1][0],
                 "left": shown(sum(comparison.in_rho(r) for r in residuals[-3:]))})
  given = {row[:2] for row in printed.TABLES[3].rows if printed.eta(row)}
  return {"rows": rows, "lacking": len(printed.NAMES) - len(given), "failing": failing(*residuals)}


def exponential(_: Setting) -> dict[str, Any]:
  """9: A.1 step 3 has product and sum the wrong way round, and step 2 assumes p = f(E)."""
  first, second, beta = sp.symbols("E_1 E_2 beta", positive=True)
  energy, f = sp.Function("E")(x), sp.Function("f")
  names = {sp.diff(energy, x, order): sp.Symbol("E" + "'" * order) for order in (2, 1, 0)}
  law = lambda e: sp.exp(-beta * e)
  turned = law(first * second) - law(first) - law(second)
  # f(E₁) f(E₂) = g(E₁ + E₂) makes f′/f one constant, −β: its solution is that exponential.
  product = sp.simplify(law(first) * law(second) - law(first + second))
  solution = sp.dsolve(f(first).diff(first) + beta * f(first), f(first)).rhs
  shape = sp.simplify(sp.diff(sp.log(solution / law(first)), first))
  logarithm = sp.expand_log(sp.log(first * second) - sp.log(first) - sp.log(second))
  # ∂p/∂t of dx = −E′ dt + √(2 H(x)) dW at p = e^{−E}, by the Fokker–Planck equation of A.2.
  flow = lambda spread: sp.simplify(
      sp.diff(sp.diff(energy, x) * sp.exp(-energy), x)
      + sp.diff(spread * sp.exp(-energy), x, 2)).subs(names)
  still = flow(sp.Integer(1))
  return {"turned": shown(turned),
          "left": shown(sp.Abs(product) + sp.Abs(logarithm) + sp.Abs(shape)),
          "wrong": float(turned.subs({first: 1, second: 1, beta: 1})),
          "failing": sum(e != 0 for e in (product, shape, logarithm)),
          "moves": shown(flow(1 + x**2)), "still": shown(still), "rate": float(still)}
