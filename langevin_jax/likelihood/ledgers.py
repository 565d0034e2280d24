"""KL(data‖model) as a sum over noise levels (paper, eqs. 13–17, A.3; theory.md#likelihood).

Let p be the law of the data diffused along the forward process, with the denoiser
D* = E[x₀ | z]. A model runs the process backwards at η = 1 with the denoiser D_θ. By Girsanov's
theorem the two processes between ρ_max and ρ_min differ by

  KL(processes) = KL(p_max‖prior) + ∫ e^{2ℓ} E‖D*(z_ℓ) − D_θ‖² dℓ.

| model | D_θ is evaluated at | the integrand |
|---|---|---|
| continuous, dz = −2(z − D_θ)dℓ + √2 ρ dW | (z_ℓ, ℓ) | E‖ε̂* − ε_θ‖², the score error |
| STEP(h, Λ = h) on a grid (DDPM) | the last node (z_i, ℓ_i) | score error + discretisation |

The discretisation term is

  Σ_i ∫ e^{2ℓ} (E‖D*(z_ℓ) − D_θ(z_i, ℓ_i)‖² − E‖D*(z_ℓ) − D_θ(z_ℓ, ℓ)‖²) dℓ.

For the exact model it is Σ_i ∫ e^{2ℓ} (mmse(ℓ_i) − mmse(ℓ)) dℓ ≥ 0, because D* is a martingale of
the reverse process. It may be negative for a model that is more accurate at the node than after it.

The sum is the KL of the processes. By data processing, the KL of their ends, KL(p_min‖q_min), is at
most the sum:

| model | relation of the sum to KL(p_min‖q_min) |
|---|---|
| continuous, D_θ belongs to a diffused density with the prior at its end | equal, for every η |
| continuous, any D_θ | upper bound for η = 1; no statement for the ODE (η = 0) |
| STEP on a grid | upper bound |

For STEP with the exact score and n steps the sum falls as 1/n, the KL of the ends as 1/n², so the
bound is loose. On a mixture of three Gaussians with Karras grids of 5, 10, 20, 40 and 80 steps the
sum is 11.2, 2.94, 1.10, .484 and .227 nats, and the KL of the ends is .549, .127, .0295, .00707 and
.00174. Below about 20 steps, compare samples instead. The joint law of the nodes gives no better
bound: data and sampler have the same bridges within a step, so its KL is the same.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _values, predictions
from langevin_jax.likelihood import prior
from langevin_jax.likelihood.variational import control_variate
from langevin_jax.mixtures import Empirical, Mixture
from langevin_jax.paths import Path, check_path
from langevin_jax.samplers import Grid
from langevin_jax.samplers.grids import levels_of

__all__ = ["Estimate", "Ledger", "ledger"]


class Estimate(NamedTuple):
  """A Monte-Carlo mean and its standard error, in nats, arrays of one shape."""

  value: jax.Array
  error: jax.Array


class Ledger(NamedTuple):
  """KL(data‖model) in nats as a sum, total = prior + Σ score + Σ discretisation.

  If the law of the data is not known, the sum is the cross-entropy bound instead; see `ledger`.

  Attributes:
    edges: (bins + 1,), the half log-SNRs of the edges of the bins.
    prior: the term of the noisy end, scalar.
    score: (bins,), the score error, integrated over each bin.
    discretisation: (bins,), the discretisation term, integrated over each bin.
    total: the sum, scalar.
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
  """KL(data‖model) as prior term, score error and discretisation (paper, eqs. 13–15, 17, A.3).

  With `exact`, the law of the data, the entries are those of the module's equations. Without it, D*
  and p are unknown, and x₀ replaces D*(z_ℓ). This adds mmse(ℓ) e^{2ℓ} to each integrand, the same
  for all models:

  | entry | with `exact` | without |
  |---|---|---|
  | prior | KL(p_max‖prior) | E[−log prior(z_max)] |
  | score | ∫ E‖ε̂* − ε_θ‖² dℓ | ∫ (E‖ε − ε_θ‖² − d) dℓ |
  | discretisation | the module's sum | the same |
  | total | KL(data‖model) | bound on E[−log q(z_min)] = H(z_min) + KL |

  The entropy H(z_min) does not depend on the model. So differences of two models' totals and scores
  are the differences of their KLs and score errors.

  Args:
    key: consumed.
    denoise: (x_t, t) → D along `path`, x_t with any leading axes. It is called
      `repeats · bins · draws_per_bin` times with n/repeats examples, twice as often with a grid.
    path: defines the time t.
    x: clean data in standard units, (n, *shape).
    exact: the law of the data, with `denoise` and `log_prob` at a level.
    grid: the grid of a sampler, such as `samplers.karras(40)`. Its positive levels are the range
      of ρ; the last step, to ρ = 0, is left out. None is the continuous model.
    bins: number of equal bins of ℓ.
    draws_per_bin: levels per bin, stratified.
    repeats: number of groups of examples, each with its own levels and noise. Standard errors are
      computed from the groups; their own relative error is 1/√(2 repeats).
    moments: of the prior, as in `log_prob`.
    rho_min, rho_max: the range of ρ = σ/α if there is no grid.

  Returns:
    The ledger.

  Raises:
    ValueError: bins or draws_per_bin < 1; repeats < 2 or not a divisor of n; a grid whose first
      level is infinite, or with less than two positive levels; a reversed range; no path; or a
      `denoise` that returns another shape.
  """
  bins, draws_per_bin = (_values.count("bins", bins),
                         _values.count("draws_per_bin", draws_per_bin))
  repeats = _values.count("repeats", repeats, 2)
  check_path(path)
  x = _values.floats(x)
  if x.ndim < 1 or len(x) % repeats or not len(x):
    raise ValueError(f"repeats must divide the examples, got repeats={repeats}, x {x.shape}")
  levels = _levels(grid, path, rho_min, rho_max)
  low, high = -math.log(levels.rho_max), -math.log(levels.rho_min)
  width = (high - low) / bins

  key_u, key_noise, key_prior = jax.random.split(key, 3)
  groups = x.reshape(repeats, -1, *x.shape[1:])
  draws = _draws(key_u, key_noise, (repeats, bins, draws_per_bin), low, width, x.dtype)
  integrands = _integrands(groups, predictions.at_level(denoise, path), exact, levels.nodes)
  score, discretisation = (
      width * jnp.mean(rates.reshape(repeats, bins, draws_per_bin), 2)
      for rates in jax.lax.map(integrands, draws))
  first = jax.lax.map(_prior_term(levels.rho_max, exact, moments),
                      (jax.random.split(key_prior, repeats), groups))
  return Ledger(
      jnp.linspace(low, high, bins + 1, dtype=x.dtype), _estimate(first), _estimate(score),
      _estimate(discretisation),
      _estimate(first + jnp.sum(score, 1) + jnp.sum(discretisation, 1)))


class _Levels(NamedTuple):
  """The range of noise levels, and the half log-SNRs of the grid, increasing, (m,), or None."""

  rho_min: float
  rho_max: float
  nodes: np.ndarray | None


def _levels(grid: Grid | None, path: Path, rho_min: float, rho_max: float) -> _Levels:
  """The range of a grid's positive levels, or the given one; at most up to the path's end."""
  if grid is None:
    return _Levels(*prior.range_on_path(path, rho_min, rho_max), nodes=None)
  if not callable(grid):
    raise ValueError(f"grid must be a samplers.Grid such as samplers.karras(40), got {grid!r}")
  rho = levels_of(grid, path)
  rho = rho[rho > 0.0]
  if len(rho) < 2 or not np.isfinite(rho[0]) or not np.all(np.diff(rho) < 0.0):
    raise ValueError("grid must have two or more positive levels that fall, the first finite, "
                     f"got rho={rho[:3]}…")
  return _Levels(*prior.range_on_path(path, float(rho[-1]), float(rho[0])), nodes=-np.log(rho))


class _Draw(NamedTuple):
  """One evaluation of the integrands: a key, the index of a group of examples, and a level ℓ."""

  key: jax.Array
  group: jax.Array
  ell: jax.Array


def _draws(
    key_u: jax.Array, key_noise: jax.Array, shape: tuple[int, int, int], low: float, width: float,
    dtype: jnp.dtype,
) -> _Draw:
  """Stratified levels for `shape` = (repeats, bins, draws_per_bin), flattened."""
  repeats, bins, draws_per_bin = shape
  stratum = jnp.arange(bins * draws_per_bin, dtype=dtype).reshape(1, bins, draws_per_bin)
  u = jnp.broadcast_to(stratum, shape) + jax.random.uniform(key_u, shape, dtype)
  ells = low + width / draws_per_bin * u
  groups = jnp.broadcast_to(jnp.arange(repeats)[:, None, None], shape)
  return _Draw(jax.random.split(key_noise, ells.size), groups.ravel(), ells.ravel())


def _integrands(
    groups: jax.Array, at: Callable[[jax.Array, jax.Array], jax.Array],
    exact: Mixture | Empirical | None, nodes: np.ndarray | None,
) -> Callable[[_Draw], tuple[jax.Array, jax.Array]]:
  """A function of a draw: the integrands of score and discretisation, means over one group.

  Args:
    groups: the examples, (repeats, n/repeats, *shape).
    at: (x at unit scale, ell) → D_θ. exact, nodes: as above.
  """
  axes, d = tuple(range(1, groups.ndim - 1)), groups[0, 0].size
  ell_nodes = None if nodes is None else jnp.asarray(nodes, groups.dtype)
  normal = lambda key: jax.random.normal(key, groups.shape[1:], groups.dtype)

  def integrands(draw: _Draw) -> tuple[jax.Array, jax.Array]:
    key_eps, key_back = jax.random.split(draw.key)
    ell = draw.ell
    x_0, eps, rho = groups[draw.group], normal(key_eps), jnp.exp(-ell)
    frame, z = predictions.unit_frame(ell), x_0 + rho * eps
    denoised = at(frame.alpha * z, ell)
    if exact is None:
      target, constant = x_0, d + control_variate(eps, ell, axes)
    else:
      target, constant = exact.denoise(frame.alpha * z, frame.alpha, frame.sigma), 0.0
    score = jnp.sum((target - denoised) ** 2, axes) / rho**2 - constant
    if ell_nodes is None:
      return jnp.mean(score), jnp.zeros_like(ell)
    i = jnp.searchsorted(ell_nodes, ell, side="right") - 1
    ell_i = ell_nodes[jnp.clip(i, 0, len(ell_nodes) - 2)]
    # From z to the node, by the forward kernel: z_i = z + √(ρ_i² − ρ²) ξ.
    z_i = z + jnp.sqrt(jnp.maximum(jnp.exp(-2.0 * ell_i) - rho**2, 0.0)) * normal(key_back)
    at_node = at(predictions.unit_frame(ell_i).alpha * z_i, ell_i)
    # ‖target − D_i‖² − ‖target − D‖², written without cancellation.
    added = jnp.sum((denoised - at_node) * (2.0 * target - denoised - at_node), axes)
    return jnp.mean(score), jnp.mean(added) / rho**2

  return integrands


def _prior_term(
    rho_max: float, exact: Mixture | Empirical | None, moments: prior.Moments | None
) -> Callable[[tuple[jax.Array, jax.Array]], jax.Array]:
  """A function of (key, one group of examples): the term of the noisy end, a mean over the group.

  With `exact` it is E[log p(z) − log prior(z)], else E[−log prior(z)], averaged over the noise in
  closed form.
  """
  def term(draw):
    key, x_0 = draw
    if exact is None:
      return -jnp.mean(prior.log_prob(x_0, rho_max, moments, 1, extra=rho_max**2))
    frame = predictions.unit_frame(jnp.asarray(-math.log(rho_max), x_0.dtype))
    z = x_0 + rho_max * jax.random.normal(key, x_0.shape, x_0.dtype)
    # The density of z: that of α z, times α^d.
    log_p = (exact.log_prob(frame.alpha * z, frame.alpha, frame.sigma)
             + x_0[0].size * jnp.log(frame.alpha))
    return jnp.mean(log_p - prior.log_prob(z, rho_max, moments, 1))

  return term


def _estimate(groups: jax.Array) -> Estimate:
  """Mean and standard error over the groups, the first axis."""
  return Estimate(
      jnp.mean(groups, 0), jnp.std(groups, 0, ddof=1) / math.sqrt(len(groups)))
