"""Names that stand twice in a sweep file, of which a dict would drop the first without a word.

Before the file runs, its dicts are exchanged for ones that remember: displays, comprehensions and
calls of `dict`. What is set twice is refused in the dict that sweep() returns, whose names are
arms; the overrides within it may well be set again. Dicts that other modules make are not seen.
"""

import ast
import pathlib
from collections.abc import Iterator
from typing import Any


class Twice(ValueError):
  """A name that stands twice."""


def run(file: pathlib.Path) -> dict[str, Any]:
  """The names that the Python file defines, its dicts exchanged.

  Raises:
    Twice: a constant twice in one display. Besides, whatever the file raises.
  """
  tree = ast.parse(file.read_bytes())
  for node in ast.walk(tree):
    if isinstance(node, ast.Dict):
      constants = [key.value for key in node.keys if isinstance(key, ast.Constant)]
      _refuse([key for i, key in enumerate(constants) if key in constants[:i]])
  found = {"__name__": "sweep", "__file__": str(file), _NAME: Remembering, _PAIRS: pairs}
  exec(compile(ast.fix_missing_locations(_Exchange().visit(tree)), str(file), "exec"), found)
  return found


def check(made: Any) -> None:
  """Raises Twice where `made` is a dict of which a name was set when it was there already."""
  if isinstance(made, Remembering):
    _refuse([name for name, _ in made.again if name in made])


class Remembering(dict):
  """A dict with `again`, the items that were set again, which its copies have too."""

  def __init__(self, *items: Any, **named: Any):  # as dict's own
    super().__init__()
    self.again: list[tuple[Any, Any]] = []
    self.update(*items, **named)

  def __setitem__(self, name: Any, value: Any) -> None:
    if name in self:
      self.again.append((name, value))
    super().__setitem__(name, value)

  def update(self, *items: Any, **named: Any) -> None:
    if len(items) > 1:
      raise TypeError(f"dict expected at most 1 argument, got {len(items)}")
    for part in (*items, named):
      for name, value in pairs(part):
        self[name] = value

  def copy(self) -> "Remembering":
    return Remembering(self)

  def __or__(self, other: Any) -> "Remembering":
    return _joined(self, other) if isinstance(other, dict) else NotImplemented

  def __ror__(self, other: Any) -> "Remembering":
    return _joined(other, self) if isinstance(other, dict) else NotImplemented

  def __ior__(self, other: Any) -> "Remembering":
    self.update(other)
    return self


def pairs(items: Any) -> Iterator[tuple[Any, Any]]:
  """What `dict` would be made of: items of a mapping, with those that were set again, or pairs."""
  if hasattr(items, "keys"):
    yield from ((name, items[name]) for name in items)
    yield from getattr(items, "again", ())
  else:
    yield from items


_NAME, _PAIRS = "_remembering_dict", "_pairs_of"


class _Exchange(ast.NodeTransformer):
  """{k: v, **d}, {k: v for …} and dict(…) become calls of `Remembering`."""

  def visit_Dict(self, node: ast.Dict) -> ast.AST:
    self.generic_visit(node)
    items = [ast.Starred(_call(_PAIRS, value), ast.Load()) if key is None else
             ast.Tuple([key, value], ast.Load())
             for key, value in zip(node.keys, node.values, strict=True)]
    return ast.copy_location(_call(_NAME, ast.List(items, ast.Load())), node)

  def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
    self.generic_visit(node)
    pair = ast.Tuple([node.key, node.value], ast.Load())
    return ast.copy_location(_call(_NAME, ast.ListComp(pair, node.generators)), node)

  def visit_Call(self, node: ast.Call) -> ast.AST:
    self.generic_visit(node)
    # dict(…) and dict.fromkeys(…); as a type `dict` stays what it is.
    owner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
    if isinstance(owner, ast.Name) and owner.id == "dict":
      owner.id = _NAME
    return node


def _call(name: str, argument: ast.expr) -> ast.Call:
  return ast.Call(ast.Name(name, ast.Load()), [argument], [])


def _joined(first: Any, second: Any) -> Remembering:
  made = Remembering(first)
  made.update(second)
  return made


def _refuse(names: list[Any]) -> None:
  if names:
    raise Twice(f"two arms (or fields) are called {names[0]!r}; rename one")
