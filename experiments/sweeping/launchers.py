"""Runs the groups of a sweep as processes: several at once on this machine, or as Slurm jobs.

Each process is `python -m experiments.sweep --workdir=… --group=i`. It needs only the workdir,
which must be in a bucket, or on a disk that all machines share. The output of a group is in
groups/<i>/log.txt.

Local processes end with the sweep that started them (`experiments/run/subprocesses.py`). Otherwise
they would hold the locks of their groups.
"""

import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence

import jax

from experiments.run import buckets, files, subprocesses
from experiments.sweeping import group_training, layouts


def local(
    workdir: pathlib.Path, layout: layouts.Layout, todo: Sequence[int], *, workers: int,
    at_once: int,
) -> dict[int, str]:
  """Trains the groups `todo`. Returns {group: error} of those that failed.

  A single group is trained in this process, which saves the start of another one. In a bucket a log
  is written when its group has ended.
  """
  if len(todo) == 1:
    error = _in_this_process(workdir, layout, todo[0], at_once)
    return {todo[0]: error} if error else {}
  log = lambda name: workdir / "groups" / name / "log.txt"

  def began(job):
    print(f"group {job.name} begins: {_names(layout, int(job.name))} (log: {log(job.name)})",
          flush=True)

  def ended(job, code, seconds):
    if job.log != log(job.name):
      buckets.write(log(job.name), job.log.read_bytes())
    print(f"group {job.name} {'is done' if code == 0 else f'failed, exit code {code}'}", flush=True)

  with tempfile.TemporaryDirectory() as scratch:
    place = pathlib.Path(scratch) if buckets.is_bucket(workdir) else workdir / "groups"
    errors = subprocesses.run(
        [subprocesses.Job(
            str(i), [*command(workdir, i, workers=workers, at_once=at_once),
                     "--until_stdin_closes"],
            place / str(i) / "log.txt", directory=pathlib.Path.cwd()) for i in todo],
        workers=workers, began=began, ended=ended)
  return {int(name): error for name, error in errors.items()}


def slurm(
    workdir: pathlib.Path, layout: layouts.Layout, todo: Sequence[int], *, at_once: int,
    resources: Mapping[str, str | int], cluster: str = "slurm",
) -> dict[int, str]:
  """As `local`, with a Slurm job for each group; returns when all jobs have ended.

  Args:
    resources: arguments of submitit, such as slurm_partition, timeout_min and gpus_per_node.
    cluster: the name of the system in submitit.

  Raises:
    ValueError: submitit is not installed, or there is no Slurm.
  """
  try:
    import submitit
    executor = submitit.AutoExecutor(folder=workdir.absolute() / "slurm", cluster=cluster)
  except ImportError as error:
    raise ValueError("--launcher=slurm needs submitit: pip install 'langevin_jax[slurm]'"
                     ) from error
  except RuntimeError as error:
    raise ValueError(f"--launcher=slurm: {error}") from error
  executor.update_parameters(**resources)
  jobs = {}
  for i in todo:
    jobs[i] = executor.submit(submitit.helpers.CommandFunction(
        command(workdir, i, workers=1, at_once=at_once), cwd=pathlib.Path.cwd(),
        env=subprocesses.environment()))
    print(f"group {i} is Slurm job {jobs[i].job_id}: {_names(layout, i)}", flush=True)
  ends = {i: job.exception() for i, job in jobs.items()}  # waits for all
  return {i: subprocesses.said(jobs[i].stderr() or str(end)) or f"job {jobs[i].job_id} ended: {end}"
          for i, end in ends.items() if end is not None}


def command(workdir: pathlib.Path, index: int, *, workers: int, at_once: int) -> list[str]:
  """The command that trains one group."""
  return [sys.executable, "-m", "experiments.sweep", f"--workdir={files.absolute(workdir)}",
          f"--group={index}", f"--workers={workers}", f"--at_once={at_once}"]


def _names(layout: layouts.Layout, index: int) -> str:
  """The first models of a group, for messages."""
  return "; ".join(layout.groups[index][:4])


def _in_this_process(
    workdir: pathlib.Path, layout: layouts.Layout, index: int, at_once: int
) -> str:
  """Trains a group. Returns its error, or ""."""
  try:
    group_training.train(workdir, layout, index, at_once=at_once)
  except (ValueError, OSError, FloatingPointError, MemoryError, OverflowError,
          jax.errors.JaxRuntimeError) as error:
    return " ".join(str(error).split())[:500]
  return ""
