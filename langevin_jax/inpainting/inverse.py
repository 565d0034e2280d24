"""Linear inverse problems y = A x₀ + σ_y n: a denoiser that knows y, for any sampler.

By Bayes' rule the denoiser given y is D plus the gradient of log p(y | x) (at unit scale)

  D_y = D + (σ²/α) ∇ₓ log p(y | x),   p(y | x) ≈ N(y; A D, σ_y² I + A V Aᵀ),

and with J = ∂D/∂x, of which (σ²/α) J = Cov(x₀ | x), every method is a guess V of that covariance:

  D_y = D + (σ²/α) Jᵀ Aᵀ (σ_y² I + A V Aᵀ)⁻¹ (y − A D)

| | V | costs, beside D |
|---|---|---|
| `dps` (Chung et al. 2023) | 0 | one vector–Jacobian product |
| `pi_gdm` (Song et al. 2023) | σ² I, the posterior of N(0, I) data | one |
| `mmps` (Rozet et al. 2024) | (σ²/α) Jᵀ, the posterior's own | n + 1 |

The last is exact where the posterior of x₀ is Gaussian with a covariance that x does not change, as
for Gaussian data; the others are so for no σ_y, or for white data. The inverse is n iterations of
conjugate gradients, which solve m observations exactly in n = m. All are `predictions.Denoiser`s:
they know no path, and any method, grid or inpainting runs them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs, predictions
from langevin_jax.paths import Path

Operator = Callable[[jax.Array], jax.Array]

# At α = 0 a state says nothing and (σ²/α) J is 0/0: no level is taken to be noisier than ρ = 1000.
_NOISIEST = np.log(1e-3)


def dps(
    denoise: predictions.Denoise, path: Path, *, observed: jax.Array, operator: Operator,
    noise_std: float, shape: tuple[int, ...], weight: float = 1.0,
) -> predictions.Denoiser:
  """Diffusion posterior sampling: as if D were x₀ itself (V = 0), times `weight`.

  Overconfident, the more so the smaller `noise_std` is beside the posterior's spread: at weight 1
  the correction overshoots by 1 + V/σ_y². Arguments, and what raises, as in `mmps`.
  """
  _check(noise_std, positive=True)

  def solve(residual, at, sigma, spread):
    return (weight / noise_std**2) * residual

  return _denoiser(denoise, path, observed, operator, noise_std, shape, solve)


def pi_gdm(
    denoise: predictions.Denoise, path: Path, *, observed: jax.Array, operator: Operator,
    noise_std: float, shape: tuple[int, ...], iterations: int = 5,
) -> predictions.Denoiser:
  """Pseudoinverse guidance: V = σ² I at unit scale, σ² = ρ²/(1 + ρ²). Arguments as in `mmps`."""
  _check(noise_std)
  _check_iterations(iterations)

  def solve(residual, at, sigma, spread):
    product = lambda v: noise_std**2 * v + sigma**2 * at.forward(at.transpose(v))
    return _conjugate_gradients(product, residual, iterations, at.axes)

  return _denoiser(denoise, path, observed, operator, noise_std, shape, solve)


def mmps(
    denoise: predictions.Denoise, path: Path, *, observed: jax.Array, operator: Operator,
    noise_std: float, shape: tuple[int, ...], iterations: int = 5,
) -> predictions.Denoiser:
  """Moment matching: the posterior's own mean and covariance, the latter from D's Jacobian.

  Args:
    denoise: (x_t, t) → E[x₀ | xₜ] along `path`, whole batches, differentiable.
    observed: y, of the shape that `operator` returns, or with leading axes of the samples.
    operator: A, a linear function of one example; its transpose is `jax.linear_transpose`'s.
    noise_std: σ_y ≥ 0 (> 0 for `dps`).
    shape: of one example, the last axes of the state.
    iterations: n, of conjugate gradients: one vector–Jacobian product of the model each.

  Raises:
    ValueError: a noise_std that is negative (for `dps`, not positive), iterations < 1, an
      `observed` of another shape or not finite.
  """
  _check(noise_std)
  _check_iterations(iterations)

  def solve(residual, at, sigma, spread):
    product = lambda v: noise_std**2 * v + at.forward(spread(at.transpose(v)))
    return _conjugate_gradients(product, residual, iterations, at.axes)

  return _denoiser(denoise, path, observed, operator, noise_std, shape, solve)


class _At(NamedTuple):
  """A and Aᵀ on the batch of states at hand, and the axes of one example's observation."""

  forward: Operator
  transpose: Operator
  axes: tuple[int, ...]


def _denoiser(denoise, path, observed, operator, noise_std, shape, solve):
  """D_y, `solve(residual, at, sigma, spread)` being (σ_y² + A V Aᵀ)⁻¹ (y − A D)."""
  shape = tuple(shape)
  one = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
  out = jax.eval_shape(operator, one)
  if jnp.shape(observed)[max(0, jnp.ndim(observed) - out.ndim):] != out.shape:
    raise ValueError(f"observed must have the shape {out.shape} that operator returns, or leading "
                     f"axes before it, got {jnp.shape(observed)}")
  given = _programs.concrete(observed)
  if given is not None and not np.all(np.isfinite(given)):
    raise ValueError(f"observed must be finite, got {np.sum(~np.isfinite(given))} entries that "
                     "are not: leave them out of the operator")
  free = predictions.at_level(denoise, path)

  def at(x, ell):
    batch = x.shape[:x.ndim - len(shape)]
    if x.shape[len(batch):] != shape:
      raise ValueError(f"states must end in the shape {shape} of an example, got {x.shape}")
    given = jnp.asarray(observed, x.dtype)
    if given.shape[:given.ndim - out.ndim] not in ((), batch):
      raise ValueError(f"observed of shape {given.shape} must lead with the samples' {batch}")
    given = jnp.broadcast_to(given, (*batch, *out.shape))
    ell = jnp.maximum(ell, _NOISIEST)
    alpha, sigma, *_ = predictions.unit_frame(ell)
    lifted = jax.linear_transpose(operator, jax.ShapeDtypeStruct(shape, x.dtype))
    forward, transpose = operator, lambda y: lifted(y)[0]
    for _ in batch:
      forward, transpose = jax.vmap(forward), jax.vmap(transpose)
    denoised, pull = jax.vjp(lambda x: free(x, ell), x)
    # σ²/α is ρ σ, which has no small number under it.
    spread = lambda v: (sigma**2 / alpha) * pull(v)[0]
    axes = tuple(range(len(batch), len(batch) + out.ndim))
    solved = solve(given - forward(denoised), _At(forward, transpose, axes), sigma, spread)
    return denoised + spread(transpose(solved))

  return predictions.Denoiser(at, path)


def _conjugate_gradients(product, residual, iterations, axes):
  """`iterations` steps towards product⁻¹ residual, each example (over `axes`) on its own.

  An example that is solved stays as it is: its residual divides nothing.
  """
  dot = lambda a, b: jnp.sum(a * b, axis=axes, keepdims=True)
  ratio = lambda a, b: jnp.where(b > 0.0, a / jnp.where(b > 0.0, b, 1.0), 0.0)

  def body(state, _):
    solution, left, direction, size = state
    mapped = product(direction)
    step = jnp.broadcast_to(ratio(size, dot(direction, mapped)), left.shape)
    solution, left = solution + step * direction, left - step * mapped
    fresh = dot(left, left)
    direction = left + jnp.broadcast_to(ratio(fresh, size), left.shape) * direction
    return (solution, left, direction, fresh), None

  start = jnp.zeros_like(residual), residual, residual, dot(residual, residual)
  return _programs.scan(body, start, None, length=iterations)[0][0]


def _check(noise_std: float, *, positive: bool = False) -> None:
  if not (noise_std > 0.0 if positive else noise_std >= 0.0):
    raise ValueError(f"noise_std must be {'> 0' if positive else '>= 0'}, got {noise_std}")


def _check_iterations(iterations: int) -> None:
  if iterations < 1:
    raise ValueError(f"iterations must be at least 1, got {iterations}")
