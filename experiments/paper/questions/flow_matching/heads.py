"""One architecture trained with five predictions (score, ε, x₀, v, velocity) and two weights.

Arms × seeds train in one program (`experiments.sweeping.program`). Every arm is evaluated by the
distance of its ε̂ to the exact ε̂* at the same states.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import build
from experiments.configs import mixture2d
from experiments.paper.exact import plane
from experiments.paper.questions.flow_matching.readings import HEADS
from experiments.paper.setting import Setting
from experiments.run import assembly, meshes
from experiments.sweeping import program
from langevin_jax import mixtures, objectives, paths, predictions

RHO_MIN, RHO_MAX = 0.01, 100.0
LIKELIHOOD, CUSTOMARY = "maximum likelihood", "customary"
_LEVELS = 32

# π and w of the publication of each prediction.
_CUSTOMS: dict[str, dict[str, Any]] = {
    # λ = σ² at geometric noise levels (Song & Ermon 2019).
    "score": {"objective.density": "uniform_half_log_snr", "objective.weight": "simple"},
    # ‖ε − ε̂‖², uniform in DDPM's time (Ho et al. 2020).
    "eps": {"objective.density": "uniform_time", "path": "linear_vp()",
            "objective.weight": "simple"},
    # EDM's λ and log-normal ρ, whose −1.2 is for data of deviation ½ (Karras et al. 2022).
    "x0": {"objective.density": "log_normal_rho", "objective.density.mean": -1.2 + math.log(2.0),
           "objective.density.std": 1.2, "objective.weight": "edm"},
    # ‖v − v̂‖² = (1 + ρ²)‖ε − ε̂‖², uniform in the cosine path's time (Salimans & Ho 2022).
    "v": {"objective.density": "uniform_time", "path": "cosine()", "objective.weight": "edm"},
    # ‖ε − x₀ − v̂‖², uniform in s (Liu et al. 2022; Lipman et al. 2023).
    "velocity": {"objective.density": "uniform_time", "path": "rectified_flow()",
                 "objective.weight": "flow_matching"}}
CUSTOM_NAMES = {
    "score": "λ = σ², geometric σ", "eps": "simple, DDPM's time", "x0": "EDM",
    "v": "1 on v, cosine time", "velocity": "flow matching, uniform s"}
# The path along which each field runs its ODE.
NATIVE = {"score": paths.ve(), "eps": paths.linear_vp(), "x0": paths.ve(), "v": paths.cosine(),
          "velocity": paths.rectified_flow()}


class Arm(NamedTuple):
  head: str
  weighting: str


ARMS = tuple(Arm(head, weighting) for weighting in (LIKELIHOOD, CUSTOMARY) for head in HEADS)


class Trained(NamedTuple):
  """many: the program of all arms × seeds; the seed is the fastest index. params: averages.

  steps (P,): steps of the evaluations. by_level (P, arms, seeds, levels): E‖ε̂ − ε̂*‖² at `ells`.
  error (P, arms, seeds): its integral over ℓ. gap (P, arms, seeds): ∫E‖ε̂ − ε̂′‖² dℓ, ε̂′ of flow
  matching with the same seed. scale: ∫E‖ε̂*‖² dℓ.
  """

  many: program.Program
  apply: Any
  params: Any
  steps: np.ndarray
  ells: np.ndarray
  by_level: np.ndarray
  error: np.ndarray
  gap: np.ndarray
  scale: float


def configs(*, fast: bool) -> dict[Arm, config_lib.Config]:
  """The configs of the arms, which differ in objective and path."""
  base = config_lib.override(mixture2d.get_config(), {
      "objective.density.rho_min": RHO_MIN, "objective.density.rho_max": RHO_MAX,
      "network.depth": 2 if fast else 3, "network.width": 32 if fast else 64,
      "training.batch_size": 64 if fast else 256, "training.steps": 240 if fast else 3000,
      "training.schedule.warmup_steps": 50 if fast else 200,
      "training.ema_half_life_steps": (30.0,) if fast else (150.0,)})
  likelihood = {"objective.density": "uniform_half_log_snr", "objective.weight": "likelihood"}
  return {arm: config_lib.override(base, {"objective.prediction": arm.head, **(
      likelihood if arm.weighting == LIKELIHOOD else _CUSTOMS[arm.head])}) for arm in ARMS}


def objective(config: config_lib.Config, ells: np.ndarray) -> np.ndarray:
  """π(ℓ) w(ℓ), the weight of ‖ε − ε̂‖² in the loss, normalised to a density of ℓ."""
  density = build.density(config.objective, build.path(config.path))
  weight = build.weight(config.objective, density)
  one = lambda ell: density.density(ell) * weight(ell)
  count = np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(ells)))
  return count / np.trapezoid(count, ells)


def train(setting: Setting, seeds: int) -> Trained:
  """Trains all arms and seeds on draws of the density, with 12 evaluations."""
  truth = setting.density.plane
  key_train, key_judge = jax.random.split(jax.random.key(setting.seed))
  draws = np.asarray(plane.data(key_train, truth, (50_000,)), np.float32)
  none = np.zeros(0, np.int32)
  dataset = data.Dataset(draws, none, draws[:0], none, 0, np.zeros(2), np.ones(()), "vector", None,
                         False)
  one = meshes.make(config_lib.Mesh(1, 1, 1), jax.devices()[:1])
  made = {arm: assembly.assemble(config, (2,), 0, one)._replace(dataset=dataset)
          for arm, config in configs(fast=setting.fast).items()}
  many = program.make([(made[arm], setting.seed + i) for arm in ARMS for i in range(seeds)],
                      jax.devices()[:1])
  leader = made[ARMS[0]]
  x, ells, exact, width = _states(truth, key_judge, 64 if setting.fast else 256)

  def predicted(row, seed, params, x, ells):
    del seed
    value = leader.apply(params, x, ells, jnp.zeros((len(x),), jnp.int32))
    return jax.vmap(lambda value, x, ell: predictions.solve(
        value, x, predictions.unit_frame(ell), row)[1])(value, x, ells)

  judge = many.each(predicted)
  states, steps, found = many.init(many.members), [], []
  number = leader.config.training
  every = number.steps // 12
  for end in range(every, number.steps + 1, every):
    batches = [[data.batch(dataset, seed=seed, step=step, batch_size=number.batch_size)
                for step in range(end - every, end)] for seed in many.seeds]
    batches = tuple(np.stack([np.stack([step[i] for step in steps]) for steps in batches])
                    for i in (0, 1))
    states, _ = many.advance(many.members, states, batches)
    eps = np.asarray(judge(many.members, states.ema[0], x, ells))
    steps.append(end)
    found.append(eps.reshape(len(ARMS), seeds, _LEVELS, -1, 2))
  found, exact = np.stack(found), np.asarray(exact).reshape(_LEVELS, -1, 2)
  squared = lambda gap: np.mean(np.sum(gap**2, axis=-1), axis=-1)
  by_level = squared(found - exact)
  flow = found[:, ARMS.index(Arm("velocity", CUSTOMARY))][:, None]
  return Trained(many, leader.apply, states.ema[0], np.array(steps),
                 np.asarray(ells).reshape(_LEVELS, -1)[:, 0], by_level, width * by_level.sum(-1),
                 width * squared(found - flow).sum(-1), float(width * squared(exact).sum()))


def _states(truth: mixtures.Mixture, key: jax.Array, n: int):
  """States (levels · n, 2) at unit scale, their ℓ and exact ε̂*, and the width of a level in ℓ."""
  low, width = objectives.densities.noise_range(RHO_MIN, RHO_MAX)
  levels = low + width * (jnp.arange(_LEVELS) + 0.5) / _LEVELS
  key_x, key_eps = jax.random.split(key)
  x_0 = plane.data(key_x, truth, (_LEVELS, n))
  eps = jax.random.normal(key_eps, x_0.shape)

  def at(x_0, eps, ell):
    frame = predictions.unit_frame(ell)
    x = frame.alpha * x_0 + frame.sigma * eps
    return x, -frame.sigma * truth.score(x, frame.alpha, frame.sigma)

  x, exact = jax.jit(jax.vmap(at))(x_0, eps, levels)
  return x.reshape(-1, 2), jnp.repeat(levels, n), exact.reshape(-1, 2), float(width) / _LEVELS
