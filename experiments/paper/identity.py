"""Figure 1: Langevin dynamics as the identity on a distribution (§2, eq. 1).

The paper: it turns a sample of p into "a new, independent sample from the same distribution".
Measured: the law after n steps against p, exactly on the line and with particles in the plane, as
step size and n vary; and how far the new sample depends on the one that it was made of.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import identity_pictures, laws, part, plane
from langevin_jax import langevin, predictions, splitting

# p is the density with a little noise, ρ = e^{−ℓ} = 0.22: any density then has a smooth score, and
# Λ, Langevin time in units of σ², is small or large for all of them alike.
ELL = 1.5
TOTAL = 1.28  # Langevin time over which step sizes are compared, in units of σ²
BUDGETS = 1.28 / 2.0 ** np.arange(8)  # the step sizes Λ, of which the total is a multiple
LINE, PLANE = 0.16, 0.32  # step sizes of the chains whose memory is measured

TEXT = """**The paper's claim (§2, eq. 1, Fig. 1).** Langevin dynamics dx = s dτ + √2 dW with the \
score s = ∇ log p moves every particle and leaves their density p as it is: an identity on \
distributions, which makes of a sample "a new, independent sample from the same distribution".

**What is measured.** p is the density at half log-SNR ℓ = 1.5, whose noise σ gives the unit of \
Langevin time: Λ = τ/σ². A computer takes finite steps, and then the identity is approximate. On \
the line the law after every step is computed by quadrature, and its KL from p is exact, for the \
Euler step x + δs + √(2δ)ξ and for the Ornstein–Uhlenbeck form STEP(0, Λ). Both are first-order \
methods: the error of the density is proportional to the step, so its KL is to the step's square. \
In the plane particles are moved, by these two and by methods of higher order; the last, mala, \
accepts or refuses each move so that p is kept exactly. Their sliced Wasserstein distance to fresh \
draws is compared with what fresh draws themselves are apart: the **null band**, the floor below \
which nothing can be seen.

**How to read it.** In the first picture the lines join where particles were with where they are: \
every one has moved, and the cloud is to be the same. Distances fall with the step size until they \
meet the band, and grow with the number of steps until the chain has come to the law that it keeps \
in the place of p. The last picture shows what "independent" costs: start and end of a chain are \
correlated, and the correlation falls to nothing only as time grows."""


def measure(setting: part.Setting) -> part.Findings:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 256))
  line = _line(setting)
  particles, start = _plane(setting, keys)
  independence = _independence(setting, keys, start)
  cloud = _cloud(setting, keys, start)
  time = part.number(cloud["steps"] * cloud["budget"])
  claims = [*_order_claims(line), *_plane_claims(particles),
            *_independence_claims(independence, cloud)]
  captions = {
      "identity": f"Left: {len(cloud['before'])} particles of p (contours) before {cloud['steps']} "
      f"Langevin steps (mala) and, middle, after them. Right: start (ring) and end (dot) of a few "
      f"particles, joined. Langevin time {time} σ².",
      "distance": "Top left: exact KL between p and the law on the line after Langevin time "
      f"{TOTAL} σ², against the step size; the slope of KL in the step is 2 for a first-order "
      "method. Top right: the same against the number of steps taken, for Euler's step. Bottom "
      "left: sliced W₂ in the plane after the same Langevin time, against the step size. Bottom "
      "right: the same against the number of Euler steps. Bars are standard errors over "
      f"{particles['repeats']} repeats, the band holds ± 2 standard deviations of the distance "
      "between two fresh sets.",
      "independence": "Correlation of the start of a chain with its end. For a Gaussian it is "
      "e^{−τ/Var}; points are measured, with standard errors. Chains of the density take steps "
      f"of Λ = {part.number(LINE)} on the line and of mala, Λ = {part.number(PLANE)}, in the "
      "plane, by which they forget a little more slowly. Within a mode a particle forgets fast; "
      "of a density with several it remembers the mode until it changes it: the share that is in "
      "another component than at the start (right) comes to that of independent draws (dotted). "
      "Bars of the plane: standard errors over repeats.",
  }
  data = {"line": line, "plane": particles, "independence": independence, "cloud": cloud}
  return part.Findings(claims, data, captions)


def _sigma() -> float:
  return float(predictions.unit_frame(ELL).sigma)


def _nodes(setting):
  return laws.nodes(setting.density.line, 501 if setting.fast else 901, reach=8.0)


def _line(setting):
  """Exact KL(p‖law) after 1, 2, 4, … steps of each size, for both first-order methods."""
  mixture = setting.density.line
  budgets = BUDGETS[[0, 2, 4, 5, 6]] if setting.fast else BUDGETS
  x = _nodes(setting)
  p = laws.exact(mixture, ELL, x)
  steps = 2 ** np.arange(int(np.log2(TOTAL / budgets[-1])) + 1)
  result = {"budgets": budgets, "steps": steps, "euler": [], "exact": [],
            "total": {"euler": [], "exact": []}}
  for budget in budgets:
    for name, (mean, spread) in _moves(mixture, budget).items():
      after = laws.repeated(p, mean, spread, x, steps=int(steps[-1]))
      kl = [laws.kl(mixture, ELL, laws.fresh(x, after[n - 1])) for n in steps]
      result[name].append(kl)
      # After Langevin time TOTAL, whatever the step size.
      result["total"][name].append(kl[int(np.log2(TOTAL / budget))])
  return result


def _moves(mixture, budget):
  """One step on the line as x′ = m(x) + c ξ: {name: (m, c)}."""
  frame = predictions.unit_frame(ELL)
  here = float(frame.alpha), float(frame.sigma)
  a, b, c = splitting.weights(*here, *here, budget)
  time_step = float(budget) * here[1] ** 2
  return {"euler": (lambda y: _euler_mean(mixture, time_step, y), np.sqrt(2.0 * time_step)),
          "exact": (lambda y: a * y + b * laws.denoised(mixture, ELL, y), float(c))}


@jax.jit
def _euler_mean(mixture, time_step, y):
  frame = predictions.unit_frame(ELL)
  score = mixture.score(y[:, None], frame.alpha, frame.sigma)[:, 0]
  return langevin.unadjusted(0.0, y, score, time_step)


def _order_claims(line):
  for name, called in (("euler", "Euler's step"), ("exact", "the step STEP(0, Λ)")):
    yield part.claim(
        f"After Langevin time {TOTAL} σ² the KL between p and the law of {called} is of order 2 in "
        "the step size (order between the two smallest steps).",
        laws.order(line["budgets"], line["total"][name]), near=2.0, tolerance=0.2,
        source="eq. 1; theory.md#langevin-dynamics")


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
  # One program for every size and number of steps: compiling takes longer than running.
  return _moved(key, x, mixture, np.float64(budget), np.int64(steps), name=name)


@functools.partial(jax.jit, static_argnames="name")
def _moved(key, x, mixture, budget, steps, *, name):
  frame = predictions.unit_frame(ELL)
  level = frame.alpha, frame.sigma
  method = METHODS[name](frame.sigma, budget, lambda x: mixture.log_prob(x, *level))
  score = lambda x: mixture.score(x, *level)
  key_start, key = jax.random.split(key)
  carry = method.init(lambda i: jax.random.normal(jax.random.fold_in(key_start, i), x.shape), x,
                      score)
  step = lambda i, state: langevin.run(
      jax.random.fold_in(key, i), state[0], score, method, steps=1, carry=state[1])
  return jax.lax.fori_loop(0, steps, step, (x, carry))[0]


def _plane(setting, keys):
  """Sliced W₂ from fresh draws to particles after the same Langevin time, and before it."""
  mixture = setting.density.plane
  n, repeats, projections = (800, 5, 48) if setting.fast else (3000, 12, 96)
  budgets = BUDGETS[:6:2] if setting.fast else BUDGETS[:6]
  names = ("euler", "mala") if setting.fast else tuple(METHODS)
  real, start = (plane.draws(next(keys), mixture, ELL, (repeats, n)) for _ in range(2))
  apart = lambda x: plane.apart(real, x, seed=setting.seed, projections=projections)
  floor = apart(start)
  result = {"budgets": budgets, "repeats": repeats, "null": floor.mean(),
            "null_spread": floor.std(ddof=1), "methods": {}}
  for name in names:
    ends = [moved(next(keys), start, mixture, budget, round(TOTAL / budget), name=name)
            for budget in budgets]
    found = np.array([apart(x) for x in ends]).T
    # From the same start and to the same fresh set: most of the noise is in both.
    gain = found - floor[:, None]
    result["methods"][name] = {
        "distance": found.mean(0), "error": plane.standard_error(found),
        "gain": gain.mean(0), "gain_error": plane.standard_error(gain)}
  result["by_steps"] = _by_steps(keys, start, mixture, budgets[[0, -1]], apart)
  return result, np.asarray(start)


def _by_steps(keys, start, mixture, budgets, apart):
  """Sliced W₂ to fresh draws after 1, 2, 4, … Euler steps of the largest and the smallest size."""
  steps = 2 ** np.arange(7)
  found = []
  for budget in budgets:
    x, distances = start, []
    for count in np.diff(steps, prepend=0):
      x = moved(next(keys), x, mixture, budget, count, name="euler")
      distances.append(apart(x))
    found.append(np.array(distances).T)
  return {"steps": steps, "budgets": budgets, "distance": [d.mean(0) for d in found],
          "error": [plane.standard_error(d) for d in found]}


def _plane_claims(found):
  smallest = part.number(found["budgets"][-1])
  worst = max(found["methods"].values(), key=lambda method: method["distance"][-1])
  yield part.claim(
      f"At the smallest step, Λ = {smallest}, particles moved by {', '.join(found['methods'])} are "
      "as near to fresh draws as those are to each other (sliced W₂ of the farthest, against the "
      "upper edge of the null band).",
      worst["distance"][-1], error=worst["error"][-1],
      below=found["null"] + 2.0 * found["null_spread"], source="§2, Figure 1", by="paper")
  mala = found["methods"]["mala"]
  yield part.claim(
      "mala, which refuses some moves, leaves p as it is at the largest step too (growth of the "
      "distance to fresh draws).", mala["gain"][0], error=mala["gain_error"][0], near=0.0,
      sigmas=5.0, source="§2; theory.md#langevin-dynamics")


def _independence(setting, keys, start):
  """Corr(start, end) against Langevin time: a Gaussian's, the line's and the plane's."""
  times = 2.0 ** np.arange(-6, 4 if setting.fast else 6)  # Langevin time, data variance 1
  gaussian, error = _gaussian_correlation(next(keys), start, times)
  line_time, line = _line_correlation(setting, times[-1])
  return {"times": times, "gaussian": gaussian, "gaussian_error": error,
          "expected": np.exp(-times), "line_time": line_time, "line": line,
          **_plane_correlation(setting.density.plane, keys, start, times)}


def _gaussian_correlation(key, like, times):
  """Measured on N(0, I), on which STEP(0, Λ) with σ = 1 is the dynamics without any error."""
  @jax.jit
  def advanced(key, x, gap):
    return langevin.chain(key, x, lambda x: -x, langevin.exact(1.0, gap), steps=1)

  key_start, key = jax.random.split(key)
  start = x = jax.random.normal(key_start, like.shape)
  found = []
  for i, gap in enumerate(np.diff(times, prepend=0.0)):
    x = advanced(jax.random.fold_in(key, i), x, gap)
    found.append(np.mean(plane.correlation(start, x)))
  # Of the correlation r of N pairs it is (1 − r²)/√N, better known than from a few repeats.
  return np.array(found), (1.0 - np.exp(-2.0 * times)) / np.sqrt(start.size)


def _line_correlation(setting, longest):
  """Exact, by quadrature: the signed density x p(x) is moved, and ∫ x q dx = E[x₀ xₙ]."""
  mixture, budget = setting.density.line, LINE
  x = _nodes(setting)
  p = laws.exact(mixture, ELL, x)
  mean, spread = _moves(mixture, budget)["exact"]
  time_step = budget * _sigma() ** 2
  steps = int(longest / time_step)
  run = lambda law: laws.repeated(law, mean, spread, x, steps=steps)
  product = run(p._replace(density=x * p.density)) @ (x * p.weight)
  var = run(p) @ (x**2 * p.weight)
  start = float(jnp.sum(x**2 * p.density * p.weight))
  found = np.asarray(product / jnp.sqrt(start * var))
  shown = np.unique(np.geomspace(1, steps, 60).astype(int)) - 1
  return time_step * (shown + 1), found[shown]


def _plane_correlation(mixture, keys, start, times):
  """Of mala in the plane: correlation, and the share of particles in another component."""
  budget = PLANE
  steps = np.unique(np.maximum(np.round(times / (budget * _sigma() ** 2)), 1).astype(int))
  states, x = [], start
  for count in np.diff(steps, prepend=0):
    x = moved(next(keys), x, mixture, budget, count, name="mala")
    states.append(x)
  was, now = _component(mixture, start), np.array([_component(mixture, x) for x in states])
  correlation = np.array([plane.correlation(start, x) for x in states]).T
  crossed = np.mean(now != was, axis=-1).T
  share = np.bincount(was.ravel()) / was.size
  return {"plane_time": budget * _sigma() ** 2 * steps, "plane": correlation.mean(0),
          "plane_error": plane.standard_error(correlation), "crossed": crossed.mean(0),
          "crossed_error": plane.standard_error(crossed),
          "crossed_independent": 1.0 - np.sum(share**2)}


@jax.jit
def _component(mixture, x):
  """The component that most probably made each particle."""
  frame = predictions.unit_frame(ELL)
  one = lambda x: jnp.argmax(mixture.posterior(x, frame.alpha, frame.sigma).weights)
  return jnp.vectorize(one, signature="(d)->()")(x)


def _cloud(setting, keys, start):
  """The picture: p's contours, particles before and after."""
  budget, steps = PLANE, 64
  end = moved(next(keys), start, setting.density.plane, budget, steps, name="mala")
  correlations = plane.correlation(start, end)
  flat = lambda x: np.asarray(x).reshape(-1, 2)[:1500].round(4)
  return {"before": flat(start), "after": flat(end), "budget": budget, "steps": steps,
          "correlation": correlations.mean(), "error": plane.standard_error(correlations),
          "contours": plane.contours(setting.density.plane, ELL)}


def _independence_claims(found, cloud):
  z = (found["gaussian"] - found["expected"]) / found["gaussian_error"]
  i = int(np.argmax(np.abs(z)))
  yield part.claim(
      "On a Gaussian the correlation of start and end is e^{−τ/Var} (the worst of "
      f"{len(z)} times, τ = {part.number(found['times'][i])} Var).", found["gaussian"][i],
      error=found["gaussian_error"][i], near=found["expected"][i], sigmas=5.0,
      source="theory.md#errata, 5")
  yield part.claim(
      f"After {cloud['steps']} steps of Λ = {cloud['budget']}, when the cloud looks the same, the "
      "new sample is independent of the old one (their correlation).", cloud["correlation"],
      error=cloud["error"], near=0.0, sigmas=4.0, source="§2, below eq. 2", by="paper")
  yield part.claim(
      "On the line the correlation falls with time (its largest rise from one time to the next).",
      np.max(np.diff(found["line"])), below=1e-6, source="theory.md#errata, 5")


PART = part.Part(
    name="identity", title="Figure 1 — Langevin dynamics as the identity", text=TEXT,
    measure=measure, figures=identity_pictures.figures, x64=True)

if __name__ == "__main__":
  part.main(PART)
