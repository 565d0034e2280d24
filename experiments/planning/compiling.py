"""Compiles the training step for a TPU slice, and finds the largest batch that fits."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments import config as config_lib
from experiments.planning import costs, hlo, topologies
from experiments.run import assembly, meshes
from langevin_jax import conditions
from langevin_jax.training import shardings

# The number of compilations in the search, besides that of the config's batch.
_MOST_TRIES = 5
# The largest factor between a guess and the largest batch that fits. It limits extrapolation if HBM
# hardly depends on the batch.
_MOST_GROWTH = 16


class Step(NamedTuple):
  """One compilation.

  hbm_bytes: arguments + outputs − aliased + temporaries + program, per chip. If the compiler ran
    out of memory, it is the number in its message.
  spent: the costs; None if the compiler ran out of memory.
  """

  batch_size: int
  hbm_bytes: int
  spent: costs.Costs | None


class Job(NamedTuple):
  """The input of a compilation: a config, the shape of examples, and a mesh of the topology.

  kinds: of named conditions. vocabulary: the number of tokens, 0 of other data.
  """

  config: config_lib.Config
  shape: tuple[int, ...]
  num_classes: int
  kinds: Mapping[str, conditions.Kind]
  vocabulary: int
  topology: topologies.Topology
  mesh: jax.sharding.Mesh


def check(config: config_lib.Config, topology: topologies.Topology) -> None:
  """Raises ValueError if the mesh does not fit the topology, or does not divide the batch."""
  try:
    sizes = meshes.shape(config.mesh, topology.chips)
    assembly.check(config)
    meshes.check_batch(config.training, jax.sharding.AbstractMesh(sizes, shardings.AXES))
  except ValueError as error:
    raise ValueError(f"{topology.name}: {error}") from error


def compile_step(job: Job, batch_size: int) -> Step:
  """Compiles the training step for a batch of `batch_size` over all chips.

  Raises:
    ValueError: libtpu cannot compile it, for a reason other than memory.
  """
  config = dataclasses.replace(job.config, training=dataclasses.replace(
      job.config.training, batch_size=batch_size))
  run = assembly.assemble(
      config, job.shape, job.num_classes, job.mesh, job.kinds, job.vocabulary)
  state = assembly.abstract_state(run)
  batch = assembly.abstract_batch(job.shape, job.kinds, batch_size, job.vocabulary)
  lowered = assembly.train_step(run).lower(state, jax.ShapeDtypeStruct((), jnp.uint32), batch)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = needed_bytes(str(error))
    if needed is None:
      reason = str(error).splitlines()[0]
      raise ValueError(f"libtpu cannot compile for {job.topology.name}: {reason}") from error
    return Step(batch_size, needed + _state_bytes(state), None)
  memory = compiled.memory_analysis()
  hbm = (memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
         + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes)
  return Step(batch_size, hbm, costs.count(hlo.parse(compiled.as_text())))


def needed_bytes(message: str) -> int | None:
  """The memory of a program without arguments, from an error message of the compiler.

  None if the message is not about memory.
  """
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  match = (re.search(r"\(([\d.]+)([KMGT])\) exceeds available HBM", message)
           or re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", message))
  if not match:
    return None
  return int(float(match.group(1)) * 2 ** (10 * ("KMGT".index(match.group(2)) + 1)))


def _state_bytes(state) -> int:
  """The bytes of a state's arrays on one chip."""
  return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
             for leaf in jax.tree.leaves(state))


def fits(step: Step, capacity: int) -> bool:
  """Whether a compiled step fits in `capacity` bytes per chip."""
  return step.spent is not None and step.hbm_bytes <= capacity


def search(
    first: Step, unit: int, capacity: int, compile_at: Callable[[int], Step]
) -> tuple[Step | None, Step | None]:
  """(largest compiled batch that fits, smallest that does not), multiples of `unit`; None for none.

  HBM is nearly affine in the batch. A line through two compiled steps gives the next guess, which
  is compiled. If the line predicts that no larger batch fits, the next batch is compiled as a
  check. If it fits, the search continues by bisection. At most `_MOST_TRIES` batches are compiled.
  The first result is certainly the largest batch only if the two differ by one `unit`.
  """
  steps = [first]
  size = first.batch_size
  guess = 2 * size if fits(first, capacity) else max(size // 2 // unit, 1) * unit
  bisect = False
  for _ in range(_MOST_TRIES):
    if any(step.batch_size == guess for step in steps):
      break
    steps.append(compile_at(guess))
    below, above = _edges(steps, capacity)
    lower = below.batch_size if below else 0
    upper = above.batch_size if above else _MOST_GROWTH * lower + unit
    guess = min(max(_on_line(steps, below, above, capacity) // unit * unit, unit), upper - unit)
    if guess <= lower:
      guess = (lower + upper) // 2 // unit * unit if bisect else lower + unit
      bisect = True
    if not lower < guess < upper:
      break
  return _edges(steps, capacity)


def _edges(steps: list[Step], capacity: int) -> tuple[Step | None, Step | None]:
  """(the largest step that fits, the smallest that does not)."""
  step_fits, size = lambda step: fits(step, capacity), lambda step: step.batch_size
  return (max(filter(step_fits, steps), key=size, default=None),
          min(itertools.filterfalse(step_fits, steps), key=size, default=None))


def _on_line(steps: list[Step], below: Step | None, above: Step | None, capacity: int) -> int:
  """The batch that needs `capacity`, on the line through both edges or the two nearest steps."""
  a, b = (below, above) if below and above else sorted(
      steps, key=lambda step: abs(step.hbm_bytes - capacity))[:2]
  slope = (b.hbm_bytes - a.hbm_bytes) / (b.batch_size - a.batch_size)
  if slope <= 0.0:
    return 2 * max(step.batch_size for step in steps)
  return int(a.batch_size + (capacity - a.hbm_bytes) / slope)
