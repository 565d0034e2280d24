"""The exact law on the line of a chain x′ = a x + b D(x) + c ξ, by quadrature.

A step of a sampler with fixed D has this form; for STEP(h, Λ) the numbers (a, b, c) are those of
`splitting.weights`. A law is represented by its density at nodes. A step with noise convolves the
law and uses new nodes. A step without noise moves the nodes and divides the density by the
derivative of a x + b D(x). Integrals are trapezoidal sums, exact to rounding for smooth densities
whose features are wider than the spacing of nodes.

Positions are at unit scale, x/√(α² + σ²), so that the same nodes serve every noise level and path.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import mixtures, paths, predictions, samplers, splitting
from langevin_jax.samplers import levels

Numbers = tuple[Any, Any, Any]  # (a, b, c) of a step


class Law(NamedTuple):
  """density (n,) at the nodes x (n,); ∫ f q dx ≈ Σ weight · f · density."""

  x: jax.Array
  weight: jax.Array
  density: jax.Array


def nodes(mixture: mixtures.Mixture, n: int = 1201, *, reach: float = 6.0) -> jax.Array:
  """At least n even nodes that cover a mixture on the line at every noise level.

  The nodes extend `reach` deviations (of the widest component or the noise) beyond the farthest
  mean, with three nodes per deviation of the narrowest component. A step loses the mass outside:
  2e-9 at 6 deviations, 1e-15 at 8. A smaller KL is not accurate.

  Raises:
    ValueError: more than 6,001 nodes would be needed.
  """
  widest = float(jnp.sqrt(jnp.maximum(1.0, jnp.max(mixture.covariances))))
  half = float(jnp.max(jnp.abs(mixture.means))) + reach * widest
  narrowest = float(jnp.sqrt(jnp.min(mixture.covariances)))
  n = max(n, math.ceil(6.0 * half / narrowest))
  if n > 6001:
    raise ValueError(f"--density has a component of deviation {narrowest:.2g} in standard units: "
                     "too narrow to be summed on a grid; widen it")
  return jnp.linspace(-half, half, n)


def fresh(x: jax.Array, density: jax.Array) -> Law:
  """A law on even nodes."""
  return Law(x, jnp.full_like(x, x[1] - x[0]), density)


def exact(mixture: mixtures.Mixture, ell: jax.Array | float, x: jax.Array) -> Law:
  """The law of the mixture diffused to half log-SNR ℓ (∞: the data), on even nodes."""
  return fresh(x, jnp.exp(_log_density(mixture, ell, x)))


@jax.jit
def _log_density(mixture, ell, x):
  frame = predictions.unit_frame(ell)
  return mixture.log_prob(x[:, None], frame.alpha, frame.sigma)


@jax.jit
def denoised(mixture: mixtures.Mixture, ell: jax.Array | float, x: jax.Array) -> jax.Array:
  """D of the mixture at half log-SNR ℓ; x (n,) → (n,)."""
  frame = predictions.unit_frame(ell)
  return mixture.denoise(x[:, None], frame.alpha, frame.sigma)[:, 0]


def moved(
    law: Law, mixture: mixtures.Mixture, ell: jax.Array | float, numbers: Numbers, x: jax.Array
) -> Law:
  """The law of a y + b D(y) + c ξ, D of the mixture at ℓ, on the nodes x (moved nodes if c = 0).

  a y + b D(y) must be increasing.

  Raises:
    ValueError: c > 0 is too small for the spacing of the images of the nodes.
  """
  a, b, c = map(float, numbers)
  if c > 0.0:
    slope = _images(mixture, ell, a, b, law.x)[1]
    # The relative error of the sum is e^{−2π²(c/spacing)²}: 3e-6 at .8.
    held = law.density > 1e-12 * jnp.max(law.density)
    apart = float(jnp.max(jnp.where(held, law.weight * slope, 0.0)))
    if c < 0.8 * apart:
      raise ValueError(f"noise of {c:.3g} is finer than the nodes, {apart:.3g} apart: take more "
                       "nodes, or fewer steps")
  return _moved(law, mixture, ell, a, b, c, x, noisy=c > 0.0)


@jax.jit
def _images(mixture, ell, a, b, y):
  """a y + b D(y) and its derivative."""
  return jax.jvp(lambda y: a * y + b * denoised(mixture, ell, y), (y,), (jnp.ones_like(y),))


@functools.partial(jax.jit, static_argnames="noisy")
def _moved(law, mixture, ell, a, b, c, x, *, noisy):
  there, slope = _images(mixture, ell, a, b, law.x)
  if noisy:
    return fresh(x, _kernel(there, c, x) @ (law.weight * law.density))
  return Law(there, law.weight * slope, law.density / slope)


def _kernel(mean, spread, x):
  gap = (x[:, None] - mean[None, :]) / spread
  return jnp.exp(-0.5 * gap**2) / (spread * jnp.sqrt(2.0 * jnp.pi))


def repeated(
    law: Law, mixture: mixtures.Mixture, ell: float, numbers: Numbers, x: jax.Array, *, steps: int
) -> jax.Array:
  """The densities (steps, len(x)) on the nodes x after 1, …, `steps` moves (`moved`) with c > 0.

  The given law is on the nodes x or finer ones. The result is linear in its density, which may have
  a sign: for x p(x), ∫ x q dx is E[x₀ xₙ].
  """
  first = moved(law, mixture, ell, numbers, x)
  later = _again(first, mixture, ell, *map(float, numbers), steps=steps - 1)
  return jnp.concatenate([first.density[None], later])


@functools.partial(jax.jit, static_argnames="steps")
def _again(law, mixture, ell, a, b, c, *, steps):
  kernel = _kernel(_images(mixture, ell, a, b, law.x)[0], c, law.x) * law.weight[None, :]

  def step(density, _):
    density = kernel @ density
    return density, density

  return jax.lax.scan(step, law.density, length=steps)[1]


def step(
    law: Law, mixture: mixtures.Mixture, ell: float, ell_s: float, budget: float, x: jax.Array
) -> Law:
  """The law after STEP(h = ℓ′ − ℓ, Λ = budget) with D of the mixture at ℓ."""
  here, there = predictions.unit_frame(ell), predictions.unit_frame(ell_s)
  return moved(law, mixture, ell, splitting.weights(
      here.alpha, here.sigma, there.alpha, there.sigma, jnp.asarray(budget, float)), x)


def kl(mixture: mixtures.Mixture, ell: jax.Array | float, law: Law) -> float:
  """KL(p_ℓ‖law) in nats, p_ℓ the mixture diffused to ℓ, summed at the nodes of the law."""
  return float(_divergence(_log_density(mixture, ell, law.x), law))


@jax.jit
def _divergence(log_p, law):
  # Where p underflows the density of the law may be 0.
  log_q = jnp.log(jnp.maximum(law.density, jnp.finfo(law.density.dtype).tiny))
  p = jnp.exp(log_p)
  # Σ (q − p) = 0 for normalised densities. With it every term is non-negative.
  return jnp.sum(law.weight * (p * (log_p - log_q) - p + law.density))


class Sampled(NamedTuple):
  """KL(p_ℓ‖law) in nats at the levels ℓ of a sampler, both (n + 1,).

  outside: the mass lost beyond the nodes.
  """

  half_log_snr: np.ndarray
  kl: np.ndarray
  outside: float


def sampled(
    mixture: mixtures.Mixture, method: samplers.Method, path: paths.Path, level: levels.Level,
    start: Callable[[jax.Array], jax.Array] | None = None,
) -> Sampled:
  """The laws of a sampler's states along its levels, with the exact D.

  Args:
    method: of the form x′ = a x + b D + c ξ: `ddim(η)` or `euler_maruyama(η)`.
    level: n + 2 levels on the path (`levels.place_levels`). The last one, ρ = 0, is omitted.
    start: the density at the first level, of positions at unit scale. Default: p_T (eq. 10).

  Raises:
    ValueError: more than 6,001 nodes would be needed to resolve the noise.
  """
  numbers = method.plan(level, path)
  ell, (a, b, c) = level.half_log_snr[:-1], (v[:-1] for v in (
      numbers.a, numbers.b[:, 0], numbers.c))
  x = _resolving(mixture, ell, a, b, c)
  law = exact(mixture, ell[0], x) if start is None else fresh(x, start(x))
  divergence = [_divergence(_log_density(mixture, ell[0], x), law)]
  for i in range(len(a)):
    law, value = _sampled(law, mixture, ell[i], ell[i + 1], a[i], b[i], c[i], x, noisy=c[i] > 0.0)
    divergence.append(value)
  mass = float(jnp.sum(law.weight * law.density))
  return Sampled(ell, np.asarray(jnp.stack(divergence)), 1.0 - mass)


@functools.partial(jax.jit, static_argnames="noisy")
def _sampled(law, mixture, ell, ell_s, a, b, c, x, *, noisy):
  law = _moved(law, mixture, ell, a, b, c, x, noisy=noisy)
  return law, _divergence(_log_density(mixture, ell_s, law.x), law)


def _resolving(mixture, ell, a, b, c) -> jax.Array:
  """Nodes whose images are no farther apart than the noise of every step (`moved` allows 1/.8).

  Sums then have an error of 3e-9 per step. The number of nodes is rounded up, for few shapes.
  """
  if not c.any():
    return nodes(mixture, 2401)
  x = nodes(mixture, 401)
  needed = float(x[-1] - x[0]) * float(jnp.max(_steepest(mixture, ell[:-1], a, b, x) / c))
  count = 401 + 400 * max(0, math.ceil((needed - 400.0) / 400.0))
  if count > 6001:
    raise ValueError(f"{count} nodes would be needed to resolve noise of {c.min():.2g}: take "
                     "fewer steps")
  return nodes(mixture, count)


@jax.jit
def _steepest(mixture, ell, a, b, x):
  """The largest derivative of each step, (n,), where the law is not negligible."""
  def one(step):
    ell, a, b = step
    slope = _images(mixture, ell, a, b, x)[1]
    log_p = _log_density(mixture, ell, x)
    return jnp.max(jnp.where(log_p > jnp.max(log_p) + math.log(1e-12), jnp.abs(slope), 0.0))

  return jax.lax.map(one, (ell, a, b))


def order(sizes, values) -> float:
  """The power k of y ∝ x^k between the two smallest sizes."""
  (x, x_2), (y, y_2) = ([v[i] for i in np.argsort(sizes)[:2]] for v in (sizes, values))
  return float(np.log(y_2 / y) / np.log(x_2 / x))
