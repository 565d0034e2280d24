"""Groups as processes: here, no more than so many at once, or on Slurm.

Each is `python -m experiments.sweep --workdir=… --group=i`, and all it needs is the workdir, which
has to be on a disk that every machine sees. What a group prints is in groups/<i>/log.txt.

No local process outlives the sweep that started it, however that ends: it would hold the lock of
its group. SIGTERM and Ctrl-C end processes first; after a kill their standard input is closed.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence

import jax

from experiments.sweeping import groups, plan

ROOT = pathlib.Path(__file__).parent.parent.parent
TERMINATED = 128 + signal.SIGTERM
# Processes that were told to end have this long; one that compiles hears nothing until it is done.
_GRACE_SECONDS = 10.0


def local(
    workdir: pathlib.Path, whole: plan.Plan, todo: Sequence[int], *, workers: int, at_once: int
) -> dict[int, str]:
  """Trains the groups `todo`; {group: error} of those that failed.

  A single group is trained within this process, which spares its start.
  """
  if len(todo) == 1:
    return {i: error for i in todo if (error := _here(workdir, whole, i, at_once))}
  running: set[subprocess.Popen] = set()
  starting, ending = threading.Lock(), threading.Event()

  def work(index):
    log = workdir / "groups" / str(index) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = command(workdir, index, workers=workers, at_once=at_once)
    with log.open("a") as out:
      with starting:
        if ending.is_set():
          return ""
        print(f"group {index} begins: {'; '.join(whole.groups[index][:4])} (log: {log})",
              flush=True)
        # Nothing is written to the pipe: it ends with this process, and its reader with it.
        process = subprocess.Popen([*words, "--until_stdin_closes"], stdin=subprocess.PIPE,
                                   stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
        running.add(process)
      code = process.wait()
      process.stdin.close()
      running.discard(process)
    print(f"group {index} {'is done' if code == 0 else f'failed, exit code {code}'}", flush=True)
    return "" if code == 0 else last_words(log, f"its process ended with exit code {code}")

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    try:
      found = list(pool.map(work, todo))
    except BaseException:
      with starting:
        ending.set()
      pool.shutdown(wait=False, cancel_futures=True)
      _end(list(running))
      raise
  return {i: error for i, error in zip(todo, found, strict=True) if error}


def _end(processes: Sequence[subprocess.Popen]) -> None:
  """SIGTERM to all, and SIGKILL to those that do not mind it; returns when all have ended."""
  for process in processes:
    process.terminate()
  for process in processes:
    try:
      process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
  """SIGTERM ends what is inside as Ctrl-C does: processes first, locks after, with a message.

  Outside the main thread, which alone hears signals, nothing changes.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end is not to be cut short
    print("SIGTERM: ending; the same command goes on", file=sys.stderr, flush=True)
    raise SystemExit(TERMINATED)

  before = signal.signal(signal.SIGTERM, end)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def end_with_stdin() -> None:
  """Ends this process when its standard input is closed, from a thread of its own.

  At once and whatever is under way: everything on disk is written so that a kill does no harm.
  """
  def wait():
    while os.read(sys.stdin.fileno(), 1):
      pass
    print("error: the sweep that started this has ended", file=sys.stderr, flush=True)
    os._exit(TERMINATED)

  threading.Thread(target=wait, daemon=True).start()


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
    jobs[index] = executor.submit(submitit.helpers.CommandFunction(words, cwd=ROOT))
    print(f"group {index} is Slurm job {jobs[index].job_id}: {'; '.join(whole.groups[index][:4])}",
          flush=True)
  errors = {}
  for index, job in jobs.items():
    if (error := job.exception()) is not None:
      errors[index] = (_said(job.stderr() or str(error)) or f"job {job.job_id} ended: {error}")
  return errors


def command(workdir: pathlib.Path, index: int, *, workers: int, at_once: int) -> list[str]:
  """What trains one group."""
  return [sys.executable, "-m", "experiments.sweep", f"--workdir={workdir.absolute()}",
          f"--group={index}", f"--workers={workers}", f"--at_once={at_once}"]


def last_words(log: pathlib.Path, otherwise: str) -> str:
  """The error that a group's log ends with."""
  return _said(log.read_text(errors="replace")) or otherwise


def _said(text: str) -> str:
  """The last line that looks like an exception's or this project's."""
  lines = [line for line in text.splitlines()
           if re.match(r"error: |[\w.]*(Error|Exception): ", line)]
  return lines[-1].removeprefix("error: ")[:500] if lines else ""


def _here(workdir: pathlib.Path, whole: plan.Plan, index: int, at_once: int) -> str:
  try:
    groups.train(workdir, whole, index, at_once=at_once)
  except (ValueError, OSError, FloatingPointError, MemoryError,
          jax.errors.JaxRuntimeError) as error:
    return " ".join(str(error).split())[:500]
  return ""


