"""Every method on every grid at equal network calls: ours step by step, other libraries' by worker.

`Row`s are what comes of it. A method that needs k calls a step takes as many steps as fit into the
budget; no method is given more.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import rivals, solver_grids, solver_problems
from experiments.benchmarks.solver_problems import PATH, RHO_MAX, Problem
from langevin_jax import paths, predictions, samplers
from langevin_jax.samplers import levels, noise

OURS = "ours"
ALIKE = ", η = 1"  # ends the names of those of ours that draw as much noise as the others' do
# What is a polynomial and in what: x₀ in ℓ, or in α = 1/√(1 + ρ²); the flow velocity u = ε − x₀ in
# φ = atan ρ, or in ℓ; ε in ℓ.
FRAMES: Mapping[str, Mapping[str, str]] = {
    "": {},
    " in α": {"variable": "alpha"},
    ", u in φ": {"prediction": "velocity", "variable": "angle"},
    ", u in ℓ": {"prediction": "velocity"},
    ", ε in ℓ": {"prediction": "eps"},
}

class Solver(NamedTuple):
  """A method of ours, the path in whose time it runs, and its calls: k a step but for the last."""

  method: samplers.Method
  path: paths.Path = PATH
  stages: int = 1

  def calls(self, n: int) -> int:
    return self.stages * (n - 1) + 1

  def steps(self, calls: int) -> int:
    return (calls - 1) // self.stages + 1


class Row(NamedTuple):
  """Errors of one run: root mean square over samples, median over samples, and the problem's own.

  library: "ours", or another's name. calls: those it took, ≤ budget. score: see `Problem.score`.
  """

  problem: str
  library: str
  method: str
  grid: str
  budget: int
  calls: int
  rmse: float
  median: float
  score: float | None = None


@functools.cache
def ours() -> dict[str, Solver]:
  """Deterministic methods by name; those that were the best of ours nowhere are left out."""
  flow, circle = paths.rectified_flow(), paths.cosine()
  found = {"ddim": Solver(samplers.ddim())}
  for label, options in FRAMES.items():
    corrected = (1, 2) if "prediction" in options else (2, 3)
    for make, orders in ((samplers.multistep, (2, 3)), (samplers.unipc, corrected)):
      found |= {f"{make.__name__} {order}{label}": Solver(make(order, **options))
                for order in orders}
  return found | {
      "singlestep 3": Solver(samplers.singlestep(3), stages=3),
      "heun": Solver(samplers.heun(), stages=2),
      "adams_bashforth 2, flow time": Solver(samplers.adams_bashforth(2), flow),
      "adams_bashforth 3, flow time": Solver(samplers.adams_bashforth(3), flow),
      "adams_bashforth 2, cosine time": Solver(samplers.adams_bashforth(2), circle),
      "adams_bashforth 3, cosine time": Solver(samplers.adams_bashforth(3), circle),
  }


@functools.cache
def ours_random() -> dict[str, Solver]:
  result = {}
  for eta in (0.5, 1.0, 2.0):
    result |= {
        f"ddim, η = {eta:g}": Solver(samplers.ddim(eta)),
        f"multistep 2, η = {eta:g}": Solver(samplers.multistep(2, eta)),
        f"multistep 3, η = {eta:g}": Solver(samplers.multistep(3, eta)),
        f"unipc 2, η = {eta:g}": Solver(samplers.unipc(2, eta)),
        f"multistep 2 in α, η = {eta:g}": Solver(samplers.multistep(2, eta, variable="alpha")),
        f"unipc 2 in α, η = {eta:g}": Solver(samplers.unipc(2, eta, variable="alpha")),
        f"singlestep 2, η = {eta:g}": Solver(samplers.singlestep(2, eta), stages=2),
        f"singlestep 3, η = {eta:g}": Solver(samplers.singlestep(3, eta), stages=3),
    }
  return result | {f"heun, churn = {churn:g}": Solver(samplers.heun(churn), stages=2)
                   for churn in (1.0, 4.0)}


def stepper(solver: Solver, at: solver_problems.At) -> Callable[..., np.ndarray]:
  """solve(z, rho, key) → x₀, one compiled step for all grids; the numbers of `samplers.sample`."""
  model = levels.model(predictions.Denoiser(at, solver.path))

  @jax.jit
  def step(x, carry, numbers, key):
    # The keys of samplers.sampling, so that both make the same samples.
    draw = lambda j: noise.normal(noise.fold(key, j) if j else key, x)
    x, _, carry = solver.method.step(draw, x, carry, model, numbers)
    return x, carry

  def solve(z, rho, key):
    nodes = levels.place_levels(rho, solver.path)
    plan = solver.method.plan(nodes, solver.path)
    x = jnp.asarray(z) / np.hypot(1.0, rho[0])
    carry = solver.method.init(x)
    key_steps = jax.random.split(key)[1]
    for i in range(len(rho) - 1):
      x, carry = step(x, carry, jax.tree.map(lambda v, i=i: v[i], plan), noise.fold(key_steps, i))
    return np.asarray(x)

  return solve


def every(
    problem: Problem, worker: rivals.Worker | None, *, budgets: Sequence[int],
    grids: solver_grids.Grids, judge: Callable[[np.ndarray], tuple[float, float, float | None]],
    solvers: Mapping[str, Solver], random: bool, key: Any, say: Callable[[str], None],
) -> list[Row]:
  """Rows of all our `solvers` and of all rivals that draw noise, or of all that do not.

  A run is left out where `grids` has none of its number of steps, or the method refuses that.
  """
  rows, refused = [], {}

  def add(library, method, grid, budget, calls, x_0):
    rows.append(Row(problem.name, library, method, grid, budget, calls, *judge(x_0)))

  for name, solver in solvers.items():
    solve = stepper(solver, problem.at)
    for grid, make in grids.items():
      for budget in budgets:
        n = solver.steps(budget)
        if (placed := make(n)) is None:
          continue
        try:
          x_0 = solve(problem.z, placed(PATH), key)
        except ValueError as error:  # fewer steps than its order
          refused[name] = str(error)
          continue
        add(OURS, name, grid, budget, solver.calls(n), x_0)
  say(f"{problem.name}: {len(rows)} runs of ours")
  if worker is not None:
    denoise = jax.jit(lambda z, rho: problem.at(z / jnp.sqrt(1.0 + rho**2), -jnp.log(rho)))
    names = [name for name in worker.names if rivals.RIVALS[name].random == random]
    for name in names:
      for grid, make in grids.items():
        for budget in budgets:
          n = rivals.steps(name, budget)
          if (placed := make(n)) is None:
            continue
          try:
            result = worker.solve(name, denoise, problem.z, placed(PATH), seed=1)
          except ValueError as error:
            refused[name] = str(error)
            continue
          add(rivals.RIVALS[name].library, name.partition(" ")[2], grid, budget, result.calls,
              result.x_0)
    say(f"{problem.name}: {len(rows)} runs with those of {len(names)} other solvers")
  for name, why in refused.items():
    say(f"  {name} left out somewhere: {why}")
  return rows


def errors(problem: Problem) -> Callable[[np.ndarray], tuple[float, float, float | None]]:
  """Distances of x₀ from where the flows end."""
  def judge(x_0):
    gap = rms_or_infinite(x_0 - problem.x_0)
    judged = problem.score is not None and np.isfinite(x_0).all()
    score = problem.score(x_0) if judged else None
    return float(np.sqrt(np.mean(gap**2))), float(np.median(gap)), score

  return judge


def rms_or_infinite(difference: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore", invalid="ignore"):
    gap = solver_problems.rms(difference)
  return np.where(np.isfinite(gap), gap, np.inf)


def laws(n: int) -> tuple[Problem, Callable[[np.ndarray], tuple[float, float, None]], float]:
  """The one-dimensional mixture judged by its law: W₁ to the exact quantiles, and its floor.

  The floor is W₁ of as many exact draws, the mean of 20 times. The second number is the greatest
  distance of the distribution functions (Kolmogorov's).
  """
  rng = np.random.default_rng(3)
  law = solver_problems.line()
  exact = solver_problems.line_quantiles((np.arange(n) + 0.5) / n)

  draw = lambda: solver_problems.draws(rng, law, n)

  def judge(x_0):
    x = np.sort(x_0[:, 0])
    if not np.isfinite(x).all():
      return np.inf, np.inf, None
    cdf = solver_problems.line_cdf(x, 0.0)
    steps = np.arange(n + 1) / n
    kolmogorov = max(np.max(np.abs(cdf - steps[1:])), np.max(np.abs(cdf - steps[:-1])))
    return float(np.mean(np.abs(x - exact))), float(kolmogorov), None

  floor = float(np.mean([judge(draw())[0] for _ in range(20)]))
  z = draw() + RHO_MAX * rng.standard_normal((n, 1))
  name = f"law of the 1-D mixture, W₁ of {n} draws"
  at = solver_problems.gaussian_at(*law)
  return Problem(name, at, z, np.empty_like(z), (0.0, 0.0)), judge, floor
