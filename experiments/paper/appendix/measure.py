"""The equations of the appendix for the library's paths, scores and losses.

They are sums over nodes on the line with errors ≤ 1e-6 (theory.md#numerics). Only one check, of the
training loss, uses samples.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper.appendix import equations
from experiments.paper.exact import laws
from experiments.paper.setting import Setting
from experiments.paper.tables import latex, symbolic
from langevin_jax import mixtures, objectives, paths, splitting

sp = symbolic.sp
PATHS = {"VP": paths.vp(), "VE": paths.ve(), "RF": paths.rectified_flow()}
# Ends of sums over ℓ. At CLEAN, KL(p_t‖q_t) is that of the data up to e^{−2ℓ}.
CLEAN, PURE = 14.0, -14.0
BETAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
CLOCKS = (0.0, 0.5, 1.0, 2.0)  # values of η, for the clock H = (1 + η²)/2 · g²


def every_path() -> dict[str, paths.Path]:
  """All named paths, and one that is defined by its SDE."""
  return PATHS | {
      "cosine": paths.cosine(), "linear VP": paths.linear_vp(), "sub-VP": paths.sub_vp(),
      "geometric VE": paths.geometric_ve(),
      "from an SDE": paths.from_sde(lambda t: -0.4 - 0.2 * t, lambda t: 1.0 + 0.5 * jnp.sin(t),
                                    t_min=0.0, t_max=5.0)}


def other(p: mixtures.Mixture) -> mixtures.Mixture:
  """q: p with reversed weights, shifted, and widened so that KL(p‖q) is finite and small."""
  return mixtures.Mixture(p.weights[::-1], 0.8 * p.means + 0.3, 1.5 * p.covariances)


def measure(setting: Setting) -> dict[str, Any]:
  p = setting.density.line
  q = other(p)
  both = mixtures.Mixture(*(jnp.concatenate(pair) for pair in zip(p, q, strict=True)))
  # Eight deviations beyond the farthest mean in place of six: errors are due to rounding.
  y = 4.0 / 3.0 * laws.nodes(both, 601 if setting.fast else 1201)
  ell = np.linspace(-4.0, 4.0, 33 if setting.fast else 65)
  return {"stationary": _stationary(p, y, ell[::8]),
          "fokker_planck": _fokker_planck(p, y, ell[::8]), "decay": _decay(p, q, y, ell),
          "matching": _matching(setting.seed, p, q, y, ell[::4], setting.fast)}


def _stationary(p, y, ell):
  """A.1: rates of p^β under Langevin dynamics of p, by noise level and clock."""
  path = PATHS["VP"]

  @jax.jit
  def rates(etas, ell, betas):
    def at(eta, ell, beta):
      sde = splitting.split(path, eta).langevin
      return equations.langevin_drift(p, sde, path, path.time(ell), beta, y)

    each = jax.vmap(jax.vmap(at, (None, None, 0)), (None, 0, None))
    return jax.lax.map(lambda eta: each(eta, ell, betas), etas)

  rate, beside = map(np.asarray, rates(np.array(CLOCKS), ell, np.array(BETAS)))
  one = BETAS.index(1.0)
  return {"beta": BETAS, "rate": rate[0].T, "half_log_snr": ell, "clocks": CLOCKS,
          "at_one": rate[:, :, one], "others": np.delete(rate, one, axis=2).min(),
          "beside": beside.max(), **_flow()}


def _flow() -> dict[str, str]:
  """∂π/∂τ / π of π ∝ e^{−βE} under Langevin dynamics of e^{−E}, in LaTeX; and at β = 1."""
  x, beta = sp.symbols("x beta")
  energy = sp.Function("E")(x)
  power = sp.exp(-beta * energy)
  # −∂(s π) + ∂²π with s = −E′, divided by π.
  flow = sp.simplify((sp.diff(sp.diff(energy, x) * power, x) + sp.diff(power, x, 2)) / power)
  first, second = sp.symbols("E' E''")
  shown = flow.subs(sp.diff(energy, x, 2), second).subs(sp.diff(energy, x), first)
  return {"flow": latex.shown(sp.factor(shown)), "flow_at_one": latex.shown(
      sp.simplify(flow.subs(beta, 1)))}


def _fokker_planck(p, y, ell):
  """A.2: residuals by path."""
  everyone = every_path()
  now = _instants(everyone, {name: ell for name in everyone})
  each = jax.jit(lambda now: jax.lax.map(lambda now: equations.fokker_planck(p, now, y), now))
  found = dict(zip(everyone, np.asarray(each(now)).reshape(len(everyone), -1), strict=True))
  return {"half_log_snr": ell, "residual": found}


def _instants(named: dict[str, paths.Path], ells: dict[str, np.ndarray]) -> equations.Instant:
  """Each path at its levels, concatenated over paths."""
  @jax.jit
  def at(ells):
    parts = [jax.vmap(lambda e, path=path: equations.instant(path, path.time(e)))(ells[name])
             for name, path in named.items()]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

  return at(ells)


def _decay(p, q, y, ell):
  """A.3: KL(p_t‖q_t) by path, its slope, the slope by eq. 17, and sums over all times."""
  ends = {name: float(path.half_log_snr(path.t_max)) for name, path in PATHS.items()}
  sums = {name: _gauss_legendre(max(end, PURE)) for name, end in ends.items()}
  few, m = 9, len(ell)
  # The levels drawn as tangents, those of the sum, and both ends of time.
  ells = {name: np.concatenate([ell, np.linspace(max(end, -4.0), 4.0, few), sums[name][0],
                                [end, np.inf]]) for name, end in ends.items()}
  now = _instants(PATHS, ells)
  # The prior N(0, σ²) is a diffused point at the origin.
  origin = mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)))
  each = jax.jit(lambda now: jax.lax.map(lambda now: (
      *equations.decay(p, q, now, y), equations.decay(p, origin, now, y).kl), now))
  cuts = np.cumsum([len(ells[name]) for name in PATHS])[:-1]
  found = zip(*(np.split(np.asarray(v), cuts) for v in (now.t, now.clock, *each(now))), strict=True)
  data, rates, residuals, sums_of = {}, {}, {}, {}
  for (name, path), (t, clock, kl, slope, predicted, prior) in zip(
      PATHS.items(), found, strict=True):
    residuals[name] = np.abs(slope - predicted)[:m] / clock[:m]
    rates[name] = -slope[:m] / clock[:m]
    total = float(np.sum(sums[name][1] * -predicted[m + few:-2] / clock[m + few:-2]))
    sums_of[name] = {"t_max": path.t_max, "start": kl[-1], "total": total, "left": kl[-2],
                     "missed": kl[-1] - kl[-2] - total, "prior": prior[-2]}
    order, tangent = np.argsort(t[:m]), slice(m, m + few)
    data[name] = {
        "t": t[:m][order], "kl": kl[:m][order], "t_max": path.t_max,
        "tangents": np.stack([t[tangent], kl[tangent], predicted[tangent]], axis=1)}
  return {"paths": data, "half_log_snr": ell, "rate": rates, "residual": residuals,
          "sums": sums_of}


def _gauss_legendre(low: float) -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights of ∫ dℓ from `low` to `CLEAN`, eight for each unit of ℓ or less."""
  edges = np.linspace(low, CLEAN, int(np.ceil(CLEAN - low)) + 1)
  nodes, weights = np.polynomial.legendre.leggauss(8)
  half = 0.5 * np.diff(edges)[:, None]
  return (edges[:-1, None] + half * (1.0 + nodes)).ravel(), (half * weights).ravel()


def _models(seed, p, q) -> dict[str, equations.Score]:
  """Scores at unit scale: the exact one and others, as of networks before training."""
  exact, rng = equations.of_mixture(p), np.random.default_rng(seed)
  waves = list(zip(rng.normal(size=6), rng.normal(scale=2.0, size=6),
                   rng.uniform(high=2.0 * np.pi, size=6), strict=True))
  return {
      "exact": exact, "0.8 × exact": lambda x, ell: 0.8 * exact(x, ell),
      "score of q": equations.of_mixture(q), "zero": lambda x, ell: jnp.zeros_like(x),
      "random": lambda x, ell: sum(a * jnp.cos(w * x + b) for a, w, b in waves)}


def _matching(seed, p, q, y, ell, fast):
  """A.4: DSM and SM of several models, by noise level."""
  models = _models(seed, p, q)
  # At low noise scores switch between modes abruptly: x₀ must resolve that.
  x_0, eps = 4.0 / 3.0 * laws.nodes(p, 1201), jnp.linspace(-8.5, 8.5, 121)
  few, n = (5, 4_000) if fast else (9, 100_000)

  @jax.jit
  def by_quadrature(ell):
    return jax.lax.map(
        lambda e: equations.matching(p, tuple(models.values()), e, y, x_0, eps), ell)

  @jax.jit
  def gradients(ell):
    """Of both losses in the weights, means and covariances of a mixture's score, at q and at p."""
    dsm = lambda m, e: equations.denoising(p, equations.of_mixture(m), e, x_0, eps)
    sm = lambda m, e: equations.explicit(p, equations.of_mixture(m), e, y)
    flat = lambda g: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(g)])
    at = lambda e: (flat(jax.grad(dsm)(q, e)), flat(jax.grad(sm)(q, e)), flat(jax.grad(dsm)(p, e)))
    return jax.lax.map(at, ell)

  found = jax.tree.map(np.asarray, by_quadrature(ell))
  rho = np.exp(-ell)
  constant = found.mmse / rho**2
  gap = found.dsm - found.sm
  scored = 1.0 / rho**2 - found.squared_score  # C in units of the score of z
  denoising, explicit, at_p = map(np.asarray, gradients(ell[::max(len(ell) // 4, 1)]))
  picked = np.linspace(0, len(ell) - 1, few).astype(int)
  loss, error = _losses(jax.random.key(seed), models, p, ell[picked], n)
  expected = (found.sm + constant[:, None])[picked].T
  return {
      "models": list(models), "half_log_snr": ell, "dsm": found.dsm.T, "sm": found.sm.T,
      "constant": constant, "residual": np.abs(gap - constant[:, None]).max(axis=1),
      "scaled": np.abs(scored * rho**4 / found.mmse - 1.0).max(),
      "gradient": np.abs(denoising - explicit).max() / np.abs(explicit).max(),
      "gradient_at_p": np.abs(at_p).max(),
      "drawn": {"half_log_snr": ell[picked], "loss": loss, "error": error, "n": n,
                "deviation": np.abs(loss - expected) / error}}


def _losses(key, models, p, ell, n) -> tuple[np.ndarray, np.ndarray]:
  """`objectives.corrupted_loss` of each model at each level, with standard errors."""
  key_x, key_eps = jax.random.split(key)
  ells = jnp.repeat(jnp.asarray(ell), n)

  @jax.jit
  def errors(key_x, key_eps):
    x_0 = p.sample(key_x, len(ells))
    drawn = objectives.Corruption(ells, jax.random.normal(key_eps, x_0.shape))
    return jnp.stack([objectives.corrupted_loss(
        lambda x, ell, model=model: jax.vmap(model)(x, ell), x_0, drawn, weight=jnp.ones_like,
        prediction="score")[1]["eps_error"] for model in models.values()])

  each = np.asarray(errors(key_x, key_eps)).reshape(len(models), len(ell), n)
  return each.mean(axis=2), each.std(axis=2, ddof=1) / np.sqrt(n)
