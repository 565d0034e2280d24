"""Measures every table, figure and question of the paper, and writes one report.

  python -m experiments.paper --out=runs/paper            (12 minutes on 2 cores; --fast: 3)
  python -m experiments.paper --density=mine.json         (your own mixture)
  python -m experiments.paper --workdir=runs/digits       (where does your run break duality?)

Parts are measured in processes, one for each core, and kept in <out>/data/. The same command
resumes after an interruption, and measures only parts whose code or settings have changed. Parts
run on the CPU; JAX_PLATFORMS=cuda selects another device.

<out>/report.html and <out>/explorer.html need no other file.
"""

import os
import pathlib
import sys

import jax
from absl import flags

from experiments.config import cli
from experiments.paper import contents, explorer, options, record, report, setting
from experiments.run import assembly, records, subprocesses

# The longest parts first, so that all cores end together.
_ORDER = ("plane_run", "digits_run", "flow_matching", "vae", "stochasticity", "duality",
          "certificate")

options.define()
_ONLY = flags.DEFINE_list("only", [], f"Parts of the report: {', '.join(contents.PARTS)}. "
                          "Default: all.")


def main() -> int:
  if flags.FLAGS.until_stdin_closes:
    subprocesses.end_with_stdin()
  if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    jax.config.update("jax_platforms", "cpu")  # jax is imported already
  given = options.given()
  for name in _ONLY.value:
    if name not in contents.PARTS:
      raise ValueError(f"--only must be among {', '.join(contents.PARTS)}, got {name!r}")
  record.check(given)
  if given.workdir:
    record.describe_run(given.workdir)
    assembly.trained(subprocesses.ROOT / given.workdir)  # raises for a bad run, before long work
  parts = [part for name, part in contents.PARTS.items() if not _ONLY.value or name in _ONLY.value]
  with records.locked(given.out, flag="--out"), subprocesses.ended_in_order():
    errors = _measure([part for part in parts if not record.is_current(part, given)], given)
    records.write_text(given.out / "explorer.html", explorer.build())
    file = report.write(given.out, parts, errors, sys.argv[1:])
  print(f"{file} and {given.out / 'explorer.html'} are written")
  for name, error in errors.items():
    print(f"error: {name}: {error} (its output: {_log(given.out, name)})", file=sys.stderr)
  return 1 if errors else 0


def _measure(parts: list[contents.Part], given: setting.Setting) -> dict[str, str]:
  """Measures parts in separate processes. Returns errors by name."""
  jobs = [subprocesses.Job(
      part.name, [sys.executable, *record.command(part, given), "--until_stdin_closes"],
      _log(given.out, part.name), after=part.needs) for part in parts]
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
