"""Sixteen seeds of the 2-D MLP as one program, compared with sixteen successive runs.

  python -m experiments.benchmarks.sweeps --out=runs/bench/sweeps.json

steady: throughput of compiled steps, and the bound from the processor's speed of matrix products.
The single run has a process with one device, as in experiments.train: it is slower in a process
with more devices.
commands: `experiments.sweep`, with its evaluation, table and report, compared with equally many
`experiments.train`, including start-up. Compiled programs are in the cache.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments.benchmarks import dispatches, measure
from experiments.benchmarks.measure import Part, Row
from experiments.config import cli
from experiments.configs import mixture2d
from experiments.run import assembly
from experiments.sweeping import group_training, program

_OUT = flags.DEFINE_string("out", "runs/bench/sweeps.json", "Where to write the numbers.")
_SEEDS = flags.DEFINE_integer("seeds", 16, "Number of seeds.")
_STEPS = flags.DEFINE_list("steps", ["200", "1000"], "Steps of the runs of `commands`.")
_BATCHES = flags.DEFINE_list("batch_sizes", ["512", "64"], "Batch sizes of `steady`.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Number of rounds of `steady`.")
_ONLY = flags.DEFINE_list("only", [], "Parts to measure: steady, commands. Default: both.")


def main() -> int:
  base, seeds = mixture2d.get_config(), _SEEDS.value
  assembly.configure_jax(config_lib.override(
      base, {"training.cpu_devices": group_training.devices(seeds, 1)}))
  timer = measure.Timer(_REPEATS.value, 2.0)
  measure.report({
      "steady": lambda: _joined(steady(timer, config_lib.override(
          base, {"training.batch_size": int(size)}), seeds) for size in _BATCHES.value),
      "commands": lambda: _joined(commands(int(steps), seeds) for steps in _STEPS.value)},
                 only=_ONLY.value, out=_OUT.value)
  return 0


def steady(timer: measure.Timer, config: config_lib.Config, seeds: int) -> Part:
  """Throughput of the compiled steps of all seeds, relative to a single run."""
  run = dispatches.on_devices(assembly.prepare(config), jax.devices()[:1])
  batches = [dispatches.stacked(run, seed) for seed in range(seeds)]
  all_batches = tuple(np.stack(part) for part in zip(*batches, strict=True))
  what = f"batch {config.training.batch_size}"
  with dispatches.process(config) as alone:
    tasks = {"a run": alone}
    for name, at_once in (("loop", 1), ("vmap", seeds)):
      many = program.make([(run, seed) for seed in range(seeds)], jax.devices(), at_once=at_once)
      tasks[name] = dispatches.under_way(
          lambda states, many=many: many.advance(many.members, states, all_batches),
          many.init(many.members))
    times = timer(tasks, what)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(
      run.init, jax.random.key(0)).params))
  # For each weight one product forward and two backward, each a multiplication and an addition.
  least = 6.0 * parameters * config.training.batch_size / _peak()
  step = times["a run"] / config.training.steps_per_dispatch
  return Part([
      Row(f"a run's step ÷ what its products alone take on all cores, {what}",
          measure.spread(step / least), note=f"a step takes {1e3 * np.median(step):.3f} ms"),
      *(Row(f"{seeds} seeds as one program, {name} over members, {what}: times as fast",
            measure.ratio(seeds * times["a run"], times[name])) for name in ("loop", "vmap"))],
              {what: times})


def commands(steps: int, seeds: int) -> Part:
  """Time of whole commands: all runs in succession, and the sweep."""
  with tempfile.TemporaryDirectory() as folder:
    room = pathlib.Path(folder)
    (room / "sweep.py").write_text(
        f"SEEDS = tuple(range({seeds}))\nsweep = lambda: {{'all': {{}}}}\n")

    def seconds(command: str, place: str, *more: str) -> float:
      begun = time.perf_counter()
      # experiments.sweep evaluates its runs, here on few samples; experiments.train does not.
      done = subprocess.run(
          [sys.executable, "-m", f"experiments.{command}",
           f"--config={pathlib.Path(mixture2d.__file__)}", f"--config.training.steps={steps}",
           "--config.evaluation.num_samples=100", f"--workdir={room / place}", *more],
          capture_output=True, text=True,
          env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(room / "cache")})
      if done.returncode:
        raise OSError(f"experiments.{command}: {done.stderr.strip().splitlines()[-1:]}")
      return time.perf_counter() - begun

    seconds("train", "warm")  # fill the cache
    seconds("sweep", "warm_sweep", f"--sweep={room / 'sweep.py'}")
    whole = seconds("sweep", "sweep", f"--sweep={room / 'sweep.py'}")
    runs = [seconds("train", str(seed), f"--config.seed={seed}") for seed in range(seeds)]
  row = Row(f"{seeds} runs of {steps} steps ÷ the sweep, whole commands",
            measure.spread([sum(runs) / whole]), note=f"{sum(runs):.1f} s and {whole:.1f} s")
  return Part([row], {f"{steps} steps": {"runs": runs, "sweep": [whole]}})


def _joined(parts) -> Part:
  parts = list(parts)
  return Part([row for part in parts for row in part.rows],
              {what: times for part in parts for what, times in part.seconds.items()})


def _peak() -> float:
  """Operations per second of a large float32 matrix product on all cores."""
  a = jnp.ones((2048, 2048))
  product = jax.jit(lambda a: a @ a)
  times = measure.interleaved({"product": measure.repeated(lambda: product(a))}, repeats=3,
                              seconds=0.5)
  return 2.0 * 2048**3 / float(np.min(times["product"]))


if __name__ == "__main__":
  cli.run(main)
