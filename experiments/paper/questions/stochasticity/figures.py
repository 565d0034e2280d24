"""The pictures of question 2."""

import numpy as np

from experiments.paper.exact.estimates import estimate
from experiments.report import charts
from experiments.report.charts import Band, Image, Line, Panel

_ETA = "stochasticity η      (h, m, l: η = 1 at high, middle, low noise only)"


def figures(data: charts.Data) -> charts.Figures:
  return {"paths": _paths(data["pictures"]), "laws": _laws(data), "quality": _quality(data),
          "ties": charts.draw([_ties(data), _lengths(data)], size=(10.5, 3.8))}


def _paths(pictures):
  axis, panels = pictures["axis"], []
  settings = {"xlim": (axis[0], axis[-1]), "ylim": (axis[0], axis[-1]), "aspect": "equal"}
  density = np.sqrt(pictures["density"])
  for eta, x in zip(pictures["etas"], pictures["x"], strict=True):
    marks = [Image(axis, axis, density, {"vmax": 2.0 * density.max()})]
    for i, track in enumerate(np.moveaxis(x, 1, 0)):
      marks += [Line(*track.T, style="-", colour=i, options={"lw": 0.9}),
                Line(*track[:1].T, style="o", colour=i, options={"mfc": "none", "ms": 6}),
                Line(*track[-1:].T, style="o", colour=i, options={"mec": "white", "ms": 5})]
    panels.append(Panel(marks, "x₁ / √(α² + σ²)", "" if panels else "x₂ / √(α² + σ²)",
                        f"η = {eta:g}", settings=settings))
  return charts.draw(panels, size=(12.4, 3.4), share="y")


def _laws(data):
  laws = data["laws"]
  place, panels = np.arange(len(laws["floor"])), []
  for model, values in laws["distance"].items():
    marks = [Band(np.exp(-1.96 * laws["std"]), np.exp(1.96 * laws["std"]), "exact draws, 95 %",
                  place)]
    for j, i in enumerate(data["judged"]):
      marks.append(Line(place, values[i] / laws["floor"], data["names"][i], colour=j,
                        style="osD^vPX*"[j] + ("--" if data["windowed"][i] else "-")))
    panels.append(Panel(
        marks, "noise level ρ = σ/α", "" if panels else "sliced W₂ ÷ that of exact draws", model,
        ticks={i: f"{rho:.2g}" if rho else "0" for i, rho in enumerate(laws["rho"])}))
  return charts.draw(panels, size=(10.5, 4.2), share="y", below=True)


def _axis(data):
  """Constant η, processes with noise in a window, places of those beside the η axis, and ticks."""
  windowed = data["windowed"].astype(bool)
  constant, others = np.flatnonzero(~windowed), np.flatnonzero(windowed)
  places = data["etas"].max() + 0.3 + 0.25 * np.arange(len(others))
  ticks = {0.0: "0", 0.5: "½", 1.0: "1", 1.5: "1½", 2.0: "2"} | dict(zip(
      places, "hml", strict=True))
  return constant, others, places, ticks


def _ties(data):
  ties, etas = data["ties"], data["etas"]
  constant, others, places, ticks = _axis(data)
  fine = np.linspace(0.0, etas.max(), 200)
  # For Gaussian data exp(−η² rate), rate = ∫σ² dℓ.
  rate = -np.log(ties["gaussian"][data["names"].index("η = 1")])
  marks = [Line([], [], "the same for Gaussian data", style="-", colour=charts.INK)]
  for colour, (key, power, label) in enumerate((
      ("correlation", 1, "correlation of x₀ and x_T"),
      ("share", 2, "share of Var x₀ that x_T determines"))):
    value, error = ties[key], ties[f"{key}_error"]
    marks += [Line(fine, np.exp(-power * rate * fine**2), style="-", colour=colour),
              Line(etas[constant], value[constant], label, error[constant], "o", colour),
              Line(places, value[others], None, error[others], "o", colour),
              Line(places, ties["gaussian"][others] ** power, style="_", colour=colour,
                   options={"ms": 14})]
  return Panel(marks, _ETA, "what $x_0$ keeps of $x_T$", ticks=ticks,
               legend={"loc": "upper center"})


def _lengths(data):
  rough, names = data["rough"], ("η = 0", "η = 0.2", "η = 0.5", "η = 1", "η = 2")
  marks = []
  for colour, name in enumerate(names):
    i = data["names"].index(name)
    marks.append(Line(rough["resolution"], rough["length"][i], name, rough["length_error"][i],
                      colour=colour))
  return Panel(marks, "steps at which the path is observed", "length Σ‖Δx‖ at unit scale",
               log="xy", ticks=rough["resolution"])


def _quality(data):
  constant, others, places, ticks = _axis(data)
  judged, panels = list(data["judged"]), []
  groups = [(etas, [judged.index(i) for i in group if i in judged], style) for etas, group, style in
            ((data["etas"][[i for i in constant if i in judged]], constant, "o-"),
             (places, others, "o"))]
  floor, std = data["floor"], data["floor_std"]
  for model, by_calls in data["quality"].items():
    for m, method in enumerate(data["methods"]):
      marks = [Band(floor - std, floor + std, "exact draws")]
      for colour, (calls, values) in enumerate(by_calls.items()):
        means, errors = estimate(values[m], -1)
        marks += [Line(x, means[some], f"{calls} calls" if style == "o-" else None, errors[some],
                       style, colour) for x, some, style in groups]
      panels.append(Panel(marks, _ETA, "sliced W₂ to the data's law", f"{model}, {method}", log="y",
                          ticks=ticks, legend=None if panels else {"ncols": 2}))
  return charts.draw(panels, size=(10.5, 7.0), columns=2, share="xy")
