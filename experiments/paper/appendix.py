"""The appendix: A.1 stationarity, A.2 Fokker–Planck, A.3 KL decay, A.4 DSM = SM + C.

Each derivation's result is held against the library's own paths, scores and losses, by sums over
nodes on the line (`identities`), to ≤ 1e-6 (theory.md#numerics) or to rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import appendix_figures, identities, laws, mathml, part, symbolic
from langevin_jax import mixtures, objectives, paths, splitting

TEXT = """
The appendix derives four things that the paper builds on. Here each is put to the test with the
library's own functions, for the density on the line and, where two laws are needed, another mixture
q beside it. Nothing is sampled except in one check; sums over a fine grid leave errors near
rounding.

**A.1** says that Langevin dynamics with the score of p leaves p, and no other power p^β, as it is,
whatever the clock. Symbolically, and by automatic differentiation of the drift that the library
splits. (Step 3 of the derivation has product and sum the wrong way round, and takes for granted
that the stationary density depends on x through the energy alone. The result is right.)

**A.2** says that densities of the forward process obey the Fokker–Planck equation. The library's
density of a diffused mixture, its drift f and its noise g are made from α and σ by different
routes; the equation has to hold between them on every path.

**A.3** says that KL(p_t‖q_t) falls at the rate ½ g² E‖∇log p − ∇log q‖² (eq. 17). Short lines of
that slope have to lie along the curves. The sum over all times gives back the KL of the data, but
for what is left at the last time, which eq. 14 takes for zero: a forward process that ends at a
finite T has not forgotten everything.

**A.4** says that denoising score matching (DSM) and score matching (SM) differ by a constant C(ℓ)
that knows nothing of the model, and so have one minimiser. C is the error that even the best
denoiser makes: mmse/ρ² in units of ε, mmse/ρ⁴ in units of the score of x/α, where mmse = E‖x₀ −
D‖².
""".strip()

sp = symbolic.sp
PATHS = {"VP": paths.vp(), "VE": paths.ve(), "RF": paths.rectified_flow()}
LONG = {"VP": "VP", "VE": "VE-Karras", "RF": "rectified flow"}
TOLERANCE, ROUNDING = 1e-6, 1e-10
# The far end of ℓ, where KL(p_t‖q_t) is that of the data to e^{−2ℓ}.
CLEAN, PURE = 14.0, -14.0
BETAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
CLOCKS = (0.0, 0.5, 1.0, 2.0)  # η, which makes the clock H = (1 + η²)/2 · g²


def every_path() -> dict[str, paths.Path]:
  """All named paths, and one that is given by its SDE alone."""
  return PATHS | {
      "cosine": paths.cosine(), "linear VP": paths.linear_vp(), "sub-VP": paths.sub_vp(),
      "geometric VE": paths.geometric_ve(),
      "from an SDE": paths.from_sde(lambda t: -0.4 - 0.2 * t, lambda t: 1.0 + 0.5 * jnp.sin(t),
                                    t_min=0.0, t_max=5.0)}


def other(p: mixtures.Mixture) -> mixtures.Mixture:
  """q: p with its weights reversed, moved, and widened so that KL(p‖q) is finite and small."""
  return mixtures.Mixture(p.weights[::-1], 0.8 * p.means + 0.3, 1.5 * p.covariances)


def measure(setting: part.Setting) -> part.Findings:
  p = setting.density.line
  q = other(p)
  both = mixtures.Mixture(*(jnp.concatenate(pair) for pair in zip(p, q, strict=True)))
  # Eight deviations beyond the farthest mean, in the place of six: rounding is asked for.
  y = 4.0 / 3.0 * laws.nodes(both, 601 if setting.fast else 1201)
  ell = np.linspace(-4.0, 4.0, 33 if setting.fast else 65)
  parts = [_stationary(p, y, ell[::8]), _fokker_planck(p, y, ell[::8]), _decay(p, q, y, ell),
           _matching(setting.seed, p, q, y, ell[::4], setting.fast)]
  chained = lambda i: [found for piece in parts for found in piece[i]]
  return part.Findings(
      claims=chained(0), tables=chained(1), captions=appendix_figures.CAPTIONS,
      data={name: found for piece in parts for name, found in piece[2].items()})


def _stationary(p, y, ell):
  """A.1: claims, tables, data."""
  x, beta = sp.Symbol("x"), sp.Symbol("beta")
  energy = sp.Function("E")(x)
  power = sp.exp(-beta * energy)
  # −∂(s π) + ∂²π with s = −E′, divided by π.
  flow = sp.simplify((sp.diff(sp.diff(energy, x) * power, x)
                         + sp.diff(power, x, 2)) / power)
  left = sp.simplify(flow.subs(beta, 1))
  first, second = sp.symbols("E′ E″")
  shown = sp.factor(flow.subs(sp.diff(energy, x, 2), second).subs(
      sp.diff(energy, x), first))

  path = PATHS["VP"]

  @jax.jit
  def rates(etas, ell, betas):
    def at(eta, ell, beta):
      sde = splitting.split(path, eta).langevin
      return identities.langevin_drift(p, sde, path, path.time(ell), beta, y)

    each = jax.vmap(jax.vmap(at, (None, None, 0)), (None, 0, None))
    return jax.lax.map(lambda eta: each(eta, ell, betas), etas)

  rate, beside = map(np.asarray, rates(np.array(CLOCKS), ell, np.array(BETAS)))
  one = BETAS.index(1.0)
  others = np.delete(rate, one, axis=2)
  claims = [
      part.claim(
          "Langevin dynamics leaves p as it is, whatever the clock (largest rate at which it "
          f"would move probability, for {len(ell)} noise levels and {len(CLOCKS)} clocks).",
          rate[:, :, one].max(), below=ROUNDING, source="A.1, steps 1 and 4", by="paper"),
      part.claim(
          "Langevin dynamics leaves no other power p^β as it is (smallest rate of the other β).",
          others.min(), above=TOLERANCE, source="A.1, step 4", by="paper")]
  maths = lambda e: part.Maths(mathml.math(mathml.shown(e, {})))
  table = part.Table("A.1: Langevin dynamics of p = e^{−E} on a density π ∝ e^{−βE}", [
      ["quantity", "symbols", "numbers"],
      ["∂π/∂τ / π", maths(shown),
       f"to {part.number(beside.max())} of the library's drift"],
      ["the same at β = 1", maths(left), f"to {part.number(rate[:, :, one].max())}"]])
  return claims, [table], {"stationary": {
      "beta": BETAS, "rate": rate[0].T, "half_log_snr": ell,
      "clocks": CLOCKS, "at_one": rate[:, :, one]}}


def _fokker_planck(p, y, ell):
  """A.2: claims, tables, data."""
  everyone = every_path()

  now = _instants(everyone, {name: ell for name in everyone})
  each = jax.jit(lambda now: jax.lax.map(lambda now: identities.fokker_planck(p, now, y), now))
  found = dict(zip(everyone, np.asarray(each(now)).reshape(len(everyone), -1), strict=True))
  integrated = found["from an SDE"].max()
  worst = max(found[name].max() for name in everyone if name != "from an SDE")
  claims = [
      part.claim(
          "The density of a diffused mixture obeys the Fokker–Planck equation with the drift and "
          f"noise of its path (largest residual over {len(everyone) - 1} paths, in probability per "
          "unit of ℓ).", worst, below=ROUNDING, source="A.2", by="paper"),
      part.claim(
          "It does with a drift and noise of one's own too, of which α and σ are integrated "
          "numerically (largest residual).", integrated, below=TOLERANCE, source="A.2", by="paper")]
  return claims, [], {"fokker_planck": {
      "half_log_snr": ell, "residual": found, "tolerance": TOLERANCE}}


def _instants(named: dict[str, paths.Path], ells: dict[str, np.ndarray]) -> identities.Instant:
  """Each path at its own levels, one path's after the other's."""
  @jax.jit
  def at(ells):
    parts = [jax.vmap(lambda e, path=path: identities.instant(path, path.time(e)))(ells[name])
             for name, path in named.items()]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

  return at(ells)


def _decay(p, q, y, ell):
  """A.3: claims, tables, data."""
  ends = {name: float(path.half_log_snr(path.t_max)) for name, path in PATHS.items()}
  sums = {name: _gauss_legendre(max(end, PURE)) for name, end in ends.items()}
  few, m = 9, len(ell)
  # The levels drawn as tangents, those of the sum, and both ends of time.
  ells = {name: np.concatenate([ell, np.linspace(max(end, -4.0), 4.0, few), sums[name][0],
                                [end, np.inf]]) for name, end in ends.items()}
  now = _instants(PATHS, ells)
  # The prior N(0, σ²) is a point at the origin, diffused.
  origin = mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)))
  each = jax.jit(lambda now: jax.lax.map(lambda now: (
      *identities.decay(p, q, now, y), identities.decay(p, origin, now, y).kl), now))
  cuts = np.cumsum([len(ells[name]) for name in PATHS])[:-1]
  found = zip(*(np.split(np.asarray(v), cuts) for v in (now.t, now.clock, *each(now))), strict=True)
  rows = [["path", "T", "KL(p₀‖q₀), nats", "sum over all times", "left at T: KL(p_T‖q_T)",
           "does not close by", "KL(p_T‖prior), dropped too"]]
  data, rates, residuals, misses, left = {}, [], [], {}, {}
  for (name, path), (t, clock, kl, slope, predicted, prior) in zip(
      PATHS.items(), found, strict=True):
    residuals.append(np.abs(slope - predicted)[:m] / clock[:m])
    rates.append(-slope[:m] / clock[:m])
    total = float(np.sum(sums[name][1] * -predicted[m + few:-2] / clock[m + few:-2]))
    left[name], misses[name] = kl[-2], kl[-1] - kl[-2] - total
    rows.append([LONG[name], part.number(path.t_max), *map(_nats, (
        kl[-1], total, kl[-2], abs(misses[name]), prior[-2]))])
    order, tangent = np.argsort(t[:m]), slice(m, m + few)
    data[name] = {
        "t": t[:m][order], "kl": kl[:m][order], "t_max": path.t_max,
        "tangents": np.stack([t[tangent], kl[tangent], predicted[tangent]], axis=1)}
  rates = np.array(rates)
  claims = [
      part.claim("KL(p_t‖q_t) falls at the rate ½ g² E‖s_p − s_q‖² (largest difference over three "
                 f"paths and {len(ell)} levels, nats per unit of ℓ).", np.max(residuals),
                 below=TOLERANCE, source="eq. 17, A.3", by="paper"),
      part.claim(
          "KL(p_t‖q_t) never rises (smallest rate of fall, nats per unit of ℓ).", rates.min(),
          above=0.0, source="A.3", by="paper"),
      part.claim(
          "Per unit of ℓ KL falls at one and the same rate for VP, VE and rectified flow, ρ² "
          "E‖s_p − s_q‖² for z = x/α (largest difference between paths, nats).",
          np.ptp(rates, axis=0).max(), below=TOLERANCE, source="eq. 17, Table 2"),
      part.claim("The rates of all times add up to KL(p₀‖q₀) less what is left at T (largest "
                 "difference over three paths, nats).", max(map(abs, misses.values())),
                 below=TOLERANCE, source="eq. 14"),
      *(part.claim(f"At the end of {LONG[name]}, T = {part.number(PATHS[name].t_max)}, nothing is "
                   "left of KL(p_T‖q_T) (nats).", left[name], near=0.0, tolerance=TOLERANCE,
                   source="eq. 14", by="paper") for name in ("VP", "VE"))]
  return claims, [part.Table("A.3: eq. 14 with its end", rows)], {"decay": {
      "paths": data, "half_log_snr": ell, "rate": dict(zip(PATHS, rates, strict=True)),
      "residual": dict(zip(PATHS, residuals, strict=True))}}


def _gauss_legendre(low: float) -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights of ∫ over ℓ from `low` to `CLEAN`, eight to each unit of ℓ or less."""
  edges = np.linspace(low, CLEAN, int(np.ceil(CLEAN - low)) + 1)
  nodes, weights = np.polynomial.legendre.leggauss(8)
  half = 0.5 * np.diff(edges)[:, None]
  return (edges[:-1, None] + half * (1.0 + nodes)).ravel(), (half * weights).ravel()


def _nats(value: float) -> str:
  return "0 to rounding" if abs(value) < 1e-14 else part.number(value)


def _models(seed, p, q) -> dict[str, identities.Score]:
  """Scores at unit scale: the exact one, and such as a network might be before it has learned."""
  exact, rng = identities.of_mixture(p), np.random.default_rng(seed)
  waves = list(zip(rng.normal(size=6), rng.normal(scale=2.0, size=6),
                   rng.uniform(high=2.0 * np.pi, size=6), strict=True))
  return {
      "exact": exact, "0.8 × exact": lambda x, ell: 0.8 * exact(x, ell),
      "score of q": identities.of_mixture(q), "zero": lambda x, ell: jnp.zeros_like(x),
      "random": lambda x, ell: sum(a * jnp.cos(w * x + b) for a, w, b in waves)}


def _matching(seed, p, q, y, ell, fast):
  """A.4: claims, tables, data."""
  models = _models(seed, p, q)
  # At little noise the scores switch between modes at once, which x₀ has to resolve.
  x_0, eps = 4.0 / 3.0 * laws.nodes(p, 1201), jnp.linspace(-8.5, 8.5, 121)
  few, n = (5, 4_000) if fast else (9, 100_000)

  @jax.jit
  def by_quadrature(ell):
    return jax.lax.map(
        lambda e: identities.matching(p, tuple(models.values()), e, y, x_0, eps), ell)

  @jax.jit
  def gradients(ell):
    """Of both losses in the weights, means and covariances of a mixture's score, at q and at p."""
    dsm = lambda m, e: identities.denoising(p, identities.of_mixture(m), e, x_0, eps)
    sm = lambda m, e: identities.explicit(p, identities.of_mixture(m), e, y)
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
  drawn = _losses(jax.random.key(seed), models, p, ell[picked], n)
  expected = (found.sm + constant[:, None])[picked].T
  deviation = np.abs(drawn[0] - expected) / drawn[1]
  claims = [
      part.claim(f"DSM − SM is one constant for {len(models)} models of the score, mmse/ρ², the "
                 f"error of the best denoiser in units of ε (largest difference over {len(ell)} "
                 "levels).", np.abs(gap - constant[:, None]).max(), below=TOLERANCE,
                 source="A.4", by="paper"),
      part.claim("For scores of z = x/α the constant is mmse/ρ⁴ = 1/ρ² − E‖s‖² (largest relative "
                 "difference).",
                 np.abs(scored * rho**4 / found.mmse - 1.0).max(), below=TOLERANCE,
                 source="theory.md#loss"),
      part.claim("DSM and SM have one gradient, here in the parameters of a mixture's score at q "
                 "(largest difference, relative to the largest component).",
                 np.abs(denoising - explicit).max() / np.abs(explicit).max(), below=TOLERANCE,
                 source="eq. 18, A.4", by="paper"),
      part.claim(
          "The minimiser of SM, the score of p, is that of DSM too (largest component of the "
          "gradient of DSM at p).", np.abs(at_p).max(), below=TOLERANCE, source="eq. 18, A.4",
          by="paper"),
      part.claim(f"The library's training loss on {n:,} samples is SM + C (largest of "
                 f"{deviation.size} deviations, in standard errors).", deviation.max(), below=4.5,
                 source="A.4, Table 6")]
  return claims, [], {"matching": {
      "models": list(models), "half_log_snr": ell, "dsm": found.dsm.T, "sm": found.sm.T,
      "constant": constant, "residual": np.abs(gap - constant[:, None]).max(axis=1),
      "drawn": {"half_log_snr": ell[picked], "loss": drawn[0], "error": drawn[1], "n": n}}}


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


PART = part.Part(
    name="appendix", title="Appendix — Stationarity, Fokker–Planck, KL decay, DSM = SM + C",
    text=TEXT, measure=measure, figures=appendix_figures.figures, x64=True)

if __name__ == "__main__":
  part.main(PART)
