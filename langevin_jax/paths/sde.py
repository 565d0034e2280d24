"""A path from a user's forward SDE dx = f(t) x dt + g(t) dW (paper, eqs. 3, 16), integrated.

  α(t) = exp ∫f du,   ρ²(t) = σ²/α² = ∫ g²/α² du,   both integrals from t_min, where data are clean.

The integrals are computed once, in float64 on the host, as polynomials on equal panels of
[t_min, t_max]. A polynomial stores its integral divided by t − t_min. Near the clean end
σ² ≈ g² (t − t_min), so the quotient keeps its full relative precision in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from langevin_jax._values import in_jax, is_traced, number
from langevin_jax.paths._host import constant, on_host
from langevin_jax.paths.path import (
    Function,
    Path,
    UserFunction,
    as_float,
    from_coefficients,
    of_floats,
)

__all__ = ["from_sde"]

_DEGREE = 15
_LARGE = 1e30
_NODES = chebyshev.chebpts1(_DEGREE + 1)
_FIT = np.linalg.inv(chebyshev.chebvander(_NODES, _DEGREE))


def from_sde(
    f: UserFunction, g: UserFunction, *, t_min: float, t_max: float, panels: int = 256
) -> Path:
  """The path whose forward SDE is dx = f(t) x dt + g(t) dW (paper, eqs. 3, 16).

  Args:
    f: drift coefficient, scalar → scalar, finite and smooth on [t_min, t_max]. It must not depend
      on traced values; give a learned schedule to `from_coefficients` instead.
    g: diffusion coefficient, scalar → scalar, positive inside the range.
    t_min: the clean end, where α = 1 and σ = 0.
    t_max: the noisy end. Choose it below a time at which f diverges (1 for rectified flow).
    panels: number of panels, each with a polynomial of degree 15.

  Returns:
    The path.

  Raises:
    ValueError: an empty or traced range, values that are not finite, or a function that is not
      smooth enough for `panels` or not written in `jax.numpy`.
  """
  t_min, t_max = number("t_min", t_min), number("t_max", t_max)
  if not t_min < t_max:
    raise ValueError(f"t_min must lie below t_max, got t_min={t_min}, t_max={t_max}")
  f, g = of_floats(in_jax("f", f)), of_floats(in_jax("g", g))
  grid = _Panels(t_min, (t_max - t_min) / panels, panels)
  drift, diffusion = (
      on_host(jax.vmap(jax.vmap(lambda t, h=h: jnp.asarray(h(t), float))), t_min + grid.elapsed())
      for h in (f, g))
  if is_traced((drift, diffusion)):
    raise ValueError("f and g must not depend on traced values: the SDE is integrated before the "
                     "program runs; give a learned schedule to from_coefficients as alpha, sigma")
  for name, values in (("f", drift), ("g", diffusion)):
    if not np.all(np.isfinite(values)):
      bad = t_min + grid.elapsed()[~np.isfinite(values)][0]
      raise ValueError(f"{name}(t) must be finite on [{t_min}, {t_max}], it is not at t={bad:.6g}")
  log_alpha = _integral(drift, grid.width, "f")
  rho_squared = _integral(diffusion**2 * np.exp(-2.0 * log_alpha), grid.width, "g²/α²")

  log_alpha_of = grid.interpolate(log_alpha)
  alpha = lambda t: jnp.exp(log_alpha_of(t))
  if rho_squared.max() < _LARGE:
    rho_squared_of = grid.interpolate(rho_squared)
    sigma = lambda t: alpha(t) * jnp.sqrt(rho_squared_of(t))
    half_log_snr = lambda t: -0.5 * jnp.log(rho_squared_of(t))
  else:
    log_rho = grid.interpolate_log_rho(rho_squared)
    sigma = of_floats(lambda t: jnp.exp(log_alpha_of(t) + log_rho(t)))
    half_log_snr = lambda t: -log_rho(t)
  path = from_coefficients(
      alpha, sigma, t_min=t_min, t_max=t_max, half_log_snr=half_log_snr, drift=f, diffusion=g)
  # Derivatives from f and g; those of the polynomials lose digits near t_min.
  return path._replace(
      alpha_dot=lambda t: f(t) * alpha(t),
      sigma_dot=lambda t: f(t) * sigma(t) + g(t) ** 2 / (2.0 * sigma(t)))


class _Panels(NamedTuple):
  """Equal panels of [t_min, t_max], each with the 16 Chebyshev nodes of one polynomial."""

  t_min: float
  width: float
  panels: int

  def elapsed(self) -> np.ndarray:
    """t − t_min at the nodes, (panels, 16)."""
    return self.width * (np.arange(self.panels)[:, None] + 0.5 * (_NODES + 1.0))

  def locate(self, t: jax.Array) -> jax.Array:
    """The panel that holds t, a whole number in t's own dtype."""
    return jnp.clip(jnp.floor((t - self.t_min) / self.width), 0, self.panels - 1)

  def interpolate(self, values: np.ndarray) -> Function:
    """A function of time from its values at the nodes, (panels, 16), that vanishes at t_min."""
    table = (values / self.elapsed()) @ _FIT.T

    def function(t):
      t = as_float(t)
      past, panel = t - self.t_min, self.locate(t)
      coefficients = constant(table, past.dtype)[panel.astype(int)]
      return past * _clenshaw(coefficients, 2.0 * (past / self.width - panel) - 1.0)

    return function

  def interpolate_log_rho(self, rho_squared: np.ndarray) -> Function:
    """log ρ(t) from ρ² at the nodes, (panels, 16), where ρ² would overflow float32.

    Each panel stores the logarithm of its largest ρ², and a polynomial of the ratio to it.
    """
    log_largest = np.log(rho_squared.max(1))
    ratio_of = self.interpolate(rho_squared / np.exp(log_largest)[:, None])

    def log_rho(t):
      panel = self.locate(t).astype(int)
      return 0.5 * (jnp.log(ratio_of(t)) + constant(log_largest, t.dtype)[panel])

    return log_rho


def _integral(values: np.ndarray, width: float, name: str) -> np.ndarray:
  """∫ from t_min at the panel nodes, from the integrand there; both of shape (panels, nodes)."""
  coefficients = values @ _FIT.T
  rough = np.abs(coefficients[:, -2:]).max(1) > 1e-9 * np.abs(coefficients).max(1) + 1e-300
  if rough.any():
    raise ValueError(
        f"{name} is not smooth enough on panel {int(rough.argmax())} of {len(values)}: "
        "raise panels, or keep [t_min, t_max] away from the singularity")
  antiderivative = chebyshev.chebint(coefficients, lbnd=-1, axis=1) * (0.5 * width)
  whole = chebyshev.chebval(1.0, antiderivative.T)
  before = np.concatenate([[0.0], np.cumsum(whole)[:-1]])
  return before[:, None] + chebyshev.chebval(_NODES, antiderivative.T)


def _clenshaw(coefficients: jax.Array, x: jax.Array) -> jax.Array:
  """A Chebyshev series at x ∈ [−1, 1] by Clenshaw's recurrence."""
  b_1 = b_2 = jnp.zeros_like(x)
  for c in coefficients[:0:-1]:
    b_1, b_2 = c + 2.0 * x * b_1 - b_2, b_1
  return coefficients[0] + x * b_1 - b_2
