"""Figure 5: reverse trajectories of VP, VE and rectified flow from the same noise, and their bend.

The paper shows them and says "smaller curvature" without a number (§3.2, §3.3). Here the curvature
is measured, in each path's own state space: for one data point, where it is known in closed form,
and for mixtures in the plane.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import curves, densities, part, trajectory_figures
from langevin_jax import mixtures

TEXT = """
The paper lets samples move along the reverse processes of VP, VE-Karras and rectified flow (Figure
5). It says that towards a single data point VE-Karras and rectified flow move in a straight line
and VP does not, that for data in general all of them bend, and that "one could still expect the
VE-Karras and rectified flow trajectories to have smaller curvature than the VP trajectories". How
much smaller it does not say.

Here all reverse ODEs start from the **same noise**, at the same noise-to-signal ratio, with the
exact denoiser. At equal ratios they hold the same sample up to the path's scale √(α² + σ²) (Table
2), so only that scale can make one curve bend more than another. The clock cannot: the cosine path
has VP's scale and another clock, and traces VP's curve.

Curvature is counted as the **total turning** ∫|κ| ds: the angle, in radians, through which the
direction of motion swings in all. Beside it stand how much longer a curve is than its chord, how
far it strays from its chord, and its unevenness: how far it is from running along its chord at a
steady speed, which depends on the clock as well and is rectified flow's own measure of
straightness. Relative to the chord VE-Karras is flattered: most of its way is the straight approach
from far away. A process with noise has no curvature: its length grows without limit as one looks
more closely. Of it the mean path is measured.

What to keep in mind: where data are about as large as the noise VP hardly moves a sample, while the
scale of rectified flow, √((1 − s)² + s²), dips in the middle: its trajectories may come inwards and
go out again, and such an about-turn counts as turning. The picture by data scale says when that
matters.
""".strip()

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
POINT = (1.0, 1.0)  # a deviation of standardised data away in each coordinate
DRAWN = 7  # trajectories in the picture


def measure(setting: part.Setting) -> part.Findings:
  n, steps, sde_steps = (500, 160, 1024) if setting.fast else (2000, 480, 4096)
  key_noise, *keys = jax.random.split(jax.random.key(setting.seed), 4)
  noise = np.asarray(jax.random.normal(key_noise, (n, 2)))
  name, given = setting.density.name, setting.density.plane
  others = {other: densities.load(other).plane for other in densities.NAMED if other != name}
  # As many components in each of them: then one compiled program serves all.
  most = max(len(m.weights) for m in (given, *others.values()))
  mixture = _padded(given, most)
  point = _padded(mixtures.Mixture(np.ones(1), np.array([POINT]), np.zeros((1, 2, 2))), most)

  runs = {"one point": curves.reverse(point, noise, steps),
          "mixture": curves.reverse(mixture, noise, steps)}
  of = {row: _geometry(run) for row, run in runs.items()}
  noisy = {"one point": curves.diffused(keys[0], point, noise, sde_steps),
           "mixture": curves.diffused(keys[1], mixture, noise, sde_steps)}
  t = np.log1p(np.exp(-2.0 * curves.levels(steps)))
  means = {"one point": np.asarray(curves.mean_path(point, noise, t)),
           "mixture": np.asarray(curves.mean_path(mixture, noise, t))}
  rulers, lengths, by_length = _lengths(noisy["mixture"])
  claims = [*_one_point(of["one point"], noise, steps), _one_curve(runs["mixture"]),
            *_smaller_curvature(of["mixture"]),
            _converged(of["mixture"], _geometry(curves.reverse(mixture, noise, steps // 2))),
            *by_length, _mean_of_noisy(keys[2], mixture, noise, sde_steps)]

  of_case = lambda m: _summary(_geometry(curves.reverse(m, noise, steps)))
  scales = [_summary(of["mixture"]) if s == 1.0 else of_case(_scaled(mixture, s)) for s in SCALES]
  claims.append(_scale_free(scales))
  named = {name: _summary(of["mixture"])} | {
      other: of_case(_padded(m, most)) for other, m in others.items()}
  ell = curves.levels(steps)
  window, background = _background(given, noise[:DRAWN])
  data = {
      "n": n, "point": POINT, "window": window, "density": background,
      "drawn": {row: {
          "SDE": _thinned(noisy[row], sde_steps // 128), "mean": _thinned(means[row], steps // 80),
          **{k: _thinned(run[k].x, steps // 80) for k in ("VP", "VE", "RF")}}
          for row, run in runs.items()},
      "half_log_snr": 0.5 * (ell[1:] + ell[:-1]),
      "by_level": {k: np.round([curves.mean(angle) for angle in of["mixture"][k].by_level]
                               / (ell[1] - ell[0]), 5) for k in ("VP", "VE", "RF")},
      "scale": SCALES, "by_scale": {k: [row[k] for row in scales] for k in ("VP", "VE", "RF")},
      "rulers": rulers, "lengths": lengths, "span": curves.times(1)[0],
      "ode_rulers": [steps // k for k in (8, 4, 2, 1)],
      "ode_lengths": [curves.mean(curves.length(runs["mixture"]["VP"].x[::k]))
                      for k in (8, 4, 2, 1)],
  }
  average = {row: curves.mean(curves.angles(np.diff(x, axis=0)).sum(0)) for row, x in means.items()}
  titles = {"mixture": f"The mixture {name}: {n} trajectories from one set of noises, mean ± "
                       "standard error", "one point": f"One data point, the same {n} noises"}
  return part.Findings(
      claims=claims, data=data, captions=trajectory_figures.captions(data),
      tables=[*(_measures(of[row], average[row], title) for row, title in titles.items()),
              _comparison(name, scales, named)])


def _padded(mixture: mixtures.Mixture, most: int) -> mixtures.Mixture:
  """The same law with `most` components, the last one being cut into equal ones."""
  weights, means, covariances = jax.tree.map(np.asarray, mixture)
  extra = most - len(weights)
  shares = np.append(weights[:-1], np.full(extra + 1, weights[-1] / (extra + 1)))
  again = lambda values: np.concatenate([values, np.repeat(values[-1:], extra, axis=0)])
  return mixtures.Mixture(shares, again(means), again(covariances))


def _geometry(runs) -> dict[str, curves.Geometry]:
  return {name: curves.geometry(runs[name]) for name in curves.PATHS}


def _one_point(of, noise, steps) -> list[part.Claim]:
  eps = noise - np.asarray(POINT) / curves.RHO_MAX  # x_T = σ ξ = α x₀ + σ ε
  # ε̂ = (x − α x₀)/σ carries the rounding of x: it is the largest, beside ε, at the last ρ.
  rounding = (4.0 * steps * np.finfo(float).eps * np.linalg.norm(POINT) / curves.RHO_MIN
              / np.min(np.linalg.norm(eps, axis=1)))
  vp, error = curves.mean(of["VP"].turning)
  return [
      part.claim("Towards one data point VE-Karras and rectified flow move in a straight line "
                 "(largest turning of any of their trajectories, radians).",
                 max(of["VE"].turning.max(), of["RF"].turning.max()), below=rounding,
                 source="§3.2, Fig. 5", by="paper"),
      part.claim("Towards one data point VP bends (its mean turning, radians).", vp, error=error,
                 above=3.0 * error, source="§3.2, Fig. 5", by="paper"),
      part.claim(
          "Towards one data point each VP trajectory is an arc of an ellipse, x = α x₀ + σ ε, and "
          "turns as much as the arc does (largest difference, radians).",
          np.max(np.abs(of["VP"].turning - curves.arc(POINT, eps))), below=rounding,
          source="Table 1")]


def _one_curve(runs) -> part.Claim:
  vp, gaps = runs["VP"].x, []
  for name in ("cosine", "VE", "RF"):
    path = curves.PATHS[name]
    scale = jax.vmap(lambda t, path=path: jnp.hypot(path.alpha(t), path.sigma(t)))(runs[name].t)
    gaps.append(np.abs(runs[name].x / np.asarray(scale)[:, None, None] - vp).max())
  return part.claim(
      "The clock does not matter: cosine traces the curve of VP, and VE-Karras and rectified flow "
      "that curve times √(α² + σ²) (largest relative distance).",
      max(gaps) / np.abs(vp).max(), below=1e-12, source="Table 2")


def _smaller_curvature(of) -> list[part.Claim]:
  straightest = min(("VP", "VE", "RF"), key=lambda name: of[name].turning.mean())
  least, error = curves.mean(of[straightest].turning)
  claims = [part.claim(
      "Towards a mixture all trajectories are curved (mean turning of the least curved ones, "
      f"{curves.LONG[straightest]}, radians).", least, error=error, above=3.0 * error,
      source="§3.2", by="paper")]
  for name in ("VE", "RF"):
    gap, error = curves.mean(of[name].turning - of["VP"].turning)
    claims.append(part.claim(
        f"Trajectories of {curves.LONG[name]} have smaller curvature than those of VP, for this "
        "density at unit scale (mean paired difference of the total turning, radians; others are "
        "in the table).", gap, error=error, below=-3.0 * error,
        source="§3.2", by="paper"))
  pairs = [(of[name].unevenness, of[name].chord ** 2) for name in ("RF", "VP", "cosine")]
  flow, vp, cosine = (curves.ratio(*pair)[0] for pair in pairs)
  gap = flow - vp
  error = curves.mean(curves.influence(*pairs[0]) - curves.influence(*pairs[1]))[1]
  return [*claims, part.claim(
      "In its own clock too rectified flow is straighter than VP in Table 1's (difference of the "
      f"unevenness relative to the chord; of rectified flow {part.number(flow)}, of VP's curve in "
      f"the cosine path's clock {part.number(cosine)}).", gap, error=error,
      below=-3.0 * error, source="§3.3", by="paper")]


def _converged(fine, coarse) -> part.Claim:
  moved = [abs(fine[name].turning.mean() - coarse[name].turning.mean())
           / curves.mean(fine[name].turning)[1] for name in fine]
  return part.claim("The grid is fine enough (by how many standard errors the mean turnings change "
                    "at most when the number of steps is halved).", max(moved), below=1.0,
                    source="§3.2")


def _lengths(x: np.ndarray):
  """Rulers, mean lengths of the SDE's trajectories with errors, and what is claimed of them."""
  steps = len(x) - 1
  rulers = [steps >> i for i in range(7)][::-1]
  each = [curves.length(x[::steps // ruler]) for ruler in rulers]
  slope, error = curves.mean(np.log2(each[-1] / each[-4]) / 3.0)
  return rulers, [curves.mean(length) for length in each], [part.claim(
      "A trajectory of VP's SDE has no length, and so no curvature: in n pieces it is as long as "
      "√n (power of n over the last three doublings).", slope, error=error, near=0.5,
      # A step's drift is to its noise as √h, at the coarsest of those rulers.
      tolerance=float(np.sqrt(curves.times(1)[0] / rulers[-4])), source="eq. 3")]


def _mean_of_noisy(key, mixture, noise, steps) -> part.Claim:
  """Mean SDE states from each of four noises against `curves.mean_path`, at six times."""
  starts, repeats = 4, len(noise) // 4
  x = curves.diffused(key, mixture, np.repeat(noise[:starts], repeats, axis=0), steps)
  at = [steps * i // 6 for i in range(1, 7)]
  x = x[at].reshape(len(at), starts, repeats, 2)
  exact = curves.mean_path(mixture, noise[:starts], curves.times(steps)[at])
  error = x.std(axis=2, ddof=1) / np.sqrt(repeats)
  return part.claim(
      "From a given noise the SDE moves on average as if to a single point, the denoised estimate "
      f"(the largest of {error.size} deviations from that curve, in standard errors).",
      np.max(np.abs(x.mean(axis=2) - exact) / error), below=4.5, source="eq. 11")


def _scaled(mixture: mixtures.Mixture, scale: float) -> mixtures.Mixture:
  return mixture._replace(means=scale * mixture.means, covariances=scale**2 * mixture.covariances)


def _scale_free(scales) -> part.Claim:
  (value, error), *others = [row["VE"] for row in scales]
  return part.claim(
      "VE-Karras has no scale of its own: its mean turning is the same for data of every scale "
      "(largest change, in standard errors).", max(abs(v - value) for v, _ in others) / error,
      below=1.0, source="Table 1")


def _summary(of) -> dict[str, tuple[float, float]]:
  """Mean turnings with errors, paired differences from VP, and the share that turns less."""
  found = {name: curves.mean(g.turning) for name, g in of.items()}
  for name in ("VE", "RF"):
    gap = of[name].turning - of["VP"].turning
    found[f"{name} − VP"], found[f"{name} < VP"] = curves.mean(gap), curves.mean(gap < 0.0)
  return found


def _measures(of, mean_turning, title) -> part.Table:
  rows = [["path", "total turning, rad", "length / chord − 1", "greatest distance / chord",
           "unevenness / chord² in its own clock"]]
  for name, g in of.items():
    rows.append([curves.LONG[name], *map(trajectory_figures.estimate, (
        curves.mean(g.turning), curves.ratio(g.length - g.chord, g.chord),
        curves.ratio(g.bulge, g.chord), curves.ratio(g.unevenness, g.chord**2)))])
  rows.append(["VP-SDE, its mean path", trajectory_figures.estimate(mean_turning), *"–––"])
  return part.Table(title, rows)


def _comparison(name, scales, named) -> part.Table:
  rows = [["density", "VP", "VE", "RF", "VE − VP", "RF − VP", "VE turns less", "RF turns less"]]
  cases = [*named.items(), *((f"{name} × {s:g}", row) for s, row in zip(SCALES, scales, strict=True)
                             if s != 1.0)]
  for case, row in cases:
    rows.append([case, *(trajectory_figures.estimate(row[k]) for k in (
        "VP", "VE", "RF", "VE − VP", "RF − VP", "VE < VP", "RF < VP"))])
  return part.Table("Total turning in radians by density and by scale of the data: means, paired "
                    "differences, and shares of trajectories", rows)


def _background(mixture, noise):
  """The half width of a window that holds data, point and noise, and the density on a grid."""
  spread = np.sqrt(np.linalg.eigvalsh(mixture.covariances).max())
  half = max(float(np.abs(mixture.means).max() + 2.0 * spread), 1.3 * max(POINT),
             1.1 * np.abs(noise).max())
  grid = np.stack(np.meshgrid(*[np.linspace(-half, half, 81)] * 2), axis=-1)
  return half, np.round(np.exp(jax.jit(lambda m, x: m.log_prob(x))(mixture, grid)), 4)


def _thinned(x: np.ndarray, every: int) -> np.ndarray:
  """(curves, points, 2) of the first few curves, every so many points, the last included."""
  x = x[:, :DRAWN]
  return np.round(np.concatenate([x[:-1:every], x[-1:]]), 4).transpose(1, 0, 2)


PART = part.Part(
    name="trajectories", title="Figure 5 — Reverse trajectories, and how much they bend", text=TEXT,
    measure=measure, figures=trajectory_figures.figures, x64=True)

if __name__ == "__main__":
  part.main(PART)
