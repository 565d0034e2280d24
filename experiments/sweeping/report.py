"""The report of a sweep, beside table.json and its pictures: what was compared and what came out.

report.md and report.html say the same; the latter is one file, pictures included. Commits are those
at which each arm was trained, of the manifests. For each arm stands the command that trains it by
itself, to the same parameters but for rounding.
"""

import importlib.metadata
import json
import pathlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from experiments import config as config_lib
from experiments.report import page
from experiments.run import records
from experiments.sampling import (
  pictures as plots,  # sets the backend, which must come before pyplot
)
from experiments.sampling import samplers_from_config
from experiments.sweeping import arms, canonical, measures, plan, results

import matplotlib.pyplot as plt  # isort: skip

_VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy")


def write(
    workdir: pathlib.Path, whole: plan.Plan, table: Mapping[str, Any], command: Sequence[str],
    file: str,
) -> None:
  """table.json, report.md, report.html and a picture for every metric measured along a budget.

  Args:
    command: of the sweep. file: its --config.
  """
  records.write_text(workdir / "table.json", json.dumps(table, indent=2, ensure_ascii=False) + "\n")
  text = _markdown(workdir, whole, table, command, file)
  records.write_text(workdir / "report.md", text)
  records.write_text(workdir / "report.html", page.html(
      "page.html.j2", title="Sweep", text=page.markup(text, lambda name: workdir / name)))


def rows(table: Mapping[str, Any]) -> list[list[str]]:
  """Head and rows of the table: mean ± half of the 95 % interval, and beside it minus the baseline.

  The baseline's name is **bold**.
  """
  alike = _alike(table)
  metrics = [metric for metric in results.metrics_of(table) if metric not in alike]
  calls = len({row["network calls"] for row in table["arms"]}) > 1
  # Arms that share one model all take as long: nothing to compare.
  steps = len({_steps(row[results.STEPS]) for row in table["arms"]}) > 1
  head = ["arm", *([measures.CALLS] if calls else [])]
  for metric in metrics:
    head += [metric, "minus baseline"]
  lines = [head + [results.STEPS] * steps]
  for row in table["arms"]:
    name = page.literal(row["arm"])
    name = f"**{name}**" if row["arm"] == table["baseline"] else name
    cells = [name, *([f"{row['network calls']:g}" if row["network calls"] else ""]
                     if calls else [])]
    for metric in metrics:
      value = row["metrics"].get(metric)
      if value is None:
        cells += ["failed", ""]
        continue
      cells.append(_number(value["mean"], value["half"]) + _share(value, table))
      difference = value["minus baseline"]
      cells.append("" if difference is None or row["arm"] == table["baseline"] else
                   _number(difference["mean"], difference["half"], signed=True))
    lines.append(cells + [_steps(row[results.STEPS])] * steps)
  floors = [f"{table['floors'][metric]:.4g}" if metric in table["floors"] else ""
            for metric in metrics]
  if any(floors):
    cells = ["real data", *([""] if calls else [])]
    for floor in floors:
      cells += [floor, ""]
    lines.append(cells + [""] * steps)
  return lines


def _steps(value: Mapping[str, Any] | None) -> str:
  """A mean where every seed was there, else what it is at least, and how many were."""
  if value is None:
    return ""
  if value["mean"] is None:
    return f"≥ {value['at least']:.4g} ({value['n']} of {value['of']} seeds)"
  return _number(value["mean"], value["half"])


def _alike(table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Metrics that do not tell arms apart: those of the model, where all arms share one."""
  every = {metric: [row["metrics"].get(metric) for row in table["arms"]]
           for metric in results.metrics_of(table)}
  return {metric: values[0] for metric, values in every.items() if len(values) > 1 and all(
      value is not None and value["by seed"] == values[0]["by seed"] for value in values)}


def _markdown(workdir, whole, table, command, file) -> str:
  """report.md: templates/sweep.md.j2, filled."""
  base, seeds = whole.base, ", ".join(map(str, table["seeds"]))
  changes = lambda over: page.literal(", ".join(f"{k}={v}" for k, v in over.items()) or "none")
  return str(page.fill(
      "sweep.md.j2", command=shlex.join(command), commits=_commits(workdir, whole),
      python=platform.python_version(), base=base, seeds=seeds, table=table,
      versions={name: importlib.metadata.version(name) for name in _VERSIONS},
      meaning=_meaning(base, table), rows=rows(table),
      alike={metric: _number(value["mean"], value["half"])
             for metric, value in _alike(table).items()},
      failed=[f"{row['arm']}, seed {seed}: {error}" for row in table["arms"]
              for seed, error in row["errors"].items()],
      same=canonical.sentences(whole.findings), pictures=_pictures(workdir, whole, table),
      arms=[["arm", "overrides"]] + [
          [page.literal(arm), changes(over)]
          for arm, over in whole.sweep.arms.items()],
      alone=[shlex.join(alone(config, file, arm, table["seeds"][0]))
             for arm, config in whole.configs.items()]))


def alone(config: config_lib.Config, file: str, arm: str, seed: int) -> list[str]:
  """The command that trains an arm and seed by itself: what differs from the --config `file`."""
  changes = config_lib.overrides(config_lib.load(file), config)
  return ["python", "-m", "experiments.train", f"--config={file}",
          *(f"--config.{name}={value}" for name, value in changes.items() if name != "seed"),
          f"--config.seed={seed}", f"--workdir=runs/alone/{arms.directory(arm)}/seed_{seed}"]


def _commits(workdir: pathlib.Path, whole: plan.Plan) -> str:
  """At which commits the arms were trained, and where it is another one, that of the report."""
  trained: dict[str, list[str]] = {}
  for arm in whole.configs:
    for seed in whole.sweep.seeds:
      place = plan.place(workdir, arm, seed)
      if (place / "manifest.json").exists():
        commit = records.read_manifest(place).get("commit") or "unknown"
        trained.setdefault(page.literal(commit), []).append(f"{page.literal(arm)}, seed {seed}")
  now = records.commit() or "unknown"
  if len(trained) == 1:
    said = f"All trained at commit {next(iter(trained))}"
  else:
    said = "; ".join(f"trained at commit {commit}: {'; '.join(names)}"
                     for commit, names in trained.items()) or "None trained"
  return f"{said}." if list(trained) == [now] else f"{said}. Reported at commit {now}."


def _meaning(base, table) -> str:
  exact = ", less that of the exact score (0 is perfect)" if base.data.name == "mixture2d" else ""
  images = (" FID is of samples to training images, beside that of as many held-out images to them."
            if measures.FID in table["floors"] else "")
  rho_min, rho_max = arms.level_ends(base)
  return (f"“{measures.LOSS}” is ∫E‖ε − ε̂‖² dℓ over ρ from {rho_min:g} to {rho_max:g}, "
          f"in nats{exact}{_draws(table)}. {measures.DISTANCE} and "
          f"{measures.ENERGY} are of samples to held-out data in standard units, beside those of "
          f"as many training data; a seed is also that of samples.{images} “{results.STEPS}” are "
          "counted within each seed, by what was measured; ≥ is a mean in which seeds that never "
          "got there count with all their steps.")


def _draws(table) -> str:
  """Of how many examples the held-out loss is, and its own error, which intervals do not have."""
  of = table["held out"]
  if not of:
    return ""
  return (f"; it is of {of['examples']} held-out examples in {of['draws']} draws, the same for "
          f"every arm and seed, with a standard error of its own of at most "
          f"{of['standard error']:.2g}, most of which differences of arms do not have")


def _pictures(workdir, whole, table) -> list[str]:
  """One picture for each metric along training steps, or, of sampling, along network calls."""
  made = []
  for metric, file in ((measures.LOSS, "loss"), (measures.DISTANCE, "distance")):
    curves = _training_curves(table, metric)
    name = f"{file}_by_steps.png"
    if curves:
      _draw(workdir / name, curves, "training steps", metric, None)
      made.append(name)
  curves = _sampling_curves(whole, table)
  if curves:
    _draw(workdir / "distance_by_calls.png", curves, measures.CALLS, measures.DISTANCE,
          table["floors"].get(measures.DISTANCE))
    made.append("distance_by_calls.png")
  return made


def _training_curves(table, metric) -> dict[str, list[tuple[float, results.Interval]]]:
  curves = {}
  for row in table["arms"]:
    if row["model"] != row["arm"]:
      continue
    by_step: dict[int, list[float]] = {}
    for points in row["points"].values():
      for point in points:
        if metric in point:
          by_step.setdefault(point["step"], []).append(point[metric])
    if by_step:
      curves[row["arm"]] = [(step, results.interval(v)) for step, v in sorted(by_step.items())]
  return curves


def _sampling_curves(whole, table) -> dict[str, list[tuple[float, results.Interval]]]:
  """Arms that share a model and differ in the number of steps: a curve for each of the rest."""
  shared = {model for arm, model in whole.model_of.items() if arm != model}
  curves: dict[str, list] = {}
  for row in table["arms"]:
    config = whole.configs[row["arm"]].sampling
    value = row["metrics"].get(measures.DISTANCE)
    if row["model"] not in shared or value is None:
      continue
    words = {k.removeprefix("sampling."): v for k, v in row["overrides"].items()
             if k != "sampling.grid.n" and not k.startswith("sampling.sampler")}
    name = ", ".join([samplers_from_config.title(config),
                      *(f"{k}={v}" for k, v in words.items())])
    curves.setdefault(name, []).append(
        (row["network calls"], results.Interval(value["mean"], value["half"], value["n"])))
  return {name: sorted(points) for name, points in curves.items()}


def _draw(file, curves, xlabel, ylabel, floor) -> None:
  figure, axes = plt.subplots(figsize=(7.5, 4.5))
  colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(curves)))
  styles = ("-", "--", ":", "-.")
  for i, (name, points) in enumerate(curves.items()):
    x = [point[0] for point in points]
    mean = np.array([value.mean for _, value in points])
    half = np.array([value.half or 0.0 for _, value in points])
    # No formula; and a legend leaves out what begins with an underscore.
    label = "\u200b" * name.startswith("_") + name.replace("$", r"\$")
    axes.errorbar(x, mean, half, ls=styles[i % 4], color=colours[i], label=label, lw=1.4,
                  marker="o", ms=3, elinewidth=0.5)
  if floor is not None:
    axes.axhline(floor, color=plots.INK, lw=0.8, ls=":", label="real data")
  every = [value.mean for points in curves.values() for _, value in points]
  if min(every) > 0.0:
    axes.set_yscale("log")
    axes.set_ylim(0.8 * min(every + ([floor] if floor else [])), 1.25 * max(every))
  if xlabel == measures.CALLS:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
  axes.set(xlabel=xlabel, ylabel=ylabel)
  axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
  figure.savefig(file, dpi=90, bbox_inches="tight")
  plt.close(figure)


def _share(value: Mapping[str, Any], table: Mapping[str, Any]) -> str:
  """" (2/3)" where only so many of the seeds have a value."""
  seeds = len(table["seeds"])
  return "" if value["n"] == seeds else f" ({value['n']}/{seeds})"


def _number(mean: float, half: float | None, *, signed: bool = False) -> str:
  """Digits down to the second of the half-width."""
  if half is None or not half > 0.0:
    return f"{mean:{'+' if signed else ''}.4g}"
  digits = max(0, 1 - int(np.floor(np.log10(half))))
  return f"{mean:{'+' if signed else ''}.{digits}f} ± {half:.{digits}f}"
