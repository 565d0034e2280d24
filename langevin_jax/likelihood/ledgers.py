"""§5, eqs. 13–17, A.3: where KL(data‖model) comes from, by noise level.

The law of the data diffused along the forward process and a model that runs it backwards at η = 1
differ, as processes from ρ_max to ρ_min, by (Girsanov; D* = E[x₀ | z] is the law's own denoiser)

  KL(processes) = KL(p_max‖prior) + ∫ e^{2ℓ} E‖D*(z_ℓ) − D_θ‖² dℓ.

**Continuous model**, dz = −2(z − D_θ(z, ℓ))dℓ + √2 ρ dW: D_θ is taken at (z_ℓ, ℓ), and the
integrand is E‖ε̂* − ε_θ‖², the score error. **Sampler** STEP(h, Λ = h) on a grid (DDPM): D_θ is held
at the last node (z_i, ℓ_i) for the whole step. What that adds is the discretisation,

  Σ_i ∫ e^{2ℓ} (E‖D*(z_ℓ) − D_θ(z_i, ℓ_i)‖² − E‖D*(z_ℓ) − D_θ(z_ℓ, ℓ)‖²) dℓ,

for the exact model Σ_i ∫ e^{2ℓ} (mmse(ℓ_i) − mmse(ℓ)) dℓ ≥ 0, since D* is a martingale of the
reverse process; for a model that is better at the node than later on it may be negative.

What is claimed. The KL of the processes is exactly the sum. The KL of their ends, KL(p_min‖q_min),
is no more than that (data processing):

- continuous model, its score that of a diffused density (with the prior at its end): equal, and the
  ODE's KL is the same number, since all its η share one law;
- continuous model, any score: an upper bound for η = 1; for the ODE (η = 0) nothing follows;
- sampler: an upper bound. With the exact score the sum falls as 1/n in the steps and the KL of the
  ends as 1/n²: the ledger overstates what a fine grid costs, and on a coarse one it says next to
  nothing. With Karras grids of 5, 10, 20, 40 and 80 steps on a mixture of three Gaussians the sum
  is 11.2, 2.94, 1.10, .484 and .227 nats, where the ends differ by .549, .127, .0295, .00707 and
  .00174: below some 20 steps compare samples instead. The joint law of the nodes alone gives no
  better bound: within a step data and sampler share their bridges, so that its KL is the same.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import predictions
from langevin_jax.likelihood import prior
from langevin_jax.likelihood.variational import surplus
from langevin_jax.mixtures import Empirical, Mixture
from langevin_jax.paths import Path, check_path
from langevin_jax.samplers import Grid
from langevin_jax.samplers.grids import levels_of


class Estimate(NamedTuple):
  """A Monte-Carlo mean and its standard error, in nats, of one shape."""

  value: jax.Array
  error: jax.Array


class Ledger(NamedTuple):
  """KL(data‖model) in nats, as a sum: total = prior + Σ score + Σ discretisation.

  edges: (bins + 1,), the half log-SNRs between which `score` and `discretisation`, (bins,), were
  integrated. `prior` and `total` are scalars. Without the data's density the sum is the
  cross-entropy bound instead: see `ledger`.
  """

  edges: jax.Array
  prior: Estimate
  score: Estimate
  discretisation: Estimate
  total: Estimate


def ledger(
    key: jax.Array, denoise: predictions.Denoise, path: Path, x: jax.Array, *,
    exact: Mixture | Empirical | None = None, grid: Grid | None = None, bins: int = 32,
    draws_per_bin: int = 4, repeats: int = 16, moments: prior.Moments | None = None,
    rho_min: float = 0.002, rho_max: float = 80.0,
) -> Ledger:
  """KL(data‖model) split into prior, score error by noise level, and discretisation by level.

  With `exact`, the law that x was drawn from, entries are those of the module's equations. Without
  it D* and p are not known, but x₀ in place of D*(z_ℓ) changes each integrand by mmse(ℓ) e^{2ℓ}
  alone, whatever the model. Then

    score = ∫_bin (E‖ε − ε_θ‖² − d) dℓ,   prior = E[−log prior(z_max)],

  discretisation means what it did, and the total is the bound on the cross-entropy
  E[−log q(z_min)] = H(z_min) + KL: all that data identify. The entropy H(z_min) is the same for all
  models, so two models' totals differ by their KLs' difference, and their scores, bin by bin, by
  their score errors' difference.

  Args:
    key: consumed.
    denoise: (x_t, t) → D along `path`, x_t with any leading axes. Called `repeats · bins ·
      draws_per_bin` times with n/repeats examples, twice as often with a grid.
    x: (n, *shape), data in standard units, clean.
    exact: the data's law, with `denoise` and `log_prob` at a level.
    grid: of the sampler, such as `samplers.karras(40)`; its positive levels are the range of ρ, the
      last step to ρ = 0, whose law is singular, being left out. None is the continuous model.
    bins: equal bins of ℓ. draws_per_bin: levels drawn in each, stratified.
    repeats: groups of examples, each with its own levels and noise: errors are from the spread
      between groups (relatively uncertain by 1/√(2 repeats)).
    moments: of the prior, as in `log_prob`.
    rho_min, rho_max: the range of ρ where no grid is given.

  Raises:
    ValueError: bins or draws_per_bin < 1, repeats < 2 or not dividing n, a grid whose first level
      is infinite or that has no step before the last, a reversed range, no path, or a `denoise`
      that returns another shape.
  """
  for name, value, least in (
      ("bins", bins, 1), ("draws_per_bin", draws_per_bin, 1), ("repeats", repeats, 2)):
    if value < least:
      raise ValueError(f"{name} must be at least {least}, got {value}")
  check_path(path)
  if grid is not None and not callable(grid):
    raise ValueError(f"grid must be a samplers.Grid such as samplers.karras(40), got {grid!r}")
  x = jnp.asarray(x, jnp.result_type(x, float))
  if x.ndim < 1 or len(x) % repeats or not len(x):
    raise ValueError(f"repeats must divide the examples, got repeats={repeats}, x {x.shape}")
  if grid is not None:
    rho = levels_of(grid, path)
    rho = rho[rho > 0.0]
    if len(rho) < 2 or not np.isfinite(rho[0]) or not np.all(np.diff(rho) < 0.0):
      raise ValueError("grid must have two or more positive levels that fall, the first finite, "
                       f"got rho={rho[:3]}…")
    nodes, rho_min, rho_max = jnp.asarray(-np.log(rho), x.dtype), rho[-1], rho[0]
  rho_min, rho_max = prior.reach(path, float(rho_min), float(rho_max))
  x = x.reshape(repeats, -1, *x.shape[1:])
  at, d, axes = predictions.at_level(denoise, path), x[0, 0].size, tuple(range(1, x.ndim - 1))
  low, high = -math.log(rho_max), -math.log(rho_min)
  width = (high - low) / bins
  normal = lambda key: jax.random.normal(key, x.shape[1:], x.dtype)

  def rates(draw):
    """The integrands of score and discretisation at one level, means over one group."""
    key, group, ell = draw
    key_eps, key_back = jax.random.split(key)
    x_0, eps, rho = x[group], normal(key_eps), jnp.exp(-ell)
    frame, z = predictions.unit_frame(ell), x_0 + rho * eps
    denoised = at(frame.alpha * z, ell)
    if exact is None:
      target, constant = x_0, d + surplus(eps, ell, axes)
    else:
      target, constant = exact.denoise(frame.alpha * z, frame.alpha, frame.sigma), 0.0
    score = jnp.sum((target - denoised) ** 2, axes) / rho**2 - constant
    if grid is None:
      return jnp.mean(score), jnp.zeros_like(ell)
    ell_i = nodes[jnp.clip(jnp.searchsorted(nodes, ell, side="right") - 1, 0, len(nodes) - 2)]
    # The node is noisier: z_i = z + √(ρ_i² − ρ²) ξ by the exact forward kernel.
    z_i = z + jnp.sqrt(jnp.maximum(jnp.exp(-2.0 * ell_i) - rho**2, 0.0)) * normal(key_back)
    held = at(predictions.unit_frame(ell_i).alpha * z_i, ell_i)
    # ‖T − D_i‖² − ‖T − D‖² without the difference of nearly equal numbers.
    moved = jnp.sum((denoised - held) * (2.0 * target - denoised - held), axes)
    return jnp.mean(score), jnp.mean(moved) / rho**2

  def start(draw):
    key, x_0 = draw
    if exact is None:
      return -jnp.mean(prior.log_prob(x_0, rho_max, moments, 1, extra=rho_max**2))
    frame, z = predictions.unit_frame(jnp.asarray(low, x.dtype)), x_0 + rho_max * normal(key)
    log_p = exact.log_prob(frame.alpha * z, frame.alpha, frame.sigma) + d * jnp.log(frame.alpha)
    return jnp.mean(log_p - prior.log_prob(z, rho_max, moments, 1))

  key_u, key_noise, key_prior = jax.random.split(key, 3)
  shape = repeats, bins, draws_per_bin
  stratum = jnp.arange(bins * draws_per_bin, dtype=x.dtype).reshape(1, bins, draws_per_bin)
  u = jnp.broadcast_to(stratum, shape) + jax.random.uniform(key_u, shape, x.dtype)
  ells = low + width / draws_per_bin * u
  groups = jnp.broadcast_to(jnp.arange(repeats)[:, None, None], shape)
  flat = jax.random.split(key_noise, ells.size), groups.ravel(), ells.ravel()
  score, moved = (
      width * jnp.mean(v.reshape(shape), 2) for v in jax.lax.map(rates, flat))
  first = jax.lax.map(start, (jax.random.split(key_prior, repeats), x))
  estimate = lambda v: Estimate(jnp.mean(v, 0), jnp.std(v, 0, ddof=1) / math.sqrt(repeats))
  return Ledger(
      jnp.linspace(low, high, bins + 1, dtype=x.dtype), estimate(first), estimate(score),
      estimate(moved), estimate(first + jnp.sum(score, 1) + jnp.sum(moved, 1)))
