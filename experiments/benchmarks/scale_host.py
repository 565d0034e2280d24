"""The host's work for a dispatch: read, stack, place and send, as in experiments.train.

The device never waits while this work takes less time than the dispatches in flight, of which there
are training.dispatches_in_flight − 1.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments import data
from experiments.benchmarks import dispatches, measure
from experiments.run import assembly, multihost
from langevin_jax.training import shardings


def shares(lines: Sequence[dict[str, float]]) -> np.ndarray:
  """host_seconds_per_step × steps_per_second of each line except the first, which compiles."""
  return np.array([line["host_seconds_per_step"] * line["steps_per_second"] for line in lines[1:]])


def fed(run: assembly.Run) -> measure.Task:
  """A task of dispatches whose batches are read, stacked, placed and sent as in a run."""
  feeding = _feeding(run)
  return dispatches.under_way(
      lambda state: feeding.send(state, feeding.place(feeding.read())), assembly.start(run))


def pieces(run: assembly.Run, *, count: int) -> dict[str, np.ndarray]:
  """Host seconds per step of each piece of work, in `count` dispatches; the devices are idle."""
  feeding = _feeding(run)
  state = assembly.start(run)
  spent: dict[str, list[float]] = {"read and stack": [], "place": [], "send": []}

  def timed(name, action, *arguments):
    begun = time.perf_counter()
    result = action(*arguments)
    spent[name].append((time.perf_counter() - begun) / run.config.training.steps_per_dispatch)
    return jax.block_until_ready(result)

  for _ in range(count + 1):
    batch = timed("place", feeding.place, timed("read and stack", feeding.read))
    state, _ = timed("send", feeding.send, state, batch)
  return {name: np.asarray(values[1:]) for name, values in spent.items()}  # the first compiles


class Feeding(NamedTuple):
  """read() → batches of the next dispatch, place(batches) → arrays, send(state, arrays)."""

  read: Callable[[], tuple[np.ndarray, ...]]
  place: Callable[[tuple[np.ndarray, ...]], tuple[jax.Array, ...]]
  send: Callable[..., tuple]


def _feeding(run: assembly.Run) -> Feeding:
  config = run.config.training
  many = config.steps_per_dispatch > 1
  step = assembly.train_step(run, many=many)
  held = multihost.rows(shardings.batch(run.mesh), (config.batch_size,))
  batches = data.stream(run.dataset, seed=0, start=0, stop=10**9, batch_size=config.batch_size,
                        rows=held)

  def read():
    parts = [next(batches) for _ in range(config.steps_per_dispatch)]
    return tuple(map(np.stack, zip(*parts, strict=True))) if many else parts[0]

  def place(local):
    return tuple(multihost.place(shardings.batch(run.mesh, axis=int(many)), part, held,
                             config.batch_size, axis=int(many)) for part in local)

  return Feeding(read, place, lambda state, batch: step(state, np.uint32(1), batch))
