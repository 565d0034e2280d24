"""The pictures of Figure 5, from its data alone."""

from typing import Any

import numpy as np

from experiments.paper import curves, part

COLOURS = {"VP": part.ACCENT, "VE": part.SECOND, "RF": part.THIRD}
NOISY = 3  # of the SDE, whose trajectories hide each other


def estimate(value: tuple[float, float]) -> str:
  """A mean ± its standard error, as tables print it."""
  if abs(value[0]) < 1e-9:
    return "0 to rounding" if value[0] else "0"
  return f"{part.number(value[0])} ± {part.number(value[1], 2)}"


def captions(data: dict[str, Any]) -> dict[str, str]:
  unit = {k: data["by_scale"][k][data["scale"].index(1.0)] for k in ("VP", "VE", "RF")}
  turning = ", ".join(f"{curves.LONG[k]} {estimate(unit[k])}" for k in ("VP", "VE", "RF"))
  return {
      "trajectories":
          f"Reverse trajectories from the same {len(data['drawn']['mixture']['VP'])} noises (one "
          "colour each), towards one data point (above) and towards the density shown in grey "
          "(below), each in its path's own state space. Of the SDE "
          f"{NOISY} are drawn, and the mean paths of all. "
          f"VE-Karras starts {part.number(curves.RHO_MAX)} deviations away, far outside the frame. "
          f"Mean total turning below, in radians: {turning}.",
      "curvature":
          f"Left: where on the noise axis the direction turns, mean over {data['n']} trajectories "
          "with bands of one standard error; the area under a curve is its total turning. Middle: "
          "total turning when the data are scaled against noise of unit scale, with error bars of "
          "one standard error. Right: the length of VP "
          "trajectories measured in n pieces: an SDE's has no limit."}


def figures(data: dict[str, Any]) -> dict[str, Any]:
  return {"trajectories": _draw_trajectories(data), "curvature": _draw_curvature(data)}


def _draw_trajectories(data):
  half = data["window"]
  columns = {"SDE": "VP-SDE (η = 1)", **{k: curves.LONG[k] for k in ("VP", "VE", "RF")}}
  figure, panels = part.plt.subplots(2, 4, figsize=(12, 6.7), sharex=True, sharey=True,
                                     layout="constrained")
  for axes_row, (row, drawn) in zip(panels, data["drawn"].items(), strict=True):
    for axes, (name, title) in zip(axes_row, columns.items(), strict=True):
      if row == "one point":
        axes.plot(*data["point"], "o", ms=10, mfc="none", mec=part.INK, zorder=4)
        axes.set_title(title)
      else:
        # Square roots let a narrow mode and a broad one both be seen.
        shade = np.sqrt(data["density"])
        axes.imshow(shade, origin="lower", extent=(-half, half, -half, half), cmap="Greys",
                    vmax=2.0 * np.max(shade), interpolation="bilinear")
        axes.set_xlabel("x₁")
      for i, (colour, curve) in enumerate(zip(part.SERIES, drawn[name], strict=False)):
        if name == "SDE":
          axes.plot(*np.transpose(drawn["mean"][i]), color=colour, lw=1.6)
          if i >= NOISY:
            continue
        axes.plot(*np.transpose(curve), color=colour, **(
            {"lw": 0.5, "alpha": 0.8} if name == "SDE" else {"lw": 1.5}))
        axes.plot(*curve[0], "o", mfc="white", mec=colour, ms=4, zorder=3)
        axes.plot(*curve[-1], "o", color=colour, ms=4, zorder=3)
      axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    axes_row[0].set_ylabel(f"{'one data point' if row == 'one point' else 'a mixture'}\nx₂")
  line = part.plt.Line2D
  dot = {"ls": "", "marker": "o", "ms": 4, "color": part.INK}
  figure.legend(handles=[
      line([], [], **dot | {"mfc": "white"}, label="start: noise"),
      line([], [], **dot, label="end"),
      line([], [], **dot | {"mfc": "none", "ms": 10}, label="the data point"),
      line([], [], color=part.INK, lw=1.5, label="trajectory of an ODE, mean path of the SDE"),
      line([], [], color=part.INK, lw=0.5, label="trajectory of the SDE")],
      loc="outside lower center", ncols=5, frameon=False)
  return figure


def _draw_curvature(data):
  figure, (level, scale, ruler) = part.plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
  for name in ("VP", "VE", "RF"):
    mean, error = np.transpose(data["by_level"][name])
    style = {"color": COLOURS[name], "label": curves.LONG[name]}
    level.plot(data["half_log_snr"], mean, **style)
    level.fill_between(data["half_log_snr"], mean - error, mean + error, color=COLOURS[name],
                       alpha=0.25, lw=0)
    value, error = np.transpose(data["by_scale"][name])
    scale.errorbar(data["scale"], value, error, marker="o", ms=4, capsize=2, **style)
  level.set(xlabel="half log-SNR ℓ   (noise ← → data)", ylabel="turning per unit of ℓ, rad")
  level.set_ylim(bottom=0.0)
  scale.axhline(np.pi, color=part.GREY, lw=0.8, ls=":", label="about-turn, π")
  scale.set(xscale="log", xlabel="scale of the data, in units of the noise's",
            ylabel="total turning, rad")
  scale.set_xticks(data["scale"], [f"{s:g}" for s in data["scale"]])
  scale.minorticks_off()
  scale.set_ylim(bottom=0.0)
  n = np.asarray(data["rulers"])
  ruler.errorbar(n, *np.transpose(data["lengths"]), fmt="o", ms=4, capsize=2, color=part.FOURTH,
                 label="VP-SDE")
  ruler.plot(n, np.sqrt(0.5 * np.pi * data["span"] * n), color=part.FOURTH, lw=0.8, ls="--",
             label="√(π T n/2), noise alone")
  ruler.errorbar(data["ode_rulers"], *np.transpose(data["ode_lengths"]), fmt="s", ms=4, capsize=2,
                 color=COLOURS["VP"], label="VP-ODE")
  ruler.set(xscale="log", yscale="log", xlabel="number of pieces n", ylabel="mean length")
  for axes in (level, scale, ruler):
    axes.legend(frameon=False, fontsize=8)
  return figure
