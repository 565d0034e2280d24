"""Docstrings of this repository as reStructuredText, and signatures as they stand in the source.

A docstring is plain text: paragraphs, equations that are indented, lists, Markdown tables, and the
sections Args, Attributes, Returns, Raises and Reference. Whatever else it holds, such as *, | or _
of a formula, is shown as it is, so no docstring can break the build.
"""

import ast
import functools
import inspect
import re
import sys
import textwrap
from types import ModuleType
from typing import Any

SECTIONS = (
    "Args", "Attributes", "Returns", "Yields", "Raises", "Reference", "References", "Example")
_SECTION = re.compile(rf"({'|'.join(SECTIONS)}):(?:\s+(.*))?$")
_ENTRY = re.compile(r"(\*{0,2}\w+(?:(?:, | / )\*{0,2}\w+)*): (.*)$", re.S)
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def to_rst(text: str) -> list[str]:
  """The lines of reStructuredText that show a docstring, whose indentation is removed already."""
  lines: list[str] = []
  for block in _blocks(text):
    first = block[0]
    section = _SECTION.match(first)
    if section:
      lines += _section(section[1], [section[2]] * bool(section[2]) + block[1:])
    elif first.startswith("  "):
      lines += [".. code-block:: text", "", *("   " + line for line in _dedented(block))]
    elif first.startswith("|"):
      lines += _table(block)
    elif _ITEM.match(first):
      lines += _list(block)
    else:
      lines += [_inline(" ".join(line.strip() for line in block))]
    lines.append("")
  return lines


def _blocks(text: str) -> list[list[str]]:
  """Paragraphs; a section is one block with all of its indented paragraphs."""
  blocks: list[list[str]] = []
  open_section = False
  for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
    lines = paragraph.splitlines()
    if open_section and lines[0].startswith("  "):
      blocks[-1] += ["", *lines]
      continue
    for part in _split(lines):
      blocks.append(part)
      open_section = bool(_SECTION.match(part[0]))
  return blocks


def _split(lines: list[str]) -> list[list[str]]:
  """A paragraph, cut where its kind of text changes: a list or a table may follow a line."""
  parts: list[list[str]] = []
  for line in lines:
    kind = _kind(line)
    # An indented line continues the one above it; an equation has an empty line before it.
    continues = line.startswith("  ") or (parts and kind == _kind(parts[-1][0]))
    if parts and kind != "section" and continues:
      parts[-1].append(line)
    else:
      parts.append([line])
  return parts


def _kind(line: str) -> str:
  if _SECTION.match(line):
    return "section"
  if line.startswith("|") and line.rstrip().endswith("|"):
    return "table"
  return "list" if _ITEM.match(line) else "code" if line.startswith("  ") else "text"


def _section(name: str, body: list[str]) -> list[str]:
  """A field: entries "name: text" of Args as a list, other text as paragraphs."""
  body = _dedented(body)
  lines = [f":{name}:"]
  if name in ("Args", "Attributes", "Raises"):
    entries: list[list[str]] = []
    for line in body:
      if entries and (not line.strip() or line.startswith("  ") or not _ENTRY.match(line)):
        entries[-1].append(line.strip())
      else:
        entries.append([line])
    for entry in entries:
      named = _ENTRY.match(" ".join(filter(None, entry)))
      shown = f"``{named[1]}`` – {_inline(named[2])}" if named else _inline(" ".join(entry))
      lines.append(f"   * {shown}")
  else:
    lines += ["   " + line for line in to_rst("\n".join(body))]
  return lines


def _table(rows: list[str]) -> list[str]:
  cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|(?![^`|]*`[^`|]*\|)", row.strip()[1:-1])]
           for row in rows if not re.fullmatch(r"[|\s:-]+", row)]
  width = max(map(len, cells))
  lines = [".. list-table::", "   :header-rows: 1", ""]
  for row in cells:
    row = row + [""] * (width - len(row))
    lines += [f"   {'* -' if i == 0 else '  -'} {_inline(cell)}".rstrip()
              for i, cell in enumerate(row)]
  return lines


def _list(lines: list[str]) -> list[str]:
  items: list[list[str]] = []
  for line in lines:
    if _ITEM.match(line):
      items.append([_ITEM.sub("", line, count=1)])
    else:
      items[-1].append(line.strip())
  return [f"* {_inline(' '.join(item))}" for item in items]


def _inline(text: str) -> str:
  """`code` stays code and **bold** bold; every other character stands for itself."""
  parts = re.split(r"(`+[^`]+`+|\*\*[\w][^*]*\*\*)", text)
  for i, part in enumerate(parts):
    if i % 2 == 0:
      parts[i] = re.sub(r"([\\*_|`])", r"\\\1", part)
    elif part.startswith("`"):
      # A backslash and a space separate markup from letters beside it.
      parts[i] = rf"\ ``{part.strip('`')}``\ "
    else:
      parts[i] = rf"\ {part}\ "
  return "".join(parts).removeprefix("\\ ").removesuffix("\\ ")


def _dedented(lines: list[str]) -> list[str]:
  return textwrap.dedent("\n".join(lines)).strip("\n").splitlines()


@functools.cache
def _module(module: ModuleType) -> dict[str, ast.AST]:
  """Definitions of a module by name; methods as Class.name."""
  names: dict[str, ast.AST] = {}
  for node in ast.parse(inspect.getsource(module)).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      names[node.name] = node
    if isinstance(node, ast.ClassDef):
      names |= {f"{node.name}.{part.name}": part for part in node.body
                if isinstance(part, ast.FunctionDef)}
  return names


def signature(value: Any) -> tuple[str, str | None] | None:
  """(arguments, result) of a function or class, as the source has them; None where there is none.

  A class has its annotated fields: those of a NamedTuple, a dataclass or a Flax module.
  """
  value = inspect.unwrap(value)
  module = inspect.getmodule(value)
  if module is None or not module.__name__.startswith("langevin_jax"):
    return None
  node = _module(module).get(getattr(value, "__qualname__", ""))
  if isinstance(node, ast.FunctionDef):
    arguments = node.args
    if "." in value.__qualname__ and arguments.args and arguments.args[0].arg == "self":
      arguments.args = arguments.args[1:]
    result = ast.unparse(node.returns) if node.returns else None
    return f"({ast.unparse(arguments)})", result
  if isinstance(node, ast.ClassDef):
    fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
    return (f"({', '.join(fields)})", None) if fields else None
  return None


def assignment(room: ModuleType, name: str) -> list[str]:
  """The entry of a constant or a name of a type: its value in the source, and the text below it."""
  for module in list(sys.modules.values()):
    if not getattr(module, "__name__", "").startswith(room.__name__):
      continue
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
      targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
      if any(isinstance(target, ast.Name) and target.id == name for target in targets):
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
          text = inspect.cleandoc(after.value.value)
        value = ast.unparse(node.value)
        shown = [f"   :value: {value}"] if len(value) <= 80 else []
        return [f".. py:data:: {name}", *shown, "",
                *("   " + line for line in to_rst(text)), ""]
  raise ValueError(f"{room.__name__}.{name} is public and assigned nowhere in its files")
