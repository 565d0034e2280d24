"""The network whose duality is certified, and its data noised to a level: all at unit scale.

At unit scale, x/√(α² + σ²), a state depends on half log-SNR ℓ alone and not on a path.
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
_DIRECTIONS = 16  # of the data's largest variance, in which images are compared


class Model(NamedTuple):
  """at(x, ell, labels, change): D of a whole batch at unit scale, times the factor of `change`,
  (low, high, factor), where low ≤ ell < high. truth: the data's density, where it is known."""

  at: Callable[..., jax.Array]
  data: data_lib.Dataset
  truth: mixtures.Mixture | None


def of(run: assembly.Run, params: Any, truth: mixtures.Mixture | None = None) -> Model:
  """The network of a run with these parameters, with as much of its data as is enough."""
  def at(x, ell, labels, change):
    low, high, factor = change
    denoised = drawing.denoiser(run, params, PATH, labels).at(x, ell)
    return jnp.where((low <= ell) & (ell < high), factor, 1.0) * denoised

  return Model(at, data_lib.reduced(run.dataset), truth)


def labels(model: Model, *, held_out: bool = True) -> np.ndarray:
  """Class numbers of the held-out or training examples; zeros where there are none."""
  x, known = ((model.data.test, model.data.test_labels) if held_out else
              (model.data.train, model.data.train_labels))
  return known if model.data.num_classes else np.zeros(len(x), np.int32)


def denoised(model: Model, x: np.ndarray, ell: float, labels: np.ndarray, change: tuple, *,
             size: int = 4000) -> np.ndarray:
  """D of the network in batches of one size, so that it is compiled once."""
  at, size, made = _jitted(model.at), min(size, len(x)), []
  for start in range(0, len(x), size):
    index = np.minimum(np.arange(start, start + size), len(x) - 1)
    made.append(np.asarray(at(x[index], jnp.float32(ell), labels[index], change)))
  return np.concatenate(made)[:len(x)]


@functools.lru_cache(maxsize=2)
def _jitted(at):
  return jax.jit(at)


def projection(dataset: data_lib.Dataset) -> Callable[[Any], np.ndarray]:
  """Examples as vectors: all of a few coordinates, or those of the largest variance in training."""
  flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)
  some = flat(dataset.train[:5000])
  if some.shape[1] <= _DIRECTIONS:
    return flat
  axes = np.linalg.svd(some - some.mean(0), full_matrices=False)[2][:_DIRECTIONS].T
  return lambda x: flat(x) @ axes


def frame(ell: float) -> tuple[float, float]:
  """(α, σ) at unit scale."""
  found = predictions.unit_frame(jnp.float32(ell))
  return float(found.alpha), float(found.sigma)


def noised(rng: np.random.Generator, x: np.ndarray, ell: float) -> np.ndarray:
  """Examples noised to ℓ."""
  alpha, sigma = frame(ell)
  return (alpha * x + sigma * rng.standard_normal(x.shape)).astype(np.float32)


def noisier(rng: np.random.Generator, x: np.ndarray, ell: float, ell_s: float) -> np.ndarray:
  """The exact forward kernel from ℓ to a noisier ℓ′ (`paths.transition`, at unit scale)."""
  (alpha, _), (alpha_s, sigma_s) = frame(ell), frame(ell_s)
  spread = sigma_s * math.sqrt(-math.expm1(2.0 * (ell_s - ell)))
  return (alpha_s / alpha * x + spread * rng.standard_normal(x.shape)).astype(np.float32)
