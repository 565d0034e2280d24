"""A DiT on latents that `experiments.encode` has written; see the config `autoencoder`.

  python -m experiments.train --config=latents --config.data.path=shards/latents \\
    --workdir=runs/latents
"""

from experiments.config import Config, Sampling, Training


def get_config() -> Config:
  return Config(
      data="array_record(path='')",
      network="dit(width=256, depth=8, heads=4, patch_size=2)",
      training=Training(steps=20_000, batch_size=64, learning_rate=5e-4,
                        schedule="cosine(warmup_steps=500)", ema_half_life_steps=(1000.0,)),
      sampling=Sampling(sampler="heun()", grid="karras(25)", batch_size=64),
  )
