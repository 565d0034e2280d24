"""The loss by step."""

from experiments.report import charts


def figures(data: charts.Data) -> charts.Figures:
  line = charts.Line(data["loss_steps"], data["loss"], style="-")
  return {"loss": charts.draw([charts.Panel([line], "step", "loss")], size=(6.0, 3.2))}
