"""Grids of the solver study: the named ones, and levels found for each problem."""

from collections.abc import Callable, Mapping, Sequence

import jax

from experiments.benchmarks.solver_problems import PATH, RHO_MAX, Problem
from langevin_jax import predictions, samplers

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


def optimised(problem: Problem, budgets: Sequence[int]) -> Grids:
  """Levels at which a method is best on this model, one grid for each number of steps.

  The methods are `unipc 2, u in φ`, and `multistep 2`, which is the others' DPM-Solver++(2M). The
  levels are found on `problem.states` starts N(0, ρ_max²I) of a key of their own; none of them is
  among the starts that methods are judged by. One round in the place of four with many levels.
  """
  denoise = predictions.Denoiser(problem.at, PATH)
  shape = problem.states, *problem.z.shape[1:]
  return {name: {n: samplers.optimised(
      jax.random.key(2718), denoise, PATH, n=n, shape=shape, method=method, rho_max=RHO_MAX,
      rounds=4 if n <= 20 else 1) for n in budgets}.get for name, method in OPTIMISED.items()}
