"""Documents: every equation of the paper is indexed; code, commands, flags and links exist."""

import ast
import functools
import importlib.util
import inspect
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import runner

import langevin_jax
from experiments.config import schema

ROOT = pathlib.Path(__file__).parents[2]
THEORY = ROOT / "docs" / "theory.md"
EQUATIONS_PAGE = ROOT / "docs" / "equations.md"
# Reports of sweeps are written by experiments.sweep, and are of the commit that they name.
PAGES = tuple(file for file in sorted((ROOT / "docs").rglob("*.md"))
              if file.parent.name != "sweeps")
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)
CITED = re.compile(r"\btheory\.md#([\w-]+)")
# Of the paper: what follows an author and a year is another's.
EQUATIONS = re.compile(r"(?<!\d{4}, )(?<!\d{4}[a-z], )(?<!al\., )\beqs?\. \(?(\d[\d,–() and]*)")
CODE = re.compile(r"`((?:langevin_jax|experiments|tests)/[\w/]+\.py):([A-Za-z_][\w.]*)`")
FILE = re.compile(r"`((?:langevin_jax|experiments|tests|docs|\.github)/[\w/.-]+)`")
COMMAND = re.compile(r"python -m (experiments[\w.]*)([^`\n]*)")
FLAG = re.compile(r"--([a-z_]\w*)((?:\.\w+)*)(?:=(.+))?")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def sections(text: str) -> set[str]:
  """The anchors that GitHub and MyST make of the headings of a Markdown text."""
  titles = re.findall(r"^#+ (.+)$", text, re.M)
  return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def index_entries(text: str) -> set[str]:
  """The paper's items in the first column of the index: "eq. (1)", "A.1", "Table 1", …"""
  return set(re.findall(r"^\| (eq\. \(\d+\)|A\.\d|Table \d)", text, re.M))


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
  assert index_entries(EQUATIONS_PAGE.read_text()) == expected


def test_equations_are_cited_where_they_are_implemented_and_are_the_paper_s():
  rows = re.findall(r"^\| (?:eq\.|A\.).*$", EQUATIONS_PAGE.read_text(), re.M)
  assert len(rows) == 24
  assert not [row for row in rows if uncited(row)]
  assert not {(file.name, n) for file in sources() for n in cited_equations(file.read_text())
              if not 1 <= n <= 20}


def commands(text: str) -> list[tuple[str, str]]:
  """(module, arguments) of each `python -m experiments.…`, its continued lines joined."""
  return COMMAND.findall(re.sub(r"\\\n\s*", " ", text))


# Runs entry points one after another up to their main function, and prints the flags of each.
_FLAGS = """
import importlib, json, runpy, sys
from absl import flags
others, found = set(flags.FLAGS), {}
for name in sys.argv[1:]:
  for module in [module for module in sys.modules if module.split(".")[0] == "experiments"]:
    del sys.modules[module]
  for flag in set(flags.FLAGS) - others:
    delattr(flags.FLAGS, flag)
  importlib.import_module("experiments.config.cli").run = lambda *_, **__: None
  runpy.run_module(name, run_name="__main__")
  found[name] = sorted(set(flags.FLAGS))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def flags_of() -> dict[str, set[str]]:
  """The flags of every entry point that a document names."""
  modules = {module for file in DOCUMENTS for module, _ in commands(file.read_text())}
  assert len(modules) > 10
  assert not [module for module in modules if importlib.util.find_spec(module) is None]
  run = subprocess.run(
      [sys.executable, "-c", _FLAGS, *sorted(modules)], cwd=ROOT, check=True, capture_output=True,
      text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
  return {module: set(names) for module, names in json.loads(run.stdout).items()}


def unknown_flags(text: str, flags: dict[str, set[str]]) -> list[str]:
  """Flags of commands that their module does not have, and others that no module has."""
  unknown = []
  for module, arguments in commands(text):
    given = [FLAG.match(word).groups() for word in shlex.split(arguments) if FLAG.match(word)]
    files = [value for name, fields, value in given if name == "config" and not fields]
    file = files[0] if files and "…" not in files[0] and files[0] else "digits"
    # A reader's own functions, `module:name`, are not here.
    schema.override(schema.load(file), {
        fields[1:]: value for name, fields, value in given
        if name == "config" and fields and not re.match(r"(my)?lab\w*:", value)})
    unknown += [f"{module} --{name}" for name, _, _ in given
                if name not in flags[module] | {"config", "help"}]
  everywhere = set().union(*flags.values())
  # In prose a flag is code of its own: `--known`, `--start_level=…`.
  prose = re.findall(r"`--([a-z_]+)(?:=[^`]*)?`", text)
  return unknown + [f"--{name}" for name in prose if name not in everywhere | {"help"}]


def broken_links(text: str, folder: pathlib.Path) -> list[str]:
  """Relative links of a document in `folder` to a file or a section that is not there."""
  broken = []
  for link in LINK.findall(text):
    name, _, section = link.partition("#")
    if re.match(r"[a-z]+:", link):
      continue
    target = folder / name if name else None
    if target and not target.exists():
      broken.append(link)
    elif section:
      page = target.read_text() if target else text
      if section not in sections(page) and f"({section})=" not in page:
        broken.append(link)
  return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_a_document_cites_exists(document, flags_of):
  text = document.read_text()
  assert not missing_code(text)
  assert not [file for file in FILE.findall(text) if not (ROOT / file).exists()]
  assert not broken_links(text, document.parent)
  assert not unknown_flags(text, flags_of)


def test_sections_that_are_cited_exist():
  known = sections(THEORY.read_text())
  cited = {(file.name, link) for file in sources() for link in CITED.findall(file.read_text())}
  assert not {(name, link) for name, link in cited if link not in known}


def test_every_room_of_the_library_has_a_page_with_an_example():
  for room in langevin_jax.__all__:
    page = (ROOT / "docs" / "api" / f"{room}.md").read_text()
    assert f"automodule:: langevin_jax.{room}\n" in page, room
    cells = re.findall(r"```\{code-cell\} python\n(.*?)```", page, re.S)
    assert any(re.search(rf"\b{room}\.\w+", cell) for cell in cells), room


def test_docstrings_become_text_that_cannot_break_a_page():
  sys.path.insert(0, str(ROOT / "docs" / "extensions"))
  import docstrings

  lines = docstrings.to_rst(inspect.cleandoc("""One `line` with *, |x|² and x_.

    Before an equation

      x′ = a * x

    | a | b |
    |---|---|
    | `c` | d |

    Args:
      key: consumed. n: how many, and
        more of it.
      x, y: two.

    Raises:
      ValueError: always.
    """))
  text = "\n".join(lines)
  assert lines[0] == r"One \ ``line``\  with \*, \|x\|² and x\_."
  assert ".. code-block:: text\n\n   x′ = a * x\n" in text
  assert "   * - a\n     - b\n   * - ``c``\n     - d\n" in text
  assert "* ``key`` – consumed. n: how many, and more of it." in text
  assert "* ``x, y`` – two." in text and ":Raises:" in text
  arguments, result = docstrings.signature(langevin_jax.paths.convert)
  assert arguments.startswith("(x_a: jax.Array, t_a: Scalar, path_a: Path") and "tuple" in result


def test_make_targets_that_are_named_exist():
  targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
  files = [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".pre-commit-config.yaml",
           ROOT / "CONTRIBUTING.md"]
  named = {(file.name, target) for file in (*files, *DOCUMENTS) for target in re.findall(
      r"(?:^(?: *- run: | *entry: |)|`)make ([\w-]+)", file.read_text(), re.M)}
  assert len(named) > 8
  assert not {(name, target) for name, target in named if target not in targets}


def test_every_test_that_slow_txt_names_exists():
  for name in runner.slow():
    file, _, test = name.partition("::")
    text = (runner.ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {re.escape(test.partition('[')[0])}\(", text, re.M), name


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
  assert index_entries("| paper |\n| eq. (3) | x |\n| Table 9 | y |\n") == {"eq. (3)", "Table 9"}
  assert sections("# Theory\n## Initial noise\n") == {"theory", "initial-noise"}
  ours, theirs = "§3, eqs. 3,\n16 and 4; eqs. (13)–(15)", "Ho et al. 2020, eq. 21; Xu et al., eq. 9"
  assert cited_equations(f"{ours}; {theirs}") == {3, 4, 13, 14, 15, 16}
  assert uncited("| eq. (7) | x | y | `langevin_jax/paths/sde.py:from_sde` | z |")
  assert CITED.findall("theory.md#no-such-section") == ["no-such-section"]
  flags = {"experiments.train": {"workdir"}}
  command = "python -m experiments.train --workdir=x \\\n  --wrkdir=y --config.seed=1"
  assert unknown_flags(command, flags) == ["experiments.train --wrkdir"]
  assert unknown_flags("`--workdir` and `--no_such=3`", flags) == ["--no_such"]
  with pytest.raises(ValueError, match="no_such"):
    unknown_flags("python -m experiments.train --config.no_such=1", flags)
  assert broken_links("[a](no_such.md) [b](theory.md#step) [c](theory.md#stp)", ROOT / "docs") == [
      "no_such.md", "theory.md#stp"]


def test_the_module_on_the_page_about_configs_trains_and_samples(tmp_path, monkeypatch):
  page = (ROOT / "docs" / "howto" / "configs.md").read_text()
  module = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S)
                if block.startswith("# mylab.py"))
  (tmp_path / "mylab.py").write_text(module)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.chdir(tmp_path)
  runner.succeed("train", *runner.SMALL[1:3], "--config=mixture2d", "--workdir=w",
                 "--config.training.steps=4", "--config.training.batch_size=16",
                 "--config.network=mylab:Wave(width=32)", "--config.path=mylab:circle()")
  runner.succeed("sample", "--workdir=w", "--num_samples=10", "--path=mylab:circle()",
                 "--grid=uniform_time(4)")
  config = json.loads((tmp_path / "w" / "config.json").read_text())
  assert (config["network"]["call"], config["network"]["width"]) == ("mylab:Wave", 32)
  assert np.load(tmp_path / "w" / "samples.npy").shape == (10, 2)
