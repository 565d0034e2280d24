"""Reports: Markdown from jinja2 templates, and the same as one HTML file, pictures included.

`fill` fills a template of Markdown, `markup` makes HTML of it, `html` puts that into a page. Raw
HTML in Markdown is shown as text, so a name that a user has given cannot become markup; `literal`
keeps it from being Markdown too. In texts, $…$ is LaTeX and is set as MathML; x_{…}, x^{…} and x_t
with one letter each are set as sub- and superscripts.
"""

import base64
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import latex2mathml.converter
import markupsafe
import mistune

_TEMPLATES = pathlib.Path(__file__).parent / "templates"
# Characters with a meaning in Markdown, or for `html`: also underscores at a word's ends.
_SPECIAL = re.compile(r"[\\`*\[\]<>&^{}~$#]|(?<!\w)_|_(?!\w)|(?<=\b\w)_(?=\w\b)")
# What latex2mathml, or a table, would misread; browsers have no bold ϵ but this character.
_LATEX = ((r"\|", r"\Vert "), ("|", r"\vert "), (r"\sim", "∼"), (r"\bm{\epsilon}", "𝛜"),
          (r"^{\prime}", "′"), ("'", "′"))
# The elements of a formula; what else its \text{…} may hold is no MathML.
_MATHML = re.compile(
    "math|menclose|mfrac|mi|mmultiscripts|mn|mo|mover|mpadded|mphantom|mprescripts|mroot|mrow|"
    "mspace|msqrt|mstyle|msub|msubsup|msup|mtable|mtd|mtext|mtr|munder|munderover")
_SCRIPTS = (
    (re.compile(r"_\{([^{}]*)\}"), r"<sub>\1</sub>"),
    (re.compile(r"\^\{([^{}]*)\}"), r"<sup>\1</sup>"),
    (re.compile(r"\b(\w)_(\w)\b"), r"\1<sub>\2</sub>"))


def fill(template: str, *folders: pathlib.Path, **context: Any) -> Any:
  """A template of Markdown, filled: str(…) is the text, `{% set x %}…{% endset %}` attributes."""
  return _environment(*folders).get_template(template).make_module(context)


def html(template: str, **context: Any) -> str:
  """A page of templates/<template>, in which all texts are escaped but those made by `markup`."""
  return _environment().get_template(template).render(context)


def markup(markdown: str, picture: Callable[[str], pathlib.Path]) -> markupsafe.Markup:
  """Markdown as HTML that needs no other file; `picture` gives the file of an image's address."""
  convert = mistune.create_markdown(renderer=_Renderer(picture), plugins=["table", "math"])
  return markupsafe.Markup(convert(markdown))


def table(rows: Sequence[Sequence[Any]]) -> str:
  """Rows in Markdown, the first one the head."""
  line = lambda cells: "| " + " | ".join(
      _one_line(str(cell)).replace("|", "\\|") for cell in cells) + " |"
  return "\n".join([line(rows[0]), "|" + "---|" * len(rows[0]), *map(line, rows[1:])])


def literal(text: str) -> str:
  """A text that stands for itself in Markdown, whatever its characters."""
  return _SPECIAL.sub(r"\\\g<0>", _one_line(str(text)))


def math(latex: str) -> str:
  """LaTeX as a formula in Markdown, also in a cell of a table, where | has another meaning."""
  for old, new in _LATEX:
    latex = latex.replace(old, new)
  return f"${latex}$"


def code(lines: Sequence[str]) -> str:
  """Lines in Markdown as they stand."""
  text = "\n".join(lines)
  fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
  return f"{fence}\n{text}\n{fence}"


def _environment(*folders: pathlib.Path) -> jinja2.Environment:
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader([*folders, _TEMPLATES]), undefined=jinja2.StrictUndefined,
      autoescape=lambda name: name.endswith(".html.j2"), trim_blocks=True, lstrip_blocks=True,
      keep_trailing_newline=True)
  environment.filters.update(literal=literal, math=math, table=table, code=code)
  return environment


class _Renderer(mistune.HTMLRenderer):
  """mistune's own, with pictures inside, formulas in MathML and scripts."""

  def __init__(self, picture: Callable[[str], pathlib.Path]):
    super().__init__(escape=True)
    self._picture = picture

  def text(self, text: str) -> str:
    text = super().text(text)
    for pattern, replacement in _SCRIPTS:
      text = pattern.sub(replacement, text)
    return text

  def paragraph(self, text: str) -> str:
    return text if text.startswith("<figure>") else super().paragraph(text)

  def image(self, text: str, url: str, title: str | None = None) -> str:
    data = base64.b64encode(self._picture(url).read_bytes()).decode()
    return (f'<figure><img alt="{markupsafe.escape(text)}" src="data:image/png;base64,{data}">'
            "</figure>\n")

  def table(self, text: str) -> str:
    return f'<div class="wide"><table>{text}</table></div>\n'

  def inline_math(self, text: str) -> str:
    return _mathml(text)

  def block_math(self, text: str) -> str:
    return f"<p>{_mathml(text, display='block')}</p>\n"


def _mathml(latex: str, **options: str) -> str:
  """A formula as MathML, or as text where its \\text{…} holds elements of another kind."""
  made = latex2mathml.converter.convert(latex, **options)
  try:
    elements = list(xml.etree.ElementTree.fromstring(made).iter())
  except xml.etree.ElementTree.ParseError:
    elements = []
  local = lambda name: name.rpartition("}")[2]
  plain = elements and all(
      _MATHML.fullmatch(local(each.tag))
      and not any(local(name).startswith(("on", "href")) for name in each.attrib)
      for each in elements)
  return made if plain else f"<code>{markupsafe.escape(latex)}</code>"


def _one_line(text: str) -> str:
  return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text)
