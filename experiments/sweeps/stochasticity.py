"""η × steps × method at sampling time: 3 × 3 × 3 arms that all sample from one model a seed.

  python -m experiments.sweep --config=experiments/configs/mixture2d.py \\
      --config.training.steps=3000 --sweep=experiments/sweeps/stochasticity.py \\
      --workdir=runs/sweeps/stochasticity

Result: docs/sweeps/stochasticity.md.
"""

BASELINE = "multistep, η=0, 16 steps"
SEEDS = (0, 1, 2, 3, 4)


def sweep() -> dict[str, dict[str, object]]:
  return {
      f"{method}, η={eta:g}, {steps} steps": {
          "sampling.sampler": f"{method}(stochasticity={eta})", "sampling.grid.n": steps}
      for method in ("ddim", "multistep", "singlestep")
      for eta in (0.0, 0.5, 1.0)
      for steps in (4, 16, 64)}
