"""Question 4: is flow matching simpler? One objective for five predictions.

Measured: the gradients of one network with its output read as score, ε, x₀, v and velocity; the
errors of networks trained with each prediction, with the maximum-likelihood weight and with the
customary one; the curvature of their ODEs; the quality of samples by number of calls.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import plane, planned
from experiments.paper.questions.flow_matching import heads, readings, samples
from experiments.paper.questions.flow_matching.heads import ARMS, CUSTOMARY, RHO_MAX, RHO_MIN, Arm
from experiments.paper.setting import Setting
from langevin_jax import predictions


def measure(setting: Setting) -> dict[str, Any]:
  truth, seeds = setting.density.plane, 2 if setting.fast else 4
  key_x, key_double, key_single, key_judge, key_bends, key_quality = jax.random.split(
      jax.random.key(setting.seed), 6)
  x_0 = np.asarray(plane.data(key_x, truth, (256,)))
  gradients = {"float64": _gradients(key_double, x_0, double=True),
               "float32": _gradients(key_single, x_0, double=False)}
  trained = heads.train(setting, seeds)
  each = 300 if setting.fast else 1000
  judge = planned.judge(truth, key_judge, math.inf, each, repeats=20 if setting.fast else 60)
  calls = (5, 20) if setting.fast else (5, 10, 20, 50, 100)
  return {
      "gradients": gradients, "arms": [list(arm) for arm in ARMS], "heads": readings.HEADS,
      "customs": heads.CUSTOM_NAMES, "seeds": seeds, "steps": trained.steps, "ells": trained.ells,
      "rounding": {kind: _rounding(kind) for kind in gradients},
      "error": trained.error, "gap": trained.gap, "by_level": trained.by_level[-1],
      "scale": trained.scale, **_objectives(setting.fast),
      "bends": samples.bends(trained, truth, key_bends, n=100 if setting.fast else 300,
                             steps=96 if setting.fast else 256, seeds=seeds),
      "quality": samples.quality(trained, truth, key_quality, judge, calls, seeds),
      "calls": calls, "each": each, "floor": judge.floor, "floor_std": judge.floor * judge.std}


def _rounding(kind: str) -> float:
  """A bound on the relative difference of two gradients due to rounding.

  A conversion multiplies rounding errors by up to ρ or 1/ρ (theory.md#predictions). There are two
  conversions for each of two gradients.
  """
  return 4.0 * max(RHO_MAX, 1.0 / RHO_MIN) * float(np.finfo(kind).eps)


def _gradients(key, x_0, *, double: bool) -> dict[str, float]:
  with jax.enable_x64(double):
    return readings.differences(
        key, jnp.asarray(x_0, float), rho_min=RHO_MIN, rho_max=RHO_MAX, double=double)


def _objectives(fast: bool) -> dict[str, Any]:
  """π w of each customary arm as a density of ℓ, and ‖δε‖²/‖δ output‖² = 1/(b − aρ)²."""
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
