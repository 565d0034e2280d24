"""The identity of a flow map × its pairs of levels × the row that the network predicts: 3 × 2 × 2.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.training.steps=2500 --config.training.batch_size=256 \\
      --config.training.learning_rate=5e-4 \\
      --config.objective.density="logit_normal_s(0, 1.5, rho_min=0.01, rho_max=500)" \\
      --config.sampling.sampler="flow_map()" --config.sampling.grid="explicit((200, 1))" \\
      --sweep=experiments/sweeps/flow_maps.py --workdir=runs/sweeps/flow_maps

Samples take two calls. All rows have one loss, so that they differ by conditioning alone.
"""

BASELINE = "semigroup, ordered, velocity"
SEEDS = (0, 1, 2, 3)

_PAIRS = {"ordered": "ordered()", "to data": "ordered(to_data=1.0)"}


def sweep() -> dict[str, dict[str, object]]:
  return {
      f"{identity}, {name}, {row}": {
          "objective.flow_map": f"{identity}({pairs})", "objective.prediction": row}
      for identity in ("semigroup", "eulerian", "lagrangian")
      for name, pairs in _PAIRS.items()
      for row in ("velocity", "v")}
