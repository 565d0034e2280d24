"""Annealed Langevin dynamics (Song & Ermon 2019) on digits: their loss, levels and sampler.

  python -m experiments.train --config=experiments/configs/annealed_langevin.py --workdir=runs/ald
  python -m experiments.evaluate --workdir=runs/ald

Noise levels in geometric progression, each weighed alike for ε (their λ(σ) = σ² on the score); then
100 Langevin steps at each of 20 levels from σ = 10 to .01, and D at the end: 2,001 network calls.
Label agreement .927, C2ST .717, FID 1.17 (Heun of the digits config: .988, .529, .48 at 49 calls).
"""

from experiments.config import Config, Objective, Sampling, Training


def get_config() -> Config:
  return Config(
      data="digits()",
      path="geometric_ve(sigma_min=0.01, sigma_max=10)",
      network="dit(width=96, depth=4, heads=4, patch_size=2)",
      objective=Objective(prediction="eps()", weight="simple()",
                          density="uniform_half_log_snr(rho_min=0.01, rho_max=20)"),
      training=Training(steps=3000, batch_size=128, learning_rate=2e-3,
                        ema_half_life_steps=(300.0,), steps_per_dispatch=10, log_every=100),
      sampling=Sampling(sampler="annealed_langevin(euler(budget=0.1), corrections=100)",
                        grid="uniform_half_log_snr(20, rho_min=0.01, rho_max=10)", batch_size=600),
  )
