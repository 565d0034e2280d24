"""Inpainting of halves of held-out digits by a trained run, with LanPaint and other methods.

  python -m experiments.benchmarks.inpainting --workdir=runs/digits

One half of each held-out image is known: left, right, top and bottom in turn. A classifier trained
on real images gives the share of restored images with the label of the real image. This is measured
with and without the label as a condition of the model. A half does not always determine the digit:
a classifier of halves gives the accuracy of the best guess. A sample of the true conditional
distribution is right less often than the best guess.
"""

import math
import time
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.benchmarks import measure
from experiments.config import build, cli
from experiments.metrics import classifier
from experiments.run import assembly, progress, records
from experiments.sampling import drawing, inpaint, pictures, samplers_from_config
from langevin_jax import inpainting

_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained run on labelled images.")
_NUM = flags.DEFINE_integer("num", 0, "Number of held-out images. Default: all.")
_STEPS = flags.DEFINE_integer("outer_steps", 20, "Number of steps of the outer sampler.")
_OUT = flags.DEFINE_string("out", "runs/bench/inpainting.json", "Where to write the numbers.")

ODE, SDE = "ddim()", "ddim(1.0)"
# "pasted": the known half beside an unconditional sample.
METHODS: dict[str, tuple[str, inpainting.Inpainter | None]] = {
    "pasted": (ODE, None),
    "replacement": (ODE, inpainting.replacement()),
    "replacement, η = 1": (SDE, inpainting.replacement()),
    "DDNM": (ODE, inpainting.ddnm()),
    "DDNM, η = 1": (SDE, inpainting.ddnm()),
    "RePaint-5": (SDE, inpainting.repaint(5)),
    "RePaint-10": (SDE, inpainting.repaint(10)),
    "Langevin-5": (ODE, inpainting.langevin(5)),
    "Langevin-10": (ODE, inpainting.langevin(10)),
    "LanPaint-5": (ODE, inpainting.lanpaint(5)),
    "LanPaint-10": (ODE, inpainting.lanpaint(10)),
    "LanPaint-10, η = 1": (SDE, inpainting.lanpaint(10)),
}


class Row(NamedTuple):
  """Results of one method; pairs are (mean, standard error)."""

  method: str
  calls: float
  unlabelled: tuple[float, float]
  labelled: tuple[float, float]
  rmse: tuple[float, float]
  seconds: float


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  config = records.read_config(workdir)
  assembly.configure_jax(config)
  build.at_least("num", _NUM.value, 0)
  build.at_least("outer_steps", _STEPS.value, 1)
  out = cli.out(_OUT.value, measure.is_report, beside=(".png",),
                inputs=data.files(config.data))
  run = assembly.prepare(config)
  run = run._replace(dataset=data.comparison_data(run.dataset))
  dataset = run.dataset
  if dataset.kind != "image" or not dataset.num_classes:
    raise ValueError(f"--workdir must be of a run on labelled images, got {config.data.name!r}")
  assembly.check_labels(run, config_lib.Sampling(), unlabelled=True)
  state = assembly.restored(run, workdir)
  n = min(_NUM.value or len(dataset.test), len(dataset.test))
  mask = halves(dataset, n)
  judge = classifier.train(dataset.train, dataset.train_labels, num_classes=dataset.num_classes,
                           seed=config.evaluation.seed)
  rows, shown = [], {}
  with progress.bar(len(METHODS), 0, "restoring") as bar:
    for name, (sampler, method) in METHODS.items():
      row, x = restore(run, state.ema[0], name, sampler, method, mask, judge,
                       steps=_STEPS.value)
      rows.append(row)
      shown[name] = x[:16]
      bar(len(rows), name)
  real = data.restore(dataset, dataset.test[:n])
  accuracy = classifier.label_agreement(judge, dataset.test[:n], dataset.test_labels[:n])
  guess = best_guess(dataset, mask, config.evaluation.seed)
  report(rows, n, accuracy, guess)
  pictures.strips(out.with_suffix(".png"), dataset,
               {"known": real[:16], **shown, "real": real[:16]}, ~mask[:16].all(-1))
  measure.write(out, {
      "machine": measure.machine(), "step": int(state.step), "n": n, "steps": _STEPS.value,
      "classifier_on_real": accuracy, "classifier_of_halves": guess,
      "rows": [row._asdict() for row in rows]})
  print(f"\nwrote {out} and {out.with_suffix('.png')}")
  return 0


def halves(dataset: data.Dataset, n: int) -> np.ndarray:
  """Masks (n, h, w, c): left, right, top and bottom in turn."""
  four = np.concatenate([inpaint.half_mask(name, dataset) for name in inpaint.HALVES])
  return four[np.arange(n) % 4]


def restore(
    run: assembly.Run, params: Any, name: str, sampler: str,
    method: inpainting.Inpainter | None, mask: np.ndarray, judge: classifier.Classifier, *,
    steps: int,
) -> tuple[Row, np.ndarray]:
  """The row of a method, and the images restored without labels, in the data's units."""
  dataset, n = run.dataset, len(mask)
  rho_min, rho_max = samplers_from_config.ends(run.config.sampling)
  sampling = config_lib.Sampling(
      sampler=sampler, grid=f"karras({steps}, rho_min={rho_min}, rho_max={rho_max})", batch_size=n)
  real, truth = data.restore(dataset, dataset.test[:n]), dataset.test_labels[:n]
  known = None if method is None else drawing.Known(dataset.test[:n], real, mask, method)
  started = time.monotonic()
  restored = {}
  for what, labels in (("free", np.full(n, dataset.num_classes, np.int32)), ("given", truth)):
    x = drawing.draw(run, params, sampling, run.path, labels, seed=0, known=known)
    restored[what] = np.where(mask, real, x)
  seconds = time.monotonic() - started

  def agreement(x):
    standard = data.standardise(x, dataset.mean, dataset.scale)
    share = classifier.label_agreement(judge, standard, truth)
    return share, math.sqrt(share * (1.0 - share) / n)

  x = restored["free"]
  square = ((x - real) ** 2).sum((1, 2, 3)) / (~mask).sum((1, 2, 3))
  rmse = math.sqrt(square.mean())
  wrap = (lambda method: method) if method is None else inpaint.for_counting(method)
  return Row(
      name, samplers_from_config.network_calls(sampling, run.path, wrap), agreement(x),
      agreement(restored["given"]), (rmse, square.std() / math.sqrt(n) / (2.0 * rmse)),
      seconds), x


def best_guess(dataset: data.Dataset, mask: np.ndarray, seed: int) -> float:
  """The accuracy of a classifier of halves, whose unknown pixels are 0, on held-out images."""
  x, labels = dataset.train, dataset.train_labels
  known = [np.where(inpaint.half_mask(name, dataset), x, 0.0) for name in inpaint.HALVES]
  judge = classifier.train(np.concatenate(known), np.tile(labels, len(known)),
                           num_classes=dataset.num_classes, seed=seed, steps=3000)
  n = len(mask)
  return classifier.label_agreement(
      judge, np.where(mask, dataset.test[:n], 0.0), dataset.test_labels[:n])


def report(rows: list[Row], n: int, accuracy: float, guess: float) -> None:
  """Prints the table and the accuracies to compare it with."""
  print(f"\n{n} held-out images, one half known. Agreement with the real label: {accuracy:.3f} of "
        f"real images,\n{guess:.3f} of a classifier of halves. RMSE of the unknown half in the "
        "data's units.")
  print(f"\n{'method':20} {'calls':>6} {'no label':>15} {'label given':>15} {'RMSE':>13}")
  pair = lambda value, digits: f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"
  for row in rows:
    print(f"{row.method:20} {row.calls:6g} {pair(row.unlabelled, 3):>15} "
          f"{pair(row.labelled, 3):>15} {pair(row.rmse, 2):>13}")


if __name__ == "__main__":
  cli.run(main)
