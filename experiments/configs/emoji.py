"""An autoencoder of colour emoji, 64×64×3 → 16×16×4, for a quarter of an hour of one CPU core.

  npm pack emoji-datasource-google && tar xzf emoji-datasource-google-*.tgz
  python -m experiments.train --config=emoji --config.data.path=package --workdir=runs/emoji_ae
  python -m experiments.encode --workdir=runs/emoji_ae --out=shards/emoji

`docs/howto/latents.md` goes on to a transformer of these latents and its samples.
"""

from experiments.config import Config, Objective, Training


def get_config() -> Config:
  return Config(
      data="emoji(path='')",
      network="autoencoder(channels=16, multipliers=(1, 2, 4), blocks=1, latent_channels=4, "
              "groups=8)",
      objective=Objective(autoencoder="reconstruction(kl=1e-4)"),
      training=Training(steps=1000, batch_size=16, learning_rate=1e-3,
                        schedule="cosine(warmup_steps=50)", ema_half_life_steps=(50.0,)),
  )
