"""Figure 2, Tables 1 and 2: forward clouds of VP, VE, rectified flow and cosine (§3.1).

Measured: whether clouds simulated by the SDE have the law of x_t = α x₀ + σ ε; whether Table 2 maps
the cloud of one path to that of another; the law at the end of each path; the order of
Euler–Maruyama.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import estimates, laws, plane
from experiments.paper.setting import Setting
from langevin_jax import mixtures, paths

PATHS = {"VP": paths.vp(), "VE": paths.ve(), "RF": paths.rectified_flow(),
         "cosine": paths.cosine()}
# Six times of each path, from data to the end or to where little of the data is left.
TIMES = {"VP": np.array([0.2, 0.5, 1.0, 2.0, 4.0, 8.0]),
         "VE": np.array([0.1, 0.3, 0.6, 1.2, 2.5, 5.0]),
         "RF": np.array([0.1, 0.25, 0.4, 0.6, 0.8, 1.0]),
         "cosine": np.array([0.1, 0.25, 0.4, 0.6, 0.8, 1.0])}
STEPS = (8, 16, 32, 64, 128, 256, 512)  # of Euler–Maruyama
ENDS = {"VP": 2.0, "VE": 1.2, "RF": 0.6, "cosine": 0.6}  # end times of Euler–Maruyama
_SHOWN, _TRACKS = 350, 6  # particles in the pictures


def measure(setting: Setting) -> dict[str, Any]:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 16))
  return {**_clouds(setting, keys), "residuals": _conversion(setting, keys),
          "ends": _ends(setting.density.line), "order": _order(setting.density.line)}


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


def _log_snr(alpha, sigma):
  with np.errstate(divide="ignore"):
    return np.log(alpha) - np.log(sigma)


def _clouds(setting, keys):
  """Moments of simulated clouds, sliced W₂ to draws of α x₀ + σ ε, and particles for pictures."""
  mixture = setting.density.plane
  n, repeats, m = (10_000, 8, 400) if setting.fast else (40_000, 16, 2000)
  moments = moments_of(mixture)
  x_0 = plane.data(next(keys), mixture, (n,))
  # The clouds of `corrupt` have other data, independent of the simulated ones.
  other, eps = plane.data(next(keys), mixture, (n,)), jax.random.normal(next(keys), (n, 2))
  found = {"scores": {}, "gain": [], "gain_error": [], "half": []}
  start, picture, tracks = np.asarray(x_0), {}, {}
  for name, times in TIMES.items():
    # Rounded, so that no time occurs twice.
    fine = np.unique(np.append(np.linspace(0.0, times[-1], 81)[1:], times).round(9))
    every, marginal = map(np.asarray, carried(
        next(keys), x_0, fine, other, eps, times, name=name))
    states = every[np.searchsorted(fine, times.round(9))]
    alpha, sigma = coefficients(name, times)
    size = np.hypot(alpha, sigma)
    found["scores"][name] = [_scores(x, start, a, s, *moments)
                             for x, a, s in zip(states, alpha, sigma, strict=True)]
    sets = [np.reshape((x / size[:, None, None])[:, :repeats * m], (-1, repeats, m, 2))
            for x in (marginal, states)]
    # Two thirds of the time goes into this: three of the six levels are enough.
    for real, x in zip(sets[0][::2], sets[1][::2], strict=True):
      apart = lambda a, b: plane.apart(a, b, seed=setting.seed, projections=32)
      null = apart(real, np.roll(real, 1, axis=0))
      for key, value in estimates.named("gain", apart(real, x) - null).items():
        found[key].append(value)
      found["half"].append(2.0 * null.std(ddof=1))
    if name == "RF":
      found["path_correlation"] = _noise_correlation(states, start, alpha, sigma)
    if name == "VE":
      squares = np.mean((states[-1] - alpha[-1] * moments[0]) ** 2, axis=1)
      found["spread"] = {
          "measured": squares.mean(), "error": squares.std() / np.sqrt(n),
          "expected": alpha[-1]**2 * np.trace(moments[1]) / 2 + sigma[-1]**2}
    tracks[name] = _tracks(mixture, name, fine, np.concatenate(
        [start[None], every])[:, :_TRACKS, 0])
    picture[name] = {
        "times": times, "rho": sigma / np.where(alpha > 0.0, alpha, np.nan),
        "x": states[:, :_SHOWN].round(3), "size": np.sqrt(alpha**2 + sigma**2),
        # At unit scale the density depends on the level alone.
        "contours": [plane.contours(mixture, float(ell), 44) for ell in _log_snr(alpha, sigma)]}
  picture["angle"] = np.arctan2(start[:_SHOWN, 1], start[:_SHOWN, 0]).round(3)
  return {"moments": found, "clouds": picture, "tracks": tracks}


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
  """Corr of ε at two times of one particle: e^{ℓ_t − ℓ_s}; on a straight line it would be 1."""
  i, j = 1, 3
  a, b = (((states[k] - alpha[k] * x_0) / sigma[k]).ravel() for k in (i, j))
  return {"measured": np.mean(a * b), "error": np.std(a * b) / np.sqrt(len(a)),
          "expected": (alpha[j] / sigma[j]) / (alpha[i] / sigma[i])}


def _tracks(mixture, name, times, x):
  """One coordinate of a few particles on a fine grid of times, and its density."""
  first = mixtures.Mixture(mixture.weights, mixture.means[:, :1], mixture.covariances[:, :1, :1])
  # VP's cloud does not change after t = 5.
  times = times[times <= 5.0]
  alpha, sigma = coefficients(name, times)
  deviation = np.sqrt(alpha**2 * moments_of(mixture)[1][0, 0] + sigma**2)
  half = 3.2 * max(1.0, float(np.max(deviation)))
  axis = np.linspace(-half, half, 120)
  density = np.array([_density(first, axis, a, s) for a, s in zip(alpha, sigma, strict=True)])
  return {"times": np.append(0.0, times).round(4), "x": x[:len(times) + 1].round(3),
          "axis": axis.round(4), "deviation": deviation.round(4),
          "density": (density / density.max(1, keepdims=True)).round(3)}


def _conversion(setting, keys):
  """max |converted − corrupted there| / √(α² + σ²), with the same x₀ and ε, by pair of paths."""
  n = 500 if setting.fast else 4000
  x_0 = plane.data(next(keys), setting.density.plane, (n,))
  eps = jax.random.normal(next(keys), (n, 2))

  def residual(a, b, t):
    x_a = paths.corrupt(x_0, eps, t, PATHS[a])
    x_b, t_b = paths.convert(x_a, t, PATHS[a], PATHS[b])
    there = paths.corrupt(x_0, eps, t_b, PATHS[b])
    return jnp.max(jnp.abs(plane.unit_scale(x_b - there, t_b, PATHS[b])))

  # Without the last time, pure noise, which VP and VE reach at no finite time.
  every = jax.jit(lambda: {
      f"{a} → {b}": jnp.max(jax.vmap(functools.partial(residual, a, b))(TIMES[a][:-1]))
      for a, b in itertools.permutations(PATHS, 2)})
  return {name: float(value) for name, value in every().items()}


def _ends(mixture):
  """KL(p_t‖N(0, 1)) at unit scale on the line, along each path."""
  x = laws.nodes(mixture, 801)
  normal = laws.fresh(x, jnp.exp(-0.5 * x**2) / jnp.sqrt(2.0 * jnp.pi))
  found = {}
  for name, path in PATHS.items():
    # Beyond 10 the law on VE hardly changes.
    times = np.linspace(0.0, min(path.t_max, 10.0), 26)[1:]
    ell = _log_snr(*coefficients(name, times))
    found[name] = {"times": times, "ell": ell,
                   "kl": [abs(laws.kl(mixture, float(level), normal)) for level in ell]}
  return {"paths": found, "start": laws.kl(mixture, np.inf, normal)}


def em_kernel(name: str, start: float, end: float, steps: int) -> tuple[float, float]:
  """(A, v) of x_end = A x_start + √v ξ, the law of `steps` Euler–Maruyama steps of the SDE.

  A ← (1 + f Δ) A, v ← (1 + f Δ)² v + g² Δ: an Euler–Maruyama step is linear and Gaussian.
  """
  times = np.linspace(start, end, steps + 1)
  f, g = (np.asarray(jax.vmap(coefficient)(jnp.asarray(times[:-1])))
          for coefficient in (PATHS[name].drift, PATHS[name].diffusion))
  signal, var = 1.0, 0.0
  for k, dt in enumerate(np.diff(times)):
    factor = 1.0 + f[k] * dt
    signal, var = factor * signal, factor**2 * var + g[k] ** 2 * dt
  return signal, var


def _order(mixture):
  """Errors of Euler–Maruyama from the data on: of v, and the KL of the law on the line."""
  x = laws.nodes(mixture, 801)
  found = {"steps": STEPS, "variance": {}, "kl": {}}
  for name, end in ENDS.items():
    alpha, sigma = (float(c[0]) for c in coefficients(name, [end]))
    ell, size = np.log(alpha / sigma), np.hypot(alpha, sigma)
    kernels = [em_kernel(name, 0.0, end, n) for n in STEPS]
    found["variance"][name] = [abs(v - sigma**2) for _, v in kernels]
    # The law is the mixture at (A, √v), on the exact one's scale.
    found["kl"][name] = [laws.kl(mixture, float(ell), laws.fresh(
        x, _density(mixture, x, a / size, np.sqrt(v) / size))) for a, v in kernels]
  return found


@jax.jit
def _density(mixture, x, alpha, sigma):
  return jnp.exp(mixture.log_prob(x[:, None], alpha, sigma))
