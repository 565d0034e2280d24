"""Formulas derived from the code, formulas read from the paper's notation, and their comparison."""

import pathlib
import re
import sys
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp

from experiments.paper.tables import (
    cells,
    claims,
    comparison,
    formulas,
    latex,
    limits,
    measure,
    printed,
    symbolic,
)
from experiments.report import page
from langevin_jax import paths, splitting

t = sp.Symbol("t", positive=True)
AT = {t: 0.4}


@pytest.mark.parametrize(("function", "formula"), [
    (paths.vp().sigma, sp.sqrt(1 - sp.exp(-t))),
    (paths.vp().sigma_dot, sp.exp(-t) / (2 * sp.sqrt(1 - sp.exp(-t)))),
    (paths.cosine().drift, -sp.pi / 2 * sp.tan(sp.pi * t / 2)),
    (paths.linear_vp(beta_min=0.1, beta_max=20.0).drift,
     -(sp.Rational(1, 10) + sp.Rational(199, 10) * t) / 2),
    (paths.from_coefficients(jnp.cos, lambda t: jnp.sin(t) ** 2, t_min=0.0, t_max=1.5).drift,
     -sp.tan(t)),
    (lambda t: jnp.maximum(t, 0.3) + jnp.abs(t - 1.0) + jnp.where(t < 0.5, 1.0, t), t + 1 - t + 1),
    (lambda t: jax.lax.rsqrt(jnp.cosh(t) ** 2 - jnp.sinh(t) ** 2) + jnp.atan2(0.0, t), 1)])
def test_code_as_a_formula(function, formula):
  assert sp.simplify(symbolic.of(function, t, AT) - formula) == 0


def test_a_formula_of_every_stochasticity():
  """η stays a symbol: one row for all of Table 3's."""
  eta, x, score = sp.symbols("eta x score", positive=True)
  drift = symbolic.of(
      lambda q: splitting.split(paths.rectified_flow(), q[3]).reverse.drift(*q[:3]),
      (x, t, score, eta), at={**AT, eta: 0.5, x: 1.0, score: 1.0})
  assert sp.simplify(drift - (x + (1 + eta**2) * t * score) / (1 - t)) == 0


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
    symbolic.of(function, t, AT)


def test_without_sympy(monkeypatch):
  monkeypatch.setitem(sys.modules, "sympy", None)
  with pytest.raises(ValueError, match=re.escape("pip install 'langevin_jax[paper]'")):
    symbolic.required()


@pytest.mark.parametrize("latex", [r"\sum x", "x+", r"\frac{1}{2", "x?", r"\left(x]"])
def test_notation_that_is_not_understood(latex):
  with pytest.raises(ValueError, match="formula"):
    formulas.read(latex, {})


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
  for number in printed.TABLES:
    shown = claims.context({"tables": {}})["as_printed"][number]
    assert len(mathml(page.table(shown))) == sum(
        len(cell) for row in printed.TABLES[number].rows.values() for cell in row)
  text = "".join(mathml(page.math(printed.cell(3, "rf-ode", 1)[0].latex))[0].itertext())
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


@pytest.fixture(scope="module")
def table_3():
  with jax.enable_x64(True):
    return comparison.compared(cells.cells(3), seed=0, n=8)


def test_one_cell_of_table_3_fails(table_3):
  failing = [c for c in table_3 if not c.agrees]
  assert [(c.cell.row, c.cell.column, c.cell.corrected) for c in failing] == [("rf-ode", 1, False)]
  assert failing[0].difference > 0.1
  mended = next(c for c in table_3 if c.cell.corrected and c.cell.row == "rf-ode")
  assert mended.agrees
  # Both SDE rows that the paper lacks are there, whole.
  assert sum(c.cell.row in printed.MISSING for c in table_3) == 6


def test_each_cell_is_shown_with_its_verdict_and_residual(table_3):
  head, *rows = claims._beside(3, [measure._row(one) for one in table_3])
  assert [len(row) for row in rows] == [len(head)] * len(table_3)
  assert [row[0] for row in rows] == ["✓" if c.agrees else "✗" for c in table_3]
  residuals = [row[head.index("Residual")] for row in rows]
  assert [residual == "0" for residual in residuals] == [c.agrees for c in table_3]


@pytest.mark.parametrize("wrong", [
    r"dx=-\tfrac{1}{2}x\,d\tau-dW_{\tau}", r"dx=\tfrac{1}{2}x\,d\tau+dW_{\tau}",
    r"dx=-\tfrac{1}{2}x\,d\tau+\sqrt{2}dW_{\tau}"])
def test_a_wrong_cell_would_be_noticed(wrong, x64):
  cell = cells.Cell(3, "vp-ode", 3, formulas.read(wrong, printed.names(3, "vp-ode")),
                    cells.process("vp", 0.0, "forward"))
  found = comparison.compared([cell], seed=0, n=8)[0]
  assert found.residual != 0
  assert found.difference > comparison.ROUNDING
  assert not found.agrees


def test_wrong_code_would_be_noticed(x64):
  """Numbers of another stochasticity than the row's."""
  cell = next(c for c in cells.cells(3) if (c.row, c.column) == ("ve-ode", 2))
  found = comparison.compared([cell._replace(library=cells.process("ve", 0.5, "reverse"))], 0, 8)[0]
  assert not found.agrees


def test_a_langevin_run_leaves_a_correlation(x64):
  """e^{−τ/v} from the library's own step on N(0, v), against its finite product."""
  found = limits.independence(None)
  correlation = limits.correlation()
  assert found["residual"] == limits.shown(correlation)
  assert float(correlation.subs({limits.tau: 2.0, limits.variance: 4.0})) == pytest.approx(
      (1.0 - 2.0 / 4.0 / 10**6) ** 10**6, rel=1e-6)
  assert found["wrong"] == pytest.approx(np.exp(-1.0)) and found["right"] == 0.0


def test_a_clock_of_the_forward_noise_is_refused():
  """Erratum 2 in code: with the g of eq. 3 in eq. 1 the reverse noise variance is negative."""
  path = paths.rectified_flow()
  with pytest.raises(ValueError, match="reverse noise variance"):
    splitting.split(path, clock=path.diffusion)
