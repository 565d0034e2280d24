"""All metrics of samples of a run, for `evaluate` and during training."""

from typing import Any

import numpy as np

from experiments import data
from experiments.metrics import comparisons, mixture_metrics, ngrams
from experiments.metrics.result import Result
from experiments.run import assembly
from experiments.sampling import conditioning

_DEFAULT = comparisons.Choice()


def keys(dataset: data.Dataset, name: str) -> tuple[str, ...]:
  """The keys of `rows` of the data `name`, without samples."""
  if dataset.vocabulary:
    return ("samples_ngram_bits_per_token",)
  return comparisons.keys(dataset) + (mixture_metrics.KEYS if name == "mixture2d" else ())


def rows(
    run: assembly.Run, params: Any, path: Any, dataset: data.Dataset, x: np.ndarray,
    condition: Any, choice: comparisons.Choice = _DEFAULT,
) -> list[Result]:
  """The metrics of samples x (n, *shape) in the user's units, by the kind of the data.

  Of images, x may be an array on disk, which is read a part at a time.

  Args:
    run: on one device. params: on the same device. dataset: the data of the run in memory
      (`data.comparison_data`).
    condition: labels (n,) or named arrays (n, …) of the samples.
  """
  if dataset.vocabulary:
    return ngrams.samples(run.dataset, x)
  seed = run.config.evaluation.seed
  labels = conditioning.class_numbers(dataset, condition, len(x))
  own, dataset = dataset, data.in_comparison_units(dataset)
  if dataset.kind == "image":
    return comparisons.images(dataset, data.InStandardUnits(dataset, x), labels, seed, choice)
  standard = data.in_standard_units(dataset, x)
  results = comparisons.vectors(dataset, standard, seed, choice)
  if dataset.num_classes:
    results += comparisons.vector_agreement(dataset, standard, labels)
  if run.config.data.name == "mixture2d":
    results += mixture_metrics.rows(run, params, path, data.in_standard_units(own, x))
  return results
