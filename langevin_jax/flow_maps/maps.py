"""The average denoiser D̄(x, ℓ, ℓ′): a network as one, the map that it makes, and its Jacobian."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _values, predictions, splitting
from langevin_jax.paths import Path

__all__ = ["Average", "check_order", "denoiser", "move", "move_and_log_det"]

Average = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(x, ell, ell_s) → D̄ for states x at unit scale and levels ell ≤ ell_s."""


def denoiser(
    network: Average, path: Path, *, prediction: str | predictions.Row
) -> predictions.Denoiser:
  """A network of two levels as `denoise(x_t, t)`, with the average denoiser beside it.

  On the diagonal ℓ′ = ℓ it is the ordinary denoiser, which every sampler, guidance and inpainting
  take. `samplers.flow_map` calls `average`.

  Args:
    network: (x, ell, ell_s) → the row `prediction` of (D̄, ε̄) at ell, ε̄ = (x − α D̄)/σ.
    path: defines the time t.
    prediction: the row that the network was trained to predict, "x0" for `exact`.

  Raises:
    ValueError: as `predictions.denoiser`; levels ell > ell_s, unless traced.
  """
  def average(x, ell, ell_s):
    check_order(ell, ell_s)
    here = lambda x, ell: network(x, ell, ell_s)
    return predictions.denoiser(here, path, prediction=prediction).at(x, ell)

  diagonal = predictions.denoiser(
      lambda x, ell: network(x, ell, ell), path, prediction=prediction)
  return predictions.Denoiser(diagonal.at, path, average)


def move(average: Average, x: jax.Array, ell: jax.Array | float,
         ell_s: jax.Array | float) -> jax.Array:
  """The flow map Φ: the ODE step STEP(h, 0) with D̄ in the place of D, exact for the exact D̄.

    x′ = (σ′/σ) x + (α′ − α σ′/σ) D̄(x, ℓ, ℓ′)

  Args:
    average: D̄. x: states at unit scale at `ell`, with any leading axes.
    ell, ell_s: scalars, ell ≤ ell_s; −∞ and ∞ are pure noise and clean data.

  Returns:
    The states at `ell_s`, at unit scale. Raises ValueError as `denoiser`.
  """
  check_order(ell, ell_s)
  ell, ell_s = (jnp.asarray(level, x.dtype) for level in (ell, ell_s))
  here, after = predictions.unit_frame(ell), predictions.unit_frame(ell_s)
  a, b, _ = splitting.weights(
      here.alpha, here.sigma, after.alpha, after.sigma, jnp.zeros_like(ell))
  moved = a * x + b * average(x, ell, ell_s)
  return jnp.where(ell == ell_s, x, moved)


def move_and_log_det(
    average: Average, x: jax.Array, ell: jax.Array | float, ell_s: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
  """`move`, and log |det ∂x′/∂x| in nats, by d forward derivatives: for few dimensions.

  log p′(x′) = log p(x) − log |det ∂x′/∂x|, and the terms of several maps add up.

  Args:
    x: (..., d). average, ell, ell_s: as in `move`.

  Returns (x′ (..., d), log |det| (...)).
  """
  def one(x):
    out = move(average, x, ell, ell_s)
    return out, out

  jacobian, moved = jnp.vectorize(jax.jacfwd(one, has_aux=True), signature="(d)->(d,d),(d)")(x)
  return moved, jnp.linalg.slogdet(jacobian)[1]


def check_order(ell: jax.Array | float, ell_s: jax.Array | float) -> None:
  """Raises ValueError where ell_s < ell; traced levels are not checked."""
  low, high = _values.concrete(ell), _values.concrete(ell_s)
  if low is not None and high is not None and np.any(high < low):
    raise ValueError("a flow map goes towards the data: half_log_snr_s must be at least "
                     f"half_log_snr, got {np.max(low):g} and {np.min(high):g}")
