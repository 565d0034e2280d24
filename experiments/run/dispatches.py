"""Dispatches: the steps of a training, sent to the devices a few at a time."""

import functools
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.run import assembly, multihost, signals
from langevin_jax import training
from langevin_jax.training import shardings

# A signal is answered between dispatches, so a dispatch of several steps takes this long at most.
_DISPATCH_SECONDS = 1.0


class Dispatch(NamedTuple):
  """The steps start…end.

  state: after them. measured: their metrics, still being computed, with an axis of at least as many
  steps. host_seconds: time that the host spent on sending them.
  """

  start: int
  end: int
  state: training.TrainState
  measured: training.Metrics
  host_seconds: float


def whole_steps(config: config_lib.Training, start: int, end: int) -> tuple[int, int]:
  """start and end rounded down to multiples of `steps_per_dispatch`; the last step as it is.

  What is due every so many steps is due at these: how many steps a dispatch has depends on time,
  and files do not.
  """
  whole = lambda step: step // config.steps_per_dispatch * config.steps_per_dispatch
  return whole(start), end if end == config.steps else whole(end)


def passes(every: int, start: int, end: int) -> bool:
  """Whether a multiple of `every` lies in (start, end]; never for 0."""
  return every > 0 and end // every > start // every


def run_steps(run: assembly.Run, state: training.TrainState) -> Iterator[Dispatch]:
  """Trains to the last step, dispatch by dispatch, so that a signal is answered soon.

  A dispatch is sent before the metrics of the one before are read, so the devices do not wait for
  the host. The first has one step, because it compiles, which a signal ends; the second has one,
  because it is timed. The others have as many as `_DISPATCH_SECONDS` allow. Where a step takes
  longer, none is sent ahead of the signal that may have come meanwhile.
  """
  config, first = run.config.training, int(state.step)
  most = assembly.steps_at_once(run)
  several = most > 1
  step = assembly.train_step(run, many=several)
  held = multihost.rows(shardings.batch(run.mesh), (config.batch_size,))
  batches = data.stream(run.dataset, seed=run.config.seed, start=first, stop=config.steps,
                        batch_size=config.batch_size, rows=held)
  seed = np.uint32(run.config.seed + 1)
  start, allowed, seconds = first, 0, math.inf  # seconds: of one step
  while start < config.steps:
    begun = time.perf_counter()
    # Dispatches end at multiples of `most`.
    count = min(max(allowed, 1), most - start % most, config.steps - start)
    batch = _place(run, [next(batches) for _ in range(count)], most, held)
    send = functools.partial(
        step, state, seed, batch, *([np.int32(count)] if several else []))
    sent = send() if start > first else signals.unless_stopped(
        lambda send=send: jax.block_until_ready(send()))
    if sent is None:
      return
    state, measured = sent
    host_seconds, slow = time.perf_counter() - begun, seconds > _DISPATCH_SECONDS
    if slow:
      jax.block_until_ready(measured)
      spent = time.perf_counter() - begun
    yield Dispatch(start, start + count, state, measured, host_seconds)
    if start > first:
      # Who takes a dispatch waits for the one before.
      seconds = (spent if slow else time.perf_counter() - begun) / count
      # Processes agree on it once: each time would be a collective.
      if not allowed or jax.process_count() == 1:
        allowed = _steps_allowed(seconds, most)
    start += count


def _place(run: assembly.Run, parts: list[Any], most: int, held: np.ndarray) -> Any:
  """The batches on the devices, stacked where a dispatch may have several steps.

  One program takes any number of steps: the last batch is repeated to `most`.
  """
  axis = int(most > 1)
  parts = parts + [parts[-1]] * (most - len(parts))
  local = jax.tree.map(lambda *leaves: np.stack(leaves), *parts) if axis else parts[0]
  sharding, size = shardings.batch(run.mesh, axis=axis), run.config.training.batch_size
  return jax.tree.map(
      lambda leaf: multihost.place(sharding, leaf, held, size, axis=axis), local)


def _steps_allowed(seconds: float, most: int) -> int:
  """The steps of a dispatch where one takes `seconds`; the same on every process."""
  count = int(np.clip(_DISPATCH_SECONDS / max(seconds, 1e-9), 1, most))
  return count if jax.process_count() == 1 else int(multihost.broadcast(np.int32(count)))
