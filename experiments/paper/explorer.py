"""An interactive page: forward, Langevin and reverse processes, computed in the browser.

`build` combines page.html, explorer.css and the modules that main.js imports, in docs/explorer/,
into one page. The page makes no network request: its Content-Security-Policy forbids them. It
computes the same as `langevin_jax.samplers`, `paths.simulate` and `langevin.ornstein_uhlenbeck` for
a Gaussian mixture in the plane; tests/browser/explorer_test.py compares them.

  python -m experiments.paper.explorer --out=runs/paper
"""

import pathlib
import re

from absl import flags

from experiments.config import cli
from experiments.run import records, subprocesses

_FOLDER = subprocesses.ROOT / "docs" / "explorer"
_IMPORT = re.compile(r'^import \* as (\w+) from "\./(\w+)\.js";\n', re.M)
_EXPORT = re.compile(r"^export (?:function|const) (\w+)", re.M)


def build() -> str:
  """The page: HTML with its styles and script."""
  page = (_FOLDER / "page.html").read_text(encoding="utf-8")
  style = (_FOLDER / "explorer.css").read_text(encoding="utf-8")
  for mark, text, end in (("/* explorer.css */", style, "</style"),
                          ("/* main.js */", script("main"), "</script")):
    if page.count(mark) != 1 or end in text:
      raise ValueError(f"page.html must hold {mark} once, and what replaces it no {end}>")
    page = page.replace(mark, text)
  return page


def script(name: str) -> str:
  """A module and its imports as one script, in which each module is an object of its exports.

  Modules are imported by `import * as levels from "./levels.js";`, so that names do not collide.

  Raises:
    ValueError: another form of import or export, or an import cycle.
  """
  done: dict[str, str] = {}

  def add(name: str, above: tuple[str, ...]) -> None:
    if name in above:
      raise ValueError(f"modules import each other: {' → '.join((*above, name))}")
    source = (_FOLDER / f"{name}.js").read_text(encoding="utf-8")
    for alias, imported in _IMPORT.findall(source):
      if alias != imported:
        raise ValueError(f"{name}.js must import {imported}.js by its own name, not as {alias}")
      if imported not in done:
        add(imported, (*above, name))
    exported = _EXPORT.findall(source)
    body = re.sub(r"^export (?=function|const)", "", _IMPORT.sub("", source), flags=re.M)
    if re.search(r"^(import|export)\b", body, re.M):
      raise ValueError(f'{name}.js may only `import * as x from "./x.js"` and export functions and '
                       "constants by their declaration")
    names = ", ".join(exported)
    done[name] = f"const {name} = (() => {{\n{body}\nreturn {{{names}}};\n}})();\n"

  add(name, ())
  return '"use strict";\n' + "\n".join(done.values())


def main() -> int:
  cli.refuse_config()
  out = pathlib.Path(flags.FLAGS.out)
  if out.exists() and not out.is_dir():
    raise ValueError(f"--out must be a directory, {out} is a file")
  out.mkdir(parents=True, exist_ok=True)
  page = build()
  records.write_text(out / "explorer.html", page)
  print(f"{out / 'explorer.html'}: {len(page.encode()) / 1000:.0f} kB, opens in any browser",
        flush=True)
  return 0


if __name__ == "__main__":
  flags.DEFINE_string("out", "runs/paper", "Directory for explorer.html.")
  cli.run(main)
