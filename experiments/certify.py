"""The certificate of a trained run: the noise levels at which it violates duality, and how much.

  python -m experiments.certify --workdir=runs/digits

It needs only the run and its held-out data, no density. It prints a table by noise level and a
conclusion. Numbers are in <out>/data/certificate.json, the picture is in
<out>/figures/certificate-levels.png.
"""

import textwrap

from absl import flags

from experiments.config import cli
from experiments.paper import contents, options, record, report
from experiments.run import assembly, subprocesses

options.define(out="runs/certificate")

_LEGEND = (
    "ℓ is the half log-SNR; ρ = e^(−ℓ) is the noise in standard deviations of the data. Excess: "
    "sliced W2 to noised held-out data, minus that between data: of the process from noise "
    "(marginal), and of this interval, started from noised data (local). Score error: a lower "
    "bound, in nats. Memory: held-out loss minus training loss, in nats. Each value is ± its "
    "standard error; ** marks significant values.")


def main() -> None:
  if flags.FLAGS.until_stdin_closes:
    subprocesses.end_with_stdin()
  settings, part = options.given(), contents.PARTS["certificate"]
  if not settings.workdir:
    raise ValueError("--workdir is empty: give the directory of a trained run")
  assembly.keep_compiled()
  measured = record.measure(part, settings)
  record.draw(part, measured, settings.out)
  rows = part.context(measured["data"])["rows"]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
  answer = " ".join(report.template(part, measured).answer.split())
  for text in (_LEGEND, answer):
    print(f"\n{textwrap.fill(text, 100)}")
  print(f"\nnumbers: {record.record_file(settings.out, part.name)}; picture: "
        f"{settings.out / 'figures' / 'certificate-levels.png'}")


if __name__ == "__main__":
  cli.run(main)
