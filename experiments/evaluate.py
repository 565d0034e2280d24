"""Judges a trained run: samples against held-out data, beside real against real.

  python -m experiments.evaluate --workdir=runs/digits

Prints a table and writes evaluation.json. Every number stands beside its floor, the same number for
real data in place of samples, and the sizes of both sets. With `--likelihood` also how likely the
model finds held-out data, in nats and bits a dimension, with standard errors.
"""

import json
import pathlib

import numpy as np
from absl import flags

import langevin_jax
from experiments import config as config_lib
from experiments import data
from experiments.config import build, calls, cli, sampling_flags
from experiments.data import facts as data_facts
from experiments.metrics import classifier, distances, likelihoods, mixture_metrics
from experiments.metrics.result import Result
from experiments.run import assembly, averages, memory, multihost, progress, records
from experiments.sampling import drawing, optimized_grids, samplers_from_config
from langevin_jax import paths

flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(multihost)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained run.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 0, "How many; the config's if not given.")
_OUT = flags.DEFINE_string(
    "out", "", "The .json file; evaluation.json in the workdir if not given.")
_LIKELIHOOD = flags.DEFINE_bool("likelihood", False, "Also the likelihood of held-out data.")
_LIKELIHOOD_SAMPLES = flags.DEFINE_integer(
    "likelihood_samples", None, "Held-out examples it is of; all if not given.")
_DIVERGENCE = flags.DEFINE_string(
    "divergence", None, "Of --likelihood: exact or hutchinson; exact up to "
    f"{likelihoods.EXACT_UP_TO} dimensions if not given.")
_LIKELIHOOD_STEPS = flags.DEFINE_integer(
    "likelihood_steps", None, "RK4 steps of the probability-flow ODE; 64 if not given.")

# More examples than this cost minutes and change no digit that is printed.
_LIMIT = 10_000
# So many numbers of raw pixels are compared at most, and so many images by their covariances.
_PIXELS, _ROOTS = 2**25, 2000
# Examples in a set that is compared: three folds of two classes, and five neighbours.
_LEAST = 6


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  trained = records.read_config(workdir)
  config = sampling_flags.config(trained)
  assembly.configure_jax(config)
  with multihost.joined(lambda: records.same(config)):
    path = build.path(config.path)
    samplers_from_config.check(config.sampling, path, config.objective)
    samplers_from_config.check_whole(config.sampling)
    average = sampling_flags.ema(trained, workdir)
    settings = likelihood_settings(config.sampling)
    out = multihost.by_first(lambda: cli.out(
        _OUT.value or workdir / "evaluation.json",
        lambda judged: "metrics" in judged and "sampling" in judged, suffix=".json",
        inputs=data.files(trained.data)))
    dataset, _ = multihost.agreed(lambda: data_facts.with_examples(
        workdir, trained.data, needed_by="evaluate"))
    run = multihost.agreed(lambda: assembly.prepare(
        sampling_flags.on_these_devices(trained), dataset))
    assembly.check_labels(run, config.sampling)
    check_memory(run, config)
    if settings is not None:
      likelihoods.check_run(run, config.sampling, path, settings)
    judge(run, config, path, workdir, average, settings, out)
  return 0


def judge(
    run: assembly.Run, config: config_lib.Config, path: paths.Path, workdir: pathlib.Path,
    average: averages.Choice, settings: likelihoods.Settings | None, out: pathlib.Path,
) -> None:
  """Samples and likelihoods by all devices and processes, the rest by one of the first process."""
  first = multihost.is_first()
  state = assembly.restored(run, workdir)
  params, ema = averages.of(run, state, workdir, average)
  config = optimized_grids.resolved(
      run, params, int(state.step), config, path, workdir, ema=ema["average"])
  dataset = data.reduced(run.dataset)
  n = build.at_least(
      "num_samples", _NUM_SAMPLES.value or config.evaluation.num_samples
      or max(20, len(dataset.train) + len(dataset.test)), 20)
  check_sizes(dataset, run.config.data.name)
  seed = config.evaluation.seed
  labels = assembly.data_labels(run, n, seed)
  facts = {
      "step": int(state.step), "num_samples": n, "num_train": len(run.dataset.train),
      "num_held_out": len(run.dataset.test), "path": calls.plain(config.path),
      "sampling": config_lib.to_plain(config.sampling), "ema": ema,
      "commit": records.commit(), "version": langevin_jax.__version__}
  likely = []
  if settings is not None:
    # Before the samples: what it refuses is refused before they are drawn.
    with progress.bar(likelihoods.work(run, settings), 0, "likelihood", shown=first) as bar:
      likely, facts["likelihood"] = likelihoods.rows(
          run, params, config.sampling, path, settings, bar)
  with progress.bar(n, 0, "sampling", shown=first) as bar:
    x = drawing.draw(run, params, config.sampling, path, labels, seed=seed, progress=bar)
  params = params if run.mesh.size == 1 else multihost.fetch(params)
  multihost.by_first(lambda: report(
      out, samples_rows(assembly.alone(run), params, path, dataset, x, labels) + likely, facts))


def check_memory(run: assembly.Run, config: config_lib.Config) -> None:
  """Raises ValueError where the samples that are asked for would not fit in memory."""
  for field, n in (("--num_samples", _NUM_SAMPLES.value),
                   ("config.evaluation.num_samples", config.evaluation.num_samples)):
    if n:
      build.at_least(field.removeprefix("--").removeprefix("config."), n, 20)
      memory.check_sampling(config, run.dataset.train.shape[1:], n, kept=True, field=field)
      return


def samples_rows(
    run: assembly.Run, params, path: paths.Path, dataset: data.Dataset, x: np.ndarray,
    labels: np.ndarray,
) -> list[Result]:
  """What samples in the user's units are worth, by the kind of the data."""
  print("judging", flush=True)
  seed, own = run.config.evaluation.seed, data.standardise(x, dataset.mean, dataset.scale)
  dataset = data.judged(dataset)
  x = data.standardise(x, dataset.mean, dataset.scale)
  rows = images(dataset, x, labels, seed) if dataset.kind == "image" else vectors(dataset, x, seed)
  if dataset.num_classes and dataset.kind != "image":
    rows += vector_agreement(dataset, x, labels)
  if run.config.data.name == "mixture2d":
    rows += mixture_metrics.rows(run, params, path, own)
  return rows


def check_sizes(dataset: data.Dataset, name: str) -> None:
  """Raises ValueError where there are too few real examples to compare samples with."""
  train, test = len(dataset.train), len(dataset.test)
  if dataset.kind == "image" and train + test < 2 * _LEAST:
    raise ValueError(f"data.path: an evaluation compares halves of the real images and needs "
                     f"{2 * _LEAST} of them; config.data={name} has {train + test}")
  if dataset.kind != "image" and min(train, test) < _LEAST:
    raise ValueError(f"data.holdout, or data.test_size: an evaluation needs {_LEAST} training and "
                     f"{_LEAST} held-out examples; config.data={name} has {train} and {test}")


def likelihood_settings(sampling: config_lib.Sampling) -> likelihoods.Settings | None:
  """What the flags say of the likelihood; None where it is not asked for.

  Raises:
    ValueError: values that are not allowed, or one of them without --likelihood.
  """
  given = {"likelihood_samples": _LIKELIHOOD_SAMPLES, "divergence": _DIVERGENCE,
           "likelihood_steps": _LIKELIHOOD_STEPS}
  if not _LIKELIHOOD.value:
    for name, flag in given.items():
      if flag.value is not None:
        raise ValueError(f"--{name} belongs to --likelihood, which is not given")
    return None
  if _LIKELIHOOD_SAMPLES.value is not None:
    build.at_least("likelihood_samples", _LIKELIHOOD_SAMPLES.value, 2)
  settings = likelihoods.Settings(
      _LIKELIHOOD_SAMPLES.value or 0, _DIVERGENCE.value or "",
      64 if _LIKELIHOOD_STEPS.value is None else _LIKELIHOOD_STEPS.value)
  likelihoods.check(settings, sampling)
  return settings


def vectors(dataset: data.Dataset, x: np.ndarray, seed: int) -> list[Result]:
  """Two-sample distances of samples to held-out data, with those of training data as the floor."""
  flat = lambda a: a.reshape(len(a), -1)
  count = min(len(x), len(dataset.test), len(dataset.train))
  rng = np.random.default_rng(seed)
  pick = lambda a: flat(a)[rng.permutation(len(a))[:count]]
  held_out, train, fake = pick(dataset.test), pick(dataset.train), pick(x)
  value = distances.two_sample(held_out, fake, seed=seed)
  floor = distances.two_sample(held_out, train, seed=seed)
  return [Result(distances.KEYS[name], name, value[name], floor[name], count) for name in value]


def images(dataset: data.Dataset, x: np.ndarray, labels: np.ndarray, seed: int) -> list[Result]:
  """Feature distances, C2ST, label agreement and distances to the nearest real images.

  Features are those of a classifier trained on the real training set, or, without labels, the raw
  pixels, of as many images as 2²⁵ of them make. FID and its like depend on the sizes of the sets,
  so samples and the floor, the other half of the real data, are both compared with one half of the
  real data at equal n. C2ST has all the real data to learn from.
  """
  flat = lambda images: images.reshape(len(images), -1)
  real = np.concatenate([dataset.train, dataset.test])
  limit = min(_LIMIT, max(_LEAST, _PIXELS // real[0].size))
  order = np.random.default_rng(seed).permutation(len(real))[:2 * _LIMIT]
  real = real[order]
  n = min(len(real) // 2, len(x))
  half, other = real[:n], real[len(real) // 2:][:n]
  model = None
  if dataset.num_classes > 1 and min(real.shape[1:3]) >= classifier.LEAST_SIDE:
    model = classifier.train(
        dataset.train, dataset.train_labels, num_classes=dataset.num_classes, seed=seed)
    features = lambda images: classifier.features(model, images)
    rows = feature_rows(features(half), features(x[:n]), features(other), seed)
  else:
    rows = feature_rows(*(flat(a[:limit]) for a in (half, x[:n], other)), seed, pixels=True)
  compared = min(len(x), len(real), limit)
  rows.append(Result("c2st", f"C2ST accuracy, pixels; floor of {min(n, limit)} each",
                     distances.c2st(flat(real[:compared]), flat(x[:compared]), seed=seed),
                     distances.c2st(flat(half[:limit]), flat(other[:limit]), seed=seed), compared))
  if model is not None:
    rows.append(Result(
        "label_agreement", f"label agreement; floor of {len(dataset.test)} held-out images",
        classifier.label_agreement(model, x, labels),
        classifier.label_agreement(model, dataset.test, dataset.test_labels), len(x)))
  near = distances.nearest_distances(
      *(flat(a[:limit]) for a in (x, dataset.train, dataset.test)), seed=seed)
  return [
      *rows,
      Result("nearest_train", "distance to the nearest training image, median; floor of held-out",
             near["samples to train"], near["held-out to train"]),
      Result("nearest_train_part", "the same to an equal number of training images; floor to "
             "held-out", near["samples to part of train"], near["samples to held-out"])]


def feature_rows(half, fake, other_half, seed: int, *, pixels: bool = False) -> list[Result]:
  """FID, KID, precision, recall, density and coverage on features, against one half.

  Of raw pixels they have names of their own: `fd_pixels` is the Fréchet distance of Gaussian fits
  to the pixels, which no paper calls FID.
  """
  value, floor = distances.prdc(half, fake), distances.prdc(half, other_half)
  n = len(half) if min(half.shape) <= _ROOTS else _ROOTS
  frechet = lambda other: distances.frechet(half[:n], other[:n])
  names = ("fd_pixels", "kd_pixels") if pixels else ("fid", "kid")
  labels = ("Fréchet distance of pixels", "kernel distance of pixels") if pixels else ("FID", "KID")
  end, of = ("_pixels", ", pixels") if pixels else ("", "")
  return [
      Result(names[0], labels[0], frechet(fake), frechet(other_half), n),
      Result(names[1], labels[1], distances.kid(half, fake, seed=seed),
             distances.kid(half, other_half, seed=seed), len(half)),
      *(Result(name + end, name + of, value[name], floor[name], len(half)) for name in value)]


def vector_agreement(dataset: data.Dataset, x: np.ndarray, labels: np.ndarray) -> list[Result]:
  """How often a nearest-neighbour classifier of real data agrees with a sample's label."""
  import sklearn.neighbors  # a second of import that only this needs
  flat = lambda a: a.reshape(len(a), -1)
  model = sklearn.neighbors.KNeighborsClassifier(min(15, len(dataset.train))).fit(
      flat(dataset.train), dataset.train_labels)
  return [Result("label_agreement", "label agreement; floor of held-out data",
                 float(model.score(flat(x), labels)),
                 float(model.score(flat(dataset.test), dataset.test_labels)), len(x))]


def report(out: pathlib.Path, rows: list[Result], facts: dict) -> None:
  """The .json, the table, and what lies beside it."""
  records.write_text(out, json.dumps({
      **facts, "metrics": {row.key: row.plain() for row in rows},
  }, indent=2, ensure_ascii=False) + "\n")
  width = max(len(row.described()) for row in rows)
  number = lambda v: "" if v is None else f"{v:.4g}"
  print(f"\n{'':{width}}  {'samples':>10}  {'floor':>10}")
  for row in rows:
    print(f"{row.described():{width}}  {number(row.value):>10}  {number(row.floor):>10}")
  print(f"\nin {out.parent}/: {', '.join(sorted(file.name for file in out.parent.iterdir()))}")


if __name__ == "__main__":
  cli.run(main, at_once=True)
