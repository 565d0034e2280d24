"""A choice is a call: a function by name, with literal arguments, checked by its signature.

  karras(25, rho_max=40)   predictor_corrector(heun(), euler(budget=0.2))   mylab.nets:wave(width=3)

A call names a function of its slot, such as "grid", or one of the user's as `package.module:name`.
The function's signature is the schema: names, types and defaults of arguments come from nowhere
else. Parameters that the runner fills in, such as the path of a density, are no arguments.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

_CALL = re.compile(r"\s*([A-Za-z_][\w.]*(?::[A-Za-z_][\w.]*)?)\s*(?:\((.*)\))?\s*", re.DOTALL)
_WORDS = {"inf": math.inf, "nan": math.nan, "true": True, "false": False, "none": None}


class Slot(NamedTuple):
  """A place for a choice.

  functions: the functions that a call may name, by name. provided: parameters that the runner fills
  in. number: the function whose first argument a plain number is, or "". shared: parameters that
  the runner takes itself, of every call of this slot. optional: whether None is a choice.
  """

  functions: Callable[[], Mapping[str, Callable]]
  provided: tuple[str, ...] = ()
  number: str = ""
  shared: Mapping[str, inspect.Parameter] = {}
  optional: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
  """A function's name and all its arguments by name, defaults included: (("n", 25), …)."""

  name: str
  arguments: tuple[tuple[str, Any], ...] = ()

  def __getitem__(self, argument: str) -> Any:
    return dict(self.arguments)[argument]

  def get(self, argument: str, default: Any = None) -> Any:
    return dict(self.arguments).get(argument, default)

  def __str__(self) -> str:
    return f"{self.name}({', '.join(f'{k}={_literal(v)}' for k, v in self.arguments)})"


class Bare(NamedTuple):
  """A function's name without parentheses, and arguments that were given one by one."""

  name: str
  arguments: Mapping[str, Any]


def make(value: Any, slot: str, field: str) -> Call | None:
  """The call that a string, a dict of JSON, a number or a Call stands for, checked and complete.

  Raises:
    ValueError: anything else, an unknown function or argument, or a value of another type. The
      message begins with `field`.
  """
  kind = _slots()[slot]
  if hasattr(value, "tolist"):
    value = value.tolist()  # of NumPy or jax
  if isinstance(value, str):
    name, positional, named = _parse(value, field)
  elif isinstance(value, Call):
    name, positional, named = value.name, [], dict(value.arguments)
  elif isinstance(value, Mapping) and isinstance(value.get("call"), str):
    name, positional, named = value["call"], [], {k: v for k, v in value.items() if k != "call"}
  elif kind.number and isinstance(value, (int, float)) and not isinstance(value, bool):
    name, positional, named = _call_of_number(value, kind)
  elif value is None and kind.optional:
    return None
  else:
    raise ValueError(f"{field}: expected a call such as "
                     f"{signature(next(iter(kind.functions())), slot)}, got {shown(value)}")
  if kind.number and not positional and not named and _number(name) is not None:
    name, positional, named = _call_of_number(_number(name), kind)
  if kind.optional and name.lower() == "none":
    return None
  return _bound(name, positional, named, slot, field)


def replaced(call: Call | None, path: list[str], value: Any, slot: str, field: str) -> Call | None:
  """`call` with the argument at `path` replaced; with an empty path, another call in its place.

  A bare name changes the function and keeps the arguments that were set and that both functions
  take; with parentheses it is the whole call.
  """
  if path:
    if not isinstance(call, Call):
      raise ValueError(f"{field}: there is no call yet whose arguments could be set")
    parameters = _parameters(call.name, slot, field)
    _check_names([path[0]], parameters, call.name, field)
    old, inner = call.get(path[0]), _inner(parameters[path[0]])
    if len(path) > 1 and not inner:
      raise ValueError(f"{field}.{'.'.join(path)}: {path[0]} of {call.name} is no call")
    if len(path) > 1 or (inner and isinstance(old, Call)
                         and _names_a_call(value, parameters[path[0]].annotation)):
      value = replaced(old, path[1:], value, inner, f"{field}.{path[0]}")
    return _bound(call.name, [], {**dict(call.arguments), path[0]: value}, slot, field)
  if isinstance(value, str) and "(" not in value:
    value = Bare(value, {})
  if isinstance(value, Bare) and _number(value.name) is None and (
      value.name.strip().lower() not in ("none", "")):
    name, kept = value.name.strip(), {}
    takes = _parameters(name, slot, field)
    if call is not None:
      same = name == call.name
      defaults = {k: p.default for k, p in _parameters(call.name, slot, field).items()}
      kept = {k: v for k, v in call.arguments if k in takes and (same or v != defaults[k])}
    return _bound(name, [], kept | dict(value.arguments), slot, field)
  if not isinstance(value, Bare):
    return make(value, slot, field)
  call = make(value.name, slot, field)
  for argument, each in value.arguments.items():
    call = replaced(call, [argument], each, slot, field)
  return call


def build(call: Call, slot: str, field: str, **provided: Any) -> Any:
  """What the function makes of its arguments and of those of `provided` that it has parameters for.

  Raises:
    ValueError: from the function; the message begins with `field` and the call.
  """
  function = find(call.name, slot, field)
  shared = _slots()[slot].shared
  takes = inspect.signature(function).parameters
  arguments = {k: build(v, _NESTED.get(k, k), f"{field}.{k}", **provided)
               if isinstance(v, Call) else v
               for k, v in call.arguments if k in takes or k not in shared}
  for key in _slots()[slot].provided:
    if key in takes and key in provided:
      arguments[key] = provided[key]
    elif key in takes and takes[key].default is inspect.Parameter.empty:
      raise ValueError(f"{field}: {call.name} needs {key}, which nothing fills in here")
  try:
    return function(**arguments)
  except ValueError as error:
    raise ValueError(f"{field}={short(call, slot)}: {error}") from error
  except Exception as error:  # whatever the user's own function raises
    if ":" not in call.name:
      raise
    raise ValueError(f"{field}={short(call, slot)}: {type(error).__name__}: {error}") from error


def takes(call: Call, slot: str, parameter: str) -> bool:
  """Whether the function has a parameter of this name, filled in by the runner or not."""
  return parameter in inspect.signature(find(call.name, slot, slot)).parameters


def find(name: str, slot: str, field: str) -> Callable:
  """The function that a call names. Raises ValueError with the nearest names if there is none."""
  functions = _slots()[slot].functions()
  if ":" not in name:
    if name not in functions:
      near = difflib.get_close_matches(name, functions, n=1)
      hint = f" (did you mean {near[0]}?)" if near else ""
      raise ValueError(f"{field}: no {slot} {shown(name)}{hint}; there are "
                       f"{', '.join(functions)}, or yours as package.module:name")
    return functions[name]
  module, _, attribute = name.partition(":")
  try:
    loaded = importlib.import_module(module)
  except Exception as error:  # whatever the user's own module raises
    raise ValueError(f"{field}: module {module!r} cannot be imported: {type(error).__name__}: "
                     f"{error}") from error
  try:
    found = functools.reduce(getattr, attribute.split("."), loaded)
  except AttributeError:
    raise ValueError(f"{field}: module {module!r} has no attribute {attribute!r}") from None
  if not callable(found):
    raise ValueError(f"{field}: {name} is no function but {shown(found)}")
  return found


def short(call: Call | None, slot: str) -> str:
  """The call with the arguments that are not at their defaults, for messages and pictures."""
  if call is None:
    return "none"
  parameters = _parameters(call.name, slot, slot)
  arguments = [f"{k}={_short_value(k, v)}" for k, v in call.arguments
               if k not in parameters or v != parameters[k].default]
  return f"{call.name}({', '.join(arguments)})"


def signature(name: str, slot: str) -> str:
  """What a call of the function looks like: its arguments with their defaults."""
  parameters = _parameters(name, slot, slot)
  words = [k if p.default is p.empty else f"{k}={_literal(p.default)}"
           for k, p in parameters.items()]
  return f"{name}({', '.join(words)})"


def described(name: str = "") -> str:
  """Help: every call by slot with the first line of its docstring, or all that is known of one."""
  lines = []
  for slot, kind in _slots().items():
    for each, function in kind.functions().items():
      text = inspect.getdoc(function) or ""
      if name == each:
        lines.append(f"{slot}: {signature(each, slot)}\n\n{text}\n")
      elif not name:
        lines += [] if any(f"\n{slot}:" == line for line in lines) else [f"\n{slot}:"]
        lines.append(f"  {signature(each, slot)}\n      {text.splitlines()[0] if text else ''}")
  return "\n".join(lines)


def names() -> list[str]:
  """The names of all functions that calls may name, but for the user's own."""
  return [name for kind in _slots().values() for name in kind.functions()]


def plain(value: Any) -> Any:
  """For JSON: a call as {"call": name, …}, a tuple as a list, infinity as the text "inf"."""
  if isinstance(value, Call):
    return {"call": value.name} | {k: plain(v) for k, v in value.arguments}
  if isinstance(value, tuple):
    return [plain(part) for part in value]
  return str(value) if isinstance(value, float) and math.isinf(value) else value


def convert(value: Any, hint: Any, field: str) -> Any:
  """`value` as the type that `hint` asks for, of text what it spells.

  Lists and arrays become tuples, NumPy's numbers Python's, 20.0 the integer 20, and "20" too.

  Raises:
    ValueError: a value of another type, an integer beyond 32 bits, a NaN.
  """
  if hasattr(value, "tolist"):
    value = value.tolist()  # of NumPy or jax
  value = _tupled(value)
  for member in _members(hint):
    try:
      return _fitted(value, member, field)
    except _OtherType:
      continue
  if isinstance(value, str):
    spelled = _spelled(value)
    if not isinstance(spelled, str):
      return convert(spelled, hint, field)
    if hint is Any:
      return value
  raise ValueError(f"{field}: expected {_in_words(hint)}, got {shown(value)}")


def shown(value: Any) -> str:
  """A value in a message: one line, and not long."""
  try:
    text = " ".join(repr(value).split())
  except Exception:  # whatever the user's own object raises; Python's of an integer too long
    return f"a value of type {type(value).__name__}"
  return text if len(text) <= 80 else f"{text[:80]}…"


class _OtherType(Exception):
  """A value does not fit one member of a union."""


def _members(hint: Any) -> tuple[Any, ...]:
  return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fitted(value: Any, hint: Any, field: str) -> Any:
  """`value` as one type that is no union. Raises _OtherType where it does not fit."""
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  origin = get_origin(hint)
  if hint in (None, type(None)) and value is None:
    return None
  if hint is bool and isinstance(value, bool):
    return value
  if hint is int and number and (
      isinstance(value, int) or (math.isfinite(value) and value == value // 1)):
    if not -2**31 <= value < 2**31:
      raise ValueError(f"{field}: must lie in [−2³¹, 2³¹), got {shown(value)}")
    return int(value)
  if hint is float and number:
    if value != value:
      raise ValueError(f"{field} must be finite, got nan")
    try:
      return float(value)
    except OverflowError:
      raise ValueError(f"{field}: {shown(value)} is too large for a float") from None
  if hint is str and isinstance(value, str):
    text = "".join(value)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
  if origin is Literal and value in get_args(hint):
    return value
  if isinstance(origin, type) and issubclass(origin, Sequence):
    return _fitted_tuple(value, get_args(hint), field)
  if hint is Call and isinstance(value, Call):
    return value
  if number and _is_open(hint) and not _is_callable(hint):
    return _fitted(value, type(value), field)
  if hint is Any and not isinstance(value, str) and _is_literal(value):
    return value
  if _is_open(hint) and not _is_callable(hint) and isinstance(value, tuple):
    return tuple(_fitted(each, hint, field) for each in value)
  raise _OtherType


def _tupled(value: Any) -> Any:
  """Lists, also inside others, as tuples."""
  return tuple(map(_tupled, value)) if isinstance(value, (list, tuple)) else value


def _fitted_tuple(value: Any, parts: tuple[Any, ...], field: str) -> tuple:
  if isinstance(value, str):
    value = _spelled(value) if value.strip() else ()
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    value = (value,)
  if not isinstance(value, tuple):
    raise _OtherType
  if len(parts) == 2 and parts[1] is ...:
    parts = (parts[0],) * len(value)
  elif len(parts) == 1 and len(value) != 1:
    parts = parts * len(value)
  if len(parts) != len(value):
    raise _OtherType
  return tuple(convert(each, part, field) for each, part in zip(value, parts, strict=True))


def _is_open(hint: Any) -> bool:
  """Whether the type says nothing of literals: arrays, callables, no annotation at all."""
  return hint not in (int, float, bool, str, None, type(None), Call) and get_origin(hint) not in (
      Literal, tuple, list, dict, Sequence)


def _is_callable(hint: Any) -> bool:
  return Callable in (hint, get_origin(hint))


def _is_literal(value: Any) -> bool:
  return all(map(_is_literal, value)) if isinstance(value, tuple) else (
      value is None or isinstance(value, (bool, int, float, str, Call)))


def _spelled(text: str) -> Any:
  """The literal that a text spells, or the text."""
  try:
    return _value(ast.parse(text.strip(), mode="eval").body)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def _value(node: ast.expr) -> Any:
  """The literal, or the call, of a parsed expression; raises ValueError for any other."""
  match node:
    case ast.Call(func=ast.Name(id=name)):
      if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("** is no argument")
      if len({keyword.arg for keyword in node.keywords}) < len(node.keywords):
        raise ValueError("an argument is there twice")
      return _Parsed(name, [_value(each) for each in node.args],
                     {keyword.arg: _value(keyword.value) for keyword in node.keywords})
    case ast.Name(id=name) if name.lower() in _WORDS:
      return _WORDS[name.lower()]
    case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
      return -math.inf
    case ast.Tuple(elts=elements) | ast.List(elts=elements):
      return tuple(map(_value, elements))
  return ast.literal_eval(node)


class _Parsed(NamedTuple):
  """A call inside another, as it was written."""

  name: str
  positional: list[Any]
  named: dict[str, Any]


def _parse(text: str, field: str) -> tuple[str, list[Any], dict[str, Any]]:
  """(name, positional arguments, named arguments) of a call as it is written."""
  if _number(text) is not None:
    return text, [], {}
  found = _CALL.fullmatch(text)
  try:
    if found is None:
      raise ValueError
    parsed = _value(ast.parse(f"f({found[2] or ''})", mode="eval").body)
    if not isinstance(parsed, _Parsed):
      raise ValueError
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    raise ValueError(f"{field}: expected a call of literals such as name(2, option='text'), got "
                     f"{shown(text)}") from None
  return found[1], parsed.positional, parsed.named


def _bound(name: str, positional: list, named: dict, slot: str, field: str) -> Call:
  """The complete call. Raises ValueError for arguments that the function does not take."""
  parameters = _parameters(name, slot, field)
  # Arguments without a default need no name, also of functions that want one.
  places = [k for k, p in parameters.items()
            if p.kind is not p.KEYWORD_ONLY or p.default is p.empty]
  if len(positional) > len(places):
    raise ValueError(f"{field}: {signature(name, slot)} takes {len(places)} arguments without a "
                     f"name, got {len(positional)}")
  if twice := set(places[:len(positional)]) & set(named):
    raise ValueError(f"{field}: {name} got {twice.pop()} twice")
  given = dict(zip(places, positional, strict=False)) | named
  _check_names(given, parameters, name, field)
  arguments = []
  for key, parameter in parameters.items():
    if key not in given and parameter.default is parameter.empty:
      raise ValueError(f"{field}: {signature(name, slot)} needs {key}")
    value = given.get(key, parameter.default)
    inner = _inner(parameter)
    if isinstance(value, _Parsed):
      if not inner:
        raise ValueError(f"{field}: {key} of {name} is no call, got {value.name}(…)")
      value = _bound(*value, inner, f"{field}.{key}")
    elif key in given and inner and _names_a_call(value, parameter.annotation):
      value = make(value, inner, f"{field}.{key}")
    elif key in given:
      value = convert(value, _of_literals(parameter.annotation) if inner else parameter.annotation,
                      f"{field}.{key}")
    elif not _is_literal(value):
      continue  # a default that no text could say
    arguments.append((key, value))
  return Call(name, tuple(arguments))


def _inner(parameter: inspect.Parameter) -> str:
  """The slot of a parameter whose value may be a call, or "": by its name and its annotation."""
  slot = _NESTED.get(parameter.name, parameter.name)
  may_be = parameter.annotation is not Any and any(map(_is_open, _members(parameter.annotation)))
  return slot if slot in _slots() and may_be else ""


def _call_of_number(value: float, kind: Slot) -> tuple[str, list[Any], dict[str, Any]]:
  """The call that a plain number stands for: the number is the first argument."""
  function = kind.functions()[kind.number]
  first = next(k for k in inspect.signature(function).parameters if k not in kind.provided)
  return kind.number, [], {first: value}


def _of_literals(hint: Any) -> Any:
  """The members of a parameter's type that literals can have, calls set aside; None for none."""
  members = [member for member in _members(hint) if not _is_open(member)]
  return functools.reduce(operator.or_, members) if members else None


def _names_a_call(value: Any, hint: Any) -> bool:
  """Whether the value of a parameter that may be a call is one, or may be nothing else."""
  if _of_literals(hint) is None:
    return True
  return isinstance(value, (str, Mapping, Call)) and not (
      isinstance(value, str) and isinstance(_spelled(value), (int, float, NoneType)))


def _check_names(given: Any, parameters: Mapping[str, Any], name: str, field: str) -> None:
  for key in given:
    if key not in parameters:
      near = difflib.get_close_matches(key, parameters, n=1)
      hint = f" (did you mean {near[0]}?)" if near else ""
      has = ", ".join(parameters) or "none"
      raise ValueError(f"{field}.{key}: {name} has no argument {key!r}{hint}; it has {has}")


def _parameters(name: str, slot: str, field: str) -> dict[str, inspect.Parameter]:
  """The parameters that are arguments, annotated by their types."""
  function, kind = find(name, slot, field), _slots()[slot]
  try:
    own = inspect.signature(function).parameters
  except (TypeError, ValueError):
    raise ValueError(f"{field}: {name} has no signature that could be read") from None
  try:
    hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
  except Exception:  # of a user's function, annotations may name what is not there
    hints = {}
  found = {k: p.replace(annotation=hints.get(k, str if isinstance(p.default, str) else Any))
           for k, p in own.items()
           if k not in kind.provided and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
  return found | {k: p for k, p in kind.shared.items() if k not in found}


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None


def _literal(value: Any) -> str:
  """A value as a call is written; a call of a user's own function inside another is text."""
  if isinstance(value, Call):
    return repr(str(value)) if ":" in value.name else str(value)
  return repr(value)


def _short_value(key: str, value: Any) -> str:
  if isinstance(value, Call):
    return short(value, _NESTED.get(key, key))
  return f"{value:g}" if isinstance(value, float) else repr(value)


def _in_words(hint: Any) -> str:
  words = {int: "an integer", float: "a number", bool: "true or false", str: "text",
           type(None): "none", None: "none"}
  parts = []
  for member in _members(hint):
    if get_origin(member) is Literal:
      parts.append("one of " + ", ".join(str(each) or "''" for each in get_args(member)))
    elif get_origin(member) in (tuple, list, Sequence):
      inner = get_args(member)[0]
      parts.append(f"{'integers' if inner is int else 'numbers' if inner is float else 'values'} "
                   "separated by commas")
    elif member in words:
      parts.append(words[member])
  return " or ".join(dict.fromkeys(parts)) or "a number, text or a tuple of them"


# Parameters whose value may be a call, and the slot that it is of where the names differ.
_NESTED = {"predictor": "sampler", "method": "sampler"}


def _slots() -> Mapping[str, Slot]:
  from experiments.config import slots  # they import what they name
  return slots.SLOTS
