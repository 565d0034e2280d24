"""Characters of a text by masked diffusion: a transformer that fills in masked characters.

  python -m experiments.train --config=characters --workdir=runs/characters
  python -m experiments.train --config=characters --workdir=runs/mine --config.data.path=book.txt
  python -m experiments.sample --workdir=runs/characters --known="The ░░░░░░ statement"
  python -m experiments.evaluate --workdir=runs/characters

Without a path the text is the reference of the Python language that every Python ships.
"""

from experiments.config import Config, Evaluation, Objective, Sampling, Training


def get_config() -> Config:
  return Config(
      data="text(length=64)",
      path="absorbing()",
      # A token begins with its three neighbours on each side. Where attention has to find them
      # first, training stays for thousands of steps at what a character says of the next.
      network="dit(width=96, depth=3, heads=3, patch_size=1, stem=7, positions='none', "
              "rotary=True, dtype='bfloat16')",
      # α uniform, and the likelihood: the loss is the bound, in nats a character.
      objective=Objective(prediction="x0()", weight="likelihood()",
                          density="uniform_time(rho_min=1e-4, rho_max=inf)"),
      training=Training(steps=8000, batch_size=16, learning_rate=2e-3,
                        ema_half_life_steps=(150.0,), steps_per_dispatch=10, log_every=100),
      sampling=Sampling(sampler="unmask()", grid="uniform_time(64)", batch_size=64),
      evaluation=Evaluation(num_samples=100),
  )
