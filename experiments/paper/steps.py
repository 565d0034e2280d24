"""Figures 3 and 4: one forward, one reverse and one Langevin step, and that they compose (§3).

The paper splits dx = s dτ + √2 dW into a forward and a reverse part, at infinitesimal steps (eq. 4,
Fig. 4). Measured: STEP's composition law at finite steps, where D is held fixed, to rounding; and
how far the law is from p where D is taken afresh, as samplers do, exactly on the line.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import laws, part, plane, steps_pictures
from langevin_jax import predictions, splitting

ETAS = (0.0, 0.5, 1.0, 2.0)
TOTAL = 1.28  # Langevin budget over which step sizes are compared

TEXT = """**The paper's claim (§3, eq. 4, Figures 3 and 4).** A forward step adds noise and takes \
p_t to p_{t+Δt}; a reverse step takes it back; one after the other they are a Langevin step, the \
identity. The paper shows it for infinitesimal steps.

**What is measured.** In half log-SNR ℓ the steps are STEP(−d, d), STEP(d, η²d) and \
STEP(0, (1+η²)d): a change of level, and a budget Λ of Langevin time. With the denoised estimate D \
held fixed the first two compose to the third **exactly**, at any size: the numbers of x′ = a x + \
b D + c ξ are compared, and the noise of samples. A sampler takes D afresh, at the point and level \
it has come to. Then the law is no longer exactly p. How far it is, is computed on the line by \
quadrature, without Monte Carlo: one step's density is wrong by Λ² and so its KL by Λ⁴; many steps \
that together use a given budget are wrong by Λ, their KL by Λ².

**How to read it.** Solid lines are a forward and then a reverse step, dashed ones the Langevin \
step of the same budget. Both fall with the same slopes. The forward step alone makes no error."""


def measure(setting: part.Setting) -> part.Findings:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 8))
  numbers, samples = _composed_numbers(), _composed_samples(setting, next(keys))
  single = _single(setting)
  many = _many(setting)
  data = {"triangle": _triangle(setting, keys), "single": single, "many": many}
  captions = {
      "triangle": f"At ℓ = {data['triangle']['ell']}, with d = {data['triangle']['d']} and η = "
      f"{data['triangle']['eta']}: p_ℓ, the cloud that a forward step makes of it, and what a "
      "reverse step makes of that; below, what a single Langevin step makes of the first. "
      "Contours are the exact densities of the levels; large dots follow a few particles.",
      "distance": "Exact KL from p_ℓ on the line against the budget Λ = (1+η²)d, by η (colours). "
      "Left and middle: after one step, from p_ℓ itself, at two levels; dotted is slope 4. Right: "
      f"after as many steps as use a budget of {TOTAL}; dotted is slope 2. Solid: forward and then "
      "reverse, D taken afresh; dashed: the Langevin step STEP(0, Λ).",
      "parts": "What each step does by itself, on the line. Left: KL from p_{ℓ−d} to the law after "
      "the forward step (rounding), and from p_ℓ to the law after a reverse step that starts at "
      "p_{ℓ−d}, by η. Right: the densities for the largest step.",
  }
  return part.Findings(
      [*_composition_claims(numbers, samples), *_order_claims(single, many)],
      data, captions, tables=[_table(numbers)])


def composed(first, second):
  """The numbers (a, b, c) of two steps x′ = a x + b D + c ξ in a row, with one D."""
  a, b, c = first
  a_2, b_2, c_2 = second
  return a_2 * a, a_2 * b + b_2, np.hypot(a_2 * c, c_2)


def step_numbers(ell: float, ell_s: float, budget: float):
  """(a, b, c) of STEP between two levels of the unit frame, in float64 on the host."""
  frame = lambda ell: np.sqrt([1.0 / (1.0 + np.exp(-2.0 * ell)), 1.0 / (1.0 + np.exp(2.0 * ell))])
  return splitting.weights(*frame(ell), *frame(ell_s), budget)


def _composed_numbers():
  """For each η the worst residual in (a, b, c) over levels and sizes."""
  found = {}
  for eta in ETAS:
    rows = []
    for ell in np.linspace(-4.0, 4.0, 9):
      for d in (0.01, 0.1, 1.0, 3.0):
        pair = composed(step_numbers(ell, ell - d, d), step_numbers(ell - d, ell, eta**2 * d))
        rows.append(np.abs(np.subtract(pair, step_numbers(ell, ell, (1.0 + eta**2) * d))))
    found[eta] = np.max(rows, axis=0)
  return found


def _composed_samples(setting, key):
  """z-scores of the noise of two steps with one D, in units of the one step's c: N(0, 1)?"""
  n, d, ell = (20_000 if setting.fast else 200_000), 0.5, 0.5
  here, there = predictions.unit_frame(ell), predictions.unit_frame(ell - d)

  @jax.jit
  def noise(key, x, denoised, eta):
    key_down, key_up = jax.random.split(key)
    down = splitting.step(key_down, x, denoised, *here[:2], *there[:2], d)
    up = splitting.step(key_up, down, denoised, *there[:2], *here[:2], eta**2 * d)
    a, b, c = splitting.weights(*here[:2], *here[:2], (1.0 + eta**2) * d)
    return (up - a * x - b * denoised) / c

  key_x, key_d, *keys = jax.random.split(key, 2 + len(ETAS))
  x, denoised = jax.random.normal(key_x, (n,)), jax.random.normal(key_d, (n,))
  scores = []
  for eta, key in zip(ETAS, keys, strict=True):
    xi = np.asarray(noise(key, x, denoised, eta))
    # Mean 0, variance 1, and nothing to do with x or D.
    scores += [np.sqrt(n) * np.mean(xi), np.sqrt(n / 2.0) * (np.mean(xi**2) - 1.0),
               np.sqrt(n) * np.mean(xi * np.asarray(x)),
               np.sqrt(n) * np.mean(xi * np.asarray(denoised))]
  return np.array(scores)


def _composition_claims(numbers, samples):
  worst = np.max(list(numbers.values()))
  yield part.claim(
      "With D held fixed a forward and a reverse step are one Langevin step, exactly and at any "
      "size (largest residual of a, b, c over 9 levels, 4 sizes and 4 η).",
      worst, below=1e-13, source="§3.2, Fig. 4; theory.md#step")
  i = int(np.argmax(np.abs(samples)))
  yield part.claim(
      "Samples of the two steps with one D are those of the one step: their noise has mean 0, "
      "variance 1 in units of its c, and no correlation with x or D (the largest of "
      f"{len(samples)} standardised deviations).",
      samples[i], error=1.0, near=0.0, sigmas=5.0, source="§3.2, Fig. 4; theory.md#step")


def _table(numbers):
  rows = [["η", "forward", "reverse", "together", "residual a", "residual b", "residual c"]]
  for eta, residual in numbers.items():
    rows.append([f"{eta:g}", "STEP(−d, d)", f"STEP(d, {eta**2:g} d)",
                 f"STEP(0, {1 + eta**2:g} d)", *(part.number(r, 2) for r in residual)])
  return part.Table("Composition of steps with D held fixed: the largest residuals", rows)


def _cycle(law, mixture, ell, d, eta, x):
  """Forward by d, then reverse with D afresh: the law at both ends of the reverse step."""
  down = laws.step(law, mixture, ell, ell - d, d, x)
  return down, laws.step(down, mixture, ell - d, ell, eta**2 * d, x)


def _single(setting):
  """KL after one cycle and one Langevin step, from p_ℓ, and of the cycle's two parts."""
  mixture, x = setting.density.line, laws.nodes(setting.density.line, reach=8.0)
  ells = (0.0, 1.0) if setting.fast else (-1.0, 0.0, 1.0)
  budgets = 0.64 / 2.0 ** np.arange(0, 7, 2 if setting.fast else 1)
  shape = len(ells), len(ETAS), len(budgets)
  forward, cycle, reverse = (np.zeros(shape) for _ in range(3))
  langevin = np.zeros((len(ells), len(budgets)))
  for i, ell in enumerate(ells):
    p = laws.exact(mixture, ell, x)
    for k, budget in enumerate(budgets):
      langevin[i, k] = laws.kl(mixture, ell, laws.step(p, mixture, ell, ell, budget, x))
      for j, eta in enumerate(ETAS):
        d = budget / (1.0 + eta**2)
        down, back = _cycle(p, mixture, ell, d, eta, x)
        noisier = laws.exact(mixture, ell - d, x)
        alone = laws.step(noisier, mixture, ell - d, ell, eta**2 * d, x)
        forward[i, j, k] = laws.kl(mixture, ell - d, down)
        cycle[i, j, k] = laws.kl(mixture, ell, back)
        reverse[i, j, k] = laws.kl(mixture, ell, alone)
  return {"ells": ells, "budgets": budgets, "etas": ETAS, "forward": forward, "cycle": cycle,
          "reverse": reverse, "langevin": langevin,
          "shown": _densities(mixture, ells[-1], budgets[0] / 2.0, x)}


def _densities(mixture, ell, d, x):
  """The picture of one cycle on the line, at η = 1."""
  p = laws.exact(mixture, ell, x)
  down, back = _cycle(p, mixture, ell, d, 1.0, x)
  some = slice(None, None, max(1, len(x) // 400))
  return {"d": d, "x": x[some], "before": p.density[some], "forward": down.density[some],
          "after": back.density[some]}


def _many(setting):
  """KL after as many cycles, or Langevin steps, as use the budget TOTAL, by η and size."""
  mixture, ell = setting.density.line, 0.0
  x = laws.nodes(mixture, 601, reach=8.0)
  counts = (4, 32, 64) if setting.fast else (2, 4, 8, 16, 32, 64, 128)
  p = laws.exact(mixture, ell, x)
  found = {"ell": ell, "total": TOTAL, "budgets": [TOTAL / n for n in counts], "cycle": [],
           "langevin": []}
  for n in counts:
    budget, cycles = TOTAL / n, []
    for eta in ETAS:
      law = p
      for _ in range(n):
        _, law = _cycle(law, mixture, ell, budget / (1.0 + eta**2), eta, x)
      cycles.append(laws.kl(mixture, ell, law))
    law = p
    for _ in range(n):
      law = laws.step(law, mixture, ell, ell, budget, x)
    found["cycle"].append(cycles)
    found["langevin"].append(laws.kl(mixture, ell, law))
  return found


def _farthest(orders, expected):
  return max(orders, key=lambda found: abs(found - expected))


def _order_claims(single, many):
  budgets = single["budgets"]
  yield part.claim(
      "A forward step raises the noise to exactly p_{ℓ−d} (largest KL over levels and sizes, "
      "nats).",
      np.max(single["forward"]), below=1e-9, source="§3.1, Fig. 3")
  for name, called in (
      ("reverse", "A reverse step from p_{ℓ−d} restores p_ℓ up to a KL"),
      ("cycle", "A forward and then a reverse step give back p_ℓ up to a KL"),
      ("langevin", "A Langevin step keeps p_ℓ up to a KL")):
    orders = [laws.order(budgets, row) for row in np.reshape(single[name], (-1, len(budgets)))]
    yield part.claim(
        f"{called} of order 4 in its size (of {len(orders)} cases of level and η the order "
        "farthest from 4).", _farthest(orders, 4.0), near=4.0, tolerance=0.4,
        source="§3.2, eq. 5; theory.md#langevin-dynamics")
  orders = [laws.order(many["budgets"], values) for values in
            [*np.array(many["cycle"]).T, np.array(many["langevin"])]]
  yield part.claim(
      f"Many steps that use a budget of {TOTAL} together leave p_ℓ with a KL of order 2 in the "
      "step's size, whether taken as forward and reverse or as Langevin (the order farthest from "
      "2).", _farthest(orders, 2.0), near=2.0, tolerance=0.2,
      source="§3.2, Fig. 4; theory.md#langevin-dynamics")
  yield part.claim(
      "A forward and a reverse step are the identity at finite steps too, with D taken afresh (KL "
      f"from p_ℓ at the worst level and η, Λ = {budgets[0]:g}, nats).",
      np.max(single["cycle"][:, :, 0]), near=0.0, tolerance=1e-9, source="§3.2, §4, Fig. 4",
      by="paper")


def _triangle(setting, keys):
  """Clouds before, between and after the steps, in the plane."""
  mixture, ell, d, eta = setting.density.plane, 1.0, 0.6, 1.0
  here, there = predictions.unit_frame(ell), predictions.unit_frame(ell - d)
  before = plane.draws(next(keys), mixture, ell, (900,))

  @jax.jit
  def steps(keys, x):
    denoise = lambda x, frame: mixture.denoise(x, frame.alpha, frame.sigma)
    down = splitting.step(keys[0], x, denoise(x, here), *here[:2], *there[:2], d)
    up = splitting.step(keys[1], down, denoise(down, there), *there[:2], *here[:2], eta**2 * d)
    across = splitting.step(keys[2], x, denoise(x, here), *here[:2], *here[:2],
                            (1.0 + eta**2) * d)
    return down, up, across

  between, after, langevin = steps(jnp.stack([next(keys) for _ in range(3)]), before)
  clouds = {"before": before, "between": between, "after": after, "langevin": langevin}
  return {"ell": ell, "d": d, "eta": eta,
          "clouds": {name: np.asarray(x).round(4) for name, x in clouds.items()},
          "here": plane.contours(mixture, ell, 70), "there": plane.contours(mixture, ell - d, 70)}


PART = part.Part(
    name="steps", title="Figures 3 and 4 — a forward, a reverse and a Langevin step", text=TEXT,
    measure=measure, figures=steps_pictures.figures, x64=True)

if __name__ == "__main__":
  part.main(PART)
