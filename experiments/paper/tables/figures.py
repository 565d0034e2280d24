"""Rectified flow's coefficients towards its noisy end, and the numbers of the step across it."""

from experiments.report import charts


def figures(data: charts.Data) -> charts.Figures:
  ends = data["ends"]
  lines = lambda labels: [
      charts.Line(ends["left"], ends[key], label, style="-", colour=i)
      for i, (key, label) in enumerate(labels.items())]
  towards = {"xlim": (ends["left"].max(), ends["left"].min())}
  left = charts.Panel(
      lines({"f": "|f|, drift of Table 1 (and factor of r in v)",
             "g_squared": "g², noise of Table 1"}),
      "time left to pure noise, 1 − s", "size of the coefficient", "the forward SDE", log="xy",
      settings=towards)
  right = charts.Panel(
      lines({"a": "a, of the state x", "b": "b, of the denoised D", "c": "c, of fresh noise ξ"}),
      "time left to pure noise, 1 − s", "weight in the step to s′ = 0.9 s",
      "the finite step from s to s′, η = 1", log="x", settings=towards | {"ylim": (-0.05, 1.05)})
  return {"ends": charts.draw([left, right], size=(9.0, 3.4))}
