"""What the network predicts × the path that training walks × the weight: 4 × 3 × 2 arms.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.training.steps=1000 --config.training.batch_size=128 \\
      --config.sampling.grid.n=20 --sweep=experiments/sweeps/parameterizations.py \\
      --workdir=runs/sweeps/parameterizations

The path is the clock of the noise levels, drawn uniformly in its time. Result:
docs/sweeps/parameterizations.md.
"""

BASELINE = "v, rectified_flow, flow_matching"
SEEDS = (0, 1, 2)


def sweep() -> dict[str, dict[str, object]]:
  return {
      f"{prediction}, {path}, {weight}": {
          "objective.prediction": prediction, "objective.density": "uniform_time",
          "path": path, "objective.weight": weight}
      for prediction in ("v", "velocity", "eps", "x0")
      for path in ("rectified_flow", "linear_vp", "cosine")
      for weight in ("flow_matching", "likelihood")}
