"""The numbers of exponential multistep methods, step by step, in float64 on the host.

The update is that of linear.py; its coefficients follow from the weights of exponential.py and
history.py. The methods themselves are in multisteps.py.
"""

from typing import Any, NamedTuple

import numpy as np

from langevin_jax import splitting
from langevin_jax.paths import Path
from langevin_jax.samplers import exponential
from langevin_jax.samplers.budgets import Budgets, limited_budgets
from langevin_jax.samplers.history import (
    StepIntegrals,
    corrector_weights,
    history_lengths,
    limit_extrapolation,
    limit_growth,
    multistep_weights,
)
from langevin_jax.samplers.levels import (
    Level,
    check_steps,
    common_namespace,
    steps_of,
)
from langevin_jax.samplers.linear import Numbers


class Scheme(NamedTuple):
  """The options of a method, as in `multistep`.

  corrector: nodes of the corrector, 0 for none. corrected_steps: how many of the first steps of a
  run are corrected.
  """

  name: str
  order: int
  stochasticity: splitting.Stochasticity
  prediction: exponential.Prediction
  variable: exponential.Variable
  midpoint: bool
  largest_budget: float
  corrector: int
  corrected_steps: float = np.inf

  @property
  def nodes(self) -> int:
    """The largest number of nodes of a polynomial."""
    return max(self.order, self.corrector)

  @property
  def finite_ends(self) -> bool:
    """Whether the variable of the polynomial is finite at ℓ = ±∞."""
    return self.variable != "half_log_snr"


class _Steps(NamedTuple):
  """The n steps of a grid, (n,) each, on the host. `_classify_steps` has the table.

  here, after: where a step begins and ends. h: its length in ℓ. finite: whether that is finite.
  to_clean: infinite steps that do not begin at pure noise.
  polynomial: steps that pass a polynomial through slopes; the others are STEP.
  correctable: steps at whose beginning the step before may be corrected.
  """

  here: Level
  after: Level
  h: np.ndarray
  finite: np.ndarray
  to_clean: np.ndarray
  polynomial: np.ndarray
  correctable: np.ndarray


class _Counts(NamedTuple):
  """How many slopes each step uses, how many its correction (0: none), and which use any."""

  predictor: np.ndarray
  corrector: np.ndarray
  polynomial: np.ndarray


def plan(scheme: Scheme, levels: Level, path: Path) -> Numbers:
  """The numbers of all steps of a run."""
  check_steps(levels, scheme.order, f"{scheme.name}(order={scheme.order})")
  noise = limited_budgets(levels, scheme.stochasticity, path, scheme.largest_budget)
  steps = _classify_steps(scheme, levels)
  with np.errstate(all="ignore"):  # numbers that are not selected may be infinite
    counts = _count_slopes(scheme, steps, noise.budget)
    numbers = _coefficients(scheme, steps, noise, counts)
  if scheme.prediction == "x0":
    return numbers
  # ε = (x − αD)/σ; the velocity is ε − D.
  q = -steps.here.alpha / steps.here.sigma - (scheme.prediction == "velocity")
  return numbers._replace(p=np.where(counts.polynomial, 1.0 / steps.here.sigma, 0.0),
                          q=np.where(counts.polynomial, q, 1.0))


def _classify_steps(scheme: Scheme, levels: Level) -> _Steps:
  """Which steps use a polynomial, and which can be corrected.

  | step | polynomial | next step may correct it |
  |---|---|---|
  | finite | yes | yes |
  | from pure noise | of x₀ or velocity, in α or angle | of the velocity, in α or angle |
  | to the clean end | in α or angle | (there is no next step) |
  | up to pure noise (`encode`) | of ε or velocity, in α or angle | (there is no next step) |

  The other infinite steps are STEP with slope D, which is exact there. The frame of x₀, x/σ, has no
  clock at pure noise to begin a correction with, and that of ε, x/α, is infinite there.
  """
  here, after = steps_of(levels)
  h = np.diff(levels.half_log_snr)
  finite = np.isfinite(h)
  from_noise = ~finite & (here.alpha == 0.0)
  to_clean = ~finite & (here.alpha > 0.0)
  to_clean = to_clean & ((after.alpha > 0.0) | (scheme.prediction != "x0"))
  polynomial = finite | (scheme.finite_ends & (
      to_clean | (from_noise & (scheme.prediction != "eps"))))
  redone = finite | (polynomial & (scheme.prediction == "velocity"))
  return _Steps(here, after, h, finite, to_clean, polynomial, np.append(False, redone[:-1]))


def _lengths(scheme: Scheme, steps: _Steps, budget: Any) -> tuple[Any, Any]:
  """(width, clock): how long each step is and where it begins, in the variable of the polynomial.

  | prediction, variable | clock |
  |---|---|
  | any, "alpha" or "angle" | that variable |
  | any, "step" | the number of the step |
  | "x0", ℓ | u = ℓ + Λ, in which infinite steps have no length: no history crosses them |
  | "eps" or "velocity", ℓ | ℓ |
  """
  xp = splitting.namespace(budget)
  if scheme.variable == "step":
    return np.ones(len(steps.h)), np.arange(len(steps.h), dtype=float)
  if scheme.finite_ends:
    clock, end = (exponential.value(scheme.variable, level.half_log_snr)
                  for level in (steps.here, steps.after))
    return end - clock, clock
  if scheme.prediction == "x0":
    width = xp.where(steps.finite, steps.h + budget, xp.inf)
    finite_width = xp.where(steps.finite, width, 0.0)
    return width, xp.cumsum(finite_width) - finite_width
  return steps.h, steps.here.half_log_snr


def _integrals(scheme: Scheme, steps: _Steps, budget: Any) -> StepIntegrals:
  """The moments of each step in the frame of the prediction.

  With "step" they are those of Adams–Bashforth, M_j = M_0/(j + 1): the measure counts as uniform.
  """
  xp = splitting.namespace(budget)
  width, clock = _lengths(scheme, steps, budget)
  if scheme.prediction == "x0" and not scheme.finite_ends:
    return StepIntegrals(exponential.moments(width, scheme.nodes), width, clock)
  long = steps.finite & (steps.h != 0.0)
  kappa = xp.where(long, 1.0 + budget / xp.asarray(np.where(long, steps.h, 1.0)), 1.0)
  in_steps = scheme.variable == "step"
  moments = exponential.frame_moments(
      scheme.prediction, "half_log_snr" if in_steps else scheme.variable, steps.here, steps.after,
      kappa, 1 if in_steps else scheme.nodes)
  if in_steps:
    moments = [moments[0] / (j + 1) for j in range(scheme.nodes)]
  return StepIntegrals(moments, width, clock)


def _count_slopes(scheme: Scheme, steps: _Steps, budget: Any) -> _Counts:
  """How many slopes each step and its correction use: at most those at hand, and within bounds.

  A budget that is traced counts as 0 here.
  """
  known_budget = budget if splitting.namespace(budget) is np else 0.0
  width, clock = _lengths(scheme, steps, known_budget)
  # Where the ends of a step round to one node it uses one slope, and the next step no history.
  moves = (width != 0.0) & np.append(np.diff(clock) != 0.0, True)
  lengths = history_lengths(steps.polynomial & moves)
  bounded = limit_extrapolation(width, clock, lengths, scheme.nodes)
  predictor = np.where(steps.polynomial & moves, np.minimum(bounded, scheme.order), 1)
  corrected = (lengths > 0) & (lengths <= scheme.corrected_steps) & steps.correctable
  corrector = np.where(
      corrected, np.minimum(1 + np.append(1, bounded[:-1]), scheme.corrector), 0)
  if scheme.prediction == "x0":
    return _Counts(predictor, corrector, steps.polynomial)
  predictor, corrector = _limit_growth(scheme, steps, known_budget, predictor, corrector)
  # To the clean end D itself is x − σε with less rounding where ρ > 1.
  direct = steps.to_clean & (predictor == 1) & (corrector == 0) & (
      steps.here.sigma > steps.here.alpha)
  return _Counts(predictor, corrector, steps.polynomial & ~direct)


def _limit_growth(scheme, steps, budget, predictor, corrector) -> tuple[np.ndarray, np.ndarray]:
  """The counts of slopes that contain the state, within the bound on the growth of errors."""
  integrals = _integrals(scheme, steps, budget)
  rows = [multistep_weights(integrals, np.minimum(predictor, k), scheme.order,
                            midpoint=scheme.midpoint) for k in range(1, scheme.order + 1)]
  fixes = [corrector_weights(integrals, np.minimum(corrector, k), k, midpoint=scheme.midpoint)
           for k in range(1, scheme.corrector + 1)]
  noise_after = steps.after.sigma / exponential.frame_size(scheme.prediction, steps.after)
  return limit_growth(rows, fixes, predictor, corrector, 1.0 / steps.here.sigma, noise_after)


def _coefficients(scheme: Scheme, steps: _Steps, noise: Budgets, counts: _Counts) -> Numbers:
  """a, b, c and b* of every step; slopes that a step does not use have weight 0.

  | step | a | b |
  |---|---|---|
  | STEP | e^{−Λ} σ′/σ | α′ − a α for the newest slope, D |
  | polynomial of x₀ | e^{−Λ} σ′/σ | α′ c_j |
  | polynomial of ε or velocity | k′/k | k′ c_j |
  """
  xp, here, after, budget, root = common_namespace(steps.here, steps.after, *noise)
  a, b, c = splitting.weights(here.alpha, here.sigma, after.alpha, after.sigma, budget, root)
  if scheme.nodes == 1 and scheme.prediction == "x0":
    return Numbers(steps.here, a, b[:, None], c)
  size, size_after = (exponential.frame_size(scheme.prediction, level) for level in (here, after))
  integrals = _integrals(scheme, steps, budget)
  uses_frame = counts.polynomial
  if scheme.prediction != "x0":
    a = xp.where(counts.polynomial, size_after / size, a)
  else:
    # At an infinite step without history the polynomial of D is STEP.
    has_history = history_lengths(steps.polynomial & (steps.h != 0.0)) > 0
    uses_frame = uses_frame & (steps.finite | has_history)
  rows = size_after[:, None] * multistep_weights(
      integrals, counts.predictor, scheme.order, midpoint=scheme.midpoint)
  newest_alone = xp.where(np.arange(scheme.order) == 0, b[:, None], 0.0)
  rows = xp.where(uses_frame[:, None], rows, newest_alone)
  if not scheme.corrector:
    return Numbers(steps.here, a, rows, c)
  fix = size[:, None] * corrector_weights(
      integrals, counts.corrector, scheme.corrector, midpoint=scheme.midpoint)
  fixed = counts.corrector > 0
  return Numbers(steps.here, a, rows, c, fix=xp.where(fixed[:, None], fix, 0.0), fixed=fixed)
