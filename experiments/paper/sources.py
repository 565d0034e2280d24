"""The source files that a module depends on: what it imports, and what those import."""

import ast
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Iterator

from experiments.run import subprocesses

_PACKAGES = ("experiments", "langevin_jax")


def files(modules: Iterable[str]) -> list[pathlib.Path]:
  """The files of modules of this repository and of all that they import, also inside functions.

  A .toml file with the name of a module is included.
  """
  found: dict[str, pathlib.Path] = {}
  waiting = list(modules)
  while waiting:
    name = waiting.pop()
    file = _file(name)
    if name not in found and file is not None:
      found[name] = file
      waiting += _imported(file)
      # Importing a.b.c runs a and a.b as well.
      waiting += [name.rpartition(".")[0]]
  modules = [found[name] for name in sorted(found)]
  return modules + [data for file in modules if (data := file.with_suffix(".toml")).is_file()]


def digest(modules: Iterable[str], *more: bytes) -> str:
  """SHA-256 of the source files of `modules` and of `more`."""
  result = hashlib.sha256()
  for part in (*(file.read_bytes() for file in files(modules)), *more):
    result.update(hashlib.sha256(part).digest())
  return result.hexdigest()


def _file(module: str) -> pathlib.Path | None:
  """The file of a module of this repository, or None."""
  if module.partition(".")[0] not in _PACKAGES:
    return None
  place = subprocesses.ROOT.joinpath(*module.split("."))
  return next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)


@functools.cache
def _imported(file: pathlib.Path) -> list[str]:
  return list(_names(ast.parse(file.read_bytes())))


def _names(tree: ast.AST) -> Iterator[str]:
  """Names that may be modules: for `from a import b` both a and a.b."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)
