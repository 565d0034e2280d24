"""§3.2, eqs. 4–8, Tables 3–4: Langevin dynamics split into a forward and a reverse process.

In continuous time, with a Langevin clock H(t) and the forward SDE dx = f x dt + g dW,

  Langevin  dx = H s dτ + √(2H) dW          = forward  dx = f x dτ + g dW
                                            + reverse  dx = (−f x + H s) dτ + √(2H − g²) dW

which needs 2H ≥ g². With H = (1 + η²)/2·g² the reverse noise is η g: η = 0 is the probability-flow
ODE, η = 1 Anderson's SDE, and every η ≥ 0 has the same marginals.

At finite size (theory.md#step), from (α, σ) to (α′, σ′), h = ℓ′ − ℓ, with a budget Λ and D fixed,

  STEP(h, Λ):  x′ = α′ D + σ′ e^{−Λ} ε̂ + σ′ √(1 − e^{−2Λ}) ξ,   ε̂ = (x − α D)/σ

is the forward kernel (h < 0, Λ = −h), the identity (0, Λ), DDIM (h, 0), DDPM (h, h) and any η
(h, η²h); with one D, STEP(h₁, Λ₁) then STEP(h₂, Λ₂) is STEP(h₁ + h₂, Λ₁ + Λ₂) exactly.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.paths import Path, check_path, is_traced, on_host

Stochasticity = float | jax.Array | Callable[[jax.Array], jax.Array]


class SDE(NamedTuple):
  """dx = drift(x, t, score) dτ + diffusion(t) dW for one example x at scalar path time t.

  `score` is the value s(x, t) of ∇ log pₜ at x, in the shape of x. τ runs forward for every one
  of the three processes; the reverse one moves x along while t falls by dτ (eq. 6).
  """

  drift: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
  diffusion: Callable[[jax.Array], jax.Array]


class Split(NamedTuple):
  """langevin = forward + reverse: drifts add up, and so do noise variances."""

  langevin: SDE
  forward: SDE
  reverse: SDE


def split(
    path: Path, stochasticity: Stochasticity = 0.0, *,
    clock: Callable[[jax.Array], jax.Array] | None = None,
) -> Split:
  """Splits the Langevin dynamics whose reverse part has stochasticity η (Tables 3 and 4).

  Args:
    path: the forward process.
    stochasticity: η ≥ 0, or a callable η(ℓ) of the half log-SNR. 0 is the ODE row, 1 the SDE row.
    clock: the Langevin clock H(t) itself, instead of a stochasticity: η² = 2H/g² − 1.
      Both may be traced, or close over traced values; then their range is not checked.

  Raises:
    ValueError: η < 0, or a clock below g²/2 anywhere: such dynamics inject less noise than the
      forward process does, and no reverse process could make up for it.
  """
  check_path(path)
  if clock is None:
    eta = checked(stochasticity, path)

    def excess(t):
      """η g, the reverse noise amplitude."""
      return eta(path.half_log_snr(t)) * path.diffusion(t)

    clock = lambda t: 0.5 * (path.diffusion(t) ** 2 + excess(t) ** 2)
  else:
    if not is_zero(stochasticity):
      raise ValueError("give split either a stochasticity or a clock: each determines the other")
    inner = path.t_min + (path.t_max - path.t_min) * (np.arange(256) + 0.5) / 256
    given, least = on_host(
        jax.vmap(lambda t: (jnp.asarray(clock(t), float), 0.5 * path.diffusion(t) ** 2)), inner)
    # A clock of exactly g²/2 (the ODE) may round to either side.
    low = given < least * (1.0 - 1e-6)
    if not is_traced(low) and low.any():
      i = int(low.argmax())
      raise ValueError(
          f"clock must be at least g²/2 = {least[i]:.4g} at t = {inner[i]:.4g}, got "
          f"{given[i]:.4g}: the reverse noise variance 2·clock − g² would be negative")
    excess = lambda t: jnp.sqrt(jnp.maximum(2.0 * clock(t) - path.diffusion(t) ** 2, 0.0))

  return Split(
      langevin=SDE(lambda x, t, score: clock(t) * score, lambda t: jnp.sqrt(2.0 * clock(t))),
      forward=SDE(lambda x, t, score: path.drift(t) * x, path.diffusion),
      reverse=SDE(lambda x, t, score: -path.drift(t) * x + clock(t) * score, excess))


def checked(stochasticity: Stochasticity, path: Path) -> Callable[[jax.Array], jax.Array]:
  """η as a function of ℓ, after a check that it is nowhere negative.

  What is traced, or closes over traced values, is taken as it is.

  Raises:
    ValueError: a negative number, a callable that is negative within the path's range, or neither
      a scalar nor a callable.
  """
  check_path(path)
  if callable(stochasticity):
    ends = on_host(jax.vmap(path.half_log_snr), np.array([path.t_max, path.t_min]))
    # Of a traced path the usual levels.
    ends = (-12.0, 12.0) if is_traced(ends) else ends
    ells = np.linspace(max(ends[0], -12.0), min(ends[1], 12.0), 256)
    etas = on_host(jax.vmap(lambda ell: jnp.asarray(stochasticity(ell), float)), ells)
    if not is_traced(etas) and not np.all(etas >= 0.0):
      i = int(np.argmin(etas >= 0.0))
      raise ValueError(
          f"stochasticity must be >= 0, got {etas[i]:.4g} at half log-SNR {ells[i]:.4g}")
    return stochasticity
  if isinstance(stochasticity, (str, bytes)) or np.ndim(stochasticity):
    raise ValueError(
        f"stochasticity must be a number or a function of the half log-SNR, got {stochasticity!r}")
  if not isinstance(stochasticity, jax.core.Tracer) and not np.asarray(stochasticity) >= 0.0:
    raise ValueError(f"stochasticity must be >= 0, got {stochasticity}")
  return lambda ell: jnp.asarray(stochasticity)


def is_zero(stochasticity: Stochasticity) -> bool:
  """Whether η is the number 0, known before anything is traced: then no noise need be drawn."""
  return isinstance(stochasticity, (int, float)) and stochasticity == 0


def weights(alpha_t, sigma_t, alpha_s, sigma_s, budget, root=None):
  """STEP as three numbers: x′ = a x + b D + c ξ, finite at both ends.

    a = e^{−Λ} σ′/σ,   b = α′ − a α,   c = σ′ √(1 − e^{−2Λ})

  From σ = 0 the state is αD and a = 0; to σ′ = 0 the step returns α′D; from α = 0 no case arises.
  `root`, √Λ, is as in `amplitude`.
  """
  xp = namespace(alpha_t, sigma_t, alpha_s, sigma_s, budget, root)
  noisy = sigma_t > 0.0
  a = xp.where(noisy, xp.exp(-budget) * sigma_s / xp.where(noisy, sigma_t, 1.0), 0.0)
  return a, alpha_s - a * alpha_t, sigma_s * amplitude(budget, root)


def amplitude(budget, root=None):
  """√(1 − e^{−2Λ}), the noise of STEP in units of σ′.

  It rises as √(2Λ) and has no derivative in Λ at 0, but it has one in η, for √Λ = η √h. Where
  `root` = √Λ is given, it is evaluated as √Λ √((1 − e^{−2Λ})/Λ), whose second factor is smooth.
  """
  xp = namespace(budget, root)
  if root is None:
    return xp.sqrt(-xp.expm1(-2.0 * budget))
  small = budget < 1e-4
  away = xp.where(small, 1.0, budget)
  return root * xp.sqrt(xp.where(small, 2.0 - 2.0 * budget, -xp.expm1(-2.0 * away) / away))


def namespace(*values):
  """`numpy` where no value is a jax array, else `jax.numpy`: plans are made on the host unless an
  option of theirs is traced."""
  return jnp if any(isinstance(v, jax.Array) for v in jax.tree.leaves(values)) else np


def step(
    key: jax.Array, x_t: jax.Array, denoised: jax.Array,
    alpha_t: jax.Array | float, sigma_t: jax.Array | float,
    alpha_s: jax.Array | float, sigma_s: jax.Array | float, budget: jax.Array | float,
) -> jax.Array:
  """STEP(h, Λ) of one example from (α, σ) to (α′, σ′); see the module's equation.

  Args:
    key: consumed.
    x_t: the state at (alpha_t, sigma_t), any shape; denoised: D(x_t), of that shape.
    alpha_t, sigma_t, alpha_s, sigma_s: scalars. Either σ or either α may be 0.
    budget: Λ ≥ 0, ∞ allowed: a fresh draw around α′D.

  Returns:
    The state at (alpha_s, sigma_s).

  Raises:
    ValueError: a negative budget.
    AssertionError: x_t and denoised differ in shape.
  """
  chex.assert_equal_shape([x_t, denoised])
  if not isinstance(budget, jax.core.Tracer) and not np.all(np.asarray(budget) >= 0.0):
    raise ValueError(f"budget must be >= 0, got {budget}: noise can be added, not taken away")
  numbers = (jnp.asarray(v, x_t.dtype) for v in (alpha_t, sigma_t, alpha_s, sigma_s, budget))
  a, b, c = weights(*numbers)
  return a * x_t + b * denoised + c * jax.random.normal(key, x_t.shape, x_t.dtype)
