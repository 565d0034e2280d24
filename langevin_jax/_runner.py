"""The command `langevin`: the experiment runner of the clone that this package lies in.

  langevin train --config=digits --workdir=runs/digits      is  python -m experiments.train …

It works from any directory, also from one with an `experiments/` of its own. The runner is no part
of the wheel: it needs a clone, installed by `pip install -e ".[experiments]"`.
"""

import difflib
import pathlib
import runpy
import sys

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def commands() -> dict[str, str]:
  """The runner's programs: name → the first line of its docstring."""
  found = {}
  for file in sorted((_ROOT / "experiments").glob("*")):
    source = file / "__main__.py" if file.is_dir() else file
    if source.suffix == ".py" and source.is_file():
      text = source.read_text(encoding="utf-8")
      if '__name__ == "__main__"' in text:
        found[file.stem] = text.removeprefix('"""').splitlines()[0]
  return found


def main() -> None:
  """Runs the program of argv[1] with the arguments after it."""
  found = commands()
  if not found:
    sys.exit("error: the runner is no part of the installed package: clone the repository and "
             'install it there with pip install -e ".[experiments]"')
  name = sys.argv[1] if len(sys.argv) > 1 else "--help"
  if name in ("--help", "-h", "help"):
    print("usage: langevin COMMAND --option=value …\n\n" + "\n".join(
        f"  {each:14} {text}" for each, text in found.items()))
    return
  if name not in found:
    near = difflib.get_close_matches(name, found, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    sys.exit(f"error: no command {name!r}{hint}; there are {', '.join(found)}")
  sys.path.insert(0, str(_ROOT))
  sys.path.append(str(pathlib.Path.cwd()))  # of modules of one's own, as with python -m
  sys.argv = [f"langevin {name}", *sys.argv[2:]]
  runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
