"""Exponential singlestep methods, DPM-Solver++(2S, 3S), as tables of stages (staged.py)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from langevin_jax import _programs, splitting
from langevin_jax.paths import Path
from langevin_jax.samplers import exponential
from langevin_jax.samplers.budgets import Budgets, limited_budgets
from langevin_jax.samplers.levels import (
    Level,
    Method,
    check_order,
    check_stochasticity,
    common_namespace,
    shift_levels,
    steps_of,
)
from langevin_jax.samplers.staged import (
    Row,
    Stages,
    kick_levels,
    stage_table,
    staged_method,
    where_on_host,
)

__all__ = ["singlestep"]


@_programs.memoised
def singlestep(
    order: int = 2, stochasticity: splitting.Stochasticity = 0.0, *,
    prediction: exponential.Prediction = "x0", midpoint: bool = False,
    largest_budget: float = np.inf,
) -> Method:
  """DPM-Solver++(2S, 3S): `order` calls per step, for any η (Lu et al. 2022).

  DPM-Solver++(2S) with its intermediate point in the middle, h = ℓ′ − ℓ:

    x_1 = (σ_1/σ) x + α_1 (1 − e^{−h/2}) D(x)             at ℓ_1 = ℓ + h/2
    x′ = (σ′/σ) x + α′ (1 − e^{−h}) D(x_1)

  That is `singlestep(2, midpoint=True)`; the default integrates the line through D(x) and D(x_1)
  exactly. Stages lie at 0; at 0, ½; or at 0, ⅓, ⅔ of a step in ℓ. η > 0 adds the exact forward
  kernel by Λ before the step: the weak order is `order` for every η.

  With noise, a step that goes back and forth by more than about 1 in ℓ loses spread.
  `singlestep(3, η, largest_budget=0.5)` keeps the law at every η. Standard deviations of
  N(.7, .3²) on `karras(10)` and `karras(20)`:

  | steps | 10, η = 0 | 10, 1 | 10, 5 | 20, η = 0 | 20, 1 | 20, 5 |
  |---|---|---|---|---|---|---|
  | ddim | .213 | .173 | .157 | .255 | .223 | .182 |
  | multistep(2) | .401 | .484 | .711 | .328 | .397 | 1.05 |
  | multistep(2, midpoint) | .342 | .332 | .320 | .317 | .336 | .347 |
  | multistep(3) | .439 | .869 | 2.26 | .284 | .289 | 4.22 |
  | unipc(2) | .409 | .492 | .711 | .318 | .393 | 1.05 |
  | singlestep(2) | .289 | .234 | .002 | .297 | .286 | .002 |
  | singlestep(3) | .300 | .290 | .002 | .300 | .301 | .004 |
  | singlestep(2, largest_budget=.5) | .289 | .279 | .279 | .297 | .291 | .291 |
  | singlestep(3, largest_budget=.5) | .300 | .301 | .301 | .300 | .301 | .301 |

  Args:
    order: 1, 2 or 3. stochasticity: η ≥ 0: a number, a function of ℓ, or an array.
    prediction: what is a polynomial in ℓ: "x0"; "eps", which is DPM-Solver; or "velocity".
    midpoint: steps of two nodes use M₀/2 in the place of M₁, as DPM-Solver(++)-2 is published.
    largest_budget: Λ of a step is at most this; every η(ℓ) has the same marginals.

  Raises:
    ValueError: order not 1, 2 or 3; η < 0; an unknown prediction; largest_budget ≤ 0.
  """
  check_order(order)
  check_stochasticity(stochasticity)
  largest_budget = exponential.check_options(prediction, "half_log_snr", largest_budget)
  nodes = (0.0, 0.5) if order == 2 else (0.0, 1.0 / 3.0, 2.0 / 3.0)[:order]

  def plan(levels: Level, path: Path) -> Stages:
    finite = np.isfinite(np.diff(levels.half_log_snr))
    noise = limited_budgets(levels, stochasticity, path, largest_budget)
    used = Budgets(*(where_on_host(finite, value, 0.0) for value in noise))
    kick = kick_levels(levels, used, path)
    _, after = steps_of(levels)
    # Infinite steps are STEP: any finite length will do.
    width = where_on_host(finite, after.half_log_snr - kick.hat.half_log_snr, 1.0)
    inner = [shift_levels(kick.hat, node * width, path) for node in nodes[1:]]
    with np.errstate(all="ignore"):
      rows = _singlestep_rows(nodes, prediction, midpoint, kick.hat, inner, after, width)
    return stage_table(levels, kick, inner, rows)

  return staged_method(plan, order, stochasticity, noisy=not splitting.is_zero(stochasticity))


def _singlestep_rows(
    nodes: Sequence[float], prediction: exponential.Prediction, midpoint: bool, hat: Level,
    inner: Sequence[Level], after: Level, width: Any,
) -> list[Row]:
  """One row for each stage, which goes from x̂ to the next node or to the end of the step.

  Stage j uses the slopes at the beginning and at its own node: {0}, {0, ⅓}, {0, ⅔}.
  """
  xp, hat, inner, after, width = common_namespace(hat, list(inner), after, width)
  rows: list[Row] = []
  for stage, target in enumerate((*inner, after)):
    end = nodes[stage + 1] if stage + 1 < len(nodes) else 1.0
    used = sorted({0, stage})
    moments = (exponential.moments(end * width, len(used)) if prediction == "x0" else
               exponential.frame_moments(prediction, "half_log_snr", hat, target,
                                         xp.ones_like(width), len(used)))
    if midpoint and len(used) == 2:
      moments = [moments[0], 0.5 * moments[0]]
    weights = exponential.weights(moments, [xp.full_like(width, nodes[i] / end) for i in used])
    slopes = dict(zip(used, weights, strict=True))
    if prediction == "x0":
      zero = xp.zeros_like(width)
      rows.append(Row(target.sigma / hat.sigma,
                       [target.alpha * slopes.get(i, zero) for i in range(len(nodes))]))
    else:
      rows.append(_slope_row(prediction, (hat, *inner), target, slopes, rows, len(nodes)))
  return rows


def _slope_row(
    prediction: exponential.Prediction, levels: Sequence[Level], target: Level,
    slopes: dict[int, Any], rows: Sequence[Row], stages: int,
) -> Row:
  """The stage x = k′ (x̂/k + Σ c_i s_i) with slopes s_i = p_i x_i + q_i D_i.

  k = α for ε and α + σ for the velocity. x_i is put in from the rows of the stages before, x_0 = x̂.

  Args:
    levels: of each stage. target: where this one ends. slopes: i → c_i. rows: of earlier stages.
  """
  size_s = exponential.frame_size(prediction, target)
  a, b = size_s / exponential.frame_size(prediction, levels[0]), [0.0 * target.alpha] * stages
  for i, c in slopes.items():
    p = 1.0 / levels[i].sigma
    q = -levels[i].alpha * p - (1.0 if prediction == "velocity" else 0.0)
    weight = size_s * c
    a = a + weight * p * (rows[i - 1].a if i else 1.0)
    for k in range(stages):
      earlier = rows[i - 1].b[k] if i else 0.0
      b[k] = b[k] + weight * (p * earlier + (q if k == i else 0.0))
  return Row(a, b)
