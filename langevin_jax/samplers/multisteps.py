"""Exponential multistep methods: DDIM, DPM-Solver++(2M, 3M) and UniPC at any stochasticity.

All are the linear update of linear.py, whose numbers _multistep_plan.py makes.
"""

import functools

import numpy as np

from langevin_jax import _programs, splitting
from langevin_jax.samplers import exponential
from langevin_jax.samplers._multistep_plan import Scheme, plan
from langevin_jax.samplers.levels import Method, check_order, check_stochasticity
from langevin_jax.samplers.linear import linear_method

__all__ = ["ddim", "multistep", "unipc"]


@_programs.memoised
def ddim(stochasticity: splitting.Stochasticity = 0.0) -> Method:
  """DDIM: one call per step, order 1 (Song, Meng & Ermon 2021, eq. 12).

    x′ = α′ D + √(σ′² − s²) ε̂ + s ξ,   ε̂ = (x − α D)/σ,   s = σ′ √(1 − e^{−2Λ})

  Their α is our α², and their η gives s² = η² σ′² (1 − e^{−2h}), h = ℓ′ − ℓ. Here Λ = η² h, or
  ∫η² dℓ for a function η(ℓ): this is STEP(h, Λ) (theory.md#step). The two agree at η = 0, which is
  DDIM, and at η = 1, the ancestral posterior of DDPM. In ρ it is Euler's method.

  Args:
    stochasticity: η ≥ 0: a number, a function of ℓ, or an array that may be traced.

  Raises:
    ValueError: η < 0.
  """
  return multistep(1, stochasticity)


@_programs.memoised
def multistep(
    order: int = 2, stochasticity: splitting.Stochasticity = 0.0, *,
    prediction: exponential.Prediction = "x0",
    variable: exponential.Variable = "half_log_snr",
    midpoint: bool = False, corrected_start: bool = True, largest_budget: float = np.inf,
) -> Method:
  """DPM-Solver++(2M) and its relatives of order 1 to 4; one call per step.

  Algorithm 2 of Lu et al. 2022 (DPM-Solver++), with h = ℓ′ − ℓ and r = h_before/h:

    for each step from ℓ to ℓ′:
      D_c = (1 + 1/(2r)) D − 1/(2r) D_before        (D at the first step)
      x′ = (σ′/σ) x + α′ (1 − e^{−h}) D_c

  That is `multistep(2, midpoint=True)`. The default integrates the polynomial through the last
  `order` values of D exactly against the drift instead, w φ₂(−w) in the place of (1 − e^{−h})/2.
  With η > 0, h is replaced by w = (1 + η²) h and exact noise is added: SDE-DPM-Solver++ (Xue et al.
  2023, eq. 14). Order 1 is `ddim`. Orders 3 and 4 correct their first step, or their first two;
  without that, order 3 would converge with order 2. Order 4 converges with order 3 and a smaller
  constant. A step uses fewer values where more would multiply rounding (history.py).

  Args:
    order: 1, 2, 3 or 4.
    stochasticity: η, as in `ddim`. Differences of D then contain noise, and the law is too wide at
      few steps: `singlestep` has the table, and the method to use instead.
    prediction: what is a polynomial: "x0", as in DPM-Solver++; "eps", as in DEIS (Zhang & Chen
      2023); "velocity", ε − x₀, as in Adams–Bashforth on rectified flow. The last two need η = 0.
    variable: of the polynomial: "half_log_snr", ℓ, as published; "alpha", 1/√(1 + ρ²), in which D
      is linear along the flow of standard normal data; "angle", atan ρ; "step", the number of the
      step, with the weights of Adams–Bashforth, as in PNDM (Liu et al. 2022). All but ℓ are finite
      at the ends: a step from pure noise or to the clean end uses the polynomial too, where with ℓ
      it is STEP.
    midpoint: steps of two nodes use M₀/2 in the place of M₁: DPM-Solver++(2M) and its SDE as
      published; for `unipc` it is B₂(h) = e^h − 1.
    corrected_start: whether orders 3 and 4 correct their first steps. Without it they begin with
      lower orders, as published: `multistep(4, prediction="eps", variable="step",
      corrected_start=False)` is iPNDM (Zhang & Chen 2023). With few steps that may be better.
    largest_budget: Λ of a step is at most this; every η(ℓ) has the same marginals.

  experiments/benchmarks/solvers.py compares the choices. With few steps the best are "velocity" in
  "angle" or "alpha" on the grid `shifted`, and "velocity" in ℓ or "step" on `karras`; with many
  steps x₀ in ℓ of order 4 is as good.

  Raises:
    ValueError: order not 1, 2, 3 or 4; η < 0; an unknown prediction or variable, or η > 0 with a
      prediction other than "x0"; a grid of fewer steps than the order; largest_budget ≤ 0.
  """
  check_order(order, 4)
  return _exponential(Scheme(
      "multistep", order, stochasticity, prediction, variable, midpoint, largest_budget,
      corrector=order - 1 if order > 2 and corrected_start else 0, corrected_steps=order - 2))


@_programs.memoised
def unipc(
    order: int = 2, stochasticity: splitting.Stochasticity = 0.0, *,
    prediction: exponential.Prediction = "x0",
    variable: exponential.Variable = "half_log_snr",
    midpoint: bool = False, largest_budget: float = np.inf,
) -> Method:
  """UniPC: a predictor of `order` and a corrector of order + 1 (Zhao et al. 2023).

  One call per step: the corrector reuses the prediction at the predicted point. Predictors of
  orders 1, 2, 3 converge with order 2, 3 and 3; the last is limited by its first step. With η > 0
  predictor and corrector share the noise (Xue et al. 2023, SA-Solver). Options and errors are those
  of `multistep`.
  """
  check_order(order)
  return _exponential(Scheme(
      "unipc", order, stochasticity, prediction, variable, midpoint, largest_budget,
      corrector=order + 1))


def _exponential(scheme: Scheme) -> Method:
  """The method of a scheme, after a check of its options."""
  check_stochasticity(scheme.stochasticity)
  scheme = scheme._replace(largest_budget=exponential.check_options(
      scheme.prediction, scheme.variable, scheme.largest_budget))
  if scheme.prediction != "x0" and not splitting.is_zero(scheme.stochasticity):
    raise ValueError(f"stochasticity needs prediction 'x0', got {scheme.prediction!r}")
  method = linear_method(functools.partial(plan, scheme), scheme.stochasticity,
                         history=scheme.nodes - 1, corrects=scheme.corrector > 0)
  # Inpainting moves the state at every level. That changes differences of D, but not those of ε
  # and the velocity in the same way: they contain the state.
  misled = scheme.prediction == "x0" and scheme.nodes > 1
  return method._replace(without_history=ddim(scheme.stochasticity)) if misled else method
