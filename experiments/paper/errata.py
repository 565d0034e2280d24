"""What the paper gets wrong or leaves unsaid (MATH §11): what fails, by how much, and what holds.

Every residual is computed: as a formula, the printed one minus what the library's code computes, or
as a number. Each erratum is a function that returns its rows of the table and its claims.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.paper import cells, formulas, laws, part, printed, symbolic
from langevin_jax import langevin, predictions, splitting

sp = symbolic.sp
a, s, sigma, x, value = printed.a, printed.s, printed.sigma, printed.x, printed.value
tau, delta, variance = sp.symbols("tau delta v", positive=True)
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


def measure(setting: part.Setting) -> part.Findings:
  rows: list[list[str | part.Maths]] = [
      ["", "Where", "The paper says", "What fails", "Residual", "What holds", "What is left"]]
  claims = []
  for number, erratum in enumerate(
      (one_minus, clock, own_time, sign, independence, missing, ends, prior, exponential), 1):
    found, claimed = erratum(setting)
    rows += [[str(number), *(_cell(content) for content in row)] for row in found]
    claims += claimed
  data, caption = towards_the_end()
  return part.Findings(
      claims=claims, tables=[part.Table("Errata", rows)], data={"ends": data},
      captions={"ends": caption})


def _cell(content) -> str | part.Maths:
  if isinstance(content, str):
    return part.Maths(content) if content.startswith("<math>") else content
  if content == 0:
    return "0"
  names = {printed.score: "𝐬", value: "𝐯"}
  return part.Maths(formulas.math(formulas.shown(
      sp.sympify(content), names, {printed.dt: "τ", printed.dw: "W"})))


def _latex(*formulae: str) -> str:
  return formulas.math(*(formulas.read(each, {}).mathml for each in formulae))


def _cell_of(table: int, row: str, column: int) -> str:
  return formulas.math(printed.cell(table, row, column)[0].mathml)


def _fails(*expressions) -> int:
  """How many of several expressions do not vanish at every noise level."""
  return sum(cells.in_rho(expression) != 0 for expression in expressions)


def one_minus(setting: part.Setting):
  """1: Table 3's Langevin cell of rectified flow."""
  wrong, right = cells.compared(
      [c for c in cells.cells(3) if (c.row, c.column) == ("rf-ode", 1)], setting.seed, 32)
  rows = [Row(
      "Table 3, Langevin dynamics of rectified flow", formulas.math(wrong.cell.latex.mathml),
      "the forward and reverse cells of its row add up to another process",
      wrong.residual.subs(s, tau), formulas.math(right.cell.latex.mathml), right.residual)]
  return rows, [
      part.claim("Table 3's Langevin cell of rectified flow is the sum of its forward and reverse "
                 "cells: largest relative difference", wrong.difference, below=cells.ROUNDING,
                 source="Table 3", by="paper"),
      part.claim("With τ/(1 − τ) in the place of τ/(1 + τ) it is: largest relative difference",
                 right.difference, below=cells.ROUNDING, source="Table 3, MATH §11.1")]


def clock(setting: part.Setting):
  """2: g is the Langevin clock in eq. 1, and the noise amplitude from eq. 3 on."""
  del setting
  says = _latex(r"d\mathbf{x}_{t}=g\,\mathbf{s}\,dt+\sqrt{2g}\,d\mathbf{W}_{t}",
                r"d\mathbf{x}_{t}=f\,dt+g\,d\mathbf{W}_{t}")
  holds = ("<math><mi>H</mi><mo>=</mo><mfrac><mrow><mn>1</mn><mo>+</mo><msup><mi>η</mi><mn>2</mn>"
           "</msup></mrow><mn>2</mn></mfrac><msup><mi>g</mi><mn>2</mn></msup></math>")
  rows, least = [], {}
  for name in printed.NAMES:
    path = printed.PATHS[name]
    # The noise variance of the reverse process if its Langevin clock is the g of the forward SDE.
    left = cells.shortest(cells.derived(
        name, lambda q, path=path: 2.0 * path.diffusion(q.t) - path.diffusion(q.t) ** 2))
    levels = np.geomspace(cells.RHO_MIN, cells.RHO_MAX, 200)
    least[name] = float(np.min(sp.lambdify(
        printed.rho, left.subs(printed.LEVEL), "numpy")(levels) * np.ones_like(levels)))
    time = -sp.log(a) if name == "vp" else printed.LEVELS[name]
    balance = symbolic.of(lambda q, path=path: _balance(splitting.split(path, q[1]), q[0]),
                          (time, eta), at=cells.INTERIOR)
    rows.append(Row(
        f"eq. 1 and eq. 3, {printed.LABELS[name]}", says, "with one g in both, the reverse process "
        "has the noise variance 2g − g²; it must be 0 for the ODE, and never negative", left, holds,
        cells.in_rho(balance)))
  return rows, [
      part.claim("If the g of eq. 1 were that of eq. 3, rectified flow's reverse process would "
                 "have a noise variance that is nowhere negative: its least value", least["rf"],
                 above=0.0, source="eq. 1, eq. 3", by="paper"),
      part.claim("With a clock H = (1 + η²)/2 · g² of its own, Langevin noise is forward plus "
                 "reverse noise for every η: how many of the three paths fail",
                 _fails(*(row.leaves for row in rows)), below=1, source="MATH §3")]


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
    apart[name] = read.right - cells.derived(name, cells.process(name, 0.0, "forward"))
    level = printed.LEVELS[name]
    rows.append(Row(
        f"Table 3, forward split of {printed.LABELS[row]}", formulas.math(read.mathml),
        "with τ the Langevin time of eq. 4, which runs while the noise level stays, it is the "
        "forward process of another level", apart[name].subs(x, sp.Symbol("r")),
        f"<math><mi>τ</mi><mo>=</mo><mi>{level.name.replace('sigma', 'σ')}</mi></math>",
        cells.in_rho(apart[name].subs(tau, level))))
  # When the Langevin time starts, at τ = 0: printed noise amplitude over the level's own, less 1.
  noise = apart["ve"].coeff(printed.dw)
  missed = sp.limit(noise, tau, 0) / -noise.subs(tau, 0)
  return rows, [
      part.claim("With τ a Langevin time that starts at 0 (eq. 4), Table 3's VE row starts with "
                 "the noise of its level: relative difference of the amplitudes", missed, near=0.0,
                 tolerance=cells.ROUNDING, source="eq. 4, Table 3", by="paper"),
      part.claim("With τ the noise level itself, the forward cells of VE and rectified flow are "
                 "the library's: how many are not", _fails(*(row.leaves for row in rows)), below=1,
                 source="MATH §11.3")]


def sign(setting: part.Setting):
  """4: after eq. 20 the reverse process is written in the forward time."""
  del setting
  # The reverse process runs against s: dr/ds along it is minus its drift.
  slope = -cells.shortest(cells.derived("rf", cells.reverse("rf", 0.0))).coeff(printed.dt)
  wrong, right = -value - slope, -value + slope
  rows = [Row("after eq. 20", _latex(r"dr=-\mathbf{v}(r,s)\,ds"), "along the reverse process dr/ds "
              "is +𝐯: it runs the same curve as the forward one, the other way", wrong,
              _latex(r"dr=-\mathbf{v}(r,s)\,ds^{\prime}"), right)]
  return rows, [
      part.claim("dr = −v ds is the reverse process: its slope dr/ds minus the library's, in units "
                 "of v", wrong / value, near=0.0, tolerance=cells.ROUNDING, source="after eq. 20",
                 by="paper"),
      part.claim("dr = −v ds′ with ds′ = −ds is: the same difference", right / value, near=0.0,
                 tolerance=cells.ROUNDING, source="Table 4")]


def independence(setting: part.Setting):
  """5: a Langevin run of finite time gives a correlated sample."""
  del setting
  n = sp.Symbol("n", positive=True)
  # What the library's step of size δ on N(0, v) keeps of the state; n of them take the time τ.
  kept = symbolic.of(lambda q: langevin.unadjusted(0.0, q[0], -q[0] / q[1], q[2]) / q[0],
                     (x, variance, delta), at={x: 0.3, variance: 1.0, delta: 0.1})
  correlation = sp.limit(sp.simplify(kept).subs(delta, tau / n) ** n, n, sp.oo)
  last = sp.limit(correlation, tau, sp.oo)
  rows = [Row("§2", "a sample of p becomes “a new, independent sample”", "on N(0, v) the samples "
              "before and after a Langevin time τ are correlated", correlation,
              "one law at every τ; independent only as τ → ∞", last)]
  return rows, [
      part.claim("A Langevin run as long as the variance of a Gaussian target makes its sample "
                 "independent of the one it started from: their correlation",
                 correlation.subs(tau, variance), near=0.0, tolerance=cells.ROUNDING, source="§2",
                 by="paper"),
      part.claim("It becomes independent as the run grows without end: the limit of the "
                 "correlation", last, near=0.0, tolerance=0.0, source="MATH §11.5")]


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
        reverse - cells.derived(name, cells.process(name, 1.0, "reverse"))]
    rows.append(Row(
        f"Table 3, {printed.LABELS[row]}", "no row", "how SDE and ODE are unified is answered for "
        "VP alone", "a row", _cell_of(3, row, 2), sum(cells.in_rho(r) for r in residuals[-3:])))
  given = {row[:2] for row in printed.TABLES[3].rows if printed.eta(row)}
  return rows, [
      part.claim("Table 3 has an SDE row for each of the three paths: how many it lacks",
                 len(printed.NAMES) - len(given), below=1, source="Table 3", by="paper"),
      part.claim("In the rows it lacks Langevin is forward plus reverse, and the reverse is the "
                 "library's at η = 1: how many equalities fail", _fails(*residuals), below=1,
                 source="MATH §3")]


def ends(setting: part.Setting):
  """7: the tables' coefficients at the ends of their domains."""
  del setting
  rf = printed.PATHS["rf"]
  below_1 = lambda e: sp.limit(sp.together(e), s, 1, "-")
  drift = cells.derived("rf", lambda q: rf.drift(q.t))
  noise = cells.derived("rf", lambda q: rf.diffusion(q.t) ** 2)
  factor = lambda given, wanted: cells.shortest(cells.derived(
      given, lambda q: cells.crossed(given, wanted)(q._replace(x=0.0 * q.x))) / value)
  table_5 = [("VE noise to VP score, σ → 0", ("ve", 1), sp.limit(factor("ve", "vp"), sigma, 0)),
             ("RF velocity to VP score, s → 0", ("rf", 1), sp.limit(factor("rf", "vp"), s, 0)),
             ("VP score to RF velocity, α → 0", ("vp", 3), sp.limit(factor("vp", "rf"), a, 0))]
  grows = sp.limit(cells.derived("ve", lambda q: printed.PATHS["ve"].sigma(q.t)), sigma, sp.oo)
  # On N(m, v) the score is known, and with it what v = −(s·s_r + r)/(1 − s) tends to.
  m, r = sp.symbols("m r", real=True)
  score = -(r - (1 - s) * m) / ((1 - s) ** 2 * variance + s**2)
  top, bottom = below_1(s * score + r), below_1(1 - s)
  limit = below_1(cells.derived("rf", cells.predicted("rf", "score", "velocity", "score")).subs(
      {printed.score: score, x: r}))
  by_denoiser = symbolic.of(lambda q: predictions.convert(
      q[0], q[1], 1.0, rf, source="x0", target="velocity"), (m, r), at={m: 0.2, r: 0.3})
  weights = lambda *numbers: [float(w) for w in splitting.weights(
      *(jnp.asarray(number) for number in numbers))]
  first, last = weights(0.0, 1.0, 0.1, 0.9, jnp.inf), weights(0.9, 0.1, 1.0, 0.0, jnp.inf)
  frames = [float(v) for ell in (-jnp.inf, jnp.inf) for v in predictions.unit_frame(ell)[:2]]
  said = lambda numbers: ", ".join(
      f"{n} = {part.number(v)}" for n, v in zip("abc", numbers, strict=True))
  largest = lambda numbers: f"≤ {part.number(max(map(abs, numbers)))}"
  step = "x′ = a x + b D + c ξ at η = 1"
  differs = sp.simplify(limit - by_denoiser)
  rows = [
      Row("Table 1, drift of rectified flow, s → 1", _latex(r"-\frac{1}{1-s}"), "it diverges",
          below_1(drift), f"the library's step from s = 1 to .9, {step}: {said(first)}",
          largest(first)),
      Row("Table 1, g² of rectified flow, s → 1", _latex(r"\frac{2s}{1-s}"), "it diverges",
          below_1(noise), f"the library's step from s = .1 to 0, {step}: {said(last)}",
          largest(last)),
      Row("Table 4, velocity at s = 1", _cell_of(4, "rf-ode", 2),
          "numerator and denominator vanish", f"{top}/{bottom}", by_denoiser, differs),
      *(Row(f"Table 5, {where}", _cell_of(5, *which), "the factor of the prediction diverges", at,
            "the frame of networks, α² + σ² = 1, at both ends: (α, σ) = " + " and ".join(
                f"({part.number(u)}, {part.number(w)})" for u, w in (frames[:2], frames[2:])),
            largest(frames)) for where, which, at in table_5),
      Row("§3.1 and eq. 14, VE", "forward processes converge to a fixed Gaussian",
          "the deviation of VE's law grows without end", grows,
          "at unit scale z/√(1 + σ²) it converges, to N(0, 1): (α, σ) = "
          f"({part.number(frames[0])}, {part.number(frames[1])})", largest(frames[:2]))]
  diverging = [v for v in (below_1(drift), below_1(noise), *(at for *_, at in table_5)) if not v.is_finite]
  return rows, [
      part.claim("The coefficients of Tables 1 and 5 are finite on their closed domains: how many "
                 "that diverge were found", len(diverging), below=1, source="Tables 1 and 5",
                 by="paper"),
      part.claim("What the library computes with at both ends, the numbers of its step and the "
                 "frame of its networks, is finite: how many are not",
                 sum(not np.isfinite(v) for v in (*first, *last, *frames)), below=1,
                 source="MATH §1, §4"),
      part.claim("At pure noise the velocity tends to r − E[x₀], which the library says from D "
                 "there: how many of such limits differ", _fails(differs), below=1,
                 source="MATH §4")]


def prior(setting: part.Setting):
  """8: at a finite end the prior term KL(p_T‖q_T), dropped from eq. 14, is not 0."""
  grid = laws.nodes(setting.density.line)

  def term(path, t, spread):
    """KL of the diffused density, of moments 0 and 1, from N(0, spread²) at unit scale, nats."""
    normal = jnp.exp(-0.5 * (grid / spread) ** 2) / (spread * jnp.sqrt(2.0 * jnp.pi))
    return laws.kl(setting.density.line, path.half_log_snr(t), laws.fresh(grid, normal))

  vp, ve = printed.PATHS["vp"], printed.PATHS["ve"]
  sigma_max = ve.t_max
  # VE's prior N(0, σ²) has the deviation σ/√(1 + σ²) at unit scale; with the data's moments, 1.
  plain = term(ve, sigma_max, float(predictions.unit_frame(ve.half_log_snr(sigma_max)).sigma))
  matched = term(ve, sigma_max, 1.0)
  early, late = term(vp, 0.1 * vp.t_max, 1.0), term(vp, vp.t_max, 1.0)
  gaussian = (1 / sigma**2 - sp.log(1 + 1 / sigma**2)) / 2
  least = float(gaussian.subs(sigma, sigma_max))
  name = f"on the density {setting.density.name}"
  rows = [
      Row("eq. 14, VP", "KL(p_∞‖q_∞) = 0", f"runs end at a finite T: {name}, nats at T = "
          f"{part.number(0.1 * vp.t_max)}", part.number(early), f"nats at the library's T = "
          f"{part.number(vp.t_max)}", part.number(late)),
      Row("eq. 14, VE", "KL(p_∞‖q_∞) = 0", f"{name}, nats at σ_max = {part.number(sigma_max)}",
          part.number(plain), "nats of the prior with the data's moments, N(αm, α²S + σ²)",
          part.number(matched)),
      Row("eq. 14, VE on N(0, 1)", "0", "the term in closed form", gaussian,
          "it falls as 1/(4σ⁴): limit of term · 4σ⁴ − 1",
          sp.limit(gaussian * 4 * sigma**4 - 1, sigma, sp.oo))]
  rounding = len(grid) * float(np.finfo(float).eps) / least
  return rows, [
      part.claim("At VE's own σ_max the prior term that eq. 14 drops is 0 nats", plain, near=0.0,
                 tolerance=float(np.finfo(float).eps), source="eq. 14", by="paper"),
      part.claim("It is at least that of a Gaussian of the same variance, known in closed form: "
                 "relative excess", plain / least - 1.0, above=-rounding, source="MATH §8"),
      part.claim("A prior with the data's mean and variance lowers it: the ratio of the two terms",
                 matched / plain, below=1.0, source="MATH §6")]


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
      part.claim("The exponential turns a product into a sum: h(E₁E₂) − h(E₁) − h(E₂) at "
                 "β = E₁ = E₂ = 1", turned.subs({first: 1, second: 1, beta: 1}), near=0.0,
                 tolerance=cells.ROUNDING, source="A.1, step 3", by="paper"),
      part.claim("It turns a sum into a product and alone has one f′/f for all energies, and the "
                 "logarithm a product into a sum: how many of the three fail",
                 sum(e != 0 for e in (product, shape, logarithm)), below=1, source="MATH §11.9"),
      part.claim("exp(−E) is stationary under dx = −E′ dt + √2 dW for every E: its ∂p/∂t",
                 flow(sp.Integer(1)), near=0.0, tolerance=0.0, source="A.1, A.2")]


def towards_the_end() -> tuple[dict[str, Any], str]:
  """Rectified flow near pure noise, and the numbers of STEP over a tenth of the time from there."""
  rf = printed.PATHS["rf"]
  left = np.geomspace(1e-4, 0.9, 80)
  t = jnp.asarray(1.0 - left)
  there = 0.9 * t
  budget = rf.half_log_snr(there) - rf.half_log_snr(t)
  numbers = splitting.weights(rf.alpha(t), rf.sigma(t), rf.alpha(there), rf.sigma(there), budget)
  caption = (
      "Rectified flow towards its noisy end. Left: the drift f and the noise g² of the forward SDE "
      "of Table 1, and the factor of the state in Table 4's velocity, −1/(1 − s), grow without "
      "bound as s → 1. Right: the three numbers of the finite step x′ = a x + b D + c ξ from s to "
      "s′ = 0.9 s at η = 1, with which the library samples, stay between 0 and 1.")
  return {"left": left, "f": np.abs(np.asarray(rf.drift(t))),
          "g_squared": np.asarray(rf.diffusion(t)) ** 2,
          **dict(zip("abc", numbers, strict=True))}, caption
