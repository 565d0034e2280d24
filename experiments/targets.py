"""The steps and seconds until a metric of a run reaches a target and does not leave it again.

  python -m experiments.targets --workdir=runs/a,runs/b --metric=loss --target=0.3 --out=it.json

A metric is one of metrics.jsonl. For a run of a sweep (in arms/ of the sweep) it may also be a
metric of the points in result.json, such as "held-out loss". Runs of a sweep train together, so
there are no seconds for one run, only steps. experiments/metrics/budgets.py defines "reached".
"""

import json
import math
import pathlib
from typing import Any

from absl import flags

from experiments.config import cli
from experiments.metrics import budgets
from experiments.run import records

_WORKDIR = flags.DEFINE_string("workdir", "", "Runs, such as runs/a,runs/b.")
_METRIC = flags.DEFINE_string("metric", "loss", "The metric that has a target.")
_TARGET = flags.DEFINE_float("target", None, "The value to reach.")
_HIGHER = flags.DEFINE_bool("higher_is_better", False, "Whether larger values are better.")
_OUT = flags.DEFINE_string("out", "", "JSON file for the values of the table.")


def main() -> int:
  cli.refuse_config()
  names = [name.strip() for name in _WORKDIR.value.split(",") if name.strip()]
  workdirs = [cli.workdir(name) for name in names or [""]]
  if len(set(workdirs)) < len(workdirs):
    raise ValueError(f"--workdir names one twice: {_WORKDIR.value}")
  if _TARGET.value is None or not math.isfinite(_TARGET.value):
    raise ValueError(f"--target is required, a finite number such as --target=0.3; got "
                     f"{_TARGET.value}")
  out = None
  if _OUT.value:
    out = cli.out(_OUT.value, lambda record: "target" in record and "runs" in record)
  runs = [_budget(workdir, _METRIC.value, _TARGET.value, not _HIGHER.value) for workdir in workdirs]
  print(_table(runs), flush=True)
  if out:
    records.write_text(out, json.dumps({
        "metric": _METRIC.value, "target": _TARGET.value, "higher_is_better": _HIGHER.value,
        "runs": runs}, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {out}", flush=True)
  return 0


def _budget(workdir: pathlib.Path, metric: str, target: float, lower: bool) -> dict[str, Any]:
  """The budgets of one run. None means that the target is not reached, or seconds are unknown."""
  lines, points = _curves(workdir)
  curve = [line for line in (lines if metric in _names(lines) else points) if metric in line]
  if metric not in _names(curve):
    available = ", ".join(_names([*lines, *points]))
    raise ValueError(f"--metric: {workdir} has no {metric!r}, but {available}")
  steps = [line["step"] for line in curve]
  values = [line[metric] for line in curve]
  budget = budgets.reached(steps, values, target, lower)
  result = {
      "workdir": str(workdir), "measurements": len(curve), "last_step": steps[-1],
      "last_value": values[-1] if math.isfinite(values[-1]) else None,
      "steps_to_target": budget.by, "steps_before": budget.after, "held": budget.held,
      "seconds_to_target": None, "seconds_before": None,
  }
  is_single_run = not (workdir / "result.json").exists()
  if is_single_run and all("seconds" in line for line in lines):
    clock = budgets.reached(budgets.seconds(lines, steps), values, target, lower)
    result |= {"seconds_to_target": clock.by, "seconds_before": clock.after}
  return result


def _curves(workdir: pathlib.Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """(lines of metrics.jsonl, points of result.json, if there is one) of a run.

  Raises:
    ValueError: there is neither, or a file is damaged.
  """
  lines, points, file = records.read_metrics(workdir), [], workdir / "result.json"
  if file.exists():
    points = records.read_result(file)["points"]
  if not lines and not points:
    inner = "; a sweep's runs are in its arms/" if (workdir / "arms").is_dir() else ""
    raise ValueError(f"--workdir {workdir} holds no measurements (metrics.jsonl){inner}")
  return lines, points


def _names(lines: list[dict[str, Any]]) -> list[str]:
  """The names of scalar metrics, without those of the clock."""
  names = {name for line in lines for name, value in line.items()
           if isinstance(value, (int, float))}
  return sorted(names - {"step", *records.CLOCKED})


def _table(runs: list[dict[str, Any]]) -> str:
  """The table as text, one line per run."""
  budget = lambda by, before, digits: f"{by:,.{digits}f} " + (
      f"(not yet at {before:,.{digits}f})" if before else "(the first)")
  rows = [["run", "steps", "seconds", "held", "last", "at step"]]
  for run in runs:
    by, clock = run["steps_to_target"], run["seconds_to_target"]
    rows.append([
        run["workdir"],
        "never" if by is None else budget(by, run["steps_before"], 0),
        "–" if run["seconds_before"] is None else "never" if clock is None else
        budget(clock, run["seconds_before"], 1),
        f"{run['held']} of {run['measurements']}",
        "not finite" if run["last_value"] is None else f"{run['last_value']:.4g}",
        f"{run['last_step']:,}"])
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return "\n".join("  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows)


if __name__ == "__main__":
  cli.run(main)
