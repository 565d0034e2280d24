"""The certificate of a network: its measures by interval of the noise axis, and what they mark."""

import math
from typing import Any

import numpy as np

from experiments.metrics.certificate import bound, network, walks

INTERVALS = 12
_LEVEL = 0.01  # probability that chance marks any interval of a sound network, by any measure


def ends(rho_min: float, rho_max: float) -> np.ndarray:
  """The ends of the intervals in half log-SNR; beyond, nothing is learned or sampled."""
  return np.linspace(-math.log(min(rho_max, 20.0)), -math.log(max(rho_min, 0.02)), INTERVALS + 1)


def sizes(*, fast: bool) -> dict[str, int]:
  """How much is drawn: see `walks.walks` and `bound.bounds`."""
  return {"points": 750, "steps": 4, "examples": 1500 if fast else 12_000, "draws": 4,
          "waves": 30 if fast else 100}


def certify(
    model: network.Model, ells: np.ndarray, sizes: dict[str, int], *, seed: int,
    change: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> dict[str, Any]:
  """Results of `walks` and `bounds`, and whether the sets of the walks' repeats share examples."""
  change = tuple(np.float32(v) for v in change)
  distances, nats = ("points", "steps"), ("examples", "draws", "waves")
  return {
      "shared": walks.shared(len(model.data.test), sizes["points"]),
      **walks.walks(model, ells, **{k: sizes[k] for k in distances}, seed=seed, change=change),
      **bound.bounds(model, ells, **{k: sizes[k] for k in nats}, seed=seed, change=change)}


def error(each: np.ndarray, *, shared: bool = False) -> np.ndarray:
  """Standard error of the mean along the first axis.

  shared: the rows are of random halves of one pool. The halves of a pool vary about its mean as
  much as the pool does about the law's, so that the mean has that variance once more.
  """
  return each.std(0, ddof=1) * math.sqrt(1.0 / len(each) + (1.0 if shared else 0.0))


def threshold(n: int) -> float:
  """What Student's t of n values exceeds in any interval, by any measure, with chance `_LEVEL`."""
  from scipy import stats  # half a second that nothing else needs
  return float(stats.t.ppf(1.0 - _LEVEL / (3 * INTERVALS), n - 1))


def deviation(each: np.ndarray, *, shared: bool = False) -> np.ndarray:
  """The mean along the first axis in standard errors; 0 without any spread."""
  size = error(each, shared=shared)
  return each.mean(0) / np.where(size > 0.0, size, np.inf)


def signal(excess: np.ndarray, *, shared: bool = False) -> np.ndarray:
  """`deviation` in units of the threshold that marks an interval."""
  return deviation(excess, shared=shared) / threshold(len(excess))


def signals(found: dict[str, Any]) -> dict[str, np.ndarray]:
  """Of each measure and interval; above 1 it is marked."""
  return {name: signal(found[name] - found["null"], shared=found["shared"])
          for name in ("marginal", "local")} | {"bound": signal(found["bound"])}


def broken(found: dict[str, Any]) -> list[int]:
  """The intervals that break duality by themselves: by the local measure or by the bound."""
  marks = signals(found)
  return np.flatnonzero((marks["local"] > 1.0) | (marks["bound"] > 1.0)).tolist()


def total(each: np.ndarray) -> tuple[float, float]:
  """Sum over intervals: mean over examples, and its standard error."""
  sums = each.sum(1)
  return float(sums.mean()), float(error(sums))


def memory(found: dict[str, Any], intervals: list[int]) -> tuple[float, float]:
  """Nats by which the loss of held-out examples exceeds that of training ones, and its error."""
  (held_out, one), (seen, other) = (total(found[k][:, intervals]) for k in ("loss", "seen"))
  return held_out - seen, math.hypot(one, other)


def summary(found: dict[str, Any]) -> dict[str, Any]:
  """Means and standard errors, the null's range, and the marked intervals."""
  null, shared, marked = found["null"], found["shared"], broken(found)
  made = {"broken": marked, "shared": shared, "null": null.mean(0), "low": null.min(0),
          "high": null.max(0)}
  for name in ("marginal", "local"):
    made |= {name: found[name].mean(0), f"{name}_error": error(found[name], shared=shared),
             f"{name}_excess_error": error(found[name] - null, shared=shared)}
  for name in ("bound", "truth"):
    if name in found:
      made |= {name: found[name].mean(0), f"{name}_error": error(found[name]),
               f"{name}_total": total(found[name])}
  each = np.array([memory(found, [i]) for i in range(INTERVALS)])
  made |= {"memory": each[:, 0], "memory_error": each[:, 1],
           "memory_total": memory(found, list(range(INTERVALS))),
           "memory_broken": memory(found, marked) if marked else None,
           "bound_broken": total(found["bound"][:, marked]) if marked else None}
  return made | {f"{name}_signal": value for name, value in signals(found).items()}
