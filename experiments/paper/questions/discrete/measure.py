"""Beyond the paper: the same triangle on a finite state space, where no gradient is.

A position forgets its value at random times, and its time reversal guesses it: forward and reverse
processes are chains of jumps. All laws here are vectors over S^L states and all steps matrices, so
that nothing is sampled: the split and its finite step (`triangle`), duality, quality by calls,
the certificate of a trained model (`trained`), and the paper's four questions (`questions`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.questions.discrete import laws, questions, trained
from experiments.paper.questions.discrete.laws import NOISES, Space
from experiments.paper.setting import Setting
from langevin_jax.discrete import samplers, splitting

V, L = 3, 3
ENDS = 5.0, 0.2  # of the runs of duality, in ρ = (1 − α)/α
ETAS = (0.0, 0.5, 1.0, 2.0)
ELLS = (-2.0, 0.0, 2.0)  # levels at which single steps are measured
BUDGETS = 0.64 / 2.0 ** np.arange(6)  # (1 + η²)d of single steps
WINDOW = 1.5  # |ℓ| within which a schedule of remasking has η = 2
BROKEN = 0.5  # power of D of the model that errs where ℓ < 0


def measure(setting: Setting) -> dict[str, Any]:
  data = probabilities(setting.seed)
  counts = (4, 8, 16, 32) if setting.fast else (4, 8, 16, 32, 64, 128)
  spaces = {noise: laws.space(noise, data) for noise in NOISES}
  runners = [laws.Runner(space, METHODS) for space in spaces.values()]
  return {"noises": list(NOISES), "vocabulary": V, "length": L, "etas": ETAS,
          "entropy": spaces["masked"].table.entropy(),
          "split": [_split(space) for space in spaces.values()],
          "composition": [_composition(space) for space in spaces.values()],
          "single": [_single(space) for space in spaces.values()],
          "triangle": [_triangle(noise, setting.seed) for noise in NOISES],
          "duality": _duality(runners, (32, 64, 128)),
          "quality": _quality(runners, counts),
          "trained": [trained.measure(space, setting.seed, setting.fast)
                      for space in spaces.values()],
          "questions": questions.measure(spaces, setting.fast)}


def probabilities(seed: int, vocabulary: int = V, length: int = L) -> np.ndarray:
  """A law in which positions depend on each other, without states that hardly occur."""
  size = vocabulary**length
  law = np.random.default_rng(seed).dirichlet(np.full(size, 0.5))
  return (0.9 * law + 0.1 / size).reshape((vocabulary,) * length)


def _split(space: Space) -> dict[str, Any]:
  """Residuals of rates per unit time, relative to the largest flow p(x)R(x, y): (ELLS, ETAS)."""
  found = {name: np.zeros((len(ELLS), len(ETAS))) for name in ("balance", "law", "reverse", "sum")}

  @jax.jit
  def rates_at(ell):
    level = laws.level(ell)
    log_d, x = space.log_denoised(level), jnp.asarray(space.x)
    of = lambda eta: [rates(x, log_d, level.t) for rates in splitting.split(space.path, eta)]
    return space.marginal(level), [of(eta) for eta in ETAS]

  for i, ell in enumerate(ELLS):
    p, every = rates_at(ell)
    p = np.asarray(p)
    for e, rates in enumerate(every):
      langevin, forward, reverse = map(space.generator, rates)
      flow = p[:, None] * langevin
      size = np.abs(flow).max()
      found["balance"][i, e] = np.abs(flow - flow.T).max() / size
      found["law"][i, e] = np.abs(p @ langevin).max() / size
      found["reverse"][i, e] = np.abs(p @ reverse + p @ forward).max() / size
      found["sum"][i, e] = np.abs(langevin - forward - reverse).max() / np.abs(langevin).max()
  return found


def _composition(space: Space) -> float:
  """Largest residual of STEP(−d, d) then STEP(d, η²d) against STEP(0, (1 + η²)d), one D."""
  size, clean = len(space.path.base), np.random.default_rng(1).dirichlet(np.ones(V))
  x = jnp.arange(size)[:, None]

  @jax.jit
  def residual(ell, d, eta):
    here, there = laws.level(ell), laws.level(ell - d)
    step = lambda a, b, budget: splitting.step(
        x, jnp.broadcast_to(clean, (size, 1, V)), a.alpha, a.sigma, b.alpha, b.sigma, budget,
        space.path)[:, 0]
    both = step(here, there, d) @ step(there, here, eta**2 * d)
    return jnp.abs(both - step(here, here, (1.0 + eta**2) * d)).max()

  return max(float(residual(ell, d, eta))
             for ell in ELLS for d in (0.02, 0.3, 2.0) for eta in ETAS)


def _single(space: Space) -> dict[str, Any]:
  """KL from p after single steps from it, each (ELLS, ETAS, BUDGETS), of budgets (1 + η²)d.

  cycle: a forward, then a reverse step, D anew. langevin: STEP(0, (1 + η²)d). forward: of the
  forward step, from p at ℓ − d. reverse: of the reverse step from p at ℓ − d.
  """
  @jax.jit
  def after(ell, d, eta):
    here, there = laws.level(ell), laws.level(ell - d)
    log_d, log_d_there = space.log_denoised(here), space.log_denoised(there)
    p, noisier = space.marginal(here), space.marginal(there)
    forward = p @ space.step(log_d, here, there, d)
    back = space.step(log_d_there, there, here, eta**2 * d)
    stay = space.step(log_d, here, here, (1.0 + eta**2) * d)
    return p, noisier, {"cycle": forward @ back, "langevin": p @ stay, "reverse": noisier @ back,
                        "forward": forward}

  names = ("cycle", "langevin", "reverse", "forward")
  found = {name: np.zeros((len(ELLS), len(ETAS), len(BUDGETS))) for name in names}
  for (i, e, b), _ in np.ndenumerate(found["cycle"]):
    eta = ETAS[e]
    p, noisier, ends = after(ELLS[i], BUDGETS[b] / (1.0 + eta**2), eta)
    for name in names:
      found[name][i, e, b] = laws.kl(noisier if name == "forward" else p, ends[name])
  return found | {"ells": ELLS, "budgets": BUDGETS}


def _triangle(noise: str, seed: int) -> dict[str, Any]:
  """The joint law of two positions: at ℓ, after a forward, then a reverse, or a Langevin step."""
  ell, d, eta = 0.0, 1.0, 1.0
  space = laws.space(noise, probabilities(seed, V, 2))
  here, there = laws.level(ell), laws.level(ell - d)

  @jax.jit
  def after():
    p, log_d = space.marginal(here), space.log_denoised(here)
    forward = p @ space.step(log_d, here, there, d)
    back = space.step(space.log_denoised(there), there, here, eta**2 * d)
    stay = space.step(log_d, here, here, (1.0 + eta**2) * d)
    return {"p": p, "forward": forward, "reverse": forward @ back, "langevin": p @ stay}

  image = lambda law: np.asarray(law).reshape((len(space.path.base),) * 2)
  return {"ell": ell, "d": d, "eta": eta} | jax.tree.map(image, after())


METHODS = {f"STEP, η = {eta:g}": samplers.step(eta) for eta in ETAS} | {
    f"rates, η = {eta:g}": samplers.tau_leaping(eta) for eta in ETAS} | {
    "η = 2 in the middle": samplers.step(
        lambda ell: jnp.where(jnp.abs(ell) < WINDOW, 2.0, 0.0)),
    "reversal of a position": samplers.ancestral()}
DUALITY = 2 * len(ETAS)  # of METHODS, the first ones
QUALITY = [name for name in METHODS if not name.startswith("rates")]


def _duality(runners: list[laws.Runner], counts: tuple[int, ...]) -> dict[str, Any]:
  """KL(p_t‖law) of reverse runs from p_T at ENDS[0] to ENDS[1], at all levels.

  Returns:
    methods, ell: of the levels of each count. level: for each count (noises, methods, n + 1).
    broken: of STEP with a D that errs where ℓ < 0, at the most steps, (noises, ETAS, n + 1).
  """
  found = [[runs.run(n, ENDS) for runs in runners] for n in counts]
  broken = [runs.run(counts[-1], ENDS, power=BROKEN)[0][:len(ETAS)] for runs in runners]
  return {"methods": list(METHODS)[:DUALITY], "counts": counts, "ends": ENDS, "power": BROKEN,
          "ell": [each[0][1] for each in found], "broken": np.array(broken),
          "level": [[kl[:DUALITY] for kl, _ in each] for each in found]}


def _quality(runners: list[laws.Runner], counts: tuple[int, ...]) -> dict[str, Any]:
  """KL(data‖samples) by the number of calls, from noise alone.

  Returns:
    methods, end (noises, methods, counts). corrected: (calls, KL) of STEP at η = 0 with a Langevin
    step after each step, (noises, counts, 2). unmask: (calls, KL) of unmasking in groups of
    positions.
  """
  rows = [list(METHODS).index(name) for name in QUALITY]
  end = [np.stack([runs.run(n)[0][rows, -1] for n in counts], -1) for runs in runners]
  corrected = [[(2 * n - 1, runs.run(n, correction=1.0)[0][0, -1]) for n in counts]
               for runs in runners]
  masked = runners[0].space
  return {"methods": QUALITY, "counts": counts, "window": WINDOW, "end": np.array(end),
          "corrected": np.array(corrected), "unmask": [
              (n, laws.kl(masked.table.probabilities.ravel(), laws.unmasked(masked, n)))
              for n in range(1, L + 1)]}
