"""Writes the page of `experiments/paper/explorer`: see there."""

import pathlib

from absl import flags

from experiments.config import cli
from experiments.paper import explorer
from experiments.run import records

_OUT = flags.DEFINE_string("out", "runs/paper", "Directory for explorer.html.")


def main() -> int:
  cli.refuse_config()
  out = pathlib.Path(_OUT.value)
  if out.exists() and not out.is_dir():
    raise ValueError(f"--out must be a directory, {out} is a file")
  out.mkdir(parents=True, exist_ok=True)
  page = explorer.build()
  records.write_text(out / "explorer.html", page)
  print(f"{out / 'explorer.html'}: {len(page.encode()) / 1000:.0f} kB, opens in any browser",
        flush=True)
  return 0


if __name__ == "__main__":
  cli.run(main)
