"""A path from a table of levels: DDPM's betas, their zero-terminal-SNR form, or any α and σ.

Between two times of the table both ℓ and log √(α² + σ²) are linear in t. So a variance-preserving
table gives a variance-preserving path, and t(ℓ) has a closed form. Exceptions:

| where | interpolated linearly instead |
|---|---|
| α is the same number at all times | ℓ alone; α stays that number |
| the segment next to a clean end, ℓ = ∞ | σ/α |
| the segment next to a noisy end, ℓ = −∞ | α/σ |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax._values import is_traced
from langevin_jax.paths._host import constant
from langevin_jax.paths.path import Path, as_float, from_coefficients

__all__ = ["from_table"]


def from_table(
    times: np.ndarray, *, alpha: np.ndarray | None = None, sigma: np.ndarray | None = None,
    betas: np.ndarray | None = None, zero_terminal_snr: bool = False,
) -> Path:
  """A path through the levels of a table, exact at its times.

  Args:
    times: (n,), n ≥ 2, increasing: the path's own time, from `times[0]` to `times[-1]`.
    alpha, sigma: (n,), signal scale and noise standard deviation at the times. Without `alpha`,
      α = 1. σ may be 0 at the first time and α at the last, if n > 2.
    betas: (n,), instead of both: the variance that DDPM adds in the step to each time,
      α² = ∏(1 − β), σ² = 1 − α² (Ho et al. 2020, eq. 4).
    zero_terminal_snr: shift and scale the α of `betas` so that the last is 0 and the first is
      unchanged (Lin et al. 2024, Algorithm 1).

  Returns:
    A path on [times[0], times[-1]]. Times and levels outside the table are those of its nearer end.

  Raises:
    ValueError: neither betas nor sigma, or both; arrays of other shapes, or traced; times that do
      not increase; betas outside (0, 1); or α/σ that does not fall strictly.
  """
  times = _column("times", times, None)
  if not np.all(np.diff(times) > 0.0):
    raise ValueError("times must rise strictly")
  if sigma is not None and betas is None:
    if zero_terminal_snr:
      raise ValueError("zero_terminal_snr needs betas: rescale your own alpha and sigma")
    sigma = _column("sigma", sigma, len(times))
    alpha = np.ones_like(sigma) if alpha is None else _column("alpha", alpha, len(times))
  elif betas is not None and sigma is None and alpha is None:
    alpha, sigma = _of_betas(_column("betas", betas, len(times)), zero_terminal_snr)
  else:
    raise ValueError("give from_table either betas, or sigma with or without alpha")
  if not (np.all(alpha >= 0.0) and np.all(sigma >= 0.0)):
    raise ValueError("alpha and sigma must be >= 0")
  with np.errstate(divide="ignore"):
    ell = np.log(alpha) - np.log(sigma)
  finite = np.isfinite(ell)
  # A comparison, because a difference would be ∞ − ∞ at an infinite end.
  if not (np.all(ell[1:] < ell[:-1]) and np.all(finite[1:-1]) and finite.any()):
    raise ValueError(
        "alpha/sigma must fall strictly with the times, be finite but at the first, and positive "
        "but at the last, with a level that is neither")
  table = _Table.from_levels(
      times, ell, np.hypot(alpha, sigma), alpha[0] if np.ptp(alpha) == 0.0 else None)
  return from_coefficients(
      table.alpha, table.sigma, t_min=times[0], t_max=times[-1], half_log_snr=table.half_log_snr,
      time=table.time, diffusion=table.diffusion)


class _Place(NamedTuple):
  """A point of the table: segment `i` and the fraction of the segment that lies before it."""

  i: jax.Array
  fraction: jax.Array


class _Table(NamedTuple):
  """The interpolated table; its methods are the functions of the path.

  Attributes:
    times: (n,). ell: (n,), half log-SNRs, strictly falling; the first and last may be infinite.
    line: (n,), `ell` with finite values in place of infinite ones. These are not interpolated.
    log_scale: (n,), log √(α² + σ²).
    constant_alpha: α, if it is the same at all times.
    rho_next, ratio_before: σ/α at the second time, α/σ at the second last.
  """

  times: np.ndarray
  ell: np.ndarray
  line: np.ndarray
  log_scale: np.ndarray
  constant_alpha: float | None
  rho_next: float
  ratio_before: float

  @classmethod
  def from_levels(cls, times, ell, scale, constant_alpha):
    line = np.where(np.isfinite(ell), ell, np.where(ell > 0.0, ell[1] + 1.0, ell[-2] - 1.0))
    return cls(times, ell, line, np.log(scale), constant_alpha, np.exp(-line[1]), np.exp(line[-2]))

  def alpha(self, t):
    if self.constant_alpha is not None:
      return jnp.full_like(as_float(t), self.constant_alpha)
    p, q = self._pair(t)
    return self._size(t) * p / jnp.hypot(p, q)

  def sigma(self, t):
    p, q = self._pair(t)
    if self.constant_alpha is not None:
      return self.constant_alpha * q / p
    return self._size(t) * q / jnp.hypot(p, q)

  def half_log_snr(self, t):
    place = self._place(t)
    p, q = self._pair(t)
    infinite = self._at_clean(place.i) | self._at_noisy(place.i)
    return jnp.where(infinite, jnp.log(p) - jnp.log(q), self._between(self.line, place))

  def time(self, half_log_snr):
    value = jnp.clip(as_float(half_log_snr), self.ell[-1], self.ell[0])
    # Next to an infinite level, any ℓ beyond the finite one lies in the last segment.
    i, low, high = self._segment(-value, -self.line)
    w = (-value - low) / (high - low)
    w = jnp.where(self._at_clean(i), jnp.exp(-value) / self.rho_next, w)
    w = jnp.where(self._at_noisy(i), 1.0 - jnp.exp(value) / self.ratio_before, w)
    return self._between(self.times, _Place(i, w))

  def diffusion(self, t):
    """g = √(2σ² (q̇/q − ṗ/p)), from the derivatives of the pair (p, q)."""
    t = as_float(t)
    (p, q), (p_dot, q_dot) = jax.jvp(self._pair, (t,), (jnp.ones_like(t),))
    level = (self._size(t) / jnp.hypot(p, q) if self.constant_alpha is None
             else self.constant_alpha / p)
    return level * jnp.sqrt(2.0 * q * (q_dot - q * p_dot / p))

  def _pair(self, t):
    """(p, q) with p/q = α/σ: (1, σ/α), or (α/σ, 1) next to a noisy end."""
    place = self._place(t)
    i, w = place
    rho = jnp.where(
        self._at_clean(i), w * self.rho_next, jnp.exp(-self._between(self.line, place)))
    return (jnp.where(self._at_noisy(i), (1.0 - w) * self.ratio_before, 1.0),
            jnp.where(self._at_noisy(i), 1.0, rho))

  def _size(self, t):
    """√(α² + σ²)."""
    return jnp.exp(self._between(self.log_scale, self._place(t)))

  def _at_clean(self, i):
    return (self.ell[0] == np.inf) & (i == 0)

  def _at_noisy(self, i):
    return (self.ell[-1] == -np.inf) & (i == len(self.times) - 2)

  def _place(self, t) -> _Place:
    t = jnp.clip(as_float(t), self.times[0], self.times[-1])
    i, low, high = self._segment(t, self.times)
    return _Place(i, (t - low) / (high - low))

  def _segment(self, value, knots):
    """(i, knots[i], knots[i + 1]) for the segment of increasing `knots` that holds `value`."""
    knots = constant(knots, value.dtype)
    i = jnp.clip(jnp.searchsorted(knots, value, side="right") - 1, 0, len(self.times) - 2)
    return i, knots[i], knots[i + 1]

  def _between(self, values, place: _Place):
    """Linear interpolation of `values`, (n,)."""
    i, w = place
    values = constant(values, w.dtype)
    return values[i] + w * (values[i + 1] - values[i])


def _of_betas(betas: np.ndarray, zero_terminal_snr: bool) -> tuple[np.ndarray, np.ndarray]:
  """DDPM's (α, σ). A last β of 1 means that the table has zero terminal SNR already."""
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
  """`values` as a float64 array of shape (n,), checked."""
  if is_traced(values):
    raise ValueError(f"{name} must not be traced: a table is read on the host; give a learned "
                     "schedule to from_coefficients as alpha, sigma")
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) < 2 or (n is not None and len(values) != n):
    want = "(n,) with n >= 2" if n is None else f"({n},), that of times"
    raise ValueError(f"{name} must have shape {want}, got {values.shape}")
  if not np.all(np.isfinite(values)):
    raise ValueError(f"{name} must be finite")
  return values
