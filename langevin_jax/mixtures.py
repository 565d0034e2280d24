"""Exact models in closed form: a Gaussian mixture and a data set (theory.md#exact-models).

Both have log_prob, score, denoise, posterior and sample at a noise level (α, σ), two scalars.
States x have the shape of one example, or any leading axes before it. With weights w_k, means m_k
and covariances S_k,

  p(x) = Σ w_k N(x; α m_k, V_k),   V_k = α²S_k + σ²I,   r_k ∝ w_k N(x; α m_k, V_k)
  s = −Σ r_k V_k⁻¹(x − α m_k),     D = Σ r_k [m_k + α S_k V_k⁻¹(x − α m_k)]

They are the ground truth for samplers, losses and likelihoods.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import predictions
from langevin_jax.paths import Path

__all__ = ["Empirical", "Mixture", "denoiser"]

Scalar = jax.Array | float


class Mixture(NamedTuple):
  """A mixture of K Gaussians in d dimensions; a pytree, exact in float32 to about 1e-6.

  Gradients in x, α and σ are exact. Those in the covariances go through `eigh` and need distinct
  eigenvalues.

  Attributes:
    weights: (K,), positive, of any sum.
    means: (K, d).
    covariances: (K, d, d), symmetric. Zero matrices are allowed; then σ must be positive.
  """

  weights: jax.Array
  means: jax.Array
  covariances: jax.Array

  def _modes(self):
    """Eigenvalues (K, d) and eigenvectors (K, d, d) of the covariances: S_k = U diag(λ) Uᵀ.

    U diagonalises V_k at every level. So only the S_k are factorised, and no factorisation is
    batched over states (batched LAPACK calls can deadlock XLA's CPU thread pool).
    """
    var, axes = jnp.linalg.eigh(self.covariances)
    return jnp.maximum(var, 0.0), axes

  def _whitened(self, x, alpha, sigma):
    """For one x (d,): log(w_k N) (K,), V_k⁻¹(x − αm_k) (K, d), α S_k V_k⁻¹(x − αm_k) (K, d)."""
    spread, axes = self._modes()
    var = alpha**2 * spread + sigma**2
    offset = jnp.einsum("kij,ki->kj", axes, x[None] - alpha * self.means)
    log_weights = jnp.log(self.weights) - jnp.log(jnp.sum(self.weights))
    log_normal = -0.5 * jnp.sum(offset**2 / var + jnp.log(2.0 * jnp.pi * var), axis=1)
    back = lambda rows: jnp.einsum("kij,kj->ki", axes, rows)
    return log_weights + log_normal, back(offset / var), back(alpha * spread / var * offset)

  def log_prob(self, x: jax.Array, alpha: Scalar = 1.0, sigma: Scalar = 0.0) -> jax.Array:
    """log p(x) at the level (α, σ), in nats; x (..., d) → (...). (1, 0) is the data density."""
    one = lambda x: jax.nn.logsumexp(self._whitened(x, alpha, sigma)[0])
    return jnp.vectorize(one, signature="(d)->()")(x)

  def score(self, x: jax.Array, alpha: Scalar = 1.0, sigma: Scalar = 0.0) -> jax.Array:
    """∇ₓ log p(x) at the level (α, σ) (paper, eq. 9); x (..., d) → (..., d)."""
    def one(x):
      log_parts, whitened, _ = self._whitened(x, alpha, sigma)
      return -jax.nn.softmax(log_parts) @ whitened

    return jnp.vectorize(one, signature="(d)->(d)")(x)

  def posterior(self, x: jax.Array, alpha: Scalar, sigma: Scalar) -> "Mixture":
    """p(x₀ | x) for one x (d,), which is a mixture.

    Its weights are r_k, its means m_k + α S_k V_k⁻¹(x − α m_k), and its covariances
    S_k − α² S_k V_k⁻¹ S_k.
    """
    log_parts, _, shift = self._whitened(x, alpha, sigma)
    spread, axes = self._modes()
    # λ − α²λ²/(α²λ + σ²), written without cancellation.
    left = sigma**2 * spread / (alpha**2 * spread + sigma**2)
    covariances = jnp.einsum("kij,kj,klj->kil", axes, left, axes)
    return Mixture(jax.nn.softmax(log_parts), self.means + shift, covariances)

  def denoise(self, x: jax.Array, alpha: Scalar, sigma: Scalar) -> jax.Array:
    """D(x) = E[x₀ | x] at the level (α, σ); x (..., d) → (..., d). At α = 0 it is the mean."""
    def one(x):
      log_parts, _, shift = self._whitened(x, alpha, sigma)
      return jax.nn.softmax(log_parts) @ (self.means + shift)

    return jnp.vectorize(one, signature="(d)->(d)")(x)

  def sample(self, key: jax.Array, n: int) -> jax.Array:
    """n samples of the data, (n, d). Consumes `key`."""
    key_k, key_x = jax.random.split(key)
    k = jax.random.choice(key_k, len(self.weights), (n,), p=self.weights / self.weights.sum())
    spread, axes = self._modes()
    root = axes * jnp.sqrt(spread)[:, None, :]
    noise = jax.random.normal(key_x, (n, self.means.shape[-1]), self.means.dtype)
    return self.means[k] + jnp.einsum("nij,nj->ni", root[k], noise)

  def condition(self, mask: np.ndarray, value: jax.Array) -> "Mixture":
    """The law of the unknown coordinates given the known ones, which is a mixture.

    Args:
      mask: (d,) concrete booleans, True where known.
      value: (d,), read where `mask` is True.

    Returns:
      A mixture over the d − Σ mask unknown coordinates, in their order.

    Raises:
      ValueError: a mask of another shape, or a mask that is True everywhere.
    """
    mask = np.asarray(mask, bool)
    if mask.shape != (self.means.shape[-1],) or mask.all():
      d = self.means.shape[-1]
      raise ValueError(f"mask must have shape ({d},) with an unknown (False) entry, got {mask}")
    (known,), (free,) = np.nonzero(mask), np.nonzero(~mask)
    marginal = Mixture(self.weights, self.means[:, known], self.covariances[:, known][:, :, known])
    log_parts, whitened, _ = marginal._whitened(jnp.asarray(value)[known], 1.0, 0.0)
    cross = self.covariances[:, free][:, :, known]
    gain = jnp.swapaxes(jnp.linalg.solve(marginal.covariances, cross.mT), 1, 2)
    covariances = self.covariances[:, free][:, :, free] - gain @ cross.mT
    means = self.means[:, free] + jnp.einsum("kij,kj->ki", cross, whitened)
    return Mixture(jax.nn.softmax(log_parts), means, 0.5 * (covariances + covariances.mT))


class Empirical(NamedTuple):
  """A data set as a model: S = 0 and w = 1/n, so p(x) = Σ N(x; α x_i, σ²I)/n at (α, σ > 0).

  One evaluation costs n·prod(shape) operations per state.

  Attributes:
    points: (n, *shape).
  """

  points: jax.Array

  def _log_parts(self, x, alpha, sigma):
    offset = (x[None] - alpha * self.points).reshape(len(self.points), -1)
    return -0.5 * jnp.sum(offset**2, axis=1) / sigma**2

  def _vectorize(self, one: Callable, x: jax.Array) -> jax.Array:
    batch = x.shape[:x.ndim - (self.points.ndim - 1)]
    flat = jax.vmap(one)(x.reshape(-1, *self.points.shape[1:]))
    return flat.reshape(*batch, *flat.shape[1:])

  def log_prob(self, x: jax.Array, alpha: Scalar, sigma: Scalar) -> jax.Array:
    """log p(x) at the level (α, σ > 0), in nats; x (..., *shape) → (...)."""
    d = self.points[0].size
    constant = d * (jnp.log(sigma) + 0.5 * jnp.log(2.0 * jnp.pi)) + jnp.log(len(self.points))
    return self._vectorize(
        lambda x: jax.nn.logsumexp(self._log_parts(x, alpha, sigma)) - constant, x)

  def score(self, x: jax.Array, alpha: Scalar, sigma: Scalar) -> jax.Array:
    """∇ₓ log p(x) = (αD − x)/σ² at the level (α, σ > 0); x (..., *shape) → (..., *shape)."""
    return (alpha * self.denoise(x, alpha, sigma) - x) / sigma**2

  def posterior(self, x: jax.Array, alpha: Scalar, sigma: Scalar) -> jax.Array:
    """P(x₀ = x_i | x) for one x (*shape), (n,)."""
    return jax.nn.softmax(self._log_parts(x, alpha, sigma))

  def denoise(self, x: jax.Array, alpha: Scalar, sigma: Scalar) -> jax.Array:
    """D(x) = Σ P(x_i | x) x_i at the level (α, σ > 0); x (..., *shape) → (..., *shape)."""
    return self._vectorize(
        lambda x: jnp.tensordot(self.posterior(x, alpha, sigma), self.points, 1), x)

  def sample(self, key: jax.Array, n: int) -> jax.Array:
    """n of the points, drawn with replacement, (n, *shape). Consumes `key`."""
    return jax.random.choice(key, self.points, (n,))


def denoiser(model: Mixture | Empirical, path: Path) -> predictions.Denoiser:
  """The exact model as `denoise(x_t, t)` along a path, as samplers take it."""
  def at(x, ell):
    frame = predictions.unit_frame(ell)
    return model.denoise(x, frame.alpha, frame.sigma)

  return predictions.Denoiser(at, path)
