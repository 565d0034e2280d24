"""The pictures of Figure 1's part."""

import numpy as np

from experiments.paper.claim import number
from experiments.report import charts
from experiments.report.charts import Band, Contours, Dots, Level, Line, Panel


def figures(data: charts.Data) -> charts.Figures:
  return {"identity": _identity(data["cloud"]), "distance": _distance(data["line"], data["plane"]),
          "independence": _independence(data["independence"])}


def _identity(cloud):
  before, after = cloud["before"], cloud["after"]
  few = slice(0, 24)
  pairs = [Line(*pair.T, style="-", colour=charts.GREY, options={"lw": 0.9, "zorder": 2})
           for pair in np.stack([before[few], after[few]], 1)]
  ends = [Dots(before[few], charts.SECOND, "start x", 26,
               {"facecolor": "white", "lw": 1, "alpha": 1, "zorder": 3}),
          Dots(after[few], charts.ACCENT, "end x′", 20, {"alpha": 1, "zorder": 3})]
  panel = lambda marks, title, **options: Panel(
      [Contours(cloud["contours"]), *marks], "first coordinate (unit scale)",
      "second coordinate (unit scale)", title, settings={"aspect": "equal"}, **options)
  return charts.draw([
      panel([Dots(before, charts.SECOND, size=3)], "before: x ~ p"),
      panel([Dots(after, charts.ACCENT, size=3)],
            f"after {cloud['steps']} Langevin steps: x′ ~ p"),
      panel([*pairs, *ends], "the same particles, start and end joined",
            legend={"loc": "upper right", "frameon": True})], size=(13, 4.6), share="xy")


def _distance(line, plane):
  budgets = line["budgets"]
  null, spread = plane["null"], plane["null_spread"]
  band = Band(null - 2 * spread, null + 2 * spread, "null band")
  # Side by side, so that error bars do not hide each other.
  beside = lambda x, i: x * 1.03**i
  top = {"ylim": (0.0, 1.5 * max(np.max([m["distance"] for m in plane["methods"].values()]),
                                 np.max([w["distance"] for w in plane["by_steps"]])))}
  fresh = "sliced W₂ to fresh draws (unit scale)"
  return charts.draw([
      Panel([Line(budgets, line["total"]["euler"], "Euler step"),
             Line(budgets, line["total"]["exact"], "STEP(0, Λ)", style="s-", colour=1),
             charts.power(budgets, line["total"]["exact"][-1], 2)],
            "step size Λ = δ/σ²", "KL(p‖law), nats, exact", log="xy"),
      Panel([Line(line["steps"], kl, f"Λ = {number(budget, 2)}",
                  colour=charts.plt.cm.viridis(i / len(budgets)))
             for i, (budget, kl) in enumerate(zip(budgets, line["euler"], strict=True))],
            "steps n", "KL(p‖law after n steps), nats, exact", log="xy",
            # Space for the legend above the curves.
            settings={"ylim": (None, 1e3 * np.max(line["euler"]))},
            legend={"ncol": 3, "loc": "upper left"}),
      Panel([band, *(Line(beside(plane["budgets"], i - 2), found["distance"], name,
                          found["distance_error"], colour=i)
                     for i, (name, found) in enumerate(plane["methods"].items()))],
            "step size Λ = δ/σ²", fresh, log="x", settings=top,
            ticks={b: number(b, 2) for b in plane["budgets"]},
            legend={"ncol": 2, "loc": "upper left"}),
      Panel([band, *(Line(beside(found["steps"], 2 * i - 1), found["distance"],
                          f"euler, Λ = {number(found['budget'], 2)}", found["distance_error"],
                          colour=i) for i, found in enumerate(plane["by_steps"]))],
            "steps n", fresh, log="x", settings=top, ticks=plane["by_steps"][0]["steps"],
            legend={"ncol": 2, "loc": "upper left"})], size=(11, 8.2), columns=2)


def _independence(found):
  fine = np.geomspace(found["times"][0], found["times"][-1], 200)
  time = "Langevin time τ (data variance 1)"
  return charts.draw([
      Panel([Line(fine, np.exp(-fine), r"Gaussian: $e^{-\tau/\mathrm{Var}}$", style="-",
                  colour=charts.INK),
             Line(found["times"], found["gaussian"], "Gaussian, measured", found["gaussian_error"],
                  "o", charts.INK),
             Line(found["line_time"], found["line"], "density on the line, by quadrature",
                  style="-", colour=1),
             Line(found["plane_time"], found["plane"], "density in the plane, measured",
                  found["plane_error"], "s-"),
             Level(0.0, style=":", colour=charts.GREY)],
            time, "correlation of start and end", log="x"),
      Panel([Line(found["plane_time"], found["crossed"], "after Langevin time τ",
                  found["crossed_error"], "s-"),
             Level(found["crossed_independent"], "independent draws", style=":")],
            time, "share of particles in another component", log="x",
            settings={"ylim": (-0.02, None)})], size=(11, 4.3))
