"""Sixteen seeds of the 2-D MLP as one program, against sixteen runs one after another.

  python -m experiments.benchmarks.sweeps --out=runs/bench/sweeps.json

Counted twice. In the steady state: examples a second of compiled steps, turn about, and beside them
what the processor's own best product leaves possible; the run is in a process with one device, as
experiments.train would have it, since beside other devices it is slower. As commands: from the
shell's point of view, `experiments.sweep` with its measuring, table and report, against as many
`experiments.train`, with start-up and everything else, compiled programs found in the cache.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.benchmarks import measure
from experiments.config import cli
from experiments.configs import mixture2d
from experiments.run import assembly, meshes, records
from experiments.sweeping import groups, program

_OUT = flags.DEFINE_string("out", "runs/bench/sweeps.json", "Where the numbers go.")
_SEEDS = flags.DEFINE_integer("seeds", 16, "How many.")
_STEPS = flags.DEFINE_list("steps", ["200", "1000"], "Steps of the runs whose commands are timed.")
_BATCHES = flags.DEFINE_list("batch_sizes", ["512", "64"], "Of the steady state.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds of the steady state.")
_RIVAL = flags.DEFINE_integer("rival", 0, "Be the run by itself, of this batch size: as many "
                              "dispatches as each line of standard input says.")
_CONFIG = pathlib.Path(mixture2d.__file__)


def main() -> int:
  base = mixture2d.get_config()
  if _RIVAL.value:
    return _be_rival(base, _RIVAL.value)
  out = cli.out(_OUT.value, measure.is_report)
  assembly.configure_jax(dataclasses.replace(base, training=dataclasses.replace(
      base.training, cpu_devices=groups.devices(_SEEDS.value, 1))))
  report = {"seeds": _SEEDS.value, "steady": {}, "commands": {}}
  for batch_size in map(int, _BATCHES.value):
    report["steady"][str(batch_size)] = _steady(base, batch_size)
  for steps in map(int, _STEPS.value):
    report["commands"][str(steps)] = _commands(steps)
  report["machine"] = measure.machine()
  records.write_text(out, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
  print(f"\nwrote {out}")
  return 0


def _steady(base: config_lib.Config, batch_size: int) -> dict:
  """Seconds of one member's step, and ratios of throughput to that of a run by itself."""
  run = _run(base, batch_size)
  k, n = base.training.steps_per_dispatch, _SEEDS.value
  batches = [_stacked(run, seed) for seed in range(n)]
  all_batches = tuple(np.stack(part) for part in zip(*batches, strict=True))
  with _rival(batch_size) as alone:
    tasks = {"a run": alone}
    for name, at_once in (("loop", 1), ("vmap", n)):
      many = program.make([(run, seed) for seed in range(n)], jax.devices(), at_once=at_once)
      tasks[name] = _loop(
          lambda states, many=many: many.advance(many.members, states, all_batches),
          many.init(many.members))
    times = measure.interleaved(tasks, repeats=_REPEATS.value, seconds=2.0)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(
      run.init, jax.random.key(0)).params))
  # Two products a weight in the gradient, one forward; a multiply and an add each.
  least = 6.0 * parameters * batch_size / _peak()
  alone = times["a run"] / k
  found = {"seconds of a step of a run": measure.spread(alone)._asdict(),
           "least seconds, by products alone": least,
           "ratio possible": float(np.median(alone)) / least}
  print(f"batch {batch_size}: a run's step {1e3 * np.median(alone):.3f} ms; products alone would "
        f"take {1e3 * least:.3f} ms on all cores: no more than {np.median(alone) / least:.2f} ×")
  for name in ("loop", "vmap"):
    ratio = measure.ratio(n * times["a run"], times[name])
    found[f"ratio, {name}"] = ratio._asdict()
    print(f"  {n} seeds as one program, {name} over members: {ratio.median:.2f} × "
          f"({ratio.low:.2f} … {ratio.high:.2f})", flush=True)
  return found


def _run(base: config_lib.Config, batch_size: int) -> assembly.Run:
  """The run on the first device."""
  config = config_lib.override(base, {"training.batch_size": batch_size})
  one = meshes.make(config_lib.Mesh(1, 1, 1), jax.devices()[:1])
  dataset = groups.dataset_of(config)
  return assembly.assemble(config, dataset.train.shape[1:], dataset.num_classes, one)._replace(
      dataset=dataset)


@contextlib.contextmanager
def _rival(batch_size: int) -> Iterator[measure.Task]:
  """run(n): n dispatches of a run in a process of its own, which waits for them in between."""
  with subprocess.Popen(
      [sys.executable, "-m", "experiments.benchmarks.sweeps", f"--rival={batch_size}"], text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

    def run(n):
      process.stdin.write(f"{n}\n")
      process.stdin.flush()
      if process.stdout.readline() != "done\n":
        raise OSError(f"the run by itself ended with exit code {process.wait()}")

    yield run
    process.stdin.close()


def _be_rival(base: config_lib.Config, batch_size: int) -> int:
  assembly.configure_jax(base)
  run = _run(base, batch_size)
  step, batches = assembly.train_step(run, many=True), _stacked(run, 0)
  loop = _loop(lambda state: step(state, np.uint32(1), batches), assembly.start(run))
  for line in sys.stdin:
    loop(int(line))
    print("done", flush=True)
  return 0


def _peak() -> float:
  """Operations a second of a large float32 product on all cores."""
  a = jnp.ones((2048, 2048))
  product = jax.jit(lambda a: a @ a)
  times = measure.interleaved({"product": measure.repeated(lambda: product(a))}, repeats=3,
                              seconds=0.5)
  return 2.0 * 2048**3 / float(np.min(times["product"]))


def _stacked(run: assembly.Run, seed: int) -> tuple[np.ndarray, np.ndarray]:
  config = run.config.training
  parts = [data.batch(run.dataset, seed=seed, step=step, batch_size=config.batch_size)
           for step in range(config.steps_per_dispatch)]
  return tuple(np.stack(part) for part in zip(*parts, strict=True))


def _loop(step, state) -> measure.Task:
  """run(n): n dispatches, at most two under way."""
  held = [state, None]

  def loop(n):
    for _ in range(n):
      before = held[1]
      held[0], held[1] = step(held[0])
      jax.block_until_ready(before)
    jax.block_until_ready(held)

  return loop


def _commands(steps: int) -> dict:
  """Seconds of all runs one after another, and of the sweep."""
  n = _SEEDS.value
  with tempfile.TemporaryDirectory() as room:
    room = pathlib.Path(room)
    sweep = room / "sweep.py"
    sweep.write_text(f"SEEDS = tuple(range({n}))\nsweep = lambda: {{'all': {{}}}}\n")
    # experiments.train measures nothing on the way; a sweep does, of few samples here.
    shared = [f"--config={_CONFIG}", f"--config.training.steps={steps}",
              "--config.evaluation.num_samples=100"]
    runs_ = [["train", *shared, f"--config.seed={seed}", f"--workdir={room}/{seed}"]
             for seed in range(n)]
    one = lambda place: ["sweep", *shared, f"--sweep={sweep}", f"--workdir={room}/{place}"]
    for words in (["train", *shared, f"--workdir={room}/warm"], one("warm_sweep")):
      _timed(words, room)  # fills the cache
    whole = _timed(one("sweep"), room)
    apart = [_timed(words, room) for words in runs_]
  print(f"{steps} steps: {n} runs {sum(apart):.1f} s, the sweep {whole:.1f} s: "
        f"{sum(apart) / whole:.2f} ×", flush=True)
  return {"seconds of the runs": apart, "seconds of the sweep": whole,
          "ratio": sum(apart) / whole}


def _timed(words: list[str], room: pathlib.Path) -> float:
  begun = time.perf_counter()
  done = subprocess.run(
      [sys.executable, "-m", f"experiments.{words[0]}", *words[1:]], capture_output=True, text=True,
      env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(room / "cache")})
  if done.returncode:
    raise OSError(f"experiments.{words[0]}: {done.stderr.strip().splitlines()[-1:]}")
  return time.perf_counter() - begun


if __name__ == "__main__":
  cli.run(main)
