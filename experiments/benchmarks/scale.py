"""Costs of long runs: checkpoints, a resumed start, and the work of the host.

  python -m experiments.benchmarks.scale --out=runs/bench/scale.json

Tasks alternate and ratios are computed within a round (measure.py). The JSON file has all rounds
and a description of the machine. Parts:

checkpoints: steps with and without a save, of a model with 10 M parameters.
resume: time to the end of the first step, from a checkpoint of a killed run and from nothing, both
with a filled compilation cache.
host: the share of time in which `experiments.train` prepares and sends dispatches, from its
metrics.jsonl; and steps with batches read as in a run, relative to steps with one fixed batch.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments.benchmarks import dispatches, measure, scale_host, starts
from experiments.benchmarks.measure import Part, Row
from experiments.config import cli
from experiments.configs import digits, mixture2d
from experiments.run import assembly, checkpoints, records

_OUT = flags.DEFINE_string("out", "runs/bench/scale.json", "Where to write the numbers.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Number of rounds of each comparison.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Seconds of each task in each round.")
_ONLY = flags.DEFINE_list("only", [], "Parts to measure: checkpoints, resume, host. Default: all.")

# About 10 M parameters; with the average and Adam's moments 178 MB.
LARGE = {"network.width": 384, "network.depth": 4, "training.batch_size": 32,
         "training.steps_per_dispatch": 1}


def main() -> int:
  assembly.configure_jax(digits.get_config())
  timer = measure.Timer(_REPEATS.value, _SECONDS.value)
  large = config_lib.override(digits.get_config(), LARGE)
  measure.report({
      "resume": lambda: starts.resumed(_REPEATS.value),
      "host": lambda: host(timer), "checkpoints": lambda: saved(
          large, repeats=3 * _REPEATS.value, seconds=_SECONDS.value)},
                 only=_ONLY.value, out=_OUT.value)
  return 0


def saved(config: config_lib.Config, *, repeats: int, seconds: float) -> Part:
  """The share of training time lost to one save a minute.

  The cost of a save is its whole delay: the copy, the steps that are slower during the writing, and
  the rest of the writing after them. It is the time of a save, of steps for about `seconds`, and of
  the rest of the writing, minus the time of equally many steps without a save.
  """
  steps = dispatches.sharded(assembly.prepare(config))
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

    with_save(1)  # the first save creates threads and directories; it is not counted
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
                   note)], {"checkpoints": {name: np.transpose(values)
                                            for name, values in times.items()}})


def host(timer: measure.Timer) -> Part:
  """The host's share of training time, and the cost of reading batches."""
  rows, seconds = [], {}
  for name, module, steps in (("digits DiT", digits, 400), ("mixture2d MLP", mixture2d, 3200)):
    with tempfile.TemporaryDirectory() as workdir:
      subprocess.run([sys.executable, "-m", "experiments.train",
                      f"--config={pathlib.Path(module.__file__)}", f"--workdir={workdir}/run",
                      f"--config.training.steps={steps}"], check=True, stdout=subprocess.DEVNULL)
      lines = records.read_metrics(pathlib.Path(workdir) / "run")
    run = assembly.prepare(module.get_config())
    times = timer({"fed": scale_host.fed(run), "held": dispatches.sharded(run)}, f"host, {name}")
    per_step = scale_host.pieces(run, count=20)
    seconds |= {f"host {name}": times, f"host {name}, of a step": per_step}
    note = "µs a step: " + ", ".join(
        f"{piece} {1e6 * np.median(values):.0f}" for piece, values in per_step.items())
    rows += [Row(f"host's share of the time, {name}", measure.spread(scale_host.shares(lines)),
                 "< 1", note),
             Row(f"fed ÷ batch held on the device, {name}",
                 measure.ratio(times["fed"], times["held"]), "<= 1.05")]
  return Part(rows, seconds)


def _spent(action) -> tuple[float, float]:
  """Wall-clock seconds and processor seconds of an action."""
  begun, processors = time.perf_counter(), time.process_time()
  action()
  return time.perf_counter() - begun, time.process_time() - processors


if __name__ == "__main__":
  cli.run(main)
