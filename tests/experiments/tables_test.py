"""Tables 1–7 of the paper proved with sympy, and what compares them with the code.

The formulas are read from the paper's own notation in `experiments/paper/tables/printed.toml`;
`printed.py` says what the symbols mean. Here they are derived from α and σ alone. That the code
computes each of them is what the report's part `tables` measures: `paper_test.py`.
"""

import itertools
import pathlib
import re
import sys
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp

from experiments.paper.tables import cells, claims, comparison, formulas, latex, limits, symbolic
from experiments.paper.tables import printed as paper
from experiments.paper.tables.printed import a, dt, dw, eps, s, score, sigma, t, value, x, x_0
from experiments.report import page
from langevin_jax import paths, splitting

TIMES = {"vp": t, "ve": sigma, "rf": s}
# Each path's native prediction as a row (x₀ coefficient, ε coefficient), and by the score.
ROWS = {"vp": (0, -1 / sp.sqrt(1 - a)), "ve": (0, 1), "rf": (-1, 1)}
NATIVE = {paper.NOISE: -sigma * score, paper.VELOCITY: -(s * score + x) / (1 - s)}
STATE = {name: paper.meaning(1, name, 2) for name in paper.NAMES}
FORWARD = {name: (state.coeff(x_0), state.coeff(eps)) for name, state in STATE.items()}
PAIRS = tuple(itertools.permutations(paper.NAMES, 2))
EPS_HAT = sp.symbols("epsilon_hat", real=True)


def zero(expression) -> bool:
  return comparison.in_rho(expression) == 0


def forward_sde(name: str):
  """(f, g²) by matching moments of x_t given x₀: ṁ = f m and d(σ²)/dt = 2 f σ² + g²."""
  time = TIMES[name]
  scale, noise = (sp.sympify(e).subs(a, sp.exp(-t)) for e in FORWARD[name])
  f = sp.diff(scale, time) / scale
  g_squared = sp.diff(noise**2, time) - 2 * f * noise**2
  return tuple(e.subs(t, -sp.log(a)) for e in (f, g_squared))


def solved(name: str):
  """(x₀, ε) of the state `x` and the native prediction `value`: the 2×2 solve."""
  unknown = sp.symbols("u_0 u_1")
  (scale, noise), (row_0, row_1) = FORWARD[name], ROWS[name]
  solution = sp.solve([scale * unknown[0] + noise * unknown[1] - x,
                       row_0 * unknown[0] + row_1 * unknown[1] - value], unknown, dict=True)[0]
  return solution[unknown[0]], solution[unknown[1]]


@pytest.mark.parametrize("name", paper.NAMES)
def test_table_1_follows_from_alpha_and_sigma(name):
  f, g_squared = forward_sde(name)
  sde = paper.meaning(1, name, 3)
  assert zero(f - sde.coeff(dt).coeff(x)) and zero(g_squared - sde.coeff(dw) ** 2)


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_table_2_is_one_noise_to_signal_ratio(given, wanted):
  """The wanted state is (α_b/α_a) x, at the level where σ_b/α_b = σ_a/α_a."""
  column = 1 + paper.NAMES.index(wanted)
  (alpha_a, sigma_a), (alpha_b, sigma_b) = FORWARD[given], FORWARD[wanted]
  there = {paper.LEVELS[wanted]: paper.meaning(2, given, column, 1)}
  assert zero((sigma_b / alpha_b).subs(there) - sigma_a / alpha_a)
  assert zero(sp.sympify(alpha_b).subs(there) / alpha_a
              - paper.meaning(2, given, column).coeff(x))


@pytest.mark.parametrize("row", (*paper.TABLES[3].rows, *paper.MISSING))
def test_table_3_langevin_is_forward_plus_reverse(row):
  f, g_squared = forward_sde(row[:2])
  langevin, reverse = (paper.meaning(3, row, column) for column in (1, 2))
  clock, noise = langevin.coeff(dt).coeff(score), reverse.coeff(dw)
  assert zero(f * x + reverse.coeff(dt) - clock * score)
  assert zero(g_squared + noise**2 - 2 * clock)
  # The clock that the stochasticity η stands for: 2H = (1 + η²) g².
  assert zero((1 + paper.eta(row) ** 2) * g_squared - 2 * clock)


def test_table_3_erratum():
  """The printed Langevin cell of rectified flow, τ/(1 + τ), is not the sum of its own row."""
  f, g_squared = forward_sde("rf")
  reverse, printed = paper.meaning(3, "rf-ode", 2), paper.cell(3, "rf-ode", 1)[0].right
  assert zero(printed.coeff(dt) - s / (1 + s) * score)
  assert not zero(f * x + reverse.coeff(dt) - printed.coeff(dt))
  assert not zero(g_squared + reverse.coeff(dw) ** 2 - printed.coeff(dw) ** 2)


@pytest.mark.parametrize("row", paper.TABLES[4].rows)
def test_table_4_is_langevin_minus_forward(row):
  """−f x + (1 + η²)/2 g² s and η g, once noise and velocity are written with the score."""
  f, g_squared = forward_sde(row[:2])
  reverse, eta = paper.meaning(4, row, 1), paper.eta(row)
  wanted = -f * x + sp.Rational(1 + eta**2, 2) * g_squared * score
  assert zero(reverse.coeff(dt).subs(NATIVE) - wanted)
  assert zero(reverse.coeff(dw) ** 2 - eta**2 * g_squared)


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_table_5_is_one_linear_map(given, wanted):
  """Solve the given path's 2×2 system for (x₀, ε), read the wanted path's row at the same ρ."""
  (data, noise), (row_0, row_1) = solved(given), ROWS[wanted]
  derived = sp.sympify(row_0).subs(paper.LEVEL) * data + sp.sympify(row_1).subs(
      paper.LEVEL) * noise
  assert zero(derived - paper.meaning(5, given, 1 + paper.NAMES.index(wanted)))


@pytest.mark.parametrize("name", paper.NAMES)
def test_table_6_losses_are_all_one(name):
  """L dt = ½ g² ‖∇log p(x_t|x₀) − s_θ‖² dt = ‖ε − ε̂‖² |dℓ|, and the printed loss is that.

  The network's score is the score row from the 2×2 solve, the true one is −ε/σ_t.
  """
  network_score, true_score, loss = (paper.meaning(6, name, i) for i in (3, 4, 5))
  (scale, noise), (row_0, row_1), state = FORWARD[name], ROWS[name], STATE[name]
  assert zero(network_score + solved(name)[1] / noise) and zero(true_score + eps / noise)
  half_log_snr = sp.log(scale / noise).subs(a, sp.exp(-t))
  speed = -sp.diff(half_log_snr, TIMES[name]).subs(t, -sp.log(a))
  # What the network says when its noise is ε̂, at the same state.
  output = row_0 * (state - noise * EPS_HAT) / scale + row_1 * EPS_HAT
  at_output, common = {value: output, x: state}, (eps - EPS_HAT) ** 2 * speed
  assert zero(loss.subs(at_output) - common)
  g_squared = forward_sde(name)[1]
  assert zero(g_squared / 2 * (true_score - network_score.subs(at_output)) ** 2 - common)


@pytest.mark.parametrize("row", paper.TABLES[7].rows)
def test_table_7_agrees_with_tables_1_4_and_6(row):
  name = row[:2]
  state, reverse, loss = (paper.meaning(7, row, column) for column in (1, 2, 3))
  assert zero(state - STATE[name])
  assert zero((reverse - paper.meaning(4, row, 1)).coeff(dt).subs(NATIVE))
  # Up to a weight of the noise level alone.
  assert sp.simplify(paper.meaning(6, name, 5) / loss).free_symbols <= {paper.LEVELS[name]}


# Code as formulas.


@pytest.mark.parametrize(("function", "formula"), [
    (paths.vp().sigma_dot, sp.exp(-t) / (2 * sp.sqrt(1 - sp.exp(-t)))),
    (paths.cosine().drift, -sp.pi / 2 * sp.tan(sp.pi * t / 2)),
    (paths.linear_vp(beta_min=0.1, beta_max=20.0).drift,
     -(sp.Rational(1, 10) + sp.Rational(199, 10) * t) / 2),
    (paths.from_coefficients(jnp.cos, lambda t: jnp.sin(t) ** 2, t_min=0.0, t_max=1.5).drift,
     -sp.tan(t)),
    (lambda t: jnp.maximum(t, 0.3) + jnp.abs(t - 1.0) + jnp.where(t < 0.5, 1.0, t), t + 1 - t + 1),
    (lambda t: jax.lax.rsqrt(jnp.cosh(t) ** 2 - jnp.sinh(t) ** 2) + jnp.atan2(0.0, t), 1)])
def test_code_as_a_formula(function, formula):
  assert sp.simplify(symbolic.of(function, t, {t: 0.4}) - formula) == 0


def test_a_formula_of_every_stochasticity():
  """η stays a symbol: one row for all of Table 3's."""
  eta, time = sp.symbols("eta time", positive=True)
  drift = symbolic.of(
      lambda q: splitting.split(paths.rectified_flow(), q[3]).reverse.drift(*q[:3]),
      (x, time, score, eta), at={time: 0.4, eta: 0.5, x: 1.0, score: 1.0})
  assert sp.simplify(drift - (x + (1 + eta**2) * time * score) / (1 - time)) == 0


def test_constants_are_exact():
  assert symbolic.exact(0.002) == sp.Rational(1, 500)
  assert symbolic.exact(np.float64(0.75 * np.pi)) == 3 * sp.pi / 4
  assert symbolic.exact(-np.inf) == -sp.oo
  assert float(symbolic.exact(0.1234567890123)) == 0.1234567890123


@pytest.mark.parametrize(("function", "message"), [
    (jax.lax.digamma, "'digamma' has no formula"),
    (lambda t: jnp.sum(jnp.stack([t, t])), "array of shape \\(2,\\)")])
def test_what_has_no_formula_is_named(function, message):
  with pytest.raises(ValueError, match=message):
    symbolic.of(function, t, {t: 0.4})


def test_without_sympy(monkeypatch):
  monkeypatch.setitem(sys.modules, "sympy", None)
  with pytest.raises(ValueError, match=re.escape("pip install 'langevin_jax[paper]'")):
    symbolic.required()


# The paper's notation, read and written.


@pytest.mark.parametrize("text", [r"\sum x", "x+", r"\frac{1}{2", "x?", r"\left(x]"])
def test_notation_that_is_not_understood(text):
  with pytest.raises(ValueError, match="formula"):
    formulas.read(text, {})


def test_notation():
  read = formulas.read(r"dx_{t}=-\tfrac{1}{2}\,x_{t}^{2}\,dt+\sqrt{2\sigma}\,dW_{t}", {"x_t": t})
  dt, dw, sigma = sp.symbols("dt dW_t sigma", real=True)
  assert sp.simplify(read.right - (-t**2 / 2 * dt + sp.sqrt(2 * sigma) * dw)) == 0
  assert read.left == sp.Symbol("dx_t", real=True)
  # A function's arguments do not multiply it, those of a bracket do.
  assert formulas.read(r"\mathbf{v}(r,s)(1-s)", {"*v()": t}).right == t * (
      1 - sp.Symbol("s", real=True))


def mathml(text: str) -> list[ElementTree.Element]:
  """The formulas of a text in Markdown, as elements."""
  whole = re.sub(r' xmlns="[^"]*"', "", page.markup(text, pathlib.Path))
  return list(ElementTree.fromstring(f"<all>{whole}</all>").iter("math"))


def test_every_cell_is_shown_in_order_and_well_formed():
  for number, table in paper.TABLES.items():
    shown = claims.context({"tables": {}})["as_printed"][number]
    assert len(mathml(page.table(shown))) == sum(map(len, itertools.chain(*table.rows.values())))
  text = "".join(mathml(page.math(paper.cell(3, "rf-ode", 1)[0].latex))[0].itertext())
  assert text == "dr=τ1+τ𝐬rdτ+2τ1+τdWτ"
  # A norm, which in a table would end the cell, and a bold ϵ, which browsers draw as a character.
  norm = mathml(page.table([["x"], [page.math(r"\left\|\bm{\epsilon}\right\|")]]))[0]
  assert "".join(norm.itertext()) == "‖𝛜‖"


def test_an_expression_is_written_as_the_paper_would():
  s, x, dt, dw = sp.symbols("s x dt dW", positive=True)
  names, increments = {x: r"\mathbf{r}"}, {dt: r"\tau", dw: "W"}
  drift = latex.shown(sp.sqrt(2 * s) / sp.sqrt(1 - s) * dw - (x + 1) * dt, names, increments)
  assert drift == r"-\left(\mathbf{r} + 1\right)\,d\tau+\sqrt{\frac{2 s}{1 - s}}\,dW"
  assert latex.shown(sp.Integer(0), names, increments) == "0"


# The comparison of both.


@pytest.mark.parametrize(("text", "stochasticity"), [
    (r"dx=-\tfrac{1}{2}x\,d\tau-dW_{\tau}", 0.0), (r"dx=\tfrac{1}{2}x\,d\tau+dW_{\tau}", 0.0),
    (r"dx=-\tfrac{1}{2}x\,d\tau+\sqrt{2}dW_{\tau}", 0.0),
    (paper.cell(3, "vp-ode", 2)[0].latex, 0.5)])
def test_a_wrong_cell_and_wrong_code_would_be_noticed(text, stochasticity, x64):
  part = "reverse" if stochasticity else "forward"
  cell = cells.Cell(3, "vp-ode", 3, formulas.read(text, paper.names(3, "vp-ode")),
                    cells.process("vp", stochasticity, part))
  found = comparison.compared([cell], seed=0, n=8)[0]
  assert found.residual != 0 and found.difference > comparison.ROUNDING and not found.agrees


def test_a_langevin_run_leaves_a_correlation(x64):
  """e^{−τ/v} from the library's own step on N(0, v), against its finite product."""
  found, correlation = limits.independence(None), limits.correlation()
  assert found["residual"] == limits.shown(correlation)
  assert float(correlation.subs({limits.tau: 2.0, limits.variance: 4.0})) == pytest.approx(
      (1.0 - 2.0 / 4.0 / 10**6) ** 10**6, rel=1e-6)
  assert found["wrong"] == pytest.approx(np.exp(-1.0)) and found["right"] == 0.0


def test_a_clock_of_the_forward_noise_is_refused():
  """Erratum 2 in code: with the g of eq. 3 in eq. 1 the reverse noise variance is negative."""
  path = paths.rectified_flow()
  with pytest.raises(ValueError, match="reverse noise variance"):
    splitting.split(path, clock=path.diffusion)
