"""A choice is a call: a function by name, with literal arguments, checked by its signature.

  karras(25, rho_max=40)   predictor_corrector(heun(), euler(budget=0.2))   mylab.nets:wave(width=3)

A call names a function of its slot, such as "grid", or one of the user's as `package.module:name`.
The function's signature is the schema: it alone defines the names, types and defaults of arguments.
Parameters that the runner fills in, such as the path of a density, are not arguments of a call.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

_CALL = re.compile(r"\s*([A-Za-z_][\w.]*(?::[A-Za-z_][\w.]*)?)\s*(?:\((.*)\))?\s*", re.DOTALL)
# A user's own function within the arguments of another call, where it is no Python.
_OWN_INSIDE = re.compile(r"(?:^|[(,=])\s*[A-Za-z_][\w.]*:[A-Za-z_]")
_WORDS = {"inf": math.inf, "nan": math.nan, "true": True, "false": False, "none": None}


class Slot(NamedTuple):
  """One kind of choice, such as "grid" or "sampler".

  functions: returns the functions that a call may name, by name.
  provided: names of parameters that the runner fills in.
  number: a plain number is the first argument of this function; "" if a number is not allowed.
  shared: parameters that every call of this slot has besides those of its function; the runner
    uses them itself.
  optional: whether None is a choice.
  result: the type, or types, that a function of the user must return.
  outlived: whether a recorded call may name a function of the user that is there no more. It is
    then an error to build it.
  """

  functions: Callable[[], Mapping[str, Callable]]
  provided: tuple[str, ...] = ()
  number: str = ""
  shared: Mapping[str, inspect.Parameter] = {}
  optional: bool = False
  result: Any = object
  outlived: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
  """A function's name and all its arguments, including defaults: (("n", 25), …)."""

  name: str
  arguments: tuple[tuple[str, Any], ...] = ()

  def __getitem__(self, argument: str) -> Any:
    return dict(self.arguments)[argument]

  def get(self, argument: str, default: Any = None) -> Any:
    return dict(self.arguments).get(argument, default)

  def __str__(self) -> str:
    return f"{self.name}({', '.join(f'{k}={_literal(v)}' for k, v in self.arguments)})"


class Bare(NamedTuple):
  """A function's name without parentheses, and arguments that were set one by one."""

  name: str
  arguments: Mapping[str, Any]


def make(value: Any, slot: str, field: str) -> Call | None:
  """The complete, checked call that a string, a dict of JSON, a number or a Call stands for.

  Returns:
    The call; None for None or "none" in an optional slot.

  Raises:
    ValueError: a value that stands for no call, an unknown function or argument, or an argument of
      the wrong type. The message begins with `field`.
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
                     f"{signature(next(iter(kind.functions())), slot)}, got {one_line(value)}")
  if kind.number and not positional and not named and _number(name) is not None:
    name, positional, named = _call_of_number(_number(name), kind)
  if kind.optional and name.lower() == "none":
    return None
  if kind.outlived and not isinstance(value, str) and _is_gone(name, slot):
    return Call(name, tuple((k, _recorded(v)) for k, v in named.items()))
  return _bind_arguments(name, positional, named, slot, field)


def replace(call: Call | None, path: list[str], value: Any, slot: str, field: str) -> Call | None:
  """`call` with a new value of the argument at `path`; with an empty path, a new call.

    path         value          result
    ["a", "b"]   any            the argument b of the call that is the argument a is set
    []           "name"         the function changes; arguments that were set are kept if the new
                                function takes them
    []           "name(a=1)"    the new call
  """
  if path:
    if not isinstance(call, Call):
      raise ValueError(f"{field}: there is no call yet whose arguments could be set")
    parameters = _parameters(call.name, slot, field)
    _check_names([path[0]], parameters, call.name, field)
    old, inner = call.get(path[0]), _inner_slot(parameters[path[0]])
    if len(path) > 1 and not inner:
      raise ValueError(f"{field}.{'.'.join(path)}: {path[0]} of {call.name} is no call")
    if len(path) > 1 or (inner and isinstance(old, Call)
                         and _names_a_call(value, parameters[path[0]].annotation)):
      value = replace(old, path[1:], value, inner, f"{field}.{path[0]}")
    return _bind_arguments(call.name, [], {**dict(call.arguments), path[0]: value}, slot, field)
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
    return _bind_arguments(name, [], kept | dict(value.arguments), slot, field)
  if not isinstance(value, Bare):
    return make(value, slot, field)
  call = make(value.name, slot, field)
  for argument, each in value.arguments.items():
    call = replace(call, [argument], each, slot, field)
  return call


def build(call: Call, slot: str, field: str, **provided: Any) -> Any:
  """The result of calling the function.

  Calls among the arguments are built first.

  Args:
    provided: values of `Slot.provided`; the function gets those for which it has parameters.

  Raises:
    ValueError: raised by the function, or a user's function does not return `Slot.result`. The
      message begins with `field` and the call.
  """
  function = find(call.name, slot, field)
  shared = _slots()[slot].shared
  takes = _signature(function)
  arguments = {k: build(v, _NESTED.get(k, k), f"{field}.{k}", **provided)
               if isinstance(v, Call) else v
               for k, v in call.arguments if k in takes or k not in shared}
  for key in _slots()[slot].provided:
    if key in takes and key in provided:
      arguments[key] = provided[key]
    elif key in takes and takes[key].default is inspect.Parameter.empty:
      raise ValueError(f"{field}: {call.name} needs {key}, which nothing fills in here")
  try:
    value = function(**arguments)
  except ValueError as error:
    raise ValueError(f"{field}={short(call, slot)}: {error}") from error
  except Exception as error:  # whatever the user's own function raises
    if ":" not in call.name:
      raise
    raise ValueError(f"{field}={short(call, slot)}: {type(error).__name__}: {error}") from error
  result = _slots()[slot].result
  if ":" in call.name and not isinstance(value, result):
    kinds = result if isinstance(result, tuple) else (result,)
    names = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
    raise ValueError(
        f"{field}={short(call, slot)}: it must return a {names}, got {one_line(value)}")
  return value


def takes(call: Call, slot: str, parameter: str) -> bool:
  """Whether the function has a parameter of this name. Parameters of the runner count."""
  return parameter in _signature(find(call.name, slot, slot))


def find(name: str, slot: str, field: str) -> Callable:
  """The function that a call names.

  Raises:
    ValueError: there is no such function; the message has the nearest name.
  """
  functions = _slots()[slot].functions()
  if ":" not in name:
    if name not in functions:
      raise ValueError(f"{field}: no {slot} {one_line(name)}{_nearest(name, functions)}; there are "
                       f"{', '.join(functions)}, or yours as package.module:name")
    return functions[name]
  module, _, attribute = name.partition(":")
  try:
    value = importlib.import_module(module)
  except Exception as error:  # whatever the user's own module raises
    raise ValueError(f"{field}: module {module!r} cannot be imported: {type(error).__name__}: "
                     f"{error}") from error
  for part in attribute.split("."):
    if not hasattr(value, part):
      raise ValueError(f"{field}: module {module!r} has no attribute {attribute!r}"
                       f"{_nearest(part, dir(value))}")
    value = getattr(value, part)
  if not callable(value):
    raise ValueError(f"{field}: {name} is no function but {one_line(value)}")
  return value


def short(call: Call | None, slot: str) -> str:
  """The call as text, without arguments at their defaults; for messages and pictures."""
  if call is None:
    return "none"
  parameters = _parameters(call.name, slot, slot)
  arguments = [f"{k}={_short_value(k, v)}" for k, v in call.arguments
               if k not in parameters or v != parameters[k].default]
  return f"{call.name}({', '.join(arguments)})"


def signature(name: str, slot: str) -> str:
  """The function's name with its arguments and their defaults, as text."""
  parameters = _parameters(name, slot, slot)
  arguments = [k if p.default is p.empty else f"{k}={_literal(p.default)}"
               for k, p in parameters.items()]
  return f"{name}({', '.join(arguments)})"


def help_text(name: str = "") -> str:
  """The help text: all calls by slot with the first lines of their docstrings.

  With `name`, the signature and the whole docstring of that call; "" if there is none.
  """
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
  """The names of all functions of this repository that calls may name."""
  return [name for kind in _slots().values() for name in kind.functions()]


def slot_names(slot: str) -> list[str]:
  """The names of the functions that a call of a slot may name."""
  return list(_slots()[slot].functions())


def to_plain(value: Any) -> Any:
  """`value` for JSON: a call as {"call": name, …}, a tuple as a list, infinity as "inf"."""
  if isinstance(value, Call):
    return {"call": value.name} | {k: to_plain(v) for k, v in value.arguments}
  if isinstance(value, tuple):
    return [to_plain(part) for part in value]
  return str(value) if isinstance(value, float) and math.isinf(value) else value


def convert(value: Any, hint: Any, field: str) -> Any:
  """`value` converted to the type `hint`; a text may also be a literal of that type.

  Lists and arrays become tuples, NumPy numbers become Python numbers, and 20.0 and "20" become the
  integer 20 if `hint` is int.

  Raises:
    ValueError: a value of another type, an integer beyond 32 bits, a NaN.
  """
  if hasattr(value, "tolist"):
    value = value.tolist()  # of NumPy or jax
  value = _to_tuples(value)
  for member in _members(hint):
    try:
      return _convert_member(value, member, field)
    except _OtherType:
      continue
  if isinstance(value, str):
    spelled = _parse_literal(value)
    if not isinstance(spelled, str):
      return convert(spelled, hint, field)
    if hint is Any:
      return value
  raise ValueError(f"{field}: expected {_describe_type(hint)}, got {one_line(value)}")


def one_line(value: Any) -> str:
  """A value as one short line, for a message."""
  try:
    text = " ".join((str(value) if isinstance(value, Call) else repr(value)).split())
  except Exception:  # a user's __repr__ may raise anything; so does an integer that is too long
    return f"a value of type {type(value).__name__}"
  return text if len(text) <= 80 else f"{text[:80]}…"


class _OtherType(Exception):
  """A value does not fit one member of a union."""


def _members(hint: Any) -> tuple[Any, ...]:
  """The types of a union; another type is its only member."""
  return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _convert_member(value: Any, hint: Any, field: str) -> Any:
  """`value` converted to a type that is not a union. Raises _OtherType if it does not fit."""
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  origin = get_origin(hint)
  if hint in (None, type(None)) and value is None:
    return None
  if hint is bool and isinstance(value, bool):
    return value
  if hint is int and number and (
      isinstance(value, int) or (math.isfinite(value) and value == value // 1)):
    if not -2**31 <= value < 2**31:
      raise ValueError(f"{field}: must lie in [−2³¹, 2³¹), got {one_line(value)}")
    return int(value)
  if hint is float and number:
    if value != value:
      raise ValueError(f"{field} must be finite, got nan")
    try:
      return float(value)
    except OverflowError:
      raise ValueError(f"{field}: {one_line(value)} is too large for a float") from None
  if hint is str and isinstance(value, str):
    text = "".join(value)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
  if origin is Literal and value in get_args(hint):
    return value
  if isinstance(origin, type) and issubclass(origin, Sequence):
    return _convert_tuple(value, get_args(hint), field)
  if hint is Call and isinstance(value, Call):
    return value
  if number and _is_open(hint) and not _is_callable(hint):
    return _convert_member(value, type(value), field)
  if hint is Any and not isinstance(value, str) and _is_literal(value):
    return value
  if _is_open(hint) and not _is_callable(hint) and isinstance(value, tuple):
    return tuple(_convert_member(each, hint, field) for each in value)
  raise _OtherType


def _to_tuples(value: Any) -> Any:
  """Lists as tuples, also nested ones."""
  return tuple(map(_to_tuples, value)) if isinstance(value, (list, tuple)) else value


def _convert_tuple(value: Any, parts: tuple[Any, ...], field: str) -> tuple:
  """`value` converted to a tuple of the types `parts`, as in tuple[int, ...] or tuple[int, str].

  One type also stands for a tuple of any length. A number becomes a tuple of one.

  Raises:
    _OtherType: `value` is no tuple, or of another length.
    ValueError: as `convert`, for an element.
  """
  if isinstance(value, str):
    text, value = value, _parse_literal(value) if value.strip() else ()
    if parts[0] is str and (isinstance(value, (str, _Parsed)) or (
        isinstance(value, tuple) and any(isinstance(each, _Parsed) for each in value))):
      # Words, and calls as text; commas within parentheses separate arguments.
      value = tuple(map(str.strip, re.split(r",(?![^(]*\))", text)))
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
  """Whether the type does not restrict literals: an array, a callable, or no annotation."""
  return hint not in (int, float, bool, str, None, type(None), Call) and get_origin(hint) not in (
      Literal, tuple, list, dict, Sequence)


def _is_callable(hint: Any) -> bool:
  return Callable in (hint, get_origin(hint))


def _is_literal(value: Any) -> bool:
  return all(map(_is_literal, value)) if isinstance(value, tuple) else (
      value is None or isinstance(value, (bool, int, float, str, Call)))


def _parse_literal(text: str) -> Any:
  """The literal that a text spells; the text itself if it spells none."""
  try:
    return _value(ast.parse(text.strip(), mode="eval").body)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def _value(node: ast.expr) -> Any:
  """The literal or call of a parsed expression. Raises ValueError for any other expression."""
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
  """A call as it is written in a text, not yet checked."""

  name: str
  positional: list[Any]
  named: dict[str, Any]


def _parse(text: str, field: str) -> tuple[str, list[Any], dict[str, Any]]:
  """(name, positional arguments, named arguments) of a call as it is written."""
  if _number(text) is not None:
    return text, [], {}
  match = _CALL.fullmatch(text)
  try:
    if match is None:
      raise ValueError
    parsed = _value(ast.parse(f"f({match[2] or ''})", mode="eval").body)
    if not isinstance(parsed, _Parsed):
      raise ValueError
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    inside = match is not None and _OWN_INSIDE.search(match[2] or "")
    raise ValueError(
        f"{field}: expected a call of literals such as name(2, option='text'), got {one_line(text)}"
        + ("; a call of yours inside another is in quotes, 'package.module:name()'" if inside
           else "")) from None
  return match[1], parsed.positional, parsed.named


def _bind_arguments(name: str, positional: list, named: dict, slot: str, field: str) -> Call:
  """The complete call: all arguments by name, converted to their types, with defaults.

  Raises:
    ValueError: an argument that the function does not take, is missing, or has another type.
  """
  parameters = _parameters(name, slot, field)
  # Required arguments may be positional, even if the function declares them keyword-only.
  places = [k for k, p in parameters.items()
            if p.kind is not p.KEYWORD_ONLY or p.default is p.empty]
  if len(positional) > len(places):
    raise ValueError(f"{field}: {signature(name, slot)} takes {len(places)} arguments without a "
                     f"name, got {len(positional)}")
  if twice := set(places[:len(positional)]) & set(named):
    raise ValueError(f"{field}: {name} got {twice.pop()} twice")
  values = dict(zip(places, positional, strict=False)) | named
  _check_names(values, parameters, name, field)
  arguments = []
  for key, parameter in parameters.items():
    if key not in values and parameter.default is parameter.empty:
      raise ValueError(f"{field}: {signature(name, slot)} needs {key}")
    value = values.get(key, parameter.default)
    inner = _inner_slot(parameter)
    if isinstance(value, _Parsed):
      if not inner:
        raise ValueError(f"{field}: {key} of {name} is no call, got {value.name}(…)")
      value = _bind_arguments(*value, inner, f"{field}.{key}")
    elif key in values and inner and _names_a_call(value, parameter.annotation):
      value = make(value, inner, f"{field}.{key}")
    elif key in values:
      hint = _literal_types(parameter.annotation) if inner else parameter.annotation
      value = convert(value, hint, f"{field}.{key}")
    elif not _is_literal(value):
      continue  # a default that is not a literal: the function fills it in itself
    arguments.append((key, value))
  return Call(name, tuple(arguments))


def _inner_slot(parameter: inspect.Parameter) -> str:
  """The slot of a parameter whose value may be a call; "" for others.

  The name of the parameter gives the slot; its annotation must allow more than literals.
  """
  slot = _NESTED.get(parameter.name, parameter.name)
  may_be = parameter.annotation is not Any and any(map(_is_open, _members(parameter.annotation)))
  return slot if slot in _slots() and may_be else ""


def _recorded(value: Any) -> Any:
  """A value of JSON as one of an argument: lists as tuples, {"call": …} as calls."""
  if isinstance(value, Mapping):
    return Call(value.get("call", ""), tuple(
        (k, _recorded(v)) for k, v in value.items() if k != "call"))
  return tuple(map(_recorded, value)) if isinstance(value, (list, tuple)) else value


def _is_gone(name: str, slot: str) -> bool:
  """Whether a function of the user cannot be imported."""
  try:
    find(name, slot, slot)
  except ValueError:
    return ":" in name
  return False


def _call_of_number(value: float, kind: Slot) -> tuple[str, list[Any], dict[str, Any]]:
  """The call that a plain number stands for: the number is the first argument."""
  function = kind.functions()[kind.number]
  first = next(k for k in inspect.signature(function).parameters if k not in kind.provided)
  return kind.number, [], {first: value}


def _literal_types(hint: Any) -> Any:
  """The union of those types in `hint` that are types of literals; None if there is none."""
  members = [member for member in _members(hint) if not _is_open(member)]
  return functools.reduce(operator.or_, members) if members else None


def _names_a_call(value: Any, hint: Any) -> bool:
  """Whether the value of a parameter that may be a call stands for a call, not a literal."""
  if _literal_types(hint) is None:
    return True
  return isinstance(value, (str, Mapping, Call)) and not (
      isinstance(value, str) and isinstance(_parse_literal(value), (int, float, NoneType)))


def _check_names(
    names: Iterable[str], parameters: Mapping[str, Any], name: str, field: str
) -> None:
  """Raises ValueError for a name that is not an argument of the function `name`."""
  for key in names:
    if key not in parameters:
      has, near = ", ".join(parameters) or "none", _nearest(key, parameters)
      inner = [f"{field}.{each}.{key}" for each in parameters if _inner_slot(parameters[each])]
      if inner and not near:  # config.data.path of augmented(data=cifar10(…)), for instance
        has += f"; of a call in it: {' or '.join(inner)}"
      raise ValueError(f"{field}.{key}: {name} has no argument {key!r}{near}; it has {has}")


def _nearest(name: str, names: Iterable[str]) -> str:
  """" (did you mean …?)" with the nearest of `names`; "" if none is near."""
  near = difflib.get_close_matches(name, names, n=1)
  return f" (did you mean {near[0]}?)" if near else ""


def _parameters(name: str, slot: str, field: str) -> dict[str, inspect.Parameter]:
  """The parameters that are arguments of a call, by name, annotated by their types."""
  function, kind = find(name, slot, field), _slots()[slot]
  try:
    parameters = _signature(function)
  except (TypeError, ValueError):
    raise ValueError(f"{field}: {name} has no signature that could be read") from None
  try:
    hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
  except Exception:  # a user's annotations may contain names that do not exist
    hints = {}
  arguments = {k: p.replace(annotation=hints.get(k, str if isinstance(p.default, str) else Any))
               for k, p in parameters.items()
               if k not in kind.provided and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
  return arguments | {k: p for k, p in kind.shared.items() if k not in arguments}


def _signature(function: Callable) -> Mapping[str, inspect.Parameter]:
  """The parameters of a function; of a class, those of its constructor."""
  parameters = inspect.signature(function).parameters
  if isinstance(function, type) and all(
      p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
    # This is the signature of a metaclass, such as that of Flax NNX, which passes everything on.
    parameters = dict(list(inspect.signature(function.__init__).parameters.items())[1:])
  return parameters


def _number(text: str) -> float | None:
  """The number that a text spells, or None."""
  try:
    return float(text)
  except ValueError:
    return None


def _literal(value: Any) -> str:
  """A value as it is written in a call. A call of a user's function is written in quotes."""
  if isinstance(value, Call):
    return repr(str(value)) if ":" in value.name else str(value)
  return repr(value)


def _short_value(key: str, value: Any) -> str:
  """The value of the argument `key`, as text for `short`."""
  if isinstance(value, Call):
    return short(value, _NESTED.get(key, key))
  return f"{value:g}" if isinstance(value, float) else repr(value)


def _describe_type(hint: Any) -> str:
  """A type in plain words, for messages."""
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


# The slot of parameters whose value may be a call, if the slot has another name.
_NESTED = {"predictor": "sampler", "method": "sampler", "other": "logger", "base": "density"}


def _slots() -> Mapping[str, Slot]:
  from experiments.config import slots  # imported here: `slots` imports this module
  return slots.SLOTS
