"""Exact models on finite state spaces: a table, and a mixture of product laws.

Both have log_prob, denoise and sample. `denoise` returns log D, D(a) = P(x₀ᵢ = a | x_t = x). They
are the ground truth for samplers, losses and likelihoods.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.discrete import paths
from langevin_jax.discrete.paths import Path

__all__ = ["Products", "Table", "denoiser"]


class Products(NamedTuple):
  """p(x) = Σ_k w_k Π_i p_ki(x_i): K product laws of L positions over V tokens; a pytree.

  Attributes:
    weights: (K,), positive, of any sum.
    probabilities: p_ki(a), (K, L, V).
  """

  weights: jax.Array
  probabilities: jax.Array

  def _log_parts(self, x, alpha, path):
    """log [w_k Π_i q_ki(x_i)] at survival probability α, for one x (L,): (K,)."""
    alpha = _positive(alpha)
    noisy = self.probabilities @ paths.kernel(path, alpha)  # (K, L, S)
    log_weights = jnp.log(self.weights) - jnp.log(jnp.sum(self.weights))
    at_x = jnp.take_along_axis(noisy, x[None, :, None], axis=-1)[..., 0]
    return log_weights + jnp.sum(jnp.log(at_x), axis=1)

  def log_prob(self, x: jax.Array, alpha: jax.Array | float, path: Path) -> jax.Array:
    """log p_t(x) at survival probability α, in nats; x (..., L) → (...). α = 1 is the data law."""
    one = lambda x: jax.nn.logsumexp(self._log_parts(x, alpha, path))
    return jnp.vectorize(one, signature="(l)->()")(x)

  def denoise(self, x: jax.Array, alpha: jax.Array | float, path: Path) -> jax.Array:
    """log D at survival probability α; x (..., L) → (..., L, V)."""
    def one(x):
      responsibility = jax.nn.log_softmax(self._log_parts(x, alpha, path))
      # log q(x_i | a), (1, L, V)
      to_x = jnp.log(paths.kernel(path, _positive(alpha))[:, x]).T[None]
      part = jnp.log(self.probabilities) + to_x
      total = jax.nn.logsumexp(part, axis=-1, keepdims=True)
      # A component that cannot give x_i has responsibility 0 and no law of x₀ᵢ.
      part = jnp.where(jnp.isneginf(total), -jnp.inf, part - total)
      return jax.nn.logsumexp(responsibility[:, None, None] + part, axis=0)

    return jnp.vectorize(one, signature="(l)->(l,v)")(x)

  def sample(self, key: jax.Array, n: int) -> jax.Array:
    """n clean examples, (n, L). Consumes `key`."""
    key_k, key_x = jax.random.split(key)
    k = jax.random.categorical(key_k, jnp.log(self.weights), shape=(n,))
    return jax.random.categorical(key_x, jnp.log(self.probabilities)[k], axis=-1)


def _positive(alpha: jax.Array | float) -> jax.Array:
  """α, or the smallest number at α = 0: a token that is known there keeps its meaning."""
  return jnp.maximum(alpha, jnp.finfo(jnp.result_type(alpha, float)).tiny)


class Table(NamedTuple):
  """Any law of L positions over V tokens, as a table of V^L probabilities; a pytree.

  Attributes:
    probabilities: one axis for each position, (V,) * L, of sum 1.
  """

  probabilities: jax.Array

  @property
  def states(self) -> np.ndarray:
    """All clean states, (V^L, L)."""
    return np.indices(self.probabilities.shape).reshape(self.probabilities.ndim, -1).T

  def as_products(self) -> Products:
    """The same law: each state is a product law. One evaluation costs V^L·L operations."""
    eye = jnp.eye(self.probabilities.shape[0], dtype=self.probabilities.dtype)
    return Products(self.probabilities.reshape(-1), eye[self.states])

  def marginal(self, alpha: jax.Array | float, path: Path) -> jax.Array:
    """p_t as a table with S entries on each axis."""
    table, q = self.probabilities, paths.kernel(path, alpha)
    for _ in range(table.ndim):  # each product takes the first axis away and appends the new one
      table = jnp.tensordot(table, q, axes=(0, 0))
    return table

  def log_prob(self, x: jax.Array, alpha: jax.Array | float, path: Path) -> jax.Array:
    """log p_t(x) at survival probability α, in nats; x (..., L) → (...)."""
    return jnp.log(self.marginal(alpha, path))[tuple(jnp.moveaxis(x, -1, 0))]

  def denoise(self, x: jax.Array, alpha: jax.Array | float, path: Path) -> jax.Array:
    """log D at survival probability α; x (..., L) → (..., L, V)."""
    return self.as_products().denoise(x, alpha, path)

  def sample(self, key: jax.Array, n: int) -> jax.Array:
    """n clean examples, (n, L). Consumes `key`."""
    index = jax.random.categorical(key, jnp.log(self.probabilities.reshape(-1)), shape=(n,))
    return jnp.asarray(self.states)[index]

  def entropy(self) -> float:
    """−Σ p log p, in nats."""
    p = np.asarray(self.probabilities, np.float64).ravel()
    return float(-math.fsum(p[p > 0.0] * np.log(p[p > 0.0])))


def denoiser(model: Products | Table, path: Path) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The exact model as `denoise(x_t, t)` → log D along a path, as samplers take it."""
  paths.check_path(path)
  return lambda x, t: model.denoise(x, path.clock.alpha(t), path)
