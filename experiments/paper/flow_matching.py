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

from experiments.paper import flow_figures, head_samples, heads, part, planned, readings
from experiments.paper.heads import ARMS, CUSTOMARY, LIKELIHOOD, RHO_MAX, RHO_MIN, Arm
from langevin_jax import predictions

_FLOW, _DDPM = ARMS.index(Arm("velocity", CUSTOMARY)), ARMS.index(Arm("eps", CUSTOMARY))
# Rounding, and ten- to fiftyfold of it by conversions at the noise levels' ends.
_DOUBLE, _SINGLE = 1e-12, 1e-5


def measure(setting: part.Setting) -> part.Findings:
  truth, seeds = setting.density.plane, 3 if setting.fast else 4
  key_double, key_single, key_judge, key_bends, key_quality = jax.random.split(
      jax.random.key(setting.seed), 5)
  gradients = {"float64": _gradients(key_double, truth, double=True),
               "float32": _gradients(key_single, truth, double=False)}
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
  return part.Findings(_claims(data), data, flow_figures.captions(data), _tables(data))


def _gradients(key, truth, *, double: bool) -> dict[str, float]:
  with jax.enable_x64(double):
    key_x, key = jax.random.split(key)
    x_0 = jnp.asarray(np.asarray(truth.sample(key_x, 256)), float)
    return readings.differences(key, x_0, rho_min=RHO_MIN, rho_max=RHO_MAX, double=double)


def _objectives(fast: bool) -> dict[str, Any]:
  """π w of each customary arm as a density of ℓ, and 1/(b − aρ)²: what an output's error costs."""
  ells = np.linspace(-math.log(RHO_MAX), -math.log(RHO_MIN), 181)
  configs = heads.configs(fast=fast)
  cost = {}
  for head in readings.HEADS:
    a, b = jax.vmap(lambda ell, head=head: jnp.stack([
        jnp.asarray(v) for v in predictions.named(head)(predictions.unit_frame(ell))]))(
            jnp.asarray(ells, jnp.float32)).T
    cost[head] = 1.0 / (np.asarray(b) - np.asarray(a) * np.exp(-ells)) ** 2
  return {"axis": ells, "cost": cost, "counted": {
      head: heads.objective(configs[Arm(head, CUSTOMARY)], ells.astype(np.float32))
      for head in readings.HEADS}}


def _claims(data: dict[str, Any]) -> list[part.Claim]:
  double, single = (data["gradients"][name] for name in ("float64", "float32"))
  printed = {name: value for name, value in double.items() if name not in readings.HEADS}
  error, gap = data["error"], data["gap"]
  flat = 1.0 / (data["axis"][-1] - data["axis"][0])
  fall, fall_error = planned.mean_and_error(error[-1] / error[0])
  worst = int(np.argmax(fall))
  others = [i for i in range(len(ARMS)) if i != _FLOW]
  near, near_error = planned.mean_and_error(gap[-1] / np.where(gap[0] > 0.0, gap[0], 1.0))
  farthest = max(others, key=lambda i: near[i])
  triangle = np.sqrt(gap[-1]) / (np.sqrt(error[-1]) + np.sqrt(error[-1, _FLOW]))
  uneven, uneven_error = planned.mean_and_error(data["bends"]["RF"]["unevenness"]["network"][_FLOW])
  straighter, straighter_error = planned.mean_and_error(
      data["bends"]["RF"]["turning"]["network"][_FLOW]
      / data["bends"]["VP"]["turning"]["network"][_DDPM])
  flow, vp = (data["bends"][path]["turning"] for path in ("RF", "VP"))
  turns = flow["exact"] / vp["exact"]
  turns_error = turns * math.hypot(flow["exact_error"] / flow["exact"],
                                   vp["exact_error"] / vp["exact"])
  fewest, exact = next(iter(data["quality"][head_samples.EXACT].items()))
  faster, faster_error = planned.mean_and_error(
      exact[readings.HEADS.index("velocity")] / exact[readings.HEADS.index("eps")])
  customary = [i for i, arm in enumerate(ARMS) if arm.weighting == CUSTOMARY]
  by_one, by_own = (np.ptp(data["quality"][sampler][fewest][customary], axis=0)
                    for sampler in (head_samples.FIRST, head_samples.OWN))
  spread, spread_error = planned.mean_and_error(by_one / by_own)
  name = lambda i: f"{ARMS[i].head}, {ARMS[i].weighting}"
  return [
      part.claim(
          "One network function read as score, ε, x₀, v and velocity has one gradient under the "
          "maximum-likelihood weight: the largest relative difference, in float64",
          max(double[head] for head in readings.HEADS), below=_DOUBLE, source="Tables 5, 6"),
      part.claim("The same in float32, with the library's own MLP", max(single.values()),
                 below=_SINGLE, source="Tables 5, 6"),
      part.claim(
          "The paper's three losses as printed (VP score, VE-Karras noise, rectified-flow "
          "velocity), each in its path's own coordinates and time, have that gradient too",
          max(printed.values()), below=_DOUBLE, source="Table 6", by="paper"),
      part.claim(
          "Score matching's λ = σ² at geometric noise levels is the maximum-likelihood weight: "
          "π w against dℓ is constant, up to",
          np.max(np.abs(data["counted"]["score"] / flat - 1.0)), below=1e-5, source="MATH §5"),
      part.claim(
          "Flow matching's uniform s and v's cosine time count noise levels alike, π w ∝ ρ: these "
          "two objectives differ by the output layer alone; the largest relative difference",
          np.max(np.abs(data["counted"]["velocity"] / data["counted"]["v"] - 1.0)), below=1e-5,
          source="MATH §5"),
      part.claim(
          "Reweighting keeps the optimum: every arm's score error falls with training; the one "
          f"that falls least ({name(worst)}) ends at this share of what it was after a twelfth",
          fall[worst], error=fall_error[worst], below=1.0, source="§5, eq. 18", by="paper"),
      part.claim(
          "All arms approach one function: distances of their ε̂ to flow matching's fall as well; "
          f"that which falls least ({name(farthest)}) to", near[farthest],
          error=near_error[farthest], below=1.0, source="§5", by="paper"),
      part.claim(
          "Flow matching's velocity, converted, differs from every other arm by no more than the "
          "two errors to the exact score add up to: the largest ratio, by the triangle inequality",
          np.max(triangle[others]), below=1.0 + 1e-5, source="Table 5"),
      part.claim(
          "A flow-matching network's trajectories are not straight at constant speed: "
          "∫E‖(x₁ − x₀) − v‖² ds along them, which would be 0", uneven, error=uneven_error,
          above=3.0 * float(uneven_error), source="§5", by="paper"),
      part.claim(
          "Flow matching's trajectories have smaller curvature: the median turning of its networks "
          "in rectified flow, over that of the ε-networks in VP", straighter,
          error=straighter_error, below=1.0, source="§3.3", by="paper"),
      part.claim(
          "The same of the exact score: median turning in rectified flow over that in VP", turns,
          error=turns_error, below=1.0, source="§3.3", by="paper"),
      part.claim(
          f"With the exact score and {fewest} calls, Euler in rectified flow's own time ends "
          "nearer to the data than in DDPM's: the ratio of sliced W₂", faster, error=faster_error,
          below=1.0, source="§3.3", by="paper"),
      part.claim(
          f"At {fewest} calls it is the sampler's path and levels that differ, not what was "
          "learned: the range of sliced W₂ over the five fields' networks, all by DDIM on the same "
          "levels, over that by Euler in each path's own time", spread, error=spread_error,
          below=1.0, source="§3.3", by="paper"),
  ]


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

**What comes out.** The objective is one: gradients agree to rounding, and so do the paper's three
losses. Every arm approaches the same function, at its own pace, which is set by two things that are
not the objective: which noise levels are weighted (left of the first figure), and how much an error
of the output counts as an error of ε (right of it). x₀ is ill conditioned where there is little
noise, and ε says little of x₀ where there is much; velocity and v are neither. Who runs which path
with how many calls is a matter of the sampler and its grid.""")

if __name__ == "__main__":
  part.main(PART)
