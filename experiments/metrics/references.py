"""Statistics of features of real data, in the .npz of the field: `mu` (d,) and `sigma` (d, d).

pytorch-fid, ADM and EDM publish such files of Inception features. Those that are written here also
hold n, the number of examples, and the extractor, and of pixels the units of their run, on which
these features depend; they are checked where they are there.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments import data
from experiments.metrics.distances import Moments
from experiments.run import records

_EXAMPLES = 1000  # in memory at once


class Reference(NamedTuple):
  """name: of the file. extractor: "" if the file does not say. n: examples, 0 likewise. units: the
  mean and scale of the run whose standard units the features are in, or None.
  """

  name: str
  moments: Moments
  extractor: str = ""
  n: int = 0
  units: tuple[np.ndarray, np.ndarray] | None = None

  def description(self) -> str:
    """The file, and how many examples it is of."""
    return f"{self.name}{f' of {self.n:,}' * bool(self.n)}"


def read(file: pathlib.Path, extractor: str) -> Reference:
  """The statistics in a file, for features of `extractor`, the name of its call.

  Raises:
    ValueError: no such statistics, or those of another extractor.
  """
  try:
    with np.load(file) as found:
      mean, covariance = (np.asarray(found[name], np.float64) for name in ("mu", "sigma"))
      name = str(found["extractor"]) if "extractor" in found else ""
      n = int(found["n"]) if "n" in found else 0
      units = (found["mean"], found["scale"]) if "scale" in found else None
  except Exception as error:  # of the disk, zipfile or NumPy
    raise ValueError(f"--reference={file} cannot be read as a .npz of mu and sigma: {error}"
                     ) from error
  if mean.ndim != 1 or covariance.shape != (*mean.shape, *mean.shape) or not (
      np.isfinite(mean).all() and np.isfinite(covariance).all()):
    raise ValueError(f"--reference={file}: mu must be (d,) and sigma (d, d), finite; got "
                     f"{mean.shape} and {covariance.shape}")
  if name and name != extractor:
    raise ValueError(f"--reference={file} is of --extractor={name}, got {extractor}")
  return Reference(file.name, Moments(mean, covariance), name, n, units)


def write(
    file: pathlib.Path, dataset: data.Dataset, extract: Callable[[np.ndarray], np.ndarray],
    extractor: str, units: tuple[np.ndarray, np.ndarray] | None = None,
) -> int:
  """Writes the statistics of all training examples, read a part at a time; returns their number.

  Args:
    extract: training examples in the units of `dataset` → features.
    units: as of `Reference`.
  """
  n, total, products, centre = len(dataset.train), 0.0, 0.0, 0.0
  for first in range(0, n, _EXAMPLES):
    values = extract(dataset.train[np.arange(first, min(n, first + _EXAMPLES))]).astype(np.float64)
    if not first:
      centre = values.mean(0)  # near the mean, so that the difference below cancels little
    total, products = total + (values - centre).sum(0), products + (
        values - centre).T @ (values - centre)
  covariance = (products - np.outer(total, total) / n) / (n - 1)
  with records.written(file) as stream:
    np.savez(stream, mu=centre + total / n, sigma=covariance, n=n, extractor=extractor,
             **({} if units is None else dict(zip(("mean", "scale"), units, strict=True))))
  return n
