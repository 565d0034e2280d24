"""The pictures of Figure 1's part, from its data alone."""

import numpy as np

from experiments.paper import part, plane


def figures(data: dict) -> dict:
  return {"identity": _draw_identity(data["cloud"]), "distance": _draw_distance(data),
          "independence": _draw_independence(data["independence"])}


def _draw_identity(cloud):
  figure, panels = part.plt.subplots(1, 3, figsize=(13, 4.6), sharex=True, sharey=True)
  before, after = np.array(cloud["before"]), np.array(cloud["after"])
  for axes, points, title, colour in (
      (panels[0], before, "before: x ~ p", part.SECOND),
      (panels[1], after, f"after {cloud['steps']} Langevin steps: x′ ~ p", part.ACCENT)):
    plane.draw_contours(axes, cloud["contours"])
    axes.scatter(*points.T, s=3, color=colour, alpha=0.55, lw=0)
    axes.set_title(title)
  plane.draw_contours(panels[2], cloud["contours"])
  few = slice(0, 24)
  for a, b in zip(before[few], after[few], strict=True):
    panels[2].plot(*np.stack([a, b]).T, color=part.GREY, lw=0.9, zorder=2)
  panels[2].scatter(*before[few].T, s=26, facecolor="white", edgecolor=part.SECOND, zorder=3,
                    label="start x")
  panels[2].scatter(*after[few].T, s=20, color=part.ACCENT, zorder=3, label="end x′")
  panels[2].legend(loc="upper right", framealpha=0.9)
  panels[2].set_title("the same particles, start and end joined")
  for axes in panels:
    axes.set(aspect="equal", xlabel="first coordinate (unit scale)")
  panels[0].set_ylabel("second coordinate (unit scale)")
  figure.tight_layout()
  return figure


def _draw_distance(data):
  line, particles = data["line"], data["plane"]
  figure, ((left, middle), (right, last)) = part.plt.subplots(2, 2, figsize=(11, 8.2))
  budgets = np.array(line["budgets"])
  for name, label, colour, marker in (
      ("euler", "Euler step", part.ACCENT, "o"), ("exact", "STEP(0, Λ)", part.SECOND, "s")):
    left.loglog(budgets, line["total"][name], marker=marker, color=colour, label=label)
  guide = line["total"]["exact"][-1] * (budgets / budgets[-1]) ** 2
  left.loglog(budgets, guide, ls=":", color=part.INK, label="slope 2")
  left.set(xlabel="step size Λ = δ/σ²", ylabel="KL(p‖law), nats, exact")
  left.legend(frameon=False)
  for i, kl in enumerate(line["euler"]):
    middle.loglog(line["steps"], kl, marker="o", ms=4, color=part.plt.cm.viridis(i / len(budgets)),
                  label=f"Λ = {part.number(budgets[i], 2)}")
  middle.set(xlabel="steps n", ylabel="KL(p‖law after n steps), nats, exact")
  # Room above the curves, which fill the rest.
  middle.set_ylim(top=1e3 * np.max(line["euler"]))
  middle.legend(frameon=False, fontsize=8, ncol=3, loc="upper left")
  null, spread = particles["null"], particles["null_spread"]
  right.axhspan(null - 2 * spread, null + 2 * spread, color="#dddddd", label="null band")
  for i, (name, found) in enumerate(particles["methods"].items()):
    # Side by side, so that bars do not hide each other.
    right.errorbar(np.array(particles["budgets"]) * 1.03 ** (i - 2), found["distance"],
                   yerr=found["error"], marker="o", ms=4, capsize=2, color=part.SERIES[i],
                   label=name)
  right.set(xscale="log", xlabel="step size Λ = δ/σ²",
            ylabel="sliced W₂ to fresh draws (unit scale)")
  right.set_xticks(particles["budgets"], [part.number(b, 2) for b in particles["budgets"]])
  last.axhspan(null - 2 * spread, null + 2 * spread, color="#dddddd", label="null band")
  walked = particles["by_steps"]
  for i, (budget, distance, error) in enumerate(zip(
      walked["budgets"], walked["distance"], walked["error"], strict=True)):
    last.errorbar(np.array(walked["steps"]) * 1.03 ** (2 * i - 1), distance, yerr=error, marker="o",
                  ms=4, capsize=2, color=part.SERIES[i],
                  label=f"euler, Λ = {part.number(budget, 2)}")
  last.set(xscale="log", xlabel="steps n", ylabel="sliced W₂ to fresh draws (unit scale)")
  last.set_xticks(walked["steps"], [str(n) for n in walked["steps"]])
  for axes in (right, last):
    axes.minorticks_off()
    # Room for the legend above the band.
    axes.set_ylim(0.0, 1.35 * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=8, ncol=2, loc="upper left")
  figure.tight_layout()
  return figure


def _draw_independence(found):
  figure, (left, right) = part.plt.subplots(1, 2, figsize=(11, 4.3))
  times = np.array(found["times"])
  fine = np.geomspace(times[0], times[-1], 200)
  left.semilogx(fine, np.exp(-fine), color=part.INK, lw=1,
                label=r"Gaussian: $e^{-\tau/\mathrm{Var}}$")
  left.errorbar(times, found["gaussian"], yerr=found["gaussian_error"], fmt="o", ms=4, capsize=2,
                color=part.INK, label="Gaussian, measured")
  left.semilogx(found["line_time"], found["line"], color=part.SECOND,
                label="density on the line, by quadrature")
  left.errorbar(found["plane_time"], found["plane"], yerr=found["plane_error"], fmt="s-", ms=4,
                capsize=2, color=part.ACCENT, label="density in the plane, measured")
  left.axhline(0.0, color=part.GREY, lw=0.8, ls=":")
  left.set(xlabel="Langevin time τ (data variance 1)", ylabel="correlation of start and end")
  left.legend(frameon=False, fontsize=8)
  right.errorbar(found["plane_time"], found["crossed"], yerr=found["crossed_error"], fmt="s-",
                 ms=4, capsize=2, color=part.ACCENT, label="after Langevin time τ")
  right.axhline(found["crossed_independent"], color=part.INK, ls=":", label="independent draws")
  right.set(xscale="log", xlabel="Langevin time τ (data variance 1)", ylim=(-0.02, None),
            ylabel="share of particles in another component")
  right.legend(frameon=False)
  figure.tight_layout()
  return figure
