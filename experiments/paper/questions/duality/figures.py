"""The pictures of question 1."""

import math

import numpy as np

from experiments.paper.exact import estimates
from experiments.report import charts
from experiments.report.charts import Band, Image, Line, Panel


def figures(data: charts.Data) -> charts.Figures:
  return {"levels": _levels(data["line"]), "order": _order(data["line"]),
          "plane": _plane(data["plane"]), "start": _start(data["start"])}


def _levels(line):
  """KL by level as an image; each path has a row for every η, and an empty one below."""
  kl, ells, etas = line["kl"], line["half_log_snr"], line["etas"]
  each = len(etas) + 1
  # Six decades below the largest; smaller values are negligible.
  top = 10.0 ** math.ceil(math.log10(kl.max()))
  options = {"norm": charts.matplotlib.colors.LogNorm(1e-6 * top, top), "cmap": "magma_r",
             "shading": "flat"}
  panels = []
  for scheme, values in zip(line["schemes"], kl, strict=True):
    images = []
    for p, row in enumerate(values):
      edges = np.concatenate([ells[p, :1], 0.5 * (ells[p, 1:] + ells[p, :-1]), ells[p, -1:]])
      images.append(Image(edges, each * p + np.arange(each), np.maximum(row, 1e-6 * top), options))
    panels.append(Panel(images, charts.LOG_SNR, "" if panels else "path, and in it η from top "
                        "to bottom", scheme, settings={
                            "yticks": each * np.arange(len(kl[0])) + 0.5 * len(etas),
                            "yticklabels": line["paths"]}))
  figure = charts.draw(panels, size=(10.0, 6.4), share="y")
  last = figure.axes[-1]
  last.invert_yaxis()  # of both: it is shared
  for e, eta in enumerate(etas):
    last.text(1.01, each * (len(kl[0]) - 1) + e + 0.5, f"η = {eta:g}", fontsize=7, va="center",
              transform=last.get_yaxis_transform())
  figure.colorbar(last.collections[0], ax=figure.axes, label="KL(p‖q), nats", pad=0.06)
  return figure


def _order(line):
  panels, counts = [], line["counts"]
  for scheme, by_path in zip(line["schemes"], line["end"], strict=True):
    for e, eta in enumerate(line["etas"]):
      panels.append(Panel(
          [*(Line(counts, kl, name, colour=p, options={"ms": 3})
             for p, (name, kl) in enumerate(zip(line["paths"], by_path[:, e], strict=True))),
           Line(counts, 0.5 * by_path[:, e, 0].min() * (counts[0] / counts) ** 2, "1/n²",
                style="--", colour="black")],
          "steps n", "" if e else "KL at the data's end, nats", f"{scheme}, η = {eta:g}", log="xy",
          ticks=counts))
  return charts.draw(panels, size=(10.0, 6.0), columns=len(line["etas"]), share="xy", below=True)


def _plane(plane):
  ells = plane["half_log_snr"]
  # The null depends on the level alone: all paths and η share it.
  low, middle, high = np.quantile(
      plane["null"].reshape(-1, len(ells)), [0.025, 0.5, 0.975], axis=0)
  panels = []
  for e, eta in enumerate(plane["etas"]):
    marks = [Band(low, high, "exact against exact, 95 %", ells),
             Line(ells, middle, "its median", style="-", colour=charts.GREY)]
    for p, name in enumerate(plane["paths"]):
      mean, error = estimates.estimate(plane["value"][p, e])
      marks.append(Line(ells, mean, name, error, colour=p, options={"lw": 0.8, "ms": 2.5}))
    mean, error = estimates.estimate(plane["broken"])
    broken = "VP at η = 1, D a fifth too small"
    marks.append(Line(ells, mean, broken, error, "s:", "black", options={"lw": 0.8, "ms": 3})
                 if eta == 1.0 else Line([], [], broken, style="s:", colour="black"))
    panels.append(Panel(marks, charts.LOG_SNR, "" if e else "sliced W2 to exact draws, unit scale",
                        f"η = {eta:g}", log="y"))
  return charts.draw(panels, size=(11.0, 4.0), share="y", below=True)


def _start(first):
  floor = 1e-16  # rounding of the quadrature
  by_eta = [mark for e, eta in enumerate(first["etas"]) for mark in (
      Line(first["half_log_snr"], first["kl"][e], f"η = {eta:g}", style="-", colour=e),
      Line(first["half_log_snr"][1:], first["exact"][e, 1:], style=":", colour=e))]
  return charts.draw([
      Panel([Line(first["rho"], np.maximum(first["plain"], floor), "N(0, σ²I)"),
             Line(first["rho"], np.maximum(first["moments"], floor), "N(αm, α²S + σ²I)",
                  style="s-", colour=1)],
            "noise-to-signal ratio ρ at the start", "KL($p_T$‖start), nats", log="xy"),
      Panel(by_eta, charts.LOG_SNR, "KL(p‖q), nats", log="y", settings={
          "ylim": (1e-3 * first["kl"][0, 0], 3.0 * first["kl"].max())})], size=(9.5, 3.6))
