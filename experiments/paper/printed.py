r"""Tables 1–7 of the paper: every cell as it is printed, and the formulas that the cells mean.

`TABLES` holds the paper's own LaTeX, errors included, under the paper's heads; `MISSING` the two
rows that Table 3 lacks and `CORRECTED` the cells that err (theory.md#errata). Nothing is written
twice: the report shows `math` of a cell, and every comparison, in the report and in the tests,
takes the meanings that are read from it.

Rows are named by their path, vp, ve or rf, with -sde (η = 1) or -ode (η = 0) where they describe a
reverse process. Symbols are the paper's, one for all names of the same thing: `a` is VP's
α_t = e^{−t}, the square of the library's signal scale; `sigma` is VE-Karras' noise level and `s`
rectified flow's; a state is `x` whether the paper calls it x, z or r, and its score is `score`.
"""

import functools
from typing import NamedTuple

from experiments.paper import formulas, symbolic
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
VP_TIME = {a: sp.exp(-t)}

# Names of the noise-level parameter, of the path's own time, and the path in code.
LEVELS = {"vp": a, "ve": sigma, "rf": s}
TIMES = {"vp": t, "ve": sigma, "rf": s}
PATHS = {"vp": paths.vp(), "ve": paths.ve(), "rf": paths.rectified_flow()}
NAMES = tuple(PATHS)
# Table 5: each path's native prediction as a row (x₀ coefficient, ε coefficient), and its name.
ROWS = {"vp": (0, -1 / sp.sqrt(1 - a)), "ve": (0, 1), "rf": (-1, 1)}
ROW_NAMES = {"vp": "score", "ve": "eps", "rf": "velocity"}
NATIVE = {NOISE: -sigma * score, VELOCITY: -(s * score + x) / (1 - s)}

LABELS = {"vp": "VP", "ve": "VE-Karras", "rf": "Rectified flow", "vp-sde": "VP-SDE",
          "vp-ode": "VP-ODE", "ve-ode": "VE-Karras", "rf-ode": "Rectified flow",
          "ve-sde": "VE-Karras, SDE", "rf-sde": "Rectified flow, SDE"}


class Table(NamedTuple):
  """head: one name a column, the first that of the rows. rows: cells, each of LaTeX formulas."""

  title: str
  head: tuple[str, ...]
  rows: dict[str, tuple[tuple[str, ...], ...]]


_FORWARD = {
    "vp": r"x_{t}=\sqrt{\alpha_{t}}\,x_{0}+\sqrt{1-\alpha_{t}}\,\bm{\epsilon}",
    "ve": r"z_{\sigma}=z_{0}+\sigma\,\bm{\epsilon}",
    "rf": r"r_{s}=(1-s)\,r_{0}+s\,\bm{\epsilon}"}
_E = {"vp": r"\mathbb{E}_{\mathbf{x}_{0}\sim p_{0}}\mathbb{E}_{\mathbf{x}_{t}\sim p_{t}"
            r"(\cdot\mid\mathbf{x}_{0})}",
      "ve": r"\mathbb{E}_{\mathbf{z}_{0}\sim p_{0}}\mathbb{E}_{\mathbf{z}_{\sigma}\sim p_{\sigma}"
            r"(\cdot\mid\mathbf{z}_{0})}",
      "rf": r"\mathbb{E}_{\mathbf{r}_{0}\sim p_{0}}\mathbb{E}_{\mathbf{r}_{s}\sim p_{s}"
            r"(\cdot\mid\mathbf{r}_{0})}"}
_ERROR = {
    "vp": _E["vp"] + r"\left\|-\frac{\bm{\epsilon}}{\sqrt{1-\alpha_{t}}}"
          r"-\mathbf{s}_{\theta}(x_{t},t)\right\|^{2}",
    "ve": _E["ve"] + r"\left\|\bm{\epsilon}_{\theta}(z_{\sigma},\sigma)-\bm{\epsilon}\right\|^{2}",
    "rf": _E["rf"] + r"\left\|\bm{\epsilon}-r_{0}-\mathbf{v}_{\theta}(r_{s},s)\right\|^{2}"}

TABLES = {
    1: Table(
        "Table 1. Forward processes", (
            "Model type", "Noise-level parameter", "Forward process", "Forward SDE"), {
            "vp": ((r"\alpha_{t}=e^{-t}",), (_FORWARD["vp"],),
                   (r"dx_{t}=-\tfrac{1}{2}x_{t}\,dt+dW_{t}",)),
            "ve": ((r"\sigma",), (_FORWARD["ve"],),
                   (r"dz_{\sigma}=\sqrt{2\sigma}\,dW_{\sigma}",)),
            "rf": ((r"s",), (_FORWARD["rf"],),
                   (r"dr_{s}=-\frac{r_{s}}{1-s}\,ds+\sqrt{\frac{2s}{1-s}}\,dW_{s}",))}),
    2: Table(
        "Table 2. Conversion of the variables", (
            "Given", "Equivalent VP", "Equivalent VE-Karras", "Equivalent rectified flow"), {
            "vp": (
                (), (r"z_{\sigma}=\dfrac{x_{t}}{\sqrt{\alpha_{t}}}",
                     r"\sigma=\sqrt{\dfrac{1-\alpha_{t}}{\alpha_{t}}}"),
                (r"r_{s}=\dfrac{x_{t}}{\sqrt{\alpha_{t}}+\sqrt{1-\alpha_{t}}}",
                 r"s=\dfrac{\sqrt{1-\alpha_{t}}}{\sqrt{\alpha_{t}}+\sqrt{1-\alpha_{t}}}")),
            "ve": (
                (r"x_{t}=\dfrac{z_{\sigma}}{\sqrt{1+\sigma^{2}}}",
                 r"\alpha_{t}=\dfrac{1}{1+\sigma^{2}}"), (),
                (r"r_{s}=\dfrac{z_{\sigma}}{1+\sigma}", r"s=\dfrac{\sigma}{1+\sigma}")),
            "rf": (
                (r"x_{t}=\dfrac{r_{s}}{\sqrt{(1-s)^{2}+s^{2}}}",
                 r"\alpha_{t}=\dfrac{(1-s)^{2}}{(1-s)^{2}+s^{2}}"),
                (r"z_{\sigma}=\dfrac{r_{s}}{1-s}", r"\sigma=\dfrac{s}{1-s}"), ())}),
    3: Table(
        "Table 3. Langevin split", (
            "Model type", "Langevin dynamics", "Reverse split", "Forward split"), {
            "vp-sde": ((r"dx=\mathbf{s}_{x}\,d\tau+\sqrt{2}\,dW_{\tau}",),
                       (r"dx=\left[\frac{1}{2}x+\mathbf{s}_{x}\right]d\tau+dW_{\tau}",),
                       (r"dx=-\tfrac{1}{2}x\,d\tau+dW_{\tau}",)),
            "vp-ode": ((r"dx=\frac{1}{2}\mathbf{s}_{x}\,d\tau+dW_{\tau}",),
                       (r"dx=\frac{1}{2}\left(x+\mathbf{s}_{x}\right)d\tau",),
                       (r"dx=-\tfrac{1}{2}x\,d\tau+dW_{\tau}",)),
            "ve-ode": ((r"dz=\tau\,\mathbf{s}_{z}\,d\tau+\sqrt{2\tau}\,dW_{\tau}",),
                       (r"dz=\tau\,\mathbf{s}_{z}\,d\tau",),
                       (r"dz=\sqrt{2\tau}\,dW_{\tau}",)),
            "rf-ode": ((r"dr=\frac{\tau}{1+\tau}\mathbf{s}_{r}\,d\tau"
                        r"+\sqrt{\frac{2\tau}{1+\tau}}\,dW_{\tau}",),
                       (r"dr=\frac{\tau\,\mathbf{s}_{r}+r}{1-\tau}d\tau",),
                       (r"dr=-\frac{r}{1-\tau}\,d\tau+\sqrt{\frac{2\tau}{1-\tau}}\,dW_{\tau}",))}),
    4: Table(
        "Table 4. Reverse processes", (
            "Model type", "Reverse process", "Relation to the score", "Reverse time",
            "Its domain"), {
            "vp-sde": (
                (r"d\mathbf{x}_{t^{\prime}}=\left[\frac{1}{2}\mathbf{x}_{t^{\prime}}+\mathbf{s}"
                 r"(\mathbf{x}_{t^{\prime}},T-t^{\prime})\right]dt^{\prime}"
                 r"+d\mathbf{W}_{t^{\prime}}",),
                (r"\mathbf{s}(\mathbf{x},t)=\mathbf{s}_{x}(\mathbf{x},t)",),
                (r"t^{\prime}=T-t",), (r"t^{\prime}\in[0,T]",)),
            "vp-ode": (
                (r"d\mathbf{x}_{t^{\prime}}=\frac{1}{2}\left[\mathbf{x}_{t^{\prime}}+\mathbf{s}"
                 r"(\mathbf{x}_{t^{\prime}},T-t^{\prime})\right]dt^{\prime}",),
                (r"\mathbf{s}(\mathbf{x},t)=\mathbf{s}_{x}(\mathbf{x},t)",),
                (r"t^{\prime}=T-t",), (r"t^{\prime}\in[0,T]",)),
            "ve-ode": (
                (r"d\mathbf{z}_{\sigma^{\prime}}=-\bm{\epsilon}(\mathbf{z}_{\sigma^{\prime}},"
                 r"\Sigma-\sigma^{\prime})\,d\sigma^{\prime}",),
                (r"\bm{\epsilon}(\mathbf{z},\sigma)=-\sigma\mathbf{s}_{z}(\mathbf{z},\sigma)",),
                (r"\sigma^{\prime}=\Sigma-\sigma",), (r"\sigma^{\prime}\in[0,\Sigma]",)),
            "rf-ode": (
                (r"d\mathbf{r}_{s^{\prime}}=-\mathbf{v}(\mathbf{r}_{s^{\prime}},1-s^{\prime})"
                 r"\,ds^{\prime}",),
                (r"\mathbf{v}(\mathbf{r},s)=-\frac{s\,\mathbf{s}_{r}(\mathbf{r},s)+\mathbf{r}}"
                 r"{1-s}",),
                (r"s^{\prime}=1-s",), (r"s^{\prime}\in[0,1]",))}),
    5: Table(
        "Table 5. Conversion of the model's prediction", (
            "Given", "Equivalent VP score", "Equivalent VE noise", "Equivalent RF velocity"), {
            "vp": (
                (), (r"\bm{\epsilon}(z_{\sigma},\sigma)=-\sqrt{1-\alpha_{t}}\,\mathbf{s}_{x}"
                     r"(x_{t},\alpha_{t})",),
                (r"\mathbf{v}(r_{s},s)=-\frac{x_{t}}{\sqrt{\alpha_{t}}}-\frac{1-\alpha_{t}"
                 r"+\sqrt{\alpha_{t}(1-\alpha_{t})}}{\sqrt{\alpha_{t}}}\,\mathbf{s}_{x}"
                 r"(x_{t},\alpha_{t})",)),
            "ve": (
                (r"\mathbf{s}_{x}(x_{t},\alpha_{t})=-\frac{\sqrt{1+\sigma^{2}}}{\sigma}\,"
                 r"\bm{\epsilon}(z_{\sigma},\sigma)",), (),
                (r"\mathbf{v}(r_{s},s)=(1+\sigma)\bm{\epsilon}(z_{\sigma},\sigma)-z_{\sigma}",)),
            "rf": (
                (r"\mathbf{s}_{x}(x_{t},\alpha_{t})=-\frac{\sqrt{(1-s)^{2}+s^{2}}}{s}\left(r_{s}"
                 r"+(1-s)\mathbf{v}(r_{s},s)\right)",),
                (r"\bm{\epsilon}(z_{\sigma},\sigma)=r_{s}+(1-s)\mathbf{v}(r_{s},s)",), ())}),
    6: Table(
        "Table 6. Training targets and losses", (
            "Model type", "Noise–state relation", "Network output", "Its score",
            "∇ log p(xₜ | x₀)", "Loss"), {
            "vp": ((_FORWARD["vp"],), (r"\mathbf{s}_{\theta}(x_{t},t)",),
                   (r"\mathbf{s}_{\theta}(x_{t},t)",),
                   (r"-\frac{\bm{\epsilon}}{\sqrt{1-\alpha_{t}}}",),
                   (r"\frac{1}{2}" + _ERROR["vp"],)),
            "ve": ((_FORWARD["ve"],), (r"\bm{\epsilon}_{\theta}(z_{\sigma},\sigma)",),
                   (r"-\frac{\bm{\epsilon}_{\theta}(z_{\sigma},\sigma)}{\sigma}",),
                   (r"-\frac{\bm{\epsilon}}{\sigma}",), (r"\frac{1}{\sigma}" + _ERROR["ve"],)),
            "rf": ((_FORWARD["rf"],), (r"\mathbf{v}_{\theta}(r_{s},s)",),
                   (r"\frac{-\mathbf{v}_{\theta}(r_{s},s)(1-s)-r_{s}}{s}",),
                   (r"-\frac{\bm{\epsilon}}{s}",), (r"\frac{1-s}{s}" + _ERROR["rf"],))}),
    7: Table(
        "Table 7. Summary", (
            "Model type", "Forward process", "Reverse process", "Loss, up to a weight"), {
            "vp-sde": ((_FORWARD["vp"],),
                       (r"dx_{t^{\prime}}=\left[\frac{1}{2}x_{t^{\prime}}+\mathbf{s}"
                        r"(x_{t^{\prime}},T-t^{\prime})\right]dt^{\prime}+dW_{t^{\prime}}",),
                       (_ERROR["vp"],)),
            "vp-ode": ((_FORWARD["vp"],),
                       (r"dx_{t^{\prime}}=\frac{1}{2}\left[x_{t^{\prime}}+\mathbf{s}"
                        r"(x_{t^{\prime}},T-t^{\prime})\right]dt^{\prime}",), (_ERROR["vp"],)),
            "ve-ode": ((_FORWARD["ve"],),
                       (r"dz_{\sigma^{\prime}}=-\bm{\epsilon}(z_{\sigma^{\prime}},"
                        r"\Sigma-\sigma^{\prime})\,d\sigma^{\prime}",), (_ERROR["ve"],)),
            "rf-ode": ((_FORWARD["rf"],),
                       (r"dr_{s^{\prime}}=-\mathbf{v}(r_{s^{\prime}},1-s^{\prime})\,ds^{\prime}",),
                       (_ERROR["rf"],))}),
}

# Table 3's rows of η = 1 for VE and rectified flow, which the paper leaves out (theory.md#split).
MISSING = {
    "ve-sde": ((r"dz=2\tau\,\mathbf{s}_{z}\,d\tau+\sqrt{4\tau}\,dW_{\tau}",),
               (r"dz=2\tau\,\mathbf{s}_{z}\,d\tau+\sqrt{2\tau}\,dW_{\tau}",),
               (r"dz=\sqrt{2\tau}\,dW_{\tau}",)),
    "rf-sde": ((r"dr=\frac{2\tau}{1-\tau}\mathbf{s}_{r}\,d\tau+\sqrt{\frac{4\tau}{1-\tau}}"
                r"\,dW_{\tau}",),
               (r"dr=\frac{r+2\tau\,\mathbf{s}_{r}}{1-\tau}d\tau+\sqrt{\frac{2\tau}{1-\tau}}"
                r"\,dW_{\tau}",),
               (r"dr=-\frac{r}{1-\tau}\,d\tau+\sqrt{\frac{2\tau}{1-\tau}}\,dW_{\tau}",))}

# Cells that err, (table, row, column) → what they must be: the split adds up with 1 − τ only.
CORRECTED = {
    (3, "rf-ode", 1): (r"dr=\frac{\tau}{1-\tau}\mathbf{s}_{r}\,d\tau"
                       r"+\sqrt{\frac{2\tau}{1-\tau}}\,dW_{\tau}",)}

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
  """What the names of a row mean. In Table 3 τ is the noise level itself (erratum 3)."""
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
  """The right-hand side of a formula of a cell, corrected where the paper errs."""
  return cell(table, row, column, corrected=True)[which].right


def eta(row: str) -> int:
  """The stochasticity of a row: -sde rows are η = 1."""
  return int(row.endswith("sde"))


def _read_rows():
  """The tables as formulas by row, for comparisons with the theory."""
  noise = lambda e: e.coeff(dw)
  drift = lambda e: e.coeff(dt)
  # Table 1: signal scale, noise standard deviation; f and g of dx = f x dt + g dW.
  states = {n: meaning(1, n, 2) for n in NAMES}
  forward = {n: (e.coeff(x_0), e.coeff(eps)) for n, e in states.items()}
  sdes = {n: meaning(1, n, 3) for n in NAMES}
  table_1 = {n: (drift(e).coeff(x), noise(e)) for n, e in sdes.items()}
  # Tables 2 and 5: (given, wanted) → the state per unit of the given one, and the noise level; the
  # wanted prediction in the given path's own state `x` and prediction `value`.
  pairs = [(g, w) for g in NAMES for w in NAMES if g != w]
  column = {name: 1 + i for i, name in enumerate(NAMES)}
  table_2 = {(g, w): (meaning(2, g, column[w]).coeff(x), meaning(2, g, column[w], 1))
             for g, w in pairs}
  table_5 = {(g, w): meaning(5, g, column[w]) for g, w in pairs}
  # Table 3, with what it lacks: path, η, the clock H of dx = H s dτ + √(2H) dW, and drift and
  # noise amplitude of the reverse split.
  table_3 = {row: (row[:2], eta(row), drift(meaning(3, row, 1)).coeff(score),
                   drift(meaning(3, row, 2)), noise(meaning(3, row, 2)))
             for row in (*TABLES[3].rows, *MISSING)}
  # Table 4: drift and noise in the reverse clock, noise and velocity replaced by `NATIVE`.
  table_4 = {row: (row[:2], eta(row), drift(meaning(4, row, 1)), noise(meaning(4, row, 1)))
             for row in TABLES[4].rows}
  # Table 6: the network's score in terms of its output, the score of p(x_t | x₀), and the loss.
  table_6 = {n: tuple(meaning(6, n, i) for i in (3, 4, 5)) for n in NAMES}
  # Table 7: forward process, reverse drift, η, loss up to a weight.
  table_7 = {row: (meaning(7, row, 1), drift(meaning(7, row, 2)), eta(row), meaning(7, row, 3))
             for row in TABLES[7].rows}
  return forward, states, table_1, table_2, table_3, table_4, table_5, table_6, table_7


FORWARD, STATE, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7 = _read_rows()
