"""The pictures of question 2, from its data alone."""

from typing import Any

import numpy as np
from matplotlib import ticker

from experiments.paper import part, planned

plt = part.plt


def captions(data: dict[str, Any]) -> dict[str, str]:
  return {
      "paths": "Trajectories of the exact score from the same starts (circles) with the same "
               "noise, for several η, to the data (dots), over the density of the data. At unit "
               "scale, from ρ = 80 to 0.",
      "laws": "Distance to exact draws of p_t over what exact draws have to each other, from noise "
              "(left) to data (right, “0”). The band holds 95 % of the distances of exact draws.",
      "ties": "Left: what remains of the start in the end; curves are the formulas for Gaussian "
              "data. Bars are standard errors over ten groups of paths. Right: length of the paths "
              "against how finely they are looked at.",
      "quality": f"Distance of samples to the data's law against η, and with noise only at some "
                 f"levels (h, m, l: high, middle, low), by number of calls. Bars: standard error "
                 f"over {data['batches']} batches of {data['each']} samples; band: what as many "
                 f"exact draws have, ± a standard deviation."}


def figures(data: dict[str, Any]) -> dict[str, Any]:
  return {"paths": _paths(data["pictures"]), "laws": _laws(data), "ties": _ties(data),
          "quality": _quality(data)}


def _paths(pictures):
  etas, axis = pictures["etas"], pictures["axis"]
  figure, axes = plt.subplots(1, len(etas), figsize=(3.1 * len(etas), 3.4), sharey=True)
  for panel, eta, x in zip(axes, etas, np.array(pictures["x"]), strict=True):
    panel.contourf(axis, axis, np.array(pictures["density"]) ** 0.5, levels=8, cmap="Greys",
                   alpha=0.55)
    for i, colour in zip(range(x.shape[1]), 2 * part.SERIES, strict=False):
      panel.plot(*x[:, i].T, color=colour, linewidth=0.9, alpha=0.9)
      panel.plot(*x[0, i], "o", color=colour, fillstyle="none", markersize=6)
      panel.plot(*x[-1, i], "o", color=colour, markersize=5, markeredgecolor="white")
    panel.set(title=f"η = {eta:g}", xlabel="x₁ / √(α² + σ²)", xlim=(axis[0], axis[-1]),
              ylim=(axis[0], axis[-1]), aspect="equal")
    # The labels at the panels' ends would touch.
    panel.xaxis.set_major_locator(ticker.MaxNLocator(5, prune="both"))
  axes[0].set_ylabel("x₂ / √(α² + σ²)")
  figure.tight_layout()
  return figure


def _laws(data):
  laws = data["laws"]
  floor, std = np.array(laws["floor"]), np.array(laws["std"])
  figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8), sharey=True)
  place = np.arange(len(floor))
  labels = ["0" if rho == 0.0 else f"{rho:.2g}" for rho in laws["rho"]]
  for panel, (model, values) in zip(axes, laws["distance"].items(), strict=True):
    panel.fill_between(place, np.exp(-1.96 * std), np.exp(1.96 * std), color=part.GREY, alpha=0.3,
                       label="exact draws, 95 %", linewidth=0)
    for j, i in enumerate(data["judged"]):
      everywhere = i in _constant(data)
      panel.plot(place, np.array(values[i]) / floor, marker="osD^vPX*"[j % 8], markersize=4,
                 linestyle="-" if everywhere else "--", linewidth=1.0, label=data["names"][i],
                 color=part.SERIES[j % len(part.SERIES)] if j < len(part.SERIES) else part.GREY)
    panel.set(title=model, xlabel="noise level ρ = σ/α", xticks=place)
    panel.set_xticklabels(labels)
  axes[0].set_ylabel("sliced W₂ ÷ that of exact draws")
  figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center",
                ncols=5)
  figure.tight_layout(rect=(0.0, 0.12, 1.0, 1.0))
  return figure


def _ties(data):
  ties, rough, names = data["ties"], data["rough"], data["names"]
  constant, others = _constant(data), _windowed(data)
  etas, gaussian = np.array(data["etas"]), np.array(ties["gaussian"])
  figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8))
  panel, fine = axes[0], np.linspace(0.0, max(etas), 200)
  # For Gaussian data exp(−η² rate), rate = ∫σ² dℓ.
  rate = -np.log(gaussian[names.index("η = 1")])
  for key, power, colour, label in (
      ("correlation", 1, part.ACCENT, "correlation of x₀ and x_T"),
      ("share", 2, part.SECOND, "share of Var x₀ that x_T fixes")):
    panel.plot(fine, np.exp(-power * rate * fine**2), color=colour, linewidth=1.0)
    value, error = np.array(ties[key]), np.array(ties[f"{key}_error"])
    panel.errorbar(etas[constant], value[constant], error[constant], fmt="o", color=colour,
                   markersize=5, label=label)
    place = _places(data, others)
    panel.errorbar(place, value[others], error[others], fmt="o", color=colour, markersize=5)
    panel.plot(place, gaussian[others]**power, "_", color=colour, markersize=14)
  panel.plot([], [], color=part.INK, linewidth=1.0, label="the same for Gaussian data")
  ticks = [0.0, 0.5, 1.0, 1.5, 2.0, *_places(data, others)]
  panel.set(xlabel=_ETA_LABEL, ylabel="what $x_0$ keeps of $x_T$", xticks=ticks)
  panel.set_xticklabels(["0", "½", "1", "1½", "2", *(_letter(names[i]) for i in others)])
  panel.legend(fontsize=8, loc="upper center")
  panel = axes[1]
  for i, colour in zip([names.index(n) for n in ("η = 0", "η = 0.2", "η = 0.5", "η = 1", "η = 2")],
                       part.SERIES, strict=False):
    panel.errorbar(rough["resolution"], rough["length"][i], rough["length_error"][i], marker="o",
                   markersize=4, color=colour, label=names[i])
  panel.set(xlabel="steps at which the path is looked at", ylabel="length Σ‖Δx‖ at unit scale",
            xscale="log", yscale="log", xticks=rough["resolution"])
  panel.set_xticklabels([str(n) for n in rough["resolution"]])
  panel.minorticks_off()
  panel.legend(fontsize=8)
  figure.tight_layout()
  return figure


def _quality(data):
  constant, others = _constant(data), _windowed(data)
  index = {i: j for j, i in enumerate(data["judged"])}
  constant = [i for i in constant if i in index]
  etas = [data["etas"][i] for i in constant]
  figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.0), sharex=True, sharey=True)
  for row, (model, by_calls) in zip(axes, data["quality"].items(), strict=True):
    for m, (panel, method) in enumerate(zip(row, data["methods"], strict=True)):
      floor, std = data["floor"], data["floor_std"]
      panel.axhspan(floor - std, floor + std, color=part.GREY, alpha=0.3, linewidth=0,
                    label="exact draws")
      for (calls, values), colour in zip(by_calls.items(), part.SERIES, strict=False):
        means, errors = planned.mean_and_error(values[m])
        for group, place, style in ((constant, etas, "o-"), (others, _places(data, others), "o")):
          some = [index[i] for i in group]
          panel.errorbar(place, means[some], errors[some], fmt=style, markersize=4, color=colour,
                         label=f"{calls} calls" if group is constant else None)
      panel.set(title=f"{model}, {method}", yscale="log", xticks=[*etas, *_places(data, others)])
      log_ticks(panel)
      panel.set_xticklabels([*(f"{eta:g}" for eta in etas),
                             *(_letter(data["names"][i]) for i in others)])
  for panel in axes[-1]:
    panel.set_xlabel(_ETA_LABEL)
  for panel in axes[:, 0]:
    panel.set_ylabel("sliced W₂ to the data's law")
  axes[0, 0].legend(fontsize=8, ncols=2)
  figure.tight_layout()
  return figure


_ETA_LABEL = "stochasticity η      (h, m, l: η = 1 at high, middle, low noise only)"


def log_ticks(panel) -> None:
  """Ticks of a logarithmic y axis as plain numbers, at 1, 2 and 5 times powers of ten."""
  panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
  panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: part.number(value, 1)))
  panel.yaxis.set_minor_locator(ticker.NullLocator())


def _constant(data):
  return [i for i, (low, high) in enumerate(data["windows"]) if low == 0.0 and high == "inf"]


def _windowed(data):
  return [i for i in range(len(data["windows"])) if i not in _constant(data)]


def _places(data, windowed):
  return max(data["etas"]) + 0.3 + 0.25 * np.arange(len(windowed))


def _letter(name: str) -> str:
  return next(word[0] for word in name.split() if word in ("high", "middle", "low"))
