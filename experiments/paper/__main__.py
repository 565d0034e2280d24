"""The paper reproduced: every table, figure and question measured, and one report of them.

  python -m experiments.paper --out=runs/paper            (12 minutes on 2 cores; --fast: 3)
  python -m experiments.paper --density=mine.json         (your own mixture)
  python -m experiments.paper --workdir=runs/digits       (where does your run break duality?)

Parts run as processes, one a core, and keep what they found in <out>/data/; the same command goes
on where it was stopped, and measures again only what another source code or setting had made.
Parts run on the CPU, many at once; JAX_PLATFORMS=cuda chooses another device.

<out>/report.html needs no other file, and neither does <out>/explorer.html.
"""

import importlib
import os
import pathlib
import sys

import jax
from absl import flags

from experiments.config import cli
from experiments.paper import certificate, explorer, part, report
from experiments.run import assembly, records, subprocesses

# In the order of the paper, which is that of the report.
NAMES = ("tables", "identity", "clouds", "steps", "trajectories", "cycle", "plane_run",
         "digits_run", "duality", "certificate", "stochasticity", "vae", "flow_matching",
         "appendix")
# Longest first, where nothing needs to wait: the last to end are then short.
_ORDER = ("plane_run", "digits_run", "flow_matching", "vae", "stochasticity", "duality",
          "certificate")

part.define_flags()
_ONLY = flags.DEFINE_list("only", [], f"Parts to run, of {', '.join(NAMES)}; all if not given. The "
                          "report then holds these alone.")
_WORKDIR = flags.DEFINE_string("workdir", "", "A trained run of yours, whose duality is certified "
                               "in the place of the report's own run.")


def main() -> int:
  if flags.FLAGS.until_stdin_closes:
    subprocesses.end_with_stdin()
  if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    jax.config.update("jax_platforms", "cpu")  # it was imported before
  options = part.options()
  names = _ONLY.value or list(NAMES)
  for name in names:
    if name not in NAMES:
      raise ValueError(f"--only must be among {', '.join(NAMES)}, got {name!r}")
  part.check(options)
  workdir = part.from_root(_WORKDIR.value) if _WORKDIR.value else None
  if workdir:
    # What is wrong with a run is said before an hour of others' computing.
    assembly.trained(subprocesses.ROOT / workdir)
    certificate.extra(subprocesses.ROOT / workdir)
  parts = [certificate.part(workdir) if name == "certificate" else _part(name)
           for name in NAMES if name in names]
  with records.locked(options.out, flag="--out"), subprocesses.ended_in_order():
    errors = _measured(parts, options)
    records.write_text(options.out / "explorer.html", explorer.build())
    file = report.write(options.out, parts, errors, sys.argv[1:])
  print(f"{file} and {options.out / 'explorer.html'} are written")
  for name, error in errors.items():
    print(f"error: {name}: {error} (all it said: {_log(options.out, name)})", file=sys.stderr)
  return 1 if errors else 0


def _part(name: str) -> part.Part:
  try:
    return importlib.import_module(f"experiments.paper.{name}").PART
  except ModuleNotFoundError as error:
    raise ValueError(f"the part {name} needs {error.name}: pip install -e '.[paper]'") from error


def _measured(parts, options) -> dict[str, str]:
  jobs = [subprocesses.Job(
      one.name, [sys.executable, *part.command(one, options), "--until_stdin_closes"],
      _log(options.out, one.name), after=one.needs) for one in parts]
  jobs.sort(key=lambda job: _ORDER.index(job.name) if job.name in _ORDER else len(_ORDER))
  left = len(jobs)

  def ended(job, code, seconds):
    nonlocal left
    left -= 1
    how = "done" if code == 0 else f"failed, exit code {code}"
    print(f"{job.name}: {how} in {seconds:.0f} s; {left} left", flush=True)

  return subprocesses.run(
      jobs, workers=min(len(subprocesses.cores()), len(jobs)), pinned=True, ended=ended,
      began=lambda job: print(f"{job.name} begins (log: {job.log})", flush=True))


def _log(out: pathlib.Path, name: str) -> pathlib.Path:
  return out / "logs" / f"{name}.txt"


if __name__ == "__main__":
  cli.run(main)
