"""Langevin dynamics as a forward plus a reverse process (paper, §3.2, eqs. 4–8, Tables 3–4).

In continuous time, with a Langevin clock H(t) and the forward SDE dx = f x dt + g dW
(theory.md#split),

  Langevin  dx = H s dτ + √(2H) dW          = forward  dx = f x dτ + g dW
                                            + reverse  dx = (−f x + H s) dτ + √(2H − g²) dW,

which needs 2H ≥ g². With H = (1 + η²)/2·g² the reverse noise is η g. η = 0 is the probability-flow
ODE and η = 1 Anderson's SDE. All η ≥ 0 have the same marginals.

At finite size (theory.md#step), from (α, σ) to (α′, σ′), h = ℓ′ − ℓ, with a budget Λ ≥ 0 and D
held fixed,

  STEP(h, Λ):  x′ = α′ D + σ′ e^{−Λ} ε̂ + σ′ √(1 − e^{−2Λ}) ξ,   ε̂ = (x − α D)/σ

| h, Λ | |
|---|---|
| h < 0, Λ = −h | the forward kernel |
| h = 0, Λ > 0 | a Langevin step |
| h > 0, Λ = 0 | DDIM |
| h > 0, Λ = h | DDPM |
| h > 0, Λ = η²h | every other η |

With one D, STEP(h₁, Λ₁) followed by STEP(h₂, Λ₂) is STEP(h₁ + h₂, Λ₁ + Λ₂) exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _values
from langevin_jax.paths import Path, check_path, on_host

__all__ = [
    "SDE", "Split", "Stochasticity", "amplitude", "checked", "is_zero", "namespace", "split",
    "step", "weights",
]

Stochasticity = float | jax.Array | Callable[[jax.Array], jax.Array]


class SDE(NamedTuple):
  """dx = drift(x, t, score) dτ + diffusion(t) dW for one example x at the scalar path time t.

  τ increases for all three processes of a split. The reverse process lowers the path time by as
  much, dt = −dτ (paper, eq. 6).

  Attributes:
    drift: (x, t, score) → array of x's shape, where `score` is the value of ∇ log pₜ at x.
    diffusion: t → scalar.
  """

  drift: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
  diffusion: Callable[[jax.Array], jax.Array]


class Split(NamedTuple):
  """langevin = forward + reverse: the drifts add up, and the noise variances do."""

  langevin: SDE
  forward: SDE
  reverse: SDE


def split(
    path: Path, stochasticity: Stochasticity = 0.0, *,
    clock: Callable[[jax.Array], jax.Array] | None = None,
) -> Split:
  """Splits Langevin dynamics into forward and reverse (paper, eqs. 4, 5, A.2, Tables 3–4).

  Args:
    path: the forward process.
    stochasticity: η ≥ 0 of the reverse process, or a function η(ℓ) of the half log-SNR. In Table 4
      0 is the ODE and 1 the SDE.
    clock: the Langevin clock H(t), instead of a stochasticity: η² = 2H/g² − 1.

  Both may be traced or close over traced values; then their range is not checked.

  Returns:
    The three processes.

  Raises:
    ValueError: η < 0, or a clock below g²/2: the reverse noise variance 2H − g² would be negative.
  """
  check_path(path)
  if clock is None:
    eta = checked(stochasticity, path)
    noise = lambda t: eta(path.half_log_snr(t)) * path.diffusion(t)
    h = lambda t: 0.5 * (path.diffusion(t) ** 2 + noise(t) ** 2)
  else:
    if not is_zero(stochasticity):
      raise ValueError("give split either a stochasticity or a clock: each determines the other")
    _check_clock(clock, path)
    h = clock
    noise = lambda t: jnp.sqrt(jnp.maximum(2.0 * h(t) - path.diffusion(t) ** 2, 0.0))

  return Split(
      langevin=SDE(lambda x, t, score: h(t) * score, lambda t: jnp.sqrt(2.0 * h(t))),
      forward=SDE(lambda x, t, score: path.drift(t) * x, path.diffusion),
      reverse=SDE(lambda x, t, score: -path.drift(t) * x + h(t) * score, noise))


def _check_clock(clock: Callable[[jax.Array], jax.Array], path: Path) -> None:
  """ValueError if the clock H lies below g²/2 at one of 256 times inside the path's range."""
  times = path.t_min + (path.t_max - path.t_min) * (np.arange(256) + 0.5) / 256
  clock = _values.in_jax("clock", clock)
  given, least = on_host(
      jax.vmap(lambda t: (jnp.asarray(clock(t), float), 0.5 * path.diffusion(t) ** 2)), times)
  # The margin allows for the rounding of a clock that is exactly g²/2 (the ODE).
  low = given < least * (1.0 - 1e-6)
  if not _values.is_traced(low) and low.any():
    i = int(low.argmax())
    raise ValueError(
        f"clock must be at least g²/2 = {least[i]:.4g} at t = {times[i]:.4g}, got "
        f"{given[i]:.4g}: the reverse noise variance 2·clock − g² would be negative")


def checked(stochasticity: Stochasticity, path: Path) -> Callable[[jax.Array], jax.Array]:
  """η as a function of ℓ, checked to be non-negative. Traced values are not checked.

  Args:
    stochasticity: a number, a scalar array, or a function of ℓ.
    path: a function η(ℓ) is checked at 256 levels of this path within |ℓ| ≤ 12.

  Raises:
    ValueError: a negative number, a function that is negative at a level of the path, or neither
      a scalar nor a function.
  """
  check_path(path)
  if callable(stochasticity):
    ends = on_host(jax.vmap(path.half_log_snr), np.array([path.t_max, path.t_min]))
    ends = (-12.0, 12.0) if _values.is_traced(ends) else ends
    ells = np.linspace(max(ends[0], -12.0), min(ends[1], 12.0), 256)
    eta = _values.in_jax("stochasticity", stochasticity)
    etas = on_host(jax.vmap(lambda ell: jnp.asarray(eta(ell), float)), ells)
    if not _values.is_traced(etas) and not np.all(etas >= 0.0):
      i = int(np.argmin(etas >= 0.0))
      raise ValueError(
          f"stochasticity must be >= 0, got {etas[i]:.4g} at half log-SNR {ells[i]:.4g}")
    return stochasticity
  if isinstance(stochasticity, (str, bytes)) or np.ndim(stochasticity):
    raise ValueError(
        f"stochasticity must be a number or a function of the half log-SNR, got {stochasticity!r}")
  known = _values.concrete(stochasticity)
  if known is not None and not known >= 0.0:
    raise ValueError(f"stochasticity must be >= 0, got {stochasticity}")
  return lambda ell: jnp.asarray(stochasticity)


def is_zero(stochasticity: Stochasticity) -> bool:
  """Whether η is the Python number 0, so that a sampler draws no noise at all."""
  return isinstance(stochasticity, (int, float)) and stochasticity == 0


def weights(alpha_t, sigma_t, alpha_s, sigma_s, budget, root=None):
  """STEP as three coefficients, x′ = a x + b D + c ξ, finite at both ends of a path.

    a = e^{−Λ} σ′/σ,   b = α′ − a α,   c = σ′ √(1 − e^{−2Λ})

  At σ = 0 the state is αD and a = 0. At σ′ = 0 the step returns α′D. α = 0 needs no case.

  Args:
    alpha_t, sigma_t: (α, σ) at the start. alpha_s, sigma_s: (α′, σ′) at the end.
    budget: Λ ≥ 0. root: √Λ, as in `amplitude`.
      All are scalars or arrays of one shape, of NumPy or JAX.

  Returns:
    (a, b, c), NumPy arrays if all arguments are.
  """
  xp = namespace(alpha_t, sigma_t, alpha_s, sigma_s, budget, root)
  noisy = sigma_t > 0.0
  a = xp.where(noisy, xp.exp(-budget) * sigma_s / xp.where(noisy, sigma_t, 1.0), 0.0)
  return a, alpha_s - a * alpha_t, sigma_s * amplitude(budget, root)


def amplitude(budget, root=None):
  """√(1 − e^{−2Λ}), the standard deviation of STEP's noise in units of σ′.

  It has no derivative in Λ at 0, where it grows as √(2Λ). It has one in η, because √Λ = η √h. Given
  `root` = √Λ, it is computed as √Λ √((1 − e^{−2Λ})/Λ), whose second factor is smooth.
  """
  xp = namespace(budget, root)
  if root is None:
    return xp.sqrt(-xp.expm1(-2.0 * budget))
  small = budget < 1e-4
  away = xp.where(small, 1.0, budget)
  return root * xp.sqrt(xp.where(small, 2.0 - 2.0 * budget, -xp.expm1(-2.0 * away) / away))


def namespace(*values: Any) -> Any:
  """`jax.numpy` if a value is a JAX array, else `numpy`, so that plans are computed on the host."""
  return jnp if any(isinstance(v, jax.Array) for v in jax.tree.leaves(values)) else np


def step(
    key: jax.Array, x_t: jax.Array, denoised: jax.Array,
    alpha_t: jax.Array | float, sigma_t: jax.Array | float,
    alpha_s: jax.Array | float, sigma_s: jax.Array | float, budget: jax.Array | float,
) -> jax.Array:
  """STEP(h, Λ) of one example from (α, σ) to (α′, σ′); the equation is that of the module.

  Args:
    key: consumed.
    x_t: the state at (alpha_t, sigma_t), any shape.
    denoised: D(x_t), in the shape of x_t.
    alpha_t, sigma_t, alpha_s, sigma_s: scalars. Either σ or either α may be 0.
    budget: Λ ≥ 0. ∞ gives an independent draw around α′D.

  Returns:
    The state at (alpha_s, sigma_s), in the shape of x_t.

  Raises:
    ValueError: a negative budget.
    AssertionError: x_t and denoised differ in shape.
  """
  chex.assert_equal_shape([x_t, denoised])
  known = _values.concrete(budget)
  if known is not None and not np.all(known >= 0.0):
    raise ValueError(f"budget must be >= 0, got {budget}: noise can be added, not taken away")
  numbers = (jnp.asarray(v, x_t.dtype) for v in (alpha_t, sigma_t, alpha_s, sigma_s, budget))
  a, b, c = weights(*numbers)
  return a * x_t + b * denoised + c * jax.random.normal(key, x_t.shape, x_t.dtype)
