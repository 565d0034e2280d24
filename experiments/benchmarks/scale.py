"""Speed at scale: what many devices, checkpoints, a resumed start and the host cost.

  python -m experiments.benchmarks.scale --out=runs/bench/scale.json

Rivals take turns (measure.py), each row is a ratio within a round; the JSON holds all rounds and
the machine's description. The parts:

sharded: a CPU's cores, shared by 8 virtual devices, against the same step as one program. What the
cores explain is measured too: `apart`, the devices' parts of the batch as eight programs that never
hear of each other, and `exchange`, the sums of the gradients without anything else; a step that
hides nothing takes the sum of both.
checkpoints: the same steps with a save among them and without, a model of 10 M parameters.
resume: from a process's start to the end of its first step, from a checkpoint that a killed run has
left against a fresh run, both with a filled compilation cache.
host: how much of the time `experiments.train` spends on sending dispatches off, by its own
metrics.jsonl; and steps that are fed as a run feeds them against steps whose batch is there.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments.benchmarks import measure, scale_host, scale_worker
from experiments.benchmarks.measure import Part, Row
from experiments.config import cli
from experiments.configs import digits, mixture2d
from experiments.run import assembly, checkpoints, records

_OUT = flags.DEFINE_string("out", "runs/bench/scale.json", "Where to write the numbers.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Rounds of every comparison.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Time of each rival in each round.")
_ONLY = flags.DEFINE_list("only", [], "Of sharded, checkpoints, resume and host; all if not given.")

_DEVICES = 8
_SHIPPED = {"digits DiT": digits, "mixture2d MLP": mixture2d}
# About 10 M parameters; with the average and Adam's moments 178 MB.
LARGE = {"network.width": 384, "network.depth": 4, "training.batch_size": 32,
         "training.steps_per_dispatch": 1}


def main() -> int:
  parts = {"sharded": sharded, "resume": resumed, "host": host, "checkpoints": lambda: saved(
      config_lib.override(digits.get_config(), LARGE), repeats=3 * _REPEATS.value,
      seconds=_SECONDS.value)}
  chosen = _ONLY.value or list(parts)
  for name in chosen:
    if name not in parts:
      raise ValueError(f"--only must be of {', '.join(parts)}, got {name!r}")
  out = cli.out(_OUT.value, measure.is_report)
  assembly.configure_jax(digits.get_config())
  report = {"machine": measure.machine(), "command": sys.argv[1:], "rows": [], "seconds": {}}
  for name in chosen:
    before = measure.load()[0]
    print(f"{name}: load average {before}", flush=True)
    part = parts[name]()
    load = [before, measure.load()[0]]
    report["rows"] += [{"part": name, **row._asdict(), "value": row.value._asdict(),
                        "load_average": load} for row in part.rows]
    report["seconds"].update(part.seconds)
    measure.write(out, report)
    for row in part.rows:
      print(f"  {row.name}: {row.value.median:.3f} ({row.value.low:.3f}…{row.value.high:.3f})  "
            f"{row.target}  {row.note}".rstrip(), flush=True)
  print(f"\nin {out}")
  return 0


def sharded() -> Part:
  """Steps on 8 virtual devices of a CPU against one program and against what the cores explain."""
  rows, seconds = [], {}
  cores = len(os.sched_getaffinity(0))
  for name, module, batch_size in (("digits DiT", digits, 128), ("mixture2d MLP", mixture2d, 512),
                                   ("mixture2d MLP", mixture2d, 8192)):
    config = config_lib.override(module.get_config(), {"training.batch_size": batch_size})
    fsdp = config_lib.override(config, {"mesh.data": 1, "mesh.fsdp": -1})
    settings = {"one": ("sharded", 1, config), "data": ("sharded", _DEVICES, config),
                "fsdp": ("sharded", _DEVICES, fsdp), "apart": ("apart", _DEVICES, config),
                "exchange": ("exchange", _DEVICES, config)}
    processors: dict[str, list[float]] = {rival: [] for rival in settings}
    with contextlib.ExitStack() as stack:
      times = _timed({rival: _dispatches(stack.enter_context(_worker(*setting)), processors[rival])
                      for rival, setting in settings.items()}, f"{name}, batch {batch_size}")
    # The first has compiled.
    of_processors = {rival: np.array(spent[1:]) for rival, spent in processors.items()}
    seconds[f"{name}, batch {batch_size}"] = measure.plain(times)
    seconds[f"{name}, batch {batch_size}, of processors"] = measure.plain(of_processors)
    rows += compared(f"{name}, batch {batch_size}, {cores} cores", times, of_processors)
  return Part(rows, seconds)


def compared(what: str, times, processors) -> list[Row]:
  """Rows of "one", "data", "fsdp", "apart" and "exchange": seconds by the clock in each round.

  `processors`: those of processors in any number of turns.
  """
  explained = times["apart"] + times["exchange"]
  rows = [Row(f"apart ÷ one device, {what}", measure.ratio(times["apart"], times["one"]), "")]
  for mesh in ("data", "fsdp"):
    of_processors = np.median(processors[mesh]) / np.median(processors["one"])
    rows += [
        Row(f"{mesh}={_DEVICES} ÷ (apart + exchange), {what}",
            measure.ratio(times[mesh], explained), "<= 1.1"),
        Row(f"{mesh}={_DEVICES} ÷ one device, {what}", measure.ratio(times[mesh], times["one"]),
            "", f"by processor time {of_processors:.2f}")]
  return rows


def saved(config: config_lib.Config, *, repeats: int, seconds: float) -> Part:
  """The share of the time that a save a minute takes from training.

  What a save costs is all that it delays: the copy, and steps that are slower while it is written;
  steps for about `seconds` after it, and what is left of its writing then, against as many steps
  before it or after it.
  """
  run = assembly.prepare(config)
  steps = scale_worker.sharded(run)
  steps(2)
  count = max(2, round(seconds / max(_spent(lambda: steps(2))[0] / 2, 1e-9)))
  # (rounds, 2): seconds of the clock and of processors.
  times: dict[str, list[tuple[float, float]]] = {"plain": [], "saved": [], "blocked": []}
  with (tempfile.TemporaryDirectory() as workdir,
        checkpoints.manager(pathlib.Path(workdir), keep=3) as manager):
    def with_save(number):
      times["blocked"].append(_spent(lambda: checkpoints.save(manager, number, steps.state)))
      steps(count)
      checkpoints.finish(manager)

    with_save(1)  # the first makes threads and directories, and is not counted
    times["blocked"].clear()
    for number in range(2, repeats + 2):
      turns = [("plain", lambda: steps(count)), ("saved", lambda n=number: with_save(n))]
      for name, turn in turns[::1 if number % 2 else -1]:
        times[name].append(_spent(turn))
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(steps.state))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(steps.state.params))
  lost, of_processors = np.transpose(np.subtract(times["saved"], times["plain"]))
  note = (f"{parameters / 1e6:.1f} M parameters, {size / 1e6:.0f} MB; {np.median(lost):.2f} s a "
          f"save, {np.median(times['blocked'], 0)[0]:.2f} s of them before the next step is sent; "
          f"{np.median(of_processors):.2f} s of processors")
  return Part([Row("a save a minute, share of training", measure.spread(lost / 60.0), "<= 0.02",
                   note)], {"checkpoints": {name: np.transpose(values).tolist()
                                            for name, values in times.items()}})


def resumed() -> Part:
  """From process to the end of the first step of digits: from a checkpoint, and from nothing."""
  times: dict[str, list[float]] = {"fresh": [], "resumed": []}
  with tempfile.TemporaryDirectory() as room:
    room = pathlib.Path(room)
    left = room / "left"
    first_step(room, left, until="checkpoints/1")
    for number in range(-1, _REPEATS.value):
      for name in ("fresh", "resumed")[::1 if number % 2 else -1]:
        workdir = room / f"{name} {number}"
        if name == "resumed":
          shutil.copytree(left, workdir)
          (workdir / "metrics.jsonl").unlink()  # the next line there is of this process
        passed = first_step(room, workdir, until="metrics.jsonl")
        if number >= 0:  # the turn before has filled the cache
          times[name].append(passed)
        shutil.rmtree(workdir)
  medians = ", ".join(f"{name} {np.median(values):.1f} s" for name, values in times.items())
  return Part([Row("resume ÷ warm start, to the end of the first step", measure.ratio(
      *map(np.asarray, (times["resumed"], times["fresh"]))), "<= 2", medians)], {"starts": times})


def first_step(
    room: pathlib.Path, workdir: pathlib.Path, *, until: str, options: Sequence[str] = ()
) -> float:
  """Seconds of `experiments.train` until a file of `workdir` holds something; then it is killed.

  One step a dispatch, whose line of metrics is on the disk before its checkpoint is begun.

  Raises:
    OSError: it ended before.
  """
  settings = [f"--config.training.{name}=1" for name in
              ("steps_per_dispatch", "log_every", "checkpoint_every", "dispatches_in_flight")]
  begun, file = time.perf_counter(), workdir / until
  with subprocess.Popen(
      [sys.executable, "-m", "experiments.train", f"--config={pathlib.Path(digits.__file__)}",
       f"--workdir={workdir}", *settings, *options],
      env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(room / "cache")},
      stdout=subprocess.DEVNULL) as process:
    try:
      while not (file.exists() and file.stat().st_size):
        if process.poll() is not None:
          raise OSError(f"experiments.train ended with exit code {process.returncode}")
        time.sleep(0.005)
      return time.perf_counter() - begun
    finally:
      process.kill()


def host() -> Part:
  """The host's share of the time of training, and what a step loses by being fed."""
  rows, seconds = [], {}
  for name, module in _SHIPPED.items():
    config = config_lib.override(module.get_config(), {
        "training.steps": 3200 if module is mixture2d else 400})
    lines = _trained(pathlib.Path(module.__file__), config.training.steps)
    share = measure.spread(scale_host.shares(lines))
    run = assembly.prepare(config)
    times = _timed({"fed": scale_host.fed(run), "held": scale_worker.sharded(run)},
                   f"host, {name}")
    per_step = measure.plain(scale_host.pieces(run, count=20))
    seconds |= {f"host {name}": measure.plain(times), f"host {name}, of a step": per_step}
    note = "µs a step: " + ", ".join(
        f"{piece} {1e6 * np.median(values):.0f}" for piece, values in per_step.items())
    rows += [Row(f"host's share of the time, {name}", share, "< 1", note),
             Row(f"fed ÷ batch held on the device, {name}",
                 measure.ratio(times["fed"], times["held"]), "<= 1.05")]
  return Part(rows, seconds)


def _trained(file: pathlib.Path, steps: int) -> list[dict[str, float]]:
  """The lines of metrics of a whole run of `experiments.train`."""
  with tempfile.TemporaryDirectory() as workdir:
    subprocess.run([sys.executable, "-m", "experiments.train", f"--config={file}",
                    f"--workdir={workdir}/run", f"--config.training.steps={steps}"],
                   check=True, stdout=subprocess.DEVNULL)
    return records.read_metrics(pathlib.Path(workdir) / "run")


@contextlib.contextmanager
def _worker(task: str, devices: int, config: config_lib.Config) -> Iterator[subprocess.Popen]:
  """A process of scale_worker, ended on the way out."""
  setting = {"task": task, "devices": devices, "config": config_lib.to_json(config)}
  with subprocess.Popen(
      [sys.executable, "-m", "experiments.benchmarks.scale_worker", json.dumps(setting)],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
    try:
      yield worker
    finally:
      worker.kill()


def _dispatches(worker: subprocess.Popen, spent: list[float]) -> measure.Task:
  """n dispatches of a worker, whose processor time, per dispatch, is added to `spent`."""
  def dispatches(n):
    print(n, file=worker.stdin, flush=True)
    answer = worker.stdout.readline()
    if not answer:
      raise OSError("a worker has ended; its message is above")
    spent.append(float(answer) / n)

  return dispatches


def _spent(action) -> tuple[float, float]:
  """Seconds that an action has taken, by the clock and of processors."""
  begun, processors = time.perf_counter(), time.process_time()
  action()
  return time.perf_counter() - begun, time.process_time() - processors


def _timed(tasks, what: str) -> dict[str, np.ndarray]:
  times = measure.interleaved(tasks, repeats=_REPEATS.value, seconds=_SECONDS.value)
  print(f"  {what}: " + ", ".join(
      f"{name} {1e3 * np.median(t):.4g} ms" for name, t in times.items()), flush=True)
  return times


if __name__ == "__main__":
  cli.run(main)
