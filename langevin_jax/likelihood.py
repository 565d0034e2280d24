"""§5: the likelihood of a model by its probability-flow ODE.

In the VE frame the ODE is dz/dℓ = D(z) − z for every path, and along it

  d log q/dℓ = −tr(∂(D − z)/∂z) = d − tr ∂D/∂z,

so log q(x₀) is the Gaussian prior at the noisy end plus an integral of the trace over ℓ.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.paths import Path, on_host

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


def log_prob(
    key: jax.Array, denoise: Denoiser, path: Path, x: jax.Array, *, steps: int = 64,
    divergence: Literal["exact", "hutchinson"] = "exact",
    rho_min: float = 0.002, rho_max: float = 80.0,
) -> jax.Array:
  """log q(x) in nats of one example under the probability-flow model; vmap for a batch.

  RK4 in ℓ with fixed steps from ρ_min to ρ_max: four calls of the model a step, never more. The
  data are taken as they are at ρ_min: the answer is the density of the data blurred by ρ_min.

  Args:
    key: consumed by the Hutchinson probe (unused by "exact").
    denoise: (x_t, t) → D along `path`, differentiable.
    x: one example, any shape. path: gives (α, σ) and t at each level; the result does not depend
      on it beyond rounding while the path reaches ρ_max.
    steps: RK4 steps; 64 give an error near 1e-4 nats on smooth two-dimensional models.
    divergence: "exact" costs x.size JVPs a call; "hutchinson" one, unbiased in log q, with one
      Rademacher probe kept fixed along the trajectory (variance 2 Σ_{i≠j} J²).
    rho_min, rho_max: the range of ρ = σ/α, which ends where the path does if that comes sooner.
      The prior at ρ_max is N(0, 1 + ρ_max²), for data at unit scale and mean zero.

  Raises:
    ValueError: steps < 1, a reversed range, or an unknown divergence.
  """
  if steps < 1:
    raise ValueError(f"steps must be at least 1, got {steps}")
  if not 0.0 < rho_min < rho_max:
    raise ValueError(
        f"noise range must satisfy 0 < rho_min < rho_max, got rho_min={rho_min}, rho_max={rho_max}")
  if divergence not in ("exact", "hutchinson"):
    raise ValueError(f'divergence must be "exact" or "hutchinson", got {divergence!r}')
  rho_max = min(rho_max, float(np.exp(-on_host(path.half_log_snr, np.float64(path.t_max)))))
  d = x.size
  if divergence == "exact":
    probes = jnp.eye(d, dtype=x.dtype).reshape(d, *x.shape)
  else:
    probes = jax.random.rademacher(key, (1, *x.shape), x.dtype)

  def slope(z, ell):
    """dz/dℓ and d log q/dℓ at z."""
    t = path.time(ell)
    denoised, push = jax.linearize(lambda z: denoise(path.alpha(t) * z, t), z)
    trace = jnp.sum(jax.vmap(lambda v: jnp.sum(v * push(v)))(probes))
    return denoised - z, d - trace

  start, end = -math.log(rho_min), -math.log(rho_max)
  h = (end - start) / steps

  def step(carry, i):
    z, gained = carry
    ell = start + h * i

    # The four stages are one scan: the model is compiled once, not four times.
    def stage(carry, coefficients):
      k, moved, grown = carry
      offset, weight = coefficients
      k, g = slope(z + offset * h * k, ell + offset * h)
      return (k, moved + weight * h * k, grown + weight * h * g), None

    offsets = jnp.asarray([0.0, 0.5, 0.5, 1.0], x.dtype)
    rk4 = jnp.asarray([1.0, 2.0, 2.0, 1.0], x.dtype) / 6.0
    (_, moved, grown), _ = jax.lax.scan(
        stage, (jnp.zeros_like(z), jnp.zeros_like(z), jnp.zeros((), x.dtype)), (offsets, rk4))
    return (z + moved, gained + grown), None

  (z, gained), _ = jax.lax.scan(
      step, (x, jnp.zeros((), x.dtype)), jnp.arange(steps, dtype=x.dtype))
  var = 1.0 + rho_max**2
  prior = -0.5 * (jnp.sum(z**2) / var + d * math.log(2.0 * math.pi * var))
  # log q(start) = log q(end) − ∫ d log q, the integral running from the data outwards.
  return prior - gained
