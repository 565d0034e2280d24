"""§3.1, Tables 1–2 of the paper: the forward process as a path xₜ = α(t) x₀ + σ(t) ε.

A path is two functions of a scalar time, the signal scale α and the noise standard deviation σ, and
everything else follows from them: the half log signal-to-noise ratio ℓ = log(α/σ), which grows
towards the data; its inverse; and the forward SDE dx = f x dt + g dW with

  f = α̇/α,   g² = 2σσ̇ − 2(α̇/α)σ² = 2σ²|ℓ̇|.

ℓ is the one coordinate in which all paths agree: two paths at the same ℓ hold the same sample up to
scale. Times are scalars and a state is one example of any shape; `jax.vmap` batches at the edge.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax.paths.host import is_traced, on_host

Scalar = jax.Array | float
Function = Callable[[Scalar], jax.Array]


class Path(NamedTuple):
  """A forward process xₜ = α x₀ + σ ε on [t_min, t_max], noise growing with t.

  All functions take and return scalars. `half_log_snr` is ℓ(t) = log(α/σ), `time` its inverse;
  `drift` is f = α̇/α and `diffusion` is g of dx = f x dt + g dW; `alpha_dot` and `sigma_dot` are
  derivatives in t, the coefficients of the velocity α̇ x₀ + σ̇ ε.
  """

  alpha: Function
  sigma: Function
  half_log_snr: Function
  time: Function
  drift: Function
  diffusion: Function
  alpha_dot: Function
  sigma_dot: Function
  t_min: float
  t_max: float


def check_path(path: Path) -> Path:
  """`path` itself, after a check that it is one: a factory in its place is a common slip.

  Raises:
    ValueError: anything but a `Path`.
  """
  if not isinstance(path, Path):
    name = getattr(path, "__name__", None)
    given = f"the function {name}: call it, {name}(...)" if callable(path) and name else repr(path)
    raise ValueError(f"path must be a Path such as paths.vp(), got {given}")
  return path


def as_float(t: Scalar) -> jax.Array:
  """A time as a floating-point array of its own precision (Python numbers: the default one)."""
  return jnp.asarray(t, jnp.result_type(t, float))


def of_floats(function: Function) -> Function:
  """`function` for times of any kind: it sees a float array, and a constant result becomes one."""
  return lambda t: _floating(function(_floating(t)))


def _floating(value: Scalar) -> jax.Array:
  # A Python number stays weakly typed: it follows the precision of what it meets.
  value = jnp.asarray(value)
  return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)


def _derivative(function: Function) -> Function:
  def derivative(t):
    t = as_float(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]

  return derivative


def _inverse(half_log_snr: Function, t_min: float, t_max: float) -> Function:
  """t(ℓ) by bisection of the decreasing ℓ(t), clipped to [t_min, t_max]; dt = (dℓ − ∂ℓ)/ℓ̇(t).

  ∂ℓ is the change of ℓ(t) at fixed t, where it closes over values that are differentiated.
  """

  @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
  def solve(level, ell, constants):
    def halve(_, ends):
      low, high = ends
      middle = 0.5 * (low + high)
      noisier = level(middle, *constants) < ell
      return jnp.where(noisier, low, middle), jnp.where(noisier, middle, high)

    # 100 halvings resolve a float64 t near t_min = 0 to full relative precision.
    ends = jnp.full_like(ell, t_min), jnp.full_like(ell, t_max)
    low, high = jax.lax.fori_loop(0, 100, halve, ends)
    noisy, clean = (level(end, *constants) for end in ends[::-1])
    inside = jnp.where(ell <= noisy, t_max, 0.5 * (low + high))
    return jnp.where(ell >= clean, t_min, inside)

  @solve.defjvp
  def _(level, primals, tangents):
    t = solve(level, *primals)
    _, shift = jax.jvp(lambda constants: level(t, *constants), primals[1:], tangents[1:])
    slope = _derivative(lambda t: level(t, *primals[1]))(t)
    return t, (tangents[0] - shift) / slope

  def time(ell):
    ell = as_float(ell)
    # A new function: what JAX remembers of a known one would outlive the values closed over.
    level, constants = jax.closure_convert(lambda t: half_log_snr(t), ell)
    return solve(level, ell, constants)

  return time


def from_coefficients(
    alpha: Function, sigma: Function, *, t_min: float, t_max: float,
    half_log_snr: Function | None = None, time: Function | None = None,
    drift: Function | None = None, diffusion: Function | None = None,
) -> Path:
  """A path from α(t) and σ(t) alone; f, g, ℓ and its inverse are derived.

  The functions of a path are fixed: numbers made of them are remembered for the path. Where what
  they close over changes, make another path.

  Args:
    alpha: signal scale, scalar → scalar in `jax.numpy`, positive inside the range.
    sigma: noise standard deviation, scalar → scalar, zero only at `t_min`.
    t_min: the clean end, where σ is smallest.
    t_max: the noisy end, where α may be zero.
    half_log_snr, time, drift, diffusion: closed forms that replace the derived ones. ℓ by its own
      formula matters in float32: log α − log σ from rounded α, σ is exact only away from the ends.

  Raises:
    ValueError: the range is empty, or ℓ does not fall strictly from t_min to t_max.
  """
  if not t_min < t_max:
    raise ValueError(f"t_min must lie below t_max, got t_min={t_min}, t_max={t_max}")
  alpha, sigma = of_floats(alpha), of_floats(sigma)
  half_log_snr, time, drift, diffusion = (
      None if f is None else of_floats(f) for f in (half_log_snr, time, drift, diffusion))
  if half_log_snr is None:
    half_log_snr = lambda t: jnp.log(alpha(t)) - jnp.log(sigma(t))
  alpha_dot, sigma_dot = _derivative(alpha), _derivative(sigma)
  if drift is None:
    drift = lambda t: alpha_dot(t) / alpha(t)
  if diffusion is None:
    f = drift
    diffusion = lambda t: jnp.sqrt(2.0 * sigma(t) * (sigma_dot(t) - f(t) * sigma(t)))
  if time is None:
    ells = on_host(jax.vmap(half_log_snr), np.linspace(t_min, t_max, 257))
    # Compared, not subtracted: ∞ − ∞ would only add a warning.
    if not is_traced(ells) and not np.all(ells[1:] < ells[:-1]):
      raise ValueError(
          "alpha/sigma must fall strictly with t: noise grows from t_min to t_max, "
          f"but log(alpha/sigma) does not fall everywhere on [{t_min}, {t_max}]")
    time = _inverse(half_log_snr, t_min, t_max)
  return Path(alpha, sigma, half_log_snr, time, drift, diffusion, alpha_dot, sigma_dot,
              float(t_min), float(t_max))


def corrupt(x_0: jax.Array, eps: jax.Array, t: Scalar, path: Path) -> jax.Array:
  """Exact forward noising of one example: xₜ = α x₀ + σ ε (Table 1), ε ~ N(0, I)."""
  check_path(path)
  return path.alpha(t) * x_0 + path.sigma(t) * eps


def transition(key: jax.Array, x_s: jax.Array, s: Scalar, t: Scalar, path: Path) -> jax.Array:
  """One exact draw of the forward SDE at t ≥ s, given its state at s < t_max. Consumes `key`.

  xₜ = (αₜ/αₛ) xₛ + σₜ √(1 − e^{2(ℓₜ − ℓₛ)}) ξ; from the clean end (σ = 0) it is `corrupt`.
  """
  check_path(path)
  ratio = path.alpha(t) / path.alpha(s)
  h = path.half_log_snr(t) - path.half_log_snr(s)
  return ratio * x_s + path.sigma(t) * jnp.sqrt(-jnp.expm1(2.0 * h)) * jax.random.normal(
      key, x_s.shape, x_s.dtype)


def simulate(key: jax.Array, x_0: jax.Array, times: jax.Array, path: Path) -> jax.Array:
  """A trajectory of the forward SDE (eq. 3) at increasing `times`, exact at every one of them.

  Args:
    key: consumed.
    x_0: one clean example. Where σ(t_min) > 0 it is noised before it is the state at t_min.
    times: shape (n,), increasing, times[0] > t_min.
    path: the forward process.

  Returns:
    The states, shape (n, *x_0.shape): each is drawn from the kernel given the one before, so the
    step size causes no error.
  """
  def step(carry, now):
    x_s, s = carry
    key_t, t = now
    x_t = transition(key_t, x_s, s, t, path)
    return (x_t, t), x_t

  check_path(path)
  times = jnp.asarray(times, x_0.dtype)
  t_min = jnp.asarray(path.t_min, x_0.dtype)
  # A key that is none of the steps'. At a clean beginning the noise counts 0.
  eps = jax.random.normal(jax.random.fold_in(key, len(times)), x_0.shape, x_0.dtype)
  start = corrupt(x_0, eps, t_min, path)
  return jax.lax.scan(step, (start, t_min), (jax.random.split(key, len(times)), times))[1]


def convert(
    x_a: jax.Array, t_a: Scalar, path_a: Path, path_b: Path
) -> tuple[jax.Array, jax.Array]:
  """Table 2: the state of path B that is the state `x_a` of path A at time `t_a`.

  ℓ_B = ℓ_A and x_B = (α_B/α_A) x_A. The ratio is taken of √(α² + σ²), which is the same number
  and stays finite where α = 0 (rectified flow at s = 1).

  Returns:
    (x_b, t_b). Where path B does not reach the noise level, a closed form gives its limit, which
    may be infinite (VE at the pure noise of rectified flow), and a bisected path its own end.
  """
  check_path(path_a), check_path(path_b)
  t_b = path_b.time(path_a.half_log_snr(t_a))
  scale_a = jnp.hypot(path_a.alpha(t_a), path_a.sigma(t_a))
  scale_b = jnp.hypot(path_b.alpha(t_b), path_b.sigma(t_b))
  return (scale_b / scale_a) * x_a, t_b
