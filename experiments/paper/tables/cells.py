"""The function of the library for each formula of Tables 1–7."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.paper.tables import formulas, printed, symbolic
from langevin_jax import objectives, paths, predictions, splitting

sp = symbolic.sp


class Quantities(NamedTuple):
  """The arguments of cells, all scalars: time, state, score, value of the path's native prediction,
  data, noise, and increments of time and of Brownian motion."""

  t: Any
  x: Any
  score: Any
  value: Any
  x_0: Any
  eps: Any
  dt: Any
  dw: Any


class Cell(NamedTuple):
  """One formula of a cell. library: a function of `Quantities` with the library's result.

  corrected: whether it is the correction of an erratum or a row that is missing in the paper.
  """

  table: int
  row: str
  column: int
  latex: formulas.Formula
  library: Callable[[Quantities], jax.Array]
  corrected: bool = False


def cells(table: int) -> list[Cell]:
  """The cells of a table that hold a formula, in reading order; corrections follow their cell."""
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
  """The library's function for each formula of a cell; None for a name."""
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
  """The noise-level parameter of the paper: α² of VP, σ of VE and rectified flow."""
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
  """The reverse process, with the score from the path's native prediction."""
  if name == "vp":
    return process(name, eta, "reverse")
  native = predicted(name, printed.ROW_NAMES[name], "score", "value")
  return lambda q: process(name, eta, "reverse")(q._replace(score=native(q)))


def predicted(name: str, source: str, target: str, given: str) -> Callable:
  """`predictions.convert` on one path of the quantity `given`, read as `source`."""
  return lambda q: predictions.convert(
      getattr(q, given), q.x, q.t, printed.PATHS[name], source=source, target=target)


def clocks(name: str, eta: float) -> Callable:
  """dt/dt′: the reverse drift without its Langevin part ½η²g² s, over the velocity dx/dt."""
  path = printed.PATHS[name]

  def one(q):
    # At x = s = 1, where no path's velocity vanishes.
    unit = jnp.ones_like(q.x)
    drift = splitting.split(path, eta).reverse.drift(unit, q.t, unit)
    velocity = predictions.convert(unit, unit, q.t, path, source="score", target="velocity")
    return (drift - 0.5 * (eta * path.diffusion(q.t)) ** 2) / velocity

  return one


def converted(given: str, wanted: str) -> tuple[Callable, Callable]:
  """The state and the noise-level parameter by `paths.convert`."""
  both = lambda q: paths.convert(q.x, q.t, printed.PATHS[given], printed.PATHS[wanted])
  return (lambda q: both(q)[0]), lambda q: level(wanted)(q._replace(t=both(q)[1]))


def crossed(given: str, wanted: str) -> Callable:
  """A prediction converted from path to path through ε, which is common to all."""
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
