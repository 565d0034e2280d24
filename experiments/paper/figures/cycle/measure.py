"""Figures 6 and 7: a forward–reverse cycle, and the Langevin dynamics along its rows (§4).

The forward process moves x₀ to x_T and the reverse process moves it to x_{T′}. The paper says that
the samples of a row, x_t and x_{(T−t)′}, are distinct with the same law (eq. 11), and that a row is
Langevin dynamics. Measured: the law of every row, the correlation of its samples, and whether a row
is Langevin dynamics.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import densities, estimates, laws, plane
from experiments.paper.setting import Setting
from langevin_jax import mixtures, paths, samplers, splitting

ETAS = (0.0, 0.5, 1.0, 2.0)
PATH = paths.vp()
RHO_MAX = 4.0  # noise-to-signal ratio at T, small enough that a cycle depends on its start
ROWS = 9  # with the clean one


def measure(setting: Setting) -> dict[str, Any]:
  keys = iter(jax.random.split(jax.random.key(setting.seed), 64))
  rungs = 8 if setting.fast else 16  # reverse steps between two rows
  return {**_rows(setting, keys, rungs), "gaussian": _gaussian(setting, keys, rungs),
          "rung": _rung()}


def levels(rungs: int) -> np.ndarray:
  """ρ of every reverse step, from T to 0; each `rungs`-th is a row.

  Even in the angle atan ρ between data and noise, so that densities change evenly.
  """
  return np.tan(np.linspace(np.arctan(RHO_MAX), 0.0, (ROWS - 1) * rungs + 1))


def forward(key, mixture, *, shape, rungs):
  """The forward process at unit scale at all `levels`, data first: (levels, *shape, 2)."""
  times = PATH.time(-np.log(levels(rungs)[-2::-1]))
  return np.asarray(_forward(key, mixture, times, shape=shape))


@functools.partial(jax.jit, static_argnames="shape")
def _forward(key, mixture, times, *, shape):
  key_x, key = jax.random.split(key)
  x_0 = plane.data(key_x, mixture, shape)
  # VP states are at unit scale.
  return jnp.concatenate([x_0[None], paths.simulate(key, x_0, times, PATH)])


def reverse(key, mixture, x_T, *, eta, rungs, order=2):
  """The reverse process from x_T with the levels and shape of `forward`, data first."""
  # η is traced: one program for all of them.
  return np.asarray(
      _reverse(key, mixture, x_T, np.float64(eta), rungs=rungs, order=order))[::-1]


@functools.partial(jax.jit, static_argnames=("rungs", "order"))
def _reverse(key, mixture, x_T, eta, *, rungs, order):
  return samplers.trajectory(
      key, mixtures.denoiser(mixture, PATH), PATH, shape=x_T.shape, initial=x_T,
      method=samplers.multistep(order, eta), grid=samplers.explicit(levels(rungs)[:-1])).x


def _rows(setting, keys, rungs):
  """The laws and correlations of all rows by η, and one cycle for pictures."""
  mixture = setting.density.plane
  n, repeats, projections = (500, 8, 32) if setting.fast else (2000, 10, 64)
  all_down = forward(next(keys), mixture, shape=(repeats, n), rungs=rungs)
  down = all_down[::rungs]
  others = np.roll(down, 1, axis=1)  # forward samples of other chains, row by row
  apart = lambda a, b: np.array([
      plane.apart(x, y, seed=setting.seed, projections=projections)
      for x, y in zip(a, b, strict=True)])
  null = apart(others, down)
  found = {"repeats": repeats, "ell": _row_levels(rungs), "etas": ETAS, "null": null.mean(1),
           "null_spread": null.std(1, ddof=1)}
  shown = {}
  for eta in ETAS:
    all_up = reverse(next(keys), mixture, down[-1], eta=eta, rungs=rungs)
    up = all_up[::rungs]
    distance = apart(others, up)
    row = {**estimates.named("distance", distance, 1),
           # Against the same forward samples as the null.
           **estimates.named("gain", distance - null, 1),
           **estimates.named("correlation", plane.correlation(down, up), 1)}
    for key, value in row.items():
      found.setdefault(key, []).append(value)
    if eta == 1.0:
      shown = {"ladder": _ladder(mixture, down[:, 0], up[:, 0], found["ell"], row["correlation"],
                                 eta),
               "chain": _chain(mixture, all_down[:, 0, :7, 0], all_up[:, 0, :7, 0], eta, rungs)}
  return {"rows": found, **shown}


def _row_levels(rungs):
  """ℓ of the rows, data first: ∞, then falling."""
  return np.append(np.inf, -np.log(levels(rungs)[::-rungs][1:]))


def _ladder(mixture, down, up, ell, correlation, eta):
  """Four rows of one cycle, for the picture."""
  shown = [1, 4, 6, 8]
  return {
      "eta": eta, "ell": ell[shown], "budget": (1.0 + eta**2) * (ell[shown] - ell[-1]),
      "down": down[shown, :500].round(3), "up": up[shown, :500].round(3),
      "correlation": correlation[shown],
      "contours": [plane.contours(mixture, float(level), 60) for level in ell[shown]]}


def _chain(mixture, down, up, eta, rungs):
  """The first coordinate over the cycle: exact densities by level, and a few chains."""
  rho = levels(rungs)[::-1].copy()
  rho[0] = 1e-3
  axis = np.linspace(-4.0, 4.0, 160)
  first = mixtures.Mixture(mixture.weights, mixture.means[:, :1], mixture.covariances[:, :1, :1])
  density = [laws.exact(first, float(ell), jnp.asarray(axis)).density for ell in -np.log(rho)]
  return {"eta": eta, "angle": np.arctan(rho), "axis": axis, "density": np.round(density, 4),
          "down": down.round(3), "up": up.round(3)}


def row_correlation(var, rho_t, rho_T, eta):
  """r^{1+η²}, r = √((S+ρ_t²)/(S+ρ_T²)): corr(x_t, x_{(T−t)′}) of a Gaussian of variance S.

  With u = z/√(S+ρ²) the reverse SDE is du = −η² ρ²/(S+ρ²) u dℓ + noise; the integral over ℓ is
  η² log r. The forward process has corr(x_t, x_T) = r.
  """
  return ((var + rho_t**2) / (var + rho_T**2)) ** (0.5 * (1.0 + eta**2))


def recursion(var: float, eta: float, rungs: int) -> tuple[np.ndarray, np.ndarray]:
  """(corr(x_t, x_T) of the forward process, corr(x_T, x_{(T−t)′}) of STEP) of all rows, data first.

  For N(0, S), D = S α x/(α²S + σ²) is linear, so that STEP(h, η²h) is x′ = k x + c ξ: covariances
  with x_T are multiplied by k, and variances become k²v + c².
  """
  rho = levels(rungs)
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
  whole = lambda eta, rungs: np.prod(recursion(1.0, eta, rungs), axis=0)
  closed = lambda eta, rungs, end=RHO_MAX: row_correlation(
      1.0, levels(rungs)[::-rungs], end, eta)
  found = {"ell": _row_levels(rungs), "etas": ETAS, "steps": [4, 8, 16, 32],
           "recursion": [whole(eta, rungs) for eta in ETAS],
           "closed": [closed(eta, rungs, levels(rungs)[0]) for eta in ETAS], "measured": []}
  for eta in ETAS:
    up = reverse(next(keys), mixture, down[-1], eta=eta, rungs=rungs, order=1)[::rungs]
    found["measured"].append(plane.correlation(down, up).mean(1))
  # The standard error of a correlation r of N pairs is (1 − r²)/√N.
  found["error"] = (1.0 - np.square(found["recursion"])) / np.sqrt(down[0].size)
  found["gap"] = [[np.max(np.abs(whole(eta, k) - closed(eta, k))[1:]) for k in found["steps"]]
                  for eta in ETAS]
  return found


def _rung():
  """The Langevin times that explain a row in the two principal directions of a Gaussian."""
  var = np.linalg.eigvalsh(np.asarray(densities.load("gaussian").plane.covariances[0]))
  rho_t, eta = 1.0, 1.0
  lengths = 2.0 ** np.arange(-6, 2.01, 0.5)  # of the row, in ℓ
  # The correlation e^{−τ/Var}, in the frame of z, solved for τ.
  times = [-np.log(row_correlation(s, rho_t, rho_t * np.exp(lengths), eta)) * (s + rho_t**2)
           for s in var]
  return {"lengths": lengths, "variances": var, "times": times, "rho": rho_t, "eta": eta}
