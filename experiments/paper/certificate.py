"""The certificate of duality of a trained run: where on the ℓ axis its network breaks eq. 11.

Nothing is known of the data's density; there are held-out examples alone. Twelve intervals of half
log-SNR, from noise to data, are asked three things:

  marginal, local   distances of the reverse process, from noise and of the interval by itself, to
                    noised held-out data (`certificate_walks`)
  bound             nats per interval by which the score is wrong at the least (`certificate_bound`)

  python -m experiments.paper.duality --workdir=runs/digits
"""

import math
import pathlib
from typing import Any

import numpy as np

from experiments.paper import certificate_bound, certificate_network, certificate_walks, trained
from experiments.paper import certificate_pictures as pictures
from experiments.paper import certificate_words as words
from experiments.paper import part as parts
from experiments.run import records

INTERVALS = 12
DAMAGED, FACTOR = (5, 6), 1.2  # intervals of a network that is damaged on purpose, and by how much
_LEVEL = 0.01  # chance that a sound network is marked anywhere, by any of the three measures


def measure(setting: parts.Setting, workdir: pathlib.Path | None) -> parts.Findings:
  """Of the run in `workdir`, or else of the report's own, whose true score is known as well."""
  own = workdir is None
  found = trained.model(trained.plane(setting) if own else workdir)
  truth = trained.truth(setting.density.plane, found.run) if own else None
  model = certificate_network.of(found, truth)
  config = found.run.config.sampling
  # Far enough to either side: beyond, nothing is learned or sampled.
  ells = np.linspace(-math.log(min(config.rho_max, 20.0)), -math.log(max(config.rho_min, 0.02)),
                     INTERVALS + 1)
  sizes = {"points": 750, "steps": 4, "examples": 1500 if setting.fast else 12_000, "draws": 4,
           "waves": 30 if setting.fast else 100}
  sound = certify(model, ells, sizes, seed=setting.seed)
  facts = {"workdir": "the report's own run in the plane" if own else str(workdir),
           "step": found.step, "half_log_snr": ells, "sizes": sizes,
           "held_out": len(model.data.test), "sound": summary(sound)}
  claims = []
  if own:
    facts["damaged"] = DAMAGED
    low, high = ells[DAMAGED[0]], ells[DAMAGED[-1] + 1]
    # A little early at both ends, where a level may be rounded to either side.
    hurt = certify(model, ells, sizes, seed=setting.seed + 1,
                   change=(low - 1e-3, high - 1e-3, FACTOR))
    claims += validation(sound, hurt)
    facts["hurt"] = summary(hurt)
  return parts.Findings(
      claims, facts, {"levels": pictures.caption(facts, FACTOR)}, [words.table(facts)],
      answer=words.verdict(facts))


def certify(
    model: certificate_network.Model, ells: np.ndarray, sizes: dict[str, int], *, seed: int,
    change: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> dict[str, Any]:
  """What `walks` and `bounds` find, and whether the sets of the walks' repeats share examples."""
  change = tuple(np.float32(v) for v in change)
  distances, nats = ("points", "steps"), ("examples", "draws", "waves")
  return {
      "shared": certificate_walks.shared(len(model.data.test), sizes["points"]),
      **certificate_walks.walks(model, ells, **{k: sizes[k] for k in distances}, seed=seed,
                                change=change),
      **certificate_bound.bounds(model, ells, **{k: sizes[k] for k in nats}, seed=seed,
                                 change=change)}


def error(each: np.ndarray, *, shared: bool = False) -> np.ndarray:
  """Standard error of the mean along the first axis.

  shared: the rows are of random halves of one pool. The halves of a pool vary about its mean as
  much as the pool does about the law's, so that the mean has that variance once more.
  """
  return each.std(0, ddof=1) * math.sqrt(1.0 / len(each) + (1.0 if shared else 0.0))


def threshold(n: int) -> float:
  """What Student's t of n values passes by chance in any interval, by any measure, at `_LEVEL`."""
  from scipy import stats  # half a second that nothing else needs
  return float(stats.t.ppf(1.0 - _LEVEL / (3 * INTERVALS), n - 1))


def _signal(excess: np.ndarray, *, shared: bool = False) -> np.ndarray:
  """The mean along the first axis in standard errors, over what would mark it."""
  size = error(excess, shared=shared)
  return excess.mean(0) / np.where(size > 0.0, size, np.inf) / threshold(len(excess))


def signals(found: dict[str, Any]) -> dict[str, np.ndarray]:
  """Of each measure and interval; above 1 it is marked."""
  return {name: _signal(found[name] - found["null"], shared=found["shared"])
          for name in ("marginal", "local")} | {"bound": _signal(found["bound"])}


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


def validation(sound: dict[str, Any], hurt: dict[str, Any]) -> list[parts.Claim]:
  """Claims of a run whose truth is known, and of its network damaged in a band.

  What a certificate finds in a network says nothing for or against the paper, whose target is
  equality and which expects training to fall short of it.
  """
  inside = np.isin(np.arange(INTERVALS), DAMAGED)
  above = lambda found: (_signal(found["bound"] - found["truth"]) * threshold(len(found["bound"])))
  # Seeds differ, so that outside the band the two are independent measurements of one network.
  local = _signal((hurt["local"] - hurt["null"]) - (sound["local"] - sound["null"]),
                  shared=sound["shared"])
  bound = signals(hurt)["bound"]
  # One weight for D mends the damage and leaves what was wrong before.
  (seen, one), (before, other) = (
      total(v[:, inside]) for v in (hurt["bound"] - hurt["truth"], sound["truth"]))
  spread = math.hypot(one, other)
  return [
      parts.claim(
          "The bound lies below the true score error at every level, of the network and of a "
          "damaged one: largest surplus in standard errors.",
          max(above(sound).max(), above(hurt).max()), below=4.0,
          source="inequality of certificate_bound"),
      parts.claim(
          f"Where D is made {FACTOR - 1.0:.0%} too large in two intervals, the local measure says "
          "so in both: the smaller signal, over what marks an interval.", local[inside].min(),
          above=1.0, source="eq. 11"),
      parts.claim(
          "And it accuses no other interval of it: the largest signal elsewhere.",
          local[~inside].max(), below=1.0, source="eq. 11"),
      parts.claim(
          "The bound says so in both too: the smaller signal, over what marks an interval.",
          bound[inside].min(), above=1.0, source="eq. 11"),
      parts.claim(
          "It finds all that the damage has added to the true score error, or more: nats beyond.",
          seen + before, error=spread, above=-4.0 * spread, source="eq. 17")]


def summary(found: dict[str, Any]) -> dict[str, Any]:
  """What is kept: means and standard errors, the null's band, and the marks."""
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


def part(workdir: pathlib.Path | str | None = None) -> parts.Part:
  """The certificate of the run in `workdir`; of the report's own run in the plane if not given."""
  own = workdir is None
  return parts.Part(
      name="certificate", title="Question 1, continued — Where does a network break duality?",
      measure=lambda setting: measure(setting, None if own else pathlib.Path(workdir)),
      figures=pictures.figures, needs=("plane_run",) if own else (),
      module="" if own else "duality", arguments=() if own else (f"--workdir={workdir}",),
      text=words.TEXT)


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


def said(record: dict[str, Any], out: pathlib.Path) -> None:
  """Prints the certificate of one run: the table by interval, the verdict, and where they are."""
  for table in record["tables"]:
    print(table["title"])
    widths = [max(len(row[k]) for row in table["rows"]) for k in range(len(table["rows"][0]))]
    for row in table["rows"]:
      print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
  print("\n" + "\n".join(words.LEGEND) + f"\n\n{record['answer']}\n")
  parts.said(record)
  print(f"numbers: {parts.record_file(out, record['part'])}; picture: "
        f"{out / 'figures' / 'certificate-levels.png'}")


PART = part()

if __name__ == "__main__":
  parts.main(PART)
