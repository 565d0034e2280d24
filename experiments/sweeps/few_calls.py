"""Flow maps at 1, 2 and 4 calls: three identities, from data and from a teacher, four seeds.

  python -m experiments.train --config=mixture2d --workdir=runs/mixture2d
  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.network="mlp(width=64, depth=3)" --config.training.batch_size=256 \\
      --sweep=experiments/sweeps/few_calls.py --workdir=runs/sweeps/few_calls
  python -m experiments.benchmarks.few_calls --sweep=runs/sweeps/few_calls

The arms of one model differ in sampling, and are trained once. The last command prints distances
beside those of solvers, divergences and the errors of D̄. Result: docs/flow_maps.md.

Time: about 35 minutes on one of two busy cores, and 3 for the last command.
"""

BASELINE = "semigroup, 2 calls"
SEEDS = (0, 1, 2, 3)

_LEVELS = {1: "(80.0,)", 2: "(80.0, 1.0)", 4: "(80.0, 3.0, 1.0, 0.3333)"}
_SOURCES = {"": {"training.steps": 6000},
            ", taught": {"training.steps": 2000, "objective.teacher": "runs/mixture2d"}}
# Errors of `eulerian` rotate, which momentum makes grow.
_IDENTITIES = {"semigroup": {}, "eulerian": {"training.optimizer": "adamw(b1=0.0)"},
               "lagrangian": {}}


def sweep() -> dict[str, dict[str, object]]:
  maps = {
      f"{identity}{source}": {"objective.flow_map": f"{identity}()", **values, **optimizer}
      for source, values in _SOURCES.items() for identity, optimizer in _IDENTITIES.items()}
  return {
      f"{name}, {calls} call{'s' * (calls > 1)}": {
          **values, "sampling.sampler": "flow_map()", "sampling.grid": f"explicit({levels})"}
      for name, values in maps.items() for calls, levels in _LEVELS.items()}
