"""The forward process as a path xₜ = α(t) x₀ + σ(t) ε (paper, §3.1, Tables 1–2; theory.md#paths).

A path is given by two functions of a scalar time: the signal scale α and the noise standard
deviation σ. The half log signal-to-noise ratio ℓ = log(α/σ), which falls with t, its inverse, and
the forward SDE dx = f x dt + g dW follow from them:

  f = α̇/α,   g² = 2σσ̇ − 2fσ² = 2σ²|ℓ̇|.

All paths agree in ℓ: states of two paths at the same ℓ are the same up to a scale. Times are
scalars, and a state is one example of any shape. Use `jax.vmap` for batches.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax._values import in_jax, is_traced, number
from langevin_jax.paths._host import on_host

__all__ = [
    "Function", "Path", "Scalar", "check_path", "convert", "corrupt", "from_coefficients",
    "simulate", "transition",
]

Scalar = jax.Array | float
Function = Callable[[Scalar], jax.Array]
# Functions that a user gives may return Python numbers; `of_floats` makes arrays of them.
UserFunction = Callable[[Scalar], Scalar]


class Path(NamedTuple):
  """A forward process xₜ = α x₀ + σ ε on [t_min, t_max]. All functions map scalars to scalars.

  Attributes:
    alpha, sigma: signal scale α(t) and noise standard deviation σ(t).
    half_log_snr: ℓ(t) = log(α/σ), strictly falling.
    time: t(ℓ), the inverse of `half_log_snr`.
    drift, diffusion: f = α̇/α and g of the forward SDE dx = f x dt + g dW (paper, eqs. 3, 16).
    alpha_dot, sigma_dot: derivatives in t, the coefficients of the velocity α̇ x₀ + σ̇ ε.
    t_min, t_max: the clean end and the noisy end.
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
  """Returns `path` after a check of its type.

  Raises:
    ValueError: `path` is not a `Path`, for example a factory that was not called.
  """
  if not isinstance(path, Path):
    name = getattr(path, "__name__", None)
    given = f"the function {name}: call it, {name}(...)" if callable(path) and name else repr(path)
    raise ValueError(f"path must be a Path such as paths.vp(), got {given}")
  return path


def as_float(t: Scalar) -> jax.Array:
  """A time as a floating-point array. Arrays keep their precision; numbers take the default."""
  return jnp.asarray(t, jnp.result_type(t, float))


def of_floats(function: UserFunction) -> Function:
  """Wraps `function` to take times of any type as float arrays and to return float arrays."""
  return lambda t: _floating(function(_floating(t)))


def _floating(value: Scalar) -> jax.Array:
  # A Python number stays weakly typed, so that it takes the precision of the other operand.
  array = jnp.asarray(value)
  return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _derivative(function: Function) -> Function:
  def derivative(t):
    t = as_float(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))[1]

  return derivative


def _inverse(half_log_snr: Function, t_min: float, t_max: float) -> Function:
  """t(ℓ) by bisection of the falling function ℓ(t), clipped to [t_min, t_max].

  The derivative is dt = (dℓ − ∂ℓ)/ℓ̇(t). Here ∂ℓ is the change of ℓ(t) at fixed t, which is not
  zero if `half_log_snr` closes over values that are differentiated.
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
    # A new lambda: JAX's cache of a function that it knows would outlive the closed-over values.
    level, constants = jax.closure_convert(lambda t: half_log_snr(t), ell)
    return solve(level, ell, constants)

  return time


def from_coefficients(
    alpha: UserFunction, sigma: UserFunction, *, t_min: float, t_max: float,
    half_log_snr: UserFunction | None = None, time: UserFunction | None = None,
    drift: UserFunction | None = None, diffusion: UserFunction | None = None,
) -> Path:
  """A path from α(t) and σ(t); f, g, ℓ and t(ℓ) are derived (paper, eq. 16).

  The functions of a path must not change: numbers computed from them are cached with the path. If
  the values that they close over change, make a new path.

  Args:
    alpha: α, scalar → scalar in `jax.numpy`, positive inside the range.
    sigma: σ, scalar → scalar, zero only at `t_min`.
    t_min: the clean end, where σ is smallest.
    t_max: the noisy end, where α may be zero.
    half_log_snr, time, drift, diffusion: closed forms that replace the derived ones. A closed form
      of ℓ matters in float32: log α − log σ from rounded α and σ is inexact near both ends.

  Returns:
    The path.

  Raises:
    ValueError: the range is empty or traced, ℓ does not fall strictly from t_min to t_max, or a
      function, here or at its first call, that is not written in `jax.numpy`.
  """
  t_min, t_max = number("t_min", t_min), number("t_max", t_max)
  if not t_min < t_max:
    raise ValueError(f"t_min must lie below t_max, got t_min={t_min}, t_max={t_max}")
  alpha, sigma = of_floats(in_jax("alpha", alpha)), of_floats(in_jax("sigma", sigma))
  half_log_snr, time, drift, diffusion = (
      function if function is None else in_jax(name, function)
      for name, function in (("half_log_snr", half_log_snr), ("time", time), ("drift", drift),
                             ("diffusion", diffusion)))
  alpha_dot, sigma_dot = _derivative(alpha), _derivative(sigma)
  ell = of_floats(half_log_snr or (lambda t: jnp.log(alpha(t)) - jnp.log(sigma(t))))
  f = of_floats(drift or (lambda t: alpha_dot(t) / alpha(t)))
  g = of_floats(
      diffusion or (lambda t: jnp.sqrt(2.0 * sigma(t) * (sigma_dot(t) - f(t) * sigma(t)))))
  if time is None:
    levels = on_host(jax.vmap(ell), np.linspace(t_min, t_max, 257))
    # A comparison, because a difference would be ∞ − ∞ at an infinite end.
    if not is_traced(levels) and not np.all(levels[1:] < levels[:-1]):
      raise ValueError(
          "alpha/sigma must fall strictly with t: noise grows from t_min to t_max, "
          f"but log(alpha/sigma) does not fall everywhere on [{t_min}, {t_max}]")
    time_of = _inverse(ell, t_min, t_max)
  else:
    time_of = of_floats(time)
  return Path(alpha, sigma, ell, time_of, f, g, alpha_dot, sigma_dot, float(t_min), float(t_max))


def corrupt(x_0: jax.Array, eps: jax.Array, t: Scalar, path: Path) -> jax.Array:
  """Forward noising of one example in one step: xₜ = α x₀ + σ ε, ε ~ N(0, I) (paper, Table 1)."""
  check_path(path)
  return path.alpha(t) * x_0 + path.sigma(t) * eps


def transition(key: jax.Array, x_s: jax.Array, s: Scalar, t: Scalar, path: Path) -> jax.Array:
  """One exact draw of the forward SDE at time t, given its state at an earlier time s.

    xₜ = (αₜ/αₛ) xₛ + σₜ √(1 − e^{2(ℓₜ − ℓₛ)}) ξ,   ξ ~ N(0, I)

  Args:
    key: consumed.
    x_s: the state at s, any shape.
    s, t: times, s ≤ t and s < t_max. At a clean s (σ = 0) the draw is that of `corrupt`.
    path: the forward process.

  Returns:
    The state at t, shape of `x_s`.
  """
  check_path(path)
  ratio = path.alpha(t) / path.alpha(s)
  h = path.half_log_snr(t) - path.half_log_snr(s)
  return ratio * x_s + path.sigma(t) * jnp.sqrt(-jnp.expm1(2.0 * h)) * jax.random.normal(
      key, x_s.shape, x_s.dtype)


def simulate(key: jax.Array, x_0: jax.Array, times: jax.Array, path: Path) -> jax.Array:
  """A trajectory of the forward SDE (paper, eq. 3) at the given times.

  Each state is an exact draw given the state before it, so the times cause no discretisation error.

  Args:
    key: consumed.
    x_0: one clean example. If σ(t_min) > 0, noise is added to it to give the state at t_min.
    times: (n,), increasing, times[0] > t_min.
    path: the forward process.

  Returns:
    The states, (n, *x_0.shape).
  """
  def step(carry, now):
    x_s, s = carry
    key_t, t = now
    x_t = transition(key_t, x_s, s, t, path)
    return (x_t, t), x_t

  check_path(path)
  times = jnp.asarray(times, x_0.dtype)
  t_min = jnp.asarray(path.t_min, x_0.dtype)
  # A key that no step uses. At a clean start (σ = 0) its noise is multiplied by zero.
  eps = jax.random.normal(jax.random.fold_in(key, len(times)), x_0.shape, x_0.dtype)
  start = corrupt(x_0, eps, t_min, path)
  return jax.lax.scan(step, (start, t_min), (jax.random.split(key, len(times)), times))[1]


def convert(
    x_a: jax.Array, t_a: Scalar, path_a: Path, path_b: Path
) -> tuple[jax.Array, jax.Array]:
  """The state of path B that corresponds to a state of path A (paper, Table 2).

    ℓ_B(t_b) = ℓ_A(t_a),   x_b = (α_B/α_A) x_a

  The code takes the ratio of √(α² + σ²), which is the same number and stays finite where α = 0
  (rectified flow at s = 1).

  Args:
    x_a: the state on path A, any shape.
    t_a: its time, scalar.
    path_a, path_b: the two paths.

  Returns:
    (x_b, t_b). If path B does not reach the noise level, t_b is the limit of its closed form, which
    may be infinite (VE at the pure noise of rectified flow), or the end of a path without one.
  """
  check_path(path_a)
  check_path(path_b)
  t_b = path_b.time(path_a.half_log_snr(t_a))
  scale_a = jnp.hypot(path_a.alpha(t_a), path_a.sigma(t_a))
  scale_b = jnp.hypot(path_b.alpha(t_b), path_b.sigma(t_b))
  return (scale_b / scale_a) * x_a, t_b
