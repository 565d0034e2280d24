"""The identity of a flow map × its pairs of levels × the row that the network predicts: 3 × 2 × 2.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.training.steps=2500 --config.training.batch_size=256 \\
      --config.sampling.sampler="flow_map()" --config.sampling.grid="explicit((80, 1))" \\
      --sweep=experiments/sweeps/flow_maps.py --workdir=runs/sweeps/flow_maps

Samples take two calls. All rows have one loss, so that they differ by conditioning alone. The
config draws levels that are uniform in ℓ: ordered pairs of them are those that do not contract.
"""

BASELINE = "semigroup, uniform, velocity"
SEEDS = (0, 1, 2, 3)

_PAIRS = {"uniform": "uniform()", "ordered": "ordered(to_data=0.0)"}


def sweep() -> dict[str, dict[str, object]]:
  return {
      f"{identity}, {name}, {row}": {
          "objective.flow_map": f"{identity}({pairs})", "objective.prediction": row}
      for identity in ("semigroup", "eulerian", "lagrangian")
      for name, pairs in _PAIRS.items()
      for row in ("velocity", "v")}
