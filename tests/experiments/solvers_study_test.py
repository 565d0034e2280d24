"""The solver study: its models are the exact ones, its runs those of samplers.sample, at the calls
that it states; and its tables and pictures are of what it ran."""

import json

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from experiments.benchmarks import (
  measure,
  solver_problems,
  solver_report,
  solver_runs,
  solvers,
)
from experiments.benchmarks.solver_problems import PATH, RHO_MAX
from experiments.benchmarks.solver_runs import OURS, Row
from langevin_jax import mixtures, predictions, samplers

MEAN, VAR = np.array([0.5, -0.3]), np.array([0.04, 1.0])


def gaussian_at(x, ell):
  """D of N(MEAN, diag VAR)."""
  rho_squared = jnp.exp(-2.0 * ell)
  z = jnp.sqrt(1.0 + rho_squared) * x
  return MEAN[None] + (VAR / (VAR + rho_squared))[None] * (z - MEAN[None])


denoised = jax.jit(lambda model, x, alpha, sigma: model.denoise(x, alpha, sigma))


def flow(z):
  """Where the exact flow of N(MEAN, diag VAR) ends."""
  return MEAN + (z - MEAN) * np.sqrt(VAR / (VAR + RHO_MAX**2))


def gaussian_problem():
  z = MEAN + np.sqrt(VAR + RHO_MAX**2) * np.random.default_rng(0).standard_normal((16, 2))
  return solver_problems.Problem("Gaussian", gaussian_at, z, flow(z), (0.0, 0.0))


@pytest.mark.parametrize("ell", [-3.0, 0.5, 4.0])
def test_models_are_the_exact_ones(ell, x64):
  """Of the mixture in 16 dimensions and of points, to rounding of sums of 16 numbers."""
  frame = predictions.unit_frame(ell)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16)))
  law = jax.tree.map(jnp.asarray, solver_problems.correlated())
  np.testing.assert_allclose(solver_problems.gaussian_at(*map(np.asarray, law))(x, ell),
                             denoised(law, x, frame.alpha, frame.sigma), atol=1e-11)
  points = np.random.default_rng(1).standard_normal((7, 16))
  np.testing.assert_allclose(
      solver_problems.empirical_at(points)(x, ell),
      denoised(mixtures.Empirical(jnp.asarray(points)), x, frame.alpha, frame.sigma), atol=1e-11)


def test_draws_and_quantiles_are_of_the_law():
  law = solver_problems.three_modes()
  x = solver_problems.draws(np.random.default_rng(0), law, 40_000)
  # Four standard errors of 40,000 draws of mean 0 and variance 1.
  np.testing.assert_allclose(x.mean(0), 0.0, atol=0.02)
  np.testing.assert_allclose(np.cov(x.T), np.eye(2), atol=0.03)
  u = np.linspace(0.01, 0.99, 9)
  np.testing.assert_allclose(
      solver_problems.line_cdf(solver_problems.line_quantiles(u), 0.0), u, atol=1e-14)


def test_a_problem_knows_where_its_flows_end(x64):
  """The fine solution of a Gaussian against its closed form: order three, 400 steps."""
  problem = solver_problems.solved(
      "Gaussian", gaussian_at, MEAN + np.zeros((8, 2)), seed=0, steps=400)
  gap = solver_problems.rms(problem.x_0 - flow(problem.z))
  assert gap.max() < 1e-6
  # What the two methods differ by says how far off either is.
  assert gap.max() < 2.0 * problem.agreement[1]


@pytest.mark.parametrize(("name", "solver"), [
    (name, solver) for name, solver in {**solver_runs.ours(), **solver_runs.ours_random()}.items()
    if name in ("unipc 3", "singlestep 3, η = 1", "heun", "adams_bashforth 3, time flow",
                "unipc 2, u in φ", "multistep 4, ε in ℓ", "2S ancestral, η = 1")])
def test_runs_are_those_of_sample_at_the_calls_stated(name, solver, x64):
  problem, key, n, calls = gaussian_problem(), jax.random.key(3), 5, []

  def at(x, ell):
    jax.debug.callback(lambda: calls.append(1))
    return gaussian_at(x, ell)

  rho = solver_runs.NAMED["karras"](n)(PATH)
  scale = 1.0 if solver.path is PATH else 1.0 / (1.0 + RHO_MAX)
  expected = samplers.sample(
      key, predictions.Denoiser(at, solver.path), solver.path, shape=problem.z.shape,
      initial=jnp.asarray(scale * problem.z), method=solver.method,
      grid=samplers.ancestral(lambda path: rho) if solver.ancestral else lambda path: rho)
  jax.effects_barrier()
  np.testing.assert_allclose(
      solver_runs.stepper(solver, gaussian_at)(problem.z, rho, key), expected, atol=1e-12)
  assert len(calls) == solver.calls(n)
  assert solver.calls(solver.steps(20)) <= 20 < solver.calls(solver.steps(20) + 1)


def test_the_study_of_a_gaussian(tmp_path, x64):
  """Orders from 65 to 129 calls, then tables and pictures of the rows."""
  problem, budgets = gaussian_problem(), (65, 129)
  # A grid that has no such number of steps makes no rows.
  grids = {"uniform ℓ": solver_runs.NAMED["uniform ℓ"], "absent": {7: None}.get}
  named = solver_runs.ours()
  chosen = {name: named[name] for name in ("ddim", "multistep 2", "unipc 1, u in φ", "heun")}
  rows = solver_runs.every(
      problem, None, budgets=budgets, grids=grids, judge=solver_runs.errors(problem),
      solvers=chosen, random=False, key=jax.random.key(0), say=lambda text: None)
  assert [(row.grid, row.calls) for row in rows] == [("uniform ℓ", 65), ("uniform ℓ", 129)] * 4
  error = {(row.method, row.budget): row.rmse for row in rows}
  # 64 and 128 finite steps of one call, 32 and 64 of two: twice as many. The corrector adds an
  # order; one more would be below what the last step from ρ = 0.002 leaves, ρ²/(2 · 0.2) = 1e-5.
  for name, order in (("ddim", 1.0), ("multistep 2", 2.0), ("unipc 1, u in φ", 2.0), ("heun", 2.0)):
    assert np.log2(error[name, 65] / error[name, 129]) > order - 0.25, (name, error)

  rival = [row._replace(library="azula", method="other", grid="karras", rmse=2.0 * row.rmse)
           for row in rows if row.method == "multistep 2"]
  rows = [row._replace(grid="karras") for row in rows] + rival
  report = {"machine": measure.machine(), "problems": {problem.name: {}}}
  solvers.write(tmp_path, rows, {}, report)
  saved = json.loads((tmp_path / "solvers.json").read_text())
  assert all(c["ratio"] <= 0.5 for c in saved["comparisons"])
  assert len(saved["rows"]) == len(rows)
  text = (tmp_path / "solvers.md").read_text()
  assert "in 2 of 2 comparisons" in text and "Where ours is worse" not in text
  pixels = matplotlib.image.imread(tmp_path / "solvers.png")
  assert np.isfinite(pixels).all() and pixels.std() > 0.01


def test_the_table_says_where_ours_is_worse():
  row = lambda library, grid, rmse: Row("p", library, "m", grid, 10, 10, rmse)
  rows = [row(OURS, "karras", 3.0), row("azula", "karras", 2.0), row(OURS, "cosine", 0.5),
          row("diffusers", "cosine", 1.0), row("azula", "cosine", np.inf),
          row(OURS, "optimised for 2M", 0.1), row("azula", "optimised for 2M", 0.4)]
  found = {c.scope: c for c in solver_report.compare(rows)}
  assert found["karras"].ratio == 1.5 and found["best grid"].ratio == 0.5
  assert found["best grid"].theirs.library == "diffusers"
  assert found["ours optimised"].ratio == 0.1 and found["both optimised"].ratio == 0.25
  text = solver_report.markdown(list(found.values()), rows, ["fact"])
  assert "| p | 1.5 · 0.5 · 0.1 · 0.25 |" in text
  worse = text[text.index("## Where ours is worse"):text.index("## The best")]
  assert "1.5" in worse and "best grid" not in worse
  # One that is on a grid of its own for each problem is not chosen once.
  both = [*rows, *(row(library, "cosine", value)._replace(problem="q")
                   for library, value in ((OURS, 2.0), ("diffusers", 4.0)))]
  assert solver_report.overall(both)[-1] == (
      "| 10 | 1 (m; cosine) | 2 (diffusers m; cosine) | 0.5 |")
  # The same number but for rounding is not worse; nor is one rounding error worse than none.
  tiny = solver_report.compare([row(OURS, "karras", 1e-15), row("azula", "karras", 0.0)])
  assert all(c.ratio == 1.0 for c in tiny)
  equal = solver_report.compare([row(OURS, "karras", 1.0 + 1e-9), row("azula", "karras", 1.0)])
  assert "Where ours is worse" not in solver_report.markdown(equal, [], [])


def test_laws_have_their_floor(x64):
  problem, judge, floor = solver_runs.laws(1000)
  rng = np.random.default_rng(5)
  exact = solver_problems.line_quantiles((np.arange(1000) + 0.5) / 1000)
  assert judge(exact[:, None]) == 0.0
  assert judge(exact[:, None] + 0.1) == pytest.approx(0.1)
  drawn = judge(solver_problems.draws(rng, solver_problems.line(), 1000))
  # W₁ of the floor and of one more draw, each about √(∫F(1 − F))/√n, differ by their spread.
  assert floor / 4 < drawn < 4 * floor
  assert problem.z.shape == (1000, 1)


def test_the_adaptive_solver_keeps_to_the_budget(x64):
  problem, judge, _ = solver_runs.laws(100)
  row, = solver_runs.adaptive(problem, (40,), judge, jax.random.key(0))
  assert 20 < row.calls <= 40 and row.rmse < 0.5
