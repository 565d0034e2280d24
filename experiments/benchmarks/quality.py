"""Quality of trained models: digits and the two-dimensional mixture, by path and seed.

  python -m experiments.benchmarks.quality --out=runs/bench/quality.json

One run per seed is trained by the command line and evaluated along VP, VE and rectified flow, since
one network serves all paths. Finished runs are reused. The seconds are those of the training
session that finished a run, which is all of its training unless it was resumed.
"""

import pathlib

import numpy as np
from absl import flags

from experiments.benchmarks import measure
from experiments.config import cli
from experiments.run import records

_OUT = flags.DEFINE_string("out", "runs/bench/quality.json", "Where to write the numbers.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds of each config.")
_RUNS = flags.DEFINE_string("runs", "runs/bench", "Directory of the trained runs.")
_ONLY = flags.DEFINE_string("only", "", "digits or mixture2d. Default: both.")

PATHS = ("vp", "ve", "rectified_flow")
ROOT = pathlib.Path(__file__).parent.parent
# Keys of evaluation.json → target, if there is one.
METRICS = {
    "digits": {"label_agreement": ">= 0.97", "c2st": "<= 0.57", "fid": "", "nearest_train": "",
               "nearest_train_part": ""},
    "mixture2d": {"kl": "<= 0.03", "kl_samples": "", "score_error": ""},
}


def main() -> int:
  names = [_ONLY.value] if _ONLY.value else list(METRICS)
  if unknown := set(names) - set(METRICS):
    raise ValueError(f"--only must be one of {', '.join(METRICS)}, got {unknown.pop()!r}")
  out = cli.out(_OUT.value, measure.is_report)
  results = {name: experiment(name) for name in names}
  measure.write(out, {"machine": measure.machine(), "results": results})
  for name, result in results.items():
    print(f"\n{name}: mean ± spread over {_SEEDS.value} seeds; trained in "
          f"{min(result['seconds']):.0f}–{max(result['seconds']):.0f} s")
    for metric, target in METRICS[name].items():
      cells = []
      for path in PATHS:
        values = [run["metrics"][metric]["value"] for run in result[path]]
        cells.append(f"{path} {np.mean(values):.4f} ± {np.std(values):.4f}")
      print(f"  {metric:34} {'   '.join(cells)}   {target}")
  print(f"\nwrote {out}")
  return 0


def experiment(name: str) -> dict:
  """The evaluations of each seed along each path, and the seconds of training."""
  result: dict = {"seconds": [], **{path: [] for path in PATHS}}
  for seed in range(_SEEDS.value):
    workdir = pathlib.Path(_RUNS.value) / f"{name}-{seed}"
    config = ROOT / "configs" / f"{name}.py"
    measure.call("train", f"--config={config}", f"--workdir={workdir}", f"--config.seed={seed}")
    result["seconds"].append(records.read_manifest(workdir)["seconds"])
    for path in PATHS:
      measure.call("evaluate", f"--workdir={workdir}", f"--path={path}")
      result[path].append(records.read_json(workdir / "evaluation.json"))
  return result


if __name__ == "__main__":
  cli.run(main)
