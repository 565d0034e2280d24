"""The pictures of the part of Figures 6 and 7."""

import numpy as np

from experiments.paper.claim import number
from experiments.report import charts
from experiments.report.charts import Band, Contours, Dots, Image, Level, Line, Panel


def figures(data: charts.Data) -> charts.Figures:
  rung = data["rung"]
  lines = [Line(rung["lengths"], times, f"direction of variance {var:.2g}", colour=1 - i)
           for i, (var, times) in enumerate(zip(rung["variances"], rung["times"], strict=True))]
  return {"ladder": _ladder(data["ladder"]), "chain": _chain(data["chain"]),
          "rows": _rows(data["rows"], data["gaussian"]),
          "rung": charts.draw([Panel(
              lines, "length of the row, $\\ell_t - \\ell_T$",
              "Langevin time that explains it (frame of z)", log="xy")], size=(6.2, 4.2))}


def _ladder(found):
  """Rows of three panels: forward samples, space for the row's arrow, reverse samples."""
  panels, last = [], len(found["ell"]) - 1
  for i, ell in enumerate(found["ell"]):
    def cloud(name, title, colour, i=i, ell=ell):
      x = found[name][i]
      marks = Dots(x, colour, options={"alpha": 0.4}), charts.followed(x)
      return Panel([Contours(found["contours"][i]), *marks],
                   "first coordinate (unit scale)",
                   f"ℓ = {number(ell)}\nsecond coordinate", "" if i else title, settings={
                       "aspect": "equal", "xlim": (-3.2, 3.2), "ylim": (-3.2, 3.2)})

    panels += [cloud("down", r"forward: $x_t$", charts.THIRD), Panel([]),
               cloud("up", r"reverse: $x_{(T-t)'}$", charts.SECOND)]
  figure = charts.draw(panels, size=(11, 3.4 * len(found["ell"])), columns=3,
                       share="xy", space=0.12)
  grid = np.reshape(figure.axes, (-1, 3))
  for i, (left, middle, right) in enumerate(grid):
    middle.axis("off")
    charts.arrow(left, (1.03, 0.5), right, (-0.03, 0.5), charts.ACCENT)
    for y, text, align in (
        (0.54, f"Langevin\nΛ = {number(found['budget'][i])}", "bottom"),
        (0.46, f"correlation\n{number(found['correlation'][i], 2)}", "top")):
      middle.text(0.5, y, text, transform=middle.transAxes, ha="center", va=align,
                  color=charts.ACCENT)
    if i < last:
      charts.arrow(left, (0.5, -0.02), grid[i + 1, 0], (0.5, 1.02), charts.THIRD)
      charts.arrow(grid[i + 1, 2], (0.5, 1.02), right, (0.5, -0.02), charts.SECOND)
  return figure


def _chain(found):
  angle, density = found["angle"], found["density"]
  middle = angle[-1]
  image = np.concatenate([density, density[::-1]])
  # Each level by its own peak: the peak of the data would hide all others.
  image = (image / image.max(1, keepdims=True)).T
  down, up = found["down"].T, found["up"].T
  rho = [0.0, 0.3, 0.6, 1.0, 2.0]
  ticks = {np.arctan(r): f"{r:g}" for r in rho} | {middle: f"{np.tan(middle):.3g}"} | {
      2.0 * middle - np.arctan(r): f"{r:g}" for r in rho}
  return charts.draw([Panel(
      [Image(np.concatenate([angle, 2.0 * middle - angle[::-1]]), found["axis"], image,
             {"vmax": 1.6}),
       *(Line(angle, x, None if i else "chains of one particle", style="-", colour=i)
         for i, x in enumerate(down)),
       *(Line(2.0 * middle - angle, x, style="-", colour=i) for i, x in enumerate(up)),
       Level(middle, "T = 0′", style=":", vertical=True)],
      "noise-to-signal ratio ρ:   forward, $x_0 \\to x_T$   |   reverse, $x_{0'} \\to x_{T'}$",
      "first coordinate (unit scale)", ticks=ticks, settings={"ylim": (-4.0, 4.0)},
      legend={"loc": "upper right", "frameon": True})], size=(11, 4.6))


def _rows(rows, gaussian):
  # The clean row, at ℓ = ∞, has its own place.
  ell = rows["ell"]
  place = np.append(ell[1] + 1.0, ell[1:])
  ticks = {t: number(t) for t in np.arange(np.ceil(ell[-1]), ell[1] + 0.01)} | {place[0]: "∞"}
  null, spread = rows["null"], rows["null_spread"]
  panel = lambda marks, ylabel, **settings: Panel(
      marks, "half log-SNR ℓ of the row   (noise ← → data)", ylabel, ticks=ticks, settings=settings)
  each = list(enumerate(rows["etas"]))
  return charts.draw([
      panel([Band(null - 2 * spread, null + 2 * spread, "null band", place),
             *(Line(place + 0.05 * (i - 1.5), rows["distance"][i], f"η = {eta:g}",
                    rows["distance_error"][i], "o", i) for i, eta in each)],
            "sliced W₂, reverse to other forward samples", ylim=(0.0, None)),
      panel([mark for i, eta in each for mark in (
          Line(place, gaussian["closed"][i], f"η = {eta:g}: $r^{{{1 + eta**2:g}}}$", style="-",
               colour=i),
          Line(place, gaussian["measured"][i], None, gaussian["error"][i], "o", i))],
            "correlation of a row, Gaussian"),
      panel([Line(place, rows["correlation"][i], f"η = {eta:g}", rows["correlation_error"][i],
                  colour=i) for i, eta in each],
            "correlation of a row, the density in the plane")], size=(14.5, 4.5))
