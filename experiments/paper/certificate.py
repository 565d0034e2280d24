"""The certificate of duality of a trained run: where on the ℓ axis its network breaks eq. 11.

Nothing is known of the data's density; there are held-out examples alone. Twelve intervals of half
log-SNR, from noise to data, are asked three things:

  marginal   the reverse process from noise, at the interval's end, against noised held-out data
  local      held-out data noised to the interval's start, run back to its end, against noised data:
             what this interval breaks by itself
  bound      nats per interval by which the score is wrong at the least, from residuals:
             E[(x₀ − D_θ(x))·φ(x)] = E[(D* − D_θ)·φ] for every φ, for x₀ averages to D* given x, so

    E‖D* − D_θ‖² ≥ 2 E[(x₀ − D_θ)·φ] − E‖φ‖²   for every φ, with equality at φ = D* − D_θ.

The right side is what a correction φ takes off the denoising loss. φ is a ridge regression on some
examples, and the expectations are over others (cross-fitting), so the bound is not biased upwards.
In nats it is ∫e^{2ℓ}(…)dℓ, a part of KL(data‖model) of the η = 1 model (eq. 17; MATH §8).
"""

import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data as data_lib
from experiments import distances, records, reverse
from experiments.paper import part as parts
from experiments.paper import trained
from langevin_jax import mixtures, paths, predictions, samplers
from langevin_jax.samplers import sampling

INTERVALS, REPEATS, FOLDS = 12, 8, 4
DAMAGED, FACTOR = (5, 6), 1.2  # intervals of a network that is damaged on purpose, and by how much
_LEVEL = 0.01  # chance that a sound network has any interval marked, by one measure
_DIRECTIONS = 16  # of the data's largest variance, in which images are compared
_METHOD = samplers.multistep(2, 1.0)
_PATH = paths.ve()


class Sizes(NamedTuple):
  """points of a set, sub-steps of an interval; held-out examples of the bound and draws of each."""

  points: int
  steps: int
  examples: int
  draws: int


class Model(NamedTuple):
  """at(x, ell, labels, change): D of a whole batch at unit scale, times the factor of `change`,
  (low, high, factor), where low ≤ ell < high."""

  at: Callable[..., jax.Array]
  data: data_lib.Dataset
  truth: mixtures.Mixture | None


def measure(setting: parts.Setting, workdir: pathlib.Path | None) -> parts.Findings:
  """Of the run in `workdir`, or else of the report's own, whose true score is known as well."""
  own = workdir is None
  found = trained.model(trained.plane(setting) if own else workdir)
  truth = trained.truth(setting.density.plane, found.run) if own else None
  model = Model(_network(found), data_lib.reduced(found.run.dataset), truth)
  sizes = Sizes(750, 4, 1500, 4) if setting.fast else Sizes(750, 4, 12_000, 4)
  config = found.run.config.sampling
  # Far enough to either side: beyond, nothing is learned or sampled.
  ells = np.linspace(-math.log(min(config.rho_max, 20.0)), -math.log(max(config.rho_min, 0.02)),
                     INTERVALS + 1)
  facts = {"workdir": "the report's own run in the plane" if own else str(workdir),
           "step": found.step, "half_log_snr": ells}
  sound = certify(model, ells, sizes, seed=setting.seed)
  nats, error = total(sound["bound"])
  claims = [
      parts.claim(
          "This network keeps duality: number of intervals, of 12, that break it by themselves.",
          len(broken(sound)), below=1.0, source="eq. 11, §4", by="paper"),
      parts.claim(
          "No error of its score is found: nats by which it is wrong at the least, all intervals.",
          nats, error=error, near=0.0, sigmas=4.0, source="eq. 17", by="paper")]
  if own:
    low, high = ells[DAMAGED[0]], ells[DAMAGED[-1] + 1]
    # A little early at both ends, where a level may be rounded to either side.
    hurt = certify(model, ells, sizes, seed=setting.seed + 1,
                   change=(low - 1e-3, high - 1e-3, FACTOR))
    claims += validation(sound, hurt)
    facts["hurt"] = summary(hurt)
  facts |= {"sound": summary(sound), "sizes": sizes._asdict()}
  return parts.Findings(claims, facts, {"levels": _caption(own)}, [_table(facts)])


def _network(found: trained.Model) -> Callable[..., jax.Array]:
  def at(x, ell, labels, change):
    low, high, factor = change
    denoised = reverse.denoiser(found.run, found.params, _PATH, labels).at(x, ell)
    return jnp.where((low <= ell) & (ell < high), factor, 1.0) * denoised

  return at


def certify(
    model: Model, ells: np.ndarray, sizes: Sizes, *, seed: int,
    change: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> dict[str, np.ndarray]:
  """The three measures of every interval.

  Returns:
    marginal, local, null (REPEATS, intervals): sliced W2 at unit scale at the interval's end.
    bound (examples, intervals): nats, whose mean over examples is the bound; and truth, the same of
    the true score error, where it is known.
  """
  rng = np.random.default_rng(seed)
  change = tuple(jnp.float32(v) for v in change)
  walks = _walks(model, ells, sizes, rng, change)
  rates = [_bound(model, 0.5 * (low + high), sizes, np.random.default_rng([seed, i]), change)
           for i, (low, high) in enumerate(itertools.pairwise(ells))]
  widths = np.diff(ells)
  made = {"bound": np.stack([r[0] for r in rates], 1) * widths}
  if model.truth is not None:
    made["truth"] = np.stack([r[1] for r in rates], 1) * widths
  return walks | made


def _walks(model, ells, sizes, rng, change) -> dict[str, np.ndarray]:
  """Reverse processes from noise, and from noised data over one interval each."""
  x, labels = model.data.test, model.data.test_labels
  labels = labels if model.data.num_classes else np.zeros(len(x), np.int32)
  shape, project = x.shape[1:], _projection(model.data)

  @jax.jit
  def back(planned, key, x, labels):
    states = sampling.run(
        planned, key, x * planned.levels.scale[0], None, shape=x.shape, method=_METHOD, keep=True,
        model=lambda x, level: model.at(x, level.half_log_snr, labels, change))
    return states.x[-2] / planned.levels.scale[-2]  # the last step goes on to ρ = 0

  rho = [np.exp(-np.linspace(*ends, sizes.steps + 1))
         for ends in itertools.pairwise(ells)]
  plans = [jax.tree.map(lambda v: jnp.asarray(v, None if v.dtype == bool else jnp.float32),
                        sampling.plan(_PATH, _METHOD, lambda _, r=r: np.append(r, 0.0))[0])
           for r in rho]
  keys = iter(jax.random.split(jax.random.key(int(rng.integers(2**31))), 2 * REPEATS * INTERVALS))
  found = {name: np.zeros((REPEATS, len(plans))) for name in ("marginal", "local", "null")}
  mean, var = data_lib.moments(model.data)
  first = _frame(ells[0])
  for r, (ours, others) in enumerate(_sets(len(x), sizes.points, rng)):
    y = labels[ours]
    walk = first[0] * mean + np.sqrt(first[0]**2 * var + first[1]**2) * rng.standard_normal(
        (len(ours), *shape))
    for i, planned in enumerate(plans):
      walk = np.asarray(back(planned, next(keys), jnp.asarray(walk, jnp.float32), y))
      data = _noised(rng, x[ours], ells[i + 1])
      local = back(planned, next(keys), _noisier(rng, data, ells[i + 1], ells[i]), y)
      real = project(_noised(rng, x[others], ells[i + 1]))
      distance = functools.partial(
          distances.sliced_wasserstein2, real, seed=int(rng.integers(2**31)), projections=64)
      found["marginal"][r, i] = distance(project(walk))
      found["local"][r, i] = distance(project(local))
      # The data that `local` came from: what chance they have in common cancels.
      found["null"][r, i] = distance(project(data))
  return found


def _sets(n: int, points: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """REPEATS pairs of sets of examples without one in common; where data are few, random halves."""
  size = min(points, n // (2 * REPEATS))
  order = rng.permutation(n)
  for r in range(REPEATS):
    if size >= 150:
      pair = order[2 * size * r:2 * size * (r + 1)]
    else:
      pair = rng.permutation(n)[:2 * min(points, n // 2)]
    yield pair[:len(pair) // 2], pair[len(pair) // 2:]


def _projection(dataset: data_lib.Dataset) -> Callable[[Any], np.ndarray]:
  """Examples as vectors: all of a few coordinates, or those of the largest variance in training."""
  flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)
  some = flat(dataset.train[:5000])
  if some.shape[1] <= _DIRECTIONS:
    return flat
  axes = np.linalg.svd(some - some.mean(0), full_matrices=False)[2][:_DIRECTIONS].T
  return lambda x: flat(x) @ axes


def _frame(ell: float) -> tuple[float, float]:
  frame = predictions.unit_frame(jnp.float32(ell))
  return float(frame.alpha), float(frame.sigma)


def _noised(rng: np.random.Generator, x: np.ndarray, ell: float) -> np.ndarray:
  alpha, sigma = _frame(ell)
  return (alpha * x + sigma * rng.standard_normal(x.shape)).astype(np.float32)


def _noisier(rng: np.random.Generator, x: np.ndarray, ell: float, ell_s: float) -> np.ndarray:
  """The exact forward kernel from ℓ to a noisier ℓ′, at unit scale (`paths.transition`)."""
  (alpha, _), (alpha_s, sigma_s) = _frame(ell), _frame(ell_s)
  spread = sigma_s * math.sqrt(-math.expm1(2.0 * (ell_s - ell)))
  return (alpha_s / alpha * x + spread * rng.standard_normal(x.shape)).astype(np.float32)


def _bound(model, ell, sizes, rng, change) -> tuple[np.ndarray, np.ndarray | None]:
  """(the bound, the truth) as rates in nats per unit of ℓ, one of each held-out example."""
  n = min(sizes.examples, len(model.data.test))
  chosen = np.repeat(rng.permutation(len(model.data.test))[:n], sizes.draws)
  x_0 = model.data.test[chosen]
  labels = model.data.test_labels[chosen] if model.data.num_classes else np.zeros(
      len(chosen), np.int32)
  x = _noised(rng, x_0, ell)
  denoised = _in_batches(model, x, ell, labels, change)
  project = _projection(model.data)
  # In units of ε: what is left of e^{ℓ}(x₀ − D) when D is right has no feature in it.
  residual = math.exp(ell) * (x_0 - denoised).reshape(len(x), -1).astype(np.float64)
  one_hot = np.eye(model.data.num_classes)[labels] if model.data.num_classes else np.zeros(
      (len(x), 0))
  plain = np.concatenate([project(x), project(denoised), one_hot], axis=1)
  fold = np.repeat(np.arange(n) % FOLDS, sizes.draws)
  flat = lambda v: math.exp(ell) * np.asarray(v, np.float64).reshape(len(x), -1)
  correction = fitted(
      np.concatenate([plain, _waves(rng, project(x))], 1), plain.shape[1], residual, fold,
      shared=np.stack([flat(denoised), flat(x), np.ones_like(residual)], axis=2))
  taken = np.sum((2.0 * residual - correction) * correction, axis=1)
  if model.truth is None:
    return taken.reshape(n, -1).mean(1), None
  exact = np.asarray(jax.jit(model.truth.denoise)(x, *_frame(ell)))
  error = math.exp(2.0 * ell) * np.sum((exact - denoised).astype(np.float64) ** 2, axis=1)
  return taken.reshape(n, -1).mean(1), error.reshape(n, -1).mean(1)


def _in_batches(model, x, ell, labels, change, size: int = 4000) -> np.ndarray:
  at = _jitted(model.at)
  size = min(size, len(x))
  made = []
  for start in range(0, len(x), size):
    index = np.minimum(np.arange(start, start + size), len(x) - 1)  # one shape for all
    made.append(np.asarray(at(x[index], jnp.float32(ell), labels[index], change)))
  return np.concatenate(made)[:len(x)]


@functools.lru_cache(maxsize=2)
def _jitted(at):
  return jax.jit(at)


def _waves(rng: np.random.Generator, x: np.ndarray, count: int = 100) -> np.ndarray:
  """Random Fourier features of three bandwidths (Rahimi and Recht 2007), `count` of each."""
  scales = np.repeat([1.0, 2.5, 6.0], count) / math.sqrt(x.shape[1])
  frequencies = rng.standard_normal((x.shape[1], len(scales))) * scales
  return np.cos(x @ frequencies + 2.0 * math.pi * rng.random(len(scales)))


def fitted(
    features: np.ndarray, plain: int, target: np.ndarray, fold: np.ndarray, *, shared: np.ndarray
) -> np.ndarray:
  """Cross-fitted ridge: the target's part that features predict, by a fit on the other folds.

  The target is nothing, or a few `shared` features with one weight for all of its entries (which a
  few examples determine), or the first `plain` of the features with weights for every entry, or
  all of them, more or less stiffly: whatever predicts best across the folds that are fitted to.

  Args:
    features: (n, p). target: (n, q). fold: (n,) of 0 … FOLDS − 1. shared: (n, q, k).
  """
  spread = features.std(0)
  features = (features - features.mean(0)) / np.where(spread > 0.0, spread, 1.0)
  features = np.concatenate([np.ones((len(features), 1)), features], axis=1)
  columns = [plain + 1, features.shape[1]]
  rows = [fold == f for f in range(FOLDS)]
  gram = np.stack([features[r].T @ features[r] for r in rows])
  cross = np.stack([features[r].T @ target[r] for r in rows])
  count = np.array([r.sum() for r in rows])
  few_gram = np.stack([np.einsum("nqj,nqk->jk", shared[r], shared[r], optimize=True) for r in rows])
  few_cross = np.stack([np.einsum("nqk,nq->k", shared[r], target[r]) for r in rows])
  stiffness = np.geomspace(1e-4, 3.0, 8)

  @functools.lru_cache
  def solved(folds):
    """Weights of each candidate, fitted to these folds: (k,) of shared ones, (p, q) of others."""
    g, c, n = (v[list(folds)].sum(0) for v in (gram, cross, count))
    few = np.linalg.pinv(few_gram[list(folds)].sum(0), hermitian=True) @ (
        few_cross[list(folds)].sum(0))
    made = [np.zeros_like(c), few]
    for k in columns:
      values, axes = np.linalg.eigh(g[:k, :k] / n)
      inner = axes.T @ (c[:k] / n)
      for stiff in stiffness:
        weights = axes @ (inner / (np.maximum(values, 0.0) + stiff)[:, None])
        made.append(np.concatenate([weights, np.zeros((len(c) - k, c.shape[1]))]))
    return made

  def loss(weights, f):
    """‖target − features · weights‖² of a fold, but for ‖target‖²."""
    g, c = (few_gram, few_cross) if weights.ndim == 1 else (gram, cross)
    return np.sum(weights * (g[f] @ weights - 2.0 * c[f]))

  predicted = np.zeros_like(target)
  for f, row in enumerate(rows):
    others = tuple(g for g in range(FOLDS) if g != f)
    losses = sum(np.array([loss(w, v) for w in solved(tuple(g for g in others if g != v))])
                 for v in others)
    weights = solved(others)[int(np.argmin(losses))]
    predicted[row] = (shared if weights.ndim == 1 else features)[row] @ weights
  return predicted


def total(each: np.ndarray) -> tuple[float, float]:
  """Sum over intervals: mean over examples, and its standard error."""
  sums = each.sum(1)
  return float(sums.mean()), float(sums.std(ddof=1) / math.sqrt(len(sums)))


def _student(excess: np.ndarray) -> np.ndarray:
  """Mean in units of its standard error, along the first axis."""
  error = excess.std(0, ddof=1) / math.sqrt(len(excess))
  return excess.mean(0) / np.where(error > 0.0, error, np.inf)


def threshold(n: int) -> float:
  """What Student's t of n values passes by chance in any of the intervals with probability .01."""
  from scipy import stats  # half a second that nothing else needs
  return float(stats.t.ppf(1.0 - _LEVEL / INTERVALS, n - 1))


def signals(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Of each measure and interval: its excess in standard errors, over what would mark it."""
  far = {name: _student(found[name] - found["null"]) / threshold(REPEATS)
         for name in ("marginal", "local")}
  return far | {"bound": _student(found["bound"]) / threshold(len(found["bound"]))}


def broken(found: dict[str, np.ndarray]) -> list[int]:
  """The intervals that break duality by themselves: by the local measure or by the bound."""
  marks = signals(found)
  return np.flatnonzero((marks["local"] > 1.0) | (marks["bound"] > 1.0)).tolist()


def validation(sound: dict, hurt: dict) -> list[parts.Claim]:
  """Claims of a run whose truth is known, and of its network damaged in a band."""
  inside = np.isin(np.arange(INTERVALS), DAMAGED)
  above = lambda found: _student(found["bound"] - found["truth"]).max()
  # Seeds differ, so that outside the band the two are independent measurements of one network.
  gap = (hurt["local"] - hurt["null"]) - (sound["local"] - sound["null"])
  changed = {"the local measure": _student(gap) / threshold(REPEATS),
             "the bound": _student(hurt["bound"] - sound["bound"]) / threshold(len(sound["bound"]))}
  rows = [parts.claim(
      "The bound lies below the true score error at every level, of the network and of a damaged "
      "one: largest surplus in standard errors.", max(above(sound), above(hurt)), below=4.0,
      source="module's inequality")]
  for name, change in changed.items():
    rows += [parts.claim(
        f"Where D is made {FACTOR - 1.0:.0%} too large in two intervals, {name} says so in both: "
        "the smaller signal, over what marks an interval.", change[inside].min(), above=1.0,
        source="eq. 11"), parts.claim(
            f"And {name} accuses no other interval: the largest signal elsewhere.",
            change[~inside].max(), below=1.0, source="eq. 11")]
  share = hurt["bound"][:, inside].sum(1).mean() / hurt["truth"][:, inside].sum(1).mean()
  return [*rows, parts.claim(
      "Of the damaged network's true score error in those intervals the bound sees this part.",
      share, above=0.5, source="eq. 17")]


def summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
  """What is kept: means and standard errors, the null's band, and the marks."""
  error = lambda v: v.std(0, ddof=1) / math.sqrt(len(v))
  null, made = found["null"], {"broken": broken(found)}
  made |= {"null": null.mean(0), "low": null.min(0), "high": null.max(0)}
  for name in ("marginal", "local"):
    made |= {name: found[name].mean(0), f"{name}_error": error(found[name]),
             f"{name}_excess_error": error(found[name] - null)}
  for name in ("bound", "truth"):
    if name in found:
      made |= {name: found[name].mean(0), f"{name}_error": error(found[name]),
               f"{name}_total": total(found[name])}
  return made | {f"{name}_signal": value for name, value in signals(found).items()}


def _table(facts: dict) -> parts.Table:
  sound, ells = facts["sound"], facts["half_log_snr"]
  number = lambda v, e: f"{parts.number(float(v), 2)} ± {parts.number(float(e), 1)}"
  marked = lambda text, mark: f"**{text}**" if mark > 1.0 else text
  head = ["ℓ", "ρ", "sliced W2, data to data", "marginal: excess", "local: excess",
          "score error ≥, nats", *(["true score error"] if "truth" in sound else [])]
  rows = [head]
  for i in range(INTERVALS):
    cells = [f"{ells[i]:.2f} … {ells[i + 1]:.2f}".replace("-", "−"),
             " … ".join(parts.number(math.exp(-ell), 2) for ell in ells[i:i + 2]),
             parts.number(float(sound["null"][i]), 2)]
    cells += [marked(number(sound[name][i] - sound["null"][i], sound[f"{name}_excess_error"][i]),
                     sound[f"{name}_signal"][i]) for name in ("marginal", "local")]
    cells.append(marked(number(sound["bound"][i], sound["bound_error"][i]),
                        sound["bound_signal"][i]))
    rows.append(cells + ([number(sound["truth"][i], sound["truth_error"][i])]
                         if "truth" in sound else []))
  rows.append(["all", "", "", "", "", number(*sound["bound_total"]),
               *([number(*sound["truth_total"])] if "truth" in sound else [])])
  return parts.Table(f"{facts['workdir']}, step {facts['step']:,}; bold where duality is broken",
                     rows)


def _caption(own: bool) -> str:
  damaged = (f" Right: the same network with its D {FACTOR - 1.0:.0%} too large in the band "
             "between the dotted lines, which the certificate is to find.") if own else ""
  return ("Above: sliced W2 to noised held-out data at the end of each interval, of the reverse "
          f"process from noise and of each interval by itself; the band is the range of {REPEATS} "
          "distances of data to data. Below: the least score error, in nats an interval. Bars are "
          "standard errors; red intervals break duality by themselves." + damaged)


def figures(data: dict) -> dict:
  """The three measures by level."""
  ells = np.asarray(data["half_log_snr"])
  middle = 0.5 * (ells[1:] + ells[:-1])
  kinds = ["sound", *(["hurt"] if "hurt" in data else [])]
  figure, axes = parts.plt.subplots(
      2, len(kinds), figsize=(6.0 * len(kinds), 6.0), sharex=True, sharey="row", squeeze=False,
      layout="constrained")
  for (above, below), kind in zip(axes.T, kinds, strict=True):
    found = {k: np.asarray(v, float) if k != "broken" else v for k, v in data[kind].items()}
    for axis in (above, below):
      for i in found["broken"]:
        axis.axvspan(ells[i], ells[i + 1], color="#f3c9bf", lw=0,
                     label="breaks duality" if i == found["broken"][0] else None)
      if kind == "hurt":
        for i in (DAMAGED[0], DAMAGED[-1] + 1):
          axis.axvline(ells[i], color=parts.INK, ls=":", lw=1)
    above.fill_between(ells[1:], found["low"], found["high"], color="#dddddd",
                       label="data to data, range")
    above.plot(ells[1:], found["null"], color=parts.GREY, lw=1, label="its mean")
    above.errorbar(ells[1:], found["marginal"], found["marginal_error"], color=parts.SECOND,
                   marker="o", ms=3, lw=1, label="marginal: from noise")
    above.errorbar(ells[1:], found["local"], found["local_error"], color=parts.ACCENT, marker="s",
                   ms=3, lw=1, label="local: from the interval's start")
    below.errorbar(middle, found["bound"], found["bound_error"], color=parts.ACCENT, marker="o",
                   ms=3, lw=1, label="lower bound")
    if "truth" in found:
      below.errorbar(middle, found["truth"], found["truth_error"], color=parts.INK, marker="D",
                     ms=3, lw=1, label="true score error")
    # Straight about 0, where a bound of nothing lies; logarithmic beyond.
    below.set_yscale("symlog", linthresh=1e-3)
    below.axhline(0.0, color=parts.GREY, lw=0.6)
    below.set_xlabel("half log-SNR ℓ  (noise → data)")
    above.set_title("the network" if kind == "sound" else "damaged on purpose")
    above.set_yscale("log")
  axes[0, 0].set_ylabel("sliced W2, unit scale")
  axes[1, 0].set_ylabel("score error, nats an interval")
  for axis in axes[:, 0]:
    axis.legend(fontsize=8, frameon=False)
  return {"levels": figure}


def part(workdir: pathlib.Path | str | None = None) -> parts.Part:
  """The certificate of the run in `workdir`; of the report's own run in the plane if not given."""
  own = workdir is None
  return parts.Part(
      name="certificate", title="Question 1, continued — Where does a network break duality?",
      measure=lambda setting: measure(setting, None if own else pathlib.Path(workdir)),
      figures=figures, needs=("plane_run",) if own else (), module="" if own else "duality",
      arguments=() if own else (f"--workdir={workdir}",), text=_TEXT)


def extra(workdir: pathlib.Path | str) -> dict[str, Any]:
  """What a certificate depends on besides the report's options.

  Raises:
    ValueError: no run there, or none with a checkpoint.
  """
  workdir = pathlib.Path(workdir)
  records.read_config(workdir)
  if not (workdir / "checkpoints").is_dir():
    raise ValueError(f"--workdir {workdir} has no checkpoint yet")
  manifest = records.read_manifest(workdir)
  return {"workdir": str(workdir), "step": manifest.get("steps"),
          "parameters": manifest.get("sha256"), "averaged": manifest.get("sha256_ema")}


_TEXT = """Equation 11 is exact for the exact score. "In practice, training introduces approximation
error" (§4), and this asks where: it needs a trained run and its held-out data, and not the data's
density. `python -m experiments.paper.duality --workdir=…` asks it of any run.

The axis of noise is cut into twelve intervals. **Marginal** compares the reverse process (η = 1)
that came from noise with held-out data noised to the same level, by sliced Wasserstein distance; an
error made at one level is carried on to those after it. **Local** starts each interval from noised
data instead, so that what it shows was made in this interval. Both are judged against what two sets
of data are apart. **The bound** says in nats how wrong the score is at the least: the mistake of an
exact denoiser, x₀ − D, cannot be predicted from the noisy x; whatever part of it a regression does
predict, on examples it was not fitted to, is error of the network. An interval is marked where
chance would do as much in one of twelve with probability 1 %. Data that are few (below 2,400) are
split anew for every repeat, and errors are then those of splitting.

In the report's own run the data's density is known, so the bound can be held against the true
score error, and the same network is damaged on purpose in a band, which must be found."""

def main(workdir: str, options: parts.Options) -> None:
  """The certificate of one run, as record, picture and table on the screen."""
  one = part(workdir)
  record = parts.run(one, options, extra=extra(workdir))
  for table in record["tables"]:
    print(table["title"])
    widths = [max(len(row[k]) for row in table["rows"]) for k in range(len(table["rows"][0]))]
    for row in table["rows"]:
      print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
  parts.said(record)
  print(f"in {parts.record_file(options.out, one.name)} and {options.out / 'figures'}")


PART = part()

if __name__ == "__main__":
  parts.main(PART)
