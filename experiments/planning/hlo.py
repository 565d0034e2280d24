"""Parses the text of a compiled XLA module, and computes the number of iterations of loops.

`compiled.as_text()` is the scheduled program of one device, with the layout and memory of every
array. The parser reads the parts that costs need.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

_BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "f4e2m1fn": 4, "token": 0, "opaque": 0}
_LINE = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")
# More iterations than any loop of a training step has. A longer loop is assumed to end by its data.
_MAX_TRIPS = 100_000


class Array(NamedTuple):
  """The type of an array.

  dims: sizes in logical order. layout: the axes, from minor to major.
  tile: the last axes of the layout are padded to multiples of it.
  space: 0 is HBM, 1 is vector memory; others are on the chip or hold flags.
  """

  dtype: str
  dims: tuple[int, ...]
  layout: tuple[int, ...]
  tile: tuple[int, ...]
  space: int

  @property
  def bits(self) -> int:
    """The bits of one element."""
    if self.dtype in _BITS:
      return _BITS[self.dtype]
    return int(re.search(r"\d+", self.dtype).group())

  @property
  def size(self) -> int:
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """The bytes of the elements, without padding, as sent between chips."""
    return self.size * self.bits // 8

  @property
  def stored_bytes(self) -> int:
    """The bytes in memory, with the padding of tiles."""
    dims = [self.dims[axis] for axis in self.layout]
    for i, side in enumerate(reversed(self.tile[-len(dims):] if dims else ())):
      dims[i] = -(-dims[i] // side) * side
    return math.prod(dims) * self.bits // 8


class Instruction(NamedTuple):
  """An instruction `name = shapes op(operands), attributes`.

  shapes: the result, or the flat list of arrays of a tuple. arguments: the text in the parentheses,
  which is the value of a constant and the index of a parameter. called: names of computations.
  """

  name: str
  op: str
  shapes: tuple[Array, ...]
  operands: tuple[str, ...]
  arguments: str
  attributes: str
  called: tuple[str, ...]


class Computation(NamedTuple):
  """Instructions by name, in the order of the schedule; `root` is the result."""

  name: str
  instructions: dict[str, Instruction]
  root: Instruction
  parameters: tuple[str, ...]


class Module(NamedTuple):
  """All computations by name, and the entry computation."""

  computations: dict[str, Computation]
  entry: Computation


def parse(text: str) -> Module:
  """The module of a text of `compiled.as_text()`.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations, entry, name, lines = {}, "", "", []
  for line in text.splitlines():
    if line.endswith("{") and line[:1] not in ("", " ", "}"):
      name = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0]
      entry, lines = name if line.startswith("ENTRY") else entry, []
    elif line.startswith("}") and name:
      computations[name], name = _computation(name, lines), ""
    elif name:
      lines.append(line)
  if not entry:
    raise ValueError(f"no compiled module: the text has no ENTRY computation, got {text[:60]!r}")
  return Module(computations, computations[entry])


def operands(computation: Computation, instruction: Instruction) -> tuple[Array, ...]:
  """The arrays of the operands of an instruction."""
  return tuple(array for name in instruction.operands
               for array in computation.instructions[name].shapes)


def _computation(name, lines):
  """The computation of the lines of its body."""
  instructions, root = {}, None
  for line in lines:
    match = _LINE.match(line)
    if not match:
      continue
    instruction = _instruction(match.group(2), re.sub(r"/\*.*?\*/", "", line[match.end():]))
    instructions[instruction.name] = instruction
    root = instruction if match.group(1) else root
  parameters = sorted((i for i in instructions.values() if i.op == "parameter"),
                      key=lambda i: int(i.arguments))
  return Computation(name, instructions, root or instruction, tuple(i.name for i in parameters))


def _instruction(name, rest):
  """The instruction `name = rest`."""
  end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
  shapes, rest = rest[:end], rest[end:].lstrip()
  start = rest.index("(")
  end = _closing(rest, start)
  arguments, attributes = rest[start + 1:end - 1], rest[end:]
  called = tuple(_CALLED.findall(attributes))
  for branches in re.findall(r"branch_computations=\{([^}]*)\}", attributes):
    called += tuple(part.strip().lstrip("%") for part in branches.split(","))
  called += tuple(re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes))
  return Instruction(name, rest[:start], tuple(_arrays(shapes)), tuple(_NAME.findall(arguments)),
                     arguments, attributes, called)


def _closing(text, start):
  """The position after the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.finditer(r"[()]", text[start:]):
    depth += 1 if match.group() == "(" else -1
    if not depth:
      return start + match.end()
  raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


@functools.lru_cache(maxsize=100_000)
def _arrays(text: str) -> list[Array]:
  """The arrays in the text of a type."""
  arrays = []
  for dtype, dims, layout in _ARRAY.findall(text):
    dims = tuple(int(d.strip().lstrip("<=")) for d in dims.split(",") if d.strip())
    order, _, rest = layout.partition(":")
    order = tuple(int(axis) for axis in order.split(",") if axis.strip())
    tile = re.search(r"T\(([\d,]+)\)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    arrays.append(Array(
        dtype, dims, order or tuple(reversed(range(len(dims)))),
        tuple(int(side) for side in tile.group(1).split(",")) if tile else (),
        int(space.group(1)) if space else 0))
  return arrays


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
  """The number of iterations of the while loop `loop` in `computation`; None if it depends on data.

  It is XLA's `known_trip_count` if the text has one. TPU programs have none. There the scalars of
  the loop are evaluated from their constant initial values, through body and condition, until the
  condition fails.
  """
  known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes)
  if known:
    return int(known.group(1))
  condition = module.computations[re.search(r"condition=%?([\w.\-]+)", loop.attributes).group(1)]
  body = module.computations[loop.called[-1]]
  start = computation.instructions[loop.operands[0]]
  carried = {}
  for i, name in enumerate(start.operands if start.op == "tuple" else ()):
    value = _scalar(module, computation, name, lambda *_: None)
    if value is not None:
      carried[i] = value
  for trips in range(_MAX_TRIPS):
    continues = _scalar(module, condition, condition.root.name, _carried(carried))
    if continues is None:
      return None
    if not continues:
      return trips
    if body.root.op != "tuple":
      return None
    carried = {i: value for i in carried if (value := _scalar(
        module, body, body.root.operands[i], _carried(carried))) is not None}
  return None


def _carried(values: dict[int, int]) -> Callable[[int, int | None], int | None]:
  """The `parameter` of `_scalar` for a loop, whose only parameter is the tuple of `values`."""
  return lambda parameter, index: values.get(index)


_SCALAR = {
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b,
    "minimum": min, "maximum": max, "and": lambda a, b: a & b, "or": lambda a, b: a | b,
    "not": lambda a: not a, "convert": lambda a: a, "copy": lambda a: a, "bitcast": lambda a: a,
    "reshape": lambda a: a, "copy-start": lambda a: a, "copy-done": lambda a: a,
}
_COMPARE = {
    "LT": lambda a, b: a < b, "LE": lambda a, b: a <= b, "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b, "EQ": lambda a, b: a == b, "NE": lambda a, b: a != b,
}


def _scalar(module, computation, name, parameter):
  """The value of an integer or boolean scalar, or None if it is unknown.

  `parameter(i, j)` is the value of element j of parameter i; of the whole parameter if j is None.
  """
  instruction = computation.instructions[name]
  value = lambda operand: _scalar(module, computation, operand, parameter)
  if instruction.op == "constant":
    text = instruction.arguments
    return {"true": 1, "false": 0}.get(text, int(text) if re.fullmatch(r"-?\d+", text) else None)
  if instruction.op == "parameter":
    return parameter(int(instruction.arguments), None)
  if instruction.op == "get-tuple-element":
    source = computation.instructions[instruction.operands[0]]
    index = int(re.search(r"index=(\d+)", instruction.attributes).group(1))
    if source.op == "parameter":
      return parameter(int(source.arguments), index)
    return value(source.operands[index]) if source.op == "tuple" else None
  if instruction.op in ("fusion", "call") and len(instruction.shapes) == 1:
    called = module.computations[instruction.called[0]]
    return _scalar(module, called, called.root.name,
                   lambda i, j: value(instruction.operands[i]) if j is None else None)
  direction = re.search(r"direction=(\w+)", instruction.attributes)
  function = _COMPARE[direction.group(1)] if direction else _SCALAR.get(instruction.op)
  if function is None or len(instruction.shapes[0].dims):
    return None
  values = [value(operand) for operand in instruction.operands]
  return None if None in values else int(function(*values))
