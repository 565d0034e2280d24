"""The pictures of question 1, from what was measured alone, with their captions."""

import math

import numpy as np

from experiments.paper import part


def remainder(line: dict) -> np.ndarray:
  """√KL (summed over η) that halving the steps for ever would leave: (schemes, paths).

  By extrapolation in 1/n from the two finest runs, at the worst level, over the finest run's most.
  """
  root = np.sqrt(np.maximum(np.asarray(line["along"]), 0.0).sum(2))
  return np.abs(2.0 * root[..., -1, :] - root[..., -2, :]).max(-1) / root[..., -1, :].max(-1)


def captions(line: dict, plane: dict, first: dict) -> dict[str, str]:
  eta = "η = " + ", ".join(f"{v:g}" for v in line["etas"])
  return {
      "levels": f"KL(p‖q) in nats between the exact density and the law of the reverse process, "
                f"level by level, with {line['shown']} steps from ρ = {line['ends'][0]:g} to "
                f"{line['ends'][1]:g}; every row is a path, and in it from "
                f"top to bottom {eta}. The start is exact, so the left edge has none. "
               "Where a path's own time makes the first steps long, as its noise end does for "
               "large η, they are far from small: of √KL at the worst level extrapolation to no "
               f"step length leaves up to {part.number(float(remainder(line)[1].max()), 2)} "
               f"there, with STEP {part.number(float(remainder(line)[0].max()), 2)} (in units of "
               "the largest √KL of the finest run).",
      "order": "KL at the data's end against the number of steps. The broken line falls as "
               "1/n². VP and VE have one grid, so that under STEP they coincide.",
      "plane": f"Sliced W2 between {plane['n']:,} particles and as many exact draws, at unit scale "
               f"(mean and standard error of {len(plane['broken'])} repeats), with the central 95 "
               "% of distances between exact draws and exact draws in grey. Second-order "
               f"sampler, {plane['steps']} steps; black squares: a D that is a fifth too small.",
      "start": "Left: nats that N(0, σ²I) costs in the place of p_T, by the noise at which the "
               "reverse process starts, and with the data's mean and variance put in. Right: what "
               f"becomes of it on the way down from ρ = {first['from']:g}; dotted, what the "
               f"{first['steps']} steps cost from the exact start."}


def figures(data: dict) -> dict:
  return {"levels": _levels_figure(data["line"]), "order": _order_figure(data["line"]),
          "plane": _plane_figure(data["plane"]), "start": _start_figure(data["start"])}


def _levels_figure(line: dict):
  kl, ells = np.asarray(line["kl"]), np.asarray(line["half_log_snr"])
  schemes, names, etas = line["schemes"], line["paths"], line["etas"]
  figure, axes = part.plt.subplots(
      1, len(schemes), figsize=(10.0, 6.4), sharey=True, layout="constrained")
  # Six decades below the largest; what is smaller is as good as nothing.
  top = 10.0 ** math.ceil(math.log10(kl.max()))
  norm = part.matplotlib.colors.LogNorm(1e-6 * top, top)
  each = len(etas) + 1  # one empty row between paths
  for s, (axis, scheme) in enumerate(zip(axes, schemes, strict=True)):
    for p in range(len(names)):
      middle = 0.5 * (ells[p, 1:] + ells[p, :-1])
      edges = np.concatenate([ells[p, :1], middle, ells[p, -1:]])
      rows = each * p + np.arange(len(etas) + 1)
      mesh = axis.pcolormesh(edges, rows, np.maximum(kl[s, p], 1e-6 * top), norm=norm,
                             cmap="magma_r", rasterized=True)
    axis.set(xlabel="half log-SNR ℓ  (noise → data)", title=scheme,
             yticks=each * np.arange(len(names)) + 0.5 * len(etas), yticklabels=names)
    axis.tick_params(left=False)
    for spine in axis.spines.values():
      spine.set_visible(False)
  for e, eta in enumerate(etas):
    axes[-1].text(1.01, each * (len(names) - 1) + e + 0.5, f"η = {eta:g}", fontsize=7,
                  va="center", transform=axes[-1].get_yaxis_transform())
  axes[0].invert_yaxis()  # of both: it is shared
  axes[0].set_ylabel("path, and in it η from top to bottom")
  figure.colorbar(mesh, ax=axes, label="KL(p‖q), nats", pad=0.06)
  return figure


def _order_figure(line: dict):
  end, counts = np.asarray(line["end"]), np.asarray(line["counts"])
  schemes, names, etas = line["schemes"], line["paths"], line["etas"]
  figure, axes = part.plt.subplots(
      len(schemes), len(etas), figsize=(10.0, 5.6), sharex=True, sharey=True, layout="constrained")
  colours = (*part.SERIES, part.GREY)
  for s, scheme in enumerate(schemes):
    for e, eta in enumerate(etas):
      axis = axes[s, e]
      for p, name in enumerate(names):
        axis.plot(counts, end[s, p, e], "o-", ms=3, lw=1.2, color=colours[p], label=name)
      guide = 0.5 * end[s, :, e, 0].min() * (counts[0] / counts) ** 2
      axis.plot(counts, guide, color="black", lw=1, ls="--", label="1/n²")
      axis.set(xscale="log", yscale="log", title=f"{scheme}, η = {eta:g}")
      axis.set_xticks(counts, map(str, counts))
      axis.minorticks_off()
  for axis in axes[:, 0]:
    axis.set_ylabel("KL at the data's end, nats")
  for axis in axes[-1]:
    axis.set_xlabel("steps n")
  axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
  return figure


def _plane_figure(plane: dict):
  value, null = np.asarray(plane["value"]), np.asarray(plane["null"])
  ells = np.asarray(plane["half_log_snr"])
  figure, axes = part.plt.subplots(
      1, len(plane["etas"]), figsize=(11.0, 3.4), sharey=True, layout="constrained")
  colours = (*part.SERIES, part.GREY)
  # The null depends on the level alone, of which all paths and η have the same.
  low, middle, high = np.quantile(null.reshape(-1, null.shape[-1]), [0.025, 0.5, 0.975], axis=0)
  repeats = value.shape[2]
  for e, (axis, eta) in enumerate(zip(axes, plane["etas"], strict=True)):
    axis.fill_between(ells, low, high, color="#dddddd", label="exact against exact, 95 %")
    axis.plot(ells, middle, color=part.GREY, lw=1, label="its median")
    for p, name in enumerate(plane["paths"]):
      axis.errorbar(ells, value[p, e].mean(0), value[p, e].std(0, ddof=1) / repeats**0.5,
                    color=colours[p], lw=0.8, marker="o", ms=2.5, elinewidth=0.8, label=name)
    if eta == 1.0:
      broken = np.asarray(plane["broken"])
      axis.errorbar(ells, broken.mean(0), broken.std(0, ddof=1) / repeats**0.5, color="black",
                    marker="s", ms=3, lw=0.8, ls=":", label="VP, D a fifth too small")
    axis.set(xlabel="half log-SNR ℓ  (noise → data)", title=f"η = {eta:g}", yscale="log")
    axis.yaxis.set_major_locator(part.matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(part.matplotlib.ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(part.matplotlib.ticker.NullFormatter())
  axes[0].set_ylabel("sliced W2 to exact draws, unit scale")
  handles, labels = axes[list(plane["etas"]).index(1.0)].get_legend_handles_labels()
  axes[-1].legend(handles, labels, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0),
                  frameon=False)
  return figure


def _start_figure(first: dict):
  figure, (left, right) = part.plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
  rho = np.asarray(first["rho"])
  floor = 1e-16  # below which the quadrature rounds
  left.plot(rho, np.maximum(first["plain"], floor), "o-", ms=3, color=part.ACCENT,
            label="N(0, σ²I)")
  left.plot(rho, np.maximum(first["moments"], floor), "s-", ms=3, color=part.SECOND,
            label="N(αm, α²S + σ²I)")
  left.set(xscale="log", yscale="log", xlabel="noise-to-signal ratio ρ at the start",
           ylabel="KL($p_T$‖start), nats")
  left.legend(frameon=False)
  ell = np.asarray(first["half_log_snr"])
  for eta, kl, exact, colour in zip(
      first["etas"], first["kl"], first["exact"], part.SERIES, strict=False):
    right.plot(ell, kl, color=colour, label=f"η = {eta:g}")
    right.plot(ell[1:], exact[1:], color=colour, ls=":", lw=1)
  bottom = 1e-3 * first["kl"][0][0]
  right.set(yscale="log", xlabel="half log-SNR ℓ  (noise → data)", ylabel="KL(p‖q), nats",
            ylim=(bottom, 3.0 * max(map(max, first["kl"]))))
  right.legend(frameon=False)
  return figure
