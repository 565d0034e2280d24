"""Dispatches of training as tasks for `measure`, in this process or in another one.

  python -m experiments.benchmarks.dispatches CONFIG

CONFIG is the text of a config.json. For each line "n" on stdin the process runs n dispatches and
then prints a line. A run that is compared with programs on many devices has its own process with
one device. In a process with many devices it would be 25 % slower, because of their threads.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.benchmarks import measure
from experiments.run import assembly, meshes
from langevin_jax.training import shardings


def main() -> None:
  config = config_lib.from_json(sys.argv[1])
  assembly.configure_jax(config)
  task = sharded(assembly.prepare(config))
  for line in sys.stdin:
    task(int(line))
    print("done", flush=True)


def sharded(run: assembly.Run) -> measure.Task:
  """A task of training steps on the run's mesh, as in experiments.train, with one fixed batch."""
  many = run.config.training.steps_per_dispatch > 1
  step = assembly.train_step(run, many=many)
  batch = jax.device_put(stacked(run), shardings.batch(run.mesh, axis=int(many)))
  return under_way(lambda state: step(state, np.uint32(1), batch), assembly.start(run))


@contextlib.contextmanager
def process(config: config_lib.Config) -> Iterator[measure.Task]:
  """A context with a task of n dispatches of the config's run, in a process with one device."""
  config = config_lib.override(config, {"training.cpu_devices": 1})
  with answering("experiments.benchmarks.dispatches", config_lib.to_json(config)) as ask:
    yield ask


@contextlib.contextmanager
def answering(
    module: str, *arguments: str, environment: Mapping[str, str] = {}
) -> Iterator[Callable[[int], str]]:
  """A context with a process `python -m module`, and a function ask(n) → its answer to a line."""
  with subprocess.Popen([sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, text=True, env=os.environ | environment) as worker:
    def ask(n):
      print(n, file=worker.stdin, flush=True)
      if answer := worker.stdout.readline():
        return answer
      raise OSError(f"{module} has ended; its message is above")

    try:
      yield ask
    finally:
      worker.kill()


def on_devices(run: assembly.Run, devices: Sequence[jax.Device]) -> assembly.Run:
  """The same run on other devices."""
  return assembly.assemble(
      run.config, run.dataset.train.shape[1:], run.dataset.num_classes,
      meshes.make(run.config.mesh, devices))._replace(dataset=run.dataset)


def stacked(run: assembly.Run, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """The batches of one dispatch: one batch, or a stack of one batch per step."""
  config = run.config.training
  batches = [data.batch(run.dataset, seed=seed, step=step, batch_size=config.batch_size)
             for step in range(config.steps_per_dispatch)]
  return batches[0] if len(batches) == 1 else tuple(map(np.stack, zip(*batches, strict=True)))


def under_way(step: Callable[[Any], tuple[Any, Any]], state: Any) -> measure.Task:
  """A task of n dispatches of step(state) → (state, metrics), two in flight, as in training.

  The attribute `state` of the task is the last state.
  """
  def loop(n):
    measured = None
    for _ in range(n):
      before = measured
      loop.state, measured = step(loop.state)
      jax.block_until_ready(before)
    jax.block_until_ready((loop.state, measured))

  loop.state = state
  return loop


if __name__ == "__main__":
  main()
