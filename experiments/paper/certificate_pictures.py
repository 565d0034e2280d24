"""The certificate as a picture: its measures by level."""

import numpy as np

from experiments.paper import certificate_words as words
from experiments.paper import part as parts


def caption(facts: dict, factor: float) -> str:
  damaged = (f" Right: the same network with its D {factor - 1.0:.0%} too large in the band "
             "between the dotted lines, which the certificate is to find beside what was wrong "
             "before.") if "hurt" in facts else ""
  return ("Above: sliced W2 to noised held-out data at the end of each interval, of the reverse "
          "process from noise and of each interval by itself; the band is the range of repeated "
          "distances of data to data. Below: the least score error, in nats an interval. Bars are "
          "standard errors; red intervals break duality by themselves." + damaged)


def figures(data: dict) -> dict:
  """The three measures by level."""
  kinds = ["sound", *(["hurt"] if "hurt" in data else [])]
  figure, axes = parts.plt.subplots(
      2, len(kinds), figsize=(6.0 * len(kinds), 6.0), sharex=True, sharey="row", squeeze=False,
      layout="constrained")
  ells = np.asarray(data["half_log_snr"])
  for (above, below), kind in zip(axes.T, kinds, strict=True):
    found = data[kind]
    for axis in (above, below):
      for first, last in words.stretches(found["broken"]):
        axis.axvspan(ells[first], ells[last + 1], color="#f3c9bf", lw=0,
                     label="breaks duality" if first == found["broken"][0] else None)
      if kind == "hurt":
        for i in (data["damaged"][0], data["damaged"][-1] + 1):
          axis.axvline(ells[i], color=parts.INK, ls=":", lw=1)
    _distances(above, ells[1:], found)
    _errors(below, 0.5 * (ells[1:] + ells[:-1]), found)
    above.set_title("the network" if kind == "sound" else "damaged on purpose")
  axes[0, 0].set_ylabel("sliced W2, unit scale")
  axes[1, 0].set_ylabel("score error, nats an interval")
  for axis in axes[:, 0]:
    axis.legend(fontsize=8, frameon=False)
  return {"levels": figure}


def _distances(axis, ells, found) -> None:
  axis.fill_between(ells, found["low"], found["high"], color="#dddddd", label="data to data, range")
  axis.plot(ells, found["null"], color=parts.GREY, lw=1, label="its mean")
  for name, colour, marker, label in (
      ("marginal", parts.SECOND, "o", "marginal: from noise"),
      ("local", parts.ACCENT, "s", "local: from the interval's start")):
    axis.errorbar(ells, found[name], found[f"{name}_error"], color=colour, marker=marker, ms=3,
                  lw=1, label=label)
  axis.set_yscale("log")
  ticks = parts.matplotlib.ticker
  axis.yaxis.set_major_locator(ticks.LogLocator(subs=(1.0, 2.0, 5.0)))
  axis.yaxis.set_major_formatter(ticks.FormatStrFormatter("%g"))
  axis.yaxis.set_minor_formatter(ticks.NullFormatter())


def _errors(axis, ells, found) -> None:
  axis.errorbar(ells, found["bound"], found["bound_error"], color=parts.ACCENT, marker="o", ms=3,
                lw=1, label="lower bound")
  if "truth" in found:
    axis.errorbar(ells, found["truth"], found["truth_error"], color=parts.INK, marker="D", ms=3,
                  lw=1, label="true score error")
  # Straight about 0, where a bound of nothing lies; logarithmic beyond.
  axis.set_yscale("symlog", linthresh=1e-3)
  axis.axhline(0.0, color=parts.GREY, lw=0.6)
  axis.set_xlabel("half log-SNR ℓ  (noise → data)")
