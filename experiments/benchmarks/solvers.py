"""Solver study: error by number of network calls, of our methods and of other libraries.

  python -m experiments.benchmarks.solvers --workdir=runs/digits --rivals_python=other/bin/python

Deterministic methods are compared with the exact flow of exact models and of a trained one, with 5,
8, 10, 20 and 50 calls of the model, on named grids and on levels optimised for the model. Methods
that draw noise are compared by the distribution of their samples. The directory `--out` receives
solvers.json (all runs), solvers.md (the best of each side, and where ours is worse) and
solvers.png. About 20 minutes on 2 cores, two with `--fast`; `--only` selects parts or problems. A
missing library or trained run is reported and omitted.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import flags

from experiments.benchmarks import measure, rivals, solver_problems, solver_report, solver_runs
from experiments.benchmarks.solver_runs import Row
from experiments.config import cli
from experiments.configs import digits
from experiments.run import assembly, records

_OUT = flags.DEFINE_string("out", "runs/bench/solvers", "Directory of the report.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "A trained run, one of the problems.")
_PYTHON = flags.DEFINE_string("rivals_python", sys.executable,
                              "Python interpreter with the other libraries.")
_CALLS = flags.DEFINE_list("calls", ["5", "8", "10", "20", "50"], "Numbers of network calls.")
_ONLY = flags.DEFINE_list(
    "only", [], "Parts (exact, points, trained, law) or names of exact models. Default: all parts.")
_FAST = flags.DEFINE_bool("fast", False, "Fewer samples, grids and problems.")

PARTS = ("exact", "points", "trained", "law", *(name.replace(",", "") for name in
                                                solver_problems.LAWS))


def main() -> int:
  budgets = _budgets(_CALLS.value)
  chosen = _ONLY.value or PARTS[:4]
  for name in chosen:
    if name not in PARTS:
      raise ValueError(f"--only must be of {', '.join(PARTS)}, got {name!r}")
  assembly.configure_jax(digits.get_config())
  jax.config.update("jax_enable_x64", True)
  out, begun = pathlib.Path(_OUT.value), time.monotonic()
  say = lambda text: print(f"[{time.monotonic() - begun:4.0f} s] {text}", flush=True)
  report = {"machine": measure.machine(), "command": sys.argv[1:], "absent": [], "problems": {}}
  with contextlib.ExitStack() as stack:
    worker = _worker(stack, report, say)
    for rows, floors in study(chosen, budgets, worker, report, say, fast=_FAST.value):
      # After each problem, so that the report of an interrupted study is complete so far.
      write(out, rows, floors, report)
  print((out / "solvers.md").read_text(encoding="utf-8"))
  say(f"in {out}")
  return 0


def study(
    parts: Sequence[str], budgets: Sequence[int], worker: rivals.Worker | None,
    report: dict[str, Any], say: Callable[[str], None], *, fast: bool = False,
) -> Iterator[tuple[list[Row], dict[str, float]]]:
  """Yields, after each problem, all rows so far and the floors of problems that have one.

  Facts about the problems are added to `report`.
  """
  named = {name: solver_runs.NAMED[name]
           for name in (("karras",) if fast else solver_runs.NAMED)}
  options = {"budgets": budgets, "key": jax.random.key(0), "say": say}
  rows: list[Row] = []
  for make in problems(parts, n=128 if fast else 512, steps=1500 if fast else 6000, fast=fast,
                       say=say):
    problem = make()
    report["problems"][problem.name] = {
        "samples": len(problem.z), "shape": problem.z.shape[1:],
        "median difference of two fine solutions": problem.agreement[0],
        "greatest difference of two fine solutions": problem.agreement[1]}
    say(f"{problem.name}: {report['problems'][problem.name]}")
    grids = named if fast else {**named, **solver_runs.optimised(problem, budgets)}
    rows += solver_runs.every(problem, worker, judge=solver_runs.errors(problem),
                              solvers=solver_runs.ours(), random=False, grids=grids, **options)
    yield rows, {}
  if "law" in parts:
    problem, judge, floor = solver_runs.laws(4096 if fast else 32768)
    report["problems"][problem.name] = {"samples": len(problem.z), "floor": floor}
    rows += solver_runs.every(problem, worker, judge=judge, solvers=solver_runs.ours_random(),
                              random=True, grids=named, **options)
    rows += solver_runs.adaptive(problem, budgets, judge, options["key"])
    yield rows, {problem.name: floor}


def problems(parts: Sequence[str], *, n: int, steps: int, fast: bool, say: Callable[[str], None]):
  """Factories of the deterministic problems; reports a missing trained run."""
  for i, name in enumerate(solver_problems.LAWS):
    if name.replace(",", "") in parts or ("exact" in parts and not (fast and i > 1)):
      yield lambda name=name: solver_problems.mixture(name, n=n, steps=steps)
  if "points" in parts and not fast:
    yield lambda: solver_problems.digits_points(n=n // 2, steps=steps // 10)
  if "trained" in parts:
    workdir = pathlib.Path(_WORKDIR.value)
    if (workdir / "checkpoints").is_dir():
      yield lambda: solver_problems.trained(workdir, n=16 if fast else 32, steps=100)
    else:
      say(f"trained: --workdir={workdir} has no checkpoint; left out")


def write(out: pathlib.Path, rows: Sequence[Row], floors: dict[str, float],
          report: dict[str, Any]) -> None:
  """Writes solvers.json, solvers.md and solvers.png."""
  # With one grid the scopes are equal.
  one = len({row.grid for row in rows} - {solver_runs.OWN_GRID}) == 1
  scopes = tuple(solver_report.SCOPES)[:1 if one else 4]
  compared = solver_report.compare(
      [row for row in rows if row.problem not in floors], scopes=scopes)
  for name, floor in floors.items():
    # The other libraries have η = 1. Ours are compared with any η, and with η = 1.
    random = [row for row in rows if row.problem == name]
    alike = [row._replace(problem=f"{name}, η = 1") for row in random
             if row.library != solver_runs.OURS or row.method.endswith(solver_runs.ALIKE)]
    compared += solver_report.compare([*random, *alike], scopes=scopes[:2], floor=floor)
  report["rows"] = [row._asdict() for row in rows]
  report["comparisons"] = [
      {**c._asdict(), "ours": c.ours._asdict(), "theirs": c.theirs and c.theirs._asdict()}
      for c in compared]
  measure.write(out / "solvers.json", report)
  facts = [
      f"{report['machine']['date']}, commit {report['machine']['commit']}.",
      "Error: root mean square over samples and coordinates of x₀ − exact flow; of laws, W₁.",
      "Grids: " + ", ".join(dict.fromkeys(row.grid for row in rows)) + ".",
      "Names of ours: the interpolated quantity and its variable, with u = ε − x₀, φ = atan ρ, "
      "α = 1/√(1 + ρ²); by default x₀ in ℓ.",
      *(f"Floor of the {name}: {floor:.3g}." for name, floor in floors.items()),
      *(f"Absent: {why}." for why in report.get("absent", ()))]
  records.write_text(out / "solvers.md", solver_report.markdown(compared, rows, facts))
  solver_report.picture(rows, floors, out / "solvers.png")


def _budgets(values: Sequence[str]) -> list[int]:
  if not values or not all(v.strip().isdigit() and int(v) >= 2 for v in values):
    raise ValueError(f"--calls must be numbers of at least 2, such as 5,10,20; got {values}")
  return sorted({int(v) for v in values})


def _worker(
    stack: contextlib.ExitStack, report: dict[str, Any], say: Any
) -> rivals.Worker | None:
  """The other libraries, or None if none is installed; reports those that are missing."""
  worker = stack.enter_context(rivals.worker(_PYTHON.value))
  report["absent"] = [*worker.absent.values(), *worker.notes]
  for why in report["absent"]:
    say(f"left out: {why}")
  return worker if worker.names else None


if __name__ == "__main__":
  cli.run(main)
