"""Problems of the solver study: models, starts at ρ = 80, and the ends of their exact flows.

The start of a problem is a draw of the model's distribution at ρ_max, x₀ + ρ_max ξ, so that the
start has no error. The reference is the probability-flow ODE from there, solved with many steps by
two methods. Everything is float64 except the arithmetic of a trained network. x64 must be enabled.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments import data
from experiments.metrics import mixture_metrics
from experiments.run import assembly
from experiments.sampling import drawing
from langevin_jax import mixtures, paths, predictions, samplers

RHO_MAX, RHO_MIN = 80.0, 1e-6
PATH = paths.ve(sigma_max=RHO_MAX)

# The one-dimensional mixture of theory.md#exact-models.
LINE = np.array([0.35, 0.45, 0.2]), np.array([-1.2, 0.4, 1.6]), np.array([0.35, 0.25, 0.15])

At = Callable[[jax.Array, jax.Array], jax.Array]


class Problem(NamedTuple):
  """at: (x_unit, ell) → D. z: states (n, *shape) at RHO_MAX. x_0: ends of their flows.

  agreement: the median and the largest difference between the two fine solutions, the root mean
  square over the coordinates of a sample. states: the batch size with which grids are optimised.
  """

  name: str
  at: At
  z: np.ndarray
  x_0: np.ndarray
  agreement: tuple[float, float]
  states: int = 256


def rms(difference: np.ndarray) -> np.ndarray:
  """Root mean square over a sample's coordinates, (n,)."""
  return np.sqrt(np.mean(np.square(difference.reshape(len(difference), -1)), axis=1))


def solved(
    name: str, at: At, clean: np.ndarray, *, seed: int, steps: int, states: int = 256
) -> Problem:
  """The problem that starts from noised clean draws (n, *shape), solved with `steps` steps."""
  noise = np.random.default_rng(seed).standard_normal(clean.shape)
  z = np.asarray(clean + RHO_MAX * noise, np.float64)
  denoise = predictions.Denoiser(at, PATH)

  def fine(method, n):
    return np.asarray(samplers.sample(
        jax.random.key(0), denoise, PATH, shape=z.shape, initial=jnp.asarray(z), method=method,
        grid=samplers.karras(n, rho_min=RHO_MIN, rho_max=RHO_MAX)))

  x_0 = fine(samplers.singlestep(3), steps)
  gap = rms(x_0 - fine(samplers.unipc(3), 2 * steps))
  return Problem(name, at, z, x_0, (float(np.median(gap)), float(gap.max())), states)


def gaussian_at(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> At:
  """`mixtures.Mixture.denoise` with one eigendecomposition for all levels."""
  var, axes = np.linalg.eigh(covariances)
  means_along = np.einsum("kij,ki->kj", axes, means)

  def at(x, ell):
    rho_squared = jnp.exp(-2.0 * ell)
    z = jnp.sqrt(1.0 + rho_squared) * x
    blurred = var + rho_squared
    offset = jnp.einsum("kij,ni->nkj", axes, z) - means_along[None]
    log_parts = np.log(weights) - 0.5 * jnp.sum(jnp.log(blurred), 1)
    r = jax.nn.softmax(log_parts[None] - 0.5 * jnp.sum(offset**2 / blurred[None], 2), axis=1)
    shift = jnp.einsum("kij,nkj->nki", axes, (var / blurred)[None] * offset)
    return jnp.sum(r[..., None] * (means[None] + shift), 1)

  return at


def empirical_at(points: np.ndarray) -> At:
  """`mixtures.Empirical.denoise` of points (m, d), by matrix products."""
  squares = np.sum(points**2, 1)

  def at(x, ell):
    rho_squared = jnp.exp(-2.0 * ell)
    z = jnp.sqrt(1.0 + rho_squared) * x
    return jax.nn.softmax((z @ points.T - 0.5 * squares[None]) / rho_squared, axis=1) @ points

  return at


def draws(rng: np.random.Generator, law: mixtures.Mixture, n: int) -> np.ndarray:
  """Draws of a mixture, (n, d)."""
  k = rng.choice(len(law.weights), n, p=law.weights / law.weights.sum())
  root = np.linalg.cholesky(law.covariances)
  noise = rng.standard_normal((n, law.means.shape[1]))
  return law.means[k] + np.einsum("nij,nj->ni", root[k], noise)


def line() -> mixtures.Mixture:
  weights, means, stds = LINE
  return mixtures.Mixture(weights, means[:, None], stds[:, None, None] ** 2)


def line_cdf(z: np.ndarray, rho: float) -> np.ndarray:
  """The distribution function of the one-dimensional mixture at level ρ."""
  weights, means, stds = LINE
  return special.ndtr((z[..., None] - means) / np.hypot(stds, rho)) @ weights


def line_quantiles(u: np.ndarray) -> np.ndarray:
  """Quantiles of the one-dimensional mixture, by bisection to rounding."""
  low, high = np.full_like(u, -20.0), np.full_like(u, 20.0)
  for _ in range(80):
    middle = 0.5 * (low + high)
    below = line_cdf(middle, 0.0) < u
    low, high = np.where(below, middle, low), np.where(below, high, middle)
  return 0.5 * (low + high)


def three_modes() -> mixtures.Mixture:
  """Three isotropic Gaussians on a circle; the mixture has mean 0 and covariance I."""
  stds = np.array([0.5, 0.35, 0.25])
  angles = 0.3 + 2.0 * np.pi / 3.0 * np.arange(3)
  radius = np.sqrt(2.0 * (1.0 - np.mean(stds**2)))
  return mixtures.Mixture(np.full(3, 1 / 3), radius * np.stack([np.cos(angles), np.sin(angles)], 1),
                          stds[:, None, None] ** 2 * np.eye(2)[None])


def eight_modes() -> mixtures.Mixture:
  """The mixture of experiments/configs/mixture2d.py in standard units."""
  return mixture_metrics.mixture(data.load("mixture2d"))


def correlated(d: int = 16, components: int = 5) -> mixtures.Mixture:
  """Components with different covariances; standard deviations from 0.08 to 0.8 in each."""
  rng = np.random.default_rng(7)
  axes = np.linalg.qr(rng.standard_normal((components, d, d)))[0]
  var = np.geomspace(0.08, 0.8, d) ** 2
  covariances = np.einsum("kij,j,klj->kil", axes, var, axes)
  return mixtures.Mixture(rng.dirichlet(np.full(components, 3.0)),
                          0.9 * rng.standard_normal((components, d)), covariances)


def gaussian() -> mixtures.Mixture:
  """One Gaussian in two dimensions with standard deviations 0.2 and 1."""
  turn = np.array([[0.8, -0.6], [0.6, 0.8]])
  return mixtures.Mixture(np.ones(1), np.array([[0.5, -0.3]]),
                          (turn * np.array([0.04, 1.0]) @ turn.T)[None])


LAWS = {"1-D mixture": line, "2-D, three round modes": three_modes,
        "2-D, eight modes": eight_modes, "16-D, correlated": correlated, "one Gaussian": gaussian}


def mixture(name: str, *, n: int, steps: int) -> Problem:
  """The problem of a mixture in LAWS."""
  law = jax.tree.map(lambda v: np.asarray(v, np.float64), LAWS[name]())
  clean = draws(np.random.default_rng(1), law, n)
  return solved(name, gaussian_at(*law), clean, seed=2, steps=steps)


def digits_points(*, n: int, steps: int) -> Problem:
  """The problem of the empirical distribution of the digits' training images."""
  points = np.float64(data.load("digits").train).reshape(-1, 64)
  clean = points[np.random.default_rng(1).integers(0, len(points), n)]
  return solved("digits as points, 64-D", empirical_at(points), clean, seed=2, steps=steps,
                states=64)


def trained(workdir: pathlib.Path, *, n: int, steps: int) -> Problem:
  """The problem of a trained network in float32, with starts and labels from training images.

  Raises:
    ValueError: `workdir` holds no trained run.
  """
  with jax.enable_x64(False):
    run, state = assembly.trained(workdir)
    params = jax.tree.map(np.asarray, state.ema[0])
    dataset = data.comparison_data(run.dataset)
    index = np.random.default_rng(1).integers(0, len(dataset.train), n)
    labels = jnp.asarray(dataset.train_labels[index] if dataset.num_classes else np.zeros(n, int),
                         jnp.int32)

  def at(x, ell):
    inner = drawing.denoiser(run, params, PATH, labels[:len(x)]).at
    return jnp.asarray(inner(jnp.asarray(x, jnp.float32), jnp.asarray(ell, jnp.float32)), x.dtype)

  return solved(f"trained {workdir.name}", at, np.float64(dataset.train[index]), seed=2,
                steps=steps, states=16)
