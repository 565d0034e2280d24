"""Figures 6 and 7: a forward–reverse cycle, and the Langevin dynamics along its rows (§4).

The paper: x₀ is carried to x_T by the forward process and back to x_{T′} by the reverse one; the
samples of a row, x_t and x_{(T−t)′}, are distinct but of one law (eq. 11), and a row is Langevin
dynamics. Measured: the law of every row, how its two samples correlate, and when a row is Langevin.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import cycle_pictures, densities, laws, part, plane
from langevin_jax import mixtures, paths, samplers, splitting

ETAS = (0.0, 0.5, 1.0, 2.0)
PATH = paths.vp()
RHO_MAX = 4.0  # noise-to-signal ratio at T: little enough for a cycle to remember its start by
ROWS = 9  # with the clean one

TEXT = """**The paper's claim (§4, eqs. 10–11, Figures 6 and 7).** Carry a data sample x₀ forward \
to x_T, and start the reverse process there. At every noise level the forward sample x_t and the \
reverse sample x_{(T−t)′} are distinct but obey one density, q_{t′} = p_{T−t′}; each such row is \
"consecutive steps of Langevin dynamics".

**What is measured.** Chains of particles go up and down the ladder, for reverse processes of \
stochasticity η = 0 (the ODE), ½, 1 (the SDE) and 2. Of each row: the sliced Wasserstein distance \
of its reverse samples to forward samples of other chains, against the distance of two sets of \
forward samples (the null band); and the correlation of the two samples of one chain. For a \
Gaussian of variance S the latter is known: forward noising keeps r = √((S+ρ_t²)/(S+ρ_T²)) of the \
correlation, the reverse process with η keeps r^{η²}, and so a row has r^{1+η²}: r for the ODE, \
which is a map and forgets nothing, r² for the SDE, which is as forgetful as the forward process.

**How to read it.** The ladder shows one cycle: green down, blue up, and a few particles in the \
same colour everywhere. At the noisy end a row is one and the same particle; the nearer to the \
data the newer it is, and only as new as the journey to T and back forgets."""


def measure(setting: part.Setting) -> part.Findings:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 64))
  rungs = 8 if setting.fast else 16  # reverse steps between two rows
  rows = _rows(setting, keys, rungs)
  gaussian = _gaussian(setting, keys, rungs)
  rung = _rung()
  ladder, chain = rows.pop("ladder"), rows.pop("chain")
  data = {"rows": rows, "gaussian": gaussian, "rung": rung, "chain": chain, "ladder": ladder}
  captions = {
      "ladder": f"Part of one cycle at η = {ladder['eta']:g}: the forward process down the left "
      "column, the reverse process up the right one. Contours are the exact densities of the "
      "levels; large dots are the same six chains everywhere. Each red arrow is a row, with the "
      "Langevin budget (1+η²)(ℓ_t − ℓ_T) of its rungs and the correlation of its two samples.",
      "chain": "The whole cycle of the plane's first coordinate: the exact density of every level "
      "(grey), down to T and up again, mirrored; on it chains of single particles, one colour a "
      f"chain, at η = {chain['eta']:g}.",
      "rows": "Left: sliced W₂ from the reverse samples of a row to forward samples of other "
      f"chains; bars are standard errors over {rows['repeats']} repeats, the band holds ± 2 "
      "standard deviations of the distance between two forward sets. Middle: correlation of the "
      "two samples of a row for a Gaussian, measured (points) and r^{1+η²} (lines). Right: for "
      "the density in the plane.",
      "rung": "For a Gaussian with two principal variances, the Langevin time that would explain a "
      "row's correlation in each direction. The two agree for a row one rung long, and part for "
      "longer ones: such a row has the law of Langevin dynamics, but is no Langevin run.",
  }
  claims = [*_row_claims(rows), *_gaussian_claims(gaussian), *_rung_claims(rung)]
  return part.Findings(claims, data, captions, tables=[_table(rows, gaussian)])


def _levels(rungs: int) -> np.ndarray:
  """ρ of every reverse step, from T to 0; each `rungs`-th is a row.

  Even in the angle atan ρ between data and noise, as far as any density changes.
  """
  return np.tan(np.linspace(np.arctan(RHO_MAX), 0.0, (ROWS - 1) * rungs + 1))


def forward(key, mixture, *, shape, rungs):
  """The forward process at unit scale, at all of `_levels`, data first: (levels, *shape, 2)."""
  times = PATH.time(-np.log(_levels(rungs)[-2::-1]))
  return np.asarray(_forward(key, mixture, times, shape=shape))


@functools.partial(jax.jit, static_argnames="shape")
def _forward(key, mixture, times, *, shape):
  key_x, key = jax.random.split(key)
  x_0 = plane.data(key_x, mixture, shape)
  # On a variance-preserving path states are at unit scale already.
  return jnp.concatenate([x_0[None], paths.simulate(key, x_0, times, PATH)])


def reverse(key, mixture, x_T, *, eta, rungs, order=2):
  """The reverse process from x_T, data first: at the levels, and of the shape, of `forward`."""
  # η is traced: one program for all of them.
  return np.asarray(
      _reverse(key, mixture, x_T, np.float64(eta), rungs=rungs, order=order))[::-1]


@functools.partial(jax.jit, static_argnames=("rungs", "order"))
def _reverse(key, mixture, x_T, eta, *, rungs, order):
  return samplers.trajectory(
      key, mixtures.denoiser(mixture, PATH), PATH, shape=x_T.shape, initial=x_T,
      method=samplers.multistep(order, eta), grid=samplers.explicit(_levels(rungs)[:-1])).x


def _rows(setting, keys, rungs):
  """The laws and correlations of all rows, by η."""
  mixture = setting.density.plane
  n, repeats, projections = (500, 8, 32) if setting.fast else (2000, 10, 64)
  all_down = forward(next(keys), mixture, shape=(repeats, n), rungs=rungs)
  down = all_down[::rungs]
  others = np.roll(down, 1, axis=1)  # forward samples of other chains, row by row
  apart = lambda a, b: np.array([
      plane.apart(x, y, seed=setting.seed, projections=projections)
      for x, y in zip(a, b, strict=True)])
  null = apart(others, down)
  found = {
      "repeats": repeats, "ell": _row_levels(rungs), "etas": ETAS, "null": null.mean(1),
      "null_spread": null.std(1, ddof=1), "distance": [], "error": [], "gain": [],
      "gain_error": [], "correlation": [], "correlation_error": []}
  for eta in ETAS:
    all_up = reverse(next(keys), mixture, down[-1], eta=eta, rungs=rungs)
    up = all_up[::rungs]
    distance = apart(others, up)
    gain = distance - null  # against the same forward samples
    correlation = plane.correlation(down, up)
    found["distance"].append(distance.mean(1))
    found["error"].append(plane.standard_error(distance.T))
    found["gain"].append(gain.mean(1))
    found["gain_error"].append(plane.standard_error(gain.T))
    found["correlation"].append(correlation.mean(1))
    found["correlation_error"].append(plane.standard_error(correlation.T))
    if eta == 1.0:
      found["ladder"] = _ladder(mixture, down[:, 0], up[:, 0], found, eta)
      found["chain"] = _chain(mixture, all_down[:, 0, :7, 0], all_up[:, 0, :7, 0], eta, rungs)
  return found


def _row_levels(rungs):
  """ℓ of the rows, data first: ∞, then falling."""
  return np.append(np.inf, -np.log(_levels(rungs)[::-rungs][1:]))


def _ladder(mixture, down, up, found, eta):
  """Four rows of one cycle, for the picture."""
  shown = [1, 4, 6, 8]
  ell = np.asarray(found["ell"])
  return {
      "eta": eta, "ell": ell[shown], "budget": (1.0 + eta**2) * (ell[shown] - ell[-1]),
      "down": down[shown, :500].round(3), "up": up[shown, :500].round(3),
      "correlation": np.asarray(found["correlation"][-1])[shown],
      "contours": [plane.contours(mixture, float(level), 60) for level in ell[shown]]}


def row_correlation(var, rho_t, rho_T, eta):
  """r^{1+η²}, r = √((S+ρ_t²)/(S+ρ_T²)): corr(x_t, x_{(T−t)′}) of a Gaussian of variance S.

  With u = z/√(S+ρ²) the reverse SDE of §3 is du = −η² ρ²/(S+ρ²) u dℓ + noise, whose integral over ℓ
  is η² log r; the forward process has corr(x_t, x_T) = r.
  """
  return ((var + rho_t**2) / (var + rho_T**2)) ** (0.5 * (1.0 + eta**2))


def recursion(var: float, eta: float, rungs: int) -> tuple[np.ndarray, np.ndarray]:
  """(corr(x_t, x_T) of the forward process, corr(x_T, x_{(T−t)′}) of STEP) of all rows, data first.

  For N(0, S) D is linear, D = S α x/(α²S + σ²), so that each STEP(h, η²h) is x′ = k x + c ξ:
  covariances with x_T are multiplied by k, variances go to k²v + c².
  """
  rho = _levels(rungs)
  alpha, sigma = 1.0 / np.hypot(1.0, rho), rho / np.hypot(1.0, rho)
  alpha[-1], sigma[-1] = 1.0, 0.0
  h = np.log(rho[:-2] / rho[1:-1])
  start = v = alpha[0] ** 2 * var + sigma[0] ** 2
  cov, found = start, [1.0]
  for i in range(len(rho) - 1):
    budget = eta**2 * h[i] if i < len(h) else (np.inf if eta else 0.0)
    a, b, c = splitting.weights(alpha[i], sigma[i], alpha[i + 1], sigma[i + 1], budget)
    k = a + b * var * alpha[i] / (alpha[i] ** 2 * var + sigma[i] ** 2)
    cov, v = k * cov, k**2 * v + c**2
    found.append(cov / np.sqrt(start * v))
  rows = rho[::-rungs].copy()
  return row_correlation(var, rows, rho[0], 0.0), np.array(found)[::-rungs]


def _gaussian(setting, keys, rungs):
  """N(0, 1) in each coordinate: correlation of a row by Monte Carlo, recursion and closed form."""
  n, repeats = (1500, 8) if setting.fast else (8000, 12)
  mixture = mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
  down = forward(next(keys), mixture, shape=(repeats, n), rungs=rungs)[::rungs]
  rho = _levels(rungs)
  found = {"ell": _row_levels(rungs), "rungs": rungs, "etas": ETAS, "measured": [], "error": [],
           "recursion": [], "closed": [], "steps": [4, 8, 16, 32], "gap": []}
  for eta in ETAS:
    up = reverse(next(keys), mixture, down[-1], eta=eta, rungs=rungs, order=1)[::rungs]
    found["measured"].append(plane.correlation(down, up).mean(1))
    expected = np.prod(recursion(1.0, eta, rungs), axis=0)
    # Of the correlation r of N pairs it is (1 − r²)/√N, better known than from a few repeats.
    found["error"].append((1.0 - expected**2) / np.sqrt(down[0].size))
    found["recursion"].append(expected)
    found["closed"].append(row_correlation(1.0, rho[::-rungs], rho[0], eta))
    found["gap"].append([
        np.max(np.abs(np.prod(recursion(1.0, eta, k), axis=0)
                      - row_correlation(1.0, _levels(k)[::-k], RHO_MAX, eta))[1:])
        for k in found["steps"]])
  return found


def _rung():
  """The Langevin times that explain a row in the two principal directions of a Gaussian."""
  var = np.linalg.eigvalsh(np.asarray(densities.load("gaussian").plane.covariances[0]))
  rho_t, eta = 1.0, 1.0
  lengths = 2.0 ** np.arange(-6, 2.01, 0.5)  # of the row, in ℓ
  times = []
  for s in var:
    kept = row_correlation(s, rho_t, rho_t * np.exp(lengths), eta)
    times.append(-np.log(kept) * (s + rho_t**2))  # e^{−τ/Var}, in the frame of z
  return {"lengths": lengths, "variances": var, "times": times, "rho": rho_t, "eta": eta}


def _chain(mixture, down, up, eta, rungs):
  """The first coordinate on the whole cycle: exact densities by level, and a few chains."""
  rho = _levels(rungs)[::-1].copy()
  rho[0] = 1e-3
  axis = np.linspace(-4.0, 4.0, 160)
  first = mixtures.Mixture(mixture.weights, mixture.means[:, :1], mixture.covariances[:, :1, :1])
  density = [laws.exact(first, float(ell), jnp.asarray(axis)).density for ell in -np.log(rho)]
  angle = np.arctan(rho)
  return {"eta": eta, "angle": angle, "axis": axis, "density": np.round(density, 4),
          "down": down.round(3), "up": up.round(3)}


def _row_claims(found):
  # In units of the null band's half width, which is 2 standard deviations of one distance.
  half = 2.0 * np.array(found["null_spread"])
  gain, error = np.array(found["gain"]) / half, np.array(found["gain_error"]) / half
  i, j = np.unravel_index(np.argmax(gain), gain.shape)
  yield part.claim(
      "Forward and reverse samples of a row obey one law (how far the farthest row, that of η = "
      f"{ETAS[i]:g} at ℓ = {part.number(float(found['ell'][j]))}, lies above the middle of the "
      "null band, in units of its half width).", gain[i, j], error=error[i, j], below=1.0,
      source="§4, eq. 11", by="paper")
  yield part.claim(
      "The data that a cycle ends with are distinct from those it began with, even for the ODE "
      "(their correlation at η = 0).", found["correlation"][0][0],
      error=found["correlation_error"][0][0],
      below=1.0 - 3.0 * found["correlation_error"][0][0], source="§4, Fig. 7", by="paper")
  i, j = ETAS.index(1.0), int(np.argmin(np.abs(found["ell"])))
  yield part.claim(
      "A row is the identity of §2, which makes new, independent samples (correlation of the row "
      f"at ℓ = {part.number(float(found['ell'][j]))}, η = 1).", found["correlation"][i][j],
      error=found["correlation_error"][i][j], near=0.0, sigmas=4.0, source="§2, §4, Fig. 7",
      by="paper")


def _gaussian_claims(found):
  measured, error, expected = (np.array(found[k])[:, :-1] for k in
                               ("measured", "error", "recursion"))
  z = (measured - expected) / error
  i, j = np.unravel_index(np.argmax(np.abs(z)), z.shape)
  yield part.claim(
      f"On a Gaussian the correlation of a row is what the linear recursion of STEP gives (of "
      f"{z.size} rows and η the worst, η = {ETAS[i]:g} at ℓ = "
      f"{part.number(float(found['ell'][j]))}).", measured[i, j], error=error[i, j],
      near=expected[i, j], sigmas=5.0, source="§4, Fig. 7; theory.md#step")
  steps = np.array(found["steps"])
  orders = [np.log(gap[-2] / gap[-1]) / np.log(2.0) for gap in found["gap"][1:]]
  yield part.claim(
      "On a Gaussian the correlation of a row goes to r^{1+η²} with order 1 as the steps get finer "
      f"(the order farthest from it over η > 0, at {steps[-1]} steps a row).",
      max(orders, key=lambda order: abs(order - 1.0)), near=1.0, tolerance=0.2,
      source="§4; theory.md#solvers")
  yield part.claim(
      "The ODE forgets nothing: at η = 0 the correlation of a Gaussian's row is r, that of the "
      "forward process alone, exactly (largest difference).", np.max(found["gap"][0]), below=1e-12,
      source="§4; theory.md#exact-models")


def _rung_claims(found):
  slow, fast = np.array(found["times"])
  difference = np.abs(fast / slow - 1.0)
  lengths = found["lengths"]
  order = np.log(difference[1] / difference[0]) / np.log(lengths[1] / lengths[0])
  yield part.claim(
      "A short row is one Langevin step: the relative difference of the Langevin times that "
      "explain two directions of a Gaussian vanishes with the row's length (order in the "
      "length).", order, near=1.0, tolerance=0.15,
      source="§4, Fig. 7")
  yield part.claim(
      "A row of any length is a run of Langevin dynamics at its level (relative difference of the "
      "Langevin times that explain two directions of a Gaussian, for a row "
      f"{part.number(lengths[-1])} long in ℓ).", difference[-1], near=0.0,
      tolerance=1e-9, source="§4, Fig. 7", by="paper")


def _table(rows, gaussian):
  head = ["ℓ of the row", *(f"η = {eta:g}" for eta in ETAS), *(f"r^{1 + e**2:g}" for e in ETAS)]
  table = [head]
  for j, ell in enumerate(rows["ell"]):
    table.append([
        part.number(float(ell)),
        *(f"{part.number(rows['correlation'][i][j])} ± "
          f"{part.number(rows['correlation_error'][i][j], 2)}" for i in range(len(ETAS))),
        *(part.number(gaussian["closed"][i][j]) for i in range(len(ETAS)))])
  return part.Table("Correlation of the two samples of a row: the density in the plane, measured, "
                    "and a Gaussian of variance 1, exact", table)


PART = part.Part(
    name="cycle", title="Figures 6 and 7 — a forward–reverse cycle and its rows", text=TEXT,
    measure=measure, figures=cycle_pictures.figures, x64=True)

if __name__ == "__main__":
  part.main(PART)
