"""Documents: every equation of the paper is indexed, and all that they cite exists."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
THEORY = ROOT / "docs" / "theory.md"
DOCUMENTS = (THEORY, ROOT / "README.md", ROOT / "CONTRIBUTING.md")
CITED = re.compile(r"\btheory\.md#([\w-]+)")
# Of the paper: what follows an author and a year is another's.
EQUATIONS = re.compile(r"(?<!\d{4}, )(?<!\d{4}[a-z], )(?<!al\., )\beqs?\. \(?(\d[\d,–() and]*)")
CODE = re.compile(r"`((?:langevin_jax|experiments|tests)/[\w/]+\.py):([A-Za-z_][\w.]*)`")
FILE = re.compile(r"`((?:langevin_jax|experiments|tests|docs|\.github)/[\w/.-]+)`")


def sections(text: str) -> set[str]:
  """The anchors that GitHub and MyST make of the headings of a Markdown text."""
  titles = re.findall(r"^#+ (.+)$", text, re.M)
  return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def index_entries(text: str) -> set[str]:
  """The paper's items in the first column of the index: "eq. (1)", "A.1", "Table 1", …"""
  table = text.split("\n## Index\n")[1]
  return set(re.findall(r"^\| (eq\. \(\d+\)|A\.\d|Table \d)", table, re.M))


def cited_equations(text: str) -> set[int]:
  """The numbers in "eq. 3", "eqs. 3, 16", "eqs. (13)–(17)", but not in "Ho et al. 2020, eq. 14"."""
  found = set()
  for numbers in EQUATIONS.findall(" ".join(text.split())):
    for first, last in re.findall(r"(\d+)\)?(?:–\(?(\d+))?", numbers):
      found |= set(range(int(first), int(last or first) + 1))
  return found


def uncited(row: str) -> bool:
  """Whether no file that a line of the index names cites the line's equation or appendix."""
  item, code = row.split("|")[1].strip(), row.split("|")[4]
  texts = [(ROOT / file).read_text() for file, _ in CODE.findall(code)]
  if item.startswith("eq."):
    return not any(int(item[5:-1]) in cited_equations(text) for text in texts)
  return not any(item in text for text in texts)


@functools.cache
def definitions(file: pathlib.Path) -> frozenset[str]:
  """Names of a module that may be cited: functions, classes and their methods, assignments."""
  def names(body, prefix=""):
    for node in body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield prefix + node.name
      if isinstance(node, ast.ClassDef):
        yield from names(node.body, f"{prefix}{node.name}.")
      targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
      yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

  return frozenset(names(ast.parse(file.read_text()).body))


def missing_code(text: str) -> list[str]:
  """The references `file.py:name` to what is not defined."""
  return [f"{file}:{name}" for file, name in CODE.findall(text)
          if not (ROOT / file).is_file() or name not in definitions(ROOT / file)]


def sources() -> list[pathlib.Path]:
  """All that may cite the theory, but for this file, whose examples cite what is not there."""
  python = [file for folder in ("langevin_jax", "experiments", "tests")
            for file in (ROOT / folder).rglob("*.py")]
  return [file for file in (*python, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
          if file != pathlib.Path(__file__)]


def test_every_equation_appendix_and_table_is_in_the_index():
  expected = {*(f"eq. ({i})" for i in range(1, 21)), *(f"A.{i}" for i in range(1, 5)),
              *(f"Table {i}" for i in range(1, 8))}
  assert index_entries(THEORY.read_text()) == expected


def test_equations_are_cited_where_they_are_implemented_and_are_the_paper_s():
  rows = re.findall(r"^\| (?:eq\.|A\.).*$", THEORY.read_text().split("\n## Index\n")[1], re.M)
  assert len(rows) == 24
  assert not [row for row in rows if uncited(row)]
  assert not {(file.name, n) for file in sources() for n in cited_equations(file.read_text())
              if not 1 <= n <= 20}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_code_and_files_that_a_document_cites_exist(document):
  text = document.read_text()
  assert not missing_code(text)
  assert not [file for file in FILE.findall(text) if not (ROOT / file).exists()]


def test_sections_that_are_cited_exist():
  known = sections(THEORY.read_text())
  links = {(THEORY.name, link) for link in re.findall(r"\]\(#([\w-]+)\)", THEORY.read_text())}
  cited = {(file.name, link) for file in sources() for link in CITED.findall(file.read_text())}
  assert not {(name, link) for name, link in links | cited if link not in known}


def test_make_targets_that_are_named_exist():
  targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
  files = [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".pre-commit-config.yaml",
           ROOT / "CONTRIBUTING.md"]
  named = {(file.name, target) for file in files for target in re.findall(
      r"^(?: *- run: | *entry: |)make ([\w-]+)", file.read_text(), re.M)}
  assert len(named) > 8
  assert not {(name, target) for name, target in named if target not in targets}


def test_one_version_everywhere():
  package = "\n".join((ROOT / file).read_text()
                      for file in ("langevin_jax/__init__.py", "pyproject.toml"))
  version, = re.findall(r'^(?:__version__|version) = "([^"]+)"$', package, re.M)
  assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == version
  released = re.findall(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
  assert released[0] == version


def test_the_checks_would_notice():
  assert missing_code("`langevin_jax/splitting.py:stp` `langevin_jax/splitting.py:SDE.drift`") == [
      "langevin_jax/splitting.py:stp"]
  assert missing_code("`langevin_jax/no_such.py:step`") == ["langevin_jax/no_such.py:step"]
  assert index_entries("\n## Index\n| eq. (3) | x |\n| Table 9 | y |\n") == {"eq. (3)", "Table 9"}
  assert sections("# Theory\n## Initial noise\n") == {"theory", "initial-noise"}
  ours, theirs = "§3, eqs. 3,\n16 and 4; eqs. (13)–(15)", "Ho et al. 2020, eq. 21; Xu et al., eq. 9"
  assert cited_equations(f"{ours}; {theirs}") == {3, 4, 13, 14, 15, 16}
  assert uncited("| eq. (7) | x | y | `langevin_jax/paths/sde.py:from_sde` | z |")
  assert CITED.findall("theory.md#no-such-section") == ["no-such-section"]
