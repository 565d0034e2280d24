"""Class-conditional handwritten digits (scikit-learn, 8×8) by a small DiT: the main job.

  make demo
  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
"""

from experiments.config import Config, Objective, Sampling, Training


def get_config() -> Config:
  return Config(
      data="digits()",
      network="dit(width=96, depth=4, heads=4, patch_size=2)",
      objective=Objective(
          prediction="v()", weight="edm()",
          density="logit_normal_s(-0.5, 1.3, rho_min=0.002, rho_max=500)"),
      training=Training(steps=3000, batch_size=128, learning_rate=2e-3,
                        ema_half_life_steps=(300.0,), label_dropout=0.1,
                        steps_per_dispatch=10, log_every=100),
      sampling=Sampling(sampler="heun()", grid="karras(25)", batch_size=600),
  )
