"""The pictures of Figure 2's part."""

import numpy as np

from experiments.report import charts
from experiments.report.charts import Band, Contours, Dots, Image, Line, Panel

CLOCKS = {"VP": "time t", "VE": "noise level σ", "RF": "time s", "cosine": "time t"}


def figures(data: charts.Data) -> charts.Figures:
  return {"clouds": _clouds(data["clouds"]), "tracks": _tracks(data["tracks"]),
          "checks": charts.draw([_scores(data["moments"]["scores"]), _ends(data["ends"]["paths"]),
                                 _orders(data["order"])], size=(14, 4.3))}


def _clouds(found):
  panels = []
  for name, clock in CLOCKS.items():
    cloud = found[name]
    for k, (size, rho) in enumerate(zip(cloud["size"], cloud["rho"], strict=True)):
      half = 3.0 * max(size, 1.0)
      label = f"ρ = {rho:.2g}" if np.isfinite(rho) else "pure noise"
      panels.append(Panel(
          [Contours(cloud["contours"][k], size),
           Dots(cloud["x"][k], found["angle"], size=3, options={"cmap": "hsv", "alpha": 0.85})],
          "first coordinate" if name == "cosine" else "",
          f"{name}\nsecond coordinate" if k == 0 else "",
          f"{clock.split()[-1]} = {cloud['times'][k]:g},  {label}",
          settings={"aspect": "equal", "xlim": (-half, half), "ylim": (-half, half)}))
  return charts.draw(panels, size=(14.5, 10.2), columns=6)


def _tracks(found):
  panels = []
  for name, clock in CLOCKS.items():
    track, times = found[name], found[name]["times"]
    deviation = track["deviation"]
    panels.append(Panel(
        [Image(times[1:], track["axis"], np.transpose(track["density"]), {"vmax": 1.7}),
         *(Line(times, x, None if i else "particles", style="-", colour=i, options={"lw": 0.9})
           for i, x in enumerate(np.transpose(track["x"]))),
         Line(times[1:], -deviation, style="--", colour=charts.INK),
         Line(times[1:], deviation, "± one deviation", style="--", colour=charts.INK)],
        f"{clock} of the path", "" if panels else "first coordinate", name,
        settings={"xlim": (0.0, times[-1])},
        legend=None if panels else {"loc": "lower right", "frameon": True}))
  return charts.draw(panels, size=(15, 4))


def _scores(found):
  marks, places = [Band(-3.0, 3.0, "± 3", colour="#e6e6e6")], {}
  for i, (name, scores) in enumerate(found.items()):
    # Six numbers at each of six times: side by side.
    place = 7 * i + np.repeat(np.arange(6), scores.shape[1])
    marks.append(Line(place, scores.ravel(), name, style="o", colour=i, options={"ms": 3}))
    places[7 * i + 2.5] = name
  return Panel(marks, "path, six times each", "(measured − closed form) / standard error",
               ticks=places, settings={"ylim": (-4.0, 5.5)}, legend={"ncol": 3})


def _ends(found):
  marks = []
  for i, (name, path) in enumerate(found.items()):
    kl, rho = path["kl"], np.exp(-path["ell"])
    shown = (kl > 1e-16) & np.isfinite(rho) & (rho < 1e3)
    marks.append(Line(rho[shown], kl[shown], name, style="os^D"[i] + ("" if i else "-"), colour=i))
  return Panel(marks, "noise-to-signal ratio ρ = σ/α", "KL($p_t$‖N(0, 1)) at unit scale, nats",
               log="xy")


def _orders(found):
  steps = found["steps"]
  guide = found["variance"]["VP"][-1] * steps[-1] / steps
  return Panel(
      [*(Line(steps, error, name, colour=i)
         for i, (name, error) in enumerate(found["variance"].items())),
       Line(steps, guide, "order 1", style=":", colour=charts.INK)],
      "Euler–Maruyama steps", "|variance of the noise − σ²|", log="xy", ticks=steps)
