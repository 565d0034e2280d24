"""Collective operations of a compiled module: kinds, sizes and groups of devices."""

import math
import re
from typing import NamedTuple

import numpy as np

from experiments.planning import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
         "collective-broadcast", "ragged-all-to-all")


class Collective(NamedTuple):
  """One collective operation, which runs `runs` times per step.

  bytes: of the whole array on one device: the result of all-gather, the operand of other kinds.
  groups: the groups of devices that communicate, as indices into the device assignment of the
    program; (source, target) pairs of a permutation. () means all devices.
  """

  kind: str
  bytes: int
  groups: tuple[tuple[int, ...], ...]
  runs: int


def kind(computation: hlo.Computation, instruction: hlo.Instruction) -> str:
  """The kind of the instruction, one of KINDS, or "".

  An all-reduce whose users only slice the result is a reduce-scatter.
  """
  name = instruction.op.removesuffix("-start")
  if name not in KINDS:
    return ""
  if name == "all-reduce" and "scatter" in computation.name:
    users = [i for i in computation.instructions.values() if instruction.name in i.operands]
    if all(user.op == "dynamic-slice" for user in users):
      return "reduce-scatter"
  return name


def collective(
    computation: hlo.Computation, instruction: hlo.Instruction, runs: int
) -> Collective:
  """The collective of an instruction whose `kind` is not ""."""
  name, arrays = kind(computation, instruction), hlo.operands(computation, instruction)
  if name == "all-gather":
    is_start = instruction.op.endswith("-start")  # its results begin with the operands
    arrays = instruction.shapes[len(arrays) if is_start else 0:]
  return Collective(name, sum(array.bytes for array in arrays),
                    device_groups(instruction.attributes), runs)


def chain(instruction: hlo.Instruction) -> tuple[str, str] | None:
  """The name of the chain of the instruction; None for a complete collective.

  TPU programs split a collective into a chain of pieces, which are fused into other kernels.
  """
  chain_id = re.search(r'chain_id="(\d+)"', instruction.attributes)
  channel = re.search(r"channel_id=(\d+)", instruction.attributes)
  return (channel.group(1) if channel else "", chain_id.group(1)) if chain_id else None


def device_groups(attributes: str) -> tuple[tuple[int, ...], ...]:
  """The groups of a collective, or the pairs of a permutation; () for all devices.

  XLA has three notations:

    lists          {{0,1},{2,3}}
    iota           [2,2]<=[4]  or  [2,2]<=[2,2]T(1,0)
    mesh axes      mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}  or  device_ids=(0,2,1,3)

  Raises:
    ValueError: another notation.
  """
  listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})?\}", attributes)
  if listed:
    return tuple(tuple(int(i) for i in group.split(","))
                 for group in re.findall(r"\{([\d, ]+)\}", listed.group(1) or ""))
  iota = re.search(
      r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
  numbers = lambda text: tuple(int(part) for part in text.split(","))
  if iota:
    shape, dims, order = iota.groups()
    ids = np.arange(math.prod(numbers(dims))).reshape(numbers(dims))
    ids = ids.transpose(numbers(order)) if order else ids
    return tuple(map(tuple, ids.reshape(numbers(shape)).tolist()))
  mesh = re.search(
      r"replica_groups=mesh\[([^\]]*)\]"
      r"(?:, device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\))? \{([^}]*)\}", attributes)
  if mesh and ":" not in mesh.group(5):
    axes, dims, order, explicit, group_axes = mesh.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.array(numbers(explicit)) if explicit else np.arange(math.prod(sizes.values()))
    if dims:
      ids = ids.reshape(numbers(dims)).transpose(numbers(order)) if order else ids
    ids = ids.reshape(tuple(sizes.values()))
    inner = [list(sizes).index(name) for name in re.findall(r"'([^']+)'", group_axes)]
    outer = [i for i in range(len(sizes)) if i not in inner]
    width = math.prod(ids.shape[i] for i in inner)
    return tuple(map(tuple, ids.transpose(outer + inner).reshape(-1, width).tolist()))
  if "replica_groups" in attributes:
    text = attributes[attributes.index("replica_groups"):][:120]
    raise ValueError(f"cannot read the devices of a collective from {text!r}")
  return ()
