"""The pictures of question 4, from its data alone."""

from typing import Any

import numpy as np

from experiments.paper import part, planned
from experiments.paper.eta_figures import log_ticks
from experiments.paper.head_samples import EXACT, FIRST, OWN, SECOND

plt = part.plt

_COLOURS = {"score": part.INK, "eps": part.SECOND, "x0": part.THIRD, "v": part.FOURTH,
            "velocity": part.ACCENT}
_LABELS = {"score": "score", "eps": "ε", "x0": "x₀", "v": "v", "velocity": "velocity"}
_OWN_PATHS = {"score": "VE, geometric levels", "eps": "linear VP", "x0": "VE, Karras' levels",
              "v": "cosine VP", "velocity": "rectified flow"}
SAMPLERS = {OWN: "Euler in its path's own time", FIRST: "DDIM on Karras' levels",
            SECOND: "UniPC, order 2, on Karras' levels"}
_MARKERS = dict(zip(_COLOURS, "oPsD^", strict=True))


def captions(data: dict[str, Any]) -> dict[str, str]:
  seeds = data["seeds"]
  return {
      "weights": "What an objective is. Left: how much each noise level counts, π w, under the "
                 "customary objectives, as a density of ℓ; maximum likelihood is the flat line. "
                 "Right: the squared error of ε that a unit error of the network's output makes.",
      "learning": f"Error to the exact score during training. Lines are means over {seeds} seeds, "
                  "bands ± a standard error.",
      "levels": f"Where on the noise axis the error is, at the end. Lines are means over {seeds} "
                "seeds, bands ± a standard error.",
      "bends": "How far the networks' ODE trajectories are from straight, in the state space of "
               "each path: total turning in radians, length over chord less 1, and "
               "∫E‖(x₁ − x₀) − dx/du‖² du in the path's own time. Medians over trajectories; bars: "
               f"standard error over {seeds} seeds; black lines: the exact score. Customary "
               "weights. Where a path hardly moves, a small error turns it by much: VP near the "
               "data.",
      "calls": f"Distance of {data['each']} samples to the data's law by calls of the network. "
               f"Bars: standard error over {seeds} seeds, of training and noise; band: what exact "
               "draws have. Top left: the exact score, where only the sampler's own error is left. "
               "Customary weights."}


def figures(data: dict[str, Any]) -> dict[str, Any]:
  return {"weights": _weights(data), "learning": _learning(data), "levels": _levels(data),
          "bends": _bends(data), "calls": _calls(data)}


def _weights(data):
  figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.7))
  ells = np.array(data["axis"])
  flat = 1.0 / (ells[-1] - ells[0])
  axes[0].plot(ells, np.full_like(ells, flat), color=part.GREY, linewidth=4.0, alpha=0.5,
               label="maximum likelihood")
  for head in data["heads"]:
    axes[0].plot(ells, data["counted"][head], color=_COLOURS[head],
                 linestyle="--" if head in ("score", "velocity") else "-",
                 label=f"{_LABELS[head]}: {data['customs'][head]}")
    axes[1].plot(ells, data["cost"][head], color=_COLOURS[head], label=_LABELS[head])
  axes[0].set(xlabel="half log-SNR ℓ   (noise → data)", ylabel="π w, as a density of ℓ")
  axes[1].set(xlabel="half log-SNR ℓ   (noise → data)", yscale="log",
              ylabel="‖δε‖² for ‖δ output‖² = 1")
  for panel in axes:
    panel.legend(fontsize=8)
  figure.tight_layout()
  return figure


def _learning(data):
  figure, axes = _by_weighting(data)
  error = np.array(data["error"])
  for i, (head, weighting) in enumerate(data["arms"]):
    _banded(axes[weighting], data["steps"], *planned.mean_and_error(error[:, i]), head, 4)
  for name, panel in axes.items():
    panel.set(title=f"weight: {name}", xlabel="training step", yscale="log")
    panel.legend(fontsize=8)
  next(iter(axes.values())).set_ylabel("∫E‖ε̂ − ε̂*‖² dℓ, nats")
  figure.tight_layout()
  return figure


def _levels(data):
  figure, axes = _by_weighting(data)
  for (head, weighting), values in zip(data["arms"], np.array(data["by_level"]), strict=True):
    _banded(axes[weighting], data["ells"], *planned.mean_and_error(values, axis=0), head, 3)
  for name, panel in axes.items():
    panel.set(title=f"weight: {name}", xlabel="half log-SNR ℓ   (noise → data)", yscale="log")
    panel.legend(fontsize=8)
  next(iter(axes.values())).set_ylabel("E‖ε̂ − ε̂*‖² at ℓ")
  figure.tight_layout()
  return figure


def _banded(panel, place, mean, error, head, size):
  panel.plot(place, mean, marker=_MARKERS[head], markersize=size, color=_COLOURS[head],
             label=_LABELS[head])
  panel.fill_between(place, np.maximum(mean - error, 1e-9), mean + error, color=_COLOURS[head],
                     alpha=0.2, linewidth=0)


def _by_weighting(data):
  names = list(dict.fromkeys(weighting for _, weighting in data["arms"]))
  figure, axes = plt.subplots(1, len(names), figsize=(10.5, 3.9), sharey=True)
  return figure, dict(zip(names, axes, strict=True))


def _customary(data):
  """(index, head) of the arms with customary weights."""
  last = data["arms"][-1][1]
  return [(i, head) for i, (head, weighting) in enumerate(data["arms"]) if weighting == last]


def _bends(data):
  shown = {"turning": "turning ∫|κ| ds, radians", "excess length": "length ÷ chord − 1",
           "unevenness": "∫E‖(x₁ − x₀) − dx/du‖² du"}
  paths = list(data["bends"])
  figure, axes = plt.subplots(1, len(shown), figsize=(12.0, 3.8))
  for panel, (measure, label) in zip(axes, shown.items(), strict=True):
    for place, path in enumerate(paths):
      found = data["bends"][path][measure]
      panel.hlines(found["exact"], place - 0.4, place + 0.4, color=part.INK, linewidth=1.5,
                   label="exact score" if place == 0 else None)
      for j, (i, head) in enumerate(_customary(data)):
        mean, error = planned.mean_and_error(np.array(found["network"])[i])
        panel.errorbar(place + 0.13 * (j - 2), mean, error, fmt=_MARKERS[head], markersize=5,
                       color=_COLOURS[head], label=_LABELS[head] if place == 0 else None)
    panel.set(ylabel=label, yscale="log", xlabel="state space and time of")
    panel.set_xticks(range(len(paths)), paths)
    log_ticks(panel)
  figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center",
                ncols=6)
  figure.tight_layout(rect=(0.0, 0.08, 1.0, 1.0))
  return figure


def _calls(data):
  figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.2), sharex=True, sharey=True)
  calls, floor, std = data["calls"], data["floor"], data["floor_std"]
  titles = {EXACT: f"exact score, {SAMPLERS[OWN]}",
            **{name: f"networks, {SAMPLERS[name]}" for name in (OWN, FIRST, SECOND)}}
  for panel, (name, title) in zip(axes.ravel(), titles.items(), strict=True):
    panel.axhspan(floor - std, floor + std, color=part.GREY, alpha=0.3, linewidth=0,
                  label="exact draws")
    for j, (i, head) in enumerate(_customary(data)):
      of = j if name == EXACT else i
      mean, error = planned.mean_and_error(
          np.array([data["quality"][name][str(n)][of] for n in calls]))
      label = _OWN_PATHS[head] if name == EXACT else _LABELS[head]
      panel.errorbar(calls, mean, error, color=_COLOURS[head], marker=_MARKERS[head], markersize=4,
                     label=label)
    panel.set(title=title, xscale="log", yscale="log")
    panel.set_xticks(calls, [str(n) for n in calls])
    panel.minorticks_off()
    log_ticks(panel)
    panel.legend(fontsize=8)
  for panel in axes[1]:
    panel.set_xlabel("calls of the network")
  for panel in axes[:, 0]:
    panel.set_ylabel("sliced W₂ to the data's law")
  figure.tight_layout()
  return figure
