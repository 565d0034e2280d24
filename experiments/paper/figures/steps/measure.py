"""Figures 3 and 4: one forward, one reverse and one Langevin step, and their composition (§3).

The paper splits dx = s dτ + √2 dW into an infinitesimal forward and reverse part (eq. 4, Fig. 4).
Measured: the composition of STEP at finite size with D fixed, to rounding; and the distance from p
with D evaluated at each step, as in samplers, exactly on the line.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import laws, plane
from experiments.paper.setting import Setting
from langevin_jax import predictions, splitting

ETAS = (0.0, 0.5, 1.0, 2.0)
TOTAL = 1.28  # Langevin budget over which step sizes are compared


def measure(setting: Setting) -> dict[str, Any]:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 8))
  return {"numbers": _composed_numbers(), "samples": _composed_samples(setting, next(keys)),
          "triangle": _triangle(setting, keys), "single": _single(setting), "many": _many(setting)}


def composed(first, second):
  """The numbers (a, b, c) of two successive steps x′ = a x + b D + c ξ with one D."""
  a, b, c = first
  a_2, b_2, c_2 = second
  return a_2 * a, a_2 * b + b_2, np.hypot(a_2 * c, c_2)


def step_numbers(ell: float, ell_s: float, budget: float):
  """(a, b, c) of STEP between two levels of the unit frame, in float64 on the host."""
  frame = lambda ell: np.sqrt([1.0 / (1.0 + np.exp(-2.0 * ell)), 1.0 / (1.0 + np.exp(2.0 * ell))])
  return splitting.weights(*frame(ell), *frame(ell_s), budget)


def _composed_numbers():
  """The largest residual of (a, b, c) over levels and sizes, by η."""
  def residual(ell, d, eta):
    pair = composed(step_numbers(ell, ell - d, d), step_numbers(ell - d, ell, eta**2 * d))
    return np.abs(np.subtract(pair, step_numbers(ell, ell, (1.0 + eta**2) * d)))

  return {eta: np.max([residual(ell, d, eta) for ell in np.linspace(-4.0, 4.0, 9)
                       for d in (0.01, 0.1, 1.0, 3.0)], axis=0) for eta in ETAS}


def _composed_samples(setting, key):
  """z-scores of the noise of two steps with one D, in units of c of the single step."""
  n, d, ell = (20_000 if setting.fast else 200_000), 0.5, 0.5
  here, there = (predictions.unit_frame(v)[:2] for v in (ell, ell - d))

  @jax.jit
  def noise(key, x, denoised, eta):
    key_down, key_up = jax.random.split(key)
    down = splitting.step(key_down, x, denoised, *here, *there, d)
    up = splitting.step(key_up, down, denoised, *there, *here, eta**2 * d)
    a, b, c = splitting.weights(*here, *here, (1.0 + eta**2) * d)
    return (up - a * x - b * denoised) / c

  key_x, key_d, *keys = jax.random.split(key, 2 + len(ETAS))
  x, denoised = jax.random.normal(key_x, (n,)), jax.random.normal(key_d, (n,))
  scores = []
  for eta, key in zip(ETAS, keys, strict=True):
    xi = np.asarray(noise(key, x, denoised, eta))
    # Mean 0, variance 1, and no correlation with x or D.
    scores += [np.sqrt(n) * np.mean(xi), np.sqrt(n / 2.0) * (np.mean(xi**2) - 1.0),
               np.sqrt(n) * np.mean(xi * np.asarray(x)),
               np.sqrt(n) * np.mean(xi * np.asarray(denoised))]
  return np.array(scores)


def _cycle(law, mixture, ell, d, eta, x):
  """The laws after a forward step d and after the reverse step that follows."""
  down = laws.step(law, mixture, ell, ell - d, d, x)
  return down, laws.step(down, mixture, ell - d, ell, eta**2 * d, x)


def _single(setting):
  """KL after one cycle, after its parts, and after one Langevin step, from p_ℓ."""
  mixture, x = setting.density.line, laws.nodes(setting.density.line, reach=8.0)
  ells = (0.0, 1.0) if setting.fast else (-1.0, 0.0, 1.0)
  budgets = 0.64 / 2.0 ** np.arange(0, 7, 2 if setting.fast else 1)
  kl = lambda ell, law: laws.kl(mixture, ell, law)

  def parts(ell, eta, budget):
    """KL after the forward step, after both, and after the reverse step from p_{ℓ−d}."""
    d = budget / (1.0 + eta**2)
    down, back = _cycle(laws.exact(mixture, ell, x), mixture, ell, d, eta, x)
    noisier = laws.exact(mixture, ell - d, x)
    alone = laws.step(noisier, mixture, ell - d, ell, eta**2 * d, x)
    return kl(ell - d, down), kl(ell, back), kl(ell, alone)

  found = np.array([[[parts(ell, eta, budget) for budget in budgets] for eta in ETAS]
                    for ell in ells])
  return {"ells": ells, "budgets": budgets, "etas": ETAS,
          **dict(zip(("forward", "cycle", "reverse"), np.moveaxis(found, -1, 0), strict=True)),
          "langevin": [[kl(ell, laws.step(laws.exact(mixture, ell, x), mixture, ell, ell, budget,
                                          x)) for budget in budgets] for ell in ells],
          "shown": _densities(mixture, ells[-1], budgets[0] / 2.0, x)}


def _densities(mixture, ell, d, x):
  """The densities of one cycle on the line, at η = 1."""
  p = laws.exact(mixture, ell, x)
  down, back = _cycle(p, mixture, ell, d, 1.0, x)
  some = slice(None, None, max(1, len(x) // 400))
  return {"d": d, "x": x[some], "before": p.density[some], "forward": down.density[some],
          "after": back.density[some]}


def _many(setting):
  """KL after n cycles, or Langevin steps, of total budget TOTAL, by η and size."""
  mixture, ell = setting.density.line, 0.0
  x = laws.nodes(mixture, 601, reach=8.0)
  counts = (4, 32, 64) if setting.fast else (2, 4, 8, 16, 32, 64, 128)

  def repeated(n, step):
    law = laws.exact(mixture, ell, x)
    for _ in range(n):
      law = step(law, TOTAL / n)
    return laws.kl(mixture, ell, law)

  cycle = lambda eta: lambda law, budget: _cycle(
      law, mixture, ell, budget / (1.0 + eta**2), eta, x)[1]
  langevin = lambda law, budget: laws.step(law, mixture, ell, ell, budget, x)
  return {"ell": ell, "total": TOTAL, "budgets": [TOTAL / n for n in counts],
          "cycle": [[repeated(n, cycle(eta)) for eta in ETAS] for n in counts],
          "langevin": [repeated(n, langevin) for n in counts]}


def _triangle(setting, keys):
  """Clouds in the plane before, between and after the steps."""
  mixture, ell, d, eta = setting.density.plane, 1.0, 0.6, 1.0
  here, there = (predictions.unit_frame(v)[:2] for v in (ell, ell - d))
  before = plane.draws(next(keys), mixture, ell, (900,))

  @jax.jit
  def steps(keys, x):
    step = lambda key, x, start, end, budget: splitting.step(
        key, x, mixture.denoise(x, *start), *start, *end, budget)
    down = step(keys[0], x, here, there, d)
    return (down, step(keys[1], down, there, here, eta**2 * d),
            step(keys[2], x, here, here, (1.0 + eta**2) * d))

  between, after, langevin = steps(jnp.stack([next(keys) for _ in range(3)]), before)
  clouds = {"before": before, "between": between, "after": after, "langevin": langevin}
  return {"ell": ell, "d": d, "eta": eta,
          "clouds": {name: np.asarray(x).round(4) for name, x in clouds.items()},
          "here": plane.contours(mixture, ell, 70), "there": plane.contours(mixture, ell - d, 70)}
