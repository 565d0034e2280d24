"""Pictures of a sweep: metrics over training steps, and over network calls of a sampler."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np

from experiments.run import records
from experiments.sampling import (
  pictures as plots,  # sets the backend, which must come before pyplot
)
from experiments.sampling import samplers_from_config
from experiments.sweeping import layouts, measures, results

import matplotlib.pyplot as plt  # isort: skip

# Curves by name, each a list of (x, interval at x) in the order of x.
Curves = Mapping[str, list[tuple[float, results.Interval]]]


def draw(workdir: pathlib.Path, layout: layouts.Layout, table: Mapping[str, Any]) -> list[str]:
  """Draws the pictures for which there are values. Returns their names in `workdir`."""
  floors = table["floors"]
  distance = measures.NGRAM if measures.NGRAM in floors else measures.DISTANCE
  pictures = {
      "loss_by_steps.png": (_by_steps(table, measures.LOSS), "training steps", measures.LOSS, None),
      "distance_by_steps.png": (_by_steps(table, distance), "training steps", distance, None),
      "distance_by_calls.png": (_by_calls(layout, table, distance), measures.CALLS, distance,
                                floors.get(distance))}
  pictures = {name: arguments for name, arguments in pictures.items() if arguments[0]}
  for name, arguments in pictures.items():
    picture(workdir / name, *arguments)
  return list(pictures)


def _by_steps(table: Mapping[str, Any], metric: str) -> Curves:
  """A curve for each model: the metric over training steps."""
  curves = {}
  for row in table["arms"]:
    by_step: dict[int, list[float]] = {}
    for point in (point for points in row["points"].values() for point in points):
      if metric in point and row["model"] == row["arm"]:
        by_step.setdefault(point["step"], []).append(point[metric])
    if by_step:
      curves[row["arm"]] = [(step, results.interval(v)) for step, v in sorted(by_step.items())]
  return curves


def _by_calls(layout: layouts.Layout, table: Mapping[str, Any], metric: str) -> Curves:
  """A curve for each sampler, over its numbers of steps, if arms share a model."""
  shared = {model for arm, model in layout.model_of.items() if arm != model}
  curves: dict[str, list] = {}
  for row in table["arms"]:
    value = row["metrics"].get(metric)
    if row["model"] in shared and value is not None:
      others = [f"{field.removeprefix('sampling.')}={v}" for field, v in row["overrides"].items()
                if field != "sampling.grid.n" and not field.startswith("sampling.sampler")]
      title = samplers_from_config.title(layout.configs[row["arm"]].sampling)
      curves.setdefault(", ".join([title, *others]), []).append(
          (row["network calls"], results.Interval(value["mean"], value["half"], value["n"])))
  return {name: sorted(points) for name, points in curves.items()}


def picture(
    file: pathlib.Path, curves: Curves, xlabel: str, ylabel: str, floor: float | None
) -> None:
  """Draws the curves into `file`, with a line at `floor`."""
  figure, axes = plt.subplots(figsize=(7.5, 4.5))
  colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(curves)))
  for i, (name, points) in enumerate(curves.items()):
    # $ would begin a formula, and a legend omits labels that begin with an underscore.
    label = "\u200b" * name.startswith("_") + name.replace("$", r"\$")
    axes.errorbar([x for x, _ in points], [value.mean for _, value in points],
                  [value.half or 0.0 for _, value in points], ls=("-", "--", ":", "-.")[i % 4],
                  color=colours[i], label=label, lw=1.4, marker="o", ms=3, elinewidth=0.5)
  if floor is not None:
    axes.axhline(floor, color=plots.INK, lw=0.8, ls=":", label="real data")
  means = [value.mean for points in curves.values() for _, value in points]
  if min(means) > 0.0:
    axes.set_yscale("log")
    axes.set_ylim(0.8 * min(means + ([floor] if floor else [])), 1.25 * max(means))
  if xlabel == measures.CALLS:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
  axes.set(xlabel=xlabel, ylabel=ylabel)
  axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
  with records.written(file) as stream:
    figure.savefig(stream, dpi=90, bbox_inches="tight", format="png")
  plt.close(figure)
