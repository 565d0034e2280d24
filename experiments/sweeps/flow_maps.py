"""The identity of a flow map × its pairs of levels × the row that the network predicts: 3 × 2 × 3.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.network="mlp(width=64, depth=2)" --config.training.steps=1500 \\
      --config.training.batch_size=128 \\
      --config.sampling.sampler="flow_map()" --config.sampling.grid="explicit((80, 1))" \\
      --sweep=experiments/sweeps/flow_maps.py --workdir=runs/sweeps/flow_maps

Samples take two calls. All rows have one loss, so that they differ by conditioning alone; `edm` is
`v` up to its sign. The config draws levels that are uniform in ℓ: ordered pairs of them need not
contract, and with half of a batch on the diagonal they train as well as uniform times. On the
diagonal alone each identity is the ordinary loss. Result: docs/sweeps/flow_maps.md.
"""

BASELINE = "semigroup, uniform, velocity"
SEEDS = (0, 1, 2, 3)

_PAIRS = {"uniform": "uniform()", "ordered": "ordered(to_data=0.0)"}


def sweep() -> dict[str, dict[str, object]]:
  identities = "semigroup", "eulerian", "lagrangian"
  return {
      f"{identity}, {name}, {row}": {
          "objective.flow_map": f"{identity}({pairs})", "objective.prediction": row}
      for identity in identities
      for name, pairs in _PAIRS.items()
      for row in ("velocity", "v", "edm")
  } | {
      f"{identity}, diagonal": {
          "objective.flow_map": f"{identity}(uniform(diagonal=1.0))",
          "objective.prediction": "velocity"}
      for identity in identities}
