"""The pictures of the appendix, from its data alone."""

from typing import Any

import numpy as np

from experiments.paper import part

LONG = {"VP": "VP", "VE": "VE-Karras", "RF": "rectified flow"}
CAPTIONS = {
    "decay":
        "KL(p_t‖q_t) along three forward processes, with short lines of the slope that eq. 17 "
        "gives, −½ g² E‖s_p − s_q‖². Last: per unit of the half log-SNR ℓ the three have one rate.",
    "matching":
        "Left: DSM (lines) and SM (dashed) of five models of the score by noise level, in units of "
        "ε; points are the library's training loss on samples, with error bars of two standard "
        "errors. Right: for every model the difference DSM − SM lies on one curve, mmse/ρ².",
    "residuals":
        "What is left of the appendix's equations, by noise level: the largest over paths, models "
        "or clocks. Dotted: the tolerance for sums over a grid.",
    "stationary":
        "The rate at which Langevin dynamics of p moves a density proportional to p^β, in units of "
        "the clock. It rests at β = 1 and nowhere else.",
}


def figures(data: dict[str, Any]) -> dict[str, Any]:
  return {"decay": _draw_decay(data["decay"]), "matching": _draw_matching(data["matching"]),
          "residuals": _draw_residuals(data), "stationary": _draw_stationary(data["stationary"])}


def _draw_decay(data):
  figure, (*panels, last) = part.plt.subplots(1, 4, figsize=(14, 3.7), layout="constrained")
  colours = dict(zip(data["paths"], part.SERIES, strict=False))
  for axes, (name, found) in zip(panels, data["paths"].items(), strict=True):
    axes.plot(found["t"], found["kl"], color=colours[name], lw=4, alpha=0.35, label="KL(pₜ‖qₜ)")
    for i, (t, kl, slope) in enumerate(found["tangents"]):
      # A straight line in t is bent where the axis is logarithmic.
      near = (t + min(0.05, 0.4 * t) * np.array([-1.0, 1.0]) if name == "RF" else
              t * np.linspace(0.75, 1.3, 20))
      near = near[near <= found["t_max"]]
      axes.plot(near, kl + slope * (near - t), color=part.INK, lw=1.2,
                label="slope of eq. 17" if i == 0 else None)
    axes.set(xscale="linear" if name == "RF" else "log", title=LONG[name], ylabel="KL(pₜ‖qₜ), nats",
             xlabel={"VP": "time t", "VE": "time σ", "RF": "time s"}[name])
    axes.set_ylim(-0.05 * max(found["kl"]), 1.1 * max(found["kl"]))
    axes.legend(frameon=False, fontsize=8)
  for width, dash, (name, rate) in zip((5, 2.5, 1.2), ("-", "--", ":"), data["rate"].items(),
                                       strict=True):
    last.plot(data["half_log_snr"], rate, dash, lw=width, color=colours[name],
              alpha=0.45 if dash == "-" else 1.0, label=LONG[name])
  last.set(xlabel="half log-SNR ℓ   (noise ← → data)", ylabel="d KL/dℓ, nats", title="in ℓ")
  last.legend(frameon=False, fontsize=8)
  return figure


def _draw_matching(data):
  figure, (left, right) = part.plt.subplots(1, 2, figsize=(11.5, 4.3), layout="constrained")
  ell, drawn = data["half_log_snr"], data["drawn"]
  markers = "osD^v"
  for i, (name, colour) in enumerate(zip(data["models"], part.SERIES, strict=False)):
    dsm, sm = np.asarray(data["dsm"][i]), np.asarray(data["sm"][i])
    left.plot(ell, dsm, color=colour, lw=1.5, label=name)
    shown = sm > 1e-5
    left.plot(np.asarray(ell)[shown], sm[shown], "--", color=colour, lw=1.0)
    left.errorbar(drawn["half_log_snr"], drawn["loss"][i], 2.0 * np.asarray(drawn["error"][i]),
                  fmt="o", ms=3, capsize=2, color=colour)
    right.plot(ell, dsm - sm, markers[i % 5], ms=13 - 2.4 * i, mfc="none", color=colour,
               label=name)
  right.plot(ell, data["constant"], color=part.INK, lw=1.0, label="C = mmse/ρ²")
  left.plot([], [], "--", color=part.INK, lw=1.0, label="SM (0 for the exact score)")
  left.plot([], [], "o", ms=3, color=part.INK, label="training loss on samples")
  left.set(yscale="log", xlabel="half log-SNR ℓ   (noise ← → data)", ylabel="loss, in units of ε",
           title="DSM and SM")
  right.set(xlabel="half log-SNR ℓ   (noise ← → data)", ylabel="difference, in units of ε",
            title="DSM − SM")
  left.legend(frameon=False, fontsize=8)
  right.legend(frameon=False, fontsize=8)
  return figure


def _draw_residuals(data):
  figure, axes = part.plt.subplots(figsize=(7.5, 4.3), layout="constrained")
  flow, decay = data["fokker_planck"], data["decay"]
  closed = [value for name, value in flow["residual"].items() if name != "from an SDE"]
  series = (
      ("A.1 Langevin dynamics leaves p", data["stationary"]["half_log_snr"],
       np.max(data["stationary"]["at_one"], axis=0)),
      ("A.2 Fokker–Planck, closed forms", flow["half_log_snr"], np.max(closed, axis=0)),
      ("A.2 Fokker–Planck, path from an SDE", flow["half_log_snr"],
       flow["residual"]["from an SDE"]),
      ("A.3 rate of KL", decay["half_log_snr"], np.max(list(decay["residual"].values()), axis=0)),
      ("A.4 DSM − SM − C", data["matching"]["half_log_snr"], data["matching"]["residual"]))
  for (label, ell, value), colour, marker in zip(series, part.SERIES, "os^Dv", strict=False):
    axes.plot(ell, np.maximum(value, 1e-17), marker + "-", ms=4, lw=0.8, color=colour, label=label)
  axes.axhline(flow["tolerance"], color=part.INK, lw=0.8, ls=":", label="tolerance")
  axes.set(yscale="log", xlabel="half log-SNR ℓ   (noise ← → data)", ylabel="residual",
           ylim=(3e-18, 1e-4))
  axes.legend(frameon=False, fontsize=8, ncols=2)
  return figure


def _draw_stationary(data):
  figure, axes = part.plt.subplots(figsize=(6, 3.8), layout="constrained")
  colours = part.plt.cm.viridis(np.linspace(0.1, 0.85, len(data["half_log_snr"])))
  for i, (ell, colour) in enumerate(zip(data["half_log_snr"], colours, strict=True)):
    axes.plot(data["beta"], [row[i] for row in data["rate"]], "o-", ms=4, color=colour,
              label=f"ℓ = {part.number(ell)}")
  axes.axvline(1.0, color=part.INK, lw=0.8, ls=":")
  axes.set(xlabel="β of the density π ∝ pᵝ", ylabel="∫|∂π/∂τ| dx, per unit of σ²/H")
  axes.set_yscale("symlog", linthresh=1e-3)
  axes.set_ylim(-2e-4, 2.0 * np.max(data["rate"]))
  axes.legend(frameon=False, fontsize=8, title="noise level", loc="lower right")
  return figure
