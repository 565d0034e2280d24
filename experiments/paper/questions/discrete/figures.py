"""The pictures of the part on finite state spaces."""

import numpy as np

from experiments.report import charts
from experiments.report.charts import Image, Level, Line, Panel

_LEVEL = "ℓ = log α/(1 − α)   (noise ← → data)"


def figures(data: charts.Data) -> charts.Figures:
  return {"triangle": _triangle(data), "steps": _steps(data), "duality": _duality(data),
          "quality": _quality(data), "jumps": _jumps(data)}


def _triangle(data):
  """The joint law of two positions as an image, before and after the three steps."""
  panels = []
  for noise, found in zip(data["noises"], data["triangle"], strict=True):
    top, size = max(found[name].max() for name in ("p", "forward")), len(found["p"])
    titles = {"p": "p at ℓ = {ell:g}", "forward": "forward STEP(−d, d), d = {d:g}",
              "reverse": "then reverse STEP(d, η²d), η = {eta:g}",
              "langevin": "Langevin STEP(0, (1+η²)d)"}
    letters = [*"abcdefgh"[:data["vocabulary"]], *["░"] * (size - data["vocabulary"])]
    for name, title in titles.items():
      image = Image(np.arange(size + 1), np.arange(size + 1), found[name],
                    {"shading": "flat", "vmin": 0.0, "vmax": top, "cmap": "magma_r"})
      panels.append(Panel(
          [image], "second position", f"{noise} noise\nfirst position" if name == "p" else "",
          title.format(**found) if not len(panels) // 4 else "",
          settings={"aspect": "equal", "xticks": np.arange(size) + 0.5, "xticklabels": letters,
                    "yticks": np.arange(size) + 0.5, "yticklabels": letters}))
  figure = charts.draw(panels, size=(11.5, 5.6), columns=4)
  for axes in figure.axes:
    axes.invert_yaxis()
  return figure


def _steps(data):
  panels = []
  for noise, single in zip(data["noises"], data["single"], strict=True):
    middle, budgets = 1, single["budgets"]
    panels.append(Panel(
        [*(Line(budgets, kl, f"η = {eta:g}: forward, reverse", colour=e)
           for e, (eta, kl) in enumerate(zip(data["etas"], single["cycle"][middle], strict=True))),
         Line(budgets, single["langevin"][middle, 0], "Langevin", style="--", colour=charts.INK),
         charts.power(budgets, single["cycle"][middle, :, -1].min(), 4)],
        "budget Λ = (1+η²)d", "KL(p‖law), nats, exact",
        f"{noise} noise, ℓ = {single['ells'][middle]:g}", log="xy", ticks=budgets))
  return charts.draw(panels, size=(10.0, 3.9), share="y", below=True)


def _duality(data):
  found, panels = data["duality"], []
  ell, level = found["ell"][-1], np.asarray(found["level"][-1])
  for k, noise in enumerate(data["noises"]):
    marks = [Line(ell[1:], np.maximum(kl[1:], 1e-12), name, colour=m % len(data["etas"]),
                  style="-" if name.startswith("STEP") else "--")
             for m, (name, kl) in enumerate(zip(found["methods"], level[k], strict=True))]
    marks += [Line(ell[1:], kl[1:], f"STEP, η = {eta:g}, wrong D", style=":", colour=e)
              for e, (eta, kl) in enumerate(zip(data["etas"], found["broken"][k], strict=True))]
    panels.append(Panel(marks, _LEVEL, "KL(p‖q), nats, exact",
                        f"{noise} noise, {found['counts'][-1]} steps", log="y"))
  return charts.draw(panels, size=(11.0, 4.8), share="y", below=True)


def _quality(data):
  found, panels = data["quality"], []
  for k, noise in enumerate(data["noises"]):
    marks = [Line(found["counts"], kl, name, colour=m)
             for m, (name, kl) in enumerate(zip(found["methods"], found["end"][k], strict=True))]
    calls, corrected = np.transpose(found["corrected"][k])
    marks.append(Line(calls, corrected, "STEP, η = 0, and Langevin steps", style="s--",
                      colour=charts.GREY))
    if not k:
      groups = found["unmask"]
      marks += [Line(groups[:-1, 0], groups[:-1, 1], "positions in groups", style="D:",
                     colour=charts.INK),
                Level(groups[-1, 0], "one position a call: KL = 0", style=":", vertical=True)]
    marks.append(charts.power(found["counts"], 0.6 * found["end"][k, 0, 0], -2))
    panels.append(Panel(marks, "calls of D", "KL(data‖samples), nats, exact", f"{noise} noise",
                        log="xy"))
  return charts.draw(panels, size=(11.0, 4.8), share="y", below=True)


def _jumps(data):
  asked = data["questions"]
  rates = [Panel(
      [Line(found["ells"], np.maximum(found["rate"][:, e], 1e-4), f"η = {eta:g}", style="-",
            colour=e) for e, eta in enumerate(data["etas"])],
      _LEVEL, "jumps of a position per unit of ℓ", f"{noise} noise",
      log="y") for noise, found in zip(data["noises"], asked["jumps"], strict=True)]
  memory = [Panel(
      [mark for k, noise in enumerate(data["noises"]) for mark in (
          Line(data["etas"], asked["memory"][k]["limit"], f"{noise} noise", style="o-", colour=k),
          Level(asked["memory"][k]["forward"], f"forward process, {noise}", style=":",
                colour=charts.SERIES[k]))],
      "stochasticity η", "I(start; end)/H(end)", "what an end tells of the start, ρ = 1",
      settings={"ylim": (0.0, 1.0)})]
  return charts.draw([*rates, *memory], size=(12.5, 3.8))
