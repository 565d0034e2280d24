"""Figure 2, Tables 1 and 2: forward clouds under VP, VE, rectified flow and cosine (§3.1).

Measured: whether clouds that an SDE carries are those of x_t = α x₀ + σ ε; whether Table 2 turns
one path's cloud into another's; where each path ends; and the order of Euler–Maruyama, exactly.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import clouds_pictures, laws, part, plane
from langevin_jax import mixtures, paths

PATHS = {"VP": paths.vp(), "VE": paths.ve(), "RF": paths.rectified_flow(),
         "cosine": paths.cosine()}
# Six times of each path's own clock: from data to the end, or to where little of the data is left.
TIMES = {"VP": np.array([0.2, 0.5, 1.0, 2.0, 4.0, 8.0]),
         "VE": np.array([0.1, 0.3, 0.6, 1.2, 2.5, 5.0]),
         "RF": np.array([0.1, 0.25, 0.4, 0.6, 0.8, 1.0]),
         "cosine": np.array([0.1, 0.25, 0.4, 0.6, 0.8, 1.0])}
STEPS = (8, 16, 32, 64, 128, 256, 512)  # of Euler–Maruyama

TEXT = """**The paper's claim (§3.1, Tables 1 and 2, Figure 2).** Forward processes mix data and \
noise each in its own way: VP drifts to the origin while the noise grows, VE keeps the mean and \
spreads, and rectified flow is a stochastic process as well, no straight line. Despite their looks \
they are one process, up to a change of clock and scale (Table 2).

**What is measured.** Particles follow each SDE dx = f x dt + g dW, and their clouds are compared \
with the closed form x_t = α x₀ + σ ε: by mean, covariance and pull towards the origin, and by \
the sliced Wasserstein distance of two clouds against that of two draws of one. With the same \
noise, the cloud of one path is turned into that of another by Table 2, point by point. A \
computer that steps the SDE itself (Euler–Maruyama) makes an error; its law, a Gaussian kernel, \
is known by a recursion, and its order is exact.

**How to read it.** Rows are paths and columns times of a path's own clock; colours tell where \
in the data a particle comes from. VE's frame grows with its cloud. In the second picture \
particles in one coordinate cross the density of all; dashed lines mark one standard deviation."""


def measure(setting: part.Setting) -> part.Findings:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 16))
  moments, picture, tracks = _moments(setting, keys)
  residuals = _conversion(setting, keys)
  ends = _ends(setting)
  order = _order(setting)
  data = {"clouds": picture, "moments": moments, "residuals": residuals, "ends": ends,
          "order": order, "tracks": tracks}
  captions = {
      "clouds": "Clouds of the forward SDEs in the plane, on the contours of the exact density, at "
      "six times of each path's own clock (and ρ = σ/α, by which clouds of two paths can be "
      "compared). Colours: the angle of the data point that a particle comes from.",
      "tracks": "One coordinate of a few particles along each path, on the exact density (grey, "
      "each time by its own peak); dashed: ± one standard deviation.",
      "checks": "Left: standardised deviations of means, covariances and slopes of simulated "
      "clouds from the closed form; of so many normal numbers all but a few lie within ± 3. "
      "Middle: KL from the standard normal as a path goes on, exact on the line; VE, which has no "
      "limit, is compared at unit scale. Right: error of the variance of Euler–Maruyama's noise, "
      "by the number of steps.",
  }
  return part.Findings(
      [*_moment_claims(moments), *_conversion_claims(residuals), *_end_claims(ends, moments),
       *_order_claims(order)],
      data, captions, tables=[_table(residuals)])


@functools.partial(jax.jit, static_argnames="name")
def carried(key, x_0, fine, other, eps, times, *, name):
  """The SDE's states from x₀ at the times `fine`, and α x₀ + σ ε of `other` at `times`."""
  path = PATHS[name]
  marginal = jax.vmap(lambda t: paths.corrupt(other, eps, t, path))(times)
  # `simulate` is elementwise in x₀: a whole cloud is one example of another shape.
  return paths.simulate(key, x_0, fine, path), marginal


def coefficients(name: str, times) -> tuple[np.ndarray, np.ndarray]:
  """α and σ of a path at `times`."""
  path = PATHS[name]
  return tuple(np.asarray(jax.vmap(f)(jnp.asarray(times))) for f in (path.alpha, path.sigma))


def moments_of(mixture) -> tuple[np.ndarray, np.ndarray]:
  """Mean (d,) and covariance (d, d) of a mixture."""
  w, m, s = (np.asarray(a) for a in mixture)
  w = w / w.sum()
  mean = w @ m
  return mean, np.einsum("k,kij->ij", w, s) + np.einsum("k,ki,kj->ij", w, m - mean, m - mean)


def _moments(setting, keys):
  """z-scores of simulated clouds' moments, sliced W₂ to corrupted ones, and clouds to look at."""
  mixture = setting.density.plane
  n, repeats, m = (10_000, 8, 400) if setting.fast else (40_000, 16, 2000)
  mean, covariance = moments_of(mixture)
  x_0 = plane.data(next(keys), mixture, (n,))
  # The clouds of `corrupt` have data of their own: they are independent of those simulated.
  other, eps = plane.data(next(keys), mixture, (n,)), jax.random.normal(next(keys), (n, 2))
  found = {"scores": {}, "gain": [], "gain_error": [], "half": [],
           "path_correlation": {}, "spread": {}}
  picture, tracks = {}, {}
  start = np.asarray(x_0)
  for name, own in TIMES.items():
    # Rounded, so that a time in both is in it once: no step may have no length.
    fine = np.unique(np.append(np.linspace(0.0, own[-1], 81)[1:], own).round(9))
    every, marginal = map(np.asarray, carried(
        next(keys), x_0, fine, other, eps, own, name=name))
    tracks[name] = _tracks(mixture, name, fine, np.concatenate([start[None], every])[:, :6, 0])
    states = every[np.searchsorted(fine, own.round(9))]
    alpha, sigma = coefficients(name, TIMES[name])
    scores = [_scores(x, start, a, s, mean, covariance)
              for x, a, s in zip(states, alpha, sigma, strict=True)]
    found["scores"][name] = scores
    size = np.hypot(alpha, sigma)[:, None, None]
    sets = [np.reshape((x / size)[:, :repeats * m], (-1, repeats, m, 2))
            for x in (marginal, states)]
    # Two thirds of the time goes into this: three of the six levels are enough.
    for real, x in zip(sets[0][::2], sets[1][::2], strict=True):
      apart = lambda a, b: plane.apart(a, b, seed=setting.seed, projections=32)
      null = apart(real, np.roll(real, 1, axis=0))
      gain = apart(real, x) - null
      found["gain"].append(gain.mean())
      found["gain_error"].append(plane.standard_error(gain))
      found["half"].append(2.0 * null.std(ddof=1))
    found["path_correlation"][name] = _noise_correlation(states, start, alpha, sigma)
    few = slice(0, 350)
    picture[name] = {
        "times": TIMES[name], "rho": sigma / np.where(alpha > 0.0, alpha, np.nan),
        "x": states[:, few].round(3), "size": np.sqrt(alpha**2 + sigma**2),
        "contours": [_contours(mixture, a, s) for a, s in zip(alpha, sigma, strict=True)]}
    squares = np.mean((states[-1] - alpha[-1] * mean) ** 2, axis=1)
    found["spread"][name] = {"measured": squares.mean(), "error": squares.std() / np.sqrt(n),
                             "expected": alpha[-1]**2 * np.trace(covariance) / 2 + sigma[-1]**2}
  picture["angle"] = np.arctan2(start[:350, 1], start[:350, 0]).round(3)
  return found, picture, tracks


def _contours(mixture, alpha, sigma):
  """The density at unit scale; a level is all that tells paths apart there."""
  with np.errstate(divide="ignore"):
    return plane.contours(mixture, float(np.log(alpha) - np.log(sigma)), 44)


def _scores(x, x_0, alpha, sigma, mean, covariance):
  """Standardised deviations of mean (2), covariance (3) and the slope of x on x₀ (1)."""
  n = len(x)
  about = x - alpha * mean
  pairs = np.stack([about[:, 0] ** 2, about[:, 0] * about[:, 1], about[:, 1] ** 2], 1)
  expected = (alpha**2 * covariance + sigma**2 * np.eye(2))[[0, 0, 1], [0, 1, 1]]
  z = lambda sample, value: (sample.mean(0) - value) / (sample.std(0) / np.sqrt(n))
  # Given x₀ the state is α x₀ plus noise, so that E[(x − α x₀)·x₀] = 0.
  pull = np.sum((x - alpha * x_0) * x_0, axis=1)
  return np.concatenate([z(about, 0.0), z(pairs, expected), [z(pull, 0.0)]])


def _noise_correlation(states, x_0, alpha, sigma):
  """Corr of ε at two times of one particle: e^{ℓ_t − ℓ_s}; a straight line would have 1."""
  i, j = 1, 3
  eps = [((states[k] - alpha[k] * x_0) / sigma[k]).ravel() for k in (i, j)]
  found = np.mean(eps[0] * eps[1])
  expected = (alpha[j] / sigma[j]) / (alpha[i] / sigma[i])
  return {"measured": found, "error": np.std(eps[0] * eps[1]) / np.sqrt(len(eps[0])),
          "expected": expected}


def _moment_claims(found):
  scores = np.concatenate([np.ravel(s) for s in found["scores"].values()])
  yield part.claim(
      "Clouds carried by the SDEs have the mean αm, the covariance α²S + σ²I and the pull α "
      f"towards the origin of Table 1 (the largest of {len(scores)} standardised deviations).",
      scores[np.argmax(np.abs(scores))], error=1.0, near=0.0, sigmas=5.0,
      source="§3.1, Table 1", by="paper")
  gain, error, half = (np.array(found[k]) for k in ("gain", "gain_error", "half"))
  i = int(np.argmax(gain / half))
  yield part.claim(
      "Clouds carried by the SDEs are those of α x₀ + σ ε in all else too (how far the sliced W₂ "
      "lies above the middle of its null band, in units of the band's half width, at the worst of "
      f"{len(gain)} times).", gain[i] / half[i], error=error[i] / half[i], below=1.0,
      source="§3.1, Table 1", by="paper")
  flow = found["path_correlation"]["RF"]
  yield part.claim(
      "Rectified flow's forward process is stochastic and no straight line, on which the noise of "
      f"one particle at s = {TIMES['RF'][1]:g} and at {TIMES['RF'][3]:g} would be the same "
      "(correlation of the two, which for the SDE is the ratio of the two α/σ).", flow["measured"],
      error=flow["error"], near=flow["expected"], sigmas=5.0, source="§3.1, Fig. 2", by="paper")


def _conversion(setting, keys):
  """max |converted − made there| / √(α² + σ²), with the same x₀ and ε, of every ordered pair."""
  n = 500 if setting.fast else 4000
  mixture = setting.density.plane
  x_0, eps = plane.data(next(keys), mixture, (n,)), jax.random.normal(next(keys), (n, 2))

  def residual(a, b, t):
    x_a = paths.corrupt(x_0, eps, t, PATHS[a])
    x_b, t_b = paths.convert(x_a, t, PATHS[a], PATHS[b])
    there = paths.corrupt(x_0, eps, t_b, PATHS[b])
    return jnp.max(jnp.abs(plane.unit_scale(x_b - there, t_b, PATHS[b])))

  # Without pure noise, which VP and VE come to at no finite time.
  every = jax.jit(lambda: {
      f"{a} → {b}": jnp.max(jax.vmap(functools.partial(residual, a, b))(TIMES[a][:-1]))
      for a, b in itertools.permutations(PATHS, 2)})
  return {name: float(value) for name, value in every().items()}


def _conversion_claims(residuals):
  worst = max(residuals, key=residuals.get)
  yield part.claim(
      "Table 2 turns the cloud of any path into that of any other, point by point (largest "
      f"residual at unit scale over {len(residuals)} pairs, {worst}).", residuals[worst],
      below=1e-12, source="Table 2", by="paper")


def _table(residuals):
  rows = [["from \\ to", *PATHS]]
  for a in PATHS:
    rows.append([a, *("—" if a == b else part.number(residuals[f"{a} → {b}"], 2) for b in PATHS)])
  return part.Table("Table 2 with the same noise: largest residual of a converted cloud, at unit "
                    "scale", rows)


def _ends(setting):
  """KL(p_t‖N(0, 1)) at unit scale on the line, along each path."""
  mixture = setting.density.line
  x = laws.nodes(mixture, 801)
  normal = laws.fresh(x, jnp.exp(-0.5 * x**2) / jnp.sqrt(2.0 * jnp.pi))
  found = {}
  for name, path in PATHS.items():
    # VE's own range is wider than the other paths' change.
    times = np.linspace(0.0, min(path.t_max, 10.0), 26)[1:]
    alpha, sigma = coefficients(name, times)
    with np.errstate(divide="ignore"):
      ell = np.log(alpha) - np.log(sigma)
    found[name] = {
        "times": times, "ell": ell,
        "kl": [abs(laws.kl(mixture, float(level), normal)) for level in ell]}
  return {"paths": found, "start": laws.kl(mixture, np.inf, normal)}


def _end_claims(ends, moments):
  vp, flow = (ends["paths"][name] for name in ("VP", "RF"))
  excess = np.array(vp["kl"]) - np.exp(-vp["times"]) * ends["start"]
  yield part.claim(
      "VP goes to the standard normal, its KL no slower than e^{−t} (largest excess over "
      "e^{−t} KL(p₀‖N(0, 1)), nats).", np.max(excess), below=1e-9,
      source="§3.1; logarithmic Sobolev inequality")
  yield part.claim(
      "Rectified flow comes to the standard normal exactly, at s = 1 (KL on the line, nats).",
      flow["kl"][-1], below=1e-12, source="§3.1, Table 1", by="paper")
  spread = moments["spread"]["VE"]
  yield part.claim(
      "VE's cloud expands without bound and comes to no fixed law: its variance is that of the "
      f"data plus σ² (measured at σ = {TIMES['VE'][-1]:g}).", spread["measured"],
      error=spread["error"], near=spread["expected"], sigmas=5.0,
      source="§3.1, Fig. 2; theory.md#errata, 7")


def em_kernel(name: str, start: float, end: float, steps: int) -> tuple[float, float]:
  """(A, v) of x_end = A x_start + √v ξ, the law of `steps` Euler–Maruyama steps of the SDE.

  A ← (1 + f Δ) A, v ← (1 + f Δ)² v + g² Δ: an Euler–Maruyama step is linear and Gaussian.
  """
  times = np.linspace(start, end, steps + 1)
  f, g = _sde(name, times[:-1])
  signal, var = 1.0, 0.0
  for k, dt in enumerate(np.diff(times)):
    factor = 1.0 + f[k] * dt
    signal, var = factor * signal, factor**2 * var + g[k] ** 2 * dt
  return signal, var


def _sde(name, times):
  path = PATHS[name]
  return (np.asarray(jax.vmap(f)(jnp.asarray(times))) for f in (path.drift, path.diffusion))


def _order(setting):
  """Errors of Euler–Maruyama from the data on: of v, of A, and the KL of the law on the line."""
  mixture = setting.density.line
  x = laws.nodes(mixture, 801)
  ends = {"VP": 2.0, "VE": 1.2, "RF": 0.6, "cosine": 0.6}
  found = {"steps": STEPS, "ends": ends, "signal": {}, "variance": {}, "kl": {}}
  for name, end in ends.items():
    alpha, sigma = (float(c[0]) for c in coefficients(name, [end]))
    ell, size = np.log(alpha / sigma), np.hypot(alpha, sigma)
    kernels = [em_kernel(name, 0.0, end, n) for n in STEPS]
    found["signal"][name] = [abs(a - alpha) for a, _ in kernels]
    found["variance"][name] = [abs(v - sigma**2) for _, v in kernels]
    # The law is the mixture at (A, √v), on the exact one's scale.
    found["kl"][name] = [
        laws.kl(mixture, float(ell),
                laws.fresh(x, _density(mixture, x, a / size, np.sqrt(v) / size)))
        for a, v in kernels]
  return found


@jax.jit
def _density(mixture, x, alpha, sigma):
  return jnp.exp(mixture.log_prob(x[:, None], alpha, sigma))


def _order_claims(found):
  slope = lambda values: float(np.log2(values[-2] / values[-1]))
  orders = {name: slope(v) for name, v in found["variance"].items()}
  worst = max(orders, key=lambda name: abs(orders[name] - 1.0))
  yield part.claim(
      "Euler–Maruyama on (f, g) comes to the exact cloud with weak order 1 (of four paths the "
      f"order of the noise's variance that lies farthest from it, {worst}).", orders[worst],
      near=1.0, tolerance=0.2, source="eq. 3; theory.md#solvers")
  orders = {name: slope(v) for name, v in found["kl"].items()}
  worst = max(orders, key=lambda name: abs(orders[name] - 2.0))
  yield part.claim(
      "The KL of Euler–Maruyama's law from the exact one is of order 2 in the step (of four paths "
      f"the order farthest from it, {worst}).", orders[worst], near=2.0, tolerance=0.2,
      source="eq. 3; theory.md#solvers")


def _tracks(mixture, name, times, x):
  """One coordinate of a few particles on a fine grid of a path's clock, and its density."""
  first = mixtures.Mixture(mixture.weights, mixture.means[:, :1], mixture.covariances[:, :1, :1])
  variance = moments_of(mixture)[1][0, 0]
  # VP's cloud changes no more after t = 5.
  times = times[times <= 5.0]
  alpha, sigma = coefficients(name, times)
  deviation = np.sqrt(alpha**2 * variance + sigma**2)
  half = 3.2 * max(1.0, float(np.max(deviation)))
  axis = np.linspace(-half, half, 120)
  density = np.array([_density(first, axis, a, s) for a, s in zip(alpha, sigma, strict=True)])
  return {"times": np.append(0.0, times).round(4), "x": x[:len(times) + 1].round(3),
          "axis": axis.round(4), "deviation": deviation.round(4),
          "density": (density / density.max(1, keepdims=True)).round(3)}


PART = part.Part(
    name="clouds", title="Figure 2 — forward clouds", text=TEXT, measure=measure,
    figures=clouds_pictures.figures, x64=True)

if __name__ == "__main__":
  part.main(PART)
