"""What the paper gets wrong or leaves unsaid (theory.md#errata), by how much, and what holds.

Every residual is computed: as a formula, the printed one minus what the library's code computes, or
as a number. Each erratum is a function that returns its rows of the table and its claims. Those
that concern a limit are in `limits`.
"""

from typing import Any, NamedTuple

import numpy as np

from experiments.paper import cells, comparison, formulas, mathml, part, printed, symbolic
from langevin_jax import splitting

sp = symbolic.sp
a, s, x, value = printed.a, printed.s, printed.x, printed.value
tau = sp.Symbol("tau", positive=True)
eta = sp.Symbol("eta", nonnegative=True)


class Row(NamedTuple):
  """A line of the table. Each entry is a text, MathML, or a sympy expression to be shown.

  residual: by how much `says` misses what is so. leaves: the same for `instead`, what holds.
  """

  where: str
  says: Any
  fails: str
  residual: Any
  instead: Any
  leaves: Any


def formula(*formulae: str) -> str:
  return mathml.math(*(formulas.read(each, {}).mathml for each in formulae))


def cell_of(table: int, row: str, column: int) -> str:
  return mathml.math(printed.cell(table, row, column)[0].mathml)


def failing(*expressions) -> int:
  """How many of several expressions do not vanish at every noise level."""
  return sum(comparison.in_rho(expression) != 0 for expression in expressions)


def one_minus(setting: part.Setting):
  """1: Table 3's Langevin cell of rectified flow."""
  wrong, right = comparison.compared(
      [c for c in cells.cells(3) if (c.row, c.column) == ("rf-ode", 1)], setting.seed, 32)
  rows = [Row(
      "Table 3, Langevin dynamics of rectified flow", mathml.math(wrong.cell.latex.mathml),
      "the forward and reverse cells of its row add up to another process",
      wrong.residual.subs(s, tau), mathml.math(right.cell.latex.mathml), right.residual)]
  return rows, [
      part.claim(
          "Table 3's Langevin cell of rectified flow is the sum of its forward and reverse cells "
          "(largest relative difference).", wrong.difference, below=comparison.ROUNDING,
          source="Table 3", by="paper"),
      part.claim(
          "With τ/(1 − τ) in the place of τ/(1 + τ) Table 3's Langevin cell of rectified flow is "
          "that sum (largest relative difference).", right.difference, below=comparison.ROUNDING,
          source="Table 3; theory.md#errata, 1")]


def clock(setting: part.Setting):
  """2: g is the Langevin clock in eq. 1, and the noise amplitude from eq. 3 on."""
  del setting
  says = formula(r"d\mathbf{x}_{t}=g\,\mathbf{s}\,dt+\sqrt{2g}\,d\mathbf{W}_{t}",
                r"d\mathbf{x}_{t}=f\,dt+g\,d\mathbf{W}_{t}")
  holds = ("<math><mi>H</mi><mo>=</mo><mfrac><mrow><mn>1</mn><mo>+</mo><msup><mi>η</mi><mn>2</mn>"
           "</msup></mrow><mn>2</mn></mfrac><msup><mi>g</mi><mn>2</mn></msup></math>")
  rows, least = [], {}
  for name in printed.NAMES:
    path = printed.PATHS[name]
    # The noise variance of the reverse process if its Langevin clock is the g of the forward SDE.
    left = comparison.shortest(comparison.derived(
        name, lambda q, path=path: 2.0 * path.diffusion(q.t) - path.diffusion(q.t) ** 2))
    levels = np.geomspace(comparison.RHO_MIN, comparison.RHO_MAX, 200)
    least[name] = float(np.min(sp.lambdify(
        printed.rho, left.subs(printed.LEVEL), "numpy")(levels) * np.ones_like(levels)))
    time = -sp.log(a) if name == "vp" else printed.LEVELS[name]
    balance = symbolic.of(lambda q, path=path: _balance(splitting.split(path, q[1]), q[0]),
                          (time, eta), at=comparison.interior(0.7))
    rows.append(Row(
        f"eq. 1 and eq. 3, {printed.LABELS[name]}", says, "with one g in both, the reverse process "
        "has the noise variance 2g − g²; it must be 0 for the ODE, and never negative", left, holds,
        comparison.in_rho(balance)))
  return rows, [
      part.claim(
          "With one g in eq. 1 and in eq. 3, as the paper writes them, rectified flow's reverse "
          "process has a noise variance that is nowhere negative (least value).", least["rf"],
          above=0.0, source="eq. 1, eq. 3", by="paper"),
      part.claim("With a clock H = (1 + η²)/2 · g² of its own, Langevin noise is forward plus "
                 "reverse noise for every η (how many of the three paths fail).",
                 failing(*(row.leaves for row in rows)), below=1, source="theory.md#split")]


def _balance(parts: splitting.Split, t):
  """Langevin's noise variance less those of its two parts."""
  return (parts.langevin.diffusion(t) ** 2 - parts.forward.diffusion(t) ** 2
          - parts.reverse.diffusion(t) ** 2)


def own_time(setting: part.Setting):
  """3: τ is the noise level in Table 3's VE and RF rows, and a time of its own in eq. 4."""
  del setting
  rows, apart = [], {}
  for row in ("ve-ode", "rf-ode"):
    name = row[:2]
    read = formulas.read(printed.TABLES[3].rows[row][2][0], {**printed.names(3, row), "tau": tau})
    apart[name] = read.right - comparison.derived(name, cells.process(name, 0.0, "forward"))
    level = printed.LEVELS[name]
    rows.append(Row(
        f"Table 3, forward split of {printed.LABELS[row]}", mathml.math(read.mathml),
        "with τ the Langevin time of eq. 4, which runs while the noise level stays, it is the "
        "forward process of another level", apart[name].subs(x, sp.Symbol("r")),
        f"<math><mi>τ</mi><mo>=</mo><mi>{level.name.replace('sigma', 'σ')}</mi></math>",
        comparison.in_rho(apart[name].subs(tau, level))))
  # When the Langevin time starts, at τ = 0: printed noise amplitude over the level's own, less 1.
  noise = apart["ve"].coeff(printed.dw)
  missed = sp.limit(noise, tau, 0) / -noise.subs(tau, 0)
  return rows, [
      part.claim(
          "With τ a Langevin time that starts at 0 (eq. 4), Table 3's VE row starts with the "
          "noise of its level (relative difference of the amplitudes).", missed, near=0.0,
          tolerance=comparison.ROUNDING, source="eq. 4, Table 3", by="paper"),
      part.claim(
          "With τ the noise level itself, the forward cells of VE and rectified flow are the "
          "library's (how many are not).", failing(*(row.leaves for row in rows)), below=1,
          source="theory.md#errata, 3")]


def sign(setting: part.Setting):
  """4: after eq. 20 the reverse process is written in the forward time."""
  del setting
  # The reverse process runs against s: dr/ds along it is minus its drift.
  slope = -comparison.shortest(comparison.derived("rf", cells.reverse("rf", 0.0))).coeff(printed.dt)
  wrong, right = -value - slope, -value + slope
  rows = [Row("after eq. 20", formula(r"dr=-\mathbf{v}(r,s)\,ds"), "along the reverse process "
              "dr/ds is +𝐯: it runs the same curve as the forward one, the other way", wrong,
              formula(r"dr=-\mathbf{v}(r,s)\,ds^{\prime}"), right)]
  return rows, [
      part.claim("The reverse process is dr = −v ds (its slope dr/ds less the library's, in units "
                 "of v).", wrong / value, near=0.0, tolerance=comparison.ROUNDING,
                 source="after eq. 20", by="paper"),
      part.claim(
          "The reverse process is dr = −v ds′ with ds′ = −ds (the same difference of slopes).",
          right / value, near=0.0, tolerance=comparison.ROUNDING, source="Table 4")]


def missing(setting: part.Setting):
  """6: that ODE and SDE are splits of different Langevin dynamics is shown for VP only."""
  del setting
  rows, residuals = [], []
  for row in printed.MISSING:
    name = row[:2]
    whole, reverse, forward = (printed.meaning(3, row, column) for column in (1, 2, 3))
    variances = [e.coeff(printed.dw) ** 2 for e in (whole, reverse, forward)]
    residuals += [
        (whole - reverse - forward).coeff(printed.dt), variances[0] - variances[1] - variances[2],
        reverse - comparison.derived(name, cells.process(name, 1.0, "reverse"))]
    rows.append(Row(
        f"Table 3, {printed.LABELS[row]}", "no row", "how SDE and ODE are unified is answered for "
        "VP alone", "a row", cell_of(3, row, 2), sum(comparison.in_rho(r) for r in residuals[-3:])))
  given = {row[:2] for row in printed.TABLES[3].rows if printed.eta(row)}
  return rows, [
      part.claim(
          "Table 3, the paper's answer to how ODE and SDE are unified, has an SDE row for each of "
          "the three paths (how many it lacks).", len(printed.NAMES) - len(given), below=1,
          source="Table 3", by="paper"),
      part.claim(
          "In the rows that Table 3 lacks Langevin is forward plus reverse, and the reverse is "
          "the library's at η = 1 (how many equalities fail).", failing(*residuals), below=1,
          source="theory.md#split")]


def exponential(setting: part.Setting):
  """9: A.1 step 3 has product and sum the wrong way round, and step 2 assumes p = f(E)."""
  del setting
  first, second, beta = sp.symbols("E_1 E_2 beta", positive=True)
  energy, f = sp.Function("E")(x), sp.Function("f")
  names = {sp.diff(energy, x, order): sp.Symbol("E" + "′" * order) for order in (2, 1, 0)}
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
  rows = [
      Row("A.1, step 3", "only the exponential “turns product form into addition form”",
          "h(E₁E₂) = h(E₁) + h(E₂) is not true of h(E) = exp(−βE)", turned,
          "that does the logarithm; the exponential turns sums into products, f(E₁)f(E₂) = "
          "g(E₁ + E₂)", sp.Abs(product) + sp.Abs(logarithm) + sp.Abs(shape)),
      Row("A.1, step 2", "position enters through E alone, so p = f(E)", "it is assumed: of noise "
          "√(2(1 + x²)) dW, exp(−E) is not stationary, ∂p/∂t =", flow(1 + x**2),
          "under √2 dW it is, for every E, by A.2's equation: ∂p/∂t =", flow(sp.Integer(1)))]
  return rows, [
      part.claim("The exponential turns a product into a sum (h(E₁E₂) − h(E₁) − h(E₂) at "
                 "β = E₁ = E₂ = 1).", turned.subs({first: 1, second: 1, beta: 1}), near=0.0,
                 tolerance=comparison.ROUNDING, source="A.1, step 3", by="paper"),
      part.claim(
          "The exponential turns a sum into a product and alone has one f′/f for all energies, "
          "and the logarithm turns a product into a sum (how many of the three fail).",
          sum(e != 0 for e in (product, shape, logarithm)), below=1, source="theory.md#errata, 9"),
      part.claim(
          "The density exp(−E) is stationary under dx = −E′ dt + √2 dW for every E (its ∂p/∂t).",
          flow(sp.Integer(1)), near=0.0, tolerance=0.0, source="A.1, A.2")]
