"""Every method on every grid at equal network calls: ours step by step, other libraries' by worker.

A method that needs k calls a step takes as many steps as fit into the budget, and no more.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import rivals, solver_problems
from experiments.benchmarks.solver_problems import PATH, RHO_MAX, Problem
from langevin_jax import paths, predictions, samplers
from langevin_jax.samplers import levels, noise

OURS = "ours"
OWN_GRID = "its own"  # of solvers that place their calls themselves
ALIKE = ", η = 1"  # ends the names of those of ours that draw as much noise as the others' do
# What is a polynomial and in what: x₀ in ℓ, or in α = 1/√(1 + ρ²); the flow velocity u = ε − x₀ in
# φ = atan ρ, ℓ, α, or in i, the number of the step; ε in ℓ or i.
FRAMES: Mapping[str, Mapping[str, str]] = {
    "": {},
    " in α": {"variable": "alpha"},
    ", u in φ": {"prediction": "velocity", "variable": "angle"},
    ", u in ℓ": {"prediction": "velocity"},
    ", u in α": {"prediction": "velocity", "variable": "alpha"},
    ", u in i": {"prediction": "velocity", "variable": "step"},
    ", ε in ℓ": {"prediction": "eps"},
    ", ε in i": {"prediction": "eps", "variable": "step"},
}
# n → a grid of n steps, or None where there is none of so many.
Grids = Mapping[str, Callable[[int], samplers.Grid | None]]
NAMED: Grids = {
    "karras": lambda n: samplers.karras(n, rho_max=RHO_MAX),
    "uniform ℓ": lambda n: samplers.uniform_half_log_snr(n, rho_max=RHO_MAX),
    "cosine": samplers.cosine,
    "shifted 1": samplers.shifted,
}
# Levels found for a method of ours, and for one that is theirs as well.
OPTIMISED: Mapping[str, samplers.Method] = {
    "optimised for unipc": samplers.unipc(2, prediction="velocity", variable="angle"),
    "optimised for 2M": samplers.multistep(2),
}


class Solver(NamedTuple):
  """A method of ours, the path in whose time it runs, and its calls: k a step but for the last.

  ancestral: each step falls further and rises again (`samplers.ancestral`).
  """

  method: samplers.Method
  path: paths.Path = PATH
  stages: int = 1
  ancestral: bool = False

  def calls(self, n: int) -> int:
    return self.stages * (n - 1) + 1

  def steps(self, calls: int) -> int:
    return (calls - 1) // self.stages + 1


class Row(NamedTuple):
  """One run: library is "ours" or another's name, calls those it took, at most `budget`.

  rmse: the root mean square over samples and coordinates of its error, or W₁ of a law.
  """

  problem: str
  library: str
  method: str
  grid: str
  budget: int
  calls: int
  rmse: float


Judge = Callable[[np.ndarray], float]


@functools.cache
def ours() -> dict[str, Solver]:
  """Deterministic methods by name."""
  found = {"ddim": Solver(samplers.ddim())}
  for label, options in FRAMES.items():
    found |= {f"multistep {k}{label}": Solver(samplers.multistep(k, **options)) for k in (2, 3, 4)}
    found |= {f"unipc {k}{label}": Solver(samplers.unipc(k, **options)) for k in (1, 2, 3)}
  for name, path in (("flow", paths.rectified_flow()), ("cosine", paths.cosine()), ("ρ", PATH)):
    found |= {f"adams_bashforth {k}, time {name}": Solver(samplers.adams_bashforth(k), path)
              for k in (2, 3, 4)}
  for label in (", u in i", ", ε in i"):  # of ε it is iPNDM where rounding does not grow
    found[f"multistep 4{label}, plain start"] = Solver(
        samplers.multistep(4, corrected_start=False, **FRAMES[label]))
  return found | {
      "2M midpoint": Solver(samplers.multistep(2, midpoint=True)),
      "unipc 2 bh2": Solver(samplers.unipc(2, midpoint=True)),
      "singlestep 3": Solver(samplers.singlestep(3), stages=3),
      "DPM-Solver 2": Solver(samplers.singlestep(2, prediction="eps", midpoint=True), stages=2),
      "DPM-Solver 3": Solver(samplers.singlestep(3, prediction="eps"), stages=3),
      "heun": Solver(samplers.heun(), stages=2)}


@functools.cache
def ours_random() -> dict[str, Solver]:
  """Methods that draw noise; of the 2S-ancestral η = 1 is in the grid."""
  result = {"2S ancestral, η = 1": Solver(
      samplers.singlestep(2, midpoint=True), stages=2, ancestral=True)}
  for eta in (0.5, 1.0, 2.0):
    result |= {f"{name}, η = {eta:g}": solver for name, solver in {
        "ddim": Solver(samplers.ddim(eta)),
        "multistep 2": Solver(samplers.multistep(2, eta)),
        "multistep 3": Solver(samplers.multistep(3, eta)),
        "2M-SDE midpoint": Solver(samplers.multistep(2, eta, midpoint=True)),
        "multistep 2 in α": Solver(samplers.multistep(2, eta, variable="alpha")),
        "unipc 2": Solver(samplers.unipc(2, eta)),
        "unipc 2 in α": Solver(samplers.unipc(2, eta, variable="alpha")),
        "singlestep 2": Solver(samplers.singlestep(2, eta), stages=2),
        "singlestep 3": Solver(samplers.singlestep(3, eta), stages=3),
        "singlestep 3, Λ ≤ ½": Solver(samplers.singlestep(3, eta, largest_budget=0.5), stages=3),
    }.items()}
  return result | {f"heun, churn = {churn:g}": Solver(samplers.heun(churn), stages=2)
                   for churn in (1.0, 4.0)}


def optimised(problem: Problem, budgets: Sequence[int]) -> Grids:
  """Levels at which each method of OPTIMISED is best on this model, for each number of steps.

  They are found on `problem.states` starts N(0, ρ_max²I) of a key of their own; none of them is
  among the starts that methods are judged by. One round in the place of four with many levels.
  """
  denoise = predictions.Denoiser(problem.at, PATH)
  shape = problem.states, *problem.z.shape[1:]
  return {name: {n: samplers.optimised(
      jax.random.key(2718), denoise, PATH, n=n, shape=shape, method=method, rho_max=RHO_MAX,
      rounds=4 if n <= 20 else 1) for n in budgets}.get for name, method in OPTIMISED.items()}


def stepper(solver: Solver, at: solver_problems.At) -> Callable[..., np.ndarray]:
  """solve(z, rho, key) → x₀, one compiled step for all grids; the numbers of `samplers.sample`."""
  denoise = predictions.Denoiser(at, solver.path)
  model = levels.model(denoise)

  @jax.jit
  def step(x, carry, numbers, key):
    # The keys of samplers.sampling, so that both make the same samples.
    draw = lambda j: noise.normal(noise.fold(key, j) if j else key, x)
    x, _, carry = solver.method.step(draw, x, carry, model, numbers)
    return x, carry

  def solve(z, rho, key):
    if solver.ancestral:
      return np.asarray(samplers.sample(
          key, denoise, solver.path, shape=z.shape, initial=jnp.asarray(z), method=solver.method,
          grid=samplers.ancestral(lambda path: rho)))
    plan = solver.method.plan(levels.place_levels(rho, solver.path), solver.path)
    x = jnp.asarray(z) / np.hypot(1.0, rho[0])
    carry = solver.method.init(x)
    key_steps = jax.random.split(key)[1]
    for i in range(len(rho) - 1):
      x, carry = step(x, carry, jax.tree.map(lambda v, i=i: v[i], plan), noise.fold(key_steps, i))
    return np.asarray(x)

  return solve


def every(
    problem: Problem, worker: rivals.Worker | None, *, budgets: Sequence[int], grids: Grids,
    judge: Judge, solvers: Mapping[str, Solver], random: bool, key: Any, say: Callable[[str], None],
) -> list[Row]:
  """Rows of all our `solvers` and of all rivals that draw noise, or of all that do not.

  A run is left out where `grids` has none of its number of steps, or the method refuses that.
  """
  rows, refused = [], {}

  def run(library, name, steps, solve):
    for grid, make in grids.items():
      for budget in budgets:
        if (placed := make(steps(budget))) is None:
          continue
        try:
          x_0, calls = solve(placed(PATH))
        except ValueError as error:  # fewer steps than its order
          refused[name] = str(error)
          continue
        rows.append(Row(problem.name, library, name, grid, budget, calls, judge(x_0)))

  for name, solver in solvers.items():
    solve = stepper(solver, problem.at)
    run(OURS, name, solver.steps, lambda rho, solve=solve, solver=solver: (
        solve(problem.z, rho, key), solver.calls(len(rho) - 1)))
  say(f"{problem.name}: {len(rows)} runs of ours")
  denoise = jax.jit(lambda z, rho: problem.at(z / jnp.sqrt(1.0 + rho**2), -jnp.log(rho)))
  for name in worker.names if worker else ():
    rival = rivals.RIVALS[name]
    if rival.random == random:
      run(rival.library, name.partition(" ")[2], functools.partial(rivals.steps, name),
          lambda rho, name=name: worker.solve(name, denoise, problem.z, rho, seed=1))
      if not rival.grid:  # the ends of all these grids are the same
        rows[:] = [row._replace(grid=OWN_GRID) if row.method == name.partition(" ")[2] and (
            row.library == rival.library) else row for row in rows]
  say(f"{problem.name}: {len(rows)} runs with those of the other libraries")
  for name, why in refused.items():
    say(f"  {name} left out somewhere: {why}")
  return rows


def adaptive(problem: Problem, budgets: Sequence[int], judge: Judge, key: Any) -> list[Row]:
  """`adaptive_sde` at the least tolerance that a budget allows, found by bisection."""
  denoise, rows = predictions.Denoiser(problem.at, PATH), []
  for budget in budgets:
    low, high, best = np.log(1e-3), np.log(10.0), None
    for _ in range(7):
      middle = 0.5 * (low + high)
      found = samplers.adaptive_sde(
          key, denoise, PATH, shape=problem.z.shape, tolerance=float(np.exp(middle)))
      low, high, best = (low, middle, found) if found.calls <= budget else (middle, high, best)
    if best is not None:
      rows.append(Row(problem.name, OURS, f"adaptive_sde{ALIKE}", OWN_GRID, budget,
                      int(best.calls), judge(np.asarray(best.x))))
  return rows


def errors(problem: Problem) -> Judge:
  """The distance of x₀ from where the flows end."""
  def judge(x_0):
    with np.errstate(over="ignore", invalid="ignore"):
      error = np.sqrt(np.mean(solver_problems.rms(x_0 - problem.x_0) ** 2))
    return float(error) if np.isfinite(error) else np.inf

  return judge


def laws(n: int) -> tuple[Problem, Judge, float]:
  """The one-dimensional mixture judged by its law: W₁ to the exact quantiles, and its floor.

  The floor is W₁ of as many exact draws, the mean of 20 times.
  """
  rng, law = np.random.default_rng(3), solver_problems.line()
  exact = solver_problems.line_quantiles((np.arange(n) + 0.5) / n)
  draw = lambda: solver_problems.draws(rng, law, n)

  def judge(x_0):
    x = np.sort(x_0[:, 0])
    return float(np.mean(np.abs(x - exact))) if np.isfinite(x).all() else np.inf

  floor = float(np.mean([judge(draw()) for _ in range(20)]))
  z = draw() + RHO_MAX * rng.standard_normal((n, 1))
  name = f"law of the 1-D mixture, W₁ of {n} draws"
  return Problem(name, solver_problems.gaussian_at(*law), z, np.empty_like(z), (0.0, 0.0)), (
      judge), floor
