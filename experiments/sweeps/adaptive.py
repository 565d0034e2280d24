"""A learned density of noise levels × a learned weight on them, against log-normal ρ: 2 × 2 arms.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.network="mlp(width=64, depth=3)" --config.training.steps=4000 \\
      --config.training.batch_size=256 --config.training.checkpoint_every=1000 \\
      --config.sampling.grid.n=20 --sweep=experiments/sweeps/adaptive.py \\
      --workdir=runs/sweeps/adaptive

The learned density has the objective of its base, and changes the variance of the loss alone. The
learned weight is another objective. The report has the command for digits.
Result: docs/sweeps/adaptive.md.
"""

BASELINE = "log-normal ρ, flow matching"
SEEDS = (0, 1, 2, 3)

_DENSITIES = {"log-normal ρ": "log_normal_rho()", "learned from it": "learned(log_normal_rho())"}
_WEIGHTS = {"flow matching": "flow_matching()", "uncertainty": "uncertainty(flow_matching())"}


def sweep() -> dict[str, dict[str, object]]:
  return {
      f"{density}, {weight}": {"objective.density": _DENSITIES[density],
                               "objective.weight": _WEIGHTS[weight]}
      for density in _DENSITIES
      for weight in _WEIGHTS}
