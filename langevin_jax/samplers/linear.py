"""Methods of one call a step: STEP, multistep and UniPC; Euler's and Adams' are in own_time.py.

All are one linear update of what is known at a level,

  x′ = a x + Σ b_j s_j + c ξ,   s = q D + p x the slope remembered, newest first,

and a method is its numbers, made for all steps in float64 on the host. A corrector takes the slope
at the point that was predicted, which the next step needs anyway, and adds Σ (b*_j − b_j) s_j of
the last step, at no extra call. Exponential integrators of x₀ remember D itself.

Where an end of a step is infinitely far in ℓ (α = 0, or the clean end) a method takes STEP, which
is exact there, and history does not reach across — unless what it remembers is finite at that end
too, and constant for a point: then nothing diverges and nothing is biased either.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_jax import splitting
from langevin_jax.paths import Path
from langevin_jax.samplers import exponential
from langevin_jax.samplers.history import age_of, corrector_weights, lagrange, reach, settle
from langevin_jax.samplers.levels import (
  Level,
  Method,
  check_order,
  check_stochasticity,
  memoised,
  numbers,
  pick,
  spend,
)


class Numbers(NamedTuple):
  """x′ = a x + Σ b_j s_j + c ξ with s = q D + p x, after a correction by Σ fix_j s_j where due.

  b (n, k) and fix (n, k + 1) belong to slopes from the newest on; fix and fixed are None where
  nothing is corrected, p and q where D itself is remembered.
  """

  level: Level
  a: Any
  b: Any
  c: Any
  p: Any = None
  q: Any = None
  fix: Any = None
  fixed: Any = None


@memoised
def ddim(stochasticity: splitting.Stochasticity = 0.0) -> Method:
  """STEP(h, η²h) from level to level: 0 is DDIM, 1 the DDPM posterior, any η between.

  One call per step, order 1 (theory.md#step). For a callable η(ℓ), Λ = ∫η² dℓ. In ρ it is Euler's
  method.

  Raises:
    ValueError: η < 0.
  """
  return multistep(1, stochasticity)


@memoised
def multistep(
    order: int = 2, stochasticity: splitting.Stochasticity = 0.0, *,
    prediction: exponential.Prediction = "x0",
    variable: exponential.Variable = "half_log_snr",
    midpoint: bool = False, largest_budget: float = np.inf,
) -> Method:
  """Exponential multistep: DPM-Solver++(2M, 3M) at η = 0, SDE-DPM-Solver++ at any η.

  One call per step. The polynomial through the last `order` predictions is integrated exactly
  against the drift, the noise is exact (Lu et al. 2022, §5; Xue et al. 2023, eq. 14). Order 1 is
  `ddim`. Order 3 starts with a corrected first step, without which it would be of order 2; order 4
  with two, which leave it of order 3 with the constant of 4. A step looks at fewer slopes where
  more would multiply rounding by more than some hundreds (samplers/history.py).

  Args:
    order: 1, 2, 3 or 4. stochasticity: η. With noise the differences of D hold that noise too, and
      the law is too wide at few steps: `singlestep` has the table, and what to take instead.
    prediction: what is a polynomial: "x0", as in DPM-Solver++; "eps", as in DEIS (Zhang & Chen
      2023); "velocity", ε − x₀, as in Adams–Bashforth on rectified flow. The last two for η = 0.
    variable: in which it is one: ℓ, as published; "alpha", 1/√(1 + ρ²), in which D is linear along
      the flow of standard normal data; "angle", atan ρ. The last two also go through the infinite
      steps: from pure noise, and to the clean end, where x₀ is then extrapolated from the last
      values and not merely the last D.
    midpoint: where there are two nodes, M₀/2 in the place of M₁: DPM-Solver++(2M) and its SDE as
      published, and UniPC with B₂(h) = e^h − 1.
    largest_budget: Λ of a step is at most this: every η(ℓ) has the same marginals.

  Which is best, experiments/benchmarks/solvers.py says: with few steps "velocity" in "angle" on the
  grid `shifted`, "eps" or "velocity" in ℓ on Karras et al.'s; with many, x₀ of order 3 as well.

  Raises:
    ValueError: order not 1, 2, 3 or 4; η < 0; an unknown prediction or variable, or a prediction
      that does not take noise; a grid of fewer steps than the order; largest_budget not positive.
  """
  return _exponential("multistep", order, stochasticity, prediction, variable, midpoint,
                      largest_budget, corrector=order - 1 if order > 2 else 0, starts=order - 2)


@memoised
def unipc(
    order: int = 2, stochasticity: splitting.Stochasticity = 0.0, *,
    prediction: exponential.Prediction = "x0",
    variable: exponential.Variable = "half_log_snr",
    midpoint: bool = False, largest_budget: float = np.inf,
) -> Method:
  """Predictor of `order`, corrector of order + 1, at one call per step (Zhao et al. 2023, UniPC).

  The corrector reuses the prediction at the predicted point, so orders 1, 2, 3 of the predictor
  converge with order 2, 3 and (the first step being what it is) 3. With η > 0, predictor and
  corrector share the noise (Xue et al. 2023, SA-Solver). Options and errors are `multistep`'s.
  """
  return _exponential("unipc", order, stochasticity, prediction, variable, midpoint,
                      largest_budget, corrector=order + 1)


def _exponential(
    name: str, order: int, stochasticity, prediction, variable, midpoint, largest_budget, *,
    corrector: int, starts: float = np.inf,
) -> Method:
  """The predictor of `order`; `corrector` nodes correct it, or the first `starts` steps alone."""
  check_order(order, 4 if name == "multistep" else 3)
  check_stochasticity(stochasticity)
  exponential.check_options(prediction, variable, largest_budget)
  if prediction != "x0" and not splitting.is_zero(stochasticity):
    raise ValueError(f"stochasticity needs prediction 'x0', got {prediction!r}")
  through = variable != "half_log_snr"  # … the infinite steps
  rule = {"midpoint": midpoint}

  def plan(levels: Level, path: Path) -> Numbers:
    steps(levels, order, f"{name}(order={order})")
    budget, root = spend(levels, stochasticity, path, largest_budget)
    here, after = pick(levels, slice(-1)), pick(levels, slice(1, None))
    h = np.diff(levels.half_log_snr)
    finite = np.isfinite(h)
    noise, clean = ~finite & (here.alpha == 0.0), ~finite & (here.alpha > 0.0)
    # The frame of x₀ does not end at pure noise, to which `encode` may climb.
    clean = clean & ((after.alpha > 0.0) | (prediction != "x0"))
    # Steps taken in the prediction's own frame; others are STEP, and remember D.
    inside = finite | (through & (clean | (noise & (prediction != "eps"))))
    # The frame of x₀ has no end at pure noise: its first step from there is STEP as well.
    fixable = np.append(False, (finite | (inside & (prediction == "velocity")))[:-1])

    def clocks(xp, budget):
      """Where each step begins and how long it is, in what the polynomial is one in."""
      if through:
        clock, end = (exponential.value(variable, level.half_log_snr) for level in (here, after))
        return end - clock, clock
      if prediction == "x0":
        # The clock u = ℓ + Λ; infinite steps are of no length in it, for nothing reaches across.
        width = xp.where(finite, h + budget, xp.inf)
        return width, xp.cumsum(xp.where(finite, width, 0.0)) - xp.where(finite, width, 0.0)
      return h, here.half_log_snr

    size = {"x0": lambda level: level.alpha, "eps": lambda level: level.alpha,
            "velocity": lambda level: level.alpha + level.sigma}[prediction]
    count = max(order, corrector)

    def frame(xp, budget):
      """The moments, width and clock of each step, in the prediction's frame."""
      width, clock = clocks(xp, budget)
      if prediction == "x0" and not through:
        return exponential.moments(width, count), width, clock
      kappa = xp.where(finite, 1.0 + budget / xp.asarray(h), 1.0)
      return (exponential.frame_moments(prediction, variable, here, after, kappa, count),
              width, clock)

    age = age_of(inside & (h != 0.0))
    with np.errstate(all="ignore"):
      width, clock = clocks(np, budget if isinstance(budget, np.ndarray) else 0.0)
      able = reach(width, clock, age, count)
    known = np.where(inside, np.minimum(able, order), 1)
    fixed = np.where(((age > 0) & (age <= starts)) & fixable,
                     np.minimum(1 + np.append(1, able[:-1]), corrector), 0)
    if prediction != "x0":
      with np.errstate(all="ignore"):
        moments, width, clock = frame(np, budget)
        rows = [lagrange(moments, width, clock, np.minimum(known, k), order, **rule)
                for k in range(1, order + 1)]
        fixes = [corrector_weights(moments, width, clock, clock, np.minimum(fixed, k), k, **rule)
                 for k in range(1, corrector + 1)]
        noise_after = after.sigma / size(after)
      known, fixed = settle(rows, fixes, known, fixed, np.ones(len(h)),
                            1.0 / here.sigma, noise_after)
      # x − σε is D, and better said so where ρ is great: the same but for rounding.
      inside = inside & ~(clean & (known == 1) & (fixed == 0) & (here.sigma > here.alpha))

    def make(xp, here, after, budget, root):
      a, b, c = splitting.weights(here.alpha, here.sigma, after.alpha, after.sigma, budget, root)
      if order == 1 and not corrector and prediction == "x0":
        return a, b[:, None], c, None
      moments, width, clock = frame(xp, budget)
      if prediction != "x0":
        a = xp.where(inside, size(after) / size(here), a)
      rows = size(after)[:, None] * lagrange(moments, width, clock, known, order, **rule)
      alone = xp.where(np.arange(order) == 0, b[:, None], 0.0)
      rows = xp.where((inside & (finite | (age > 0) | (prediction != "x0")))[:, None], rows, alone)
      if not corrector:
        return a, rows, c, None
      fix = size(here)[:, None] * corrector_weights(
          moments, width, clock, clock, fixed, corrector, **rule)
      return a, rows, c, xp.where((fixed > 0)[:, None], fix, 0.0)

    with np.errstate(all="ignore"):
      a, b, c, fix = numbers(make, here, after, budget, root)
    slope = {}
    if prediction != "x0":
      # ε = (x − αD)/σ, and less D the velocity.
      q = -here.alpha / here.sigma - (prediction == "velocity")
      slope = {"p": np.where(inside, 1.0 / here.sigma, 0.0), "q": np.where(inside, q, 1.0)}
    return Numbers(here, a, b, c, fix=fix, fixed=fixed > 0 if corrector else None, **slope)

  made = method(plan, stochasticity, history=max(order, corrector) - 1, corrects=corrector > 0)
  # Where inpainting moves the state, differences of D are its pull; those of ε and the velocity,
  # which hold the state as well, are not.
  misled = prediction == "x0" and (order > 1 or corrector)
  return made._replace(without_history=ddim(stochasticity)) if misled else made


def steps(levels: Level, order: int, name: str) -> int:
  """The number of steps; ValueError where it is below the order of the method."""
  n = len(levels.t) - 1
  if n < order:
    raise ValueError(f"{name} needs a grid of at least {order} steps, got {n}")
  return n


def method(plan, stochasticity, *, history: int = 0, corrects: bool = False) -> Method:
  """A method of the module's equation that remembers `history` slopes."""
  noisy = not splitting.is_zero(stochasticity)

  def init(x):
    zero = jnp.zeros_like(x)
    return (zero if corrects else (), (zero,) * history)

  def step(draw, x, carry, model, n):
    denoised = model(x, n.level)
    moved, past = carry
    slopes = (denoised if n.q is None else n.q * denoised + n.p * x, *past)
    if corrects:
      # As an increment: what others did to x at this level, correctors or inpainting, is kept.
      x = jnp.where(n.fixed, x + (weigh(n.fix, slopes) - moved), x)
    moved = weigh(n.b, slopes)
    x_s = n.a * x + moved
    x_s = x_s + n.c * draw(0) if noisy else x_s
    return x_s, denoised, (moved if corrects else (), slopes[:history])

  return Method(plan, init, step, stochasticity)


def weigh(weights: jax.Array, slopes: Sequence[jax.Array]) -> jax.Array:
  """Σ b_j s_j; no dot product, which an accelerator would round to fewer bits."""
  return sum(weights[j] * slopes[j] for j in range(len(weights)))
