"""Evaluates a trained run: compares samples with held-out data.

  python -m experiments.evaluate --workdir=runs/digits

Prints a table and writes evaluation.json. Every number has a floor, the same number for real data
in place of samples, and the sizes of both sets. `--likelihood` adds the likelihood of held-out
data, in nats and bits per dimension, with standard errors. Of tokens there are the bound of the
likelihood in bits a token, that of an n-gram and of compressors, and the bits of samples. Of an
autoencoder, reconstructions are compared in place of samples.

Samples go to disk batch by batch, and are deleted at the end. After a kill, the same command goes
on with them, and another one begins anew.
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
from experiments.metrics import (
  comparisons,
  few_calls,
  likelihoods,
  ngrams,
  reconstructions,
  samples,
)
from experiments.metrics.result import Result
from experiments.run import assembly, averages, memory, multihost, progress, records
from experiments.sampling import (
  optimized_grids,
  outputs,
  pictures,
  resumable_npy,
  samplers_from_config,
)

flags.adopt_module_key_flags(sampling_flags)
flags.adopt_module_key_flags(multihost)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained run.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 0, "Number of samples; that of the config if not given.")
_OUT = flags.DEFINE_string(
    "out", "", "The .json file; evaluation.json in the workdir if not given.")
_LIKELIHOOD = flags.DEFINE_bool("likelihood", False, "Also the likelihood of held-out data.")
_LIKELIHOOD_SAMPLES = flags.DEFINE_integer(
    "likelihood_samples", None, "Number of held-out examples for the likelihood; all if not given.")
_DIVERGENCE = flags.DEFINE_string(
    "divergence", None, "For --likelihood: exact or hutchinson; exact up to "
    f"{likelihoods.EXACT_UP_TO} dimensions if not given.")
_LIKELIHOOD_STEPS = flags.DEFINE_integer(
    "likelihood_steps", None, "RK4 steps of the probability-flow ODE; 64 if not given.")
_EXTRACTOR = flags.DEFINE_string(
    "extractor", "", "Features for the comparison: classifier (images with labels), pixels, "
    "inception(weights=…), dinov2(weights=…), vgg16, or your package.module:function(…), which "
    "returns a function examples → (n, d).")
_REFERENCE = flags.DEFINE_string(
    "reference", "", "A .npz of mu and sigma, the mean and covariance of the features of "
    "--extractor, for the Fréchet distance; the run's own real images if not given.")
_WRITE_REFERENCE = flags.DEFINE_string(
    "write_reference", "", "Also writes such a .npz, of all training images of the run.")
_NEIGHBOURS = flags.DEFINE_integer(
    "neighbours", 0, "Also writes neighbours.png: so many samples, each beside its nearest "
    "training and held-out image in features; no file if 0.")
_METRICS = flags.DEFINE_multi_string(
    "metric", [], "A further metric, such as kid(subsets=100), or your package.module:function(…) "
    "of two sets x and y of features → a number. May be repeated.")


def main() -> int:
  with sampling_flags.named_in_errors():
    workdir = cli.workdir(_WORKDIR.value)
    trained = records.read_config(workdir)
    config = sampling_flags.config(trained)
    assembly.configure_jax(config)
    with multihost.joined(lambda: records.same(config)):
      path = build.path(config.path)
      tokens = build.is_discrete(path)
      if config.objective.autoencoder is None:
        samplers_from_config.check(config.sampling, path, config.objective)
        samplers_from_config.check_whole(config.sampling)
      average = sampling_flags.ema(trained, workdir)
      settings = likelihood_settings(config.sampling, tokens=tokens)
      choice = comparisons.choice_of_flags(_EXTRACTOR.value, _METRICS.value, _REFERENCE.value)
      build.at_least("neighbours", _NEIGHBOURS.value, 0)
      if tokens and (choice.extractor or choice.metrics):
        raise ValueError(f"--{'extractor' if choice.extractor else 'metric'} is of features of "
                         "numbers, and these data are tokens")
      out = multihost.by_first(lambda: _out(workdir, trained))
      dataset, _ = multihost.agreed(lambda: data_facts.with_examples(
          workdir, trained.data, needed_by="evaluate"))
      run = multihost.agreed(lambda: assembly.prepare(
          sampling_flags.on_these_devices(trained), dataset))
      path = build.path(config.path, len(run.dataset.vocabulary))
      assembly.check_labels(run, config.sampling)
      check_memory(run, config)
      if settings is not None:
        likelihoods.check_run(run, config.sampling, path, settings)
      evaluate(run, config, path, workdir, average, settings, choice, out)
  return 0


def evaluate(
    run: assembly.Run, config: config_lib.Config, path: build.Path, workdir: pathlib.Path,
    average: averages.Choice, settings: likelihoods.Settings | None, choice: comparisons.Choice,
    out: pathlib.Path,
) -> None:
  """Computes all metrics and writes the report.

  All devices and processes compute samples and likelihoods; the devices of the first process, or
  one of them, the rest.
  """
  first = multihost.is_first()
  state = assembly.restored(run, workdir)
  params, ema = averages.of(run, state, workdir, average)
  dataset = data.comparison_data(run.dataset)
  n = build.at_least(
      "num_samples", _NUM_SAMPLES.value or config.evaluation.num_samples
      or max(20, len(dataset.train) * (not dataset.vocabulary) + len(dataset.test)), 20)
  comparisons.check_sizes(dataset, run.config.data.name)
  multihost.agreed(lambda: check_comparison(choice, dataset))
  config = optimized_grids.resolve(
      run, params, int(state.step), config, path, workdir, ema=ema["average"])
  seed = config.evaluation.seed
  labels = assembly.data_labels(run, n, seed)
  facts = {
      "step": int(state.step), "num_samples": n, "seed": seed, "num_train": len(run.dataset.train),
      "num_held_out": len(run.dataset.test), "path": calls.to_plain(config.path),
      "sampling": config_lib.to_plain(config.sampling), "ema": ema,
      "commit": records.commit(), "version": langevin_jax.__version__}
  if choice.extractor is not None or dataset.kind == "image":
    facts["extractor"] = calls.to_plain(comparisons.extractor_of(dataset, choice))
  if choice.reference is not None:
    facts["reference"] = choice.reference.description()
  if _WRITE_REFERENCE.value:
    multihost.by_first(lambda: write_reference(run.dataset, dataset, choice))
  if config.objective.autoencoder is not None:
    if settings is not None:
      raise ValueError("--likelihood is of diffusion models; this run is an autoencoder")
    if _NEIGHBOURS.value:
      raise ValueError("--neighbours is of samples; this run is an autoencoder")
    def report():
      rows = reconstructions.rows(
          assembly.alone(run), multihost.fetch(params), path, dataset, choice)
      write(out, rows, facts)
      show(out, rows)

    multihost.by_first(report)
    return
  model_rows = []
  if settings is not None:
    # The likelihood comes first, so that its errors are raised before samples are drawn.
    with progress.bar(likelihoods.work(run, settings), 0, "likelihood", shown=first) as bar:
      model_rows, facts["likelihood"] = likelihoods.rows(
          run, params, config.sampling, path, settings, bar)
  drawn = outputs.Drawn(run, params, config, path, n, labels, seed, None, None)
  stream = multihost.by_first(lambda: outputs.stream(
      _samples(out), drawn, outputs.settings(drawn, int(state.step), ema), scratch=True))
  outputs.draw(drawn, stream)
  if dataset.vocabulary:
    model_rows += multihost.by_first(lambda: ngrams.baselines(run.dataset)) or []
  if config.objective.flow_map is not None:
    model_rows += few_calls.meter(run, config.sampling, path, dataset, labels, seed=seed)(params)
  params = params if run.mesh.size == 1 else multihost.fetch(params)

  def judge(stream):
    print("judging", flush=True)
    x, rows = records.load(stream.file), model_rows
    if _NEIGHBOURS.value:
      rows += neighbours(out.with_name("neighbours.png"), dataset, x, seed, choice)
    rows = samples.rows(assembly.alone(run), params, path, dataset, x, labels, choice) + rows
    write(out, rows, facts)
    stream.file.unlink()
    stream.forget()
    show(out, rows)

  multihost.by_first(lambda: judge(stream))


def _out(workdir: pathlib.Path, trained: config_lib.Config) -> pathlib.Path:
  """The .json file; raises ValueError if it, or the samples beside it, must not be replaced."""
  out = cli.out(
      _OUT.value or str(workdir / "evaluation.json"),
      lambda record: "metrics" in record and "sampling" in record, suffix=".json",
      inputs=data.files(trained.data))
  if (file := _samples(out)).exists() and not resumable_npy.unfinished(file):
    raise ValueError(f"--out {out} would replace {file}, which this command has not written; "
                     "choose another --out, or delete it")
  return out


def _samples(out: pathlib.Path) -> pathlib.Path:
  """The file of the samples, which is there while the command runs."""
  return out.with_suffix(".samples.npy")


def check_comparison(choice: comparisons.Choice, dataset: data.Dataset) -> None:
  """Raises ValueError for a choice, or files to write, that do not suit the data."""
  comparisons.check(choice, dataset)
  for name in ("neighbours", "write_reference"):
    if flags.FLAGS[name].value and dataset.kind != "image":
      raise ValueError(f"--{name} is for images; the data are of kind {dataset.kind!r}")
  if _WRITE_REFERENCE.value:
    comparisons.check_reference(choice)
    place = cli.place("--write_reference", _WRITE_REFERENCE.value)
    if place.suffix != ".npz" or place.exists() or not place.parent.is_dir():
      raise ValueError(f"--write_reference must be a new file .npz in a directory, got {place}")


def write_reference(own: data.Dataset, dataset: data.Dataset, choice: comparisons.Choice) -> None:
  """Writes the statistics of the features of the training images of `own`, and says so."""
  place = cli.place("--write_reference", _WRITE_REFERENCE.value)
  n = comparisons.write_reference(place, own, data.in_comparison_units(dataset), choice)
  print(f"{place}: {choice.extractor.name if choice.extractor else ''} of {n:,} images", flush=True)


def neighbours(
    place: pathlib.Path, dataset: data.Dataset, x: np.ndarray, seed: int,
    choice: comparisons.Choice
) -> list[Result]:
  """Draws samples x, in the user's units, beside their nearest real images; one row of results."""
  dataset = data.in_comparison_units(dataset)
  images, row = comparisons.memorised(
      dataset, data.InStandardUnits(dataset, x), seed, choice, _NEIGHBOURS.value)
  shown = {name: data.restore(dataset, each) for name, each in images.items()}
  pictures.strips(place, dataset, shown, np.zeros(shown["sample"].shape[:3], bool))
  return [row]


def check_memory(run: assembly.Run, config: config_lib.Config) -> None:
  """Raises ValueError if the samples do not fit in memory."""
  for field, n in (("--num_samples", _NUM_SAMPLES.value),
                   ("config.evaluation.num_samples", config.evaluation.num_samples)):
    if n:
      build.at_least(field.removeprefix("--").removeprefix("config."), n, 20)
      memory.check_sampling(config, run.dataset.train.shape[1:], n, run.mesh,
                            kept=run.dataset.kind != "image", field=field)
      return


def likelihood_settings(
    sampling: config_lib.Sampling, *, tokens: bool = False
) -> likelihoods.Settings | None:
  """The settings of the likelihood; None without --likelihood, which `tokens` do not need.

  Raises:
    ValueError: a value that is not allowed, or a flag that needs --likelihood.
  """
  options = {"likelihood_samples": _LIKELIHOOD_SAMPLES, "divergence": _DIVERGENCE,
             "likelihood_steps": _LIKELIHOOD_STEPS}
  if tokens:
    for name in ("divergence", "likelihood_steps"):
      if options[name].value is not None:
        raise ValueError(f"--{name} is of the ODE, and these data are tokens")
  elif not _LIKELIHOOD.value:
    for name, flag in options.items():
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


def write(out: pathlib.Path, rows: list[Result], facts: dict) -> None:
  """Writes the .json file."""
  records.write_text(out, json.dumps({
      **facts, "metrics": {row.key: row.to_plain() for row in rows},
  }, indent=2, ensure_ascii=False) + "\n")


def show(out: pathlib.Path, rows: list[Result]) -> None:
  """Prints the table and the files of the directory."""
  width = max(len(row.description()) for row in rows)
  number = lambda v: "" if v is None else f"{v:.4g}"
  print(f"\n{'':{width}}  {'samples':>10}  {'floor':>10}")
  for row in rows:
    print(f"{row.description():{width}}  {number(row.value):>10}  {number(row.floor):>10}")
  print(f"\nin {out.parent}/: {', '.join(sorted(file.name for file in out.parent.iterdir()))}")


if __name__ == "__main__":
  cli.run(main, at_once=True)
