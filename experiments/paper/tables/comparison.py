"""Comparison of a printed formula with the library's, as expressions and as numbers.

The library's formula is derived from its code (`symbolic.of`). Its difference from the printed one,
with every noise level in terms of ρ > 0, is simplified; 0 is a proof. Where the code branches on
α > σ, the formulas of both branches are compared. Numbers of both are compared at random interior
points in float64.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.paper.tables import printed, symbolic
from experiments.paper.tables.cells import Cell, Quantities

sp = symbolic.sp


class Compared(NamedTuple):
  """computed: by the library. residual: printed − computed. difference: the largest relative
  difference at the random points."""

  cell: Cell
  computed: Any
  residual: Any
  difference: float

  @property
  def agrees(self) -> bool:
    return self.residual == 0 and self.difference < ROUNDING


RHO_MIN, RHO_MAX = 0.05, 20.0
# 64 rounding errors, amplified by at most 1/(1 − α_t) = (1 + ρ²)/ρ² at one end or 1 + ρ² at the
# other, where the printed formulas subtract nearly equal numbers.
ROUNDING = 64.0 * float(np.finfo(np.float64).eps) * (1.0 + max(RHO_MAX, 1.0 / RHO_MIN) ** 2)


def compared(found: Sequence[Cell], seed: int, n: int) -> list[Compared]:
  """Compares cells symbolically and at n random points with ρ log-uniform on [.05, 20]."""
  points = _points(seed, n)
  batch = {name: Quantities(_times(points["rho"])[name], *(
      points[k] for k in Quantities._fields[1:])) for name in printed.NAMES}
  one = lambda batch: [each.library(batch[each.row[:2]]) for each in found]
  numbers = jax.jit(jax.vmap(one))(batch)
  return [_compare(each, np.asarray(number), points)
          for each, number in zip(found, numbers, strict=True)]


def domain(row: str) -> Compared:
  """Compares the last column of Table 4 with the path's times; T and Σ are its t_max."""
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
  residual = sp.Integer(0)
  for way in dict.fromkeys((computed, derived(name, each.library, rho=1.5))):
    if residual == 0 and in_rho(meaning - way) != 0:
      residual = difference(meaning, way)
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
  """The shortest of a few equivalent forms of an expression."""
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
  """The printed right-hand side; for a clock t = T − t′, dt/dt′."""
  if each.table == 4 and each.column == 3:
    return sp.diff(each.latex.right, {"vp": printed.t, "ve": printed.sigma, "rf": printed.s}[
        each.row[:2]])
  # ε and v of the tables of reverse processes are the quantity `value`; t is that of α_t.
  return each.latex.right.subs({printed.NOISE: printed.value, printed.VELOCITY: printed.value,
                                printed.t: -sp.log(printed.a)})


def derived(name: str, library: Callable, *, rho: float = 0.7):
  """The formula of a library's function of `Quantities` along a path, in the paper's symbols.

  rho: the noise level that decides branches of the code.
  """
  time = -sp.log(printed.a) if name == "vp" else printed.LEVELS[name]
  symbols = Quantities(time, printed.x, printed.score, printed.value, printed.x_0, printed.eps,
                       printed.dt, printed.dw)
  return symbolic.of(library, symbols, at=interior(rho))


@functools.cache
def interior(rho: float) -> dict[Any, float]:
  """A value for every symbol, at one noise level."""
  return {
      **{symbol: float(level.subs(printed.rho, rho)) for symbol, level in printed.LEVEL.items()},
      printed.x: 0.3, printed.score: -0.4, printed.value: 0.6, printed.x_0: 0.8, printed.eps: -0.2,
      printed.dt: 0.1, printed.dw: 0.1}


def in_rho(expression):
  """An expression with every noise level in terms of ρ, simplified; 0 if it vanishes."""
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
