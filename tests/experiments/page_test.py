"""Pages of reports: names and texts of users are text, and no page runs anything."""

import html.parser

import pytest

from experiments.report import page

NAMES = (
    "<img src=x onerror=alert(1)>", "a|b", "**b**", "`<b>c</b>`", "a_b", "_x_", "[l](javascript:x)",
    "a\\", "a\\|b", "x^{2}", "&lt;", "x_{i}", "# a", "<!--", "a\nb", "``<i>`", "$x$", "\\<b>")


def test_names_mean_themselves_in_both_pages(tmp_path):
  markdown_it = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
  for name in NAMES:
    check_name(name, markdown_it.enable("table"), tmp_path)


def check_name(name, markdown_it, folder):
  shown = page.literal(name)
  text = "\n\n".join([
      f"# {shown}", f"of **{shown}**, x", f"- an arm {shown}",
      page.table([["arm", "x"], [shown, "1"]]), page.code([name, "```", "<b>"]), f"[{shown}](#a)"])
  rendered = markdown_it.render(text)
  whole = page.html("page.html.j2", title=name, text=page.markup(text, folder.joinpath))
  for shown in (rendered, whole):
    body = Read(shown)
    assert body.tags <= {"html", "head", "meta", "title", "style", "body", "div", "h1", "p", "ul",
                         "li", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre", "code",
                         "a"}, body.tags
    plain = name.replace("\n", " ")
    assert [cell.strip() for cell in body.texts["td"]] == [plain.strip(), "1"]
    assert body.texts["h1"] == [plain] and "".join(body.texts["strong"]) == plain
    assert "".join(body.texts["li"]) == f"an arm {plain}" and body.texts["a"] == [plain]


class Read(html.parser.HTMLParser):
  """The elements of a page, and the text in each kind of them."""

  def __init__(self, text: str):
    super().__init__()
    self.tags, self.texts, self._open = set(), {}, []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    assert not any(name.startswith("on") for name, _ in attrs)
    if tag != "meta":
      self._open.append(tag)
      self.texts.setdefault(tag, []).append("")

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open:
      self.texts[self._open[-1]][-1] += data

  def handle_comment(self, data):
    raise AssertionError(data)


@pytest.mark.parametrize("text", [
    "x <script>alert(1)</script>", "<div>\n\nx\n\n</div>", "`<i>`` <b>", "<!-- x -->", "\\\\<b>",
    "[x](javascript:alert(1))", "$<mi onclick='x'>a</mi>$",
    r"$\text{<script>alert(1)</script>}$", r"$$\text{<mi onclick='x'>a</mi>}$$",
    r"$\text{<meta http-equiv='refresh' content='0;url=x'/>}$", "| a |\n|---|\n| <b> |"])
def test_what_is_no_markdown_is_text_and_a_page_runs_nothing(text, tmp_path):
  said = page.html("page.html.j2", title=text, text=page.markup(text, tmp_path.joinpath))
  assert Read(said).tags <= {"html", "head", "meta", "title", "style", "body", "p", "div", "table",
                             "thead", "tbody", "tr", "th", "td", "code", "a", "math", "mrow", "mi",
                             "mo", "msup", "mn"}
  assert 'href="javascript' not in said and said.count("<meta") == page.html(
      "page.html.j2", title="", text="").count("<meta")
  assert "default-src 'none'" in said.split("<title>")[0]
