"""The real training step, compiled for a slice of TPUs, and the largest batch that fits on it."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments import config as config_lib
from experiments.planning import costs, hlo, topologies
from experiments.run import assembly, meshes
from langevin_jax.training import shardings

# Compilations of the search, besides the config's own batch, and how far one goes beyond the last:
# where next to nothing depends on the batch, a line says little.
_MOST_TRIES = 5
_FARTHEST = 16


class Step(NamedTuple):
  """One compilation. hbm_bytes: arguments + outputs − aliased + temporaries + program, of a chip.

  spent is None where the compiler has refused, because it needs more than there is; hbm_bytes is
  then what it says that it needs.
  """

  batch_size: int
  hbm_bytes: int
  spent: costs.Costs | None


class Job(NamedTuple):
  """What to compile: a config for examples of `shape` on the mesh of a topology's devices."""

  config: config_lib.Config
  shape: tuple[int, ...]
  num_classes: int
  topology: topologies.Topology
  mesh: jax.sharding.Mesh


def check(config: config_lib.Config, topology: topologies.Topology) -> None:
  """Raises ValueError for a mesh that is not the topology's size, or a batch it does not divide."""
  try:
    sizes = meshes.shape(config.mesh, topology.chips)
    assembly.check(config)
    meshes.check_batch(config.training, jax.sharding.AbstractMesh(sizes, shardings.AXES))
  except ValueError as error:
    raise ValueError(f"{topology.name}: {error}") from error


def compile_step(job: Job, batch_size: int) -> Step:
  """Compiles the training step for a batch of `batch_size` over all chips.

  Raises:
    ValueError: libtpu cannot compile it, for another reason than memory.
  """
  config = dataclasses.replace(job.config, training=dataclasses.replace(
      job.config.training, batch_size=batch_size))
  run = assembly.assemble(config, job.shape, job.num_classes, job.mesh)
  state = assembly.abstract_state(run)
  batch = (jax.ShapeDtypeStruct((batch_size, *job.shape), jnp.float32),
           jax.ShapeDtypeStruct((batch_size,), jnp.int32))
  lowered = assembly.train_step(run).lower(state, jax.ShapeDtypeStruct((), jnp.uint32), batch)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = refused_bytes(str(error))
    if needed is None:
      reason = str(error).splitlines()[0]
      raise ValueError(f"libtpu cannot compile for {job.topology.name}: {reason}") from error
    return Step(batch_size, needed + _held_bytes(state), None)
  memory = compiled.memory_analysis()
  hbm = (memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
         + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes)
  return Step(batch_size, hbm, costs.count(hlo.parse(compiled.as_text())))


def refused_bytes(message: str) -> int | None:
  """What the compiler says that a program needs besides its arguments; None: no word of memory."""
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  found = (re.search(r"\(([\d.]+)([KMGT])\) exceeds available HBM", message)
           or re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", message))
  if not found:
    return None
  return int(float(found.group(1)) * 2 ** (10 * ("KMGT".index(found.group(2)) + 1)))


def _held_bytes(state) -> int:
  """Of a state's arrays, on one chip."""
  return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
             for leaf in jax.tree.leaves(state))


def fits(step: Step, topology: topologies.Topology) -> bool:
  return step.spent is not None and step.hbm_bytes <= topology.chip.hbm_bytes


def search(
    first: Step, unit: int, capacity: int, compile_at: Callable[[int], Step]
) -> tuple[Step | None, Step | None]:
  """(largest batch found to fit, smallest found not to), multiples of `unit`; None: none was found.

  HBM is near affine in the batch. So a second batch gives a line, the line a guess, and every
  guess is compiled; one that does not fit moves the line and is guessed again, lower. There is an
  end to trying: only where the two are one `unit` apart is the first the largest there is.
  """
  steps = [first]
  good = lambda step: step.spent is not None and step.hbm_bytes <= capacity
  for guess in _guesses(steps, unit, capacity, good):
    steps.append(compile_at(guess))
  return _edges(steps, good)


def _edges(steps: list[Step], good: Callable[[Step], bool]) -> tuple[Step | None, Step | None]:
  return (max(filter(good, steps), key=lambda step: step.batch_size, default=None),
          min(itertools.filterfalse(good, steps), key=lambda step: step.batch_size, default=None))


def _guesses(steps, unit, capacity, good) -> Iterator[int]:
  """Batches to compile next, seeing in `steps` what has become of those before."""
  size = steps[0].batch_size
  yield 2 * size if good(steps[0]) else max(size // 2 // unit, 1) * unit
  doubted = False
  for _ in range(_MOST_TRIES - 1):
    below, above = _edges(steps, good)
    lower, upper = below and below.batch_size, above and above.batch_size
    # On both sides of the edge, or else the two nearest to it.
    near = (below, above) if below and above else sorted(
        steps, key=lambda step: abs(step.hbm_bytes - capacity))[:2]
    (a, x), (b, y) = ((s.batch_size, s.hbm_bytes) for s in near)
    slope = (y - x) / (b - a) if a != b else 0.0
    guess = int(a + (capacity - x) / slope) // unit * unit if slope > 0.0 else (
        2 * max(s.batch_size for s in steps))
    if upper is not None:
      guess = min(guess, upper - unit)
    if lower is not None:
      guess = min(guess, _FARTHEST * lower)
    guess = max(guess, unit)
    if guess <= (lower or 0) and not doubted:  # the line says that nothing larger fits
      guess, doubted = lower + unit, True
    elif guess <= (lower or 0) and upper is not None:  # and it is not so
      guess = (lower + upper) // 2 // unit * unit
    if guess <= (lower or 0) or any(s.batch_size == guess for s in steps):
      return
    yield guess
