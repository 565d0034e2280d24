"""A path from a user's own forward SDE dx = f(t) x dt + g(t) dW (eqs. 3, 16), integrated.

  α(t) = exp ∫f du,   ρ²(t) = σ²/α² = ∫ g²/α² du,   both from t_min, where the data are clean.

The integrals are made once, in float64 on the host, as polynomials on equal panels. What is stored
is the integral divided by t − t_min: near the clean end σ² ≈ g²(t − t_min) keeps its full relative
precision in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from langevin_jax.paths.host import constant, is_traced, on_host
from langevin_jax.paths.path import Function, Path, from_coefficients, of_floats

_DEGREE = 15
_LARGE = 1e30
_NODES = chebyshev.chebpts1(_DEGREE + 1)
_FIT = np.linalg.inv(chebyshev.chebvander(_NODES, _DEGREE))


def from_sde(f: Function, g: Function, *, t_min: float, t_max: float, panels: int = 256) -> Path:
  """The path whose forward SDE is dx = f(t) x dt + g(t) dW, with clean data at `t_min`.

  Args:
    f: drift coefficient, scalar → scalar, finite and smooth on [t_min, t_max]. Not a function of
      traced values: a learned schedule is α and σ, by `from_coefficients`.
    g: diffusion, scalar → scalar, positive inside the range.
    t_min: the clean end: α = 1 and σ = 0 there.
    t_max: the noisy end. A drift that diverges (rectified flow at 1) must stop short of it.
    panels: how many polynomials of degree 15 the range is cut into.

  Raises:
    ValueError: an empty range, values that are not finite, or a function too rough for `panels`.
  """
  if not t_min < t_max:
    raise ValueError(f"t_min must lie below t_max, got t_min={t_min}, t_max={t_max}")
  f, g = of_floats(f), of_floats(g)
  width = (t_max - t_min) / panels
  elapsed = width * (np.arange(panels)[:, None] + 0.5 * (_NODES + 1.0))
  drift, diffusion = (
      on_host(jax.vmap(jax.vmap(lambda t, h=h: jnp.asarray(h(t), float))), t_min + elapsed)
      for h in (f, g))
  if is_traced((drift, diffusion)):
    raise ValueError("f and g must not depend on traced values: the SDE is integrated before the "
                     "program runs; give a learned schedule to from_coefficients as alpha, sigma")
  for name, values in (("f", drift), ("g", diffusion)):
    if not np.all(np.isfinite(values)):
      bad = t_min + elapsed[~np.isfinite(values)][0]
      raise ValueError(f"{name}(t) must be finite on [{t_min}, {t_max}], it is not at t={bad:.6g}")
  log_alpha = _integral(drift, width, "f")
  rho_squared = _integral(diffusion**2 * np.exp(-2.0 * log_alpha), width, "g²/α²")

  def piecewise(values: np.ndarray) -> Function:
    """values/(t − t_min) as panel polynomials; times (t − t_min) on the way out."""
    table = (values / elapsed) @ _FIT.T

    def function(t):
      past = t - t_min
      panel = jnp.clip(jnp.floor(past / width), 0, panels - 1)
      coefficients = constant(table, past.dtype)[panel.astype(int)]
      return past * _clenshaw(coefficients, 2.0 * (past / width - panel) - 1.0)

    return lambda t: function(jnp.asarray(t, jnp.result_type(t, float)))

  log_alpha_of = piecewise(log_alpha)
  alpha = lambda t: jnp.exp(log_alpha_of(t))
  if rho_squared.max() < _LARGE:
    rho_squared_of = piecewise(rho_squared)
    sigma = lambda t: alpha(t) * jnp.sqrt(rho_squared_of(t))
    half_log_snr = lambda t: -0.5 * jnp.log(rho_squared_of(t))
  else:
    # σ²/α² has no room in float32: each panel keeps its size apart, as a logarithm.
    size = np.log(rho_squared.max(1))
    share_of = piecewise(rho_squared / np.exp(size)[:, None])

    def log_rho(t):
      panel = jnp.clip(jnp.floor((t - t_min) / width), 0, panels - 1).astype(int)
      return 0.5 * (jnp.log(share_of(t)) + constant(size, t.dtype)[panel])

    sigma = of_floats(lambda t: jnp.exp(log_alpha_of(t) + log_rho(t)))
    half_log_snr = lambda t: -log_rho(t)
  path = from_coefficients(
      alpha, sigma, t_min=t_min, t_max=t_max, half_log_snr=half_log_snr, drift=f, diffusion=g)
  # The SDE itself says what the derivatives are; those of a polynomial lose digits near t_min.
  return path._replace(
      alpha_dot=lambda t: f(t) * alpha(t),
      sigma_dot=lambda t: f(t) * sigma(t) + g(t) ** 2 / (2.0 * sigma(t)))


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
  b_1 = b_2 = jnp.zeros_like(x)
  for c in coefficients[:0:-1]:
    b_1, b_2 = c + 2.0 * x * b_1 - b_2, b_1
  return coefficients[0] + x * b_1 - b_2
