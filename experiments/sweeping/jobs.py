"""Groups as processes: here, no more than so many at once, or on Slurm.

Each is `python -m experiments.sweep --workdir=… --group=i`, and all it needs is the workdir, which
has to be on a disk that every machine sees. What a group prints is in groups/<i>/log.txt.

No local process outlives the sweep that started it, however that ends
(`experiments/run/subprocesses.py`): it would hold the lock of its group.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

import jax

from experiments.run import subprocesses as workers_lib
from experiments.sweeping import groups, plan


def local(
    workdir: pathlib.Path, whole: plan.Plan, todo: Sequence[int], *, workers: int, at_once: int
) -> dict[int, str]:
  """Trains the groups `todo`; {group: error} of those that failed.

  A single group is trained within this process, which spares its start.
  """
  if len(todo) == 1:
    return {i: error for i in todo if (error := _here(workdir, whole, i, at_once))}
  names = {str(i): i for i in todo}
  found = workers_lib.run(
      [workers_lib.Job(
          name, [*command(workdir, i, workers=workers, at_once=at_once), "--until_stdin_closes"],
          workdir / "groups" / name / "log.txt", directory=pathlib.Path.cwd())
       for name, i in names.items()],
      workers=workers,
      began=lambda job: print(
          f"group {job.name} begins: {'; '.join(whole.groups[names[job.name]][:4])} "
          f"(log: {job.log})", flush=True),
      ended=lambda job, code, seconds: print(
          f"group {job.name} {'is done' if code == 0 else f'failed, exit code {code}'}",
          flush=True))
  return {names[name]: error for name, error in found.items()}


def slurm(
    workdir: pathlib.Path, whole: plan.Plan, todo: Sequence[int], *, at_once: int,
    resources: Mapping[str, str | int], cluster: str = "slurm",
) -> dict[int, str]:
  """`local`, with a Slurm job for each group; returns when all have ended.

  Args:
    resources: slurm_partition, timeout_min, gpus_per_node, …, as submitit takes them.
    cluster: submitit's name of what to submit to.

  Raises:
    ValueError: submitit is not installed, or Slurm is not here.
  """
  try:
    import submitit
  except ImportError as error:
    raise ValueError("--launcher=slurm needs submitit: pip install 'langevin_jax[slurm]'"
                     ) from error
  try:
    executor = submitit.AutoExecutor(folder=workdir.absolute() / "slurm", cluster=cluster)
  except RuntimeError as error:
    raise ValueError(f"--launcher=slurm: {error}") from error
  executor.update_parameters(**resources)
  jobs = {}
  for index in todo:
    words = command(workdir.absolute(), index, workers=1, at_once=at_once)
    jobs[index] = executor.submit(submitit.helpers.CommandFunction(
        words, cwd=pathlib.Path.cwd(), env=workers_lib.environment()))
    print(f"group {index} is Slurm job {jobs[index].job_id}: {'; '.join(whole.groups[index][:4])}",
          flush=True)
  errors = {}
  for index, job in jobs.items():
    if (error := job.exception()) is not None:
      errors[index] = (workers_lib.said(job.stderr() or str(error))
                       or f"job {job.job_id} ended: {error}")
  return errors


def command(workdir: pathlib.Path, index: int, *, workers: int, at_once: int) -> list[str]:
  """What trains one group."""
  return [sys.executable, "-m", "experiments.sweep", f"--workdir={workdir.absolute()}",
          f"--group={index}", f"--workers={workers}", f"--at_once={at_once}"]


def _here(workdir: pathlib.Path, whole: plan.Plan, index: int, at_once: int) -> str:
  try:
    groups.train(workdir, whole, index, at_once=at_once)
  except (ValueError, OSError, FloatingPointError, MemoryError, OverflowError,
          jax.errors.JaxRuntimeError) as error:
    return " ".join(str(error).split())[:500]
  return ""


