"""The pictures of Figure 2's part, from its data alone."""

import numpy as np

from experiments.paper import part, plane

CLOCKS = {"VP": "time t", "VE": "noise level σ", "RF": "time s", "cosine": "time t"}


def figures(data: dict) -> dict:
  return {"clouds": _draw_clouds(data["clouds"]), "tracks": _draw_tracks(data["tracks"]),
          "checks": _draw_checks(data["moments"], data["ends"], data["order"])}


def _draw_clouds(found):
  figure, grid = part.plt.subplots(len(CLOCKS), 6, figsize=(14.5, 10.2))
  for row, name in zip(grid, CLOCKS, strict=True):
    own = found[name]
    for k, axes in enumerate(row):
      size, contours = own["size"][k], own["contours"][k]
      axis = np.array(contours["axis"]) * size
      plane.draw_contours(axes, {"axis": axis, "density": contours["density"]})
      axes.scatter(*np.array(own["x"][k]).T, s=3, c=found["angle"], cmap="hsv", lw=0,
                   alpha=0.85)
      half = 3.0 * max(size, 1.0)
      rho = float(own["rho"][k])
      axes.set(aspect="equal", xlim=(-half, half), ylim=(-half, half))
      label = f"ρ = {rho:.2g}" if np.isfinite(rho) else "pure noise"
      axes.set_title(f"{CLOCKS[name].split()[-1]} = {own['times'][k]:g},  {label}", fontsize=9)
      axes.tick_params(labelsize=7)
    row[0].set_ylabel(f"{name}\nsecond coordinate")
  for axes in grid[-1]:
    axes.set_xlabel("first coordinate")
  figure.tight_layout()
  return figure


def _draw_tracks(found):
  figure, panels = part.plt.subplots(1, len(CLOCKS), figsize=(15, 4))
  for axes, name in zip(panels, CLOCKS, strict=True):
    own = found[name]
    times = np.array(own["times"])
    axes.pcolormesh(times[1:], own["axis"], np.array(own["density"]).T, cmap="Greys", vmax=1.7,
                    shading="gouraud", rasterized=True)
    for i, track in enumerate(np.array(own["x"]).T):
      axes.plot(times, track, lw=0.9, color=part.SERIES[i],
                label="particles" if i == 0 else None)
    for sign in (-1.0, 1.0):
      axes.plot(times[1:], sign * np.array(own["deviation"]), "--", lw=1, color=part.INK,
                label="± one deviation" if sign > 0 else None)
    axes.set(title=name, xlabel=f"{CLOCKS[name]}, the path's own", xlim=(0.0, times[-1]))
  panels[0].set_ylabel("first coordinate")
  panels[0].legend(fontsize=8, loc="lower right", framealpha=0.9)
  figure.tight_layout()
  return figure


def _draw_checks(moments, ends, order):
  figure, (left, middle, right) = part.plt.subplots(1, 3, figsize=(14, 4.3))
  left.axhspan(-3.0, 3.0, color="#e6e6e6", label="± 3", lw=0)
  for i, (name, scores) in enumerate(moments["scores"].items()):
    scores = np.array(scores)
    # Six numbers at each of six times: side by side.
    place = 7 * i + np.repeat(np.arange(6), scores.shape[1])
    left.plot(place, scores.ravel(), "o", ms=3, color=part.SERIES[i], label=name)
  left.set(xticks=[7 * i + 2.5 for i in range(len(CLOCKS))], xticklabels=list(CLOCKS),
           xlabel="path, six times each", ylabel="(measured − closed form) / standard error")
  left.legend(frameon=False, fontsize=8, ncol=2)
  for i, (name, own) in enumerate(ends["paths"].items()):
    kl, rho = np.array(own["kl"]), np.exp(-np.array([float(v) for v in own["ell"]]))
    shown = (kl > 1e-16) & np.isfinite(rho) & (rho < 1e3)
    middle.loglog(rho[shown], kl[shown], "os^D"[i], ms=4, color=part.SERIES[i], label=name,
                  ls="-" if i == 0 else "none")
  middle.set(xlabel="noise-to-signal ratio ρ = σ/α", ylabel="KL($p_t$‖N(0, 1)) at unit scale, nats")
  middle.legend(frameon=False, fontsize=8)
  steps = np.array(order["steps"])
  for i, (name, error) in enumerate(order["variance"].items()):
    right.loglog(steps, error, "o-", ms=4, color=part.SERIES[i], label=name)
  right.loglog(steps, order["variance"]["VP"][-1] * steps[-1] / steps, ":", color=part.INK,
               label="order 1")
  right.set(xlabel="Euler–Maruyama steps", ylabel="|variance of the noise − σ²|",
            xticks=steps, xticklabels=steps)
  right.minorticks_off()
  right.legend(frameon=False, fontsize=8)
  figure.tight_layout()
  return figure
