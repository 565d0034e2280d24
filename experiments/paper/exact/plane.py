"""The density in the plane: draws, distance and correlation of two sets, contours.

Positions are at unit scale, x/√(α² + σ²), at a half log-SNR ℓ. Sets have shape (repeats, n, 2);
repeats are independent.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.metrics import distances
from langevin_jax import mixtures, paths, predictions


@functools.partial(jax.jit, static_argnums=2)
def data(key: jax.Array, mixture: mixtures.Mixture, shape: tuple[int, ...]) -> jax.Array:
  """Draws of the mixture itself, (*shape, 2)."""
  return mixture.sample(key, int(np.prod(shape))).reshape(*shape, -1)


@functools.partial(jax.jit, static_argnums=3)
def draws(
    key: jax.Array, mixture: mixtures.Mixture, ell: jax.Array | float, shape: tuple[int, ...]
) -> jax.Array:
  """Draws of the mixture diffused to ℓ, (*shape, 2)."""
  key_x, key_eps = jax.random.split(key)
  x, frame = data(key_x, mixture, shape), predictions.unit_frame(ell)
  return frame.alpha * x + frame.sigma * jax.random.normal(key_eps, x.shape)


def unit_scale(x: jax.Array, t: jax.Array | float, path: paths.Path) -> jax.Array:
  """States of a path at time t, divided by √(α² + σ²)."""
  return x / jnp.hypot(path.alpha(t), path.sigma(t))


def apart(real: np.ndarray, x: np.ndarray, *, seed: int, projections: int) -> np.ndarray:
  """Sliced W₂ between the two clouds of each repeat, (repeats,)."""
  return np.array([
      distances.sliced_wasserstein2(a, b, seed=seed, projections=projections)
      for a, b in zip(np.asarray(real), np.asarray(x), strict=True)])


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """E[x·y]/√(E|x|² E|y|²) about the means, for clouds (…, n, d) of paired points."""
  x, y = (np.asarray(a) - np.mean(a, axis=-2, keepdims=True) for a in (x, y))
  total = lambda a: np.sum(a, axis=(-2, -1))
  return total(x * y) / np.sqrt(total(x**2) * total(y**2))


def contours(mixture: mixtures.Mixture, ell: float, points: int = 90) -> dict[str, np.ndarray]:
  """The density at ℓ on a square of the plane: {"axis": (n,), "density": (n, n)}."""
  half = max(3.0, float(jnp.max(jnp.abs(mixture.means))) + 0.8)
  axis = np.linspace(-half, half, points)
  grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
  density = np.asarray(jnp.exp(_log_prob(mixture, ell, grid))).reshape(points, points)
  return {"axis": axis.round(4), "density": density.round(5)}


@jax.jit
def _log_prob(mixture, ell, x):
  frame = predictions.unit_frame(ell)
  return mixture.log_prob(x, frame.alpha, frame.sigma)
