"""A Gaussian mixture in two dimensions, whose exact score is known: KL to the truth by quadrature.

  python -m experiments.train --config=experiments/configs/mixture2d.py --workdir=runs/mixture2d
  python -m experiments.evaluate --workdir=runs/mixture2d
"""

from experiments.config import Config, Evaluation, Objective, Sampling, Training


def get_config() -> Config:
  return Config(
      data="mixture2d()",
      network="mlp(width=128, depth=3)",
      objective=Objective(prediction="v()", weight="flow_matching()",
                          density="uniform_half_log_snr(rho_min=0.01, rho_max=100)"),
      training=Training(steps=8000, batch_size=512, learning_rate=2e-3,
                        ema_half_life_steps=(300.0,), steps_per_dispatch=20, checkpoint_every=2000,
                        log_every=100),
      sampling=Sampling(sampler="heun()", grid="karras(40, rho_min=0.01)", batch_size=10_000),
      evaluation=Evaluation(num_samples=10_000),
  )
