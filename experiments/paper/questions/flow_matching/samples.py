"""Samples of the networks of question 4: curvature of trajectories, quality by calls."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import curves, planned
from experiments.paper.exact.estimates import estimate
from experiments.paper.questions.flow_matching.heads import ARMS, NATIVE, RHO_MIN, Trained
from experiments.paper.questions.flow_matching.readings import HEADS
from langevin_jax import mixtures, paths, predictions, samplers

RHO_TOP = 80.0  # start of the samplers, within the levels of training
MEASURES = ("turning", "excess length", "unevenness")
OWN, FIRST, SECOND, EXACT = "own time", "DDIM", "UniPC", "exact score"


def at_of(trained: Trained, row: predictions.Row, params: Any) -> planned.At:
  """D of a member's network, by state at unit scale and ℓ."""
  network = lambda x, ell: trained.apply(params, x, ell, jnp.zeros((len(x),), jnp.int32))
  return predictions.denoiser(network, paths.cosine(), prediction=row).at


def bends(
    trained: Trained, truth: mixtures.Mixture, key: jax.Array, *, n: int, steps: int, seeds: int
) -> dict[str, Any]:
  """Curvature measures of the ODE's trajectories from n states, in the state space of each path.

  Returns:
    By path of `curves.PATHS` and measure: the median over trajectories (some chords are near 0) of
    the networks (arms, seeds) and of the exact score, and the error of the latter by ten groups.
  """
  grid = samplers.uniform_half_log_snr(steps, rho_min=RHO_MIN, rho_max=RHO_TOP)
  method = samplers.singlestep(2)
  plan = planned.plan(paths.cosine(), method, grid)
  start = jnp.float32(plan.levels.sigma[0]) * jax.random.normal(key, (n, 2))

  def walk(at, plan, start):
    run = planned.run(plan, jax.random.key(0), at, shape=(n, 2), method=method, initial=start,
                      keep=True)
    return run.x, run.denoised

  walks = trained.many.each(lambda row, seed, params, plan, start: walk(
      at_of(trained, row, params), plan, start))
  x, denoised = walks(trained.many.members, trained.params, plan, start)
  exact = jax.jit(lambda plan, start: walk(
      mixtures.denoiser(truth, paths.cosine()).at, plan, start))(plan, start)
  ells = jnp.asarray(plan.levels.half_log_snr, jnp.float32)
  found: dict[str, Any] = {}
  for name, path in curves.PATHS.items():
    curve = jax.jit(lambda x, d, path=path: _along(path, ells, x, d))
    rows = [_measures(curve(*pair)) for pair in zip(x, denoised, strict=True)]
    medians = np.array([[np.median(values) for values in row] for row in rows])
    reference = [estimate(np.median(values.reshape(10, -1), axis=1))
                 for values in _measures(curve(*exact))]
    found[name] = {
        measure: {"network": medians[:, i].reshape(len(ARMS), seeds), "exact": reference[i][0],
                  "exact_error": reference[i][1]} for i, measure in enumerate(MEASURES)}
  return found


def _along(path: paths.Path, ells: jax.Array, x: jax.Array, denoised: jax.Array) -> curves.Curves:
  """Curves (steps + 1, n, 2) at unit scale, converted to the states and time of a path."""
  def one(x, ell):
    t = path.time(ell)
    return t, jnp.hypot(path.alpha(t), path.sigma(t)) * x

  t, x_t = jax.vmap(one)(x, ells)
  velocity = jax.vmap(lambda d, x, t: predictions.convert(
      d, x, t, path, source="x0", target="velocity"))(denoised, x_t[:-1], t[:-1])
  return curves.Curves(t, x_t, velocity)


def _measures(curve: curves.Curves) -> tuple[np.ndarray, ...]:
  found = curves.geometry(jax.tree.map(lambda a: np.asarray(a, np.float64), curve))
  return found.turning, found.length / found.chord - 1.0, found.unevenness


def quality(
    trained: Trained, truth: mixtures.Mixture, key: jax.Array, judge: planned.Judge,
    calls: tuple[int, ...], seeds: int,
) -> dict[str, Any]:
  """Sliced W₂ to the data by number of calls, (arms, seeds); of `EXACT` (heads, seeds).

  The samplers are Euler's method in the time of each head's path with the customary levels, and two
  samplers on one grid, which do not depend on the path.
  """
  key_networks, key_exact = jax.random.split(key)
  size, members = judge.size, trained.many.members
  unipc = samplers.unipc(2, prediction="velocity", variable="angle")

  def drawn(method):
    def draw(row, seed, given):
      params, plans = given
      key = jax.random.fold_in(key_networks, seed)
      return jax.lax.map(lambda plan: planned.run(
          plan, key, at_of(trained, row, params), shape=(size, 2), method=method), plans)

    return trained.many.each(draw)

  # One program for Euler and DDIM: both are a linear update of a slope.
  first_order, second_order = drawn(samplers.euler()), drawn(unipc)
  at = mixtures.denoiser(truth, paths.cosine()).at
  exact = jax.jit(lambda plans: jax.lax.map(lambda plan: planned.run(
      plan, key_exact, at, shape=(seeds * size, 2), method=samplers.euler()), plans))
  judged = lambda x: np.array(
      [planned.distance(judge.exact, part) for part in x]).reshape(-1, seeds)
  found: dict[str, dict[str, Any]] = {name: {} for name in (OWN, FIRST, SECOND, EXACT)}
  for n in calls:
    own = {head: _own(head, n) for head in HEADS}
    grid = samplers.karras(n, rho_min=RHO_MIN, rho_max=RHO_TOP)
    ddim, second = (planned.plan(paths.cosine(), m, grid) for m in (samplers.ddim(), unipc))
    # DDIM's slope is D itself.
    ddim = ddim._replace(numbers=ddim.numbers._replace(p=np.zeros(n), q=np.ones(n)))
    every = lambda plans: planned.stacked(
        [planned.stacked(plans(arm.head)) for arm in ARMS for _ in range(seeds)])
    x = np.asarray(first_order(members, (
        trained.params, every(lambda head, own=own, ddim=ddim: [own[head], ddim]))))
    found[OWN][str(n)], found[FIRST][str(n)] = judged(x[:, 0]), judged(x[:, 1])
    x = np.asarray(second_order(members, (
        trained.params, every(lambda head, second=second: [second]))))
    found[SECOND][str(n)] = judged(x[:, 0])
    x = np.asarray(exact(planned.stacked([own[head] for head in HEADS])))
    found[EXACT][str(n)] = judged(x.reshape(-1, size, 2))
  return found


def _own(head: str, n: int):
  """Euler's method in the time of the head's path, with steps even in it.

  On VE, whose time is σ, the levels are geometric for the score and Karras' for x₀.
  """
  path = NATIVE[head]
  if head == "x0":
    grid = samplers.karras(n, rho_min=RHO_MIN, rho_max=RHO_TOP)
  elif head == "score":
    grid = samplers.uniform_half_log_snr(n, rho_min=RHO_MIN, rho_max=RHO_TOP)
  else:
    path = path._replace(t_max=float(path.time(-jnp.log(RHO_TOP))))
    grid = samplers.uniform_time(n)
  return planned.plan(path, samplers.euler(), grid)
