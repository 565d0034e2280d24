"""Formulas as MathML: browsers draw it themselves, so pages need no script, font or network."""

from docutils import nodes
from latex2mathml import converter
from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


def _convert(node: nodes.Element, display: str) -> str:
  latex = node.astext()
  try:
    return converter.convert(latex, display=display)
  except Exception as error:  # whatever the parser raises for LaTeX that it does not know
    _log.warning("no MathML for %r: %s", latex, error, location=node)
    return ""


def _inline(self, node: nodes.math) -> None:
  self.body.append(_convert(node, "inline"))
  raise nodes.SkipNode


def _block(self, node: nodes.math_block) -> None:
  self.body.append(f'<div class="math">{_convert(node, "block")}</div>')
  raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
  app.add_html_math_renderer("mathml", inline_renderers=(_inline, None),
                             block_renderers=(_block, None))
  return {"parallel_read_safe": True, "parallel_write_safe": True}
