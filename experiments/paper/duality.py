"""Question 1: how does the reverse process invert the forward one? Duality, eq. 11 of the paper.

If the reverse process starts from the law q_0 = p_T at which the forward one has arrived (eq. 10),
the two have the same law at every level, q_{t'} = p_{T−t'}. On the line the law of a sampler with
the exact score is computed without Monte Carlo (`laws.sampled`) and held against the exact density,
for every path × η, level by level, as KL(p‖q); in the plane particles are held against exact draws.

With --workdir=… the same is asked of a trained run, whose data have no known density:
`experiments/paper/certificate.py`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import cli, distances, runs, workers
from experiments.paper import certificate, laws, part
from langevin_jax import mixtures, paths, predictions, samplers
from langevin_jax.samplers import levels, sampling

ETAS = (0.0, 0.5, 1.0, 1.5)
PATHS = {
    "VP": paths.vp(), "linear VP": paths.linear_vp(), "cosine": paths.cosine(), "VE": paths.ve(),
    "geometric VE": paths.geometric_ve(), "sub-VP": paths.sub_vp(),
    "rectified flow": paths.rectified_flow(),
    # A user's own, of nothing but its two coefficients.
    "cos t, sin² t": paths.from_coefficients(
        jnp.cos, lambda t: jnp.sin(t) ** 2, t_min=0.0, t_max=1.55)}
SCHEMES = {"STEP": samplers.ddim, "own time": samplers.euler_maruyama}
# Steps that are equal in the time of these are far too long at their clean end.
_KARRAS = ("VP", "VE")


def measure(setting: part.Setting) -> part.Findings:
  # Fewer steps are near enough to their limit only where the range of noise is shorter.
  counts, ends = ((40, 80), (10.0, 0.2)) if setting.fast else ((40, 80, 160, 320), (20.0, 0.1))
  line = on_the_line(setting.density.line, counts, ends)
  first = at_the_start(setting.density.line, min(counts[-1], 160), ends[1])
  plane = in_the_plane(setting, ends)
  return part.Findings(
      [*line_claims(line), *plane_claims(plane), *start_claims(first)],
      {"line": line, "plane": plane, "start": first}, captions(line, plane, first),
      [order_table(line), start_table(first)])


def grid(name: str, n: int, ends: tuple[float, float]) -> np.ndarray:
  """n + 1 levels ρ from one end to the other: equal steps of the path's own time, or Karras'."""
  path = PATHS[name]
  if name in _KARRAS:
    rho = np.linspace(ends[0] ** (1 / 7), ends[1] ** (1 / 7), n + 1) ** 7
  else:
    time, log_snr = _clock(path)
    times = np.linspace(*paths.on_host(time, -np.log(np.array(ends))), n + 1)
    rho = np.exp(-paths.on_host(log_snr, times))
  rho[[0, -1]] = ends  # to the last bit
  return rho


@functools.lru_cache
def _clock(path: paths.Path):
  return jax.vmap(path.time), jax.vmap(path.half_log_snr)


def on_the_line(
    mixture: mixtures.Mixture, counts: tuple[int, ...], ends: tuple[float, float]
) -> dict:
  """KL(p‖q) in nats of every scheme, path, η and number of steps.

  Returns:
    end (schemes, paths, ETAS, counts), the KL at the last level; bound (paths, counts), the KL of
    the processes at η = 1, which is no less; shown, one of counts, and at it half_log_snr (paths,
    shown + 1) and kl (schemes, paths, ETAS, shown + 1) at all levels.
  """
  shown = counts[min(1, len(counts) - 1)]
  end = np.zeros((len(SCHEMES), len(PATHS), len(ETAS), len(counts)))
  kl = np.zeros((*end.shape[:3], shown + 1))
  ells, bound, outside = [], np.zeros((len(PATHS), len(counts))), 0.0
  mmse = _mmse(mixture, ends)
  for p, (name, path) in enumerate(PATHS.items()):
    finest = levels.lay(np.append(grid(name, counts[-1], ends), 0.0), path)
    for k, count in enumerate(counts):
      level = levels.pick(finest, np.append(
          np.arange(0, counts[-1] + 1, counts[-1] // count), counts[-1] + 1))
      bound[p, k] = process_kl(mmse, level.half_log_snr[:-1])
      if count == shown:
        ells.append(level.half_log_snr[:-1])
      for s, method in enumerate(SCHEMES.values()):
        for e, eta in enumerate(ETAS):
          found = laws.sampled(mixture, method(eta), path, level)
          end[s, p, e, k] = found.kl[-1]
          outside = max(outside, abs(found.outside)) if count == counts[-1] else outside
          if count == shown:
            kl[s, p, e] = found.kl
  return {"paths": list(PATHS), "schemes": list(SCHEMES), "etas": list(ETAS),
          "counts": list(counts), "ends": ends, "end": end, "bound": bound, "shown": shown,
          "outside": outside, "half_log_snr": np.stack(ells), "kl": kl}


def _mmse(
    mixture: mixtures.Mixture, ends: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
  """E Var(x₀ | x) by half log-SNR on the range of the grids, by quadrature: (ℓ, mmse)."""
  x, ells = laws.nodes(mixture), np.linspace(*-np.log(ends), 801)

  def explained(ell):
    law = laws.exact(mixture, ell, x)
    return jnp.sum(law.weight * law.density * laws.denoised(mixture, ell, x) ** 2)

  second = mixture.weights @ (mixture.means[:, 0] ** 2 + mixture.covariances[:, 0, 0])
  second = second / jnp.sum(mixture.weights)
  return ells, np.asarray(second - jax.jit(lambda e: jax.lax.map(explained, e))(jnp.asarray(ells)))


def process_kl(mmse: tuple[np.ndarray, np.ndarray], ell: np.ndarray) -> float:
  """KL of the exact reverse process and of STEP at η = 1, as processes (`likelihood.ledger`):

    Σ_i ∫ e^{2ℓ} (mmse(ℓ_i) − mmse(ℓ)) dℓ

  The laws of their ends differ by no more: data processing.
  """
  fine = np.unique(np.concatenate([mmse[0], ell]))
  value = np.interp(fine, *mmse)
  held = value[np.searchsorted(fine, ell)][np.searchsorted(ell, fine[:-1], side="right") - 1]
  rate = lambda end: np.exp(2.0 * end)
  gap = 0.5 * (rate(fine[:-1]) * (held - value[:-1]) + rate(fine[1:]) * (held - value[1:]))
  return float(np.sum(gap * np.diff(fine)))


def at_the_start(mixture: mixtures.Mixture, n: int, rho_min: float) -> dict:
  """What it costs to start from N(0, σ²I) in the place of p_T (eq. 10), in nats.

  Returns:
    rho, with the KL of p_T to it (plain), and to the Gaussian of the data's moments (moments), and
    what the difference must be (difference); the KL by level from N(0, σ²) at ρ = `from`, for each
    η (kl), and from p_T (exact).
  """
  mean = mixture.weights @ mixture.means[:, 0]
  var = mixture.weights @ (mixture.means[:, 0] ** 2 + mixture.covariances[:, 0, 0]) - mean**2

  def normal(ell, moments):
    frame = predictions.unit_frame(ell)
    centre, spread = (frame.alpha * mean, frame.alpha**2 * var) if moments else (0.0, 0.0)
    spread = spread + frame.sigma**2
    return lambda x: jnp.exp(-0.5 * (x - centre) ** 2 / spread) / jnp.sqrt(2 * jnp.pi * spread)

  x, rhos = laws.nodes(mixture), np.geomspace(1.0, 160.0, 14)
  cost = lambda rho, moments: laws.kl(
      mixture, -math.log(rho), laws.fresh(x, normal(-math.log(rho), moments)(x)))
  own = {name: float(np.exp(-paths.on_host(path.half_log_snr, path.t_max)))
         for name, path in PATHS.items()}
  start, path = 3.0, PATHS["VP"]
  level = levels.lay(np.append(grid("VP", n, (start, rho_min)), 0.0), path)
  ran = lambda eta, first: laws.sampled(mixture, samplers.ddim(eta), path, level, first).kl
  var_ratio = lambda rho: float(var) / rho**2
  return {
      "rho": rhos, "plain": [cost(rho, False) for rho in rhos],
      "moments": [cost(rho, True) for rho in rhos],
      "difference": [0.5 * (var_ratio(rho) - math.log1p(var_ratio(rho)) + float(mean) ** 2 / rho**2)
                     for rho in rhos],
      "own": own, "own_plain": {k: cost(v, False) if v < 1e6 else 0.0 for k, v in own.items()},
      "own_moments": {k: cost(v, True) if v < 1e6 else 0.0 for k, v in own.items()},
      "from": start, "steps": n, "etas": list(ETAS), "half_log_snr": level.half_log_snr[:-1],
      "kl": [ran(eta, normal(-math.log(start), False)) for eta in ETAS],
      "exact": [ran(eta, None) for eta in ETAS]}


def in_the_plane(setting: part.Setting, ends: tuple[float, float]) -> dict:
  """Sliced W2, at unit scale, of particles to exact draws at 13 levels; and of draws to draws.

  The particles start from exact draws of p_T and take the second-order `multistep`. Distances and
  null have the same draws to be compared with, and the same directions.

  Returns:
    value, null (paths, ETAS, repeats, 13); broken (repeats, 13), of VP at η = 1 with a D that is a
    fifth too small, which must be seen; half_log_snr (paths, 13).
  """
  mixture, n = setting.density.plane, 400 if setting.fast else 2000
  repeats, stride = (2, 4) if setting.fast else (4, 8)
  steps, names = 12 * stride, ["VP", "VE", "rectified flow"] if setting.fast else list(PATHS)
  key = jax.random.key(setting.seed)

  @jax.jit
  def particles(planned, key, strength):
    key_draws, key_run = jax.random.split(key)
    chosen = levels.pick(planned.levels, slice(0, -1, stride))
    first, real, other = _draws(mixture, key_draws, chosen, n)
    states = sampling.run(
        planned, key_run, first[0] * chosen.scale[0], None, shape=(n, 2), keep=True,
        # One compiled program: how much noise there is, if any, is in the numbers.
        method=samplers.multistep(2, 1.0),
        model=lambda x, level: strength * mixture.denoise(x, level.alpha, level.sigma))
    return states.x[:-1:stride] / chosen.scale[:, None, None], real, other

  def compared(name, eta, number, repeat, strength=1.0):
    """(of particles, of other draws) to exact draws, each (13,)."""
    planned, _ = sampling.plan(PATHS[name], samplers.multistep(2, eta),
                               lambda path: np.append(grid(name, steps, ends), 0.0))
    x, real, other = map(np.asarray, particles(
        jax.tree.map(jnp.asarray, planned),
        jax.random.fold_in(jax.random.fold_in(key, number), repeat), strength))
    distance = lambda a, i: distances.sliced_wasserstein2(
        real[i], a[i], seed=setting.seed + 1000 * repeat + i, projections=32)
    return [[distance(a, i) for i in range(len(x))] for a in (x, other)]

  pairs = np.array([[[compared(name, eta, len(ETAS) * p + e, r) for r in range(repeats)]
                     for e, eta in enumerate(ETAS)] for p, name in enumerate(names)])
  other_key = len(ETAS) * len(names)
  broken = np.array([compared("VP", 1.0, other_key, r, 0.8)[0] for r in range(repeats)])
  ells = np.stack([-np.log(grid(name, steps, ends)[::stride]) for name in names])
  value, null = pairs[..., 0, :].round(5), pairs[..., 1, :].round(5)
  return {"half_log_snr": ells, "value": value, "null": null, "broken": broken.round(5), "n": n,
          "steps": steps, "paths": names, "etas": list(ETAS)}


def _draws(mixture, key, chosen, n):
  """Three independent sets of exact draws at each level, at unit scale: (3, levels, n, d)."""
  def one(key, alpha, sigma):
    key_x, key_eps = jax.random.split(key)
    x_0 = mixture.sample(key_x, n)
    return alpha * x_0 + sigma * jax.random.normal(key_eps, x_0.shape, x_0.dtype)

  keys = jax.random.split(key, (3, len(chosen.alpha)))
  return jax.vmap(jax.vmap(one), (0, None, None))(keys, chosen.alpha, chosen.sigma)


def orders(line: dict) -> np.ndarray:
  """Order of the KL in the step size between successive counts: (schemes, paths, ETAS, counts − 1).

  STEP and Euler–Maruyama are of weak order 1, so a density is wrong by O(1/n), and KL, which is
  quadratic in that, by O(1/n²): 2.
  """
  return -np.diff(np.log2(np.asarray(line["end"])), axis=-1)


def line_claims(line: dict) -> list[part.Claim]:
  end = np.asarray(line["end"])
  # Summed over η: at a single one the leading error may happen to vanish, as it does for Gaussians.
  root = np.sqrt(end.sum(2))
  last = 2.0 * np.log2(root[..., -2] / root[..., -1])
  rest = np.abs(2.0 * root[..., -1] - root[..., -2]) / root[..., -1]
  farthest = lambda v: v.ravel()[np.argmax(np.abs(v - 2.0))]
  kl = np.asarray(line["kl"])
  own = dict(zip(line["paths"], range(len(line["paths"])), strict=True))
  ode = [np.ptp(end[:, own[name], 0], axis=0).max() for name in ("VE", "rectified flow")]
  bound = np.asarray(line["bound"])
  return [
      part.claim(
          "Duality in the limit of small steps: of √KL at the data's end in the finest run, the "
          "part that halving the steps for ever would leave, at the most over both schemes and "
          "all paths (KL summed over η).", rest.max(), near=0.0, tolerance=2.0**1.1 - 2.0,
          source="eq. 11", by="paper"),
      *(part.claim(
          f"{said} has a KL of order 2 in the step size: of all paths the order farthest from 2, "
          "over the last halving (KL summed over η; each by itself is in the table).",
          farthest(order), near=2.0, tolerance=0.2, source="MATH §6, §10")
        for said, order in zip((
            "STEP", "Table 4's equations by Euler–Maruyama in the path's own time"), last,
            strict=True)),
      part.claim(
          "On one grid STEP has one law, whatever the path: largest difference of VP's and VE's "
          "KL, over levels and η, in nats.",
          np.abs(kl[0, own["VP"]] - kl[0, own["VE"]]).max(), below=1e-12, source="Table 2"),
      part.claim(
          "The ODE row of Table 4 by Euler is STEP at Λ = 0 (DDIM) for VE and for rectified flow: "
          "largest difference of KL, nats.", max(ode), below=1e-9, source="Table 4, MATH §1"),
      part.claim(
          "At η = 1 the laws of the ends differ by less than the processes do, by the bound "
          "Σ∫e^{2ℓ}(mmse(ℓ_i) − mmse(ℓ))dℓ: largest ratio, over paths and numbers of steps.",
          (end[0, :, line["etas"].index(1.0)] / bound).max(), below=1.0, source="eq. 17, MATH §8"),
      part.claim(
          "No law leaves the nodes it is summed on: largest part that does, in the finest runs.",
          line["outside"], below=1e-6, source="quadrature")]


def plane_claims(plane: dict) -> list[part.Claim]:
  value, null = np.asarray(plane["value"]), np.asarray(plane["null"])
  excess = (value - null).mean(-1).ravel()  # of whole runs: their levels are not independent
  error = lambda v: v.std(ddof=1) / math.sqrt(len(v))
  return [
      part.claim(
          "In the plane, particles of the reverse process and exact draws are as near as exact "
          "draws and exact draws: excess of sliced W2, averaged over levels, paths and η.",
          excess.mean(), error=error(excess), near=0.0, sigmas=4.0, source="eq. 11", by="paper"),
      part.claim(
          "The measure sees a failure: with a D that is a fifth too small, the least distance at "
          "the data's end over the largest that exact draws have there.",
          np.asarray(plane["broken"])[:, -1].min() / null[..., -1].max(), above=1.0,
          source="sliced W2")]


def start_claims(first: dict) -> list[part.Claim]:
  plain, moments, wanted = (np.asarray(first[k]) for k in ("plain", "moments", "difference"))
  kl, exact = np.asarray(first["kl"]), np.asarray(first["exact"])
  # Small errors of a density add up as lengths, KL being their square: (1 + r)² − 1 < 3r.
  r = math.sqrt(exact[0, -1] / kl[0, 0])
  sde = first["etas"].index(1.0)
  return [
      part.claim(
          "Starting from N(0, σ²I) costs what the Gaussian with the data's moments costs plus the "
          "KL between the two Gaussians: largest difference over noise levels, nats.",
          np.abs(plain - moments - wanted).max(), below=1e-7, source="MATH §6"),
      part.claim(
          "The ODE keeps that cost: KL at the data's end over KL at the start, within what the "
          "steps themselves cost.", kl[0, -1] / kl[0, 0], near=1.0, tolerance=3.0 * r,
          source="eq. 10, A.3"),
      part.claim(
          "The SDE (η = 1) forgets it: KL at the data's end over KL at the start.",
          kl[sde, -1] / kl[sde, 0], below=1.0, source="A.3")]


def order_table(line: dict) -> part.Table:
  end, order = np.asarray(line["end"]), orders(line)
  rows = [["path", *(f"{scheme}, η = {eta:g}" for scheme in line["schemes"]
                     for eta in line["etas"])]]
  for p, name in enumerate(line["paths"]):
    rows.append([name, *(
        f"{part.number(end[s, p, e, -1], 2)} ({', '.join(f'{v:.2f}' for v in order[s, p, e])})"
        for s in range(len(line["schemes"])) for e in range(len(line["etas"])))])
  counts = ", ".join(map(str, line["counts"]))
  return part.Table(f"KL at the data's end in nats, at {line['counts'][-1]} steps, and its orders "
                    f"between {counts} steps", rows)


def start_table(first: dict) -> part.Table:
  rows = [["path", "ρ at its own T", "KL(p_T‖N(0, σ²I)), nats", "the same with moments, nats"]]
  for name, rho in first["own"].items():
    finite = float(rho) < 1e6
    rows.append([name, part.number(float(rho)) if finite else "∞",
                 *(part.number(float(first[k][name]), 2) if finite else "0"
                   for k in ("own_plain", "own_moments"))])
  return part.Table("What eq. 10 is worth where each path ends", rows)


def captions(line: dict, plane: dict, first: dict) -> dict[str, str]:
  eta = "η = " + ", ".join(f"{v:g}" for v in line["etas"])
  return {
      "levels": f"KL(p‖q) in nats between the exact density and the law of the reverse process, "
                f"level by level, with {line['shown']} steps; every row is a path, and in it from "
                f"top to bottom {eta}. The start is exact, so the left edge has none.",
      "order": "KL at the data's end against the number of steps. The broken line falls as "
               "1/n². VP and VE have one grid, so that under STEP they coincide.",
      "plane": f"Sliced W2 between {plane['n']:,} particles and as many exact draws, at unit scale "
               f"(mean and standard error of {len(plane['broken'])} repeats), with the central 95 "
               "% of distances between exact draws and exact draws in grey. Second-order "
               f"sampler, {plane['steps']} steps; black squares: a D that is a fifth too small, "
               "which leaves the picture.",
      "start": "Left: nats that N(0, σ²I) costs in the place of p_T, by the noise at which the "
               "reverse process starts, and with the data's mean and variance put in. Right: what "
               f"becomes of it on the way down from ρ = {first['from']:g}; dotted, what the "
               f"{first['steps']} steps cost from the exact start."}


def figures(data: dict) -> dict:
  return {"levels": _levels_figure(data["line"]), "order": _order_figure(data["line"]),
          "plane": _plane_figure(data["plane"]), "start": _start_figure(data["start"])}


def _levels_figure(line: dict):
  kl, ells = np.asarray(line["kl"]), np.asarray(line["half_log_snr"])
  schemes, names, etas = line["schemes"], line["paths"], line["etas"]
  figure, axes = part.plt.subplots(
      1, len(schemes), figsize=(10.0, 6.4), sharey=True, layout="constrained")
  # Six decades below the largest; what is smaller is as good as nothing.
  top = 10.0 ** math.ceil(math.log10(kl.max()))
  norm = part.matplotlib.colors.LogNorm(1e-6 * top, top)
  each = len(etas) + 1  # one empty row between paths
  for s, (axis, scheme) in enumerate(zip(axes, schemes, strict=True)):
    for p in range(len(names)):
      middle = 0.5 * (ells[p, 1:] + ells[p, :-1])
      edges = np.concatenate([ells[p, :1], middle, ells[p, -1:]])
      rows = each * p + np.arange(len(etas) + 1)
      mesh = axis.pcolormesh(edges, rows, np.maximum(kl[s, p], 1e-6 * top), norm=norm,
                             cmap="magma_r", rasterized=True)
    axis.set(xlabel="half log-SNR ℓ  (noise → data)", title=scheme,
             yticks=each * np.arange(len(names)) + 0.5 * len(etas), yticklabels=names)
    axis.tick_params(left=False)
    for spine in axis.spines.values():
      spine.set_visible(False)
  for e, eta in enumerate(etas):
    axes[-1].text(1.01, each * (len(names) - 1) + e + 0.5, f"η = {eta:g}", fontsize=7,
                  va="center", transform=axes[-1].get_yaxis_transform())
  axes[0].invert_yaxis()  # of both: it is shared
  axes[0].set_ylabel("path, and in it η from top to bottom")
  figure.colorbar(mesh, ax=axes, label="KL(p‖q), nats", pad=0.06)
  return figure


def _order_figure(line: dict):
  end, counts = np.asarray(line["end"]), np.asarray(line["counts"])
  schemes, names, etas = line["schemes"], line["paths"], line["etas"]
  figure, axes = part.plt.subplots(
      len(schemes), len(etas), figsize=(10.0, 5.6), sharex=True, sharey=True, layout="constrained")
  colours = (*part.SERIES, part.GREY)
  for s, scheme in enumerate(schemes):
    for e, eta in enumerate(etas):
      axis = axes[s, e]
      for p, name in enumerate(names):
        axis.plot(counts, end[s, p, e], "o-", ms=3, lw=1.2, color=colours[p], label=name)
      guide = 0.5 * end[s, :, e, 0].min() * (counts[0] / counts) ** 2
      axis.plot(counts, guide, color="black", lw=1, ls="--", label="1/n²")
      axis.set(xscale="log", yscale="log", title=f"{scheme}, η = {eta:g}")
      axis.set_xticks(counts, map(str, counts))
      axis.minorticks_off()
  for axis in axes[:, 0]:
    axis.set_ylabel("KL at the data's end, nats")
  for axis in axes[-1]:
    axis.set_xlabel("steps n")
  axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
  return figure


def _plane_figure(plane: dict):
  value, null = np.asarray(plane["value"]), np.asarray(plane["null"])
  ells = np.asarray(plane["half_log_snr"])
  figure, axes = part.plt.subplots(
      1, len(plane["etas"]), figsize=(11.0, 3.4), sharey=True, layout="constrained")
  colours = (*part.SERIES, part.GREY)
  # The null depends on the level alone: all paths and η have drawn it.
  low, middle, high = np.quantile(null.reshape(-1, null.shape[-1]), [0.025, 0.5, 0.975], axis=0)
  centre = np.median(ells, axis=0)
  repeats = value.shape[2]
  for e, (axis, eta) in enumerate(zip(axes, plane["etas"], strict=True)):
    axis.fill_between(centre, low, high, color="#dddddd", label="exact against exact, 95 %")
    axis.plot(centre, middle, color=part.GREY, lw=1, label="its median")
    for p, name in enumerate(plane["paths"]):
      axis.errorbar(ells[p], value[p, e].mean(0), value[p, e].std(0, ddof=1) / repeats**0.5,
                    color=colours[p], lw=0.8, marker="o", ms=2.5, elinewidth=0.8, label=name)
    if eta == 1.0:
      broken = np.asarray(plane["broken"])
      axis.errorbar(ells[0], broken.mean(0), broken.std(0, ddof=1) / repeats**0.5, color="black",
                    marker="s", ms=3, lw=0.8, ls=":", label="VP, D a fifth too small")
    axis.set(xlabel="half log-SNR ℓ", title=f"η = {eta:g}",
             ylim=(0.0, 1.5 * max(high.max(), value.mean(2).max())))
  axes[0].set_ylabel("sliced W2 to exact draws, unit scale")
  handles, labels = axes[list(plane["etas"]).index(1.0)].get_legend_handles_labels()
  axes[-1].legend(handles, labels, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0),
                  frameon=False)
  return figure


def _start_figure(first: dict):
  figure, (left, right) = part.plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
  rho = np.asarray(first["rho"])
  floor = 1e-16  # below which the quadrature rounds
  left.plot(rho, np.maximum(first["plain"], floor), "o-", ms=3, color=part.ACCENT,
            label="N(0, σ²I)")
  left.plot(rho, np.maximum(first["moments"], floor), "s-", ms=3, color=part.SECOND,
            label="N(αm, α²S + σ²I)")
  left.set(xscale="log", yscale="log", xlabel="noise-to-signal ratio ρ at the start",
           ylabel="KL(p_T‖start), nats")
  left.legend(frameon=False)
  ell = np.asarray(first["half_log_snr"])
  for eta, kl, exact, colour in zip(
      first["etas"], first["kl"], first["exact"], part.SERIES, strict=False):
    right.plot(ell, kl, color=colour, label=f"η = {eta:g}")
    right.plot(ell[1:], exact[1:], color=colour, ls=":", lw=1)
  bottom = 1e-3 * first["kl"][0][0]
  right.set(yscale="log", xlabel="half log-SNR ℓ  (noise → data)", ylabel="KL(p‖q), nats",
            ylim=(bottom, 3.0 * max(map(max, first["kl"]))))
  right.legend(frameon=False)
  return figure


PART = part.Part(
    name="duality", title="Question 1 — How does the reverse process invert the forward one?",
    measure=measure, figures=figures, x64=True,
    text="""The paper's answer (§3.2 and §4): forward and reverse steps add up to a Langevin step,
which leaves the law of the noisy data as it is, so the reverse step must undo what the forward one
did to it. Started from the law p_T at which the forward process has arrived (eq. 10), the reverse
process has **the law of the forward process at every level**, q_{t'} = p_{T−t'} (eq. 11), and ends
in the data's (eq. 12). Single samples are not undone: only laws are.

Here that is measured with the exact score. On the line the law of a sampler's state is computed by
quadrature, without random numbers, and compared with the exact density at every level as KL(p‖q),
for eight paths, one of them a user's own two functions, and for the ODE (η = 0), the SDE (η = 1),
one between and one beyond. **STEP** holds D during a step and is exact otherwise; **own time** is
the paper's Table 4 as it stands, by Euler–Maruyama in each path's own clock. Steps are equal in the
path's time, but for VP and VE, which have the levels of Karras et al. What is left is the error of
the steps: it must vanish as their number grows, with order 2 for a KL. In the plane, clouds of
particles are compared with exact draws at 13 levels, by sliced Wasserstein distance, beside what
two clouds of exact draws are apart.

The paper starts from a Gaussian, saying that p_T has become one. At finite noise it has not
(erratum: the prior term is dropped in §5). What this costs, what becomes of it on the way, and how
little is left when the data's mean and variance are put into the start, is the last picture.""")


def main() -> None:
  if flags.FLAGS.until_stdin_closes:
    workers.end_with_stdin()
  runs.keep_compiled()
  if flags.FLAGS.workdir:
    certificate.main(flags.FLAGS.workdir, part.options())
  else:
    part.said(part.run(PART, part.options()))


if __name__ == "__main__":
  part.define_flags()
  flags.DEFINE_string(
      "workdir", "", "A trained run: where on the axis of noise it breaks duality. The exact "
      "answer if not given.")
  cli.run(main)
