"""Exponential integrators: the weights of D at the nodes of a step (theory.md#solvers).

In the VE frame the reverse process of stochasticity η is dz = −(z − D) du + noise, in the clock
u = ℓ + ∫η² dℓ. Let D be a polynomial through its values D_i at nodes θ_i, in units of the step from
its beginning. A step of length w in u is then

  z′ = e^{−w} z + Σ c_i D_i + noise,
  Σ c_i θ_i^j = M_j = ∫₀¹ w e^{−w(1−θ)} θ^j dθ = w j! φ_{j+1}(−w)

for every j below the number of nodes. M_j/w → 1/(j + 1) as w → 0: the moments of Adams–Bashforth.
The methods differ only in their nodes:

| nodes | method |
|---|---|
| {0} | STEP: DDIM, DDPM and all η |
| {0, −, …} | multistep: DPM-Solver++(2M, 3M) and SDE-DPM-Solver++ |
| {0, r} | singlestep: DPM-Solver++(2S), (3S); of ε, DPM-Solver |
| {1, 0, −, …} | corrector: UniPC |

For the ODE, ε or the velocity ε − x₀ can take the place of x₀ = D, each in the frame in which it
alone moves the state (`frame_moments`). The polynomial may be one in α or in the angle atan ρ,
which are finite also at infinite ℓ, or in the number of the step, as in PNDM. All of these are
exact for data that are one point, where x₀, ε and ε − x₀ are constant.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import numpy as np

from langevin_jax import _values, splitting
from langevin_jax.samplers.levels import Level

__all__ = [
    "Prediction", "Variable", "check_options", "frame_moments", "frame_size", "moments", "value",
    "weights",
]

Array = np.ndarray | jax.Array
Prediction = Literal["x0", "eps", "velocity"]
Variable = Literal["half_log_snr", "alpha", "angle", "step"]

_QUADRATURE = 32  # points of Gauss–Legendre where the moments have no closed form
_SERIES_TERMS = 24  # of Σ (−w)^m/(m + j + 1)! at w < 2, to float64


def check_options(prediction: str, variable: str, largest_budget: float) -> float:
  """The largest budget as a number.

  Raises:
    ValueError: an unknown prediction or variable, or a budget that is not positive.
  """
  for field, value, known in (("prediction", prediction, get_args(Prediction)),
                              ("variable", variable, get_args(Variable))):
    if value not in known:
      raise ValueError(f"{field} must be one of {', '.join(known)}, got {value!r}")
  largest_budget = _values.number("largest_budget", largest_budget)
  if not largest_budget > 0.0:
    raise ValueError(f"largest_budget must be positive, got {largest_budget}")
  return largest_budget


def moments(w: Array, count: int) -> list[Array]:
  """M_0 … M_{count−1} at w ≥ 0 (∞ allowed), each of the shape of w.

  For w ≥ 2 by the recursion M_j = 1 − (j/w) M_{j−1}. For w < 2 the recursion subtracts nearly equal
  numbers; there by the series of M_j.
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


def frame_moments(
    prediction: Prediction, variable: Variable, here: Level, after: Level, kappa: Array, count: int
) -> list[Array]:
  """M_j = ∫ ϑ^j dc of each step, j < count, ϑ from 0 to 1 in `variable`; by Gauss–Legendre.

  The frame in which a prediction y alone moves the state, and its clock c:

    d(x/σ) = x₀ d(1/ρ)      d(x/α) = ε dρ      d(x/(α + σ)) = (ε − x₀) d(ρ/(1 + ρ))

  The moments of x₀ are scaled by ρ at the end of the step and damped by the noise:
  ∫ κ e^{−κ(ℓ′ − ℓ)} ϑ^j dℓ, κ = w/h = 1 + Λ/h.

  Args:
    here, after: where the n steps begin and end. Pure noise and the clean end are allowed unless
      `variable` is ℓ.
    kappa: κ (n,), used for x₀ alone.

  Returns:
    M_0 … M_{count−1}, (n,) each.
  """
  xp = splitting.namespace(here.half_log_snr)
  nodes, gauss = np.polynomial.legendre.leggauss(_QUADRATURE)
  u, gauss = 0.5 * (nodes + 1.0)[None], 0.5 * gauss[None]
  ell, ell_s = here.half_log_snr[:, None], after.half_log_snr[:, None]
  rho, rho_s = xp.exp(-ell), xp.exp(-ell_s)
  if prediction == "x0":
    # ρ = ρ′/s with s from e^{−h} to 1, in which the measure is κ s^{κ−1} ds.
    first = xp.exp(ell - ell_s)
    s = first + (1.0 - first) * u
    between = rho_s / s
    measure = (1.0 - first) * gauss * kappa[:, None] * s ** (kappa[:, None] - 1.0)
  elif prediction == "eps":
    between, measure = rho + (rho_s - rho) * u, (rho_s - rho) * gauss
  else:
    # ρ/(1 + ρ) keeps its digits where ρ is small, 1/(1 + ρ) where it is large.
    noise, signal, noise_s, signal_s = (
        1.0 / (1.0 + xp.exp(level)) for level in (ell, -ell, ell_s, -ell_s))
    change = xp.where(ell_s < 0.0, signal - signal_s, noise_s - noise)
    between = (noise + change * u) / (signal - change * u)
    measure = change * gauss
  start, end = value(variable, ell), value(variable, ell_s)
  # Both ends may round to one value, such as α at small ρ: the step then has one node, and M_0.
  span = xp.where(end == start, 1.0, end - start)
  theta = (value(variable, -xp.log(between)) - start) / span
  return [measure.sum(1), *((measure * theta**j).sum(1) for j in range(1, count))]


def frame_size(prediction: Prediction, level: Level) -> Array:
  """k of the frame x/k of a prediction: α for ε, α + σ for the velocity; x₀ is scaled by α."""
  return level.alpha + level.sigma if prediction == "velocity" else level.alpha


def value(variable: Variable, ell: Array) -> Array:
  """The variable of the polynomial at ℓ: ℓ itself, α = 1/√(1 + ρ²), or the angle atan ρ."""
  xp = splitting.namespace(ell)
  if variable == "half_log_snr":
    return ell
  rho = xp.exp(-ell)
  return xp.arctan(rho) if variable == "angle" else 1.0 / xp.hypot(1.0, rho)


def weights(values: Sequence[Array], nodes: Sequence[Array]) -> list[Array]:
  """c_i with Σ c_i θ_i^j = M_j: the integral of each Lagrange polynomial.

  Args:
    values: M_j, at least as many as there are nodes; arrays of one shape.
    nodes: θ_i, distinct, of that shape.

  Returns:
    c_i in the order of the nodes, of that shape.
  """
  result = []
  for i, here in enumerate(nodes):
    polynomial, scale = [1.0], 1.0
    for other in (*nodes[:i], *nodes[i + 1:]):
      # Multiply by (θ − other); coefficients from the constant term up.
      raised, lowered = [0.0, *polynomial], [*(-other * c for c in polynomial), 0.0]
      polynomial = [a + b for a, b in zip(raised, lowered, strict=True)]
      scale = scale * (here - other)
    result.append(sum(c * m for c, m in zip(polynomial, values, strict=False)) / scale)
  return result
