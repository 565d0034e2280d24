"""Exact metrics of a model of a known Gaussian mixture: KL divergence and score error."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.data import standardize
from experiments.metrics.result import Result
from experiments.run import assembly
from experiments.sampling import drawing, samplers_from_config
from langevin_jax import flow_maps, likelihood, mixtures, paths, predictions

_LEVELS = np.linspace(-4.0, 4.0, 33)  # half log-SNR, for the score error
KEYS = ("kl", "kl_samples", "score_error")  # of `rows`
_MAP_LEVELS = (-4.0, -1.0, 0.0, 1.0, 2.5, np.inf)  # for the error of flow maps


def mixture(dataset: data.Dataset) -> mixtures.Mixture:
  """The distribution of mixture2d in the run's standard units."""
  weights, means, covariances = data.gaussian_mixture_2d()
  return mixtures.Mixture(
      jnp.asarray(weights, jnp.float32),
      jnp.asarray(standardize.standardise(means, dataset.mean, dataset.scale)),
      jnp.asarray(standardize.covariances(covariances, dataset.scale), jnp.float32))


def rows(run: assembly.Run, params, path: paths.Path, x: np.ndarray) -> list[Result]:
  """KL(data‖model) by quadrature, KL(data‖samples), and the score error ∫E‖ε̂ − ε̂*‖² dℓ.

  Args:
    x: samples (n, 2) in the run's standard units.
  """
  truth = mixture(run.dataset)
  kl, mass = model_kl(run, truth, params, path)
  histogram, floor = kl_to_samples(truth, x, np.asarray(
      truth.sample(jax.random.key(run.config.evaluation.seed), len(x))))
  return [
      Result("kl", f"KL(data‖model), nats, quadrature; model mass {mass:.4f}", kl, 0.0),
      Result("kl_samples", "KL(data‖samples), nats, histogram", histogram, floor, len(x)),
      Result("score_error", "score error ∫E‖ε̂ − ε̂*‖² dℓ, nats",
             score_error(run, truth, params, path), 0.0)]


def model_kl(
    run: assembly.Run, truth: mixtures.Mixture, params, path: paths.Path, *, points: int = 160
) -> tuple[float, float]:
  """`kl_by_quadrature` of a run's network, with the ρ_min of its sampling."""
  denoise_batch = drawing.denoiser(run, params, path, jnp.zeros((1,), jnp.int32))
  denoise = lambda x_t, t: denoise_batch(x_t[None], t)[0]
  rho_min, _ = samplers_from_config.ends(run.config.sampling)
  return kl_by_quadrature(truth, denoise, path, rho_min=rho_min, points=points)


def kl_by_quadrature(
    truth: mixtures.Mixture, denoise, path: paths.Path, *, rho_min: float, points: int = 160
) -> tuple[float, float]:
  """(∫ p log(p/q), ∫ q) over a square grid that contains all but ~1e-6 of p.

  log q is the density of the model's probability-flow ODE (exact divergence, 48 RK4 steps). Both
  densities are those at the noise level ρ_min, where the flow starts.
  """
  x, area = _square(truth, points)
  log_prob = lambda x: likelihood.log_prob(
      jax.random.key(0), denoise, path, x, steps=48, rho_min=rho_min)
  log_q = jax.jit(lambda x: jax.lax.map(log_prob, x, batch_size=3200))(x)
  log_p = truth.log_prob(x, 1.0, rho_min)
  p = jnp.exp(log_p)
  return float(area * jnp.sum(p * (log_p - log_q))), float(area * jnp.sum(jnp.exp(log_q)))


def entropy(truth: mixtures.Mixture, *, points: int = 400) -> float:
  """−∫ p log p in nats, a lower bound on the mean −log q of any model."""
  x, area = _square(truth, points)
  log_p = truth.log_prob(x, 1.0, 0.0)
  return -float(area * jnp.sum(jnp.exp(log_p) * log_p))


def _square(truth: mixtures.Mixture, points: int) -> tuple[jax.Array, float]:
  """(points (points², 2) of a square grid that contains all but ~1e-6 of p, the area of a cell)."""
  half = float(jnp.max(jnp.abs(truth.means))) + 5.0 * float(
      jnp.sqrt(jnp.max(jnp.linalg.eigvalsh(truth.covariances))))
  axis = np.linspace(-half, half, points, dtype=np.float32)
  return (jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)),
          float(axis[1] - axis[0]) ** 2)


def kl_to_samples(
    truth: mixtures.Mixture, x: np.ndarray, real: np.ndarray, *, bins: int = 30
) -> tuple[float, float]:
  """(KL of the mixture to a histogram of samples x, the same for exact draws `real`: the floor).

    Σ P log(P/Q̂),   Q̂ = (count + ½)/(n + ½ (bins² + 1))

  It includes the error of the sampler. Its bias is about +bins²/2n: compare it with the floor.
  """
  low, high = np.quantile(real, [0.0005, 0.9995], axis=0)
  edges = [np.linspace(a - 0.05 * (b - a), b + 0.05 * (b - a), bins + 1)
           for a, b in zip(low, high, strict=True)]
  fine = 4  # the midpoint rule on 4 × 4 points gives the probability of a cell
  centres = [np.linspace(e[0], e[-1], bins * fine, endpoint=False) for e in edges]
  centres = [c + 0.5 * (c[1] - c[0]) for c in centres]
  grid = jnp.asarray(np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2), jnp.float32)
  density = np.exp(np.asarray(truth.log_prob(grid), np.float64))
  probability = density.reshape(bins, fine, bins, fine).sum((1, 3))
  probability /= probability.sum()

  def kl(points):
    count = np.histogram2d(*points.T, bins=edges)[0]
    # Points outside the box form one more cell, whose P is 0.
    estimate = (count + 0.5) / (len(points) + 0.5 * (bins**2 + 1))
    return float(np.sum(probability * np.log(np.maximum(probability, 1e-300) / estimate)))

  return kl(x), kl(real)


def score_error(
    run: assembly.Run, truth: mixtures.Mixture, params, path: paths.Path, *, n: int = 4000
) -> float:
  """∫ E‖ε̂ − ε̂*‖² dℓ over ℓ in [−4, 4], the score's part of KL(data‖model) (eq. 17)."""
  denoise = drawing.denoiser(run, params, path, jnp.zeros((n,), jnp.int32))

  def error(key, ell):
    key_x, key_eps = jax.random.split(key)
    t = path.time(ell)
    alpha, sigma = path.alpha(t), path.sigma(t)
    x_t = alpha * truth.sample(key_x, n) + sigma * jax.random.normal(key_eps, (n, 2))
    gap = (denoise(x_t, t) - truth.denoise(x_t, alpha, sigma)) * alpha / sigma
    return jnp.mean(jnp.sum(gap**2, axis=-1))

  keys = jax.random.split(jax.random.key(run.config.evaluation.seed), len(_LEVELS))
  errors = jax.jit(lambda keys, ells: jax.lax.map(lambda ke: error(*ke), (keys, ells)))(
      keys, jnp.asarray(_LEVELS, jnp.float32))
  return float(np.trapezoid(np.asarray(errors), _LEVELS))


def map_errors(
    run: assembly.Run, path: paths.Path, *, n: int = 256
) -> Callable[[Any], list[Result]]:
  """params → √(E‖D̄ − D̄*‖²/2) of a flow map by (ℓ, ℓ′), at exact draws of the level ℓ."""
  truth, labels = mixture(run.dataset), jnp.zeros((n,), jnp.int32)
  exact = flow_maps.exact(truth, steps=3, sweeps=6)
  key_x, key_eps = jax.random.split(jax.random.key(run.config.evaluation.seed))

  def state(ell):
    frame = predictions.unit_frame(ell)
    return (frame.alpha * truth.sample(key_x, n)
            + frame.sigma * jax.random.normal(key_eps, (n, 2)))

  pairs = [(a, b) for i, a in enumerate(_MAP_LEVELS[:-1]) for b in _MAP_LEVELS[i:]]
  levels = tuple(jnp.asarray(level, jnp.float32) for level in zip(*pairs, strict=True))
  x, true = jax.jit(lambda levels: jax.lax.map(
      lambda pair: (x := state(pair[0]), exact(x, *pair)), levels))(levels)

  @jax.jit
  def errors(params):
    learned = drawing.denoiser(run, params, path, labels).average
    error = lambda x, true, *pair: jnp.sqrt(jnp.mean((learned(x, *pair) - true) ** 2))
    return jax.lax.map(lambda case: error(*case), (x, true, *levels))

  return lambda params: [
      Result(f"map_error_{a:g}_{b:g}", f"RMS error of D̄, ℓ = {a:g} → {b:g}", float(value), 0.0, n)
      for (a, b), value in zip(pairs, errors(params), strict=True)]
