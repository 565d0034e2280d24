"""Figure 5: reverse trajectories of VP, VE and rectified flow from the same noise.

The paper says "smaller curvature" without a number (§3.2, §3.3). Measured: the curvature in the
state space of each path, for one data point, with a closed form, and for mixtures in the plane.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import curves, densities, estimates
from experiments.paper.exact.estimates import estimate
from experiments.paper.setting import Setting
from langevin_jax import mixtures

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
POINT = (1.0, 1.0)  # one standard deviation of standardised data in each coordinate
SHOWN = ("VP", "VE", "RF")
_DRAWN = 7  # trajectories in the picture


def measure(setting: Setting) -> dict[str, Any]:
  n, steps, sde_steps = (500, 160, 1024) if setting.fast else (2000, 480, 4096)
  key_noise, *keys = jax.random.split(jax.random.key(setting.seed), 4)
  noise = np.asarray(jax.random.normal(key_noise, (n, 2)))
  others = {name: densities.load(name).plane for name in densities.NAMED
            if name != setting.density.name}
  # With the same number of components the mixtures share one program.
  most = max(len(m.weights) for m in (setting.density.plane, *others.values()))
  mixture = _padded(setting.density.plane, most)
  point = _padded(mixtures.Mixture(np.ones(1), np.array([POINT]), np.zeros((1, 2, 2))), most)
  targets = {"one point": point, "mixture": mixture}

  turned = lambda m, steps=steps: _geometry(curves.reverse(m, noise, steps))
  runs = {row: curves.reverse(m, noise, steps) for row, m in targets.items()}
  of = {row: _geometry(run) for row, run in runs.items()}
  noisy = {row: curves.diffused(key, m, noise, sde_steps)
           for key, (row, m) in zip(keys, targets.items(), strict=False)}
  t = np.log1p(np.exp(-2.0 * curves.levels(steps)))
  means = {row: np.asarray(curves.mean_path(m, noise, t)) for row, m in targets.items()}
  summary = _summary(of["mixture"])
  ell = curves.levels(steps)
  window, background = _background(setting.density.plane, noise[:_DRAWN])
  return {
      "n": n, "name": setting.density.name, "point": POINT, "window": window,
      "density": background,
      "drawn": {row: {
          "SDE": _thinned(noisy[row], sde_steps // 128), "mean": _thinned(means[row], steps // 80),
          **{k: _thinned(run[k].x, steps // 80) for k in SHOWN}} for row, run in runs.items()},
      "half_log_snr": 0.5 * (ell[1:] + ell[:-1]),
      "by_level": {k: np.round([estimate(angle) for angle in of["mixture"][k].by_level]
                               / (ell[1] - ell[0]), 5) for k in SHOWN},
      "scale": SCALES,
      "by_scale": [summary if s == 1.0 else _summary(turned(_scaled(mixture, s))) for s in SCALES],
      "by_density": {setting.density.name: summary} | {
          name: _summary(turned(_padded(m, most))) for name, m in others.items()},
      "measures": {row: _measures(of[row], means[row]) for row in of},
      "claims": {**_one_point(of["one point"], noise, steps), "one_curve": _one_curve(
          runs["mixture"]), "uneven": _uneven(of["mixture"]),
          "converged": _converged(of["mixture"], turned(mixture, steps // 2)),
          "mean_of_noisy": _mean_of_noisy(keys[2], mixture, noise, sde_steps)},
      **_lengths(noisy["mixture"]), "span": curves.times(1)[0],
      "ode_rulers": [steps // k for k in (8, 4, 2, 1)],
      "ode_lengths": [estimate(curves.length(runs["mixture"]["VP"].x[::k]))
                      for k in (8, 4, 2, 1)]}


def _padded(mixture: mixtures.Mixture, most: int) -> mixtures.Mixture:
  """The same law with `most` components: the last component is split into equal parts."""
  weights, means, covariances = jax.tree.map(np.asarray, mixture)
  extra = most - len(weights)
  shares = np.append(weights[:-1], np.full(extra + 1, weights[-1] / (extra + 1)))
  again = lambda values: np.concatenate([values, np.repeat(values[-1:], extra, axis=0)])
  return mixtures.Mixture(shares, again(means), again(covariances))


def _geometry(runs) -> dict[str, curves.Geometry]:
  return {name: curves.geometry(runs[name]) for name in curves.PATHS}


def _one_point(of, noise, steps):
  """Turnings towards one data point, and the closed form of VP's ellipse."""
  eps = noise - np.asarray(POINT) / curves.RHO_MAX  # x_T = σ ξ = α x₀ + σ ε
  # The rounding error of x in ε̂ = (x − α x₀)/σ is largest at the last ρ.
  rounding = (4.0 * steps * np.finfo(float).eps * np.linalg.norm(POINT) / curves.RHO_MIN
              / np.min(np.linalg.norm(eps, axis=1)))
  return {"rounding": rounding,
          "straight": max(of["VE"].turning.max(), of["RF"].turning.max()),
          "bent": estimate(of["VP"].turning),
          "arc": np.max(np.abs(of["VP"].turning - curves.arc(POINT, eps)))}


def _one_curve(runs):
  """The largest relative distance of curves at unit scale from those of VP."""
  vp, gaps = runs["VP"].x, []
  for name in ("cosine", "VE", "RF"):
    path = curves.PATHS[name]
    scale = jax.vmap(lambda t, path=path: jnp.hypot(path.alpha(t), path.sigma(t)))(runs[name].t)
    gaps.append(np.abs(runs[name].x / np.asarray(scale)[:, None, None] - vp).max())
  return max(gaps) / np.abs(vp).max()


def _uneven(of):
  """The relative unevenness of rectified flow minus that of VP, and its error."""
  (flow, vp) = pairs = [(of[name].unevenness, of[name].chord ** 2) for name in ("RF", "VP")]
  error = estimate(estimates.influence(*flow) - estimates.influence(*vp))[1]
  return estimates.ratio(*pairs[0])[0] - estimates.ratio(*pairs[1])[0], error


def _converged(fine, coarse):
  """The largest change of a mean turning with half the steps, in standard errors."""
  return max(abs(fine[name].turning.mean() - coarse[name].turning.mean())
             / estimate(fine[name].turning)[1] for name in fine)


def _lengths(x: np.ndarray):
  """Mean lengths of the SDE's trajectories as polygons of n pieces, and their power of n."""
  steps = len(x) - 1
  rulers = [steps >> i for i in range(7)][::-1]
  each = [curves.length(x[::steps // ruler]) for ruler in rulers]
  return {"rulers": rulers, "lengths": [estimate(length) for length in each],
          "slope": estimate(np.log2(each[-1] / each[-4]) / 3.0)}


def _mean_of_noisy(key, mixture, noise, steps):
  """Mean SDE states from four starts minus `curves.mean_path`, in errors, at six times."""
  starts, repeats = 4, len(noise) // 4
  x = curves.diffused(key, mixture, np.repeat(noise[:starts], repeats, axis=0), steps)
  at = [steps * i // 6 for i in range(1, 7)]
  mean, error = estimate(x[at].reshape(len(at), starts, repeats, 2), axis=2)
  return np.abs(mean - curves.mean_path(mixture, noise[:starts], curves.times(steps)[at])) / error


def _scaled(mixture: mixtures.Mixture, scale: float) -> mixtures.Mixture:
  return mixture._replace(means=scale * mixture.means, covariances=scale**2 * mixture.covariances)


def _summary(of) -> dict[str, tuple[float, float]]:
  """Mean turnings, paired differences from VP, and shares that turn less; with errors."""
  found = {name: estimate(of[name].turning) for name in SHOWN}
  for name in ("VE", "RF"):
    gap = of[name].turning - of["VP"].turning
    found[f"{name} − VP"], found[f"{name} < VP"] = estimate(gap), estimate(gap < 0.0)
  return found


def _measures(of, mean_path):
  """Four measures of the curves of each path, and the turning of the SDE's mean path."""
  found = {curves.LONG[name]: {
      "turning": estimate(g.turning), "length": estimates.ratio(g.length - g.chord, g.chord),
      "bulge": estimates.ratio(g.bulge, g.chord),
      "unevenness": estimates.ratio(g.unevenness, g.chord**2)} for name, g in of.items()}
  mean_turning = curves.angles(np.diff(mean_path, axis=0)).sum(0)
  return found | {"VP-SDE, its mean path": {"turning": estimate(mean_turning)}}


def _background(mixture, noise):
  """Half the width of a window with data, point and noise, and the density on a grid."""
  spread = np.sqrt(np.linalg.eigvalsh(mixture.covariances).max())
  half = max(float(np.abs(mixture.means).max() + 2.0 * spread), 1.3 * max(POINT),
             1.1 * np.abs(noise).max())
  grid = np.stack(np.meshgrid(*[np.linspace(-half, half, 81)] * 2), axis=-1)
  return half, np.round(np.exp(jax.jit(lambda m, x: m.log_prob(x))(mixture, grid)), 4)


def _thinned(x: np.ndarray, every: int) -> np.ndarray:
  """(curves, points, 2): every so many points of the first curves, and the last point."""
  x = x[:, :_DRAWN]
  return np.round(np.concatenate([x[:-1:every], x[-1:]]), 4).transpose(1, 0, 2)
