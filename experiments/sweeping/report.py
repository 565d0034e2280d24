"""Writes the report of a sweep: table.json, pictures, report.md and report.html.

report.md and report.html have the same content; report.html contains the pictures. Commits are
those in the manifests of the arms. For each arm there is the command of a single run, which gives
the same parameters up to rounding.
"""

import importlib.metadata
import json
import math
import pathlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import config as config_lib
from experiments.report import page
from experiments.run import records
from experiments.sweeping import arms, curves, equivalence, layouts, measures, results

_VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy")


def write(
    workdir: pathlib.Path, layout: layouts.Layout, table: Mapping[str, Any],
    command: Sequence[str], file: str,
) -> None:
  """Writes all files of the report.

  Args:
    table: the result of `results.table`. command: the command of the sweep. file: its --config.
  """
  records.write_text(workdir / "table.json", json.dumps(table, indent=2, ensure_ascii=False) + "\n")
  text = _markdown(workdir, layout, table, command, file)
  records.write_text(workdir / "report.md", text)
  records.write_text(workdir / "report.html", page.html(
      "page.html.j2", title="Sweep", text=page.markup(text, lambda name: workdir / name)))


def rows(table: Mapping[str, Any]) -> list[list[str]]:
  """The rows of the table as texts, the head first.

  A value is mean ± half-width of the 95 % interval. Beside it is the difference from the baseline,
  whose name is **bold**. Columns that are equal for all arms are left out.
  """
  shared = _shared(table)
  metrics = [metric for metric in results.metrics_of(table) if metric not in shared]
  columns = [("arm", [_name(row["arm"], table) for row in table["arms"]], "real data")]
  if len({row["network calls"] for row in table["arms"]}) > 1:
    columns.append((measures.CALLS, [f"{row['network calls']:g}" if row["network calls"] else ""
                                     for row in table["arms"]], ""))
  for metric in metrics:
    floor = table["floors"].get(metric)
    values = [row["metrics"].get(metric) for row in table["arms"]]
    columns.append((metric, ["failed" if value is None else _mean(value, table)
                             for value in values], "" if floor is None else f"{floor:.4g}"))
    columns.append(("minus baseline", [
        "" if row["arm"] == table["baseline"] else _difference(value)
        for row, value in zip(table["arms"], values, strict=True)], ""))
  steps = [_steps(row[results.STEPS]) for row in table["arms"]]
  if len(set(steps)) > 1:
    columns.append((results.STEPS, steps, ""))
  floors = any(metric in table["floors"] for metric in metrics)
  lines = zip(*([head, *cells, last] for head, cells, last in columns), strict=True)
  return [list(line) for line in lines][:None if floors else -1]


def single_run(config: config_lib.Config, file: str, arm: str, seed: int) -> list[str]:
  """The command of a single run of an arm and seed: the --config `file` and its overrides."""
  changes = config_lib.overrides(config_lib.load(file), config)
  return ["python", "-m", "experiments.train", f"--config={file}",
          *(f"--config.{name}={value}" for name, value in changes.items() if name != "seed"),
          f"--config.seed={seed}", f"--workdir=runs/alone/{arms.directory(arm)}/seed_{seed}"]


def _name(arm: str, table: Mapping[str, Any]) -> str:
  """The name of an arm in the table."""
  name = page.literal(arm)
  return f"**{name}**" if arm == table["baseline"] else name


def _mean(value: Mapping[str, Any], table: Mapping[str, Any]) -> str:
  """The interval, with " (2/3)" if only 2 of 3 seeds have a value."""
  seeds = len(table["seeds"])
  return _number(value) + ("" if value["n"] == seeds else f" ({value['n']}/{seeds})")


def _difference(value: Mapping[str, Any] | None) -> str:
  """The interval of the difference from the baseline."""
  difference = value and value["minus baseline"]
  return _number(difference, "+") if difference else ""


def _steps(value: Mapping[str, Any] | None) -> str:
  """The interval if every seed reached the loss; else a lower bound and how many seeds did."""
  if value is None:
    return ""
  if value["mean"] is None:
    return f"≥ {value['at least']:.4g} ({value['n']} of {value['of']} seeds)"
  return _number(value)


def _number(value: Mapping[str, Any], sign: str = "") -> str:
  """mean ± half, with two digits of the half-width."""
  mean, half = value["mean"], value["half"]
  if half is None or not half > 0.0:
    return f"{mean:{sign}.4g}"
  digits = max(0, 1 - math.floor(math.log10(half)))
  return f"{mean:{sign}.{digits}f} ± {half:.{digits}f}"


def _shared(table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Metrics that are equal for all arms, such as the loss if all sample from one model."""
  by_metric = {metric: [row["metrics"].get(metric) for row in table["arms"]]
               for metric in results.metrics_of(table)}
  return {metric: values[0] for metric, values in by_metric.items() if len(values) > 1 and all(
      value is not None and value["by seed"] == values[0]["by seed"] for value in values)}


def _markdown(workdir, layout, table, command, file) -> str:
  """The text of report.md, from templates/sweep.md.j2."""
  overrides = lambda arm: page.literal(
      ", ".join(f"{k}={v}" for k, v in layout.sweep.arms[arm].items()) or "none")
  return str(page.fill(
      "sweep.md.j2", command=shlex.join(command), commits=_commits(workdir, layout),
      python=platform.python_version(), base=layout.base, table=table,
      seeds=", ".join(map(str, table["seeds"])), rows=rows(table),
      versions={name: importlib.metadata.version(name) for name in _VERSIONS},
      level_ends=arms.level_ends(layout.base), names=measures, steps=results.STEPS,
      tokens=measures.NGRAM in table["floors"],
      uncertain=_uncertain(table),
      shared={metric: _number(value) for metric, value in _shared(table).items()},
      failed=[f"{row['arm']}, seed {seed}: {error}" for row in table["arms"]
              for seed, error in row["errors"].items()],
      same=equivalence.sentences(layout.findings), pictures=curves.draw(workdir, layout, table),
      arms=[["arm", "overrides"], *([page.literal(arm), overrides(arm)] for arm in layout.configs)],
      single_runs=[shlex.join(single_run(config, file, arm, table["seeds"][0]))
             for arm, config in layout.configs.items()]))


def _commits(workdir: pathlib.Path, layout: layouts.Layout) -> str:
  """The commits at which arms were trained, and that of the report if it differs."""
  trained: dict[str, list[str]] = {}
  for arm in layout.configs:
    for seed in layout.sweep.seeds:
      directory = layouts.run_directory(workdir, arm, seed)
      if (directory / "manifest.json").exists():
        commit = records.read_manifest(directory).get("commit") or "unknown"
        trained.setdefault(commit, []).append(f"{arm}, seed {seed}")
  text = "; ".join(f"trained at commit {commit}" + (
      f": {'; '.join(names)}" if len(trained) > 1 else "") for commit, names in trained.items())
  now = records.commit() or "unknown"
  text += "" if list(trained) == [now] else f"; reported at commit {now}"
  return page.literal(text.removeprefix("; ").capitalize())


def _uncertain(table: Mapping[str, Any]) -> list[str]:
  """Arms for which the standard error of the held-out loss exceeds its deviation over seeds."""
  names = []
  for row in table["arms"]:
    losses = row["metrics"].get(measures.LOSS, {}).get("by seed", {})
    errors = [row["points"][seed][-1].get(measures.ERROR, 0.0) for seed in losses]
    if len(losses) > 1 and max(errors) > np.std(list(losses.values()), ddof=1):
      names.append(page.literal(row["arm"]))
  return names
