"""The pictures of Figure 5's part."""

import numpy as np

from experiments.paper.exact import curves
from experiments.report import charts
from experiments.report.charts import Dots, Image, Level, Line, Panel, measured

COLOURS = {"VP": charts.ACCENT, "VE": charts.SECOND, "RF": charts.THIRD}
NOISY = 3  # trajectories of the SDE, which would hide each other


def figures(data: charts.Data) -> charts.Figures:
  return {"trajectories": _trajectories(data), "curvature": _curvature(data)}


def _trajectories(data):
  half = data["window"]
  columns = {"SDE": "VP-SDE (η = 1)", **{k: curves.LONG[k] for k in COLOURS}}
  axis, panels = np.linspace(-half, half, len(data["density"])), []
  for row, drawn in data["drawn"].items():
    point = row == "one point"
    # Square roots make a narrow mode and a broad one both visible.
    shade = np.sqrt(data["density"])
    target = (Dots([data["point"]], charts.INK, "the data point", 90,
                   {"facecolor": "none", "lw": 1, "alpha": 1, "zorder": 4}) if point else
              Image(axis, axis, shade, {"vmax": 2.0 * np.max(shade)}))
    for name, title in columns.items():
      panels.append(Panel(
          [target, *_curves(drawn, name)], "" if point else "x₁",
          f"{'one data point' if point else 'a mixture'}\nx₂" if name == "SDE" else "",
          title if point else "",
          settings={"xlim": (-half, half), "ylim": (-half, half), "aspect": "equal"}))
  return charts.draw(panels, size=(12, 6.9), columns=4, share="xy", below=True)


def _curves(drawn, name):
  """Trajectories with their ends; of the SDE a few, and all mean paths. The first has labels."""
  thick, thin = {"lw": 1.6}, {"lw": 0.5, "alpha": 0.8}
  marks = []
  for i, (curve, mean) in enumerate(zip(
      drawn[name], drawn["mean"], strict=True)):
    label = lambda text, i=i: None if i else text
    marks.append(Line(*(mean if name == "SDE" else curve).T, label(
        "trajectory of an ODE, mean path of the SDE"), style="-", colour=i, options=thick))
    if name == "SDE":
      if i >= NOISY:
        continue
      marks.append(Line(*curve.T, label("trajectory of the SDE"), style="-", colour=i,
                        options=thin))
    marks += [Line(*curve[:1].T, label("start: noise"), style="o", colour=i,
                   options={"mfc": "white", "zorder": 3}),
              Line(*curve[-1:].T, label("end"), style="o", colour=i, options={"zorder": 3})]
  return marks


def _curvature(data):
  n, bottom = data["rulers"], {"ylim": (0.0, None)}
  return charts.draw([
      Panel([measured(data["half_log_snr"], data["by_level"][name], curves.LONG[name], style="-",
                      colour=colour, shade=True) for name, colour in COLOURS.items()],
            charts.LOG_SNR, "turning per unit of ℓ, rad", settings=bottom),
      Panel([*(measured(data["scale"], [row[name] for row in data["by_scale"]], curves.LONG[name],
                        colour=colour) for name, colour in COLOURS.items()),
             Level(np.pi, "about-turn, π", style=":", colour=charts.GREY)],
            "scale of the data, in units of the noise's", "total turning, rad", log="x",
            ticks=data["scale"], settings=bottom),
      Panel([measured(n, data["lengths"], "VP-SDE", style="o", colour=3),
             Line(n, np.sqrt(0.5 * np.pi * data["span"] * n), "√(π T n/2), noise alone",
                  style="--", colour=3, options={"lw": 0.8}),
             measured(data["ode_rulers"], data["ode_lengths"], "VP-ODE", style="s")],
            "number of pieces n", "mean length", log="xy")], size=(13, 4))
