"""Particles of the reverse process in the plane, compared with exact draws by sliced W₂."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.metrics import distances
from experiments.paper.questions.duality.line import ETAS, FEW, PATHS, grid
from experiments.paper.setting import Setting
from langevin_jax import samplers
from langevin_jax.samplers import levels, sampling

LEVELS = 13


def measure(setting: Setting, ends: tuple[float, float]) -> dict[str, Any]:
  """Sliced W₂ at unit scale of particles to exact draws, and of exact draws to exact draws (null).

  Levels are even in ℓ for all paths, so that paths share the null. Steps between levels are even as
  by `grid`. Particles start from exact draws of p_T and move by `multistep(2)`. Distances and null
  use the same draws and directions.

  Returns:
    value, null (paths, ETAS, repeats, LEVELS). broken (repeats, LEVELS): of VP at η = 1 with
    0.8 D, which must be detected. half_log_snr (LEVELS,).
  """
  mixture, n = setting.density.plane, 400 if setting.fast else 2000
  repeats, stride = (2, 4) if setting.fast else (4, 8)
  names = FEW[:3] if setting.fast else tuple(PATHS)
  key, ells = jax.random.key(setting.seed), np.linspace(*-np.log(ends), LEVELS)

  @jax.jit
  def particles(planned, key, strength):
    key_draws, key_run = jax.random.split(key)
    chosen = levels.pick(planned.levels, slice(0, -1, stride))
    first, real, other = _draws(mixture, key_draws, chosen, n)
    states = sampling.run(
        planned, key_run, first[0] * chosen.scale[0], None, shape=(n, 2), keep=True,
        # One program for every η: the numbers of the plan hold the amount of noise.
        method=samplers.multistep(2, 1.0),
        model=lambda x, level: strength * mixture.denoise(x, level.alpha, level.sigma))
    return states.x[:-1:stride] / chosen.scale[:, None, None], real, other

  pairs = list(itertools.pairwise(np.exp(-ells)))
  rho = {name: np.concatenate([*(grid(name, stride, pair)[:-1] for pair in pairs), ends[1:], [0.0]])
         for name in names}

  def compared(name, eta, number, repeat, strength=1.0):
    """Distances of particles and of other draws to exact draws, each (LEVELS,)."""
    planned = sampling.plan(PATHS[name], samplers.multistep(2, eta), lambda path: rho[name])
    x, real, other = map(np.asarray, particles(
        jax.tree.map(jnp.asarray, planned),
        jax.random.fold_in(jax.random.fold_in(key, number), repeat), strength))
    distance = lambda a, i: distances.sliced_wasserstein2(
        real[i], a[i], seed=setting.seed + 1000 * repeat + i, projections=32)
    return [[distance(a, i) for i in range(len(x))] for a in (x, other)]

  made = np.array([[[compared(name, eta, len(ETAS) * p + e, r) for r in range(repeats)]
                    for e, eta in enumerate(ETAS)] for p, name in enumerate(names)])
  broken = np.array([compared("VP", 1.0, len(ETAS) * len(names), r, 0.8)[0]
                     for r in range(repeats)])
  value, null = made[..., 0, :].round(5), made[..., 1, :].round(5)
  return {"half_log_snr": ells, "value": value, "null": null, "broken": broken.round(5), "n": n,
          "steps": stride * (LEVELS - 1), "paths": names, "etas": ETAS}


def _draws(mixture, key, chosen, n):
  """Three independent sets of exact draws at each level, at unit scale: (3, levels, n, d)."""
  def one(key, alpha, sigma):
    key_x, key_eps = jax.random.split(key)
    x_0 = mixture.sample(key_x, n)
    return alpha * x_0 + sigma * jax.random.normal(key_eps, x_0.shape, x_0.dtype)

  keys = jax.random.split(key, (3, len(chosen.alpha)))
  return jax.vmap(jax.vmap(one), (0, None, None))(keys, chosen.alpha, chosen.sigma)
