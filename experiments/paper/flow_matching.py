"""Question 4: is flow matching simpler? One objective, five readings, and what remains to differ.

Gradients of one network read as score, ε, x₀, v and velocity; the same architecture trained as each
of them, under the maximum-likelihood weight and its field's own; how the trained ODEs bend, and
what they cost.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import flow_figures, head_samples, heads, part, plane, planned, readings
from experiments.paper.heads import ARMS, CUSTOMARY, LIKELIHOOD, RHO_MAX, RHO_MIN, Arm
from langevin_jax import predictions

_FLOW, _DDPM = ARMS.index(Arm("velocity", CUSTOMARY)), ARMS.index(Arm("eps", CUSTOMARY))
# A conversion multiplies rounding by up to ρ or 1/ρ (theory.md#predictions); there and back, for
# two gradients.
_LOST = 4.0 * max(RHO_MAX, 1.0 / RHO_MIN)
_DOUBLE, _SINGLE = (_LOST * float(np.finfo(kind).eps) for kind in (np.float64, np.float32))


def measure(setting: part.Setting) -> part.Findings:
  truth, seeds = setting.density.plane, 3 if setting.fast else 4
  key_x, key_double, key_single, key_judge, key_bends, key_quality = jax.random.split(
      jax.random.key(setting.seed), 6)
  x_0 = np.asarray(plane.data(key_x, truth, (256,)))
  gradients = {"float64": _gradients(key_double, x_0, double=True),
               "float32": _gradients(key_single, x_0, double=False)}
  trained = heads.train(setting, seeds)
  each = 300 if setting.fast else 1000
  judge = planned.judge(truth, key_judge, math.inf, each, repeats=20 if setting.fast else 60)
  calls = (5, 20) if setting.fast else (5, 10, 20, 50, 100)
  data = {
      "gradients": gradients, "arms": [list(arm) for arm in ARMS], "heads": readings.HEADS,
      "customs": heads.CUSTOM_NAMES, "seeds": seeds, "steps": trained.steps, "ells": trained.ells,
      "error": trained.error, "gap": trained.gap, "by_level": trained.by_level[-1],
      "scale": trained.scale, **_objectives(setting.fast),
      "bends": head_samples.bends(trained, truth, key_bends, n=100 if setting.fast else 300,
                                  steps=96 if setting.fast else 256, seeds=seeds),
      "quality": head_samples.quality(trained, truth, key_quality, judge, calls, seeds),
      "calls": calls, "each": each, "floor": judge.floor, "floor_std": judge.floor * judge.std}
  return part.Findings(
      _claims(data), data, flow_figures.captions(data), _tables(data), _answer(data))


def _gradients(key, x_0, *, double: bool) -> dict[str, float]:
  with jax.enable_x64(double):
    return readings.differences(
        key, jnp.asarray(x_0, float), rho_min=RHO_MIN, rho_max=RHO_MAX, double=double)


def _objectives(fast: bool) -> dict[str, Any]:
  """π w of each customary arm as a density of ℓ, and 1/(b − aρ)²: what an output's error costs."""
  ells = np.linspace(-math.log(RHO_MAX), -math.log(RHO_MIN), 181)
  configs = heads.configs(fast=fast)
  cost = {}
  for head in readings.HEADS:
    row = lambda ell, head=head: jnp.stack([
        jnp.asarray(v) for v in predictions.named(head)(predictions.unit_frame(ell))])
    a, b = jax.jit(jax.vmap(row))(jnp.asarray(ells, jnp.float32)).T
    cost[head] = 1.0 / (np.asarray(b) - np.asarray(a) * np.exp(-ells)) ** 2
  return {"axis": ells, "cost": cost, "counted": {
      head: heads.objective(configs[Arm(head, CUSTOMARY)], ells.astype(np.float32))
      for head in readings.HEADS}}


def _claims(data: dict[str, Any]) -> list[part.Claim]:
  double, single = (data["gradients"][name] for name in ("float64", "float32"))
  printed = {name: value for name, value in double.items() if name not in readings.HEADS}
  error, gap = data["error"], data["gap"]
  fall, fall_error = planned.mean_and_error(error[-1] / error[0])
  worst = int(np.argmax(fall))
  others = [i for i in range(len(ARMS)) if i != _FLOW]
  near, near_error = planned.mean_and_error(gap[-1] / np.where(gap[0] > 0.0, gap[0], 1.0))
  farthest = max(others, key=lambda i: near[i])
  uneven, uneven_error = planned.mean_and_error(data["bends"]["RF"]["unevenness"]["network"][_FLOW])
  straighter, straighter_error = planned.mean_and_error(
      data["bends"]["RF"]["turning"]["network"][_FLOW]
      / data["bends"]["VP"]["turning"]["network"][_DDPM])
  turns, turns_error = _turns(data["bends"])
  name = lambda i: f"{ARMS[i].head}, {ARMS[i].weighting}"
  return [
      part.claim(
          "One network function read as score, ε, x₀, v and velocity has one gradient under the "
          "maximum-likelihood weight (largest relative difference, in float64).",
          max(double[head] for head in readings.HEADS), below=_DOUBLE, source="Tables 5, 6"),
      part.claim("The five readings of the library's own MLP have one gradient in float32 too "
                 "(largest relative difference).", max(single.values()),
                 below=_SINGLE, source="Tables 5, 6"),
      part.claim(
          "The paper's three losses as printed (VP score, VE-Karras noise, rectified-flow "
          "velocity), each in its path's own coordinates and time, have that gradient too (largest "
          "relative difference).",
          max(printed.values()), below=_DOUBLE, source="Table 6", by="paper"),
      part.claim(
          "Flow matching's uniform s and v's cosine time count noise levels alike, π w ∝ ρ, so "
          "that their objectives differ by the output layer alone (largest relative difference).",
          np.max(np.abs(data["counted"]["velocity"] / data["counted"]["v"] - 1.0)), below=1e-5,
          source="theory.md#densities-and-weights"),
      part.claim(
          "Whatever the weight and the output, training comes nearer to the exact score (error at "
          f"the end over that after a twelfth, of the arm that gains least, {name(worst)}).",
          fall[worst], error=fall_error[worst], below=1.0, source="§5, eq. 18", by="paper"),
      part.claim(
          "All arms come nearer to one function (distance of their ε̂ to flow matching's at the "
          f"end over that after a twelfth, of the arm that gains least, {name(farthest)}).",
          near[farthest], error=near_error[farthest], below=1.0, source="§5", by="paper"),
      part.claim(
          "A flow-matching network's trajectories are not straight lines at constant speed "
          "(∫E‖(x₁ − x₀) − v‖² ds, which would be 0).", uneven, error=uneven_error,
          above=3.0 * float(uneven_error), source="§5", by="paper"),
      part.claim(
          "Trajectories of flow matching's networks in rectified flow have smaller curvature than "
          "those of ε-networks in VP, the networks' own errors included (ratio of median turnings; "
          f"with the exact score {part.number(turns)}).", straighter,
          error=straighter_error, below=1.0 - 3.0 * straighter_error, source="§3.3", by="paper"),
      part.claim(
          "With the exact score trajectories in rectified flow have smaller curvature than in VP "
          "(ratio of median turnings).", turns, error=turns_error, below=1.0 - 3.0 * turns_error,
          source="§3.3", by="paper"),
  ]


def _turns(bends: dict[str, Any]) -> tuple[float, float]:
  """Median turning in rectified flow over that in VP with the exact score, and an error of it.

  As if the two were independent: too large, if anything, for they start from the same states.
  """
  flow, vp = (bends[path]["turning"] for path in ("RF", "VP"))
  ratio = float(flow["exact"] / vp["exact"])
  return ratio, ratio * math.hypot(flow["exact_error"] / flow["exact"],
                                   vp["exact_error"] / vp["exact"])


def _answer(data: dict[str, Any]) -> str:
  number = part.number
  difference = max(data["gradients"]["float64"].values())
  error = np.array(data["error"])[-1].mean(-1)
  order = np.argsort(error)
  ratio, ratio_error = _turns(data["bends"])
  verdict = ("holds" if ratio < 1.0 - 3.0 * ratio_error else
             "fails" if ratio > 1.0 + 3.0 * ratio_error else "is not decided")
  quality = data["quality"]
  fewest, more, *_ = sorted(quality[head_samples.EXACT], key=int)

  def nearer(calls: str, other: str) -> str:
    """Rectified flow's distance over that of another field's path, exact score, Euler."""
    exact = quality[head_samples.EXACT][calls]
    value, spread = planned.mean_and_error(
        exact[readings.HEADS.index("velocity")] / exact[readings.HEADS.index(other)])
    return f"{number(value)} ± {number(spread, 2)}"

  customary = [i for i, arm in enumerate(ARMS) if arm.weighting == CUSTOMARY]
  means = {name: quality[name][fewest][customary].mean(-1)
           for name in (head_samples.FIRST, head_samples.OWN)}
  span = {name: f"{number(v.min(), 2)} to {number(v.max(), 2)}" for name, v in means.items()}
  return (
      f"{'No' if difference < _DOUBLE else 'That is not shown'}: under the maximum-likelihood "
      "weight one network has the same gradient whether it is read as score, ε, x₀, v or velocity "
      f"(to {number(difference, 2)}, the paper's three losses included). What differs is how the "
      "field weighs noise levels and what its output layer has to represent: of one architecture "
      f"trained in {len(ARMS)} ways the score error ends between {number(error.min())} and "
      f"{number(error.max())} nats, flow matching as it is customary at {number(error[_FLOW])}, "
      f"rank {1 + list(order).index(_FLOW)}. The advantage that the paper grants it, a smaller "
      f"curvature, {verdict} for this density: with the exact score the median total turning in "
      f"rectified flow is {number(ratio)} ± {number(ratio_error, 2)} times that in VP. Quality at "
      "few calls, of which the paper does not speak, is a matter of path and sampler: with the "
      "exact score Euler in rectified flow's time ends "
      f"{nearer(fewest, 'eps')} times as far from the data as in DDPM's at {fewest} calls and "
      f"{nearer(more, 'eps')} at {more}, and {nearer(fewest, 'v')} times as far as in the cosine "
      f"path's at {fewest}. The five fields' networks end at {fewest} calls at "
      f"{span[head_samples.OWN]} by Euler in their own paths' times, but at "
      f"{span[head_samples.FIRST]} by one sampler on one grid.")


def _tables(data: dict[str, Any]) -> list[part.Table]:
  number = part.number
  rows = [["read as", "float64", "float32"]] + [
      [name, number(value), number(data["gradients"]["float32"][name])
       if name in data["gradients"]["float32"] else ""]
      for name, value in data["gradients"]["float64"].items()]
  cell = lambda values: "{} ± {}".format(*(
      number(v, digits) for v, digits in zip(planned.mean_and_error(values), (3, 2), strict=True)))
  error, gap = data["error"], data["gap"]
  order = np.argsort(error[-1].mean(-1))
  halfway = len(data["steps"]) // 2 - 1
  learned = [["trained as", "weight", "score error after half", "at the end",
              "less flow matching's, by seed", "distance to flow matching's ε̂"]]
  for i in order:
    arm = ARMS[i]
    learned.append([
        arm.head, arm.weighting if arm.weighting == LIKELIHOOD else heads.CUSTOM_NAMES[arm.head],
        cell(error[halfway, i]), f"**{cell(error[-1, i])}**" if i == order[0] else cell(
            error[-1, i]),
        "" if i == _FLOW else cell(error[-1, i] - error[-1, _FLOW]),
        "" if i == _FLOW else cell(gap[-1, i])])
  bent = [["", *(f"{path}, {measure}" for measure in ("turning", "unevenness")
                 for path in ("VP", "VE", "RF"))]]
  columns = [(path, measure) for measure in ("turning", "unevenness")
             for path in ("VP", "VE", "RF")]
  bends = data["bends"]
  bent.append(["exact score", *(
      f"{number(bends[p][m]['exact'])} ± {number(bends[p][m]['exact_error'], 2)}"
      for p, m in columns)])
  for i, arm in enumerate(ARMS):
    bent.append([f"{arm.head}, {arm.weighting}",
                 *(cell(bends[p][m]["network"][i]) for p, m in columns)])
  cost = [["trained as, customary weight", "sampler", *(f"{n} calls" for n in data["calls"])]]
  for name in (head_samples.OWN, head_samples.FIRST, head_samples.SECOND):
    for i, arm in enumerate(ARMS):
      if arm.weighting == CUSTOMARY:
        cost.append([arm.head, flow_figures.SAMPLERS[name],
                     *(cell(data["quality"][name][str(n)][i]) for n in data["calls"])])
  return [
      part.Table("Relative distance of the gradient to that of the ε-reading", rows),
      part.Table(f"∫E‖ε̂ − ε̂*‖² dℓ in nats, of {number(data['scale'])} in all; mean ± standard "
                 f"error over {data['seeds']} seeds, lowest first", learned),
      part.Table("How the ODE's curves bend in each path's state space: medians over curves, ± "
                 "standard error over seeds", bent),
      part.Table(f"Sliced W₂ to the data's law; exact draws have {number(data['floor'])}", cost)]


PART = part.Part(
    name="flow_matching", title="Question 4 — Is flow matching simpler?",
    measure=measure, figures=flow_figures.figures,
    text="""**The paper says** (§5, Table 6) that under the maximum-likelihood objective flow
matching is not simpler than denoising or score matching but the same: its velocity is the score in
another parameterisation. Its advantage is at most a smaller curvature (§3.3).

**Measured**, first: one network function is read as score, ε, x₀, v and velocity by Table 5, and
its gradients under the maximum-likelihood weight are compared. Second: one architecture is trained
as each of the five, from the same parameters, on the same data and with the same optimizer, once
with the maximum-likelihood weight and once as its own field does it. Now the five differ, for what
the output layer has to represent is not the same. All are judged alike, by the score error
∫E‖ε̂ − ε̂*‖² dℓ to the exact score of the mixture, which is what KL(data‖model) is made of. Third:
how straight the trained ODEs are in the state space of each path, and how near samples come to the
data with few calls: by Euler in the time of the field's own path, and by two samplers on one grid
for all. A network knows no path here, so with the second kind of sampler paths have no influence.

**How to read it.** Every arm is to approach the same function, at its own pace, which is set by two
things that are not the objective: which noise levels are weighted (left of the first figure), and
how much an error of the output counts as an error of ε (right of it). x₀ is ill conditioned where
there is little noise, and ε says little of x₀ where there is much; velocity and v are neither.
Score matching's customary weight, λ = σ² at geometric noise levels, is the maximum-likelihood one,
so that its two arms are one.""")

if __name__ == "__main__":
  part.main(PART)
