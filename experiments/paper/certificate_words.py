"""The certificate in words and as a table, from what was measured alone."""

import itertools
import math
import textwrap
from typing import Any

import numpy as np

from experiments.paper import part as parts

TEXT = """Equation 11 is exact for the exact score, which is "the theoretical target". "In practice,
training introduces approximation error" (§4), and this asks where: it needs a trained run and its
held-out data, and not the data's density. `python -m experiments.paper.duality --workdir=…` asks it
of any run.

The axis of noise is cut into twelve intervals. **Marginal** compares the reverse process (η = 1)
that came from noise with held-out data noised to the same level, by sliced Wasserstein distance; an
error made at one level is carried on to those after it. **Local** starts each interval from noised
data instead, so that what it shows was made in this interval. Both are judged against what two sets
of data are apart. **The bound** says in nats how wrong the score is at the least: the mistake of an
exact denoiser, x₀ − D, cannot be predicted from the noisy x; whatever part of it a regression does
predict, on examples it was not fitted to, is error of the network. **Memory** is how much less the
network's loss is on examples that it was trained on: of a network that has learned the law, nothing
but chance; where it is more, the network has begun to learn its examples instead.

An interval **breaks duality by itself** where local or bound is above 0 by more than chance would
do, with probability 1 %, anywhere among twelve intervals and three measures. The bound sees much
smaller errors than the distances do. Data so few that the sets of different repeats must share
examples have wider errors of distances, since all repeats then have the same chance in common.

In the report's own run the data's density is known, so the bound can be held against the true
score error, and the same network is damaged on purpose in a band, which must be found."""

LEGEND = textwrap.wrap(
    "ℓ is the half log-SNR and ρ = e^(−ℓ) the noise in deviations of the data. Excess: sliced W2 "
    "to noised held-out data, less that of data to data: of the process from noise (marginal), and "
    "of this interval alone, from noised data (local). Score error: nats by which the score is "
    "wrong at the least. Memory: loss on held-out less loss on training examples, nats. Each ± "
    "its standard error; ** marks what chance would not do.", 100)


def verdict(facts: dict) -> str:
  """Where the network breaks duality, by how much, and what would help."""
  sound, ells = facts["sound"], facts["half_log_snr"]
  held = f"{facts['held_out']:,} held-out examples"
  who = f"The network of {facts['workdir']}, step {facts['step']:,},"
  if not sound["broken"]:
    return f"{who} keeps duality in all intervals, as far as {held} can tell. {_memory(sound)}"
  where = [f"for ρ from {parts.number(math.exp(-ells[i]), 2)} to "
           f"{parts.number(math.exp(-ells[j + 1]), 2)} (ℓ from {_signed(ells[i])} to "
           f"{_signed(ells[j + 1])})" for i, j in stretches(sound["broken"])]
  nats, error = sound["bound_broken"]
  last, spread = (float(np.asarray(v)[-1]) for v in (
      np.asarray(sound["marginal"]) - np.asarray(sound["null"]), sound["marginal_excess_error"]))
  seen = "shows" if sound["marginal_signal"][-1] > 1.0 else "is not beyond chance"
  return (
      f"{who} breaks duality {' and '.join(where)}: there its score is wrong by at least "
      f"{_measured(nats, error)} nats. In the law at the end of the whole process this {seen} in "
      f"sliced W2, which exceeds that of data to data by {_measured(last, spread)}. "
      f"{_memory(sound)} {_remedy(sound)}")


def _memory(sound: dict) -> str:
  gap, error = sound["memory_broken"] or sound["memory_total"]
  where = "there" if sound["broken"] else "over all intervals"
  return (f"Its loss {where} is {_measured(gap, error)} nats more on held-out examples than on "
          "those it was trained on.")


def _remedy(sound: dict) -> str:
  gap, error = sound["memory_broken"]
  if gap > 3.0 * error:
    return ("It has begun to learn its examples by heart: more data, an earlier stop or a smaller "
            "network would help.")
  if gap + 2.0 * error < sound["bound_broken"][0]:
    return ("That is too little to be overfitting: longer training, a larger network or more "
            "weight on these levels would help.")
  return "So few examples cannot tell overfitting from training that is not finished."


def stretches(intervals: list[int]) -> list[tuple[int, int]]:
  """First and last of each stretch of successive numbers."""
  starts = [i for i in intervals if i - 1 not in intervals]
  ends = [i for i in intervals if i + 1 not in intervals]
  return list(zip(starts, ends, strict=True))


def _signed(value: float) -> str:
  return f"{value:.2f}".replace("-", "−")


def _measured(value: Any, error: Any) -> str:
  return f"{parts.number(float(value), 2)} ± {parts.number(float(error), 1)}"


def table(facts: dict) -> parts.Table:
  """Every measure by interval."""
  sound, ells = facts["sound"], facts["half_log_snr"]
  marked = lambda text, mark: f"**{text}**" if mark > 1.0 else text
  known = "truth" in sound
  rows = [["ℓ", "ρ", "data to data", "marginal: excess", "local: excess", "score error ≥",
           *(["true score error"] if known else []), "memory"]]
  for i, (low, high) in enumerate(itertools.pairwise(ells)):
    distances = [marked(_measured(sound[name][i] - sound["null"][i],
                                  sound[f"{name}_excess_error"][i]), sound[f"{name}_signal"][i])
                 for name in ("marginal", "local")]
    nats = [_measured(sound[name][i], sound[f"{name}_error"][i])
            for name in ("bound", *(["truth"] if known else []), "memory")]
    rows.append([
        f"{_signed(low)} … {_signed(high)}",
        " … ".join(parts.number(math.exp(-ell), 2) for ell in (low, high)),
        parts.number(float(sound["null"][i]), 2), *distances,
        marked(nats[0], sound["bound_signal"][i]), *nats[1:]])
  totals = [_measured(*sound[f"{name}_total"])
            for name in ("bound", *(["truth"] if known else []), "memory")]
  rows.append(["all", "", "", "", "", *totals])
  return parts.Table(f"{facts['workdir']}, step {facts['step']:,}: distances in sliced W2, errors "
                     "in nats; bold is more than chance", rows)
