"""The densities of the report: named Gaussian mixtures, or the user's mixture.

A density has two versions: one on the line, where laws of samplers are computed by quadrature, and
one in the plane for pictures. Both are standardised to mean 0 and a mean variance of 1 per
coordinate, as data of networks are, so that noise levels ρ have the same meaning.
"""

import json
import math
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.data import readers, toy_data
from langevin_jax import mixtures

_MOST_COMPONENTS = 1024
_LARGEST = 1e100  # whose squares are finite


class Density(NamedTuple):
  """`line` is a mixture in 1-D, `plane` one in 2-D; float arrays of the default type."""

  name: str
  line: mixtures.Mixture
  plane: mixtures.Mixture


def _three_modes():
  """On the line that of theory.md#exact-models, in the plane that of the mixture2d config."""
  line = (np.array([0.35, 0.45, 0.2]), np.array([[-1.2], [0.4], [1.6]]),
          np.array([0.35, 0.25, 0.15])[:, None, None] ** 2)
  return line, toy_data.gaussian_mixture_2d()


def _eight_modes():
  angles = np.arange(8) * (np.pi / 4.0)
  plane = (np.full(8, 1.0 / 8.0), np.stack([np.cos(angles), np.sin(angles)], 1),
           np.tile(0.02 * np.eye(2), (8, 1, 1)))
  return _first_coordinate(*plane), plane


def _gaussian():
  plane = (np.ones(1), np.zeros((1, 2)), np.array([[[1.0, 0.8], [0.8, 1.0]]]))
  return _first_coordinate(*plane), plane


NAMED = {"three_modes": _three_modes, "eight_modes": _eight_modes, "gaussian": _gaussian}


def load(value: str) -> Density:
  """A named density, or the mixture in a .json or .npz file.

  A file holds `weights` (K,), `means` (K, d) and `covariances` (K, d, d), d = 1 or 2. For d = 2 the
  version on the line is the law of the first coordinate. For d = 1 the version in the plane is the
  law of two independent draws.

  Raises:
    ValueError: an unknown name, or a file that does not exist or holds no mixture.
  """
  if value in NAMED:
    line, plane = NAMED[value]()
    return Density(value, _standard(*line), _standard(*plane))
  file = pathlib.Path(value)
  if file.suffix not in (".json", ".npz"):
    raise ValueError(f"--density {value!r} is not known: choose one of {', '.join(NAMED)}, or a "
                     ".json or .npz file with weights, means and covariances")
  given = _checked(file, _read(file))
  if given[1].shape[1] == 2:
    return Density(file.stem, _standard(*_first_coordinate(*given)), _standard(*given))
  return Density(file.stem, _standard(*given), _standard(*_twice(*given)))


def _read(file: pathlib.Path) -> list[np.ndarray]:
  try:
    if file.suffix == ".npz":
      with file.open("rb") as handle:
        raw = dict(np.load(handle, allow_pickle=False))
    else:
      raw = json.loads(file.read_text(encoding="utf-8"))
    return [np.asarray(raw[name], float) for name in ("weights", "means", "covariances")]
  except OSError as error:
    raise ValueError(f"--density {file} cannot be read: {error.strerror or error}") from error
  except KeyError as error:
    raise ValueError(f"--density {file} lacks {error}: it must hold weights, means and "
                     "covariances") from error
  except (*readers.UNREADABLE, RecursionError) as error:
    raise ValueError(f"--density {file} does not hold arrays of numbers: {error}") from error


def _checked(file: pathlib.Path, arrays: list[np.ndarray]) -> list[np.ndarray]:
  weights, means, covariances = arrays
  k, d = weights.size, means.shape[-1] if means.ndim == 2 else 0
  if not k or weights.shape != (k,) or d not in (1, 2) or means.shape != (k, d) or (
      covariances.shape != (k, d, d)):
    raise ValueError(
        f"--density {file} must hold weights (K,), means (K, d), covariances (K, d, d), d 1 or 2; "
        f"got {weights.shape}, {means.shape}, {covariances.shape}")
  # A mixture on the line has K² components in the plane, which are evaluated on grids.
  if (most := _MOST_COMPONENTS if d == 2 else math.isqrt(_MOST_COMPONENTS)) < k:
    raise ValueError(f"--density {file} has {k:,} components: the report's grids take {most:,} at "
                     f"most, where d is {d}")
  if not (all((np.abs(array) < _LARGEST).all() for array in arrays) and (weights > 0.0).all()):
    raise ValueError(f"--density {file}: numbers must be finite, less than {_LARGEST:g} in "
                     "size, and weights positive")
  symmetric = np.allclose(covariances, np.swapaxes(covariances, 1, 2))
  if not (symmetric and (np.linalg.eigvalsh(covariances) > 0.0).all()):
    raise ValueError(f"--density {file}: covariances must be symmetric and positive definite")
  return arrays


def _first_coordinate(weights, means, covariances):
  return weights, means[:, :1], covariances[:, :1, :1]


def _twice(weights, means, covariances):
  """The law of (x, y), independent draws of a mixture on the line: K² components."""
  i, j = (a.ravel() for a in np.meshgrid(np.arange(len(weights)), np.arange(len(weights))))
  square = np.zeros((len(i), 2, 2))
  square[:, 0, 0], square[:, 1, 1] = covariances[i, 0, 0], covariances[j, 0, 0]
  return weights[i] * weights[j], np.stack([means[i, 0], means[j, 0]], 1), square


def _standard(weights, means, covariances) -> mixtures.Mixture:
  """The mixture shifted to mean 0 and scaled to a mean variance of 1 per coordinate."""
  weights = weights / weights.sum()
  means = means - weights @ means
  var = np.mean(weights @ (means**2 + np.diagonal(covariances, axis1=1, axis2=2)))
  return mixtures.Mixture(*map(jnp.asarray, (weights, means / np.sqrt(var), covariances / var)))
