"""The density of noise levels × the weight on them: 4 × 4 arms.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.training.steps=1500 --config.training.batch_size=128 \\
      --config.sampling.grid.n=20 --sweep=experiments/sweeps/levels.py \\
      --workdir=runs/sweeps/levels

What a loss means is the product π w; what π is besides only changes its variance. Result:
docs/sweeps/levels.md.
"""

BASELINE = "uniform ℓ, likelihood"
SEEDS = (0, 1, 2)

_DENSITIES = {
    "uniform ℓ": {"objective.density": "uniform_half_log_snr"},
    "uniform s": {"objective.density": "uniform_time", "path": "rectified_flow()"},
    "logit-normal s": {"objective.density": "logit_normal_s"},
    "log-normal ρ": {"objective.density": "log_normal_rho", "objective.density.mean": -1.2,
                     "objective.density.std": 1.2},
}


def sweep() -> dict[str, dict[str, object]]:
  return {
      f"{name}, {weight}": {**density, "objective.weight": weight}
      for name, density in _DENSITIES.items()
      for weight in ("likelihood", "simple", "flow_matching", "sigmoid")}
