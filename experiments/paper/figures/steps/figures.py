"""The pictures of the part of Figures 3 and 4."""

import numpy as np

from experiments.report import charts
from experiments.report.charts import Contours, Dots, Line, Panel


def figures(data: charts.Data) -> charts.Figures:
  return {"triangle": _triangle(data["triangle"]),
          "distance": _distance(data["single"], data["many"]), "parts": _parts(data["single"])}


def _triangle(found):
  """Forward step above, Langevin step below; the two empty panels of the grid are arrows' space."""
  ell, d, eta = found["ell"], found["d"], found["eta"]

  def panel(name, title, level, colour, note=""):
    x = found["clouds"][name]
    marks = Contours(found[level]), Dots(x, colour, options={"alpha": 0.35}), charts.followed(x)
    return Panel(marks, f"first coordinate{note}", "second coordinate", title,
                 settings={"aspect": "equal"})

  empty = Panel([])
  figure = charts.draw([
      empty, panel("between", r"one forward step: $p_{\ell-d}$", "there", charts.THIRD), empty,
      panel("before", r"$x \sim p_\ell$", "here", charts.INK),
      panel("langevin", r"one Langevin step: $p_\ell$", "here", charts.ACCENT,
            f"\n\nLangevin STEP(0, (1+η²)d) = STEP(0, {(1 + eta**2) * d:g}) at ℓ = {ell:g}"),
      panel("after", r"forward, then reverse: $p_\ell$", "here", charts.SECOND)],
      size=(12.5, 8.8), columns=3, share="xy", space=0.12)
  first, top, third, left, middle, right = figure.axes
  for axes in (first, third):
    axes.axis("off")
  charts.arrow(left, (0.5, 1.08), top, (-0.2, 0.5), charts.THIRD)
  charts.arrow(top, (1.05, 0.5), right, (0.5, 1.08), charts.SECOND)
  charts.arrow(left, (1.03, 0.5), middle, (-0.03, 0.5), charts.ACCENT)
  middle.xaxis.label.set_color(charts.ACCENT)
  note = lambda axes, x, y, text, colour: axes.text(
      x, y, text, transform=axes.transAxes, color=colour, fontsize=13, ha="center", va="center")
  note(first, 0.4, 0.75, f"forward\nSTEP(−d, d), d = {d:g}", charts.THIRD)
  note(third, 0.6, 0.75, f"reverse\nSTEP(d, η²d), η = {eta:g}", charts.SECOND)
  return figure


def _distance(single, many):
  def panel(budgets, cycles, langevin, slope, xlabel, title):
    return Panel(
        [*(Line(budgets, kl, f"η = {eta:g}: forward, reverse", colour=j)
           for j, (eta, kl) in enumerate(zip(single["etas"], cycles, strict=True))),
         Line(budgets, langevin, "Langevin STEP(0, Λ)", style="--", colour=charts.INK),
         charts.power(budgets, langevin[-1], slope)],
        xlabel, r"KL($p_\ell$‖law), nats, exact", title, log="xy", ticks=budgets)

  return charts.draw(
      [*(panel(single["budgets"], single["cycle"][i], single["langevin"][i], 4,
               "budget Λ = (1+η²)d of one step", f"one step, ℓ = {single['ells'][i]:g}")
         for i in (0, -1)),
       panel(many["budgets"], np.transpose(many["cycle"]), many["langevin"], 2,
             "budget Λ of a step",
             f"steps of a total budget {many['total']:g}, ℓ = {many['ell']:g}")], size=(14, 4.6))


def _parts(single):
  sizes = [single["budgets"] / (1.0 + eta**2) for eta in single["etas"]]
  # Rounding may end in 0, which has no logarithm.
  forward = [Line(d, np.maximum(np.abs(kl), 1e-18), None if j else "forward (rounding)", style="s",
                  colour=charts.GREY)
             for j, (d, kl) in enumerate(zip(sizes, single["forward"][-1], strict=True))]
  reverse = [Line(d, kl, f"reverse, η = {eta:g}", colour=j)
             for j, (d, kl, eta) in enumerate(zip(
                 sizes, single["reverse"][-1], single["etas"], strict=True))]
  shown = single["shown"]
  return charts.draw([
      Panel([*reverse, *forward], "step d in ℓ", "KL from the exact density, nats",
            f"each step alone, ℓ = {single['ells'][-1]:g}", log="xy"),
      Panel([Line(shown["x"], shown["before"], r"$p_\ell$", style="-", colour=charts.INK),
             Line(shown["x"], shown["forward"], "after a forward step", style="-", colour=2),
             Line(shown["x"], shown["after"], "after forward and reverse", style="--")],
            "x (unit scale)", "density",
            f"ℓ = {single['ells'][-1]:g}, d = {float(shown['d']):g}, η = 1",
            settings={"xlim": (-4.0, 4.0)})], size=(11.5, 4.4))
