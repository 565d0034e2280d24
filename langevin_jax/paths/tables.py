"""A path from a table: discrete-time DDPM, its zero-terminal-SNR form, or any list of levels.

Between two times of the table ℓ is linear in t, and so is log √(α² + σ²) (or α stays what it is,
where it is one number). So a variance-preserving table makes a variance-preserving path, and t(ℓ)
is in closed form. Next to an infinite ℓ, σ/α (at a clean end) or α/σ (at a noisy one) is linear.
"""

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.paths.host import constant
from langevin_jax.paths.path import Path, as_float, from_coefficients


def from_table(
    times: np.ndarray, *, alpha: np.ndarray | None = None, sigma: np.ndarray | None = None,
    betas: np.ndarray | None = None, zero_terminal_snr: bool = False,
) -> Path:
  """A path through the levels of a table, exact at its times.

  Args:
    times: (n,), rising, n ≥ 2: the path's own time, from `times[0]` to `times[-1]`.
    alpha, sigma: (n,), signal scale and noise standard deviation at the times. `sigma` alone means
      α = 1. σ may be 0 at the first time and α at the last, if a level between them is finite.
    betas: (n,), instead of both: the variance that DDPM adds in the step to each time,
      α² = ∏(1 − β), σ² = 1 − α² (Ho et al. 2020, eq. 4).
    zero_terminal_snr: shift and scale the α of `betas` so that the last is 0 and the first stays
      (Lin et al. 2024, Algorithm 1).

  Returns:
    A path on [times[0], times[-1]]; other times and levels count as those of the nearer end.

  Raises:
    ValueError: neither betas nor sigma, or both; arrays of other shapes; times that do not rise;
      betas outside (0, 1); or α/σ that does not fall strictly.
  """
  times = _column("times", times, None)
  if not np.all(np.diff(times) > 0.0):
    raise ValueError("times must rise strictly")
  if (betas is None) == (sigma is None) or (betas is not None and alpha is not None):
    raise ValueError("give from_table either betas, or sigma with or without alpha")
  if zero_terminal_snr and betas is None:
    raise ValueError("zero_terminal_snr needs betas: rescale your own alpha and sigma")
  if betas is not None:
    alpha, sigma = _of_betas(_column("betas", betas, len(times)), zero_terminal_snr)
  else:
    sigma = _column("sigma", sigma, len(times))
    alpha = np.ones_like(sigma) if alpha is None else _column("alpha", alpha, len(times))
  if not (np.all(alpha >= 0.0) and np.all(sigma >= 0.0)):
    raise ValueError("alpha and sigma must be >= 0")
  with np.errstate(divide="ignore"):
    ell = np.log(alpha) - np.log(sigma)
  finite = np.isfinite(ell)
  # Compared, not subtracted: ∞ − ∞ would be no number.
  if not (np.all(ell[1:] < ell[:-1]) and np.all(finite[1:-1]) and finite.any()):
    raise ValueError(
        "alpha/sigma must fall strictly with the times, be finite but at the first, and positive "
        "but at the last, with a level that is neither")
  return _through(times, ell, np.hypot(alpha, sigma), alpha[0] if np.ptp(alpha) == 0.0 else None)


def _through(times, ell, scale, constant_alpha: float | None) -> Path:
  last = len(times) - 2
  clean_end, noisy_end = ell[0] == np.inf, ell[-1] == -np.inf
  # Stand-ins of the infinite ends, where the straight line in ℓ is not used.
  line = np.where(np.isfinite(ell), ell, np.where(ell > 0.0, ell[1] + 1.0, ell[-2] - 1.0))
  rho_next, ratio_before = np.exp(-line[1]), np.exp(line[-2])

  def segment(value, knots):
    """The segment that rising `knots` place a value in, the place in it, and where it ends."""
    knots = constant(knots, value.dtype)
    i = jnp.clip(jnp.searchsorted(knots, value, side="right") - 1, 0, last)
    return i, knots[i], knots[i + 1]

  def place(t):
    t = jnp.clip(as_float(t), times[0], times[-1])
    i, low, high = segment(t, times)
    return i, (t - low) / (high - low)

  def between(values, i, w):
    values = constant(values, w.dtype)
    return values[i] + w * (values[i + 1] - values[i])

  at_clean = lambda i: clean_end & (i == 0)
  at_noisy = lambda i: noisy_end & (i == last)

  def pair(t):
    """(p, q) with p/q = α/σ: (1, σ/α), or (α/σ, 1) next to an infinite noise level."""
    i, w = place(t)
    rho = jnp.where(at_clean(i), w * rho_next, jnp.exp(-between(line, i, w)))
    return (jnp.where(at_noisy(i), (1.0 - w) * ratio_before, 1.0),
            jnp.where(at_noisy(i), 1.0, rho))

  def size(t):
    i, w = place(t)
    return jnp.exp(between(np.log(scale), i, w))

  def alpha(t):
    if constant_alpha is not None:
      return jnp.full_like(as_float(t), constant_alpha)
    p, q = pair(t)
    return size(t) * p / jnp.hypot(p, q)

  def sigma(t):
    p, q = pair(t)
    if constant_alpha is not None:
      return constant_alpha * q / p
    return size(t) * q / jnp.hypot(p, q)

  def half_log_snr(t):
    i, w = place(t)
    p, q = pair(t)
    return jnp.where(at_clean(i) | at_noisy(i), jnp.log(p) - jnp.log(q), between(line, i, w))

  def time(half_log_snr):
    value = jnp.clip(as_float(half_log_snr), ell[-1], ell[0])
    i, low, high = segment(-value, -line)
    # Next to an infinite level the stand-in's segment is the right one, however far ℓ is.
    w = (-value - low) / (high - low)
    w = jnp.where(at_clean(i), jnp.exp(-value) / rho_next, w)
    w = jnp.where(at_noisy(i), 1.0 - jnp.exp(value) / ratio_before, w)
    return between(times, i, w)

  def diffusion(t):
    t = as_float(t)
    (p, q), (p_dot, q_dot) = jax.jvp(pair, (t,), (jnp.ones_like(t),))
    level = size(t) / jnp.hypot(p, q) if constant_alpha is None else constant_alpha / p
    return level * jnp.sqrt(2.0 * q * (q_dot - q * p_dot / p))

  return from_coefficients(
      alpha, sigma, t_min=times[0], t_max=times[-1], half_log_snr=half_log_snr, time=time,
      diffusion=diffusion)


def _of_betas(betas: np.ndarray, zero_terminal_snr: bool) -> tuple[np.ndarray, np.ndarray]:
  """DDPM's (α, σ); a last β of 1 is a table rescaled already."""
  if not (np.all(betas > 0.0) and np.all(betas <= 1.0) and np.all(betas[:-1] < 1.0)):
    raise ValueError("betas must lie in (0, 1), the last may be 1")
  with np.errstate(divide="ignore"):
    log_alpha = 0.5 * np.cumsum(np.log1p(-betas))
  alpha = np.exp(log_alpha)
  if not zero_terminal_snr:
    return alpha, np.sqrt(-np.expm1(2.0 * log_alpha))
  alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
  return alpha, np.sqrt((1.0 - alpha) * (1.0 + alpha))


def _column(name: str, values: np.ndarray, n: int | None) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) < 2 or (n is not None and len(values) != n):
    want = "(n,) with n >= 2" if n is None else f"({n},), that of times"
    raise ValueError(f"{name} must have shape {want}, got {values.shape}")
  if not np.all(np.isfinite(values)):
    raise ValueError(f"{name} must be finite")
  return values
