"""The three measures by level."""

from typing import Any

from experiments.paper.questions.certificate import claims
from experiments.report import charts


def figures(data: charts.Data) -> charts.Figures:
  kinds = [kind for kind in ("sound", "hurt") if kind in data]
  panels = [row(data, kind) for row in (_distances, _errors) for kind in kinds]
  return {"levels": charts.draw(panels, size=(6.0 * len(kinds), 6.0), columns=len(kinds),
                                share="x row")}


def _distances(data: charts.Data, kind: str) -> charts.Panel:
  found, ells = data[kind], data["half_log_snr"][1:]
  marks = [charts.Band(found["low"], found["high"], "data to data, range", x=ells),
           charts.Line(ells, found["null"], "its mean", style="-", colour=charts.GREY)]
  for name, colour, style, label in (("marginal", 1, "o-", "marginal: from noise"),
                                     ("local", 0, "s-", "local: from the interval's start")):
    marks.append(charts.Line(ells, found[name], label, found[f"{name}_error"], style, colour))
  return charts.Panel(
      [*_broken(data, kind), *marks], ylabel="sliced W2, unit scale", log="y",
      title="the network" if kind == "sound" else "damaged on purpose")


def _errors(data: charts.Data, kind: str) -> charts.Panel:
  found, ells = data[kind], data["half_log_snr"]
  middle = 0.5 * (ells[1:] + ells[:-1])
  marks = [charts.Line(middle, found["bound"], "lower bound", found["bound_error"])]
  if "truth" in found:
    marks.append(charts.Line(middle, found["truth"], "true score error", found["truth_error"],
                             "D-", charts.INK))
  return charts.Panel(
      [charts.SymLog(1e-3), *_broken(data, kind), *marks, charts.Level(0.0, colour=charts.GREY)],
      charts.LOG_SNR, "score error, nats an interval")


def _broken(data: charts.Data, kind: str) -> list[Any]:
  """Intervals that break duality by themselves, and where the network was damaged."""
  ells, broken = data["half_log_snr"], claims.stretches(data[kind]["broken"])
  marks = [charts.Band(ells[i], ells[j + 1], None if k else "breaks duality", colour="#f3c9bf",
                       vertical=True)
           for k, (i, j) in enumerate(broken)]
  if kind == "hurt":
    marks += [charts.Level(ells[i], style=":", vertical=True)
              for i in (data["damaged"][0], data["damaged"][-1] + 1)]
  return marks
