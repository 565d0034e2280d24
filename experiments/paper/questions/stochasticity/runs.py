"""Runs of question 2: processes with different η(ℓ), as sampler plans of one shape."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import trained
from experiments.paper.exact import plane, planned
from experiments.sampling import drawing
from langevin_jax import mixtures, paths, samplers, splitting

RHO_MIN, RHO_MAX = 0.01, 80.0
_MARKS = 8  # levels even in ℓ at which laws are compared, besides the end
STRIDES = (1, 2, 4, 8, 16, 32)


class Process(NamedTuple):
  """η for ρ in (low, high), and 0 outside."""

  name: str
  eta: float
  low: float = 0.0
  high: float = math.inf

  def stochasticity(self) -> splitting.Stochasticity:
    """η as samplers take it: a number, or a function of ℓ for a window."""
    constant = self.eta == 0.0 or (self.low, self.high) == (0.0, math.inf)
    return self.eta if constant else _windowed(self.eta, self.low, self.high)

  def noise(self) -> float:
    """2 ∫ η²σ² dℓ with σ at unit scale: the quadratic variation per coordinate."""
    low, high = max(self.low, RHO_MIN), min(self.high, RHO_MAX)
    return self.eta**2 * math.log((1.0 + high**2) / (1.0 + low**2))


@functools.cache  # equal windows are one object, so that plans are cached
def _windowed(eta, low, high):
  return lambda ell: jnp.where((jnp.exp(-ell) > low) & (jnp.exp(-ell) < high), eta, 0.0)


PROCESSES = (
    *(Process(f"η = {eta:g}", eta) for eta in (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)),
    Process("η = 1 at high noise", 1.0, 2.0),
    Process("η = 1 in the middle", 1.0, 0.2, 2.0),
    Process("η = 1 at low noise", 1.0, 0.0, 0.2))
# The processes whose quality with few calls is measured.
JUDGED = tuple(i for i, p in enumerate(PROCESSES) if p.eta in (0.0, 0.5, 1.0, 1.5, 2.0))
ODE = 0
METHODS = ("STEP", "SDE-2M")  # multistep of order 1 and 2
_SHOWN = (0.0, 0.5, 1.0, 2.0)


def network(model: trained.Model) -> planned.At:
  """D of the trained network, by state at unit scale and ℓ."""
  def at(x, ell):
    labels = jnp.zeros((len(x),), jnp.int32)
    return drawing.denoiser(model.run, model.params, paths.cosine(), labels).at(x, ell)

  return at


def fine(key, at: planned.At, steps: int, n: int, *, pairs: bool) -> dict[str, np.ndarray]:
  """All processes on a fine grid, by `singlestep(2)`, which has order 2 for every η.

  Returns, at unit scale:
    start (E, n, 2). marks (E, _MARKS + 1, n, 2), the end last, at ells (_MARKS + 1,). again
    (E, n, 2): ends from the same starts with other noise. length, variation (E, strides, n): Σ‖Δx‖
    and Σ‖Δx‖² of states `strides` steps apart.
  """
  path, grid = paths.cosine(), samplers.uniform_half_log_snr(
      steps + 1, rho_min=RHO_MIN, rho_max=RHO_MAX)
  make = functools.partial(samplers.singlestep, 2)
  plans = planned.stacked([planned.plan(path, make(p.stochasticity()), grid) for p in PROCESSES])
  places = np.append(steps * np.arange(1, _MARKS + 1) // _MARKS, steps + 1)

  def one(given):
    plan, key = given
    key_start, key_noise, key_again = jax.random.split(key, 3)
    start = plan.levels.sigma[0].astype(jnp.float32) * jax.random.normal(key_start, (n, 2))
    walk = lambda key, keep: planned.run(plan, key, at, shape=(n, 2), method=make(1.0),
                                         initial=start, keep=keep)
    x = walk(key_noise, True).x
    moves = [jnp.linalg.norm(jnp.diff(x[:steps + 1:stride], axis=0), axis=-1)
             for stride in STRIDES]
    return {"start": start, "marks": x[places], "length": jnp.stack([m.sum(0) for m in moves]),
            "variation": jnp.stack([(m**2).sum(0) for m in moves]),
            **({"again": walk(key_again, False)} if pairs else {})}

  keys = jax.random.split(key, len(PROCESSES))
  made = jax.tree.map(np.asarray, jax.jit(lambda p, k: jax.lax.map(one, (p, k)))(plans, keys))
  return {**made, "ells": plans.levels.half_log_snr[0][places]}


def quality(key, at, calls: int, batches: int, each: int, judge) -> np.ndarray:
  """Sliced W₂ of samples to the data, (methods, processes, batches), with the same noise."""
  grid = samplers.karras(calls, rho_min=RHO_MIN, rho_max=RHO_MAX)

  def plan(order, process):
    made = planned.plan(paths.cosine(), samplers.multistep(order, process.stochasticity()), grid)
    # One program for both: STEP is a multistep method whose second weight is 0.
    b = np.pad(made.numbers.b, ((0, 0), (0, 2 - order)))
    return made._replace(numbers=made.numbers._replace(b=b))

  plans = planned.stacked([plan(order, PROCESSES[i]) for order in (1, 2) for i in JUDGED])
  one = lambda plan: planned.run(
      plan, key, at, shape=(batches * each, 2), method=samplers.multistep(2, 1.0))
  x = np.asarray(jax.jit(lambda plans: jax.lax.map(one, plans))(plans))
  found = [[planned.distance(judge.exact, x) for x in np.split(row, batches)] for row in x]
  return np.array(found).reshape(2, len(JUDGED), batches)


def pictures(key, at: planned.At, truth: mixtures.Mixture) -> dict[str, Any]:
  """Trajectories from the same starts with the same noise for several η, and the density."""
  n, steps = 4, 300
  grid = samplers.uniform_half_log_snr(steps, rho_min=RHO_MIN, rho_max=RHO_MAX)
  plans = planned.stacked([planned.plan(paths.cosine(), samplers.ddim(eta), grid)
                           for eta in _SHOWN])
  angle = 2.0 * np.pi * (np.arange(n) + 0.4) / n
  start = 1.2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
  one = lambda plan: planned.run(plan, key, at, shape=(n, 2), method=samplers.ddim(1.0),
                                 initial=start, keep=True).x
  x = jax.jit(lambda plans: jax.lax.map(one, plans))(plans)
  return {"etas": _SHOWN, "x": np.round(np.asarray(x), 3),
          **plane.contours(truth, -math.log(RHO_MIN), 65)}
