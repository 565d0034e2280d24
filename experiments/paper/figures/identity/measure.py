"""Figure 1: Langevin dynamics leaves a distribution unchanged (§2, eq. 1).

Measured: the distance between p and the law after n steps, exactly on the line and with particles
in the plane; the correlation of the start and the end of a chain.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import estimates, laws, plane
from experiments.paper.setting import Setting
from langevin_jax import langevin, predictions, splitting

# p is the density at noise level ρ = e^{−ℓ} = 0.22, so that every density has a smooth score.
# The budget Λ is Langevin time in units of σ².
ELL = 1.5
TOTAL = 1.28  # Langevin time over which step sizes are compared, in units of σ²
BUDGETS = 1.28 / 2.0 ** np.arange(8)  # step sizes Λ, each of which divides the total
LINE, PLANE = 0.16, 0.32  # step sizes of the chains whose correlation is measured


def measure(setting: Setting) -> dict[str, Any]:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 256))
  line = _line(setting)
  particles, start = _plane(setting, keys)
  return {"line": line, "plane": particles, "independence": _independence(setting, keys, start),
          "cloud": _cloud(setting, keys, start)}


def _frame():
  return predictions.unit_frame(ELL)[:2]


def _variance() -> float:
  """σ² at ELL, the unit of Langevin time."""
  return float(_frame()[1]) ** 2


def _nodes(setting):
  return laws.nodes(setting.density.line, 501 if setting.fast else 901, reach=8.0)


def _line(setting):
  """Exact KL(p‖law) after 1, 2, 4, … steps of each size, for both first-order methods."""
  mixture = setting.density.line
  budgets = BUDGETS[[0, 2, 4, 5, 6]] if setting.fast else BUDGETS
  x = _nodes(setting)
  p = laws.exact(mixture, ELL, x)
  steps = 2 ** np.arange(int(np.log2(TOTAL / budgets[-1])) + 1)
  result = {"budgets": budgets, "steps": steps, "time": TOTAL, "total": {}}
  for name in ("euler", "exact"):
    result[name] = []
    for budget in budgets:
      after = laws.repeated(p, mixture, ELL, _numbers(name, budget), x, steps=int(steps[-1]))
      result[name].append([laws.kl(mixture, ELL, laws.fresh(x, after[n - 1])) for n in steps])
    # After Langevin time TOTAL.
    result["total"][name] = [
        kl[int(np.log2(TOTAL / budget))] for kl, budget in zip(result[name], budgets, strict=True)]
  return result


def _numbers(name, budget):
  """(a, b, c) of one step x′ = a x + b D + c ξ; Euler's has the score (α D − x)/σ² of p."""
  alpha, sigma = map(float, _frame())
  if name == "euler":
    return 1.0 - budget, budget * alpha, np.sqrt(2.0 * budget) * sigma
  return splitting.weights(alpha, sigma, alpha, sigma, budget)


METHODS = {
    "euler": lambda sigma, budget, log_prob: langevin.euler(budget * sigma**2),
    "exact": lambda sigma, budget, log_prob: langevin.exact(sigma, budget),
    "midpoint": lambda sigma, budget, log_prob: langevin.midpoint(sigma, budget),
    "baoab": lambda sigma, budget, log_prob: langevin.baoab(
        jnp.sqrt(2.0 * budget) * sigma, jnp.inf),
    "mala": lambda sigma, budget, log_prob: langevin.mala(log_prob, budget * sigma**2),
}


def moved(key, x, mixture, budget, steps, *, name):
  """x after `steps` steps of Langevin time budget · σ² each by one of METHODS, (…, 2)."""
  # One program for every size and number of steps.
  return _moved(key, x, mixture, np.float64(budget), np.int64(steps), name=name)


@functools.partial(jax.jit, static_argnames="name")
def _moved(key, x, mixture, budget, steps, *, name):
  level = _frame()
  method = METHODS[name](level[1], budget, lambda x: mixture.log_prob(x, *level))
  score = lambda x: mixture.score(x, *level)
  key_start, key = jax.random.split(key)
  carry = method.init(lambda i: jax.random.normal(jax.random.fold_in(key_start, i), x.shape), x,
                      score)
  step = lambda i, state: langevin.run(
      jax.random.fold_in(key, i), state[0], score, method, steps=1, carry=state[1])
  return jax.lax.fori_loop(0, steps, step, (x, carry))[0]


def _states(keys, x, mixture, budget, steps, name):
  """The states after each of an increasing sequence of numbers of steps."""
  states = []
  for count in np.diff(steps, prepend=0):
    x = moved(next(keys), x, mixture, budget, count, name=name)
    states.append(x)
  return states


def _plane(setting, keys):
  """Sliced W₂ from fresh draws to particles before and after a Langevin time."""
  mixture = setting.density.plane
  n, repeats, projections = (800, 5, 48) if setting.fast else (3000, 12, 96)
  budgets = BUDGETS[:6:2] if setting.fast else BUDGETS[:6]
  names = ("euler", "mala") if setting.fast else tuple(METHODS)
  real, start = (plane.draws(next(keys), mixture, ELL, (repeats, n)) for _ in range(2))
  apart = lambda x: plane.apart(real, x, seed=setting.seed, projections=projections)
  floor = apart(start)
  result = {"budgets": budgets, "repeats": repeats, "null": floor.mean(),
            "null_spread": floor.std(ddof=1), "methods": {}, "by_steps": []}
  for name in names:
    found = np.array([apart(moved(next(keys), start, mixture, budget, round(TOTAL / budget),
                                  name=name)) for budget in budgets]).T
    # With the same start and fresh set, most of the noise cancels.
    result["methods"][name] = estimates.named("distance", found) | estimates.named(
        "gain", found - floor[:, None])
  steps = 2 ** np.arange(7)
  for budget in budgets[[0, -1]]:
    found = np.array([apart(x) for x in _states(keys, start, mixture, budget, steps, "euler")]).T
    result["by_steps"].append(
        {"budget": budget, "steps": steps, **estimates.named("distance", found)})
  return result, np.asarray(start)


def _independence(setting, keys, start):
  """Corr(start, end) by Langevin time: for a Gaussian, on the line and in the plane."""
  times = 2.0 ** np.arange(-6, 4 if setting.fast else 6)  # Langevin time, data variance 1
  return {"times": times, "line_step": LINE, "plane_step": PLANE,
          **_gaussian_correlation(next(keys), start, times),
          "expected": np.exp(-times), **_line_correlation(setting, times[-1]),
          **_plane_correlation(setting.density.plane, keys, start, times)}


def _gaussian_correlation(key, like, times):
  """Measured on N(0, I), for which STEP(0, Λ) with σ = 1 is exact."""
  @jax.jit
  def advanced(key, x, gap):
    return langevin.chain(key, x, lambda x: -x, langevin.exact(1.0, gap), steps=1)

  key_start, key = jax.random.split(key)
  start = x = jax.random.normal(key_start, like.shape)
  found = []
  for i, gap in enumerate(np.diff(times, prepend=0.0)):
    x = advanced(jax.random.fold_in(key, i), x, gap)
    found.append(np.mean(plane.correlation(start, x)))
  # The standard error of a correlation r of N pairs is (1 − r²)/√N.
  return {"gaussian": np.array(found),
          "gaussian_error": (1.0 - np.exp(-2.0 * times)) / np.sqrt(start.size)}


def _line_correlation(setting, longest):
  """By quadrature: after n moves q of the signed density x p(x), ∫ x q dx = E[x₀ xₙ]."""
  mixture, x = setting.density.line, _nodes(setting)
  p = laws.exact(mixture, ELL, x)
  time_step = LINE * _variance()
  steps = int(longest / time_step)
  run = lambda law: laws.repeated(law, mixture, ELL, _numbers("exact", LINE), x, steps=steps)
  product = run(p._replace(density=x * p.density)) @ (x * p.weight)
  var = run(p) @ (x**2 * p.weight)
  start = float(jnp.sum(x**2 * p.density * p.weight))
  shown = np.unique(np.geomspace(1, steps, 60).astype(int)) - 1
  return {"line_time": time_step * (shown + 1),
          "line": np.asarray(product / jnp.sqrt(start * var))[shown]}


def _plane_correlation(mixture, keys, start, times):
  """With mala in the plane: correlation, and the share of particles that change component."""
  time_step = PLANE * _variance()
  steps = np.unique(np.maximum(np.round(times / time_step), 1).astype(int))
  states = _states(keys, start, mixture, PLANE, steps, "mala")
  was, now = _component(mixture, start), np.array([_component(mixture, x) for x in states])
  share = np.bincount(was.ravel()) / was.size
  return {"plane_time": time_step * steps,
          **estimates.named("plane", np.array([plane.correlation(start, x) for x in states]).T),
          **estimates.named("crossed", np.mean(now != was, axis=-1).T),
          "crossed_independent": 1.0 - np.sum(share**2)}


@jax.jit
def _component(mixture, x):
  """The component with the largest posterior probability, for each particle."""
  one = lambda x: jnp.argmax(mixture.posterior(x, *_frame()).weights)
  return jnp.vectorize(one, signature="(d)->()")(x)


def _cloud(setting, keys, start):
  """Particles before and after, on the contours of p."""
  steps = 64
  end = moved(next(keys), start, setting.density.plane, PLANE, steps, name="mala")
  flat = lambda x: np.asarray(x).reshape(-1, 2)[:1500].round(4)
  return {"before": flat(start), "after": flat(end), "budget": PLANE, "steps": steps,
          **estimates.named("correlation", plane.correlation(start, end)),
          "contours": plane.contours(setting.density.plane, ELL)}
