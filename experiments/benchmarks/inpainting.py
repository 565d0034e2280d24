"""Halves of held-out digits restored by a trained run: LanPaint beside what else keeps to a mask.

  python -m experiments.benchmarks.inpainting --workdir=runs/digits

Of every held-out image one half is known, left, right, top and bottom in turn. A classifier of real
images says how often the restored one has the label of the real one: without the label being given
to the model, so that it must be read from the known half, and with it. Halves do not always say
which digit they are of: a classifier of halves says how often the best guess is right, and a sample
of the true conditional law is right less often than the best guess.
"""

import json
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
_NUM = flags.DEFINE_integer("num", 0, "How many held-out images; all if not given.")
_STEPS = flags.DEFINE_integer("outer_steps", 20, "Levels of the outer sampler.")
_OUT = flags.DEFINE_string("out", "runs/bench/inpainting.json", "Where the numbers go.")

ODE, SDE = "ddim()", "ddim(1.0)"
# "pasted" is the known half beside a sample that knows nothing of it.
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
  """One method; pairs are (mean, standard error)."""

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
  records.write_text(out, json.dumps({
      "machine": measure.machine(), "step": int(state.step), "n": n, "steps": _STEPS.value,
      "classifier_on_real": accuracy, "classifier_of_halves": guess,
      "rows": [row._asdict() for row in rows],
  }, indent=2, ensure_ascii=False) + "\n")
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
  """The row of a method, and what it restores without labels, in the user's units."""
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
  """How often a classifier of halves, the rest of them 0, names the label of the real image."""
  x, labels = dataset.train, dataset.train_labels
  known = [np.where(inpaint.half_mask(name, dataset), x, 0.0) for name in inpaint.HALVES]
  judge = classifier.train(np.concatenate(known), np.tile(labels, len(known)),
                           num_classes=dataset.num_classes, seed=seed, steps=3000)
  n = len(mask)
  return classifier.label_agreement(
      judge, np.where(mask, dataset.test[:n], 0.0), dataset.test_labels[:n])


def report(rows: list[Row], n: int, accuracy: float, guess: float) -> None:
  """The table, and what it is to be held against."""
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
