"""A page of a few kinds of blocks, as markdown and as one HTML file, pictures included.

In texts, items and cells **…** is bold and `…` code, and in HTML x_{…}, x^{…} and a one-letter x_t
are set as sub- and superscripts. Everything else stands as it is, HTML too, and on one line. A name
that a user has given goes through `literal`, which keeps it from being any of these.
"""

import base64
import html as escapes
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Sequence
from typing import NamedTuple


class Heading(NamedTuple):
  """anchor: what links to it name; "" for none."""

  text: str
  level: int = 1
  anchor: str = ""


class Text(NamedTuple):
  text: str


class Code(NamedTuple):
  lines: list[str]


class Items(NamedTuple):
  lines: list[str]


class Markup(NamedTuple):
  """A cell of HTML as it stands, such as MathML; what it says in markdown is `plain`."""

  html: str
  plain: str = ""


class Table(NamedTuple):
  """rows: the first is the head."""

  rows: list[list[str | Markup]]


class Picture(NamedTuple):
  """A .png file, beside the page or at a path from there, and what it shows."""

  name: str
  caption: str = ""


class Links(NamedTuple):
  """Places in this page or beside it: (text, address), such as "#anchor" or "other.html"."""

  places: list[tuple[str, str]]


Block = Heading | Text | Code | Items | Table | Picture | Links

# What has a meaning in Markdown, or here: underscores at the ends of words and after one letter.
_SPECIAL = re.compile(r"[\\`*\[\]<>&^{}~]|(?<!\w)_|_(?!\w)|(?<=\b\w)_(?=\w\b)")
_ESCAPED = re.compile(r"\\([\\`*\[\]<>&^{}~_])")
_CODE = re.compile(r"(?<![\\`])(`[^`]+`)(?!`)")
_PRIVATE = 0xF0000  # where what is escaped stands aside: characters without a meaning
# Elements and attributes that presentation MathML of ours is made of; none of them can run.
_MATHML = frozenset((
    "math", "mrow", "mi", "mn", "mo", "mspace", "mtext", "mfrac", "msqrt", "mroot", "msub", "msup",
    "msubsup", "mover", "munder", "munderover", "mfenced", "mtable", "mtr", "mtd", "mstyle"))
_MATHML_ATTRIBUTES = frozenset((
    "mathvariant", "stretchy", "width", "display", "displaystyle", "open", "close", "accent"))
# The page holds no script, and fetches nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# Both schemes; pictures are drawn on white and stay so.
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1e;--paper:#fff;--line:#d8d8dc;--soft:#f4f4f6;
--link:#8f3320}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e8;--paper:#161618;--line:#3a3a3e;--soft:#232326;
--link:#f0a48c}}
body{font:15px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:75em;
margin:2em auto;padding:0 1em}
a{color:var(--link)}h2{margin-top:2.2em;border-top:1px solid var(--line);padding-top:.8em}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8em 0}
td,th{padding:.25em .7em;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
pre{background:var(--soft);padding:.7em;overflow-x:auto}
figure{margin:1.2em 0}img{max-width:100%;background:#fff;border-radius:4px}
figcaption{max-width:60em;font-size:.93em;opacity:.85}p{max-width:60em}
p,li,h1,h2,h3,figcaption{overflow-wrap:anywhere}
@media(max-width:40em){h1{font-size:1.5em}h2{font-size:1.25em}table{font-size:.85em}ul{padding-left:1.2em}
td,th{padding:.25em .4em}table:has(th:nth-child(5)){min-width:38em}}
"""


def markdown(blocks: Sequence[Block]) -> str:
  """The page as markdown."""
  return "\n\n".join(map(_markdown, blocks)) + "\n"


def literal(text: str) -> str:
  """A text that means itself in texts, items and cells, whatever it is made of."""
  return _SPECIAL.sub(r"\\\g<0>", _one_line(text))


def mathml(text: str) -> Markup:
  """A cell of presentation MathML, or, of anything else, of its characters."""
  # XML knows no other names of characters.
  plain = re.sub(r"&(?!(?:amp|lt|gt|quot|apos);)\w+;", lambda name: escapes.unescape(name[0]), text)
  try:
    if "<!" in plain:
      raise ValueError("it declares something")
    for element in xml.etree.ElementTree.fromstring(plain).iter():
      if element.tag not in _MATHML or not element.attrib.keys() <= _MATHML_ATTRIBUTES:
        raise ValueError(f"<{element.tag}> is no MathML of ours")
  except (ValueError, RecursionError, xml.etree.ElementTree.ParseError):
    return Markup(escapes.escape(text))
  return Markup(text)


def table(rows: Sequence[Sequence[str | Markup]]) -> str:
  """Rows in markdown, the first one the head."""
  plain = lambda cell: cell.plain if isinstance(cell, Markup) else _safe(cell)
  line = lambda cells: "| " + " | ".join(plain(c).replace("|", "\\|") for c in cells) + " |"
  return "\n".join([line(rows[0]), "|" + "---|" * len(rows[0]), *map(line, rows[1:])])


def html(blocks: Sequence[Block], folder: pathlib.Path) -> str:
  """The page as HTML that needs no other file; pictures are read from `folder`."""
  title = next((block.text for block in blocks if isinstance(block, Heading)), "")
  plain = _ESCAPED.sub(r"\1", title)
  return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
          '<meta name="viewport" content="width=device-width,initial-scale=1">'
          f"<title>{escapes.escape(plain)}</title><style>{_STYLE}</style></head><body>\n"
          + "\n".join(_html(block, folder) for block in blocks) + "\n</body></html>\n")


def _markdown(block: Block) -> str:
  match block:
    case Heading(text, level, _):
      return f"{'#' * level} {_safe(text)}"
    case Text(text):
      return _safe(text)
    case Code(lines):
      fence = "`" * max(3, 1 + max(map(len, re.findall("`+", "\n".join(lines))), default=0))
      return "\n".join([fence, *lines, fence])
    case Items(lines):
      return "\n".join(f"- {_safe(line)}" for line in lines)
    case Table(rows):
      return table(rows)
    case Picture(name, caption):
      return f"![{_safe(caption or name)}]({name})"
    case Links(places):
      return "\n".join(f"- [{_safe(text)}]({address})" for text, address in places)


def _one_line(text: str) -> str:
  return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text)


def _safe(text: str) -> str:
  """A text in markdown, on one line and without HTML, which code shows as it stands."""
  parts = _CODE.split(_one_line(text))
  escaped = lambda found: "&lt;" if found[0] == "<" else found[0]
  return "".join(part if i % 2 else re.sub(r"\\.|<", escaped, part)
                 for i, part in enumerate(parts))


def _html(block: Block, folder: pathlib.Path) -> str:
  match block:
    case Heading(text, level, anchor):
      name = f' id="{escapes.escape(anchor)}"' if anchor else ""
      return f"<h{level}{name}>{inline(text)}</h{level}>"
    case Text(text):
      return f"<p>{inline(text)}</p>"
    case Code(lines):
      return f"<pre>{escapes.escape(chr(10).join(lines))}</pre>"
    case Items(lines):
      return "<ul>" + "".join(f"<li>{inline(line)}</li>" for line in lines) + "</ul>"
    case Table(rows):
      line = lambda cells, tag: "<tr>" + "".join(
          f"<{tag}>{inline(cell)}</{tag}>" for cell in cells) + "</tr>"
      return "\n".join(['<div class="wide"><table>', line(rows[0], "th"),
                        *(line(row, "td") for row in rows[1:]), "</table></div>"])
    case Picture(name, caption):
      data = base64.b64encode((folder / name).read_bytes()).decode()
      below = f"<figcaption>{inline(caption)}</figcaption>" if caption else ""
      return (f'<figure><img alt="{escapes.escape(caption or name)}" '
              f'src="data:image/png;base64,{data}">{below}</figure>')
    case Links(places):
      return "<ul>" + "".join(f"<li>{link(*place).html}</li>" for place in places) + "</ul>"


def link(text: str, address: str) -> Markup:
  """A text as a cell that leads to an address."""
  return Markup(f'<a href="{escapes.escape(address)}">{inline(text)}</a>', text)


def inline(text: str | Markup) -> str:
  """A text, item or cell in HTML."""
  if isinstance(text, Markup):
    return text.html
  text = _ESCAPED.sub(lambda found: chr(_PRIVATE + ord(found[1])), text)
  text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escapes.escape(text, quote=False))
  text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
  text = re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", text)
  text = re.sub(r"\^\{([^{}]*)\}", r"<sup>\1</sup>", text)
  text = re.sub(r"\b(\w)_(\w)\b", r"\1<sub>\2</sub>", text)
  return re.sub(f"[{chr(_PRIVATE)}-{chr(_PRIVATE + 127)}]",
                lambda found: escapes.escape(chr(ord(found[0]) - _PRIVATE)), text)
