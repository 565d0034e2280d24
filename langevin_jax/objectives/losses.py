"""The training loss of a batch (paper, §5, eqs. 18, 19, A.4; theory.md#loss).

The error of a row (a, b) of Table 5 is δy = a δx₀ + b δε = (b − a σ/α) δε. The loss is computed on
the row that the network predicts, where it is finite at both ends.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import predictions
from langevin_jax.objectives.densities import Density, stratified
from langevin_jax.objectives.weights import Weight

__all__ = ["Corruption", "corrupted_loss", "corruption", "loss"]


class Corruption(NamedTuple):
  """The random numbers of a batch: half log-SNRs ℓ, (n,), and noise ε, (n, *shape)."""

  half_log_snr: jax.Array
  eps: jax.Array


def corruption(key: jax.Array, x_0: jax.Array, density: Density) -> Corruption:
  """Draws levels from π(ℓ), stratified over the batch, and standard normal noise.

  Args:
    key: consumed.
    x_0: the batch, (n, *shape).
    density: π(ℓ).
  """
  key_ell, key_eps = jax.random.split(key)
  ells = stratified(key_ell, len(x_0), density).astype(x_0.dtype)
  return Corruption(ells, jax.random.normal(key_eps, x_0.shape, x_0.dtype))


def loss(
    key: jax.Array, network: Callable[[jax.Array, jax.Array], jax.Array], x_0: jax.Array, *,
    density: Density, weight: Weight, prediction: str | predictions.Row,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The training loss of a batch, with one call of the network (paper, eq. 19, Table 6).

  Per example, with the row (a, b) of `prediction` at unit scale and y = a x₀ + b ε,

    w(ℓ) ‖y − ŷ‖²/(b − a σ/α)² = w(ℓ) ‖ε − ε̂‖²,

  averaged over the dimensions of the data. Eq. 19 is w = 1/π.

  Args:
    key: consumed, for levels and noise.
    network: (x (n, *shape), ell (n,)) → row values (n, *shape).
    x_0: clean data at unit scale, (n, *shape).
    density: π(ℓ), stratified over the batch.
    weight: w(ℓ).
    prediction: the row that the network predicts, or its name.

  Returns:
    The mean loss, and a dict of per-example `half_log_snr` and `eps_error` (mean of (ε − ε̂)² over
    the dimensions, unweighted), each (n,).

  Raises:
    ValueError: an unknown prediction, no density or weight, or a network whose output is not floats
      in the shape of x.
  """
  return corrupted_loss(network, x_0, corruption(key, x_0, density), weight=weight,
                        prediction=prediction)


def corrupted_loss(
    network: Callable[[jax.Array, jax.Array], jax.Array], x_0: jax.Array, drawn: Corruption, *,
    weight: Weight, prediction: str | predictions.Row,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`loss` with given levels and noise, so that a batch can be processed in parts.

  It is denoising score matching: its minimiser is that of the score error (paper, eq. 18, A.4).
  """
  row = predictions.named(prediction)
  if not callable(weight):
    raise ValueError("weight must be a function of the half log-SNR such as "
                     f"objectives.simple(density), got {weight!r}")
  if not callable(network):
    raise ValueError(f"network must be a function (x, ell), got {network!r}")
  ells = drawn.half_log_snr

  def corrupt(x_0, eps, ell):
    frame = predictions.unit_frame(ell)
    a, b = row(frame)
    return frame.alpha * x_0 + frame.sigma * eps, a * x_0 + b * eps

  x, target = jax.vmap(corrupt)(x_0, drawn.eps, ells)
  output = predictions.like_state(network(x, ells), x, "network")

  def weigh(ell, target, output):
    frame = predictions.unit_frame(ell)
    a, b = row(frame)
    per_eps = b - a * frame.sigma / frame.alpha
    error = jnp.mean((target - output) ** 2)
    w = weight(ell)
    if not hasattr(w, "dtype") and not isinstance(w, (int, float)):
      raise ValueError("weight must be a function of the half log-SNR, not a factory of one: call "
                       "it with the density, as in objectives.simple(density)")
    return w / per_eps**2 * error, error / per_eps**2

  losses, eps_errors = jax.vmap(weigh)(ells, target, output)
  return jnp.mean(losses), {"half_log_snr": ells, "eps_error": eps_errors}
