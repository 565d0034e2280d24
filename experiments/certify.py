"""The certificate of a trained run: at which noise levels it breaks duality, and by how much.

  python -m experiments.certify --workdir=runs/digits

Needs no density, only the run and its held-out data. Prints a table by noise level and the verdict.
Numbers are in <out>/data/certificate.json, the picture in <out>/figures/certificate-levels.png.
"""

import textwrap

from absl import flags

from experiments.config import cli
from experiments.paper import contents, options, record, report
from experiments.run import assembly, subprocesses

options.define(out="runs/certificate")

_LEGEND = (
    "ℓ is the half log-SNR and ρ = e^(−ℓ) the noise in deviations of the data. Excess: sliced W2 "
    "to noised held-out data, less that of data to data: of the process from noise (marginal), and "
    "of this interval alone, from noised data (local). Score error: a lower bound, in nats. "
    "Memory: loss on held-out less loss on training examples, nats. Each ± its standard error; "
    "** marks what chance would not do.")


def main() -> None:
  if flags.FLAGS.until_stdin_closes:
    subprocesses.end_with_stdin()
  given, part = options.given(), contents.PARTS["certificate"]
  if not given.workdir:
    raise ValueError("--workdir is empty: give the directory of a trained run")
  assembly.keep_compiled()
  found = record.measured(part, given)
  record.drawn(part, found, given.out)
  rows = part.load("claims").context(found["data"])["rows"]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
  answer = " ".join(report.template(part, found).answer.split())
  for text in (_LEGEND, answer):
    print(f"\n{textwrap.fill(text, 100)}")
  print(f"\nnumbers: {record.record_file(given.out, part.name)}; picture: "
        f"{given.out / 'figures' / 'certificate-levels.png'}")


if __name__ == "__main__":
  cli.run(main)
