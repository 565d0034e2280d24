"""A page of a few kinds of blocks, as markdown and as one HTML file, pictures included.

In texts, items and cells **…** is bold; everything else stands as it is.
"""

import base64
import html as escapes
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple


class Heading(NamedTuple):
  text: str
  level: int = 1


class Text(NamedTuple):
  text: str


class Code(NamedTuple):
  lines: list[str]


class Items(NamedTuple):
  lines: list[str]


class Table(NamedTuple):
  """rows: the first is the head."""

  rows: list[list[str]]


class Picture(NamedTuple):
  """A .png file, beside the page."""

  name: str


Block = Heading | Text | Code | Items | Table | Picture

_STYLE = ("body{font:15px/1.5 sans-serif;max-width:75em;margin:2em auto;padding:0 1em}"
          "table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;"
          "text-align:left}pre{background:#f6f6f6;padding:.7em;overflow-x:auto}"
          "img{max-width:100%}")


def markdown(blocks: Sequence[Block]) -> str:
  """The page as markdown."""
  return "\n\n".join(map(_markdown, blocks)) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
  """Rows in markdown, the first one the head."""
  line = lambda cells: "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
  return "\n".join([line(rows[0]), "|" + "---|" * len(rows[0]), *map(line, rows[1:])])


def html(blocks: Sequence[Block], folder: pathlib.Path) -> str:
  """The page as HTML that needs no other file; pictures are read from `folder`."""
  title = next((block.text for block in blocks if isinstance(block, Heading)), "")
  return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          f"<title>{escapes.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
          + "\n".join(_html(block, folder) for block in blocks) + "\n</body></html>\n")


def _markdown(block: Block) -> str:
  match block:
    case Heading(text, level):
      return f"{'#' * level} {text}"
    case Text(text):
      return text
    case Code(lines):
      return "\n".join(["```", *lines, "```"])
    case Items(lines):
      return "\n".join(f"- {line}" for line in lines)
    case Table(rows):
      return table(rows)
    case Picture(name):
      return f"![{name}]({name})"


def _html(block: Block, folder: pathlib.Path) -> str:
  match block:
    case Heading(text, level):
      return f"<h{level}>{_inline(text)}</h{level}>"
    case Text(text):
      return f"<p>{_inline(text)}</p>"
    case Code(lines):
      return f"<pre>{escapes.escape(chr(10).join(lines))}</pre>"
    case Items(lines):
      return "<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in lines) + "</ul>"
    case Table(rows):
      line = lambda cells, tag: "<tr>" + "".join(
          f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells) + "</tr>"
      return "\n".join(["<table>", line(rows[0], "th"), *(line(row, "td") for row in rows[1:]),
                        "</table>"])
    case Picture(name):
      data = base64.b64encode((folder / name).read_bytes()).decode()
      return f'<p><img alt="{escapes.escape(name)}" src="data:image/png;base64,{data}"></p>'


def _inline(text: str) -> str:
  return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escapes.escape(text))
