"""Measures one part: writes numbers to <out>/data and pictures to <out>/figures.

  python -m experiments.paper.measure --part=identity --fast
"""

from absl import flags

from experiments.config import cli
from experiments.paper import contents, options, record
from experiments.run import assembly, subprocesses

options.define()
_PART = flags.DEFINE_enum("part", None, list(contents.PARTS), "The part.", required=True)


def main() -> None:
  if flags.FLAGS.until_stdin_closes:
    subprocesses.end_with_stdin()
  assembly.keep_compiled()
  given, part = options.given(), contents.PARTS[_PART.value]
  found = record.measure(part, given)
  record.draw(part, found, given.out)
  for claim in part.claims(found["data"]):
    print(f"{claim.verdict(fast=found['fast'])} {claim.text} ({claim.source}): "
          f"{claim.measured()}; expected {claim.expected}")
  print(f"{part.name}: {found['seconds']:.0f} s")


if __name__ == "__main__":
  cli.run(main)
