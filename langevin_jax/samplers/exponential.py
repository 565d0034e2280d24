"""The one routine behind every exponential integrator: weights of D at nodes, exact in the noise.

In the VE frame the reverse process of stochasticity η is dz = −(z − D) du + noise, in the clock
u = ℓ + ∫η² dℓ. Over a step of size w in u, with D a polynomial through its values D_i at the nodes
θ_i (in units of the step, from its beginning),

  z′ = e^{−w} z + Σ c_i D_i + noise,
  Σ c_i θ_i^j = M_j = ∫₀¹ w e^{−w(1−θ)} θ^j dθ = w j! φ_{j+1}(−w)

for j below the number of nodes. M_j/w → 1/(j + 1) as w → 0, the moments of Adams–Bashforth. So the
nodes are the whole difference between the methods (MATH §6):

| nodes | method |
|---|---|
| {0} | STEP: DDIM, DDPM and all η |
| {0, −, …} | multistep: DPM-Solver++(2M, 3M) and SDE-DPM-Solver++ |
| {0, r} | singlestep: DPM-Solver++(2S), (3S) |
| {1, 0, −, …} | corrector: UniPC |
"""

from collections.abc import Sequence

import jax
import numpy as np

from langevin_jax import splitting

Array = np.ndarray | jax.Array

_QUADRATURE = 32  # points of Gauss–Legendre where the moments have no closed form
_SERIES_TERMS = 24  # of Σ (−w)^m/(m + j + 1)! at w < 2, to float64


def moments(w: Array, count: int) -> list[Array]:
  """M_0 … M_{count−1} at w ≥ 0 (∞ allowed), of the shape of w.

  By the recursion M_j = 1 − (j/w) M_{j−1} where it is stable, by its series where w < 2: there the
  recursion subtracts nearly equal numbers.
  """
  xp = splitting.namespace(w)
  small, large = xp.minimum(w, 2.0), xp.maximum(w, 2.0)
  direct = [-xp.expm1(-w)]
  for j in range(1, count):
    recursion = 1.0 - (j / large) * direct[-1]
    term = small / (j + 1)
    series = term
    for m in range(1, _SERIES_TERMS):
      term = term * (-small / (m + j + 1))
      series = series + term
    direct.append(xp.where(w < 2.0, series, recursion))
  return direct


def alpha_moments(w: Array, h: Array, rho: Array, count: int) -> list[Array]:
  """M_j in the place of θ^j with powers of ϑ = (α − α₀)/(α₁ − α₀), α = 1/√(1 + ρ²): unit scale's.

  D is then a polynomial in α. Along the flow of standard normal data D is linear in α, so two
  values of it say all; and α = 0 is a node like any other, where ℓ = −∞ is none.

  Args:
    w, h: the step in the clock u and in ℓ, (n,). rho: ρ at its end, (n,).
  """
  xp = splitting.namespace(w)
  nodes, gauss = np.polynomial.legendre.leggauss(_QUADRATURE)
  # ∫₀ʷ e^{−v} f dv = ∫ κ s^{κ−1} f ds with s = e^{−v/κ} from e^{−h} to 1, where ρ = ρ₁/s.
  kappa, first = (w / h)[:, None], xp.exp(-h)[:, None]
  s = first + (1.0 - first) * (0.5 * (nodes + 1.0))[None]
  unit = lambda rho: 1.0 / xp.sqrt(1.0 + rho**2)
  end = rho[:, None]
  theta = (unit(end / s) - unit(end / first)) / (unit(end) - unit(end / first))
  measure = 0.5 * (1.0 - first) * gauss[None] * kappa * s ** (kappa - 1.0)
  return [-xp.expm1(-w), *((measure * theta**j).sum(1) for j in range(1, count))]


def weights(values: Sequence[Array], nodes: Sequence[Array]) -> list[Array]:
  """c_i with Σ c_i θ_i^j = M_j: the integral of each Lagrange polynomial.

  Args:
    values: M_j, at least as many as there are nodes; arrays of one shape.
    nodes: θ_i, distinct, of that shape.
  """
  result = []
  for i, here in enumerate(nodes):
    polynomial, scale = [1.0], 1.0
    for other in (*nodes[:i], *nodes[i + 1:]):
      # Times (θ − other): coefficients from the constant up.
      raised, lowered = [0.0, *polynomial], [*(-other * c for c in polynomial), 0.0]
      polynomial = [a + b for a, b in zip(raised, lowered, strict=True)]
      scale = scale * (here - other)
    result.append(sum(c * m for c, m in zip(polynomial, values, strict=False)) / scale)
  return result
