"""What conditional models are worth: against exact laws, and against baselines on digits.

  python -m experiments.benchmarks.conditions --out=runs/bench/conditions.json
  python -m experiments.benchmarks.conditions --only=super_resolution

  vector             the KL of a learned density given a vector
  guidance           guided samples of an exact model against the tilted target
  super_resolution   held-out digits from their 2 × 2 means: a network that takes these as a
                     condition, LanPaint with the same network without it, and nearest neighbours
  two_labels         digits given number and ink, one of the two, or neither

The two runs on `conditional_digits` are trained first if they are not there (half a minute each).
"""

import functools
from typing import Any

import jax
import numpy as np
from absl import flags

import experiments
from experiments import data
from experiments.benchmarks import conditional_digits, exact_conditions, measure
from experiments.config import cli
from experiments.metrics import classifier
from experiments.run import conditions as run_conditions
from experiments.run import model
from experiments.sampling import drawing, pictures
from langevin_jax import inpainting, paths, predictions, samplers

_SETTINGS = (f"--config.network={conditional_digits.__name__}:Pixels()",
             "--config.training.steps=2500", "--config.training.log_every=500")
_GRID = "karras(15, rho_min=0.002, rho_max=500)"
_DRAWS = 4  # samples of each held-out digit
# The orthonormal Haar basis of 2 × 2 pixels; the first coefficient is twice their mean.
_HAAR = 0.5 * np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32)


def main() -> int:
  parts = {"vector": lambda: {"kl": exact_conditions.vector()},
           "guidance": exact_conditions.guided,
           "super_resolution": super_resolution, "two_labels": two_labels}
  only = flags.FLAGS.only or list(parts)
  if unknown := set(only) - set(parts):
    raise ValueError(f"--only must be of {', '.join(parts)}, got {unknown.pop()!r}")
  out = cli.out(flags.FLAGS.out, measure.is_report, suffix=".json", beside=(".png",))
  results, rows = {}, {}
  for name in only:
    found = parts[name]()
    results[name], drawn = found if isinstance(found, tuple) else (found, {})
    rows |= drawn
    for key, value in results[name].items():
      print(f"{name:18} {key:20} {_text(value)}", flush=True)
  measure.write(out, {"machine": measure.machine(), "results": results})
  if rows:
    # The grey levels are those of both runs.
    name = "low_resolution" if "super_resolution" in only else "number_and_ink"
    dataset = _trained(name).run.dataset
    pictures.strips(out.with_suffix(".png"), dataset, rows, np.zeros((10, 8, 8), bool))
  print(f"wrote {out}")
  return 0


def _text(value: Any) -> str:
  if isinstance(value, dict):
    return "  ".join(f"{name} {number:.3f}" for name, number in value.items())
  return f"{value:.4f}"


@functools.cache
def _trained(name: str) -> model.Model:
  """The model of the digits config on a function of `conditional_digits`.

  LanPaint needs the model without a condition as much as the other method the one with it. So half
  of the examples of `low_resolution` have none.
  """
  workdir = f"{flags.FLAGS.runs}/digits_{name}"
  measure.call("train", "--config=digits", *_SETTINGS, f"--workdir={workdir}",
               f"--config.data={conditional_digits.__name__}:{name}",
               f"--config.training.label_dropout={0.5 if name == 'low_resolution' else 0.1}")
  return experiments.load(workdir)


def _judge(train: conditional_digits.Digits) -> classifier.Classifier:
  return classifier.train(train.x, train.number, num_classes=10, seed=0)


def super_resolution() -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
  """Scores of each method, and pictures of the first held-out digits."""
  train, test = conditional_digits.digits()
  low, judge = conditional_digits.pooled(test.x), _judge(train)
  enlarged = low.repeat(2, 1).repeat(2, 2)
  shape = (_DRAWS, *test.x.shape)
  draws = {
      "nearest pixel": np.broadcast_to(enlarged, shape),
      "nearest example": np.broadcast_to(train.x[nearest(
          low, conditional_digits.pooled(train.x))], shape),
      "LanPaint-10": lanpainted(_trained("low_resolution"), np.tile(low, (_DRAWS, 1, 1, 1))
                                ).reshape(shape),
      "condition": _trained("low_resolution").sample(
          jax.random.key(0), _DRAWS * len(low), grid=_GRID,
          condition={"low": np.tile(low, (_DRAWS, 1, 1, 1)) / 8.0 - 1.0}).reshape(shape),
  }
  scores = {name: score(x, test, judge) for name, x in draws.items()}
  scores["real"] = {"agreement": classifier.label_agreement(judge, test.x, test.number)}
  first = np.array([np.flatnonzero(test.number == digit)[0] for digit in range(10)])
  rows = {"4 × 4": enlarged[first], **{name: x[0, first] for name, x in draws.items()},
          "again": draws["condition"][1, first], "real": test.x[first]}
  rows.pop("nearest pixel")
  return scores, rows


def nearest(low: np.ndarray, of: np.ndarray) -> np.ndarray:
  """Which of `of` is nearest to each of `low`, (n,)."""
  low, of = low.reshape(len(low), -1), of.reshape(len(of), -1)
  return ((low[:, None] - of[None]) ** 2).sum(-1).argmin(1)


def score(
    x: np.ndarray, test: conditional_digits.Digits, judge: classifier.Classifier
) -> dict[str, float]:
  """Of draws (m, n, 8, 8, 1), in grey levels 0 … 16.

  energy is the energy score E‖X − y‖ − ½ E‖X − X′‖ of the real image y, least for draws of its own
  conditional law. low is the root mean square by which the 2 × 2 means are missed.
  """
  distance = lambda a, b: np.sqrt(((a - b) ** 2).sum((-3, -2, -1))).mean()
  m = len(x)
  # E‖X − X′‖ of two draws that are not the same one.
  apart = distance(x[:, None], x[None]) * m / (m - 1)
  missed = conditional_digits.pooled(x.reshape(-1, *x.shape[2:])).reshape(
      m, len(test.x), 4, 4, 1) - conditional_digits.pooled(test.x)
  rms = lambda gap: float(np.sqrt((gap**2).mean()))
  return {"energy": float(distance(x, test.x) - 0.5 * apart), "rmse": rms(x - test.x),
          "rmse of mean": rms(x.mean(0) - test.x), "low": rms(missed),
          "agreement": classifier.label_agreement(
              judge, x.reshape(-1, *x.shape[2:]), np.tile(test.number, m))}


def haar(x: Any) -> Any:
  """Haar coefficients (n, h/2, w/2, 4) of images (n, h, w, 1); an orthogonal map."""
  n, h, w, _ = x.shape
  blocks = x.reshape(n, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 2, 4)
  return blocks.reshape(n, h // 2, w // 2, 4) @ _HAAR.T


def from_haar(z: Any) -> Any:
  """The inverse of `haar`."""
  n, h, w, _ = z.shape
  return (z @ _HAAR).reshape(n, h, w, 2, 2).transpose(0, 1, 3, 2, 4).reshape(n, 2 * h, 2 * w, 1)


def lanpainted(trained: model.Model, low: np.ndarray) -> np.ndarray:
  """Images with the 2 × 2 means `low` (n, h/2, w/2, 1), by the model to which nothing is given.

  An orthogonal map leaves white noise as it is. So the denoiser of the coefficients is
  H D(Hᵀ z), and means that are known are a quarter of the coefficients: inpainting.
  """
  dataset, path = trained.run.dataset, paths.vp()
  known = np.zeros((*low.shape[:3], 4), np.float32)
  is_mean = np.broadcast_to(np.arange(4) == 0, known.shape)
  known[..., :1] = 2.0 * data.standardise(low, dataset.mean, dataset.scale)
  nothing = run_conditions.given(dataset, None, len(low), dropout=1.0)
  free = drawing.denoiser(trained.run, trained.params, path, nothing)
  denoiser = predictions.Denoiser(lambda z, ell: haar(free.at(from_haar(z), ell)), path)
  z = inpainting.sample(
      jax.random.key(0), denoiser, path, known=known, mask=is_mean,
      method=inpainting.lanpaint(10), grid=samplers.karras(20, rho_min=0.002, rho_max=500.0))
  return np.clip(np.round(data.restore(dataset, np.asarray(from_haar(z)))), 0.0, 16.0)


def two_labels() -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
  """Agreement with what is given, and the distance of all samples to the data by what they show.

  What is given are pairs of the training data. So in each case samples should show numbers and
  inks as often together as the data: distance is ½ Σ |p − q| over the 30 pairs.
  """
  train, test = conditional_digits.digits()
  judge, trained = _judge(train), _trained("number_and_ink")
  edges = np.quantile(train.x.sum((1, 2, 3)), (1 / 3, 2 / 3))
  n = len(train.x)
  shown = lambda x: (classifier.logits(judge, x).argmax(1), conditional_digits.ink(x, edges))
  share = lambda pair: np.bincount(3 * pair[0] + pair[1], minlength=30) / len(pair[0])
  real, rng = share(shown(train.x)), np.random.default_rng(0)
  both = {"number": train.number, "ink": train.ink}
  found = {}
  for names, weight in ((("number", "ink"), 1), (("number",), 1), (("ink",), 1), ((), 1),
                        (("number", "ink"), 2)):
    x = trained.sample(jax.random.key(0), n, condition={name: both[name] for name in names},
                       grid=_GRID, guidance=weight)
    pair = dict(zip(both, shown(x), strict=True))
    label = " and ".join(names) + f", w = {weight}" * (weight > 1) or "neither"
    found[label] = {name: float((pair[name] == both[name]).mean()) for name in names} | {
        "distance": float(0.5 * np.abs(share((pair["number"], pair["ink"])) - real).sum())}
  pair = shown(train.x[rng.integers(n, size=n)])
  found["real"] = {"distance": float(0.5 * np.abs(share(pair) - real).sum()),
                   "number": classifier.label_agreement(judge, test.x, test.number)}
  rows = {name: trained.sample(jax.random.key(1), 10, grid=_GRID, condition={
      "number": np.arange(10), "ink": i}) for i, name in enumerate(conditional_digits.INK)}
  return found, rows


if __name__ == "__main__":
  flags.DEFINE_string("out", "runs/bench/conditions.json", "Where the numbers go.")
  flags.DEFINE_string("runs", "runs/bench", "Where the trained runs are kept.")
  flags.DEFINE_list("only", [], "Some of the parts; all if not given.")
  cli.run(main)
