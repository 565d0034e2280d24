"""Pages of the API: docstrings and signatures of public names, and links to them."""

import inspect
import re
from typing import Any

import docstrings
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

import langevin_jax

_log = logging.getLogger(__name__)
_CITED = re.compile(r"(langevin_jax/[\w/]+)\.py:([A-Za-z_][\w.]*)$")


def public() -> dict[str, Any]:
  """Every public name of the library and what it is: the `__all__` of each room."""
  names: dict[str, Any] = {}

  def add(module, prefix: str) -> None:
    for name in getattr(module, "__all__", None) or _defined(module):
      value, dotted = getattr(module, name), f"{prefix}.{name}"
      names[dotted] = value
      if inspect.ismodule(value):
        add(value, dotted)

  add(langevin_jax, "langevin_jax")
  return names


def _defined(module) -> list[str]:
  return [name for name, value in vars(module).items() if not name.startswith("_")
          and getattr(value, "__module__", None) == module.__name__]


def _links() -> dict[str, str]:
  """Where a function or class is defined → its public name."""
  return {f"{value.__module__}.{value.__qualname__}": name for name, value in public().items()
          if hasattr(value, "__qualname__") and hasattr(value, "__module__")}


def _docstring(app: Sphinx, what: str, name: str, value: Any, options, lines: list[str]) -> None:
  lines[:] = docstrings.to_rst("\n".join(lines))
  if what == "module":
    for member in getattr(value, "__all__", ()):
      if _is_data(getattr(value, member)):
        lines += docstrings.assignment(value, member)


def _is_data(value: Any) -> bool:
  """Whether a public name is a constant or the name of a type, which has no docstring."""
  kinds = inspect.isfunction, inspect.isclass, inspect.ismodule
  return not any(kind(inspect.unwrap(value)) for kind in kinds)


def _signature(app: Sphinx, what: str, name: str, value: Any, options, shown, result):
  return docstrings.signature(value)


def _skip(app: Sphinx, what: str, name: str, value: Any, skip: bool, options) -> bool | None:
  """Of a class, its own documented methods alone; of a module, no other module."""
  if what == "class":
    return not (inspect.isfunction(value) and value.__doc__) or name.startswith("_")
  return True if inspect.ismodule(value) or _is_data(value) else None


def _cite(app: Sphinx, document: nodes.document) -> None:
  """`langevin_jax/paths/path.py:convert` becomes a link to that name's entry, if it is public."""
  for node in list(document.findall(nodes.literal)):
    cited = _CITED.match(node.astext())
    if cited is None or isinstance(node.parent, addnodes.pending_xref | nodes.reference):
      continue
    function, _, method = cited[2].partition(".")
    name = app.env.langevin_links.get(f"{cited[1].replace('/', '.')}.{function}")
    if name:
      target = f"{name}.{method}" if method else name
      link = addnodes.pending_xref(
          "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True)
      node.replace_self(link)
      link += node


def _complete(app: Sphinx, error: Exception | None) -> None:
  """Warns of public names that no page documents."""
  if error is None and app.builder.name == "html":
    known = app.env.get_domain("py").objects
    for name, value in public().items():
      if name not in known:
        _log.warning("no page documents %s%s", name, " (a module)" * inspect.ismodule(value))


def _prepare(app: Sphinx) -> None:
  app.env.langevin_links = _links()


def setup(app: Sphinx) -> dict[str, bool]:
  app.connect("builder-inited", _prepare)
  app.connect("autodoc-process-docstring", _docstring)
  app.connect("autodoc-process-signature", _signature)
  app.connect("autodoc-skip-member", _skip)
  app.connect("doctree-read", _cite)
  app.connect("build-finished", _complete)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
