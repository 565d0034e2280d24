"""The costs of a compiled module on one device: matrix products, HBM traffic and collectives.

XLA's cost analysis counts the body of a loop once. Here it counts as often as it runs. For a
conditional, the branch that moves more bytes counts.
"""

import collections
import math
import re
from typing import NamedTuple

import numpy as np

from experiments.planning import collectives as collectives_lib
from experiments.planning import hbm_traffic, hlo
from experiments.planning.collectives import Collective


class Costs(NamedTuple):
  """Costs of one run of the module on one device.

  flops: of matrix products and convolutions only, 2 per multiply-add.
  hbm_bytes: read and written by all kernels, with the padding of tiles.
  unknown_loops: the number of loops whose length depends on data; they count as one iteration.
  """

  flops: int
  hbm_bytes: int
  collectives: tuple[Collective, ...]
  unknown_loops: int


def collective_bytes(spent: Costs) -> dict[str, int]:
  """Bytes per chip and step, by kind of collective."""
  kinds = collections.Counter()
  for collective in spent.collectives:
    kinds[collective.kind] += collective.bytes * collective.runs
  return dict(sorted(kinds.items()))


class _Sum:
  """A sum of costs.

  chains: by name, the collective of a chain of pieces, and the bytes that it moves. It runs as
    often as its first piece.
  """

  def __init__(self):
    self.flops = self.hbm_bytes = self.unknown_loops = 0
    self.collectives: list[Collective] = []
    self.chains: dict[tuple[str, str], tuple[Collective, int]] = {}

  def add(self, other: "_Sum") -> None:
    """Adds another sum."""
    self.flops += other.flops
    self.hbm_bytes += other.hbm_bytes
    self.unknown_loops += other.unknown_loops
    self.collectives += other.collectives
    for name, piece in other.chains.items():
      self.add_piece(name, *piece)

  def add_piece(self, name: tuple[str, str], collective: Collective, moved: int) -> None:
    """Adds a piece of the collective of a chain."""
    if name not in self.chains or collective.runs < self.chains[name][0].runs:
      self.chains[name] = collective, moved


def count(module: hlo.Module) -> Costs:
  """The costs of one run of `module`."""
  total = _walk(module, module.entry, 1)
  chains = list(total.chains.values())
  return Costs(
      total.flops, total.hbm_bytes + sum(c.runs * moved for c, moved in chains),
      (*total.collectives, *(c for c, _ in chains)), total.unknown_loops)


def _walk(module: hlo.Module, computation: hlo.Computation, runs: int) -> _Sum:
  """The costs of a computation that runs `runs` times."""
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
    elif collectives_lib.kind(computation, instruction):
      total.hbm_bytes += _add_collective(total, computation, instruction, runs)
    else:
      total.hbm_bytes += runs * hbm_traffic.traffic(module, computation, instruction)
      _add_products(total, module, computation, instruction, runs)
  return total


def _add_products(total: _Sum, module, computation, instruction, runs: int) -> None:
  """Adds the FLOPs of `instruction`, and the products and collectives that are fused into it."""
  if instruction.op in ("dot", "convolution"):
    total.flops += runs * flops(computation, instruction)
  elif instruction.op == "fusion":
    called = module.computations[instruction.called[0]]
    for inner in called.instructions.values():
      if collectives_lib.kind(called, inner):
        _add_collective(total, called, inner, runs)  # its traffic is part of that of the fusion
      else:
        _add_products(total, module, called, inner, runs)


def _add_collective(total: _Sum, computation, instruction, runs: int) -> int:
  """Adds a collective, or a piece of one. Returns its HBM bytes; 0 for a piece."""
  collective = collectives_lib.collective(computation, instruction, runs)
  arrays = hlo.operands(computation, instruction) + instruction.shapes
  moved = sum(array.stored_bytes for array in arrays if not array.space)
  if name := collectives_lib.chain(instruction):
    total.add_piece(name, collective, moved)
    return 0
  total.collectives.append(collective)
  return runs * moved


def flops(computation: hlo.Computation, instruction: hlo.Instruction) -> int:
  """The FLOPs of a dot or convolution, 2 per multiply-add.

  TPU programs write batched products as convolutions, with batch axes that are windows over dilated
  or padded inputs. Positions of a window outside of the input, or between its elements, do not
  count.
  """
  lhs, rhs = hlo.operands(computation, instruction)[:2]
  out, text = instruction.shapes[0], instruction.attributes
  if instruction.op == "dot":
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", text).group(1)
    return 2 * out.size * math.prod(lhs.dims[int(i)] for i in contracted.split(",") if i)
  inputs, kernel, output = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text).groups()
  batches = re.search(r"\bbatch_group_count=(\d+)", text)
  total = 2 * out.dims[output.index("f")] * rhs.dims[kernel.index("i")]
  total *= lhs.dims[inputs.index("b")] // (int(batches.group(1)) if batches else 1)
  window = re.search(r"window=\{([^}]*)\}", text)
  window = dict(part.split("=") for part in window.group(1).split()) if window else {}
  for axis, label in enumerate(sorted(c for c in output if c.isdigit())):
    part = lambda name, default, axis=axis: (
        window[name].split("x")[axis] if name in window else default)
    total *= places(
        lhs.dims[inputs.index(label)], out.dims[output.index(label)], int(part("size", 1)),
        stride=int(part("stride", 1)), low=int(part("pad", "0_0").split("_")[0]),
        spacing=int(part("lhs_dilate", 1)), dilation=int(part("rhs_dilate", 1)))
  return total


def places(
    side: int, out: int, size: int, *, stride: int, low: int, spacing: int, dilation: int
) -> int:
  """The positions of all windows along one axis of a convolution that are elements of its input.

  Args:
    side, out: elements of the input and of the result. size: of the window. low: of the padding
      before the input. spacing, dilation: of the input's elements, and of the window's.
  """
  first = np.arange(out) * stride - low
  position = first[:, None] + dilation * np.arange(size)[None, :]
  end = (side - 1) * spacing
  return int(((position >= 0) & (position <= end) & (position % spacing == 0)).sum())
