"""The pictures of Figures 6 and 7's part, from its data alone."""

import numpy as np

from experiments.paper import part, plane


def figures(data: dict) -> dict:
  return {"ladder": _draw_ladder(data["ladder"]), "chain": _draw_chain(data["chain"]),
          "rows": _draw_rows(data["rows"], data["gaussian"]), "rung": _draw_rung(data["rung"])}


def _draw_ladder(found):
  count = len(found["ell"])
  figure, grid = part.plt.subplots(count, 2, figsize=(9.5, 3.3 * count), sharex=True, sharey=True)
  for i, row in enumerate(grid):
    for axes, name, colour in ((row[0], "down", part.THIRD), (row[1], "up", part.SECOND)):
      plane.draw_contours(axes, found["contours"][i])
      x = np.array(found[name][i])
      axes.scatter(*x.T, s=4, color=colour, alpha=0.4, lw=0)
      axes.scatter(*x[:6].T, s=34, c=part.SERIES[:6], edgecolor="white", zorder=4)
      axes.set(aspect="equal", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
    row[0].set_ylabel(f"ℓ = {part.number(float(found['ell'][i]))}\nsecond coordinate")
  for axes in grid[-1]:
    axes.set_xlabel("first coordinate (unit scale)")
  grid[0, 0].set_title(r"forward: $x_t$", color=part.THIRD)
  grid[0, 1].set_title(r"reverse: $x_{(T-t)'}$", color=part.SECOND)
  figure.subplots_adjust(wspace=0.75, hspace=0.28)
  arrow = lambda start, end, colour, style="-|>": figure.add_artist(
      part.matplotlib.patches.FancyArrowPatch(
          start, end, transform=figure.transFigure, mutation_scale=18, lw=2.2, color=colour,
          arrowstyle=style))
  figure.canvas.draw()
  boxes = [[axes.get_position() for axes in row] for row in grid]
  for i, (left, right) in enumerate(boxes):
    y = 0.5 * (left.y0 + left.y1)
    arrow((left.x1 + 0.01, y), (right.x0 - 0.045, y), part.ACCENT)
    figure.text(0.5 * (left.x1 + right.x0) - 0.015, y + 0.012,
                f"Langevin\nΛ = {part.number(float(found['budget'][i]))}", ha="center",
                color=part.ACCENT)
    figure.text(0.5 * (left.x1 + right.x0) - 0.015, y - 0.01,
                f"correlation\n{part.number(float(found['correlation'][i]), 2)}", ha="center",
                va="top", color=part.ACCENT)
    if i + 1 < count:
      below = boxes[i + 1]
      for j, colour in ((0, part.THIRD), (1, part.SECOND)):
        x = 0.5 * (boxes[i][j].x0 + boxes[i][j].x1)
        ends = (x, boxes[i][j].y0 - 0.004), (x, below[j].y1 + 0.004)
        arrow(*(ends if j == 0 else ends[::-1]), colour)
  return figure


def _draw_chain(found):
  figure, axes = part.plt.subplots(figsize=(11, 4.6))
  angle, density = np.array(found["angle"]), np.array(found["density"])
  place = np.concatenate([angle, 2.0 * angle[-1] - angle[::-1]])
  image = np.concatenate([density, density[::-1]])
  # Each level by its own peak: that of the data would hide all others.
  axes.pcolormesh(place, found["axis"], (image / image.max(1, keepdims=True)).T, cmap="Greys",
                  vmax=1.6, shading="gouraud", rasterized=True)
  down, up = np.array(found["down"]), np.array(found["up"])
  for i in range(down.shape[1]):
    axes.plot(place[:len(angle)], down[:, i], lw=1.0, color=part.SERIES[i],
              label="chains of one particle" if i == 0 else None)
    axes.plot(place[len(angle):], up[::-1, i], lw=1.0, color=part.SERIES[i])
  middle = angle[-1]
  axes.axvline(middle, color=part.INK, lw=1, ls=":", label="T = 0′")
  rho = [0.0, 0.3, 0.6, 1.0, 2.0]
  place = np.arctan(rho)
  axes.set_xticks([*place, middle, *(2 * middle - place[::-1])],
                  [f"{v:g}" for v in (*rho, np.tan(middle).round(2), *rho[::-1])])
  axes.set(xlabel="noise-to-signal ratio ρ:   forward, $x_0 \\to x_T$   |   "
           "reverse, $x_{0'} \\to x_{T'}$",
           ylabel="first coordinate (unit scale)", ylim=(-4.0, 4.0))
  axes.legend(loc="upper right", framealpha=0.9)
  figure.tight_layout()
  return figure


def _draw_rows(rows, gaussian):
  figure, (left, middle, right) = part.plt.subplots(1, 3, figsize=(14.5, 4.5))
  # The clean row, at ℓ = ∞, has a place of its own.
  ell = np.array([float(v) for v in rows["ell"]])
  place = np.append(ell[1] + 1.0, ell[1:])
  null, spread = np.array(rows["null"]), np.array(rows["null_spread"])
  left.fill_between(place, null - 2 * spread, null + 2 * spread, color="#dddddd", lw=0,
                    label="null band")
  for i, eta in enumerate(rows["etas"]):
    colour, shift = part.SERIES[i], 0.05 * (i - 1.5)
    left.errorbar(place + shift, rows["distance"][i], yerr=rows["error"][i], fmt="o", ms=4,
                  capsize=2, color=colour, label=f"η = {eta:g}")
    middle.plot(place, gaussian["closed"][i], color=colour, lw=1.2,
                label=f"η = {eta:g}: $r^{{{1 + eta**2:g}}}$")
    middle.errorbar(place, gaussian["measured"][i], yerr=gaussian["error"][i], fmt="o", ms=4,
                    capsize=2, color=colour)
    right.errorbar(place, rows["correlation"][i], yerr=rows["correlation_error"][i], fmt="o-",
                   ms=4, capsize=2, color=colour, label=f"η = {eta:g}")
  left.set(ylabel="sliced W₂, reverse to other forward samples", ylim=(0.0, None))
  middle.set(ylabel="correlation of a row, Gaussian")
  right.set(ylabel="correlation of a row, the density in the plane")
  ticks = np.arange(np.ceil(ell[-1]), ell[1] + 0.01)
  for axes in (left, middle, right):
    axes.set_xticks([*ticks, place[0]], [*(f"{t:g}" for t in ticks), "∞"])
    axes.set_xlabel("half log-SNR ℓ of the row   (noise ← → data)")
    axes.legend(frameon=False, fontsize=8)
  figure.tight_layout()
  return figure


def _draw_rung(found):
  figure, axes = part.plt.subplots(figsize=(6.2, 4.2))
  for var, times, colour in zip(found["variances"], found["times"], (part.SECOND, part.ACCENT),
                                strict=True):
    axes.loglog(found["lengths"], times, "o-", ms=4, color=colour,
                label=f"direction of variance {var:.2g}")
  axes.set(xlabel="length of the row, $\\ell_t - \\ell_T$",
           ylabel="Langevin time that explains it (frame of z)")
  axes.legend(frameon=False)
  figure.tight_layout()
  return figure
