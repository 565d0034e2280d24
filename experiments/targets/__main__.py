"""How many steps and seconds runs took until a metric was as good as a target, and stayed so.

  python -m experiments.targets --workdir=runs/a,runs/b --metric=loss --target=0.3 --out=it.json

A metric is one of metrics.jsonl, or of a sweep's run (in arms/ of the sweep) one of the points in
result.json, such as "held-out loss". Runs of a sweep train together, so that their clock is not one
run's: steps alone are told. What counts as reached is in experiments/targets/__init__.py.
"""

import json
import math
import pathlib
from typing import Any

from absl import flags

from experiments import targets
from experiments.config import cli
from experiments.run import records

_WORKDIR = flags.DEFINE_string("workdir", "", "Runs, such as runs/a,runs/b.")
_METRIC = flags.DEFINE_string("metric", "loss", "What has a target.")
_TARGET = flags.DEFINE_float("target", None, "As good as this is reached.")
_HIGHER = flags.DEFINE_bool("higher_is_better", False, "Of the metric; else lower is.")
_OUT = flags.DEFINE_string("out", "", "JSON file for what the table says.")


def main() -> int:
  cli.refuse_config()
  names = [name.strip() for name in _WORKDIR.value.split(",") if name.strip()]
  workdirs = [pathlib.Path(name) for name in names] or [cli.workdir("")]
  if len(set(workdirs)) < len(workdirs):
    raise ValueError(f"--workdir names one twice: {_WORKDIR.value}")
  if _TARGET.value is None or not math.isfinite(_TARGET.value):
    raise ValueError(f"--target is required, a finite number such as --target=0.3; got "
                     f"{_TARGET.value}")
  out = None
  if _OUT.value:
    out = cli.out(_OUT.value, lambda told: "target" in told and "runs" in told)
  found = [_of(workdir, _METRIC.value, _TARGET.value, not _HIGHER.value) for workdir in workdirs]
  print(_table(found), flush=True)
  if out:
    records.write_text(out, json.dumps({
        "metric": _METRIC.value, "target": _TARGET.value, "higher_is_better": _HIGHER.value,
        "runs": found}, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {out}", flush=True)
  return 0


def _of(workdir: pathlib.Path, metric: str, target: float, lower: bool) -> dict[str, Any]:
  """The budgets of one run; None is never reached, or not known of seconds."""
  lines, points = _curves(workdir)
  curve = [line for line in (lines if metric in _names(lines) else points) if metric in line]
  if metric not in _names(curve):
    there = ", ".join(_names([*lines, *points]))
    raise ValueError(f"--metric: {workdir} has no {metric!r}, but {there}")
  steps = [line["step"] for line in curve]
  values = [line[metric] for line in curve]
  budget = targets.reached(steps, values, target, lower)
  found = {
      "workdir": str(workdir), "measurements": len(curve), "last_step": steps[-1],
      "last_value": values[-1] if math.isfinite(values[-1]) else None,
      "steps_to_target": budget.by, "steps_before": budget.after, "held": budget.held,
      "seconds_to_target": None, "seconds_before": None,
  }
  alone = not (workdir / "result.json").exists()
  if alone and all("seconds" in line for line in lines):
    clock = targets.reached(targets.seconds(lines, steps), values, target, lower)
    found |= {"seconds_to_target": clock.by, "seconds_before": clock.after}
  return found


def _curves(workdir: pathlib.Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """(lines of metrics.jsonl, points of result.json, if there is one) of a run.

  Raises:
    ValueError: there is neither, or it is not what a run writes.
  """
  lines, points, file = records.read_metrics(workdir), [], workdir / "result.json"
  if file.exists():
    points = records.read_result(file)["points"]
  if not lines and not points:
    inner = "; a sweep's runs are in its arms/" if (workdir / "arms").is_dir() else ""
    raise ValueError(f"--workdir {workdir} holds no measurements (metrics.jsonl){inner}")
  return lines, points


def _names(lines: list[dict[str, Any]]) -> list[str]:
  """Of what is one number at a step, without the clock's."""
  told = {name for line in lines for name, value in line.items() if isinstance(value, (int, float))}
  return sorted(told - {"step", *records.CLOCKED})


def _table(found: list[dict[str, Any]]) -> str:
  """A line a run."""
  budget = lambda by, before, digits: f"{by:,.{digits}f} " + (
      f"(not yet at {before:,.{digits}f})" if before else "(the first)")
  rows = [["run", "steps", "seconds", "held", "last", "at step"]]
  for run in found:
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
