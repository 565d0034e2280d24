"""The network of a certificate, and its data at a noise level, at unit scale.

At unit scale, x/√(α² + σ²), a state depends only on the half log-SNR ℓ, not on a path.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data as data_lib
from experiments.run import assembly
from experiments.sampling import drawing
from langevin_jax import mixtures, paths, predictions

PATH = paths.ve()
_DIRECTIONS = 16  # images are compared in this number of principal directions


class Model(NamedTuple):
  """A network and its data.

  at: (x, ell, labels, change) → D of a batch at unit scale. `change` is (low, high, factor): D is
    multiplied by the factor if low ≤ ell < high.
  truth: the density of the data, if it is known.
  """

  at: Callable[..., jax.Array]
  data: data_lib.Dataset
  truth: mixtures.Mixture | None


def of(run: assembly.Run, params: Any, truth: mixtures.Mixture | None = None) -> Model:
  """The model of a run with parameters `params`, with its `comparison_data`."""
  if run.dataset.vocabulary:
    raise ValueError("a certificate is of data that are numbers; this run's are tokens")

  def at(x, ell, labels, change):
    low, high, factor = change
    denoised = drawing.denoiser(run, params, PATH, labels).at(x, ell)
    return jnp.where((low <= ell) & (ell < high), factor, 1.0) * denoised

  return Model(at, data_lib.comparison_data(run.dataset), truth)


def labels(model: Model, *, held_out: bool = True) -> np.ndarray:
  """The class numbers (n,) of the held-out or training examples; zeros without classes."""
  x, known = ((model.data.test, model.data.test_labels) if held_out else
              (model.data.train, model.data.train_labels))
  return known if model.data.num_classes else np.zeros(len(x), np.int32)


def denoised(model: Model, x: np.ndarray, ell: float, labels: np.ndarray, change: tuple, *,
             size: int = 4000) -> np.ndarray:
  """D of the network, in the shape of x. Batches have one size, so that it compiles once."""
  at, size, parts = _jitted(model.at), min(size, len(x)), []
  for start in range(0, len(x), size):
    index = np.minimum(np.arange(start, start + size), len(x) - 1)
    parts.append(np.asarray(at(x[index], jnp.float32(ell), labels[index], change)))
  return np.concatenate(parts)[:len(x)]


@functools.lru_cache(maxsize=2)
def _jitted(at):
  return jax.jit(at)


def projection(dataset: data_lib.Dataset) -> Callable[[Any], np.ndarray]:
  """A function of examples (n, *shape) → vectors (n, k): all coordinates, or principal ones."""
  flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)
  train = flat(dataset.train[:5000])
  if train.shape[1] <= _DIRECTIONS:
    return flat
  axes = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:_DIRECTIONS].T
  return lambda x: flat(x) @ axes


def frame(ell: float) -> tuple[float, float]:
  """(α, σ) at unit scale."""
  unit = predictions.unit_frame(jnp.float32(ell))
  return float(unit.alpha), float(unit.sigma)


def noised(rng: np.random.Generator, x: np.ndarray, ell: float) -> np.ndarray:
  """Examples with noise at ℓ, α x + σ ε."""
  alpha, sigma = frame(ell)
  return (alpha * x + sigma * rng.standard_normal(x.shape)).astype(np.float32)


def noisier(rng: np.random.Generator, x: np.ndarray, ell: float, ell_s: float) -> np.ndarray:
  """The exact forward kernel from ℓ to a noisier ℓ′ (`paths.transition`, at unit scale)."""
  (alpha, _), (alpha_s, sigma_s) = frame(ell), frame(ell_s)
  spread = sigma_s * math.sqrt(-math.expm1(2.0 * (ell_s - ell)))
  return (alpha_s / alpha * x + spread * rng.standard_normal(x.shape)).astype(np.float32)
