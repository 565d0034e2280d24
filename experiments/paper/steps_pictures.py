"""The pictures of Figures 3 and 4's part, from its data alone."""

import numpy as np

from experiments.paper import part, plane


def figures(data: dict) -> dict:
  return {"triangle": _draw_triangle(data["triangle"]),
          "distance": _draw_distance(data["single"], data["many"]),
          "parts": _draw_parts(data["single"])}


def _draw_triangle(found):
  figure, grid = part.plt.subplots(2, 3, figsize=(12.5, 8.2), sharex=True, sharey=True)
  ell, d, eta = found["ell"], found["d"], found["eta"]
  budget = (1.0 + eta**2) * d
  where = {"before": (grid[1, 0], r"$x \sim p_\ell$", "here", part.INK),
           "between": (grid[0, 1], r"one forward step: $p_{\ell-d}$", "there", part.THIRD),
           "after": (grid[1, 2], r"forward, then reverse: $p_\ell$", "here", part.SECOND),
           "langevin": (grid[1, 1], r"one Langevin step: $p_\ell$", "here", part.ACCENT)}
  few = slice(0, 6)
  for name, (axes, title, level, colour) in where.items():
    plane.draw_contours(axes, found[level])
    x = np.array(found["clouds"][name])
    axes.scatter(*x.T, s=4, color=colour, alpha=0.35, lw=0)
    axes.scatter(*x[few].T, s=34, c=part.SERIES[:6], edgecolor="white", zorder=4)
    axes.set(title=title, aspect="equal", xlabel="first coordinate")
    if name in ("before", "between"):
      axes.set_ylabel("second coordinate")
  for axes in (grid[0, 0], grid[0, 2]):
    axes.axis("off")
  figure.tight_layout(h_pad=3.0, w_pad=3.0)
  place = lambda axes: axes.get_position()
  left, top, right, middle = (place(where[n][0]) for n in
                              ("before", "between", "after", "langevin"))
  arrow = lambda start, end, colour: figure.add_artist(part.matplotlib.patches.FancyArrowPatch(
      start, end, transform=figure.transFigure, mutation_scale=24, lw=2.5, color=colour,
      arrowstyle="-|>", connectionstyle="arc3,rad=0"))
  arrow(((left.x0 + left.x1) / 2, left.y1 + 0.05), (top.x0 - 0.06, (top.y0 + top.y1) / 2),
        part.THIRD)
  arrow((top.x1 + 0.02, (top.y0 + top.y1) / 2), ((right.x0 + right.x1) / 2, right.y1 + 0.05),
        part.SECOND)
  y = (left.y0 + left.y1) / 2
  arrow((left.x1 + 0.004, y), (middle.x0 - 0.012, y), part.ACCENT)
  figure.text(left.x0, top.y1 - 0.06, f"forward\nSTEP(−d, d), d = {d:g}", color=part.THIRD,
              fontsize=13)
  figure.text(right.x0 + 0.06, top.y1 - 0.06, f"reverse\nSTEP(d, η²d), η = {eta:g}",
              color=part.SECOND, fontsize=13)
  figure.text((middle.x0 + middle.x1) / 2, middle.y0 - 0.085,
              f"Langevin  STEP(0, (1+η²)d) = STEP(0, {budget:g})  at ℓ = {ell:g}",
              color=part.ACCENT, fontsize=13, ha="center", va="top")
  return figure


def _draw_distance(single, many):
  figure, panels = part.plt.subplots(1, 3, figsize=(14, 4.6))
  etas = single["etas"]
  for axes, i in zip(panels, (0, len(single["ells"]) - 1), strict=False):
    for j, eta in enumerate(etas):
      axes.loglog(single["budgets"], single["cycle"][i][j], "o-", ms=4, color=part.SERIES[j],
                  label=f"η = {eta:g}: forward, reverse")
    axes.loglog(single["budgets"], single["langevin"][i], "--", color=part.INK,
                label="Langevin STEP(0, Λ)")
    _guide(axes, single["budgets"], single["langevin"][i][-1], 4)
    axes.set(xlabel="budget Λ = (1+η²)d of one step", title=f"one step, ℓ = {single['ells'][i]:g}",
             ylabel=r"KL($p_\ell$‖law), nats, exact")
  axes = panels[2]
  budgets = np.array(many["budgets"])
  for j, eta in enumerate(etas):
    axes.loglog(budgets, np.array(many["cycle"])[:, j], "o-", ms=4, color=part.SERIES[j],
                label=f"η = {eta:g}: forward, reverse")
  axes.loglog(budgets, many["langevin"], "--", color=part.INK, label="Langevin STEP(0, Λ)")
  _guide(axes, budgets, many["langevin"][-1], 2)
  axes.set(xlabel="budget Λ of a step", ylabel=r"KL($p_\ell$‖law), nats, exact",
           title=f"steps of a total budget {many['total']:g}, ℓ = {many['ell']:g}")
  for axes, sizes in zip(panels, (single["budgets"], single["budgets"], budgets), strict=True):
    axes.legend(frameon=False, fontsize=8)
    axes.minorticks_off()
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
  figure.tight_layout()
  return figure


def _guide(axes, x, start, power):
  """A dotted line of the order that theory says, through the point of the smallest x."""
  x = np.sort(x)
  axes.loglog(x, start * (x / x[0]) ** power, ":", color=part.INK, label=f"slope {power}")


def _draw_parts(single):
  figure, (left, right) = part.plt.subplots(1, 2, figsize=(11.5, 4.4))
  for j, eta in enumerate(single["etas"]):
    d = np.array(single["budgets"]) / (1.0 + eta**2)
    left.loglog(d, single["reverse"][-1][j], marker="o", ms=4, color=part.SERIES[j],
                label=f"reverse, η = {eta:g}")
  for j, eta in enumerate(single["etas"]):
    d = np.array(single["budgets"]) / (1.0 + eta**2)
    # Rounding may end in 0, which a logarithm has no place for.
    left.loglog(d, np.maximum(np.abs(single["forward"][-1][j]), 1e-18), marker="s", ms=4, ls="",
                color=part.GREY, label="forward (rounding)" if j == 0 else None)
  left.set(xlabel="step d in ℓ", ylabel="KL from the exact density, nats",
           title=f"each step alone, ℓ = {single['ells'][-1]:g}")
  left.legend(frameon=False, fontsize=8)
  shown = {name: np.array(value) for name, value in single["shown"].items()}
  for name, label, colour, style in (
      ("before", r"$p_\ell$", part.INK, "-"), ("forward", "after a forward step", part.THIRD, "-"),
      ("after", "after forward and reverse", part.ACCENT, "--")):
    right.plot(shown["x"], shown[name], style, color=colour, label=label)
  right.set(xlabel="x (unit scale)", ylabel="density", xlim=(-4.0, 4.0),
            title=f"ℓ = {single['ells'][-1]:g}, d = {float(shown['d']):g}, η = 1")
  right.legend(frameon=False)
  figure.tight_layout()
  return figure
