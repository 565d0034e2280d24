"""The pictures of question 4."""

import numpy as np

from experiments.paper.exact.estimates import estimate
from experiments.report import charts
from experiments.report.charts import Band, Line, Panel

_COLOURS = {"score": charts.INK, "eps": charts.SECOND, "x0": charts.THIRD, "v": charts.FOURTH,
            "velocity": charts.ACCENT}
_LABELS = {"score": "score", "eps": "ε", "x0": "x₀", "v": "v", "velocity": "velocity"}
_OWN_PATHS = {"score": "VE, geometric levels", "eps": "linear VP", "x0": "VE, Karras' levels",
              "v": "cosine VP", "velocity": "rectified flow"}
_STYLES = dict(zip(_COLOURS, "oPsD^", strict=True))
_PANELS = {"exact score": "exact score, Euler in its path's time",
           "own time": "networks, Euler in its path's time",
           "DDIM": "networks, DDIM on Karras' levels",
           "UniPC": "networks, UniPC, order 2, on Karras' levels"}


def figures(data: charts.Data) -> charts.Figures:
  return {
      "weights": _weights(data),
      "learning": _by_weighting(
          data, data["steps"], np.moveaxis(data["error"], 0, -1), "training step",
          "∫E‖ε̂ − ε̂*‖² dℓ, nats"),
      "levels": _by_weighting(
          data, data["ells"], data["by_level"], charts.LOG_SNR, "E‖ε̂ − ε̂*‖² at ℓ"),
      "bends": _bends(data), "calls": _calls(data)}


def _weights(data):
  ells = data["axis"]
  counted = [Line(ells, data["counted"][head], f"{_LABELS[head]}: {data['customs'][head]}",
                  style="--" if head in ("score", "velocity") else "-", colour=_COLOURS[head])
             for head in data["heads"]]
  flat = Line(ells[[0, -1]], [1.0 / np.ptp(ells)] * 2, "maximum likelihood", style="-",
              colour=charts.GREY, options={"lw": 4.0, "alpha": 0.5})
  return charts.draw([
      Panel([flat, *counted], charts.LOG_SNR, "π w, as a density of ℓ"),
      Panel([Line(ells, data["cost"][head], _LABELS[head], style="-", colour=_COLOURS[head])
             for head in data["heads"]], charts.LOG_SNR, "‖δε‖² for ‖δ output‖² = 1", log="y")],
      size=(10.5, 3.7))


def _by_weighting(data, x, values, xlabel, ylabel):
  """values (arms, seeds, len(x)) against x: a panel for each weight, a line for each head."""
  panels = []
  for weighting in dict.fromkeys(weighting for _, weighting in data["arms"]):
    marks = [Line(x, mean, _LABELS[head], error, _STYLES[head] + "-", _COLOURS[head], shade=True)
             for (head, of), (mean, error) in zip(
                 data["arms"], (estimate(each) for each in values), strict=True)
             if of == weighting]
    panels.append(Panel(marks, xlabel, "" if panels else ylabel, f"weight: {weighting}", log="y"))
  return charts.draw(panels, size=(10.5, 3.9), share="y")


def _customary(data):
  """(index, head) of the arms with customary weights."""
  last = data["arms"][-1][1]
  return [(i, head) for i, (head, weighting) in enumerate(data["arms"]) if weighting == last]


def _bends(data):
  shown = {"turning": "turning ∫|κ| ds, radians", "excess length": "length ÷ chord − 1",
           "unevenness": "∫E‖(x₁ − x₀) − dx/du‖² du"}
  panels = []
  for measure, label in shown.items():
    found = [path[measure] for path in data["bends"].values()]
    exact = [Line([place - 0.4, place + 0.4], [of["exact"]] * 2, None if place else "exact score",
                  style="-", colour=charts.INK) for place, of in enumerate(found)]
    networks = []
    for j, (i, head) in enumerate(_customary(data)):
      mean, error = np.transpose([estimate(of["network"][i]) for of in found])
      networks.append(Line(np.arange(len(found)) + 0.13 * (j - 2), mean, _LABELS[head], error,
                           _STYLES[head], _COLOURS[head]))
    panels.append(Panel([*exact, *networks], "state space and time of", label, log="y",
                        ticks=dict(enumerate(data["bends"]))))
  return charts.draw(panels, size=(12.0, 4.1), below=True)


def _calls(data):
  calls, floor, std = data["calls"], data["floor"], data["floor_std"]
  panels = []
  for name, title in _PANELS.items():
    marks = [Band(floor - std, floor + std, "exact draws")]
    for j, (i, head) in enumerate(_customary(data)):
      exact = name == "exact score"
      mean, error = np.transpose([
          estimate(data["quality"][name][str(n)][j if exact else i]) for n in calls])
      marks.append(Line(calls, mean, (_OWN_PATHS if exact else _LABELS)[head], error,
                        _STYLES[head] + "-", _COLOURS[head]))
    panels.append(Panel(marks, "calls of the network", "sliced W₂ to the data's law", title,
                        log="xy", ticks=calls))
  return charts.draw(panels, size=(10.5, 7.2), columns=2, share="xy")
