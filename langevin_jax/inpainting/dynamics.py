"""LanPaint: Langevin dynamics at every noise level, its known part pulled hard to what is known.

At a level (α, σ), with m = 1 where known, y₀ what is known and G the guidance (Zheng et al. 2025),

  D_G = (1 − m) D + m [(1 + G) y₀ − G D],   F = (α D_G − x)/σ²

is the force of the Langevin dynamics dx = F dτ + √2 dW. In s = τ/σ² and with a = 1 where unknown,
a = 1 + G where known, it is a linear pull towards a centre that moves slowly:

  dx = (c − a x) ds + √2 σ dW,   c = α D_G + (a − 1) x                              (overdamped)
  dx = p ds,  dp = γ (c − a x − p) ds + γ √2 σ dW,   γ = friction²                  (underdamped)

With c frozen both are solved exactly over any s, by numbers that depend on (a, γ, s) alone: not on
the level, the path or the data. They are made in float64 on the host, whatever the sign of
Δ = 1 − 4a/γ. An iteration evaluates c once and is of second order:

  half a step with the old c;  the new c;  a kick by (new − old) of a whole step;  the other half.

The force leaves out (1 + G) ∇_y log p(x | y) of the known part y. So the law that the dynamics
keeps is biased at high noise, less for greater G (on Gaussian data of correlation .8 at α² = .9, a
KL of 1.5e-2 at G = 0 and 5e-4 at G = 5), and exact as α → 1.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import _programs


class Inner(NamedTuple):
  """An iteration's numbers, stacked over the iterations; a pair (unknown, known) of each.

  The state is the offset from the centre and, where underdamped, the momentum: k = 1 or 2 of them.
  before, after: propagators (n, 2, k, k) on either side of the model's call; before_noise,
  after_noise: (n, 2, k, k), lower triangular, times σ. kick: (n, 2), of the centre's move.
  """

  before: Any
  before_noise: Any
  after: Any
  after_noise: Any
  kick: Any


def propagator(
    stiffness: float, span: float, damping: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Exact solution of the frozen dynamics over `span` = s, at σ = 1: (M, L), float64.

  The offset from c/a (and the momentum p) goes from v to M v + L ξ. Overdamped (`damping` None):
  M = e^{−as}, L² = (1 − e^{−2as})/a, as 1×1 matrices. Underdamped, with ω² = γ²/4 − γa of either
  sign, ch = cosh ωs and sh = sinh(ωs)/ω,

    M = e^{−γs/2} [[ch + γ/2 sh, sh], [−γa sh, ch − γ/2 sh]],  L Lᵀ = S − M S Mᵀ,  S = diag(1/a, γ).

  That difference is of nearly equal numbers for short spans, so L Lᵀ is summed from positive parts
  instead: the integral of 2γ² M e₂e₂ᵀ Mᵀ over a span short enough for the series of ch and sh,
  whose argument is (ωs)² and needs no case for its sign, and then doublings.
  """
  if damping is None:
    return (np.array([[math.exp(-stiffness * span)]]),
            np.array([[math.sqrt(-math.expm1(-2.0 * stiffness * span) / stiffness)]]))
  fastest = damping + math.sqrt(damping * stiffness)
  doublings = max(0, math.ceil(math.log2(max(span * fastest, 1e-300))))
  short = span / 2.0**doublings

  def at(s):
    """M at s ≤ 1/fastest; s is an array (...), M (..., 2, 2)."""
    z = (0.25 * damping**2 - damping * stiffness) * s**2
    terms = np.arange(14)
    powers = z[..., None] ** terms
    ch = np.sum(powers / [float(math.factorial(2 * k)) for k in terms], -1)
    sh = s * np.sum(powers / [float(math.factorial(2 * k + 1)) for k in terms], -1)
    rows = [[ch + 0.5 * damping * sh, sh], [-damping * stiffness * sh, ch - 0.5 * damping * sh]]
    decay = np.exp(-0.5 * damping * s)
    return decay[..., None, None] * np.moveaxis(np.array(rows), (0, 1), (-2, -1))

  nodes, weights = np.polynomial.legendre.leggauss(16)
  columns = at(0.5 * short * (1.0 + nodes))[..., 1]
  covariance = damping**2 * short * np.einsum("n,ni,nj->ij", weights, columns, columns)
  matrix = at(np.asarray(short))
  for _ in range(doublings):
    covariance = matrix @ covariance @ matrix.T + covariance
    matrix = matrix @ matrix
  return matrix, np.linalg.cholesky(covariance)


@functools.lru_cache
def inner_numbers(
    inner_steps: int, guidance: float, step_size: float, friction: float | None
) -> Inner:
  """The numbers of all iterations; `friction` None is overdamped.

  The first iteration has no old centre: it calls at once and takes the whole step with the new one.
  """
  damping = None if friction is None else friction**2
  order = 1 if friction is None else 2
  of = lambda span: [np.stack(v) for v in zip(
      *(propagator(a, span, damping) for a in (1.0, 1.0 + guidance)), strict=True)]
  (half, half_noise), (whole, whole_noise) = of(0.5 * step_size), of(step_size)
  still, quiet = np.broadcast_to(np.eye(order), (2, order, order)), np.zeros((2, order, order))
  later = lambda first, rest: np.stack([first] + [rest] * (inner_steps - 1))
  strength = step_size * (1.0 if damping is None else damping)
  return Inner(later(still, half), later(quiet, half_noise), later(whole, half),
               later(whole_noise, half_noise), np.full((inner_steps, 2), strength))


def iterate(draw, x, model, alpha, sigma, known, mask, guidance, friction, numbers: Inner):
  """All inner iterations at one level: states at unit scale, one call of the model each.

  Args:
    draw: draw(i) is the i-th standard normal of this level in the shape of x; i < 4n + 2 are used.
    x: the state, any shape. model: x → D(x) at this level.
    alpha, sigma: the level, scalars, α² + σ² = 1; α = 0 and every float32 σ > 0 are allowed.
    known, mask: y₀ and m, in the shape of x. guidance, friction, numbers: of `inner_numbers`.

  Returns:
    x after n iterations.
  """
  order = numbers.before.shape[-1]
  pick = lambda pair: jnp.where(mask, pair[1], pair[0])
  stiffness = jnp.where(mask, 1.0 + guidance, 1.0).astype(x.dtype)
  at = 0 if order == 1 else 1

  def centre(x, denoised):
    """c of the module's equations."""
    return jnp.where(mask, alpha * (known + guidance * (known - denoised)) + guidance * x,
                     alpha * denoised)

  def advance(state, centre, matrix, noise, xi):
    """The exact solution with this centre; `matrix` and `noise` are pairs of k×k matrices."""
    around = centre / stiffness
    state = (state[0] - around, *state[1:])
    moved = [
        sum(pick(matrix[:, i, j]) * state[j] for j in range(order))
        + sum(pick(noise[:, i, j]) * xi[j] for j in range(i + 1))
        for i in range(order)]
    return (moved[0] + around, *moved[1:])

  def body(carry, now):
    state, old = carry
    i, n = now
    # All of an iteration's noise at once: one generator to compile.
    xi = sigma * jax.vmap(draw)(2 + 2 * order * i + jnp.arange(2 * order))
    state = advance(state, old, n.before, n.before_noise, xi[:order])
    new = centre(state[0], model(state[0]))
    old = jnp.where(i == 0, new, old)
    kicked = state[at] + pick(n.kick) * (new - old)
    state = (*state[:at], kicked, *state[at + 1:])
    return (advance(state, old, n.after, n.after_noise, xi[order:]), new), None

  # The momentum starts from its own law, N(0, γσ²), independent of the offset.
  state = (x,) if order == 1 else (x, sigma * friction * draw(1))
  (state, _), _ = _programs.scan(body, (state, x), (jnp.arange(len(numbers.kick)), numbers))
  return state[0]
