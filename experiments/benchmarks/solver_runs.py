"""Every method on every grid at equal network calls: ours step by step, other libraries' by worker.

`Row`s are what comes of it. A method that needs k calls a step takes as many steps as fit into the
budget; no method is given more.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import rivals, solver_problems
from experiments.benchmarks.solver_problems import PATH, RHO_MAX, Problem
from langevin_jax import paths, predictions, samplers
from langevin_jax.samplers import levels, noise

OURS = "ours"
ALIKE = ", η = 1"  # ends the names of those of ours that draw as much noise as the others' do
GRIDS: Mapping[str, Callable[[int], samplers.Grid]] = {
    "karras": lambda n: samplers.karras(n, rho_max=RHO_MAX),
    "uniform ℓ": lambda n: samplers.uniform_half_log_snr(n, rho_max=RHO_MAX),
    "cosine": samplers.cosine,
    "shifted 1": samplers.shifted,
    "shifted 3": lambda n: samplers.shifted(n, 3.0),
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
  flow, circle = paths.rectified_flow(), paths.cosine()
  return {
      "ddim": Solver(samplers.ddim()),
      "multistep 2": Solver(samplers.multistep(2)),
      "multistep 3": Solver(samplers.multistep(3)),
      "unipc 1": Solver(samplers.unipc(1)),
      "unipc 2": Solver(samplers.unipc(2)),
      "unipc 3": Solver(samplers.unipc(3)),
      "multistep 2 in α": Solver(samplers.multistep(2, variable="alpha")),
      "multistep 3 in α": Solver(samplers.multistep(3, variable="alpha")),
      "unipc 1 in α": Solver(samplers.unipc(1, variable="alpha")),
      "unipc 2 in α": Solver(samplers.unipc(2, variable="alpha")),
      "unipc 3 in α": Solver(samplers.unipc(3, variable="alpha")),
      "singlestep 2": Solver(samplers.singlestep(2), stages=2),
      "singlestep 3": Solver(samplers.singlestep(3), stages=3),
      "heun": Solver(samplers.heun(), stages=2),
      "heun, flow time": Solver(samplers.heun(own_time=True), flow, 2),
      "euler, flow time": Solver(samplers.euler(), flow),
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
    nodes = levels.lay(rho, solver.path)
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
    grids: Iterable[str], judge: Callable[[np.ndarray], tuple[float, float, float | None]],
    solvers: Mapping[str, Solver], random: bool, key: Any, say: Callable[[str], None],
) -> list[Row]:
  """Rows of all our `solvers` and of all rivals that draw noise, or of all that do not."""
  rows, refused = [], {}
  places = {name: GRIDS[name] for name in grids}

  def add(library, method, grid, budget, calls, x_0):
    rows.append(Row(problem.name, library, method, grid, budget, calls, *judge(x_0)))

  for name, solver in solvers.items():
    solve = stepper(solver, problem.at)
    for grid, make in places.items():
      for budget in budgets:
        n = solver.steps(budget)
        try:
          x_0 = solve(problem.z, make(n)(PATH), key)
        except ValueError as error:  # fewer steps than its order
          refused[name] = str(error)
          continue
        add(OURS, name, grid, budget, solver.calls(n), x_0)
  say(f"{problem.name}: {len(rows)} runs of ours")
  if worker is not None:
    denoise = jax.jit(lambda z, rho: problem.at(z / jnp.sqrt(1.0 + rho**2), -jnp.log(rho)))
    names = [name for name in worker.names if rivals.RIVALS[name].random == random]
    for name in names:
      for grid, make in places.items():
        for budget in budgets:
          n = rivals.steps(name, budget)
          try:
            result = worker.solve(name, denoise, problem.z, make(n)(PATH), seed=1)
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
