"""Each cell of Tables 1–7 beside what the library computes, as a formula and as numbers.

A cell names one function of the library; `compared` derives its formula from the code
(`symbolic.of`), subtracts it from the printed one, puts every noise level in terms of one ρ > 0 and
simplifies; and it evaluates both at random interior points in float64.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import formulas, printed, symbolic
from langevin_jax import objectives, paths, predictions, splitting

sp = symbolic.sp


class Quantities(NamedTuple):
  """What a cell may depend on: the path's own time, a state and its score, the value of the path's
  native prediction, data and noise, and increments of time and of Brownian motion; all scalars."""

  t: Any
  x: Any
  score: Any
  value: Any
  x_0: Any
  eps: Any
  dt: Any
  dw: Any


class Cell(NamedTuple):
  """One formula of a cell. library: `Quantities` → what the library says in its place.

  corrected: an erratum's correction, or a row that the paper lacks; not as printed.
  """

  table: int
  row: str
  column: int
  latex: formulas.Formula
  library: Callable[[Quantities], jax.Array]
  corrected: bool = False


class Compared(NamedTuple):
  """computed, residual: sympy, residual = printed − computed. difference: the largest relative one
  at the random points."""

  cell: Cell
  computed: Any
  residual: Any
  difference: float

  @property
  def agrees(self) -> bool:
    return self.residual == 0 and self.difference < ROUNDING


RHO_MIN, RHO_MAX = 0.05, 20.0
# 64 roundings, each magnified at most by 1/(1 − α_t) = (1 + ρ²)/ρ² at one end or 1 + ρ² at the
# other, where the printed formulas subtract nearly equal numbers.
ROUNDING = 64.0 * float(np.finfo(np.float64).eps) * (1.0 + max(RHO_MAX, 1.0 / RHO_MIN) ** 2)


def cells(table: int) -> list[Cell]:
  """A table's cells that hold a formula, in reading order, corrections after what they mend."""
  found = []
  for row in printed.TABLES[table].rows:
    found += _row(table, row)
  if table == 3:
    for row in printed.MISSING:
      found += _row(table, row, corrected=True)
  return found


def _row(table: int, row: str, *, corrected: bool = False) -> list[Cell]:
  found = []
  for column in range(1, len(printed.TABLES[table].head)):
    functions = _library(table, row, column)
    for latex, function in zip(printed.cell(table, row, column), functions, strict=True):
      if function is not None:
        found.append(Cell(table, row, column, latex, function, corrected))
    if (table, row, column) in printed.CORRECTED:
      mended = printed.cell(table, row, column, corrected=True)
      found += [Cell(table, row, column, latex, function, True)
                for latex, function in zip(mended, functions, strict=True)]
  return found


def _library(table: int, row: str, column: int) -> tuple[Callable | None, ...]:
  """The library's function for each formula of a cell; None where a cell only names something."""
  name, eta = row[:2], float(printed.eta(row))
  wanted = printed.NAMES[column - 1] if column <= 3 else ""
  if table in (2, 5) and wanted == name:
    return ()
  return {
      1: lambda: ((level(name), state(name), process(name, 0.0, "forward"))[column - 1],),
      2: lambda: converted(name, wanted),
      3: lambda: (process(name, eta, ("langevin", "reverse", "forward")[column - 1]),),
      4: lambda: ((reverse(name, eta), predicted(name, "score", printed.ROW_NAMES[name], "score"),
                   clocks(name, eta), None)[column - 1],),
      5: lambda: (crossed(name, wanted),),
      6: lambda: ((state(name), None, predicted(name, printed.ROW_NAMES[name], "score", "value"),
                   predicted(name, "eps", "score", "eps"),
                   loss(name, likelihood=True))[column - 1],),
      7: lambda: ((state(name), reverse(name, eta), loss(name, likelihood=False))[column - 1],),
  }[table]()


def level(name: str) -> Callable:
  """The paper's noise-level parameter: α² of VP, σ of VE and rectified flow."""
  path = printed.PATHS[name]
  return (lambda q: path.alpha(q.t) ** 2) if name == "vp" else lambda q: path.sigma(q.t)


def state(name: str) -> Callable:
  return lambda q: paths.corrupt(q.x_0, q.eps, q.t, printed.PATHS[name])


def process(name: str, eta: float, part: str) -> Callable:
  """drift dτ + noise dW of one of the three processes of `splitting.split`."""
  def one(q):
    sde = getattr(splitting.split(printed.PATHS[name], eta), part)
    return sde.drift(q.x, q.t, q.score) * q.dt + sde.diffusion(q.t) * q.dw

  return one


def reverse(name: str, eta: float) -> Callable:
  """The reverse process, its score made from the path's native prediction; VP's is the score."""
  if name == "vp":
    return process(name, eta, "reverse")
  native = predicted(name, printed.ROW_NAMES[name], "score", "value")
  return lambda q: process(name, eta, "reverse")(q._replace(score=native(q)))


def predicted(name: str, source: str, target: str, given: str) -> Callable:
  """`predictions.convert` along one path, of the quantity `given` read as `source`."""
  return lambda q: predictions.convert(
      getattr(q, given), q.x, q.t, printed.PATHS[name], source=source, target=target)


def clocks(name: str, eta: float) -> Callable:
  """dt/dt′: the reverse drift, less its own Langevin part ½η²g² s, over the velocity dx/dt."""
  path = printed.PATHS[name]

  def one(q):
    # At x = s = 1, where no path's velocity vanishes.
    unit = jnp.ones_like(q.x)
    drift = splitting.split(path, eta).reverse.drift(unit, q.t, unit)
    velocity = predictions.convert(unit, unit, q.t, path, source="score", target="velocity")
    return (drift - 0.5 * (eta * path.diffusion(q.t)) ** 2) / velocity

  return one


def converted(given: str, wanted: str) -> tuple[Callable, Callable]:
  """The state and the noise-level parameter that `paths.convert` says."""
  both = lambda q: paths.convert(q.x, q.t, printed.PATHS[given], printed.PATHS[wanted])
  return (lambda q: both(q)[0]), lambda q: level(wanted)(q._replace(t=both(q)[1]))


def crossed(given: str, wanted: str) -> Callable:
  """A prediction taken from path to path through ε, the same number on all of them."""
  def one(q):
    path_a, path_b = printed.PATHS[given], printed.PATHS[wanted]
    noise = predictions.convert(q.value, q.x, q.t, path_a, source=printed.ROW_NAMES[given],
                                target="eps")
    x_b, t_b = paths.convert(q.x, q.t, path_a, path_b)
    return predictions.convert(noise, x_b, t_b, path_b, source="eps",
                               target=printed.ROW_NAMES[wanted])

  return one


def loss(name: str, *, likelihood: bool) -> Callable:
  """`objectives.corrupted_loss` of one example on the row that the path's network predicts.

  With the maximum-likelihood weight it is the loss per unit of the path's own time,
  L = π(ℓ) |dℓ/dt| · w(ℓ) ‖ε − ε̂‖² with w = 1/π; otherwise the error of the row itself, which the
  library has as a weight too: ε as it is, velocity by `flow_matching`, score by (1 + SNR) = 1/σ².
  """
  path = printed.PATHS[name]

  def one(q):
    ell, slope = jax.jvp(path.half_log_snr, (q.t,), (jnp.ones_like(q.t),))
    density = objectives.uniform_time(path)
    plain = {"vp": objectives.p2(density, k=1.0, gamma=-1.0), "ve": objectives.simple(density),
             "rf": objectives.flow_matching(density)}[name]
    weighed, _ = objectives.corrupted_loss(
        lambda x, ells: q.value.reshape(1, 1), q.x_0.reshape(1, 1),
        objectives.Corruption(ell.reshape(1), q.eps.reshape(1, 1)),
        weight=objectives.likelihood(density) if likelihood else plain,
        prediction=printed.ROW_NAMES[name])
    return density.density(ell) * jnp.abs(slope) * weighed if likelihood else weighed

  return one


def compared(found: Sequence[Cell], seed: int, n: int) -> list[Compared]:
  """Formulas and numbers of several cells; n random points with ρ log-uniform on [.05, 20]."""
  points = _points(seed, n)
  batch = {name: Quantities(_times(points["rho"])[name], *(
      points[k] for k in Quantities._fields[1:])) for name in printed.NAMES}
  one = lambda batch: [each.library(batch[each.row[:2]]) for each in found]
  numbers = jax.jit(jax.vmap(one))(batch)
  return [_compare(each, np.asarray(number), points)
          for each, number in zip(found, numbers, strict=True)]


def domain(row: str) -> Compared:
  """Table 4's last column: the printed interval beside the path's times; T and Σ are its t_max."""
  path, interval = printed.PATHS[row[:2]], printed.cell(4, row, 4)[0]
  own = sp.Interval(symbolic.exact(path.t_min), symbolic.exact(path.t_max))
  end = interval.right.end if interval.right.end.is_number else own.end
  residual = sp.Abs(interval.right.start - own.start) + sp.Abs(end - own.end)
  return Compared(Cell(4, row, 4, interval, lambda q: q.t), own, residual, float(residual))


def _points(seed: int, n: int) -> dict[str, np.ndarray]:
  generator = np.random.default_rng(seed)
  points = {"rho": np.exp(generator.uniform(np.log(RHO_MIN), np.log(RHO_MAX), n))}
  return points | {k: generator.standard_normal(n) for k in Quantities._fields[1:]}


def _times(rho):
  """Each path's own time at ρ."""
  return {"vp": np.log1p(rho**2), "ve": rho, "rf": rho / (1.0 + rho)}


def _compare(each: Cell, number: np.ndarray, points: dict[str, np.ndarray]) -> Compared:
  name = each.row[:2]
  meaning = _meant(each)
  computed = derived(name, each.library)
  residual = in_rho(meaning - computed)
  if residual != 0:
    residual = difference(meaning, computed)
  desired, size = _values(meaning, points)
  return Compared(each, computed, residual, float(np.max(np.abs(number - desired) / size)))


def difference(first, second):
  """first − second in the paper's symbols, the coefficients of dτ and dW each by itself."""
  increments = (printed.dt, printed.dw)
  parts = [(first.coeff(i) - second.coeff(i)) * i for i in increments]
  rest = (first - second).subs(dict.fromkeys(increments, 0))
  return sp.Add(*(shortest(part) for part in (*parts, rest)))


@functools.cache
def shortest(expression):
  """The shortest of a few forms of an expression, itself where none is shorter."""
  # 1 − s and 1 − α_t as positive numbers of their own: sympy then knows their roots' signs.
  u, w = sp.symbols("u w", positive=True)
  rest = {1 - printed.s: u, 1 - printed.a: w}
  split = expression.subs(rest)
  whole = {printed.s + u: 1, printed.a + w: 1}
  plain = sp.simplify(split)
  forms = [split, plain, sp.simplify(plain.subs(whole))]
  back = {new: old for old, new in rest.items()}
  return min((form.subs(back) for form in forms), key=sp.count_ops)


def _meant(each: Cell):
  """The printed right-hand side; of a clock t = T − t′ its slope dt/dt′."""
  if each.table == 4 and each.column == 3:
    return sp.diff(each.latex.right, {"vp": printed.t, "ve": printed.sigma, "rf": printed.s}[
        each.row[:2]])
  # ε and v of the tables of reverse processes are the quantity `value`; t is that of α_t.
  return each.latex.right.subs({printed.NOISE: printed.value, printed.VELOCITY: printed.value,
                                printed.t: -sp.log(printed.a)})


def derived(name: str, library: Callable):
  """The formula of a library's function of `Quantities` along a path, in the paper's symbols."""
  time = -sp.log(printed.a) if name == "vp" else printed.LEVELS[name]
  symbols = Quantities(time, printed.x, printed.score, printed.value, printed.x_0, printed.eps,
                       printed.dt, printed.dw)
  return symbolic.of(library, symbols, at=INTERIOR)


# ρ = 0.7; where the code compares two numbers (hypot's larger one) this point decides.
INTERIOR = {
    **{symbol: float(level.subs(printed.rho, 0.7)) for symbol, level in printed.LEVEL.items()},
    printed.x: 0.3, printed.score: -0.4, printed.value: 0.6, printed.x_0: 0.8, printed.eps: -0.2,
    printed.dt: 0.1, printed.dw: 0.1}


def in_rho(expression):
  """An expression with every noise level in terms of ρ, simplified: 0 where it vanishes."""
  return sp.simplify(sp.sympify(expression).subs(printed.LEVEL))


def _values(expression, points: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Values at the points, and the magnitudes of their terms, which rounding is relative to."""
  order = (printed.a, printed.sigma, printed.s, printed.x, printed.score, printed.value,
           printed.x_0, printed.eps, printed.dt, printed.dw)
  rho = points["rho"]
  given = (1.0 / (1.0 + rho**2), rho, rho / (1.0 + rho),
           *(points[k] for k in Quantities._fields[1:]))
  terms = sp.Add.make_args(sp.expand(expression))
  value, *parts = sp.lambdify(order, [expression, *terms], "numpy")(*given)
  size = sum(np.abs(np.broadcast_to(p, rho.shape)) for p in parts)
  # A cell that is 0 (the noise of an ODE) has no size: its difference is an absolute one.
  return np.broadcast_to(value, rho.shape), np.where(size > 0.0, size, 1.0)
