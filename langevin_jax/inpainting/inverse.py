"""Linear inverse problems y = A x₀ + σ_y n, solved by a denoiser that depends on y.

By Bayes' rule the denoiser given y is D plus the gradient of log p(y | x). At unit scale

  D_y = D + (σ²/α) ∇ₓ log p(y | x),   p(y | x) ≈ N(y; A D, σ_y² I + A V Aᵀ).

With J = ∂D/∂x, for which (σ²/α) J = Cov(x₀ | x), a method is a choice of the covariance V:

  D_y = D + (σ²/α) Jᵀ Aᵀ (σ_y² I + A V Aᵀ)⁻¹ (y − A D)

| | V | vector–Jacobian products besides D |
|---|---|---|
| `dps` (Chung et al. 2023) | 0 | 1 |
| `pi_gdm` (Song et al. 2023) | σ² I, the posterior of N(0, I) data | 1 |
| `mmps` (Rozet et al. 2024) | (σ²/α) Jᵀ, the covariance of the posterior | n + 1 |

`mmps` is exact if the posterior of x₀ is Gaussian with a covariance that does not depend on x, as
for Gaussian data. `pi_gdm` is exact for white data, `dps` never. The inverse is computed by n
iterations of conjugate gradients, which are exact for n observations or fewer. All methods return a
`predictions.Denoiser`, which works along every path and with every sampler.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, _values, predictions
from langevin_jax.paths import Path

__all__ = ["Operator", "dps", "mmps", "pi_gdm"]

Operator = Callable[[jax.Array], jax.Array]

# Levels noisier than ρ = 1000 are treated as ρ = 1000, because (σ²/α) J is 0/0 at α = 0.
_MIN_HALF_LOG_SNR = np.log(1e-3)


def dps(
    denoise: predictions.Denoise, path: Path, *, observed: jax.Array, operator: Operator,
    noise_std: float, shape: tuple[int, ...], weight: float = 1.0,
) -> predictions.Denoiser:
  """Diffusion posterior sampling, V = 0 (Chung et al. 2023).

  The correction at weight 1 is too large by the factor 1 + A V Aᵀ/σ_y², V the posterior's
  covariance.

  Args:
    weight: factor of the correction. The others, and what is raised, are as in `mmps`.
  """
  _check_noise_std(noise_std, positive=True)

  def solve(linear, residual, sigma):
    return (weight / noise_std**2) * residual

  return _denoiser(denoise, path, observed, operator, shape, solve)


def pi_gdm(
    denoise: predictions.Denoise, path: Path, *, observed: jax.Array, operator: Operator,
    noise_std: float, shape: tuple[int, ...], iterations: int = 5,
) -> predictions.Denoiser:
  """Pseudoinverse guidance, V = σ² I at unit scale (Song et al. 2023).

  Arguments, and what is raised, are as in `mmps`.
  """
  _check_noise_std(noise_std)
  iterations = _values.count("iterations", iterations)

  def solve(linear, residual, sigma):
    product = lambda v: noise_std**2 * v + sigma**2 * linear.forward(linear.transpose(v))
    return _conjugate_gradients(product, residual, iterations, linear.axes)

  return _denoiser(denoise, path, observed, operator, shape, solve)


def mmps(
    denoise: predictions.Denoise, path: Path, *, observed: jax.Array, operator: Operator,
    noise_std: float, shape: tuple[int, ...], iterations: int = 5,
) -> predictions.Denoiser:
  """Moment matching, V = (σ²/α) Jᵀ = Cov(x₀ | x) (Rozet et al. 2024).

  Args:
    denoise: (x_t, t) → E[x₀ | xₜ] along `path`, for whole batches, differentiable.
    path: defines the time t.
    observed: y, in the shape that `operator` returns, or with leading axes of the samples.
    operator: A, a linear function of one example. Its transpose is by `jax.linear_transpose`.
    noise_std: σ_y ≥ 0 (> 0 for `dps`).
    shape: of one example, the last axes of the state.
    iterations: n, steps of conjugate gradients, one vector–Jacobian product of the model each.

  Raises:
    ValueError: a negative noise_std (for `dps`, not positive), iterations < 1, or an `observed` of
      another shape or not finite.
  """
  _check_noise_std(noise_std)
  iterations = _values.count("iterations", iterations)

  def solve(linear, residual, sigma):
    product = lambda v: noise_std**2 * v + linear.forward(linear.covariance(linear.transpose(v)))
    return _conjugate_gradients(product, residual, iterations, linear.axes)

  return _denoiser(denoise, path, observed, operator, shape, solve)


class _Linear(NamedTuple):
  """The linear maps at a batch of states.

  Attributes:
    forward, transpose: A and Aᵀ.
    covariance: v → (σ²/α) Jᵀ v.
    axes: the axes of one example's observation.
  """

  forward: Operator
  transpose: Operator
  covariance: Operator
  axes: tuple[int, ...]


# (linear, residual y − A D, σ) → (σ_y² I + A V Aᵀ)⁻¹ (y − A D).
_Solve = Callable[[_Linear, jax.Array, jax.Array], jax.Array]


def _denoiser(
    denoise: predictions.Denoise, path: Path, observed: jax.Array, operator: Operator,
    shape: tuple[int, ...], solve: _Solve,
) -> predictions.Denoiser:
  """D_y of the module's equation."""
  shape = tuple(shape)
  out = jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
  _check_observed(observed, out.shape)
  free = predictions.at_level(denoise, path)

  def at(x, ell):
    batch = x.shape[:x.ndim - len(shape)]
    if x.shape[len(batch):] != shape:
      raise ValueError(f"states must end in the shape {shape} of an example, got {x.shape}")
    given = jnp.asarray(observed, x.dtype)
    if given.shape[:given.ndim - out.ndim] not in ((), batch):
      raise ValueError(f"observed of shape {given.shape} must lead with the samples' {batch}")
    given = jnp.broadcast_to(given, (*batch, *out.shape))
    ell = jnp.maximum(ell, _MIN_HALF_LOG_SNR)
    alpha, sigma, *_ = predictions.unit_frame(ell)
    transpose_one = jax.linear_transpose(operator, jax.ShapeDtypeStruct(shape, x.dtype))
    forward, transpose = operator, lambda y: transpose_one(y)[0]
    for _ in batch:
      forward, transpose = jax.vmap(forward), jax.vmap(transpose)
    denoised, pull = jax.vjp(lambda x: free(x, ell), x)
    covariance = lambda v: (sigma**2 / alpha) * pull(v)[0]
    axes = tuple(range(len(batch), len(batch) + out.ndim))
    linear = _Linear(forward, transpose, covariance, axes)
    solved = solve(linear, given - forward(denoised), sigma)
    return denoised + covariance(transpose(solved))

  return predictions.Denoiser(at, path)


def _conjugate_gradients(
    product: Operator, residual: jax.Array, iterations: int, axes: tuple[int, ...]
) -> jax.Array:
  """`iterations` steps of conjugate gradients for product⁻¹ residual, separately for each example.

  An example whose residual is zero stays as it is.

  Args:
    product: the symmetric positive definite map. axes: of one example.
  """
  dot = lambda a, b: jnp.sum(a * b, axis=axes, keepdims=True)
  ratio = lambda a, b: jnp.where(b > 0.0, a / jnp.where(b > 0.0, b, 1.0), 0.0)

  def body(state, _):
    solution, left, direction, size = state
    mapped = product(direction)
    step = jnp.broadcast_to(ratio(size, dot(direction, mapped)), left.shape)
    solution, left = solution + step * direction, left - step * mapped
    new_size = dot(left, left)
    direction = left + jnp.broadcast_to(ratio(new_size, size), left.shape) * direction
    return (solution, left, direction, new_size), None

  start = jnp.zeros_like(residual), residual, residual, dot(residual, residual)
  return _programs.scan(body, start, None, length=iterations)[0][0]


def _check_observed(observed: jax.Array, shape: tuple[int, ...]) -> None:
  """ValueError unless `observed` is finite and ends in `shape`, the operator's output."""
  if jnp.shape(observed)[max(0, jnp.ndim(observed) - len(shape)):] != shape:
    raise ValueError(f"observed must have the shape {shape} that operator returns, or leading "
                     f"axes before it, got {jnp.shape(observed)}")
  known = _values.concrete(observed)
  if known is not None and not np.all(np.isfinite(known)):
    raise ValueError(f"observed must be finite, got {np.sum(~np.isfinite(known))} entries that "
                     "are not: leave them out of the operator")


def _check_noise_std(noise_std: float, *, positive: bool = False) -> None:
  known = _values.number("noise_std", noise_std, may_be_traced=True)
  if not (_values.is_traced(known) or known > 0.0 or (known == 0.0 and not positive)):
    raise ValueError(f"noise_std must be {'> 0' if positive else '>= 0'}, got {noise_std}")
