"""A program with as many CPU devices as it is told: training steps on all of them, or their parts.

  python -m experiments.benchmarks.scale_worker SETTING

SETTING is JSON: {"devices": n, "task": one of TASKS, "config": the text of a config.json}. A line
"n" on stdin asks for n dispatches; the answer is the processor time that they took, in seconds. A
process of its own for each, as a client of many devices has as many threads, and a program on one
of them is then a fourth slower.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments import config as config_lib
from experiments import data
from experiments.benchmarks import measure
from experiments.run import assembly, meshes
from langevin_jax import training
from langevin_jax.training import shardings


def main() -> None:
  setting = json.loads(sys.argv[1])
  config = config_lib.override(config_lib.from_json(setting["config"]),
                               {"training.cpu_devices": setting["devices"]})
  assembly.configure_jax(config)
  task = TASKS[setting["task"]](assembly.prepare(config))
  for line in sys.stdin:
    begun = time.process_time()
    task(int(line))
    print(time.process_time() - begun, flush=True)


def sharded(run: assembly.Run) -> measure.Task:
  """Training steps on the run's mesh, as experiments.train makes them; batches are there."""
  many = run.config.training.steps_per_dispatch > 1
  step = assembly.train_step(run, many=many)
  batch = jax.device_put(stacked(run), shardings.batch(run.mesh, axis=int(many)))
  return under_way(lambda state: step(state, np.uint32(1), batch), assembly.start(run))


def apart(run: assembly.Run) -> measure.Task:
  """What devices do when none hears of another: each takes its part of the batch as its whole."""
  config, mesh = run.config.training, run.mesh
  run = assembly.assemble(run.config, run.dataset.train.shape[1:], run.dataset.num_classes,
                      meshes.make(config_lib.Mesh(), mesh.devices.flat[:1]))._replace(
                          dataset=run.dataset)
  everyone, batches = PartitionSpec(mesh.axis_names), PartitionSpec(None, mesh.axis_names)

  def steps(state, batch):
    state, measured = training.train_steps(
        jax.tree.map(lambda a: a[0], state), jax.random.key(1), batch, loss=run.loss,
        optimizer=run.optimizer, averages=run.averages, accumulation=config.accumulation)
    return jax.tree.map(lambda a: a[None], (state, measured))

  step = jax.jit(jax.shard_map(steps, mesh=mesh, in_specs=(everyone, batches), out_specs=everyone,
                               check_vma=False), donate_argnums=0)
  x, labels = stacked(run)
  if config.steps_per_dispatch == 1:
    x, labels = x[None], labels[None]
  batch = jax.device_put((x, labels), NamedSharding(mesh, batches))
  return under_way(lambda state: step(state, batch), _copies(run, mesh, lambda state: state))


def exchange(run: assembly.Run) -> measure.Task:
  """As many sums of one gradient over all devices as a dispatch has steps, and nothing else."""
  mesh = run.mesh
  everyone = PartitionSpec(mesh.axis_names)

  def sums(gradient):
    one = lambda gradient, _: (jax.tree.map(
        lambda a: a / mesh.size, jax.lax.psum(gradient, mesh.axis_names)), None)
    return jax.lax.scan(one, gradient, None, length=run.config.training.steps_per_dispatch)[0]

  step = jax.jit(jax.shard_map(sums, mesh=mesh, in_specs=everyone, out_specs=everyone,
                               check_vma=False), donate_argnums=0)
  return under_way(lambda gradient: (step(gradient), None),
                   _copies(run, mesh, lambda state: state.params))


TASKS: dict[str, Callable[[assembly.Run], measure.Task]] = {
    "sharded": sharded, "apart": apart, "exchange": exchange}


def stacked(run: assembly.Run) -> tuple[np.ndarray, np.ndarray]:
  """What one dispatch takes: a batch, or as many as it has steps, stacked."""
  config = run.config.training
  batches = [data.batch(run.dataset, seed=0, step=step, batch_size=config.batch_size)
             for step in range(config.steps_per_dispatch)]
  return batches[0] if len(batches) == 1 else tuple(map(np.stack, zip(*batches, strict=True)))


def under_way(step: Callable[[Any], tuple[Any, Any]], state: Any) -> measure.Task:
  """run(n): n dispatches of step(state) → (state, measured), two of them under way, as in training.

  `run.state` is the state by then.
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


def _copies(run, mesh, part) -> Any:
  """A part of the first state for every device, along a leading axis."""
  make = lambda seed: jax.tree.map(lambda a: jnp.broadcast_to(a, (mesh.size, *a.shape)),
                                   part(run.init(jax.random.key(seed))))
  return jax.jit(make, out_shardings=NamedSharding(mesh, PartitionSpec(mesh.axis_names)))(
      np.uint32(run.config.seed))


if __name__ == "__main__":
  main()
