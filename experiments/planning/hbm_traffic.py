"""HBM traffic of one kernel: the bytes that it reads and writes, with the padding of tiles."""

import collections
from collections.abc import Iterator

from experiments.planning import collectives, hlo

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
         "partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"}
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AsyncCollectiveStart", "AsyncCollectiveDone")
_SLICES = {"dynamic-slice", "slice", "gather"}


def traffic(
    module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction
) -> int:
  """The bytes that one kernel reads from HBM and writes to HBM."""
  op, outputs = instruction.op, instruction.shapes
  stored = lambda arrays: sum(array.stored_bytes for array in arrays if not array.space)
  if op in _FREE or op.endswith("-done"):
    return 0
  if _is_name(instruction):
    return 0
  if op == "copy-start":
    return stored(outputs[:2])
  if op == "slice-start":
    source, result = outputs[0], outputs[1]
    return result.stored_bytes * ((not source.space) + (not result.space))
  operands = [computation.instructions[name].shapes for name in instruction.operands]
  if op in _SLICES:
    return stored(outputs) + (0 if operands[0][0].space else outputs[0].stored_bytes)
  if op == "dynamic-update-slice":
    return stored(operands[1]) + (0 if outputs[0].space else operands[1][0].stored_bytes)
  if op != "fusion":
    return stored(outputs) + sum(map(stored, operands))
  reads, writes = _shares(module, module.computations[instruction.called[0]])
  if len(writes) != len(outputs):  # one instruction computes all outputs
    writes = writes[:1] * len(outputs)
  return round(sum(share * stored(arrays) for share, arrays in zip(reads, operands, strict=True))
               + sum(share * stored([array]) for share, array in zip(writes, outputs, strict=True)))


def _shares(
    module: hlo.Module, computation: hlo.Computation
) -> tuple[list[float], list[float]]:
  """(the share of each parameter that a fusion reads, the share of each result that it writes).

  A slice reads only its elements. An update of a slice of a parameter writes only that slice, in
  place, and does not read the rest.
  """
  instructions = computation.instructions
  needed = collections.defaultdict(float)  # the share of each instruction that is computed
  root = computation.root
  results = root.operands if root.op == "tuple" else (root.name,)
  for name in results:
    # A parameter that is returned unchanged is neither read nor written.
    needed[name] = 0.0 if instructions[name].op == "parameter" else 1.0
  for instruction in reversed(instructions.values()):
    if instruction is root and root.op == "tuple":
      continue
    for operand, share in _demands(module, computation, instruction, needed[instruction.name]):
      needed[operand] = min(1.0, max(needed[operand], share))
  reads = [needed[name] for name in computation.parameters]
  return reads, [_written(module, computation, name) for name in results]


def _demands(
    module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction, share: float
) -> Iterator[tuple[str, float]]:
  """Yields (operand, the share of it that `instruction` reads to compute `share` of its result)."""
  nested = None
  if instruction.op == "fusion":
    nested = _shares(module, module.computations[instruction.called[0]])[0]
  for i, operand in enumerate(instruction.operands):
    source = computation.instructions[operand]
    size = sum(array.size for array in source.shapes)
    result_size = sum(array.size for array in instruction.shapes)
    if nested is not None:
      yield operand, nested[i]
    elif collectives.chain(instruction) or _is_name(instruction):
      yield operand, 0.0  # a piece of a collective is counted with its chain
    elif collectives.kind(computation, instruction):
      yield operand, 1.0
    elif i == 0 and instruction.op in _SLICES:
      yield operand, share * result_size / max(size, 1)
    elif i == 0 and instruction.op == "dynamic-update-slice":
      yield operand, 0.0
    elif result_size == size:
      yield operand, share
    else:
      yield operand, 1.0 if share else 0.0


def _written(module: hlo.Module, computation: hlo.Computation, name: str) -> float:
  """The share of the result `name` that a fusion writes."""
  instruction = computation.instructions[name]
  if instruction.op in ("bitcast", "convert"):
    return _written(module, computation, instruction.operands[0])
  if instruction.op == "dynamic-update-slice":
    update = computation.instructions[instruction.operands[1]].shapes[0]
    return update.size / max(instruction.shapes[0].size, 1)
  if instruction.op == "fusion":
    written = _shares(module, module.computations[instruction.called[0]])[1]
    return written[0] if len(written) == 1 else 1.0
  free = (instruction.op == "parameter" or collectives.chain(instruction)
          or _is_name(instruction))
  return 0.0 if free else 1.0


def _is_name(instruction: hlo.Instruction) -> bool:
  """Whether the instruction is a call that only names memory and does no work."""
  return instruction.op == "custom-call" and any(
      name in instruction.attributes for name in _FREE_CALLS)
