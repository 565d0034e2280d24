"""Flow maps of a sweep at few network calls: quality and errors of D̄, over seeds.

  python -m experiments.benchmarks.few_calls --sweep=runs/sweeps/few_calls

Evaluates every model and seed of a finished sweep by `metrics.few_calls`, and prints mean ± half
the range over seeds. `--model` chooses one of them. Seeds that failed in the sweep are left out.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments import data
from experiments.benchmarks import measure
from experiments.config import cli
from experiments.metrics import few_calls
from experiments.metrics.result import Result
from experiments.run import assembly, files, records
from experiments.sweeping import layouts

_SWEEP = flags.DEFINE_string("sweep", "runs/sweeps/few_calls", "The workdir of a sweep.")
_OUT = flags.DEFINE_string("out", "runs/bench/few_calls.json", "Where the numbers go.")
_MODELS = flags.DEFINE_multi_string("model", [], "A model; may be repeated. All if not given.")
_SAMPLES = flags.DEFINE_integer("num_samples", 10_000, "Samples of each model.")

Meter = tuple[assembly.Run, Callable[[Any], list[Result]]]


def main() -> int:
  workdir = pathlib.Path(_SWEEP.value)
  layout = layouts.read(workdir)
  models = [model for group in layout.groups for model in group]
  if unknown := set(_MODELS.value) - set(models):
    raise ValueError(f"--model: no model {unknown.pop()!r}; there are {', '.join(models)}")
  out = cli.out(_OUT.value, measure.is_report)
  assembly.configure_jax(layout.base)
  meters: dict[Any, Meter] = {}
  results = {}
  for model in _MODELS.value or models:
    places = {seed: layouts.run_directory(workdir, model, seed) for seed in layout.sweep.seeds}
    results[model] = {seed: rows(place, meters) for seed, place in places.items()
                      if not files.read_json(place / "result.json")["error"]}
  measure.write(out, {"machine": measure.machine(), "results": {
      model: {seed: {row.key: row.to_plain() for row in found} for seed, found in seeds.items()}
      for model, seeds in results.items()}})
  for model, seeds in results.items():
    print(f"\n{model}: seeds {', '.join(map(str, seeds))}")
    for same in zip(*seeds.values(), strict=True):
      values = np.array([row.value for row in same])
      print(f"  {same[0].label:45} {values.mean():.4f} ± {np.ptp(values) / 2:.4f}, floor "
            f"{np.mean([row.floor for row in same]):.4f}")
  return 0


def rows(workdir: pathlib.Path, meters: dict[Any, Meter]) -> list[Result]:
  """The rows of one run. Runs with equal data, network and row share the programs in `meters`."""
  print(workdir, flush=True)
  config = records.read_config(workdir)
  key = config.data, config.network, config.objective.prediction
  if key not in meters:
    meters[key] = _meter(workdir)
  run, measured = meters[key]
  return measured(assembly.restored(run, workdir).ema[0])


def _meter(workdir: pathlib.Path) -> Meter:
  run, _ = assembly.trained(workdir)
  labels = assembly.data_labels(run, _SAMPLES.value, run.config.evaluation.seed)
  return run, few_calls.meter(
      run, run.config.sampling, run.path, data.comparison_data(run.dataset), labels,
      seed=run.config.evaluation.seed, numbers=(1, 2, 4), solver_numbers=(4, 10))


if __name__ == "__main__":
  cli.run(main)
