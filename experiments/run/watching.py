"""Samples and the held-out loss during training, on the first average of the parameters.

They draw their own random numbers from `evaluation.seed`: the training does not depend on them.
"""

import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import data
from experiments.config import build, calls
from experiments.metrics import comparisons, samples
from experiments.run import assembly, dispatches, multihost, records
from experiments.sampling import conditioning, drawing, pictures, texts
from experiments.sweeping import measures
from langevin_jax import training
from langevin_jax.training import shardings

# Samples in a picture: images, and points. Samples that metrics are of, if no number is given.
_IMAGES, _POINTS, _JUDGED = 64, 1000, 1000
_TEXTS = 8  # samples of tokens


class Watched(NamedTuple):
  """values: for the line of metrics.jsonl. images: for the logger, (height, width, 3) uint8."""

  values: dict[str, Any]
  images: dict[str, np.ndarray]


def check(run: assembly.Run) -> None:
  """Raises ValueError for samples without a picture, and for metrics that are not there."""
  shown = pictures.can_draw(run.dataset) or run.dataset.vocabulary
  if run.config.training.sample_every and not shown:
    raise ValueError("config.training.sample_every: pictures are of images and of vectors with two "
                     f"features or more; the data are {run.dataset.kind}s of shape "
                     f"{run.dataset.train.shape[1:]}; set it to 0")
  if run.config.training.evaluate_metrics:
    comparisons.check_sizes(run.dataset, run.config.data.name)
    if (choice := _further(run)).metrics:
      comparisons.check(choice, data.comparison_data(run.dataset))


def _further(run: assembly.Run) -> comparisons.Choice:
  """The metrics of `training.evaluate_metrics` that are calls; others must be keys of `samples`."""
  field = "config.training.evaluate_metrics"
  keys = samples.keys(run.dataset, run.config.data.name)
  named = [name for name in run.config.training.evaluate_metrics if name not in keys]
  for name in named:
    if not {"(", ":"} & set(name):
      raise ValueError(f"{field}: no metric {name!r} of these data; there are {', '.join(keys)}, "
                       "and calls as of evaluate --metric, with parentheses")
    if run.dataset.vocabulary:
      raise ValueError(f"{field}: {name} is of features of numbers, and these data are tokens")
  return comparisons.Choice(metrics=tuple(calls.make(name, "metric", field) for name in named))


class Watcher:
  """What `training.sample_every` and `training.evaluate_every` ask for."""

  def __init__(self, run: assembly.Run, workdir: pathlib.Path):
    self._run, self._workdir, self._config = run, workdir, run.config.training
    self._held_out = None

  def due(self, start: int, end: int) -> bool:
    """Whether the steps start…end have passed a multiple of one of the two."""
    return any(dispatches.passes(every, start, end)
               for every in (self._config.sample_every, self._config.evaluate_every))

  def look(self, start: int, end: int, state: training.TrainState) -> Watched:
    """The numbers and pictures that are due after the steps start…end; all processes call it."""
    begun = time.monotonic()
    values, images = {}, {}
    if dispatches.passes(self._config.evaluate_every, start, end):
      values = self._loss(state.ema[0]) | self._metrics(state.ema[0])
    if dispatches.passes(self._config.sample_every, start, end):
      images = self._samples(state.ema[0], end)
    return Watched(values | {"watch_seconds": round(time.monotonic() - begun, 3)}, images)

  def _loss(self, params: Any) -> dict[str, Any]:
    """∫ E‖ε − ε̂‖² dℓ of held-out data, its standard error, and E‖ε − ε̂‖²/d by level of ℓ.

    Of tokens it is the bound of −log P in nats a token, and its rate by level.
    """
    run = self._run
    if self._held_out is None:
      draws = measures.held_out(run._replace(dataset=_in_memory(run.dataset)))
      row, errors = build.prediction(run.config.objective), measures.errors(run.apply, run.path)
      place = shardings.replicated(run.mesh)
      arrays = multihost.spread(place, (draws.x_0, draws.labels, draws.ells, draws.eps))
      program = jax.jit(lambda params, *draws: errors(row, 0, params, *draws), out_shardings=place)
      self._held_out = draws, lambda params: program(params, *arrays)
    draws, measured = self._held_out
    found = multihost.fetch(measured(params))
    loss, error = measures.integral(draws, found)
    return {"held_out_loss": loss, "held_out_loss_error": error,
            "held_out_half_log_snr": draws.ells[:, 0].round(4).tolist(),
            "held_out_level_error": found.mean(1).astype(float).round(6).tolist()}

  def _metrics(self, params: Any) -> dict[str, float]:
    """The metrics of `evaluate` that `training.evaluate_metrics` names."""
    run, choice = self._run, _further(self._run)
    if not self._config.evaluate_metrics:
      return {}
    seed, dataset = run.config.evaluation.seed, data.comparison_data(run.dataset)
    n = run.config.evaluation.num_samples or min(_JUDGED, len(dataset.train) + len(dataset.test))
    labels = assembly.data_labels(run, n, seed)
    x = drawing.draw(run, params, run.config.sampling, run.path, labels, seed=seed)
    params = params if run.mesh.size == 1 else multihost.fetch(params)

    def judge():
      rows = samples.rows(assembly.alone(run), params, run.path, dataset, x, labels, choice)
      wanted = {*self._config.evaluate_metrics,
                *(calls.short(call, "metric") for call in choice.metrics)}
      return {row.key: row.value for row in rows if row.key in wanted}

    return multihost.by_first(judge) or {}

  def _samples(self, params: Any, step: int) -> dict[str, np.ndarray]:
    """Samples by the run's own sampling, as samples/<step>.png, or .txt, and for the logger."""
    run = self._run
    labels = assembly.even_labels(run, {"image": _IMAGES, "tokens": _TEXTS}.get(
        run.dataset.kind, _POINTS))
    x = drawing.draw(run, params, run.config.sampling, run.path, labels,
                     seed=run.config.evaluation.seed)
    if not multihost.is_first():
      return {}
    file = self._workdir / "samples" / f"{step:08d}.png"
    records.make_directory(file.parent)
    if run.dataset.vocabulary:
      texts.write(file.with_suffix(".txt"), run.dataset, x)
      return {}
    pictures.samples(file, run.dataset, x, conditioning.class_numbers(run.dataset, labels, len(x)))
    return {"samples": pictures.read(file)}


def _in_memory(dataset: data.Dataset) -> data.Dataset:
  """The data set with held-out examples in memory: all, or of shards the first ones."""
  if isinstance(dataset.test, np.ndarray):
    return dataset
  test = data.in_memory(dataset.test)
  return dataset._replace(test=test, test_labels=np.asarray(dataset.test_labels[:len(test)]))
