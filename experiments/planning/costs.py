"""What a compiled module costs one device: matrix products, HBM traffic, collectives, with trips.

XLA's own cost analysis counts the body of a loop once; here everything inside a loop counts as
often as it runs. Of a conditional, the branch that moves more bytes is counted.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.planning import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast", "ragged-all-to-all")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
         "partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"}
# Names for memory, not work.
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AsyncCollectiveStart", "AsyncCollectiveDone")
_SLICES = {"dynamic-slice", "slice", "gather"}


class Collective(NamedTuple):
  """One collective operation, `runs` times a step.

  bytes: on one device, of the array as a whole: what all-gather makes, what the others are given.
  groups: the devices that exchange among themselves, by their place in the program's device
  assignment; the (source, target) pairs of a permutation. () is all of them.
  """

  kind: str
  bytes: int
  groups: tuple[tuple[int, ...], ...]
  runs: int


class Costs(NamedTuple):
  """Of one device in one run of the module.

  flops: of matrix products (2 a multiply-add) and convolutions alone. hbm_bytes: read and written
  by every kernel, tiles' padding included. unknown_loops: how many loops end by their data; they
  are counted as one iteration.
  """

  flops: int
  hbm_bytes: int
  collectives: tuple[Collective, ...]
  unknown_loops: int


class _Sum:
  """Costs being added up. TPU programs cut a collective into pieces, fused into the kernels that
  run meanwhile: pieces of one chain are the one collective, which runs as often as its first piece.
  """

  def __init__(self):
    self.flops = self.hbm_bytes = self.unknown_loops = 0
    self.whole: list[Collective] = []
    self.chains: dict[tuple[str, ...], tuple[Collective, int]] = {}

  def add(self, other: "_Sum") -> None:
    self.flops += other.flops
    self.hbm_bytes += other.hbm_bytes
    self.unknown_loops += other.unknown_loops
    self.whole += other.whole
    for key, (collective, moved) in other.chains.items():
      self.chain(key, collective, moved)

  def chain(self, key: tuple[str, ...], collective: Collective, moved: int) -> None:
    if key not in self.chains or collective.runs < self.chains[key][0].runs:
      self.chains[key] = (collective, moved)


def count(module: hlo.Module) -> Costs:
  """The costs of one run of `module`."""
  total = _walk(module, module.entry, 1)
  chained = list(total.chains.values())
  return Costs(
      total.flops, total.hbm_bytes + sum(c.runs * moved for c, moved in chained),
      (*total.whole, *(c for c, _ in chained)), total.unknown_loops)


def _walk(module, computation, runs) -> _Sum:
  total = _Sum()
  for instruction in computation.instructions.values():
    op = instruction.op
    if op == "while":
      trips = hlo.trip_count(module, computation, instruction)
      total.unknown_loops += trips is None
      body = module.computations[instruction.called[-1]]
      total.add(_walk(module, body, runs * (1 if trips is None else trips)))
    elif op == "conditional":
      branches = [_walk(module, module.computations[c], runs) for c in instruction.called]
      total.add(max(branches, key=lambda branch: branch.hbm_bytes))
    elif op in ("call", "async-start"):
      for called in instruction.called:
        total.add(_walk(module, module.computations[called], runs))
    elif kind := _kind(computation, instruction):
      _collective(total, computation, instruction, kind, runs, top=True)
    else:
      total.hbm_bytes += runs * _traffic(module, computation, instruction)
      _products(module, computation, instruction, total, runs)
  return total


def _products(module, computation, instruction, total, runs):
  """Adds the flops of `instruction`, and of products and collectives fused into it."""
  if instruction.op in ("dot", "convolution"):
    total.flops += runs * flops(computation, instruction)
  elif instruction.op == "fusion":
    called = module.computations[instruction.called[0]]
    for inner in called.instructions.values():
      if kind := _kind(called, inner):
        _collective(total, called, inner, kind, runs, top=False)
      else:
        _products(module, called, inner, total, runs)


def _kind(computation, instruction):
  """Which of KINDS the instruction is, or ""; an all-reduce of which parts are kept scatters."""
  kind = instruction.op.removesuffix("-start")
  if kind not in KINDS:
    return ""
  if kind == "all-reduce" and "scatter" in computation.name:
    users = [i for i in computation.instructions.values() if instruction.name in i.operands]
    if all(user.op == "dynamic-slice" for user in users):
      return "reduce-scatter"
  return kind


def _collective(total, computation, instruction, kind, runs, *, top):
  operands = _operands(computation, instruction)
  groups = device_groups(instruction.attributes)
  size = sum(array.bytes for array in operands)
  if kind == "all-gather":
    size = sum(array.bytes for array in instruction.shapes[
        len(operands) if instruction.op.endswith("-start") else 0:])
  collective = Collective(kind, size, groups, runs)
  moved = sum(array.stored_bytes for array in operands + instruction.shapes if not array.space)
  chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
  if chain:
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    total.chain((channel.group(1) if channel else "", chain.group(1)), collective, moved)
  else:
    total.whole.append(collective)
    # Fused, it moves what the fusion moves.
    total.hbm_bytes += runs * moved if top else 0


def device_groups(attributes: str) -> tuple[tuple[int, ...], ...]:
  """The groups of a collective, or the pairs of a permutation; () where all take part.

  XLA writes them out, as {{0,1},{2,3}}, as an arrangement, [2,2]<=[4] or [2,2]<=[2,2]T(1,0), or as
  axes of a mesh, mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}.

  Raises:
    ValueError: none of these.
  """
  listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})?\}", attributes)
  if listed:
    return tuple(tuple(int(i) for i in group.split(","))
                 for group in re.findall(r"\{([\d, ]+)\}", listed.group(1) or ""))
  arranged = re.search(
      r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
  numbers = lambda text: tuple(int(part) for part in text.split(","))
  if arranged:
    shape, dims, order = arranged.groups()
    ids = np.arange(math.prod(numbers(dims))).reshape(numbers(dims))
    ids = ids.transpose(numbers(order)) if order else ids
    return tuple(map(tuple, ids.reshape(numbers(shape)).tolist()))
  mesh = re.search(
      r"replica_groups=mesh\[([^\]]*)\]"
      r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}", attributes)
  if mesh and ":" not in mesh.group(4):
    axes, dims, order, grouped = mesh.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if dims:
      ids = ids.reshape(numbers(dims)).transpose(numbers(order)) if order else ids
    ids = ids.reshape(tuple(sizes.values()))
    inner = [list(sizes).index(name) for name in re.findall(r"'([^']+)'", grouped)]
    outer = [i for i in range(len(sizes)) if i not in inner]
    width = math.prod(ids.shape[i] for i in inner)
    return tuple(map(tuple, ids.transpose(outer + inner).reshape(-1, width).tolist()))
  if "replica_groups" in attributes:
    text = attributes[attributes.index("replica_groups"):][:120]
    raise ValueError(f"cannot read the devices of a collective from {text!r}")
  return ()


def flops(computation: hlo.Computation, instruction: hlo.Instruction) -> int:
  """2 multiply-adds of a dot or convolution.

  TPU programs write batched products as convolutions whose batch axes are windows over dilated or
  padded inputs: a window's places outside of the input, and between its elements, are no work.
  """
  lhs, rhs = _operands(computation, instruction)[:2]
  out, text = instruction.shapes[0], instruction.attributes
  if instruction.op == "dot":
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", text).group(1)
    return 2 * out.size * math.prod(lhs.dims[int(i)] for i in contracted.split(",") if i)
  inputs, kernel, output = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text).groups()
  batches = int(_attribute(text, "batch_group_count", "1"))
  total = 2 * out.dims[output.index("f")] * rhs.dims[kernel.index("i")]
  total *= lhs.dims[inputs.index("b")] // batches
  window = re.search(r"window=\{([^}]*)\}", text)
  window = dict(part.split("=") for part in window.group(1).split()) if window else {}
  for axis, label in enumerate(sorted(c for c in output if c.isdigit())):
    part = lambda name, default, axis=axis: (
        window[name].split("x")[axis] if name in window else default)
    low = int(part("pad", "0_0").split("_")[0])
    first = np.arange(out.dims[output.index(label)]) * int(part("stride", 1)) - low
    size, dilation = int(part("size", 1)), int(part("rhs_dilate", 1))
    place = first[:, None] + dilation * np.arange(size)[None, :]
    spread = int(part("lhs_dilate", 1))
    end = (lhs.dims[inputs.index(label)] - 1) * spread
    total *= int(((place >= 0) & (place <= end) & (place % spread == 0)).sum())
  return total


def _attribute(text, name, default):
  found = re.search(rf"\b{name}=(\w+)", text)
  return found.group(1) if found else default


def _operands(computation, instruction) -> tuple[hlo.Array, ...]:
  return tuple(array for name in instruction.operands
               for array in computation.instructions[name].shapes)


def _traffic(module, computation, instruction) -> int:
  """Bytes that one kernel reads from HBM and writes to it."""
  op, outputs = instruction.op, instruction.shapes
  stored = lambda arrays: sum(array.stored_bytes for array in arrays if not array.space)
  if op in _FREE or op.endswith("-done"):
    return 0
  if op == "custom-call" and any(name in instruction.attributes for name in _FREE_CALLS):
    return 0
  if op == "copy-start":
    return stored(outputs[:2])
  if op == "slice-start":
    source, taken = outputs[0], outputs[1]
    return taken.stored_bytes * ((not source.space) + (not taken.space))
  operands = [computation.instructions[name].shapes for name in instruction.operands]
  if op in _SLICES:
    return stored(outputs) + (0 if operands[0][0].space else outputs[0].stored_bytes)
  if op == "dynamic-update-slice":
    return stored(operands[1]) + (0 if outputs[0].space else operands[1][0].stored_bytes)
  if op != "fusion":
    return stored(outputs) + sum(map(stored, operands))
  reads, writes = _shares(module, module.computations[instruction.called[0]])
  if len(writes) != len(outputs):  # one call makes them all
    writes = writes[:1] * len(outputs)
  return round(sum(share * stored(arrays) for share, arrays in zip(reads, operands, strict=True))
               + sum(share * stored([array]) for share, array in zip(writes, outputs, strict=True)))


def _shares(module, computation) -> tuple[list[float], list[float]]:
  """Which share of each parameter a fusion reads, and of each result it writes.

  A slice reads what it takes. A result that updates a slice of a parameter writes that slice, in
  place, and does not read the rest.
  """
  instructions = computation.instructions
  wanted = collections.defaultdict(float)  # by name: the share that is computed
  root = computation.root
  results = root.operands if root.op == "tuple" else (root.name,)
  for name in results:
    # What is handed on as it came is not touched.
    wanted[name] = 0.0 if instructions[name].op == "parameter" else 1.0
  for instruction in reversed(instructions.values()):
    if instruction is root and root.op == "tuple":
      continue
    for operand, share in _demands(module, computation, instruction, wanted[instruction.name]):
      wanted[operand] = min(1.0, max(wanted[operand], share))
  reads = [wanted[name] for name in computation.parameters]
  return reads, [_written(module, computation, name) for name in results]


def _demands(module, computation, instruction, share) -> Iterator[tuple[str, float]]:
  """(operand, share of it) that `instruction` needs to compute `share` of itself."""
  nested = None
  if instruction.op == "fusion":
    nested = _shares(module, module.computations[instruction.called[0]])[0]
  for place, operand in enumerate(instruction.operands):
    source = computation.instructions[operand]
    size = sum(array.size for array in source.shapes)
    mine = sum(array.size for array in instruction.shapes)
    if nested is not None:
      yield operand, nested[place]
    elif _kind(computation, instruction):
      # In a chain, counted by itself.
      yield operand, 0.0 if "chain_id" in instruction.attributes else 1.0
    elif instruction.op == "custom-call" and any(
        name in instruction.attributes for name in _FREE_CALLS):
      yield operand, 0.0
    elif place == 0 and instruction.op in _SLICES:
      yield operand, share * mine / max(size, 1)
    elif place == 0 and instruction.op == "dynamic-update-slice":
      yield operand, 0.0
    elif mine == size:
      yield operand, share
    else:
      yield operand, 1.0 if share else 0.0


def _written(module, computation, name) -> float:
  instruction = computation.instructions[name]
  if instruction.op in ("bitcast", "convert"):
    return _written(module, computation, instruction.operands[0])
  if instruction.op == "dynamic-update-slice":
    update = computation.instructions[instruction.operands[1]].shapes[0]
    return update.size / max(instruction.shapes[0].size, 1)
  if instruction.op == "fusion":
    written = _shares(module, module.computations[instruction.called[0]])[1]
    return written[0] if len(written) == 1 else 1.0
  free = instruction.op == "parameter" or "chain_id" in instruction.attributes or (
      instruction.op == "custom-call" and any(
          word in instruction.attributes for word in _FREE_CALLS))
  return 0.0 if free else 1.0
