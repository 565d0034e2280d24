"""How well an autoencoder reconstructs held-out data."""

from typing import Any

import numpy as np

from experiments import data
from experiments.metrics import comparisons, samples
from experiments.metrics.result import Result
from experiments.run import assembly
from langevin_jax import paths, training

_BATCH_NUMBERS = 2**22


def rows(
    run: assembly.Run, params: Any, path: paths.Path, dataset: data.Dataset,
    choice: comparisons.Choice,
) -> list[Result]:
  """Errors of the reconstructions, the posterior's divergence, and the distances of `samples`.

  PSNR is 20 log₁₀(range/RMSE) of images, in dB, RMSE over all numbers of all examples.

  Args:
    run, params, dataset, choice: as in `samples.rows`, of an autoencoder.
  """
  x, size = dataset.test, max(1, _BATCH_NUMBERS // dataset.test[0].size)
  parts, divergences = [], []
  for first in range(0, len(x), size):
    posterior = run.apply(params, x[first:first + size], "encode")
    parts.append(np.asarray(run.apply(params, posterior.mean, "decode")))
    divergences.append(np.asarray(training.kl_from_unit(posterior)))
  restored, truth = (data.restore(dataset, part) for part in (np.concatenate(parts), x))
  if dataset.value_range is not None:
    restored = np.clip(np.round(restored) if dataset.integers else restored, *dataset.value_range)
  rmse = float(np.sqrt(np.mean(np.square(restored - truth, dtype=np.float64))))
  found = [Result("rmse", "error of reconstructions, root mean square", rmse, None, len(x)),
           Result("kl", "divergence of the posterior from N(0, I), nats",
                  float(np.concatenate(divergences).mean()), None, len(x))]
  if dataset.value_range is not None:
    low, high = dataset.value_range
    found.insert(1, Result("psnr", "PSNR of reconstructions, dB",
                           20.0 * float(np.log10((high - low) / max(rmse, 1e-12))), None, len(x)))
  labels = dataset.test_labels if dataset.num_classes else np.zeros(len(x), np.int32)
  return found + samples.rows(run, params, path, dataset, restored, labels, choice)
