"""Your own folder of pictures, resized, by a DiT; sub-folders are classes.

  python -m experiments.train --config=experiments/configs/images.py --workdir=runs/mine \\
    --config.data.path=my/folder --config.data.size=32
"""

from experiments.config import Config, Sampling, Training


def get_config() -> Config:
  return Config(
      data="images(path='', size=32, channels=3)",
      network="dit(width=256, depth=8, heads=4, patch_size=2)",
      training=Training(steps=20_000, batch_size=64, learning_rate=5e-4,
                        schedule="cosine(warmup_steps=500)", ema_half_life_steps=(1000.0,)),
      sampling=Sampling(sampler="heun()", grid="karras(25)", batch_size=64),
  )
