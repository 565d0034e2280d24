"""KL decay, DSM and SM, residuals, and the rates at which powers of p move."""

import matplotlib
import numpy as np

from experiments.paper.appendix.claims import LONG, TOLERANCE
from experiments.paper.claim import number
from experiments.report import charts


def figures(data: charts.Data) -> charts.Figures:
  return {"decay": _decay(data["decay"]), "matching": _matching(data["matching"]),
          "residuals": _residuals(data), "stationary": _stationary(data["stationary"])}


def _decay(data):
  panels = [_tangents(name, found, colour)
            for colour, (name, found) in enumerate(data["paths"].items())]
  rates = [charts.Line(data["half_log_snr"], rate, LONG[name], style=style, colour=colour,
                       options={"lw": width, "alpha": 0.45 if style == "-" else 1.0})
           for colour, (width, style, (name, rate)) in enumerate(zip(
               (5, 2.5, 1.2), ("-", "--", ":"), data["rate"].items(), strict=True))]
  return charts.draw([*panels, charts.Panel(rates, charts.LOG_SNR, "d KL/dℓ, nats", "in ℓ")],
                     size=(14, 3.7))


def _tangents(name, found, colour):
  """KL along one path, with short lines of the slope of eq. 17."""
  straight = name == "RF"
  marks = [charts.Line(found["t"], found["kl"], "KL(pₜ‖qₜ)", style="-", colour=colour,
                       options={"lw": 4, "alpha": 0.35})]
  for i, (t, kl, slope) in enumerate(found["tangents"]):
    # A straight line in t is bent where the axis is logarithmic.
    near = (t + min(0.05, 0.4 * t) * np.array([-1.0, 1.0]) if straight else
            t * np.linspace(0.75, 1.3, 20))
    near = near[near <= found["t_max"]]
    marks.append(charts.Line(near, kl + slope * (near - t), None if i else "slope of eq. 17",
                             style="-", colour=charts.INK))
  top = max(found["kl"])
  return charts.Panel(
      marks, {"VP": "time t", "VE": "time σ", "RF": "time s"}[name], "KL(pₜ‖qₜ), nats", LONG[name],
      log="" if straight else "x", settings={"ylim": (-0.05 * top, 1.1 * top)})


def _matching(data):
  ell, drawn = data["half_log_snr"], data["drawn"]
  left, right = [], []
  for i, name in enumerate(data["models"]):
    dsm, sm = data["dsm"][i], data["sm"][i]
    shown = sm > 1e-5
    left += [charts.Line(ell, dsm, name, style="-", colour=i),
             charts.Line(ell[shown], sm[shown], style="--", colour=i, options={"lw": 1.0}),
             charts.Line(drawn["half_log_snr"], drawn["loss"][i], error=2.0 * drawn["error"][i],
                         style="o", colour=i, options={"ms": 3})]
    right.append(charts.Line(ell, dsm - sm, name, style="osD^v"[i % 5], colour=i,
                             options={"ms": 13 - 2.4 * i, "mfc": "none"}))
  right.append(charts.Line(ell, data["constant"], "C = mmse/ρ²", style="-", colour=charts.INK))
  keys = [charts.Line([], [], "SM (0 for the exact score)", style="--", colour=charts.INK),
          charts.Line([], [], "training loss on samples", style="o", colour=charts.INK)]
  return charts.draw([
      charts.Panel([*left, *keys], charts.LOG_SNR, "loss, in units of ε", "DSM and SM", log="y"),
      charts.Panel(right, charts.LOG_SNR, "difference, in units of ε", "DSM − SM")],
      size=(11.5, 4.3))


def _residuals(data):
  flow, decay, still = data["fokker_planck"], data["decay"], data["stationary"]
  closed = [values for name, values in flow["residual"].items() if name != "from an SDE"]
  series = (
      ("A.1 Langevin dynamics leaves p", still, still["at_one"].max(0)),
      ("A.2 Fokker–Planck, closed forms", flow, np.max(closed, axis=0)),
      ("A.2 Fokker–Planck, path from an SDE", flow, flow["residual"]["from an SDE"]),
      ("A.3 rate of KL", decay, np.max(list(decay["residual"].values()), axis=0)),
      ("A.4 DSM − SM − C", data["matching"], data["matching"]["residual"]))
  lines = [charts.Line(found["half_log_snr"], np.maximum(values, 1e-17), label, colour=i,
                       style="os^Dv"[i] + "-", options={"lw": 0.8})
           for i, (label, found, values) in enumerate(series)]
  return charts.draw([charts.Panel(
      [*lines, charts.Level(TOLERANCE, "tolerance", style=":")], charts.LOG_SNR, "residual",
      log="y", settings={"ylim": (3e-18, 1e-4)}, legend={"ncols": 2})], size=(7.5, 4.3))


def _stationary(data):
  colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, len(data["half_log_snr"])))
  lines = [charts.Line(data["beta"], data["rate"][:, i], f"ℓ = {number(ell)}",
                       colour=tuple(colours[i])) for i, ell in enumerate(data["half_log_snr"])]
  return charts.draw([charts.Panel(
      [charts.SymLog(1e-3), *lines, charts.Level(1.0, style=":", vertical=True)],
      "β of the density π ∝ pᵝ", "∫|∂π/∂τ| dx, per unit of σ²/H",
      settings={"ylim": (-2e-4, 2.0 * data["rate"].max())},
      legend={"title": "noise level", "loc": "lower right"})], size=(6, 3.8))
